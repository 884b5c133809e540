//! `stratavore-chaos bench`: every figure, measured on the programs beside this one.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stratavore_chaos::bench::{ALL, Benchmark, Figure};

#[derive(Debug, Parser)]
#[command(name = "stratavore-chaos", version, about = "Measures the real programs from outside")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure; one line `name value unit` per figure on stdout, with its aim on stderr.
    Bench {
        /// Only this benchmark (may be repeated).
        #[arg(long, value_name = "NAME", value_parser = names())]
        only: Vec<String>,
    },
}

fn names() -> Vec<&'static str> {
    ALL.iter().map(|b| b.name).collect()
}

fn main() -> ExitCode {
    let Command::Bench { only } = Arguments::parse().command;
    let wanted = |b: &&Benchmark| only.is_empty() || only.iter().any(|n| n == b.name);
    for benchmark in ALL.iter().filter(wanted) {
        eprintln!("# {}", benchmark.name);
        for figure in (benchmark.run)() {
            if print(&figure).is_err() {
                // The reader has gone; nobody is left to measure for.
                return ExitCode::SUCCESS;
            }
        }
    }
    ExitCode::SUCCESS
}

fn print(figure: &Figure) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} {:.3} {}", figure.name, figure.value, figure.unit)?;
    out.flush()?;
    if !figure.aim.is_empty() {
        eprintln!("  {:<28} {:>10.3} {:<6} aim {}", figure.name, figure.value, figure.unit, figure.aim);
    }
    Ok(())
}
