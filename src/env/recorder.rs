//! What a member reports about itself as it happens: states, counts and durations.
//!
//! One seam with two listeners: the simulator's checkers, and the daemon's flight recorder. It
//! carries no keys and no values.

use std::time::Duration;

/// What a member is at a moment, as the recorder names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}

/// What a member's state is held to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is served.
    Trusted,
    /// Nothing speaks against it, but it has to be compared with the others' before it is served.
    Unverified,
    /// It is damaged.
    Quarantined,
}

/// A step on the way of another member's state to this one, before it is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// A leader offers its state.
    Offered,
    /// A checkpoint is about to be fetched.
    Begun,
    /// The stream had broken, and goes on where it did.
    Resumed,
    /// It was installed, or not.
    Ended,
}

/// One thing that happened on one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The member with this id starts with what its disk held: a log, and the state after entry
    /// `applied`. If that state is lost, revision and hash say nothing.
    Recovered {
        member: u64,
        term: u64,
        last_index: u64,
        commit: u64,
        applied: u64,
        revision: i64,
        state_hash: u64,
        is_lost: bool,
    },
    /// Its role, its term or the leader it knows changed; `leader` is 0 for none.
    RoleChanged { role: RoleName, term: u64, leader: u64 },
    /// Its durable state: reported when the write is durable, not when it is asked for.
    HardState { term: u64, vote: u64, commit: u64 },
    /// Entries up to `last_index` are durable.
    Persisted { last_index: u64, entries: usize, took: Duration },
    /// An entry is known to be committed and is handed to apply.
    Committed { index: u64, term: u64, checksum: u32 },
    /// The state machine has applied an entry.
    Applied { index: u64, term: u64, revision: i64, state_hash: u64 },
    /// Who the members are after this entry: ids, whether they vote, where their peers find them.
    MembersChanged { index: u64, members: Vec<(u64, bool, String)>, removed: Vec<u64> },
    /// A leader has put a change of membership into its log, when so much was committed and
    /// applied.
    ChangeProposed { index: u64, term: u64, commit: u64, applied: u64 },
    /// A lease was granted, at this revision.
    LeaseGranted { index: u64, id: i64, ttl: i64, revision: i64 },
    /// A lease ended in an entry of this term, and so many keys with it: in `revision` if any.
    LeaseEnded { index: u64, term: u64, id: i64, keys: usize, revision: i64, expired: bool },
    /// A checkpoint is durable: the state after entry `index`, in so many runs.
    Checkpointed { index: u64, revision: i64, runs: usize, took: Duration },
    /// So many runs were written as one, of which `kept` bytes were still wanted.
    Rewritten { runs: usize, bytes: u64, kept: u64 },
    /// The state of another member is on its way.
    Transfer(Transfer),
    /// The state of another member took the place of this one's.
    Installed { index: u64, term: u64, revision: i64, state_hash: u64 },
    /// What its state is held to be has changed, when it had applied so much.
    Standing { standing: Standing, index: u64 },
    /// The newest checkpoint could not be loaded, and the member starts from an older one.
    FellBack,
    /// A run of this id does not verify everywhere.
    Damaged { run: u64 },
    /// The scrub met something that does not verify.
    ScrubFound,
    /// So many values of a damaged run came from other members.
    ValuesRepaired { run: u64, values: usize },
    /// A whole run took the place of a damaged one.
    RunRepaired { run: u64 },
    /// A write to the log has been outstanding for longer than an election timeout.
    SyncStalled { outstanding: Duration },
    /// So many requests were proposed, here or at the leader.
    Proposed { count: usize },
    /// A heartbeat went to a peer and was answered.
    RoundTrip { peer: u64, took: Duration },
    /// The stream of messages to a peer broke, or it has been silent for too long.
    PeerLost { peer: u64 },
    /// Nobody listens where a peer was that broke its stream: its process is gone.
    PeerGone { peer: u64 },
    /// A peer that was lost was heard again.
    PeerBack { peer: u64 },
    /// An alarm of a member was raised or cleared.
    Alarm { member: u64, alarm: &'static str, raised: bool },
    /// This member's NOSPACE alarm was raised, or taken back, by itself.
    OwnAlarm { raised: bool },
    /// The leader is about to compact up to a revision without being asked.
    AutoCompaction { revision: i64 },
    /// The disk has no room for more of the log, or has some again.
    DiskFull { full: bool },
    /// The member stops, and why.
    Stopped { reason: String },
}

/// Listens to one member. Called on the member's own tasks: it must be quick and must not block.
pub trait Recorder: Send + Sync {
    fn record(&self, event: &Event);
}

/// Listens to nothing.
#[derive(Debug, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    fn record(&self, _event: &Event) {}
}
