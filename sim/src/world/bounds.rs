//! Looks at what waits in the members, while the run goes on and after it.

use super::backups;
use super::cluster::Cluster;
use crate::checker::bounds::{Limits, Sample};
use crate::fault::Fault;
use crate::plan::Plan;
use detcd::server::load::Load;
use std::time::Duration;

/// How often the members are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Tasks of a process that nobody asks for anything: its own, and those of the streams between
/// members.
const TASKS_IDLE: usize = 40;
const TASKS_A_PEER: usize = 12;
/// Events that may be on their way at any moment: ticks, and what the tasks of the ring report.
const EVENTS_IDLE: usize = 16;
/// How long a message may be on its way after its link was healed, and a lock be waited for.
const DELAYED: Duration = Duration::from_secs(12);

/// Looks at the members until the run is over.
pub async fn watch(cluster: Cluster) {
    let limits = limits(cluster.plan());
    loop {
        tokio::time::sleep(LOOK).await;
        for member in 0..cluster.members() {
            let Some(sample) = sample(&cluster, member) else { continue };
            cluster.book().lock().figures.note_tasks(sample.tasks as u64);
            if let Err(violation) = limits.check_busy(&sample) {
                cluster.book().violated(violation);
                return;
            }
        }
    }
}

/// Everybody is done: waits until every member of the core has been seen at the idle level.
pub async fn settle(cluster: &Cluster, core: &[usize]) {
    let plan = cluster.plan();
    let limits = limits(plan);
    let patience = request_timeout(plan) + DELAYED;
    let book = cluster.book();
    let until = book.now() + u64::try_from(patience.as_nanos()).expect("a short time");
    let mut busy = core.to_vec();
    loop {
        cluster.prune();
        let look = |member: &usize| sample(cluster, *member);
        let last: Vec<Sample> = busy.iter().filter_map(look).collect();
        let above = |sample: &&Sample| limits.above_idle(sample).is_some();
        busy = last.iter().filter(above).map(|sample| sample.member).collect();
        if busy.is_empty() || book.is_broken() {
            return;
        }
        if book.now() > until {
            if let Err(violation) = limits.check_idle(&last) {
                book.violated(violation);
            }
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn sample(cluster: &Cluster, member: usize) -> Option<Sample> {
    let load = cluster.server(member)?.shared().load();
    let at = cluster.book().now();
    Some(Sample { at, member, load, tasks: cluster.tasks(member) })
}

/// For how long a request may wait on a member, by the slowest clock.
pub fn request_timeout(plan: &Plan) -> Duration {
    2 * Duration::from_millis(5_000 + 2 * plan.options.election_ms)
}

/// How many reads of onlookers may wait: they ask at every heartbeat for as long as their fault
/// lasts, and don't wait for answers.
fn onlookers(plan: &Plan) -> usize {
    let held_ms = request_timeout(plan).as_millis() as u64;
    let reads = |fault: &Fault| {
        let (Fault::Lag { for_ms, .. }
        | Fault::Strand { for_ms, .. }
        | Fault::LateAnswers { for_ms, .. }) = fault
        else {
            return 0;
        };
        held_ms.min(*for_ms) / plan.options.heartbeat_ms.max(1) + 1
    };
    plan.actions.iter().map(|action| reads(&action.fault)).sum::<u64>() as usize
}

/// What is stated for the members of a run.
fn limits(plan: &Plan) -> Limits {
    let (options, workload) = (&plan.options, &plan.workload);
    let burst = |fault: &Fault| {
        if let Fault::Burst { requests, .. } = fault { *requests as usize } else { 0 }
    };
    let bursts: usize = plan.actions.iter().map(|action| burst(&action.fault)).sum();
    // Everybody who may ask at once: probes, the operators and those who write during a stall.
    let others = plan.seats() as u64 + 8;
    let callers = workload.clients + workload.lessees + workload.lockers + workload.watchers;
    let callers = (callers + others) as usize + workload.backups as usize * backups::WRITES_MAX;
    // A caller that gave up may ask again while its request still waits.
    let patience = workload.timeout_ms.min(options.election_ms).max(1);
    let again = request_timeout(plan).as_millis() as usize / patience as usize + 1;
    let requests = callers * again + bursts + onlookers(plan);
    // A watcher has two of them in a stream; each wait for a lock is one; and broken streams are
    // noticed late.
    let streams = 8 * (workload.watchers + workload.lockers) as usize + 8;
    let checkpoint = options.checkpoint_entries + options.checkpoints.keep_entries;
    let busy = Load {
        pending_requests: options.pending_max,
        pending_bytes: 16 << 20,
        inbox: requests + 200,
        readers: requests,
        keep_alives: callers * again,
        abandoned: callers,
        apply_lag: requests as u64 + 5_000,
        watch_streams: streams,
        watchers: 2 * streams,
        watch_items: streams * (options.watch_queue + 8),
        log_entries: u64::MAX,
        sent: 2 * plan.seats(),
        backups: 4,
    };
    let idle = Load {
        inbox: EVENTS_IDLE,
        log_entries: 2 * checkpoint + 200,
        // To members that are lost for good.
        sent: plan.seats(),
        ..Load::default()
    };
    let idle_tasks = TASKS_IDLE + TASKS_A_PEER * plan.seats();
    Limits { busy, busy_tasks: idle_tasks + 3 * requests + 4 * streams, idle, idle_tasks }
}
