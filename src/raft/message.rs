//! The words of consensus, and what members say to each other.

use std::collections::BTreeSet;

use bytes::Bytes;

/// Who a member is. 0 means nobody.
pub type NodeId = u64;

/// A period with at most one leader (Raft paper, section 5.1). 0 is before the first election.
pub type Term = u64;

/// A position in the log. The first entry has index 1; 0 is before the first entry.
pub type Index = u64;

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum EntryKind {
    /// Bytes for the state machine. Empty data is the leader's first entry of its term.
    Normal,
    /// A change of membership, which takes effect when it is applied.
    ConfChange,
}

/// One position of the log with its content.
///
/// Invariant: two entries with the same index and term have the same kind and data, and all
/// entries before them are the same too (Log Matching, paper section 5.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub term: Term,
    pub index: Index,
    pub kind: EntryKind,
    pub data: Bytes,
}

impl Entry {
    /// What an entry costs in a message or a write, beyond its data.
    pub const OVERHEAD_BYTES: usize = 24;

    /// What counts against the limits of messages and of a Ready.
    pub fn size_bytes(&self) -> usize {
        self.data.len() + Self::OVERHEAD_BYTES
    }
}

/// What a member must remember over a crash besides its log.
///
/// Term and vote travel together: a crash between the two could let a member vote twice.
/// `commit` is a courtesy for recovery; losing its last advances is harmless.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    pub term: Term,
    pub vote: NodeId,
    pub commit: Index,
}

/// Who belongs to the group.
///
/// Invariant: no member is both a voter and a learner.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfState {
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
}

impl ConfState {
    /// Whether the member receives the log at all.
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

/// One step of membership. Only single-server changes exist, so that the majorities of two
/// neighbouring configurations always share a member (Ongaro's thesis, section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfChange {
    /// The member votes from then on; a learner is promoted.
    AddVoter(NodeId),
    /// The member receives the log without voting. A voter stays what it is.
    AddLearner(NodeId),
    /// A learner becomes a voter. Anybody else stays what it is.
    Promote(NodeId),
    /// The member leaves. The last voter can't leave.
    Remove(NodeId),
}

/// What one member says to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub from: NodeId,
    pub to: NodeId,
    /// The sender's term; in a pre-vote and in its granted answer, the term it would campaign in.
    pub term: Term,
    pub payload: Payload,
}

/// Why a follower could not take an append, as a help to find the point of agreement.
///
/// `index` is the follower's last entry not after the refused one whose term is at most the
/// refused one's; `term` is its term there. 0 and 0 mean an empty log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RejectHint {
    pub index: Index,
    pub term: Term,
}

/// The content of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Would you vote for me? Changes nothing at the receiver (thesis, section 9.6).
    PreVote {
        last_index: Index,
        last_term: Term,
    },
    PreVoteResponse {
        granted: bool,
    },
    /// RequestVote. `transfer` marks a campaign that the leader asked for: the receiver's lease
    /// on its present leader does not count against it.
    Vote {
        last_index: Index,
        last_term: Term,
        transfer: bool,
    },
    VoteResponse {
        granted: bool,
    },
    /// What the sender knows to be committed; it holds in any term and is not answered. A leader
    /// says so to followers that were sent everything else already. A member that refuses its
    /// vote says so to the candidate, at or before the candidate's last entry: one whose
    /// configuration is a change behind could otherwise ask a removed member forever.
    Committed {
        index: Index,
        term: Term,
    },
    /// AppendEntries. Empty `entries` carry a commit index or probe for the point of agreement.
    Append {
        prev_index: Index,
        prev_term: Term,
        commit: Index,
        entries: Vec<Entry>,
    },
    /// `index` is the last entry known to match the leader's log and to be durable here, or,
    /// with `reject`, the `prev_index` that did not match.
    AppendResponse {
        index: Index,
        reject: Option<RejectHint>,
    },
    /// `commit` never exceeds what the receiver has acknowledged. `read_seq` is the newest read
    /// round of the leader.
    Heartbeat {
        commit: Index,
        read_seq: u64,
    },
    /// Echoes the round, so that the answer to an old round never confirms a later read.
    HeartbeatResponse {
        read_seq: u64,
    },
    /// A follower hands proposals on to the leader. There is no answer.
    Propose {
        entries: Vec<Bytes>,
    },
    /// A follower hands a change of membership on to the leader. There is no answer.
    ProposeConfChange {
        data: Bytes,
        change: ConfChange,
    },
    /// A follower asks for an index that makes a read linearizable.
    ReadIndex {
        ctx: u64,
    },
    /// `index` 0 means refused: not the leader, or no entry of its term was committed in time.
    ReadIndexResponse {
        ctx: u64,
        index: Index,
    },
    /// A follower asks the leader to hand over.
    TransferLeader {
        target: NodeId,
    },
    /// The leader asks the receiver to campaign at once.
    TimeoutNow,
    /// The receiver is behind the leader's log and needs its state. Metadata only: the driver
    /// moves the bytes of any snapshot at `index` or later.
    Snapshot {
        index: Index,
        term: Term,
        conf_state: ConfState,
    },
}
