//! The recordings of several members as one record, so that the page shows them as it shows a run.

use crate::recording::trouble::{Cast, Kind, Trouble, end};
use crate::recording::{Recording, WallMicros};
use crate::timeline::length;
use crate::timeline::record::{Happening, Loss, Record, What};
use detcd::env::flight::line::{self, id_of, role_of, standing_of};
use detcd::env::recorder::{Event, RoleName};
use std::time::Duration;

/// Syncs that take longer than this are shown as stalls.
const SLOW_SYNC: Duration = Duration::from_millis(100);

/// Makes a record of what was recorded and of what went wrong.
pub fn merge(recordings: &[Recording], cast: &Cast, troubles: &[Trouble]) -> Record {
    let lives = || recordings.iter().flat_map(|recording| &recording.lives);
    let start = lives().map(|life| life.from()).min().unwrap_or(0);
    let mut merge = Merge { start, happenings: Vec::new() };
    for (member, recording) in recordings.iter().enumerate() {
        for life in &recording.lives {
            merge.push(life.from(), Some(member), What::Started);
            for said in &life.lines {
                merge.line(said.at, member, &said.what);
            }
        }
    }
    merge.seen_by_others(recordings, cast, troubles);
    for (number, trouble) in troubles.iter().enumerate() {
        merge.trouble(number, trouble, cast);
    }
    let mut happenings = merge.happenings;
    happenings.sort_by_key(|happening| happening.at);
    let fact = |name: &str, text: String| (name.to_string(), text);
    let writer = recordings.first().map(|r| r.writer.clone()).unwrap_or_default();
    Record {
        title: format!("Flight recordings of {}", cast.names[..cast.recorded].join(", ")),
        facts: vec![
            fact("members", writer.members.max(cast.names.len()).to_string()),
            fact(
                "heartbeat, election",
                format!("{} ms, {} ms", writer.heartbeat_ms, writer.election_ms),
            ),
            fact("troubles", troubles.len().to_string()),
        ],
        names: cast.names.clone(),
        ids: cast.ids.clone(),
        happenings,
        slow_sync: u64::try_from(SLOW_SYNC.as_nanos()).expect("well below 500 years"),
        end: (end(recordings) - start) * 1_000,
        wall_ms: Some(start / 1_000),
        ..Record::default()
    }
}

struct Merge {
    start: WallMicros,
    happenings: Vec<Happening>,
}

impl Merge {
    fn push(&mut self, at: WallMicros, member: Option<usize>, what: What) {
        let at = at.saturating_sub(self.start) * 1_000;
        self.happenings.push(Happening { at, member, what });
    }

    /// What a line says, in the words of the member that wrote it.
    fn line(&mut self, at: WallMicros, member: usize, what: &line::What) {
        let micros = Duration::from_micros;
        let event = match what {
            line::What::Start { member, term, last_index, commit, applied } => Event::Recovered {
                member: id_of(member),
                term: *term,
                last_index: *last_index,
                commit: *commit,
                applied: *applied,
                revision: 0,
                state_hash: 0,
                is_lost: false,
            },
            line::What::Role { role, term, leader } => {
                let Some(role) = role_of(role) else { return };
                Event::RoleChanged { role, term: *term, leader: id_of(leader) }
            }
            line::What::Summary(summary) => {
                let (index, revision) = (summary.applied, summary.revision);
                let committed = Event::Committed { index: summary.commit, term: 0, checksum: 0 };
                self.push(at, Some(member), What::Reported(committed));
                Event::Applied { index, term: 0, revision, state_hash: 0 }
            }
            line::What::SlowSync { took_us } => {
                Event::Persisted { last_index: 0, entries: 0, took: micros(*took_us) }
            }
            line::What::SyncOutstanding { for_us } => {
                Event::SyncStalled { outstanding: micros(*for_us) }
            }
            line::What::PeerLost { peer } => Event::PeerLost { peer: id_of(peer) },
            line::What::PeerGone { peer } => Event::PeerGone { peer: id_of(peer) },
            line::What::PeerBack { peer } => Event::PeerBack { peer: id_of(peer) },
            line::What::Standing { standing, index } => {
                let Some(standing) = standing_of(standing) else { return };
                Event::Standing { standing, index: *index }
            }
            line::What::DiskFull { full } => Event::DiskFull { full: *full },
            line::What::Checkpoint { index, took_us } => {
                Event::Checkpointed { index: *index, revision: 0, runs: 0, took: micros(*took_us) }
            }
            line::What::Installed { index, term } => {
                Event::Installed { index: *index, term: *term, revision: 0, state_hash: 0 }
            }
            line::What::Damaged { run } => Event::Damaged { run: id_of(run) },
            line::What::Repaired { run } => Event::RunRepaired { run: id_of(run) },
            line::What::Stop { reason } => Event::Stopped { reason: reason.clone() },
            line::What::Alarm { member: of, alarm, raised } => {
                let verb = if *raised { "raised" } else { "cleared" };
                let text = format!("alarm {alarm} of {of} {verb}");
                return self.push(at, Some(member), What::Note(text));
            }
            line::What::NotWritten { for_us, lines, why } => {
                let text = format!("{lines} lines lost in {}: {why}", length(*for_us));
                return self.push(at, Some(member), What::Note(text));
            }
            line::What::Segment(_)
            | line::What::Vote { .. }
            | line::What::ClockJump { .. }
            | line::What::NotRunning { .. } => return,
        };
        self.push(at, Some(member), What::Reported(event));
    }

