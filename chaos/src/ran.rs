//! One finished command: what it printed, how it ended, and the checks every test makes on that.

use std::fmt;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A command that has not ended after this long is hung: the longest legitimate one waits 60 s for a timeout.
const HUNG_AFTER: Duration = Duration::from_secs(150);

/// A finished command.
#[derive(Clone, Debug)]
pub struct Ran {
    /// As it was typed.
    pub line: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Everything on stdout.
    pub stdout: String,
    /// Everything on stderr.
    pub stderr: String,
    /// Wall time.
    pub took: Duration,
}

/// Runs to the end, with empty stdin.
///
/// # Panics
/// When the program cannot be started or hangs.
#[track_caller]
#[must_use]
pub fn run(command: &mut Command) -> Ran {
    let line = describe(command);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            break status;
        }
        if started.elapsed() > HUNG_AFTER {
            child.kill().ok();
            child.wait().ok();
            panic!("`{line}` hung for {} s", HUNG_AFTER.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Ran {
        line,
        code: status.code(),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
        took: started.elapsed(),
    }
}

fn drain(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).ok();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn describe(command: &Command) -> String {
    let program =
        std::path::Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let arguments = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(program.into_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or_else(|| "a signal".to_owned(), |c| c.to_string());
        write!(f, "`{}` ended with {code}\nstdout:\n{}\nstderr:\n{}", self.line, self.stdout, self.stderr)
    }
}

impl Ran {
    /// The command must have succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// The command must have ended with `code`.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == Some(code), "expected exit code {code}: {self}");
        self
    }

    /// A refusal as the contract wants it: this exit code, nothing on stdout, the three lines on stderr, and every
    /// word of `words` (lower case) somewhere in them.
    ///
    /// # Panics
    /// When anything of that is missing.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Self {
        let ran = self.exits(code);
        assert!(ran.stdout.trim().is_empty(), "a refusal prints no data: {ran}");
        for start in ["error:", "cause:", "next:"] {
            let said = ran
                .stderr
                .lines()
                .filter_map(|l| l.trim_start().strip_prefix(start))
                .any(|l| !l.trim().is_empty());
            assert!(said, "no line '{start} …': {ran}");
        }
        ran.says(words)
    }

    /// stderr must hold every word (given in lower case), in any case.
    ///
    /// # Panics
    /// When one is missing.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(said.contains(word), "stderr does not say '{word}': {self}");
        }
        self
    }

    /// stdout as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON ({error}): {self}"))
    }

    /// The items of a list on stdout, after a check of `apiVersion` and `kind`.
    ///
    /// # Panics
    /// When stdout is no such list.
    #[track_caller]
    #[must_use]
    pub fn items(&self, kind: &str) -> Vec<Value> {
        let list = self.json();
        assert!(list["apiVersion"] == "stratavore.v1" && list["kind"] == kind, "not a {kind}: {self}");
        list["items"].as_array().unwrap_or_else(|| panic!("no items: {self}")).clone()
    }

    /// One JSON object per line.
    ///
    /// # Panics
    /// When a line is not JSON.
    #[track_caller]
    #[must_use]
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("'{line}' is not JSON ({error}): {self}"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Ran {
        run(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn a_refusal_has_three_lines() {
        let ran = shell("printf 'error: no\\ncause: Because\\nnext: try\\n' >&2; exit 5");
        ran.refused(5, &["because"]);
    }

    #[test]
    #[should_panic(expected = "no line 'next: …'")]
    fn a_refusal_without_a_next_step_is_found() {
        shell("printf 'error: no\\ncause: b\\n' >&2; exit 5").refused(5, &[]);
    }

    #[test]
    #[should_panic(expected = "expected exit code 3")]
    fn another_exit_code_is_found() {
        shell("exit 4").exits(3);
    }
}
