//! Which hosts will do: the predicates of the model, counted and put into words.

use stratavore_model::{HostLoad, HostRecord, Misfit, Need, misfit};

use crate::view::View;

/// How many hosts fail a predicate first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    pub misfit: Misfit,
    pub hosts: u32,
}

/// Why no host of the view will do, most frequent first. Loads are those at the moment of asking.
pub(crate) fn reasons(view: &View<'_>, loads: &[HostLoad], need: &Need<'_>) -> Vec<Reason> {
    let mut counts = Misfit::ALL.map(|misfit| Reason { misfit, hosts: 0 });
    for ((host, _), load) in view.hosts.iter().zip(loads) {
        if let Some(misfit) = misfit(host, load, need) {
            counts[misfit as usize].hosts += 1;
        }
    }
    let mut reasons: Vec<_> = counts.into_iter().filter(|reason| reason.hosts > 0).collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.hosts));
    reasons
}

/// A misfit of one host in words.
#[must_use]
pub fn describe(misfit: Misfit, host: &HostRecord, load: &HostLoad, need: &Need<'_>) -> String {
    match misfit {
        Misfit::Removed => "was removed".into(),
        Misfit::NotReady => format!("is {}, not ready", host.state.as_str()),
        Misfit::Cordoned if host.draining => "is being drained".into(),
        Misfit::Cordoned => "is cordoned".into(),
        Misfit::OtherHost => "is not the host that was asked for".into(),
        Misfit::Labels => {
            let missing = need.labels.iter().filter(|(key, value)| host.labels.get(*key) != Some(value));
            let missing: Vec<_> = missing.map(|(key, value)| format!("{key}={value}")).collect();
            format!("lacks label {}", missing.join(", "))
        }
        Misfit::Slots => {
            let free = host.slots.saturating_sub(load.slots);
            format!("has {free} of {} slots free, {} needed", host.slots, need.slots)
        }
        Misfit::Cpu => {
            let free = host.cpu_milli.saturating_sub(load.cpu_milli);
            format!("has {free} milli cpu free, {} needed", need.cpu_milli)
        }
        Misfit::Memory => {
            let free = host.memory_bytes.saturating_sub(load.memory_bytes);
            format!("has {free} bytes of memory free, {} needed", need.memory_bytes)
        }
    }
}
