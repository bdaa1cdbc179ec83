//! A start without a checkpoint that can be loaded: the log is whole, so everything that this
//! member has promised stands, and its state has to come from another member.
//!
//! Such a member begins with a log that follows some entry that is known to be committed, and with
//! an empty state in the place of the one after that entry. It is quarantined, hands nothing to
//! apply and knows no configuration, so it never stands for election; it votes and acknowledges as
//! before. `state_check` has it rebuilt, and with an install the empty state is gone for good.

use super::join::ask_about_members;
use super::server_config::ServerConfig;
use super::start_error::StartError;
use crate::apply::machine::{Position, StateMachine};
use crate::apply::request;
use crate::apply::snapshot::recorded_members;
use crate::env::Env;
use crate::membership::{Members, cluster_id};
use crate::raft::message::EntryKind;
use crate::storage::data_dir::DataDir;
use crate::storage::error::StorageError;
use crate::storage::manifest::Manifest;
use crate::storage::replay::Base;
use crate::storage::segment::WalMetadata;
use crate::storage::wal::{Wal, WalOptions, WalState};

/// Ids of runs that are left out when no manifest says which were used: others may hold runs of
/// this member that it does not have any more.
pub const RUN_IDS_LEFT_OUT: u64 = 1 << 16;

/// What such a member says to others that ask it.
pub const NO_STATE: &str = "this member has no state yet";

/// What there is instead of a state.
pub struct LostState {
    /// Empty, and good for nothing but to be replaced.
    pub state: StateMachine,
    pub wal: Wal,
    pub log: WalState,
}

/// Opens the log of a member whose checkpoints are damaged, if others can give it a state.
///
/// # Errors
/// With the damage, when there are no others, or nobody says who they are. When the log is damaged
/// as well, or lacks what it had: then this member can't know what it has promised.
pub async fn open(
    data_dir: &DataDir,
    options: WalOptions,
    config: &ServerConfig,
    env: &Env,
    damage: StorageError,
) -> Result<LostState, StartError> {
    let opened = Wal::open_rest(env.disk.clone(), &data_dir.wal_dir(), options).await;
    let (wal, log, base) = opened?;
    let readable = readable_manifests(data_dir)?;
    // A checkpoint of the member's own state was made of its log.
    let own: Vec<Position> =
        readable.iter().filter(|found| !found.installed).map(reached).collect();
    check_end(&wal, &own, data_dir)?;
    let Some(position) = position(base, &log, &own) else { return Err(damage.into()) };
    let members = members(&readable, &log, config, env).await?;
    let me = log.metadata.member_id;
    if !members.iter().any(|member| member.id != me) {
        return Err(alone(damage).into());
    }
    tracing::error!(
        %damage,
        index = position.index,
        "no checkpoint can be loaded: the state will come from another member"
    );
    let state = StateMachine::lost(position, members, config.lease_ttl_secs_min());
    Ok(LostState { state, wal, log })
}

