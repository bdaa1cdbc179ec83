//! What the tasks of one server and its callers share.

use super::event::Event;
use super::hash_history::HashHistory;
use super::keep_alive_queue::KeepAlives;
use super::pending::Pending;
use super::place::Abandoned;
use super::reconfig_check::MembershipOptions;
use super::runs::RunTable;
use super::sent::Sent;
use super::space::Space;
use crate::apply::machine::StateMachine;
use crate::env::Env;
use crate::env::clock::Mono;
use crate::env::recorder::{self, Standing};
use crate::env::signal::Signal;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::pb::etcdserverpb::ResponseHeader;
use crate::raft::message::{Index, NodeId, Term};
use crate::watch::hub::Hub;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Limits on what callers may ask for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Operations in one list of a transaction.
    pub max_txn_ops: usize,
    /// Bytes of one request, as it goes into the log.
    pub max_request_bytes: usize,
    /// Requests of this member that may wait for their outcome at once.
    pub max_pending_requests: usize,
    /// Bytes of them.
    pub max_pending_bytes: usize,
    /// Linearizable reads of this member that may wait for their index at once.
    pub max_waiting_reads: usize,
    /// Entries that may be committed and not yet applied before requests are refused.
    pub max_apply_lag: u64,
    /// Revisions that may wait in a watch stream, beside a few for each of its watchers.
    pub watch_queue_items: usize,
    /// Changes that are read from history in one step, for the watchers that are behind.
    pub catch_up_changes: usize,
    /// Records of a backup that are taken under one hold of the state.
    pub backup_chunk_records: usize,
    /// Bytes of one piece of a backup.
    pub backup_piece_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_pending_requests: 5_000,
            max_pending_bytes: 256 << 20,
            max_waiting_reads: 100_000,
            max_apply_lag: 5_000,
            watch_queue_items: 1_024,
            catch_up_changes: 250,
            backup_chunk_records: 128,
            // As etcd cuts them.
            backup_piece_bytes: 32 << 10,
        }
    }
}

/// When checkpoints are taken, and what they leave in memory.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointOptions {
    /// Entries applied since the last one (etcd's `--snapshot-count`).
    pub entries: u64,
    /// Bytes of entries applied since the last one.
    pub log_bytes: u64,
    /// Entries that stay in memory for followers that are behind (etcd's
    /// `--snapshot-catchup-entries`), and their bytes at the most.
    pub keep_entries: u64,
    pub keep_bytes: u64,
    /// Bytes of values that stand in runs and may stay in memory nonetheless.
    pub resident_bytes: u64,
    /// Bytes of one piece of a checkpoint on its way to another member.
    pub piece_bytes: usize,
    /// How fast the scrub reads; 0 for no scrub.
    pub scrub_bytes_per_second: u64,
    /// The least time from the beginning of a scrub to that of the next.
    pub scrub_interval: Duration,
}

impl Default for CheckpointOptions {
    fn default() -> CheckpointOptions {
        CheckpointOptions {
            entries: 10_000,
            log_bytes: 64 << 20,
            keep_entries: 5_000,
            keep_bytes: 32 << 20,
            resident_bytes: 16 << 20,
            piece_bytes: 128 << 10,
            scrub_bytes_per_second: 1 << 20,
            scrub_interval: Duration::from_secs(60),
        }
    }
}

/// What consensus looks like from this member at this moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    pub term: Term,
    /// 0 when no leader is known.
    pub leader: NodeId,
    pub is_leader: bool,
    pub is_learner: bool,
    pub commit: Index,
    pub applied: Index,
    /// Linearizable reads that wait for their index.
    pub readers: usize,
    /// Entries of the log that are in memory.
    pub log_entries: u64,
    /// Bytes of all entries that were applied since the start.
    pub applied_bytes: u64,
    /// The entry that the newest checkpoint reaches, and the bytes applied until then.
    pub checkpoint: Index,
    pub checkpoint_bytes: u64,
    /// Another member waits for a checkpoint that reaches this entry.
    pub checkpoint_wanted: Index,
    /// Since when no leader has been known; meaningless while one is.
    pub leaderless_since: Mono,
}

/// Why a server stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to.
    Requested,
    /// This member was removed from the cluster.
    Removed,
    /// The disk failed. What was not acknowledged may be lost; what was is not.
    Disk(String),
}

