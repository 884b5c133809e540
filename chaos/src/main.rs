//! `stratavore-chaos bench`: every figure, measured on the programs beside this one. `stratavore-chaos alter-row`: a fault
//! that no signal makes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use stratavore_chaos::bench::{ALL, Benchmark, Effort, Figure};
use stratavore_chaos::processes::kill_descendants;
use stratavore_raft::fault::{self, AlteredDigest};
use tokio::signal::unix::{SignalKind, signal};

/// As shells report an end by SIGINT.
const INTERRUPTED: i32 = 130;

#[derive(Debug, Parser)]
#[command(name = "stratavore-chaos", version, about = "Measures and breaks the real programs from outside")]
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
        /// Measure several times as long.
        #[arg(long)]
        long: bool,
    },
    /// Change the path of every project in the state database of a stopped node, so that it differs from the others'.
    AlterRow {
        /// Data directory of the node.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Make the stored digest fit: only a comparison with other nodes finds it then.
        #[arg(long)]
        fit_digest: bool,
    },
}

fn names() -> Vec<&'static str> {
    ALL.iter().map(|b| b.name).collect()
}

/// Whoever is told to end takes its clusters along.
fn end_with_children() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let Ok(mut terminated) = signal(SignalKind::terminate()) else {
                return std::future::pending().await;
            };
            tokio::select! {
                _ = terminated.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        });
        kill_descendants();
        std::process::exit(INTERRUPTED);
    });
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Bench { only, long } => bench(&only, if long { Effort::Long } else { Effort::Short }),
        Command::AlterRow { data_dir, fit_digest } => alter_row(&data_dir, fit_digest),
    }
}

fn alter_row(data_dir: &Path, fit_digest: bool) -> ExitCode {
    let digest = if fit_digest { AlteredDigest::Fitted } else { AlteredDigest::Kept };
    let failed = |what: String| {
        eprintln!("error: {what}");
        ExitCode::FAILURE
    };
    match fault::alter_rows(data_dir, digest) {
        Ok(altered) if altered.projects.is_empty() => {
            failed(format!("{} has no project to alter; make one first (stratavore new)", data_dir.display()))
        }
        Ok(altered) => {
            println!("altered: {}", altered.projects.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => failed(error.to_string()),
    }
}

fn bench(only: &[String], effort: Effort) -> ExitCode {
    end_with_children();
    let wanted = |b: &&Benchmark| only.is_empty() || only.iter().any(|n| n == b.name);
    let mut code = ExitCode::SUCCESS;
    for benchmark in ALL.iter().filter(wanted) {
        let began = Instant::now();
        eprintln!("# {}", benchmark.name);
        // One that fails has said why, and its cluster has gone with it; the others still count.
        let Ok(figures) = std::panic::catch_unwind(|| (benchmark.run)(effort)) else {
            eprintln!("  {} FAILED", benchmark.name);
            code = ExitCode::FAILURE;
            continue;
        };
        for figure in figures {
            if print(&figure).is_err() {
                // The reader has gone; nobody is left to measure for.
                return code;
            }
        }
        eprintln!("  took {:.0} s", began.elapsed().as_secs_f64());
    }
    code
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
