//! The stated absences: what crates may not know, and what may not be in the tree. See ARCHITECTURE.md.

#![allow(clippy::unwrap_used, reason = "the lint's exemption for tests misses their builders")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Node, PackageId};

const PREFIX: &str = "stratavore-";

/// Who may know whom, exactly. `chaos` may use all of them, and nothing uses `chaos`.
const EDGES: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("proto", &[]),
    ("certs", &[]),
    ("settings", &[]),
    ("scheduler", &["model"]),
    ("raft", &["model", "proto"]),
    ("node", &["certs", "model", "proto", "raft", "scheduler", "settings"]),
    ("agent", &["certs", "proto", "settings"]),
    ("cli", &["certs", "proto", "settings"]),
];

/// Long enough for any one thing, short enough to be read at once.
const LINES_MAX: usize = 500;

static METADATA: LazyLock<Metadata> = LazyLock::new(|| {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--locked".to_owned(), "--filter-platform=x86_64-unknown-linux-gnu".to_owned()])
        .exec()
        .unwrap()
});

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Member name without the prefix, with its node in the graph.
fn members() -> BTreeMap<String, &'static Node> {
    let graph = METADATA.resolve.as_ref().unwrap();
    METADATA
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let name = package
                .name
                .strip_prefix(PREFIX)
                .unwrap_or_else(|| panic!("crate {} lacks {PREFIX}", package.name));
            (name.to_owned(), graph.nodes.iter().find(|node| node.id == package.id).unwrap())
        })
        .collect()
}

fn name_of(id: &PackageId) -> &'static str {
    METADATA[id].name.as_str()
}

/// Direct dependencies that are linked into the crate itself (not those of its tests and build script).
fn linked(node: &Node) -> impl Iterator<Item = &PackageId> {
    let is_linked =
        |dep: &&cargo_metadata::NodeDep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
    node.deps.iter().filter(is_linked).map(|dep| &dep.pkg)
}

/// Name and version of everything linked into `crates`, themselves included, on Linux. Asked of `cargo tree`, which
/// knows the features that are on; the graph of `cargo metadata` also holds optional dependencies that are off.
fn closure(crates: &[&str]) -> BTreeSet<(String, String)> {
    let packages = crates.iter().map(|name| format!("--package={PREFIX}{name}"));
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args([
            "tree",
            "--locked",
            "--edges=normal",
            "--target=x86_64-unknown-linux-gnu",
            "--prefix=none",
            "--format={p}",
        ])
        .args(packages)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = BTreeSet::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            found.insert((name.to_owned(), version.to_owned()));
        }
    }
    assert!(found.len() >= crates.len(), "{found:?}");
    found
}

#[track_caller]
fn assert_absent(crates: &[&str], banned: &[&str]) {
    let linked = closure(crates);
    let found: Vec<_> = linked.iter().filter(|(name, _)| banned.contains(&name.as_str())).collect();
    assert!(found.is_empty(), "{crates:?} must not be built on {found:?}");
}

#[test]
fn crates_know_exactly_whom_they_may() {
    let members = members();
    let expected: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).chain(["chaos"]).collect();
    assert_eq!(members.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    for (name, allowed) in EDGES {
        let known: BTreeSet<&str> =
            linked(members[name]).filter_map(|id| name_of(id).strip_prefix(PREFIX)).collect();
        assert_eq!(known, allowed.iter().copied().collect(), "siblings of {name}");
    }
    for (name, node) in &members {
        let uses_chaos = node.deps.iter().any(|dep| name_of(&dep.pkg) == "stratavore-chaos");
        assert!(!uses_chaos, "{name} uses chaos, in its tests or elsewhere");
    }
}

#[test]
fn the_pure_crates_have_no_runtime_clock_or_randomness() {
    let banned = [
        "tokio",
        "mio",
        "async-std",
        "smol",
        "futures",
        "rand",
        "rand_core",
        "getrandom",
        "fastrand",
        "chrono",
        "jiff",
        "time",
        "humantime",
        "rustix",
        "nix",
        "tempfile",
        "tracing",
        "openraft",
        "rocksdb",
        "prost",
        "tonic",
    ];
    assert_absent(&["model", "scheduler"], &banned);
}

#[test]
fn programs_outside_of_the_control_plane_never_see_its_state() {
    let banned =
        ["stratavore-model", "stratavore-raft", "stratavore-scheduler", "openraft", "rocksdb", "bincode"];
    assert_absent(&["agent", "cli", "proto", "certs", "settings"], &banned);
}

#[test]
fn storage_and_consensus_have_one_owner() {
    for (dependency, owner) in [("openraft", "raft"), ("rocksdb", "raft"), ("bincode", "raft")] {
        let users: Vec<_> = members()
            .into_iter()
            .filter(|(_, node)| node.deps.iter().any(|dep| name_of(&dep.pkg) == dependency))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(users, [owner], "who names {dependency}");
    }
}

