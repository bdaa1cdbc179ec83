//! A cluster of real servers in the simulated runtime: carries a plan out and judges what came of
//! it.
//!
//! The supervisor runs on the runtime's own node. It starts the members and the clients, lets each
//! action of the plan begin at its time, starts members again that a fault of their disk has
//! stopped, and at the end heals and demands progress. Everybody writes into one [`book`], whose
//! checkers look at every event as it happens; the history of the clients is judged at the end.

/// Where the members listen.
pub mod addresses;
/// Those who take backups.
pub mod backups;
/// Everything that happened, as it happens.
pub mod book;
/// What waits in the members.
pub mod bounds;
/// Too many requests at once.
pub mod burst;
/// The clients.
pub mod client;
/// The members and the links between them.
pub mod cluster;
/// Damage to the states in memory.
pub mod corruption;
/// A leader whose process ends, when all is healed.
pub mod departure;
/// Where a member keeps its data.
pub mod directories;
/// The disks of a majority are lost for good.
pub mod disaster;
/// What the watchers are told in the end.
pub mod ending;
/// What the nemesis does.
pub mod faults;
/// Leadership that goes where it is sent.
pub mod handover;
/// After the faults.
pub mod heal;
/// Those who hold leases while a fault could take them.
pub mod lease_onlookers;
/// Those who hold leases.
pub mod lessee;
/// Those who want locks and elections.
pub mod locker;
/// Members that come and go.
pub mod membership;
/// The numbers of the nodes.
pub mod nodes;
/// Who reads where an answer may be out of date.
pub mod onlookers;
mod operation_marks;
/// Who looks after quotas and alarms.
pub mod operator;
/// Who overwrites what has just been damaged.
pub mod overwriters;
/// What is on the platters.
pub mod platters;
/// Writes that take no longer than they have to.
pub mod prompt_writes;
/// What a timeline is made of.
pub mod record;
/// Connections that are reset.
pub mod resets;
/// Damage to what is on the platters.
pub mod rot;
/// What the nemesis does to them.
pub mod rot_faults;
/// Requests and outcomes in a few words.
pub mod short;
/// What is demanded while one disk stalls.
pub mod slow_disk;
/// The way of one member's state to another.
pub mod transfer;
/// Values that memory does not hold.
pub mod values;
/// Waiting for what the members must come to.
pub mod waiting;
/// The watchers.
pub mod watcher;

use crate::checker::{Guarantee, Violation, backup, leadership, lease, linearizability, liveness};
use crate::checker::{lock, watch};
use crate::history;
use crate::model::Model;
use crate::options::Mode;
use crate::outcome::Outcome;
use crate::plan::Plan;
use book::SharedBook;
use cluster::{Cluster, Stop};
use madsim::Config;
use madsim::runtime::Runtime;
use nodes::{BACKUP_NODES, LESSEE_NODES, LOCKER_NODES, WATCHER_NODES};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A run that simulates longer than this hangs.
const SIMULATED_MAX: Duration = Duration::from_secs(600);
/// How long a member stays down that a fault of its disk stopped, where the fault doesn't say.
const DOWN_MS: u64 = 200;

/// Carries a plan out.
pub fn run(plan: &Plan, keep_trace: bool) -> Outcome {
    let mut config = Config::default();
    let (low, high) = plan.options.latency_us;
    config.net.send_latency = Duration::from_micros(low)..Duration::from_micros(high);
    let mut runtime = Runtime::with_seed_and_config(plan.seed, config);
    runtime.set_time_limit(SIMULATED_MAX);
    let plan = plan.clone();
    runtime.block_on(async move { simulate(plan, keep_trace).await })
}

async fn simulate(plan: Plan, keep_trace: bool) -> Outcome {
    let book = SharedBook::new(cluster::ids(plan.options.members), plan.places(), keep_trace);
    let (cluster, stops) = Cluster::start(&plan, &book);
    let supervisor = tokio::spawn(supervise(cluster.clone(), stops));
    let enroller = tokio::spawn(membership::enrol(cluster.clone()));
    let pruner = tokio::spawn(prune(cluster.clone()));
    let bounds = tokio::spawn(bounds::watch(cluster.clone()));
    let values = tokio::spawn(values::watch(cluster.clone()));
    let until = Instant::now() + Duration::from_millis(plan.duration_ms);
    let mut clients: Vec<_> = (0..plan.workload.clients)
        .map(|client| {
            let life = client::run(plan.clone(), client, book.clone(), until);
            cluster.client_node(client).spawn(life)
        })
        .collect();
    clients.extend((0..plan.workload.lessees).map(|lessee| {
        let life = lessee::run(cluster.clone(), lessee, until);
        cluster.client_node(LESSEE_NODES + lessee).spawn(life)
    }));
    clients.extend((0..plan.workload.lockers).map(|locker| {
        let life = locker::run(cluster.clone(), locker, until);
        cluster.client_node(LOCKER_NODES + locker).spawn(life)
    }));
    clients.extend((0..plan.workload.backups).map(|number| {
        let life = backups::run(cluster.clone(), number, until);
        cluster.client_node(BACKUP_NODES + number).spawn(life)
    }));
    let watchers: Vec<_> = (0..plan.workload.watchers)
        .map(|watcher| {
            let life = watcher::run(cluster.clone(), watcher);
            cluster.client_node(WATCHER_NODES + watcher).spawn(life)
        })
        .collect();
    if !plan.options.quotas.is_empty() {
        let life = operator::run(plan.clone(), book.clone(), until);
        cluster.client_node(operator::CLIENT).spawn(life);
    }
    let faults = disturb(&cluster, until).await;
    for fault in faults {
        fault.abort();
    }
    if !book.is_broken() {
        finish(&cluster, clients, watchers).await;
        disaster::strike(&cluster).await;
    }
    supervisor.abort();
    enroller.abort();
    pruner.abort();
    bounds.abort();
    values.abort();
    let outcome = judge(&cluster);
    cluster.kill_all();
    // The runtime lets go of a dead node's tasks when they would have run.
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.prune();
    outcome
}

