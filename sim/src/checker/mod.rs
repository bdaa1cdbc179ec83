//! The checkers, each under the name of the guarantee that it holds the server to.
//!
//! A checker is a function of what was recorded; it knows no runtime and no server. Each has tests
//! that feed it false histories, which it must reject.

use crate::moment::Nanos;

/// Backups: exact, whatever goes on meanwhile.
pub mod backup;
/// Bounds: queues stay within their limits and drain.
pub mod bounds;
/// Corruption: found in time, never shown once it is found, sound again in the end.
pub mod containment;
/// Leadership: it stays where nothing calls for a change, and moves away from who can't lead.
pub mod leadership;
/// Leases: never gone too early, never too late.
pub mod lease;
/// Linearizability: operations take effect once, between call and return, in revision order.
pub mod linearizability;
/// Liveness: once the faults are over, the healed members elect, write, read and agree.
pub mod liveness;
/// Locks and elections: one holder at a time.
pub mod lock;
/// Streams between members: in order, and whole.
pub mod peer_streams;
/// Raft: election safety, state-machine safety, monotonic state, durable commits.
pub mod raft;
/// An independent judge of short histories, which does not look at revisions.
pub mod search;
/// Values: each is in memory, or in a run that can be read.
pub mod values;
/// Watch: what a stream delivers is ordered, unique, atomic, resumable, reliable, bookmarkable.
pub mod watch;

/// The promises that are checked. The names are printed in verdicts and in the mutants' table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    Linearizability,
    ElectionSafety,
    MonotonicState,
    LogMatching,
    StateMachineSafety,
    CommittedIsDurable,
    /// One member at a time, one change at a time, and who is removed never comes back.
    MembershipSafety,
    Watch,
    // Watch; `watch` says what each of them means.
    Ordered,
    Unique,
    Atomic,
    Resumable,
    Reliable,
    Bookmarkable,
    PrevKv,
    Filtered,
    /// A lease is never gone while somebody asked for it in time.
    LeaseLower,
    /// A lease is gone soon after nobody does.
    LeaseUpper,
    /// The writes of those who hold a lock, one after the other, never interleave.
    LockFencing,
    /// A damaged state is found, not shown, and replaced, while the other members go on.
    CorruptionContained,
    /// A backup holds the state at its revision.
    BackupIsExact,
    /// A value is in memory, or in a run that can be read.
    ValuesReachable,
    Liveness,
    ReplicasAgree,
    /// Leadership changes where it has to, and only there.
    StableLeadership,
    /// A write at rest waits for what it needs, and for nothing else.
    PromptWrites,
    BoundedQueues,
    /// What members say to each other arrives in order, and nothing is missing from its middle.
    PeerStreams,
    /// Not a promise to a client, but to ourselves: an assertion or an index went wrong.
    NoPanic,
    /// A member may stop only for a fault that it was given.
    NoNeedlessStop,
}

/// A broken guarantee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub guarantee: Guarantee,
    /// When it showed, if that can be said.
    pub at: Option<Nanos>,
    pub text: String,
}

impl Violation {
    pub fn new(guarantee: Guarantee, at: Option<Nanos>, text: impl Into<String>) -> Violation {
        Violation { guarantee, at, text: text.into() }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.at {
            Some(at) => {
                write!(f, "{:?} at {}: {}", self.guarantee, crate::trace::clock(at), self.text)
            }
            None => write!(f, "{:?}: {}", self.guarantee, self.text),
        }
    }
}
