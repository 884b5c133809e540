//! Black-box harness: starts, kills and scans the real programs, drives them through real terminals, and measures them.
//! Nothing here reads a private type of the product: what it knows is the command line, the wire and `/proc`.
//!
//! Every method that checks something panics with what it waited for: this is a library for tests.

pub mod api;
pub mod bench;
pub mod binaries;
pub mod etcd;
pub mod eventually;
pub mod farm;
pub mod http;
pub mod load;
pub mod network;
pub mod numbered;
pub mod ports;
pub mod processes;
pub mod ran;
pub mod spawned;
pub mod swarm;
pub mod terminal;
pub mod tmpfs;
pub mod tmux;
pub mod wire;
