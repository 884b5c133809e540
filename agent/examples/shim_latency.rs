//! Figures of the shim, one `name value unit` per line: `shim_latency [path of stratavore-agent]`.
//! The agent's binary is looked for beside this example's directory unless it is named.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stratavore_agent::epoch::RUNNER_ID_CHARS;
use stratavore_agent::runner::{Client, FencePreference, Host, Launcher, StartSpec};
use stratavore_proto::v1;
use stratavore_proto::v1::attach_request::Message as Ask;
use stratavore_proto::v1::attach_response::Message as Tell;

type Error = Box<dyn std::error::Error>;

const STARTS: usize = 100;
const KEYSTROKES: usize = 2000;
const FLOOD_MIB: u64 = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let root = tempfile::tempdir()?;
    let sockets = root.path().join("s");
    std::fs::create_dir(&sockets)?;
    let host = Host::prepare("bench");
    println!("# fence {}", host.fence());
    let launcher = Launcher::new(host, sockets).with_program(program()?);
    starts(&launcher, root.path()).await?;
    echo(&launcher, root.path()).await?;
    flood(&launcher, root.path()).await
}

fn program() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::args_os().nth(1) {
        return Ok(named.into());
    }
    let own = std::env::current_exe()?;
    let beside = own.parent().and_then(Path::parent).map(|dir| dir.join("stratavore-agent"));
    beside.filter(|path| path.exists()).ok_or_else(|| "name the path of stratavore-agent".into())
}

async fn start(launcher: &Launcher, root: &Path, number: usize, argv: &[&str]) -> Result<Client, Error> {
    let runner = format!("{number:0RUNNER_ID_CHARS$}");
    let dir = root.join(&runner);
    let start = v1::RunnerStart {
        command: argv.iter().map(|&word| word.to_owned()).collect(),
        workdir: "/".into(),
        tty: true,
        ..Default::default()
    };
    let spec = StartSpec {
        runner,
        epoch: v1::Epoch { incarnation: 1, index: 1 },
        start,
        size: None,
        kill_grace: Duration::from_secs(3),
        fence: FencePreference::Auto,
        lease: Default::default(),
    };
    Ok(launcher.start(&dir, spec).await?)
}

/// Start to ready, and what the idle shims weigh.
async fn starts(launcher: &Launcher, root: &Path) -> Result<(), Error> {
    let mut times = Vec::new();
    let mut clients = Vec::new();
    for number in 0..STARTS {
        let before = Instant::now();
        clients.push(start(launcher, root, number, &["sleep", "1000"]).await?);
        times.push(before.elapsed());
    }
    percentiles("shim_spawn_to_ready", &mut times);
    let mut weights = [0u64; 3];
    for number in 0..STARTS {
        let identity = root.join(format!("{number:0RUNNER_ID_CHARS$}"));
        let pid = stratavore_agent::shim::identity::Identity::read(&identity)?.ok_or("no identity")?.pid;
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        for (sum, name) in weights.iter_mut().zip(["Rss:", "Pss:", "Private_Dirty:"]) {
            *sum += kib(&text, name);
        }
    }
    for (sum, name) in weights.iter().zip(["rss", "pss", "private_dirty"]) {
        println!("shim_idle_{name} {} KiB", sum / STARTS as u64);
    }
    for client in &clients {
        finish(client).await?;
    }
    Ok(())
}

fn kib(smaps: &str, name: &str) -> u64 {
    let line = smaps.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or(0)
}

async fn finish(client: &Client) -> Result<(), Error> {
    client.stop(true, "").await?;
    let mut watch = client.watch();
    watch.wait_for(|seen| seen.exit.is_some()).await?;
    client.reap().await?;
    Ok(())
}

/// From a key at the shim's client to its echo there.
async fn echo(launcher: &Launcher, root: &Path) -> Result<(), Error> {
    let client = start(launcher, root, STARTS, &["cat"]).await?;
    let mut attachment = client.attach(v1::AttachOpen::default(), "bench").await?;
    let mut times = Vec::new();
    for key in 0..KEYSTROKES {
        // The line discipline takes 4 KiB in a line.
        let data = if key % 1000 == 999 { "\n" } else { "a" };
        let before = Instant::now();
        attachment.requests.send(v1::AttachRequest { message: Some(Ask::Input(data.into())) }).await?;
        loop {
            let response = attachment.responses.recv().await.ok_or("detached")?;
            if matches!(response.message, Some(Tell::Output(_))) {
                break;
            }
        }
        times.push(before.elapsed());
    }
    percentiles("shim_keystroke_echo", &mut times);
    finish(&client).await
}

/// Output of one runner to one viewer, beside the same bytes from a bare terminal.
async fn flood(launcher: &Launcher, root: &Path) -> Result<(), Error> {
    let script = format!("stty -opost -echo; read go; head -c {} /dev/zero | tr '\\0' x", FLOOD_MIB << 20);
    let client = start(launcher, root, STARTS + 1, &["sh", "-c", &script]).await?;
    let open = v1::AttachOpen { raw: true, ..Default::default() };
    let mut attachment = client.attach(open, "bench").await?;
    let before = Instant::now();
    attachment.requests.send(v1::AttachRequest { message: Some(Ask::Input("\n".into())) }).await?;
    let mut seen = 0u64;
    while let Some(response) = attachment.responses.recv().await {
        match response.message {
            Some(Tell::Output(output)) => seen += output.data.len() as u64,
            Some(Tell::Exit(_)) => break,
            _ => {}
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = seen as f64 / 1e6 / before.elapsed().as_secs_f64();
    println!("shim_output_to_viewer {rate:.1} MB/s");
    client.reap().await?;
    Ok(())
}

fn percentiles(name: &str, times: &mut [Duration]) {
    times.sort_unstable();
    for (label, at) in [("p50", times.len() / 2), ("p99", times.len() * 99 / 100)] {
        println!("{name}_{label} {} us", times[at].as_micros());
    }
}
