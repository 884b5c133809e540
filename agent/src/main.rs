//! `stratavore-agent`: the supervisor of one host, and, as `stratavore-agent shim`, the keeper of one runner.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a shim has no runtime, no log, no argument parser, and one thread.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "shim") {
        stratavore_agent::shim::main();
    }
    stratavore_agent::main()
}
