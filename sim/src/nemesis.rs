//! Which faults a plan holds: drawn class by class, each from a stream of its own.
//!
//! The fault atlas: no plan destroys more than the protocol promises to survive. A power cut loses
//! only what was never called durable, so all members may suffer it, even at once. Bit rot and
//! writes that go astray destroy what was durable: they strike at most a minority of the members,
//! in one run always the same ones, and none of a single-member cluster.

use crate::fault::{Action, Direction, Fault, Shape, Target};
use crate::options::{Mode, Options};
use crate::random::Stream;

/// What stands of a plan before its faults are drawn.
pub struct Frame<'a> {
    pub seed: u64,
    pub mode: Mode,
    pub duration_ms: u64,
    pub options: &'a Options,
}

/// A class of faults, and how one of them is drawn.
struct Class {
    name: &'static str,
    draw: fn(&mut Stream, &Frame) -> Fault,
    /// How many of them a run of ten seconds has at most.
    per_ten_seconds: u64,
}

const NETWORK: [Class; 12] = [
    Class { name: "isolate", draw: isolate, per_ten_seconds: 3 },
    Class { name: "cut-links", draw: cut_links, per_ten_seconds: 3 },
    Class { name: "flap", draw: flap, per_ten_seconds: 1 },
    Class { name: "delay", draw: delay, per_ten_seconds: 1 },
    Class { name: "loss", draw: loss, per_ten_seconds: 1 },
    Class { name: "cut-clients", draw: cut_clients, per_ten_seconds: 2 },
    Class { name: "reset-connections", draw: reset_connections, per_ten_seconds: 2 },
    Class { name: "strand", draw: strand, per_ten_seconds: 3 },
    Class { name: "lag", draw: lag, per_ten_seconds: 4 },
    Class { name: "late-answers", draw: late_answers, per_ten_seconds: 2 },
    Class { name: "deaf-handover", draw: deaf_handover, per_ten_seconds: 2 },
    Class { name: "break-install", draw: break_install, per_ten_seconds: 2 },
];

const CRASHES: [Class; 5] = [
    Class { name: "kill", draw: kill, per_ten_seconds: 4 },
    Class { name: "power-cut", draw: power_cut, per_ten_seconds: 4 },
    Class { name: "power-cut-all", draw: power_cut_all, per_ten_seconds: 2 },
    Class { name: "crash-at-disk-operation", draw: crash_at, per_ten_seconds: 4 },
    Class { name: "crash-next-leader", draw: crash_next_leader, per_ten_seconds: 2 },
];

const PROCESSES: [Class; 2] = [
    Class { name: "pause", draw: pause, per_ten_seconds: 3 },
    Class { name: "rolling-restart", draw: rolling_restart, per_ten_seconds: 1 },
];

const DISKS: [Class; 5] = [
    Class { name: "fsync-stall", draw: fsync_stall, per_ten_seconds: 2 },
    Class { name: "fsync-slow", draw: fsync_slow, per_ten_seconds: 2 },
    Class { name: "write-error", draw: write_error, per_ten_seconds: 2 },
    Class { name: "fsync-error", draw: fsync_error, per_ten_seconds: 2 },
    Class { name: "no-space", draw: no_space, per_ten_seconds: 1 },
];

const CLOCKS: [Class; 2] = [
    Class { name: "clock-rate", draw: clock_rate, per_ten_seconds: 2 },
    Class { name: "wall-jump", draw: wall_jump, per_ten_seconds: 2 },
];

const OPERATIONS: [Class; 1] =
    [Class { name: "transfer-leader", draw: transfer, per_ten_seconds: 3 }];

const CLIENTS: [Class; 1] = [Class { name: "burst", draw: burst, per_ten_seconds: 1 }];

const MEMBERS: [Class; 3] = [
    Class { name: "add-member", draw: add_member, per_ten_seconds: 2 },
    Class { name: "remove-member", draw: remove_member, per_ten_seconds: 2 },
    Class { name: "replace-member", draw: replace_member, per_ten_seconds: 1 },
];

