//! Join tokens: commands and rows.

use model::command::{CreateToken, Joiner, RedeemToken, RevokeToken};
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::{array, blob, labels, optional_text, text};
use super::{RecordError, Stored, required};

impl Stored for CreateToken {
    type Pb = pb::CreateToken;

    fn store(&self) -> pb::CreateToken {
        pb::CreateToken {
            id: self.id.to_string(),
            role: self.role.store(),
            ttl_ms: self.ttl_ms,
            labels: labels(&self.labels),
            secret_sha256: blob(&self.secret_sha256),
        }
    }

    fn load(stored: pb::CreateToken) -> Result<Self, RecordError> {
        Ok(Self {
            id: text("token id", &stored.id)?,
            role: Stored::load(stored.role)?,
            ttl_ms: stored.ttl_ms,
            labels: stored.labels,
            secret_sha256: array("secret hash", &stored.secret_sha256)?,
        })
    }
}

impl Stored for RevokeToken {
    type Pb = pb::RevokeToken;

    fn store(&self) -> pb::RevokeToken {
        pb::RevokeToken { id: self.id.to_string() }
    }

    fn load(stored: pb::RevokeToken) -> Result<Self, RecordError> {
        Ok(Self { id: text("token id", &stored.id)? })
    }
}

impl Stored for RedeemToken {
    type Pb = pb::RedeemToken;

    fn store(&self) -> pb::RedeemToken {
        use pb::redeem_token::Joiner as Pb;
        let joiner = match &self.joiner {
            Joiner::Host { id, name, labels: own, slots } => Pb::Host(pb::JoiningHost {
                id: id.to_string(),
                name: name.as_ref().map(ToString::to_string),
                labels: labels(own),
                slots: *slots,
            }),
            Joiner::Node { addresses, version, max_version } => Pb::Node(pb::JoiningNode {
                addresses: Some(addresses.store()),
                version: version.clone(),
                max_version: *max_version,
            }),
            Joiner::User { name } => {
                Pb::User(pb::JoiningUser { name: name.as_ref().map(ToString::to_string) })
            }
        };
        pb::RedeemToken {
            token: self.token.to_string(),
            secret_sha256: blob(&self.secret_sha256),
            spki: blob(&self.spki),
            joiner: Some(joiner),
        }
    }

    fn load(stored: pb::RedeemToken) -> Result<Self, RecordError> {
        use pb::redeem_token::Joiner as Pb;
        let joiner = match stored.joiner.ok_or(RecordError::Unknown("kind of joiner"))? {
            Pb::Host(host) => Joiner::Host {
                id: text("host id", &host.id)?,
                name: optional_text("host name", host.name)?,
                labels: host.labels,
                slots: host.slots,
            },
            Pb::Node(node) => Joiner::Node {
                addresses: required("node addresses", node.addresses)?,
                version: node.version,
                max_version: node.max_version,
            },
            Pb::User(user) => Joiner::User { name: optional_text("user name", user.name)? },
        };
        Ok(Self {
            token: text("token id", &stored.token)?,
            secret_sha256: array("secret hash", &stored.secret_sha256)?,
            spki: array("key", &stored.spki)?,
            joiner,
        })
    }
}

impl Stored for model::TokenRecord {
    type Pb = pb::TokenRow;

    fn store(&self) -> pb::TokenRow {
        use pb::token_row::State as Pb;
        let state = match &self.state {
            model::TokenState::Unused => Pb::Unused(pb::TokenUnused {}),
            model::TokenState::Used { spki, identity, at } => {
                Pb::Used(pb::TokenUsed { spki: blob(spki), identity: identity.to_string(), at_ms: at.0 })
            }
            model::TokenState::Revoked { at } => Pb::Revoked(pb::TokenRevoked { at_ms: at.0 }),
        };
        pb::TokenRow {
            id: self.id.to_string(),
            role: self.role.store(),
            secret_sha256: blob(&self.secret_sha256),
            labels: labels(&self.labels),
            created_at_ms: self.created_at.0,
            expires_at_ms: self.expires_at.0,
            created_by: self.created_by.to_string(),
            state: Some(state),
        }
    }

    fn load(stored: pb::TokenRow) -> Result<Self, RecordError> {
        use pb::token_row::State as Pb;
        let state = match stored.state.ok_or(RecordError::Unknown("token state"))? {
            Pb::Unused(pb::TokenUnused {}) => model::TokenState::Unused,
            Pb::Used(used) => model::TokenState::Used {
                spki: array("key", &used.spki)?,
                identity: text("identity", &used.identity)?,
                at: model::Millis(used.at_ms),
            },
            Pb::Revoked(revoked) => model::TokenState::Revoked { at: model::Millis(revoked.at_ms) },
        };
        Ok(Self {
            id: text("token id", &stored.id)?,
            role: Stored::load(stored.role)?,
            secret_sha256: array("secret hash", &stored.secret_sha256)?,
            labels: stored.labels,
            created_at: model::Millis(stored.created_at_ms),
            expires_at: model::Millis(stored.expires_at_ms),
            created_by: text("identity", &stored.created_by)?,
            state,
        })
    }
}
