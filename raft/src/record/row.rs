//! The one match over tables.

use model::Row;
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::{RecordError, Stored};

impl Stored for Row {
    type Pb = pb::Row;

    fn store(&self) -> pb::Row {
        use pb::row::Row as Pb;
        let row = match self {
            Self::Cluster(row) => Pb::Cluster(row.store()),
            Self::Clock(row) => Pb::Clock(row.store()),
            Self::Node(row) => Pb::Node(row.store()),
            Self::User(row) => Pb::User(row.store()),
            Self::Host(row) => Pb::Host(row.store()),
            Self::Key(row) => Pb::Key(row.store()),
            Self::Token(row) => Pb::Token(row.store()),
            Self::Project(row) => Pb::Project(row.store()),
            Self::Runner(row) => Pb::Runner(row.store()),
            Self::Dedup(row) => Pb::Dedup(row.store()),
            Self::Segment(row) => Pb::Segment(row.store()),
        };
        pb::Row { row: Some(row) }
    }

    fn load(stored: pb::Row) -> Result<Self, RecordError> {
        use pb::row::Row as Pb;
        Ok(match stored.row.ok_or(RecordError::Unknown("table"))? {
            Pb::Cluster(row) => Self::Cluster(Box::new(Stored::load(row)?)),
            Pb::Clock(row) => Self::Clock(Stored::load(row)?),
            Pb::Node(row) => Self::Node(Stored::load(row)?),
            Pb::User(row) => Self::User(Stored::load(row)?),
            Pb::Host(row) => Self::Host(Stored::load(row)?),
            Pb::Key(row) => Self::Key(Stored::load(row)?),
            Pb::Token(row) => Self::Token(Stored::load(row)?),
            Pb::Project(row) => Self::Project(Stored::load(row)?),
            Pb::Runner(row) => Self::Runner(Stored::load(row)?),
            Pb::Dedup(row) => Self::Dedup(Stored::load(row)?),
            Pb::Segment(row) => Self::Segment(Stored::load(row)?),
        })
    }
}
