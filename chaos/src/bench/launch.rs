//! How long until a launched command runs, and how many a second.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stratavore_proto::v1;
use stratavore_proto::v1::cluster_service_client::ClusterServiceClient;
use stratavore_proto::v1::project_service_client::ProjectServiceClient;
use stratavore_proto::v1::runner_service_client::RunnerServiceClient;
use tonic::transport::Channel;

use crate::api;
use crate::bench::Figure;
use crate::bench::samples::{Samples, monotonic};
use crate::eventually::{SOON, eventually};
use crate::farm::LocalFarm;
use crate::ran::run;

/// Single launches per figure: enough for a p99 that one hiccup does not decide.
const LAUNCHES: usize = 200;
/// Launches of the sustained figure: some seconds of work at the aim.
const SUSTAINED: u32 = 4000;
/// Runners per request of the sustained figure, as a batch client would send them.
const BATCH: u32 = 50;
/// Requests in flight: enough to keep the commit pipeline full.
const IN_FLIGHT: u32 = 8;
/// More than are ever live or waiting here.
const MAX_RUNNERS: &str = "100000";

fn farm() -> LocalFarm {
    let farm = LocalFarm::start();
    let work = farm.work().to_string_lossy().into_owned();
    farm.cli(&["new", "bench", "--path", &work, "--max-runners", MAX_RUNNERS]).ok();
    farm
}

/// The stamp that the probe wrote at its first instruction.
fn stamp(file: &Path) -> Duration {
    eventually("the child's stamp", SOON, || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().next().filter(|_| text.ends_with('\n'));
        line.and_then(|l| l.parse().ok()).map(Duration::from_nanos).ok_or("none yet")
    })
}

/// Measures `launch` from just before it is called to the child's first instruction.
fn measured(directory: &Path, launch: impl Fn(&Path)) -> Samples {
    let mut samples = Samples::default();
    for at in 0..LAUNCHES {
        let file = directory.join(format!("stamp-{at}"));
        let before = monotonic();
        launch(&file);
        samples.push(stamp(&file).saturating_sub(before));
    }
    samples
}

/// From before the command line's exec to the child's first instruction, beside the same in tmux.
#[must_use]
pub fn through_the_cli() -> Vec<Figure> {
    let farm = farm();
    let probe = farm.binaries().probe().to_string_lossy().into_owned();
    let ours = measured(&farm.work(), |file| {
        let file = file.to_string_lossy();
        run(&mut farm.cli_command(&["launch", "bench", "--detach", "--", &probe, "stamp", &file])).ok();
    });
    let mut figures = vec![
        Figure::new("launch_cli_p50", ours.p50(), "ms", "<= 8.5 ms"),
        Figure::new("launch_cli_p99", ours.p99(), "ms", ""),
    ];
    figures.extend(in_tmux(&farm, &probe));
    figures
}

fn in_tmux(farm: &LocalFarm, probe: &str) -> Option<Figure> {
    let socket = farm.path("tmux");
    let tmux = |arguments: &[&str]| {
        let mut command = farm.command(Path::new("tmux"));
        command.arg("-S").arg(&socket).args(["-f", "/dev/null"]).args(arguments).output()
    };
    tmux(&["new-session", "-d", "sleep", "100000"]).ok().filter(|o| o.status.success())?;
    let directory = farm.path("tmux-stamps");
    std::fs::create_dir_all(&directory).ok()?;
    let theirs = measured(&directory, |file| {
        tmux(&["new-session", "-d", probe, "stamp", &file.to_string_lossy()]).ok();
    });
    tmux(&["kill-server"]).ok();
    Some(Figure::new("peer_tmux_new_session_p50", theirs.p50(), "ms", ""))
}

fn request(count: u32, command: Vec<String>) -> v1::LaunchRunnersRequest {
    v1::LaunchRunnersRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        project: "bench".to_owned(),
        count,
        spec: Some(v1::RunnerSpec { command, tty: true, slots: 1, ..Default::default() }),
        ..Default::default()
    }
}

