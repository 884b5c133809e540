//! Bad input: each gets a clear error with the next step and the right exit code, and nothing acknowledged is lost.

mod arguments;
mod capacity;
mod frames;
mod full_disk;
mod nodes;
mod restore;
mod start_up;
mod stored_data;
