//! From events to spans: what each member was, and for how long.

use crate::moment::Nanos;
use crate::timeline::record::{Answer, Happening, Loss, Record, Watch, What};
use crate::timeline::{
    Band, CallBar, Flag, Kind, Lane, Mark, Micros, Reign, Span, State, Timeline, WatchBar, length,
};
use detcd::env::recorder::{Event, RoleName, Standing};
use std::collections::BTreeMap;

/// Points of an index curve are at least this far apart.
const INDEX_STEP: Micros = 1_000;

/// Makes the timeline of a record.
pub fn fold(record: &Record) -> Timeline {
    let end = micros(record.end);
    let mut fold = Fold {
        record,
        lanes: record.names.iter().map(|name| OpenLane::new(name)).collect(),
        bands: BTreeMap::new(),
        closed: Vec::new(),
        marks: Vec::new(),
    };
    for happening in &record.happenings {
        fold.take(happening);
    }
    let Fold { lanes, bands, mut closed, mut marks, .. } = fold;
    closed.extend(bands.into_values().map(|band| Band { to: end, ..band }));
    closed.sort_by_key(|band| (band.from, band.to));
    let members: Vec<Lane> = lanes.into_iter().map(|lane| lane.close(end)).collect();
    let reigns = reigns(&members, end);
    marks.extend(elections(&reigns));
    marks.sort_by_key(|mark| mark.at);
    let violation = record.violation.as_ref().map(|violation| Flag {
        at: violation.at.map_or(end, micros).min(end),
        guarantee: format!("{:?}", violation.guarantee),
        words: violation.text.clone(),
    });
    let (clients, calls) = calls(record);
    let (watchers, watches) = watches(record);
    Timeline {
        title: record.title.clone(),
        facts: record.facts.clone(),
        end,
        wall_ms: record.wall_ms,
        members,
        reigns,
        faults: closed,
        clients,
        calls,
        watchers,
        watches,
        marks,
        violation,
    }
}

fn micros(nanos: Nanos) -> Micros {
    nanos / 1_000
}

struct Fold<'a> {
    record: &'a Record,
    lanes: Vec<OpenLane>,
    /// Faults that go on, by their number.
    bands: BTreeMap<usize, Band>,
    closed: Vec<Band>,
    marks: Vec<Mark>,
}

/// A lane whose last span is not over.
struct OpenLane {
    lane: Lane,
    open: Span,
    commit: u64,
    applied: u64,
    durable: u64,
    /// Since when a slow sync has been outstanding.
    stalled: Option<Micros>,
    paused: Option<Micros>,
}

impl OpenLane {
    fn new(name: &str) -> OpenLane {
        OpenLane {
            lane: Lane { name: name.to_string(), ..Lane::default() },
            open: Span { from: 0, to: 0, state: State::Unseen, term: 0, leader: None },
            commit: 0,
            applied: 0,
            durable: 0,
            stalled: None,
            paused: None,
        }
    }

    fn become_state(&mut self, at: Micros, state: State, term: u64, leader: Option<usize>) {
        let next = Span { from: at, to: at, state, term, leader };
        let same = Span { from: self.open.from, to: self.open.to, ..next.clone() };
        if same == self.open {
            return;
        }
        let done = std::mem::replace(&mut self.open, next);
        if at > done.from {
            self.lane.spans.push(Span { to: at, ..done });
        }
    }

    fn point(&mut self, at: Micros) {
        let point = (at, self.commit, self.applied);
        match self.lane.index.last_mut() {
            Some(last) if at < last.0 + INDEX_STEP => *last = (last.0, point.1, point.2),
            Some(_) | None => self.lane.index.push(point),
        }
    }

    fn end_process(&mut self, at: Micros, state: State) {
        self.become_state(at, state, 0, None);
        self.end_stall(at);
        self.end_pause(at);
        self.point(at);
    }

    fn end_stall(&mut self, at: Micros) {
        if let Some(since) = self.stalled.take() {
            self.lane.stalls.push((since, at));
        }
    }

    fn end_pause(&mut self, at: Micros) {
        if let Some(since) = self.paused.take() {
            self.lane.pauses.push((since, at));
        }
    }

    fn close(mut self, end: Micros) -> Lane {
        self.end_stall(end);
        self.end_pause(end);
        self.point(end);
        self.lane.spans.push(Span { to: end.max(self.open.from), ..self.open });
        self.lane
    }
}

