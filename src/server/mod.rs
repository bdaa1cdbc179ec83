//! The driver: turns what the consensus core decides into input and output.
//!
//! Four tasks stand in a ring, and each owns its state:
//!
//! - `node` owns the Raft core. Its inbox is the only way in.
//! - `log_writer` owns the write-ahead log, with one batch in flight.
//! - `applier` owns the write side of the state machine and tells callers and watchers.
//! - `peers` keeps one stream to each other member.
//!
//! Beside the ring: `run_dir` owns the directory of runs, `scrub` reads what lies there and
//! `repair` brings back what is damaged, `ticker` turns the clock into ticks,
//! `applier::compactor` removes what compactions killed, `auto_compactor` asks for them,
//! `space_driver` looks after quota and disk, `prober` measures the way to the others, `publish`
//! announces the member, `state_check` compares its state with the others'. Callers
//! come in through `handle`.
//!
//! # Limits
//!
//! | queue | bound | when it is full |
//! |---|---|---|
//! | inbox of `node` | 4,096 events | the sender waits; a peer's stream is not read meanwhile |
//! | keep-alives of leases | 200,000 | `too many requests` |
//! | revisions in a watch stream | `Limits`: 1,024, and 8 MiB | its watchers go on from history |
//! | callers that wait for an outcome | `Limits`: 5,000 and 256 MiB | `too many requests` |
//! | linearizable reads that wait for their index | `Limits`: 100,000 | `too many requests` |
//! | committed and not yet applied | 5,000 entries | `too many requests` |
//! | writes before `log_writer` | uncommitted data in the core | the core refuses proposals |
//! | entries before `applier` | the pending callers of all members | as above |
//! | backups at once | 4 | `too many requests` |
//! | pieces of a backup | 8 | it waits; after a minute without a reader it ends |
//! | blocks of runs that were read last | 16 MiB | the one used longest ago goes |
//! | offers of a snapshot | 1 | dropped; the leader offers again |
//! | wishes to be rebuilt | 1 | dropped; the next comparison asks again |
//! | messages for one peer | 4,096 | dropped and reported; Raft sends again |
//! | batches in a peer's stream | HTTP/2 flow control | they wait in the queue above |

pub mod adopt;
pub mod applier;
pub mod auto_compactor;
pub mod backup;
pub mod block_cache;
pub mod checkpointer;
pub mod count;
pub mod damage;
pub mod event;
pub mod handle;
pub mod hash_history;
pub mod installer;
pub mod join;
pub mod keep_alive;
pub mod keep_alive_queue;
pub mod lease_driver;
pub mod leave;
pub mod load;
mod log_remover;
pub mod log_writer;
pub mod lost_state;
pub mod maintenance;
pub mod node;
pub mod outbox;
pub mod peer_service;
pub mod peers;
pub mod pending;
pub mod place;
pub mod prober;
pub mod publish;
pub mod reads;
pub mod recipes;
pub mod reconfig_check;
pub mod reconfigure;
pub mod recovery;
pub mod repair;
pub mod restore;
pub mod run_dir;
pub mod runs;
pub mod scrub;
pub mod sent;
pub mod server_config;
pub mod shared;
pub mod snapshots;
pub mod space;
pub mod space_driver;
pub mod standing;
pub mod start_error;
pub mod state_check;
pub mod ticker;
pub mod versions;
pub mod watch_stream;
pub mod wire;

use crate::env::Env;
use crate::env::recorder::{self, Standing};
use crate::metrics::Metrics;
use crate::pb::raftpb::peer_server::{Peer, PeerServer};
use crate::raft::core::RaftCore;
use crate::raft::state::Config;
use crate::storage::checkpoint::NextNumbers;
use crate::storage::data_dir::DataDir;
use crate::storage::reserve::Reserve;
use crate::storage::wal::Wal;
use crate::watch::hub::{Hub, HubOptions};
use checkpointer::Checkpointer;
use handle::Handle;
use node::{Node, Outlets};
use peer_service::PeerService;
use peers::Peers;
use recovery::{Recovery, recover};
use server_config::ServerConfig;
use shared::{Parts, Shared, StopReason};
use space::{Space, SpaceParts};
use start_error::StartError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Events that may wait for the consensus task.
const INBOX_EVENTS: usize = 4096;

