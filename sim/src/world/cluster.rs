//! The members: nodes of the simulated runtime that run the shipped server, and everything that
//! can be done to them and to the links between them.

use super::addresses::{client_address, peer_address, peer_url};
use super::book::{Book, SharedBook};
use super::directories::{DATA_DIR, WAL_DIR};
use super::resets::{Breaks, Resettable};
use crate::clock::{SimClock, TRUE_RATE};
use crate::disk::SimDisk;
use crate::disk::faults::{DiskCounters, DiskFaults};
use crate::fault::{Direction, Target};
use crate::options::Options;
use crate::plan::Plan;
use crate::random::Stream;
use crate::timeline::record::{Loss, Lost, What};
use detcd::api::serve_clients;
use detcd::config::settings::AutoCompaction;
use detcd::env::Env;
use detcd::membership::member_id;
use detcd::server::handle::Handle as ServerHandle;
use detcd::server::reconfig_check::MembershipOptions;
use detcd::server::server_config::ServerConfig;
use detcd::server::shared::{CheckpointOptions, Limits};
use detcd::server::{Server, serve_peers};
use madsim::net::NetSim;
use madsim::runtime::Handle;
use madsim::task::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const TOKEN: &str = "simulated";
/// What every wall clock shows when a run begins.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// The id of a member, as the server computes it.
pub fn id_of(member: usize) -> u64 {
    member_id(&[peer_url(member)], TOKEN, None)
}

/// The members by their ids.
pub fn ids(members: usize) -> BTreeMap<u64, usize> {
    (0..members).map(|m| (id_of(m), m)).collect()
}

/// What a member's process is started with; outlives it.
#[derive(Clone)]
struct Seat {
    member: usize,
    plan: Plan,
    book: SharedBook,
    disk: SimDisk,
    clock: SimClock,
    state: Arc<Mutex<SeatState>>,
    stops: mpsc::UnboundedSender<Stop>,
    breaks: Breaks,
}

#[derive(Default)]
pub(super) struct SeatState {
    /// A founder, or a member that was added: its process may run.
    enrolled: bool,
    server: Option<ServerHandle>,
    boots: u64,
    /// What the disk had counted when the process began.
    counters: DiskCounters,
    /// How many faults hold the process down.
    holds: u32,
    pauses: u32,
    /// Its log was damaged, or its checkpoints.
    pub(super) log_rotten: bool,
    pub(super) runs_rotten: bool,
    /// It starts as a cluster of its own.
    forced: bool,
    /// It came up once: where its log lies is known since.
    came_up: bool,
    /// The tasks of the process when they were last counted.
    tasks: usize,
    /// How long the member stays down once a fault of its disk has stopped it.
    down_ms: u64,
}

/// A process that ended by itself.
pub struct Stop {
    pub member: usize,
    pub boot: u64,
    pub reason: String,
    /// It never came up.
    pub at_start: bool,
}

struct Member {
    node: NodeId,
    seat: Seat,
}

/// All members and links of a run.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

/// A directed link, and how many faults cut it.
type Cut = (NodeId, NodeId, u32);

struct Inner {
    runtime: Handle,
    net: Arc<NetSim>,
    pub plan: Plan,
    pub book: SharedBook,
    members: Vec<Member>,
    clients: Mutex<Vec<NodeId>>,
    /// Calls of those who came for a burst.
    guests: Mutex<Vec<JoinHandle<()>>>,
    /// How many faults cut each link.
    cuts: Mutex<BTreeMap<(u64, u64), Cut>>,
    /// Transfers of states that are to break off.
    breaks: Breaks,
    /// One change of the members at a time, as far as the operators know.
    pub changes: tokio::sync::Mutex<Changes>,
}

/// What the operators know of the changes that they asked for.
#[derive(Default)]
pub struct Changes {
    pub operators: u64,
    /// One of them may be made yet, or not.
    pub uncertain: bool,
    /// Seats whose addition was asked for by a question that nobody has answered: it may be made
    /// yet, so who is removed from there may have to be added again, under another id.
    pub doubtful: BTreeSet<usize>,
}

