//! What members report of themselves, and what the book makes of it: lines of the trace, marks,
//! facts for the checkers.

use super::{Book, Election, MemberView, SharedBook, seats};
use crate::checker::leadership::Elected;
use crate::checker::raft::{Configuration, Fact, Seats};
use crate::disk::SimDisk;
use crate::history::leases::{LeaseEnd, LeaseGrant};
use crate::history::{Operation, Outcome};
use crate::model::Request;
use crate::moment::Nanos;
use crate::timeline::record::What;
use crate::world::directories::wal_dir;
use crate::world::transfer;
use detcd::env::recorder::{Event, Recorder, RoleName, Standing, Transfer};
use detcd::storage::replay::replay;
use std::sync::Arc;

/// Stands in the history for what members do of their own accord.
const SERVERS: u64 = u64::MAX;

struct MemberRecorder {
    book: SharedBook,
    member: usize,
    disk: SimDisk,
}

impl Recorder for MemberRecorder {
    fn record(&self, event: &Event) {
        if let Event::Checkpointed { index, .. } = event {
            self.keep_released(*index);
        }
        self.book.record(self.member, event);
    }
}

impl MemberRecorder {
    /// Keeps the entries up to a checkpoint that the member has just taken, for `platters::hints`:
    /// they are about to be released.
    fn keep_released(&self, checkpoint: u64) {
        let kept = self.book.lock().released.last_key_value().map_or(0, |(index, _)| *index);
        if checkpoint <= kept {
            return;
        }
        let image = self.disk.platter_image();
        let Ok(log) = replay(&image, &wal_dir(&image), kept) else { return };
        let entries = log.entries.into_iter().filter(|entry| entry.index <= checkpoint);
        self.book.lock().released.extend(entries.map(|entry| (entry.index, entry)));
    }
}

impl SharedBook {
    /// What listens to one member.
    pub fn recorder(&self, member: usize, disk: SimDisk) -> Arc<dyn Recorder> {
        Arc::new(MemberRecorder { book: self.clone(), member, disk })
    }

    fn record(&self, member: usize, event: &Event) {
        let at = self.now();
        if !matches!(event, Event::Proposed { .. } | Event::RoundTrip { .. }) {
            self.keep(Some(member), || What::Reported(event.clone()));
        }
        match event {
            Event::Recovered { .. } => self.recovered(member, event),
            Event::RoleChanged { role, term, leader } => {
                self.role_changed(member, *role, *term, *leader);
            }
            Event::HardState { term, vote, commit } => {
                let vote_for = self.lock().ids.get(vote).copied();
                self.line(format_args!(
                    "m{member} durable term {term}, vote {}, commit {commit}",
                    Name(vote_for)
                ));
                let (term, vote, commit) = (*term, *vote, *commit);
                self.fact_at(at, member, Fact::HardState { term, vote, commit });
            }
            Event::Persisted { last_index, entries, took } => {
                self.line(format_args!(
                    "m{member} durable log to {last_index}, {entries} entries in {} us",
                    took.as_micros()
                ));
                let mut book = self.lock();
                if *last_index < book.members[member].persisted + *entries as u64 {
                    book.marks.reach("log truncated");
                }
                book.members[member].persisted = *last_index;
                drop(book);
                self.fact_at(at, member, Fact::Persisted { last_index: *last_index });
            }
            Event::Committed { index, term, checksum } => {
                let (index, term, checksum) = (*index, *term, *checksum);
                self.fact_at(at, member, Fact::Committed { index, term, checksum });
            }
            Event::Applied { index, term, revision, state_hash } => {
                let mut book = self.lock();
                book.members[member].applied = *index;
                book.trace.line(
                    at,
                    format_args!(
                        "m{member} applied {index} of term {term}: revision {revision}, state \
                         {state_hash:016x}"
                    ),
                );
                drop(book);
                let (index, term) = (*index, *term);
                let (revision, state_hash) = (*revision, *state_hash);
                self.fact_at(at, member, Fact::Applied { index, term, revision, state_hash });
            }
            Event::MembersChanged { index, members, removed } => {
                self.members_changed(member, *index, members, removed);
            }
            Event::ChangeProposed { index, term, commit, applied } => {
                self.line(format_args!("m{member} proposes a change of the members at {index}"));
                let (index, term, commit, applied) = (*index, *term, *commit, *applied);
                self.fact(member, Fact::ChangeProposed { index, term, commit, applied });
            }
            Event::LeaseGranted { .. } | Event::LeaseEnded { .. } => {
                self.record_lease(at, member, event);
            }
            Event::Standing { standing, index } => self.standing(member, *standing, *index),
            Event::Checkpointed { .. }
            | Event::Rewritten { .. }
            | Event::Transfer(_)
            | Event::Installed { .. } => self.runs_changed(member, event),
            Event::FellBack
            | Event::Damaged { .. }
            | Event::ScrubFound
            | Event::ValuesRepaired { .. }
            | Event::RunRepaired { .. } => self.damage(member, event),
            Event::SyncStalled { outstanding } => {
                self.line(format_args!("m{member} sync outstanding for {outstanding:?}"));
                self.reach("slow sync reported");
            }
            // They say what the members saw of each other, for the timeline.
            Event::Proposed { .. }
            | Event::RoundTrip { .. }
            | Event::PeerLost { .. }
            | Event::PeerBack { .. }
            | Event::Alarm { .. } => {}
            Event::PeerGone { peer } => self.lock().found_gone(at, member, *peer),
            Event::OwnAlarm { raised } => {
                self.line(format_args!("m{member} own alarm: {raised}"));
                self.reach(if *raised { "alarm raised" } else { "alarm taken back" });
            }
            Event::AutoCompaction { revision } => self.auto_compaction(member, *revision),
            Event::DiskFull { full } => self.disk_full(member, *full),
            Event::Stopped { reason } => self.line(format_args!("m{member} stops: {reason}")),
        }
    }

