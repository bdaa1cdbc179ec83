//! From what went wrong to a plan with the same faults, so that an outage becomes a seed.
//!
//! The plan's cluster has the recorded timing and about the recorded load. Each trouble becomes a
//! fault of the same member at the same distance from the others. Whoever led before the first one
//! leads in the plan too, by a transfer. Elections have chance in them, so of a few seeds the one
//! is taken whose longest time without a leader comes closest to the recorded one.

use crate::fault::{Action, Fault, Shape, Target};
use crate::options::{Checkpoints, Mode, Options, Weights, Workload};
use crate::plan::Plan;
use crate::recording::trouble::{Cast, Kind, Trouble};
use crate::recording::{Recording, WallMicros};
use crate::timeline::{HANDOVER_MAX, Micros, Timeline};
use detcd::env::flight::line::{Summary, What};

/// What is further than this from the longest time without a leader is another incident.
const AROUND: WallMicros = 60_000_000;
/// Seeds that are tried.
const SEEDS: u64 = 24;

/// A plan, and how well it repeats what was recorded.
pub struct Replan {
    pub plan: Plan,
    /// The longest time without a leader: recorded, and in the plan's run.
    pub recorded: Micros,
    pub replayed: Micros,
    /// Where the plan's moment 0 lies in the recording.
    pub from: WallMicros,
}

/// The longest time without a leader.
pub fn longest_gap(timeline: &Timeline) -> Option<(Micros, Micros)> {
    let gaps = timeline.leaderless(HANDOVER_MAX);
    gaps.into_iter().max_by_key(|(from, to)| to - from)
}

/// Makes the plan. `start` is the recorded timeline's moment 0; `run` carries a plan out.
pub fn replan(
    recordings: &[Recording],
    cast: &Cast,
    troubles: &[Trouble],
    (start, timeline): (WallMicros, &Timeline),
    run: &dyn Fn(&Plan) -> Result<Timeline, String>,
) -> Result<Replan, String> {
    let gap = longest_gap(timeline);
    let near = |trouble: &&Trouble| match gap {
        Some((from, to)) => {
            trouble.from < start + to + AROUND && start + from < trouble.to + AROUND
        }
        None => true,
    };
    let chosen: Vec<Trouble> = troubles.iter().filter(near).copied().collect();
    let first = chosen.first().ok_or("nothing went wrong in these recordings")?;
    let mut plan = outline(recordings, cast);
    let election = plan.options.election_ms * 1_000;
    let lead = 4 * election + 2_000_000;
    let from = first.from.saturating_sub(lead);
    let leader = leader_before(timeline, first.from.saturating_sub(start));
    if let Some(leader) = leader {
        let fault = Fault::TransferLeader { to: Target::Member(leader) };
        plan.actions.push(Action { at_ms: (lead - election) / 1_000, fault });
    }
    plan.actions.extend(chosen.iter().map(|trouble| action(trouble, from)));
    let last = chosen.iter().map(|trouble| trouble.to).max().unwrap_or(first.to);
    plan.duration_ms = (last - from + 6 * election + 1_000_000) / 1_000;
    plan.workload.operations = load(recordings, from, last).clamp(50, 3_000);
    let recorded = gap.map_or(0, |(from, to)| to - from);
    let mut best: Option<Replan> = None;
    for seed in 1..=SEEDS {
        let plan = Plan { seed, ..plan.clone() };
        let replayed = longest_gap(&run(&plan)?).map_or(0, |(from, to)| to - from);
        let is_closer =
            |best: &Replan| replayed.abs_diff(recorded) < best.replayed.abs_diff(recorded);
        if best.as_ref().is_none_or(is_closer) {
            best = Some(Replan { plan, recorded, replayed, from });
        }
    }
    best.ok_or_else(|| "no seed was tried".to_string())
}

/// Who led last before a moment of the timeline.
fn leader_before(timeline: &Timeline, at: Micros) -> Option<usize> {
    timeline.reigns.iter().rev().find(|r| r.from < at && r.member.is_some())?.member
}

fn action(trouble: &Trouble, from: WallMicros) -> Action {
    let target = Target::Member(trouble.member);
    let for_ms = (trouble.to - trouble.from) / 1_000;
    let fault = match trouble.kind {
        Kind::Down => Fault::Kill { target, down_ms: for_ms },
        Kind::Paused => Fault::Pause { target, for_ms },
        Kind::Stalled => Fault::FsyncStall { target, for_ms },
        Kind::CutFrom(peer) => Fault::CutLinks {
            shape: Shape::Directed,
            links: vec![(trouble.member, peer), (peer, trouble.member)],
            for_ms,
        },
        Kind::Jumped(by_ms) => Fault::WallJump { target, by_ms },
    };
    Action { at_ms: (trouble.from - from) / 1_000, fault }
}

/// The cluster as it was recorded, without faults.
fn outline(recordings: &[Recording], cast: &Cast) -> Plan {
    let writer = recordings.first().map(|r| r.writer.clone()).unwrap_or_default();
    let members = writer.members.max(cast.names.len()).max(1);
    let round_trips = summaries(recordings).flat_map(|(_, s)| s.round_trips.values());
    let means: Vec<u64> = round_trips.filter(|r| r.count > 0).map(|r| r.mean_us).collect();
    let one_way = (median(means, 1_000) / 2).clamp(50, 200_000);
    let syncs = summaries(recordings).filter(|(_, s)| s.syncs > 0).map(|(_, s)| s.sync_mean_us);
    let sync = median(syncs.collect(), 2_000).clamp(50, 100_000);
    let mut options = Options::draw(0, Mode::Lite);
    options.members = members;
    options.heartbeat_ms = writer.heartbeat_ms.max(1);
    options.election_ms = writer.election_ms.max(5);
    options.latency_us = (one_way / 2, one_way * 2);
    options.fsync_us = (sync / 2, sync * 2);
    options.clock_rates = vec![1000; members];
    options.wal_segment_bytes = 1 << 20;
    options.checkpoint_entries = 10_000;
    options.checkpoints = Checkpoints::default();
    Plan {
        seed: 0,
        mode: Mode::Safety,
        duration_ms: 0,
        options,
        workload: Workload {
            clients: 4,
            operations: 0,
            keys: 20,
            timeout_ms: 5_000 + 2 * writer.election_ms,
            weights: Weights { put: 6, get: 4, range: 1, delete: 1, transaction: 2, compact: 0 },
            ..Workload::draw(0, Mode::Lite)
        },
        actions: Vec::new(),
        disaster: None,
    }
}

fn summaries(recordings: &[Recording]) -> impl Iterator<Item = (WallMicros, &Summary)> {
    let lines = recordings.iter().flat_map(|r| &r.lives).flat_map(|life| &life.lines);
    lines.filter_map(|said| match &said.what {
        What::Summary(summary) => Some((said.at, summary)),
        _ => None,
    })
}

/// How many requests the members proposed between two moments.
fn load(recordings: &[Recording], from: WallMicros, to: WallMicros) -> u64 {
    let within = summaries(recordings).filter(|(at, _)| (from..to).contains(at));
    within.map(|(_, summary)| summary.proposals).sum()
}

fn median(mut values: Vec<u64>, otherwise: u64) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(otherwise)
}
