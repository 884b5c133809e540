//! What the three programs share about being configured: layers of values with their origins, log output, context
//! files of the command line, and where things lie on this machine.
//!
//! A value comes from the first of: flag, environment variable `STRATAVORE_SECTION__KEY`, configuration file, default.
//! This crate knows no other crate of the project: what may be configured is the type that the caller asks for.

pub mod context;
pub mod dirs;
mod error;
mod file;
mod loaded;
pub mod log;
mod sections;
mod sources;
mod tree;
mod write;
mod yaml;

pub use error::ConfigError;
pub use loaded::{Loaded, Origin, Row, load};
pub use sections::SECTIONS;
pub use sources::{Environment, Flag, Sources};
