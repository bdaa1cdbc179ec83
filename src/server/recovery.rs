//! From what the disk holds to a server that can start: straight down, no branches back.

use super::join::{check_founding, founder_id, join, removed};
use super::lost_state::{self, LostState};
use super::runs::{RunTable, restore};
use super::server_config::ServerConfig;
use super::start_error::StartError;
use crate::alarm::Alarms;
use crate::apply::machine::{Position, StateMachine};
use crate::apply::request;
use crate::apply::snapshot::recorded_hash;
use crate::env::Env;
use crate::env::recorder;
use crate::lease::Lessor;
use crate::membership::{Members, cluster_id};
use crate::mvcc::restore::Restored;
use crate::mvcc::store::Store;
use crate::pb::raftpb::{self, ConfChangeKind};
use crate::raft::message::{Entry, EntryKind, HardState};
use crate::raft::state::Recovered;
use crate::storage::checkpoint::{self, Checkpoint, NextNumbers, next_numbers};
use crate::storage::data_dir::DataDir;
use crate::storage::error::StorageError;
use crate::storage::manifest::{self, Manifest};
use crate::storage::segment::WalMetadata;
use crate::storage::wal::{Wal, WalBatch, WalOptions, WalState};
use std::sync::Arc;

/// What a server starts from.
pub struct Recovery {
    pub data_dir: DataDir,
    pub wal: Wal,
    pub cluster_id: u64,
    pub member_id: u64,
    pub state: StateMachine,
    /// The state is not the one that the checkpoint was taken of, or there is none.
    pub is_damaged: bool,
    /// Without a state it has no configuration either: this member does not stand for election.
    pub core: Recovered,
    /// The runs of the checkpoint that the state was loaded from.
    pub runs: Arc<RunTable>,
    pub next: NextNumbers,
    /// Members that a joining one knows of before it has applied their addition.
    pub remotes: Vec<raftpb::Member>,
}

/// Opens the data directory, or makes it on the first start.
pub async fn recover(config: &ServerConfig, env: &Env) -> Result<Recovery, StartError> {
    let (disk, wal_dir) = (env.disk.clone(), config.wal_dir.as_deref());
    let data_dir = DataDir::open_with_wal(disk, &config.data_dir, wal_dir).await?;
    let wal_dir = data_dir.wal_dir();
    let options = WalOptions { segment_bytes: config.segment_bytes };
    let mut remotes = Vec::new();
    if !data_dir.is_initialised()? {
        let (metadata, batches) = match config.joins {
            true => {
                let joined = join(config, env).await?;
                remotes = joined.members;
                // Its whole log comes from the others.
                (joined.metadata, Vec::new())
            }
            false => {
                let (metadata, batch) = founding(config)?;
                check_founding(config, env, metadata).await?;
                (metadata, vec![batch])
            }
        };
        Wal::create_with(env.disk.clone(), &wal_dir, metadata, options, &batches).await?;
    }
    let found = match newest_state(&data_dir, options, config, env).await {
        // Alone it may be forced only with the state that it had.
        Err(StartError::Storage(damage @ StorageError::Damaged { .. }))
            if !config.force_new_cluster =>
        {
            Found::without_state(lost_state::open(&data_dir, options, config, env, damage).await?)
        }
        found => found?,
    };
    let Found { manifest, runs, state, mut wal, mut log } = found;
    let WalMetadata { cluster_id, member_id } = log.metadata;
    let mut next = next_numbers(&*env.disk, &data_dir.run_dir(), member_id, manifest.as_ref())?;
    if state.is_lost() {
        next.run += lost_state::RUN_IDS_LEFT_OUT;
    }
    // Who was removed may be needed yet by those who have not heard of it (`leave`).
    if state.members.is_removed(member_id) && config.force_new_cluster {
        return Err(removed(member_id));
    }
    let is_damaged = state.is_lost() || is_damaged(&state, manifest.as_ref(), &data_dir)?;
    let applied = state.applied();
    if config.force_new_cluster {
        let batch = go_on_alone(&state, &log, member_id);
        tracing::warn!(removals = batch.entries.len(), "forced into a new cluster of its own");
        wal.append(std::slice::from_ref(&batch)).await?;
        log.hard_state = batch.hard_state.unwrap_or(log.hard_state);
        log.entries.extend(batch.entries);
    }
    let core = Recovered {
        hard_state: log.hard_state,
        conf_state: manifest.map(|manifest| manifest.conf_state).unwrap_or_default(),
        snapshot_index: applied.index,
        snapshot_term: applied.term,
        entries: log.entries,
        applied: applied.index,
    };
    Ok(Recovery {
        data_dir,
        wal,
        cluster_id,
        member_id,
        state,
        is_damaged,
        core,
        runs,
        next,
        remotes,
    })
}

/// The newest state that the disk holds, with the log behind it.
struct Found {
    manifest: Option<Manifest>,
    runs: Arc<RunTable>,
    state: StateMachine,
    wal: Wal,
    log: WalState,
}

impl Found {
    fn without_state(lost: LostState) -> Found {
        let LostState { mut state, wal, log } = lost;
        let runs = Arc::new(RunTable::new(Vec::new()));
        state.store.set_cold(runs.clone());
        Found { manifest: None, runs, state, wal, log }
    }
}

