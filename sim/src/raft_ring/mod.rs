//! The Raft core alone, without a runtime: many cores in one loop, a bag of messages that loses,
//! repeats and reorders, disks that lose what was not synced, and checks after every step.
//!
//! `run(seed, steps)` makes one history from a seed: a stormy part of `steps` steps, then the
//! faults end and the group must elect a leader and apply a proposal within a bounded time. An
//! error names the guarantee that broke. `RING_SEEDS=100000 cargo test -p sim raft_ring` searches.

mod bag;
mod checker;
mod dice;
mod disk;
mod gone_leader;
mod member;
mod storm;
mod trapping;
mod traps;
mod weather;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use detcd::raft::core::{Config, RaftCore};
use detcd::raft::message::{ConfState, Index, Message, NodeId, Payload};

use crate::raft_ring::bag::Bag;
use crate::raft_ring::checker::{Checker, FOUNDATION};
use crate::raft_ring::dice::Dice;
use crate::raft_ring::disk::Manifest;
use crate::raft_ring::member::{Member, PendingInstall};
use crate::raft_ring::traps::Traps;
use crate::raft_ring::weather::Weather;

/// What happened in one history, to see that the search reaches what it is meant to reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub steps: u64,
    pub messages: u64,
    pub leaders: u64,
    pub committed: u64,
    pub crashes: u64,
    pub truncations: u64,
    pub conf_changes: u64,
    pub installs: u64,
    pub transfers: u64,
    pub reads_served: u64,
    pub reads_refused: u64,
    /// Traps that were sprung.
    pub traps: u64,
    /// Groups at rest that lost their leader.
    pub gone_leaders: u64,
    pub heal_ticks: u64,
}

/// One history. The same seed and steps give the same `Stats`.
pub fn run(seed: u64, steps: usize) -> Result<Stats, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| Ring::new(seed).run(steps)));
    outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        Err(format!("NoPanic: {}", text.unwrap_or_default()))
    })
}

/// The whole group with its network.
struct Ring {
    dice: Dice,
    weather: Weather,
    traps: Traps,
    /// Chance for what comes last.
    gone: Dice,
    bag: Bag,
    members: BTreeMap<NodeId, Member>,
    checker: Checker,
    /// Snapshot transfers that ended: (leader, follower, success).
    reports: Vec<(NodeId, NodeId, bool)>,
    /// A leader that is cut off and whose clock is slow: it will be deposed without noticing.
    stranded: Option<NodeId>,
    /// For each read: the last committed index when it began.
    reads: BTreeMap<u64, Index>,
    next_ctx: u64,
    next_proposal: u64,
    stats: Stats,
}

impl Ring {
    fn new(seed: u64) -> Ring {
        let mut dice = Dice::new(seed);
        let mut weather = Weather::draw(&mut dice);
        let traps = Traps::draw(seed, &mut weather);
        let mut bag = Bag::default();
        bag.drop_per_mille = weather.drop_per_mille;
        bag.duplicate_per_mille = weather.duplicate_per_mille;
        bag.reorder = weather.reorder;
        bag.cut_loses_per_mille = weather.cut_loses_per_mille;
        let founders: Vec<NodeId> = (1..=weather.founders).collect();
        let conf =
            ConfState { voters: founders.iter().copied().collect(), learners: Default::default() };
        let mut ring = Ring {
            dice,
            weather,
            traps,
            gone: Dice::labelled(seed, "gone leader"),
            bag,
            members: BTreeMap::new(),
            checker: Checker::default(),
            reports: Vec::new(),
            stranded: None,
            reads: BTreeMap::new(),
            next_ctx: 0,
            next_proposal: 0,
            stats: Stats::default(),
        };
        let pool = if ring.weather.conf_changes { ring.weather.founders + 2 } else { 0 };
        for id in 1..=ring.weather.founders.max(pool) {
            let config = ring.config(id);
            let mut member = Member::new(config);
            if founders.contains(&id) {
                member.found(Manifest { index: FOUNDATION, term: 1, conf: conf.clone() });
            }
            ring.members.insert(id, member);
        }
        ring
    }

