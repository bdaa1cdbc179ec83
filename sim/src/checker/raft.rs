//! Raft's promises, checked on what the members report of themselves: election safety, monotonic
//! state, log matching at commit, state-machine safety, and commits that stay on the platters.
//!
//! The names are those of the paper (figure 3).

use super::{Guarantee, Violation};
use crate::moment::Nanos;
use std::collections::BTreeMap;

/// Something that a member reported, or that the harness did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The process came up; whatever it held in memory is gone.
    Started,
    Leads {
        term: u64,
        /// Its own id, by which the others vote.
        id: u64,
    },
    /// Term, vote and commit, once they are durable.
    HardState {
        term: u64,
        vote: u64,
        commit: u64,
    },
    /// The entries up to `last_index` are durable on this member.
    Persisted {
        last_index: u64,
    },
    Committed {
        index: u64,
        term: u64,
        checksum: u32,
    },
    Applied {
        index: u64,
        term: u64,
        revision: i64,
        state_hash: u64,
    },
    /// What a member that came up again has in its log.
    Recovered {
        term: u64,
        last_index: u64,
        commit: u64,
    },
    /// The state of a checkpoint, its own or another member's, is what the member goes on from.
    Loaded {
        index: u64,
        revision: i64,
        state_hash: u64,
    },
    /// The state after an entry of another member took the place of its own, durably.
    Installed {
        index: u64,
        term: u64,
    },
    /// Who the members are after this entry, as sets of bits.
    Members {
        index: u64,
        voters: Seats,
        learners: Seats,
        removed: Seats,
    },
    /// A leader has put a change of membership into its log.
    ChangeProposed {
        index: u64,
        term: u64,
        commit: u64,
        applied: u64,
    },
    /// The member was made a cluster of its own, with what it had applied up to this entry: the
    /// others are left out for good, and what they had beyond it is lost.
    Forced {
        index: u64,
    },
    /// The harness damaged what the member had made durable: its old promises are void.
    Damaged,
    /// The harness damaged checkpoints of the member: what only a state of another's made durable
    /// may be gone, and what its log holds stands.
    RunsDamaged,
    /// The harness damaged the state in the member's memory: it may differ from the others' until
    /// it comes up or installs with the state that belongs to its index.
    Corrupted,
    /// The harness has looked, and the damaged value is gone.
    Sound,
}

/// A set of members: bit n stands for member n.
pub type Seats = u64;

/// Who the members are after some entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub voters: Seats,
    pub learners: Seats,
    pub removed: Seats,
}

/// What a platter holds at some index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platter {
    Holds {
        term: u64,
    },
    /// A checkpoint that verifies includes it.
    Covered,
    /// No entry there; the log ends at this one.
    EndsAt(u64),
    /// The harness damaged it, and nothing is demanded of it.
    Destroyed,
}

/// What one member said.
///
/// Invariant: `applied` belongs to the present life, everything else was reported durable and holds
/// across restarts.
#[derive(Clone, Debug, Default)]
struct Life {
    term: u64,
    vote: u64,
    commit: u64,
    persisted: u64,
    /// What of that its log holds.
    logged: u64,
    /// The commit index that it last came up with. The founders' entries are committed from the
    /// start, on every founder by itself.
    recovered_commit: u64,
    /// The last entry that it called committed.
    committed: u64,
    applied: u64,
    /// Index, revision and state hash after the last entry that it applied or loaded.
    state: Option<(u64, i64, u64)>,
    /// Its disk was damaged on purpose: nothing is demanded of it any more.
    damaged: bool,
    /// Its checkpoints were.
    runs_damaged: bool,
    /// Its state was damaged on purpose.
    corrupted: bool,
}

