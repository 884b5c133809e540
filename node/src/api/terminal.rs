//! `TerminalService`: resolves the runner, finds its host's connection, and lets the bytes pass. Each message that
//! crosses is forwarded as it is; a slow viewer holds back only its own stream.

use std::time::Duration;

use stratavore_model::{Actor, Code, Epoch, HostId, Rejected, RunnerRecord, RunnerState, State, query};
use stratavore_proto::v1::terminal_service_server::TerminalService;
use stratavore_proto::v1::{
    self, AttachOpen, AttachRequest, AttachResponse, GetScreenRequest, GetScreenResponse, ReadLogsRequest,
    ReadLogsResponse, SendInputRequest, SendInputResponse, attach_request, host_stream_reply, stream_header,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::auth::{self, Operate};
use crate::api::status::ApiError;
use crate::api::{Api, STREAM_QUEUE};
use crate::convert::{explain, id};
use crate::link::relay::{self, RelayError};
use crate::peer::terminal::Way;
use crate::tasks::TaskKind;

/// A client that attaches says what it wants at once.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a call waits for a runner that is about to start: placement and start take milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes typed in one call.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Where a runner's terminal is.
struct Target {
    runner: String,
    epoch: v1::Epoch,
    host: HostId,
    way: Way,
}

#[tonic::async_trait]
impl TerminalService for Api {
    type AttachStream = ReceiverStream<Result<AttachResponse, Status>>;
    type ReadLogsStream = ReceiverStream<Result<ReadLogsResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let who = auth::require::<Operate>(request.extensions())?;
        let mut requests = request.into_inner();
        let open = first_open(&mut requests).await?;
        let target = self.target(&open.runner, open.epoch, Wait::Started).await?;
        let viewer = who.actor().to_string();
        let header =
            v1::AttachStream { runner: target.runner, epoch: Some(target.epoch), open: Some(open), viewer };
        let opened = target.way.open(target.host, who.actor(), stream_header::Request::Attach(header)).await;
        let opened = opened.map_err(ApiError::from)?;
        let (out, stream) = mpsc::channel(STREAM_QUEUE);
        let typed = requests.map_while(Result::ok);
        self.fill(TaskKind::Relay, out.clone(), relay::both_ways(typed, opened, out, attached));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn read_logs(
        &self,
        request: Request<ReadLogsRequest>,
    ) -> Result<Response<Self::ReadLogsStream>, Status> {
        let who = auth::require::<Operate>(request.extensions())?;
        let read = request.into_inner();
        let wait = if read.follow { Wait::Started } else { Wait::Placed };
        let target = self.target(&read.runner, read.epoch, wait).await?;
        let header = v1::LogStream { runner: target.runner, epoch: Some(target.epoch), read: Some(read) };
        let opened = target.way.open(target.host, who.actor(), stream_header::Request::Logs(header)).await;
        let opened = opened.map_err(ApiError::from)?;
        let (out, stream) = mpsc::channel(STREAM_QUEUE);
        let typed = tokio_stream::empty();
        self.fill(TaskKind::Relay, out.clone(), relay::both_ways(typed, opened, out, logged));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_screen(
        &self,
        request: Request<GetScreenRequest>,
    ) -> Result<Response<GetScreenResponse>, Status> {
        let who = auth::require::<Operate>(request.extensions())?;
        let target = self.target(&request.into_inner().runner, None, Wait::Started).await?;
        let header = v1::ScreenStream { runner: target.runner, epoch: Some(target.epoch) };
        match ask(&target.way, target.host, who.actor(), stream_header::Request::Screen(header)).await? {
            host_stream_reply::Reply::Screen(screen) => Ok(Response::new(screen)),
            _ => Err(ApiError::from(RelayError::Confused).into()),
        }
    }

    async fn send_input(
        &self,
        request: Request<SendInputRequest>,
    ) -> Result<Response<SendInputResponse>, Status> {
        let who = auth::require::<Operate>(request.extensions())?;
        let request = request.into_inner();
        bounded_input(&request).map_err(ApiError::from)?;
        let target = self.target(&request.runner, None, Wait::Started).await?;
        let header = v1::InputStream {
            runner: target.runner,
            epoch: Some(target.epoch),
            data: request.data,
            steal: request.steal,
            viewer: who.actor().to_string(),
        };
        match ask(&target.way, target.host, who.actor(), stream_header::Request::Input(header)).await? {
            host_stream_reply::Reply::Input(response) => Ok(Response::new(response)),
            _ => Err(ApiError::from(RelayError::Confused).into()),
        }
    }
}

fn bounded_input(request: &SendInputRequest) -> Result<(), Rejected> {
    if request.data.len() <= INPUT_BYTES_MAX {
        return Ok(());
    }
    let message = format!("{} bytes of input, at most {INPUT_BYTES_MAX} are possible", request.data.len());
    Err(Rejected::bad_argument("data", message, "send it in several pieces"))
}

async fn ask(
    way: &Way,
    host: HostId,
    caller: &Actor,
    request: stream_header::Request,
) -> Result<host_stream_reply::Reply, ApiError> {
    let (up, down) = way.open(host, caller, request).await?;
    up.finish();
    Ok(down.one().await?)
}

async fn first_open(requests: &mut Streaming<AttachRequest>) -> Result<AttachOpen, Status> {
    let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, requests.message())
        .await
        .map_err(|_| ApiError::Deadline("the first message of the attach did not arrive".to_owned()))??;
    match first {
        Some(AttachRequest { message: Some(attach_request::Message::Open(open)) }) => Ok(open),
        _ => {
            let rejected =
                Rejected::bad_argument("open", "the first message of an attach must be `open`", "");
            Err(ApiError::from(rejected).into())
        }
    }
}

/// How far a runner must be before a call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// On a host, whatever its state there.
    Placed,
    /// Started there, or ended.
    Started,
}

