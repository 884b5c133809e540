//! The shim from outside: every test starts the real binary and looks with the means of another process.
#![allow(clippy::unwrap_used, reason = "clippy's exemption for tests does not see their helpers")]

mod adoption;
mod attach;
mod deadlines;
mod ends;
mod full_disk;
mod support;
mod terminal;
mod tree;
mod zygote;