/// Members that a plan adds at the most.
const NEWCOMERS_MAX: usize = 4;

const CORRUPTION: [Class; 1] = [Class { name: "corrupt", draw: corrupt, per_ten_seconds: 1 }];

const ROT: [Class; 8] = [
    Class { name: "bit-rot", draw: bit_rot, per_ten_seconds: 1 },
    Class { name: "run-rot", draw: run_rot, per_ten_seconds: 2 },
    Class { name: "value-rot", draw: value_rot, per_ten_seconds: 2 },
    Class { name: "install-rot", draw: install_rot, per_ten_seconds: 2 },
    Class { name: "offer-rot", draw: offer_rot, per_ten_seconds: 2 },
    Class { name: "checkpoint-rot", draw: checkpoint_rot, per_ten_seconds: 1 },
    Class { name: "released-rot", draw: released_rot, per_ten_seconds: 2 },
    Class { name: "misdirected-write", draw: misdirected_write, per_ten_seconds: 1 },
];

/// Draws the actions of a plan whose frame stands already.
pub fn draw(frame: &Frame) -> Vec<Action> {
    let single = frame.options.members == 1;
    let classes: Vec<&Class> = match frame.mode {
        Mode::Lite => CRASHES.iter().chain(&ROT).collect(),
        Mode::Safety | Mode::Liveness => NETWORK
            .iter()
            .chain(&CRASHES)
            .chain(&PROCESSES)
            .chain(&DISKS)
            .chain(&CLOCKS)
            .chain(&OPERATIONS)
            .chain(&CLIENTS)
            .chain(&ROT)
            .collect(),
        Mode::PartialCut => return partial_cut(frame),
        Mode::SlowDisk => return slow_disk(frame),
    };
    let mut actions = Vec::new();
    for class in classes {
        if single
            && matches!(
                class.name,
                "isolate"
                    | "strand"
                    | "lag"
                    | "late-answers"
                    | "deaf-handover"
                    | "break-install"
                    | "cut-links"
                    | "transfer-leader"
                    | "bit-rot"
                    | "run-rot"
                    | "value-rot"
                    | "install-rot"
                    | "offer-rot"
                    | "checkpoint-rot"
                    | "released-rot"
                    | "misdirected-write"
            )
        {
            continue;
        }
        draw_class(frame, class, &mut actions);
    }
    if actions.len() < 5 {
        // The swarm switched nearly everything off; a run without faults finds little.
        let mut s = Stream::new(frame.seed, "swarm/filler");
        for _ in actions.len()..6 {
            actions.push(at_some_time(&mut s, frame, power_cut));
        }
    }
    if frame.mode == Mode::Safety {
        // Rot and damage strike a minority of the founders; where members leave, who has not left
        // may be the last intact.
        let before = actions.len();
        if !single {
            CORRUPTION.iter().for_each(|class| draw_class(frame, class, &mut actions));
        }
        if actions.len() == before {
            MEMBERS.iter().for_each(|class| draw_class(frame, class, &mut actions));
            if actions.len() > before {
                let rots = |action: &Action| {
                    let class = action.fault.class();
                    ROT.iter().any(|rot| rot.name == class)
                };
                actions.retain(|action| !rots(action));
            }
        }
    }
    actions.sort_by_key(|action| action.at_ms);
    seat_newcomers(frame, &mut actions);
    actions
}

/// Gives every newcomer a place of its own, in order; there is room for a few.
fn seat_newcomers(frame: &Frame, actions: &mut Vec<Action>) {
    let mut next = frame.options.members;
    actions.retain_mut(|action| match &mut action.fault {
        Fault::AddMember { seat, .. } | Fault::ReplaceMember { seat, .. } => {
            *seat = next;
            next += 1;
            next <= frame.options.members + NEWCOMERS_MAX
        }
        _ => true,
    });
}