/// Lets every action begin at its time, until `until` or until a guarantee is broken.
async fn disturb(cluster: &Cluster, until: Instant) -> Vec<JoinHandle<()>> {
    let start = Instant::now();
    let mut faults = Vec::new();
    let plan = cluster.plan().clone();
    for (number, action) in plan.actions.into_iter().enumerate() {
        let at = start + Duration::from_millis(action.at_ms);
        tokio::select! {
            biased;
            () = cluster.book().broken() => return faults,
            () = tokio::time::sleep_until(at) => {}
        }
        faults.push(tokio::spawn(faults::carry_out(cluster.clone(), number, action)));
    }
    tokio::select! {
        biased;
        () = cluster.book().broken() => {}
        () = tokio::time::sleep_until(until) => {}
    }
    faults
}

/// Heals, demands progress, and waits for the clients.
async fn finish(cluster: &Cluster, clients: Vec<JoinHandle<()>>, watchers: Vec<JoinHandle<()>>) {
    let healing = heal::heal(cluster).await;
    let book = cluster.book();
    if let Err(violation) = liveness::check(&healing) {
        // What broke first is the verdict; a broken run is not healed to the end.
        if !book.is_broken() {
            book.violated(violation);
        }
        return;
    }
    let patience = Duration::from_millis(cluster.plan().workload.timeout_ms + 1_000);
    for client in clients {
        if let Ok(ended) = tokio::time::timeout(patience, client).await {
            ended.expect("a client does not panic");
        }
    }
    for call in cluster.take_guests() {
        let _late = tokio::time::timeout(patience, call).await;
    }
    let owed = book.lock().acknowledged_revision;
    book.ending().update(|ending| ending.owed = owed);
    // Who listens on a stream that broke without a word finds out after a silence, and begins anew.
    let limit = Duration::from_nanos(healing.limit).max(watcher::SILENCE * 2);
    let patience = Instant::now() + limit;
    for watcher in watchers {
        let left = patience.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, watcher).await.is_err() {
            book.ending().update(|ending| ending.over = true);
        }
    }
    // Who came too late enters what is missing.
    tokio::time::sleep(Duration::from_secs(1)).await;
    bounds::settle(cluster, &book.ending().get().core).await;
    platters::check(cluster);
}

/// Starts members again that a fault of their disk has stopped; a stop without one is a bug.
async fn supervise(cluster: Cluster, mut stops: mpsc::UnboundedReceiver<Stop>) {
    while let Some(stop) = stops.recv().await {
        let member = stop.member;
        if cluster.boots(member) != stop.boot || cluster.is_held_down(member) {
            continue;
        }
        let book = cluster.book();
        book.line(format_args!("m{member} has stopped: {}", stop.reason));
        // A member whose checkpoints rot gets its state from another one.
        if stop.at_start && cluster.is_log_rotten(member) && !cluster.is_excused(&stop) {
            book.reach("refused to start");
            book.lock().members[member].out = true;
            cluster.hold_down(member, false);
            continue;
        }
        if membership::is_gone(&cluster, &stop) {
            book.reach("removed member stopped");
            book.lock().members[member].out = true;
            cluster.hold_down(member, false);
            continue;
        }
        let joins_later = membership::may_join_later(&cluster, &stop);
        if !cluster.is_excused(&stop) && !joins_later {
            cluster::needless(book, &stop);
            continue;
        }
        if !joins_later {
            book.reach("stopped by its disk");
        }
        let down_ms = cluster.down_ms(member).max(DOWN_MS);
        // The device failed under it, so the page cache is not to be trusted either.
        cluster.hold_down(member, true);
        platters::check(&cluster);
        let cluster = cluster.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(down_ms)).await;
            // Healing may have started it meanwhile, and what holds it down since is another's.
            if cluster.boots(member) == stop.boot && cluster.is_held_down(member) {
                cluster.release(member);
            }
        });
    }
}

