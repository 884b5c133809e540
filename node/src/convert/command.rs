//! API requests -> commands.

use stratavore_model::command::{
    AdoptRunner, CordonHost, CreateProject, CreateToken, Joiner, Kill, LAUNCH_COUNT_MAX, LabelHost, Launch,
    RedeemToken, RemoveHost, Restart, RevokeToken, Selector, SetQuota,
};
use stratavore_model::{Command, HostId, NodeAddresses, Rejected, RunnerId};
use stratavore_proto::v1;

use crate::convert::{id, runner, token};

pub(crate) fn create_project(request: v1::CreateProjectRequest) -> Result<Command, Rejected> {
    Ok(Command::CreateProject(CreateProject {
        name: id::parse("name", &request.name)?,
        path: request.path,
        command: request.command,
        max_runners: request.max_runners,
    }))
}

pub(crate) fn set_quota(request: &v1::SetQuotaRequest) -> Result<Command, Rejected> {
    let project = id::parse("project", &request.project)?;
    Ok(Command::SetQuota(SetQuota { project, max_runners: request.max_runners }))
}

/// Fills in the runner ids; apply checks that they are free.
pub(crate) fn launch(request: v1::LaunchRunnersRequest) -> Result<Command, Rejected> {
    let count = usize::try_from(request.count.max(1)).unwrap_or(usize::MAX);
    if count > LAUNCH_COUNT_MAX {
        return Err(Rejected::bad_argument(
            "count",
            format!("{count} runners in one launch, at most {LAUNCH_COUNT_MAX} are possible"),
            "launch them in several steps",
        ));
    }
    let ids = (0..count).map(|_| id::random().map(RunnerId::from_random)).collect::<Result<_, _>>();
    Ok(Command::Launch(Launch {
        project: id::parse("project", &request.project)?,
        ids: ids.map_err(|error| no_randomness(&error))?,
        name: id::parse_optional("name", &request.name)?,
        spec: runner::spec_of(request.spec.unwrap_or_default())?,
        no_queue: request.no_queue,
    }))
}

pub(crate) fn kill(request: v1::KillRunnersRequest) -> Result<Command, Rejected> {
    let selector = match (request.runners.is_empty(), request.project.as_str(), request.all) {
        (false, "", false) => Selector::Runners(request.runners),
        (true, "", true) => Selector::All,
        (true, project, false) if !project.is_empty() => Selector::Project(id::parse("project", project)?),
        _ => {
            return Err(Rejected::bad_argument(
                "runners",
                "exactly one of runners, project and all must be given",
                "name the runners, or a project, or all",
            ));
        }
    };
    Ok(Command::Kill(Kill { selector, force: request.force }))
}

pub(crate) fn adopt(request: v1::AdoptRunnerRequest) -> Result<Command, Rejected> {
    let project = id::parse("project", &request.project)?;
    let name = id::parse_optional("name", &request.name)?;
    Ok(Command::AdoptRunner(AdoptRunner { runner: request.runner, project, name }))
}

pub(crate) fn restart(request: v1::RestartRunnerRequest) -> Command {
    Command::Restart(Restart { runner: request.runner })
}

pub(crate) fn cordon(request: v1::SetHostCordonRequest) -> Command {
    Command::CordonHost(CordonHost { host: request.host, cordoned: request.cordoned })
}

pub(crate) fn label(request: v1::LabelHostRequest) -> Command {
    Command::LabelHost(LabelHost { host: request.host, set: request.set, remove: request.remove })
}

pub(crate) fn remove_host(request: v1::RemoveHostRequest) -> Command {
    Command::RemoveHost(RemoveHost { host: request.host, force: request.force })
}

pub(crate) fn create_token(request: v1::CreateTokenRequest) -> Result<Command, Rejected> {
    Ok(Command::CreateToken(CreateToken {
        id: id::parse("token_id", &request.token_id)?,
        role: token::role_of(request.role)?,
        ttl_ms: request.ttl_ms,
        labels: request.labels,
        secret_sha256: id::digest("secret_sha256", &request.secret_sha256)?,
    }))
}

