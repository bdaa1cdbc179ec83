//! The consensus task: owns the Raft core, reads one inbox, and hands out what the core decides.
//!
//! It never waits for a disk, a peer or a caller. What arrives while it works is taken from the
//! inbox together: proposals become one batch, reads one round.

use super::applier::ApplyJob;
use super::event::{Event, Installed};
use super::leave::leave;
use super::log_writer::LogJob;
use super::peers::Peers;
use super::reads::Reads;
use super::shared::Shared;
use super::ticker::TICKS_PER_HEARTBEAT;
use crate::apply::request;
use crate::env::clock::Mono;
use crate::env::recorder::{self, RoleName, Transfer};
use crate::error::{Error, Result};
use crate::pb::raftpb;
use crate::raft::core::{ProposeRefused, RaftCore};
use crate::raft::message::{Message, NodeId};
use crate::raft::ready::{ReadState, Ready, RoleKind, SnapshotOffer, SoftState};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Events taken from the inbox before the core's decisions are handed out.
const DRAIN_EVENTS: usize = 1024;
/// Bytes of the proposals that are handed to the core, or on to the leader, as one batch.
const BATCH_BYTES: usize = 1 << 20;

/// Where the consensus task sends its decisions. The queues are unbounded in form and bounded in
/// fact: the core's limits on uncommitted data and the pending table bound what can be in them.
pub struct Outlets {
    pub peers: Arc<Peers>,
    pub log: mpsc::UnboundedSender<LogJob>,
    pub apply: mpsc::UnboundedSender<ApplyJob>,
    /// One offer may wait; the leader repeats what finds no room.
    pub offers: mpsc::Sender<SnapshotOffer>,
}

/// The consensus task.
pub struct Node {
    pub(super) core: RaftCore,
    pub(super) shared: Arc<Shared>,
    pub(super) outlets: Outlets,
    reads: Reads,
    /// Requests that no leader has been offered yet, in order.
    unsent: VecDeque<(u64, Bytes)>,
    /// Changes of membership that wait for the one before, in order.
    pub(super) conf_changes: VecDeque<(u64, raftpb::ConfChange)>,
    /// The oldest write that is not durable yet, and since when.
    writing: VecDeque<(u64, Mono)>,
    transfers: Vec<(NodeId, Mono, oneshot::Sender<Result<()>>)>,
    /// The last slow write for which leadership was offered to somebody else.
    yielded_for: u64,
    /// This member was removed.
    is_leaving: bool,
}

impl Node {
    pub fn new(core: RaftCore, shared: Arc<Shared>, outlets: Outlets) -> Node {
        let reads = Reads::new(shared.draw());
        Node {
            core,
            shared,
            outlets,
            reads,
            unsent: VecDeque::new(),
            conf_changes: VecDeque::new(),
            writing: VecDeque::new(),
            transfers: Vec::new(),
            yielded_for: 0,
            is_leaving: false,
        }
    }