impl Fold<'_> {
    fn take(&mut self, happening: &Happening) {
        let at = micros(happening.at);
        match (&happening.what, happening.member) {
            (What::Fault { number, class, words, members }, _) => {
                let (class, words) = ((*class).to_string(), words.clone());
                self.mark(at, None, Kind::Fault, words.clone());
                let band = Band { from: at, to: at, class, words, members: members.clone() };
                self.bands.insert(*number, band);
            }
            (What::FaultOver { number }, _) => {
                if let Some(band) = self.bands.remove(number) {
                    self.closed.push(Band { to: at, ..band });
                }
            }
            (What::Healed, _) => {
                let bands = std::mem::take(&mut self.bands);
                self.closed.extend(bands.into_values().map(|band| Band { to: at, ..band }));
                self.mark(at, None, Kind::Fault, "the faults are over".to_string());
            }
            (What::Note(text), member) => self.mark(at, member, Kind::Other, text.clone()),
            (what, Some(member)) => self.process(at, member, what),
            (_, None) => {}
        }
    }

    fn mark(&mut self, at: Micros, member: Option<usize>, kind: Kind, words: String) {
        self.marks.push(Mark { at, member, kind, words });
    }

    /// What a member is called that has this id.
    fn name(&self, id: u64) -> String {
        let member = self.record.ids.get(&id);
        member.map_or_else(|| format!("{id:x}"), |member| self.record.names[*member].clone())
    }

    /// What happens to one member's process.
    fn process(&mut self, at: Micros, member: usize, what: &What) {
        let lane = &mut self.lanes[member];
        match what {
            What::Started => {
                lane.become_state(at, State::Starting, 0, None);
                self.mark(at, Some(member), Kind::Process, "starts".to_string());
            }
            What::Refused(reason) => {
                lane.end_process(at, State::Out);
                self.mark(at, Some(member), Kind::Crash, format!("does not start: {reason}"));
            }
            // It never came up: there is nothing more to lose.
            What::Ended(_) if lane.open.state == State::Out => {}
            What::Ended(loss) => {
                let durable = lane.durable;
                lane.end_process(at, State::Down);
                let words = match loss {
                    Loss::Killed => format!("killed; its log reached {durable}"),
                    Loss::PowerCut(lost) => format!(
                        "loses power: {} changes without a sync at stake, {} torn, {} names lost; \
                         durable to {durable}",
                        lost.changes, lost.torn, lost.names
                    ),
                    Loss::Gone => "is gone".to_string(),
                };
                self.mark(at, Some(member), Kind::Crash, words);
            }
            What::Paused => lane.paused = Some(at),
            What::Resumed => lane.end_pause(at),
            What::Reported(event) => self.reported(at, member, event),
            What::Fault { .. } | What::FaultOver { .. } | What::Healed | What::Note(_) => {}
        }
    }

    /// What a member says of itself.
    fn reported(&mut self, at: Micros, member: usize, event: &Event) {
        let slow = micros(self.record.slow_sync);
        let lane = &mut self.lanes[member];
        let mark = match event {
            Event::Recovered { term, last_index, commit, applied, .. } => {
                (lane.commit, lane.applied, lane.durable) = (*commit, *applied, *last_index);
                lane.point(at);
                let words = format!("recovers: term {term}, log to {last_index}, commit {commit}");
                Some((Kind::Process, words))
            }
            Event::RoleChanged { role, term, leader } => {
                let leader = self.record.ids.get(leader).copied();
                lane.become_state(at, state(*role), *term, leader);
                campaign(*role, *term)
            }
            Event::HardState { commit, .. } => {
                lane.commit = lane.commit.max(*commit);
                lane.point(at);
                None
            }
            Event::Committed { index, .. } => {
                lane.commit = lane.commit.max(*index);
                lane.point(at);
                None
            }
            Event::Applied { index, .. } => {
                lane.applied = *index;
                lane.point(at);
                None
            }
            Event::Persisted { last_index, took, .. } => {
                lane.durable = *last_index;
                let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                if took >= slow {
                    lane.stalled = Some(at.saturating_sub(took));
                }
                lane.end_stall(at);
                (took >= slow).then(|| (Kind::Disk, format!("a sync took {}", length(took))))
            }
            Event::SyncStalled { outstanding } => {
                let outstanding = u64::try_from(outstanding.as_micros()).unwrap_or(u64::MAX);
                let first = lane.stalled.is_none();
                lane.stalled.get_or_insert(at.saturating_sub(outstanding));
                let words = format!("a sync has been outstanding for {}", length(outstanding));
                first.then_some((Kind::Disk, words))
            }
            Event::Checkpointed { index, revision, .. } => {
                Some((Kind::Snapshot, format!("checkpoint at entry {index}, revision {revision}")))
            }
            Event::Rewritten { runs, .. } => {
                Some((Kind::Snapshot, format!("{runs} runs written as one")))
            }
            Event::Transfer(_) => None,
            Event::Installed { index, revision, .. } => {
                (lane.commit, lane.applied) = (lane.commit.max(*index), *index);
                lane.point(at);
                Some((Kind::Snapshot, format!("installed entry {index}, revision {revision}")))
            }
            Event::PeerLost { .. }
            | Event::PeerGone { .. }
            | Event::PeerBack { .. }
            | Event::Alarm { .. }
            | Event::MembersChanged { .. }
            | Event::AutoCompaction { .. }
            | Event::Standing { .. }
            | Event::FellBack
            | Event::Damaged { .. }
            | Event::ScrubFound
            | Event::ValuesRepaired { .. }
            | Event::RunRepaired { .. }
            | Event::DiskFull { .. } => self.remark(event),
            Event::Proposed { .. }
            | Event::RoundTrip { .. }
            | Event::LeaseGranted { .. }
            | Event::LeaseEnded { .. }
            | Event::OwnAlarm { .. }
            | Event::ChangeProposed { .. } => None,
            Event::Stopped { reason } => {
                lane.end_process(at, State::Down);
                Some((Kind::Crash, format!("stops: {reason}")))
            }
        };
        if let Some((kind, words)) = mark {
            self.mark(at, Some(member), kind, words);
        }
    }

    /// What changes no lane, in words.
    fn remark(&self, event: &Event) -> Option<(Kind, String)> {
        match event {
            Event::PeerLost { peer } => {
                Some((Kind::Links, format!("loses touch with {}", self.name(*peer))))
            }
            Event::PeerGone { peer } => {
                Some((Kind::Links, format!("finds that {} is gone", self.name(*peer))))
            }
            Event::PeerBack { peer } => {
                Some((Kind::Links, format!("hears {} again", self.name(*peer))))
            }
            Event::Alarm { member, alarm, raised } => {
                let verb = if *raised { "raised" } else { "cleared" };
                Some((Kind::Other, format!("alarm {alarm} of {} {verb}", self.name(*member))))
            }
            Event::AutoCompaction { revision } => {
                Some((Kind::Other, format!("compacts history before revision {revision}")))
            }
            Event::MembersChanged { index, members, .. } => {
                let (count, voters) = (members.len(), members.iter().filter(|m| m.1).count());
                let words = format!("{count} members after entry {index}, {voters} of them vote");
                Some((Kind::Other, words))
            }
            Event::Standing { standing, .. } => Some((Kind::Other, standing_words(*standing))),
            Event::DiskFull { full } => Some((Kind::Disk, full_words(*full))),
            Event::FellBack => Some((Kind::Disk, "starts from an older checkpoint".to_string())),
            Event::Damaged { run } => Some((Kind::Disk, format!("run {run:x} is damaged"))),
            Event::ScrubFound => Some((Kind::Disk, "the scrub finds damage".to_string())),
            Event::ValuesRepaired { values, .. } => {
                Some((Kind::Disk, format!("{values} values come from others")))
            }
            Event::RunRepaired { run } => Some((Kind::Disk, format!("run {run:x} is repaired"))),
            Event::Recovered { .. }
            | Event::RoleChanged { .. }
            | Event::HardState { .. }
            | Event::Persisted { .. }
            | Event::Committed { .. }
            | Event::Applied { .. }
            | Event::ChangeProposed { .. }
            | Event::LeaseGranted { .. }
            | Event::LeaseEnded { .. }
            | Event::Checkpointed { .. }
            | Event::Rewritten { .. }
            | Event::Transfer(_)
            | Event::Installed { .. }
            | Event::SyncStalled { .. }
            | Event::Proposed { .. }
            | Event::RoundTrip { .. }
            | Event::OwnAlarm { .. }
            | Event::Stopped { .. } => None,
        }
    }
}

