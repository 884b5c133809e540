//! The only file with `unsafe`: forking, the child's last steps before exec, waiting with resource usage, signalfd.
//!
//! Safe wrappers for these do not exist in `rustix`, because what a process may do between fork and exec depends on
//! the whole program. Here that is simple: the shim has one thread, no allocator locks can be held by another, and
//! everything the child needs is prepared before the fork.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

use super::ended::{Ended, Waited};
use super::failure::Step;

/// Highest signal number, real-time ones included.
const SIGNALS: i32 = 64;

/// Which side of a fork this is.
#[derive(Debug)]
pub(super) enum Side {
    Parent(Pid),
    Child,
}

/// Forks the calling process, which must have one thread.
pub(super) fn fork() -> io::Result<Side> {
    // SAFETY: single-threaded, so the child is a complete copy and may go on in Rust.
    side(i64::from(unsafe { libc::fork() }))
}

fn side(pid: i64) -> io::Result<Side> {
    match i32::try_from(pid) {
        Ok(0) => Ok(Side::Child),
        Ok(pid) => number(pid).map(Side::Parent).ok_or_else(io::Error::last_os_error),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// A process id, if it is one (`Pid` itself panics on what failed calls return).
fn number(pid: i32) -> Option<Pid> {
    if pid > 0 { Pid::from_raw(pid) } else { None }
}

/// Ends the process at once: no destructors, no buffers of the parent flushed twice.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, touches nothing.
    unsafe { libc::_exit(code) }
}

/// Keeps a long-lived small process small: no huge pages, one heap that gives memory back early.
pub(super) fn stay_small() {
    // SAFETY: plain settings of this process.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 * 1024);
        // Above this a buffer has its own mapping, which a free gives back whole.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024);
    }
}

/// Gives back the pages of a file's read-only mapping; each comes back by itself when it is needed.
pub(super) fn forget_pages(from: usize, bytes: usize) {
    let start = std::ptr::with_exposed_provenance_mut(from);
    // SAFETY: a mapping of a file that nobody writes to: its pages are read from there again.
    unsafe { libc::madvise(start, bytes, libc::MADV_DONTNEED) };
}

/// A timer of the kernel that kills this process, even a stopped one, at a time of CLOCK_BOOTTIME (P11).
#[derive(Debug)]
pub(super) struct KillTimer(libc::timer_t);

impl KillTimer {
    pub(super) fn create() -> io::Result<Self> {
        // SAFETY: plain structures that outlive the call. Every timer that exists is valid until the process ends.
        unsafe {
            let (mut event, mut timer) = (std::mem::zeroed::<libc::sigevent>(), std::ptr::null_mut());
            (event.sigev_notify, event.sigev_signo) = (libc::SIGEV_SIGNAL, libc::SIGKILL);
            checked(libc::timer_create(libc::CLOCK_BOOTTIME, &raw mut event, &raw mut timer))?;
            Ok(Self(timer))
        }
    }

    /// Sets it to `at_ns`, at once when that has passed; `None` disarms it.
    pub(super) fn set(&self, at_ns: Option<u64>) -> io::Result<()> {
        // SAFETY: plain data, and a timer that exists (see `create`).
        unsafe {
            let mut when: libc::itimerspec = std::mem::zeroed();
            let at_ns = at_ns.map_or(0, |at_ns| i64::try_from(at_ns).unwrap_or(i64::MAX).max(1));
            (when.it_value.tv_sec, when.it_value.tv_nsec) = (at_ns / 1_000_000_000, at_ns % 1_000_000_000);
            checked(libc::timer_settime(self.0, libc::TIMER_ABSTIME, &raw const when, std::ptr::null_mut()))
        }
    }
}

fn checked(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Name of the process in `ps`.
pub(super) fn set_name(name: &CStr) {
    // SAFETY: a NUL-terminated string that outlives the call.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0);
    }
}

/// A shim survives its terminal and its readers.
pub(super) fn ignore_hangups() {
    ignore(&[libc::SIGHUP, libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT]);
}

