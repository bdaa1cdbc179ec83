//! The leader's rules: append, replicate, commit by quorum, confirm reads, hand over.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::raft::log::Log;
use crate::raft::message::{
    ConfState, Entry, EntryKind, Index, Message, NodeId, Payload, RejectHint, Term,
};
use crate::raft::progress::{Progress, ProgressState};
use crate::raft::quorum::{agreed, majority};
use crate::raft::read_index::{ReadQueue, Waiting};
use crate::raft::state::{Config, Leader, Role, State};

/// Why a proposal or a read was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProposeRefused {
    /// Nobody is known to lead.
    NoLeader,
    /// Too much is proposed and not committed.
    Overloaded,
    /// The leader is handing over.
    Transferring,
    /// An earlier change of membership is not applied, or no entry of this term is committed.
    ConfChangePending,
}

/// Why leadership was not handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferRefused {
    NoLeader,
    /// The target does not vote.
    NotAVoter,
}

impl State {
    pub(super) fn become_leader(&mut self) {
        assert!(matches!(self.role, Role::Candidate { .. }), "only a candidate wins");
        assert!(self.durable_vote == (self.term, self.id()), "a leader's vote is durable");
        let last = self.log.last_index();
        let mut progress = BTreeMap::new();
        for &peer in self.conf.voters.iter().chain(&self.conf.learners) {
            if peer != self.id() {
                progress.insert(peer, fresh_progress(last + 1, &self.config));
            }
        }
        self.role = Role::Leader(Box::new(Leader {
            progress,
            heartbeat_elapsed: 0,
            first_of_term: last + 1,
            // Any entry of the tail may be a change of membership.
            last_conf_change: last,
            uncommitted_bytes: 0,
            transfer_to: 0,
            reads: ReadQueue::default(),
            dirty: true,
            scratch: Vec::new(),
        }));
        self.election_elapsed = 0;
        // An empty entry, so that what earlier terms left behind can be committed (section 5.4.2).
        self.push_own(EntryKind::Normal, Bytes::new());
    }

    fn push_own(&mut self, kind: EntryKind, data: Bytes) {
        let index = self.log.last_index() + 1;
        self.log.push(Entry { term: self.term, index, kind, data });
        if let Role::Leader(leader) = &mut self.role {
            leader.dirty = true;
        }
    }

    /// Takes `bytes` of proposals into account, or refuses them.
    fn admit(&mut self, bytes: usize) -> Result<(), ProposeRefused> {
        let limit = self.config.max_uncommitted_bytes;
        let Role::Leader(leader) = &mut self.role else { return Err(ProposeRefused::NoLeader) };
        if leader.transfer_to != 0 {
            return Err(ProposeRefused::Transferring);
        }
        let total = leader.uncommitted_bytes.saturating_add(bytes);
        if total > limit {
            return Err(ProposeRefused::Overloaded);
        }
        leader.uncommitted_bytes = total;
        Ok(())
    }

    /// Appends a batch, all of it or nothing.
    pub(super) fn propose_here(&mut self, entries: Vec<Bytes>) -> Result<(), ProposeRefused> {
        self.admit(entries.iter().map(Bytes::len).sum())?;
        for data in entries {
            self.push_own(EntryKind::Normal, data);
        }
        Ok(())
    }

    /// Appends a change of membership if no other is under way and this leader's term has
    /// committed something: otherwise two leaders could each change the same configuration.
    pub(super) fn propose_conf_change_here(&mut self, data: Bytes) -> Result<(), ProposeRefused> {
        if !matches!(self.role, Role::Leader(_)) {
            return Err(ProposeRefused::NoLeader);
        }
        if !self.may_change_conf() {
            return Err(ProposeRefused::ConfChangePending);
        }
        self.admit(data.len())?;
        self.push_own(EntryKind::ConfChange, data);
        let last = self.log.last_index();
        if let Role::Leader(leader) = &mut self.role {
            leader.last_conf_change = last;
        }
        Ok(())
    }

    pub(super) fn may_change_conf(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let pending = leader.last_conf_change > self.log.applied();
        !pending && self.log.commit() >= leader.first_of_term
    }

