//! The agent's side of its shims: starts them, adopts them, talks to them, reads their logs.
//!
//! A runner's directory is the truth about it. Nothing here remembers anything that is not in a directory or behind
//! a socket, so an agent that dies forgets nothing.

mod adopt;
mod attach;
mod client;
mod environment;
mod host;
mod launch;
mod logs;
mod zygote;

pub use adopt::{AdoptError, Adoption, forget, record_failure};
pub use attach::Attachment;
pub use client::{Client, ClientError};
pub use host::{FencePreference, Host};
pub use launch::{Launcher, StartError, StartSpec};
pub use logs::read_logs;
