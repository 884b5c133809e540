//! Programs that do one thing and end: `init` and `join`.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::errors::{Exit, Failure, Result};

/// Runs a program, with `input` on its stdin; its three lines become ours when it fails.
///
/// # Errors
/// What it said, or that it could not be run.
pub(crate) async fn run(mut command: Command, input: Option<&str>, log: &Path, doing: &str) -> Result<()> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |why: String| Failure::new(Exit::Generic, format!("cannot {doing}")).cause(why);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // One that ends before it has read says why by itself.
        stdin.write_all(input.as_bytes()).await.ok();
    }
    let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = |label: &str| {
        said.lines().rev().find_map(|line| line.strip_prefix(label)).map(|l| l.trim().to_owned())
    };
    let Some(error) = line("error:") else {
        let last = said.lines().last().unwrap_or("it said nothing").to_owned();
        return Err(failed(format!("{last} ({})", output.status)).next(format!("see {}", log.display())));
    };
    let cause = line("cause:").map_or_else(|| error.clone(), |cause| format!("{error}: {cause}"));
    Err(failed(cause).next(line("next:").unwrap_or_else(|| "stratavore doctor".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, input: Option<&str>) -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, input, Path::new("/logs/x"), "do it").await
    }

    #[tokio::test]
    async fn it_gets_its_input_and_its_words_become_ours() {
        shell("read line && test \"$line\" = secret", Some("secret\n")).await.unwrap();
        let refused =
            shell("printf 'error: no\\ncause: why\\nnext: go\\n' >&2; exit 4", Some("unread")).await;
        let text = refused.unwrap_err().render();
        assert!(
            text.contains("cannot do it") && text.contains("no: why") && text.contains("next: go"),
            "{text}"
        );
        let mute = shell("exit 9", None).await.unwrap_err().render();
        assert!(mute.contains("it said nothing") && mute.contains("/logs/x"), "{mute}");
    }
}
