//! `RaftCore`: the verbs the driver calls.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::raft::confchange::changed;
use crate::raft::leader::is_wellformed;
use crate::raft::message::{
    ConfChange, ConfState, Entry, HardState, Index, Message, NodeId, Payload, Term,
};
use crate::raft::progress::ProgressView;
use crate::raft::ready::{Ready, RoleKind, Write};
use crate::raft::state::{Role, State};

pub use crate::raft::leader::{ProposeRefused, TransferRefused};
pub use crate::raft::state::{Config, Recovered};

/// Terms and indexes beyond this are nonsense from a broken peer; below it, sums can't overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// One member of a Raft group, as a function: verbs in, `Ready` out.
///
/// The same configuration, recovered state and sequence of calls give the same `Ready`s. Content
/// of a message never causes a panic; a call that breaks the driver's side of the contract does.
pub struct RaftCore {
    state: State,
}

impl RaftCore {
    /// A member as it comes up: always a follower, in the term it last knew.
    pub fn new(config: Config, recovered: Recovered) -> RaftCore {
        RaftCore { state: State::new(config, recovered) }
    }

    /// One unit of time has passed.
    pub fn tick(&mut self) {
        self.state.ticks += 1;
        match self.state.role {
            Role::Leader(_) => self.state.tick_leader(),
            Role::Follower { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                self.state.tick_follower();
            }
        }
    }

    /// A message has arrived. What is stale, misdirected or nonsense is ignored.
    pub fn step(&mut self, message: Message) {
        let state = &mut self.state;
        if message.to != state.id() || message.from == state.id() || message.from == 0 {
            return;
        }
        if !is_sane(&message) {
            return;
        }
        match request_of(message) {
            Step::Request(from, request) => state.serve_request(from, request),
            Step::InTerm(message) => state.step_in_term(message),
        }
    }

    /// Proposes a batch: appended here by a leader, handed on by a follower. Ok is not a promise
    /// that it will be committed.
    pub fn propose(&mut self, entries: Vec<Bytes>) -> Result<(), ProposeRefused> {
        self.state.propose_or_forward(Payload::Propose { entries })
    }

    /// Proposes a change of membership. `data` becomes the entry; when it is applied the driver
    /// calls `apply_conf_change` with what it decodes from it.
    pub fn propose_conf_change(
        &mut self,
        data: Bytes,
        change: ConfChange,
    ) -> Result<(), ProposeRefused> {
        assert!(is_wellformed(&change), "a change names a member: {change:?}");
        self.state.propose_or_forward(Payload::ProposeConfChange { data, change })
    }