    /// Raises the commit index to what a quorum has made durable, if that is an entry of this
    /// term: an older one could still be overwritten (paper, figure 8).
    pub(super) fn advance_commit(&mut self) {
        let id = self.id();
        let State { role: Role::Leader(leader), log, conf, term, .. } = self else { return };
        let Leader { progress, scratch, .. } = &mut **leader;
        scratch.clear();
        scratch.extend(conf.voters.iter().map(|voter| match progress.get(voter) {
            Some(progress) => progress.matched,
            None if *voter == id => log.persisted(),
            None => 0,
        }));
        let index = agreed(scratch);
        let before = log.commit();
        if index <= before || log.term(index) != Some(*term) {
            return;
        }
        log.commit_to(index);
        for committed in (before + 1).max(leader.first_of_term)..=index {
            let bytes = log.entry(committed).map_or(0, |entry| entry.data.len());
            leader.uncommitted_bytes = leader.uncommitted_bytes.saturating_sub(bytes);
        }
        leader.dirty = true;
    }

    pub(super) fn handle_append_response(
        &mut self,
        from: NodeId,
        index: Index,
        reject: Option<RejectHint>,
    ) {
        let State { role: Role::Leader(leader), log, .. } = self else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.recent_active = true;
        leader.dirty = true;
        if let Some(hint) = reject {
            let agreement =
                if hint.index > 0 { log.last_not_above(hint.index, hint.term).0 } else { 0 };
            progress.refused(index, agreement);
            return;
        }
        if index > log.last_index() {
            // Nobody can have what this leader doesn't.
            return;
        }
        let news = progress.accepted(index);
        match progress.state {
            ProgressState::Probe { .. } if index == progress.matched => progress.become_replicate(),
            // Back within reach of the log, whether by the snapshot or otherwise.
            ProgressState::Snapshot { .. } if progress.matched >= log.snapshot_index() => {
                progress.become_replicate();
            }
            // It got the snapshot, but the log was compacted beyond that meanwhile.
            ProgressState::Snapshot { pending } if progress.matched >= pending => {
                progress.become_probe();
            }
            ProgressState::Probe { .. }
            | ProgressState::Replicate
            | ProgressState::Snapshot { .. } => {}
        }
        if news {
            self.advance_commit();
        }
        self.finish_transfer(from);
    }

    pub(super) fn handle_heartbeat_response(&mut self, from: NodeId, read_seq: u64) {
        let State { role: Role::Leader(leader), log, .. } = self else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.answered_heartbeat(log.last_index());
        leader.dirty = true;
        if read_seq > progress.read_seq && read_seq <= leader.reads.seq() {
            progress.read_seq = read_seq;
            self.confirm_reads();
        }
    }

    /// Accepts a read from this member or from a follower.
    pub(super) fn queue_read(&mut self, from: NodeId, ctx: u64) {
        let since = self.ticks;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.reads.push(Waiting { from, ctx, since });
        leader.dirty = true;
    }

    /// Starts a round for the reads that wait, if an entry of this term is committed: until then
    /// the leader's commit index may be behind what an earlier leader answered.
    fn start_reads(&mut self) {
        let State { role: Role::Leader(leader), log, .. } = self else { return };
        if !leader.reads.has_waiting() || log.commit() < leader.first_of_term {
            return;
        }
        leader.reads.start_round(log.commit());
        self.broadcast_heartbeat();
        // A single voter is its own quorum.
        self.confirm_reads();
    }

    /// Serves the reads whose round a quorum of voters has answered.
    fn confirm_reads(&mut self) {
        let id = self.id();
        let State { role: Role::Leader(leader), conf, .. } = self else { return };
        let Leader { progress, scratch, reads, .. } = &mut **leader;
        scratch.clear();
        scratch.extend(conf.voters.iter().map(|voter| match progress.get(voter) {
            Some(progress) => progress.read_seq,
            None if *voter == id => reads.seq(),
            None => 0,
        }));
        for (read, index) in reads.confirm(agreed(scratch)) {
            self.answer_read(read.from, read.ctx, index);
        }
    }

    fn broadcast_heartbeat(&mut self) {
        let (from, term) = (self.id(), self.term);
        let State { role: Role::Leader(leader), log, outbox, .. } = self else { return };
        let read_seq = leader.reads.seq();
        for (&to, progress) in &leader.progress {
            // Beyond what the follower acknowledged, its log may differ from this one.
            let commit = log.commit().min(progress.matched);
            let payload = Payload::Heartbeat { commit, read_seq };
            outbox.push(Message { from, to, term, payload });
        }
    }

