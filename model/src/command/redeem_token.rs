//! Joining: the token is consumed and the key registered in one step.

use std::collections::BTreeMap;

use super::finalize::check_new_enough;
use super::init_cluster::register;
use super::reserve_node::reserved;
use super::set_node_address::{Reach, check_addresses, other_reach};
use crate::cluster::{ClusterRecord, NodeAddresses, NodeRecord};
use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{Fence, HostLease, HostRecord, HostState, Labels, LeaseBound, SLOTS_DEFAULT};
use crate::id::{HostId, HostName, NodeId, TokenId, UserName};
use crate::identity::{Actor, KeyRecord, Role, SpkiHash, UserRecord};
use crate::lease::follow_host_count;
use crate::limits::{HOSTS_MAX, SLOTS_MAX, USERS_MAX, bounded, check_labels};
use crate::reply::{Code, Rejected, Reply};
use crate::row::Row;
use crate::token::{TokenRecord, TokenState};
use crate::tx::Tx;

/// Who joins, with what it brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joiner {
    Host {
        /// Made by the API node.
        id: HostId,
        /// None = `host-<id>`.
        name: Option<HostName>,
        /// Over the token's, which win.
        labels: Labels,
        /// 0 = [`crate::host::SLOTS_DEFAULT`].
        slots: u32,
    },
    /// Its id is counted up here.
    Node {
        addresses: NodeAddresses,
        version: String,
        /// P22: the newest cluster version that its program can apply.
        max_version: u32,
    },
    User {
        /// None = `user-<token id>`.
        name: Option<UserName>,
    },
}

/// Redeems a join token for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedeemToken {
    pub token: TokenId,
    /// Of the secret that the joiner presented.
    pub secret_sha256: [u8; 32],
    /// Of the key it asks a certificate for.
    pub spki: SpkiHash,
    pub joiner: Joiner,
}

impl Joiner {
    const fn role(&self) -> Role {
        match self {
            Self::Host { .. } => Role::Host,
            Self::Node { .. } => Role::Node,
            Self::User { .. } => Role::User,
        }
    }
}

