//! Tests: the log that a version stored gives the same state in every later version (P22). A file of `logs/` is written
//! once, by the version whose name it has, and never again; another version adds its own.

use std::io::Write;

use stratavore_model::{Changes, LogPosition, State, apply};

use super::{decode_entry, encode_entry};

#[path = "../../../model/tests/lab/mod.rs"]
mod lab;
#[path = "../../../model/tests/story/mod.rs"]
mod story;

/// Term of every entry: that of the history.
const TERM: u64 = 3;

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The state after a stored log: entries, each behind its length in four big-endian bytes.
fn replayed(mut log: &[u8]) -> State {
    let (mut state, mut changes) = (State::new(), Changes::new());
    let mut index = 0;
    while let Some((length, rest)) = log.split_first_chunk::<4>() {
        let (bytes, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        let entry = decode_entry(bytes::Bytes::copy_from_slice(bytes)).unwrap();
        index += 1;
        apply(&mut state, &mut changes, LogPosition { index, term: TERM }, &entry);
        log = rest;
    }
    state
}

#[test]
fn p22_the_stored_log_of_version_2_gives_its_digest() {
    let state = replayed(include_bytes!("logs/version-2.log"));
    assert_eq!(hex(state.digest()), include_str!("logs/version-2.digest").trim());
    assert_eq!(state.digest(), state.recomputed_digest());
}

#[test]
fn p22_rows_written_after_the_stored_log_give_its_digest() {
    let state = replayed(include_bytes!("logs/version-2.log"));
    let rows = state.rows().map(|row| super::decode_row(&super::encode_row(&row)).unwrap());
    assert_eq!(hex(State::from_rows(rows).digest()), include_str!("logs/version-2.digest").trim());
}

#[test]
fn p22_the_stored_log_of_version_3_gives_its_digest() {
    let state = replayed(include_bytes!("logs/version-3.log"));
    assert_eq!(hex(state.digest()), include_str!("logs/version-3.digest").trim());
    let rows = state.rows().map(|row| super::decode_row(&super::encode_row(&row)).unwrap());
    assert_eq!(State::from_rows(rows).digest(), state.digest());
}

#[test]
#[ignore = "writes the log of this version: once, before it is released"]
fn write_the_log_of_this_version() {
    let lab = story::version_3();
    assert_eq!(lab.term, TERM);
    let logs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record/logs");
    let mut file = std::fs::File::create(logs.join("version-3.log")).unwrap();
    for entry in &lab.log {
        let bytes = encode_entry(entry);
        file.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
        file.write_all(&bytes).unwrap();
    }
    std::fs::write(logs.join("version-3.digest"), hex(lab.state.digest()) + "\n").unwrap();
}