/// The same through the API on an open connection.
#[must_use]
pub fn through_the_api() -> Vec<Figure> {
    let farm = farm();
    let runtime = api::runtime();
    let channel = runtime.block_on(api::connect(&farm.admin_context())).expect("connect to the API");
    let probe = farm.binaries().probe().to_string_lossy().into_owned();
    let client = RunnerServiceClient::new(channel);
    let samples = measured(&farm.work(), |file| {
        let command = vec![probe.clone(), "stamp".to_owned(), file.to_string_lossy().into_owned()];
        let mut client = client.clone();
        runtime.block_on(client.launch_runners(request(1, command))).expect("launch through the API");
    });
    vec![
        Figure::new("launch_api_p50", samples.p50(), "ms", "<= 5 ms"),
        Figure::new("launch_api_p99", samples.p99(), "ms", "<= 12 ms"),
    ]
    .into_iter()
    .chain(shims_ready(&farm.path("logs")))
    .collect()
}

/// From the agent's order for a shim to its command's exec and its socket's first answer, as the agent's log says it.
fn shims_ready(logs: &Path) -> Vec<Figure> {
    const FIELD: &str = "ready_us";
    let mut samples = Samples::default();
    let mut found = 0;
    for log in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(log.path()).unwrap_or_default();
        for (_, rest) in text.lines().filter_map(|line| line.split_once(FIELD)) {
            let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            samples.push(Duration::from_micros(digits[..end].parse().expect("microseconds")));
            found += 1;
        }
    }
    // The last one may not be written yet.
    assert!(found + 1 >= LAUNCHES, "{found} starts in the agent's log, {LAUNCHES} were made");
    vec![
        Figure::new("shim_spawn_ready_p50", samples.p50(), "ms", "< 10 ms"),
        Figure::new("shim_spawn_ready_p99", samples.p99(), "ms", ""),
    ]
}

/// Launches of /bin/true with terminal, shim and durable commit, from the first request to the last recorded end.
#[must_use]
pub fn sustained() -> Vec<Figure> {
    let farm = farm();
    let runtime = api::runtime();
    let rate = runtime.block_on(async {
        let channel = api::connect(&farm.admin_context()).await.expect("connect to the API");
        let started = Instant::now();
        submit(&channel, SUSTAINED, BATCH).await;
        await_ended(&channel, SUSTAINED).await;
        f64::from(SUSTAINED) / started.elapsed().as_secs_f64()
    });
    let mut figures = vec![Figure::new("launches_sustained", rate, "1/s", ">= 500/s")];
    figures.extend(bare_spawns());
    figures
}

/// Launches `total` runners of `/bin/true`, `batch` to a request, some requests at a time.
///
/// # Panics
/// When a launch is refused.
pub(super) async fn submit(channel: &Channel, total: u32, batch: u32) {
    let left = Arc::new(AtomicU32::new(total / batch));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (left, mut client) = (left.clone(), RunnerServiceClient::new(channel.clone()));
        workers.spawn(async move {
            while left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok() {
                client
                    .launch_runners(request(batch, vec!["/bin/true".to_owned()]))
                    .await
                    .expect("launch a batch");
            }
        });
    }
    workers.join_all().await;
}

/// The project that [`submit`] launches in.
///
/// # Errors
/// It is refused.
pub(super) async fn project(channel: &Channel, path: &str) -> Result<(), tonic::Status> {
    let request = v1::CreateProjectRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        name: "bench".to_owned(),
        path: path.to_owned(),
        max_runners: MAX_RUNNERS.parse().unwrap_or(0),
        ..Default::default()
    };
    ProjectServiceClient::new(channel.clone()).create_project(request).await.map(|_| ())
}

async fn await_ended(channel: &Channel, total: u32) {
    /// Ten times what the aim allows for this many.
    const BOUND: Duration = Duration::from_secs(120);
    let mut client = ClusterServiceClient::new(channel.clone());
    let deadline = Instant::now() + BOUND;
    loop {
        let status = client.get_status(v1::GetStatusRequest::default()).await.expect("status").into_inner();
        let ended = status.runners_by_state.get("terminated").copied().unwrap_or(0);
        if ended >= total {
            return;
        }
        assert!(Instant::now() < deadline, "only {ended} of {total} ended: {:?}", status.runners_by_state);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What this machine can do at all: plain spawns of /bin/true, one after the other.
fn bare_spawns() -> Option<Figure> {
    const SPAWNS: u32 = 1000;
    let started = Instant::now();
    for _ in 0..SPAWNS {
        Command::new("/bin/true").status().ok()?;
    }
    Some(Figure::new("reference_bare_spawns", f64::from(SPAWNS) / started.elapsed().as_secs_f64(), "1/s", ""))
}
