//! Runners: what was asked for, what is known, and what a host needs to start one.

use stratavore_model::query::RunnerFilter;
use stratavore_model::runner::{
    Exit, OnDisconnect, RestartPolicy, RunnerRecord, RunnerSpec, RunnerState, ShownState,
};
use stratavore_model::{Epoch, Rejected, State, restart};
use stratavore_proto::v1;

use crate::convert::id;

/// A runner as the API shows it.
pub(crate) fn to_proto(record: &RunnerRecord, state: &State) -> v1::Runner {
    let shown = record.shown_state();
    let host = record.host.and_then(|host| state.host(host));
    let retry = record.retry.clone().unwrap_or_default();
    v1::Runner {
        id: record.id.to_string(),
        name: record.name.to_string(),
        project: record.project.to_string(),
        state: shown_state(shown) as i32,
        epoch: record.epoch.map(id::epoch),
        host: host.map(|host| host.name.to_string()).unwrap_or_default(),
        pid: record.pid,
        spec: Some(spec_to_proto(&record.spec)),
        created_at_unix_ms: id::millis(record.created_at),
        started_at_unix_ms: id::millis_or_zero(record.started_at),
        ended_at_unix_ms: id::millis_or_zero(record.ended_at),
        reason: reason(record),
        exit: record.exit.as_deref().map(exit_to_proto),
        created_by: record.created_by.to_string(),
        rev: record.rev,
        restarts: record.restarts,
        state_under_lost: if shown == ShownState::Lost { stored_state(record.state) as i32 } else { 0 },
        fence_weak: record.fence == stratavore_model::host::Fence::Weak,
        fence: record.fence.as_str().to_owned(),
        on_disconnect: on_disconnect(policy(record)) as i32,
        hold_ms: hold_ms(record, state),
        restart_attempts: retry.attempts,
        restart_limit: restart::limit(record.spec.restart).unwrap_or_default(),
        not_before_unix_ms: if retry.not_before.0 == 0 { 0 } else { id::millis(retry.not_before) },
        last_start: retry.last.map(|last| v1::LastStart {
            epoch: Some(id::epoch(last.epoch)),
            host: state.host(last.host).map(|host| host.name.to_string()).unwrap_or_default(),
            exit: Some(exit_to_proto(&last.exit)),
        }),
    }
}

/// What it was placed under, before that what was asked for, else the cluster's.
fn hold_ms(record: &RunnerRecord, state: &State) -> u64 {
    let default = || state.cluster().map_or(0, |cluster| cluster.lease.hold_ms);
    let fixed = [record.hold_ms, record.spec.hold_ms].into_iter().find(|ms| *ms != 0);
    fixed.unwrap_or_else(default)
}

/// Of one that is placed what its host can hold to (P11), before that what was asked for. What only passes, a first
/// start (P10) or a host that is still alone (P13), is not shown.
fn policy(record: &RunnerRecord) -> OnDisconnect {
    if record.host.is_some() { record.on_disconnect } else { record.spec.on_disconnect }
}

const fn on_disconnect(policy: OnDisconnect) -> v1::OnDisconnect {
    match policy {
        OnDisconnect::Keep => v1::OnDisconnect::Keep,
        OnDisconnect::Stop => v1::OnDisconnect::Stop,
    }
}

/// The overlay's reason when it is what people see.
fn reason(record: &RunnerRecord) -> String {
    match (record.shown_state(), record.lost) {
        (ShownState::Lost, Some(lost)) => lost.as_str().to_owned(),
        _ => record.reason.clone(),
    }
}

pub(crate) fn shown_state(state: ShownState) -> v1::RunnerState {
    match state {
        ShownState::Pending => v1::RunnerState::Pending,
        ShownState::Starting => v1::RunnerState::Starting,
        ShownState::Running => v1::RunnerState::Running,
        ShownState::Paused => v1::RunnerState::Paused,
        ShownState::Stopping => v1::RunnerState::Stopping,
        ShownState::Terminated => v1::RunnerState::Terminated,
        ShownState::Failed => v1::RunnerState::Failed,
        ShownState::Lost => v1::RunnerState::Lost,
    }
}

