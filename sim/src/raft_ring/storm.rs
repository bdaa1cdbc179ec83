//! The stormy part of a history: one step of it, by its weather.

use detcd::raft::message::{ConfChange, NodeId};

use crate::raft_ring::bag::Drawn;
use crate::raft_ring::member::encode;
use crate::raft_ring::{Ring, Stats};

impl Ring {
    fn anybody(&mut self) -> NodeId {
        1 + self.dice.below(self.members.len() as u64)
    }

    /// A leader if there is one, sometimes anybody.
    fn somebody_who_matters(&mut self) -> NodeId {
        let leaders: Vec<NodeId> = self
            .members
            .values()
            .filter_map(|member| member.core.as_ref())
            .filter(|core| core.is_leader())
            .map(|core| core.id())
            .collect();
        if leaders.is_empty() || self.dice.chance(200) {
            self.anybody()
        } else {
            *self.dice.pick(&leaders)
        }
    }

    /// One thing happens.
    pub(super) fn storm(&mut self) -> Result<(), String> {
        let mut draw = self.dice.below(1000);
        let mut falls = |share: u64| {
            let hit = draw < share;
            draw = draw.saturating_sub(share);
            hit
        };
        let weather = &self.weather;
        if falls(weather.tick_per_mille) {
            let id = self.anybody();
            if self.stranded == Some(id) && self.dice.chance(900) {
                return Ok(());
            }
            if let Some(core) = self.core(id) {
                core.tick();
            }
            return self.after(id);
        }
        if falls(weather.sync_per_mille) {
            return self.touch_disk();
        }
        if falls(weather.apply_per_mille) {
            let id = self.anybody();
            let count = 1 + self.dice.index(4);
            return self.apply(id, count);
        }
        if falls(60) {
            let id = self.somebody_who_matters();
            return self.propose(id);
        }
        if falls(40) && weather.reads {
            let id = self.somebody_who_matters();
            return self.read(id);
        }
        if falls(40) {
            return self.rarely();
        }
        match self.bag.draw(&mut self.dice) {
            Drawn::Nothing => Ok(()),
            Drawn::Lost(message) => {
                self.lost(message);
                Ok(())
            }
            Drawn::Arrives(message) => self.deliver(message),
        }
    }

    fn touch_disk(&mut self) -> Result<(), String> {
        let id = self.anybody();
        if self.dice.chance(500) {
            let count = 1 + self.dice.index(3);
            let member = self.members.get_mut(&id).expect("a member of the ring");
            member.disk.sync(count);
        }
        self.tell_synced(id)
    }

    /// The less common events, each if this history has it.
    fn rarely(&mut self) -> Result<(), String> {
        match self.dice.below(9) {
            0 if self.weather.crashes => {
                let id = self.somebody_who_matters();
                self.crash(id);
                Ok(())
            }
            1 | 2 => {
                let id = self.anybody();
                self.start(id)
            }
            3 if self.weather.conf_changes => self.change_membership(),
            4 if self.weather.checkpoints => {
                let id = self.anybody();
                let member = self.members.get_mut(&id).expect("a member of the ring");
                member.checkpoint(&mut self.dice);
                self.after(id)
            }
            5 if self.weather.transfers => self.transfer(),
            6 if self.weather.cuts => {
                self.cut_or_heal();
                Ok(())
            }
            7 if !self.reports.is_empty() => {
                let position = self.dice.index(self.reports.len());
                self.report(position)
            }
            8 => {
                let id = self.anybody();
                self.install(id)
            }
            _ => self.nudge(),
        }
    }

    fn change_membership(&mut self) -> Result<(), String> {
        let (id, node) = (self.somebody_who_matters(), self.anybody());
        let change = match self.dice.below(5) {
            0 => ConfChange::AddVoter(node),
            1 => ConfChange::AddLearner(node),
            2 => ConfChange::Promote(node),
            _ => ConfChange::Remove(node),
        };
        if let Some(core) = self.core(id) {
            core.propose_conf_change(encode(&change), change).ok();
        }
        self.after(id)
    }

    fn transfer(&mut self) -> Result<(), String> {
        let (id, target) = (self.somebody_who_matters(), self.anybody());
        if self.core(id).is_some_and(|core| core.transfer_leader(target).is_ok()) {
            self.stats.transfers += 1;
        }
        self.after(id)
    }

    /// Cuts links in one or both directions, or mends all.
    fn cut_or_heal(&mut self) {
        if self.dice.chance(400) {
            self.bag.heal();
            self.stranded = None;
            return;
        }
        let alone = self.somebody_who_matters();
        if self.dice.chance(400) {
            self.strand(alone);
            return;
        }
        let (inward, outward) = *self.dice.pick(&[(true, true), (true, false), (false, true)]);
        let others: Vec<NodeId> = self.members.keys().copied().filter(|id| *id != alone).collect();
        for other in others {
            if self.dice.chance(700) {
                if inward {
                    self.bag.cut(other, alone);
                }
                if outward {
                    self.bag.cut(alone, other);
                }
            }
        }
    }

    /// Cuts a member off in whole and slows its clock down. What was under way stays under way.
    pub(super) fn strand(&mut self, alone: NodeId) {
        self.bag.heal();
        self.stranded = Some(alone);
        let others: Vec<NodeId> = self.members.keys().copied().filter(|id| *id != alone).collect();
        for other in others {
            self.bag.cut(other, alone);
            self.bag.cut(alone, other);
        }
    }

    /// Small inputs that a driver may give at any time.
    fn nudge(&mut self) -> Result<(), String> {
        let (id, peer) = (self.anybody(), self.anybody());
        let kind = self.dice.below(10);
        if let Some(core) = self.core(id) {
            match kind {
                0 | 1 => core.campaign(),
                2 | 3 => core.suspect(peer),
                _ => core.report_unreachable(peer),
            }
        }
        self.after(id)
    }
}

impl Stats {
    pub fn add(&mut self, other: &Stats) {
        self.steps += other.steps;
        self.messages += other.messages;
        self.leaders += other.leaders;
        self.committed += other.committed;
        self.crashes += other.crashes;
        self.truncations += other.truncations;
        self.conf_changes += other.conf_changes;
        self.installs += other.installs;
        self.transfers += other.transfers;
        self.reads_served += other.reads_served;
        self.reads_refused += other.reads_refused;
        self.traps += other.traps;
        self.gone_leaders += other.gone_leaders;
        self.heal_ticks += other.heal_ticks;
    }

    /// Whether a sweep met every kind of event that it is meant to meet.
    pub fn reaches_everything(&self) -> bool {
        [
            self.leaders,
            self.committed,
            self.crashes,
            self.truncations,
            self.conf_changes,
            self.installs,
            self.transfers,
            self.reads_served,
            self.reads_refused,
            self.traps,
            self.gone_leaders,
        ]
        .iter()
        .all(|count| *count > 0)
    }
}