/// The state of all members, as far as they told.
#[derive(Clone, Debug, Default)]
pub struct Raft {
    lives: BTreeMap<usize, Life>,
    leaders: BTreeMap<u64, usize>,
    /// Who was voted for, durably: by term and voter.
    votes: BTreeMap<(u64, usize), u64>,
    /// Index -> term and checksum of the entry that was committed there, and who said so first.
    committed: BTreeMap<u64, ((u64, u32), usize)>,
    applied: BTreeMap<u64, AppliedAt>,
    /// Who the members were from which entry on.
    configurations: BTreeMap<u64, Configuration>,
    /// The last change that each leader put into its log: term and index.
    proposed: BTreeMap<usize, (u64, u64)>,
    /// Changes whose proposers said that this entry, of their own term, was committed.
    resting_on: BTreeMap<u64, (usize, u64)>,
    highest_committed: u64,
    /// Who was made a cluster of its own: what others say counts no more.
    alone: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct AppliedAt {
    term: u64,
    revision: i64,
    state_hash: u64,
    first: usize,
}

impl Raft {
    /// Takes in one fact; the first contradiction is a violation.
    pub fn observe(&mut self, at: Nanos, member: usize, fact: Fact) -> Result<(), Violation> {
        let fail = |guarantee, text: String| Err(Violation::new(guarantee, Some(at), text));
        if self.alone.is_some_and(|alone| alone != member) {
            return Ok(());
        }
        match fact {
            Fact::Forced { index } => {
                self.forced(member, index);
                Ok(())
            }
            Fact::Started => {
                self.life(member).applied = 0;
                Ok(())
            }
            Fact::Members { index, voters, learners, removed } => self
                .members_changed(member, index, Configuration { voters, learners, removed })
                .or_else(|text| fail(Guarantee::MembershipSafety, text)),
            Fact::ChangeProposed { index, term, commit, applied } => self
                .change_proposed(member, (term, index), commit, applied)
                .or_else(|text| fail(Guarantee::MembershipSafety, text)),
            Fact::Damaged => {
                self.lives.insert(member, Life { damaged: true, ..Life::default() });
                Ok(())
            }
            Fact::RunsDamaged => {
                self.life(member).runs_damaged = true;
                Ok(())
            }
            Fact::Corrupted => {
                self.life(member).corrupted = true;
                Ok(())
            }
            Fact::Sound => {
                self.life(member).corrupted = false;
                Ok(())
            }
            Fact::Leads { term, id } => {
                self.leads(member, term, id).or_else(|text| fail(Guarantee::ElectionSafety, text))
            }
            Fact::HardState { term, vote, commit } => self
                .hard_state(member, term, vote, commit)
                .or_else(|text| fail(Guarantee::MonotonicState, text)),
            Fact::Persisted { last_index } => {
                let life = self.life(member);
                (life.persisted, life.logged) = (last_index, last_index);
                Ok(())
            }
            Fact::Recovered { term, last_index, commit } => self
                .recovered(member, term, last_index, commit)
                .or_else(|text| fail(Guarantee::CommittedIsDurable, text)),
            Fact::Loaded { index, revision, state_hash } => self
                .loaded(member, index, revision, state_hash)
                .or_else(|text| fail(Guarantee::StateMachineSafety, text)),
            Fact::Installed { index, term } => self
                .installed(member, index, term)
                .or_else(|text| fail(Guarantee::LogMatching, text)),
            Fact::Committed { index, term, checksum } => {
                self.commit(at, member, index, (term, checksum))
            }
            Fact::Applied { index, term, revision, state_hash } => {
                let entry = AppliedAt { term, revision, state_hash, first: member };
                self.apply(at, member, index, entry)
            }
        }
    }

    /// Only what `member` had applied counts from here on; it may not have heard of later terms, so
    /// these may have other leaders.
    fn forced(&mut self, member: usize, index: u64) {
        self.alone = Some(member);
        self.committed.retain(|at, _| *at <= index);
        self.applied.retain(|at, _| *at <= index);
        self.configurations.retain(|at, _| *at <= index);
        self.resting_on.clear();
        self.proposed.clear();
        let known = self.lives.get(&member).map_or(0, |life| life.term);
        self.leaders.retain(|term, _| *term <= known);
        self.votes.retain(|(term, _), _| *term <= known);
        self.highest_committed = self.committed.keys().next_back().copied().unwrap_or(0);
    }

    /// The highest index that anybody called committed.
    pub fn highest_committed(&self) -> u64 {
        self.highest_committed
    }

    /// The last index that `member` applied in its present life, with revision and state hash.
    pub fn last_applied(&self, member: usize) -> Option<(u64, i64, u64)> {
        self.lives.get(&member)?.state
    }

    /// Whether the state of `member` was damaged on purpose, and still is as far as is known.
    pub fn is_corrupted(&self, member: usize) -> bool {
        self.lives.get(&member).is_some_and(|life| life.corrupted)
    }

