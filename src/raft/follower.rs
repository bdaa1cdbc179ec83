//! The follower's rules: take the leader's log, never promise what is not durable.

use std::collections::VecDeque;

use crate::raft::log::Appended;
use crate::raft::message::{Entry, Index, NodeId, Payload, RejectHint, Term};
use crate::raft::ready::{ReadState, SnapshotOffer};
use crate::raft::state::{ForwardedRead, Role, State};

impl State {
    /// Becomes a follower of `leader`, 0 if none is known, in `term`.
    ///
    /// Only word from a leader, or the end of leading, sets the election timer back. A candidate
    /// that can't win must not silence those who can by raising the term again and again.
    pub(super) fn become_follower(&mut self, term: Term, leader: NodeId) {
        assert!(term >= self.term, "back from term {} to {term}", self.term);
        let led = matches!(self.role, Role::Leader(_));
        self.leave_role();
        if term > self.term {
            self.term = term;
            // Within a term the vote stays, whatever role comes and goes.
            self.vote = 0;
        }
        self.role = Role::Follower { leader, reads: VecDeque::new() };
        if leader != 0 || led {
            self.reset_election_timer();
        }
    }

    /// Notes that `from` leads this term. False if that can't be.
    fn follow(&mut self, from: NodeId) -> bool {
        match &self.role {
            Role::Leader(_) => false,
            Role::Follower { leader, .. } if *leader == from => {
                self.election_elapsed = 0;
                true
            }
            // Two leaders in one term don't exist; whoever says so is broken.
            Role::Follower { leader, .. } if *leader != 0 => false,
            Role::Follower { .. } | Role::PreCandidate { .. } | Role::Candidate { .. } => {
                self.become_follower(self.term, from);
                true
            }
        }
    }

    pub(super) fn handle_append(
        &mut self,
        from: NodeId,
        (prev_index, prev_term): (Index, Term),
        commit: Index,
        entries: Vec<Entry>,
    ) {
        if !self.follow(from) {
            return;
        }
        match self.log.try_append(prev_index, prev_term, entries) {
            Appended::Matched(last) => {
                self.log.commit_to(commit.min(last));
                let response = Payload::AppendResponse { index: last, reject: None };
                self.send_after_write(from, response);
            }
            Appended::Rejected => {
                let (index, term) = self.log.last_not_above(prev_index, prev_term);
                let hint = RejectHint { index, term: term.unwrap_or(0) };
                let response = Payload::AppendResponse { index: prev_index, reject: Some(hint) };
                self.send(from, response);
            }
            Appended::Broken => {}
        }
    }

    pub(super) fn handle_heartbeat(&mut self, from: NodeId, commit: Index, read_seq: u64) {
        if !self.follow(from) {
            return;
        }
        // A correct leader never names more than this member acknowledged.
        if commit <= self.log.last_index() {
            self.log.commit_to(commit);
        }
        self.send(from, Payload::HeartbeatResponse { read_seq });
    }

    pub(super) fn handle_snapshot(&mut self, from: NodeId, index: Index, term: Term) {
        if !self.follow(from) {
            return;
        }
        if index <= self.log.commit() || self.log.term(index) == Some(term) {
            // The log has it: a snapshot is committed, so a matching entry is.
            self.log.commit_to(index);
            let response = Payload::AppendResponse { index: self.log.commit(), reject: None };
            self.send_after_write(from, response);
        } else {
            self.snapshot_offer = Some(SnapshotOffer { from, index, term });
        }
    }

    /// The leader wants this member to take over.
    pub(super) fn handle_timeout_now(&mut self, from: NodeId) {
        if self.leader() == from {
            // The leader consents, so there is nobody to ask first, and a refused pre-vote
            // must not lead back to following.
            self.campaign(true);
        }
    }

    /// Tells the leader how far this member is, after its state was swapped.
    pub(super) fn announce_installed(&mut self) {
        let leader = self.leader();
        if leader != 0 && leader != self.id() {
            let response = Payload::AppendResponse { index: self.log.commit(), reject: None };
            self.send_after_write(leader, response);
        }
    }

    /// Hands a read on to the leader. False if there is none.
    pub(super) fn forward_read(&mut self, ctx: u64) -> bool {
        let deadline = self.ticks + u64::from(self.config.election_ticks);
        let Role::Follower { leader, reads } = &mut self.role else { return false };
        let leader = *leader;
        if leader == 0 {
            return false;
        }
        reads.push_back(ForwardedRead { ctx, deadline });
        self.send(leader, Payload::ReadIndex { ctx });
        true
    }

    /// The leader answered a read. Only the first answer to a read that still waits counts.
    pub(super) fn handle_read_index_response(&mut self, ctx: u64, index: Index) {
        let Role::Follower { reads, .. } = &mut self.role else { return };
        let Some(position) = reads.iter().position(|read| read.ctx == ctx) else { return };
        reads.remove(position);
        let index = (index != 0).then_some(index);
        self.read_states.push(ReadState { ctx, index });
    }

    /// Takes `peer` for gone. If it led, this member is no longer loyal to it, and campaigns soon.
    /// It may be wrong: a leader that a quorum still hears keeps its place by the pre-vote, and a
    /// heartbeat takes all of it back.
    pub(super) fn suspect(&mut self, peer: NodeId) {
        if self.leader() != peer || peer == self.id() {
            return;
        }
        let ticks = self.config.election_ticks;
        if self.election_elapsed < ticks {
            self.election_elapsed = ticks;
            self.campaign_soon(peer);
            // Another may have found out first.
            if let Some((from, term, last)) = self.passed_over.take()
                && term == self.term + 1
            {
                self.handle_pre_vote(from, term, last);
            }
        }
    }

    /// Campaigns before the election timeout, because `loser` can't lead: the voters one after
    /// another in the order of their ids, a heartbeat interval apart, so that the first has won or
    /// lost before the next one asks.
    pub(super) fn campaign_soon(&mut self, loser: NodeId) {
        let before = self.conf.voters.iter().filter(|v| **v < self.id() && **v != loser).count();
        let delay = 1 + before as u32 * self.config.heartbeat_ticks;
        self.election_timeout = self.election_timeout.min(self.election_elapsed + delay);
    }

    pub(super) fn tick_follower(&mut self) {
        let ticks = self.ticks;
        if let Role::Follower { reads, .. } = &mut self.role {
            while let Some(read) = reads.pop_front_if(|read| read.deadline <= ticks) {
                self.read_states.push(ReadState { ctx: read.ctx, index: None });
            }
        }
        self.election_elapsed += 1;
        // Who votes alone waits for nobody.
        if self.election_elapsed >= self.election_timeout || self.is_alone() {
            self.reset_election_timer();
            self.campaign(false);
            // Who may not campaign, as a learner or a newcomer, does not stay loyal for ever to a
            // leader that is gone: its vote may be the one that is missing.
            if self.leader() != 0 && matches!(self.role, Role::Follower { .. }) {
                self.become_follower(self.term, 0);
            }
        }
    }
}