fn standing_words(standing: Standing) -> String {
    let words = match standing {
        Standing::Trusted => "its state is trusted",
        Standing::Unverified => "its state has yet to be compared",
        Standing::Quarantined => "its state is damaged: quarantined",
    };
    words.to_string()
}

fn full_words(full: bool) -> String {
    let words = if full { "its disk is full" } else { "its disk has room again" };
    words.to_string()
}

fn state(role: RoleName) -> State {
    match role {
        RoleName::Follower => State::Follower,
        RoleName::PreCandidate => State::PreCandidate,
        RoleName::Candidate => State::Candidate,
        RoleName::Leader => State::Leader,
    }
}

fn campaign(role: RoleName, term: u64) -> Option<(Kind, String)> {
    match role {
        RoleName::PreCandidate => Some((Kind::Election, format!("asks for votes after {term}"))),
        RoleName::Candidate => Some((Kind::Election, format!("campaigns in term {term}"))),
        RoleName::Follower | RoleName::Leader => None,
    }
}

/// Who led when: of two that both believe it, the one of the higher term.
fn reigns(members: &[Lane], end: Micros) -> Vec<Reign> {
    let led: Vec<(usize, &Span)> = members
        .iter()
        .enumerate()
        .flat_map(|(m, lane)| lane.spans.iter().map(move |span| (m, span)))
        .filter(|(_, span)| span.state == State::Leader)
        .collect();
    let mut borders: Vec<Micros> =
        led.iter().flat_map(|(_, span)| [span.from, span.to]).chain([0, end]).collect();
    borders.sort_unstable();
    borders.dedup();
    let mut reigns: Vec<Reign> = Vec::new();
    for pair in borders.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let leading = led.iter().filter(|(_, span)| span.from <= from && span.to >= to);
        let (member, term) = match leading.max_by_key(|(_, span)| span.term) {
            Some((member, span)) => (Some(*member), span.term),
            None => (None, 0),
        };
        match reigns.last_mut() {
            Some(last) if last.member == member && last.term == term => last.to = to,
            Some(_) | None => reigns.push(Reign { from, to, member, term }),
        }
    }
    reigns
}

