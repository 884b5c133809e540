//! Proposals: the one match over commands.

use model::{Command, Entry};
use stratavore_model as model;
use stratavore_proto::raft as pb;

use super::parts::{optional_uuid, store_uuid, text};
use super::{RecordError, Stored, load_all, store_all};

impl Stored for Entry {
    type Pb = pb::Entry;

    fn store(&self) -> pb::Entry {
        pb::Entry {
            actor: self.actor.to_string(),
            request_id: self.request_id.as_ref().map(store_uuid),
            at_ms: self.at.0,
            term: self.term,
            command: Some(store_command(&self.command)),
        }
    }

    fn load(stored: pb::Entry) -> Result<Self, RecordError> {
        Ok(Self {
            actor: text("identity", &stored.actor)?,
            request_id: optional_uuid(stored.request_id)?,
            at: model::Millis(stored.at_ms),
            term: stored.term,
            command: load_command(stored.command.ok_or(RecordError::Unknown("command"))?)?,
        })
    }
}

fn store_command(command: &Command) -> pb::entry::Command {
    use pb::entry::Command as Pb;
    match command {
        Command::InitCluster(command) => Pb::InitCluster(command.store()),
        Command::RaiseIncarnation(command) => Pb::RaiseIncarnation(command.store()),
        Command::CreateProject(command) => Pb::CreateProject(command.store()),
        Command::SetQuota(command) => Pb::SetQuota(command.store()),
        Command::Launch(command) => Pb::Launch(command.store()),
        Command::Assign(command) => Pb::Assign(command.store()),
        Command::Report(command) => Pb::Report(command.store()),
        Command::HostConnect(command) => Pb::HostConnect(command.store()),
        Command::HostUnreachable(command) => Pb::HostUnreachable(command.store()),
        Command::HostReachable(command) => Pb::HostReachable(command.store()),
        Command::Kill(command) => Pb::Kill(command.store()),
        Command::Restart(command) => Pb::Restart(command.store()),
        Command::CordonHost(command) => Pb::CordonHost(command.store()),
        Command::LabelHost(command) => Pb::LabelHost(command.store()),
        Command::RemoveHost(command) => Pb::RemoveHost(command.store()),
        Command::CreateToken(command) => Pb::CreateToken(command.store()),
        Command::RevokeToken(command) => Pb::RevokeToken(command.store()),
        Command::RedeemToken(command) => Pb::RedeemToken(command.store()),
        Command::RegisterKey(command) => Pb::RegisterKey(command.store()),
        Command::SetNodeAddress(command) => Pb::SetNodeAddress(command.store()),
        Command::Trim(command) => Pb::Trim(command.store()),
        Command::ResetClock(command) => Pb::ResetClock(command.store()),
        Command::FenceHost(command) => Pb::FenceHost(command.store()),
        Command::LeaseBounded(command) => Pb::LeaseBounded(command.store()),
        Command::ConfirmReboot(command) => Pb::ConfirmReboot(command.store()),
        Command::ForgoList(command) => Pb::ForgoList(command.store()),
        Command::DeclareRunnerDead(command) => Pb::DeclareRunnerDead(command.store()),
        Command::DeclareHostDead(command) => Pb::DeclareHostDead(command.store()),
        Command::DrainHost(command) => Pb::DrainHost(command.store()),
        Command::RemoveNode(command) => Pb::RemoveNode(command.store()),
        Command::Finalize(command) => Pb::Finalize(command.store()),
        Command::SetMaintenance(command) => Pb::SetMaintenance(command.store()),
        Command::ReserveNode(command) => Pb::ReserveNode(command.store()),
        Command::CutKeys(command) => Pb::CutKeys(command.store()),
        Command::AdoptRunner(command) => Pb::AdoptRunner(command.store()),
        Command::NoteNode(command) => Pb::NoteNode(command.store()),
        Command::Batch(entries) => Pb::Batch(pb::Batch { entries: store_all(entries) }),
    }
}

fn load_command(stored: pb::entry::Command) -> Result<Command, RecordError> {
    use pb::entry::Command as Pb;
    Ok(match stored {
        Pb::InitCluster(stored) => Command::InitCluster(Box::new(Stored::load(stored)?)),
        Pb::RaiseIncarnation(stored) => Command::RaiseIncarnation(Stored::load(stored)?),
        Pb::CreateProject(stored) => Command::CreateProject(Stored::load(stored)?),
        Pb::SetQuota(stored) => Command::SetQuota(Stored::load(stored)?),
        Pb::Launch(stored) => Command::Launch(Stored::load(stored)?),
        Pb::Assign(stored) => Command::Assign(Stored::load(stored)?),
        Pb::Report(stored) => Command::Report(Stored::load(stored)?),
        Pb::HostConnect(stored) => Command::HostConnect(Stored::load(stored)?),
        Pb::HostUnreachable(stored) => Command::HostUnreachable(Stored::load(stored)?),
        Pb::HostReachable(stored) => Command::HostReachable(Stored::load(stored)?),
        Pb::Kill(stored) => Command::Kill(Stored::load(stored)?),
        Pb::Restart(stored) => Command::Restart(Stored::load(stored)?),
        Pb::CordonHost(stored) => Command::CordonHost(Stored::load(stored)?),
        Pb::LabelHost(stored) => Command::LabelHost(Stored::load(stored)?),
        Pb::RemoveHost(stored) => Command::RemoveHost(Stored::load(stored)?),
        Pb::CreateToken(stored) => Command::CreateToken(Stored::load(stored)?),
        Pb::RevokeToken(stored) => Command::RevokeToken(Stored::load(stored)?),
        Pb::RedeemToken(stored) => Command::RedeemToken(Stored::load(stored)?),
        Pb::RegisterKey(stored) => Command::RegisterKey(Stored::load(stored)?),
        Pb::SetNodeAddress(stored) => Command::SetNodeAddress(Stored::load(stored)?),
        Pb::Trim(stored) => Command::Trim(Stored::load(stored)?),
        Pb::ResetClock(stored) => Command::ResetClock(Stored::load(stored)?),
        Pb::FenceHost(stored) => Command::FenceHost(Stored::load(stored)?),
        Pb::LeaseBounded(stored) => Command::LeaseBounded(Stored::load(stored)?),
        Pb::ConfirmReboot(stored) => Command::ConfirmReboot(Stored::load(stored)?),
        Pb::ForgoList(stored) => Command::ForgoList(Stored::load(stored)?),
        Pb::DeclareRunnerDead(stored) => Command::DeclareRunnerDead(Stored::load(stored)?),
        Pb::DeclareHostDead(stored) => Command::DeclareHostDead(Stored::load(stored)?),
        Pb::DrainHost(stored) => Command::DrainHost(Stored::load(stored)?),
        Pb::RemoveNode(stored) => Command::RemoveNode(Stored::load(stored)?),
        Pb::Finalize(stored) => Command::Finalize(Stored::load(stored)?),
        Pb::SetMaintenance(stored) => Command::SetMaintenance(Stored::load(stored)?),
        Pb::ReserveNode(stored) => Command::ReserveNode(Stored::load(stored)?),
        Pb::CutKeys(stored) => Command::CutKeys(Stored::load(stored)?),
        Pb::AdoptRunner(stored) => Command::AdoptRunner(Stored::load(stored)?),
        Pb::NoteNode(stored) => Command::NoteNode(Stored::load(stored)?),
        Pb::Batch(stored) => Command::Batch(load_all(stored.entries)?),
    })
}
