//! `doctor`: looks at everything that could be wrong, from here, and says what to do about it.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use stratavore_proto::v1::{GetStatusResponse, Host, HostState};

use super::{App, OK, status};
use crate::args::Output;
use crate::client::{Client, Dialer};
use crate::context::{Target, chain};
use crate::errors::{Exit, Result};
use crate::local::machine;
use crate::view;
use crate::view::json::{self, List};
use crate::view::style::{BAD, CARE, GOOD, QUIET};
use crate::view::table::{Cell, Table, stdout_columns};

/// One endpoint answers within this, or is called silent.
const ENDPOINT_WITHIN: Duration = Duration::from_secs(3);

/// A certificate that ends sooner is worth a word.
const CERTIFICATE_DAYS_MIN: u64 = 14;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    name: String,
    verdict: Verdict,
    detail: String,
    next: Option<String>,
}

impl Check {
    /// All is well.
    pub(crate) fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Ok, detail: detail.into(), next: None }
    }

    /// It works, but less than it could.
    pub(crate) fn warn(name: impl Into<String>, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Warn, detail: detail.into(), next: Some(next.into()) }
    }

    /// It does not work.
    pub(crate) fn fail(name: impl Into<String>, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Fail, detail: detail.into(), next: Some(next.into()) }
    }
}

