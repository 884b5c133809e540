//! Leases, fences and vouched ends: commands, and the parts of rows that remember them.

use model::command::{
    ConfirmReboot, DeclareHostDead, DeclareRunnerDead, DrainHost, FenceHost, ForgoList, LeaseBounded,
};
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::text;
use super::{RecordError, Stored, load_all, required, store_all};

impl Stored for model::Covered {
    type Pb = pb::Covered;

    fn store(&self) -> pb::Covered {
        pb::Covered { runner: self.runner.to_string(), epoch: Some(self.epoch.store()) }
    }

    fn load(stored: pb::Covered) -> Result<Self, RecordError> {
        Ok(Self { runner: text("runner id", &stored.runner)?, epoch: required("epoch", stored.epoch)? })
    }
}

impl Stored for model::HostLease {
    type Pb = pb::HostLease;

    fn store(&self) -> pb::HostLease {
        pb::HostLease { ttl_ms: self.ttl_ms, bound: self.bound.store(), widened_ms: self.widened_ms }
    }

    fn load(stored: pb::HostLease) -> Result<Self, RecordError> {
        Ok(Self { ttl_ms: stored.ttl_ms, bound: Stored::load(stored.bound)?, widened_ms: stored.widened_ms })
    }
}

impl Stored for model::Reboot {
    type Pb = pb::Reboot;

    fn store(&self) -> pb::Reboot {
        pb::Reboot { old: Some(self.old.store()), at: Some(self.at.store()) }
    }

    fn load(stored: pb::Reboot) -> Result<Self, RecordError> {
        Ok(Self { old: required("old host epoch", stored.old)?, at: required("epoch", stored.at)? })
    }
}

impl Stored for FenceHost {
    type Pb = pb::FenceHost;

    fn store(&self) -> pb::FenceHost {
        pb::FenceHost {
            host: self.host.to_string(),
            host_epoch: Some(self.host_epoch.store()),
            waited_ms: self.waited_ms,
            runners: store_all(&self.runners),
        }
    }

    fn load(stored: pb::FenceHost) -> Result<Self, RecordError> {
        Ok(Self {
            host: text("host id", &stored.host)?,
            host_epoch: required("host epoch", stored.host_epoch)?,
            waited_ms: stored.waited_ms,
            runners: load_all(stored.runners)?,
        })
    }
}

impl Stored for ConfirmReboot {
    type Pb = pb::ConfirmReboot;

    fn store(&self) -> pb::ConfirmReboot {
        pb::ConfirmReboot {
            host: self.host.to_string(),
            host_epoch: Some(self.host_epoch.store()),
            waited_ms: self.waited_ms,
            runners: store_all(&self.runners),
        }
    }

    fn load(stored: pb::ConfirmReboot) -> Result<Self, RecordError> {
        Ok(Self {
            host: text("host id", &stored.host)?,
            host_epoch: required("host epoch", stored.host_epoch)?,
            waited_ms: stored.waited_ms,
            runners: load_all(stored.runners)?,
        })
    }
}

impl Stored for LeaseBounded {
    type Pb = pb::LeaseBounded;

    fn store(&self) -> pb::LeaseBounded {
        pb::LeaseBounded {
            host: self.host.to_string(),
            host_epoch: Some(self.host_epoch.store()),
            maintenance_index: self.maintenance,
        }
    }

    fn load(stored: pb::LeaseBounded) -> Result<Self, RecordError> {
        Ok(Self {
            host: text("host id", &stored.host)?,
            host_epoch: required("host epoch", stored.host_epoch)?,
            maintenance: stored.maintenance_index,
        })
    }
}

impl Stored for ForgoList {
    type Pb = pb::ForgoList;

    fn store(&self) -> pb::ForgoList {
        pb::ForgoList { host: self.host.to_string(), waited_ms: self.waited_ms }
    }

    fn load(stored: pb::ForgoList) -> Result<Self, RecordError> {
        Ok(Self { host: text("host id", &stored.host)?, waited_ms: stored.waited_ms })
    }
}

impl Stored for DeclareRunnerDead {
    type Pb = pb::DeclareRunnerDead;

    fn store(&self) -> pb::DeclareRunnerDead {
        pb::DeclareRunnerDead { runner: self.runner.clone() }
    }

    fn load(stored: pb::DeclareRunnerDead) -> Result<Self, RecordError> {
        Ok(Self { runner: stored.runner })
    }
}

impl Stored for DeclareHostDead {
    type Pb = pb::DeclareHostDead;

    fn store(&self) -> pb::DeclareHostDead {
        pb::DeclareHostDead { host: self.host.clone() }
    }

    fn load(stored: pb::DeclareHostDead) -> Result<Self, RecordError> {
        Ok(Self { host: stored.host })
    }
}

impl Stored for DrainHost {
    type Pb = pb::DrainHost;

    fn store(&self) -> pb::DrainHost {
        pb::DrainHost { host: self.host.clone() }
    }

    fn load(stored: pb::DrainHost) -> Result<Self, RecordError> {
        Ok(Self { host: stored.host })
    }
}
