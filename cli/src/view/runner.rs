//! Runners, as table, in detail, and as JSON.

use std::time::Duration;

use serde::Serialize;
use stratavore_proto::v1::{self, RunnerState};

use super::json::{self, List, known};
use super::style::{self, QUIET};
use super::table::{Cell, Table, fields};
use super::{event, time};
use crate::args::Output;
use crate::errors::Result;

/// The JSON shape of a runner; `null` means not known yet.
#[derive(Debug, Serialize)]
pub(crate) struct RunnerJson {
    id: String,
    name: String,
    project: String,
    state: &'static str,
    epoch: Option<String>,
    host: Option<String>,
    pid: Option<u32>,
    command: Vec<String>,
    on_disconnect: &'static str,
    /// How long it may live without contact; null for one that is kept.
    hold_ms: Option<u64>,
    restart: &'static str,
    /// All of them, by a person, a fence or the policy.
    restarts: u32,
    /// In a row by the policy.
    restart_attempts: u32,
    /// So many in a row at most; null = without limit, or no policy.
    restart_limit: Option<u32>,
    /// When the next start comes that is waited for.
    not_before: Option<String>,
    created_at: Option<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
    reason: Option<String>,
    /// How the start ended that the policy last followed.
    last_exit: Option<ExitJson>,
    exit: Option<ExitJson>,
}

impl From<&v1::Exit> for ExitJson {
    fn from(exit: &v1::Exit) -> Self {
        Self { code: exit.code, signal: exit.signal, reason: known(&exit.reason) }
    }
}

/// How a command ended; exactly one of code and signal is set.
#[derive(Debug, Serialize)]
pub(crate) struct ExitJson {
    code: Option<i32>,
    signal: Option<i32>,
    reason: Option<String>,
}

impl From<&v1::Runner> for RunnerJson {
    fn from(runner: &v1::Runner) -> Self {
        let spec = runner.spec.clone().unwrap_or_default();
        Self {
            id: runner.id.clone(),
            name: runner.name.clone(),
            project: runner.project.clone(),
            state: state_word(runner.state()),
            epoch: runner.epoch.map(|epoch| epoch_text(&epoch)),
            host: known(&runner.host),
            pid: (runner.pid != 0).then_some(runner.pid),
            on_disconnect: match runner.on_disconnect() {
                v1::OnDisconnect::Stop => "stop",
                v1::OnDisconnect::Keep | v1::OnDisconnect::Unspecified => "keep",
            },
            hold_ms: Some(runner.hold_ms)
                .filter(|ms| *ms > 0 && runner.on_disconnect() == v1::OnDisconnect::Stop),
            restart: match spec.restart() {
                v1::RestartPolicy::OnFailure => "on-failure",
                v1::RestartPolicy::Always => "always",
                v1::RestartPolicy::Never | v1::RestartPolicy::Unspecified => "never",
            },
            restarts: runner.restarts,
            restart_attempts: runner.restart_attempts,
            restart_limit: (runner.restart_limit != 0).then_some(runner.restart_limit),
            not_before: time::rfc3339(runner.not_before_unix_ms),
            command: spec.command,
            created_at: time::rfc3339(runner.created_at_unix_ms),
            started_at: time::rfc3339(runner.started_at_unix_ms),
            ended_at: time::rfc3339(runner.ended_at_unix_ms),
            reason: known(&runner.reason),
            last_exit: last_exit(runner).map(ExitJson::from),
            exit: runner.exit.as_ref().map(ExitJson::from),
        }
    }
}

/// Prints runners.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print(output: Output, runners: &[v1::Runner], verbose: bool) -> Result<()> {
    super::list(output, "RunnerList", runners.iter().map(RunnerJson::from).collect(), || {
        table(runners, verbose)
    })
}

/// Prints one runner with everything about it, and its newest events.
///
/// # Errors
/// When stdout is closed.
pub(crate) fn print_detail(output: Output, runner: &v1::Runner, events: &[v1::Event]) -> Result<()> {
    if output == Output::Json {
        return json::print(&List::new("RunnerList", vec![RunnerJson::from(runner)]));
    }
    let mut text = detail(runner);
    if !events.is_empty() {
        text.push('\n');
        text.push_str(&event::table(events).render(super::table::stdout_columns()));
    }
    super::print(&text)
}

