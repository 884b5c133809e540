//! The connection to the cluster: made at the first call, once; every call retried as its kind allows.

mod dial;
mod retry;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod watched;

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use stratavore_certs::tls::Refusal;
use stratavore_proto::v1::cluster_service_client::ClusterServiceClient;
use stratavore_proto::v1::event_service_client::EventServiceClient;
use stratavore_proto::v1::host_service_client::HostServiceClient;
use stratavore_proto::v1::project_service_client::ProjectServiceClient;
use stratavore_proto::v1::runner_service_client::RunnerServiceClient;
use stratavore_proto::v1::terminal_service_client::TerminalServiceClient;
use stratavore_proto::v1::token_service_client::TokenServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};
use uuid::Uuid;

pub(crate) use dial::{DialError, Dialer};
pub(crate) use retry::READ_TIMEOUT;
use retry::{Attempt, Call, Decision, Retry};
use watched::{Verdict, Watched};

use crate::errors::{Exit, Failure, Result};
use crate::view;

/// Largest answer: the status of a cluster with 20,000 hosts is under 10 MiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Flow-control window of a stream: enough for a fast local terminal, little enough that a stopped viewer holds
/// up no more than this.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// Longest HTTP/2 frame: a full message of output goes in one, not in five.
const FRAME_BYTES: u32 = 128 * 1024;

/// With further endpoints to try, a silent node gets this long before the next one is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// A stream is given up when a node stays silent for interval plus timeout.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the cluster, through any of its nodes.
#[derive(Debug)]
pub(crate) struct Client {
    dialer: Dialer,
    channel: RefCell<Option<Channel>>,
    /// Why the present connection was refused, if it was: with TLS 1.3 that is learnt after the handshake.
    verdict: RefCell<Verdict>,
    /// Which endpoint the next dial begins with.
    first: Cell<usize>,
    timeout: Option<Duration>,
    debug: bool,
    unreached_next: &'static str,
}

impl Client {
    /// Nothing is dialled yet. `timeout` is the user's `--timeout`.
    pub(crate) fn new(dialer: Dialer, timeout: Option<Duration>, debug: bool) -> Self {
        Self {
            dialer,
            channel: RefCell::new(None),
            verdict: RefCell::default(),
            first: Cell::new(0),
            timeout,
            debug,
            unreached_next: "",
        }
    }

    /// What to suggest when no node replies.
    pub(crate) fn with_unreached_next(self, next: &'static str) -> Self {
        Self { unreached_next: next, ..self }
    }

    /// Asks something, `doing` in words. Retried while nodes reply "not now".
    ///
    /// # Errors
    /// The refusal, or exit 7 or 8.
    pub(crate) async fn read<T>(&self, doing: &str, call: impl AsyncFn(Channel) -> Reply<T>) -> Result<T> {
        self.run(Retry::new(Call::Read, doing, self.timeout), call).await
    }