    pub(super) fn tick_leader(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.heartbeat_elapsed += 1;
        let heartbeat_due = leader.heartbeat_elapsed >= self.config.heartbeat_ticks;
        if heartbeat_due {
            leader.heartbeat_elapsed = 0;
        }
        let patience = u64::from(self.config.election_ticks);
        let overdue = match self.ticks.checked_sub(patience) {
            Some(tick) if !leader.reads.is_empty() => leader.reads.expire(tick),
            Some(_) | None => Vec::new(),
        };
        for read in overdue {
            self.answer_read(read.from, read.ctx, 0);
        }
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if self.config.check_quorum && !self.hears_a_quorum() {
                self.become_follower(self.term, 0);
                return;
            }
            if !self.is_promotable() {
                // Removed, and the handover took too long.
                self.become_follower(self.term, 0);
                return;
            }
            if let Role::Leader(leader) = &mut self.role {
                // The target had its chance; proposals are welcome again.
                leader.transfer_to = 0;
                leader.progress.values_mut().for_each(Progress::renew_offer);
                leader.dirty = true;
            }
        }
        if heartbeat_due {
            self.broadcast_heartbeat();
        }
    }

    /// Whether a quorum was heard from since the last time this was asked.
    fn hears_a_quorum(&mut self) -> bool {
        let id = self.id();
        let State { role: Role::Leader(leader), conf, .. } = self else { return false };
        let heard = |voter: &&NodeId| {
            **voter == id || leader.progress.get(voter).is_some_and(|p| p.recent_active)
        };
        let active = conf.voters.iter().filter(heard).count();
        for progress in leader.progress.values_mut() {
            progress.recent_active = false;
        }
        active >= majority(conf.voters.len())
    }

    /// Starts to hand over: the target catches up first, then campaigns.
    pub(super) fn transfer_here(&mut self, target: NodeId) -> Result<(), TransferRefused> {
        let id = self.id();
        let State { role: Role::Leader(leader), conf, .. } = self else {
            return Err(TransferRefused::NoLeader);
        };
        if !conf.voters.contains(&target) {
            return Err(TransferRefused::NotAVoter);
        }
        if target == id || target == leader.transfer_to {
            return Ok(());
        }
        leader.transfer_to = target;
        leader.dirty = true;
        // A full election timeout from here.
        self.election_elapsed = 0;
        self.finish_transfer(target);
        Ok(())
    }

    /// Tells the target to campaign, once it has the whole log durable.
    fn finish_transfer(&mut self, peer: NodeId) {
        let State { role: Role::Leader(leader), log, .. } = self else { return };
        let matched = leader.progress.get(&peer).map_or(0, |progress| progress.matched);
        if leader.transfer_to == peer && matched == log.last_index() {
            self.send(peer, Payload::TimeoutNow);
        }
    }

    /// The voter that could take over best: heard from lately, with the longest log.
    pub(super) fn best_successor(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let voters = leader.progress.iter().filter(|(peer, _)| self.conf.voters.contains(peer));
        voters
            .filter(|(_, progress)| progress.recent_active)
            .max_by_key(|(_, progress)| progress.matched)
            .map(|(peer, _)| *peer)
    }

    /// Brings a leader in line with a changed configuration.
    pub(super) fn conf_changed(&mut self) {
        if !matches!(self.role, Role::Leader(_)) {
            return;
        }
        let id = self.id();
        let removed = !self.is_promotable();
        let State { role: Role::Leader(leader), conf, config, log, .. } = self else { return };
        leader.progress.retain(|peer, _| conf.contains(*peer));
        for &peer in conf.voters.iter().chain(&conf.learners).filter(|peer| **peer != id) {
            leader.progress.entry(peer).or_insert_with(|| {
                let mut progress = fresh_progress(log.last_index() + 1, config);
                // A newcomer gets the time to answer before it counts as silent.
                progress.recent_active = true;
                progress
            });
        }
        if !conf.voters.contains(&leader.transfer_to) {
            leader.transfer_to = 0;
        }
        leader.dirty = true;
        // A smaller quorum may have been reached already.
        self.advance_commit();
        self.confirm_reads();
        if removed {
            self.resign();
        }
    }

    /// Ends leading after this member was removed. It counts itself no more and takes no
    /// proposals, but hands over first: the others may not know of the removal yet, and could
    /// still need the entries that only this member has, or its vote.
    fn resign(&mut self) {
        match self.best_successor() {
            Some(successor) if self.transfer_here(successor).is_ok() => {}
            Some(_) | None => self.become_follower(self.term, 0),
        }
    }

    pub(super) fn peer_unreachable(&mut self, peer: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&peer) else { return };
        if progress.state == ProgressState::Replicate {
            // What was sent ahead is probably lost.
            progress.become_probe();
            leader.dirty = true;
        }
    }

    pub(super) fn snapshot_ended(&mut self, peer: NodeId, ok: bool) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.progress.get_mut(&peer) {
            progress.snapshot_ended(ok);
            leader.dirty = true;
        }
    }

    /// Whether `flush` may have something to send.
    pub(super) fn wants_flush(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.dirty)
    }

    /// Puts into the outbox what the followers may get at this moment.
    pub(super) fn flush(&mut self) {
        if !self.wants_flush() {
            return;
        }
        self.start_reads();
        let feed = Feed { from: self.id(), term: self.term };
        let State { role: Role::Leader(leader), log, conf, config, outbox, .. } = self else {
            return;
        };
        leader.dirty = false;
        for (&to, progress) in &mut leader.progress {
            while let Some(payload) = feed.next(progress, log, conf, config) {
                outbox.push(Message { from: feed.from, to, term: feed.term, payload });
            }
        }
    }
}

