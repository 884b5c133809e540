//! The environment of a command: a small base, what the launch asks for, and who it is.

use std::collections::BTreeMap;

use stratavore_proto::v1;

use crate::epoch::Epoch;

/// For commands of agents that were started without a PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the shim's screen is: every viewer's terminal understands it.
const TERM: &str = "xterm-256color";

/// One user's line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    name: String,
    home: String,
    shell: String,
}

/// The agent's own surroundings, as far as commands inherit them.
#[derive(Debug, Clone)]
pub(super) struct Base {
    path: String,
    home: String,
    user: String,
    shell: String,
    lang: String,
}

impl Base {
    /// From this process and its account. Everything else of the agent's environment stays with the agent.
    pub(super) fn of_agent() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let account = find(&table, uid).unwrap_or_else(|| Account {
            name: uid.to_string(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        });
        let own = |name: &str, default: &str| {
            std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        Self {
            path: own("PATH", PATH),
            home: own("HOME", &account.home),
            user: own("USER", &account.name),
            shell: own("SHELL", &account.shell),
            lang: own("LANG", "C.UTF-8"),
        }
    }

    /// The whole environment of one command, sorted by name; later sources replace earlier ones.
    pub(super) fn compose(&self, start: &v1::RunnerStart, runner: &str, epoch: Epoch) -> Vec<v1::EnvVar> {
        let mut all = BTreeMap::new();
        let base = [
            ("PATH", &self.path),
            ("HOME", &self.home),
            ("USER", &self.user),
            ("SHELL", &self.shell),
            ("LANG", &self.lang),
        ];
        all.extend(base.map(|(name, value)| (name.to_owned(), value.clone())));
        all.insert("TERM".into(), TERM.into());
        all.extend(start.env.iter().map(|var| (var.name.clone(), var.value.clone())));
        all.insert("STRATAVORE_RUNNER_ID".into(), runner.into());
        all.insert("STRATAVORE_EPOCH".into(), epoch.to_string());
        all.insert("STRATAVORE_PROJECT".into(), start.project.clone());
        all.into_iter().map(|(name, value)| v1::EnvVar { name, value }).collect()
    }

    /// argv: an empty command is the host's shell.
    pub(super) fn command(&self, start: &v1::RunnerStart) -> Vec<String> {
        if start.command.is_empty() { vec![self.shell.clone()] } else { start.command.clone() }
    }

    /// Where it starts: an empty workdir is the home directory.
    pub(super) fn workdir(&self, start: &v1::RunnerStart) -> String {
        if start.workdir.is_empty() { self.home.clone() } else { start.workdir.clone() }
    }
}

fn find(passwd: &str, uid: u32) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, _, _, home, shell] = fields.as_slice() else { return None };
        let shell = if shell.is_empty() { "/bin/sh" } else { shell };
        (id.parse() == Ok(uid)).then(|| Account {
            name: (*name).to_owned(),
            home: (*home).to_owned(),
            shell: shell.to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Base {
        Base {
            path: "/bin".into(),
            home: "/home/x".into(),
            user: "x".into(),
            shell: "/bin/zsh".into(),
            lang: "C".into(),
        }
    }

    #[test]
    fn the_launch_overrides_the_base_but_not_who_it_is() {
        let var = |name: &str, value: &str| v1::EnvVar { name: name.into(), value: value.into() };
        let start = v1::RunnerStart {
            env: vec![var("LANG", "de"), var("STRATAVORE_RUNNER_ID", "forged"), var("A", "1"), var("A", "2")],
            project: "p".into(),
            ..Default::default()
        };
        let env = base().compose(&start, "0123456789", Epoch::new(1, 42));
        let get = |name: &str| env.iter().find(|var| var.name == name).map(|var| var.value.as_str());
        assert_eq!(get("LANG"), Some("de"));
        assert_eq!(get("A"), Some("2"));
        assert_eq!(get("STRATAVORE_RUNNER_ID"), Some("0123456789"));
        assert_eq!(get("STRATAVORE_EPOCH"), Some("1.42"));
        assert_eq!(get("TERM"), Some("xterm-256color"));
        assert_eq!(base().command(&start), ["/bin/zsh"]);
        assert_eq!(base().workdir(&start), "/home/x");
    }

    #[test]
    fn accounts_are_found_by_number() {
        let table = "root:x:0:0:root:/root:/bin/bash\nbroken\nu:x:1000:1000::/home/u:\n";
        assert_eq!(find(table, 0).unwrap().shell, "/bin/bash");
        assert_eq!(find(table, 1000).unwrap().shell, "/bin/sh");
        assert_eq!(find(table, 7), None);
    }
}
