//! Precedence, origins, errors with their places, interpolation.

#![allow(clippy::unwrap_used, reason = "the lint's exemption for tests misses their builders")]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stratavore_settings::{ConfigError, Environment, Loaded, Origin, Sources, load};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    daemon: Daemon,
    log: stratavore_settings::log::LogOptions,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Daemon {
    grpc_port: u16,
    advertise: Option<String>,
    peers: Vec<String>,
    name: String,
    admin_password: String,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            grpc_port: 50051,
            advertise: None,
            peers: Vec::new(),
            name: "007".to_owned(),
            admin_password: String::new(),
        }
    }
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn sources(search: Vec<PathBuf>, environment: Environment) -> Sources {
    Sources { config: None, search, flags: Vec::new(), environment }
}

fn of_text(text: &str, environment: Environment) -> Result<Loaded<Config>, ConfigError> {
    let files = Files::new();
    load(sources(vec![files.write("stratavore.yaml", text)], environment))
}

#[test]
fn each_layer_beats_the_one_below() {
    let files = Files::new();
    let system = files.write(
        "system.yaml",
        "daemon:\n  grpc_port: 1\n  name: system\n  peers: [a, b]\nlog: {level: warn}\n",
    );
    let user = files.write("user.yaml", "daemon:\n  grpc_port: 2\n  name: user\n");
    let search = vec![user.clone(), system.clone()];

    let loaded: Loaded<Config> = load(sources(search.clone(), Environment::default())).unwrap();
    assert_eq!((loaded.value.daemon.grpc_port, loaded.value.daemon.name.as_str()), (2, "user"));
    assert_eq!(loaded.value.daemon.peers, ["a", "b"]);
    assert_eq!(loaded.origin("daemon.grpc_port"), &Origin::File(user));
    assert_eq!(loaded.origin("daemon.peers"), &Origin::File(system));
    assert_eq!(loaded.origin("log.format"), &Origin::Default);

    let environment =
        Environment::of([("STRATAVORE_DAEMON__GRPC_PORT", "3"), ("STRATAVORE_LOG_LEVEL", "debug")]);
    let with_flag =
        sources(search, environment).flag("--name", "daemon.name", Some("flag")).flag("--x", "x", None::<u8>);
    let loaded: Loaded<Config> = load(with_flag).unwrap();
    assert_eq!((loaded.value.daemon.grpc_port, loaded.value.daemon.name.as_str()), (3, "flag"));
    assert_eq!(loaded.value.log.level, "debug");
    assert_eq!(loaded.origin("daemon.grpc_port").to_string(), "environment STRATAVORE_DAEMON__GRPC_PORT");
    assert_eq!(loaded.origin("daemon.name"), &Origin::Flag("--name"));
}

#[test]
fn a_named_file_replaces_the_search_and_must_be_there() {
    let files = Files::new();
    let user = files.write("user.yaml", "daemon: {grpc_port: 2, name: user}\n");
    let named = files.write("named.yaml", "daemon: {grpc_port: 9}\n");
    let mut sources = sources(vec![user], Environment::default());
    sources.config = Some(named.clone());
    let loaded: Loaded<Config> = load(sources.clone()).unwrap();
    assert_eq!((loaded.value.daemon.grpc_port, loaded.value.daemon.name.as_str()), (9, "007"));
    assert_eq!(loaded.files, [named]);
    sources.config = Some(files.dir.path().join("none.yaml"));
    assert!(matches!(load::<Config>(sources), Err(ConfigError::Missing { .. })));
}