    /// A ConfChange entry is being applied and was found valid. Call it before `applied` of
    /// the entry's index. Returns the configuration from here on.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> ConfState {
        self.state.conf = changed(&self.state.conf, change);
        self.state.conf_changed();
        self.state.conf.clone()
    }

    /// Asks for an index at which a read is linearizable; the answer comes in
    /// `Ready::read_states`. `ctx` must never be used twice by a member, not even over a
    /// restart: a late answer to the first use would pass for an answer to the second.
    pub fn read_index(&mut self, ctx: u64) -> Result<(), ProposeRefused> {
        let state = &mut self.state;
        if matches!(state.role, Role::Leader(_)) {
            state.queue_read(state.id(), ctx);
            return Ok(());
        }
        if state.forward_read(ctx) { Ok(()) } else { Err(ProposeRefused::NoLeader) }
    }

    /// Hands leadership to `target`, or asks the leader to. Proposals are refused meanwhile; it
    /// is given up after an election timeout.
    pub fn transfer_leader(&mut self, target: NodeId) -> Result<(), TransferRefused> {
        let leader = self.state.leader();
        if leader == 0 {
            Err(TransferRefused::NoLeader)
        } else if leader == self.state.id() {
            self.state.transfer_here(target)
        } else {
            self.state.send(leader, Payload::TransferLeader { target });
            Ok(())
        }
    }

    /// Stands for election without waiting for the timeout, if it may.
    pub fn campaign(&mut self) {
        self.state.campaign(false);
    }

    /// Whether `ready` may have something.
    pub fn has_ready(&self) -> bool {
        let state = &self.state;
        state.wants_flush()
            || !state.outbox.is_empty()
            || !state.outbox_after_write.is_empty()
            || state.vote_changed()
            || state.log.has_unwritten()
            || (!state.installing && state.log.has_applicable())
            || !state.read_states.is_empty()
            || state.snapshot_offer.is_some()
            || state.soft_state() != state.soft_state_told
    }

    /// Takes everything the core wants done. `ready.rs` says in which order.
    pub fn ready(&mut self) -> Ready {
        let state = &mut self.state;
        state.flush();
        let write = state.take_write();
        let committed = if state.installing {
            Vec::new()
        } else {
            state.log.take_applicable(state.config.max_ready_bytes)
        };
        let soft = state.soft_state();
        let soft_state = (soft != state.soft_state_told).then_some(soft);
        state.soft_state_told = soft;
        Ready {
            messages: std::mem::take(&mut state.outbox),
            write,
            committed,
            read_states: std::mem::take(&mut state.read_states),
            soft_state,
            snapshot: state.snapshot_offer.take(),
        }
    }

    /// Write `seq` and all before it are durable.
    pub fn persisted(&mut self, seq: u64) {
        let state = &mut self.state;
        assert!(seq <= state.write_seq, "write {seq} persisted, last was {}", state.write_seq);
        state.log.finish_writes(seq);
        while let Some((_, term, vote)) = state.votes_in_flight.pop_front_if(|w| w.0 <= seq) {
            state.durable_vote = (term, vote);
        }
        state.own_vote_persisted();
        state.advance_commit();
    }

    /// The state machine has applied everything up to `index`.
    pub fn applied(&mut self, index: Index) {
        self.state.log.applied_to(index);
    }

    /// A connection to `peer` broke, or messages to it were dropped.
    pub fn report_unreachable(&mut self, peer: NodeId) {
        self.state.peer_unreachable(peer);
    }

    /// The transfer of a snapshot to `peer` ended.
    pub fn report_snapshot(&mut self, peer: NodeId, ok: bool) {
        self.state.snapshot_ended(peer, ok);
    }

    /// Log entries up to `index`, which are applied, leave memory.
    pub fn compact(&mut self, index: Index) {
        self.state.log.compact(index);
    }

    /// A verified snapshot at `index` is there. True: from here on nothing is handed out for
    /// applying; wait until what was handed out is applied, swap the state machine and call
    /// `install_snapshot`, or call `abort_install`. False: the log got there by itself; throw the
    /// snapshot away.
    pub fn prepare_install(&mut self, index: Index) -> bool {
        self.state.installing = index > self.state.log.commit();
        self.state.installing
    }

    /// Gives up an install that `prepare_install` allowed.
    pub fn abort_install(&mut self) {
        self.state.installing = false;
    }

    /// The driver has swapped the state machine for a durable snapshot at `index`. The next write
    /// brings the log in line with it.
    pub fn install_snapshot(&mut self, index: Index, term: Term, conf_state: ConfState) {
        let state = &mut self.state;
        state.log.install(index, term);
        state.installing = false;
        state.conf = conf_state;
        state.conf_changed();
        state.announce_installed();
    }

    pub fn id(&self) -> NodeId {
        self.state.id()
    }

    pub fn role(&self) -> RoleKind {
        self.state.role_kind()
    }

    pub fn is_leader(&self) -> bool {
        self.role() == RoleKind::Leader
    }

    pub fn term(&self) -> Term {
        self.state.term
    }

    /// 0 if nobody is known to lead.
    pub fn leader(&self) -> NodeId {
        self.state.leader()
    }

    pub fn hard_state(&self) -> HardState {
        self.state.hard_state()
    }

    pub fn conf_state(&self) -> &ConfState {
        &self.state.conf
    }

    pub fn commit_index(&self) -> Index {
        self.state.log.commit()
    }

    pub fn applied_index(&self) -> Index {
        self.state.log.applied()
    }

    /// Up to here the log is durable on this member, as it stands.
    pub fn persisted_index(&self) -> Index {
        self.state.log.persisted()
    }

    pub fn first_index(&self) -> Index {
        self.state.log.first_index()
    }

    pub fn last_index(&self) -> Index {
        self.state.log.last_index()
    }

    pub fn last_term(&self) -> Term {
        self.state.log.last_term()
    }

    /// The term at an index; None if it is compacted away or not there yet.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.state.log.term(index)
    }

    /// The entries in memory from `low` to `high`, both included.
    pub fn entries(&self, low: Index, high: Index) -> Vec<Entry> {
        self.state.log.slice(low, high, usize::MAX)
    }

    /// Whether this leader has committed an entry of its own term.
    pub fn has_committed_in_term(&self) -> bool {
        match &self.state.role {
            Role::Leader(leader) => self.state.log.commit() >= leader.first_of_term,
            Role::Follower { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } => false,
        }
    }

    /// To whom leadership is being handed, 0 if to nobody.
    pub fn transfer_target(&self) -> NodeId {
        match &self.state.role {
            Role::Leader(leader) => leader.transfer_to,
            Role::Follower { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } => 0,
        }
    }

    /// The voter that could take over best, for a leader that wants to hand over.
    pub fn best_successor(&self) -> Option<NodeId> {
        self.state.best_successor()
    }

    /// A leader's view of its followers; empty for anybody else.
    pub fn progress(&self) -> BTreeMap<NodeId, ProgressView> {
        let learners = &self.state.conf.learners;
        match &self.state.role {
            Role::Leader(leader) => leader
                .progress
                .iter()
                .map(|(peer, progress)| (*peer, progress.view(learners.contains(peer))))
                .collect(),
            Role::Follower { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                BTreeMap::new()
            }
        }
    }
}

