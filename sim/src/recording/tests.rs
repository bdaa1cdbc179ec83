//! From what members said to who was down, stalled or cut off, and to a plan.

use super::merge::merge;
use super::replan::{longest_gap, replan};
use super::trouble::{Cast, Kind, Trouble, troubles};
use super::{Life, Recording, Said, WallMicros};
use crate::fault::{Fault, Target};
use crate::plan::Plan;
use crate::timeline::fold::fold;
use detcd::env::flight::line::{Summary, What, Writer, id_text};

const SECOND: WallMicros = 1_000_000;
/// When all of it begins.
const START: WallMicros = 1_700_000_000 * SECOND;

fn ids() -> [u64; 3] {
    [0xa0, 0xa1, 0xa2]
}

fn role(role: &str, term: u64, leader: Option<usize>) -> What {
    let leader = id_text(leader.map_or(0, |member| ids()[member]));
    What::Role { role: role.into(), term, leader }
}

fn lost(peer: usize) -> What {
    What::PeerLost { peer: id_text(ids()[peer]) }
}

fn back(peer: usize) -> What {
    What::PeerBack { peer: id_text(ids()[peer]) }
}

/// A life from one moment to another, in tenths of a second, with a summary every second.
fn life(member: usize, from: u64, to: u64, said: &[(u64, What)]) -> Life {
    let tenth = SECOND / 10;
    let member = id_text(ids()[member]);
    let start = What::Start { member, term: 1, last_index: 3, commit: 3, applied: 3 };
    let mut lines: Vec<(u64, What)> = vec![(from, start)];
    let summary = |at| (at, What::Summary(Summary { proposals: 20, ..Summary::default() }));
    lines.extend((from + 10..=to).step_by(10).map(summary));
    lines.extend(said.iter().cloned());
    lines.sort_by_key(|(at, _)| *at);
    let said = |(at, what): (u64, What)| Said { at: START + at * tenth, what };
    Life { origin: START, lines: lines.into_iter().map(said).collect() }
}

fn recording(member: usize, lives: Vec<Life>) -> Recording {
    let name = format!("m{member}");
    let writer = Writer { format: 1, name, members: 3, heartbeat_ms: 100, election_ms: 1_000 };
    Recording { writer, id: ids()[member], lives }
}

/// m0 follows m1; m1 and m2 die at 10 s and are back at 16 s; m0 leads from 17 s on.
fn outage() -> Vec<Recording> {
    let survivor = life(
        0,
        0,
        300,
        &[
            (15, role("follower", 2, Some(1))),
            (100, lost(1)),
            (112, role("pre-candidate", 2, None)),
            (113, lost(2)),
            (162, back(2)),
            (163, back(1)),
            (170, role("leader", 3, Some(0))),
        ],
    );
    let leader = life(1, 0, 92, &[(15, role("leader", 2, Some(1)))]);
    let again = |member| life(member, 160, 300, &[(170, role("follower", 3, Some(0)))]);
    let follower = life(2, 0, 99, &[(15, role("follower", 2, Some(1)))]);
    vec![
        recording(0, vec![survivor]),
        recording(1, vec![leader, again(1)]),
        recording(2, vec![follower, again(2)]),
    ]
}

fn seconds(trouble: &Trouble) -> (usize, f64, f64) {
    let second = |at: WallMicros| (at - START) as f64 / SECOND as f64;
    (trouble.member, second(trouble.from), second(trouble.to))
}

#[test]
fn all_three_tell_who_was_down_and_how_long_nobody_led() {
    let recordings = outage();
    let cast = Cast::of(&recordings);
    let found = troubles(&recordings, &cast);
    assert!(found.iter().all(|trouble| trouble.kind == Kind::Down), "{found:?}");
    // Both fell silent after 9 s; the stream to m1 broke at 10 s, and nobody had one to m2.
    let found: Vec<_> = found.iter().map(seconds).collect();
    assert_eq!(found, [(2, 9.0, 16.0), (1, 10.0, 16.0)]);
    let timeline = fold(&merge(&recordings, &cast, &troubles(&recordings, &cast)));
    assert_eq!(longest_gap(&timeline), Some((10_000_000, 17_000_000)));
}

#[test]
fn a_survivor_alone_tells_nearly_the_same() {
    let recordings = outage()[..1].to_vec();
    let cast = Cast::of(&recordings);
    assert_eq!(cast.names, ["m0", "a1", "a2"]);
    let found = troubles(&recordings, &cast);
    let found: Vec<_> = found.iter().map(seconds).collect();
    // The second one was missed only when m0 asked for its vote; it was gone before.
    assert_eq!(found, [(1, 10.0, 16.3), (2, 10.0, 16.2)]);
    let timeline = fold(&merge(&recordings, &cast, &troubles(&recordings, &cast)));
    assert_eq!(longest_gap(&timeline), Some((10_000_000, 17_000_000)));
}

#[test]
fn stalls_pauses_and_cuts_are_told_apart() {
    let m0 = life(
        0,
        0,
        400,
        &[
            (50, What::SyncOutstanding { for_us: SECOND }),
            (70, What::SlowSync { took_us: 3 * SECOND }),
            (150, What::NotRunning { for_us: 4 * SECOND }),
            (300, lost(1)),
            (330, back(1)),
        ],
    );
    let m1 = life(1, 0, 400, &[(115, lost(0)), (152, back(0)), (301, lost(0)), (331, back(0))]);
    let recordings = vec![recording(0, vec![m0]), recording(1, vec![m1])];
    let found = troubles(&recordings, &Cast::of(&recordings));
    let told: Vec<_> = found.iter().map(|t| (t.kind, seconds(t))).collect();
    assert_eq!(
        told,
        [
            (Kind::Stalled, (0, 4.0, 7.0)),
            (Kind::Paused, (0, 11.0, 15.0)),
            (Kind::CutFrom(1), (0, 30.0, 33.1)),
        ]
    );
}

#[test]
fn the_plan_has_the_same_faults_at_the_same_distances() {
    let recordings = outage();
    let cast = Cast::of(&recordings);
    let found = troubles(&recordings, &cast);
    let timeline = fold(&merge(&recordings, &cast, &found));
    let run = |_: &Plan| Ok(timeline.clone());
    let made = replan(&recordings, &cast, &found, (START, &timeline), &run).expect("a plan");
    assert_eq!((made.recorded, made.replayed), (7_000_000, 7_000_000));
    let plan = made.plan;
    assert_eq!((plan.options.members, plan.options.election_ms), (3, 1_000));
    let Some(first) = plan.actions.first() else { panic!("no actions") };
    assert_eq!(first.fault, Fault::TransferLeader { to: Target::Member(1) });
    let kills: Vec<_> = plan.actions[1..].iter().map(|a| (a.at_ms, a.fault.clone())).collect();
    let kill = |member, down_ms| Fault::Kill { target: Target::Member(member), down_ms };
    assert_eq!(kills, [(6_000, kill(2, 7_000)), (7_000, kill(1, 6_000))]);
    assert!(plan.actions.iter().all(|action| action.at_ms < plan.duration_ms));
    assert_eq!(Plan::from_toml(&plan.to_toml()), Ok(plan));
}
