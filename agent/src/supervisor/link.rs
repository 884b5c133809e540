//! The link to the gateway: hello, welcome, and every message that comes down.

use stratavore_proto::v1;
use stratavore_proto::v1::node_message::Message;
use tracing::{debug, info, warn};

use super::desired::{carry_out_stop, drop_partial, on_desired};
use super::effect::{Effect, Finish, Move, MoveKind};
use super::entry::Want;
use super::halt::on_halt;
use super::{Core, Out, lease, runner};
use crate::epoch::RunnerKey;

/// Reason recorded for runners that end because the cluster removed this host.
const REASON_HOST_REMOVED: &str = "host_removed";

/// Reason recorded for runners that a fence covers (P7).
const REASON_FENCED: &str = "host_fenced";

/// Code of a refusal that ends the host epoch.
const CODE_FENCED: &str = "fenced";

/// Code of a GoAway after which the node closes the link.
const CODE_STOPPING: &str = "stopping";

/// Code of a GoAway to the link that another one has replaced.
const CODE_REPLACED: &str = "replaced";

/// A change of the link.
#[derive(Debug)]
pub enum LinkEvent {
    /// A gateway has answered the hello that [`Core::hello`] made for it.
    Up(Box<v1::Welcome>),
    /// The link is gone. Runners go on.
    Down,
    /// Every node refuses this host's key: it was removed (P18).
    Revoked,
}

impl Core {
    /// The first frame of a connection: everything on this host (P14). What changes after it is reported again once
    /// the link is up; so is what waits for a present link, which may yet be the one that stays.
    pub fn hello(&mut self, connection: u64) -> v1::Hello {
        if !self.lease.is_up() {
            self.dirty.clear();
        }
        v1::Hello {
            host_id: self.identity.host_id.clone(),
            cluster_id: self.identity.cluster_id.clone(),
            boot_id: self.identity.boot_id.clone(),
            instance: self.identity.instance.clone(),
            connection,
            protocol_min: stratavore_proto::AGENT_PROTOCOL_MIN,
            protocol_max: stratavore_proto::AGENT_PROTOCOL_MAX,
            facts: Some(self.identity.facts.clone()),
            seen: Some(self.seen.into()),
            runners: self.list(),
            host_epoch: self.lease.host_epoch.map(Into::into),
            version: self.identity.version.clone(),
        }
    }

    /// Whether this welcome may be followed.
    ///
    /// # Errors
    /// Says why not: an older incarnation (P1) or a protocol that this version does not speak.
    pub fn check_welcome(&self, welcome: &v1::Welcome) -> Result<(), String> {
        if welcome.incarnation < self.seen.incarnation {
            return Err(format!(
                "the node is of incarnation {}, this host has seen {}: an older state of the cluster is not followed",
                welcome.incarnation, self.seen.incarnation
            ));
        }
        let known = stratavore_proto::AGENT_PROTOCOL_MIN..=stratavore_proto::AGENT_PROTOCOL_MAX;
        if !known.contains(&welcome.protocol) {
            return Err(format!("the node chose protocol {}, this agent speaks {known:?}", welcome.protocol));
        }
        Ok(())
    }
}

/// The link went up or down.
pub fn on_link(core: &mut Core, event: LinkEvent, now_ns: u64, out: &mut Out) {
    match event {
        LinkEvent::Up(welcome) => {
            drop_partial(core);
            if core.lease.is_up() {
                // What the replaced link took after this one's hello may never have arrived.
                let unheard = core.runners.iter().filter(|(_, entry)| entry.acked_rev < entry.report.rev);
                core.dirty.extend(unheard.map(|(key, _)| key.clone()));
            }
            core.lease.connect(&welcome, now_ns);
            if let Some(desired) = welcome.desired {
                on_desired(core, desired, out);
            }
        }
        LinkEvent::Down => {
            drop_partial(core);
            core.lease.disconnect();
        }
        LinkEvent::Revoked => on_halt(core, Finish::Removed, REASON_HOST_REMOVED, out),
    }
}

/// A message of the gateway.
pub fn on_message(core: &mut Core, message: Message, now_ns: u64, out: &mut Out) {
    match message {
        Message::Desired(desired) => on_desired(core, desired, out),
        Message::ObservedAck(ack) => {
            for acked in ack.runners {
                on_ack_key(core, &acked, out);
            }
        }
        Message::Grant(grant) => lease::on_grant(core, &grant, now_ns, out),
        Message::Removed(removed) => {
            warn!(reason = removed.reason, "the cluster removed this host; every runner is stopped (P18)");
            on_halt(core, Finish::Removed, REASON_HOST_REMOVED, out);
        }
        // Of a newer connection of this host: the link moves there already.
        Message::GoAway(go_away) if go_away.code == CODE_REPLACED => {}
        Message::GoAway(go_away) => {
            info!(reason = go_away.reason, "the gateway asks this agent to move");
            let kind = if go_away.code == CODE_STOPPING { MoveKind::Leaving } else { MoveKind::Advised };
            out.push(Effect::Move(Move { reason: go_away.reason, kind }));
        }
        Message::Refused(refused) => on_refused(core, &refused, out),
        Message::Welcome(_) | Message::Certificate(_) | Message::Trust(_) => {
            debug!("a message out of turn is ignored")
        }
    }
}

/// A fence ends the host epoch that this agent believed to hold (P3). What it covers must not live: the next hello shows
/// it dead, and then there is a new host epoch, into which everything else carries over with its deadline.
fn on_refused(core: &mut Core, refused: &v1::Refused, out: &mut Out) {
    warn!(
        code = refused.code,
        message = refused.message,
        covered = refused.covered.len(),
        "refused by the gateway"
    );
    if refused.code == CODE_FENCED {
        core.lease.enter(None);
    }
    for covered in &refused.covered {
        match RunnerKey::from_wire(&covered.runner, covered.epoch.as_ref()) {
            Ok(key) => kill_covered(core, &key, out),
            Err(error) => warn!(%error, "a fence names no runner"),
        }
    }
}

fn kill_covered(core: &mut Core, key: &RunnerKey, out: &mut Out) {
    let Some(entry) = core.runners.get_mut(key) else { return };
    warn!(runner = %key, "covered by a fence: killed");
    entry.want.raise(Want::Stop { force: true, reason: REASON_FENCED.into() });
    carry_out_stop(core, key, out);
}

fn on_ack_key(core: &mut Core, acked: &v1::ObservedKey, out: &mut Out) {
    match RunnerKey::from_wire(&acked.runner, acked.epoch.as_ref()) {
        Ok(key) => runner::on_ack(core, &key, acked.rev, out),
        Err(error) => warn!(%error, "an acknowledgement names no runner"),
    }
}