impl ServerConfig {
    fn hub_options(&self, seed: u64) -> HubOptions {
        HubOptions {
            queue_items: self.limits.watch_queue_items,
            fragment_bytes: self.limits.max_request_bytes + (512 << 10),
            progress_interval: self.progress_notify_interval,
            seed,
            ..HubOptions::default()
        }
    }

    fn space(&self, env: &Env, data_dir: &DataDir) -> Space {
        let reserve = data_dir.reserve_path();
        Space::new(SpaceParts {
            disk: env.disk.clone(),
            dir: data_dir.wal_dir(),
            quota_bytes: self.quota_bytes,
            segment_bytes: self.segment_bytes,
            reserve: Reserve::new(env.disk.clone(), reserve, self.reserve_bytes),
        })
    }

    fn core_config(&self, id: u64, seed: u64) -> Config {
        Config {
            id,
            election_ticks: node::election_ticks(self.election_ms, self.heartbeat_ms),
            heartbeat_ticks: ticker::TICKS_PER_HEARTBEAT,
            max_append_bytes: 1 << 20,
            max_inflight_messages: 512,
            max_inflight_bytes: 64 << 20,
            pre_vote: self.pre_vote,
            initial_tick_advance: self.initial_tick_advance,
            check_quorum: true,
            seed: seed ^ id,
            max_uncommitted_bytes: 512 << 20,
            max_ready_bytes: 16 << 20,
        }
    }
}

/// A running server. Dropping it leaves its tasks running; `stop` ends them.
pub struct Server {
    handle: Handle,
    peers: Arc<Peers>,
    name: String,
    client_urls: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
    // Holds the lock of the data directory for as long as the server lives.
    _data_dir: DataDir,
}