/// Swarm: each class is on with p = 0.5, then its intensity is drawn.
fn draw_class(frame: &Frame, class: &Class, actions: &mut Vec<Action>) {
    let mut s = Stream::new(frame.seed, &format!("nemesis/{}", class.name));
    let on = match class.name {
        "bit-rot" | "run-rot" | "value-rot" | "install-rot" | "offer-rot" => 150,
        "checkpoint-rot" | "released-rot" | "misdirected-write" | "corrupt" => 150,
        _ => 500,
    };
    if !s.chance(on) {
        return;
    }
    let most = (class.per_ten_seconds * frame.duration_ms).div_ceil(10_000).max(1);
    for _ in 0..s.between(1, most) {
        actions.push(at_some_time(&mut s, frame, class.draw));
    }
}

fn at_some_time(s: &mut Stream, frame: &Frame, fault: fn(&mut Stream, &Frame) -> Fault) -> Action {
    // The first moments belong to the first election, so that there is something to disturb.
    let first = (frame.options.election_ms * 2).min(frame.duration_ms / 3);
    Action { at_ms: s.between(first, frame.duration_ms - 1), fault: fault(s, frame) }
}

fn target(s: &mut Stream, frame: &Frame) -> Target {
    match s.weighted(&[40, 8, 6, 6, 40]) {
        0 => Target::Leader,
        1 => Target::OldLeader,
        2 => Target::LongestLog,
        3 => Target::ShortestLog,
        _ => Target::Member(s.below(frame.options.members as u64) as usize),
    }
}

/// A time in terms of the cluster's own: from a heartbeat to several election timeouts. Of a lite
/// run most is left for what comes after.
fn span(s: &mut Stream, frame: &Frame) -> u64 {
    let longest = match frame.mode {
        Mode::Lite => frame.duration_ms / 5,
        Mode::Safety | Mode::Liveness | Mode::PartialCut | Mode::SlowDisk => u64::MAX,
    };
    s.log_between(frame.options.heartbeat_ms, longest.min(frame.options.election_ms * 6))
}

fn isolate(s: &mut Stream, frame: &Frame) -> Fault {
    let direction = *s.pick(&[Direction::Both, Direction::Both, Direction::In, Direction::Out]);
    Fault::Isolate { target: target(s, frame), direction, for_ms: span(s, frame) }
}

fn cut_links(s: &mut Stream, frame: &Frame) -> Fault {
    let n = frame.options.members;
    let mut order: Vec<usize> = (0..n).collect();
    s.shuffle(&mut order);
    let shape = *s.pick(&[Shape::Halves, Shape::Bridge, Shape::Ring, Shape::Directed]);
    let side = s.between(1, n as u64 - 1) as usize;
    let place = |m: usize| order.iter().position(|o| *o == m).expect("all members are placed");
    let mut links = Vec::new();
    for from in 0..n {
        for to in (0..n).filter(|to| *to != from) {
            let (a, b) = (place(from), place(to));
            let cut = match shape {
                Shape::Halves => (a < side) != (b < side),
                // The first member reaches both halves of the others.
                Shape::Bridge => a != 0 && b != 0 && (a <= n / 2) != (b <= n / 2),
                Shape::Ring => (a + 1) % n != b && (b + 1) % n != a,
                Shape::Directed => s.chance(300),
            };
            if cut {
                links.push((from, to));
            }
        }
    }
    Fault::CutLinks { shape, links, for_ms: span(s, frame) }
}

fn flap(s: &mut Stream, frame: &Frame) -> Fault {
    let period_ms = s.log_between(frame.options.heartbeat_ms, frame.options.election_ms * 2);
    Fault::Flap { target: target(s, frame), period_ms, times: s.between(2, 8) }
}

fn delay(s: &mut Stream, frame: &Frame) -> Fault {
    let from_ms = s.log_between(1, frame.options.heartbeat_ms);
    Fault::Delay { from_ms, to_ms: from_ms + s.log_between(1, 200), for_ms: span(s, frame) }
}

fn loss(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::Loss { per_mille: s.log_between(5, 300), for_ms: span(s, frame) }
}