/// Runs every check; exit 1 when one fails.
///
/// # Errors
/// When stdout is closed.
pub(crate) async fn run(app: &App) -> Result<ExitCode> {
    let mut checks = machine::checks();
    match app.target() {
        Err(failure) => {
            let why = failure.render().lines().nth(1).unwrap_or_default().replace("cause: ", "");
            checks.push(Check::fail("context", why, "stratavore up, or stratavore login"));
        }
        Ok(target) => {
            checks.push(Check::ok("context", format!("{} ({})", target.name, target.file.display())));
            checks.extend(identity(target));
            checks.extend(endpoints(app, target).await);
            checks.extend(cluster(app).await);
        }
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    match app.output() {
        Output::Json => json::print(&List::new("CheckList", checks))?,
        Output::Table => view::print(&table(&checks))?,
    }
    if failed { Ok(Exit::Generic.into()) } else { OK }
}

fn table(checks: &[Check]) -> String {
    let mut table = Table::new(&["", "CHECK", "FOUND"]);
    for check in checks {
        let mark = match check.verdict {
            Verdict::Ok => Cell::styled(GOOD, "ok"),
            Verdict::Warn => Cell::styled(CARE, "warn"),
            Verdict::Fail => Cell::styled(BAD, "FAIL"),
        };
        table.row(vec![mark, check.name.as_str().into(), check.detail.as_str().into()]);
        if let Some(next) = &check.next {
            let next = crate::program::hinted(&format!("next: {next}"));
            table.row(vec!["".into(), "".into(), Cell::styled(QUIET, next)]);
        }
    }
    table.render(stdout_columns())
}

fn identity(target: &Target) -> Vec<Check> {
    let renew = "ask for a token (stratavore token create --role user), then stratavore login --replace";
    let credentials = match target.credentials() {
        Ok(credentials) => credentials,
        Err(failure) => {
            let why = failure.render().lines().nth(1).unwrap_or_default().replace("cause: ", "");
            return vec![Check::fail("identity", why, renew)];
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let who = credentials.identity().to_string();
    vec![match credentials.validity() {
        Ok(validity) if now > validity.not_after_unix_s => {
            Check::fail("identity", format!("{who}: the certificate has expired"), renew)
        }
        Ok(validity) if now < validity.not_before_unix_s => Check::fail(
            "identity",
            format!("{who}: the certificate is not valid yet, so this machine's clock is behind"),
            "set the clock",
        ),
        Ok(validity) => {
            let days = (validity.not_after_unix_s - now) / 86_400;
            let text = format!("{who}, for {days} more days");
            if days < CERTIFICATE_DAYS_MIN {
                Check::warn("identity", text, renew)
            } else {
                Check::ok("identity", text)
            }
        }
        Err(error) => Check::fail("identity", chain(&error), renew),
    }]
}

/// Every endpoint by itself, so that one dead node among living ones shows.
async fn endpoints(app: &App, target: &Target) -> Vec<Check> {
    let mut checks = Vec::new();
    let Ok(credentials) = target.credentials() else { return checks };
    let Ok(tls) = stratavore_certs::tls::grpc_client(&credentials) else { return checks };
    for endpoint in &target.endpoints {
        let name = format!("endpoint {endpoint}");
        let begin = std::time::Instant::now();
        let dialer = Dialer::new(vec![endpoint.clone()], std::sync::Arc::clone(&tls));
        let client = Client::new(dialer, Some(ENDPOINT_WITHIN), app.globals.debug);
        let asked = status::ask(&client, true, ENDPOINT_WITHIN).await;
        checks.push(match asked {
            Ok(answer) => {
                let ms = begin.elapsed().as_secs_f64() * 1000.0;
                Check::ok(
                    name,
                    format!("node {} replied to {} in {ms:.1} ms", answer.answered_by, answer.whoami),
                )
            }
            Err(failure) => {
                let why = failure.render().lines().nth(1).unwrap_or_default().replace("cause: ", "");
                Check::fail(name, why, "start that node, or correct the address (stratavore context list)")
            }
        });
    }
    checks
}

async fn cluster(app: &App) -> Vec<Check> {
    let Ok(status) = status::get(app, false).await else { return Vec::new() };
    let mut checks = vec![control_plane(&status)];
    checks.extend(
        status
            .alarms
            .iter()
            .map(|alarm| Check::warn("alarm", alarm.clone(), "stratavore events --type system.alert")),
    );
    if status.hosts.is_empty() {
        checks.push(Check::warn("hosts", "none has joined", "stratavore token create --role host"));
    }
    checks.extend(status.hosts.iter().flat_map(host));
    checks
}

fn control_plane(status: &GetStatusResponse) -> Check {
    let nodes = status.nodes.len();
    let reachable = status.nodes.iter().filter(|node| node.reachable).count();
    let text = format!(
        "{reachable} of {nodes} node{} reachable, history {}, up {}",
        if nodes == 1 { "" } else { "s" },
        status.history,
        view::cluster::uptime(status)
    );
    if !status.quorum {
        return Check::fail("control plane", format!("no quorum: {text}"), "start the missing nodes");
    }
    if reachable < nodes {
        return Check::warn("control plane", text, "start the missing nodes");
    }
    Check::ok("control plane", text)
}

/// What a host cannot do is named, with what follows from it.
fn host(host: &Host) -> Vec<Check> {
    let name = format!("host {}", host.name);
    match host.state() {
        HostState::Ready => {}
        HostState::Removed | HostState::Unspecified => return Vec::new(),
        state => {
            let word = view::host::state_word(state);
            return vec![Check::fail(name, word, "start its agent: stratavore-agent run --data-dir DIR")];
        }
    }
    let mut checks =
        vec![Check::ok(&name, format!("ready, {} of {} slots used", host.slots_used, host.slots))];
    checks.extend(lacks(host).into_iter().map(|(lack, next)| Check::warn(&name, lack, next)));
    checks
}

/// Features an agent reports, what their absence means, and how to get them.
const FEATURES: [(&str, &str, &str); 3] = [
    ("limit-memory", "cannot enforce --memory", "run the agent as root or with Delegate=yes, on cgroup v2"),
    ("limit-cpu", "cannot enforce --cpu", "run the agent as root or with Delegate=yes, on cgroup v2"),
    (
        "limit-pids",
        "cannot bound the number of processes",
        "run the agent as root or with Delegate=yes, on cgroup v2",
    ),
];

fn lacks(host: &Host) -> Vec<(String, String)> {
    let has = |feature: &str| host.features.iter().any(|f| f == feature);
    let mut lacks = Vec::new();
    if !has("cgroup2") && !has("pidns") {
        let why =
            "has neither cgroup v2 nor PID namespaces: its process trees are swept, not fenced (fence=weak)";
        lacks.push((why.to_owned(), "run the agent as root, or allow user namespaces".to_owned()));
    }
    for (feature, lack, next) in FEATURES {
        if !has(feature) {
            lacks.push((lack.to_owned(), next.to_owned()));
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_as_json() {
        let check = Check::warn("host a", "cannot enforce --memory", "do x");
        assert_eq!(
            serde_json::to_string(&check).unwrap(),
            r#"{"name":"host a","verdict":"warn","detail":"cannot enforce --memory","next":"do x"}"#
        );
    }

    #[test]
    fn what_a_host_cannot_do_is_named() {
        let bare = Host { state: HostState::Ready.into(), ..Default::default() };
        assert_eq!(host(&bare).len(), 5);
        let full =
            ["cgroup2", "pidns", "limit-memory", "limit-cpu", "limit-pids"].map(str::to_owned).to_vec();
        assert_eq!(host(&Host { features: full, ..bare.clone() }).len(), 1);
        let gone = Host { state: HostState::Unreachable.into(), ..bare };
        assert_eq!(host(&gone)[0].verdict, Verdict::Fail);
    }
}
