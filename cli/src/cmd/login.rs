//! `login`: joins a cluster as a person. The key is on disk before the token is spent, so that a repetition after a
//! lost answer is the same key and gets the same answer.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stratavore_certs::{Credentials, JoinToken, KeyPair, Role, tls};
use stratavore_proto::v1::join_service_client::JoinServiceClient;
use stratavore_proto::v1::{self, JoinRequest, JoinResponse};
use stratavore_settings::context::{Context, Contexts};

use super::{App, OK};
use crate::args::LoginArgs;
use crate::client::{Client, Dialer};
use crate::context::{chain, check_endpoint, contexts_file};
use crate::errors::{Exit, Failure, Result};
use crate::view;

const TOKEN_VARIABLE: &str = "STRATAVORE_TOKEN";

/// Longest user name of a cluster.
const NAME_CHARS_MAX: usize = 63;

/// Redeems the token and writes the context.
///
/// # Errors
/// A wrong token, a context of that name, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: LoginArgs) -> Result<ExitCode> {
    for server in &args.server {
        check_endpoint(server)?;
    }
    let token = read_token(&args)?;
    let file = contexts_file(&app.globals)?;
    let name = args.name.clone().unwrap_or_else(|| token.cluster_prefix().to_owned());
    refuse_overwrite(&file, &name, args.replace)?;
    let key_file = key_file(&file, &token);
    create_private(key_file.parent())?;
    let key = KeyPair::load_or_generate(&key_file).map_err(|error| {
        Failure::new(Exit::Generic, "cannot keep a key")
            .cause(chain(&error))
            .next("check the directory's permissions")
    })?;
    let answer = match redeem(app, &args, &token, &key).await {
        Ok(answer) => answer,
        Err(failure) => {
            // A refusal is final; only when the answer may have been lost is the key needed once more.
            if !matches!(failure.exit(), Exit::Unreachable | Exit::Timeout) {
                std::fs::remove_file(&key_file).ok();
            }
            return Err(failure);
        }
    };
    let context = context(&answer, key)?;
    let saved = Contexts::edit(&file, |contexts| contexts.put(&name, context, true));
    saved.map_err(|error| Failure::new(Exit::Generic, "cannot write the context").cause(chain(&error)))?;
    // The key is in the context now; a leftover file would only be a second copy of it.
    std::fs::remove_file(&key_file).ok();
    view::tell(&format!("logged in to cluster {} as {} (context {name})", answer.cluster_id, answer.name));
    view::tell("next: stratavore status");
    OK
}

fn read_token(args: &LoginArgs) -> Result<JoinToken> {
    let token = match (&args.token_file, std::env::var(TOKEN_VARIABLE)) {
        (Some(file), _) => JoinToken::read(file).map_err(|error| chain(&error)),
        (None, Ok(text)) => JoinToken::parse(&text).map_err(|error| error.to_string()),
        (None, Err(_)) => Err(format!("neither --token-file nor {TOKEN_VARIABLE} is given")),
    };
    let token = token.map_err(|why| {
        Failure::usage("there is no token to log in with").cause(why).next(
            "stratavore token create --role user, by somebody who is in already; then --token-file FILE",
        )
    })?;
    if token.role() != Role::User {
        return Err(Failure::usage(format!("this token is for a {}, not for a person", token.role()))
            .cause("a token admits one kind of party")
            .next("stratavore token create --role user"));
    }
    Ok(token)
}

fn refuse_overwrite(file: &Path, name: &str, replace: bool) -> Result<()> {
    let contexts = Contexts::load(file)
        .map_err(|error| Failure::new(Exit::Generic, "cannot read the contexts").cause(chain(&error)))?;
    if contexts.contexts.contains_key(name) && !replace {
        return Err(Failure::new(Exit::Conflict, format!("there is a context {name} already"))
            .cause("nothing was sent; the token is still good")
            .next(format!("repeat with --name OTHER, or with --replace to give up {name}")));
    }
    Ok(())
}

/// Beside the contexts, named after the token's id, which is no secret.
fn key_file(contexts: &Path, token: &JoinToken) -> PathBuf {
    contexts.with_file_name(format!("login-{}.key", token.id()))
}

/// A person's first login finds no directory of ours.
fn create_private(dir: Option<&Path>) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(dir) = dir.filter(|dir| !dir.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        Failure::new(Exit::Generic, format!("cannot make {}", dir.display()))
            .cause(error.to_string())
            .next("check its permissions, or set XDG_CONFIG_HOME")
    })
}

async fn redeem(app: &App, args: &LoginArgs, token: &JoinToken, key: &KeyPair) -> Result<JoinResponse> {
    let failed = |why: String| Failure::new(Exit::Generic, "cannot prepare the login").cause(why);
    let tls = tls::join_client(token.pin(), token.cluster_prefix()).map_err(|error| failed(chain(&error)))?;
    let csr_der = key.csr_der().map_err(|error| failed(chain(&error)))?;
    let client = Client::new(Dialer::new(args.server.clone(), tls), app.globals.timeout, app.globals.debug);
    let wanted = args.user.clone().unwrap_or_else(user_name);
    let ask = async |name: &str| {
        // Redeeming twice with one key is redeeming once, so it is retried like a question.
        client
            .read("log in", async |channel| {
                let request = JoinRequest {
                    role: v1::Role::User.into(),
                    cluster_id: token.cluster_prefix().to_owned(),
                    token_id: token.id().to_owned(),
                    secret: token.secret().reveal().to_vec().into(),
                    csr_der: csr_der.clone().into(),
                    name: name.to_owned(),
                    ..Default::default()
                };
                JoinServiceClient::new(channel).join(request).await
            })
            .await
    };
    match ask(&wanted).await {
        // The name was only a guess; the cluster chooses a free one.
        Err(failure) if failure.reason() == "name_taken" && args.user.is_none() => ask("").await,
        other => other,
    }
}

/// The login name of this machine, as far as it can be one of a cluster.
fn user_name() -> String {
    let name = std::env::var("USER").unwrap_or_default().to_ascii_lowercase();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    name.trim_matches('-').chars().take(NAME_CHARS_MAX).collect()
}

fn context(answer: &JoinResponse, key: KeyPair) -> Result<Context> {
    let credentials = Credentials::new(&answer.ca_der, &answer.certificate_der, key).map_err(|error| {
        Failure::new(Exit::Permission, "the cluster's answer does not hold")
            .cause(chain(&error))
            .next("stratavore login again, with a new token")
    })?;
    Ok(Context {
        cluster_id: answer.cluster_id.clone(),
        user: answer.name.clone(),
        endpoints: answer.nodes.iter().map(|node| node.grpc.clone()).collect(),
        ca: credentials.ca_pem(),
        certificate: credentials.certificate_pem(),
        key: credentials.key_pem().to_string(),
    })
}