/// The table of runners.
pub(crate) fn table(runners: &[v1::Runner], verbose: bool) -> Table {
    let mut heads = vec!["NAME", "ID", "PROJECT", "STATE", "HOST", "AGE"];
    if verbose {
        heads.extend(["EPOCH", "PID", "RESTARTS", "BY"]);
    }
    heads.extend(["REASON", "COMMAND"]);
    let mut table = Table::new(&heads);
    for runner in runners {
        let state = runner.state();
        let mut row: Vec<Cell> = vec![
            runner.name.as_str().into(),
            runner.id.as_str().into(),
            runner.project.as_str().into(),
            Cell::styled(style::of_state(state), state_word(state)),
            dash(&runner.host),
            time::age(runner.created_at_unix_ms).into(),
        ];
        if verbose {
            row.extend([
                dash(&runner.epoch.as_ref().map(epoch_text).unwrap_or_default()),
                dash(&if runner.pid == 0 { String::new() } else { runner.pid.to_string() }),
                runner.restarts.to_string().into(),
                runner.created_by.as_str().into(),
            ]);
        }
        row.push(dash(&why(runner)));
        row.push(command_text(runner).into());
        table.row(row);
    }
    table
}

fn dash(text: &str) -> Cell {
    if text.is_empty() { Cell::styled(QUIET, "-") } else { text.into() }
}

/// The exit for people when there is one, else the reason for the state; of one that its policy has started again, how
/// often.
fn why(runner: &v1::Runner) -> String {
    let again = runner.restart_attempts > 0;
    match &runner.exit {
        Some(exit) if gave_up(runner) => {
            format!("{} after {} restarts", exit_text(exit), runner.restart_limit)
        }
        Some(exit) => exit_text(exit),
        None if runner.state() == RunnerState::Pending && runner.not_before_unix_ms != 0 => {
            next_start(runner)
        }
        None if again && runner.reason.is_empty() => count_text(runner),
        None => runner.reason.clone(),
    }
}

/// The reason of one whose policy has given up.
const RESTART_LIMIT: &str = "restart_limit";

/// Whether its policy has restarted it too often in a row.
pub(crate) fn gave_up(runner: &v1::Runner) -> bool {
    is_ended(runner) && runner.reason == RESTART_LIMIT
}

/// `restart 2 of 3`.
fn count_text(runner: &v1::Runner) -> String {
    let attempts = runner.restart_attempts;
    match runner.restart_limit {
        0 => format!("restart {attempts}"),
        limit => format!("restart {attempts} of {limit}"),
    }
}

/// How the start before ended and when the next one comes: `exited with 1; restart 2 of 3 in 4s`.
pub(crate) fn next_start(runner: &v1::Runner) -> String {
    let how = last_exit(runner).map_or_else(|| runner.reason.clone(), exit_text);
    let left = time::until(runner.not_before_unix_ms);
    format!("{how}; {} in {left}", count_text(runner))
}

fn last_exit(runner: &v1::Runner) -> Option<&v1::Exit> {
    runner.last_start.as_ref().and_then(|last| last.exit.as_ref())
}

