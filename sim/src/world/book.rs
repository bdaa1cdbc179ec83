//! The book of a run: everything that happened, as it happens, with the checkers that look at it
//! at once.

mod reports;

use super::ending::Ending;
use super::operation_marks;
use super::short::{Short, ShortOutcome};
use crate::checker::containment::{self, Damage};
use crate::checker::leadership::{Ailing, Elected};
use crate::checker::lease::Closing;
use crate::checker::raft::{Fact, Raft, Seats};
use crate::checker::{Guarantee, Violation};
use crate::clock::SimClock;
use crate::history::leases::{Clocks, LeaseCall};
use crate::history::queues::{Observed, Turn};
use crate::history::streams::Stream;
use crate::history::{History, Operation, Outcome};
use crate::marks::Marks;
use crate::moment::Nanos;
use crate::outcome::Figures;
use crate::timeline::record::{Happening, Loss, What};
use crate::trace::Trace;
use detcd::env::clock::Clock;
use detcd::env::signal::Signal;
use detcd::raft::message::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Arguments;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::time::Instant;

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
    /// The index and the revision of its newest checkpoint.
    pub checkpoint: (u64, i64),
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
    /// How many faults had somebody overwrite what they damaged.
    pub overwriters: u64,
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
    /// How often a member has begun to take another's state over.
    transfers: Arc<Signal<u64>>,
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
            overwriters: 0,
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
            transfers: Arc::new(Signal::new(0)),
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

    /// Completes when a member begins to take another's state over.
    pub async fn next_transfer(&self) {
        let before = self.transfers.get();
        self.transfers.wait_for(|transfers| *transfers != before).await;
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
}

impl Book {
    /// The members that there have been, by their ids.
    pub fn ids(&self) -> &BTreeMap<u64, usize> {
        &self.ids
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

fn seats(set: Seats) -> Vec<usize> {
    (0..64).filter(|seat| set >> seat & 1 == 1).collect()
}
