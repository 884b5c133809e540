//! What is in `deploy/` works: units, example configurations, recording rules, scripts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use stratavore_chaos::binaries::Binaries;

/// Exposure that `systemd-analyze security` may find, in tenths. The node needs next to nothing (1.2 when written).
const NODE_EXPOSURE_MAX: u32 = 15;
/// What is closed for the agent is closed for every runner, so it stays more open (5.3 when written).
const AGENT_EXPOSURE_MAX: u32 = 55;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `make test` installs what tests need"))
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = run(command);
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?} ended with {}:\n{text}", output.status);
    text
}

fn unit(name: &str) -> String {
    let path = deploy().join("systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn units_verify_with_the_real_programs() {
    let binaries = Binaries::locate();
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, program, installed) in [
        ("stratavored.service", binaries.node(), "/usr/local/bin/stratavored"),
        ("stratavore-agent.service", binaries.agent(), "/usr/local/bin/stratavore-agent"),
    ] {
        let text = unit(name);
        assert!(text.contains(&format!("ExecStart={installed} run ")), "{name} starts something else");
        let program = program.to_str().expect("a path in UTF-8");
        let path = dir.path().join(name);
        fs::write(&path, text.replace(installed, program)).expect("write the unit");
        let said = succeeds(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path));
        assert_eq!(said.trim(), "", "{name}");
    }
}

#[test]
fn units_stay_as_closed_as_they_are() {
    for (name, limit) in
        [("stratavored.service", NODE_EXPOSURE_MAX), ("stratavore-agent.service", AGENT_EXPOSURE_MAX)]
    {
        let limit = format!("--threshold={limit}");
        let path = deploy().join("systemd").join(name);
        succeeds(Command::new("systemd-analyze").args(["security", "--offline=true", &limit]).arg(path));
    }
}

#[test]
fn stopping_the_agents_unit_spares_its_runners() {
    let text = unit("stratavore-agent.service");
    for line in ["KillMode=process", "Delegate=yes", "OOMPolicy=continue", "RuntimeDirectoryPreserve=yes"] {
        assert!(text.lines().any(|found| found == line), "{line} is missing");
    }
    assert!(!text.contains("PrivateTmp=yes"), "another /tmp at each start loses what is in the old one");
}

fn examples() -> Vec<PathBuf> {
    let dir = deploy().join("config");
    let mut paths: Vec<_> =
        fs::read_dir(&dir).expect("deploy/config").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 2, "{paths:?}");
    paths
}

fn stratavored() -> Command {
    let mut command = Command::new(Binaries::locate().node());
    command.env("STRATAVORE_LISTEN", "10.0.0.1");
    command
}

#[test]
fn the_node_accepts_every_example() {
    for path in examples() {
        succeeds(stratavored().arg("--config-check").arg("--config").arg(path));
    }
}

#[test]
fn the_agent_accepts_every_example() {
    let nowhere = tempfile::tempdir().expect("a temporary directory");
    for path in examples() {
        let mut command = Command::new(Binaries::locate().agent());
        command.env("STRATAVORE_LISTEN", "10.0.0.1").args(["run", "--data-dir"]).arg(nowhere.path());
        let output = run(command.arg("--config").arg(&path));
        let said = String::from_utf8_lossy(&output.stderr);
        // It gets past its configuration and finds that the directory has joined nothing.
        let name = path.file_name().and_then(|name| name.to_str()).expect("a file name");
        assert!(!output.status.success() && !said.contains(name) && said.contains("join"), "{said}");
    }
}

#[test]
fn the_full_example_names_every_key_with_its_default() {
    let example = deploy().join("config/stratavore.yaml");
    let empty = tempfile::NamedTempFile::new().expect("a temporary file");
    let show = |path: &Path, more: &[&str]| {
        succeeds(stratavored().args(["config", "show"]).args(more).arg("--config").arg(path))
    };
    for line in show(&example, &["--source"]).lines() {
        assert!(line.contains("# file"), "not in the example: {line}");
    }
    let defaults = show(empty.path(), &[]);
    for line in show(&example, &[]).lines() {
        // What `init` records is null by default; the example says which numbers that are.
        let is_recorded = line.contains("_port = ");
        assert!(is_recorded || defaults.lines().any(|default| default == line), "not the default: {line}");
    }
}

#[test]
fn rules_and_alerts_do_what_they_say() {
    let dir = deploy().join("prometheus");
    succeeds(Command::new("promtool").args(["check", "rules", "rules.yaml"]).current_dir(&dir));
    succeeds(Command::new("promtool").args(["test", "rules", "rules_test.yaml"]).current_dir(&dir));
}

#[test]
fn scripts_parse() {
    let root = deploy().join("..");
    let scripts = fs::read_dir(deploy()).expect("deploy").map(|entry| entry.expect("an entry").path());
    let scripts = scripts.filter(|path| path.extension().is_some_and(|extension| extension == "sh"));
    for script in scripts.chain([root.join(".ci/run")]) {
        succeeds(Command::new("bash").arg("-n").arg(&script));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&script).expect("metadata").permissions());
        assert!(mode & 0o111 != 0, "{} is not executable", script.display());
    }
}
