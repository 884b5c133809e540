//! Bounds of what a command may carry, each with its argument, and their checks.

use crate::cluster::ClusterRecord;
use crate::command::{FENCES_SINCE, RESTARTS_SINCE};
use crate::host::Labels;
use crate::reply::{Code, Rejected};
use crate::runner::{OnDisconnect, RestartPolicy, RunnerSpec};

/// argv + environment of a runner (P23): what fits an entry many times over.
pub const SPEC_BYTES_MAX: usize = 48 * 1024;

/// Arguments of a command; more belongs into a file.
pub const ARGV_MAX: usize = 256;

/// Linux' PATH_MAX.
pub const PATH_BYTES_MAX: usize = 4096;

/// Labels of a host or a requirement: each is a metric label and a table column somewhere.
pub const LABELS_MAX: usize = 32;

/// Epochs that one fence or one confirmed reboot names; further entries name the rest.
pub const COVERED_MAX: usize = 4096;

/// P13: a planned absence of the control plane; what takes longer is better done node by node.
pub const MAINTENANCE_MS_MAX: u64 = 30 * 60 * 1000;

/// Slots of a host or a runner: one host holds at most some ten thousand idle sessions.
pub const SLOTS_MAX: u32 = 100_000;

/// Runners that are not ended, in the whole cluster, the queue included: ten times the largest farm aimed at.
pub const RUNNERS_LIVE_MAX: usize = 200_000;

/// Projects; every one is a metric label.
pub const PROJECTS_MAX: usize = 10_000;

/// Hosts that are not removed.
pub const HOSTS_MAX: usize = 20_000;

/// Tokens, used and expired ones until they are trimmed included.
pub const TOKENS_MAX: usize = 10_000;

/// Users.
pub const USERS_MAX: usize = 10_000;

/// Text that a host or a person adds to a record (reasons, versions, feature words).
pub const TEXT_BYTES_MAX: usize = 1024;

/// Rows that one launch may write: count x spec.
pub const LAUNCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// `text` cut to [`TEXT_BYTES_MAX`] at a character.
pub(crate) fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// An absolute path that an `exec` can take.
pub(crate) fn check_path(field: &str, path: &str) -> Result<(), Rejected> {
    let next = "give an absolute directory, for example /srv/app";
    if !path.starts_with('/') {
        return Err(Rejected::bad_argument(field, format!("{path:?} is not an absolute path"), next));
    }
    if path.len() > PATH_BYTES_MAX || path.contains('\0') {
        let message = format!("the path is longer than {PATH_BYTES_MAX} bytes or holds a NUL byte");
        return Err(Rejected::bad_argument(field, message, next));
    }
    Ok(())
}

