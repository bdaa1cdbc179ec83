//! `RaftCore`: the verbs the driver calls.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::raft::confchange::changed;
use crate::raft::message::{
    ConfChange, ConfState, Entry, HardState, Index, Message, NodeId, Payload, Term,
};
use crate::raft::progress::ProgressView;
use crate::raft::ready::{Ready, RoleKind, Write};
use crate::raft::state::{Role, State};
use crate::raft::step::{Step, is_sane, is_wellformed, request_of};

pub use crate::raft::leader::{ProposeRefused, TransferRefused};
pub use crate::raft::state::{Config, Recovered};

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

    /// Whether a change of membership proposed at this moment would be taken: this member leads,
    /// every earlier change is applied here, and an entry of this term is committed.
    pub fn may_change_conf(&self) -> bool {
        self.state.may_change_conf()
    }

    /// A ConfChange entry is being applied and was found valid. Call it before `applied` of
    /// the entry's index. Returns the configuration from here on.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> ConfState {
        self.state.conf = changed(&self.state.conf, change);
        self.state.conf_commit = self.state.log.commit();
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
            || state.hard_state_due()
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

    /// The process of `peer` is gone: nobody listens where it was. If it led, this member does
    /// not wait for the whole election timeout.
    pub fn suspect(&mut self, peer: NodeId) {
        self.state.suspect(peer);
    }

    /// Whether this member's disk takes so long that it could not make anything durable as a
    /// leader. It does not campaign then; who asks for its vote gets it once it is durable.
    pub fn set_disk_stalled(&mut self, stalled: bool) {
        self.state.disk_stalled = stalled;
    }

    /// The transfer of a snapshot to `peer` ended.
    pub fn report_snapshot(&mut self, peer: NodeId, ok: bool) {
        self.state.snapshot_ended(peer, ok);
    }

    /// How far `compact` may go behind a checkpoint at `index`, leaving `entries` for followers
    /// that are a little behind, but no more of them than fit `bytes`.
    pub fn compaction_point(&self, index: Index, entries: u64, bytes: u64) -> Index {
        let index = index.min(self.state.log.applied());
        self.state.log.compaction_point(index, entries, bytes)
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

    /// Like `prepare_install`, before a snapshot is there: the state machine is damaged, and the
    /// log is not. Returns the index that the snapshot must reach at the least. It may be one that
    /// the log has: the entries behind it stay, and are handed out once it is installed.
    pub fn hold_apply(&mut self) -> Index {
        self.state.installing = true;
        self.state.log.handed_out()
    }

    /// Gives up an install that `prepare_install` allowed, or `hold_apply` began.
    pub fn abort_install(&mut self) {
        self.state.installing = false;
    }

    /// The driver has swapped the state machine for a durable snapshot at `index`. The next write
    /// brings the log in line with it.
    pub fn install_snapshot(&mut self, index: Index, term: Term, conf_state: ConfState) {
        let state = &mut self.state;
        // Whoever sent it may have gone on to a later term since it offered it. That term was seen
        // here then, as with a message (Raft paper, section 5.1): nobody leads with a log that ends
        // in a term after its own.
        if term > state.term {
            state.become_follower(term, 0);
        }
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

impl State {
    /// Whether a term, a vote or a new configuration is to become durable. Who comes up without
    /// knowing that it is committed would ask the members of the one before, and they may be gone.
    fn hard_state_due(&self) -> bool {
        (self.term, self.vote) != (self.written.term, self.written.vote)
            || self.written.commit < self.conf_commit
    }

    /// The next write. The commit index rides along, and causes a write of its own only with a
    /// new configuration.
    fn take_write(&mut self) -> Option<Write> {
        let due = self.hard_state_due();
        if !due && !self.log.has_unwritten() {
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
        let carries = due || restart.is_some() || !entries.is_empty();
        let hard_state = (carries && hard != self.written).then_some(hard);
        if let Some(hard) = hard_state {
            self.written = hard;
            self.votes_in_flight.push_back((seq, hard.term, hard.vote));
        }
        let messages = std::mem::take(&mut self.outbox_after_write);
        Some(Write { seq, restart, hard_state, entries, messages })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::message::{EntryKind, RejectHint};

    fn small() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0u64..6, 1 => Just(u64::MAX), 1 => any::<u64>()]
    }

    fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
        let entry = (small(), small(), any::<bool>()).prop_map(|(term, index, change)| Entry {
            term,
            index,
            kind: if change { EntryKind::ConfChange } else { EntryKind::Normal },
            data: Bytes::from_static(b"x"),
        });
        prop_oneof![
            prop::collection::vec(entry, 0..3),
            (1u64..6, 1u64..4, 0u64..4).prop_map(|(first, term, count)| {
                (first..first + count)
                    .map(|index| Entry {
                        term,
                        index,
                        kind: EntryKind::ConfChange,
                        data: Bytes::new(),
                    })
                    .collect()
            }),
        ]
    }

    fn any_payload() -> impl Strategy<Value = Payload> {
        (0..14, small(), small(), small(), any::<bool>(), any_entries()).prop_map(
            |(kind, a, b, c, flag, entries)| match kind {
                0 => Payload::PreVote { last_index: a, last_term: b },
                1 => Payload::PreVoteResponse { granted: flag },
                2 => Payload::Vote { last_index: a, last_term: b, transfer: flag },
                3 | 4 => Payload::VoteResponse { granted: flag },
                5 | 6 => {
                    let prev_index = entries.first().map_or(a, |e| e.index.saturating_sub(1));
                    Payload::Append { prev_index, prev_term: b, commit: c, entries }
                }
                7 => {
                    let reject = flag.then_some(RejectHint { index: b, term: c });
                    Payload::AppendResponse { index: a, reject }
                }
                8 => Payload::Heartbeat { commit: a, read_seq: b },
                9 => Payload::HeartbeatResponse { read_seq: a },
                10 => Payload::Committed { index: a, term: b },
                11 => Payload::TimeoutNow,
                12 => Payload::Snapshot { index: a, term: b, conf_state: ConfState::default() },
                _ => Payload::ReadIndexResponse { ctx: a, index: b },
            },
        )
    }

    fn one_of_three() -> RaftCore {
        let config = Config {
            id: 1,
            election_ticks: 5,
            heartbeat_ticks: 1,
            max_append_bytes: 30,
            max_inflight_messages: 2,
            max_inflight_bytes: 100,
            pre_vote: false,
            initial_tick_advance: false,
            check_quorum: false,
            seed: 1,
            max_uncommitted_bytes: 100,
            max_ready_bytes: 50,
        };
        let conf_state = ConfState { voters: [1, 2, 3].into(), learners: [].into() };
        RaftCore::new(config, Recovered { conf_state, ..Recovered::default() })
    }

    #[test]
    fn a_snapshot_of_a_later_term_brings_its_term_along() {
        let mut core = one_of_three();
        core.campaign();
        assert_eq!((core.term(), core.role()), (1, RoleKind::Candidate));
        assert!(core.prepare_install(9));
        core.install_snapshot(9, 3, core.conf_state().clone());
        // A vote of the first term that comes now makes nobody a leader.
        let payload = Payload::VoteResponse { granted: true };
        core.step(Message { from: 2, to: 1, term: 1, payload });
        assert_eq!((core.term(), core.role()), (3, RoleKind::Follower));
        let written = core.ready().write.and_then(|write| write.hard_state);
        assert_eq!(written, Some(HardState { term: 3, vote: 0, commit: 9 }));
    }

    proptest! {
        /// Whatever a peer sends, the core neither panics nor breaks its word on the disk.
        #[test]
        fn no_message_causes_a_panic(
            inputs in prop::collection::vec((1u64..4, small(), any_payload(), 0..6), 1..80),
        ) {
            let mut core = one_of_three();
            for (from, term, payload, also) in inputs {
                match also {
                    0 => core.tick(),
                    1 => core.campaign(),
                    2 => drop(core.propose(vec![Bytes::from_static(b"p")])),
                    _ => {}
                }
                let term = if also > 2 { core.term() } else { term };
                core.step(Message { from, to: 1, term, payload });
                while core.has_ready() {
                    let ready = core.ready();
                    if let Some(write) = ready.write {
                        core.persisted(write.seq);
                    }
                    if let Some(last) = ready.committed.last() {
                        core.applied(last.index);
                    }
                }
                prop_assert!(core.commit_index() <= core.last_index());
                prop_assert_eq!(core.persisted_index(), core.last_index());
            }
        }
    }
}
