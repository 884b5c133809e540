//! Nodes in this process, real certificates, real ports on loopback; clients are tonic and quinn.

#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod agents;
mod api;
mod auth;
mod bad_input;
mod client;
mod cluster;
mod cluster_gateways;
mod cluster_leases;
mod cluster_members;
mod events;
mod fake_agent;
mod harness;
mod join;
mod probes;
mod restart;
mod restore;
mod start;
mod terminal;
