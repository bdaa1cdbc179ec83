//! Traps: steps that are aimed at a state in which a mistake would show, where chance alone seldom
//! leads.
//!
//! They do nothing that a network or a clock could not do: messages are late, links are cut, and
//! the time of one member passes faster than that of another.

use detcd::raft::core::RaftCore;
use detcd::raft::message::{Message, NodeId, Payload};

use crate::raft_ring::member::PendingInstall;
use crate::raft_ring::traps::{Kind, Laid};
use crate::raft_ring::{ELECTION_TICKS, Ring};

/// Of a thousand steps, how many lay a trap, and how many look after one.
const LAYS_PER_MILLE: u64 = 8;
const TENDS_PER_MILLE: u64 = 400;
/// A trap that has not sprung after so many steps is given up.
const STEPS_MAX: u32 = 1_500;

/// How long all is calm, for leadership to come back.
const CALM_TICKS: u32 = 5 * ELECTION_TICKS;

impl Ring {
    /// Lays a trap, or looks after the one that is laid.
    pub(super) fn tend_traps(&mut self) -> Result<(), String> {
        let Some(mut laid) = self.traps.laid.take() else {
            if self.traps.kinds.is_empty() || !self.traps.dice.chance(LAYS_PER_MILLE) {
                return Ok(());
            }
            let kind = *self.traps.dice.pick(&self.traps.kinds);
            return self.lay(kind);
        };
        laid.steps += 1;
        if laid.steps > STEPS_MAX {
            self.bag.put_back(laid.held);
            self.let_go();
            return Ok(());
        }
        if self.traps.dice.chance(TENDS_PER_MILLE) {
            let sprung = match laid.kind {
                Kind::LateAnswers => self.tend_late_answers(&mut laid)?,
                Kind::LateAcks => self.tend_late_acks(&mut laid)?,
                Kind::Deaf | Kind::Alone | Kind::Rebuild => true,
            };
            if sprung {
                return Ok(());
            }
        }
        self.traps.laid = Some(laid);
        Ok(())
    }

    /// All links work again.
    pub(super) fn let_go(&mut self) {
        self.bag.heal();
        self.stranded = None;
    }

    fn lay(&mut self, kind: Kind) -> Result<(), String> {
        match (kind, self.settled_leader()) {
            (Kind::LateAnswers, Some(leader)) if self.voters(leader) > 2 => {
                self.lay_late_answers(leader)
            }
            (Kind::LateAcks, Some(leader)) if self.voters(leader) > 4 => self.lay_late_acks(leader),
            (Kind::Deaf, Some(leader)) if self.voters(leader) > 1 => self.deafen(leader),
            (Kind::Alone, _) => self.leave_alone(),
            (Kind::Rebuild, Some(leader)) => self.rebuild(leader),
            (Kind::LateAnswers | Kind::LateAcks | Kind::Deaf | Kind::Rebuild, _) => Ok(()),
        }
    }

    fn voters(&mut self, id: NodeId) -> usize {
        self.core(id).map_or(0, |core| core.conf_state().voters.len())
    }

    /// The others answer the heartbeats of a round of reads, and the answers are late.
    fn lay_late_answers(&mut self, leader: NodeId) -> Result<(), String> {
        self.read(leader)?;
        self.drain(leader)?;
        let is_heartbeat = |m: &Message| matches!(m.payload, Payload::Heartbeat { .. });
        for message in self.bag.take(|m| m.from == leader && is_heartbeat(m)) {
            let to = message.to;
            self.deliver(message)?;
            self.drain(to)?;
        }
        self.strand(leader);
        let held = self.bag.take(|m| m.to == leader);
        self.set(Kind::LateAnswers, (leader, 0), held);
        Ok(())
    }

    fn set(&mut self, kind: Kind, (leader, partner): (NodeId, NodeId), held: Vec<Message>) {
        let term = self.core(leader).map_or(0, |core| core.term());
        self.traps.laid = Some(Laid { kind, leader, term, partner, held, steps: 0 });
    }

    /// Waits for the next leader to commit something; then the old one is asked, and hears.
    fn tend_late_answers(&mut self, laid: &mut Laid) -> Result<bool, String> {
        let leader = laid.leader;
        let leads = |core: &&mut RaftCore| core.is_leader() && core.term() == laid.term;
        if self.core(leader).filter(leads).is_none() {
            self.bag.put_back(std::mem::take(&mut laid.held));
            self.let_go();
            return Ok(true);
        }
        if !self.is_deposed(laid) {
            self.hasten(&[leader])?;
            return Ok(false);
        }
        self.stats.traps += 1;
        self.read(leader)?;
        self.drain(leader)?;
        for message in std::mem::take(&mut laid.held) {
            self.deliver(message)?;
            self.drain(leader)?;
        }
        self.let_go();
        Ok(true)
    }

    /// Whether a later leader has committed something.
    fn is_deposed(&self, laid: &Laid) -> bool {
        let cores = self.members.values().filter_map(|member| member.core.as_ref());
        cores.into_iter().any(|core| core.term() > laid.term && core.has_committed_in_term())
    }

    /// Time passes for one of the others.
    fn hasten(&mut self, except: &[NodeId]) -> Result<(), String> {
        let others: Vec<NodeId> =
            self.members.keys().copied().filter(|id| !except.contains(id)).collect();
        let id = *self.traps.dice.pick(&others);
        if let Some(core) = self.core(id) {
            core.tick();
        }
        self.after(id)
    }

