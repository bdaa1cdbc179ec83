//! The fields of one member, and what its roles share: terms, timers, outboxes.

use std::collections::{BTreeMap, VecDeque};

use crate::raft::log::Log;
use crate::raft::message::{ConfState, Entry, HardState, Index, Message, NodeId, Payload, Term};
use crate::raft::progress::Progress;
use crate::raft::read_index::ReadQueue;
use crate::raft::ready::{ReadState, RoleKind, SnapshotOffer, SoftState};

/// How a member behaves. Ticks are the driver's unit of time.
#[derive(Clone, Debug)]
pub struct Config {
    pub id: NodeId,
    /// A follower campaigns after hearing nothing for between one and two times this long.
    pub election_ticks: u32,
    pub heartbeat_ticks: u32,
    /// Entries in one append; at least one entry goes whatever its size.
    pub max_append_bytes: usize,
    /// Appends on their way to one follower.
    pub max_inflight_messages: usize,
    pub max_inflight_bytes: usize,
    /// Ask whether an election could be won before disturbing anybody with a higher term.
    pub pre_vote: bool,
    /// The first election timeout is nearly over when the member starts: what it waits for is only
    /// a heartbeat of the leader that there may be.
    pub initial_tick_advance: bool,
    /// A leader that hears from no quorum for an election timeout steps down, and who hears
    /// from a leader refuses to vote against it.
    pub check_quorum: bool,
    /// Decides the election timeouts and nothing else. Differs from member to member.
    pub seed: u64,
    /// Proposals beyond this much uncommitted data are refused.
    pub max_uncommitted_bytes: usize,
    /// Committed entries in one Ready; at least one goes whatever its size.
    pub max_ready_bytes: usize,
}

/// What stable storage held when the member started.
///
/// A founding member starts with the founders in `conf_state`. Whoever joins later starts empty;
/// if the founders start at `snapshot_index` 1 and `applied` 1, a joiner always begins with a
/// snapshot and with it the configuration, which is not otherwise in the log.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub hard_state: HardState,
    /// The configuration as of `applied`.
    pub conf_state: ConfState,
    /// The log begins after this index; 0 for a whole log.
    pub snapshot_index: Index,
    pub snapshot_term: Term,
    /// Everything durable, contiguous. May begin before the snapshot.
    pub entries: Vec<Entry>,
    /// How far the recovered state machine is. At least `snapshot_index`.
    pub applied: Index,
}

/// A source of chance from a seed: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u32
    }
}

/// A read that a follower handed on, with the tick at which it gives up.
#[derive(Clone, Copy, Debug)]
pub(super) struct ForwardedRead {
    pub(super) ctx: u64,
    pub(super) deadline: u64,
}

/// What a leader keeps for its term.
pub(super) struct Leader {
    /// Everybody in the configuration but the leader itself.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    pub(super) heartbeat_elapsed: u32,
    /// The first entry of the term, the empty one.
    pub(super) first_of_term: Index,
    /// No change of membership is proposed before this index is applied.
    pub(super) last_conf_change: Index,
    pub(super) uncommitted_bytes: usize,
    /// Who is to take over, 0 if nobody.
    pub(super) transfer_to: NodeId,
    pub(super) reads: ReadQueue,
    /// Something may have to be sent: looked at when the driver takes the next Ready, so that
    /// all inputs of one turn share their messages.
    pub(super) dirty: bool,
    /// Room for counting quorums, kept to spare an allocation for each answer.
    pub(super) scratch: Vec<u64>,
}

/// What a member is, with the data of that role.
pub(super) enum Role {
    /// `leader` is 0 if nobody is known to lead.
    Follower {
        leader: NodeId,
        reads: VecDeque<ForwardedRead>,
    },
    PreCandidate {
        votes: BTreeMap<NodeId, bool>,
    },
    Candidate {
        votes: BTreeMap<NodeId, bool>,
    },
    Leader(Box<Leader>),
}

/// One member.
///
/// Invariants:
/// - `term` never falls; `vote` changes only from 0 within a term;
/// - a leader or candidate has voted for itself in `term`;
/// - a leader's vote and term are durable.
pub(super) struct State {
    pub(super) config: Config,
    pub(super) term: Term,
    pub(super) vote: NodeId,
    pub(super) log: Log,
    pub(super) conf: ConfState,
    pub(super) role: Role,
    pub(super) ticks: u64,
    pub(super) election_elapsed: u32,
    pub(super) election_timeout: u32,
    chance: Chance,
    /// What may leave at once.
    pub(super) outbox: Vec<Message>,
    /// What leaves once everything decided so far is durable.
    pub(super) outbox_after_write: Vec<Message>,
    pub(super) read_states: Vec<ReadState>,
    pub(super) snapshot_offer: Option<SnapshotOffer>,
    /// Between `prepare_install` and `install_snapshot` nothing is handed out.
    pub(super) installing: bool,
    pub(super) disk_stalled: bool,
    /// The last question that found this member loyal to its leader: who asked, for which term, and
    /// where that log ends.
    pub(super) passed_over: Option<(NodeId, Term, (Index, Term))>,
    /// The last hard state that a write carried.
    pub(super) written: HardState,
    /// What was committed when the configuration last changed.
    pub(super) conf_commit: Index,
    /// Terms and votes of writes in flight, by sequence number.
    pub(super) votes_in_flight: VecDeque<(u64, Term, NodeId)>,
    /// The term and vote that are durable.
    pub(super) durable_vote: (Term, NodeId),
    pub(super) write_seq: u64,
    pub(super) soft_state_told: SoftState,
}

