//! Places around each sync, rename and write of the storage. They do nothing, except that a test's child process dies
//! at the one it was told to (P19).

#[cfg(not(test))]
#[inline]
pub(crate) fn reached() {}

#[cfg(test)]
pub(crate) use armed::{arm, reached};

#[cfg(test)]
mod armed {
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static FATAL: AtomicU64 = AtomicU64::new(u64::MAX);

    /// From now on, the process dies at the `n`th place it reaches, counted from 1.
    pub(crate) fn arm(n: u64) {
        PASSED.store(0, Ordering::SeqCst);
        FATAL.store(n, Ordering::SeqCst);
    }

    pub(crate) fn reached() {
        if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == FATAL.load(Ordering::SeqCst) {
            // As a kill does: no destructor, no flush.
            std::process::abort();
        }
    }
}
