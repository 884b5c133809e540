//! `stratavore token create`.

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::Labels;
use crate::id::TokenId;
use crate::identity::Role;
use crate::limits::{TOKENS_MAX, check_labels};
use crate::reply::{Code, Rejected};
use crate::row::Row;
use crate::token::{TTL_MS_DEFAULT, TTL_MS_MAX, TokenRecord, TokenState};
use crate::tx::Tx;

/// Creates a join token. The secret was made by the caller; only its hash comes here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateToken {
    pub id: TokenId,
    pub role: Role,
    /// 0 = [`crate::token::TTL_MS_DEFAULT`].
    pub ttl_ms: u64,
    /// Given to the host that joins with it; only with the role host.
    pub labels: Labels,
    pub secret_sha256: [u8; 32],
}

impl CreateToken {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        if tx.state().token(self.id).is_some() {
            let message = format!("token {} exists", self.id);
            return Err(Rejected::new(Code::IdTaken, message, "retry").field("token_id"));
        }
        if tx.state().tokens().len() >= TOKENS_MAX {
            let message = format!("there are {TOKENS_MAX} tokens");
            return Err(Rejected::new(Code::TooMany, message, "old ones leave within a day"));
        }
        let ttl_ms = if self.ttl_ms == 0 { TTL_MS_DEFAULT } else { self.ttl_ms };
        if ttl_ms > TTL_MS_MAX {
            let message = format!("{ttl_ms} ms is longer than {TTL_MS_MAX} ms");
            return Err(Rejected::bad_argument("ttl_ms", message, "make a token when it is needed"));
        }
        if !self.labels.is_empty() && self.role != Role::Host {
            let message = format!("a {} has no labels", self.role.as_str());
            return Err(Rejected::bad_argument("labels", message, "leave them out"));
        }
        check_labels("labels", &self.labels)?;
        let created_at = tx.now();
        tx.put(Row::Token(TokenRecord {
            id: self.id,
            role: self.role,
            secret_sha256: self.secret_sha256,
            labels: self.labels.clone(),
            created_at,
            expires_at: created_at.plus(ttl_ms),
            created_by: tx.actor.clone(),
            state: TokenState::Unused,
        }));
        tx.event(EventKind::TokenCreated, &format!("token {} for a {}", self.id, self.role.as_str()));
        Ok(Success::token(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::lab::Lab;

    fn create(lab: &mut Lab, change: impl FnOnce(&mut CreateToken)) -> Result<crate::Reply, Rejected> {
        let mut create = lab.token_command(Role::Host);
        change(&mut create);
        lab.user(Command::CreateToken(create))
    }

    #[test]
    fn lives_five_minutes_unless_told() {
        let mut lab = Lab::new();
        create(&mut lab, |_| {}).unwrap();
        let token = lab.state.tokens().next().unwrap().clone();
        assert_eq!(token.expires_at.since(token.created_at), 300_000);
        assert_eq!(token.shown_state(token.created_at), "unused");
        assert_eq!(token.shown_state(token.expires_at), "expired");
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let mut lab = Lab::new();
        create(&mut lab, |_| {}).unwrap();
        let id = lab.state.tokens().next().unwrap().id;
        assert_eq!(create(&mut lab, |c| c.id = id).unwrap_err().code, Code::IdTaken);
        assert_eq!(create(&mut lab, |c| c.ttl_ms = u64::MAX).unwrap_err().code, Code::BadArgument);
        let labelled = create(&mut lab, |c| {
            c.role = Role::User;
            c.labels.insert("a".into(), "b".into());
        });
        assert_eq!(labelled.unwrap_err().field.as_deref(), Some("labels"));
    }
}