impl State {
    pub(super) fn new(config: Config, recovered: Recovered) -> State {
        assert!(config.id != 0, "a member has an id");
        assert!(config.heartbeat_ticks > 0, "heartbeats need a tick");
        let (election, heartbeat) = (config.election_ticks, config.heartbeat_ticks);
        assert!(election > heartbeat, "election {election} <= heartbeat {heartbeat}");
        let hard = recovered.hard_state;
        let log = Log::new(
            recovered.snapshot_index,
            recovered.snapshot_term,
            recovered.entries,
            hard.commit,
            recovered.applied,
        );
        // A torn write can leave entries without the hard state beside them. Their term was
        // seen, and a vote in it can't have left.
        let (term, vote) = match hard.term.cmp(&log.last_term()) {
            std::cmp::Ordering::Less => (log.last_term(), 0),
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => (hard.term, hard.vote),
        };
        let mut state = State {
            chance: Chance::new(config.seed ^ config.id.rotate_left(32)),
            config,
            term,
            vote,
            log,
            conf: recovered.conf_state,
            role: Role::Follower { leader: 0, reads: VecDeque::new() },
            ticks: 0,
            election_elapsed: 0,
            election_timeout: 0,
            outbox: Vec::new(),
            outbox_after_write: Vec::new(),
            read_states: Vec::new(),
            snapshot_offer: None,
            installing: false,
            disk_stalled: false,
            passed_over: None,
            conf_commit: 0,
            written: hard,
            votes_in_flight: VecDeque::new(),
            durable_vote: (hard.term, hard.vote),
            write_seq: 0,
            soft_state_told: SoftState { leader: 0, role: RoleKind::Follower, term: hard.term },
        };
        state.shorten_first_wait();
        state
    }

    /// Begins the election timer of a member that has just started. Nobody is loyal to a leader
    /// yet, and one that there is speaks within a heartbeat interval.
    fn shorten_first_wait(&mut self) {
        self.reset_election_timer();
        if self.config.initial_tick_advance {
            let rest = 2 * self.config.heartbeat_ticks;
            self.election_elapsed = self.config.election_ticks.saturating_sub(rest);
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.config.id
    }

    pub(super) fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.commit() }
    }

    pub(super) fn soft_state(&self) -> SoftState {
        SoftState { leader: self.leader(), role: self.role_kind(), term: self.term }
    }

    pub(super) fn role_kind(&self) -> RoleKind {
        match self.role {
            Role::Follower { .. } => RoleKind::Follower,
            Role::PreCandidate { .. } => RoleKind::PreCandidate,
            Role::Candidate { .. } => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    /// Who leads, as far as is known. Candidates of either kind know of nobody: otherwise they
    /// would refuse each other out of loyalty to a leader that is gone.
    pub(super) fn leader(&self) -> NodeId {
        match self.role {
            Role::Follower { leader, .. } => leader,
            Role::PreCandidate { .. } | Role::Candidate { .. } => 0,
            Role::Leader(_) => self.id(),
        }
    }

    /// Whether this member may campaign at all.
    pub(super) fn is_promotable(&self) -> bool {
        self.conf.voters.contains(&self.id())
    }

    /// Whether nobody else can lead.
    pub(super) fn is_alone(&self) -> bool {
        self.conf.voters.iter().eq([&self.id()])
    }

    pub(super) fn reset_election_timer(&mut self) {
        let ticks = self.config.election_ticks;
        self.election_elapsed = 0;
        self.election_timeout = ticks + self.chance.below(ticks);
    }

    /// Puts a message in the outbox that leaves at once.
    pub(super) fn send(&mut self, to: NodeId, payload: Payload) {
        self.send_in_term(to, self.term, payload);
    }

    pub(super) fn send_in_term(&mut self, to: NodeId, term: Term, payload: Payload) {
        assert!(to != self.id() && to != 0, "a message from {} to {to}", self.id());
        self.outbox.push(Message { from: self.id(), to, term, payload });
    }

    /// Puts a message in the outbox that waits until all that was decided so far is durable: it
    /// promises something which a crash must not take back.
    pub(super) fn send_after_write(&mut self, to: NodeId, payload: Payload) {
        assert!(to != self.id() && to != 0, "a message from {} to {to}", self.id());
        let message = Message { from: self.id(), to, term: self.term, payload };
        self.outbox_after_write.push(message);
    }

    /// Ends the role, answering the reads that can't be served any more.
    pub(super) fn leave_role(&mut self) {
        let nobody = Role::Follower { leader: 0, reads: VecDeque::new() };
        match std::mem::replace(&mut self.role, nobody) {
            Role::Follower { reads, .. } => {
                let refused = reads.iter().map(|read| ReadState { ctx: read.ctx, index: None });
                self.read_states.extend(refused);
            }
            Role::PreCandidate { .. } | Role::Candidate { .. } => {}
            Role::Leader(mut leader) => {
                for read in leader.reads.expire(u64::MAX) {
                    self.answer_read(read.from, read.ctx, 0);
                }
            }
        }
    }

    /// Answers a read, here or at the follower that asked. Index 0 refuses it.
    pub(super) fn answer_read(&mut self, from: NodeId, ctx: u64, index: Index) {
        if from == self.id() {
            let index = (index != 0).then_some(index);
            self.read_states.push(ReadState { ctx, index });
        } else {
            self.send(from, Payload::ReadIndexResponse { ctx, index });
        }
    }
}