/// For a process that ends with another one and by nothing else.
pub(super) fn ignore_term() {
    ignore(&[libc::SIGTERM]);
}

fn ignore(signals: &[i32]) {
    for signal in signals {
        // SAFETY: changes a disposition only.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Blocks SIGCHLD and SIGTERM and delivers them through a descriptor.
pub(super) fn signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset; the descriptor returned is ours alone.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        owned(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    checked(fd)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `/dev/null` of stdin, stdout and stderr.
pub(super) fn silence_stdio() -> io::Result<()> {
    // SAFETY: opens and duplicates descriptors; 0 to 2 are owned by nobody else in a shim.
    unsafe {
        let null = owned(libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC))?;
        for target in 0..3 {
            checked(libc::dup2(null.as_raw_fd(), target))?;
        }
    }
    Ok(())
}

/// Closes everything but `keep`.
pub(super) fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut from = 0;
    for fd in keep {
        if fd > from {
            close_span(from, fd - 1);
        }
        from = fd + 1;
    }
    close_span(from, u32::MAX);
}

fn close_span(from: u32, to: u32) {
    // SAFETY: called only in processes that never use the closed descriptors again.
    unsafe {
        libc::syscall(libc::SYS_close_range, from, to, 0);
    }
}

/// Reaps one child, if one has ended.
pub(super) fn wait() -> Waited {
    wait_with(libc::WNOHANG)
}

fn wait_with(options: i32) -> Waited {
    loop {
        let mut status = 0;
        // SAFETY: both out-pointers are valid for the call; rusage is plain data.
        let (pid, usage) = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::wait4(-1, &raw mut status, options, &raw mut usage), usage)
        };
        if let Some(pid) = number(pid) {
            let ended = Ended {
                status,
                user_us: micros(usage.ru_utime),
                system_us: micros(usage.ru_stime),
                max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
            };
            return Waited::Ended(pid, ended);
        }
        if pid == 0 {
            return Waited::Nothing;
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return Waited::NoChildren;
        }
    }
}

fn micros(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
}

/// Which namespaces the command gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespaces {
    /// The shim's own.
    Shared,
    /// A PID namespace with our init as its pid 1, and a mount namespace for its `/proc`.
    Pid,
    /// The same inside a user namespace that maps only the caller.
    User,
}

/// Everything a command needs, made before the fork.
#[derive(Debug)]
pub(super) struct Child<'a> {
    /// Programs to try in order (the PATH search is done already).
    pub(super) programs: Vec<CString>,
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) workdir: CString,
    /// What becomes stdin, stdout and stderr.
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// stdin is a terminal that becomes the controlling one.
    pub(super) tty: bool,
    /// The command waits for one byte here before it execs; end of file means the shim died.
    pub(super) gate: BorrowedFd<'a>,
    /// Where a failed exec is reported; closed by a successful one.
    pub(super) report: BorrowedFd<'a>,
    /// Where the init of a PID namespace reports the command's end.
    pub(super) init_report: Option<BorrowedFd<'a>>,
    pub(super) namespaces: Namespaces,
    /// Directory of a v2 cgroup to be born in.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` files of v1 controllers to enter.
    pub(super) join: Vec<BorrowedFd<'a>>,
    /// Value of `oom_score_adj` to go back to, when the shim has lowered its own.
    pub(super) oom_score_adj: Option<Vec<u8>>,
    /// `uid_map` and `gid_map` lines of a user namespace.
    pub(super) maps: (Vec<u8>, Vec<u8>),
}