impl Cluster {
    /// Makes the nodes and starts the members.
    pub fn start(plan: &Plan, book: &SharedBook) -> (Cluster, mpsc::UnboundedReceiver<Stop>) {
        let runtime = Handle::current();
        let (stops, stopped) = mpsc::unbounded_channel();
        let breaks = Breaks::default();
        let member = |member: usize| {
            let clock = SimClock::new(EPOCH);
            clock.set_rate(plan.options.clock_rate(member) * (TRUE_RATE / 1000));
            let label = format!("disk/{member}");
            let disk = SimDisk::new(plan.seed, &label, usual_disk(&plan.options));
            let seat = Seat {
                member,
                plan: plan.clone(),
                book: book.clone(),
                disk,
                clock,
                state: Arc::default(),
                stops: stops.clone(),
                breaks: breaks.clone(),
            };
            seat.state().enrolled = member < plan.options.members;
            seat.report_crashes();
            let process = seat.clone();
            let node = runtime
                .create_node()
                .name(format!("m{member}"))
                .ip(peer_address(member).ip())
                .init(move || process.clone().run())
                .build();
            Member { node: node.id(), seat }
        };
        let members: Vec<Member> = (0..plan.seats()).map(member).collect();
        book.set_clocks(members.iter().map(|member| member.seat.clock.clone()).collect());
        let inner = Inner {
            runtime,
            net: NetSim::current(),
            plan: plan.clone(),
            book: book.clone(),
            members,
            clients: Mutex::default(),
            guests: Mutex::default(),
            cuts: Mutex::default(),
            breaks: breaks.clone(),
            changes: tokio::sync::Mutex::default(),
        };
        (Cluster { inner: Arc::new(inner) }, stopped)
    }

    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    pub fn book(&self) -> &SharedBook {
        &self.inner.book
    }

    /// All places, also those that nobody has taken yet or any more.
    pub fn members(&self) -> usize {
        self.inner.members.len()
    }

    /// The members of this moment, as far as anybody has applied it.
    pub fn current(&self) -> Vec<usize> {
        self.inner.book.lock().current()
    }

    pub fn breaks(&self) -> &Breaks {
        &self.inner.breaks
    }

    pub fn changes(&self) -> &tokio::sync::Mutex<Changes> {
        &self.inner.changes
    }

    /// Lets the process of a member that was added run.
    pub fn enrol(&self, member: usize) {
        let mut state = self.state(member);
        if std::mem::replace(&mut state.enrolled, true) || state.holds > 0 {
            return;
        }
        drop(state);
        let node = self.inner.members[member].node;
        self.inner.runtime.kill(node);
        self.inner.runtime.restart(node);
    }

    pub fn is_newcomer(&self, member: usize) -> bool {
        member >= self.inner.plan.options.members
    }

    pub fn net(&self) -> &NetSim {
        &self.inner.net
    }

    /// Makes a node for a client.
    pub fn client_node(&self, client: u64) -> madsim::runtime::NodeHandle {
        let (net, host) = (1 + client / 250, 1 + client % 250);
        let part = |n: u64| u8::try_from(n).expect("few clients");
        let ip = [10, 0, part(net), part(host)];
        let runtime = &self.inner.runtime;
        let node = runtime.create_node().name(format!("c{client}")).ip(ip.into()).build();
        self.inner.clients.lock().expect("not poisoned").push(node.id());
        node
    }

    /// Notes a call whose end the run has to wait for.
    pub fn await_guest(&self, call: JoinHandle<()>) {
        self.inner.guests.lock().expect("not poisoned").push(call);
    }

