//! `processes.json`: what the local cluster consists of, which ports it took, and which process is which.
//! Written by `up` before there is a supervisor, afterwards by the supervisor only; always whole or not at all.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Layout;
use super::ports::Ports;
use super::process::Process;
use crate::errors::{Exit, Failure, Result};

/// Shape of the file; another number is another release's.
const VERSION: u32 = 1;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) listen: IpAddr,
    pub(crate) supervisor: Option<Process>,
    pub(crate) nodes: Vec<Member>,
    pub(crate) agents: Vec<Member>,
}

/// A node or an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) log: PathBuf,
    /// Absent while it does not run.
    pub(crate) process: Option<Process>,
    /// How often the supervisor has started it again.
    pub(crate) restarts: u32,
    /// Nodes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<Ports>,
}

impl Member {
    /// A member that does not run yet.
    pub(crate) fn new(layout: &Layout, name: &str, ports: Option<Ports>) -> Self {
        Self {
            name: name.to_owned(),
            data_dir: layout.data(name),
            log: layout.log(name),
            process: None,
            restarts: 0,
            ports,
        }
    }

    /// Its process, if that lives.
    pub(crate) fn alive(&self) -> Option<Process> {
        self.process.filter(|process| process.is_alive())
    }
}

impl Record {
    /// A cluster of which nothing runs yet.
    pub(crate) fn new(layout: &Layout, listen: IpAddr, nodes: &[Ports], agents: u32) -> Self {
        let number = |kind: &str, at: usize| format!("{kind}-{}", at + 1);
        Self {
            version: VERSION,
            listen,
            supervisor: None,
            nodes: nodes
                .iter()
                .enumerate()
                .map(|(at, ports)| Member::new(layout, &number("node", at), Some(*ports)))
                .collect(),
            agents: (0..agents as usize).map(|at| Member::new(layout, &number("agent", at), None)).collect(),
        }
    }

    /// The file, `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or is another release's.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.record();
        let failed = |why: String| {
            Failure::new(Exit::Generic, format!("cannot use {}", path.display()))
                .cause(why)
                .next("stratavore down --purge removes the local cluster")
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let record: Self = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        if record.version != VERSION {
            return Err(failed(format!("it has version {}, this program writes {VERSION}", record.version)));
        }
        Ok(Some(record))
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn save(&self, layout: &Layout) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        let mut file = tempfile::NamedTempFile::new_in(layout.root())?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(layout.record()).map_err(|error| error.error)?;
        Ok(())
    }

    /// Everything that is meant to run, nodes first.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.nodes.iter().chain(&self.agents)
    }

    /// The member of a name, to change it.
    pub(crate) fn member_mut(&mut self, name: &str) -> Option<&mut Member> {
        self.nodes.iter_mut().chain(&mut self.agents).find(|member| member.name == name)
    }

    /// The supervisor, if it lives.
    pub(crate) fn live_supervisor(&self) -> Option<Process> {
        self.supervisor.filter(|process| process.is_alive())
    }

    /// "3 nodes, 2 agents".
    pub(crate) fn size(&self) -> String {
        let counted =
            |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        format!("{}, {}", counted(self.nodes.len(), "node"), counted(self.agents.len(), "agent"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PORTS: Ports = Ports { grpc: 1, quic: 2, raft: 3, join: 4, metrics: 5 };

    #[test]
    fn the_file_is_what_the_contract_says() {
        let layout = Layout::at("/s");
        let mut record = Record::new(&layout, Ipv4Addr::LOCALHOST.into(), &[PORTS], 1);
        record.nodes[0].process = Some(Process { pid: 7, started_ticks: 9 });
        let expected = concat!(
            r#"{"version":1,"listen":"127.0.0.1","supervisor":null,"nodes":[{"name":"node-1","data_dir":"/s/node-1","#,
            r#""log":"/s/logs/node-1.log","process":{"pid":7,"started_ticks":9},"restarts":0,"#,
            r#""ports":{"grpc":1,"quic":2,"raft":3,"join":4,"metrics":5}}],"#,
            r#""agents":[{"name":"agent-1","data_dir":"/s/agent-1","log":"/s/logs/agent-1.log","process":null,"restarts":0}]}"#
        );
        assert_eq!(serde_json::to_string(&record).unwrap(), expected);
        assert_eq!(record.size(), "1 node, 1 agent");
    }

    #[test]
    fn it_is_replaced_whole_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        assert_eq!(Record::load(&layout).unwrap(), None);
        let mut record = Record::new(&layout, Ipv4Addr::LOCALHOST.into(), &[PORTS], 1);
        record.save(&layout).unwrap();
        record.member_mut("agent-1").unwrap().restarts = 3;
        record.save(&layout).unwrap();
        assert_eq!(Record::load(&layout).unwrap(), Some(record));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_torn_or_foreign_file_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        for text in [
            "{\"version\":1",
            "{\"version\":2,\"listen\":\"::1\",\"supervisor\":null,\"nodes\":[],\"agents\":[]}",
        ] {
            std::fs::write(layout.record(), text).unwrap();
            let failure = Record::load(&layout).unwrap_err();
            assert!(failure.render().contains("down --purge"), "{}", failure.render());
        }
    }
}
