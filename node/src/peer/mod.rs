//! Other nodes of the cluster: dialling them, being dialled by them, and what travels between.
//!
//! ```text
//!  raft ---------------> dial (mTLS, the node id, the registry) --> raft port of the peer
//!  session, terminal --> channels -- PeerService, API port -------> leader (renewals), gateway (terminals)
//! ```

pub(crate) mod channels;
pub(crate) mod contact;
pub(crate) mod dial;
pub(crate) mod renewals;
pub(crate) mod service;
pub(crate) mod terminal;
