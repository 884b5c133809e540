//! Measures one node: `name value unit` lines on stdout. Run with `--release`; the first argument is the
//! directory to measure in (default: the system's temporary directory, which may be memory).

#[path = "../tests/cluster/mod.rs"]
mod cluster;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stratavore_raft::Handle;

const SEQUENTIAL: u32 = 2000;
const CALLERS: u32 = 64;
const BURST: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    fdatasync(dir.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let handle = cluster::founded(&dir.path().join("node")).await;
        handle.propose(cluster::create_project("bench")).await?;
        one_caller(&handle).await?;
        reads(&handle).await?;
        many_callers(&handle).await?;
        handle.shutdown().await;
        Ok::<_, Box<dyn std::error::Error>>(())
    })
}

fn print(name: &str, mut samples: Vec<Duration>) {
    samples.sort_unstable();
    for (suffix, share) in [("p50", 0.5), ("p99", 0.99)] {
        let at = ((samples.len() - 1) as f64 * share) as usize;
        println!("{name}_{suffix} {:.3} ms", samples[at].as_secs_f64() * 1e3);
    }
}

/// The disk itself: append 512 bytes and sync.
fn fdatasync(dir: &Path) -> std::io::Result<()> {
    let mut file = File::create(dir.join("raw"))?;
    let mut samples = Vec::new();
    for _ in 0..SEQUENTIAL {
        let started = Instant::now();
        file.write_all(&[1; 512])?;
        file.sync_data()?;
        samples.push(started.elapsed());
    }
    print("fdatasync_512", samples);
    Ok(())
}

async fn one_caller(handle: &Handle) -> Result<(), stratavore_raft::ProposeError> {
    let mut samples = Vec::new();
    for n in 0..SEQUENTIAL {
        let started = Instant::now();
        handle.propose(cluster::set_quota("bench", 1 + n % 10)).await?;
        samples.push(started.elapsed());
    }
    print("propose_1_caller", samples);
    let sync = handle.metrics().sync_latency;
    println!("log_sync_mean {:.3} ms", sync.sum_us as f64 / sync.count.max(1) as f64 / 1e3);
    println!("log_syncs_per_proposal {:.2} ratio", sync.count as f64 / f64::from(SEQUENTIAL));
    Ok(())
}

async fn reads(handle: &Handle) -> Result<(), stratavore_raft::ReadError> {
    let mut samples = Vec::new();
    for _ in 0..SEQUENTIAL {
        let started = Instant::now();
        handle.linearize().await?;
        samples.push(started.elapsed());
    }
    print("linearize_1_caller", samples);
    Ok(())
}

async fn many_callers(handle: &Handle) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        let handle = handle.clone();
        callers.push(tokio::spawn(async move {
            let mut samples = Vec::new();
            while started.elapsed() < BURST {
                let at = Instant::now();
                handle.propose(cluster::set_quota("bench", 1 + caller % 10)).await?;
                samples.push(at.elapsed());
            }
            Ok::<_, stratavore_raft::ProposeError>(samples)
        }));
    }
    let mut samples = Vec::new();
    for caller in callers {
        samples.extend(caller.await??);
    }
    println!("propose_64_callers {:.0} /s", samples.len() as f64 / started.elapsed().as_secs_f64());
    print("propose_64_callers", samples);
    Ok(())
}
