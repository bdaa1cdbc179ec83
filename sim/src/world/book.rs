//! The book of a run: everything that happened, as it happens, with the checkers that look at it
//! at once.

use super::operation_marks;
use super::platters;
use super::short::{Short, ShortOutcome};
use super::transfer;
use super::watcher::Ending;
use crate::checker::containment::{self, Damage};
use crate::checker::leadership::{Ailing, Elected};
use crate::checker::lease::{Clocks, Closing, LeaseCall, LeaseEnd, LeaseGrant};
use crate::checker::lock::{Observed, Turn};
use crate::checker::raft::{Configuration, Fact, Raft, Seats};
use crate::checker::watch::Stream;
use crate::checker::{Guarantee, Violation};
use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::history::{History, Nanos, Operation, Outcome};
use crate::marks::Marks;
use crate::model::Request;
use crate::outcome::Figures;
use crate::timeline::record::{Happening, Loss, What};
use crate::trace::Trace;
use detcd::env::clock::Clock;
use detcd::env::recorder::{Event, Recorder, RoleName, Standing};
use detcd::env::signal::Signal;
use detcd::raft::message::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Arguments;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::time::Instant;

/// Stands in the history for what members do of their own accord.
const SERVERS: u64 = u64::MAX;

/// What the book knows of one member.
#[derive(Clone, Debug, Default)]
pub struct MemberView {
    pub up: bool,
    /// It refused to start for damage that it was given, and stays out.
    pub out: bool,
    pub leads: bool,
    pub term: u64,
    /// The leader that it knows of.
    pub leader: Option<usize>,
    pub elected_at: Nanos,
    pub persisted: u64,
    pub applied: u64,
    /// Another member's state is on its way to it.
    pub receives: bool,
    /// How often runs took the place of others.
    pub rewrites: u64,
    /// When it found last that nobody listens where its leader was.
    pub found_gone: Option<Nanos>,
    /// The term of the leader of which a word came last, and when.
    pub heard: (u64, Nanos),
}

/// A leader that was elected: counts elections, so that every one of them is a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Election {
    pub number: u64,
    pub member: usize,
}

pub struct Book {
    pub trace: Trace,
    pub raft: Raft,
    pub history: History,
    pub marks: Marks,
    pub figures: Figures,
    pub members: Vec<MemberView>,
    /// The damage that was done to the state of each member.
    pub damage: Vec<Damage>,
    pub violation: Option<Violation>,
    /// Who led before the present leader, and the present one.
    pub leaders: [Option<usize>; 2],
    /// Every leader that was elected, in order.
    pub elected: Vec<Elected>,
    /// The times in which one disk ailed, in slow-disk mode.
    pub ailing: Vec<Ailing>,
    /// How many faults had onlookers.
    pub onlookers: u64,
    /// How many of them had those who hold leases.
    pub lease_onlookers: u64,
    pub first_fault: Option<Nanos>,
    pub acknowledged_revision: i64,
    /// Entries that members may have released from their logs.
    pub released: BTreeMap<u64, Entry>,
    /// What a timeline is made of, if one is wanted.
    pub happenings: Option<Vec<Happening>>,
    /// What must be true of leases in the end.
    pub closing: Option<Closing>,
    /// The facts of leases that some member has applied: the index and the id.
    leased: BTreeSet<(u64, i64)>,
    /// The clocks of the members.
    clocks: Vec<SimClock>,
    ids: BTreeMap<u64, usize>,
    founders: usize,
}

/// The book, shared by everything that has something to enter.
#[derive(Clone)]
pub struct SharedBook {
    book: Arc<Mutex<Book>>,
    start: Instant,
    elections: Arc<Signal<Election>>,
    broken: Arc<Signal<bool>>,
    ending: Arc<Signal<Ending>>,
    /// How often the connections that each member serves were reset.
    resets: Arc<Vec<Signal<u64>>>,
}

impl SharedBook {
    /// A book for founders with these ids, and for those who may join them.
    pub fn new(ids: BTreeMap<u64, usize>, seats: usize, keep_trace: bool) -> SharedBook {
        let book = Book {
            trace: Trace::new(keep_trace),
            raft: Raft::default(),
            history: History::default(),
            marks: Marks::default(),
            figures: Figures { runs: 1, ..Figures::default() },
            members: vec![MemberView::default(); seats],
            damage: vec![Damage::default(); seats],
            violation: None,
            leaders: [None, None],
            elected: Vec::new(),
            ailing: Vec::new(),
            onlookers: 0,
            lease_onlookers: 0,
            first_fault: None,
            acknowledged_revision: 1,
            released: BTreeMap::new(),
            happenings: keep_trace.then(Vec::new),
            founders: ids.len(),
            closing: None,
            leased: BTreeSet::new(),
            clocks: Vec::new(),
            ids,
        };
        SharedBook {
            book: Arc::new(Mutex::new(book)),
            start: Instant::now(),
            elections: Arc::new(Signal::new(Election::default())),
            broken: Arc::new(Signal::new(false)),
            ending: Arc::new(Signal::new(Ending::default())),
            resets: Arc::new((0..seats).map(|_| Signal::new(0)).collect()),
        }
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> Nanos {
        u64::try_from(self.start.elapsed().as_nanos()).expect("a run is shorter than 500 years")
    }

    pub fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no holder of the book panics and goes on")
    }