fn cut_clients(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::CutClients { target: target(s, frame), for_ms: span(s, frame) }
}

fn reset_connections(s: &mut Stream, frame: &Frame) -> Fault {
    let period_ms = s.log_between(frame.options.heartbeat_ms / 2, frame.options.election_ms);
    Fault::ResetConnections { target: target(s, frame), times: s.between(1, 6), period_ms }
}

fn strand(s: &mut Stream, frame: &Frame) -> Fault {
    let target = if s.chance(700) { Target::Leader } else { target(s, frame) };
    let election_ms = frame.options.election_ms;
    let per_mille = *s.pick(&[250, 500, 800, 1000]);
    Fault::Strand { target, per_mille, for_ms: s.between(election_ms * 2, election_ms * 6) }
}

fn late_answers(s: &mut Stream, frame: &Frame) -> Fault {
    let (heartbeat_ms, election_ms) = (frame.options.heartbeat_ms, frame.options.election_ms);
    Fault::LateAnswers {
        target: Target::Leader,
        per_mille: *s.pick(&[250, 250, 500, 1000]),
        deaf_ms: s.between(heartbeat_ms, heartbeat_ms * 3),
        late_ms: s.below(election_ms),
        for_ms: s.between(election_ms * 3, election_ms * 6),
    }
}

/// For less than an election timeout: then the leader takes proposals again.
fn deaf_handover(s: &mut Stream, frame: &Frame) -> Fault {
    let election_ms = frame.options.election_ms;
    Fault::DeafHandover { deaf_ms: s.between(election_ms / 8, election_ms * 4 / 10) }
}

fn break_install(s: &mut Stream, _: &Frame) -> Fault {
    Fault::BreakInstall { pieces: s.log_between(1, 30), times: s.between(1, 3) }
}

/// One link between the leader and somebody, mostly for less than it takes to be missed, and often
/// for longer than it takes to ask again.
fn lag(s: &mut Stream, frame: &Frame) -> Fault {
    let other = Target::Member(s.below(frame.options.members as u64) as usize);
    let for_ms = if s.chance(500) {
        s.log_between(frame.options.heartbeat_ms * 2, frame.options.election_ms * 2)
    } else {
        s.between(500, 500 + frame.options.election_ms)
    };
    match s.chance(700) {
        true => Fault::Lag { from: Target::Leader, to: other, for_ms },
        false => Fault::Lag { from: other, to: Target::Leader, for_ms },
    }
}

fn kill(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::Kill { target: target(s, frame), down_ms: span(s, frame) }
}

fn power_cut(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::PowerCut { target: target(s, frame), down_ms: span(s, frame) }
}

fn power_cut_all(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::PowerCutAll { down_ms: span(s, frame) }
}

fn pause(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::Pause { target: target(s, frame), for_ms: span(s, frame) }
}

fn rolling_restart(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::RollingRestart { gap_ms: span(s, frame), power_cut: s.chance(500) }
}

fn crash_at(s: &mut Stream, frame: &Frame) -> Fault {
    let target = target(s, frame);
    Fault::CrashAtDiskOperation { target, nth: s.log_between(1, 60), down_ms: span(s, frame) }
}

fn crash_next_leader(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::CrashNextLeader { after_ms: s.below(60), down_ms: span(s, frame) }
}

fn fsync_stall(s: &mut Stream, frame: &Frame) -> Fault {
    let target = if s.chance(500) { Target::Leader } else { target(s, frame) };
    Fault::FsyncStall { target, for_ms: s.log_between(frame.options.heartbeat_ms, 6_000) }
}

fn fsync_slow(s: &mut Stream, frame: &Frame) -> Fault {
    let from_ms = s.log_between(1, 100);
    let to_ms = from_ms + s.log_between(1, 400);
    Fault::FsyncSlow { target: target(s, frame), from_ms, to_ms, for_ms: span(s, frame) * 2 }
}

fn write_error(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::WriteError { target: target(s, frame), down_ms: span(s, frame) }
}

