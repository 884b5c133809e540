//! `stratavore-agent`: the supervisor of one host, and, as `stratavore-agent shim`, the keeper of one runner.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a shim has no runtime, no log, no argument parser, and one thread.
    let command = std::env::args_os().nth(1).unwrap_or_default();
    if command == "shim" {
        stratavore_agent::shim::main();
    }
    if command == stratavore_agent::shim::zygote::ARGUMENT {
        stratavore_agent::shim::zygote::main();
    }
    stratavore_agent::main()
}
