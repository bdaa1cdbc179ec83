//! What went wrong, as the recordings tell it: who was down, paused, cut off or stalled, from when
//! to when.

use crate::recording::{Life, Recording, Said, WallMicros};
use detcd::env::flight::line::{What, id_of};
use std::collections::BTreeMap;

/// A living member writes a summary every second.
const SIGN_OF_LIFE: WallMicros = 1_500_000;
/// A peer that is out of reach for less is not worth a fault.
const CUT_MIN: WallMicros = 300_000;
/// A sync that takes less is not worth a fault.
const STALL_MIN: WallMicros = 200_000;
/// A peer may be out of touch for this long before and after it was down or paused.
const MARGIN: WallMicros = 2_500_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Down,
    Paused,
    Stalled,
    /// Between the member and this one nothing went through.
    CutFrom(usize),
    /// The wall clock jumped, by milliseconds.
    Jumped(i64),
}

/// Something that went wrong with a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub member: usize,
    pub kind: Kind,
    pub from: WallMicros,
    pub to: WallMicros,
}

/// The members that recordings speak of: first those that recorded, then those that others name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cast {
    pub names: Vec<String>,
    pub ids: BTreeMap<u64, usize>,
    /// How many of them recorded.
    pub recorded: usize,
}

impl Cast {
    pub fn of(recordings: &[Recording]) -> Cast {
        let names = recordings.iter().map(|recording| recording.writer.name.clone()).collect();
        let mut cast = Cast { names, ids: BTreeMap::new(), recorded: recordings.len() };
        for (member, recording) in recordings.iter().enumerate() {
            if recording.id != 0 {
                cast.ids.insert(recording.id, member);
            }
        }
        let lines = recordings.iter().flat_map(|r| &r.lives).flat_map(|life| &life.lines);
        let mut others: Vec<u64> = lines.filter_map(|said| named(&said.what)).collect();
        others.sort_unstable();
        others.dedup();
        for id in others {
            if !cast.ids.contains_key(&id) {
                cast.ids.insert(id, cast.names.len());
                cast.names.push(format!("{:.6}", format!("{id:x}")));
            }
        }
        cast
    }
}

/// Another member that a line names.
fn named(what: &What) -> Option<u64> {
    let id = match what {
        What::Role { leader, .. } => id_of(leader),
        What::Vote { vote, .. } => id_of(vote),
        What::PeerLost { peer } | What::PeerBack { peer } => id_of(peer),
        _ => 0,
    };
    (id != 0).then_some(id)
}

/// The moment of the last line of all.
pub fn end(recordings: &[Recording]) -> WallMicros {
    recordings.iter().flat_map(|r| &r.lives).map(Life::to).max().unwrap_or(0)
}

/// Everything that went wrong, in order.
pub fn troubles(recordings: &[Recording], cast: &Cast) -> Vec<Trouble> {
    let mut found = Vec::new();
    for (member, recording) in recordings.iter().enumerate() {
        downtimes(recordings, cast, member, &mut found);
        for life in &recording.lives {
            of_life(member, life, &mut found);
        }
    }
    unrecorded(recordings, cast, &mut found);
    cuts(recordings, cast, &mut found);
    found.sort_by_key(|trouble| (trouble.from, trouble.member, trouble.kind));
    found
}

/// The times between the lives of a member.
fn downtimes(recordings: &[Recording], cast: &Cast, member: usize, found: &mut Vec<Trouble>) {
    let lives = &recordings[member].lives;
    for (i, life) in lives.iter().enumerate() {
        let to = match lives.get(i + 1) {
            Some(next) => next.from(),
            None => end(recordings),
        };
        let is_alive =
            i + 1 == lives.len() && !life.said_goodbye() && to <= life.to() + 2 * SIGN_OF_LIFE;
        if is_alive {
            continue;
        }
        let last = life.to();
        let from = match life.said_goodbye() {
            true => last,
            // It died between its last line and the next summary; others may know when.
            false => lost_by_others(recordings, cast, member)
                .find(|at| (last..last + SIGN_OF_LIFE).contains(at))
                .unwrap_or(last)
                .min(to),
        };
        found.push(Trouble { member, kind: Kind::Down, from, to });
    }
}

/// When others lost touch with a member, in order.
fn lost_by_others(
    recordings: &[Recording],
    cast: &Cast,
    member: usize,
) -> impl Iterator<Item = WallMicros> {
    let mut moments: Vec<WallMicros> = recordings
        .iter()
        .flat_map(|recording| &recording.lives)
        .flat_map(|life| &life.lines)
        .filter(|said| match &said.what {
            What::PeerLost { peer } => cast.ids.get(&id_of(peer)) == Some(&member),
            _ => false,
        })
        .map(|said| said.at)
        .collect();
    moments.sort_unstable();
    moments.into_iter()
}

