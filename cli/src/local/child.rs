//! Starting nodes, agents and the supervisor, each in a process group of its own, so that Ctrl-C in a terminal
//! reaches none of them.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::Layout;
use super::programs::Programs;
use super::record::Member;

/// A log longer than this begins anew at the next start; the old one is kept beside it once.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// For whom the logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Programs, later.
    Programs,
    /// A person, now.
    Person,
}

/// The command that runs a member.
pub(crate) fn member_command(programs: &Programs, member: &Member) -> Command {
    let program = if member.ports.is_some() { &programs.node } else { &programs.agent };
    let mut command = Command::new(program);
    command.arg("run").arg("--data-dir").arg(&member.data_dir);
    if let Some(ports) = member.ports {
        // The ports that were taken stand, whatever a configuration file of this user says.
        command.args(ports.flags());
    }
    command
}

/// Starts a member, its log in its file.
///
/// # Errors
/// When the program or its log cannot be used.
pub(crate) fn start(
    layout: &Layout,
    programs: &Programs,
    member: &Member,
    readers: Readers,
) -> io::Result<Child> {
    let mut command = member_command(programs, member);
    if readers == Readers::Person {
        command.args(["--log-format", "human"]);
    }
    let log = open_log(&member.log)?;
    command.stdout(log.try_clone()?).stderr(log);
    command.stdin(Stdio::null()).current_dir(layout.root()).process_group(0).spawn()
}

/// Opens a log to append to, setting a long one aside first.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn open_log(path: &Path) -> io::Result<std::fs::File> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The last lines of a log, for an error message: its last `error:` and what follows, else its last line.
pub(crate) fn last_words(path: &Path) -> String {
    let text =
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.iter().rposition(|line| line.starts_with("error:")) {
        Some(at) => lines[at..].iter().take(3).copied().collect::<Vec<_>>().join(" "),
        None => lines.last().copied().unwrap_or("its log is empty").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        std::fs::write(&log, "error: old\ninfo\nerror: port taken\ncause: x\nnext: y\nbye\n").unwrap();
        assert_eq!(last_words(&log), "error: port taken cause: x next: y");
        std::fs::write(&log, "a\nb\n").unwrap();
        assert_eq!(last_words(&log), "b");
        assert_eq!(last_words(&dir.path().join("none")), "its log is empty");
    }
}
