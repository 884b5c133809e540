//! Why a runner is where it is.

use stratavore_model::runner::RunnerRecord;
use stratavore_model::{Millis, State};
use stratavore_proto::v1;
use stratavore_scheduler::{HostVerdict, View};

use crate::convert::runner;

pub(crate) fn to_proto(record: &RunnerRecord, state: &State, now: Millis) -> v1::ExplainRunnerResponse {
    let explanation = stratavore_scheduler::explain(&View::of(state), record.id, now.max(state.now()));
    let (summary, hosts, queue_position) =
        explanation.map(|why| (why.summary, why.hosts, why.queue_position)).unwrap_or_default();
    let host = |verdict: HostVerdict| v1::HostVerdict {
        host: verdict.name,
        feasible: verdict.feasible,
        reasons: verdict.reasons,
        score: verdict.score,
    };
    v1::ExplainRunnerResponse {
        runner: Some(runner::to_proto(record, state)),
        summary,
        hosts: hosts.into_iter().map(host).collect(),
        queue_position,
    }
}

/// Why, in one sentence.
pub(crate) fn summary(record: &RunnerRecord, state: &State, now: Millis) -> String {
    stratavore_scheduler::explain(&View::of(state), record.id, now.max(state.now()))
        .map(|why| why.summary)
        .unwrap_or_default()
}