    fn config(&mut self, id: NodeId) -> Config {
        Config {
            id,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: HEARTBEAT_TICKS,
            max_append_bytes: *self.dice.pick(&[1, 100, 1000]),
            max_inflight_messages: *self.dice.pick(&[1, 2, 16]),
            max_inflight_bytes: *self.dice.pick(&[64, 10_000]),
            pre_vote: self.weather.pre_vote,
            initial_tick_advance: self.dice.chance(500),
            check_quorum: self.weather.check_quorum,
            seed: self.dice.next(),
            max_uncommitted_bytes: 1000,
            max_ready_bytes: *self.dice.pick(&[1, 100, 10_000]),
        }
    }

    fn run(&mut self, steps: usize) -> Result<Stats, String> {
        let ids: Vec<NodeId> = self.members.keys().copied().collect();
        for id in &ids {
            self.start(*id)?;
        }
        for _ in 0..steps * self.weather.length {
            self.stats.steps += 1;
            self.storm()?;
            self.tend_traps()?;
        }
        self.heal()?;
        Ok(self.stats)
    }

    fn core(&mut self, id: NodeId) -> Option<&mut RaftCore> {
        self.members.get_mut(&id)?.core.as_mut()
    }

    fn start(&mut self, id: NodeId) -> Result<(), String> {
        let seed = self.dice.next();
        let member = self.members.get_mut(&id).expect("a member of the ring");
        if member.core.is_none() {
            member.start(seed);
            self.checker.started(member.core.as_ref().expect("just started"))?;
        }
        self.drain(id)
    }

    fn crash(&mut self, id: NodeId) {
        let member = self.members.get_mut(&id).expect("a member of the ring");
        if member.core.is_some() {
            self.stats.crashes += 1;
            member.crash(&mut self.dice);
        }
    }

    fn put(&mut self, message: Message) -> Result<(), String> {
        self.checker.leaves(&message)?;
        if message.payload == Payload::TimeoutNow {
            self.check_successor(message.from, message.to)?;
        }
        self.stats.messages += 1;
        if let Some(lost) = self.bag.put(message) {
            self.lost(lost);
        }
        Ok(())
    }

    /// Who is told to campaign has all that there is; else it only takes the leader down.
    fn check_successor(&self, leader: NodeId, successor: NodeId) -> Result<(), String> {
        let core = |id: &NodeId| self.members[id].core.as_ref();
        let (Some(leads), Some(follows)) = (core(&leader), core(&successor)) else { return Ok(()) };
        // What gathers before a Ready may be later than the message; and in a later term the
        // successor may have lost what it had.
        if self.weather.gather_per_mille > 0 || leads.term() != follows.term() {
            return Ok(());
        }
        let last = leads.last_index();
        if self.members[&successor].disk.image.holds(last, leads.term_at(last).unwrap_or(0)) {
            return Ok(());
        }
        Err(format!("StableLeadership: {leader} hands over to {successor}, which lacks {last}"))
    }

    /// A lost offer of a snapshot is noticed by the leader's driver.
    fn lost(&mut self, message: Message) {
        if matches!(message.payload, Payload::Snapshot { .. }) {
            self.reports.push((message.from, message.to, false));
        }
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        let to = message.to;
        match self.core(to) {
            Some(core) => core.step(message),
            None => self.lost(message),
        }
        self.after(to)
    }

    /// After an input: usually take the Ready at once, sometimes let inputs gather.
    fn after(&mut self, id: NodeId) -> Result<(), String> {
        if self.dice.chance(self.weather.gather_per_mille) {
            return self.check(id);
        }
        self.drain(id)
    }