fn detail(runner: &v1::Runner) -> String {
    let spec = runner.spec.clone().unwrap_or_default();
    let exit = runner.exit.clone().unwrap_or_default();
    let state = runner.state();
    let beneath = match runner.state_under_lost() {
        RunnerState::Unspecified => String::new(),
        word => format!(" (last reported {})", state_word(word)),
    };
    let labels = spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ");
    let limits = [
        (spec.cpu_milli != 0).then(|| format!("cpu {}", f64::from(spec.cpu_milli) / 1000.0)),
        (spec.memory_bytes != 0).then(|| format!("memory {} MiB", spec.memory_bytes >> 20)),
    ];
    let at = |ms: i64| time::rfc3339(ms).unwrap_or_default();
    let json = RunnerJson::from(runner);
    let on_disconnect = on_disconnect_text(runner, &json);
    fields(&[
        ("name", runner.name.as_str().into()),
        ("id", runner.id.as_str().into()),
        ("project", runner.project.as_str().into()),
        ("state", Cell::styled(style::of_state(state), format!("{}{beneath}", state_word(state)))),
        ("reason", runner.reason.as_str().into()),
        ("exit", runner.exit.as_ref().map(exit_text).unwrap_or_default().into()),
        ("leftovers", exit.leftovers.join(", ").into()),
        ("usage", usage_text(&exit).into()),
        ("host", runner.host.as_str().into()),
        ("epoch", json.epoch.unwrap_or_default().into()),
        ("pid", if runner.pid == 0 { "".into() } else { runner.pid.to_string().into() }),
        ("command", command_text(runner).into()),
        ("directory", spec.workdir.as_str().into()),
        ("terminal", if spec.tty { "yes".into() } else { "no (pipes)".into() }),
        ("slots", spec.slots.to_string().into()),
        ("limits", limits.into_iter().flatten().collect::<Vec<_>>().join(", ").into()),
        ("only on", spec.host.as_str().into()),
        ("labels", labels.into()),
        ("on disconnect", on_disconnect.into()),
        ("restart", restart_text(runner, json.restart).into()),
        ("last start", last_start_text(runner).into()),
        ("fence", runner.fence.as_str().into()),
        ("created", format!("{} by {}", at(runner.created_at_unix_ms), runner.created_by).into()),
        ("started", at(runner.started_at_unix_ms).into()),
        ("ended", at(runner.ended_at_unix_ms).into()),
    ])
}

/// The policy, how far it is, and when the next start comes.
fn restart_text(runner: &v1::Runner, policy: &str) -> String {
    let mut text = format!("{policy}, {} so far", runner.restarts);
    if runner.restart_limit > 0 {
        text.push_str(&format!(", {} of {} in a row", runner.restart_attempts, runner.restart_limit));
    } else if runner.restart_attempts > 0 {
        text.push_str(&format!(", {} in a row", runner.restart_attempts));
    }
    if runner.state() == RunnerState::Pending && runner.not_before_unix_ms != 0 {
        text.push_str(&format!(", the next in {}", time::until(runner.not_before_unix_ms)));
    }
    text
}

/// The start that the policy last followed; its output is still to be had.
fn last_start_text(runner: &v1::Runner) -> String {
    let Some(last) = &runner.last_start else { return String::new() };
    let how = last.exit.as_ref().map(exit_text).unwrap_or_default();
    let epoch = last.epoch.as_ref().map(epoch_text).unwrap_or_default();
    let host = if last.host.is_empty() { String::new() } else { format!(" on {}", last.host) };
    format!("{how}; it was {epoch}{host} (logs --previous)")
}

fn on_disconnect_text(runner: &v1::Runner, json: &RunnerJson) -> String {
    let asked = runner.spec.as_ref().map(v1::RunnerSpec::on_disconnect);
    if json.on_disconnect == "keep" && asked == Some(v1::OnDisconnect::Stop) {
        return "keep (stop was asked for, but its host cannot fence)".to_owned();
    }
    match json.hold_ms.map(Duration::from_millis) {
        Some(hold) => {
            format!("{} after {} without contact", json.on_disconnect, humantime::format_duration(hold))
        }
        None => json.on_disconnect.to_owned(),
    }
}

fn usage_text(exit: &v1::Exit) -> String {
    if exit.user_cpu_ms + exit.system_cpu_ms + exit.max_rss_bytes == 0 {
        return String::new();
    }
    let seconds = |ms: u64| ms as f64 / 1000.0;
    let (user, system) = (seconds(exit.user_cpu_ms), seconds(exit.system_cpu_ms));
    format!("cpu {user:.2}s user, {system:.2}s system; memory {} MiB at most", exit.max_rss_bytes >> 20)
}

