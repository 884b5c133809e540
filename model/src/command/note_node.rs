//! What a node says about itself, so that history has it: its quarantine (P24), its clock (P4).

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::id::NodeId;
use crate::limits::bounded;
use crate::reply::Reply;
use crate::tx::Tx;

/// Writes an event and changes nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteNode {
    pub node: NodeId,
    pub what: NodeNote,
    /// The rest of the sentence.
    pub text: String,
}

/// What is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeNote {
    /// Its state is not the majority's.
    Quarantined,
    /// It took another node's state.
    Rebuilt,
    /// Its clock is off the other voters'.
    ClockOff,
}

impl NoteNode {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let kind = match self.what {
            NodeNote::Quarantined => EventKind::NodeQuarantined,
            NodeNote::Rebuilt => EventKind::NodeRebuilt,
            NodeNote::ClockOff => EventKind::NodeClockOff,
        };
        tx.event(kind, &bounded(&format!("node {}: {}", self.node, self.text)));
        Ok(Success::done(Reply::Done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Lab;
    use crate::{Code, Command};

    #[test]
    fn p24_a_node_speaks_about_itself_only() {
        let mut lab = Lab::new();
        let note = |node| {
            let text = "its digest differs".into();
            Command::NoteNode(NoteNode { node: NodeId(node), what: NodeNote::Quarantined, text })
        };
        assert_eq!(lab.as_node(note(2)).unwrap_err().code, Code::NotAllowed);
        assert_eq!(lab.user(note(1)).unwrap_err().code, Code::NotAllowed);
        let before = lab.state.digest();
        lab.as_node(note(1)).unwrap();
        assert_ne!(lab.state.digest(), before, "the event log is part of the state");
    }
}