fn stored_state(state: RunnerState) -> v1::RunnerState {
    shown_state(ShownState::from(state))
}

/// Which runners a request means; no filter = all live ones.
///
/// # Errors
/// `bad_argument` or `bad_name` with the field.
pub(crate) fn filter_of(message: Option<v1::RunnerFilter>) -> Result<RunnerFilter, Rejected> {
    let message = message.unwrap_or_default();
    Ok(RunnerFilter {
        runners: message.runners,
        project: id::parse_optional("filter.project", &message.project)?,
        states: shown_states(&message.states)?,
        include_ended: message.include_ended,
    })
}

fn shown_states(numbers: &[i32]) -> Result<Vec<ShownState>, Rejected> {
    numbers
        .iter()
        .map(|number| {
            ShownState::ALL.into_iter().find(|state| shown_state(*state) as i32 == *number).ok_or_else(|| {
                Rejected::bad_argument("filter.states", format!("{number} is not a runner state"), "")
            })
        })
        .collect()
}

fn spec_to_proto(spec: &RunnerSpec) -> v1::RunnerSpec {
    v1::RunnerSpec {
        command: spec.command.clone(),
        env: env_to_proto(spec),
        workdir: spec.workdir.clone(),
        tty: spec.tty,
        slots: spec.slots,
        cpu_milli: spec.cpu_milli,
        memory_bytes: spec.memory_bytes,
        labels: spec.labels.clone(),
        host: spec.host.clone(),
        on_disconnect: on_disconnect(spec.on_disconnect) as i32,
        hold_ms: spec.hold_ms,
        restart: match spec.restart {
            RestartPolicy::Never => v1::RestartPolicy::Never,
            RestartPolicy::OnFailure => v1::RestartPolicy::OnFailure,
            RestartPolicy::Always => v1::RestartPolicy::Always,
        } as i32,
    }
}

fn env_to_proto(spec: &RunnerSpec) -> Vec<v1::EnvVar> {
    spec.env.iter().map(|(name, value)| v1::EnvVar { name: name.clone(), value: value.clone() }).collect()
}

/// What a launch asks for. Bounds are apply's to check; only what the model cannot express is refused here.
///
/// # Errors
/// `bad_argument` for unknown enum numbers.
pub(crate) fn spec_of(message: v1::RunnerSpec) -> Result<RunnerSpec, Rejected> {
    Ok(RunnerSpec {
        command: message.command,
        env: message.env.into_iter().map(|var| (var.name, var.value)).collect(),
        workdir: message.workdir,
        tty: message.tty,
        slots: message.slots,
        cpu_milli: message.cpu_milli,
        memory_bytes: message.memory_bytes,
        labels: message.labels,
        host: message.host,
        on_disconnect: on_disconnect_of(message.on_disconnect)?,
        hold_ms: message.hold_ms,
        restart: restart_of(message.restart)?,
    })
}

fn on_disconnect_of(number: i32) -> Result<OnDisconnect, Rejected> {
    match v1::OnDisconnect::try_from(number) {
        Ok(v1::OnDisconnect::Unspecified | v1::OnDisconnect::Keep) => Ok(OnDisconnect::Keep),
        Ok(v1::OnDisconnect::Stop) => Ok(OnDisconnect::Stop),
        Err(_) => Err(unknown_choice("spec.on_disconnect", number)),
    }
}

fn restart_of(number: i32) -> Result<RestartPolicy, Rejected> {
    match v1::RestartPolicy::try_from(number) {
        Ok(v1::RestartPolicy::Unspecified | v1::RestartPolicy::Never) => Ok(RestartPolicy::Never),
        Ok(v1::RestartPolicy::OnFailure) => Ok(RestartPolicy::OnFailure),
        Ok(v1::RestartPolicy::Always) => Ok(RestartPolicy::Always),
        Err(_) => Err(unknown_choice("spec.restart", number)),
    }
}

fn unknown_choice(field: &str, number: i32) -> Rejected {
    Rejected::bad_argument(
        field,
        format!("this node does not know the choice {number} for {field}"),
        "use a client of the same version as the nodes",
    )
}