    fn role_changed(&self, member: usize, role: RoleName, term: u64, leader: u64) {
        let at = self.now();
        let mut book = self.lock();
        let leader = book.ids.get(&leader).copied();
        book.trace.line(
            at,
            format_args!("m{member} is {role:?} in term {term}, leader {}", Name(leader)),
        );
        let leads = role == RoleName::Leader;
        let elected = leads && !book.members[member].leads;
        let view = &mut book.members[member];
        (view.leads, view.term, view.leader) = (leads, term, leader);
        if !elected {
            return;
        }
        view.elected_at = at;
        book.elected.push(Elected { at, member, term });
        let stale = |(i, m): (usize, &MemberView)| i != member && m.leads && m.term < term;
        if book.members.iter().enumerate().any(stale) {
            book.marks.reach("two leaders at once");
        }
        if book.leaders[1] != Some(member) {
            if book.leaders[1].is_some() {
                book.marks.reach("leader changed");
            }
            book.leaders = [book.leaders[1], Some(member)];
        }
        let id = book.id_of(member).unwrap_or_default();
        drop(book);
        self.elections.update(|e| *e = Election { number: e.number + 1, member });
        self.fact(member, Fact::Leads { term, id });
    }

    fn recovered(&self, member: usize, event: &Event) {
        let Event::Recovered { term, last_index, commit, applied, .. } = *event else {
            unreachable!("{event:?} is no recovery")
        };
        let Event::Recovered { revision, state_hash, is_lost, .. } = *event else {
            unreachable!("it was matched above")
        };
        self.line(format_args!(
            "m{member} recovered term {term}, log to {last_index}, commit {commit}, \
             applied {applied}: revision {revision}, state {state_hash:016x}"
        ));
        let founders = self.lock().founders as u64;
        if last_index > founders {
            self.reach("recovered with entries");
        }
        if last_index > commit {
            self.reach("recovered uncommitted entries");
        }
        {
            let mut book = self.lock();
            let view = &mut book.members[member];
            (view.persisted, view.applied) = (last_index, applied);
            view.checkpoint = (applied, revision);
        }
        self.fact(member, Fact::Recovered { term, last_index, commit });
        if is_lost {
            self.reach("came up without a state");
            return;
        }
        if applied > 0 {
            self.reach("recovered from a checkpoint");
        }
        self.fact(member, Fact::Loaded { index: applied, revision, state_hash });
    }

