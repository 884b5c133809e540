//! What Prometheus sees: every name in one place, every value read at the scrape. Labels are bounded: states, projects
//! and hosts, never runners.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::Collector;
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Histogram, HistogramOpts, TextEncoder};
use stratavore_model::{EventKind, HostState, RecordedEvent, RunnerId, ShownState, State};
use stratavore_raft::{Handle, LATENCY_BUCKETS_US, LatencySnapshot, Role};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::admission::Connections;
use crate::clock::{self, Clock};
use crate::leader::placement::PlacementCounters;
use crate::link::hub::Hub;
use crate::quarantine::Quarantine;

/// Placements whose start has not been reported yet; beyond it the start time of the oldest is not measured.
const STARTS_TRACKED_MAX: usize = 10_000;

/// Seconds; a start is a few milliseconds on an idle host and seconds on one that swaps.
const START_BUCKETS: &[f64] = &[0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Seconds; round trip of a renewal, which includes a quorum round.
const HEARTBEAT_BUCKETS: &[f64] = &[0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0];

/// Where the values come from.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) raft: Handle,
    pub(crate) hub: Hub,
    pub(crate) connections: Connections,
    pub(crate) placement: PlacementCounters,
    pub(crate) counted: Counted,
    pub(crate) quarantine: Quarantine,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) certificate_expires_unix_s: u64,
}

/// What can only be counted while it happens.
#[derive(Clone)]
pub(crate) struct Counted {
    events: Arc<Mutex<BTreeMap<EventKind, u64>>>,
    /// Runners whose start and end came in one report.
    brief: Arc<AtomicU64>,
    starts: Histogram,
    heartbeats: Histogram,
}