/// Everything a host needs to start one epoch (P10: the order carries the host epoch).
pub(crate) fn start(record: &RunnerRecord, host_epoch: Epoch, kill_grace_ms: u64) -> v1::RunnerStart {
    v1::RunnerStart {
        command: record.spec.command.clone(),
        env: env_to_proto(&record.spec),
        workdir: record.spec.workdir.clone(),
        tty: record.spec.tty,
        cpu_milli: record.spec.cpu_milli,
        memory_bytes: record.spec.memory_bytes,
        project: record.project.to_string(),
        name: record.name.to_string(),
        host_epoch: Some(id::epoch(host_epoch)),
        keep: record.on_disconnect == OnDisconnect::Keep,
        hold_ms: record.hold_ms,
        kill_grace_ms,
    }
}

fn exit_to_proto(exit: &Exit) -> v1::Exit {
    v1::Exit {
        code: exit.code,
        signal: exit.signal,
        reason: exit.reason.clone(),
        core_dumped: exit.core_dumped,
        oom_killed: exit.oom_killed,
        user_cpu_ms: exit.user_cpu_ms,
        system_cpu_ms: exit.system_cpu_ms,
        max_rss_bytes: exit.max_rss_bytes,
        leftovers: exit.leftovers.clone(),
    }
}

pub(crate) fn exit_of(message: v1::Exit) -> Exit {
    Exit {
        code: message.code,
        signal: message.signal,
        reason: message.reason,
        core_dumped: message.core_dumped,
        oom_killed: message.oom_killed,
        user_cpu_ms: message.user_cpu_ms,
        system_cpu_ms: message.system_cpu_ms,
        max_rss_bytes: message.max_rss_bytes,
        leftovers: message.leftovers,
    }
}

/// A state as a host reports it; `None` for those that no host can report.
pub(crate) fn reported_state(number: i32) -> Option<RunnerState> {
    match v1::RunnerState::try_from(number).ok()? {
        v1::RunnerState::Starting => Some(RunnerState::Starting),
        v1::RunnerState::Running => Some(RunnerState::Running),
        v1::RunnerState::Paused => Some(RunnerState::Paused),
        v1::RunnerState::Stopping => Some(RunnerState::Stopping),
        v1::RunnerState::Terminated => Some(RunnerState::Terminated),
        v1::RunnerState::Failed => Some(RunnerState::Failed),
        v1::RunnerState::Unspecified | v1::RunnerState::Pending | v1::RunnerState::Lost => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shown_state_has_its_own_number() {
        let numbers: Vec<i32> = ShownState::ALL.iter().map(|state| shown_state(*state) as i32).collect();
        assert_eq!(shown_states(&numbers).unwrap().len(), ShownState::ALL.len());
        assert!(shown_states(&[0]).is_err());
        assert!(shown_states(&[99]).is_err());
    }

    #[test]
    fn a_spec_survives_the_round_trip() {
        let message = v1::RunnerSpec {
            command: vec!["sh".into(), "-c".into(), "true".into()],
            env: vec![v1::EnvVar { name: "A".into(), value: "1".into() }],
            workdir: "/tmp".into(),
            tty: true,
            slots: 2,
            cpu_milli: 500,
            memory_bytes: 1 << 20,
            labels: [("gpu".to_owned(), "yes".to_owned())].into(),
            host: "h1".into(),
            on_disconnect: v1::OnDisconnect::Stop as i32,
            hold_ms: 5,
            restart: v1::RestartPolicy::Always as i32,
        };
        assert_eq!(spec_to_proto(&spec_of(message.clone()).unwrap()), message);
        assert!(spec_of(v1::RunnerSpec { restart: 77, ..message }).is_err());
    }

    #[test]
    fn no_host_can_report_a_queue_or_an_overlay() {
        for state in [v1::RunnerState::Pending, v1::RunnerState::Lost, v1::RunnerState::Unspecified] {
            assert_eq!(reported_state(state as i32), None);
        }
        assert_eq!(reported_state(1234), None);
        assert_eq!(reported_state(v1::RunnerState::Failed as i32), Some(RunnerState::Failed));
    }
}