/// Whether the numbers of a message make sense by themselves.
fn is_sane(message: &Message) -> bool {
    let Message { term, payload, .. } = message;
    *term <= NUMBER_MAX
        && match payload {
            Payload::Append { prev_index, prev_term, entries, .. } => {
                let mut expected = *prev_index;
                let mut last_term = *prev_term;
                *prev_index <= NUMBER_MAX
                    && entries.iter().all(|entry| {
                        expected += 1;
                        let rising = entry.term >= last_term && entry.term <= *term;
                        last_term = entry.term;
                        rising && entry.index == expected
                    })
            }
            Payload::AppendResponse { index, reject } => {
                *index <= NUMBER_MAX && reject.is_none_or(|hint| hint.index <= NUMBER_MAX)
            }
            Payload::Snapshot { index, term: snapshot_term, .. } => {
                *index <= NUMBER_MAX && snapshot_term <= term
            }
            Payload::ProposeConfChange { change, .. } => is_wellformed(change),
            Payload::PreVote { .. }
            | Payload::PreVoteResponse { .. }
            | Payload::Vote { .. }
            | Payload::VoteResponse { .. }
            | Payload::Heartbeat { .. }
            | Payload::HeartbeatResponse { .. }
            | Payload::Propose { .. }
            | Payload::ReadIndex { .. }
            | Payload::ReadIndexResponse { .. }
            | Payload::Committed { .. }
            | Payload::TransferLeader { .. }
            | Payload::TimeoutNow => true,
        }
}

/// A message is either a request, which is good in any term, or part of the protocol of a term.
enum Step {
    Request(NodeId, Payload),
    InTerm(Message),
}

