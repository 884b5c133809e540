//! Survival 4: joining. A second person logs in; bad tokens are refused with the reason; a removed host is cut at once.

use std::fs;
use std::path::{Path, PathBuf};

use stratavore_chaos::eventually::{SOON, eventually, eventually_true};
use stratavore_chaos::farm::{LocalFarm, Plan};
use stratavore_chaos::processes::{is_alive, with_argument};
use stratavore_chaos::ran::{Ran, run};
use stratavore_chaos::spawned::Spawned;

/// `stratavore login` of a second person with a home of their own.
fn login(farm: &LocalFarm, token: &Path, person: &str) -> Ran {
    let server = format!("127.0.0.1:{}", farm.ports().join);
    let mut command = farm.bare_command(&["login", "--server", &server, "--name", "work", "--token-file"]);
    run(command.arg(token).env("XDG_CONFIG_HOME", farm.path(person)).env("USER", person))
}

fn as_person(farm: &LocalFarm, person: &str, arguments: &[&str]) -> Ran {
    run(farm.bare_command(arguments).env("XDG_CONFIG_HOME", farm.path(person)))
}

fn token_id(token: &Path) -> String {
    let text = fs::read_to_string(token).expect("read a token");
    let id = text.trim().split('.').nth(4).expect("a token has an id");
    id.to_owned()
}

fn refused_join(farm: &LocalFarm, token: &Path, words: &[&str]) {
    let data = farm.path("refused-host");
    let ran = farm.try_join("newcomer", &data, token, &[]);
    ran.refused(4, words);
    let hosts = farm.cli(&["hosts", "-o", "json"]).ok().stdout;
    assert!(!hosts.contains("newcomer"), "a refused host is listed: {hosts}");
}

