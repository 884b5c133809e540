//! A place for one runner, and waiting without sleeping on hope.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stratavore_agent::runner::{Attachment, Client, FencePreference, Host, Launcher, StartError, StartSpec};
use stratavore_agent::shim::fence::descend;
use stratavore_agent::shim::identity::Identity;
use stratavore_agent::shim::wire::Lease;
use stratavore_proto::v1;
use stratavore_proto::v1::attach_request::Message as Ask;
use stratavore_proto::v1::attach_response::Message as Tell;

/// Everything here takes milliseconds; under the worst load, less than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// All tests share one place in the cgroup hierarchies; runner ids tell their leaves apart.
pub(crate) const SCOPE: &str = "shimtest";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory for one epoch, its sockets and its launcher. Kills what is left when it goes.
pub(crate) struct Place {
    root: tempfile::TempDir,
    pub(crate) launcher: Launcher,
    pub(crate) runner: String,
    pub(crate) fence: FencePreference,
    pub(crate) lease: Lease,
    pub(crate) kill_grace: Duration,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    pub(crate) fn at(root: tempfile::TempDir) -> Self {
        let sockets = root.path().join("s");
        std::fs::create_dir_all(&sockets).unwrap();
        let launcher = Launcher::new(Host::prepare(SCOPE), sockets).with_program(program());
        Self {
            root,
            launcher,
            runner: fresh_id(),
            fence: FencePreference::Auto,
            lease: Lease::default(),
            kill_grace: Duration::from_millis(300),
        }
    }

    pub(crate) fn with_fence(fence: FencePreference) -> Self {
        let mut place = Self::new();
        place.fence = fence;
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("runner")
    }

    pub(crate) fn spec(&self, start: v1::RunnerStart) -> StartSpec {
        StartSpec {
            runner: self.runner.clone(),
            epoch: v1::Epoch { incarnation: 1, index: 42 },
            start,
            size: None,
            kill_grace: self.kill_grace,
            fence: self.fence,
            lease: self.lease,
        }
    }

    pub(crate) async fn start(&self, start: v1::RunnerStart) -> Client {
        self.try_start(start).await.unwrap()
    }

    pub(crate) async fn try_start(&self, start: v1::RunnerStart) -> Result<Client, StartError> {
        self.launcher.start(&self.dir(), self.spec(start)).await
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::read(&self.dir()).unwrap().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(Some(identity)) = Identity::read(&self.dir()) else { return };
        for _ in 0..50 {
            let mut all = descend::descendants(identity.pid);
            if descend::Stat::read(identity.pid).is_some_and(|stat| stat.start_ticks == identity.start_ticks)
            {
                all.push(identity.pid);
            }
            if all.is_empty() {
                return;
            }
            descend::signal_all(&all, rustix::process::Signal::KILL);
            std::thread::yield_now();
        }
    }
}

/// The real binary; another place can be named for users who may not read the target directory.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("STRATAVORE_TEST_AGENT")
        .map_or_else(|| env!("CARGO_BIN_EXE_stratavore-agent").into(), PathBuf::from)
}

/// A runner id nobody else uses: ten characters of the id alphabet.
pub(crate) fn fresh_id() -> String {
    const ALPHABET: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut value = u64::from(std::process::id()) << 20 | NEXT.fetch_add(1, Ordering::Relaxed);
    let mut id = Vec::new();
    for _ in 0..10 {
        id.push(ALPHABET[usize::try_from(value % 32).unwrap()]);
        value /= 32;
    }
    String::from_utf8(id).unwrap()
}

/// `sh -c script`, in a terminal or with pipes.
pub(crate) fn shell(script: &str, tty: bool) -> v1::RunnerStart {
    command(&["sh", "-c", script], tty)
}

pub(crate) fn command(argv: &[&str], tty: bool) -> v1::RunnerStart {
    v1::RunnerStart {
        command: argv.iter().map(|&word| word.to_owned()).collect(),
        workdir: "/".into(),
        tty,
        project: "test".into(),
        ..Default::default()
    }
}

/// Waits until the runner has ended; its last observation.
pub(crate) async fn end(client: &Client) -> v1::Observation {
    let mut watch = client.watch();
    let over = |seen: &v1::Observation| {
        matches!(seen.state(), v1::RunnerState::Terminated | v1::RunnerState::Failed)
    };
    within(async { watch.wait_for(over).await.map(|seen| seen.clone()) }).await.expect("the shim died")
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

/// Polls until the condition holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Living processes that have `tag` among their arguments, found from outside.
pub(crate) fn tagged(tag: &str) -> Vec<i32> {
    let has = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == tag.as_bytes())
            && descend::Stat::read(*pid).is_some_and(|stat| stat.alive())
    };
    descend::all().into_iter().filter(has).collect()
}

