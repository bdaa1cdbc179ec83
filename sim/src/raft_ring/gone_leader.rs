//! When all is at rest the leader's process ends, and the others find out one after the other: who
//! could win is elected without waiting for an election timeout, and who could not does not stand.
//!
//! It comes last, with chance of its own, so that the history before it stays as it was.

use detcd::raft::core::RaftCore;
use detcd::raft::message::{Message, NodeId, Payload};
use detcd::raft::quorum::majority;
use detcd::raft::ready::RoleKind;

use crate::raft_ring::{ELECTION_TICKS, HEARTBEAT_TICKS, Ring};

/// How long a group is given to come to rest.
const REST_TICKS: u32 = 4 * ELECTION_TICKS;
/// Round trips, with a sync each, that an election takes, and some more.
const ROUNDS: usize = 6;

impl Ring {
    /// Ends the leader, if there are enough others.
    pub(super) fn lose_leader(&mut self, ids: &[NodeId]) -> Result<(), String> {
        if !self.weather.pre_vote || !self.weather.check_quorum {
            return Ok(());
        }
        let Some((leader, left)) = self.come_to_rest(ids)? else { return Ok(()) };
        self.stats.gone_leaders += 1;
        match self.gone.below(3) {
            0 => self.ask_before_the_others_know(leader, &left),
            1 => self.ask_with_a_worse_log(leader, &left),
            _ => self.find_out_with_a_stalled_disk(leader, &left),
        }
    }

    /// Waits until all voters that run follow one leader and have applied all that there is. Gives
    /// the leader and the others, if these are a quorum.
    fn come_to_rest(&mut self, ids: &[NodeId]) -> Result<Option<(NodeId, Vec<NodeId>)>, String> {
        for _ in 0..REST_TICKS {
            self.calm_tick(ids)?;
            let Some(leader) = self.settled_leader() else { continue };
            let leads = self.core(leader).expect("a leader runs");
            let (term, last) = (leads.term(), leads.last_index());
            let voters = leads.conf_state().voters.clone();
            let rests = |core: &RaftCore| {
                let known = (core.leader(), core.term(), core.last_index());
                known == (leader, term, last) && core.applied_index() == last
            };
            let left: Vec<NodeId> = voters
                .iter()
                .copied()
                .filter(|id| *id != leader && self.members[id].core.as_ref().is_some_and(rests))
                .collect();
            let all_run = voters.iter().filter(|id| self.members[id].core.is_some()).count();
            if left.len() + 1 == all_run && left.len() >= majority(voters.len()) {
                return Ok(Some((leader, left)));
            }
        }
        Ok(None)
    }

    /// For how long `id` waits once it knows that `loser` can't lead.
    fn patience(&mut self, id: NodeId, loser: NodeId) -> u32 {
        let voters = self.core(id).expect("it was left").conf_state().voters.clone();
        let before = voters.iter().filter(|voter| **voter < id && **voter != loser).count();
        1 + before as u32 * HEARTBEAT_TICKS
    }

    /// Tells a member that its leader is gone, and lets its time pass until it asks for votes.
    fn find_out(&mut self, id: NodeId, leader: NodeId) -> Result<(), String> {
        self.core(id).expect("it was left").suspect(leader);
        self.drain(id)?;
        for _ in 0..self.patience(id, leader) {
            self.core(id).expect("it was left").tick();
            self.drain(id)?;
        }
        match self.core(id).expect("it was left").role() {
            RoleKind::PreCandidate => Ok(()),
            role => Err(format!("StableLeadership: {id} found {leader} gone, and is a {role:?}")),
        }
    }

    /// Delivers what there is, and what follows from it, with the disks at work.
    fn settle(&mut self, left: &[NodeId]) -> Result<(), String> {
        for _ in 0..ROUNDS {
            for message in self.bag.drain() {
                self.deliver_and_drain(message)?;
            }
            for id in left {
                self.sync_all(*id)?;
            }
        }
        Ok(())
    }

    fn deliver_and_drain(&mut self, message: Message) -> Result<(), String> {
        let to = message.to;
        self.deliver(message)?;
        self.drain(to)
    }

    /// Who asks finds the others loyal to a leader of which they do not know yet that it is gone.
    /// They answer when they do.
    fn ask_before_the_others_know(
        &mut self,
        leader: NodeId,
        left: &[NodeId],
    ) -> Result<(), String> {
        self.crash(leader);
        let asker = *self.gone.pick(left);
        self.find_out(asker, leader)?;
        self.settle(left)?;
        for other in left.iter().filter(|id| **id != asker) {
            self.core(*other).expect("it was left").suspect(leader);
            self.drain(*other)?;
        }
        self.settle(left)?;
        if self.core(asker).is_some_and(|core| core.is_leader()) {
            return Ok(());
        }
        let members = self.describe();
        Err(format!("StableLeadership: all know that {leader} is gone, {asker} asked{members}"))
    }

    /// One has an entry that another lacks. It asks, and nobody hears that; then the other asks it,
    /// which can't win, so it asks again, and soon.
    fn ask_with_a_worse_log(&mut self, leader: NodeId, left: &[NodeId]) -> Result<(), String> {
        let behind = *self.gone.pick(left);
        let ahead = left.iter().copied().filter(|id| *id != behind).max().expect("a quorum of two");
        self.propose(leader)?;
        self.drain(leader)?;
        for _ in 0..ROUNDS {
            for message in self.bag.drain().into_iter().filter(|m| m.to != behind) {
                self.deliver_and_drain(message)?;
            }
            for id in left.iter().chain([&leader]) {
                self.sync_all(*id)?;
            }
        }
        let mut last = |id| self.core(id).map_or(0, |core| core.last_index());
        if last(ahead) <= last(behind) {
            return Ok(());
        }
        self.crash(leader);
        self.find_out(ahead, leader)?;
        self.bag.drain();
        self.find_out(behind, leader)?;
        for message in self.bag.take(|m| (m.from, m.to) == (behind, ahead)) {
            self.deliver_and_drain(message)?;
        }
        self.bag.drain();
        for _ in 0..self.patience(ahead, behind) {
            self.core(ahead).expect("it was left").tick();
            self.drain(ahead)?;
        }
        let asks = |m: &Message| m.from == ahead && matches!(m.payload, Payload::PreVote { .. });
        if self.bag.take(asks).is_empty() {
            let members = self.describe();
            let text = format!("{behind} can't win, and {ahead} does not ask again{members}");
            return Err(format!("StableLeadership: {text}"));
        }
        Ok(())
    }

    /// A member whose disk stalls could not make its own vote durable.
    fn find_out_with_a_stalled_disk(
        &mut self,
        leader: NodeId,
        left: &[NodeId],
    ) -> Result<(), String> {
        self.crash(leader);
        let stalled = *self.gone.pick(left);
        let core = self.core(stalled).expect("it was left");
        core.set_disk_stalled(true);
        let term = core.term();
        for id in left {
            self.core(*id).expect("it was left").suspect(leader);
            self.drain(*id)?;
        }
        for _ in 0..4 * ELECTION_TICKS {
            self.core(stalled).expect("it was left").tick();
            self.drain(stalled)?;
            for message in self.bag.drain() {
                self.deliver_and_drain(message)?;
            }
        }
        let core = self.core(stalled).expect("it was left");
        let (role, now) = (core.role(), core.term());
        if role == RoleKind::Follower && now == term {
            return Ok(());
        }
        let text = format!("{stalled}, whose disk stalls, is a {role:?}, {term} became {now}");
        Err(format!("StableLeadership: {text}"))
    }
}
