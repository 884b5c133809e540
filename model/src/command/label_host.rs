//! `stratavore hosts label`.

use serde::Serialize;

use crate::command::{Success, Verdict};
use crate::event::EventKind;
use crate::host::{HostRecord, Labels};
use crate::limits::check_labels;
use crate::query::resolve_host;
use crate::tx::Tx;

/// Sets and removes labels of a host; runners already there stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabelHost {
    /// Name or id.
    pub host: String,
    pub set: Labels,
    pub remove: Vec<String>,
}

impl LabelHost {
    pub(crate) fn apply(&self, tx: &mut Tx<'_>) -> Verdict {
        let host = resolve_host(tx.state(), &self.host)?.clone();
        let id = host.id;
        let mut labels = host.labels.clone();
        for key in &self.remove {
            labels.remove(key);
        }
        labels.extend(self.set.clone());
        check_labels("set", &labels)?;
        if labels != host.labels {
            let text: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            tx.host_event(EventKind::HostLabeled, &host, &text.join(","));
            tx.put_host(HostRecord { labels, ..host });
        }
        Ok(Success::host(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;
    use crate::lab::Lab;

    #[test]
    fn sets_and_removes() {
        let mut lab = Lab::new();
        let host = lab.host("a", 4);
        let label = |set: &[(&str, &str)], remove: &[&str]| {
            Command::LabelHost(LabelHost {
                host: "a".into(),
                set: set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
                remove: remove.iter().map(|key| (*key).into()).collect(),
            })
        };
        lab.user(label(&[("zone", "x"), ("gpu", "1")], &[])).unwrap();
        lab.user(label(&[("zone", "y")], &["gpu"])).unwrap();
        let labels = &lab.state.host(host).unwrap().labels;
        assert_eq!(*labels, Labels::from([("zone".into(), "y".into())]));
        assert!(lab.user(label(&[("bad key", "y")], &[])).is_err());
    }
}