impl RedeemToken {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let token = self.presented(tx)?;
        if let Some(reply) = self.again(tx, &token)? {
            return Ok(Success::done(reply));
        }
        if token.state != TokenState::Unused {
            return Err(unusable(Code::TokenRevoked, &token, "was revoked"));
        }
        if tx.now() >= token.expires_at {
            return Err(unusable(Code::TokenExpired, &token, "has expired"));
        }
        let reserved = reserved(tx.state(), &self.spki).cloned();
        let (identity, name) = match &self.joiner {
            Joiner::Host { id, name, labels, slots } => {
                self.host(tx, &token, *id, name.clone(), labels, *slots)?
            }
            Joiner::Node { addresses, version, max_version } => {
                self.node(tx, addresses, version, *max_version)?
            }
            Joiner::User { name } => self.user(tx, &token, name.clone())?,
        };
        match reserved {
            Some(key) if key.identity == identity => {
                tx.put(Row::Key(KeyRecord { token: Some(token.id), ..key }));
            }
            _ => register(tx, self.spki, identity.clone(), Some(token.id))?,
        }
        tx.event(EventKind::TokenRedeemed, &format!("token {} by {identity}", token.id));
        let state = TokenState::Used { spki: self.spki, identity: identity.clone(), at: tx.now() };
        tx.put(Row::Token(TokenRecord { state, ..token }));
        Ok(Success::done(Reply::Redeemed { identity, name }))
    }

    /// The token, if the secret is its secret. A wrong secret is told like a wrong id: neither is confirmed.
    fn presented(&self, tx: &Tx<'_>) -> Result<TokenRecord, Rejected> {
        let token = tx.state().token(self.token).filter(|token| token.secret_sha256 == self.secret_sha256);
        let Some(token) = token.cloned() else {
            let next = "copy it whole, or make a new one with `stratavore token create`";
            return Err(Rejected::new(Code::TokenUnknown, "this cluster has no such token", next));
        };
        if token.role != self.joiner.role() {
            let (is, asked) = (token.role.as_str(), self.joiner.role().as_str());
            let message = format!("the token is for a {is}, not for a {asked}");
            let next = format!("make one with `stratavore token create --role {asked}`");
            return Err(Rejected::new(Code::TokenRole, message, next));
        }
        Ok(token)
    }

    /// The same key retrying after a lost answer gets the same answer (also when the token has expired since).
    fn again(&self, tx: &Tx<'_>, token: &TokenRecord) -> Result<Option<Reply>, Rejected> {
        let TokenState::Used { spki, identity, .. } = &token.state else { return Ok(None) };
        if *spki != self.spki {
            return Err(unusable(Code::TokenUsed, token, "was used already"));
        }
        if tx.state().key(spki).is_none_or(|key| key.removed) {
            let message = format!("{identity} was removed");
            return Err(Rejected::new(Code::IdentityRemoved, message, "start over with a new token and key"));
        }
        let name = match identity {
            Actor::Host(id) => tx.host_called(*id),
            Actor::Node(id) => id.to_string(),
            Actor::User(name) => name.to_string(),
            Actor::System => String::new(),
        };
        Ok(Some(Reply::Redeemed { identity: identity.clone(), name }))
    }

    fn host(
        &self,
        tx: &mut Tx<'_>,
        token: &TokenRecord,
        id: HostId,
        name: Option<HostName>,
        labels: &Labels,
        slots: u32,
    ) -> Result<(Actor, String), Rejected> {
        check_room("hosts", tx.state().hosts_present(), HOSTS_MAX)?;
        if tx.state().host(id).is_some() {
            return Err(Rejected::new(Code::IdTaken, format!("host id {id} exists"), "retry"));
        }
        let name = match name {
            Some(name) => name,
            None => format!("host-{id}").parse().map_err(|error| Rejected::bad_name("name", &error))?,
        };
        if tx.state().host_named(&name).is_some() {
            return Err(name_taken("host", name.as_str()));
        }
        let mut labels = labels.clone();
        labels.extend(token.labels.clone());
        check_labels("labels", &labels)?;
        if slots > SLOTS_MAX {
            let message = format!("{slots} slots are more than {SLOTS_MAX}");
            return Err(Rejected::bad_argument("slots", message, "offer fewer"));
        }
        let now = tx.now();
        let ttl_ms = tx.state().cluster().map_or(0, |cluster| cluster.lease.ttl_ms);
        let host = HostRecord {
            id,
            name: name.clone(),
            state: HostState::Joined,
            labels,
            slots: if slots == 0 { SLOTS_DEFAULT } else { slots },
            cpu_milli: 0,
            memory_bytes: 0,
            features: Vec::new(),
            fence: Fence::Unknown,
            boot_id: String::new(),
            previous_boot_id: String::new(),
            host_epoch: None,
            fenced: None,
            covered: BTreeMap::new(),
            rebooted: None,
            lease: HostLease { ttl_ms, bound: LeaseBound::Bounded, widened_ms: 0 },
            unlisted: false,
            connection: 0,
            gateway: None,
            cordoned: false,
            cloned: false,
            draining: false,
            spki: self.spki,
            joined_at: now,
            since: now,
            agent_version: String::new(),
        };
        tx.host_event(EventKind::HostJoined, &host, "");
        tx.put_host(host);
        follow_host_count(tx);
        Ok((Actor::Host(id), name.to_string()))
    }

    fn node(
        &self,
        tx: &mut Tx<'_>,
        addresses: &NodeAddresses,
        version: &str,
        max_version: u32,
    ) -> Result<(Actor, String), Rejected> {
        let Some(cluster) = tx.state().cluster().cloned() else {
            return Err(Rejected::new(Code::NotInitialized, "there is no cluster here yet", ""));
        };
        check_addresses(addresses)?;
        check_new_enough(cluster.version, max_version)?;
        check_dialled(tx, addresses)?;
        let id = match reserved(tx.state(), &self.spki).map(|key| &key.identity) {
            Some(Actor::Node(id)) => *id,
            _ => cluster.next_node,
        };
        let next_node = cluster.next_node.max(NodeId(id.0.saturating_add(1)));
        tx.put(Row::Cluster(Box::new(ClusterRecord { next_node, ..cluster })));
        let joined_at = tx.now();
        tx.put(Row::Node(NodeRecord {
            id,
            addresses: addresses.clone(),
            spki: self.spki,
            version: bounded(version),
            max_version,
            joined_at,
            removed: false,
        }));
        tx.event(EventKind::NodeJoined, &format!("node {id}"));
        Ok((Actor::Node(id), id.to_string()))
    }

    fn user(
        &self,
        tx: &mut Tx<'_>,
        token: &TokenRecord,
        name: Option<UserName>,
    ) -> Result<(Actor, String), Rejected> {
        check_room("users", tx.state().users().len(), USERS_MAX)?;
        let name = match name {
            Some(name) => name,
            None => {
                format!("user-{}", token.id).parse().map_err(|error| Rejected::bad_name("name", &error))?
            }
        };
        if tx.state().user(&name).is_some() {
            return Err(name_taken("user", name.as_str()));
        }
        let created_at = tx.now();
        tx.put(Row::User(UserRecord { name: name.clone(), created_at, removed: false }));
        tx.event(EventKind::UserJoined, &format!("user {name}"));
        Ok((Actor::User(name.clone()), name.to_string()))
    }
}