/// What a look at the state says about the wait.
enum Look {
    Ready { runner: String, epoch: Epoch, host: HostId },
    NotYet,
}

impl Api {
    /// The runner's host and connection, waiting for a start that is under way.
    async fn target(&self, runner: &str, epoch: Option<v1::Epoch>, wait: Wait) -> Result<Target, ApiError> {
        self.confirmed().await?;
        let epoch = epoch.map(id::epoch_of);
        let mut applied = self.raft.applied();
        let waiting = async {
            loop {
                applied.mark_unchanged();
                match self.raft.read(|state| look(state, runner, epoch, wait))? {
                    Look::Ready { runner, epoch, host } => return Ok((runner, epoch, host)),
                    Look::NotYet => {}
                }
                if applied.changed().await.is_err() {
                    return Err(ApiError::Internal("the node stops".to_owned()));
                }
            }
        };
        let found = tokio::time::timeout(START_TIMEOUT, waiting).await;
        let (runner, epoch, host) = found.map_err(|_| self.not_started(runner))??;
        let way = self.way_to(host).ok_or_else(|| self.disconnected(host))?;
        Ok(Target { runner, epoch: id::epoch(epoch), host, way })
    }

    /// Here, or over the node that took the host's last hello.
    fn way_to(&self, host: HostId) -> Option<Way> {
        if let Some(session) = self.hub.get(host) {
            return Some(Way::Here(session));
        }
        let gateway = self.raft.read(|state| state.host(host).and_then(|host| host.gateway))?;
        let way = || Way::There { gateway, channels: self.channels.clone() };
        (gateway != self.node).then(way)
    }

    /// Why a runner has not started in all that time.
    fn not_started(&self, runner: &str) -> ApiError {
        self.raft.read(|state| match query::resolve_runner(state, runner) {
            Ok(record) if record.state == RunnerState::Pending => {
                queued(record, &explain::summary(record, state, id::now())).into()
            }
            Ok(_) => ApiError::Deadline(format!("runner {runner} did not start in time")),
            Err(rejected) => rejected.into(),
        })
    }

    fn disconnected(&self, host: HostId) -> ApiError {
        let name = self.raft.read(|state| state.host(host).map(|host| host.name.to_string()));
        let name = name.unwrap_or_else(|| host.to_string());
        ApiError::HostUnavailable { message: format!("host {name} is not connected to any node") }
    }
}