/// The state that a server's tasks and its callers share. Each part has one writer.
pub struct Shared {
    pub env: Env,
    pub cluster_id: u64,
    pub member_id: NodeId,
    pub limits: Limits,
    pub election_timeout: Duration,
    /// The quota, and the room on the disk.
    pub space: Space,
    pub membership: MembershipOptions,
    /// Where the other members find this one.
    pub peer_urls: Vec<String>,
    pub metrics: Arc<Metrics>,
    /// The only inbox of the consensus task.
    pub inbox: mpsc::Sender<Event>,
    /// Written by the applier; read by callers, in bounded chunks.
    pub hub: Mutex<Hub>,
    /// Wakes the task that feeds watchers from history.
    pub catch_up: Notify,
    /// The keep-alives of leases that wait here.
    pub keep_alives: KeepAlives,
    /// Keys of locks and elections whose callers went away.
    pub abandoned: Abandoned,
    /// Wakes the task that removes what a compaction has killed.
    pub compact: Notify,
    /// The revision up to which that task has finished.
    pub compacted: Signal<i64>,
    /// How many read the state as it was at some moment: physical removal waits for them.
    pub sweep_pins: Signal<usize>,
    /// How often the state was replaced as a whole.
    pub swaps: Signal<u64>,
    /// How many backups are being read.
    pub backups: Signal<usize>,
    pub checkpoints: CheckpointOptions,
    /// Wakes the task that takes checkpoints.
    pub checkpoint: Notify,
    /// The entry that the newest checkpoint reaches, for those who wait for one.
    pub checkpointed: Signal<Index>,
    /// The runs of the newest checkpoint, and where they lie.
    pub runs: Arc<RunTable>,
    pub run_dir: PathBuf,
    /// Checkpoints on their way to other members.
    pub sent: Sent,
    /// The shortest TTL that a lease is granted.
    pub lease_ttl_secs_min: i64,
    /// The versions of the other members, as far as they have said them.
    pub versions: Mutex<BTreeMap<NodeId, String>>,
    pub(super) standing: Signal<Standing>,
    hashes: Mutex<HashHistory>,
    state: RwLock<StateMachine>,
    pending: Mutex<Pending>,
    view: Mutex<View>,
    chance: Mutex<StdRng>,
    stopped: Signal<Option<StopReason>>,
}

/// What [`Shared`] is made of.
pub struct Parts {
    pub env: Env,
    pub cluster_id: u64,
    pub member_id: NodeId,
    pub limits: Limits,
    pub election_timeout: Duration,
    pub space: Space,
    pub membership: MembershipOptions,
    pub peer_urls: Vec<String>,
    pub inbox: mpsc::Sender<Event>,
    pub state: StateMachine,
    pub standing: Standing,
    pub checkpoints: CheckpointOptions,
    pub runs: Arc<RunTable>,
    pub run_dir: PathBuf,
    pub lease_ttl_secs_min: i64,
    pub hub: Hub,
    pub metrics: Arc<Metrics>,
}

impl Shared {
    pub fn new(parts: Parts) -> Shared {
        parts.metrics.quarantined.set(i64::from(parts.standing != Standing::Trusted));
        let mut chance = StdRng::seed_from_u64(parts.env.seed);
        // The high bits name the member, so that two members' requests do not meet; the rest
        // is drawn for each start of the process.
        let first_id = (parts.member_id << 48) | (chance.random::<u64>() >> 17) | 1;
        let pending = Pending::new(
            first_id,
            parts.limits.max_pending_requests,
            parts.limits.max_pending_bytes,
        );
        let compacted = parts.state.store.compact_revision();
        // A state that was just recovered is that of the newest checkpoint.
        let applied = parts.state.applied().index;
        let mut hashes = HashHistory::default();
        if !parts.state.is_lost() {
            hashes.note(applied, parts.state.state_hash());
        }
        Shared {
            cluster_id: parts.cluster_id,
            member_id: parts.member_id,
            limits: parts.limits,
            election_timeout: parts.election_timeout,
            space: parts.space,
            membership: parts.membership,
            peer_urls: parts.peer_urls,
            metrics: parts.metrics,
            inbox: parts.inbox,
            hub: Mutex::new(parts.hub),
            catch_up: Notify::new(),
            keep_alives: KeepAlives::default(),
            abandoned: Abandoned::default(),
            compact: Notify::new(),
            compacted: Signal::new(compacted),
            sweep_pins: Signal::new(0),
            swaps: Signal::new(0),
            backups: Signal::new(0),
            checkpoints: parts.checkpoints,
            checkpoint: Notify::new(),
            checkpointed: Signal::new(applied),
            runs: parts.runs,
            run_dir: parts.run_dir,
            sent: Sent::default(),
            lease_ttl_secs_min: parts.lease_ttl_secs_min,
            versions: Mutex::default(),
            standing: Signal::new(parts.standing),
            hashes: Mutex::new(hashes),
            state: RwLock::new(parts.state),
            pending: Mutex::new(pending),
            view: Mutex::new(View { applied, checkpoint: applied, ..View::default() }),
            chance: Mutex::new(chance),
            stopped: Signal::new(None),
            env: parts.env,
        }
    }