/// P21: members that cannot dial each other would be a cluster on paper only.
fn check_dialled(tx: &Tx<'_>, addresses: &NodeAddresses) -> Result<(), Rejected> {
    let reach = Reach::of(addresses);
    let Some(other) = other_reach(tx, reach, None) else { return Ok(()) };
    let (here, there) = (&addresses.raft, &other.addresses.raft);
    let (message, next) = match reach {
        Reach::Loopback => (
            format!("{here} is loopback, and node {} at {there} could not dial it", other.id),
            "join with `--advertise HOST`, a name or address that the others reach".to_owned(),
        ),
        Reach::Remote => (
            format!("node {} advertises {there}, which {here} could not dial", other.id),
            format!("restart node {} with `stratavored run --advertise HOST` first", other.id),
        ),
    };
    Err(Rejected::new(Code::LoopbackAddress, message, next).field("addresses"))
}

fn unusable(code: Code, token: &TokenRecord, what: &str) -> Rejected {
    let next = format!("make a new one with `stratavore token create --role {}`", token.role.as_str());
    Rejected::new(code, format!("token {} {what}", token.id), next)
}

fn name_taken(what: &str, name: &str) -> Rejected {
    let message = format!("there is a {what} called {name}");
    Rejected::new(Code::NameTaken, message, "choose another name with --name").field("name")
}