/// Loads the newest checkpoint. If one of its runs is damaged, the one before it may do, as long as
/// the log continues that one without a gap.
async fn newest_state(
    data_dir: &DataDir,
    options: WalOptions,
    config: &ServerConfig,
    env: &Env,
) -> Result<Found, StartError> {
    let mut before = u64::MAX;
    let mut damaged: Option<StorageError> = None;
    loop {
        let found = checkpoint::recover_before(data_dir, options, before).await;
        let checkpoint::Recovery { checkpoint, wal, log, notes } = match (found, damaged.take()) {
            // The log does not reach back so far: what was found first is what is wrong.
            (Err(StorageError::Missing { .. }), Some(first)) => return Err(first.into()),
            (found, first) => {
                damaged = first;
                found?
            }
        };
        for note in notes {
            tracing::warn!(note, "found on the disk");
        }
        if damaged.is_some() {
            env.recorder.record(&recorder::Event::FellBack);
        }
        let Some(Checkpoint { manifest, runs }) = checkpoint else {
            let (runs, min_ttl) =
                (Arc::new(RunTable::new(Vec::new())), config.lease_ttl_secs_min());
            let (store, lessor) = (Store::new(), Lessor::new(min_ttl));
            let mut state = StateMachine::new(store, lessor, Members::default(), Alarms::default());
            state.store.set_cold(runs.clone());
            return Ok(Found { manifest: None, runs, state, wal, log });
        };
        let runs = Arc::new(RunTable::new(runs));
        match load(&manifest, &runs, config).await {
            Ok(state) => return Ok(Found { manifest: Some(manifest), runs, state, wal, log }),
            Err(StartError::Storage(error @ StorageError::Damaged { .. })) => {
                tracing::error!(%error, "the newest checkpoint cannot be loaded");
                before = manifest.sequence;
                damaged.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The state machine as a checkpoint holds it.
async fn load(
    manifest: &Manifest,
    runs: &Arc<RunTable>,
    config: &ServerConfig,
) -> Result<StateMachine, StartError> {
    let Manifest { revision, compact_revision, .. } = *manifest;
    let restored = Restored { revision, compact_revision };
    let budget = config.checkpoints.resident_bytes;
    let store = restore(runs, &manifest.runs, restored, budget).await?;
    let applied = Position { index: manifest.applied_index, term: manifest.applied_term };
    let min_ttl = config.lease_ttl_secs_min();
    let state = StateMachine::from_image(store, applied, &manifest.sections, min_ttl);
    state.map_err(|bad| StartError::Config(bad.to_string()))
}

/// Whether what was loaded differs from what was written down. Every block has verified, so it was
/// written like that: by a bug, or by somebody. The others may have the right state.
///
/// # Errors
/// When there are no others.
fn is_damaged(
    state: &StateMachine,
    manifest: Option<&Manifest>,
    data_dir: &DataDir,
) -> Result<bool, StartError> {
    let Some(manifest) = manifest else { return Ok(false) };
    if recorded_hash(&manifest.sections).is_none_or(|hash| hash == state.state_hash()) {
        return Ok(false);
    }
    let what = "the state in its runs is not the one that the checkpoint was taken of";
    if state.members.voters().len() > 1 {
        tracing::error!("{what}");
        return Ok(true);
    }
    let path = data_dir.run_dir().join(manifest::file_name(manifest.sequence));
    let what = format!("{what}, and there is no other member; restore a backup");
    Err(StorageError::damaged(&path, 0, what).into())
}

/// What a founding member writes before anything else: who it is, and the founders as committed
/// entries of term 1, the same on every founder (as etcd does, `etcdserver/bootstrap.go`).
fn founding(config: &ServerConfig) -> Result<(WalMetadata, WalBatch), StartError> {
    let token = &config.initial_cluster_token;
    let members = Members::bootstrap(&config.initial_cluster, token);
    let metadata = WalMetadata {
        cluster_id: cluster_id(members.iter().map(|member| member.id)),
        member_id: founder_id(config)?,
    };
    let mut entries = Vec::new();
    for (position, member) in members.iter().enumerate() {
        let change = raftpb::ConfChange {
            id: 0,
            kind: ConfChangeKind::AddVoter.into(),
            member: Some(raftpb::Member { name: String::new(), ..member.clone() }),
        };
        entries.push(Entry {
            term: 1,
            index: position as u64 + 1,
            kind: EntryKind::ConfChange,
            data: request::encode_conf_change(&change),
        });
    }
    let hard_state = HardState { term: 1, vote: 0, commit: entries.len() as u64 };
    Ok((metadata, WalBatch { hard_state: Some(hard_state), entries }))
}

/// What makes a member the only one of its cluster: all others are removed, learners too, by
/// entries that are committed with everything else in its log. The end of the log may hold what no
/// quorum had; it stays, because it may also hold what was acknowledged.
fn go_on_alone(state: &StateMachine, log: &WalState, me: u64) -> WalBatch {
    let mut members = state.members.clone();
    for entry in log.entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
        let change = request::decode_conf_change(&entry.data);
        if members.validate(&change, usize::MAX).is_ok() {
            members.apply(&change);
        }
    }
    let learners = members.learners();
    let promoted = learners.iter().filter(|learner| **learner == me);
    let promoted = promoted.map(|me| (ConfChangeKind::Promote, *me));
    let others = members.iter().map(|member| member.id).filter(|member| *member != me);
    let changes = promoted.chain(others.map(|other| (ConfChangeKind::Remove, other)));
    let last = log.entries.last().map_or(state.applied().index, |entry| entry.index);
    let term = log.entries.last().map_or(state.applied().term, |entry| entry.term);
    let term = term.max(log.hard_state.term);
    let entries: Vec<Entry> = changes
        .zip(last + 1..)
        .map(|((kind, id), index)| {
            let member = raftpb::Member { id, ..Default::default() };
            let change = raftpb::ConfChange { id: 0, kind: kind.into(), member: Some(member) };
            let data = request::encode_conf_change(&change);
            Entry { term, index, kind: EntryKind::ConfChange, data }
        })
        .collect();
    let commit = last + entries.len() as u64;
    let hard_state = HardState { term, commit, ..log.hard_state };
    WalBatch { hard_state: Some(hard_state), entries }
}
