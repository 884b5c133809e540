//! Survival 7: the same tests under an ordinary user. When run as root, the suites' own executables are copied to where
//! that user may read them and run there once more; when run as an ordinary user there is nothing to add.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use stratavore_chaos::binaries::{Binaries, DIRECTORY_VARIABLE};
use stratavore_chaos::farm::LocalFarm;

/// An ordinary user that every system has.
const USER: &str = "nobody";
/// The suites that run again: all of what must be survived and nothing that mounts.
const SUITES: [&str; 7] = [
    "survive_agent_kill",
    "kill_tree",
    "node_kill",
    "join_login",
    "attach_screen",
    "request_id",
    "unprivileged",
];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The newest executable of a suite beside this one: `deps/<suite>-<hash>`.
fn executable(suite: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    let directory = own.parent().expect("a test lies in a directory");
    let newest = fs::read_dir(directory)
        .expect("list the test executables")
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_none())
        .filter(|p| {
            p.file_name().and_then(|n| n.to_str()?.rsplit_once('-')).is_some_and(|(name, _)| name == suite)
        })
        .max_by_key(|p| fs::metadata(p).and_then(|m| m.modified()).ok());
    newest.unwrap_or_else(|| {
        panic!("no executable of {suite}; build it first: cargo test -p stratavore-chaos --no-run")
    })
}

/// A copy of all programs that everybody may execute; hard links where possible, they are large.
fn copy_for_everybody(to: &Path) {
    let binaries = Binaries::locate();
    let programs = [binaries.node(), binaries.agent(), binaries.cli(), binaries.probe()];
    let suites = SUITES.iter().map(|s| (executable(s), to.join(s)));
    let programs = programs.into_iter().map(|p| (p.clone(), to.join(p.file_name().expect("a file name"))));
    for (from, to) in programs.chain(suites) {
        fs::copy(&from, &to).expect("copy a program");
        fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).expect("make it executable");
    }
}

fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", "nogroup", "--clear-groups", "--"]).arg(program);
    command
}

#[test]
fn every_suite_passes_under_an_ordinary_user() {
    if !is_root() {
        return eprintln!("already an ordinary user: the other suites are this test");
    }
    let directory = tempfile::Builder::new().prefix("svu-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    copy_for_everybody(directory.path());
    for suite in SUITES {
        let mut command = as_user(&directory.path().join(suite));
        command.env(DIRECTORY_VARIABLE, directory.path()).env("HOME", "/nonexistent").current_dir("/tmp");
        let output = command.output().expect("run a suite");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{suite} fails under {USER}:\n{said}");
        assert!(!said.contains("running 0 tests"), "{suite} has no tests");
    }
}

#[test]
fn doctor_names_what_this_host_cannot_do() {
    let farm = LocalFarm::start();
    let ran = farm.cli(&["doctor"]);
    assert!(matches!(ran.code, Some(0 | 1)), "{ran}");
    let said = (ran.stdout.clone() + &ran.stderr).to_lowercase();
    assert!(said.contains("cgroup") && said.contains("namespaces"), "{ran}");
    farm.project("demo");
    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    let described = farm.cli(&["describe", &runner]).ok().stdout;
    let weak = described.lines().any(|l| l.split_whitespace().eq(["fence", "weak"]));
    assert_eq!(
        said.contains("fence=weak"),
        weak,
        "doctor and the runner disagree about the fence: {ran}\n{described}"
    );
    if weak {
        assert!(said.contains("next:"), "doctor does not say how to get a stronger fence: {ran}");
    }
}
