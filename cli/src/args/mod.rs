//! The command line as typed. What it means is decided elsewhere; here it is only parsed.
//!
//! Bare `stratavore PROJECT …` is an external subcommand for clap, so its rest is parsed a second time with the
//! arguments of `launch`. The second parser knows the global flags too, because after a project name clap leaves
//! them in the rest.

mod cluster;
mod fleet;
mod globals;
mod launch;
mod local;
mod quick;
mod runner;
pub(crate) mod usage;
pub(crate) mod value;

use std::ffi::OsString;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use cluster::*;
pub(crate) use fleet::*;
pub(crate) use globals::{Globals, Output};
pub(crate) use launch::{LaunchArgs, OnDisconnect, Restart};
pub(crate) use local::{DownArgs, PortArgs, SuperviseArgs, UpArgs};
pub(crate) use runner::*;

/// stratavore: coding-agent sessions on a farm of machines, as if they were one terminal.
#[derive(Debug, Parser)]
#[command(name = "stratavore", version, disable_help_subcommand = true, arg_required_else_help = true)]
#[command(
    subcommand_value_name = "COMMAND|PROJECT",
    subcommand_help_heading = "Commands",
    max_term_width = 110
)]
#[command(after_help = "stratavore PROJECT attaches to the project's live runner, or launches one.\n\
                        stratavore help exit-codes explains the exit codes.")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Every command.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine (again).
    Up(UpArgs),
    /// Stop the cluster of this machine and everything it runs.
    Down(DownArgs),
    /// Register a project: a directory on the hosts and a command to run in it.
    New(NewArgs),
    /// Show the projects.
    #[command(visible_alias = "project")]
    Projects(ProjectsArgs),
    /// Show or change quotas.
    Quotas(QuotasArgs),
    /// Start runners of a project.
    Launch(LaunchArgs),
    /// Show runners.
    #[command(visible_alias = "ps", args_conflicts_with_subcommands = true)]
    Runners(RunnersArgs),
    /// Everything about one runner.
    Describe(RunnerArg),
    /// Why a runner is where it is, or why it still waits.
    Explain(RunnerArg),
    /// Your terminal becomes the runner's.
    Attach(AttachArgs),
    /// A runner's screen as text.
    Screen(RunnerArg),
    /// Type into a runner's terminal without attaching.
    Send(SendArgs),
    /// What a runner wrote, safe for a terminal.
    Logs(LogsArgs),
    /// Stop runners with every process they started.
    Kill(KillArgs),
    /// Start an ended or live runner anew, under the same id.
    Restart(RestartArgs),
    /// Wait until a runner ends or reaches a state.
    Wait(WaitArgs),
    /// The cluster at a glance.
    Status(StatusArgs),
    /// Runners, live.
    Watch(WatchArgs),
    /// Show and manage hosts.
    #[command(visible_alias = "host", args_conflicts_with_subcommands = true)]
    Hosts(HostsArgs),
    /// Show and manage the control plane.
    Cluster(ClusterArgs),
    /// What happened, and what happens.
    Events(EventsArgs),
    /// Tokens with which nodes, hosts and people join.
    Token(TokenArgs),
    /// Join a cluster as a person, with a token.
    Login(LoginArgs),
    /// Check what could be wrong, from here.
    Doctor,
    /// Clusters this machine knows.
    #[command(visible_alias = "contexts")]
    Context(ContextArgs),
    /// Shell completion: source the output.
    Completion(CompletionArgs),
    /// Versions of this program and of the node it talks to.
    Version,
    /// Help about a command or a topic.
    Help(HelpArgs),
    #[command(hide = true)]
    Supervise(SuperviseArgs),
    #[command(external_subcommand)]
    Smart(Vec<OsString>),
}

/// A whole command line.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    pub(crate) globals: Globals,
    pub(crate) action: Action,
}

/// What to do.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Command(Command),
    /// Bare `stratavore PROJECT …`.
    Smart(SmartArgs),
}

