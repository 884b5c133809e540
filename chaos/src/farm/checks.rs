//! What a farm shows, waited for.

use serde_json::Value;

use crate::eventually::{SOON, eventually};
use crate::ran::Ran;

use super::LocalFarm;

impl LocalFarm {
    /// All runners, ended ones included.
    #[must_use]
    #[track_caller]
    pub fn runners(&self) -> Vec<Value> {
        self.cli(&["runners", "--all", "-o", "json"]).ok().items("RunnerList")
    }

    /// One runner by id.
    ///
    /// # Panics
    /// When it is not listed.
    #[must_use]
    #[track_caller]
    pub fn runner(&self, id: &str) -> Value {
        let all = self.runners();
        all.into_iter().find(|r| r["id"] == id).unwrap_or_else(|| panic!("runner {id} is not listed"))
    }

    /// Waits until a runner is in that state; the runner then.
    ///
    /// # Panics
    /// When it is not within a minute.
    #[track_caller]
    pub fn await_runner(&self, id: &str, state: &str) -> Value {
        self.await_runner_that(id, &format!("to be {state}"), |r| r["state"] == state)
    }

    /// Waits until a runner satisfies `condition`; the runner then.
    ///
    /// # Panics
    /// When it does not within a minute.
    #[track_caller]
    pub fn await_runner_that(
        &self,
        id: &str,
        what: &str,
        mut condition: impl FnMut(&Value) -> bool,
    ) -> Value {
        eventually(&format!("runner {id} {what}"), SOON, || {
            let ran = self.cli(&["runners", "--all", "-o", "json"]);
            if ran.code != Some(0) {
                return Err(ran.to_string());
            }
            let listed = ran.items("RunnerList");
            match listed.into_iter().find(|r| r["id"] == id) {
                Some(runner) if condition(&runner) => Ok(runner),
                Some(runner) => Err(runner.to_string()),
                None => Err("it is not listed".to_owned()),
            }
        })
    }

    /// Process id of a runner's command.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[track_caller]
    pub fn pid_of(&self, id: &str) -> i32 {
        let runner = self.runner(id);
        let pid = runner["pid"].as_i64().and_then(|p| i32::try_from(p).ok()).filter(|p| *p > 0);
        pid.unwrap_or_else(|| panic!("no pid: {runner}"))
    }

    /// All events from the first, as objects.
    #[must_use]
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        self.cli(&["events", "--since", "0", "--no-follow", "-o", "json"]).ok().json_lines()
    }

    /// Repeats a command until it succeeds.
    ///
    /// # Panics
    /// When it still fails after a minute.
    #[track_caller]
    pub fn cli_until_ok(&self, arguments: &[&str]) -> Ran {
        eventually(&format!("`{}` to succeed", arguments.join(" ")), SOON, || {
            let ran = self.cli(arguments);
            if ran.code == Some(0) { Ok(ran) } else { Err(ran.to_string()) }
        })
    }
}