pub(crate) fn revoke_token(request: &v1::RevokeTokenRequest) -> Result<Command, Rejected> {
    Ok(Command::RevokeToken(RevokeToken { id: id::parse("token_id", &request.token_id)? }))
}

/// A join: `secret_sha256` and `spki` were computed from the request by the caller.
pub(crate) fn redeem(
    request: v1::JoinRequest,
    secret_sha256: [u8; 32],
    spki: [u8; 32],
) -> Result<Command, Rejected> {
    let joiner = match v1::Role::try_from(request.role) {
        Ok(v1::Role::Host) => Joiner::Host {
            id: match id::parse_optional("host_id", &request.host_id)? {
                Some(id) => id,
                None => id::random().map(HostId::from_random).map_err(|error| no_randomness(&error))?,
            },
            name: id::parse_optional("name", &request.name)?,
            labels: request.labels,
            slots: request.slots,
        },
        Ok(v1::Role::User) => Joiner::User { name: id::parse_optional("name", &request.name)? },
        Ok(v1::Role::Node) => {
            let Some(v1::NodeAddress { grpc, quic, raft, join, .. }) = request.node else {
                return Err(Rejected::bad_argument(
                    "node",
                    "a node must say where it listens",
                    "join with `stratavored join`",
                ));
            };
            let addresses = NodeAddresses { grpc, quic, raft, join };
            Joiner::Node { addresses, version: request.version, max_version: request.max_version }
        }
        Ok(v1::Role::Unspecified) | Err(_) => {
            return Err(Rejected::bad_argument(
                "role",
                "role is missing",
                "send the role that the token names",
            ));
        }
    };
    let token = id::parse("token_id", &request.token_id)?;
    Ok(Command::RedeemToken(RedeemToken { token, secret_sha256, spki, joiner }))
}

fn no_randomness(error: &id::NoRandomness) -> Rejected {
    Rejected::new(
        stratavore_model::Code::InternalError,
        error.to_string(),
        "look at the node's log and try another node",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_gets_one_fresh_id_per_runner() {
        let request = v1::LaunchRunnersRequest { project: "p".into(), count: 3, ..Default::default() };
        let Command::Launch(first) = launch(request.clone()).unwrap() else { panic!("not a launch") };
        let Command::Launch(second) = launch(request.clone()).unwrap() else { panic!("not a launch") };
        assert_eq!(first.ids.len(), 3);
        assert!(first.ids.iter().all(|id| !second.ids.contains(id)));
        let zero = v1::LaunchRunnersRequest { count: 0, ..request.clone() };
        let Command::Launch(one) = launch(zero).unwrap() else { panic!("not a launch") };
        assert_eq!(one.ids.len(), 1);
        assert!(launch(v1::LaunchRunnersRequest { count: u32::MAX, ..request }).is_err());
    }

    #[test]
    fn a_kill_names_exactly_one_kind_of_target() {
        let none = v1::KillRunnersRequest::default();
        assert!(kill(none.clone()).is_err());
        assert!(kill(v1::KillRunnersRequest { all: true, ..none.clone() }).is_ok());
        assert!(kill(v1::KillRunnersRequest { all: true, project: "p".into(), ..none.clone() }).is_err());
        assert!(
            kill(v1::KillRunnersRequest { runners: vec!["a".into()], all: true, ..none.clone() }).is_err()
        );
        assert!(kill(v1::KillRunnersRequest { project: "p".into(), ..none }).is_ok());
    }

    #[test]
    fn a_joining_node_must_say_where_it_listens() {
        let request = v1::JoinRequest { role: v1::Role::Node as i32, ..Default::default() };
        let rejected = redeem(request.clone(), [0; 32], [0; 32]).unwrap_err();
        assert_eq!(rejected.field.as_deref(), Some("node"));
        let node = Some(v1::NodeAddress { raft: "10.0.0.1:50053".into(), ..Default::default() });
        let request = v1::JoinRequest { node, token_id: "0123456789".into(), ..request };
        let command = redeem(request, [0; 32], [0; 32]).unwrap();
        assert!(matches!(command, Command::RedeemToken(RedeemToken { joiner: Joiner::Node { .. }, .. })));
    }
}