/// The command as one would type it.
pub(crate) fn command_text(runner: &v1::Runner) -> String {
    let command = runner.spec.as_ref().map(|spec| spec.command.as_slice()).unwrap_or_default();
    if command.is_empty() {
        return "$SHELL".to_owned();
    }
    command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// How a command ended, for people: `exited with 3`, `killed by signal 9 (stop_requested)`.
pub(crate) fn exit_text(exit: &v1::Exit) -> String {
    let how = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("ended by signal {signal}"),
        (Some(code), None) => format!("exited with {code}"),
        (None, None) => return exit.reason.clone(),
    };
    match exit.reason.as_str() {
        "" | "exited" | "signaled" => how,
        reason => format!("{how} ({reason})"),
    }
}

/// `1.42`.
pub(crate) fn epoch_text(epoch: &v1::Epoch) -> String {
    format!("{}.{}", epoch.incarnation, epoch.index)
}

/// The word for a state, as in tables, JSON and flags.
pub(crate) fn state_word(state: RunnerState) -> &'static str {
    match state {
        RunnerState::Pending => "pending",
        RunnerState::Starting => "starting",
        RunnerState::Running => "running",
        RunnerState::Paused => "paused",
        RunnerState::Stopping => "stopping",
        RunnerState::Terminated => "terminated",
        RunnerState::Failed => "failed",
        RunnerState::Lost => "lost",
        RunnerState::Unspecified => "unknown",
    }
}

/// Terminated or failed.
pub(crate) fn is_ended(runner: &v1::Runner) -> bool {
    matches!(runner.state(), RunnerState::Terminated | RunnerState::Failed)
}

#[cfg(test)]
mod tests {
    use super::super::json::tests::compact;
    use super::*;

    fn running() -> v1::Runner {
        v1::Runner {
            id: "abcdefghjk".to_owned(),
            name: "demo-1".to_owned(),
            project: "demo".to_owned(),
            state: RunnerState::Running.into(),
            epoch: Some(v1::Epoch { incarnation: 1, index: 42 }),
            host: "alpha".to_owned(),
            pid: 4711,
            spec: Some(v1::RunnerSpec {
                command: vec!["bash".to_owned()],
                tty: true,
                slots: 1,
                ..Default::default()
            }),
            created_at_unix_ms: 1_700_000_000_000,
            started_at_unix_ms: 1_700_000_001_500,
            ..Default::default()
        }
    }

    #[test]
    fn a_running_runner_as_json() {
        assert_eq!(
            compact(&List::new("RunnerList", vec![RunnerJson::from(&running())])),
            concat!(
                r#"{"apiVersion":"stratavore.v1","kind":"RunnerList","items":[{"id":"abcdefghjk","name":"demo-1","#,
                r#""project":"demo","state":"running","epoch":"1.42","host":"alpha","pid":4711,"command":["bash"],"#,
                r#""on_disconnect":"keep","hold_ms":null,"restart":"never","restarts":0,"restart_attempts":0,"#,
                r#""restart_limit":null,"not_before":null,"created_at":"2023-11-14T22:13:20.000Z","#,
                r#""started_at":"2023-11-14T22:13:21.500Z","ended_at":null,"reason":null,"last_exit":null,"exit":null}]}"#
            )
        );
    }

    #[test]
    fn a_pending_runner_knows_little() {
        let pending = v1::Runner {
            id: "abcdefghjk".to_owned(),
            name: "demo-1".to_owned(),
            project: "demo".to_owned(),
            state: RunnerState::Pending.into(),
            reason: "quota_reached".to_owned(),
            created_at_unix_ms: 1_700_000_000_000,
            ..Default::default()
        };
        assert_eq!(
            compact(&RunnerJson::from(&pending)),
            concat!(
                r#"{"id":"abcdefghjk","name":"demo-1","project":"demo","state":"pending","epoch":null,"host":null,"#,
                r#""pid":null,"command":[],"on_disconnect":"keep","hold_ms":null,"restart":"never","restarts":0,"#,
                r#""restart_attempts":0,"restart_limit":null,"not_before":null,"#,
                r#""created_at":"2023-11-14T22:13:20.000Z","started_at":null,"ended_at":null,"#,
                r#""reason":"quota_reached","last_exit":null,"exit":null}"#
            )
        );
    }