    pub fn take_guests(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.inner.guests.lock().expect("not poisoned"))
    }

    pub fn disk(&self, member: usize) -> &SimDisk {
        &self.inner.members[member].seat.disk
    }

    pub fn clock(&self, member: usize) -> &SimClock {
        &self.inner.members[member].seat.clock
    }

    /// The server of a member, if it is up.
    pub fn server(&self, member: usize) -> Option<ServerHandle> {
        self.state(member).server.clone()
    }

    pub(super) fn state(&self, member: usize) -> MutexGuard<'_, SeatState> {
        self.inner.members[member].seat.state()
    }

    /// Who is meant, at this moment.
    pub fn resolve(&self, target: Target) -> usize {
        let book = self.inner.book.lock();
        let current = book.current();
        let by_log = |want_longest: bool| {
            let key = |m: &usize| {
                let persisted = book.members[*m].persisted;
                if want_longest { u64::MAX - persisted } else { persisted }
            };
            current.iter().copied().min_by_key(key).expect("a cluster has members")
        };
        match target {
            Target::Leader => book.leaders[1].unwrap_or(0),
            Target::OldLeader => {
                book.leaders[0].unwrap_or(*current.last().expect("a cluster has members"))
            }
            Target::LongestLog => by_log(true),
            Target::ShortestLog => by_log(false),
            Target::Member(member) if current.contains(&member) => member,
            Target::Member(member) => current[member % current.len()],
        }
    }

    // --- processes ---

    /// Ends the process; it stays down until as many calls of `release` have followed.
    pub fn hold_down(&self, member: usize, power_cut: bool) {
        let view = self.inner.book.lock().members[member].clone();
        self.state(member).holds += 1;
        let disk = self.disk(member);
        if view.up && power_cut {
            let book = &self.inner.book;
            if view.leads {
                book.reach("leader crashed");
                if book.now() < view.elected_at + 100_000_000 {
                    book.reach("crash soon after election");
                }
            }
        }
        self.inner.runtime.kill(self.inner.members[member].node);
        let loss = if power_cut {
            let lost = cut_power(disk);
            if lost.torn > 0 {
                self.inner.book.reach("crash with a write in flight");
            }
            Loss::PowerCut(lost)
        } else {
            disk.kill();
            Loss::Killed
        };
        let mut state = self.state(member);
        state.server = None;
        state.pauses = 0;
        drop(state);
        self.inner.book.went_down(member, loss);
    }

    /// Takes back one `hold_down`; with the last one the process starts again.
    pub fn release(&self, member: usize) {
        let mut state = self.state(member);
        assert!(state.holds > 0, "member {member} is not held down");
        state.holds -= 1;
        let start = state.holds == 0;
        drop(state);
        if start && !self.inner.book.lock().members[member].out {
            let node = self.inner.members[member].node;
            // A restart without a kill leaves the address in use.
            self.inner.runtime.kill(node);
            self.inner.runtime.restart(node);
        }
    }

    /// Whether its next starts make it a cluster of its own.
    pub fn set_forced(&self, member: usize, forced: bool) {
        self.state(member).forced = forced;
    }

    pub fn is_held_down(&self, member: usize) -> bool {
        self.state(member).holds > 0
    }

    pub fn pause(&self, member: usize) {
        let mut state = self.state(member);
        state.pauses += 1;
        if state.pauses == 1 {
            self.inner.book.keep(Some(member), || What::Paused);
            self.inner.runtime.pause(self.inner.members[member].node);
        }
    }

    pub fn resume(&self, member: usize) {
        let mut state = self.state(member);
        // A process that died meanwhile is no longer paused.
        let Some(left) = state.pauses.checked_sub(1) else { return };
        state.pauses = left;
        if left == 0 {
            self.inner.book.keep(Some(member), || What::Resumed);
            self.inner.runtime.resume(self.inner.members[member].node);
        }
    }

    pub fn is_paused(&self, member: usize) -> bool {
        self.state(member).pauses > 0
    }

    /// How long the member shall stay down if a fault of its disk stops it.
    pub fn set_down_ms(&self, member: usize, down_ms: u64) {
        self.state(member).down_ms = down_ms;
    }

    pub fn down_ms(&self, member: usize) -> u64 {
        self.state(member).down_ms
    }

    // --- disks ---

    /// Makes a disk healthy and of ordinary speed.
    pub fn mend_disk(&self, member: usize) {
        let usual = usual_disk(&self.inner.plan.options);
        self.disk(member).set_faults(|faults| *faults = usual);
    }

    /// Whether a stop of this process is explained by a fault of its disk. A full disk keeps a
    /// member from starting, and stops none that runs.
    pub fn is_excused(&self, stop: &Stop) -> bool {
        let member = stop.member;
        let disk = self.disk(member);
        let (now, then) = (disk.counters(), self.state(member).counters);
        let faults = |c: DiskCounters| {
            let full = if stop.at_start { c.full } else { 0 };
            c.failed_writes + c.failed_syncs + c.failed_reads + full + c.misdirected
        };
        disk.has_crashed() || faults(now) > faults(then)
    }

    pub fn boots(&self, member: usize) -> u64 {
        self.state(member).boots
    }

    // --- links ---

    /// The nodes of all clients.
    fn client_nodes(&self) -> Vec<NodeId> {
        self.inner.clients.lock().expect("not poisoned").clone()
    }

    pub fn member_links(&self, links: &[(usize, usize)]) -> Vec<(NodeId, NodeId)> {
        let node = |m: usize| self.inner.members[m].node;
        let known = |(a, b): &&(usize, usize)| *a < self.members() && *b < self.members();
        links.iter().filter(known).map(|(from, to)| (node(*from), node(*to))).collect()
    }

    /// The links between a member and all others, in one direction or both.
    pub fn links_around(&self, member: usize, direction: Direction) -> Vec<(NodeId, NodeId)> {
        let (outward, inward) = (direction != Direction::In, direction != Direction::Out);
        let mut links = Vec::new();
        for other in (0..self.members()).filter(|m| *m != member) {
            if outward {
                links.push((member, other));
            }
            if inward {
                links.push((other, member));
            }
        }
        self.member_links(&links)
    }

    /// The links between a member and all clients, both ways.
    pub fn client_links(&self, member: usize) -> Vec<(NodeId, NodeId)> {
        let node = self.inner.members[member].node;
        self.client_nodes().into_iter().flat_map(|c| [(c, node), (node, c)]).collect()
    }

    /// Cuts links, each until as many calls of `join` have followed.
    pub fn cut(&self, links: &[(NodeId, NodeId)]) {
        let mut cuts = self.inner.cuts.lock().expect("not poisoned");
        for (from, to) in links {
            let cut = cuts.entry((key(*from), key(*to))).or_insert((*from, *to, 0));
            cut.2 += 1;
            if cut.2 == 1 {
                self.inner.net.clog_link(*from, *to);
            }
        }
    }

    pub fn join(&self, links: &[(NodeId, NodeId)]) {
        let mut cuts = self.inner.cuts.lock().expect("not poisoned");
        for (from, to) in links {
            let cut = cuts.entry((key(*from), key(*to))).or_insert((*from, *to, 0));
            cut.2 = cut.2.saturating_sub(1);
            if cut.2 == 0 {
                self.inner.net.unclog_link(*from, *to);
            }
        }
    }

    /// Joins every link between members of `core` (and the clients), whatever cut it.
    pub fn heal_links(&self, core: &[usize]) {
        let mut healed: Vec<u64> = core.iter().map(|m| key(self.inner.members[*m].node)).collect();
        healed.extend(self.client_nodes().into_iter().map(key));
        let mut cuts = self.inner.cuts.lock().expect("not poisoned");
        for ((from, to), (a, b, count)) in cuts.iter_mut() {
            if healed.contains(from) && healed.contains(to) {
                *count = 0;
                self.inner.net.unclog_link(*a, *b);
            }
        }
    }

    /// Undoes whatever holds a member down, pauses it or ails its disk and clock.
    pub fn heal_member(&self, member: usize) {
        self.mend_disk(member);
        self.disk(member).disarm_crash();
        self.clock(member).set_rate(TRUE_RATE);
        while self.state(member).pauses > 0 {
            self.resume(member);
        }
        if self.disk(member).has_crashed() {
            self.hold_down(member, true);
        }
        let holds = std::mem::take(&mut self.state(member).holds);
        if holds > 0 {
            self.state(member).holds = 1;
            self.release(member);
        }
    }

    /// Ends all processes, so that nothing outlives the run.
    pub fn kill_all(&self) {
        for member in &self.inner.members {
            self.inner.runtime.kill(member.node);
            member.seat.state().server = None;
        }
        for client in self.client_nodes() {
            self.inner.runtime.kill(client);
        }
    }

    /// Forgets tasks that have ended; the runtime keeps a record of each until asked. Notes how
    /// many each member has.
    pub fn prune(&self) {
        let tasks = self.inner.runtime.metrics().num_tasks_by_node();
        for (number, member) in self.inner.members.iter().enumerate() {
            let count = tasks.get(&format!("m{number}")).copied().unwrap_or(0);
            member.seat.state().tasks = count;
        }
    }

    /// The tasks of a member's process when they were last counted.
    pub fn tasks(&self, member: usize) -> usize {
        self.state(member).tasks
    }
}

