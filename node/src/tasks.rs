//! Every task of the node: what it is called, and what its end means. One table instead of a policy per call site.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What runs in the background. The order is that of the life of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// Accepts connections on one TCP port.
    Accept,
    /// One TLS handshake.
    Handshake,
    /// One gRPC server over accepted connections.
    Serve,
    /// Closes connections of identities that are no longer admitted.
    Sweep,
    /// Accepts agents.
    Link,
    /// One agent's connection.
    Session,
    /// One viewer's stream through this node.
    Relay,
    /// Renewals of this node's agents, to the leader.
    Renewals,
    /// Watches this node's contact to the leader.
    Contact,
    /// Compares this node's state with the others'.
    Quarantine,
    /// Compares this node's clock with the other voters'.
    Clock,
    /// Tells agents which nodes there are.
    Trust,
    /// Desired state down to the agents.
    Dispatch,
    /// Reports up from the agents.
    Ingest,
    /// Watches leadership and owns the leader's loops.
    Leader,
    /// One loop that only a leader runs.
    LeaderLoop,
    /// Counts events for the metrics.
    Count,
    /// Tells the cluster this node's present addresses.
    Announce,
    /// The HTTP port for Prometheus and probes.
    Http,
    /// Keeps this node's own certificate fresh.
    Certificate,
    /// Writes down which keys were removed.
    RemovedKeys,
    /// One subscription of an API client.
    Subscription,
}

/// What the end of a task by error or panic means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnError {
    /// The node cannot do its work without it: the process exits and its supervisor starts it again.
    Fatal,
    /// It concerned one peer only.
    Log,
}

impl TaskKind {
    const fn policy(self) -> (&'static str, OnError) {
        match self {
            Self::Accept => ("accept", OnError::Fatal),
            Self::Handshake => ("handshake", OnError::Log),
            Self::Serve => ("serve", OnError::Fatal),
            Self::Sweep => ("sweep", OnError::Fatal),
            Self::Link => ("link", OnError::Fatal),
            Self::Session => ("session", OnError::Log),
            Self::Relay => ("relay", OnError::Log),
            Self::Renewals => ("renewals", OnError::Fatal),
            Self::Contact => ("contact", OnError::Fatal),
            Self::Quarantine => ("quarantine", OnError::Fatal),
            Self::Clock => ("clock", OnError::Fatal),
            Self::Trust => ("trust", OnError::Fatal),
            Self::Dispatch => ("dispatch", OnError::Fatal),
            Self::Ingest => ("ingest", OnError::Fatal),
            Self::Leader => ("leader", OnError::Fatal),
            Self::LeaderLoop => ("leader loop", OnError::Fatal),
            Self::Count => ("count", OnError::Fatal),
            Self::Announce => ("announce", OnError::Log),
            Self::Http => ("http", OnError::Fatal),
            Self::Certificate => ("certificate", OnError::Log),
            Self::RemovedKeys => ("removed keys", OnError::Log),
            Self::Subscription => ("subscription", OnError::Log),
        }
    }
}

/// Fatal messages wait here; the first one ends the process, so a few are plenty.
const FATAL_QUEUE: usize = 8;

/// A group of tasks that is cancelled and awaited together. Groups form a tree: cancelling one cancels those below.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    fatal: mpsc::Sender<String>,
}

impl Tasks {
    /// The root group, and where fatal ends are announced.
    pub(crate) fn root() -> (Self, mpsc::Receiver<String>) {
        let (fatal, announced) = mpsc::channel(FATAL_QUEUE);
        (Self { tracker: TaskTracker::new(), token: CancellationToken::new(), fatal }, announced)
    }

    /// A group below this one.
    pub(crate) fn group(&self) -> Self {
        Self { tracker: TaskTracker::new(), token: self.token.child_token(), fatal: self.fatal.clone() }
    }

    /// Cancelled when this group ends.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs `task`; an error or panic is treated as the table says.
    pub(crate) fn spawn<E: Display>(
        &self,
        kind: TaskKind,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let fatal = self.fatal.clone();
        let watched = async move {
            let message = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "panicked (see the log above)".to_owned(),
            };
            ended(kind, &message, &fatal);
        };
        self.tracker.spawn(watched);
    }

    /// Runs a task that has no error of its own.
    pub(crate) fn spawn_infallible(&self, kind: TaskKind, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(kind, async move {
            task.await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Cancels the group and waits for its tasks, at most `grace`. False when some did not end in time.
    pub(crate) async fn stop(&self, grace: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

fn ended(kind: TaskKind, message: &str, fatal: &mpsc::Sender<String>) {
    let (name, on_error) = kind.policy();
    match on_error {
        OnError::Log => tracing::debug!(task = name, %message, "task ended"),
        OnError::Fatal => {
            tracing::error!(task = name, %message, "task ended");
            // Full means that the process is about to exit for an earlier reason.
            fatal.try_send(format!("{name} task: {message}")).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_panic_in_a_vital_task_is_announced_and_in_a_peer_task_is_not() {
        let (tasks, mut announced) = Tasks::root();
        tasks.spawn_infallible(TaskKind::Session, async { panic!("one peer") });
        tasks.spawn_infallible(TaskKind::Dispatch, async { panic!("vital") });
        let message = tokio::time::timeout(PATIENCE, announced.recv()).await.unwrap().unwrap();
        assert!(message.starts_with("dispatch task:"), "{message}");
        assert!(tasks.stop(PATIENCE).await);
        assert!(announced.try_recv().is_err());
    }

    #[tokio::test]
    async fn stopping_a_group_leaves_the_one_above_running() {
        let (tasks, _announced) = Tasks::root();
        let group = tasks.group();
        let token = group.token().clone();
        group.spawn_infallible(TaskKind::Session, async move { token.cancelled().await });
        assert!(group.stop(PATIENCE).await);
        assert!(!tasks.token().is_cancelled());
        let below = tasks.group();
        assert!(tasks.stop(PATIENCE).await);
        assert!(below.token().is_cancelled());
    }
}
