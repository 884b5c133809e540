//! `token`: lets nodes, hosts and people join. The secret is made here; the cluster gets its hash only.

use std::process::ExitCode;

use stratavore_certs::{JoinToken, Role};
use stratavore_proto::v1::{self, CreateTokenRequest, ListTokensRequest, RevokeTokenRequest};
use uuid::Uuid;

use super::{App, OK};
use crate::args::{Output, TokenArgs, TokenCommand, TokenRole};
use crate::client;
use crate::errors::{Exit, Failure, Result};
use crate::view;
use crate::view::json::{self, List};
use crate::view::token::TokenJson;

/// What a new token is to admit.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) role: TokenRole,
    pub(crate) ttl: Option<std::time::Duration>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) request_id: Option<Uuid>,
}

/// Creates, lists or revokes.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn run(app: &App, args: TokenArgs) -> Result<ExitCode> {
    match args.command {
        TokenCommand::Create { role, ttl, labels, request_id } => {
            print_created(app, Wanted { role, ttl, labels, request_id }).await
        }
        TokenCommand::List => {
            let answer = app
                .client()?
                .read("list the tokens", async |channel| {
                    client::tokens(channel).list_tokens(ListTokensRequest {}).await
                })
                .await?;
            view::token::print(app.output(), &answer.tokens)?;
            OK
        }
        TokenCommand::Revoke { id, request_id } => {
            let answer = app
                .client()?
                .mutate(&format!("revoke token {id}"), request_id, async |channel, request_id| {
                    let request = RevokeTokenRequest { request_id, token_id: id.clone() };
                    client::tokens(channel).revoke_token(request).await
                })
                .await?;
            view::token::print(app.output(), &answer.token.into_iter().collect::<Vec<_>>())?;
            OK
        }
    }
}

async fn print_created(app: &App, wanted: Wanted) -> Result<ExitCode> {
    let role = wanted.role;
    let (token, answer) = create(app, wanted).await?;
    let text = token.reveal();
    let line = join_line(role, &text, &answer.join_addresses);
    let info = answer.token.unwrap_or_default();
    if app.output() == Output::Json {
        json::print(&List::new("TokenList", vec![TokenJson::from(&info).with_secret(&text, &line)]))?;
        return OK;
    }
    view::print(&format!("{}\n{line}\n", text.as_str()))?;
    let until = view::time::rfc3339(info.expires_at_unix_ms).unwrap_or_default();
    view::tell(&format!("valid once, until {until}; shown only now. The second line joins with it."));
    OK
}

/// Makes a token and registers its hash.
///
/// # Errors
/// The cluster's refusal.
pub(crate) async fn create(app: &App, wanted: Wanted) -> Result<(JoinToken, v1::CreateTokenResponse)> {
    let credentials = app.target()?.credentials()?;
    let (role, wire) = match wanted.role {
        TokenRole::Node => (Role::Node, v1::Role::Node),
        TokenRole::Host => (Role::Host, v1::Role::Host),
        TokenRole::User => (Role::User, v1::Role::User),
    };
    let token = credentials
        .pin()
        .and_then(|pin| JoinToken::generate(role, credentials.cluster(), pin))
        .map_err(|error| Failure::new(Exit::Generic, "cannot make a token").cause(error.to_string()))?;
    let ttl_ms = wanted.ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    let answer = app
        .client()?
        .mutate("create a token", wanted.request_id, async |channel, request_id| {
            let request = CreateTokenRequest {
                request_id,
                role: wire.into(),
                ttl_ms,
                labels: wanted.labels.iter().cloned().collect(),
                token_id: token.id().to_owned(),
                secret_sha256: token.secret_hash().to_vec().into(),
            };
            client::tokens(channel).create_token(request).await
        })
        .await?;
    Ok((token, answer))
}

/// The line to run on the other side, the token by stdin, where no list of processes shows it.
fn join_line(role: TokenRole, token: &str, addresses: &[String]) -> String {
    let servers = if addresses.is_empty() { "NODE:50054".to_owned() } else { addresses.join(",") };
    let join = match role {
        TokenRole::Node => {
            format!(
                "stratavored join --data-dir /var/lib/stratavore --server {servers} --token-file - --advertise \"$(hostname -f)\""
            )
        }
        TokenRole::Host => {
            format!(
                "stratavore-agent join --data-dir /var/lib/stratavore-agent --server {servers} --token-file -"
            )
        }
        TokenRole::User => format!("stratavore login --server {servers} --token-file -"),
    };
    format!("echo '{token}' | {join}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_join_line_can_be_pasted() {
        let addresses = ["a:50054".to_owned(), "b:50054".to_owned()];
        assert_eq!(
            join_line(TokenRole::User, "svt1.x", &addresses),
            "echo 'svt1.x' | stratavore login --server a:50054,b:50054 --token-file -"
        );
        assert!(join_line(TokenRole::Host, "t", &addresses).contains("stratavore-agent join --data-dir"));
        assert!(join_line(TokenRole::Node, "t", &[]).contains("--server NODE:50054"));
    }
}
