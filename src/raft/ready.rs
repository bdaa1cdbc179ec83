//! What the driver must do for the core, and in which order.
//!
//! # The order
//!
//! For each `Ready`, and from one `Ready` to the next:
//!
//! 1. `messages` may leave at once, before anything of this `Ready` is written. They are the
//!    leader's appends and heartbeats, rejections, pre-votes, read confirmations: nothing that
//!    promises durability. A leader's append may leave before the leader's own sync, because the
//!    leader counts itself only once `persisted` told it so.
//! 2. `write` goes to stable storage. Writes are made in the order of `seq`; several may be
//!    joined into one sync. Within one write: `restart`, then `hard_state` and `entries`. A
//!    crash may leave any prefix of that, and nothing of it counts until it is all durable. A
//!    write with neither of the three needs no sync, only its turn.
//! 3. `write.messages` leave only after that write and all before it are durable: requests for
//!    votes, granted votes, acknowledged appends. If the process crashes first they never leave.
//! 4. When a write is durable, `RaftCore::persisted(seq)` says so. Only then does a leader
//!    count its own log, a candidate its own vote, and only then are entries handed out.
//! 5. `committed` is applied in order, each entry exactly once. Every entry in it is committed
//!    and durable here. For a ConfChange entry, `apply_conf_change` comes before `applied` of
//!    its index. `applied` follows at any time later, for any number of entries at once.
//! 6. `read_states` are served once the state machine has applied their index.
//! 7. `snapshot` asks the driver to fetch the sender's state (see `SnapshotOffer`).
//!
//! `persisted` and `applied` may arrive in any order relative to later `Ready`s: the core goes on
//! meanwhile. An acknowledgement for entries that were overwritten since counts for nothing.

use crate::raft::message::{Entry, HardState, Index, Message, NodeId, Term};

/// Which role a member plays, without the role's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum RoleKind {
    #[default]
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// What changes often and needs no durability.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SoftState {
    /// 0 if nobody is known to lead.
    pub leader: NodeId,
    pub role: RoleKind,
    pub term: Term,
}

/// The answer to `RaftCore::read_index`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadState {
    pub ctx: u64,
    /// Serve the read once this index is applied. None means refused: ask again.
    pub index: Option<Index>,
}

/// The leader offers its state, because its log no longer reaches back to this member's.
///
/// The driver fetches a snapshot at `index` or later from `from`, verifies it, and asks
/// `RaftCore::prepare_install`. On true it swaps the state machine and calls `install_snapshot`
/// with the index, term and configuration of what it really installed; until then nothing is
/// handed out for applying. On false it throws the snapshot away: the log was faster.
///
/// An offer is repeated once in an election timeout until the transfer is reported as ended, so
/// a driver that is already fetching from `from` ignores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotOffer {
    pub from: NodeId,
    pub index: Index,
    pub term: Term,
}

/// What must become durable together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Write {
    /// Rises by one from write to write, starting at 1 with each `RaftCore`.
    pub seq: u64,
    /// The log starts over after this index and term: every entry written before is void.
    /// Set after a snapshot was installed over a log that it doesn't continue.
    pub restart: Option<(Index, Term)>,
    pub hard_state: Option<HardState>,
    /// Contiguous. The first index may be at or below the last one written: then it overwrites
    /// that suffix, all of it.
    pub entries: Vec<Entry>,
    /// These leave only once this write is durable.
    pub messages: Vec<Message>,
}

impl Write {
    /// Whether there is anything to sync.
    pub fn is_empty(&self) -> bool {
        self.restart.is_none() && self.hard_state.is_none() && self.entries.is_empty()
    }
}

/// Everything the core wants done at one moment. Taking it drains it: there is no second call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ready {
    pub messages: Vec<Message>,
    pub write: Option<Write>,
    pub committed: Vec<Entry>,
    pub read_states: Vec<ReadState>,
    /// Set when it changed.
    pub soft_state: Option<SoftState>,
    pub snapshot: Option<SnapshotOffer>,
}
