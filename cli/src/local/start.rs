//! `up`: makes what is missing, starts the supervisor, and waits until everything answers.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_proto::v1::{Host, HostState};
use stratavore_settings::context::{Context, Contexts};
use tokio::process::Command;

use super::child::{self, last_words};
use super::ports::{self, Ports};
use super::process::Process;
use super::programs::Programs;
use super::record::{Member, Record};
use super::{CONTEXT, Layout};
use crate::args::{Globals, TokenRole, UpArgs};
use crate::cmd::App;
use crate::cmd::context::read_single;
use crate::cmd::token::{self, Wanted};
use crate::cmd::{hosts, status};
use crate::context::{chain, contexts_file};
use crate::errors::{Exit, Failure, Result};
use crate::view;

/// From nothing to ready; a cold start under load takes a few seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks at something that is starting.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// The supervisor writes its number within this.
const SUPERVISOR_WITHIN: Duration = Duration::from_secs(10);

/// A member that died this often while we wait will not come up by itself.
const DEATHS_MAX: u32 = 3;

/// Refuses what this release cannot do, or what differs from the cluster that is there.
///
/// # Errors
/// Exit 2 for a count that cannot be, 5 for one that is not this cluster's.
pub(crate) fn check_counts(args: &UpArgs, present: Option<&Record>) -> Result<()> {
    if args.nodes.is_multiple_of(2) && !args.allow_even {
        return Err(Failure::usage(format!("{} nodes are refused", args.nodes))
            .cause("an even number of nodes survives no more failures than one fewer")
            .next("give an odd number, or --allow-even"));
    }
    if args.nodes > 1 {
        return Err(Failure::usage("--nodes above 1 is not available in this release")
            .cause("clusters of several nodes arrive with the next release")
            .next("stratavore up --nodes 1"));
    }
    if args.agents > 1 {
        let next = match present {
            None => "stratavore up --agents 1",
            Some(_) => "stratavore up for the cluster that is there; stratavore down first for another one",
        };
        return Err(Failure::usage("--agents above 1 is not available in this release")
            .cause("local clusters of several hosts arrive with the next release")
            .next(next));
    }
    let Some(present) = present else { return Ok(()) };
    let (nodes, agents) = (present.nodes.len(), present.agents.len());
    if nodes != args.nodes as usize || agents != args.agents as usize {
        return Err(Failure::new(Exit::Conflict, "the local cluster has another size")
            .cause(format!("it has {nodes} node(s) and {agents} agent(s)"))
            .next("stratavore down first (with --purge to begin anew), then up again"));
    }
    Ok(())
}

/// Makes the record, the first node and the context, whatever of them is missing.
///
/// # Errors
/// Taken ports, a full disk, or what `stratavored init` says.
pub(crate) async fn prepare(
    globals: &Globals,
    layout: &Layout,
    programs: &Programs,
    args: &UpArgs,
) -> Result<Record> {
    let record = match Record::load(layout)? {
        Some(record) => {
            check_counts(args, Some(&record))?;
            record
        }
        None => {
            let free = |kind, port| ports::is_free(args.listen, kind, port);
            let ports = ports::choose(args.ports, args.nodes, free)?;
            let record = Record::new(layout, args.listen, &ports, args.agents);
            save(&record, layout)?;
            record
        }
    };
    for node in &record.nodes {
        if !layout.is_initialised(&node.name) {
            init(layout, programs, node, args.listen).await?;
        }
    }
    write_context(globals, layout, &record)?;
    Ok(record)
}

fn save(record: &Record, layout: &Layout) -> Result<()> {
    record.save(layout).map_err(|error| {
        Failure::new(Exit::Generic, format!("cannot write {}", layout.record().display()))
            .cause(error.to_string())
            .next("make room on the disk")
    })
}

async fn init(layout: &Layout, programs: &Programs, node: &Member, listen: std::net::IpAddr) -> Result<()> {
    let mut command = Command::new(&programs.node);
    command.arg("init").arg("--data-dir").arg(&node.data_dir).arg("--advertise").arg(listen.to_string());
    command.args(node.ports.map(Ports::flags).unwrap_or_default());
    run_tool(command, &layout.log(&node.name), "make the first node").await
}