#[test]
fn a_second_person_logs_in_and_works() {
    let farm = LocalFarm::start();
    farm.project("demo");
    let token = farm.token("user", &[]);
    login(&farm, &token, "second").ok();
    as_person(&farm, "second", &["status"]).ok();
    let launched =
        as_person(&farm, "second", &["launch", "demo", "--detach", "-o", "json", "--", "true"]).ok();
    assert_eq!(launched.items("RunnerList").len(), 1);
    let contexts = farm.path("second").join("stratavore/contexts.yaml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&contexts).unwrap().permissions());
    assert_eq!(mode & 0o077, 0, "a private key that others may read");
    let key = |file: &Path| {
        let text = fs::read_to_string(file).unwrap();
        text.lines()
            .skip_while(|l| !l.contains("BEGIN") || !l.contains("KEY"))
            .nth(1)
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_ne!(key(&contexts), key(&farm.admin_context()), "every person has a key of their own");
}

#[test]
fn a_used_token_admits_nobody_else() {
    let farm = LocalFarm::start();
    let token = farm.token("user", &[]);
    login(&farm, &token, "first").ok();
    login(&farm, &token, "thief").refused(4, &["used"]);
    let token = farm.token("host", &[]);
    farm.try_join("rightful", &farm.path("rightful"), &token, &[]).ok();
    refused_join(&farm, &token, &["used"]);
}

#[test]
fn an_expired_token_is_refused_with_the_reason() {
    let farm = LocalFarm::start();
    let token = farm.token("host", &["--ttl", "1s"]);
    let id = token_id(&token);
    eventually("the token to expire", SOON, || {
        let list = farm.cli(&["token", "list", "-o", "json"]).ok();
        let tokens = list.items("TokenList");
        let expired = tokens.iter().any(|t| t["id"] == id.as_str() && t["state"] == "expired");
        if expired { Ok(()) } else { Err(list.stdout) }
    });
    refused_join(&farm, &token, &["expired"]);
}

#[test]
fn a_revoked_token_is_refused_with_the_reason() {
    let farm = LocalFarm::start();
    let token = farm.token("host", &[]);
    farm.cli(&["token", "revoke", &token_id(&token)]).ok();
    refused_join(&farm, &token, &["revoked"]);
    farm.cli(&["token", "revoke", "0000000000"]).refused(3, &["token"]);
}

#[test]
fn a_token_of_another_cluster_is_refused_before_its_secret_is_sent() {
    let farm = LocalFarm::start();
    let foreign = Plan::default().agents(0).start();
    let token = foreign.token("host", &[]);
    refused_join(&farm, &token, &["another cluster"]);
    // The secret never left: in its own cluster the token is as good as new.
    foreign.try_join("rightful", &foreign.path("rightful"), &token, &[]).ok();
}

#[test]
fn a_token_of_another_role_a_made_up_and_a_mangled_one_are_refused() {
    let farm = LocalFarm::start();
    let user = farm.token("user", &[]);
    let host = farm.token("host", &[]);
    let ran = farm.try_join("newcomer", &farm.path("x"), &user, &[]);
    assert!(matches!(ran.code, Some(2 | 4)), "{ran}");
    let code = ran.code.unwrap();
    ran.refused(code, &["person", "host"]);
    let ran = login(&farm, &host, "newcomer");
    assert!(matches!(ran.code, Some(2 | 4)), "{ran}");
    let text = fs::read_to_string(&host).unwrap();
    let made_up = write(&farm, "made-up", &text.replace(&token_id(&host), "zzzzzzzzzz"));
    refused_join(&farm, &made_up, &["token"]);
    let wrong_secret = write(&farm, "wrong", &format!("{}0000000000", &text[..text.len() - 10]));
    refused_join(&farm, &wrong_secret, &["token"]);
    // The right secret still works: guessing consumes nothing.
    farm.try_join("rightful", &farm.path("rightful"), &host, &[]).ok();
    let mangled = write(&farm, "mangled", "svt1.host.nonsense");
    farm.try_join("newcomer", &farm.path("x"), &mangled, &[]).refused(2, &["token"]);
    let empty = write(&farm, "empty", "");
    farm.try_join("newcomer", &farm.path("x"), &empty, &[]).refused(2, &["token"]);
}

fn write(farm: &LocalFarm, name: &str, text: &str) -> PathBuf {
    let file = farm.path(name);
    fs::write(&file, text).expect("write a token file");
    file
}

#[test]
fn a_secret_is_never_written_to_a_log_or_a_data_directory_of_the_node() {
    let farm = LocalFarm::start();
    let token = farm.token("host", &[]);
    let text = fs::read_to_string(&token).unwrap();
    let secret = text.trim().rsplit('.').next().unwrap().to_owned();
    farm.try_join("second", &farm.path("second"), &token, &[]).ok();
    fs::remove_file(&token).unwrap();
    let found = run(farm.command(Path::new("grep")).args(["-rl", &secret]).arg(farm.root()));
    assert_eq!(found.stdout, "", "the secret lies on disk");
}

#[test]
fn a_host_with_runners_is_removed_only_by_force_and_then_cut_at_once() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let word = format!("removed-{}", uuid::Uuid::new_v4().simple());
    let probe = farm.binaries().probe();
    let script =
        format!("trap '' TERM INT HUP; (setsid {0} hold {word} &); exec {0} hold {word}", probe.display());
    let runner = farm.running("demo", &[], &["sh", "-c", &script]);
    eventually_true("both holders to run", SOON, || with_argument(&word).len() == 2);
    farm.cli(&["hosts", "remove", "host-0"]).refused(5, &["runner", "--force"]);
    assert_eq!(farm.runner(&runner)["state"], "running", "a refusal changes nothing");
    farm.cli(&["hosts", "remove", "host-0", "--force"]).ok();
    eventually_true("the removed host's runners to be gone", SOON, || with_argument(&word).is_empty());
    let agent = farm.agents[0].process.as_mut().unwrap();
    let agent_pid = agent.pid();
    agent.wait();
    assert!(!is_alive(agent_pid));
    let ended = farm
        .await_runner_that(&runner, "to be ended", |r| r["state"] == "terminated" || r["state"] == "failed");
    // P18: what is kept ends by an audited close of its record.
    assert_eq!(ended["reason"], "lost_with_host", "{ended}");
    let queued = farm.launch("demo", &[], &["true"]);
    assert_eq!(queued["state"], "pending", "nothing is placed on a removed host: {queued}");
    let again = run(&mut farm.agent_command(0));
    assert_ne!(again.code, Some(0), "{again}");
    again.says(&["removed"]);
}

#[test]
fn a_removed_host_cannot_come_back_with_its_old_key_while_it_was_away() {
    let mut farm = LocalFarm::start();
    farm.kill_agent(0);
    farm.cli_until_ok(&["hosts", "remove", "host-0", "--force"]);
    farm.spawn_agent(0);
    let agent = farm.agents[0].process.as_mut().unwrap();
    let status = agent.wait();
    assert!(!status.success(), "a removed agent ended with {status}");
    assert!(agent.log().to_lowercase().contains("removed"), "it does not say why:\n{}", agent.log());
    let hosts = farm.cli(&["hosts", "-o", "json"]).ok().items("HostList");
    assert!(hosts.iter().all(|h| h["name"] != "host-0" || h["state"] == "removed"), "{hosts:?}");
}

#[test]
fn a_second_agent_on_one_data_directory_is_refused() {
    let farm = LocalFarm::start();
    let second = run(&mut farm.agent_command(0));
    assert_ne!(second.code, Some(0), "{second}");
    second.says(&["another"]);
    farm.await_host("host-0", "ready");
}

#[test]
fn a_cloned_data_directory_does_not_make_two_of_one_host() {
    let mut farm = LocalFarm::start();
    farm.project("demo");
    let runner = farm.running("demo", &[], &["sleep", "100000"]);
    let pid = farm.pid_of(&runner);
    let clone = farm.path("clone");
    run(farm.command(Path::new("cp")).arg("-r").arg(&farm.agents[0].data).arg(&clone)).ok();
    let mut command = farm.command(&farm.binaries().agent());
    command.arg("run").arg("--data-dir").arg(&clone);
    let mut second = Spawned::start("clone", &mut command, &farm.path("logs/clone.log"));
    // Whatever becomes of the clone: the runner is not run twice and not stopped.
    let shims = farm.shims().len();
    eventually_true("the clone to be turned away or ended", SOON, || {
        let said = second.log().to_lowercase();
        second.ended().is_some()
            || said.contains("duplicate")
            || said.contains("another")
            || said.contains("superseded")
    });
    assert!(is_alive(pid), "a cloned agent stopped the runner");
    assert_eq!(farm.shims().len(), shims, "a cloned agent started the runner again");
    second.kill9();
    farm.kill_agent(0);
    farm.start_agent(0);
    farm.await_runner(&runner, "running");
    assert_eq!(farm.pid_of(&runner), pid);
}

#[test]
fn one_host_name_is_given_once() {
    let farm = LocalFarm::start();
    let token = farm.token("host", &[]);
    let ran = farm.try_join("host-0", &farm.path("second"), &token, &[]);
    ran.refused(5, &["host-0"]);
}

#[test]
fn labels_of_token_and_join_reach_the_host() {
    let farm = LocalFarm::start();
    let token = farm.token("host", &["--label", "zone=a"]);
    let data = farm.path("second");
    farm.try_join("second", &data, &token, &["--label", "gpu=yes", "--slots", "3"]).ok();
    let hosts = farm.cli(&["hosts", "-o", "json"]).ok().items("HostList");
    let host = hosts.iter().find(|h| h["name"] == "second").expect("the host is listed");
    assert_eq!((&host["labels"]["zone"], &host["labels"]["gpu"]), (&"a".into(), &"yes".into()), "{host}");
    assert_eq!(host["slots"], 3, "{host}");
}
