//! The command line's contract: shapes, exit codes, and what each command leaves behind.

mod events;
mod local_cluster;
mod metrics;
mod placement;
mod runners;
mod shapes;