    /// Reads may be refused for it from here on, whatever becomes of it.
    fn auto_compaction(&self, member: usize, revision: i64) {
        self.reach("automatic compaction");
        let at = self.now();
        self.operation(Operation {
            client: SERVERS,
            member,
            request: Request::Compact { revision, physical: false },
            called: at,
            returned: at,
            outcome: Outcome::Unknown("asked for by the member itself".into()),
        });
    }

    fn standing(&self, member: usize, standing: Standing, index: u64) {
        let at = self.now();
        self.line(format_args!("m{member} holds its state to be {standing:?} after {index}"));
        let mut book = self.lock();
        let was_distrusted = book.damage[member].distrusted.is_some();
        match standing {
            Standing::Trusted => {
                book.damage[member].distrusted = None;
                if was_distrusted {
                    book.marks.reach("corruption healed");
                }
            }
            Standing::Unverified | Standing::Quarantined => {
                book.damage[member].distrusted.get_or_insert(at);
            }
        }
        if standing == Standing::Quarantined {
            book.marks.reach("corruption found");
            if book.members[member].leads {
                book.marks.reach("corruption of a leader");
            }
        }
    }

    fn disk_full(&self, member: usize, full: bool) {
        self.line(format_args!("m{member} disk full: {full}"));
        self.reach(if full { "disk full" } else { "room on a full disk again" });
    }

    fn members_changed(
        &self,
        member: usize,
        index: u64,
        members: &[(u64, bool, String)],
        removed: &[u64],
    ) {
        let mut book = self.lock();
        let mut new = Configuration::default();
        for (id, votes, url) in members {
            let Some(seat) = seat_of(url) else { continue };
            book.ids.insert(*id, seat);
            let set = if *votes { &mut new.voters } else { &mut new.learners };
            *set |= 1 << seat;
        }
        let gone = removed.iter().filter_map(|id| book.ids.get(id));
        new.removed = gone.map(|seat| 1 << seat).sum::<Seats>();
        let Configuration { voters, learners, removed } = new;
        let at = self.now();
        book.trace.line(
            at,
            format_args!("m{member} has voters {voters:b}, learners {learners:b} after {index}"),
        );
        book.note_members(member, new);
        drop(book);
        self.fact(member, Fact::Members { index, voters, learners, removed });
    }

    /// What a member says of its checkpoints.
    fn runs_changed(&self, member: usize, event: &Event) {
        match event {
            Event::Checkpointed { index, revision, runs, took } => {
                self.line(format_args!(
                    "m{member} checkpoint at {index}, revision {revision}, {runs} runs, in {} us",
                    took.as_micros()
                ));
                self.lock().members[member].checkpoint = (*index, *revision);
                self.reach("checkpoint taken");
            }
            Event::Rewritten { runs, bytes, kept } => {
                self.line(format_args!(
                    "m{member} rewrote {runs} runs: {kept} of {bytes} bytes kept"
                ));
                self.lock().members[member].rewrites += 1;
                self.reach(if *runs > 1 { "runs merged" } else { "run rewritten" });
            }
            Event::Installed { index, term, revision, state_hash } => {
                self.line(format_args!(
                    "m{member} installed {index} of term {term}: revision {revision}, state \
                     {state_hash:016x}"
                ));
                self.reach("snapshot installed");
                {
                    let view = &mut self.lock().members[member];
                    (view.applied, view.checkpoint) = (*index, (*index, *revision));
                }
                let (index, term) = (*index, *term);
                let (revision, state_hash) = (*revision, *state_hash);
                self.fact(member, Fact::Installed { index, term });
                self.fact(member, Fact::Loaded { index, revision, state_hash });
            }
            Event::Transfer(step) => {
                self.line(format_args!("m{member} state of another member: {step:?}"));
                let book = &mut *self.lock();
                transfer::note(*step, &mut book.members[member].receives, &mut book.marks);
                if *step == Transfer::Begun {
                    self.transfers.update(|transfers| *transfers += 1);
                }
            }
            other => unreachable!("{other:?} is not about checkpoints"),
        }
    }