    fn check(&mut self, id: NodeId) -> Result<(), String> {
        let members = &self.members;
        if let Some(core) = &members[&id].core {
            if core.is_leader() && !self.checker.knows_leader(core.term()) {
                self.stats.leaders += 1;
            }
            self.checker.stepped(core, |id| &members[&id].disk.image)?;
            self.stats.committed = self.checker.committed_to();
        }
        Ok(())
    }

    /// Does what the core of `id` wants done.
    fn drain(&mut self, id: NodeId) -> Result<(), String> {
        self.check(id)?;
        while self.core(id).is_some_and(|core| core.has_ready()) {
            let ready = self.core(id).expect("looked at above").ready();
            for message in ready.messages {
                self.put(message)?;
            }
            let member = self.members.get_mut(&id).expect("a member of the ring");
            let core = member.core.as_ref().expect("looked at above");
            if let Some(write) = ready.write {
                self.checker.written(core, &write.entries)?;
                if write.entries.first().is_some_and(|first| first.index <= member.last_written) {
                    self.stats.truncations += 1;
                }
                member.last_written = core.last_index();
                member.disk.put(write);
            }
            for entry in ready.committed {
                let image = &member.disk.image;
                if member.install.as_ref().is_some_and(|install| install.prepared) {
                    let index = entry.index;
                    return Err(format!("StateMachineSafety: {id} gets {index} during an install"));
                }
                self.checker.applies(id, member.handed_out, &entry, image)?;
                member.handed_out = entry.index;
                member.applying.push_back(entry);
            }
            if let Some(offer) = ready.snapshot {
                self.fetch(id, offer.from, offer.index);
            }
            for read in ready.read_states {
                let committed = self.reads.remove(&read.ctx);
                match (read.index, committed) {
                    (Some(index), Some(committed)) => {
                        self.stats.reads_served += 1;
                        self.checker.read(id, committed, index)?;
                    }
                    (None, Some(_)) => self.stats.reads_refused += 1,
                    (_, None) => return Err(format!("ReadOnce: {} answered twice", read.ctx)),
                }
            }
            self.check(id)?;
        }
        Ok(())
    }

    /// A follower's driver fetches the state of the leader, which may fail.
    fn fetch(&mut self, id: NodeId, from: NodeId, index: Index) {
        let source = &self.members[&from];
        let ok = source.core.is_some() && source.machine.index >= index;
        if !ok || self.dice.chance(self.weather.drop_per_mille) {
            self.reports.push((from, id, false));
            return;
        }
        let state = source.machine.clone();
        let member = self.members.get_mut(&id).expect("a member of the ring");
        member.install = Some(PendingInstall { from, state, prepared: false });
    }

    /// One step of an install that is under way.
    fn install(&mut self, id: NodeId) -> Result<(), String> {
        let member = self.members.get_mut(&id).expect("a member of the ring");
        if let Some((from, installed)) = member.step_install(&mut self.dice) {
            self.stats.installs += u64::from(installed);
            if let (true, Some(core)) = (installed, &member.core) {
                self.checker.installed(core, member.machine.term)?;
            }
            self.reports.push((from, id, true));
        }
        self.after(id)
    }

    /// Tells a core that a write is durable and lets go what waited for it.
    fn tell_synced(&mut self, id: NodeId) -> Result<(), String> {
        let member = self.members.get_mut(&id).expect("a member of the ring");
        let Some(core) = &mut member.core else { return Ok(()) };
        if let Some((seq, messages)) = member.disk.next_synced() {
            core.persisted(seq);
            for message in messages {
                self.put(message)?;
            }
        }
        self.after(id)
    }

    fn report(&mut self, position: usize) -> Result<(), String> {
        let (leader, peer, ok) = self.reports.swap_remove(position);
        if let Some(core) = self.core(leader) {
            core.report_snapshot(peer, ok);
        }
        self.after(leader)
    }

    fn propose(&mut self, id: NodeId) -> Result<(), String> {
        self.next_proposal += 1;
        let mut data = self.next_proposal.to_be_bytes().to_vec();
        data.resize(8 + self.dice.index(40), 0);
        let batch = vec![Bytes::from(data); 1 + self.dice.index(3)];
        if let Some(core) = self.core(id) {
            core.propose(batch).ok();
        }
        self.after(id)
    }