#[test]
fn nothing_at_all_is_the_defaults() {
    for text in ["", "# only a comment\n", "daemon:\n", "---\n"] {
        let loaded =
            of_text(text, Environment::default()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(loaded.value, Config::default(), "{text:?}");
    }
    let loaded: Loaded<Config> =
        load(sources(vec!["/nonexistent.yaml".into()], Environment::default())).unwrap();
    assert_eq!(loaded.value, Config::default());
}

#[track_caller]
fn refused(text: &str, environment: Environment, line: u64, column: u64) -> String {
    match of_text(text, environment) {
        Err(ConfigError::File { line: l, column: c, message, .. }) => {
            assert_eq!((l, c), (line, column), "{message}");
            message
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_keys_are_placed_and_the_known_ones_named() {
    let message = refused("daemon:\n  grpc_port: 1\n  grpc_prot: 2\n", Environment::default(), 3, 3);
    assert!(
        message.contains("grpc_prot") && message.contains("grpc_port") && message.contains("advertise"),
        "{message}"
    );
    let message = refused("log: {level: info}\ndeamon:\n  name: x\n", Environment::default(), 2, 1);
    assert!(message.contains("deamon") && message.contains("daemon"), "{message}");
}

#[test]
fn wrong_values_and_broken_text_are_placed() {
    refused("daemon:\n  grpc_port: many\n", Environment::default(), 2, 14);
    refused("daemon:\n  grpc_port: 70000\n", Environment::default(), 2, 14);
    refused("daemon:\n  name: a\n  name: b\n", Environment::default(), 3, 3);
    assert!(matches!(of_text("daemon: [", Environment::default()), Err(ConfigError::File { .. })));
    assert!(matches!(of_text("just text", Environment::default()), Err(ConfigError::File { .. })));
}

#[test]
fn sections_of_other_programs_are_passed_over_whatever_is_in_them() {
    let text = "agent:\n  slots: 5\n  secret: \"${NOT_SET:?only for the agent}\"\ndaemon: {grpc_port: 7}\n";
    assert_eq!(of_text(text, Environment::default()).unwrap().value.daemon.grpc_port, 7);
    let environment = Environment::of([("STRATAVORE_AGENT__SLOTS", "5")]);
    assert!(of_text("", environment).is_ok());
}

#[test]
fn variables_are_put_in_also_inside_quotes() {
    let environment = Environment::of([("PORT", "1234"), ("PW", "p$w: {x}"), ("NAME", "12")]);
    let text = "daemon:\n  grpc_port: ${PORT}\n  admin_password: \"${PW}\"\n  name: \"${NAME}\"\n  advertise: ${NOPE:-fallback}\n";
    let daemon = of_text(text, environment).unwrap().value.daemon;
    assert_eq!(
        (daemon.grpc_port, daemon.admin_password.as_str(), daemon.name.as_str()),
        (1234, "p$w: {x}", "12")
    );
    assert_eq!(daemon.advertise.as_deref(), Some("fallback"));
}

#[test]
fn a_missing_variable_is_told_with_its_message() {
    let text = "daemon:\n  admin_password: \"${NOPE:?set it with systemctl edit}\"\n";
    let message = refused(text, Environment::default(), 2, 19);
    assert!(message.contains("NOPE") && message.contains("set it with systemctl edit"), "{message}");
}

#[test]
fn environment_values_take_the_type_of_the_key() {
    let environment = Environment::of([
        ("STRATAVORE_DAEMON__NAME", "0123"),
        ("STRATAVORE_DAEMON__ADVERTISE", "10"),
        ("STRATAVORE_DAEMON__PEERS", "[a, b]"),
        ("STRATAVORE_LOG__FORMAT", "json"),
    ]);
    let value = of_text("", environment).unwrap().value;
    assert_eq!((value.daemon.name.as_str(), value.daemon.advertise.as_deref()), ("0123", Some("10")));
    assert_eq!(value.daemon.peers, ["a", "b"]);
    assert_eq!(value.log.format, stratavore_settings::log::LogFormat::Json);
}

#[test]
fn wrong_environment_values_name_the_variable() {
    let refused = |name: &str, value: &str| match of_text("", Environment::of([(name, value)])) {
        Err(ConfigError::Variable { name: found, message }) => {
            assert_eq!(found, name);
            message
        }
        other => panic!("{other:?}"),
    };
    assert!(refused("STRATAVORE_DAEMON__GRPC_PROT", "1").contains("grpc_port"));
    assert!(refused("STRATAVORE_DEAMON__NAME", "1").contains("daemon"));
    refused("STRATAVORE_DAEMON__GRPC_PORT", "many");
    refused("STRATAVORE_DAEMON__GRPC_PORT", "");
}

#[test]
fn wrong_flags_name_the_flag() {
    let with =
        sources(Vec::new(), Environment::default()).flag("--grpc-port", "daemon.grpc_port", Some(70_000));
    assert!(matches!(load::<Config>(with), Err(ConfigError::Flag { name, .. }) if name == "--grpc-port"));
}

#[test]
fn show_has_every_value_its_source_and_no_secret() {
    let loaded = of_text("daemon: {admin_password: hunter2, name: x}\n", Environment::default()).unwrap();
    let shown = loaded.show(true);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("daemon.admin_password = \"...\""), "{shown}");
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("daemon.grpc_port = 50051 ") && line.ends_with("# default"))
    );
    assert!(shown.lines().any(|line| line.starts_with("daemon.name = \"x\"") && line.contains("# file /")));
    assert_eq!(loaded.show(false).lines().count(), loaded.rows().len());
}