/// Runs a program to its end; its three lines become ours when it fails.
async fn run_tool(mut command: Command, log: &Path, doing: &str) -> Result<()> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |why: String| Failure::new(Exit::Generic, format!("cannot {doing}")).cause(why);
    let output = command.output().await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = |label: &str| {
        said.lines().rev().find_map(|line| line.strip_prefix(label)).map(|l| l.trim().to_owned())
    };
    let Some(error) = line("error:") else {
        let last = said.lines().last().unwrap_or("it said nothing").to_owned();
        return Err(failed(format!("{last} ({})", output.status)).next(format!("see {}", log.display())));
    };
    let cause = line("cause:").map_or_else(|| error.clone(), |cause| format!("{error}: {cause}"));
    Err(failed(cause).next(line("next:").unwrap_or_else(|| "stratavore doctor".to_owned())))
}

/// The context `local`, current, with the ports that were taken.
fn write_context(globals: &Globals, layout: &Layout, record: &Record) -> Result<()> {
    let Some(first) = record.nodes.first() else { return Ok(()) };
    let admin = read_single(&layout.data(&first.name).join("admin.yaml"))?;
    let endpoints = record.nodes.iter().filter_map(|node| node.ports);
    let endpoints =
        endpoints.map(|ports| std::net::SocketAddr::from((record.listen, ports.grpc)).to_string());
    let context = Context { endpoints: endpoints.collect(), ..admin };
    let file = contexts_file(globals)?;
    Contexts::edit(&file, |contexts| contexts.put(CONTEXT, context, true)).map_err(|error| {
        Failure::new(Exit::Generic, "cannot write the context of the local cluster")
            .cause(chain(&error))
            .next("check the permissions of the contexts file")
    })
}