/// The runtime remembers every task that ever ran until it is asked to forget.
async fn prune(cluster: Cluster) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.prune();
    }
}

/// The verdict on what is in the book.
fn judge(cluster: &Cluster) -> Outcome {
    let plan = cluster.plan();
    let simulated_ms = cluster.book().now() / 1_000_000;
    let mut book = cluster.book().lock();
    let mut violation = book.violation.clone();
    let mut inconclusive = false;
    // A stale read explains more than the replicas that differ later, so it goes first.
    let hints = platters::hints(cluster, &book);
    match linearizability::replay(&book.history, &hints) {
        Ok((linearizability::Ruling::Consistent, model)) => {
            if violation.is_none() {
                violation = further(&book, &model).err();
            }
        }
        Ok((linearizability::Ruling::Inconclusive, _)) => inconclusive = true,
        Err(broken) => {
            let keep = violation.as_ref().is_some_and(|v| v.guarantee != Guarantee::Liveness);
            if !keep {
                violation = Some(broken);
            }
        }
    }
    if violation.is_none() {
        violation = judge_leadership(plan, &book).err();
    }
    note_unknown(&mut book);
    let first_fault = book.first_fault;
    let late = |called| first_fault.is_some_and(|at| called > at);
    let acknowledged = book.history.acknowledged();
    let clients = plan.workload.clients;
    let by_clients = |o: &&history::Operation| {
        o.client < clients && matches!(o.outcome, history::Outcome::Done(_))
    };
    let after_fault =
        book.history.operations.iter().filter(by_clients).filter(|o| late(o.called)).count();
    let unknown = |o: &&history::Operation| matches!(o.outcome, history::Outcome::Unknown(_));
    let unknown = book.history.operations.iter().filter(unknown).count() as u64;
    let elections = book.raft.elections() as u64;
    let operations = book.history.operations.len() as u64;
    let record = record::record(plan, &mut book, violation.as_ref());
    let history = record.is_some().then(|| std::mem::take(&mut book.history));
    let figures = &mut book.figures;
    figures.simulated_ms = simulated_ms;
    figures.operations = operations;
    figures.acknowledged = acknowledged as u64;
    figures.unknown = unknown;
    figures.elections = elections;
    figures.silent_runs = u64::from(first_fault.is_some() && after_fault == 0);
    let full = plan.options.members >= 3 && figures.faults >= 5 && acknowledged >= 100;
    figures.full_runs = u64::from(full);
    figures.inconclusive_runs = u64::from(inconclusive);
    Outcome {
        plan: plan.clone(),
        violation,
        inconclusive,
        trace_hash: book.trace.hash(),
        trace_lines: book.trace.len(),
        trace: book.trace.kept().map(str::to_string).collect(),
        marks: book.marks.clone(),
        figures: book.figures.clone(),
        record,
        history,
    }
}

/// What the modes that leave a quorum alone say of its leaders.
fn judge_leadership(plan: &Plan, book: &book::Book) -> Result<(), Violation> {
    let election = plan.options.election_ms * 1_000_000;
    match plan.mode {
        Mode::Safety | Mode::Liveness | Mode::Lite => Ok(()),
        Mode::SlowDisk => {
            let moves = |a| leadership::moves_once(&book.elected, a, election * 2);
            book.ailing.iter().try_for_each(moves)
        }
        Mode::PartialCut => {
            let quorum = plan.options.members / 2 + 1;
            let Some(core) = heal::connected(plan, quorum) else { return Ok(()) };
            let begins = plan.actions.first().map_or(0, |action| action.at_ms * 1_000_000);
            leadership::stays(&book.elected, &core, begins, election * 3)
        }
    }
}

/// Everything that is judged by the true states.
fn further(book: &book::Book, model: &Model) -> Result<(), Violation> {
    let history = &book.history;
    let compactions = history.compactions();
    history.streams.iter().try_for_each(|s| watch::check(model, &compactions, s))?;
    history.backups.iter().try_for_each(|b| backup::check(model, b))?;
    lease::check(history)?;
    lease::check_keys(history, model)?;
    if let Some(closing) = &book.closing {
        lease::check_closing(&history.leases, closing)?;
    }
    lock::check(model, &history.queues)
}

/// Whether writes of unknown outcome were applied, and whether some were lost.
fn note_unknown(book: &mut book::Book) {
    let gaps = book.history.unexplained_revisions().len();
    let unknown = |o: &&history::Operation| {
        matches!(o.outcome, history::Outcome::Unknown(_)) && o.request.may_write()
    };
    let unknown = book.history.operations.iter().filter(unknown).count();
    if gaps > 0 && unknown > 0 {
        book.marks.reach("unknown write applied");
    }
    if unknown > gaps {
        book.marks.reach("unknown write lost");
    }
}