fn check_room(what: &str, present: usize, max: usize) -> Result<(), Rejected> {
    if present < max {
        return Ok(());
    }
    let message = format!("the cluster has {max} {what}, the most it holds");
    Err(Rejected::new(Code::TooMany, message, format!("remove {what} that are gone")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::token::TTL_MS_DEFAULT;
    use crate::{COMMAND_VERSION, Command};

    #[test]
    fn one_token_admits_one_key() {
        let mut lab = Lab::new();
        let token = lab.token(Role::User);
        let redeem = lab.redeem_command(token, Joiner::User { name: Some("bob".parse().unwrap()) });
        let first = lab.as_node(Command::RedeemToken(redeem.clone())).unwrap();
        // The same key after a lost answer, even later than the token lives.
        lab.pass(TTL_MS_DEFAULT * 2);
        assert_eq!(lab.as_node(Command::RedeemToken(redeem.clone())).unwrap(), first);
        let other = RedeemToken { spki: [77; 32], ..redeem };
        assert_eq!(lab.as_node(Command::RedeemToken(other)).unwrap_err().code, Code::TokenUsed);
        assert_eq!(lab.events_of(EventKind::UserJoined), 2, "the admin and bob");
    }

    #[test]
    fn each_wrong_token_is_told_apart() {
        let mut lab = Lab::new();
        let token = lab.token(Role::User);
        let good = lab.redeem_command(token, Joiner::User { name: None });
        let mut refused = |change: &dyn Fn(&mut RedeemToken)| {
            let mut redeem = good.clone();
            change(&mut redeem);
            lab.as_node(Command::RedeemToken(redeem)).unwrap_err().code
        };
        assert_eq!(refused(&|r| r.secret_sha256 = [0; 32]), Code::TokenUnknown);
        assert_eq!(refused(&|r| r.token = "0000000000".parse().unwrap()), Code::TokenUnknown);
        let (addresses, version) = (NodeAddresses::default(), String::new());
        let node = Joiner::Node { addresses, version, max_version: COMMAND_VERSION };
        assert_eq!(refused(&|r| r.joiner = node.clone()), Code::TokenRole);
        assert_eq!(refused(&|r| r.spki = [1; 32]), Code::IdTaken);
        lab.pass(TTL_MS_DEFAULT);
        assert_eq!(lab.as_node(Command::RedeemToken(good)).unwrap_err().code, Code::TokenExpired);
    }

    #[test]
    fn a_refusal_does_not_consume_the_token() {
        let mut lab = Lab::new();
        let token = lab.token(Role::User);
        assert_eq!(lab.join_user(token, "admin").unwrap_err().code, Code::NameTaken);
        lab.join_user(token, "bob").unwrap();
    }

    #[test]
    fn the_tokens_labels_win() {
        let mut lab = Lab::new();
        let mut create = lab.token_command(Role::Host);
        create.labels.insert("zone".into(), "trusted".into());
        lab.user(Command::CreateToken(create.clone())).unwrap();
        let id = lab.fresh_host_id();
        let labels = Labels::from([("zone".into(), "claimed".into()), ("gpu".into(), "1".into())]);
        let joiner = Joiner::Host { id, name: None, labels, slots: 0 };
        let redeem = lab.redeem_command(create.id, joiner);
        lab.as_node(Command::RedeemToken(redeem)).unwrap();
        let host = lab.state.host(id).unwrap();
        assert_eq!(host.labels["zone"], "trusted");
        assert_eq!((host.slots, host.name.to_string()), (SLOTS_DEFAULT, format!("host-{id}")));
    }

    #[test]
    fn p21_members_that_cannot_dial_each_other_are_refused_with_the_way_out() {
        let mut lab = Lab::new();
        let join = |lab: &mut Lab, raft: &str| {
            let token = lab.token(Role::Node);
            let addresses = NodeAddresses { raft: raft.into(), ..NodeAddresses::default() };
            let joiner = Joiner::Node { addresses, version: "1".into(), max_version: COMMAND_VERSION };
            let redeem = lab.redeem_command(token, joiner);
            lab.as_node(Command::RedeemToken(redeem))
        };
        let set = |lab: &mut Lab, raft: &str| {
            let addresses = NodeAddresses { raft: raft.into(), ..NodeAddresses::default() };
            let set = crate::command::SetNodeAddress {
                node: NodeId(1),
                addresses,
                version: String::new(),
                max_version: COMMAND_VERSION,
            };
            lab.as_node(Command::SetNodeAddress(set))
        };
        set(&mut lab, "127.0.0.1:50053").unwrap();
        let refused = join(&mut lab, "10.0.0.2:50053").unwrap_err();
        assert_eq!(refused.code, Code::LoopbackAddress);
        assert!(refused.next.contains("restart node 1 with"), "{}", refused.next);
        join(&mut lab, "[::1]:50054").unwrap();
        join(&mut lab, "localhost:50055").unwrap();
        set(&mut lab, "10.0.0.1:50053").unwrap();
        assert_eq!(set(&mut lab, "127.0.0.1:50053").map(drop), Ok(()), "the others are loopback still");
        let mut lab = Lab::new();
        set(&mut lab, "node1.example:50053").unwrap();
        let refused = join(&mut lab, "0.0.0.0:50053").unwrap_err();
        assert_eq!(refused.code, Code::LoopbackAddress);
        assert!(refused.next.contains("--advertise"), "{}", refused.next);
        join(&mut lab, "10.0.0.2:50053").unwrap();
        assert_eq!(set(&mut lab, "127.0.0.1:50053").unwrap_err().code, Code::LoopbackAddress);
    }

    #[test]
    fn node_ids_count_up() {
        let mut lab = Lab::new();
        for expected in ["2", "3"] {
            let token = lab.token(Role::Node);
            let addresses = NodeAddresses::default();
            let joiner = Joiner::Node { addresses, version: "1".into(), max_version: COMMAND_VERSION };
            let redeem = lab.redeem_command(token, joiner);
            let reply = lab.as_node(Command::RedeemToken(redeem)).unwrap();
            assert!(matches!(reply, Reply::Redeemed { name, .. } if name == expected));
        }
    }
}