fn fsync_error(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::FsyncError { target: target(s, frame), down_ms: span(s, frame) }
}

fn no_space(s: &mut Stream, frame: &Frame) -> Fault {
    let (target, for_ms) = (target(s, frame), span(s, frame));
    // What the log has reserved already stays usable, and then comes its reserve.
    let segments = frame.options.wal_segment_bytes * 4;
    let slack_bytes = if s.chance(500) { 0 } else { s.log_between(1, segments) };
    Fault::NoSpace { target, slack_bytes, for_ms }
}

fn bit_rot(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::BitRot { target: of_the_minority(s, frame), down_ms: span(s, frame) }
}

fn run_rot(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::RunRot { target: of_the_minority(s, frame) }
}

fn value_rot(s: &mut Stream, frame: &Frame) -> Fault {
    let within_ms = s.between(frame.duration_ms / 10, frame.duration_ms / 2);
    Fault::ValueRot { target: of_the_minority(s, frame), within_ms }
}

fn install_rot(s: &mut Stream, frame: &Frame) -> Fault {
    let within_ms = s.between(frame.duration_ms / 10, frame.duration_ms / 2);
    let down_ms = s.chance(700).then(|| span(s, frame));
    Fault::InstallRot { target: of_the_minority(s, frame), within_ms, down_ms }
}

fn offer_rot(s: &mut Stream, frame: &Frame) -> Fault {
    let within_ms = s.between(frame.duration_ms / 4, frame.duration_ms);
    Fault::OfferRot { target: of_the_minority(s, frame), within_ms }
}

fn checkpoint_rot(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::CheckpointRot { target: of_the_minority(s, frame), down_ms: span(s, frame) }
}

fn released_rot(s: &mut Stream, frame: &Frame) -> Fault {
    let within_ms = s.between(frame.duration_ms / 20, frame.duration_ms / 4);
    Fault::ReleasedRot { target: of_the_minority(s, frame), within_ms, down_ms: span(s, frame) }
}

fn misdirected_write(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::MisdirectedWrite { target: of_the_minority(s, frame), down_ms: span(s, frame) }
}

/// Always one of the same minority: damage to a third member of five could take the last intact
/// copy.
fn of_the_minority(s: &mut Stream, frame: &Frame) -> Target {
    let minority = (frame.options.members as u64 - 1) / 2;
    let first = Stream::new(frame.seed, "nemesis/rotten").below(frame.options.members as u64);
    let member = (first + s.below(minority)) % frame.options.members as u64;
    Target::Member(member as usize)
}

fn corrupt(s: &mut Stream, frame: &Frame) -> Fault {
    let nth = s.below(1_000) as usize;
    let (target, shows) = (of_the_minority(s, frame), s.chance(300));
    let unwritten = Stream::new(frame.seed, &format!("nemesis/corrupt {nth}")).chance(500);
    Fault::Corrupt { target, nth, shows: shows && !unwritten, unwritten }
}

fn clock_rate(s: &mut Stream, frame: &Frame) -> Fault {
    let per_mille = *s.pick(&[500, 800, 950, 1050, 1250, 2000]);
    Fault::ClockRate { target: target(s, frame), per_mille, for_ms: span(s, frame) * 2 }
}

fn wall_jump(s: &mut Stream, frame: &Frame) -> Fault {
    let by_ms = s.log_between(100, 7_200_000) as i64;
    Fault::WallJump { target: target(s, frame), by_ms: if s.chance(500) { by_ms } else { -by_ms } }
}

fn transfer(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::TransferLeader { to: target(s, frame) }
}

fn burst(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::Burst { target: target(s, frame), requests: s.log_between(50, 400) }
}

fn add_member(s: &mut Stream, _: &Frame) -> Fault {
    Fault::AddMember { seat: 0, learner: s.chance(500), promote: s.chance(800) }
}

fn remove_member(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::RemoveMember { target: target(s, frame) }
}

