//! `up`: makes what is missing, starts the supervisor, and waits until everything answers.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use stratavore_proto::v1::{Host, HostState, Node};
use stratavore_settings::context::{Context, Contexts};
use tokio::process::Command;

use super::child::{self, last_words};
use super::ports::{self, Ports};
use super::process::Process;
use super::programs::Programs;
use super::record::{Member, Record};
use super::{CONTEXT, Layout, join, tool};
use crate::args::{Globals, UpArgs};
use crate::cmd::App;
use crate::cmd::context::read_single;
use crate::cmd::{hosts, status};
use crate::context::{chain, contexts_file};
use crate::errors::{Exit, Failure, Result};
use crate::view;

/// From nothing to ready; a cold start under load takes a few seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// And this for every node and agent: they start at once, but on the same cores.
const READY_WITHIN_EACH: Duration = Duration::from_secs(10);

/// One look; a node that takes longer is asked again.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks at something that is starting.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// The supervisor writes its number within this.
const SUPERVISOR_WITHIN: Duration = Duration::from_secs(10);

/// A member that died this often while we wait will not come up by itself.
const DEATHS_MAX: u32 = 3;

/// How many nodes and agents are meant: what was asked for, else what is there, else one of each.
///
/// # Errors
/// Exit 2 for a count that cannot be, 5 for one that is not this cluster's.
pub(crate) fn counts(args: &UpArgs, present: Option<&Record>) -> Result<(u32, u32)> {
    if let Some(nodes) = args.nodes.filter(|nodes| nodes.is_multiple_of(2) && !args.allow_even) {
        return Err(Failure::usage(format!("{nodes} nodes are refused"))
            .cause("an even number of nodes survives no more failures than one fewer")
            .next("give an odd number, or --allow-even"));
    }
    let Some(present) = present else { return Ok((args.nodes.unwrap_or(1), args.agents.unwrap_or(1))) };
    let count = |members: &[Member]| u32::try_from(members.len()).unwrap_or(u32::MAX);
    let (nodes, agents) = (count(&present.nodes), count(&present.agents));
    if args.nodes.is_some_and(|wanted| wanted != nodes) || args.agents.is_some_and(|wanted| wanted != agents)
    {
        return Err(Failure::new(Exit::Conflict, "the local cluster has another size")
            .cause(format!("it has {nodes} node(s) and {agents} agent(s)"))
            .next("stratavore up without counts for the one that is there; stratavore down --purge first for another"));
    }
    Ok((nodes, agents))
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
            counts(args, Some(&record))?;
            record
        }
        None => {
            let (nodes, agents) = counts(args, None)?;
            let free = |kind, port| ports::is_free(args.listen, kind, port);
            let ports = ports::choose(args.ports, nodes, free)?;
            let record = Record::new(layout, args.listen, &ports, agents);
            save(&record, layout)?;
            record
        }
    };
    // The others join it; and one whose directory was lost must not become the first node of another cluster.
    if let Some(first) = record.nodes.first()
        && !record.nodes.iter().any(|node| layout.is_initialised(&node.name))
    {
        view::tell(&format!("making a cluster of {}", record.size()));
        init(layout, programs, first, record.listen).await?;
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
    tool::run(command, None, &layout.log(&node.name), "make the first node").await
}

