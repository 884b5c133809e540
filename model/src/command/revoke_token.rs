//! `stratavore token revoke`.

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::id::TokenId;
use crate::reply::{Code, Rejected};
use crate::row::Row;
use crate::token::{TokenRecord, TokenState};
use crate::tx::Tx;

/// Makes an unused token useless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RevokeToken {
    pub id: TokenId,
}

impl RevokeToken {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let Some(token) = tx.state().token(self.id).cloned() else {
            let message = format!("there is no token {}", self.id);
            return Err(Rejected::new(Code::TokenUnknown, message, "list them with `stratavore token list`"));
        };
        match &token.state {
            TokenState::Revoked { .. } => {}
            TokenState::Used { identity, .. } => {
                let message = format!("token {} was used already, by {identity}", self.id);
                let next = "remove what joined with it";
                return Err(Rejected::new(Code::TokenUsed, message, next));
            }
            TokenState::Unused => {
                tx.event(EventKind::TokenRevoked, &format!("token {}", self.id));
                let state = TokenState::Revoked { at: tx.now() };
                tx.put(Row::Token(TokenRecord { state, ..token }));
            }
        }
        Ok(Success::token(self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::{Command, Role};

    #[test]
    fn an_unused_one_becomes_useless() {
        let mut lab = Lab::new();
        let token = lab.token(Role::User);
        let revoke = Command::RevokeToken(RevokeToken { id: token });
        lab.user(revoke.clone()).unwrap();
        lab.user(revoke).unwrap();
        assert_eq!(lab.events_of(EventKind::TokenRevoked), 1);
        assert_eq!(lab.join_user(token, "bob").unwrap_err().code, Code::TokenRevoked);
    }

    #[test]
    fn a_used_or_unknown_one_is_refused() {
        let mut lab = Lab::new();
        let token = lab.token(Role::User);
        lab.join_user(token, "bob").unwrap();
        let revoke = |id| Command::RevokeToken(RevokeToken { id });
        assert_eq!(lab.user(revoke(token)).unwrap_err().code, Code::TokenUsed);
        let unknown = "0000000000".parse().unwrap();
        assert_eq!(lab.user(revoke(unknown)).unwrap_err().code, Code::TokenUnknown);
    }
}
