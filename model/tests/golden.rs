//! P22: what an entry does never changes by accident. A fixed history gives this digest in every version that knows its
//! commands; a deliberate change comes as a new command version, and with a new history beside this one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;
mod story;

#[test]
fn the_history_has_every_command() {
    let lab = story::version_3();
    let names: std::collections::BTreeSet<_> = lab.log.iter().map(|entry| entry.command.name()).collect();
    assert_eq!(names.len(), 37, "{names:?}");
}

#[test]
fn p22_the_history_of_version_2_gives_its_digest() {
    let digest = story::version_2().state.digest();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "1a8573f3a92dbfeb918dd57e14c5db3f93f88db27f9467ef91f16815a562decc");
}

#[test]
fn p22_the_history_of_version_3_gives_its_digest() {
    let digest = story::version_3().state.digest();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "889cd306d0ecb19009cfbc368c5853ca2202b680f3b952d57bdf681920e51efd");
}