/// `stratavore PROJECT …`: what `launch` takes, and `--new`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SmartArgs {
    #[command(flatten)]
    pub(crate) launch: LaunchArgs,
    /// Launch another one even if one is live.
    #[arg(long)]
    pub(crate) new: bool,
}

impl SmartArgs {
    /// Only a project was named, so its live runner will do.
    pub(crate) fn is_bare(&self, typed: &ArgMatches) -> bool {
        let ids = ["name", "env", "workdir", "host", "labels", "cpu", "memory", "command", "request_id"];
        let options =
            ["count", "slots", "no_tty", "restart", "on_disconnect", "hold", "no_queue", "detach", "new"];
        !ids.iter().chain(&options).any(|id| {
            typed.value_source(id).is_some_and(|source| source == clap::parser::ValueSource::CommandLine)
        })
    }
}

#[derive(Debug, Parser)]
#[command(name = "stratavore", disable_version_flag = true)]
struct SmartCli {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    smart: SmartArgs,
}

/// The whole grammar, for completion and help.
pub(crate) fn grammar() -> clap::Command {
    Cli::command()
}

/// Names and aliases of every visible command: reserved as project names.
pub(crate) fn command_names() -> Vec<String> {
    let grammar = grammar();
    let visible = grammar.get_subcommands().filter(|c| !c.is_hide_set());
    visible
        .flat_map(|c| std::iter::once(c.get_name()).chain(c.get_all_aliases()))
        .map(str::to_owned)
        .collect()
}

/// Parses a command line, program name first.
///
/// # Errors
/// clap's own error; `--help` and `--version` come this way too.
pub(crate) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let line: Vec<OsString> = line.into_iter().collect();
    quick::parse(&line).map_or_else(|| whole(&line), Ok)
}