/// Stalls, pauses and jumps within one life.
fn of_life(member: usize, life: &Life, found: &mut Vec<Trouble>) {
    let mut outstanding: Option<WallMicros> = None;
    // A process that is starting has much to do at once, and nobody counts on it yet.
    let running = life.lines.iter().skip_while(|said| !matches!(said.what, What::Start { .. }));
    for Said { at, what } in running {
        let trouble = match what {
            What::SlowSync { took_us } => {
                outstanding = None;
                (*took_us >= STALL_MIN).then(|| (Kind::Stalled, at.saturating_sub(*took_us), *at))
            }
            What::SyncOutstanding { for_us } => {
                outstanding = Some(at.saturating_sub(*for_us));
                None
            }
            What::NotRunning { for_us } => Some((Kind::Paused, at.saturating_sub(*for_us), *at)),
            What::ClockJump { by_us } => Some((Kind::Jumped(by_us / 1_000), *at, *at)),
            _ => None,
        };
        if let Some((kind, from, to)) = trouble {
            found.push(Trouble { member, kind, from, to });
        }
    }
    // It never came back.
    if let Some(from) = outstanding {
        found.push(Trouble { member, kind: Kind::Stalled, from, to: life.to() });
    }
}

/// Members that recorded nothing were down while those that did had lost touch with them: from one
/// side, that can't be told from a cut.
fn unrecorded(recordings: &[Recording], cast: &Cast, found: &mut Vec<Trouble>) {
    let end = end(recordings);
    for member in cast.recorded..cast.names.len() {
        let mut lost: Option<WallMicros> = None;
        for (at, what) in ordered(recordings) {
            match what {
                What::PeerLost { peer } if cast.ids.get(&id_of(peer)) == Some(&member) => {
                    // An election that nobody won shows that it was gone before somebody asked it.
                    let gone = leaderless_since(recordings, at).unwrap_or(at);
                    lost.get_or_insert(gone);
                }
                What::PeerBack { peer } if cast.ids.get(&id_of(peer)) == Some(&member) => {
                    if let Some(from) = lost.take() {
                        found.push(Trouble { member, kind: Kind::Down, from, to: at });
                    }
                }
                _ => {}
            }
        }
        if let Some(from) = lost {
            found.push(Trouble { member, kind: Kind::Down, from, to: end });
        }
    }
}

/// All lines, in order of time.
fn ordered(recordings: &[Recording]) -> Vec<(WallMicros, &What)> {
    let lives = recordings.iter().flat_map(|recording| &recording.lives);
    let mut lines: Vec<_> =
        lives.flat_map(|life| &life.lines).map(|said| (said.at, &said.what)).collect();
    lines.sort_by_key(|(at, _)| *at);
    lines
}

/// When the leader was lost, if nobody who recorded knows one at this moment.
fn leaderless_since(recordings: &[Recording], at: WallMicros) -> Option<WallMicros> {
    let mut since: Option<WallMicros> = None;
    let mut touched: Option<WallMicros> = None;
    let mut leader = 0;
    for (when, what) in ordered(recordings).into_iter().take_while(|(when, _)| *when <= at) {
        match what {
            What::Role { leader: known, .. } if id_of(known) != 0 => {
                (leader, since, touched) = (id_of(known), None, None);
            }
            What::Role { .. } => {
                since.get_or_insert(touched.unwrap_or(when));
            }
            What::PeerLost { peer } if id_of(peer) == leader => {
                touched.get_or_insert(when);
            }
            _ => {}
        }
    }
    since
}

/// Times in which two members that both lived and recorded had lost touch with each other.
fn cuts(recordings: &[Recording], cast: &Cast, found: &mut Vec<Trouble>) {
    let known = found.clone();
    let excused = |member: usize, from: WallMicros, to: WallMicros| {
        known.iter().any(|trouble| {
            trouble.member == member
                && matches!(trouble.kind, Kind::Down | Kind::Paused)
                && trouble.from < to + MARGIN
                && from < trouble.to + MARGIN
        })
    };
    for (member, recording) in recordings.iter().enumerate() {
        for life in &recording.lives {
            let mut lost: BTreeMap<usize, WallMicros> = BTreeMap::new();
            for Said { at, what } in &life.lines {
                match what {
                    What::PeerLost { peer } => {
                        if let Some(peer) = cast.ids.get(&id_of(peer)) {
                            lost.entry(*peer).or_insert(*at);
                        }
                    }
                    What::PeerBack { peer } => {
                        let peer = cast.ids.get(&id_of(peer)).copied();
                        let since = peer.and_then(|peer| Some((peer, lost.remove(&peer)?)));
                        if let Some((peer, from)) = since
                            && peer < cast.recorded
                            && *at >= from + CUT_MIN
                            && !excused(peer, from, *at)
                            && !excused(member, from, *at)
                        {
                            let kind = Kind::CutFrom(peer);
                            found.push(Trouble { member, kind, from, to: *at });
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    drop_mirrored(found);
}

/// What both ends tell of one cut is one trouble, for as long as either has it.
fn drop_mirrored(found: &mut Vec<Trouble>) {
    let mut kept: Vec<Trouble> = Vec::new();
    for trouble in found.drain(..) {
        let Kind::CutFrom(peer) = trouble.kind else {
            kept.push(trouble);
            continue;
        };
        let twin = kept.iter_mut().find(|other| {
            other.member == peer
                && other.kind == Kind::CutFrom(trouble.member)
                && other.from <= trouble.to
                && trouble.from <= other.to
        });
        match twin {
            Some(twin) => {
                (twin.from, twin.to) = (twin.from.min(trouble.from), twin.to.max(trouble.to));
            }
            None => kept.push(trouble),
        }
    }
    *found = kept;
}
