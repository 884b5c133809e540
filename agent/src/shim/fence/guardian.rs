//! The process above a shim whose fence is a cgroup: it outlives the shim by one write. When the shim is gone, however
//! it went, the guardian kills what is left in the leaf (P11: the shim's death kills the tree) and removes it.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use super::super::footprint::forget_code;
use super::super::fork::{close_all_but, exit_now, ignore_term, set_name};
use super::cgroup::Leaf;
use super::descend::Stat;

/// How often the leaf is looked at after the kill; a process in uninterruptible sleep keeps it for longer.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(10);

/// How long the guardian waits for the leaf to become empty before it leaves the directory to the agent.
const LOOKS_MAX: u32 = 1000;

/// A runner that lives longer than this has a guardian that gives back the code it needed to start.
const SETTLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// Waits for the shim's end (end of file on `lifeline`, whose other end only the shim holds). Never returns.
pub(in crate::shim) fn watch(lifeline: OwnedFd, leaf: &Leaf, shim: Pid) -> ! {
    set_name(c"stratavore-grd");
    // A host that goes down tells everybody at once; the shim then stops the runner, and only then are we done.
    ignore_term();
    close_all_but(&[lifeline.as_raw_fd(), leaf.kill_fd().as_raw_fd(), leaf.dir().as_raw_fd()]);
    if !ends_within(&lifeline, SETTLE) {
        // It sleeps from here on.
        forget_code();
    }
    let mut end = std::fs::File::from(lifeline);
    let mut byte = [0];
    while end.read(&mut byte).is_err() {}
    if !leaf.kill() {
        // A shim that ended in order leaves none.
        exit_now(0);
    }
    for _ in 0..LOOKS_MAX {
        leaf.kill();
        if leaf.processes().is_empty() && Stat::read(shim.as_raw_pid()).is_none_or(|stat| !stat.alive()) {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    leaf.remove();
    exit_now(0)
}

fn ends_within(lifeline: &OwnedFd, time: Timespec) -> bool {
    poll(&mut [PollFd::new(lifeline, PollFlags::IN)], Some(&time)).is_ok_and(|ready| ready > 0)
}