/// The context `local`, current, with the ports that were taken.
fn write_context(globals: &Globals, layout: &Layout, record: &Record) -> Result<()> {
    let Some(first) = record.nodes.first() else { return Ok(()) };
    let admin = match read_single(&layout.data(&first.name).join("admin.yaml")) {
        Ok(admin) => admin,
        // The first node's directory was lost: what was taken over from it is still good.
        Err(_) if has_context(globals)? => return Ok(()),
        Err(failure) => return Err(failure),
    };
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

fn has_context(globals: &Globals) -> Result<bool> {
    let contexts = Contexts::load(&contexts_file(globals)?);
    Ok(contexts.is_ok_and(|contexts| contexts.contexts.contains_key(CONTEXT)))
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

/// Tells the supervisor, if one lives, to look who may be started now.
///
/// # Errors
/// When it is somebody else's.
pub(super) fn nudge_supervisor(layout: &Layout) -> Result<()> {
    let supervisor = Record::load(layout)?.and_then(|record| record.live_supervisor());
    supervisor.map_or(Ok(()), nudge)
}

fn nudge(supervisor: Process) -> Result<()> {
    supervisor.signal(Signal::USR1).map_err(|error| {
        Failure::new(Exit::Permission, "cannot reach the supervisor of the local cluster")
            .cause(error.to_string())
    })
}

/// Waits for the first node, lets the others and the agents join, and waits until all of them are there.
///
/// # Errors
/// Exit 8 when it takes too long; the words of what died otherwise.
pub(crate) async fn until_ready(app: &App, layout: &Layout, programs: &Programs) -> Result<()> {
    let Some(record) = Record::load(layout)? else { return Ok(()) };
    let members = u32::try_from(record.members().count()).unwrap_or(u32::MAX);
    let within = app.globals.timeout.unwrap_or(READY_WITHIN + READY_WITHIN_EACH * members);
    let wait = Wait { begin: Instant::now(), within, layout, deaths: Deaths::count(layout)? };
    wait.until("a node answers with quorum", async || {
        let status = status::ask(app.client()?, true, LOOK_WITHIN).await;
        Ok(status.is_ok_and(|status| status.quorum))
    })
    .await?;
    join::all(app, layout, programs, &record).await?;
    let nodes = record.nodes.len();
    wait.until("all nodes are voters", async || {
        let status = status::ask(app.client()?, true, LOOK_WITHIN).await;
        Ok(status.is_ok_and(|status| are_there(&status.nodes, nodes)))
    })
    .await?;
    wait.until("the agents are ready", async || {
        let hosts = hosts::get(app, false, true).await;
        Ok(hosts
            .is_ok_and(|hosts| hosts.iter().filter(|host| is_connected(host)).count() >= record.agents.len()))
    })
    .await
}

/// P21: of an even number of nodes the last one stays without vote.
fn are_there(shown: &[Node], wanted: usize) -> bool {
    let voters = shown.iter().filter(|node| node.voter && node.reachable).count();
    shown.len() >= wanted && voters >= if wanted.is_multiple_of(2) { wanted - 1 } else { wanted }
}

/// A host whose agent has just died still counts as ready for a while, but has no gateway.
fn is_connected(host: &Host) -> bool {
    host.state() == HostState::Ready && !host.gateway.is_empty()
}

/// One bound over everything that is waited for.
struct Wait<'a> {
    begin: Instant,
    within: Duration,
    layout: &'a Layout,
    deaths: Deaths,
}

impl Wait<'_> {
    async fn until(&self, what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
        loop {
            if is_so().await? {
                return Ok(());
            }
            self.deaths.refuse_more(self.layout)?;
            if self.begin.elapsed() > self.within {
                let doing = format!("the local cluster is not ready: waited until {what}");
                return Err(Failure::new(Exit::Timeout, doing)
                    .cause(format!("not within {}", humantime::format_duration(self.within)))
                    .next(format!("see the logs in {}", self.layout.logs().display())));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
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
    let ports = record.nodes.iter().filter_map(|node| node.ports).map(|ports| ports.grpc.to_string());
    view::tell(&format!(
        "the local cluster is up: {} ({} {}); context {CONTEXT}",
        record.size(),
        if record.nodes.len() == 1 { "port" } else { "ports" },
        ports.collect::<Vec<_>>().join(", "),
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::PortArgs;

    fn args(nodes: u32, agents: u32, allow_even: bool) -> UpArgs {
        UpArgs { nodes: Some(nodes), agents: Some(agents), allow_even, ..none() }
    }

    fn none() -> UpArgs {
        UpArgs {
            nodes: None,
            agents: None,
            allow_even: false,
            foreground: false,
            ports: PortArgs::default(),
            listen: [127, 0, 0, 1].into(),
        }
    }

    fn present(nodes: usize, agents: u32) -> Record {
        let ports = Ports { grpc: 1, quic: 2, raft: 3, join: 4, metrics: 5 };
        Record::new(&Layout::at("/s"), [127, 0, 0, 1].into(), &vec![ports; nodes], agents)
    }

    #[test]
    fn an_even_number_of_nodes_needs_its_flag() {
        for (nodes, wanted) in [(1, (1, 2)), (3, (3, 2)), (5, (5, 2))] {
            assert_eq!(counts(&args(nodes, 2, false), None).unwrap(), wanted);
        }
        for nodes in [2, 4] {
            let failure = counts(&args(nodes, 1, false), None).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.render().contains("--allow-even"), "{}", failure.render());
            assert_eq!(counts(&args(nodes, 1, true), None).unwrap(), (nodes, 1));
        }
    }

    #[test]
    fn another_size_says_down_first_and_none_means_what_is_there() {
        let present = present(3, 2);
        assert_eq!(counts(&none(), Some(&present)).unwrap(), (3, 2));
        assert_eq!(counts(&none(), None).unwrap(), (1, 1));
        assert_eq!(counts(&args(3, 2, false), Some(&present)).unwrap(), (3, 2));
        for wrong in [args(1, 2, false), args(3, 1, false)] {
            let failure = counts(&wrong, Some(&present)).unwrap_err();
            assert_eq!(failure.exit(), Exit::Conflict);
            assert!(failure.render().contains("stratavore down"), "{}", failure.render());
        }
    }

    #[test]
    fn p21_a_second_node_is_not_waited_for_as_a_voter() {
        let node = |voter, reachable| Node { voter, reachable, ..Default::default() };
        assert!(are_there(&[node(true, true), node(false, true)], 2));
        assert!(!are_there(&[node(true, true), node(false, true), node(false, true)], 3));
        assert!(!are_there(&[node(true, true), node(true, true), node(true, false)], 3));
        assert!(are_there(&[node(true, true), node(true, true), node(true, true)], 3));
        assert!(!are_there(&[node(true, true)], 2));
    }
}
