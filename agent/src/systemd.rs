//! Under systemd the default way to stop a unit kills everything in it, shims included.

use std::process::Command;

use tracing::{debug, warn};

/// Warns when the agent's unit would kill its runners on stop or restart. Blocking: asks systemd.
pub(crate) fn warn_about_kill_mode() {
    if std::env::var_os("INVOCATION_ID").is_none() {
        return;
    }
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(unit) = unit_of(&cgroup) else { return };
    let mode = kill_mode(unit);
    match mode.as_deref() {
        Some("process" | "none") => debug!(unit, "KillMode leaves runners alive"),
        Some(mode) => warn!(
            unit,
            kill_mode = mode,
            "stopping or restarting this unit would kill every runner; set KillMode=process and Delegate=yes in it"
        ),
        None => debug!(unit, "systemd does not tell the unit's KillMode"),
    }
}

fn kill_mode(unit: &str) -> Option<String> {
    let output =
        Command::new("systemctl").args(["show", "--property=KillMode", "--value", unit]).output().ok()?;
    let mode = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !mode.is_empty()).then_some(mode)
}

/// The innermost service of a cgroup path.
fn unit_of(cgroup: &str) -> Option<&str> {
    cgroup.lines().filter_map(|line| line.rsplit('/').find(|part| part.ends_with(".service"))).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_innermost_service() {
        let v2 = "0::/system.slice/stratavore-agent.service/agent\n";
        assert_eq!(unit_of(v2), Some("stratavore-agent.service"));
        assert_eq!(unit_of("0::/user.slice/session-1.scope\n"), None);
    }
}
