//! The stop ladder, as a pure state machine: interrupt, TERM, KILL, each with its grace period, until no process of
//! the tree remains or patience ends. Time comes in as milliseconds of a clock that does not stop in suspend.

/// After the interrupt: programs that save on Ctrl-C get this long before the whole tree gets TERM.
pub(super) const INTERRUPT_GRACE_MS: u64 = 500;

/// KILL is repeated this often: a process may have been forked between two looks at the tree.
pub(super) const KILL_REPEAT_MS: u64 = 20;

/// After this long of KILLs what still lives cannot be killed (uninterruptible sleep): it is reported, not hidden.
pub(super) const KILL_PATIENCE_MS: u64 = 5000;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// SIGINT to the foreground process group.
    Interrupt,
    /// SIGTERM to the whole tree.
    Terminate,
    /// SIGKILL to the whole tree.
    Kill,
    /// Report what is left.
    GiveUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    Idle,
    Interrupted {
        until: u64,
    },
    Terminated {
        until: u64,
    },
    Killing {
        since: u64,
        next: u64,
    },
    /// The tree is gone, or given up.
    Done,
}

/// Where one epoch stands on the ladder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ladder {
    rung: Rung,
    kill_grace_ms: u64,
}

impl Ladder {
    /// Not stopping.
    #[must_use]
    pub(super) const fn new(kill_grace_ms: u64) -> Self {
        Self { rung: Rung::Idle, kill_grace_ms }
    }

    /// Somebody wants it stopped; `force` goes straight to KILL. Asking again changes nothing, except to escalate.
    pub(super) const fn stop(&mut self, now: u64, force: bool) -> Option<Step> {
        match (self.rung, force) {
            (Rung::Killing { .. } | Rung::Done, _) => None,
            (_, true) => Some(self.kill(now)),
            (Rung::Idle, false) => {
                self.rung = Rung::Interrupted { until: now + INTERRUPT_GRACE_MS };
                Some(Step::Interrupt)
            }
            _ => None,
        }
    }

    /// The command has ended but left processes behind (P15).
    pub(super) const fn sweep(&mut self, now: u64) -> Option<Step> {
        match self.rung {
            Rung::Idle | Rung::Interrupted { .. } => Some(self.terminate(now)),
            _ => None,
        }
    }

    /// Called at [`Ladder::deadline`] or later.
    pub(super) const fn tick(&mut self, now: u64) -> Option<Step> {
        match self.rung {
            Rung::Interrupted { until } if now >= until => Some(self.terminate(now)),
            Rung::Terminated { until } if now >= until => Some(self.kill(now)),
            Rung::Killing { since, .. } if now >= since + KILL_PATIENCE_MS => {
                self.rung = Rung::Done;
                Some(Step::GiveUp)
            }
            Rung::Killing { since, next } if now >= next => {
                self.rung = Rung::Killing { since, next: now + KILL_REPEAT_MS };
                Some(Step::Kill)
            }
            _ => None,
        }
    }

    /// The tree is gone: nothing is left to climb for.
    pub(super) const fn done(&mut self) {
        self.rung = Rung::Done;
    }

    /// When it wants to be called again.
    #[must_use]
    pub(super) const fn deadline(&self) -> Option<u64> {
        match self.rung {
            Rung::Idle | Rung::Done => None,
            Rung::Interrupted { until } | Rung::Terminated { until } => Some(until),
            Rung::Killing { next, .. } => Some(next),
        }
    }

    const fn terminate(&mut self, now: u64) -> Step {
        self.rung = Rung::Terminated { until: now + self.kill_grace_ms };
        Step::Terminate
    }

    const fn kill(&mut self, now: u64) -> Step {
        self.rung = Rung::Killing { since: now, next: now + KILL_REPEAT_MS };
        Step::Kill
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ladder: &mut Ladder, mut now: u64) -> Vec<(u64, Step)> {
        let mut steps = Vec::new();
        while let Some(at) = ladder.deadline() {
            now = now.max(at);
            steps.extend(ladder.tick(now).map(|step| (now, step)));
        }
        steps
    }

    #[test]
    fn a_stop_climbs_every_rung_in_time() {
        let mut ladder = Ladder::new(3000);
        assert_eq!(ladder.stop(100, false), Some(Step::Interrupt));
        assert_eq!(ladder.stop(101, false), None, "asking twice is asking once");
        let steps = run(&mut ladder, 100);
        assert_eq!(steps[0], (600, Step::Terminate));
        assert_eq!(steps[1], (3600, Step::Kill));
        assert_eq!(steps.last(), Some(&(3600 + KILL_PATIENCE_MS, Step::GiveUp)));
        assert!(steps[1..steps.len() - 1].iter().all(|(_, step)| *step == Step::Kill));
    }

    #[test]
    fn force_kills_at_once_from_any_rung() {
        for early in [0, 100, 700] {
            let mut ladder = Ladder::new(3000);
            ladder.stop(0, false);
            ladder.tick(early);
            assert_eq!(ladder.stop(early, true), Some(Step::Kill));
            assert_eq!(ladder.stop(early, true), None);
        }
        assert_eq!(Ladder::new(3000).stop(5, true), Some(Step::Kill));
    }

    #[test]
    fn nothing_happens_after_the_end() {
        let mut ladder = Ladder::new(50);
        ladder.stop(0, false);
        ladder.tick(600);
        ladder.done();
        assert_eq!((ladder.deadline(), ladder.tick(99_999), ladder.stop(99_999, true)), (None, None, None));
    }

    #[test]
    fn what_a_command_leaves_gets_term_first() {
        let mut ladder = Ladder::new(50);
        assert_eq!(ladder.sweep(10), Some(Step::Terminate));
        assert_eq!(ladder.sweep(11), None);
        assert_eq!(run(&mut ladder, 10)[0], (60, Step::Kill));
    }
}
