//! Holds the naive state against the real one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use stratavore_model::{OnDisconnect, RunnerId, RunnerState, State};

use super::{Reference, placed};

impl Reference {
    /// Panics where the state says something else.
    pub(crate) fn compare(&self, state: &State) {
        assert_eq!(state.runners().len(), self.runners.len());
        assert_eq!(state.projects().len(), self.projects.len());
        for mine in &self.runners {
            let theirs = state.runner(mine.id).unwrap();
            let stop = match theirs.want {
                stratavore_model::Want::Run => None,
                stratavore_model::Want::Stop { force } => Some(force),
            };
            let host = theirs.host.map(|id| self.hosts.iter().position(|h| h.id == id).unwrap());
            let theirs_all = (theirs.state, theirs.lost, theirs.admitted, theirs.settled, host, theirs.rev);
            let mine_all = (mine.state, mine.lost, mine.admitted, mine.settled, mine.host, mine.rev);
            assert_eq!(theirs_all, mine_all, "runner {} ({theirs:?})", mine.id);
            assert_eq!(theirs.epoch.map(|epoch| epoch.index), mine.epoch);
            assert_eq!(theirs.restarts, mine.restarts);
            mine.compare_retry(theirs);
            if placed(mine) {
                let keep = theirs.on_disconnect == OnDisconnect::Keep;
                assert_eq!((keep, theirs.hold_ms), (mine.keep, mine.hold), "runner {}", mine.id);
                assert_eq!((stop, theirs.restart_wanted), (mine.stop, mine.again), "runner {}", mine.id);
            }
        }
        for (at, mine) in self.hosts.iter().enumerate() {
            let theirs = state.host(mine.id).unwrap();
            assert_eq!((theirs.state, theirs.cordoned), (mine.state, mine.cordoned), "host {}", mine.name);
            assert_eq!(theirs.host_epoch.map(|epoch| epoch.index), mine.epoch, "host {}", mine.name);
            self.compare_lease(at, theirs);
            assert_eq!(state.host_load(mine.id).slots, self.used(at), "host {}", mine.name);
        }
        for (at, mine) in self.projects.iter().enumerate() {
            let theirs = state.project(&mine.name.parse().unwrap()).unwrap();
            assert_eq!((theirs.max_runners, state.admitted(&theirs.name)), (mine.max, self.admitted(at)));
        }
        let queue = self.queue();
        assert_eq!(state.queue().collect::<Vec<_>>(), queue);
    }

    fn queue(&self) -> Vec<RunnerId> {
        let mut queue: Vec<_> =
            self.runners.iter().filter(|r| r.state == RunnerState::Pending && r.admitted).collect();
        queue.sort_by_key(|r| r.ticket);
        queue.iter().map(|r| r.id).collect()
    }
}