    #[test]
    fn an_exit_has_a_code_or_a_signal() {
        let mut ended = running();
        ended.exit = Some(v1::Exit { code: Some(3), reason: "exited".to_owned(), ..Default::default() });
        assert!(
            compact(&RunnerJson::from(&ended))
                .ends_with(r#""exit":{"code":3,"signal":null,"reason":"exited"}}"#)
        );
        ended.exit = Some(v1::Exit { signal: Some(9), reason: "killed".to_owned(), ..Default::default() });
        assert!(
            compact(&RunnerJson::from(&ended))
                .ends_with(r#""exit":{"code":null,"signal":9,"reason":"killed"}}"#)
        );
        assert_eq!(exit_text(&ended.exit.unwrap()), "ended by signal 9 (killed)");
    }

    #[test]
    fn a_restart_policy_is_shown_with_what_comes_next() {
        let mut runner = running();
        let exit = v1::Exit { code: Some(7), reason: "exited".to_owned(), ..Default::default() };
        let last = v1::LastStart {
            epoch: Some(v1::Epoch { incarnation: 1, index: 9 }),
            host: "alpha".to_owned(),
            exit: Some(exit.clone()),
        };
        runner.state = RunnerState::Pending.into();
        runner.spec.as_mut().unwrap().restart = v1::RestartPolicy::OnFailure.into();
        (runner.restarts, runner.restart_attempts, runner.restart_limit) = (2, 2, 3);
        (runner.not_before_unix_ms, runner.last_start) = (1_700_000_004_000, Some(last));
        assert_eq!(why(&runner), "exited with 7; restart 2 of 3 in 0s");
        let json = compact(&RunnerJson::from(&runner));
        assert!(
            json.contains(
                r#""restart":"on-failure","restarts":2,"restart_attempts":2,"restart_limit":3,"not_before":"2023-11-14T22:13:24.000Z","#
            ),
            "{json}"
        );
        assert!(json.contains(r#""last_exit":{"code":7,"signal":null,"reason":"exited"},"#), "{json}");
        let text = anstream::adapter::strip_str(&detail(&runner)).to_string();
        assert!(text.contains("on-failure, 2 so far, 2 of 3 in a row, the next in 0s"), "{text}");
        assert!(text.contains("exited with 7; it was 1.9 on alpha (logs --previous)"), "{text}");
        runner.state = RunnerState::Failed.into();
        (runner.exit, runner.reason) = (Some(exit), RESTART_LIMIT.to_owned());
        assert_eq!(why(&runner), "exited with 7 after 3 restarts");
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut runner = running();
        runner.spec.as_mut().unwrap().command = ["sh", "-c", "echo 'a b'", ""].map(str::to_owned).to_vec();
        assert_eq!(command_text(&runner), r"sh -c 'echo '\''a b'\''' ''");
    }

    #[test]
    fn the_hold_of_a_replaceable_runner_is_shown() {
        let mut runner = running();
        let asked = v1::OnDisconnect::Stop.into();
        (runner.on_disconnect, runner.hold_ms) = (asked, 90_000);
        assert!(compact(&RunnerJson::from(&runner)).contains(r#""on_disconnect":"stop","hold_ms":90000,"#));
        let text = |runner: &v1::Runner| anstream::adapter::strip_str(&detail(runner)).to_string();
        assert!(text(&runner).contains("stop after 1m 30s without contact"), "{}", text(&runner));
        runner.on_disconnect = v1::OnDisconnect::Keep.into();
        runner.spec.as_mut().unwrap().on_disconnect = asked;
        assert!(text(&runner).contains("its host cannot fence"), "{}", text(&runner));
        assert!(compact(&RunnerJson::from(&runner)).contains(r#""on_disconnect":"keep","hold_ms":null,"#));
    }

    #[test]
    fn details_leave_out_what_is_unknown() {
        let text = anstream::adapter::strip_str(&detail(&running())).to_string();
        assert!(text.contains("epoch          1.42\n"), "{text}");
        assert!(!text.contains("ended") && !text.contains("leftovers"), "{text}");
    }
}
