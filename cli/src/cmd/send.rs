//! `send`: types into a runner's terminal without attaching.

use std::process::ExitCode;

use stratavore_proto::v1::SendInputRequest;

use super::{App, OK};
use crate::args::SendArgs;
use crate::client;
use crate::errors::{Failure, Result};
use crate::keys;

/// Sends the text, then the keys.
///
/// # Errors
/// An unknown key, somebody else driving, or the cluster's refusal.
pub(crate) async fn run(app: &App, args: SendArgs) -> Result<ExitCode> {
    let data = typed(&args)?;
    let doing = format!("type into {}", args.runner);
    app.client()?
        .type_once(&doing, async |channel| {
            let request = SendInputRequest {
                runner: args.runner.clone(),
                data: data.clone().into(),
                steal: args.steal,
            };
            client::terminal(channel).send_input(request).await
        })
        .await?;
    OK
}

fn typed(args: &SendArgs) -> Result<Vec<u8>> {
    let mut data = args.text.join(" ").into_bytes();
    for key in &args.keys {
        let bytes = keys::bytes(key).map_err(|why| {
            Failure::usage(format!("cannot press {key}")).cause(why).next("stratavore send --help")
        })?;
        data.extend(bytes);
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Exit;

    fn args(text: &[&str], keys: &[&str]) -> SendArgs {
        let owned = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        SendArgs { runner: "r".to_owned(), text: owned(text), keys: owned(keys), steal: false }
    }

    #[test]
    fn text_comes_before_keys_and_nothing_is_added() {
        assert_eq!(typed(&args(&["echo", "hi"], &["enter"])).unwrap(), b"echo hi\r");
        assert_eq!(typed(&args(&["ls"], &[])).unwrap(), b"ls");
        assert_eq!(typed(&args(&[], &["ctrl-c", "up"])).unwrap(), b"\x03\x1b[A");
        assert_eq!(typed(&args(&[], &["nokey"])).unwrap_err().exit(), Exit::Usage);
    }
}