    /// Whether `member` has the state that the others had at its index.
    pub fn agrees(&self, member: usize) -> bool {
        let state = self.last_applied(member);
        let known = |(index, revision, state_hash)| {
            let applied = self.applied.get(&index);
            applied.is_some_and(|a| (a.revision, a.state_hash) == (revision, state_hash))
        };
        state.is_some_and(known)
    }

    /// Index and term of the entry whose applying made `revision`.
    pub fn entry_of(&self, revision: i64) -> Option<(u64, u64)> {
        let at = |(_, applied): &(&u64, &AppliedAt)| applied.revision >= revision;
        self.applied.iter().find(at).map(|(index, applied)| (*index, applied.term))
    }

    /// How many terms had a leader.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }

    /// Whether the platters of a quorum hold the last entry that anybody called committed, and so
    /// all before it. `platters` are those of all voters.
    pub fn check_platters(&self, at: Nanos, platters: &[Platter]) -> Result<(), Violation> {
        let index = self.highest_committed;
        let Some(((term, _), _)) = self.committed.get(&index) else { return Ok(()) };
        let holds = |platter: &&Platter| match platter {
            Platter::Holds { term: held } => held == term,
            Platter::EndsAt(_) => false,
            Platter::Covered | Platter::Destroyed => true,
        };
        let held = |seat: usize| platters.get(seat).is_some_and(|platter| holds(&platter));
        if self.on_quorum(index, platters.len(), held) {
            return Ok(());
        }
        let text =
            format!("entry {index} of term {term} is committed, and on the platters: {platters:?}");
        Err(Violation::new(Guarantee::CommittedIsDurable, Some(at), text))
    }

    /// The members after the newest change that anybody has applied.
    pub fn configuration(&self) -> Option<Configuration> {
        self.configurations.values().next_back().copied()
    }

    /// Whether a majority holds what is asked, of the voters that may have committed `index`: a
    /// leader counts by the last change that it has applied, which may be the one before the last.
    /// Before any is known, all of `members` vote.
    fn on_quorum(&self, index: u64, members: usize, holds: impl Fn(usize) -> bool) -> bool {
        let mut known = self.configurations.range(..index).rev().take(2).peekable();
        if known.peek().is_none() {
            return (0..64).filter(|seat| holds(*seat)).count() > members / 2;
        }
        known.any(|(_, configuration)| {
            let voters = (0..64).filter(|seat| configuration.voters >> seat & 1 == 1);
            let holders = voters.filter(|seat| holds(*seat)).count();
            holders > configuration.voters.count_ones() as usize / 2
        })
    }

    fn members_changed(
        &mut self,
        member: usize,
        index: u64,
        new: Configuration,
    ) -> Result<(), String> {
        if new.removed & (new.voters | new.learners) != 0 {
            return Err(format!("entry {index} brings a removed member back: {new:x?}"));
        }
        let before = self.configurations.range(..index).next_back();
        if before.is_some_and(|(_, old)| *old == new) {
            // An install tells of a configuration that was known before.
            return Ok(());
        }
        let known = *self.configurations.entry(index).or_insert(new);
        if known != new {
            return Err(format!("after {index} member {member} has {new:x?}, others {known:x?}"));
        }
        let Some((before, old)) = self.configurations.range(..index).next_back() else {
            return Ok(());
        };
        let promoted = old.learners & new.voters;
        for seat in (0..64).filter(|seat| promoted >> seat & 1 == 1) {
            self.check_promotion(seat, index)?;
        }
        // A member that installed a snapshot tells of several changes as one.
        let one = (old.voters ^ new.voters).count_ones() <= 1;
        let skipped = self.applied.range(before + 1..index).count() as u64 != index - before - 1;
        if old.removed & !new.removed != 0 || !(one || skipped) {
            return Err(format!("from {old:x?} at {before} to {new:x?} at {index} in one change"));
        }
        Ok(())
    }

    /// Whoever is promoted had nine tenths of the log: a quorum must not wait for a newcomer.
    fn check_promotion(&self, seat: usize, index: u64) -> Result<(), String> {
        let has = self.lives.get(&seat).map_or(0, |life| life.persisted);
        // What stood in the leader's log when it proposed the change.
        let last = index - 1;
        if has * 10 >= last * 9 {
            return Ok(());
        }
        Err(format!("member {seat} was promoted at {index} with a log that ends at {has}"))
    }

