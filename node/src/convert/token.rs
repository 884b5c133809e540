//! Join tokens (never their secrets).

use stratavore_model::identity::Role;
use stratavore_model::token::{TokenRecord, TokenState};
use stratavore_model::{Millis, Rejected};
use stratavore_proto::v1;

use crate::convert::id;

pub(crate) fn to_proto(record: &TokenRecord, now: Millis) -> v1::TokenInfo {
    v1::TokenInfo {
        id: record.id.to_string(),
        role: role(record.role) as i32,
        created_at_unix_ms: id::millis(record.created_at),
        expires_at_unix_ms: id::millis(record.expires_at),
        state: record.shown_state(now).to_owned(),
        created_by: record.created_by.to_string(),
        used_by: match &record.state {
            TokenState::Used { identity, .. } => identity.to_string(),
            TokenState::Unused | TokenState::Revoked { .. } => String::new(),
        },
        labels: record.labels.clone(),
    }
}

const fn role(role: Role) -> v1::Role {
    match role {
        Role::Node => v1::Role::Node,
        Role::Host => v1::Role::Host,
        Role::User => v1::Role::User,
    }
}

/// # Errors
/// `bad_argument` when it is missing or unknown.
pub(crate) fn role_of(number: i32) -> Result<Role, Rejected> {
    match v1::Role::try_from(number) {
        Ok(v1::Role::Node) => Ok(Role::Node),
        Ok(v1::Role::Host) => Ok(Role::Host),
        Ok(v1::Role::User) => Ok(Role::User),
        Ok(v1::Role::Unspecified) | Err(_) => Err(Rejected::bad_argument(
            "role",
            format!("{number} is not a role"),
            "choose node, host or user",
        )),
    }
}