/// The manifests that verify, newest first; it is their runs that do not.
fn readable_manifests(data_dir: &DataDir) -> Result<Vec<Manifest>, StorageError> {
    let (disk, dir) = (&**data_dir.disk(), data_dir.run_dir());
    let mut readable = Vec::new();
    for sequence in Manifest::sequences(disk, &dir)? {
        match Manifest::load(disk, &dir, sequence) {
            Ok(manifest) => readable.push(manifest),
            Err(StorageError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(readable)
}

fn reached(manifest: &Manifest) -> Position {
    Position { index: manifest.applied_index, term: manifest.applied_term }
}

/// The log reaches at least as far as the checkpoints that were made of it. One that does not has
/// lost what it held, perhaps a vote among it.
fn check_end(wal: &Wal, own: &[Position], data_dir: &DataDir) -> Result<(), StorageError> {
    let reached = own.iter().map(|position| position.index).max().unwrap_or(0);
    if wal.last_index() >= reached {
        return Ok(());
    }
    let last = wal.last_index();
    let what = format!("a checkpoint reaches index {reached}, and the log ends at {last}");
    Err(StorageError::missing(&data_dir.wal_dir(), what))
}

/// An entry with which the log begins, whose term is known and which is known to be committed.
/// What a checkpoint took the place of was committed, and so was all that a checkpoint of this log
/// holds; else the first entry may be.
fn position(base: Base, log: &WalState, own: &[Position]) -> Option<Position> {
    if let Some(term) = base.term {
        return Some(Position { index: base.index, term });
    }
    if let Some(known) = own.iter().find(|known| known.index == base.index) {
        return Some(*known);
    }
    let reached = own.iter().map(|position| position.index).max().unwrap_or(0);
    let committed = log.hard_state.commit.max(reached);
    let first = log.entries.first().filter(|first| first.index <= committed)?;
    Some(Position { index: first.index, term: first.term })
}

/// Who the members are, as far as can be known without a state: from a manifest, else from the
/// others, else from what founded the cluster; and from the changes in the log. It serves to find
/// the others and decides nothing; nobody is known when nothing fits.
async fn members(
    readable: &[Manifest],
    log: &WalState,
    config: &ServerConfig,
    env: &Env,
) -> Result<Members, StartError> {
    let ours = log.metadata;
    let recorded = readable.iter().find_map(|found| recorded_members(&found.sections));
    let mut members = match recorded {
        Some(members) => members,
        None => match ask_about_members(config, env, ours).await? {
            Some(members) => return Ok(members),
            None => founders(config, ours),
        },
    };
    for entry in log.entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
        let change = request::decode_conf_change(&entry.data);
        if members.validate(&change, usize::MAX).is_ok() {
            members.apply(&change);
        }
    }
    Ok(members)
}

/// Those who founded this member's cluster, if the settings still name them.
fn founders(config: &ServerConfig, ours: WalMetadata) -> Members {
    let founders = Members::bootstrap(&config.initial_cluster, &config.initial_cluster_token);
    match cluster_id(founders.iter().map(|member| member.id)) {
        id if id == ours.cluster_id => founders,
        _ => Members::default(),
    }
}

/// The damage, in words for whom no other member can help.
pub fn alone(damage: StorageError) -> StorageError {
    match damage {
        StorageError::Damaged { path, offset, what } => {
            let what = format!("{what}, and no other member is known that has the state");
            StorageError::damaged(&path, offset, what)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::{Entry, HardState};
    use bytes::Bytes;

    fn log(first: u64, commit: u64) -> WalState {
        let entry = |index| Entry { term: 4, index, kind: EntryKind::Normal, data: Bytes::new() };
        WalState {
            metadata: WalMetadata { cluster_id: 1, member_id: 2 },
            hard_state: HardState { term: 5, vote: 0, commit },
            entries: (first..first + 3).map(entry).collect(),
            term_at_checkpoint: None,
            repaired: None,
        }
    }

    #[test]
    fn the_place_of_the_state_is_after_an_entry_that_is_known_to_be_committed() {
        let released = Base { index: 40, term: None };
        let at = |index, term| Some(Position { index, term });
        assert_eq!(position(released, &log(41, 43), &[]), at(41, 4));
        assert_eq!(position(released, &log(41, 41), &[]), at(41, 4));
        assert_eq!(position(released, &log(41, 40), &[]), None, "another may come in its place");
        assert_eq!(position(Base { index: 40, term: Some(3) }, &log(41, 40), &[]), at(40, 3));
        let own = |index| [Position { index, term: 3 }];
        assert_eq!(position(released, &log(41, 40), &own(40)), at(40, 3));
        assert_eq!(position(released, &log(41, 40), &own(42)), at(41, 4));
        assert_eq!(position(released, &log(41, 40), &own(39)), None);
    }
}