/// Starts a supervisor unless one lives; one that lives is told to look again.
///
/// # Errors
/// When it does not come up.
pub(crate) async fn ensure_supervisor(layout: &Layout, record: &Record) -> Result<()> {
    if let Some(supervisor) = record.live_supervisor() {
        return nudge(supervisor);
    }
    let failed = |why: String| Failure::new(Exit::Generic, "cannot start the supervisor").cause(why);
    let own = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let log = child::open_log(&layout.log("supervisor")).map_err(|error| failed(error.to_string()))?;
    let log_too = log.try_clone().map_err(|error| failed(error.to_string()))?;
    let mut child = Command::new(own)
        .arg("supervise")
        .arg("--state")
        .arg(layout.root())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        .current_dir(layout.root())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let begin = Instant::now();
    loop {
        let known = Record::load(layout)?.and_then(|record| record.live_supervisor());
        if known.is_some_and(|supervisor| Some(supervisor.pid) == child.id()) {
            return Ok(());
        }
        let ended = child.try_wait().map_err(|error| failed(error.to_string()))?;
        if ended.is_some() || begin.elapsed() > SUPERVISOR_WITHIN {
            return Err(failed(last_words(&layout.log("supervisor"))));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn nudge(supervisor: Process) -> Result<()> {
    supervisor.signal(Signal::USR1).map_err(|error| {
        Failure::new(Exit::Permission, "cannot reach the supervisor of the local cluster")
            .cause(error.to_string())
    })
}

/// Waits for the nodes, lets the agents join, and waits for their hosts.
///
/// # Errors
/// Exit 8 when it takes too long; the words of what died otherwise.
pub(crate) async fn until_ready(app: &App, layout: &Layout, programs: &Programs) -> Result<()> {
    let within = app.globals.timeout.unwrap_or(READY_WITHIN);
    let begin = Instant::now();
    let deaths = Deaths::count(layout)?;
    until("the nodes answer", begin, within, layout, &deaths, async || {
        let status = status::ask(app.client()?, true, Duration::from_secs(1)).await;
        Ok(status.is_ok_and(|status| status.quorum))
    })
    .await?;
    let mut joined = false;
    let record = Record::load(layout)?.unwrap_or_else(|| Record::new(layout, [127, 0, 0, 1].into(), &[], 0));
    for agent in &record.agents {
        if !layout.has_joined(&agent.name) {
            join(app, layout, programs, &record, agent).await?;
            joined = true;
        }
    }
    if joined && let Some(supervisor) = Record::load(layout)?.and_then(|record| record.live_supervisor()) {
        nudge(supervisor)?;
    }
    let wanted = record.agents.len();
    until("the agents are ready", begin, within, layout, &deaths, async || {
        let hosts = hosts::get(app, false, true).await;
        Ok(hosts.is_ok_and(|hosts| hosts.iter().filter(|host| is_connected(host)).count() >= wanted))
    })
    .await
}

/// A host whose agent has just died still counts as ready for a while, but has no gateway.
fn is_connected(host: &Host) -> bool {
    host.state() == HostState::Ready && !host.gateway.is_empty()
}

async fn join(
    app: &App,
    layout: &Layout,
    programs: &Programs,
    record: &Record,
    agent: &Member,
) -> Result<()> {
    let wanted = Wanted { role: TokenRole::Host, ttl: None, labels: Vec::new(), request_id: None };
    let (token, _) = token::create(app, wanted).await?;
    let mut command = Command::new(&programs.agent);
    command
        .arg("join")
        .arg("--data-dir")
        .arg(&agent.data_dir)
        .arg("--server")
        .arg(record.join_servers().join(","))
        .arg("--name")
        .arg(&agent.name)
        // Nobody but root and this user can read another process's environment.
        .env("STRATAVORE_TOKEN", token.reveal().as_str());
    run_tool(command, &layout.log(&agent.name), &format!("let {} join", agent.name)).await
}

async fn until(
    what: &str,
    begin: Instant,
    within: Duration,
    layout: &Layout,
    deaths: &Deaths,
    is_so: impl AsyncFn() -> Result<bool>,
) -> Result<()> {
    loop {
        if is_so().await? {
            return Ok(());
        }
        deaths.refuse_more(layout)?;
        if begin.elapsed() > within {
            let doing = format!("the local cluster is not ready: waited until {what}");
            return Err(Failure::new(Exit::Timeout, doing)
                .cause(format!("not within {}", humantime::format_duration(within)))
                .next(format!("see the logs in {}", layout.logs().display())));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// How often each member had been restarted when we began to wait.
struct Deaths(Vec<(String, u32)>);

impl Deaths {
    fn count(layout: &Layout) -> Result<Self> {
        let record = Record::load(layout)?;
        let members = record.iter().flat_map(Record::members);
        Ok(Self(members.map(|member| (member.name.clone(), member.restarts)).collect()))
    }

    fn refuse_more(&self, layout: &Layout) -> Result<()> {
        let Some(record) = Record::load(layout)? else { return Ok(()) };
        for member in record.members() {
            let before =
                self.0.iter().find(|(name, _)| *name == member.name).map_or(0, |(_, restarts)| *restarts);
            if member.restarts >= before + DEATHS_MAX {
                return Err(Failure::new(Exit::Generic, format!("{} does not stay up", member.name))
                    .cause(last_words(&member.log))
                    .next(format!("see {}", member.log.display())));
            }
        }
        Ok(())
    }
}

/// Says what stands, and the next commands.
pub(crate) fn say_ready(record: &Record) {
    let node = record.nodes.iter().filter_map(|node| node.ports).map(|ports| ports.grpc.to_string());
    view::tell(&format!(
        "the local cluster is up: {} node (port {}), {} agent; context {CONTEXT}",
        record.nodes.len(),
        node.collect::<Vec<_>>().join(", "),
        record.agents.len()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::PortArgs;

    fn args(nodes: u32, agents: u32, allow_even: bool) -> UpArgs {
        UpArgs {
            nodes,
            agents,
            allow_even,
            foreground: false,
            ports: PortArgs::default(),
            listen: [127, 0, 0, 1].into(),
        }
    }

    #[test]
    fn counts_that_cannot_be_are_refused_with_the_reason() {
        assert!(check_counts(&args(1, 1, false), None).is_ok());
        for (wrong, why) in [
            (args(2, 1, false), "even"),
            (args(2, 1, true), "next release"),
            (args(3, 1, false), "next release"),
            (args(1, 2, false), "next release"),
        ] {
            let failure = check_counts(&wrong, None).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.render().contains(why), "{}", failure.render());
        }
    }

    #[test]
    fn another_size_says_down_first() {
        let present = Record::new(&Layout::at("/s"), [127, 0, 0, 1].into(), &[], 1);
        let failure = check_counts(&args(1, 1, false), Some(&present)).unwrap_err();
        assert_eq!(failure.exit(), Exit::Conflict);
        assert!(failure.render().contains("stratavore down"), "{}", failure.render());
    }
}