    /// Keeps what happened for a timeline, if one is wanted.
    pub fn keep(&self, member: Option<usize>, what: impl FnOnce() -> What) {
        if let Some(happenings) = &mut self.lock().happenings {
            happenings.push(Happening { at: self.now(), member, what: what() });
        }
    }

    /// Adds a line to the trace.
    pub fn line(&self, text: Arguments<'_>) {
        let at = self.now();
        self.lock().trace.line(at, text);
    }

    /// Notes a broken guarantee; the first one is the verdict and ends the run.
    pub fn violated(&self, violation: Violation) {
        let at = self.now();
        let mut book = self.lock();
        book.trace.line(at, format_args!("VIOLATION {:?} {}", violation.guarantee, violation.text));
        book.violation.get_or_insert(violation);
        drop(book);
        self.broken.set(true);
    }

    /// What the watchers are told when the faults are over.
    pub fn ending(&self) -> &Signal<Ending> {
        &self.ending
    }

    /// Resets the connections that a member serves.
    pub fn reset_connections(&self, member: usize) {
        self.resets[member].update(|resets| *resets += 1);
        self.line(format_args!("m{member} loses its connections"));
        self.reach("connections reset");
    }

    pub fn resets(&self, member: usize) -> u64 {
        self.resets[member].get()
    }