impl Server {
    /// Recovers what the disk holds and starts the ring.
    ///
    /// # Errors
    /// When the data directory can't be used or is damaged, or the configuration contradicts it.
    pub async fn start(config: ServerConfig, env: Env) -> Result<Server, StartError> {
        adopt::adopt(&env.disk, &config).await?;
        let recovery = recover(&config, &env).await?;
        let Recovery { data_dir, wal, cluster_id, member_id, state, core, runs, next, .. } =
            recovery;
        env.recorder.record(&recorder::Event::Recovered {
            member: member_id,
            term: core.hard_state.term,
            last_index: core.entries.last().map_or(core.snapshot_index, |entry| entry.index),
            commit: core.hard_state.commit,
            applied: core.applied,
            revision: state.store.revision(),
            state_hash: state.state_hash(),
            is_lost: state.is_lost(),
        });
        let standing = match (recovery.is_damaged, config.initial_corrupt_check) {
            (true, _) => Standing::Quarantined,
            (false, true) => Standing::Unverified,
            (false, false) => Standing::Trusted,
        };
        if standing != Standing::Trusted {
            let index = state.applied().index;
            env.recorder.record(&recorder::Event::Standing { standing, index });
        }
        let (inbox, events) = mpsc::channel(INBOX_EVENTS);
        let core_config = config.core_config(member_id, env.seed);
        let metrics = Arc::new(Metrics::new());
        metrics.quota_backend_bytes.set(config.quota_bytes);
        let space = config.space(&env, &data_dir);
        let hub = Hub::new(config.hub_options(env.seed), state.store.revision());
        let shared = Arc::new(Shared::new(Parts {
            env,
            cluster_id,
            member_id,
            limits: config.limits.clone(),
            election_timeout: Duration::from_millis(config.election_ms),
            space,
            inbox,
            checkpoints: config.checkpoints,
            membership: config.membership,
            peer_urls: config.advertise_peer_urls.clone(),
            runs,
            run_dir: data_dir.run_dir(),
            lease_ttl_secs_min: config.lease_ttl_secs_min(),
            state,
            standing,
            hub,
            metrics,
        }));
        let peers = Peers::new(shared.clone());
        peers.set_all(&shared.state().members.iter().cloned().collect::<Vec<_>>());
        for remote in recovery.remotes {
            peers.set(remote.id, &remote.peer_urls);
        }
        let core = RaftCore::new(core_config, core);
        let heartbeat = Duration::from_millis(config.heartbeat_ms);
        let recheck = state_check::recheck(shared.clone(), config.corrupt_check_interval);
        let parts = RingParts { core, wal, next, events, heartbeat };
        let mut tasks = spawn_ring(parts, &shared, &peers);
        let handle = Handle::new(shared);
        let (name, client_urls) = (config.name, config.advertise_client_urls);
        let publish = publish::run(handle.clone(), name.clone(), client_urls.clone());
        tasks.push(tokio::spawn(publish));
        tasks.push(tokio::spawn(recheck));
        tasks.push(tokio::spawn(versions::run(handle.clone())));
        let compactor = auto_compactor::run(handle.clone(), config.auto_compaction);
        tasks.push(tokio::spawn(compactor));
        Ok(Server { handle, peers, name, client_urls, tasks, _data_dir: data_dir })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The service of the peer port.
    pub fn peer_service(&self) -> PeerService {
        PeerService::new(self.handle.shared().clone(), self.peers.clone())
    }

    /// Completes once clients can be served: the cluster knows this member and has a version, and
    /// the state of this member is trusted.
    pub async fn ready(&self) {
        publish::published(&self.handle, &self.name, &self.client_urls).await;
        self.handle.shared().trusted().await;
    }

    /// Completes when the server has stopped.
    pub async fn stopped(&self) -> StopReason {
        self.handle.stopped().await
    }

    /// Hands leadership over if this member leads, then ends all tasks.
    pub async fn stop(mut self) {
        let view = self.handle.view();
        if view.is_leader && self.handle.stop_reason().is_none() {
            let shared = self.handle.shared();
            tokio::select! {
                biased;
                // With nobody to hand over to, the others find out by themselves.
                _nobody = self.handle.move_leader(0) => {}
                () = shared.env.clock.sleep(shared.election_timeout) => {}
            }
        }
        self.handle.shared().stop(StopReason::Requested);
        self.handle.shared().pending().stop();
        self.peers.stop();
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

/// What the tasks of the ring own.
struct RingParts {
    core: RaftCore,
    wal: Wal,
    next: NextNumbers,
    events: mpsc::Receiver<event::Event>,
    heartbeat: Duration,
}

fn spawn_ring(parts: RingParts, shared: &Arc<Shared>, peers: &Arc<Peers>) -> Vec<JoinHandle<()>> {
    let RingParts { core, wal, next, events, heartbeat } = parts;
    let (log, log_jobs) = mpsc::unbounded_channel();
    let (apply, apply_jobs) = mpsc::unbounded_channel();
    let (offers, offered) = mpsc::channel(1);
    let (rebuilds, wishes) = mpsc::channel(1);
    let checkpointer = Checkpointer::new(shared.clone(), peers.clone(), next, log.clone());
    let outlets = Outlets { peers: peers.clone(), log, apply, offers };
    let tick = heartbeat / ticker::TICKS_PER_HEARTBEAT;
    vec![
        tokio::spawn(Node::new(core, shared.clone(), outlets).run(events)),
        tokio::spawn(log_writer::run(wal, log_jobs, peers.clone(), shared.clone())),
        tokio::spawn(applier::run(apply_jobs, shared.clone())),
        tokio::spawn(applier::compactor(shared.clone())),
        tokio::spawn(run_dir::run(checkpointer, offered, wishes)),
        tokio::spawn(repair::run(shared.clone(), peers.clone())),
        tokio::spawn(scrub::run(shared.clone())),
        tokio::spawn(ticker::run(tick, shared.clone())),
        tokio::spawn(prober::run(shared.clone(), peers.clone())),
        tokio::spawn(state_check::run(shared.clone(), peers.clone(), rebuilds)),
        tokio::spawn(watch_stream::catch_up(shared.clone())),
        tokio::spawn(lease_driver::run(shared.clone())),
        tokio::spawn(space_driver::run(shared.clone())),
        tokio::spawn(keep_alive::run(shared.clone())),
        tokio::spawn(recipes::run(shared.clone())),
    ]
}

/// Serves the peer port until the server stops.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve_peers(
    service: impl Peer,
    address: SocketAddr,
) -> Result<(), tonic::transport::Error> {
    // The simulated build's type of this service has one parameter more, so it is not named.
    let service = PeerServer::new(service)
        .max_decoding_message_size(peers::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(peers::MESSAGE_BYTES_MAX);
    tonic::transport::Server::builder().add_service(service).serve(address).await
}
