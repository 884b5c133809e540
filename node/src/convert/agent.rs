//! What agents say and what they are told.

use stratavore_model::command::{HostConnect, Observation};
use stratavore_model::host::{Fence, HostFacts};
use stratavore_model::{HostId, Millis, NodeId, ObservedKey};
use stratavore_proto::v1;

use crate::convert::{id, runner};

/// A hello as the command that its gateway proposes. Observations that cannot be read are left out and logged.
pub(crate) fn host_connect(host: HostId, gateway: NodeId, hello: v1::Hello) -> HostConnect {
    HostConnect {
        host,
        boot_id: hello.boot_id,
        facts: facts(hello.facts.unwrap_or_default()),
        agent_version: hello.version,
        gateway,
        connection: hello.connection,
        seen: hello.seen.map(id::epoch_of),
        observations: observations(host, hello.runners),
    }
}

fn facts(message: v1::HostFacts) -> HostFacts {
    HostFacts {
        slots: message.slots,
        cpu_milli: message.cpu_milli,
        memory_bytes: message.memory_bytes,
        features: message.features,
        fence: Fence::from_text(&message.fence),
    }
}

/// Those of `messages` that can be read. An agent of our own build sends no others, so each is worth a warning.
pub(crate) fn observations(host: HostId, messages: Vec<v1::Observation>) -> Vec<Observation> {
    let readable = |message: v1::Observation| {
        let name = message.runner.clone();
        let read = observation(message);
        if read.is_none() {
            tracing::warn!(%host, runner = %name.escape_debug(), "observation cannot be read");
        }
        read
    };
    messages.into_iter().filter_map(readable).collect()
}

fn observation(message: v1::Observation) -> Option<Observation> {
    let started_at = u64::try_from(message.started_at_unix_ms).ok().filter(|at| *at > 0);
    Some(Observation {
        runner: message.runner.parse().ok()?,
        epoch: id::epoch_of(message.epoch?),
        rev: message.rev,
        state: runner::reported_state(message.state)?,
        pid: message.pid,
        exit: message.exit.map(runner::exit_of),
        reason: message.reason,
        started_at: started_at.map(Millis),
        fence: Fence::from_text(&message.fence),
    })
}

/// Tells the agent what is committed, so that it may forget.
pub(crate) fn observed_ack(keys: impl IntoIterator<Item = ObservedKey>) -> v1::ObservedAck {
    let key = |key: ObservedKey| v1::ObservedKey {
        runner: key.runner.to_string(),
        epoch: Some(id::epoch(key.epoch)),
        rev: key.rev,
    };
    v1::ObservedAck { runners: keys.into_iter().map(key).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_observations_are_left_out_and_the_others_stay() {
        let host = "0123456789".parse().unwrap();
        let good = v1::Observation {
            runner: "abcdefghjk".into(),
            epoch: Some(v1::Epoch { incarnation: 1, index: 7 }),
            rev: 3,
            state: v1::RunnerState::Running as i32,
            started_at_unix_ms: -5,
            ..Default::default()
        };
        let bad_id = v1::Observation { runner: "no".into(), ..good.clone() };
        let no_epoch = v1::Observation { epoch: None, ..good.clone() };
        let lost = v1::Observation { state: v1::RunnerState::Lost as i32, ..good.clone() };
        let read = observations(host, vec![bad_id, good, no_epoch, lost]);
        assert_eq!(read.len(), 1);
        assert_eq!((read[0].rev, read[0].started_at), (3, None));
    }
}