/// Parses with the whole grammar.
fn whole(line: &[OsString]) -> Result<Invocation, clap::Error> {
    let Cli { globals, command } = Cli::try_parse_from(line).map_err(|error| usage::placed(error, line))?;
    let Command::Smart(rest) = command else {
        return Ok(Invocation { globals, action: Action::Command(command) });
    };
    let typed = SmartCli::command()
        .try_get_matches_from(std::iter::once(OsString::from("stratavore")).chain(rest))?;
    let later = Globals::from_arg_matches(&typed)?;
    let mut smart = SmartArgs::from_arg_matches(&typed)?;
    smart.new |= !smart.is_bare(&typed);
    Ok(Invocation { globals: globals.merged(later, &typed), action: Action::Smart(smart) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parsed(line: &[&str]) -> Result<Invocation, clap::Error> {
        parse(std::iter::once("stratavore").chain(line.iter().copied()).map(OsString::from))
    }

    fn smart(line: &[&str]) -> (Globals, SmartArgs) {
        let invocation = parsed(line).unwrap();
        let Action::Smart(smart) = invocation.action else { panic!("not a smart launch: {line:?}") };
        (invocation.globals, smart)
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
        SmartCli::command().debug_assert();
    }

    #[test]
    fn a_bare_project_is_a_smart_launch() {
        let (_, bare) = smart(&["demo"]);
        assert_eq!((bare.launch.project.as_str(), bare.new), ("demo", false));
        let (_, new) = smart(&["demo", "--new"]);
        assert!(new.new);
        let (_, with_command) = smart(&["demo", "--", "claude", "-p", "hi"]);
        assert_eq!(with_command.launch.command, ["claude", "-p", "hi"]);
        assert!(with_command.new, "a command of its own never attaches to something else");
    }

    #[test]
    fn global_flags_may_trail_the_project() {
        let (globals, args) = smart(&[
            "--cluster",
            "a:1",
            "demo",
            "-o",
            "json",
            "--timeout",
            "5s",
            "--count",
            "2",
            "--",
            "x",
            "-o",
            "y",
        ]);
        assert_eq!(globals.cluster, ["a:1"]);
        assert_eq!(globals.output, Some(Output::Json));
        assert_eq!(globals.timeout, Some(Duration::from_secs(5)));
        assert_eq!(args.launch.count, 2);
        assert_eq!(args.launch.command, ["x", "-o", "y"]);
        let (globals, _) =
            smart(&["-o", "json", "--timeout", "1s", "demo", "--timeout", "2s", "-o", "table"]);
        assert_eq!((globals.output, globals.timeout), (Some(Output::Table), Some(Duration::from_secs(2))));
    }

    #[test]
    fn a_mistyped_option_of_a_smart_launch_is_refused_with_a_suggestion() {
        let error = parsed(&["demo", "--cuont", "2"]).unwrap_err();
        assert!(error.to_string().contains("--count"), "{error}");
    }

    #[test]
    fn global_flags_trail_ordinary_commands_too() {
        let invocation = parsed(&["runners", "demo", "--all", "-o", "json"]).unwrap();
        assert_eq!(invocation.globals.output, Some(Output::Json));
        assert!(matches!(invocation.action, Action::Command(Command::Runners(args)) if args.list.all));
    }

    #[test]
    fn every_spelling_of_the_contract_parses() {
        for line in [
            "new demo --path /tmp --max-runners 3 -- bash -l",
            "projects",
            "quotas",
            "quotas set demo max-runners 10",
            "launch demo --count 2 --name x -e A=b --workdir /tmp --host h --label k=v --slots 2 --cpu 0.5 \
             --memory 1G --no-tty --detach --on-disconnect keep --hold 120s --restart never --no-queue \
             --request-id 01890a5d-ac96-774b-bcce-b302099a8057 -- true",
            "runners --project demo --state running --all --stale",
            "ps --status failed,lost",
            "describe x",
            "explain x",
            "attach",
            "attach x --observe --detach-keys ctrl-p,ctrl-q",
            "attach x --steal",
            "attach x --from-start",
            "screen x",
            "send x hello",
            "send x --key enter",
            "logs x -f --tail 10 --since 5m",
            "logs --runner x",
            "kill a b --force --timeout 30s --yes",
            "kill --project demo",
            "kill demo --project",
            "kill all",
            "restart x",
            "wait x --for running --timeout 5s --propagate-exit",
            "status",
            "watch demo",
            "hosts",
            "hosts --all",
            "host list",
            "hosts cordon h",
            "hosts uncordon h",
            "hosts label h a=b c-",
            "hosts remove h --force",
            "hosts drain h",
            "hosts declare-dead h --yes",
            "runners declare-dead r --yes",
            "runners adopt r --project p --name n",
            "cluster status",
            "cluster remove 3 --allow-even",
            "cluster transfer-leader",
            "cluster transfer-leader 2",
            "cluster snapshot /tmp/f",
            "cluster finalize",
            "cluster maintenance --for 20m",
            "cluster maintenance --end",
            "cluster clock reset",
            "events",
            "events subscribe --since 1.2.3 --no-follow --project demo --type runner.*",
            "token create --role host --ttl 60s --label a=b",
            "token list",
            "token revoke x",
            "login --server h:50054 --token-file f --name n",
            "doctor",
            "context list",
            "context use x",
            "context add x --from f",
            "completion bash",
            "version",
            "help exit-codes",
            "up --nodes 1 --agents 1 --foreground --grpc-port 1 --quic-port 2 --raft-port 3 --join-port 4 --metrics-port 5",
            "down --purge",
        ] {
            let words: Vec<&str> = line.split_whitespace().collect();
            let invocation = parsed(&words).unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(matches!(invocation.action, Action::Command(_)), "{line}");
        }
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for line in [
            "attach x --observe --steal",
            "send x",
            "kill",
            "logs",
            "up --nodes 0",
            "up --nodes 7",
            "cluster",
            "cluster remove",
            "cluster maintenance",
            "cluster maintenance --for 5m --end",
            "runners declare-dead",
            "runners adopt r",
            "launch demo --count 0",
            "launch demo --restart sometimes",
            "token create",
            "login",
        ] {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(parsed(&words).is_err(), "{line}");
        }
    }

    #[test]
    fn commands_and_aliases_are_reserved() {
        let names = command_names();
        for name in ["runners", "ps", "hosts", "host", "help", "up"] {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
        assert!(!names.iter().any(|n| n == "supervise"));
    }
}