fn fresh_progress(next: Index, config: &Config) -> Progress {
    Progress::new(next, config.max_inflight_messages, config.max_inflight_bytes)
}

/// Decides what one follower is sent next.
struct Feed {
    from: NodeId,
    term: Term,
}

impl Feed {
    fn next(
        &self,
        progress: &mut Progress,
        log: &Log,
        conf: &ConfState,
        config: &Config,
    ) -> Option<Payload> {
        let (prev_index, last) = (progress.next - 1, log.last_index());
        let urgent = match progress.state {
            ProgressState::Snapshot { .. } if progress.nudged => {
                return self.offer_snapshot(progress, log, conf);
            }
            ProgressState::Snapshot { .. } | ProgressState::Probe { sent: true } => return None,
            ProgressState::Probe { sent: false } => true,
            ProgressState::Replicate => {
                progress.nudged || progress.sent_commit < log.commit().min(prev_index)
            }
        };
        let paused = progress.is_paused();
        if !urgent && (paused || progress.next > last) {
            return None;
        }
        let Some(prev_term) = log.term(prev_index) else {
            return self.offer_snapshot(progress, log, conf);
        };
        let entries = if paused {
            Vec::new()
        } else {
            log.slice(progress.next, last, config.max_append_bytes)
        };
        let commit = log.commit();
        let is_notice = entries.is_empty() && !progress.nudged;
        if is_notice && progress.state == ProgressState::Replicate {
            return Self::commit_notice(progress, log, commit.min(prev_index));
        }
        let bytes = entries.iter().map(Entry::size_bytes).sum();
        let sent_commit = commit.min(prev_index + entries.len() as u64);
        progress.sent(entries.len(), bytes, sent_commit);
        Some(Payload::Append { prev_index, prev_term, commit, entries })
    }

    /// Tells a follower that has it all what is committed by now. There is nothing to answer:
    /// if this gets lost, the next heartbeat says it again.
    fn commit_notice(progress: &mut Progress, log: &Log, index: Index) -> Option<Payload> {
        progress.sent(0, 0, index);
        log.term(index).map(|term| Payload::Committed { index, term })
    }

    /// The log no longer reaches back to the follower. Whoever is silent is not sent a state.
    fn offer_snapshot(
        &self,
        progress: &mut Progress,
        log: &Log,
        conf: &ConfState,
    ) -> Option<Payload> {
        if !progress.recent_active {
            return None;
        }
        let index = log.applied();
        let term = log.term(index).expect("the applied index is never behind the compaction");
        progress.become_snapshot(index);
        Some(Payload::Snapshot { index, term, conf_state: conf.clone() })
    }
}
