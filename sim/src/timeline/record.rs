//! What is kept of a run, or of a cluster's flight recordings, to be told later: the events as
//! they came, none of them a text that somebody would have to read again.

use crate::checker::Violation;
use crate::moment::Nanos;
use detcd::env::recorder::Event;
use std::collections::BTreeMap;

/// One thing that happened, to one member or to all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    pub at: Nanos,
    pub member: Option<usize>,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The member's process begins.
    Started,
    /// It could not start, and why.
    Refused(String),
    /// What the member reported of itself.
    Reported(Event),
    /// The member's process is gone.
    Ended(Loss),
    Paused,
    Resumed,
    /// A fault begins; `members` are those that it is aimed at, nobody for all.
    Fault {
        number: usize,
        class: &'static str,
        words: String,
        members: Vec<usize>,
    },
    FaultOver {
        number: usize,
    },
    /// All faults end here.
    Healed,
    /// Something that has no kind of its own.
    Note(String),
}

/// How a process ended, and what was lost with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The page cache lives on, so that nothing is lost that was ever written.
    Killed,
    PowerCut(Lost),
    /// It is no longer heard of, and nobody says why.
    Gone,
}

/// What a power cut took away of what was never called durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Changes of files that waited for a sync.
    pub changes: u64,
    /// Those of them of which a part came through.
    pub torn: u64,
    /// Names made, changed or removed.
    pub names: u64,
}

/// How a call ended, as far as its client can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused,
    Failed,
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub client: String,
    pub member: usize,
    pub called: Nanos,
    pub returned: Nanos,
    pub answer: Answer,
    pub words: String,
}

/// One stream of one watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    pub watcher: String,
    pub member: usize,
    pub opened: Nanos,
    pub closed: Nanos,
    /// When a message came, and how many events were in it; one without any promises progress.
    pub deliveries: Vec<(Nanos, usize)>,
    /// What is watched.
    pub words: String,
}

/// Everything that a timeline is made of.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub title: String,
    /// What a reader should know beforehand: a name and a text each.
    pub facts: Vec<(String, String)>,
    pub names: Vec<String>,
    /// The members by their ids.
    pub ids: BTreeMap<u64, usize>,
    pub happenings: Vec<Happening>,
    pub calls: Vec<Call>,
    pub watches: Vec<Watch>,
    pub violation: Option<Violation>,
    /// A sync that takes longer than this is worth showing.
    pub slow_sync: Nanos,
    pub end: Nanos,
    /// The wall time of moment 0, in milliseconds since the Unix epoch.
    pub wall_ms: Option<u64>,
}