fn look(state: &State, runner: &str, epoch: Option<Epoch>, wait: Wait) -> Result<Look, ApiError> {
    let record = query::resolve_runner(state, runner)?;
    let id = record.id.to_string();
    let before = record.retry.as_ref().and_then(|retry| retry.last.as_ref());
    if let (Some(epoch), Some(last)) = (epoch, before.filter(|last| Some(last.epoch) == epoch)) {
        return Ok(Look::Ready { runner: id, epoch, host: last.host });
    }
    if let (Some(epoch), Some(host)) = (epoch, record.host)
        && record.epoch.is_some_and(|current| current >= epoch)
    {
        return Ok(Look::Ready { runner: id, epoch, host });
    }
    // While it backs off, what there is to read is what the last start wrote.
    if let (Wait::Placed, RunnerState::Pending, Some(last)) = (wait, record.state, before) {
        return Ok(Look::Ready { runner: id, epoch: last.epoch, host: last.host });
    }
    let started = match record.state {
        RunnerState::Pending => return pending(record),
        RunnerState::Starting => wait == Wait::Placed,
        _ => true,
    };
    match (started, record.epoch, record.host) {
        (true, Some(epoch), Some(host)) => Ok(Look::Ready { runner: record.id.to_string(), epoch, host }),
        (true, ..) => Err(never_started(record).into()),
        (false, ..) => Ok(Look::NotYet),
    }
}

/// A runner that waits for quota may wait for hours: the caller is told. One that was just launched is placed in a
/// moment.
fn pending(record: &RunnerRecord) -> Result<Look, ApiError> {
    if record.reason.is_empty() { Ok(Look::NotYet) } else { Err(queued(record, &record.reason).into()) }
}

fn queued(record: &RunnerRecord, why: &str) -> Rejected {
    let message = format!("runner {} ({}) is queued: {why}", record.name, record.id);
    Rejected::new(Code::NoTerminal, message, format!("see `stratavore explain {}`", record.id))
}

fn never_started(record: &RunnerRecord) -> Rejected {
    let message = format!("runner {} ({}) ended without ever being started", record.name, record.id);
    Rejected::new(Code::RunnerEnded, message, format!("start it with `stratavore restart {}`", record.id))
}

/// A reply of the kind that was asked for.
fn expected<T>(
    reply: Result<host_stream_reply::Reply, RelayError>,
    kind: impl FnOnce(host_stream_reply::Reply) -> Option<T>,
) -> Result<T, Status> {
    let expected = reply.and_then(|reply| kind(reply).ok_or(RelayError::Confused));
    expected.map_err(|error| ApiError::from(error).into())
}

fn attached(reply: Result<host_stream_reply::Reply, RelayError>) -> Result<AttachResponse, Status> {
    expected(reply, |reply| match reply {
        host_stream_reply::Reply::Attach(response) => Some(response),
        _ => None,
    })
}

fn logged(reply: Result<host_stream_reply::Reply, RelayError>) -> Result<ReadLogsResponse, Status> {
    expected(reply, |reply| match reply {
        host_stream_reply::Reply::Logs(response) => Some(response),
        _ => None,
    })
}

impl From<RelayError> for ApiError {
    fn from(error: RelayError) -> Self {
        let message = error.to_string();
        let RelayError::Refused { code, .. } = error else { return Self::HostUnavailable { message } };
        let (reason, next) = match code.as_str() {
            "not_found" => (Code::RunnerNotFound, "look at `stratavore describe` for its state"),
            "driver_taken" => (Code::DriverTaken, "watch with --observe, or take over with --steal"),
            "ended" => (Code::RunnerEnded, "read its output with `stratavore logs`"),
            "not_allowed" => (Code::NotAllowed, "ask for a user that is not removed"),
            "no_terminal" => (Code::NoTerminal, "read its output with `stratavore logs`"),
            _ => return Self::HostUnavailable { message },
        };
        Rejected::new(reason, message, next).into()
    }
}
