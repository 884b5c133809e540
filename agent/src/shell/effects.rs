//! Carries out what the core asks for.

use std::sync::Arc;

use stratavore_proto::v1;
use stratavore_proto::v1::agent_message::Message;
use tracing::debug;

use super::{Shell, deadlines, runner};
use crate::epoch::RunnerKey;
use crate::host;
use crate::ledger::Op;
use crate::supervisor::Effect;

impl Shell {
    /// Follows every shim that adoption found, and goes on looking where it could not judge.
    pub(super) fn watch_adopted(&mut self, unclear: Vec<RunnerKey>) {
        for (key, client) in self.context.registry.all() {
            self.tasks.spawn(runner::follow(Arc::clone(&self.context), key, client));
        }
        for key in unclear {
            self.tasks.spawn(runner::readopt(Arc::clone(&self.context), key));
        }
    }

    /// Carries out all effects, in order; none of them waits here.
    pub(super) fn carry_out(&mut self) {
        for effect in std::mem::take(&mut self.out) {
            let context = || Arc::clone(&self.context);
            match effect {
                Effect::Intend { keys, seen } => self.ops.push(Op::Intend { keys, seen }),
                Effect::Conclude { key, state, reason } => self.ops.push(Op::Conclude { key, state, reason }),
                Effect::Discard { key } => self.ops.push(Op::Discard { key }),
                Effect::Spawn { key, start, deadline } => {
                    self.tasks.spawn(runner::start(context(), key, *start, deadline));
                }
                Effect::Lease { key, deadline, lower } => {
                    if self.context.deadlines.wish(&key, deadline, lower) {
                        self.tasks.spawn(deadlines::deliver(context(), key));
                    }
                }
                Effect::Stop { key, force, reason } => {
                    self.tasks.spawn(runner::stop(context(), key, force, reason));
                }
                Effect::Reap { key } => {
                    self.tasks.spawn(runner::reap(context(), key));
                }
                Effect::Recall { key } => {
                    self.tasks.spawn(runner::recall(context(), key));
                }
                Effect::Send(message) => self.send(*message),
                Effect::ReportLoad => self.report_load(),
                Effect::Move(wish) => {
                    // One request under way is enough.
                    let _full = self.move_on.try_send(wish);
                }
                Effect::Finish(finish) => self.finish = Some(finish),
            }
        }
    }

    /// Periodic messages only: when the link has no room, the next period says it again.
    fn send(&mut self, message: Message) {
        let Some(link) = &self.link else { return };
        if link.sender.try_send(v1::AgentMessage { message: Some(message) }).is_err() {
            debug!("the link has no room; a periodic message is left out");
        }
    }

    fn report_load(&mut self) {
        let load = host::load(self.context.registry.dir().root());
        let report = v1::LoadReport {
            runners: self.core.live(),
            load1_milli: load.load1_milli,
            memory_available_bytes: load.memory_available_bytes,
            disk_available_bytes: load.disk_available_bytes,
            last_rtt_us: self.core.last_rtt_us(),
            disk_full: self.disk_full,
        };
        self.send(Message::Load(report));
    }
}