    /// Runs until the server stops.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        self.hold_while_lost();
        // It was killed while it waited: it goes on waiting.
        if self.shared.is_removed() {
            self.leave();
        }
        self.hand_out();
        while let Some(first) = inbox.recv().await {
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(event) = next {
                if matches!(event, Event::Stop) {
                    return;
                }
                self.handle(event);
                taken += 1;
                next = if taken < DRAIN_EVENTS { inbox.try_recv().ok() } else { None };
            }
            self.propose_unsent();
            self.propose_conf_changes();
            self.begin_reads();
            self.hand_out();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Propose { id, data } => self.unsent.push_back((id, data)),
            Event::ProposeConfChange { id, change } => self.enter_conf_change(id, change),
            Event::Read(reply) if self.reads.count() >= self.shared.limits.max_waiting_reads => {
                // A caller that has gone away does not want its answer any more.
                let _gone = reply.send(Err(Error::TooManyRequests));
            }
            Event::Read(reply) => {
                let deadline = self.shared.env.clock.now() + self.shared.request_timeout();
                self.reads.enter(deadline, reply);
            }
            Event::Peer(messages) => messages.into_iter().for_each(|m| self.core.step(m)),
            Event::Unreachable(peer) => self.core.report_unreachable(peer),
            Event::Gone(peer) => self.core.suspect(peer),
            Event::Removed => self.leave(),
            Event::Tick => self.tick(),
            Event::Persisted { seq } => {
                while self.writing.pop_front_if(|(oldest, _)| *oldest <= seq).is_some() {}
                self.core.persisted(seq);
            }
            Event::Applied { index, conf_changes } => self.applied(index, conf_changes),
            Event::Checkpointed { index } => self.checkpointed(index),
            Event::PrepareInstall { index, reply } => {
                let _gone = reply.send(self.core.prepare_install(index));
                self.hold_while_lost();
            }
            Event::HoldApply { reply } => {
                let reached = (!self.core.is_leader()).then(|| self.core.hold_apply());
                if reply.send(reached).is_err() && reached.is_some() {
                    self.core.abort_install();
                }
            }
            Event::AbortInstall => {
                self.core.abort_install();
                self.hold_while_lost();
            }
            Event::Install(swap) => {
                let _failed = self.outlets.apply.send(ApplyJob::Install(swap));
            }
            Event::Installed(installed) => self.installed(installed),
            Event::SnapshotSent { peer, ok } => self.core.report_snapshot(peer, ok),
            Event::TransferLeader { target, done } => self.transfer(target, done),
            Event::Stop => unreachable!("the loop ends at Stop"),
        }
    }

    /// Nothing can be applied to a state that is lost: that begins with an install.
    fn hold_while_lost(&mut self) {
        if self.shared.state().is_lost() {
            self.core.hold_apply();
        }
    }

    fn tick(&mut self) {
        self.core.tick();
        let now = self.shared.env.clock.now();
        let expired = self.shared.pending().expire(now);
        let pending = self.shared.pending();
        self.unsent.retain(|(id, _)| pending.contains(*id));
        self.conf_changes.retain(|(id, _)| pending.contains(*id));
        self.shared.metrics.proposals_pending.set(pending.len() as i64);
        drop(pending);
        self.shared.metrics.proposals_failed_total.inc_by(expired as u64);
        let error = match self.leaderless_for_long(now) {
            true => Error::NoLeader,
            false => Error::Timeout,
        };
        let expired = self.reads.expire(now, &error);
        self.shared.metrics.read_indexes_failed_total.inc_by(expired as u64);
        self.shared.metrics.slow_read_indexes_total.inc_by(self.reads.take_lost());
        self.yield_leadership_if_stalled(now);
        self.finish_transfers(now);
    }

    /// Whether no leader was known for as long as a request may wait.
    fn leaderless_for_long(&self, now: Mono) -> bool {
        let view = self.shared.view();
        view.leader == 0 && now - view.leaderless_since >= self.shared.request_timeout()
    }

    /// A leader that can't make its own log durable holds everybody's writes up; somebody whose
    /// disk works takes over. (etcd's leader keeps its term: etcd issue 15247.)
    fn yield_leadership_if_stalled(&mut self, now: Mono) {
        let longest = self.writing.front().map(|&(seq, since)| (seq, now - since));
        let longest = longest.filter(|(_, time)| *time >= self.shared.election_timeout);
        self.core.set_disk_stalled(longest.is_some());
        let Some((seq, outstanding)) = longest.filter(|(seq, _)| *seq != self.yielded_for) else {
            return;
        };
        self.shared.env.recorder.record(&recorder::Event::SyncStalled { outstanding });
        if let Some(target) = self.furthest_follower() {
            self.yielded_for = seq;
            // A refusal means that this member does not lead any more.
            let _not_leader = self.core.transfer_leader(target);
        }
    }

    /// Who could take over best, when this member leads.
    fn furthest_follower(&self) -> Option<NodeId> {
        self.core.best_successor()
    }

    fn transfer(&mut self, target: NodeId, done: oneshot::Sender<Result<()>>) {
        let target = match target {
            0 => self.furthest_follower(),
            target => Some(target),
        };
        let voters = &self.core.conf_state().voters;
        let begun = match target {
            _ if !self.core.is_leader() => Err(Error::NotLeader),
            Some(target) if voters.contains(&target) => self
                .core
                .transfer_leader(target)
                .map(|()| target)
                .map_err(|_| Error::BadLeaderTransferee),
            _ => Err(Error::BadLeaderTransferee),
        };
        match begun {
            Ok(target) => {
                let deadline = self.shared.env.clock.now() + self.shared.request_timeout();
                self.transfers.push((target, deadline, done));
            }
            Err(error) => {
                // A caller that has gone away does not want its answer any more.
                let _gone = done.send(Err(error));
            }
        }
    }

    fn finish_transfers(&mut self, now: Mono) {
        let leader = self.core.leader();
        for (target, deadline, done) in std::mem::take(&mut self.transfers) {
            if leader == target {
                let _gone = done.send(Ok(()));
            } else if deadline <= now {
                let _gone = done.send(Err(Error::Timeout));
            } else {
                self.transfers.push((target, deadline, done));
            }
        }
    }

    fn applied(&mut self, index: u64, conf_changes: Vec<raftpb::ConfChange>) {
        for change in conf_changes {
            if let Some(change) = request::core_change(&change) {
                self.core.apply_conf_change(&change);
            }
            self.update_peer(change);
        }
        self.core.applied(index);
        self.reads.applied(index);
        self.shared.update_view(|view| {
            view.is_learner = self.core.conf_state().learners.contains(&self.shared.member_id);
        });
    }

    /// The log leaves memory behind a checkpoint, but for what followers are likely to need.
    fn checkpointed(&mut self, index: u64) {
        let options = &self.shared.checkpoints;
        let (entries, bytes) = (options.keep_entries, options.keep_bytes);
        let point = self.core.compaction_point(index, entries, bytes);
        let needed = self.shared.sent.oldest_index().unwrap_or(u64::MAX);
        self.core.compact(point.min(needed));
    }

    fn installed(&mut self, installed: Installed) {
        let Installed { applied, conf_state, members, done } = installed;
        self.core.install_snapshot(applied.index, applied.term, conf_state);
        self.outlets.peers.set_all(&members);
        self.reads.applied(applied.index);
        if self.core.is_leader() {
            // The leases of the other state have no deadlines yet.
            self.shared.leadership_changed(true);
        }
        let _gone = done.send(());
    }

    /// Begins to go, once.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            tokio::spawn(leave(self.shared.clone(), self.outlets.peers.clone()));
        }
    }

    fn update_peer(&mut self, change: raftpb::ConfChange) {
        let Some(member) = change.member else { return };
        let removed = change.kind == raftpb::ConfChangeKind::Remove as i32;
        if removed && member.id == self.shared.member_id {
            self.leave();
        } else if removed {
            self.outlets.peers.remove(member.id);
        } else if !member.peer_urls.is_empty() {
            self.outlets.peers.set(member.id, &member.peer_urls);
        }
    }

    /// Offers what waits to the leader, this member or another, in batches.
    fn propose_unsent(&mut self) {
        while !self.unsent.is_empty() {
            match self.propose_batch() {
                Ok(()) => {}
                // They wait for a leader, until their time is up.
                Err(ProposeRefused::NoLeader | ProposeRefused::Transferring) => return,
                Err(_) => self.refuse_first(),
            }
        }
    }

    fn propose_batch(&mut self) -> std::result::Result<(), ProposeRefused> {
        let mut bytes = 0;
        let mut batch = Vec::new();
        for (_, data) in &self.unsent {
            if !batch.is_empty() && bytes + data.len() > BATCH_BYTES {
                break;
            }
            bytes += data.len();
            batch.push(data.clone());
        }
        let count = batch.len();
        self.core.propose(batch)?;
        self.shared.env.recorder.record(&recorder::Event::Proposed { count });
        let mut pending = self.shared.pending();
        for (id, _) in self.unsent.drain(..count) {
            pending.sent(id);
        }
        Ok(())
    }

    fn refuse_first(&mut self) {
        if let Some((id, _)) = self.unsent.pop_front() {
            self.shared.pending().answer(id, Err(Error::TooManyRequests));
        }
    }

    fn begin_reads(&mut self) {
        if self.core.leader() == 0 || self.reads.is_idle() {
            return;
        }
        if let Some(ctx) = self.reads.begin(self.shared.env.clock.now())
            && self.core.read_index(ctx).is_err()
        {
            self.reads.refused(ctx);
        }
    }

    /// Hands out everything the core wants done.
    fn hand_out(&mut self) {
        while self.core.has_ready() {
            let ready = self.core.ready();
            self.hand_out_one(ready);
        }
        self.shared.update_view(|view| {
            view.commit = self.core.commit_index();
            view.readers = self.reads.count();
            view.log_entries = self.core.last_index() + 1 - self.core.first_index();
        });
        self.shared.metrics.proposals_committed_total.set(self.core.commit_index() as i64);
    }

    fn hand_out_one(&mut self, ready: Ready) {
        if let Some(soft_state) = ready.soft_state {
            self.role_changed(soft_state);
        }
        self.send(ready.messages);
        if let Some(write) = ready.write {
            self.writing.push_back((write.seq, self.shared.env.clock.now()));
            // The log writer is gone only when the disk has failed, and then the server stops.
            let _failed = self.outlets.log.send(LogJob::Write(write));
        }
        if !ready.committed.is_empty() {
            let _failed = self.outlets.apply.send(ApplyJob::Entries(ready.committed));
        }
        if let Some(offer) = ready.snapshot {
            self.shared.env.recorder.record(&recorder::Event::Transfer(Transfer::Offered));
            let _repeated = self.outlets.offers.try_send(offer);
        }
        for ReadState { ctx, index } in ready.read_states {
            match index {
                Some(index) => self.reads.confirmed(ctx, index, self.core.applied_index()),
                None => self.reads.refused(ctx),
            }
        }
    }

    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            self.outlets.peers.send(message);
        }
    }

    fn role_changed(&mut self, soft_state: SoftState) {
        let SoftState { leader, role, term } = soft_state;
        let now = self.shared.env.clock.now();
        let before = self.shared.view();
        let is_leader = role == RoleKind::Leader;
        self.shared.update_view(|view| {
            if before.leader != 0 && leader == 0 {
                view.leaderless_since = now;
            }
            view.leader = leader;
            view.term = term;
            view.is_leader = is_leader;
        });
        let metrics = &self.shared.metrics;
        metrics.has_leader.set(i64::from(leader != 0));
        metrics.is_leader.set(i64::from(is_leader));
        if leader != 0 && leader != before.leader {
            metrics.leader_changes_seen_total.inc();
        }
        if is_leader != before.is_leader {
            self.shared.leadership_changed(is_leader);
        }
        let role = match role {
            RoleKind::Follower => RoleName::Follower,
            RoleKind::PreCandidate => RoleName::PreCandidate,
            RoleKind::Candidate => RoleName::Candidate,
            RoleKind::Leader => RoleName::Leader,
        };
        tracing::info!(?role, term, leader = format!("{leader:x}"), "role changed");
        self.shared.env.recorder.record(&recorder::Event::RoleChanged { role, term, leader });
    }
}

/// Ticks of the core in an election timeout of `election` against heartbeats of `heartbeat`.
pub fn election_ticks(election_ms: u64, heartbeat_ms: u64) -> u32 {
    let ticks = election_ms * u64::from(TICKS_PER_HEARTBEAT) / heartbeat_ms.max(1);
    u32::try_from(ticks).unwrap_or(u32::MAX).max(2)
}