/// An argv, which may be empty (then something else supplies it).
pub(crate) fn check_command(field: &str, command: &[String]) -> Result<(), Rejected> {
    let next = "give a program and its arguments after --";
    let bad = |message: String| Err(Rejected::bad_argument(field, message, next));
    if command.len() > ARGV_MAX {
        return bad(format!("{} arguments are more than {ARGV_MAX}", command.len()));
    }
    if command.first().is_some_and(String::is_empty) {
        return bad("the program's name is empty".into());
    }
    if command.iter().any(|argument| argument.contains('\0')) {
        return bad("an argument holds a NUL byte".into());
    }
    if command.iter().map(String::len).sum::<usize>() > SPEC_BYTES_MAX {
        return bad(format!("the arguments are longer than {SPEC_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn label_text(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    text.len() <= crate::NAME_BYTES_MAX && text.bytes().all(allowed)
}

/// Labels as they may stand on a host.
pub(crate) fn check_labels(field: &str, labels: &Labels) -> Result<(), Rejected> {
    let next = "labels are KEY=VALUE of letters, digits and - _ . /, at most 63 characters each";
    if labels.len() > LABELS_MAX {
        let message = format!("{} labels are more than {LABELS_MAX}", labels.len());
        return Err(Rejected::bad_argument(field, message, next));
    }
    match labels.iter().find(|(key, value)| key.is_empty() || !label_text(key) || !label_text(value)) {
        Some((key, value)) => {
            let message = format!("{:?} is not a valid label", bounded(&format!("{key}={value}")));
            Err(Rejected::bad_argument(field, message, next))
        }
        None => Ok(()),
    }
}

fn check_env(env: &[(String, String)]) -> Result<(), Rejected> {
    let bad_name = |name: &str| name.is_empty() || name.contains(['=', '\0']);
    match env.iter().find(|(name, value)| bad_name(name) || value.contains('\0')) {
        Some((name, _)) => {
            let message = format!("{:?} is not a valid environment variable", bounded(name));
            Err(Rejected::bad_argument("spec.env", message, "give NAME=VALUE without NUL bytes"))
        }
        None => Ok(()),
    }
}

/// Bytes of argv and environment, as P23 counts them.
pub(crate) fn spec_bytes(spec: &RunnerSpec) -> usize {
    let argv: usize = spec.command.iter().map(|argument| argument.len() + 1).sum();
    let env: usize = spec.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    argv + env
}

/// A spec with its project's defaults filled in.
pub(crate) fn check_spec(spec: &RunnerSpec) -> Result<(), Rejected> {
    check_command("spec.command", &spec.command)?;
    check_env(&spec.env)?;
    let bytes = spec_bytes(spec);
    if bytes > SPEC_BYTES_MAX {
        let message = format!("command and environment take {bytes} bytes, more than {SPEC_BYTES_MAX}");
        let next = "put large input into a file on the host";
        return Err(Rejected::bad_argument("spec.env", message, next));
    }
    check_path("spec.workdir", &spec.workdir)?;
    check_labels("spec.labels", &spec.labels)?;
    if spec.slots > SLOTS_MAX {
        let message = format!("{} slots are more than {SLOTS_MAX}", spec.slots);
        return Err(Rejected::bad_argument("spec.slots", message, "ask for fewer slots"));
    }
    check_policies(spec)
}

/// What restarts by itself must be replaceable (P9).
fn check_policies(spec: &RunnerSpec) -> Result<(), Rejected> {
    if spec.restart != RestartPolicy::Never && spec.on_disconnect == OnDisconnect::Keep {
        let message = "a runner that restarts by itself cannot be kept when its host is lost";
        let next = "ask for on_disconnect stop, or for restart never";
        return Err(Rejected::bad_argument("spec.on_disconnect", message, next));
    }
    Ok(())
}

/// P22: older members know no policy.
pub(crate) fn check_restart(spec: &RunnerSpec, cluster: &ClusterRecord) -> Result<(), Rejected> {
    if spec.restart == RestartPolicy::Never || cluster.version >= RESTARTS_SINCE {
        return Ok(());
    }
    let message =
        "--restart on-failure|always needs a cluster version that this cluster has not been finalized for";
    let next = "run `stratavore cluster finalize`, or leave it out";
    Err(Rejected::new(Code::NotFinalized, message, next).field("spec.restart"))
}

/// P9: what a launch asks for against what the cluster can hold. 0 = the cluster's.
pub(crate) fn check_hold(spec: &RunnerSpec, cluster: &ClusterRecord) -> Result<(), Rejected> {
    if spec.on_disconnect == OnDisconnect::Stop && cluster.version < FENCES_SINCE {
        let message = "--on-disconnect stop needs fences, which this cluster has not been finalized for";
        let next = "run `stratavore cluster finalize`, or leave it at keep";
        return Err(Rejected::new(Code::NotFinalized, message, next).field("spec.on_disconnect"));
    }
    let lease = &cluster.lease;
    if spec.hold_ms != 0 && !(lease.ttl_ms..=lease.hold_max_ms).contains(&spec.hold_ms) {
        let (hold, ttl, max) = (spec.hold_ms, lease.ttl_ms, lease.hold_max_ms);
        let message = format!("a hold of {hold} ms is not between the lease, {ttl} ms, and {max} ms");
        return Err(Rejected::bad_argument("spec.hold_ms", message, "choose one between, or leave it out"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RunnerSpec {
        RunnerSpec { workdir: "/srv".into(), slots: 1, ..RunnerSpec::default() }
    }

    fn refused(spec: &RunnerSpec) -> (Code, String) {
        let rejected = check_spec(spec).unwrap_err();
        (rejected.code, rejected.field.unwrap())
    }

    #[test]
    fn each_bound_names_its_field() {
        assert_eq!(check_spec(&good()), Ok(()));
        let cases = [
            (RunnerSpec { workdir: "srv".into(), ..good() }, "spec.workdir"),
            (RunnerSpec { workdir: format!("/{}", "x".repeat(4096)), ..good() }, "spec.workdir"),
            (RunnerSpec { command: vec![String::new()], ..good() }, "spec.command"),
            (RunnerSpec { command: vec!["a\0".into()], ..good() }, "spec.command"),
            (RunnerSpec { command: vec!["a".into(); 257], ..good() }, "spec.command"),
            (RunnerSpec { env: vec![("A=B".into(), "c".into())], ..good() }, "spec.env"),
            (RunnerSpec { env: vec![("A".into(), "x".repeat(49_152))], ..good() }, "spec.env"),
            (RunnerSpec { labels: Labels::from([("ä".into(), "b".into())]), ..good() }, "spec.labels"),
            (RunnerSpec { slots: SLOTS_MAX + 1, ..good() }, "spec.slots"),
        ];
        for (spec, field) in cases {
            assert_eq!(refused(&spec), (Code::BadArgument, field.to_owned()));
        }
    }

    #[test]
    fn p9_a_restart_policy_goes_with_stop_only() {
        let restart = RunnerSpec { restart: RestartPolicy::OnFailure, ..good() };
        assert_eq!(refused(&restart), (Code::BadArgument, "spec.on_disconnect".to_owned()));
        assert_eq!(check_spec(&RunnerSpec { on_disconnect: OnDisconnect::Stop, ..restart }), Ok(()));
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(bounded("kurz"), "kurz");
        let long = "ä".repeat(TEXT_BYTES_MAX);
        assert_eq!(bounded(&long).len(), TEXT_BYTES_MAX);
    }
}
