//! The short way for the commands that are typed all day. clap builds the whole grammar before it looks at the first
//! word, some forty commands, and that is most of what a short command computes before it dials. Here only the one command
//! on the line is built. Whatever this way does not take, wrong lines and calls for help included, goes the long way,
//! which alone knows what to say.

use std::ffi::OsString;

use clap::{Args, FromArgMatches};

use super::{Action, Command, Globals, Invocation};

/// The invocation, when the line begins with one of these commands and is right; program name first.
pub(super) fn parse(line: &[OsString]) -> Option<Invocation> {
    match line.get(1)?.to_str()? {
        "launch" => invocation("launch", line, Command::Launch),
        "attach" => invocation("attach", line, Command::Attach),
        "status" => invocation("status", line, Command::Status),
        "runners" => invocation("runners", line, Command::Runners),
        "ps" => invocation("ps", line, Command::Runners),
        "send" => invocation("send", line, Command::Send),
        "kill" => invocation("kill", line, Command::Kill),
        "wait" => invocation("wait", line, Command::Wait),
        _ => None,
    }
}

fn invocation<A: Args>(
    name: &'static str,
    line: &[OsString],
    command: impl FnOnce(A) -> Command,
) -> Option<Invocation> {
    let typed = A::augment_args(clap::Command::new(name));
    let root = Globals::augment_args(clap::Command::new("stratavore")).subcommand(typed);
    let matches = root.try_get_matches_from(line).ok()?;
    let (_, typed) = matches.subcommand()?;
    let globals = Globals::from_arg_matches(&matches).ok()?;
    let args = A::from_arg_matches(typed).ok()?;
    Some(Invocation { globals, action: Action::Command(command(args)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("stratavore").chain(line.split_whitespace()).map(OsString::from).collect()
    }

    #[test]
    fn the_short_way_says_what_the_long_way_says() {
        for line in [
            "launch demo --count 2 --name x -e A=b --workdir /tmp --host h --label k=v --slots 2 --cpu 0.5 \
             --memory 1G --no-tty --detach --on-disconnect keep --hold 120s --restart never --no-queue \
             --request-id 01890a5d-ac96-774b-bcce-b302099a8057 -- true --not-ours -o json",
            "launch demo -o json --timeout 3s --cluster a:1,b:2 --context c --config f --debug --no-input",
            "attach",
            "attach x --observe --detach-keys ctrl-p,ctrl-q",
            "attach x --steal",
            "status -o json",
            "runners --project demo --state running --all --stale",
            "ps --status failed,lost",
            "send x --key enter",
            "kill a b --force --timeout 30s --yes",
            "kill demo --project",
            "wait x --for running --timeout 5s --propagate-exit",
        ] {
            let quick = parse(&words(line)).unwrap_or_else(|| panic!("{line} takes the long way"));
            let whole = super::super::whole(&words(line)).unwrap();
            assert_eq!(format!("{quick:?}"), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn everything_else_is_left_to_the_whole_grammar() {
        for line in [
            "",
            "demo",
            "-o json launch demo",
            "launch",
            "launch demo --cuont 2",
            "launch --help",
            "hosts",
            "kill",
        ] {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
    }
}