    /// Asks with a time limit of its own.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) async fn read_within<T>(
        &self,
        limit: Duration,
        doing: &str,
        call: impl AsyncFn(Channel) -> Reply<T>,
    ) -> Result<T> {
        let limit = self.timeout.map_or(limit, |timeout| timeout.min(limit));
        self.run(Retry::new(Call::Read, doing, Some(limit)), call).await
    }

    /// Changes something. `call` gets the same request id every time, so its repetition is harmless.
    ///
    /// # Errors
    /// The refusal, or exit 7 or 8.
    pub(crate) async fn mutate<T>(
        &self,
        doing: &str,
        request_id: Option<Uuid>,
        call: impl AsyncFn(Channel, String) -> Reply<T>,
    ) -> Result<T> {
        let request_id = request_id.unwrap_or_else(Uuid::now_v7).to_string();
        self.debug(&format!("request id {request_id}"));
        let retry = Retry::new(Call::Mutation { request_id: request_id.clone() }, doing, self.timeout);
        self.run(retry, async |channel| call(channel, request_id.clone()).await).await
    }

    /// Changes something that must not happen twice and has no request id: not repeated once it was sent.
    ///
    /// # Errors
    /// The refusal, or exit 7 or 8.
    pub(crate) async fn type_once<T>(
        &self,
        doing: &str,
        call: impl AsyncFn(Channel) -> Reply<T>,
    ) -> Result<T> {
        self.run(Retry::new(Call::Once, doing, self.timeout), call).await
    }

    /// Opens a stream of answers; `resumed` when it was open before, which buys it more patience. Once it is open,
    /// its end is the caller's business.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) async fn open<T>(
        &self,
        doing: &str,
        resumed: bool,
        call: impl AsyncFn(Channel) -> Reply<Streaming<T>>,
    ) -> Result<Streaming<T>> {
        let call_kind = if resumed { Call::Resume } else { Call::Read };
        self.run(Retry::new(call_kind, doing, self.timeout), call).await
    }

    /// One attempt on the present connection, or a new one; nothing is retried.
    ///
    /// # Errors
    /// See [`Once`].
    pub(crate) async fn once<T>(
        &self,
        call: impl AsyncFn(Channel) -> Reply<T>,
    ) -> std::result::Result<T, Once> {
        let channel = self.channel().await?;
        match call(channel).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.failed(status)),
        }
    }

    /// Judges the status a call or a stream ended with; a lost connection is let go.
    pub(crate) fn failed(&self, status: Status) -> Once {
        if is_reply(&status) {
            // Another node may know better than one that cannot serve now.
            if self.dialer.endpoints().len() > 1 && status.code() == tonic::Code::Unavailable {
                self.forget();
            }
            return Once::Refused(status);
        }
        self.forget();
        match self.verdict.borrow().refusal().filter(is_final) {
            Some(refusal) => Once::Fatal(rejected(&refusal)),
            None => Once::Broken(cause_of(&status)),
        }
    }

    /// Lets go of the connection; the next call dials again, beginning with the next endpoint.
    pub(crate) fn forget(&self) {
        if self.channel.borrow_mut().take().is_some() {
            self.first.set(self.first.get().wrapping_add(1));
        }
    }

    async fn run<T>(&self, mut retry: Retry, call: impl AsyncFn(Channel) -> Reply<T>) -> Result<T> {
        retry = retry.with_unreached_next(self.unreached_next);
        let begin = Instant::now();
        loop {
            let left = retry.timeout().saturating_sub(begin.elapsed());
            let attempt = match tokio::time::timeout(self.attempt_timeout(left), self.once(&call)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Once::Fatal(failure))) => return Err(failure),
                Ok(Err(Once::Refused(status))) => Attempt::Refused(status),
                Ok(Err(Once::Broken(why))) => Attempt::Broken(why),
                Ok(Err(Once::Unreached(why))) => Attempt::Unreached(why),
                Err(_) => {
                    self.forget();
                    Attempt::Overdue
                }
            };
            self.debug(&format!("{attempt:?}"));
            match retry.after(attempt, begin.elapsed()) {
                Decision::Fail(failure) => return Err(failure),
                Decision::Again(pause) => tokio::time::sleep(pause).await,
            }
        }
    }

    fn attempt_timeout(&self, left: Duration) -> Duration {
        if self.dialer.endpoints().len() > 1 { left.min(ATTEMPT_TIMEOUT) } else { left }
    }

    async fn channel(&self) -> std::result::Result<Channel, Once> {
        if let Some(channel) = self.channel.borrow().as_ref() {
            return Ok(channel.clone());
        }
        let begin = Instant::now();
        let stream = self.dialer.dial(self.first.get()).await.map_err(unconnected)?;
        self.debug(&format!("connected in {:?}", begin.elapsed()));
        let verdict = Verdict::default();
        let mut stream = Some(TokioIo::new(Watched::new(stream, verdict.clone())));
        self.verdict.replace(verdict);
        // The stream is there already; when it is lost, the next call dials anew by itself.
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
            async move { stream }
        });
        let channel = Endpoint::from_static("http://stratavore")
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(2 * WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .connect_with_connector(connector)
            .await
            .map_err(|error| Once::Unreached(error.to_string()))?;
        *self.channel.borrow_mut() = Some(channel.clone());
        Ok(channel)
    }

    fn debug(&self, text: &str) {
        if self.debug {
            view::tell(&format!("debug: {}", crate::filter::one_line(text)));
        }
    }
}

/// What a generated client returns.
pub(crate) type Reply<T> = std::result::Result<Response<T>, Status>;

/// How a single attempt failed.
#[derive(Debug)]
pub(crate) enum Once {
    /// The node said no.
    Refused(Status),
    /// No node could be reached; nothing was sent.
    Unreached(String),
    /// The connection was lost.
    Broken(String),
    /// No attempt will ever succeed.
    Fatal(Failure),
}

fn unconnected(error: DialError) -> Once {
    let refused = error.attempts.iter().find_map(|(endpoint, error)| {
        Refusal::find(error).filter(is_final).map(|refusal| untrusted(endpoint, &refusal))
    });
    match refused {
        Some(failure) => Once::Fatal(failure),
        None => Once::Unreached(error.to_string()),
    }
}

/// A node that does not know our key may only lag behind; everything else stays as it is.
fn is_final(refusal: &Refusal) -> bool {
    !matches!(refusal, Refusal::UnknownKey | Refusal::Other(_))
}

fn untrusted(endpoint: &str, refusal: &Refusal) -> Failure {
    Failure::new(Exit::Permission, format!("cannot talk to the cluster at {endpoint}"))
        .cause(refusal.to_string())
        .next("stratavore context list; or ask for a token (stratavore token create --role user) and stratavore login")
}

/// The node ended a connection that stood, because of who we are.
fn rejected(refusal: &Refusal) -> Failure {
    Failure::new(Exit::Permission, "the cluster does not accept this context's identity")
        .cause(refusal.to_string())
        .next("ask for a new token (stratavore token create --role user) and run stratavore login")
}

/// Whether the node itself said this: a status made here from a failed transport has a source.
pub(crate) fn is_reply(status: &Status) -> bool {
    status.source().is_none()
}

/// The innermost cause, which says the most.
pub(crate) fn cause_of(status: &Status) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// The services, each with the bound on answers.
macro_rules! services {
    ($($name:ident: $client:ident),* $(,)?) => {
        $(
            #[doc = concat!("Calls of [`", stringify!($client), "`].")]
            pub(crate) fn $name(channel: Channel) -> $client<Channel> {
                $client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
            }
        )*
    };
}

services! {
    projects: ProjectServiceClient,
    runners: RunnerServiceClient,
    terminal: TerminalServiceClient,
    hosts: HostServiceClient,
    cluster: ClusterServiceClient,
    events: EventServiceClient,
    tokens: TokenServiceClient,
}