    /// What a member says of damage to its checkpoints.
    fn damage(&self, member: usize, event: &Event) {
        self.line(format_args!("m{member} {event:?}"));
        self.reach(match event {
            Event::FellBack => "fell back",
            Event::Damaged { .. } => "run damaged",
            Event::ScrubFound => "scrub found damage",
            Event::ValuesRepaired { .. } => "value repaired",
            Event::RunRepaired { .. } => "run repaired",
            other => unreachable!("{other:?} is not about damage"),
        });
    }

    fn record_lease(&self, at: Nanos, member: usize, event: &Event) {
        match *event {
            Event::LeaseGranted { index, id, ttl, revision } => {
                self.line(format_args!("m{member} grants lease {id:x} for {ttl} s"));
                self.lock().granted(LeaseGrant { id, index, revision, ttl, at });
            }
            Event::LeaseEnded { index, term, id, keys, revision, expired } => {
                let how = if expired { "expires" } else { "revokes" };
                self.line(format_args!("m{member} {how} lease {id:x} with {keys} keys"));
                let clocks = self.clocks();
                let mut book = self.lock();
                let leader = book.elected.iter().rev().find(|e| e.term == term).map(|e| e.member);
                book.ended(LeaseEnd { id, index, revision, keys, expired, at, clocks, leader });
            }
            _ => unreachable!("the caller has matched the event"),
        }
    }
}

impl Book {
    fn found_gone(&mut self, at: Nanos, member: usize, peer: u64) {
        let peer = self.ids.get(&peer).copied();
        if peer.is_some() && peer == self.members[member].leader {
            self.members[member].found_gone = Some(at);
            self.marks.reach("leader found gone");
        }
    }

    fn granted(&mut self, grant: LeaseGrant) {
        if !self.leased.insert((grant.index, grant.id)) {
            return;
        }
        if self.history.leases.grants.iter().any(|before| before.id == grant.id) {
            self.marks.reach("lease granted again");
        }
        self.history.leases.grants.push(grant);
    }

    fn ended(&mut self, end: LeaseEnd) {
        if !self.leased.insert((end.index, end.id)) {
            return;
        }
        self.marks.reach(if end.expired { "lease expired" } else { "lease revoked" });
        let granted = self.history.leases.grants.iter().rev().find(|grant| grant.id == end.id);
        let elected = end.leader.map_or(0, |leader| self.members[leader].elected_at);
        if end.expired && granted.is_some_and(|grant| grant.at < elected) {
            self.marks.reach("lease carried over to another leader");
        }
        self.history.leases.ends.push(end);
    }

    fn note_members(&mut self, member: usize, new: Configuration) {
        let old = self.raft.configuration().unwrap_or_default();
        if member >= self.founders && (new.voters | new.learners) & (1 << member) != 0 {
            self.marks.reach("member joined");
        }
        if old.learners & new.voters != 0 {
            self.marks.reach("learner promoted");
        }
        let gone = new.removed & !old.removed & old.voters;
        if gone != 0 && old.voters != 0 {
            self.marks.reach("member removed");
            if seats(gone).iter().any(|seat| self.members[*seat].leads) {
                self.marks.reach("leader removed");
            }
        }
    }
}

/// Where the member with this address sits.
fn seat_of(url: &str) -> Option<usize> {
    let host = url.strip_prefix("http://10.0.0.")?.split(':').next()?;
    host.parse::<usize>().ok()?.checked_sub(1)
}

struct Name(Option<usize>);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(member) => write!(f, "m{member}"),
            None => f.write_str("none"),
        }
    }
}