/// What to say where a reign begins.
fn elections(reigns: &[Reign]) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (i, reign) in reigns.iter().enumerate() {
        let gap = i
            .checked_sub(1)
            .map(|before| &reigns[before])
            .filter(|r| r.member.is_none() && r.from > 0);
        let words = match reign.member {
            None if i == 0 => continue,
            None => "nobody leads".to_string(),
            Some(_) => {
                let after = gap.map_or(String::new(), |gap| {
                    format!(", after {} without a leader", length(gap.to - gap.from))
                });
                format!("leads term {}{after}", reign.term)
            }
        };
        marks.push(Mark { at: reign.from, member: reign.member, kind: Kind::Election, words });
    }
    marks
}

fn calls(record: &Record) -> (Vec<String>, Vec<CallBar>) {
    let mut clients: Vec<String> = record.calls.iter().map(|c| c.client.clone()).collect();
    clients.sort_unstable();
    clients.dedup();
    let bar = |call: &crate::timeline::record::Call| CallBar {
        client: clients.binary_search(&call.client).expect("every client was entered"),
        member: call.member,
        from: micros(call.called),
        to: micros(call.returned),
        answer: match call.answer {
            Answer::Done => "done",
            Answer::Refused => "refused",
            Answer::Failed => "failed",
            Answer::Unknown => "unknown",
        },
        words: call.words.clone(),
    };
    let bars = record.calls.iter().map(bar).collect();
    (clients, bars)
}