    /// A leader and one follower are cut off from the rest; the follower takes what is proposed,
    /// and what it says of that is said once more, much later.
    fn lay_late_acks(&mut self, leader: NodeId) -> Result<(), String> {
        let voters = self.core(leader).map(|core| core.conf_state().voters.clone());
        let others: Vec<NodeId> =
            voters.into_iter().flatten().filter(|voter| *voter != leader).collect();
        let partner = *self.traps.dice.pick(&others);
        self.let_go();
        let rest: Vec<NodeId> =
            self.members.keys().copied().filter(|id| ![leader, partner].contains(id)).collect();
        for one in [leader, partner] {
            for other in &rest {
                self.bag.cut(one, *other);
                self.bag.cut(*other, one);
            }
        }
        let mut held = Vec::new();
        for _ in 0..10 {
            self.propose(leader)?;
            self.drain(leader)?;
            for message in self.bag.take(|m| (m.from, m.to) == (leader, partner)) {
                self.deliver(message)?;
                self.drain(partner)?;
            }
            self.sync_all(partner)?;
            for message in self.bag.take(|m| (m.from, m.to) == (partner, leader)) {
                if matches!(message.payload, Payload::AppendResponse { reject: None, .. }) {
                    held.push(message.clone());
                }
                self.deliver(message)?;
                self.drain(leader)?;
            }
        }
        self.set(Kind::LateAcks, (leader, partner), held);
        Ok(())
    }

    pub(super) fn sync_all(&mut self, id: NodeId) -> Result<(), String> {
        let member = self.members.get_mut(&id).expect("a member of the ring");
        member.disk.sync(usize::MAX);
        while self.members[&id].core.is_some() && self.members[&id].disk.has_news() {
            self.tell_synced(id)?;
        }
        self.drain(id)
    }

    /// Waits for the next leader. Then all is calm, everybody follows it and takes its log, it
    /// hands over to the first one, and that hears what was said long ago.
    fn tend_late_acks(&mut self, laid: &mut Laid) -> Result<bool, String> {
        let leader = laid.leader;
        if !self.is_deposed(laid) {
            self.hasten(&[leader])?;
            return Ok(false);
        }
        self.let_go();
        let ids: Vec<NodeId> = self.members.keys().copied().collect();
        for _ in 0..CALM_TICKS {
            self.calm_tick(&ids)?;
            let Some(other) = self.settled_leader() else { continue };
            if other == leader {
                self.say_again(laid)?;
                return Ok(true);
            }
            let core = self.core(other).expect("a leader runs");
            core.transfer_leader(leader).ok();
            self.drain(other)?;
        }
        Ok(true)
    }

    /// The old acknowledgements reach a leader whose log is as long as they say, but another one.
    fn say_again(&mut self, laid: &mut Laid) -> Result<(), String> {
        let Laid { leader, partner, .. } = *laid;
        let said = |m: &Message| match m.payload {
            Payload::AppendResponse { index, .. } => index,
            _ => 0,
        };
        let highest = laid.held.iter().map(said).max().unwrap_or(0);
        let Some(core) = self.core(leader) else { return Ok(()) };
        if core.term() == laid.term || highest <= core.commit_index() {
            return Ok(());
        }
        // Whoever said it gets nothing of this for a while.
        self.bag.cut(leader, partner);
        let missing = highest.saturating_sub(self.core(leader).map_or(0, |core| core.last_index()));
        for _ in 0..missing {
            self.propose(leader)?;
            self.drain(leader)?;
        }
        self.stats.traps += 1;
        for message in std::mem::take(&mut laid.held) {
            self.deliver(message)?;
            self.drain(leader)?;
        }
        Ok(())
    }

    /// Nothing reaches a leader for two election timeouts.
    fn deafen(&mut self, leader: NodeId) -> Result<(), String> {
        if !self.weather.check_quorum {
            return Ok(());
        }
        self.pass_time(leader, 2 * ELECTION_TICKS + 1)?;
        self.stats.traps += 1;
        if self.core(leader).is_some_and(|core| core.is_leader()) {
            return Err(format!("StableLeadership: {leader} leads, and hears from nobody"));
        }
        Ok(())
    }

    /// Nothing reaches some member for several election timeouts.
    fn leave_alone(&mut self) -> Result<(), String> {
        let ids: Vec<NodeId> = self.members.keys().copied().collect();
        let id = *self.traps.dice.pick(&ids);
        let Some(before) = self.core(id).map(|core| core.term()) else { return Ok(()) };
        self.pass_time(id, 4 * ELECTION_TICKS)?;
        self.stats.traps += 1;
        let keeps_term = self.weather.pre_vote && self.voters(id) > 1;
        let Some(core) = self.core(id) else { return Ok(()) };
        let (after, leader) = (core.term(), core.leader());
        if keeps_term && after > before {
            return Err(format!(
                "StableLeadership: {id} was alone, and went from term {before} to {after}"
            ));
        }
        if leader != 0 && leader != id {
            return Err(format!("Liveness: {id} hears from nobody, and follows {leader}"));
        }
        Ok(())
    }

    /// A follower begins to take over the state of the leader, as one whose own is damaged.
    fn rebuild(&mut self, leader: NodeId) -> Result<(), String> {
        let state = self.members[&leader].machine.clone();
        let ids: Vec<NodeId> = self.members.keys().copied().filter(|id| *id != leader).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = *self.traps.dice.pick(&ids);
        let member = self.members.get_mut(&id).expect("a member of the ring");
        let may_begin = member.install.is_none() && member.handed_out <= state.index;
        if let Some(core) = member.core.as_mut().filter(|_| may_begin) {
            core.hold_apply();
            member.install = Some(PendingInstall { from: leader, state, prepared: true });
            self.stats.traps += 1;
        }
        Ok(())
    }

    fn pass_time(&mut self, id: NodeId, ticks: u32) -> Result<(), String> {
        for _ in 0..ticks {
            if let Some(core) = self.core(id) {
                core.tick();
            }
            self.drain(id)?;
        }
        Ok(())
    }
}
