//! Who may call what. Default deny: a method that is not in the table is refused, and a handler can only propose
//! with an [`Authorized`] value, which nothing but this file makes.

use std::marker::PhantomData;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use stratavore_model::{Actor, SpkiHash};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::admission;
use crate::api::status::ApiError;
use crate::listen::stream::ConnectionInfo;

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Health and reflection.
    Probe,
    /// Look at anything that is not a secret.
    Read,
    /// Change projects and runners, use terminals.
    Operate,
    /// Change hosts, tokens and quotas.
    Administer,
    /// What nodes do for each other.
    Peer,
}

/// A permission as a type, so that a handler says in its signature what it needs.
pub(crate) trait Needs {
    const PERMISSION: Permission;
}

macro_rules! needs {
    ($($marker:ident),*) => {
        $(
            #[derive(Debug, Clone, Copy)]
            pub(crate) enum $marker {}
            impl Needs for $marker {
                const PERMISSION: Permission = Permission::$marker;
            }
        )*
    };
}

needs!(Read, Operate, Administer, Peer);

/// Every method of every service on the API port, and what it needs.
pub(crate) const METHODS: &[(&str, Permission)] = &[
    ("/stratavore.v1.ProjectService/CreateProject", Permission::Operate),
    ("/stratavore.v1.ProjectService/ListProjects", Permission::Read),
    ("/stratavore.v1.ProjectService/SetQuota", Permission::Administer),
    ("/stratavore.v1.RunnerService/LaunchRunners", Permission::Operate),
    ("/stratavore.v1.RunnerService/ListRunners", Permission::Read),
    ("/stratavore.v1.RunnerService/WatchRunners", Permission::Read),
    ("/stratavore.v1.RunnerService/GetRunner", Permission::Read),
    ("/stratavore.v1.RunnerService/ExplainRunner", Permission::Read),
    ("/stratavore.v1.RunnerService/KillRunners", Permission::Operate),
    ("/stratavore.v1.RunnerService/RestartRunner", Permission::Operate),
    ("/stratavore.v1.RunnerService/DeclareRunnerDead", Permission::Administer),
    ("/stratavore.v1.RunnerService/AdoptRunner", Permission::Administer),
    ("/stratavore.v1.HostService/ListHosts", Permission::Read),
    ("/stratavore.v1.HostService/SetHostCordon", Permission::Administer),
    ("/stratavore.v1.HostService/LabelHost", Permission::Administer),
    ("/stratavore.v1.HostService/RemoveHost", Permission::Administer),
    ("/stratavore.v1.HostService/DrainHost", Permission::Administer),
    ("/stratavore.v1.HostService/DeclareHostDead", Permission::Administer),
    ("/stratavore.v1.TokenService/CreateToken", Permission::Administer),
    ("/stratavore.v1.TokenService/ListTokens", Permission::Administer),
    ("/stratavore.v1.TokenService/RevokeToken", Permission::Administer),
    ("/stratavore.v1.EventService/SubscribeEvents", Permission::Read),
    ("/stratavore.v1.ClusterService/GetStatus", Permission::Read),
    ("/stratavore.v1.ClusterService/RemoveNode", Permission::Administer),
    ("/stratavore.v1.ClusterService/TransferLeader", Permission::Administer),
    ("/stratavore.v1.ClusterService/HandOver", Permission::Peer),
    ("/stratavore.v1.ClusterService/Finalize", Permission::Administer),
    ("/stratavore.v1.ClusterService/SetMaintenance", Permission::Administer),
    ("/stratavore.v1.ClusterService/ResetClock", Permission::Administer),
    ("/stratavore.v1.ClusterService/SaveSnapshot", Permission::Administer),
    ("/stratavore.v1.ClusterService/ExportState", Permission::Administer),
    ("/stratavore.v1.ClusterService/RenewCertificate", Permission::Read),
    ("/stratavore.v1.TerminalService/Attach", Permission::Operate),
    ("/stratavore.v1.TerminalService/ReadLogs", Permission::Operate),
    ("/stratavore.v1.TerminalService/GetScreen", Permission::Operate),
    ("/stratavore.v1.TerminalService/SendInput", Permission::Operate),
    ("/stratavore.v1.PeerService/Renew", Permission::Peer),
    ("/stratavore.v1.PeerService/HostStream", Permission::Peer),
    ("/stratavore.v1.PeerService/Clock", Permission::Peer),
    ("/grpc.health.v1.Health/Check", Permission::Probe),
    ("/grpc.health.v1.Health/Watch", Permission::Probe),
    ("/grpc.health.v1.Health/List", Permission::Probe),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Permission::Probe),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Permission::Probe),
];

/// What the method at `path` needs, or `None` when it is not listed.
fn needed(path: &str) -> Option<Permission> {
    METHODS.iter().find(|(method, _)| *method == path).map(|(_, permission)| *permission)
}

/// The table of identities. All users have full rights in this release.
const fn allowed(actor: &Actor, permission: Permission) -> bool {
    match (actor, permission) {
        (Actor::User(_), Permission::Peer) => false,
        (Actor::User(_), _) | (Actor::Node(_), Permission::Probe | Permission::Read | Permission::Peer) => {
            true
        }
        // Hosts speak QUIC, and nobody authenticates as the system.
        (Actor::Node(_), Permission::Operate | Permission::Administer)
        | (Actor::Host(_) | Actor::System, _) => false,
    }
}