fn request_of(message: Message) -> Step {
    match message.payload {
        Payload::Propose { .. }
        | Payload::ProposeConfChange { .. }
        | Payload::ReadIndex { .. }
        | Payload::ReadIndexResponse { .. }
        | Payload::Committed { .. }
        | Payload::TransferLeader { .. } => Step::Request(message.from, message.payload),
        Payload::PreVote { .. }
        | Payload::PreVoteResponse { .. }
        | Payload::Vote { .. }
        | Payload::VoteResponse { .. }
        | Payload::Append { .. }
        | Payload::AppendResponse { .. }
        | Payload::Heartbeat { .. }
        | Payload::HeartbeatResponse { .. }
        | Payload::TimeoutNow
        | Payload::Snapshot { .. } => Step::InTerm(message),
    }
}

impl State {
    fn propose_or_forward(&mut self, proposal: Payload) -> Result<(), ProposeRefused> {
        let leader = self.leader();
        if leader == 0 {
            return Err(ProposeRefused::NoLeader);
        }
        if leader != self.id() {
            self.send(leader, proposal);
            return Ok(());
        }
        match proposal {
            Payload::Propose { entries } => self.propose_here(entries),
            Payload::ProposeConfChange { data, .. } => self.propose_conf_change_here(data),
            other => panic!("not a proposal: {other:?}"),
        }
    }

    /// Serves what another member asked of this one as a leader, or answered to it.
    fn serve_request(&mut self, from: NodeId, request: Payload) {
        let leads = matches!(self.role, Role::Leader(_));
        match request {
            // Handing a proposal on a second time could go in circles; whoever asked sees a
            // deadline pass, as for any other lost proposal.
            Payload::Propose { .. } | Payload::ProposeConfChange { .. } if leads => {
                let dropped = self.propose_or_forward(request);
                debug_assert!(dropped != Err(ProposeRefused::NoLeader), "a leader knows itself");
            }
            Payload::ReadIndex { ctx } if leads => self.queue_read(from, ctx),
            Payload::ReadIndex { ctx } => {
                self.send(from, Payload::ReadIndexResponse { ctx, index: 0 });
            }
            Payload::ReadIndexResponse { ctx, index } => {
                self.handle_read_index_response(ctx, index);
            }
            Payload::Committed { index, term } => self.handle_committed(index, term),
            Payload::TransferLeader { target } if leads => {
                // A target that doesn't vote is refused; there is nobody to tell.
                self.transfer_here(target).ok();
            }
            _ => {}
        }
    }

    fn step_in_term(&mut self, message: Message) {
        if message.term > self.term && !self.meet_higher_term(&message) {
            return;
        }
        // A granted pre-vote and its request carry a term that nobody has entered yet.
        if message.term < self.term {
            self.answer_stale(&message);
            return;
        }
        let Message { from, term, payload, .. } = message;
        match payload {
            Payload::PreVote { last_index, last_term } => {
                self.handle_pre_vote(from, term, (last_index, last_term));
            }
            Payload::PreVoteResponse { granted } => {
                self.handle_pre_vote_response(from, term, granted);
            }
            Payload::Vote { last_index, last_term, .. } => {
                self.handle_vote(from, (last_index, last_term));
            }
            Payload::VoteResponse { granted } => self.handle_vote_response(from, granted),
            Payload::Append { prev_index, prev_term, commit, entries } => {
                self.handle_append(from, (prev_index, prev_term), commit, entries);
            }
            Payload::AppendResponse { index, reject } => {
                self.handle_append_response(from, index, reject);
            }
            Payload::Heartbeat { commit, read_seq } => {
                self.handle_heartbeat(from, commit, read_seq);
            }
            Payload::HeartbeatResponse { read_seq } => {
                self.handle_heartbeat_response(from, read_seq);
            }
            Payload::TimeoutNow => self.handle_timeout_now(from),
            Payload::Snapshot { index, term, .. } => self.handle_snapshot(from, index, term),
            Payload::Propose { .. }
            | Payload::ProposeConfChange { .. }
            | Payload::ReadIndex { .. }
            | Payload::ReadIndexResponse { .. }
            | Payload::Committed { .. }
            | Payload::TransferLeader { .. } => {}
        }
    }

