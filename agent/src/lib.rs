//! One agent per host: supervises runners through their shims, and carries out what the cluster desires.
//! Knows the wire (`proto`) and nothing of the replicated state.
//!
//! Three parts: [`shim`] keeps one runner and outlives everything else; [`runner`] starts, adopts and talks to shims;
//! [`supervisor`] decides, without any I/O. The rest is a thin shell around the last two.

mod adopt;
mod args;
mod clock;
mod config;
mod control;
mod data_dir;
mod disk;
mod dismiss;
pub mod epoch;
mod failure;
mod host;
mod join;
mod ledger;
mod link;
mod membership;
mod program;
mod registry;
mod retention;
mod run;
pub mod runner;
mod seen;
mod shell;
pub mod shim;
mod stock;
mod stop;
mod streams;
pub mod supervisor;
mod systemd;
mod trust;

pub use config::{AgentConfig, AgentSection};
pub use failure::exit;
pub use program::main;
