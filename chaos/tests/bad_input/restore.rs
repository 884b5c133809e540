//! Backups that cannot be restored, and directories that nothing is restored into: each says why and what to do, and
//! leaves nothing behind.

use std::fs;
use std::path::Path;

use stratavore_chaos::farm::{LocalFarm, Plan, text};
use stratavore_chaos::ran::{Ran, run};

/// Exit code for data that is not what was written.
const CORRUPT: i32 = 10;
/// Exit code of a node that was removed from its cluster.
const REMOVED: i32 = 13;

fn farm_with_backup() -> LocalFarm {
    let farm = Plan::default().agents(0).start();
    farm.project("demo");
    farm.cli(&["cluster", "snapshot", &farm.path("backup").to_string_lossy()]).ok();
    farm
}

fn restore(farm: &LocalFarm, file: &Path, data: &Path, more: &[&str]) -> Ran {
    let mut command = farm.command(&farm.binaries().node());
    command.arg("restore").arg("--from").arg(file).arg("--data-dir").arg(data);
    run(command.args(more))
}

/// CRC-32 as in zip files: what a backup's frames are checked with.
fn crc32(bytes: &[u8]) -> u32 {
    let fold = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, fold)
}

/// The same backup, saying of itself that it is of a cluster version that nobody knows yet.
fn of_a_newer_version(backup: &[u8]) -> Vec<u8> {
    let head = backup.iter().position(|byte| *byte == b'\n').expect("a magic line") + 1;
    let length = u32::from_le_bytes(backup[head..head + 4].try_into().expect("four bytes")) as usize;
    let (body, mut newer) = (head + 8..head + 8 + length, backup.to_vec());
    // Field 7, the version, before field 8, the node.
    let is_version = |two: &[u8]| two[0] == 0x38 && two[2] == 0x40;
    let at = backup[body.clone()].windows(3).position(is_version).expect("a version") + body.start;
    newer[at + 1] = 99;
    let crc = crc32(&newer[body]).to_le_bytes();
    newer[head + 4..head + 8].copy_from_slice(&crc);
    newer
}

#[test]
fn a_damaged_backup_is_named_and_nothing_is_made_of_it() {
    let farm = farm_with_backup();
    let whole = fs::read(farm.path("backup")).unwrap();
    let (file, target) = (farm.path("broken"), farm.path("target"));
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for (bytes, word) in [
        (&whole[..whole.len() - 7], "ends in the middle"),
        (&whole[..whole.len() / 3], "ends in the middle"),
        (&flipped, "checksum"),
        (b"something else\n".as_slice(), "does not begin as a backup does"),
        (b"".as_slice(), "broken"),
    ] {
        fs::write(&file, bytes).unwrap();
        restore(&farm, &file, &target, &[]).refused(CORRUPT, &["broken", word, "another copy"]);
        assert!(
            !target.join("node.json").exists() && !target.join("state").exists(),
            "{word}: something is left"
        );
    }
    restore(&farm, &farm.path("none"), &target, &[]).refused(2, &["none", "no such file"]);
    fs::write(&file, of_a_newer_version(&whole)).unwrap();
    restore(&farm, &file, &target, &[]).refused(2, &["newer version", "cluster finalize"]);
    restore(&farm, &farm.path("backup"), &target, &[]).ok();
}

#[test]
fn a_directory_that_holds_something_is_never_restored_into() {
    let mut farm = farm_with_backup();
    let backup = farm.path("backup");
    let other = Plan::default().agents(0).start();
    let status = other.cli(&["status", "-o", "json"]).ok().json();
    let theirs = text(&status["cluster"], "id");
    restore(&farm, &backup, other.node_data(), &[]).refused(5, &["in use by another", "empty directory"]);
    let mut other = other;
    other.kill_node();
    restore(&farm, &backup, other.node_data(), &[]).refused(
        5,
        &[
            &format!("already holds node 1 of cluster {theirs}"),
            "the backup is of cluster",
            "empty directory",
        ],
    );
    other.start_node();

    farm.kill_node();
    restore(&farm, &backup, &farm.nodes[0].data.clone(), &[])
        .refused(5, &["already holds node 1", "empty directory"]);
    restore(&farm, &backup, &farm.path("fresh"), &[]).ok();
    restore(&farm, &backup, &farm.path("fresh"), &[])
        .refused(5, &["already holds node 2", "empty directory"]);
    farm.start_node();
}

#[test]
fn a_removed_node_says_so_and_is_not_recovered() {
    let mut farm = Plan::default().nodes(3).agents(0).start();
    let leaver = farm.follower();
    let id = farm.node_id(leaver);
    farm.cli(&["cluster", "remove", &id, "--allow-even"]).ok();
    let status = farm.nodes[leaver].process.as_mut().expect("a started node").wait();
    assert!(!status.success(), "a removed node must say so: {status}");
    farm.run_node_at_to_end(leaver).exits(REMOVED).says(&["removed", "join again", "empty"]);
    for more in [&["--accept-loss"][..], &["--accept-loss", "--lost-quorum"]] {
        run(farm.node_command(leaver, "recover").args(more)).exits(REMOVED).says(&["removed", "join again"]);
    }
}