impl Counted {
    /// # Errors
    /// A name or bucket is not valid, which a test would show.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
        };
        Ok(Self {
            events: Arc::default(),
            brief: Arc::default(),
            starts: histogram(
                "stratavore_runner_start_seconds",
                "From the placement of a runner to the first committed report that it ran.",
                START_BUCKETS,
            )?,
            heartbeats: histogram(
                "stratavore_heartbeat_latency_seconds",
                "Round trip of lease renewals as agents measure it.",
                HEARTBEAT_BUCKETS,
            )?,
        })
    }

    /// A load report named this round trip.
    pub(crate) fn heartbeat(&self, round_trip: Duration) {
        self.heartbeats.observe(round_trip.as_secs_f64());
    }

    /// Counts events as they are applied, until cancelled.
    pub(crate) async fn run(self, raft: Handle, stop: CancellationToken) -> Result<(), Infallible> {
        let mut changes = raft.changes();
        let mut placed: BTreeMap<RunnerId, Instant> = BTreeMap::new();
        loop {
            let batch = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                batch = changes.recv() => batch,
            };
            match batch {
                Ok(batch) => batch.events.iter().for_each(|event| self.count(event, &mut placed)),
                // Counters may miss what was lost in the rush; the state's own figures do not.
                Err(RecvError::Lagged(_)) => placed.clear(),
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    fn count(&self, event: &RecordedEvent, placed: &mut BTreeMap<RunnerId, Instant>) {
        *self.events.lock().unwrap_or_else(PoisonError::into_inner).entry(event.kind).or_default() += 1;
        let Some(runner) = event.runner else { return };
        match event.kind {
            EventKind::RunnerPlaced if placed.len() < STARTS_TRACKED_MAX => {
                placed.insert(runner, Instant::now());
            }
            EventKind::RunnerStarted => {
                if let Some(since) = placed.remove(&runner) {
                    self.starts.observe(since.elapsed().as_secs_f64());
                }
            }
            // So short that its end was the first that was heard of it.
            EventKind::RunnerStopped => {
                if let Some(since) = placed.remove(&runner) {
                    self.brief.fetch_add(1, Ordering::Relaxed);
                    self.starts.observe(since.elapsed().as_secs_f64());
                }
            }
            EventKind::RunnerFailed => drop(placed.remove(&runner)),
            _ => {}
        }
    }

    fn of(&self, kind: EventKind) -> f64 {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        float(events.get(&kind).copied().unwrap_or(0))
    }
}

impl Metrics {
    /// The text of one scrape.
    ///
    /// # Errors
    /// A family that cannot be encoded, which a test would show.
    pub(crate) fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut families = self.node();
        families.extend(self.raft_families());
        families.extend(self.raft.read(state_families));
        families.extend(self.flow());
        families.extend(self.counted.starts.collect());
        families.extend(self.counted.heartbeats.collect());
        // The encoder takes a family without samples, such as that of the hosts before there is one, for a mistake.
        families.retain(|family| !family.get_metric().is_empty());
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }

    fn node(&self) -> Vec<MetricFamily> {
        let version = labels(&[("version", env!("CARGO_PKG_VERSION"))]);
        vec![
            gauge("stratavore_build_info", "Always 1; the version is a label.", [(version, 1.0)]),
            one(
                "stratavore_daemon_uptime_seconds",
                "Seconds since this node started.",
                self.started.elapsed().as_secs_f64(),
            ),
            one(
                "stratavore_open_connections",
                "API clients and agents connected to this node.",
                count(self.connections.len()),
            ),
            one("stratavore_connected_hosts", "Agents whose gateway is this node.", count(self.hub.len())),
            one(
                "stratavore_cert_expiry_seconds",
                "Unix time at which this node's certificate ends.",
                float(self.certificate_expires_unix_s),
            ),
            one(
                "stratavore_quarantined",
                "1 while this node serves nothing because its state is not the majority's.",
                flag(self.quarantine.why().is_some()),
            ),
            one(
                "stratavore_state_disputed",
                "1 while states differ and no majority agrees.",
                flag(self.quarantine.dispute().is_some()),
            ),
            one(
                "stratavore_clock_off",
                "1 while this node's clock is more than 5 s off the voters' median.",
                flag(self.clock.ahead_ms().is_some_and(clock::is_off)),
            ),
            total(
                "stratavore_state_rebuilds_total",
                "Times this node took another node's state in place of its own.",
                [(Vec::new(), float(self.quarantine.rebuilds()))],
            ),
        ]
    }

    fn raft_families(&self) -> Vec<MetricFamily> {
        let figures = self.raft.metrics();
        let leads = figures.role == Role::Leader;
        vec![
            one("stratavore_raft_is_leader", "1 while this node leads.", flag(leads)),
            one("stratavore_raft_term", "The raft term.", float(figures.term)),
            one(
                "stratavore_raft_last_log_index",
                "Index of the last entry in the log.",
                float(figures.last_log),
            ),
            one(
                "stratavore_raft_committed_index",
                "Index of the last committed entry.",
                float(figures.committed),
            ),
            one(
                "stratavore_raft_last_applied_index",
                "Index of the last applied entry.",
                float(figures.last_applied),
            ),
            one(
                "stratavore_raft_snapshot_index",
                "Index of this node's newest snapshot.",
                float(figures.snapshot),
            ),
            one(
                "stratavore_raft_purged_index",
                "Index up to which the log was purged.",
                float(figures.purged),
            ),
            total(
                "stratavore_raft_snapshots_installed_total",
                "Snapshots of a leader's that took the place of this node's state.",
                [(Vec::new(), float(figures.snapshots_installed))],
            ),
            latency(
                "stratavore_raft_commit_seconds",
                "From a proposal to its reply.",
                &figures.commit_latency,
            ),
            latency("stratavore_raft_sync_seconds", "One sync of the raft log.", &figures.sync_latency),
            total(
                "stratavore_raft_applied_entries_total",
                "Entries applied.",
                [(Vec::new(), float(figures.applied_entries))],
            ),
            total(
                "stratavore_raft_apply_defects_total",
                "Commands that hit a defect and were refused.",
                [(Vec::new(), float(figures.apply_panics))],
            ),
        ]
    }

    fn flow(&self) -> Vec<MetricFamily> {
        let placement = self.placement.figures();
        let result = |text: &str| labels(&[("result", text)]);
        let event = |kind| self.counted.of(kind);
        let started = event(EventKind::RunnerStarted) + float(self.counted.brief.load(Ordering::Relaxed));
        vec![
            total(
                "stratavore_runner_starts_total",
                "Runners that started, and those that failed, since this node started.",
                [(result("started"), started), (result("failed"), event(EventKind::RunnerFailed))],
            ),
            total(
                "stratavore_join_tokens_total",
                "Join tokens, since this node started.",
                [
                    (result("created"), event(EventKind::TokenCreated)),
                    (result("redeemed"), event(EventKind::TokenRedeemed)),
                    (result("revoked"), event(EventKind::TokenRevoked)),
                ],
            ),
            total(
                "stratavore_agent_reconnects_total",
                "Connections of agents to this node, the first ones included.",
                [(Vec::new(), float(self.hub.connections_seen()))],
            ),
            total(
                "stratavore_placements_total",
                "Placements proposed by this node as leader.",
                [(result("placed"), float(placement.placed)), (result("refused"), float(placement.refused))],
            ),
            total(
                "stratavore_placement_rounds_total",
                "Plans made by this node as leader.",
                [(Vec::new(), float(placement.rounds))],
            ),
            total(
                "stratavore_placement_seconds_total",
                "Time spent planning by this node as leader.",
                [(Vec::new(), placement.seconds)],
            ),
        ]
    }
}