    fn read(&mut self, id: NodeId) -> Result<(), String> {
        self.next_ctx += 1;
        let (ctx, committed) = (self.next_ctx, self.checker.committed_to());
        if self.core(id).is_some_and(|core| core.read_index(ctx).is_ok()) {
            self.reads.insert(ctx, committed);
        }
        self.after(id)
    }

    /// Who comes back after the storm: everybody, or a majority of those who vote.
    fn survivors(&mut self) -> Vec<NodeId> {
        let mut ids: Vec<NodeId> = self.members.keys().copied().collect();
        if self.weather.loses_a_minority && !self.weather.conf_changes {
            let minority = (ids.len() - 1) / 2;
            for _ in 0..minority {
                let lost = ids.remove(self.dice.index(ids.len()));
                self.crash(lost);
            }
        }
        ids
    }

    /// Calm weather: nothing is lost, and the group must come back by itself.
    fn heal(&mut self) -> Result<(), String> {
        self.let_go();
        let ids = self.survivors();
        for id in &ids {
            self.start(*id)?;
        }
        let marker = Bytes::from_static(b"after the storm");
        let mut proposed_in = 0;
        let (mut durable, mut moved_at) = (0, 0);
        for tick in 1..=HEAL_TICKS_MAX * 10 {
            self.stats.heal_ticks = tick;
            self.calm_tick(&ids)?;
            // Whoever has a long log to catch up with, entry by entry, is not stuck.
            let before = std::mem::replace(&mut durable, self.durable_entries());
            if before != durable {
                moved_at = tick;
            }
            let leader = self.settled_leader();
            // A bare majority has to be of one mind, which takes some of them longer.
            let patience = if ids.len() < self.members.len() { 20 } else { 10 };
            // A leader may have led until it had applied its own removal, at the end of that log.
            let stands_still = tick - moved_at > u64::from(ELECTION_TICKS) * patience;
            if leader.is_none() && stands_still {
                return Err(format!("Liveness: no leader after {tick} ticks{}", self.describe()));
            }
            if tick > HEAL_TICKS_MAX && stands_still {
                break;
            }
            let Some(leader) = leader else { continue };
            let core = self.core(leader).expect("a leader runs");
            let (term, conf) = (core.term(), core.conf_state().clone());
            if proposed_in != term && core.propose(vec![marker.clone()]).is_ok() {
                proposed_in = term;
            }
            // Whoever was removed is switched off, as an operator would.
            for id in &ids {
                if conf.contains(*id) {
                    self.start(*id)?;
                } else {
                    self.crash(*id);
                }
            }
            let last = self.core(leader).expect("a leader runs").last_index();
            let everywhere = conf.voters.iter().chain(&conf.learners).all(|id| {
                let member = &self.members[id];
                !ids.contains(id) || (member.machine.index == last && member.core.is_some())
            });
            let in_log = (1..=last).any(|index| {
                self.checker.committed_at(index).is_some_and(|entry| entry.data == marker)
            });
            if everywhere && in_log && self.bag_is_quiet() {
                self.hand_over(leader, &ids)?;
                return self.lose_leader(&ids);
            }
        }
        let members = self.describe();
        let ticks = self.stats.heal_ticks;
        Err(format!("Liveness: not all is applied after {ticks} ticks{members}"))
    }

    /// When all is calm, leadership goes where it is sent, and at once.
    fn hand_over(&mut self, leader: NodeId, ids: &[NodeId]) -> Result<(), String> {
        let voters = self.core(leader).expect("a leader runs").conf_state().voters.clone();
        let others: Vec<NodeId> =
            ids.iter().copied().filter(|id| *id != leader && voters.contains(id)).collect();
        if !self.weather.hands_over || others.is_empty() {
            return Ok(());
        }
        let target = *self.dice.pick(&others);
        let core = self.core(leader).expect("a leader runs");
        core.transfer_leader(target).map_err(|refused| format!("Liveness: {refused:?}"))?;
        self.stats.transfers += 1;
        for _ in 0..ELECTION_TICKS {
            self.calm_tick(ids)?;
            if self.core(target).is_some_and(|core| core.is_leader()) {
                return Ok(());
            }
        }
        let members = self.describe();
        Err(format!("StableLeadership: {leader} did not hand over to {target}{members}"))
    }

