//! Rows: the unit in which state is persisted, hashed and shipped.

use serde::Serialize;
use uuid::Uuid;

use crate::cluster::{ClockRecord, ClusterRecord, NodeRecord};
use crate::dedup::DedupRecord;
use crate::event::SegmentRecord;
use crate::host::HostRecord;
use crate::id::{EventId, HostId, NodeId, ProjectName, RunnerId, TokenId, UserName};
use crate::identity::{Actor, KeyRecord, SpkiHash, UserRecord};
use crate::project::ProjectRecord;
use crate::runner::RunnerRecord;
use crate::token::TokenRecord;

/// The tables of replicated state. The numbers are stored: append only, never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[repr(u8)]
pub enum Table {
    Cluster = 1,
    Clock = 2,
    Node = 3,
    User = 4,
    Host = 5,
    Key = 6,
    Token = 7,
    Project = 8,
    Runner = 9,
    Dedup = 10,
    Segment = 11,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 11] = [
        Self::Cluster,
        Self::Clock,
        Self::Node,
        Self::User,
        Self::Host,
        Self::Key,
        Self::Token,
        Self::Project,
        Self::Runner,
        Self::Dedup,
        Self::Segment,
    ];

    /// The stored number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The table of a stored number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.number() == number)
    }
}

/// What names a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RowKey {
    Cluster,
    Clock,
    Node(NodeId),
    User(UserName),
    Host(HostId),
    Key(SpkiHash),
    Token(TokenId),
    Project(ProjectName),
    Runner(RunnerId),
    Dedup(Actor, Uuid),
    /// By its first event.
    Segment(EventId),
}

impl RowKey {
    /// The table it is in.
    #[must_use]
    pub const fn table(&self) -> Table {
        match self {
            Self::Cluster => Table::Cluster,
            Self::Clock => Table::Clock,
            Self::Node(_) => Table::Node,
            Self::User(_) => Table::User,
            Self::Host(_) => Table::Host,
            Self::Key(_) => Table::Key,
            Self::Token(_) => Table::Token,
            Self::Project(_) => Table::Project,
            Self::Runner(_) => Table::Runner,
            Self::Dedup(..) => Table::Dedup,
            Self::Segment(_) => Table::Segment,
        }
    }

    /// Bytes that name the row within its table, unique and in the order of the key.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Cluster | Self::Clock => Vec::new(),
            Self::Node(id) => id.0.to_be_bytes().to_vec(),
            Self::User(name) => name.as_str().as_bytes().to_vec(),
            Self::Host(id) => id.as_str().as_bytes().to_vec(),
            Self::Key(spki) => spki.to_vec(),
            Self::Token(id) => id.as_str().as_bytes().to_vec(),
            Self::Project(name) => name.as_str().as_bytes().to_vec(),
            Self::Runner(id) => id.as_str().as_bytes().to_vec(),
            // The id has a fixed length, so the pair is unambiguous.
            Self::Dedup(actor, id) => [id.as_bytes().as_slice(), actor.to_string().as_bytes()].concat(),
            Self::Segment(first) => [
                first.incarnation.to_be_bytes().as_slice(),
                &first.index.to_be_bytes(),
                &first.ordinal.to_be_bytes(),
            ]
            .concat(),
        }
    }
}

/// One row of replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Row {
    Cluster(Box<ClusterRecord>),
    Clock(ClockRecord),
    Node(NodeRecord),
    User(UserRecord),
    Host(HostRecord),
    Key(KeyRecord),
    Token(TokenRecord),
    Project(ProjectRecord),
    Runner(RunnerRecord),
    Dedup(DedupRecord),
    Segment(SegmentRecord),
}

impl Row {
    /// What names it.
    #[must_use]
    pub fn key(&self) -> RowKey {
        match self {
            Self::Cluster(_) => RowKey::Cluster,
            Self::Clock(_) => RowKey::Clock,
            Self::Node(node) => RowKey::Node(node.id),
            Self::User(user) => RowKey::User(user.name.clone()),
            Self::Host(host) => RowKey::Host(host.id),
            Self::Key(key) => RowKey::Key(key.spki),
            Self::Token(token) => RowKey::Token(token.id),
            Self::Project(project) => RowKey::Project(project.name.clone()),
            Self::Runner(runner) => RowKey::Runner(runner.id),
            Self::Dedup(dedup) => RowKey::Dedup(dedup.actor.clone(), dedup.request_id),
            Self::Segment(segment) => RowKey::Segment(segment.first),
        }
    }

    /// The table it is in.
    #[must_use]
    pub fn table(&self) -> Table {
        self.key().table()
    }
}
