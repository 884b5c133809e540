//! Wire messages <-> model, in this directory and nowhere else. All nondeterminism (time, ids) is filled in here,
//! so that apply is the same on every node. Refusals of malformed fields are the model's own.

pub(crate) mod agent;
pub(crate) mod command;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod host;
pub(crate) mod id;
pub(crate) mod identity;
pub(crate) mod project;
pub(crate) mod runner;
pub(crate) mod token;
