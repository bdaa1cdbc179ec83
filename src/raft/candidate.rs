//! Elections, from both sides: asking for votes and giving them (paper, section 5.2; thesis,
//! section 9.6 for the pre-vote).

use std::collections::BTreeMap;

use crate::raft::message::{Index, NodeId, Payload, Term};
use crate::raft::quorum::{Tally, tally};
use crate::raft::state::{Role, State};

impl State {
    /// Campaigns, if this member may. A transfer skips the pre-vote.
    pub(super) fn campaign(&mut self, transfer: bool) {
        if matches!(self.role, Role::Leader(_)) || !self.is_promotable() {
            return;
        }
        // Committed but not applied here: this member would count a quorum of the past.
        if self.log.has_unapplied_conf_change() || self.installing || self.disk_stalled {
            return;
        }
        if self.config.pre_vote && !transfer {
            self.become_pre_candidate();
        } else {
            self.become_candidate(transfer);
        }
    }

    /// Everybody else who votes.
    fn other_voters(&self) -> Vec<NodeId> {
        self.conf.voters.iter().copied().filter(|voter| *voter != self.id()).collect()
    }

    fn become_pre_candidate(&mut self) {
        self.leave_role();
        // The term and the vote stay; its own answer needs no disk, because it binds nobody.
        self.role = Role::PreCandidate { votes: BTreeMap::from([(self.id(), true)]) };
        self.reset_election_timer();
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        for voter in self.other_voters() {
            let request = Payload::PreVote { last_index, last_term };
            self.send_in_term(voter, self.term + 1, request);
        }
        self.count_votes();
    }

    /// Stands for election. Even its own vote counts only once it is durable, and the requests
    /// wait for that as well: they name a last entry and a term that a crash must not take back.
    fn become_candidate(&mut self, transfer: bool) {
        self.leave_role();
        self.term += 1;
        self.vote = self.id();
        self.role = Role::Candidate { votes: BTreeMap::new() };
        self.reset_election_timer();
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        for voter in self.other_voters() {
            self.send_after_write(voter, Payload::Vote { last_index, last_term, transfer });
        }
    }

    /// Counts this member's own vote, once it is durable.
    pub(super) fn own_vote_persisted(&mut self) {
        let id = self.id();
        if self.durable_vote != (self.term, id) {
            return;
        }
        if let Role::Candidate { votes } = &mut self.role
            && votes.insert(id, true).is_none()
        {
            self.count_votes();
        }
    }

    pub(super) fn handle_vote_response(&mut self, from: NodeId, granted: bool) {
        if let Role::Candidate { votes } = &mut self.role {
            votes.entry(from).or_insert(granted);
            self.count_votes();
        }
    }

    /// An answer to a pre-vote. A granted one carries the term it was asked for.
    pub(super) fn handle_pre_vote_response(&mut self, from: NodeId, term: Term, granted: bool) {
        let fits = if granted { term == self.term + 1 } else { term == self.term };
        if let Role::PreCandidate { votes } = &mut self.role
            && fits
        {
            votes.entry(from).or_insert(granted);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        match &self.role {
            Role::PreCandidate { votes } => match tally(&self.conf.voters, votes) {
                Tally::Won => self.become_candidate(false),
                Tally::Lost => self.become_follower(self.term, 0),
                Tally::Pending => {}
            },
            Role::Candidate { votes } => match tally(&self.conf.voters, votes) {
                // A leader's term and vote are durable, so its own vote is always among them.
                Tally::Won if votes.contains_key(&self.id()) => self.become_leader(),
                Tally::Lost => self.become_follower(self.term, 0),
                Tally::Won | Tally::Pending => {}
            },
            Role::Follower { .. } | Role::Leader(_) => {}
        }
    }

    /// Whether this member heard from a leader so recently that it won't help to replace it.
    /// The leader itself may ask: then it obviously does not lead any more.
    pub(super) fn is_loyal_against(&self, candidate: NodeId) -> bool {
        let leader = self.leader();
        self.config.check_quorum
            && leader != 0
            && leader != candidate
            && self.election_elapsed < self.config.election_ticks
    }

    pub(super) fn handle_pre_vote(
        &mut self,
        from: NodeId,
        term: Term,
        (last_index, last_term): (Index, Term),
    ) {
        let free = term > self.term || self.could_vote_for(from);
        let granted = free && self.log.is_up_to_date(last_index, last_term);
        // A refusal carries this member's own term, so that a candidate that is behind catches
        // up instead of asking forever.
        let answer_term = if granted { term } else { self.term };
        if !granted {
            self.tell_committed(from, last_index);
        }
        self.send_in_term(from, answer_term, Payload::PreVoteResponse { granted });
        // Whoever asks is loyal to nobody. If its log can't win, this one may, and what it asked
        // for earlier may have come while the other was still loyal.
        let waits = matches!(self.role, Role::Follower { .. } | Role::PreCandidate { .. });
        if free && !granted && waits && self.leader() == 0 {
            self.campaign_soon(from);
        }
    }

    pub(super) fn handle_vote(&mut self, from: NodeId, (last_index, last_term): (Index, Term)) {
        // A learner answers too: it may have been promoted without knowing yet. The candidate
        // counts only whom it knows as a voter.
        let up_to_date = self.log.is_up_to_date(last_index, last_term);
        if up_to_date && self.could_vote_for(from) {
            self.vote = from;
            self.election_elapsed = 0;
            self.send_after_write(from, Payload::VoteResponse { granted: true });
        } else {
            self.tell_committed(from, last_index);
            self.send(from, Payload::VoteResponse { granted: false });
        }
    }

    /// Tells a candidate what is committed of the log it claims to have.
    fn tell_committed(&mut self, candidate: NodeId, last_index: Index) {
        let index = self.log.commit().min(last_index);
        if let Some(term) = self.log.term(index)
            && index > 0
        {
            self.send(candidate, Payload::Committed { index, term });
        }
    }

    /// Somebody knows that the entry at `index` is committed if it has this term.
    pub(super) fn handle_committed(&mut self, index: Index, term: Term) {
        if !matches!(self.role, Role::Leader(_)) && self.log.term(index) == Some(term) {
            self.log.commit_to(index);
        }
    }

    /// Whether the vote of this term is still free for `candidate`, or was given to it already.
    fn could_vote_for(&self, candidate: NodeId) -> bool {
        self.vote == candidate || (self.vote == 0 && self.leader() == 0)
    }
}