    /// A change may be proposed once the one before is applied here, and an entry of the leader's
    /// own term is committed.
    fn change_proposed(
        &mut self,
        member: usize,
        (term, index): (u64, u64),
        commit: u64,
        applied: u64,
    ) -> Result<(), String> {
        let before = self.proposed.insert(member, (term, index));
        if let Some((_, pending)) = before.filter(|(of, at)| *of == term && *at > applied) {
            return Err(format!(
                "member {member} proposed a change at {index}, with that at {pending} under way"
            ));
        }
        self.resting_on.insert(commit, (member, term));
        self.check_resting(commit)
    }

    /// A change may be proposed only once an entry of the leader's own term is committed.
    fn check_resting(&self, commit: u64) -> Result<(), String> {
        let Some((member, term)) = self.resting_on.get(&commit) else { return Ok(()) };
        match self.committed.get(&commit) {
            Some(((of, _), _)) if of < term => Err(format!(
                "member {member} proposed a change in term {term} when only {commit} of term {of} \
                 was committed"
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// A term has one leader, and whoever leads has the durable votes of a quorum: a vote that a
    /// crash can take back can be given twice.
    fn leads(&mut self, member: usize, term: u64, id: u64) -> Result<(), String> {
        if let Some(other) = self.leaders.insert(term, member).filter(|other| *other != member) {
            return Err(format!("members {other} and {member} both lead term {term}"));
        }
        let damaged = |seat| self.lives.get(&seat).is_some_and(|life| life.damaged);
        let gave = |seat| self.votes.get(&(term, seat)) == Some(&id) || damaged(seat);
        let applied = self.lives.get(&member).map_or(0, |life| life.applied);
        if self.on_quorum(applied + 1, self.lives.len(), gave) {
            return Ok(());
        }
        let voters: Vec<usize> = (0..64).filter(|seat| gave(*seat)).collect();
        Err(format!("member {member} leads term {term} by the durable votes of {voters:?} alone"))
    }

    fn life(&mut self, member: usize) -> &mut Life {
        self.lives.entry(member).or_default()
    }

    fn hard_state(
        &mut self,
        member: usize,
        term: u64,
        vote: u64,
        commit: u64,
    ) -> Result<(), String> {
        let life = self.life(member);
        if term < life.term {
            return Err(format!("member {member} went from term {} back to {term}", life.term));
        }
        if term == life.term && life.vote != 0 && vote != life.vote {
            return Err(format!(
                "member {member} voted for {:x} and for {vote:x} in term {term}",
                life.vote
            ));
        }
        if commit < life.commit {
            return Err(format!(
                "the commit index of member {member} went from {} back to {commit}",
                life.commit
            ));
        }
        (life.term, life.vote, life.commit) = (term, vote, commit);
        if vote != 0 {
            self.votes.insert((term, member), vote);
        }
        Ok(())
    }

    /// What was reported durable must be there again after a crash.
    fn recovered(
        &mut self,
        member: usize,
        term: u64,
        last_index: u64,
        commit: u64,
    ) -> Result<(), String> {
        let life = self.life(member);
        if term < life.term {
            return Err(format!(
                "member {member} came up in term {term}, but had made term {} durable",
                life.term
            ));
        }
        // A write that was on its way may have replaced what the member did not know to be
        // committed; the rest nobody ever replaces.
        let held = if life.runs_damaged { life.logged } else { life.persisted };
        let promised = held.min(life.committed);
        if last_index < promised {
            return Err(format!(
                "member {member} came up with a log that ends at {last_index}, but had made \
                 committed entries up to {promised} durable"
            ));
        }
        if commit < life.commit {
            return Err(format!(
                "member {member} came up with commit index {commit}, but had made {} durable",
                life.commit
            ));
        }
        (life.persisted, life.logged) = (last_index, last_index);
        life.recovered_commit = commit;
        Ok(())
    }

    /// The state that a checkpoint held must be the one that applying the log leads to.
    fn loaded(
        &mut self,
        member: usize,
        index: u64,
        revision: i64,
        state_hash: u64,
    ) -> Result<(), String> {
        let life = self.life(member);
        life.applied = index;
        life.state = Some((index, revision, state_hash));
        let was_corrupted = life.corrupted;
        if index == 0 {
            life.corrupted = false;
            return Ok(());
        }
        let known = self.applied.get(&index);
        if known.is_some_and(|a| (a.revision, a.state_hash) == (revision, state_hash)) {
            self.life(member).corrupted = false;
            return Ok(());
        }
        if was_corrupted {
            return Ok(());
        }
        let known = known.ok_or_else(|| {
            format!("member {member} has a checkpoint at {index}, which nobody has applied")
        })?;
        Err(format!(
            "the checkpoint of member {member} at {index}: revision {revision}, state \
             {state_hash:016x}; member {} had revision {}, state {:016x}",
            known.first, known.revision, known.state_hash
        ))
    }

    /// Who installs a state needs its log up to there no longer.
    fn installed(&mut self, member: usize, index: u64, term: u64) -> Result<(), String> {
        if let Some(((known, _), first)) = self.committed.get(&index)
            && *known != term
        {
            return Err(format!(
                "member {member} installed {index} of term {term}; member {first} committed it in \
                 term {known}"
            ));
        }
        let life = self.life(member);
        life.persisted = life.persisted.max(index);
        life.committed = life.committed.max(index);
        Ok(())
    }

    /// Whoever is the first to call an entry committed may do so only when a quorum has reported
    /// it durable: that is what committed means, whether or not a crash comes to show it.
    fn durable_on_quorum(&self, at: Nanos, member: usize, index: u64) -> Result<(), Violation> {
        if self.lives.get(&member).is_none_or(|life| index <= life.recovered_commit) {
            return Ok(());
        }
        let holds = |life: &&Life| life.damaged || life.persisted >= index;
        let holders = self.lives.values().filter(holds).count();
        let held = |seat: usize| self.lives.get(&seat).is_some_and(|life| holds(&life));
        if self.on_quorum(index, self.lives.len(), held) {
            return Ok(());
        }
        let text = format!(
            "member {member} calls entry {index} committed, durable on {holders} of {} members",
            self.lives.len()
        );
        Err(Violation::new(Guarantee::CommittedIsDurable, Some(at), text))
    }

    fn commit(
        &mut self,
        at: Nanos,
        member: usize,
        index: u64,
        entry: (u64, u32),
    ) -> Result<(), Violation> {
        if !self.committed.contains_key(&index) {
            self.durable_on_quorum(at, member, index)?;
        }
        let (known, first) = *self.committed.entry(index).or_insert((entry, member));
        if known != entry {
            let text = format!(
                "at index {index} member {member} committed (term, checksum) {entry:x?}, member \
                 {first} {known:x?}"
            );
            return Err(Violation::new(Guarantee::LogMatching, Some(at), text));
        }
        if let Err(text) = self.check_resting(index) {
            return Err(Violation::new(Guarantee::MembershipSafety, Some(at), text));
        }
        self.highest_committed = self.highest_committed.max(index);
        let life = self.life(member);
        life.committed = life.committed.max(index);
        Ok(())
    }

    fn apply(
        &mut self,
        at: Nanos,
        member: usize,
        index: u64,
        entry: AppliedAt,
    ) -> Result<(), Violation> {
        let fail = |text| Err(Violation::new(Guarantee::StateMachineSafety, Some(at), text));
        let last = self.life(member).applied;
        if last != 0 && index != last + 1 {
            return fail(format!("member {member} applied {index} after {last}"));
        }
        let life = self.life(member);
        life.applied = index;
        life.state = Some((index, entry.revision, entry.state_hash));
        if life.corrupted {
            return Ok(());
        }
        let known = *self.applied.entry(index).or_insert(entry);
        let same = (known.term, known.revision, known.state_hash)
            == (entry.term, entry.revision, entry.state_hash);
        if same {
            return Ok(());
        }
        fail(format!(
            "index {index}: member {member} has term {}, revision {}, state {:016x}; member {} had \
             term {}, revision {}, state {:016x}",
            entry.term,
            entry.revision,
            entry.state_hash,
            known.first,
            known.term,
            known.revision,
            known.state_hash
        ))
    }
}

#[cfg(test)]
mod tests;