    /// One line a member, for whoever looks into a failure.
    fn describe(&self) -> String {
        let mut text = String::new();
        for (id, member) in &self.members {
            let line = match &member.core {
                None => format!("\n  {id}: down"),
                Some(core) => format!(
                    "\n  {id}: {:?} {:?} log {}..{}/{} persisted {} applied {} {:?} {:?}",
                    core.role(),
                    core.hard_state(),
                    core.first_index(),
                    core.last_index(),
                    core.last_term(),
                    core.persisted_index(),
                    core.applied_index(),
                    core.conf_state(),
                    core.progress(),
                ),
            };
            text.push_str(&line);
        }
        text
    }

    /// What all logs have durable together.
    fn durable_entries(&self) -> Index {
        let cores = self.members.values().filter_map(|member| member.core.as_ref());
        cores.map(|core| core.persisted_index()).sum()
    }

    fn bag_is_quiet(&self) -> bool {
        self.members.values().all(|member| member.core.is_none() || member.disk.is_idle())
    }

    /// A leader that has committed in its term and is not handing over.
    fn settled_leader(&self) -> Option<NodeId> {
        let cores = self.members.values().filter_map(|member| member.core.as_ref());
        cores
            .filter(|core| core.has_committed_in_term() && core.conf_state().contains(core.id()))
            .max_by_key(|core| core.term())
            .map(|core| core.id())
    }

    /// One tick for all, with time for a few round trips.
    fn calm_tick(&mut self, ids: &[NodeId]) -> Result<(), String> {
        for id in ids {
            if let Some(core) = self.core(*id) {
                core.tick();
            }
            self.drain(*id)?;
        }
        for _ in 0..4 {
            for message in self.bag.drain() {
                self.deliver(message)?;
            }
            for id in ids {
                let member = self.members.get_mut(id).expect("a member of the ring");
                member.disk.sync(usize::MAX);
                while !self.members[id].disk.is_idle() {
                    self.tell_synced(*id)?;
                    if self.members[id].core.is_none() {
                        break;
                    }
                    let member = self.members.get_mut(id).expect("a member of the ring");
                    member.disk.sync(usize::MAX);
                }
                self.install(*id)?;
                self.apply(*id, usize::MAX)?;
                self.drain(*id)?;
            }
            while !self.reports.is_empty() {
                self.report(0)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, id: NodeId, count: usize) -> Result<(), String> {
        let member = self.members.get_mut(&id).expect("a member of the ring");
        self.stats.conf_changes += member.apply(count);
        self.after(id)
    }
}

const ELECTION_TICKS: u32 = 10;
const HEARTBEAT_TICKS: u32 = 2;

const HEAL_TICKS_MAX: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_histories_break_no_guarantee() {
        let seeds = std::env::var("RING_SEEDS").ok().and_then(|text| text.parse().ok());
        let from = std::env::var("RING_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut failures = Vec::new();
        let mut totals = Stats::default();
        for seed in from..from + seeds.unwrap_or(2000) {
            match run(seed, 400) {
                Ok(stats) => totals.add(&stats),
                Err(error) => failures.push(format!("seed {seed}: {error}")),
            }
        }
        println!("{totals:?}");
        failures.truncate(20);
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(totals.reaches_everything(), "some kind of event never happened: {totals:?}");
    }

    #[test]
    fn a_seed_has_one_history() {
        for seed in 0..50 {
            assert_eq!(run(seed, 300), run(seed, 300), "seed {seed}");
        }
    }
}