    /// What those that recorded tell of those that did not: who led, and that the others followed.
    fn seen_by_others(&mut self, recordings: &[Recording], cast: &Cast, troubles: &[Trouble]) {
        let mut lines: Vec<_> =
            recordings.iter().flat_map(|r| &r.lives).flat_map(|life| &life.lines).collect();
        lines.sort_by_key(|said| said.at);
        let mut known = (0, 0);
        for said in lines {
            let line::What::Role { term, leader, .. } = &said.what else { continue };
            let (term, leader) = (*term, id_of(leader));
            if leader == 0 || std::mem::replace(&mut known, (term, leader)) == (term, leader) {
                continue;
            }
            for member in cast.recorded..cast.names.len() {
                let is_down = troubles.iter().any(|trouble| {
                    trouble.member == member && (trouble.from..trouble.to).contains(&said.at)
                });
                let leads = cast.ids.get(&leader) == Some(&member);
                let role = if leads { RoleName::Leader } else { RoleName::Follower };
                if !is_down {
                    let event = Event::RoleChanged { role, term, leader };
                    self.push(said.at, Some(member), What::Reported(event));
                }
            }
        }
    }

    fn trouble(&mut self, number: usize, trouble: &Trouble, cast: &Cast) {
        let member = trouble.member;
        let name = &cast.names[member];
        let lasted = length(trouble.to - trouble.from);
        let (class, words) = match trouble.kind {
            Kind::Down => ("down", format!("{name} is down for {lasted}")),
            Kind::Paused => ("pause", format!("{name} does not run for {lasted}")),
            Kind::Stalled => ("fsync-stall", format!("the disk of {name} stalls for {lasted}")),
            Kind::CutFrom(peer) => {
                ("cut-links", format!("{name} and {} are cut for {lasted}", cast.names[peer]))
            }
            Kind::Jumped(ms) => ("wall-jump", format!("the clock of {name} jumps by {ms} ms")),
        };
        let mut members = vec![member];
        match trouble.kind {
            Kind::Down => {
                self.push(trouble.from, Some(member), What::Ended(Loss::Gone));
                if member >= cast.recorded {
                    self.push(trouble.to, Some(member), What::Started);
                }
            }
            Kind::Paused => {
                self.push(trouble.from, Some(member), What::Paused);
                self.push(trouble.to, Some(member), What::Resumed);
            }
            Kind::CutFrom(peer) => members.push(peer),
            Kind::Stalled | Kind::Jumped(_) => {}
        }
        self.push(trouble.from, None, What::Fault { number, class, words, members });
        self.push(trouble.to, None, What::FaultOver { number });
    }
}