/// Figures of the replicated state: the same on every node.
fn state_families(state: &State) -> Vec<MetricFamily> {
    let shown = ShownState::ALL.into_iter();
    let by_state = shown.map(|shown| (labels(&[("state", shown.as_str())]), f64::from(state.count(shown))));
    let by_project = state
        .projects()
        .map(|project| (labels(&[("project", project.name.as_str())]), count(state.live(&project.name))));
    let present = || state.hosts().filter(|host| host.state != HostState::Removed);
    let up = present().map(|host| {
        let ready = f64::from(u8::from(host.state == HostState::Ready));
        (labels(&[("host", host.name.as_str())]), ready)
    });
    let events = state.event_totals();
    vec![
        gauge("stratavore_runners", "Runners by state.", by_state),
        gauge("stratavore_runners_by_project", "Live runners by project.", by_project),
        gauge("stratavore_host_up", "1 while the host is ready.", up),
        gauge(
            "stratavore_host_capacity",
            "Capacity of all hosts, and what runners take of it.",
            capacity(state),
        ),
        one("stratavore_queue_length", "Runners that wait for a host.", count(state.queue().len())),
        one("stratavore_events_kept", "Events in the replicated event log.", float(events.count)),
        one("stratavore_events_bytes", "Encoded size of the replicated event log.", float(events.bytes)),
    ]
}

fn capacity(state: &State) -> Vec<(Vec<LabelPair>, f64)> {
    let mut sums = BTreeMap::new();
    for host in state.hosts().filter(|host| host.state != HostState::Removed) {
        let load = state.host_load(host.id);
        let mut add =
            |resource, kind, value: u64| *sums.entry((resource, kind)).or_insert(0.0) += float(value);
        add("slots", "total", u64::from(host.slots));
        add("slots", "used", u64::from(load.slots));
        add("cpu_milli", "total", host.cpu_milli);
        add("cpu_milli", "used", load.cpu_milli);
        add("memory_bytes", "total", host.memory_bytes);
        add("memory_bytes", "used", load.memory_bytes);
    }
    let sample = |((resource, kind), value)| (labels(&[("kind", kind), ("resource", resource)]), value);
    sums.into_iter().map(sample).collect()
}

/// Counters stay far below 2^53, where this is exact.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows nothing but floats")]
fn float(value: u64) -> f64 {
    value as f64
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn count(value: usize) -> f64 {
    float(u64::try_from(value).unwrap_or(u64::MAX))
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(pair).collect()
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn one(name: &str, help: &str, value: f64) -> MetricFamily {
    gauge(name, help, [(Vec::new(), value)])
}

fn gauge(name: &str, help: &str, samples: impl IntoIterator<Item = (Vec<LabelPair>, f64)>) -> MetricFamily {
    let metric = |(labels, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(labels);
        metric.set_gauge(gauge);
        metric
    };
    family(name, help, MetricType::GAUGE, samples.into_iter().map(metric).collect())
}

fn total(name: &str, help: &str, samples: impl IntoIterator<Item = (Vec<LabelPair>, f64)>) -> MetricFamily {
    let metric = |(labels, value)| {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::from_label(labels);
        metric.set_counter(counter);
        metric
    };
    family(name, help, MetricType::COUNTER, samples.into_iter().map(metric).collect())
}

fn latency(name: &str, help: &str, snapshot: &LatencySnapshot) -> MetricFamily {
    let bucket = |(bound, below): (&u64, &u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(Duration::from_micros(*bound).as_secs_f64());
        bucket.set_cumulative_count(*below);
        bucket
    };
    let mut histogram = prometheus::proto::Histogram::default();
    histogram.set_sample_count(snapshot.count);
    histogram.set_sample_sum(Duration::from_micros(snapshot.sum_us).as_secs_f64());
    histogram.set_bucket(LATENCY_BUCKETS_US.iter().zip(&snapshot.buckets).map(bucket).collect());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(families: &[MetricFamily]) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(families, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn an_empty_state_has_every_runner_state_at_zero() {
        let text = text(
            &state_families(&State::new())
                .into_iter()
                .filter(|f| !f.get_metric().is_empty())
                .collect::<Vec<_>>(),
        );
        for state in ShownState::ALL {
            assert!(
                text.contains(&format!("stratavore_runners{{state=\"{}\"}} 0", state.as_str())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_latency_snapshot_is_a_cumulative_histogram() {
        let mut snapshot = LatencySnapshot { count: 3, sum_us: 5_000_300, ..Default::default() };
        snapshot.buckets = [2; LATENCY_BUCKETS_US.len()];
        let text = text(&[latency("x_seconds", "Help.", &snapshot)]);
        assert!(text.contains("x_seconds_bucket{le=\"0.0001\"} 2"), "{text}");
        assert!(text.contains("x_seconds_bucket{le=\"+Inf\"} 3"), "{text}");
        assert!(text.contains("x_seconds_sum 5.0003"), "{text}");
    }
}
