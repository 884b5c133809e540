//! The real `stratavore-agent`, its shims and its runners, against a gateway and a join port in this process.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has to fail")]

mod bad_input;
mod full_disk;
mod gateways;
mod joining;
mod leases;
mod linking;
mod supervision;
mod support;