/// A viewer that remembers what it was shown.
pub(crate) struct Viewer {
    attachment: Attachment,
    pub(crate) ready: v1::AttachReady,
    /// All output bytes since the last snapshot (or since the start).
    pub(crate) output: Vec<u8>,
    /// Offset of the byte after the last one seen, when any was.
    pub(crate) next: Option<u64>,
    pub(crate) snapshots: usize,
    pub(crate) screen: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) driver: Option<v1::AttachDriver>,
    pub(crate) exit: Option<v1::Exit>,
    /// Offsets that did not continue where the last piece ended.
    pub(crate) jumps: usize,
}

impl Viewer {
    pub(crate) async fn open(client: &Client, open: v1::AttachOpen) -> Self {
        Self::try_open(client, open, "viewer").await.unwrap()
    }

    pub(crate) async fn try_open(
        client: &Client,
        open: v1::AttachOpen,
        name: &str,
    ) -> Result<Self, stratavore_agent::runner::ClientError> {
        let mut attachment = within(client.attach(open, name)).await?;
        let ready = match within(attachment.responses.recv()).await.and_then(|response| response.message) {
            Some(Tell::Ready(ready)) => ready,
            other => panic!("{other:?} instead of ready"),
        };
        let (output, screen, stderr) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            attachment,
            ready,
            output,
            next: None,
            snapshots: 0,
            screen,
            stderr,
            driver: None,
            exit: None,
            jumps: 0,
        })
    }

    /// Takes one message; false when the attachment has ended.
    pub(crate) async fn step(&mut self) -> bool {
        let Some(response) = within(self.attachment.responses.recv()).await else { return false };
        match response.message {
            Some(Tell::Output(output)) => {
                self.jumps += usize::from(self.next.is_some_and(|next| next != output.offset));
                self.next = Some(output.offset + output.data.len() as u64);
                let kept = if output.stderr { &mut self.stderr } else { &mut self.output };
                kept.extend_from_slice(&output.data);
            }
            Some(Tell::Snapshot(snapshot)) => {
                self.snapshots += 1;
                self.next = Some(snapshot.offset);
                self.screen = snapshot.data.to_vec();
                self.output.clear();
            }
            Some(Tell::Driver(driver)) => self.driver = Some(driver),
            Some(Tell::Exit(exit)) => self.exit = exit.exit,
            Some(Tell::Ready(_)) | None => {}
        }
        true
    }

    pub(crate) async fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < PATIENCE, "never seen: {what}; output {:?}", self.tail());
            assert!(self.step().await, "ended before: {what}; output {:?}", self.tail());
        }
    }

    pub(crate) async fn until_text(&mut self, text: &str) {
        let start = Instant::now();
        let mut from = 0;
        // Only what is new is searched: floods are long.
        while !self.output[from..].windows(text.len()).any(|window| window == text.as_bytes()) {
            from = self.output.len().saturating_sub(text.len());
            assert!(start.elapsed() < PATIENCE, "never seen: {text}; {:?}", self.tail());
            assert!(self.step().await, "ended before: {text}; {:?}", self.tail());
            from = from.min(self.output.len());
        }
    }

    fn tail(&self) -> String {
        String::from_utf8_lossy(&self.output[self.output.len().saturating_sub(500)..]).into_owned()
    }

    pub(crate) async fn until_exit(&mut self) -> v1::Exit {
        while self.exit.is_none() && self.step().await {}
        self.exit.clone().expect("no exit came")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    pub(crate) async fn send(&self, message: Ask) {
        within(self.attachment.requests.send(v1::AttachRequest { message: Some(message) })).await.unwrap();
    }

    pub(crate) async fn type_in(&self, text: &str) {
        self.send(Ask::Input(text.as_bytes().to_vec().into())).await;
    }
}

pub(crate) fn sized(rows: u32, cols: u32) -> v1::AttachOpen {
    v1::AttachOpen { size: Some(v1::WindowSize { rows, cols }), ..Default::default() }
}

pub(crate) fn observing() -> v1::AttachOpen {
    v1::AttachOpen { observe: true, ..Default::default() }
}

/// A viewer of bytes from an offset on.
pub(crate) fn raw_from(offset: u64) -> v1::AttachOpen {
    v1::AttachOpen { observe: true, raw: true, from_offset: Some(offset), ..Default::default() }
}