    /// Enters a higher term if the message calls for it. False if the message is to be ignored.
    fn meet_higher_term(&mut self, message: &Message) -> bool {
        match message.payload {
            Payload::PreVote { .. } => !self.is_loyal_against(message.from),
            // It carries the term this member asked for; nobody is there yet.
            Payload::PreVoteResponse { granted: true } => true,
            Payload::Vote { transfer, .. } => {
                if !transfer && self.is_loyal_against(message.from) {
                    return false;
                }
                self.become_follower(message.term, 0);
                true
            }
            Payload::Append { .. } | Payload::Heartbeat { .. } | Payload::Snapshot { .. } => {
                self.become_follower(message.term, message.from);
                true
            }
            Payload::PreVoteResponse { granted: false }
            | Payload::VoteResponse { .. }
            | Payload::AppendResponse { .. }
            | Payload::HeartbeatResponse { .. }
            | Payload::TimeoutNow
            | Payload::Propose { .. }
            | Payload::ProposeConfChange { .. }
            | Payload::ReadIndex { .. }
            | Payload::ReadIndexResponse { .. }
            | Payload::Committed { .. }
            | Payload::TransferLeader { .. } => {
                self.become_follower(message.term, 0);
                true
            }
        }
    }

    /// Tells a sender of a lower term what the term is. Without it, a member whose term is ahead
    /// but whose log is behind would stay alone: it ignores the leader, and nobody elects it.
    fn answer_stale(&mut self, message: &Message) {
        match message.payload {
            Payload::Append { .. } | Payload::Heartbeat { .. } | Payload::Snapshot { .. } => {
                // The term is the message; a rejection of 0 moves nothing.
                let reject = Some(crate::raft::message::RejectHint { index: 0, term: 0 });
                self.send(message.from, Payload::AppendResponse { index: 0, reject });
            }
            Payload::PreVote { .. } => {
                self.send(message.from, Payload::PreVoteResponse { granted: false });
            }
            Payload::Vote { .. } => {
                self.send(message.from, Payload::VoteResponse { granted: false });
            }
            Payload::PreVoteResponse { .. }
            | Payload::VoteResponse { .. }
            | Payload::AppendResponse { .. }
            | Payload::HeartbeatResponse { .. }
            | Payload::TimeoutNow
            | Payload::Propose { .. }
            | Payload::ProposeConfChange { .. }
            | Payload::ReadIndex { .. }
            | Payload::ReadIndexResponse { .. }
            | Payload::Committed { .. }
            | Payload::TransferLeader { .. } => {}
        }
    }

    fn vote_changed(&self) -> bool {
        (self.term, self.vote) != (self.written.term, self.written.vote)
    }

    /// The next write. The commit index rides along and never causes a write of its own.
    fn take_write(&mut self) -> Option<Write> {
        let vote_changed = self.vote_changed();
        if !vote_changed && !self.log.has_unwritten() {
            if self.outbox_after_write.is_empty() {
                return None;
            }
            if !self.log.has_writes_in_flight() {
                // Everything is durable: nothing to wait for.
                self.outbox.append(&mut self.outbox_after_write);
                return None;
            }
        }
        self.write_seq += 1;
        let seq = self.write_seq;
        let (restart, entries) = self.log.start_write(seq);
        let hard = self.hard_state();
        let carries = vote_changed || restart.is_some() || !entries.is_empty();
        let hard_state = (carries && hard != self.written).then_some(hard);
        if let Some(hard) = hard_state {
            self.written = hard;
            self.votes_in_flight.push_back((seq, hard.term, hard.vote));
        }
        let messages = std::mem::take(&mut self.outbox_after_write);
        Some(Write { seq, restart, hard_state, entries, messages })
    }
}