/// Orders nodes, whose ids have no order of their own.
fn key(node: NodeId) -> u64 {
    let text = node.to_string();
    text.parse().expect("a node's id is a number")
}

/// Cuts the power of a disk and says what that cost.
fn cut_power(disk: &SimDisk) -> Lost {
    let changes = disk.unsynced_changes();
    let before = disk.counters();
    disk.power_cut();
    let after = disk.counters();
    Lost {
        changes,
        torn: after.torn_writes - before.torn_writes,
        names: after.lost_name_changes - before.lost_name_changes,
    }
}

/// A healthy disk of the speed that the plan drew.
fn usual_disk(options: &Options) -> DiskFaults {
    let (low, high) = options.fsync_us;
    DiskFaults {
        sync_latency: Duration::from_micros(low)..Duration::from_micros(high),
        ..DiskFaults::none()
    }
}

fn checkpoints(options: &Options) -> CheckpointOptions {
    let drawn = options.checkpoints;
    CheckpointOptions {
        entries: options.checkpoint_entries,
        log_bytes: drawn.log_bytes,
        keep_entries: drawn.keep_entries,
        keep_bytes: drawn.keep_bytes,
        resident_bytes: drawn.resident_bytes,
        piece_bytes: drawn.piece_bytes,
        scrub_bytes_per_second: drawn.scrub_bytes_per_second,
        scrub_interval: Duration::from_millis(drawn.scrub_interval_ms),
    }
}

