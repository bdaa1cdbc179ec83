//! A run as a person sees it: who led, who was up, what was cut, what the clients got.
//!
//! [`record::Record`] is what was kept, by the simulator or by the flight recorders of a real
//! cluster; [`fold`] makes a [`Timeline`] of it; [`story`] tells that as text and [`page`] draws it
//! as an HTML page that needs nothing but itself. The fields' names are those that the page's
//! script reads.

/// From events to spans.
pub mod fold;
/// The timeline as an HTML page.
pub mod page;
/// What is kept of a run.
pub mod record;
/// The timeline as text.
pub mod story;
/// What a fault is called.
pub mod words;

use serde::Serialize;

/// Microseconds since the timeline began.
pub type Micros = u64;

/// A time without a leader that is no longer than this is part of handing over.
pub const HANDOVER_MAX: Micros = 10_000;

#[derive(Clone, Debug, Serialize)]
pub struct Timeline {
    pub title: String,
    pub facts: Vec<(String, String)>,
    pub end: Micros,
    pub wall_ms: Option<u64>,
    pub members: Vec<Lane>,
    /// Who led, without gaps: a reign of nobody is a time without a leader.
    pub reigns: Vec<Reign>,
    pub faults: Vec<Band>,
    pub clients: Vec<String>,
    pub calls: Vec<CallBar>,
    pub watchers: Vec<String>,
    pub watches: Vec<WatchBar>,
    pub marks: Vec<Mark>,
    pub violation: Option<Flag>,
}

/// What a member is over a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Down,
    Starting,
    Follower,
    PreCandidate,
    Candidate,
    Leader,
    /// It refuses to start.
    Out,
    /// Nobody told.
    Unseen,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    pub from: Micros,
    pub to: Micros,
    pub state: State,
    pub term: u64,
    pub leader: Option<usize>,
}

/// One member's lane.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Lane {
    pub name: String,
    pub spans: Vec<Span>,
    /// When the commit and the applied index came to what: moment, commit, applied.
    pub index: Vec<(Micros, u64, u64)>,
    /// Slow syncs: from, to.
    pub stalls: Vec<(Micros, Micros)>,
    pub pauses: Vec<(Micros, Micros)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reign {
    pub from: Micros,
    pub to: Micros,
    pub member: Option<usize>,
    pub term: u64,
}

/// A fault, for as long as it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Band {
    pub from: Micros,
    pub to: Micros,
    pub class: String,
    pub words: String,
    pub members: Vec<usize>,
}

/// One call of a client.
#[derive(Clone, Debug, Serialize)]
pub struct CallBar {
    pub client: usize,
    pub member: usize,
    pub from: Micros,
    pub to: Micros,
    pub answer: &'static str,
    pub words: String,
}

/// One stream of a watcher, for as long as it was open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WatchBar {
    pub watcher: usize,
    pub member: usize,
    pub from: Micros,
    pub to: Micros,
    /// When a message came, and how many events were in it.
    pub deliveries: Vec<(Micros, usize)>,
    pub words: String,
}

/// What a mark tells of; the page filters by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Election,
    Process,
    Crash,
    Disk,
    Fault,
    Snapshot,
    /// What the members see of each other.
    Links,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    pub at: Micros,
    pub member: Option<usize>,
    pub kind: Kind,
    pub words: String,
}

/// Where the first guarantee broke.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flag {
    pub at: Micros,
    pub guarantee: String,
    pub words: String,
}

impl Timeline {
    /// The times without a leader that began after the first election and lasted for `least`.
    pub fn leaderless(&self, least: Micros) -> Vec<(Micros, Micros)> {
        let led = self.reigns.iter().skip_while(|reign| reign.member.is_none());
        led.filter(|reign| reign.member.is_none() && reign.to - reign.from >= least)
            .map(|reign| (reign.from, reign.to))
            .collect()
    }
}

/// A length of time in the unit that suits it.
pub fn length(micros: Micros) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros / 10_000 % 100),
    }
}