impl Child<'_> {
    /// Forks the command (or the init above it). Returns in the shim only.
    pub(super) fn spawn(&self) -> io::Result<Pid> {
        let argv = pointers(&self.argv);
        let env = pointers(&self.env);
        // What execvp does with a script that has no interpreter line.
        let mut script: Vec<*const c_char> = vec![c"/bin/sh".as_ptr(), std::ptr::null()];
        script.extend(argv.iter().skip(1));
        let pid = self.clone3()?;
        match side(pid)? {
            Side::Parent(pid) => Ok(pid),
            Side::Child => {
                let (step, errno) = if self.namespaces == Namespaces::Shared {
                    self.command(&argv, &env, &mut script)
                } else {
                    self.init(&argv, &env, &mut script)
                };
                self.fail(step, errno)
            }
        }
    }

    /// A fork that is born in its cgroup and namespaces: moving a running process into a cgroup afterwards waits for
    /// an RCU grace period, this does not.
    fn clone3(&self) -> io::Result<i64> {
        let flags = match self.namespaces {
            Namespaces::Shared => 0,
            Namespaces::Pid => libc::CLONE_NEWPID | libc::CLONE_NEWNS,
            Namespaces::User => libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWUSER,
        };
        let mut flags = u64::try_from(flags).unwrap_or(0);
        // SAFETY: clone_args is plain data; with stack 0 and no CLONE_VM this is a fork (see `fork`).
        unsafe {
            let mut arguments: libc::clone_args = std::mem::zeroed();
            if let Some(cgroup) = self.cgroup {
                flags |= CLONE_INTO_CGROUP;
                arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(0);
            }
            arguments.flags = flags;
            arguments.exit_signal = u64::try_from(libc::SIGCHLD).unwrap_or(0);
            let pid = libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>());
            // Containers' seccomp filters know no clone3; without flags a fork is the same.
            if pid < 0 && flags == 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
                return Ok(i64::from(libc::fork()));
            }
            Ok(pid)
        }
    }

    /// The command's own steps; returns only when one failed.
    fn command(
        &self,
        argv: &[*const c_char],
        env: &[*const c_char],
        script: &mut [*const c_char],
    ) -> (Step, i32) {
        // SAFETY: between fork and exec, single-threaded; every pointer was made before the fork and is NUL-terminated
        // or a null-terminated array; descriptors are open in this process.
        unsafe {
            for procs in &self.join {
                libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1);
            }
            if let Some(value) = &self.oom_score_adj {
                // Cannot fail upwards: raising the value is always allowed.
                write_file(c"/proc/self/oom_score_adj", value).ok();
            }
            libc::setsid();
            if self.tty && libc::ioctl(self.stdio[0].as_raw_fd(), libc::TIOCSCTTY, 0) < 0 {
                return (Step::Terminal, errno());
            }
            for (target, source) in (0..).zip(self.stdio) {
                if libc::dup2(source.as_raw_fd(), target) < 0 {
                    return (Step::Terminal, errno());
                }
            }
            restore_signals();
            libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0);
            if !self.pass_gate() {
                exit_now(127);
            }
            libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            if libc::chdir(self.workdir.as_ptr()) < 0 {
                return (Step::Workdir, errno());
            }
            (Step::Program, self.exec(argv, env, script))
        }
    }

    /// Tries the programs in order; the errno that says most.
    ///
    /// # Safety
    /// As [`Child::command`].
    unsafe fn exec(
        &self,
        argv: &[*const c_char],
        env: &[*const c_char],
        script: &mut [*const c_char],
    ) -> i32 {
        let mut best = libc::ENOENT;
        for program in &self.programs {
            // SAFETY: null-terminated arrays of NUL-terminated strings, all alive.
            unsafe {
                libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr());
                match errno() {
                    libc::ENOEXEC => {
                        script[1] = program.as_ptr();
                        libc::execve(c"/bin/sh".as_ptr(), script.as_ptr(), env.as_ptr());
                        best = libc::ENOEXEC;
                    }
                    libc::ENOENT | libc::ENOTDIR => {}
                    // Found but not allowed says more than not found further along the PATH.
                    other => best = other,
                }
            }
        }
        best
    }

    /// True when the shim opened the gate, false when it died.
    fn pass_gate(&self) -> bool {
        let mut byte = 0u8;
        loop {
            // SAFETY: reads one byte into a local.
            let read = unsafe { libc::read(self.gate.as_raw_fd(), (&raw mut byte).cast(), 1) };
            if read >= 0 || errno() != libc::EINTR {
                return read == 1;
            }
        }
    }

    /// Pid 1 of the namespace: dies with the shim, reaps whatever is left to it, reports the command's end, and ends
    /// with the last process. Never the user's command itself, which as pid 1 would ignore TERM.
    fn init(
        &self,
        argv: &[*const c_char],
        env: &[*const c_char],
        script: &mut [*const c_char],
    ) -> (Step, i32) {
        set_name(c"stratavore-init");
        if let Err(errno) = self.enter_namespace() {
            return (Step::Namespace, errno);
        }
        let command = match fork() {
            Ok(Side::Child) => return self.command(argv, env, script),
            Ok(Side::Parent(command)) => command,
            Err(error) => return (Step::Namespace, error.raw_os_error().unwrap_or(libc::EAGAIN)),
        };
        let Some(report) = self.init_report else { exit_now(127) };
        close_all_but(&[report.as_raw_fd()]);
        loop {
            match wait_with(0) {
                Waited::Ended(pid, ended) if pid == command => {
                    let bytes = ended.report();
                    // SAFETY: writes from a local buffer; a pipe takes 32 bytes at once.
                    unsafe {
                        libc::write(report.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
                    }
                }
                Waited::NoChildren => exit_now(0),
                Waited::Ended(..) | Waited::Nothing => {}
            }
        }
    }

    fn enter_namespace(&self) -> Result<(), i32> {
        // SAFETY: constant strings and owned buffers; affects only this process and its own mount namespace.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) < 0 {
                return Err(errno());
            }
            if self.namespaces == Namespaces::User {
                write_file(c"/proc/self/setgroups", b"deny")?;
                write_file(c"/proc/self/uid_map", &self.maps.0)?;
                write_file(c"/proc/self/gid_map", &self.maps.1)?;
            }
            let none = std::ptr::null();
            // Mounts of the host still arrive here; ours stay here.
            let private = libc::MS_REC | libc::MS_SLAVE;
            if libc::mount(none, c"/".as_ptr(), none, private, none.cast()) < 0 {
                return Err(errno());
            }
            let hidden = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let proc = c"proc".as_ptr();
            if libc::mount(proc, c"/proc".as_ptr(), proc, hidden, none.cast()) < 0 {
                return Err(errno());
            }
        }
        Ok(())
    }

    fn fail(&self, step: Step, errno: i32) -> ! {
        let bytes = step.report(errno);
        // SAFETY: writes from a local buffer.
        unsafe {
            libc::write(self.report.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
        }
        exit_now(127)
    }
}

/// Since Linux 5.7; its value does not fit the type `libc` gives the other flags.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Default dispositions and an empty mask, as a program expects them. By system call: the C library hides the two
/// signals it uses itself, and a parent may have left them ignored.
fn restore_signals() {
    // handler SIG_DFL, flags, restorer, mask: all zero, in the kernel's own layout.
    let default = [0usize; 4];
    let empty = 0u64;
    // SAFETY: changes dispositions and the mask of this process only; both structures outlive the calls.
    unsafe {
        for signal in 1..=SIGNALS {
            let none = std::ptr::null_mut::<libc::c_void>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, size_of::<u64>());
        }
        let none = std::ptr::null_mut::<libc::c_void>();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const empty, none, size_of::<u64>());
    }
}

/// # Safety
/// Between fork and exec, single-threaded.
unsafe fn write_file(path: &CStr, content: &[u8]) -> Result<(), i32> {
    // SAFETY: a NUL-terminated path and a buffer with its length; the descriptor is closed here.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(errno());
        }
        let written = libc::write(fd, content.as_ptr().cast(), content.len());
        let failed = errno();
        libc::close(fd);
        if written < 0 { Err(failed) } else { Ok(()) }
    }
}
