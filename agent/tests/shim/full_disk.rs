//! A full disk costs recorded output, never the runner or its exit.

use std::process::Command;

use stratavore_agent::runner::{Adoption, read_logs};
use stratavore_agent::shim::exit;
use stratavore_proto::v1;

use super::support::*;

/// A small file system of its own; needs root.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { dir });
        }
        eprintln!("skipped: this user cannot mount a small file system to fill");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test]
async fn a_full_disk_drops_output_but_not_the_end() {
    let Some(small) = Small::mount("3m") else { return };
    let place = Place::at(tempfile::tempdir_in(small.dir.path()).unwrap());
    let script = "stty -opost; head -c 16000000 /dev/zero | tr '\\0' x; echo; echo the end; exit 5";
    let client = place.start(shell(script, true)).await;
    let ended = end(&client).await;
    assert_eq!(ended.exit.as_ref().unwrap().code, Some(5));
    assert!(ended.log_end > 16_000_000, "every byte counts, recorded or not");
    assert!(
        client.screen().await.unwrap().rows.iter().any(|row| row.ends_with("the end")),
        "the screen lives on"
    );
    client.reap().await.unwrap();
    drop(client);
    let record = exit::read(&place.dir()).unwrap().unwrap();
    assert!(record.dropped_bytes > 10_000_000, "{}", record.dropped_bytes);
    let mut adopted = place.launcher.adopt(&place.dir()).await;
    while matches!(adopted, Ok(Adoption::Live(_))) {
        adopted = place.launcher.adopt(&place.dir()).await;
    }
    assert!(matches!(adopted, Ok(Adoption::Exited(_))), "{adopted:?}");
    let (mut recorded, mut dropped) = (0, 0);
    let mut chunks = read_logs(&place.dir(), v1::ReadLogsRequest::default(), None);
    while let Some(chunk) = within(chunks.recv()).await {
        let chunk = chunk.unwrap();
        recorded += chunk.data.len() as u64;
        dropped += chunk.dropped_bytes;
    }
    assert!(recorded > 1_000_000, "{recorded}: what was recorded is kept");
    assert!(recorded + dropped <= ended.log_end);
}

#[tokio::test]
async fn recording_goes_on_when_there_is_room_again() {
    let Some(small) = Small::mount("2m") else { return };
    let place = Place::at(tempfile::tempdir_in(small.dir.path()).unwrap());
    let ballast = small.dir.path().join("ballast");
    std::fs::write(&ballast, vec![0; 200_000]).unwrap();
    let script = "stty -opost -echo; head -c 4000000 /dev/zero | tr '\\0' x; echo; echo full; read go; echo recorded again";
    let client = place.start(shell(script, true)).await;
    within(async {
        while !client.screen().await.unwrap().rows.iter().any(|row| row.ends_with("full")) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    std::fs::remove_file(&ballast).unwrap();
    client.input(b"\n".to_vec(), false, "test").await.unwrap();
    let ended = end(&client).await;
    assert_eq!(ended.exit.as_ref().unwrap().code, Some(0));
    let mut viewer = Viewer::open(&client, raw_from(0)).await;
    viewer.until_exit().await;
    assert!(viewer.text().ends_with("recorded again\n"));
    assert!(viewer.jumps >= 1, "a gap, and offsets that tell its length");
    assert_eq!(viewer.next, Some(ended.log_end));
}
