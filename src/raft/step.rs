//! What becomes of a message: is it sane, whose term is it of, which rule does it meet.

use crate::raft::leader::ProposeRefused;
use crate::raft::message::{ConfChange, Message, NodeId, Payload, RejectHint};
use crate::raft::state::{Role, State};

/// Terms and indexes beyond this are nonsense from a broken peer; below it, sums can't overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// Whether the numbers of a message make sense by themselves.
pub(super) fn is_sane(message: &Message) -> bool {
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
pub(super) enum Step {
    Request(NodeId, Payload),
    InTerm(Message),
}

pub(super) fn request_of(message: Message) -> Step {
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
    pub(super) fn propose_or_forward(&mut self, proposal: Payload) -> Result<(), ProposeRefused> {
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
    pub(super) fn serve_request(&mut self, from: NodeId, request: Payload) {
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
            // The rest is for a leader, or isn't a request.
            _ => {}
        }
    }

    pub(super) fn step_in_term(&mut self, message: Message) {
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
            Payload::PreVote { last_index, last_term } => {
                let loyal = self.is_loyal_against(message.from);
                if loyal {
                    self.passed_over = Some((message.from, message.term, (last_index, last_term)));
                }
                !loyal
            }
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
                let reject = Some(RejectHint { index: 0, term: 0 });
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
}

/// Whether a proposed change is worth an entry at all.
pub(super) fn is_wellformed(change: &ConfChange) -> bool {
    match *change {
        ConfChange::AddVoter(node)
        | ConfChange::AddLearner(node)
        | ConfChange::Promote(node)
        | ConfChange::Remove(node) => node != 0,
    }
}
