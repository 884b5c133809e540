//! Join tokens, as table and as JSON. The secret appears once, when the token is made.

use std::collections::BTreeMap;

use serde::Serialize;
use stratavore_proto::v1;

use super::json::known;
use super::style::{GOOD, QUIET};
use super::table::{Cell, Table};
use super::time;
use crate::args::Output;
use crate::errors::Result;

/// The JSON shape of a token; `token` and `join` only from `token create`.
#[derive(Debug, Serialize)]
pub(crate) struct TokenJson {
    id: String,
    role: &'static str,
    state: String,
    created_at: Option<String>,
    expires_at: Option<String>,
    created_by: Option<String>,
    used_by: Option<String>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    join: Option<String>,
}

impl TokenJson {
    /// A token just made: its text and the line to run on the other side.
    #[must_use]
    pub(crate) fn with_secret(mut self, token: &str, join: &str) -> Self {
        self.token = Some(token.to_owned());
        self.join = Some(join.to_owned());
        self
    }
}

impl From<&v1::TokenInfo> for TokenJson {
    fn from(token: &v1::TokenInfo) -> Self {
        Self {
            id: token.id.clone(),
            role: role_word(token.role()),
            state: token.state.clone(),
            created_at: time::rfc3339(token.created_at_unix_ms),
            expires_at: time::rfc3339(token.expires_at_unix_ms),
            created_by: known(&token.created_by),
            used_by: known(&token.used_by),
            labels: token.labels.clone().into_iter().collect(),
            token: None,
            join: None,
        }
    }
}

/// Prints tokens.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print(output: Output, tokens: &[v1::TokenInfo]) -> Result<()> {
    super::list(output, "TokenList", tokens.iter().map(TokenJson::from).collect(), || {
        let mut table = Table::new(&["TOKEN", "ROLE", "STATE", "CREATED", "EXPIRES", "BY", "USED BY"]);
        for token in tokens {
            let style = if token.state == "unused" { GOOD } else { QUIET };
            table.row(vec![
                token.id.as_str().into(),
                role_word(token.role()).into(),
                Cell::styled(style, &token.state),
                time::rfc3339(token.created_at_unix_ms).unwrap_or_default().into(),
                time::rfc3339(token.expires_at_unix_ms).unwrap_or_default().into(),
                token.created_by.as_str().into(),
                token.used_by.as_str().into(),
            ]);
        }
        table
    })
}

/// The word for a role.
pub(crate) fn role_word(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Node => "node",
        v1::Role::Host => "host",
        v1::Role::User => "user",
        v1::Role::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::compact;
    use super::*;

    #[test]
    fn a_token_as_json_with_and_without_its_secret() {
        let token = v1::TokenInfo {
            id: "t123456789".to_owned(),
            role: v1::Role::Host.into(),
            created_at_unix_ms: 1_700_000_000_000,
            expires_at_unix_ms: 1_700_000_300_000,
            state: "unused".to_owned(),
            created_by: "admin".to_owned(),
            ..Default::default()
        };
        let listed = concat!(
            r#"{"id":"t123456789","role":"host","state":"unused","created_at":"2023-11-14T22:13:20.000Z","#,
            r#""expires_at":"2023-11-14T22:18:20.000Z","created_by":"admin","used_by":null,"labels":{}"#
        );
        assert_eq!(compact(&TokenJson::from(&token)), format!("{listed}}}"));
        assert_eq!(
            compact(&TokenJson::from(&token).with_secret("svt1.x", "join me")),
            format!(r#"{listed},"token":"svt1.x","join":"join me"}}"#)
        );
    }
}
