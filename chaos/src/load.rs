//! Load: clients that each have one request out, and what they saw. The same driver drives the product and its peers, so
//! that a ratio compares servers.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::bench::samples::Samples;

/// How long a request may take after the measured time is over; then its client is given up.
const GRACE: Duration = Duration::from_secs(30);

/// After a failure, so that a dead server is not asked in a hot loop.
const PAUSE: Duration = Duration::from_millis(10);

/// One client.
pub trait Operation: Send + 'static {
    /// One request, up to its answer; how many commands that were.
    fn once(&mut self) -> impl Future<Output = Result<u64, String>> + Send;
}

/// For how long.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Not measured, at the beginning.
    pub warm: Duration,
    /// Measured, behind it.
    pub measured: Duration,
}

impl Span {
    /// Half a second of warm-up, then so many seconds.
    #[must_use]
    pub const fn seconds(measured: u64) -> Self {
        Self { warm: Duration::from_millis(500), measured: Duration::from_secs(measured) }
    }
}

/// What a run gave.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Commands a second.
    pub rate: f64,
    /// Median time of a request in milliseconds.
    pub p50: f64,
    /// 99th percentile of it.
    pub p99: f64,
    /// Requests that failed.
    pub failed: u64,
}

#[derive(Default)]
struct Seen {
    samples: Samples,
    commands: u64,
    failed: u64,
    why: Option<String>,
}

/// Every client asks, waits for the answer, and asks again. A failure is counted, and the first one is shown.
pub async fn closed_loop<O: Operation>(clients: Vec<O>, span: Span) -> Load {
    let from = Instant::now() + span.warm;
    let upto = from + span.measured;
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn(run(client, from, upto));
    }
    let mut all = Seen::default();
    while let Some(done) = tasks.join_next().await {
        let Ok(seen) = done else { continue };
        all.samples.extend(seen.samples);
        all.commands += seen.commands;
        all.failed += seen.failed;
        all.why = all.why.or(seen.why);
    }
    if let Some(why) = &all.why {
        eprintln!("  note: {} requests failed, one with: {why}", all.failed);
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = all.commands as f64 / span.measured.as_secs_f64();
    Load { rate, p50: all.samples.p50(), p99: all.samples.p99(), failed: all.failed }
}

async fn run<O: Operation>(mut client: O, from: Instant, upto: Instant) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < upto {
        let began = Instant::now();
        let outcome = timeout_at(upto + GRACE, client.once()).await;
        let ended = Instant::now();
        match outcome {
            Ok(Ok(commands)) if ended >= from && ended <= upto => {
                seen.commands += commands;
                seen.samples.push(ended - began);
            }
            Ok(Ok(_)) => {}
            failed => {
                seen.failed += 1;
                seen.why.get_or_insert_with(|| match failed {
                    Ok(Err(why)) => why,
                    _ => "no answer in time".to_owned(),
                });
                sleep(PAUSE).await;
            }
        }
    }
    seen
}

/// All clients together make `total` requests; how long that took.
///
/// # Panics
/// When a request fails, or one is not answered in time.
pub async fn requests<O: Operation>(clients: Vec<O>, total: u64, bound: Duration) -> Duration {
    let began = Instant::now();
    let left = Arc::new(AtomicU64::new(total));
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let left = left.clone();
        tasks.spawn(async move {
            while left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok() {
                client.once().await.expect("a request of a fixed number");
            }
        });
    }
    timeout_at(began + bound, tasks.join_all()).await.expect("all requests in time");
    began.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Waiting;

    impl Operation for Waiting {
        async fn once(&mut self) -> Result<u64, String> {
            sleep(Duration::from_millis(5)).await;
            Ok(3)
        }
    }

    struct Failing;

    impl Operation for Failing {
        async fn once(&mut self) -> Result<u64, String> {
            Err("never".to_owned())
        }
    }

    #[tokio::test]
    async fn clients_have_one_request_out_each() {
        let span = Span { warm: Duration::from_millis(50), measured: Duration::from_millis(500) };
        let load = closed_loop((0..4).map(|_| Waiting).collect(), span).await;
        // Four clients, at most one request of three commands in 5 ms each; fewer on a busy machine.
        assert!(load.rate > 0.0 && load.rate <= 4.0 * 3.0 * 200.0 + 24.0, "{load:?}");
        assert!(load.p50 >= 5.0 && load.failed == 0, "{load:?}");
    }

    #[tokio::test]
    async fn failures_are_counted_and_are_no_commands() {
        let span = Span { warm: Duration::ZERO, measured: Duration::from_millis(50) };
        let load = closed_loop(vec![Failing], span).await;
        assert!(load.failed > 0 && load.rate == 0.0, "{load:?}");
    }

    #[tokio::test]
    async fn a_fixed_number_of_requests_is_made() {
        struct Counting(Arc<AtomicU64>);
        impl Operation for Counting {
            async fn once(&mut self) -> Result<u64, String> {
                self.0.fetch_add(1, Ordering::SeqCst);
                Ok(1)
            }
        }
        let made = Arc::new(AtomicU64::new(0));
        requests((0..3).map(|_| Counting(made.clone())).collect(), 100, GRACE).await;
        assert_eq!(made.load(Ordering::SeqCst), 100);
    }
}
