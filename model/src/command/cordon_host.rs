//! `stratavore hosts cordon|uncordon`.

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::HostRecord;
use crate::query::resolve_host;
use crate::tx::Tx;

/// A cordoned host gets no new runners; those it has go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CordonHost {
    /// Name or id.
    pub host: String,
    pub cordoned: bool,
}

impl CordonHost {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = resolve_host(tx.state(), &self.host)?.clone();
        let id = host.id;
        // Uncordoning also ends a drain, and says that a copy of the machine is gone.
        let (draining, cloned) = (host.draining && self.cordoned, host.cloned && self.cordoned);
        if host.cordoned != self.cordoned {
            let kind = if self.cordoned { EventKind::HostCordoned } else { EventKind::HostUncordoned };
            tx.host_event(kind, &host, "");
            tx.put_host(HostRecord { cordoned: self.cordoned, draining, cloned, ..host });
        }
        Ok(Success::host(id))
    }
}

#[cfg(test)]
mod tests {
    use crate::lab::Lab;
    use crate::{Code, EventKind};

    #[test]
    fn twice_is_once() {
        let mut lab = Lab::new();
        lab.host("a", 4);
        lab.cordon("a", true).unwrap();
        lab.cordon("a", true).unwrap();
        assert_eq!(lab.events_of(EventKind::HostCordoned), 1);
        assert_eq!(lab.state.free_slots(), 0);
        lab.cordon("a", false).unwrap();
        assert_eq!(lab.state.free_slots(), 4);
        assert_eq!(lab.cordon("b", true).unwrap_err().code, Code::HostNotFound);
    }
}