impl Seat {
    fn state(&self) -> MutexGuard<'_, SeatState> {
        self.state.lock().expect("no holder of this lock panics and goes on")
    }

    /// Tells the harness when an armed crash strikes.
    fn report_crashes(&self) {
        let (member, stops) = (self.member, self.stops.clone());
        let state = self.state.clone();
        let book = self.book.clone();
        self.disk.on_crash(move || {
            let boot = state.lock().expect("not held while the disk works").boots;
            book.reach("crash at a disk operation");
            let reason = "the power failed at a disk operation".to_string();
            // Without a listener the run is over.
            let _over = stops.send(Stop { member, boot, reason, at_start: false });
        });
    }

    /// The flag for a log elsewhere: given until the member has come up with it, and left out at
    /// every other start since.
    fn wal_dir(&self, boot: u64) -> Option<PathBuf> {
        let label = format!("wal-dir/{}/{boot}", self.member);
        let left_out = self.state().came_up && Stream::new(self.plan.seed, &label).chance(500);
        (self.plan.options.wal_elsewhere && !left_out).then(|| PathBuf::from(WAL_DIR))
    }

    fn config(&self, boot: u64) -> ServerConfig {
        let options = &self.plan.options;
        let cluster = |m: usize| (format!("m{m}"), vec![peer_url(m)]);
        let founds = self.member < options.members;
        let others = match founds {
            true => (0..options.members).collect(),
            false => self.book.lock().current(),
        };
        ServerConfig {
            name: format!("m{}", self.member),
            data_dir: PathBuf::from(DATA_DIR),
            wal_dir: self.wal_dir(boot),
            initial_cluster: others.into_iter().map(cluster).collect(),
            joins: !founds,
            force_new_cluster: self.state().forced,
            membership: MembershipOptions {
                healthy_after: Duration::from_millis(options.election_ms),
                max_learners: 2,
                ..MembershipOptions::default()
            },
            initial_cluster_token: TOKEN.to_string(),
            advertise_peer_urls: vec![peer_url(self.member)],
            advertise_client_urls: vec![format!("http://{}", client_address(self.member))],
            heartbeat_ms: options.heartbeat_ms,
            election_ms: options.election_ms,
            segment_bytes: options.wal_segment_bytes,
            checkpoints: checkpoints(options),
            reserve_bytes: 2 * options.wal_segment_bytes,
            quota_bytes: options.quotas.get(self.member).copied().unwrap_or(2 << 30),
            auto_compaction: match options.auto_compaction_ms {
                0 => AutoCompaction::Off,
                ms => AutoCompaction::Periodic(Duration::from_millis(ms)),
            },
            progress_notify_interval: Duration::from_millis(options.election_ms),
            corrupt_check_interval: match self.plan.hides_damage() {
                true => Duration::from_secs(1),
                false => Duration::ZERO,
            },
            limits: Limits {
                watch_queue_items: options.watch_queue,
                catch_up_changes: options.catch_up_changes,
                max_pending_requests: options.pending_max,
                backup_chunk_records: options.backups.chunk_records,
                backup_piece_bytes: options.backups.piece_bytes,
                ..Limits::default()
            },
            ..ServerConfig::default()
        }
    }

    /// One process, from start to end.
    async fn run(self) {
        let boot = {
            let mut state = self.state();
            if !state.enrolled {
                return;
            }
            state.boots += 1;
            state.counters = self.disk.counters();
            state.boots
        };
        self.book.started(self.member);
        // A process draws its seed anew at every start, as the daemon does.
        let seed = Stream::new(self.plan.seed, &format!("member/{}/{boot}", self.member)).next();
        let env = Env {
            clock: Arc::new(self.clock.clone()),
            disk: Arc::new(self.disk.clone()),
            seed,
            recorder: self.book.recorder(self.member, self.disk.clone()),
        };
        let stop = |reason, at_start| Stop { member: self.member, boot, reason, at_start };
        let server = match Server::start(self.config(boot), env).await {
            Ok(server) => server,
            Err(error) => {
                self.book.line(format_args!("m{} does not start: {error}", self.member));
                self.book.keep(Some(self.member), || What::Refused(error.to_string()));
                let _over = self.stops.send(stop(error.to_string(), true));
                return;
            }
        };
        let service = Resettable::new(&server, self.book.clone(), self.member, self.breaks.clone());
        let peers = tokio::spawn(serve_peers(service, peer_address(self.member)));
        self.state().came_up = true;
        self.state().server = Some(server.handle());
        let serving = self.serve_clients(&server);
        let reason = tokio::select! {
            biased;
            reason = server.stopped() => format!("{reason:?}"),
            served = serving => format!("clients are no longer served: {served:?}"),
        };
        drop(peers);
        let _over = self.stops.send(stop(reason, false));
    }

    async fn serve_clients(&self, server: &Server) -> Result<(), String> {
        server.ready().await;
        let address = client_address(self.member);
        let never = std::future::pending();
        serve_clients(server.handle(), address, never).await.map_err(|e| e.to_string())
    }
}

/// What a stop without a fault says to the book.
pub fn needless(book: &SharedBook, stop: &Stop) {
    let at = book.now();
    book.violated(Book::needless_stop(at, stop.member, &stop.reason));
}