    /// Works over a connection to a member; nothing if that is reset before.
    pub async fn unless_reset<T>(&self, member: usize, work: impl Future<Output = T>) -> Option<T> {
        let before = self.resets(member);
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = self.resets[member].wait_for(|resets| *resets != before) => None,
        }
    }

    /// Enters what a watcher was told over one stream.
    pub fn streamed(&self, stream: Stream) {
        let closed = self.now();
        let mut book = self.lock();
        let first = stream.deliveries.first().map_or(u64::MAX, |delivery| delivery.at);
        // What a damaged state has told says nothing; the watcher goes on behind it.
        if !book.damage[stream.member].taints(first) {
            book.history.streams.push(Stream { closed, ..stream });
        }
    }

    /// Says which clocks the members have.
    pub fn set_clocks(&self, clocks: Vec<SimClock>) {
        self.lock().clocks = clocks;
    }

    /// What the members' clocks show.
    pub fn clocks(&self) -> Clocks {
        let nanos = |clock: &SimClock| clock.now().since_start().as_nanos();
        let shown = |clock| u64::try_from(nanos(clock)).expect("a run is shorter than 500 years");
        self.lock().clocks.iter().map(shown).collect()
    }

    /// Enters what a client was told about a lease.
    pub fn leased(&self, call: LeaseCall) {
        let (member, id, ask) = (call.member, call.id, call.ask);
        self.line(format_args!(
            "c{} <- m{member} lease {id:x} {ask:?} -> {:?}",
            call.client, call.told
        ));
        self.lock().history.leases.calls.push(call);
    }

    /// Enters that a client was told that its turn has come.
    pub fn took_turn(&self, turn: Turn) {
        self.line(format_args!("c{} has its turn with {}", turn.client, turn.key));
        self.lock().history.queues.turns.push(turn);
    }

    /// Enters what an observer of an election was told.
    pub fn observed(&self, observed: Observed) {
        self.lock().history.queues.observed.push(observed);
    }

    /// Completes when a guarantee is broken.
    pub async fn broken(&self) {
        self.broken.wait_for(|broken| *broken).await;
    }

    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Completes with the next leader that is elected.
    pub async fn next_leader(&self) -> usize {
        let before = self.elections.get();
        self.elections.wait_for(|election| *election != before).await.member
    }

    /// What listens to one member.
    pub fn recorder(&self, member: usize, disk: SimDisk) -> Arc<dyn Recorder> {
        Arc::new(MemberRecorder { book: self.clone(), member, disk })
    }

    /// A member's process begins.
    pub fn started(&self, member: usize) {
        let mut book = self.lock();
        let before = &mut book.members[member];
        *before = MemberView { up: true, ..MemberView::default() };
        book.damage[member].distrusted = None;
        let at = self.now();
        book.trace.line(at, format_args!("m{member} starts"));
        drop(book);
        self.keep(Some(member), || What::Started);
        self.fact(member, Fact::Started);
    }

    /// A member's process is gone.
    pub fn went_down(&self, member: usize, loss: Loss) {
        self.keep(Some(member), || What::Ended(loss));
        let mut book = self.lock();
        let MemberView { out, receives, .. } = book.members[member];
        book.members[member] = MemberView { out, ..MemberView::default() };
        if receives {
            book.marks.reach("crash during an install");
        }
        let voters = book.voters();
        let up = voters.iter().filter(|m| book.members[**m].up).count();
        if up == 0 {
            book.marks.reach("all down");
        }
        if voters.len() > 1 && up < voters.len() / 2 + 1 {
            book.marks.reach("quorum lost");
        }
    }

    pub fn reach(&self, mark: &'static str) {
        self.lock().marks.reach(mark);
    }

    /// Enters what a client saw.
    pub fn operation(&self, mut operation: Operation) {
        let at = self.now();
        let mut book = self.lock();
        let damage = book.damage.get(operation.member).copied().unwrap_or_default();
        if let Err(violation) = containment::check(&damage, &operation) {
            drop(book);
            return self.violated(violation);
        }
        let is_told = matches!(operation.outcome, Outcome::Done(_) | Outcome::Refused(_));
        if is_told && damage.taints(operation.called) {
            operation.outcome = Outcome::Unknown("answered out of a damaged state".into());
        }
        book.trace.line(
            at,
            format_args!(
                "c{} <- m{} {} {}",
                operation.client,
                operation.member,
                Short(&operation.request),
                ShortOutcome(&operation.outcome)
            ),
        );
        book.note_marks(&operation);
        book.history.push(operation);
    }

    pub fn fact(&self, member: usize, fact: Fact) {
        self.fact_at(self.now(), member, fact);
    }

    fn fact_at(&self, at: Nanos, member: usize, fact: Fact) {
        let observed = {
            let mut book = self.lock();
            let observed = book.raft.observe(at, member, fact);
            match (book.damage[member].since, book.raft.is_corrupted(member)) {
                (None, true) => book.damage[member].since = Some(at),
                (Some(_), false) => {
                    (book.damage[member].since, book.damage[member].until) = (None, at);
                }
                (None, false) | (Some(_), true) => {}
            }
            observed
        };
        if let Err(violation) = observed {
            self.violated(violation);
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
                self.lock().members[member].applied = *index;
                let (index, term) = (*index, *term);
                let (revision, state_hash) = (*revision, *state_hash);
                self.fact(member, Fact::Installed { index, term });
                self.fact(member, Fact::Loaded { index, revision, state_hash });
            }
            Event::Transfer(step) => {
                self.line(format_args!("m{member} state of another member: {step:?}"));
                let book = &mut *self.lock();
                transfer::note(*step, &mut book.members[member].receives, &mut book.marks);
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
}

impl Book {
    fn found_gone(&mut self, at: Nanos, member: usize, peer: u64) {
        let peer = self.ids.get(&peer).copied();
        if peer.is_some() && peer == self.members[member].leader {
            self.members[member].found_gone = Some(at);
            self.marks.reach("leader found gone");
        }
    }

    /// The members that there have been, by their ids.
    pub fn ids(&self) -> &BTreeMap<u64, usize> {
        &self.ids
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

    fn note_marks(&mut self, operation: &Operation) {
        if let Some(mark) = operation_marks::mark(operation, self.acknowledged_revision) {
            self.marks.reach(mark);
        }
        if let Outcome::Done(reply) = &operation.outcome {
            self.acknowledged_revision = self.acknowledged_revision.max(reply.revision);
        }
    }

    /// The members after the newest change that anybody applied, learners among them.
    pub fn current(&self) -> Vec<usize> {
        match self.raft.configuration() {
            Some(now) => seats(now.voters | now.learners),
            None => (0..self.founders).collect(),
        }
    }

    /// Those of them who vote.
    pub fn voters(&self) -> Vec<usize> {
        match self.raft.configuration() {
            Some(now) => seats(now.voters),
            None => (0..self.founders).collect(),
        }
    }

    pub fn is_removed(&self, member: usize) -> bool {
        self.raft.configuration().is_some_and(|now| now.removed >> member & 1 == 1)
    }

    /// The id of a member, once it is known.
    pub fn id_of(&self, member: usize) -> Option<u64> {
        self.ids.iter().find(|(_, seat)| **seat == member).map(|(id, _)| *id)
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

    /// The members that are up and not out.
    pub fn up(&self) -> usize {
        self.members.iter().filter(|m| m.up).count()
    }

    /// Breaks the promise that only a given fault stops a member.
    pub fn needless_stop(at: Nanos, member: usize, reason: &str) -> Violation {
        let text = format!("member {member} stopped without a fault: {reason}");
        Violation::new(Guarantee::NoNeedlessStop, Some(at), text)
    }
}

struct MemberRecorder {
    book: SharedBook,
    member: usize,
    disk: SimDisk,
}

impl Recorder for MemberRecorder {
    fn record(&self, event: &Event) {
        if let Event::Checkpointed { index, .. } = event {
            platters::keep(&self.book, &self.disk, *index);
        }
        self.book.record(self.member, event);
    }
}

/// Where the member with this address sits.
fn seat_of(url: &str) -> Option<usize> {
    let host = url.strip_prefix("http://10.0.0.")?.split(':').next()?;
    host.parse::<usize>().ok()?.checked_sub(1)
}

fn seats(set: Seats) -> Vec<usize> {
    (0..64).filter(|seat| set >> seat & 1 == 1).collect()
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
