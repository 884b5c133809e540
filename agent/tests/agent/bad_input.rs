//! What a person can get wrong before the agent is up: each is told with the next step.

use std::process::Output;

use crate::support::{Farm, program, within};

async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output: Output = within("it ends", program(arguments).output()).await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn an_unknown_key_of_the_configuration_is_named_with_its_place() {
    let farm = Farm::joined().await;
    let config = farm.dir.path().join("stratavore.yaml");
    std::fs::write(&config, "agent:\n  kill_grace: 3\n").unwrap();
    let data = farm.data_dir();
    let arguments = ["run", "--data-dir", data.to_str().unwrap(), "--config", config.to_str().unwrap()];
    let (code, said) = run(&arguments).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("kill_grace") && said.contains("line 2") && said.contains("next: "), "{said}");
}

#[tokio::test]
async fn a_directory_that_belongs_to_no_cluster_says_how_to_join() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    for command in ["run", "stop"] {
        let (code, said) = run(&[command, "--data-dir", data]).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("stratavore-agent join"), "{said}");
    }
}

#[tokio::test]
async fn a_directory_that_mixes_two_clusters_is_refused() {
    let (one, other) = (Farm::joined().await, Farm::joined().await);
    for file in ["ca.crt", "host.crt", "host.key"] {
        let place = |farm: &Farm| farm.data_dir().join("pki").join(file);
        std::fs::copy(place(&other), place(&one)).unwrap();
    }
    let (code, said) = run(&["run", "--data-dir", one.data_dir().to_str().unwrap()]).await;
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("mixes two identities") && said.contains("next: "), "{said}");
}

#[tokio::test]
async fn torn_files_of_the_agent_are_named() {
    let farm = Farm::joined().await;
    let data = farm.data_dir();
    std::fs::write(data.join("seen.json"), "{").unwrap();
    let (code, said) = run(&["run", "--data-dir", data.to_str().unwrap()]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("seen.json"), "{said}");
    std::fs::remove_file(data.join("seen.json")).unwrap();
    let membership = std::fs::read(data.join("agent.json")).unwrap();
    std::fs::write(data.join("agent.json"), &membership[..membership.len() / 2]).unwrap();
    let (code, said) = run(&["run", "--data-dir", data.to_str().unwrap()]).await;
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("agent.json"), "{said}");
    std::fs::write(data.join("agent.json"), &membership).unwrap();
}
