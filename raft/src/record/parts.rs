//! What several families share: identifiers, enums, specs, addresses.

use std::collections::BTreeMap;
use std::str::FromStr;

use bytes::Bytes;
use stratavore_model as model;
use stratavore_proto::raft as pb;
use uuid::Uuid;

use super::{RecordError, Stored};

/// Text that was written from a validated type.
pub(super) fn text<T: FromStr>(what: &'static str, text: &str) -> Result<T, RecordError> {
    text.parse().map_err(|_| RecordError::Invalid(what))
}

pub(super) fn optional_text<T: FromStr>(
    what: &'static str,
    value: Option<String>,
) -> Result<Option<T>, RecordError> {
    value.map(|value| text(what, &value)).transpose()
}

pub(super) fn texts<T: FromStr>(what: &'static str, values: &[String]) -> Result<Vec<T>, RecordError> {
    values.iter().map(|value| text(what, value)).collect()
}

pub(super) fn strings<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

pub(super) fn array<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], RecordError> {
    bytes.try_into().map_err(|_| RecordError::Invalid(what))
}

pub(super) fn blob(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

pub(super) fn store_uuid(id: &Uuid) -> Bytes {
    blob(id.as_bytes())
}

pub(super) fn load_uuid(bytes: &[u8]) -> Result<Uuid, RecordError> {
    Uuid::from_slice(bytes).map_err(|_| RecordError::Invalid("request id"))
}

pub(super) fn optional_uuid(bytes: Option<Bytes>) -> Result<Option<Uuid>, RecordError> {
    bytes.map(|bytes| load_uuid(&bytes)).transpose()
}

pub(super) fn labels(labels: &model::Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Maps a model enum to its numbers: 0 is never written, an unknown number stops the reader.
macro_rules! stored_enum {
    ($model:ty, $pb:ty, $what:literal, [$($variant:ident),+ $(,)?]) => {
        impl Stored for $model {
            type Pb = i32;

            fn store(&self) -> i32 {
                match self {
                    $(Self::$variant => <$pb>::$variant as i32,)+
                }
            }

            fn load(number: i32) -> Result<Self, RecordError> {
                match <$pb>::try_from(number) {
                    $(Ok(<$pb>::$variant) => Ok(Self::$variant),)+
                    _ => Err(RecordError::Unknown($what)),
                }
            }
        }
    };
}

stored_enum!(model::OnDisconnect, pb::OnDisconnect, "disconnect policy", [Keep, Stop]);
stored_enum!(model::command::NodeNote, pb::NodeNote, "note of a node", [Quarantined, Rebuilt, ClockOff]);
stored_enum!(model::RestartPolicy, pb::RestartPolicy, "restart policy", [Never, OnFailure, Always]);
stored_enum!(
    model::RunnerState,
    pb::RunnerState,
    "runner state",
    [Pending, Starting, Running, Paused, Stopping, Terminated, Failed]
);
stored_enum!(model::Fence, pb::Fence, "fence", [Unknown, PidNamespace, Cgroup, Weak]);
stored_enum!(model::Role, pb::TokenRole, "token role", [Node, Host, User]);
stored_enum!(model::HostState, pb::HostState, "host state", [Joined, Ready, Unreachable, Removed]);
stored_enum!(
    model::Lost,
    pb::LostReason,
    "reason of a loss",
    [HostUnreachable, NotListed, HostRebooted, HostRemoved]
);
stored_enum!(model::LeaseBound, pb::LeaseBound, "bound of a lease", [Unbounded, Bounding, Bounded]);

impl Stored for model::Epoch {
    type Pb = pb::Epoch;

    fn store(&self) -> pb::Epoch {
        pb::Epoch { incarnation: self.incarnation, index: self.index }
    }

    fn load(stored: pb::Epoch) -> Result<Self, RecordError> {
        Ok(Self { incarnation: stored.incarnation, index: stored.index })
    }
}

impl Stored for model::EventId {
    type Pb = pb::EventId;

    fn store(&self) -> pb::EventId {
        pb::EventId { incarnation: self.incarnation, index: self.index, ordinal: self.ordinal }
    }

    fn load(stored: pb::EventId) -> Result<Self, RecordError> {
        Ok(Self { incarnation: stored.incarnation, index: stored.index, ordinal: stored.ordinal })
    }
}

impl Stored for model::NodeAddresses {
    type Pb = pb::NodeAddresses;

    fn store(&self) -> pb::NodeAddresses {
        pb::NodeAddresses {
            grpc: self.grpc.clone(),
            quic: self.quic.clone(),
            raft: self.raft.clone(),
            join: self.join.clone(),
        }
    }

    fn load(stored: pb::NodeAddresses) -> Result<Self, RecordError> {
        Ok(Self { grpc: stored.grpc, quic: stored.quic, raft: stored.raft, join: stored.join })
    }
}

impl Stored for model::LeaseNumbers {
    type Pb = pb::LeaseNumbers;

    fn store(&self) -> pb::LeaseNumbers {
        pb::LeaseNumbers {
            ttl_ms: self.ttl_ms,
            renew_ms: self.renew_ms,
            kill_grace_ms: self.kill_grace_ms,
            hold_ms: self.hold_ms,
            hold_max_ms: self.hold_max_ms,
        }
    }

    fn load(stored: pb::LeaseNumbers) -> Result<Self, RecordError> {
        Ok(Self {
            ttl_ms: stored.ttl_ms,
            renew_ms: stored.renew_ms,
            kill_grace_ms: stored.kill_grace_ms,
            hold_ms: stored.hold_ms,
            hold_max_ms: stored.hold_max_ms,
        })
    }
}

impl Stored for model::RunnerSpec {
    type Pb = pb::RunnerSpec;

    fn store(&self) -> pb::RunnerSpec {
        pb::RunnerSpec {
            command: self.command.clone(),
            env: self
                .env
                .iter()
                .map(|(name, value)| pb::EnvVar { name: name.clone(), value: value.clone() })
                .collect(),
            workdir: self.workdir.clone(),
            tty: self.tty,
            slots: self.slots,
            cpu_milli: self.cpu_milli,
            memory_bytes: self.memory_bytes,
            labels: labels(&self.labels),
            host: self.host.clone(),
            on_disconnect: self.on_disconnect.store(),
            hold_ms: self.hold_ms,
            restart: self.restart.store(),
        }
    }

    fn load(stored: pb::RunnerSpec) -> Result<Self, RecordError> {
        Ok(Self {
            command: stored.command,
            env: stored.env.into_iter().map(|variable| (variable.name, variable.value)).collect(),
            workdir: stored.workdir,
            tty: stored.tty,
            slots: stored.slots,
            cpu_milli: stored.cpu_milli,
            memory_bytes: stored.memory_bytes,
            labels: stored.labels,
            host: stored.host,
            on_disconnect: Stored::load(stored.on_disconnect)?,
            hold_ms: stored.hold_ms,
            restart: Stored::load(stored.restart)?,
        })
    }
}

impl Stored for model::Exit {
    type Pb = pb::Exit;

    fn store(&self) -> pb::Exit {
        pb::Exit {
            code: self.code,
            signal: self.signal,
            reason: self.reason.clone(),
            core_dumped: self.core_dumped,
            oom_killed: self.oom_killed,
            user_cpu_ms: self.user_cpu_ms,
            system_cpu_ms: self.system_cpu_ms,
            max_rss_bytes: self.max_rss_bytes,
            leftovers: self.leftovers.clone(),
        }
    }

    fn load(stored: pb::Exit) -> Result<Self, RecordError> {
        Ok(Self {
            code: stored.code,
            signal: stored.signal,
            reason: stored.reason,
            core_dumped: stored.core_dumped,
            oom_killed: stored.oom_killed,
            user_cpu_ms: stored.user_cpu_ms,
            system_cpu_ms: stored.system_cpu_ms,
            max_rss_bytes: stored.max_rss_bytes,
            leftovers: stored.leftovers,
        })
    }
}

impl Stored for model::HostFacts {
    type Pb = pb::HostFacts;

    fn store(&self) -> pb::HostFacts {
        pb::HostFacts {
            slots: self.slots,
            cpu_milli: self.cpu_milli,
            memory_bytes: self.memory_bytes,
            features: self.features.clone(),
            fence: self.fence.store(),
        }
    }

    fn load(stored: pb::HostFacts) -> Result<Self, RecordError> {
        Ok(Self {
            slots: stored.slots,
            cpu_milli: stored.cpu_milli,
            memory_bytes: stored.memory_bytes,
            features: stored.features,
            fence: Stored::load(stored.fence)?,
        })
    }
}