#[test]
fn there_is_one_tls_provider_and_no_runtime_twice() {
    let all: Vec<&str> = EDGES.iter().map(|(name, _)| *name).chain(["chaos"]).collect();
    assert_absent(&all, &["ring", "openssl", "openssl-sys", "native-tls", "boring"]);
    let linked = closure(&all);
    for single in [
        "tokio",
        "rustls",
        "aws-lc-rs",
        "prost",
        "hyper",
        "http",
        "tonic",
        "quinn",
        "tower",
        "rocksdb",
        "serde",
    ] {
        let versions: Vec<_> =
            linked.iter().filter(|(name, _)| name == single).map(|(_, version)| version).collect();
        assert_eq!(versions.len(), 1, "{single} is linked in versions {versions:?}");
    }
}

/// A line of a source file of the workspace.
struct Line {
    file: String,
    number: usize,
    /// Without comments and what strings say.
    code: String,
}

/// Paths of all Rust files below `CRATE/src`, relative to the root; with `tests`, of all others too.
fn files(with_tests: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for member in members().keys() {
        let mut open = vec![PathBuf::from(member)];
        while let Some(dir) = open.pop() {
            for entry in root().join(&dir).read_dir().unwrap() {
                let entry = entry.unwrap();
                let path = dir.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    found.push(path);
                }
            }
        }
    }
    found.retain(|path| with_tests || path.components().nth(1).is_some_and(|part| part.as_os_str() == "src"));
    assert!(found.len() > 50, "the walk found only {found:?}");
    found
}

fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for path in files(false) {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        for (index, line) in text.lines().enumerate() {
            let code = code_of(line);
            lines.push(Line { file: path.display().to_string(), number: index + 1, code });
        }
    }
    lines
}

fn code_of(line: &str) -> String {
    if line.trim_start().starts_with("//") {
        return String::new();
    }
    let line = line.split(" // ").next().unwrap_or(line);
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// True if `word` stands in `code` on its own.
fn names_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_part) && !code[at + word.len()..].starts_with(is_part))
}

fn files_with(word: &str) -> BTreeSet<String> {
    lines().into_iter().filter(|line| names_word(&line.code, word)).map(|line| line.file).collect()
}

#[test]
fn one_file_names_bincode() {
    assert_eq!(files_with("bincode"), BTreeSet::from(["raft/src/codec.rs".to_owned()]));
}

#[test]
fn one_file_of_the_agent_is_unsafe() {
    let mut found = files_with("unsafe");
    assert!(
        found.remove("agent/src/shim/fork.rs"),
        "the file that forks is no longer the unsafe one: {found:?}"
    );
    assert!(found.is_empty(), "unsafe code outside of the one file that forks: {found:?}");
}

#[test]
fn no_channel_is_unbounded() {
    let unbounded = |line: &Line| {
        names_word(&line.code, "unbounded_channel") || line.code.contains("std::sync::mpsc::channel")
    };
    let found: Vec<_> = lines()
        .iter()
        .filter(|line| unbounded(line))
        .map(|line| format!("{}:{}", line.file, line.number))
        .collect();
    assert!(found.is_empty(), "unbounded channels: {found:?}");
}

#[test]
fn names_say_what_is_inside() {
    let vague = ["util", "utils", "common", "helper", "helpers", "misc"];
    for member in members().keys() {
        assert!(!vague.contains(&member.as_str()), "crate {member}");
    }
    for path in files(true) {
        for part in path.iter() {
            let name = Path::new(part).file_stem().unwrap().to_str().unwrap();
            assert!(!vague.contains(&name), "{}", path.display());
        }
    }
}

#[test]
fn files_can_be_read_at_once() {
    let mut long = Vec::new();
    for path in files(false) {
        let count = std::fs::read_to_string(root().join(&path)).unwrap().lines().count();
        if count > LINES_MAX {
            long.push(format!("{} has {count}", path.display()));
        }
    }
    assert!(long.is_empty(), "more than {LINES_MAX} lines: {long:?}");
}

#[test]
fn every_crate_obeys_the_lints_of_the_workspace() {
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    let shared: Vec<String> = read(root().join("clippy.toml"))
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains('='))
        .map(str::to_owned)
        .collect();
    assert!(!shared.is_empty());
    for member in members().keys() {
        let dir = root().join(member);
        assert!(
            read(dir.join("Cargo.toml")).contains("[lints]\nworkspace = true"),
            "{member} has lints of its own"
        );
        let own = dir.join("clippy.toml");
        if own.exists() {
            let own = read(own);
            // A member's file replaces the root's, so it has to say the same again.
            for line in &shared {
                assert!(own.lines().any(|other| other == line), "{member}/clippy.toml lacks {line:?}");
            }
        }
    }
}