/// A caller that may do what `P` stands for.
#[derive(Debug, Clone)]
pub(crate) struct Authorized<P> {
    actor: Actor,
    spki: SpkiHash,
    permission: PhantomData<P>,
}

impl<P> Authorized<P> {
    /// Who calls.
    pub(crate) fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The key that it proved to hold.
    pub(crate) const fn spki(&self) -> SpkiHash {
        self.spki
    }
}

/// The caller of a request, if it may do what `P` stands for. A handler that asks for another permission than the
/// table gives its method is refused here.
///
/// # Errors
/// A status of `Unauthenticated` or `PermissionDenied`.
pub(crate) fn require<P: Needs>(extensions: &http::Extensions) -> Result<Authorized<P>, Status> {
    let granted = extensions
        .get::<Granted>()
        .ok_or_else(|| ApiError::Unauthenticated("the connection carries no identity".to_owned()))?;
    if granted.permission != P::PERMISSION {
        let message = format!(
            "the method is listed as {:?}, its handler needs {:?}",
            granted.permission,
            P::PERMISSION
        );
        return Err(ApiError::Internal(message).into());
    }
    let admission::Peer { actor, spki } = granted.peer.clone();
    Ok(Authorized { actor, spki, permission: PhantomData })
}

/// What the layer found out about a request.
#[derive(Debug, Clone)]
struct Granted {
    peer: admission::Peer,
    permission: Permission,
}

fn check(path: &str, connection: Option<&ConnectionInfo>) -> Result<Granted, ApiError> {
    let peer = connection
        .and_then(|connection| connection.peer.clone())
        .ok_or_else(|| ApiError::Unauthenticated("the connection carries no identity".to_owned()))?;
    let permission = needed(path)
        .ok_or_else(|| ApiError::NoMethod(format!("{} is not a method of this node", path.escape_debug())))?;
    if !allowed(&peer.actor, permission) {
        return Err(ApiError::Denied(format!("{} may not call {path}", peer.actor)));
    }
    Ok(Granted { peer, permission })
}

/// Puts [`Guard`] in front of every service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardLayer;

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner }
    }
}

/// Refuses what the table does not allow, before any handler runs.
#[derive(Debug, Clone)]
pub(crate) struct Guard<S> {
    inner: S,
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match check(request.uri().path(), request.extensions().get::<ConnectionInfo>()) {
            Ok(granted) => {
                request.extensions_mut().insert(granted);
                Either::Left(self.inner.call(request))
            }
            Err(error) => Either::Right(ready(Ok(Status::from(error).into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use std::collections::BTreeSet;

    /// The services of the API port; the others of the descriptor are served elsewhere.
    const ELSEWHERE: &[&str] = &["JoinService"];

    fn methods_of_the_descriptor() -> BTreeSet<String> {
        let set = prost_types::FileDescriptorSet::decode(stratavore_proto::DESCRIPTORS).unwrap();
        let mut methods = BTreeSet::new();
        for file in set.file.iter().filter(|file| file.package() == "stratavore.v1") {
            for service in file.service.iter().filter(|service| !ELSEWHERE.contains(&service.name())) {
                for method in &service.method {
                    methods.insert(format!("/stratavore.v1.{}/{}", service.name(), method.name()));
                }
            }
        }
        methods
    }

    #[test]
    fn every_method_of_the_api_is_listed_once_and_nothing_else_is() {
        let listed: BTreeSet<String> = METHODS
            .iter()
            .filter(|(method, _)| method.starts_with("/stratavore."))
            .map(|(method, _)| (*method).to_owned())
            .collect();
        assert_eq!(listed, methods_of_the_descriptor());
        let distinct: BTreeSet<_> = METHODS.iter().map(|(method, _)| method).collect();
        assert_eq!(distinct.len(), METHODS.len());
    }

    #[test]
    fn every_identity_gets_exactly_its_cells_of_the_table() {
        let user: Actor = "user/alice".parse().unwrap();
        let node: Actor = "node/2".parse().unwrap();
        let host: Actor = "host/0123456789".parse().unwrap();
        for (method, permission) in METHODS {
            assert_eq!(allowed(&user, *permission), *permission != Permission::Peer, "{method}");
            let looks = matches!(permission, Permission::Probe | Permission::Read | Permission::Peer);
            assert_eq!(allowed(&node, *permission), looks, "{method}");
            assert!(!allowed(&host, *permission), "{method}");
            assert!(!allowed(&Actor::System, *permission), "{method}");
        }
    }

    #[test]
    fn without_identity_or_with_an_unknown_method_nothing_passes() {
        assert!(matches!(check(METHODS[0].0, None), Err(ApiError::Unauthenticated(_))));
        let info = ConnectionInfo {
            peer: Some(admission::Peer { actor: "user/alice".parse().unwrap(), spki: [0; 32] }),
            address: ([127, 0, 0, 1], 1).into(),
        };
        assert!(matches!(
            check("/stratavore.v1.RunnerService/Nope", Some(&info)),
            Err(ApiError::NoMethod(_))
        ));
        let granted = check("/stratavore.v1.ClusterService/GetStatus", Some(&info)).unwrap();
        let mut extensions = http::Extensions::new();
        extensions.insert(granted);
        assert!(require::<Read>(&extensions).is_ok());
        assert!(require::<Administer>(&extensions).is_err());
    }
}
