//! From what the disk holds to a server that can start: straight down, no branches back.

use super::ServerConfig;
use super::runs::{RunTable, restore};
use crate::alarm::Alarms;
use crate::apply::machine::{Position, StateMachine};
use crate::apply::request;
use crate::env::Env;
use crate::lease::Lessor;
use crate::membership::{Members, cluster_id, member_id};
use crate::mvcc::restore::Restored;
use crate::mvcc::store::Store;
use crate::pb::raftpb::{self, ConfChangeKind};
use crate::raft::message::{Entry, EntryKind, HardState};
use crate::raft::state::Recovered;
use crate::storage::checkpoint::{self, Checkpoint, NextNumbers, next_numbers};
use crate::storage::data_dir::DataDir;
use crate::storage::error::StorageError;
use crate::storage::manifest::Manifest;
use crate::storage::wal::{Wal, WalBatch, WalMetadata, WalOptions};
use std::fmt;
use std::sync::Arc;

/// Why a server does not start. The texts are for the person who started it.
#[derive(Debug)]
pub enum StartError {
    Storage(StorageError),
    Config(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Storage(error) => error.fmt(f),
            StartError::Config(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StorageError> for StartError {
    fn from(error: StorageError) -> StartError {
        StartError::Storage(error)
    }
}

/// What a server starts from.
pub struct Recovery {
    pub data_dir: DataDir,
    pub wal: Wal,
    pub cluster_id: u64,
    pub member_id: u64,
    pub state: StateMachine,
    pub core: Recovered,
    /// The runs of the checkpoint that the state was loaded from.
    pub runs: Arc<RunTable>,
    pub next: NextNumbers,
}

/// Opens the data directory, or makes it on the first start.
pub async fn recover(config: &ServerConfig, env: &Env) -> Result<Recovery, StartError> {
    let data_dir = DataDir::open(env.disk.clone(), &config.data_dir).await?;
    let wal_dir = data_dir.wal_dir();
    let options = WalOptions { segment_bytes: config.segment_bytes };
    if !data_dir.is_initialised()? {
        let (metadata, batch) = founding(config)?;
        let batch = [batch];
        Wal::create_with(env.disk.clone(), &wal_dir, metadata, options, &batch).await?;
    }
    let checkpoint::Recovery { checkpoint, wal, log, notes } =
        checkpoint::recover(&data_dir, options).await?;
    for note in notes {
        tracing::warn!(note, "found on the disk");
    }
    let WalMetadata { cluster_id, member_id } = log.metadata;
    let min_ttl = config.lease_ttl_secs_min();
    let (manifest, runs) = match checkpoint {
        Some(Checkpoint { manifest, runs }) => (Some(manifest), runs),
        None => (None, Vec::new()),
    };
    let next = next_numbers(&*env.disk, &data_dir.run_dir(), member_id, manifest.as_ref())?;
    let runs = Arc::new(RunTable::new(runs));
    let state = match &manifest {
        Some(manifest) => load(manifest, &runs, config).await?,
        None => {
            let (store, lessor) = (Store::new(), Lessor::new(min_ttl));
            let mut state = StateMachine::new(store, lessor, Members::default(), Alarms::default());
            state.store.set_cold(runs.clone());
            state
        }
    };
    let applied = state.applied();
    let core = Recovered {
        hard_state: log.hard_state,
        conf_state: manifest.map(|manifest| manifest.conf_state).unwrap_or_default(),
        snapshot_index: applied.index,
        snapshot_term: applied.term,
        entries: log.entries,
        applied: applied.index,
    };
    Ok(Recovery { data_dir, wal, cluster_id, member_id, state, core, runs, next })
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

/// What a founding member writes before anything else: who it is, and the founders as committed
/// entries of term 1, the same on every founder (as etcd does, `etcdserver/bootstrap.go`).
fn founding(config: &ServerConfig) -> Result<(WalMetadata, WalBatch), StartError> {
    let token = &config.initial_cluster_token;
    let members = Members::bootstrap(&config.initial_cluster, token);
    let me = members.by_name(&config.name).ok_or_else(|| {
        StartError::Config(format!(
            "couldn't find local name \"{}\" in the initial cluster configuration",
            config.name
        ))
    })?;
    let metadata = WalMetadata {
        cluster_id: cluster_id(members.iter().map(|member| member.id)),
        member_id: member_id(&me.peer_urls, token, None),
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