    /// Time after which a request that waits for consensus is given up: etcd's
    /// `ServerConfig.ReqTimeout`.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    pub fn state(&self) -> RwLockReadGuard<'_, StateMachine> {
        self.state.read().expect("no holder of the state panics and goes on")
    }

    /// Whether this member has applied its own removal.
    pub fn is_removed(&self) -> bool {
        self.state().members.is_removed(self.member_id)
    }

    /// Only the applier and the compactor write.
    pub fn state_mut(&self) -> RwLockWriteGuard<'_, StateMachine> {
        self.state.write().expect("no holder of the state panics and goes on")
    }

    pub fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no holder of the pending table panics and goes on")
    }

    pub fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().expect("no holder of the hub panics and goes on")
    }

    pub fn hashes(&self) -> MutexGuard<'_, HashHistory> {
        self.hashes.lock().expect("no holder of the hashes panics and goes on")
    }

    pub fn view(&self) -> View {
        *self.view.lock().expect("no holder of the view panics and goes on")
    }

    pub fn update_view(&self, update: impl FnOnce(&mut View)) {
        update(&mut self.view.lock().expect("no holder of the view panics and goes on"));
    }

    /// Whether a caller or a watcher here waits for what is committed.
    pub fn awaits_commit(&self) -> bool {
        !self.pending().is_empty() || self.view().readers > 0 || self.hub().watchers() > 0
    }

    /// Entries up to `index` are applied, `bytes` more of them.
    pub fn applied(&self, index: Index, bytes: u64) {
        self.update_view(|view| {
            view.applied = index;
            view.applied_bytes += bytes;
        });
        if self.is_checkpoint_due() {
            self.checkpoint.notify_one();
        }
    }

    /// A state that is known to be damaged is not written down.
    pub fn is_checkpoint_due(&self) -> bool {
        if self.standing() == Standing::Quarantined {
            return false;
        }
        let (view, options) = (self.view(), &self.checkpoints);
        let wanted = view.checkpoint_wanted;
        view.applied - view.checkpoint >= options.entries
            || (view.checkpoint < wanted && view.applied >= wanted)
            || view.applied_bytes - view.checkpoint_bytes >= options.log_bytes
    }

    /// A checkpoint up to `index`, when `bytes` of entries had been applied, is durable.
    pub fn checkpointed(&self, index: Index, bytes: u64) {
        self.update_view(|view| {
            view.checkpoint = index;
            view.checkpoint_bytes = bytes;
        });
        self.checkpointed.set(index);
    }

    /// Completes once there is a checkpoint that reaches `index`.
    pub async fn checkpoint_at(&self, index: Index) {
        if self.checkpointed.get() >= index {
            return;
        }
        self.update_view(|view| view.checkpoint_wanted = view.checkpoint_wanted.max(index));
        self.checkpoint.notify_one();
        self.checkpointed.wait_for(|reached| *reached >= index).await;
    }

    /// A number drawn from this member's own stream of chance.
    pub fn draw(&self) -> u64 {
        self.chance.lock().expect("no holder of chance panics and goes on").random()
    }

    /// The header of an answer given at this moment.
    pub fn header(&self) -> ResponseHeader {
        let revision = self.state().store.revision();
        self.header_at(revision)
    }

    /// The header of an answer given at this revision.
    pub fn header_at(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.view().term,
        }
    }

    /// Starts or forgets the deadlines of leases: only a leader keeps them. A new leader gives
    /// every lease an election timeout more, for the renewals that the election swallowed.
    pub fn leadership_changed(&self, is_leader: bool) {
        let now = self.env.clock.now().since_start();
        let mut state = self.state_mut();
        if is_leader {
            state.lessor.promote(now, self.election_timeout);
        } else {
            state.lessor.demote();
        }
    }

    /// Waits until damaged values were brought back after `round`, or until a time.
    pub async fn repaired_since(&self, round: u64, until: Mono) {
        tokio::select! {
            biased;
            () = self.runs.damage.repaired_since(round) => {}
            () = self.env.clock.sleep_until(until) => {}
        }
    }

    /// Ends the server; the first reason is the one that counts.
    pub fn stop(&self, reason: StopReason) {
        self.stopped.update(|stopped| {
            if stopped.is_none() {
                let event = recorder::Event::Stopped { reason: format!("{reason:?}") };
                self.env.recorder.record(&event);
                *stopped = Some(reason);
            }
        });
    }

    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stopped.get()
    }

    /// Completes once the server has stopped.
    pub async fn stopped(&self) -> StopReason {
        let stopped = self.stopped.wait_for(Option::is_some).await;
        stopped.expect("waited for a reason")
    }

    /// Refuses what a server that has stopped can't do.
    pub fn check_running(&self) -> Result<()> {
        if self.stopped.get().is_some() { Err(Error::Stopped) } else { Ok(()) }
    }
}