fn replace_member(s: &mut Stream, frame: &Frame) -> Fault {
    Fault::ReplaceMember { target: target(s, frame), seat: 0 }
}

/// One disk at a time ails, mostly the leader's, with a pause in between: leadership may move once
/// for each, and the others go on.
fn slow_disk(frame: &Frame) -> Vec<Action> {
    let mut s = Stream::new(frame.seed, "nemesis/slow-disk");
    let mut actions = Vec::new();
    let mut at_ms = frame.options.election_ms * 4;
    while at_ms < frame.duration_ms {
        let somebody = Target::Member(s.below(frame.options.members as u64) as usize);
        let target = if s.chance(700) { Target::Leader } else { somebody };
        let for_ms = s.log_between(frame.options.election_ms, 30_000);
        let fault = if s.chance(650) {
            Fault::FsyncStall { target, for_ms }
        } else {
            let from_ms = s.log_between(1, 1_000);
            Fault::FsyncSlow { target, from_ms, to_ms: from_ms + s.log_between(1, 2_000), for_ms }
        };
        actions.push(Action { at_ms, fault });
        at_ms += for_ms + frame.options.election_ms * s.between(4, 8) + 2_000;
    }
    actions
}

/// A cut for the whole run that leaves a quorum connected in full, and links of the others that
/// flap around it: the quorum must elect and stay elected.
///
/// Of the two links between a member of the quorum and another one at least one is cut, so that no
/// leader outside of the quorum can have followers in it.
fn partial_cut(frame: &Frame) -> Vec<Action> {
    let n = frame.options.members;
    let quorum = n / 2 + 1;
    let mut s = Stream::new(frame.seed, "nemesis/partial-cut");
    let mut order: Vec<usize> = (0..n).collect();
    s.shuffle(&mut order);
    let (core, others) = order.split_at(quorum);
    let begins = (frame.options.election_ms * 2).min(frame.duration_ms / 3);
    let mut actions = Vec::new();
    let mut lasting = Vec::new();
    let mut flapping = Vec::new();
    for outside in others {
        if s.chance(400) {
            // It comes and goes, in both directions.
            flapping_both_ways(&mut s, frame, *outside, core, &mut actions);
            continue;
        }
        for inside in core {
            let (out, back) = ((*inside, *outside), (*outside, *inside));
            match s.below(5) {
                0 => lasting.extend([out, back]),
                1 | 2 => {
                    lasting.push(out);
                    flapping.push(back);
                }
                _ => {
                    lasting.push(back);
                    flapping.push(out);
                }
            }
        }
        flapping.extend(others.iter().filter(|o| *o != outside).map(|o| (*outside, *o)));
    }
    for link in flapping {
        for _ in 0..s.below(3) {
            let at_ms = s.between(begins, frame.duration_ms - 1);
            let for_ms = span(&mut s, frame);
            let fault = Fault::CutLinks { shape: Shape::Directed, links: vec![link], for_ms };
            actions.push(Action { at_ms, fault });
        }
    }
    // Beyond the end of the run: it is not healed.
    let for_ms = frame.duration_ms * 10;
    let fault = Fault::CutLinks { shape: Shape::Directed, links: lasting, for_ms };
    actions.push(Action { at_ms: begins, fault });
    actions.sort_by_key(|action| action.at_ms);
    actions
}

/// All links between one member and the core are cut again and again.
fn flapping_both_ways(
    s: &mut Stream,
    frame: &Frame,
    outside: usize,
    core: &[usize],
    actions: &mut Vec<Action>,
) {
    let links: Vec<_> =
        core.iter().flat_map(|inside| [(*inside, outside), (outside, *inside)]).collect();
    let mut at_ms = (frame.options.election_ms * 2).min(frame.duration_ms / 3);
    while at_ms < frame.duration_ms {
        let for_ms = span(s, frame);
        let fault = Fault::CutLinks { shape: Shape::Directed, links: links.clone(), for_ms };
        actions.push(Action { at_ms, fault });
        at_ms += for_ms + span(s, frame);
    }
}
