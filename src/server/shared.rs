//! What the tasks of one server and its callers share.

use super::event::Event;
use super::keep_alive::KeepAlives;
use super::pending::Pending;
use super::recipes::Abandoned;
use crate::apply::machine::StateMachine;
use crate::env::Env;
use crate::env::clock::Mono;
use crate::env::recorder;
use crate::env::signal::Signal;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::pb::etcdserverpb::ResponseHeader;
use crate::raft::message::{Index, NodeId, Term};
use crate::watch::hub::Hub;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
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
    /// Entries that may be committed and not yet applied before requests are refused.
    pub max_apply_lag: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_pending_requests: 5_000,
            max_pending_bytes: 256 << 20,
            max_apply_lag: 5_000,
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
    /// Bytes of live data above which this member raises an alarm; 0 for none.
    pub quota_bytes: i64,
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
    pub quota_bytes: i64,
    pub inbox: mpsc::Sender<Event>,
    pub state: StateMachine,
    pub hub: Hub,
    pub metrics: Arc<Metrics>,
}

impl Shared {
    pub fn new(parts: Parts) -> Shared {
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
        Shared {
            cluster_id: parts.cluster_id,
            member_id: parts.member_id,
            limits: parts.limits,
            election_timeout: parts.election_timeout,
            quota_bytes: parts.quota_bytes,
            metrics: parts.metrics,
            inbox: parts.inbox,
            hub: Mutex::new(parts.hub),
            catch_up: Notify::new(),
            keep_alives: KeepAlives::default(),
            abandoned: Abandoned::default(),
            compact: Notify::new(),
            compacted: Signal::new(compacted),
            state: RwLock::new(parts.state),
            pending: Mutex::new(pending),
            view: Mutex::new(View::default()),
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

    pub fn view(&self) -> View {
        *self.view.lock().expect("no holder of the view panics and goes on")
    }

    pub fn update_view(&self, update: impl FnOnce(&mut View)) {
        update(&mut self.view.lock().expect("no holder of the view panics and goes on"));
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