fn watches(record: &Record) -> (Vec<String>, Vec<WatchBar>) {
    let mut watchers: Vec<String> = record.watches.iter().map(|w| w.watcher.clone()).collect();
    watchers.sort_unstable();
    watchers.dedup();
    let bar = |watch: &Watch| WatchBar {
        watcher: watchers.binary_search(&watch.watcher).expect("every watcher was entered"),
        member: watch.member,
        from: micros(watch.opened),
        to: micros(watch.closed),
        deliveries: watch.deliveries.iter().map(|(at, events)| (micros(*at), *events)).collect(),
        words: watch.words.clone(),
    };
    let bars = record.watches.iter().map(bar).collect();
    (watchers, bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn record(happenings: Vec<(Nanos, usize, What)>) -> Record {
        let happening =
            |(at, member, what)| Happening { at: at * SECOND, member: Some(member), what };
        Record {
            names: vec!["m0".into(), "m1".into()],
            ids: BTreeMap::from([(7, 0), (8, 1)]),
            happenings: happenings.into_iter().map(happening).collect(),
            slow_sync: SECOND / 10,
            end: 20 * SECOND,
            ..Record::default()
        }
    }

    fn role(role: RoleName, term: u64, leader: u64) -> What {
        What::Reported(Event::RoleChanged { role, term, leader })
    }

    #[test]
    fn a_time_without_a_leader_lasts_from_the_end_of_one_to_the_election_of_the_next() {
        let timeline = fold(&record(vec![
            (0, 0, What::Started),
            (0, 1, What::Started),
            (1, 0, role(RoleName::Leader, 2, 7)),
            (1, 1, role(RoleName::Follower, 2, 7)),
            (5, 0, What::Ended(Loss::Killed)),
            (7, 1, role(RoleName::PreCandidate, 2, 0)),
            (9, 0, What::Started),
            (10, 1, role(RoleName::Leader, 3, 8)),
        ]));
        assert_eq!(timeline.leaderless(1), [(5_000_000, 10_000_000)]);
        assert_eq!(timeline.leaderless(6_000_000), []);
        let states: Vec<State> = timeline.members[0].spans.iter().map(|s| s.state).collect();
        assert_eq!(states, [State::Starting, State::Leader, State::Down, State::Starting]);
        let words: Vec<&str> = timeline.marks.iter().map(|m| m.words.as_str()).collect();
        assert!(words.contains(&"leads term 3, after 5.00 s without a leader"), "{words:?}");
    }

    #[test]
    fn of_two_leaders_the_one_of_the_higher_term_reigns() {
        let timeline = fold(&record(vec![
            (1, 0, role(RoleName::Leader, 2, 7)),
            (3, 1, role(RoleName::Leader, 3, 8)),
            (4, 0, role(RoleName::Follower, 3, 8)),
        ]));
        let who: Vec<_> = timeline.reigns.iter().map(|r| (r.from / 1_000_000, r.member)).collect();
        assert_eq!(who, [(0, None), (1, Some(0)), (3, Some(1))]);
    }

    #[test]
    fn a_slow_sync_is_a_stall_and_one_that_never_ends_ends_with_the_process() {
        let persisted = |last_index, ms| {
            let took = std::time::Duration::from_millis(ms);
            What::Reported(Event::Persisted { last_index, entries: 1, took })
        };
        let outstanding = std::time::Duration::from_secs(1);
        let timeline = fold(&record(vec![
            (1, 0, persisted(3, 5)),
            (4, 0, persisted(4, 2_000)),
            (8, 0, What::Reported(Event::SyncStalled { outstanding })),
            (9, 0, What::Ended(Loss::PowerCut(Default::default()))),
        ]));
        assert_eq!(timeline.members[0].stalls, [(2_000_000, 4_000_000), (7_000_000, 9_000_000)]);
    }

    #[test]
    fn a_watcher_has_a_lane_with_its_streams_and_what_they_brought() {
        let watch = |watcher: &str, opened, deliveries: &[(Nanos, usize)]| Watch {
            watcher: watcher.into(),
            member: 1,
            opened: opened * SECOND,
            closed: (opened + 4) * SECOND,
            deliveries: deliveries.to_vec(),
            words: "everything".into(),
        };
        let watches = vec![
            watch("watcher 1", 9, &[(10 * SECOND, 3), (11 * SECOND, 0)]),
            watch("watcher 0", 2, &[]),
            watch("watcher 1", 2, &[]),
        ];
        let timeline = fold(&Record { watches, ..record(vec![]) });
        assert_eq!(timeline.watchers, ["watcher 0", "watcher 1"]);
        let lanes: Vec<_> = timeline.watches.iter().map(|w| (w.watcher, w.from, w.to)).collect();
        assert_eq!(
            lanes,
            [(1, 9_000_000, 13_000_000), (0, 2_000_000, 6_000_000), (1, 2_000_000, 6_000_000)]
        );
        assert_eq!(timeline.watches[0].deliveries, [(10_000_000, 3), (11_000_000, 0)]);
    }

    #[test]
    fn a_fault_lasts_until_it_is_over_or_all_are() {
        let fault = |number| What::Fault {
            number,
            class: "pause",
            words: "pause m1".into(),
            members: vec![1],
        };
        let timeline = fold(&record(vec![
            (1, 0, fault(0)),
            (2, 0, fault(1)),
            (3, 0, What::FaultOver { number: 0 }),
            (6, 0, What::Healed),
        ]));
        let bands: Vec<_> = timeline.faults.iter().map(|b| (b.from, b.to)).collect();
        assert_eq!(bands, [(1_000_000, 3_000_000), (2_000_000, 6_000_000)]);
    }
}
