//! Raft's promises, checked on what the members report of themselves: election safety, monotonic
//! state, log matching at commit, state-machine safety, and commits that stay on the platters.
//!
//! The names are those of the paper (figure 3).

use super::{Guarantee, Violation};
use crate::history::Nanos;
use std::collections::BTreeMap;

/// Something that a member reported, or that the harness did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The process came up; whatever it held in memory is gone.
    Started,
    Leads {
        term: u64,
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
    /// The harness damaged what the member had made durable: its old promises are void.
    Damaged,
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
    /// Its state was damaged on purpose.
    corrupted: bool,
}

/// The state of all members, as far as they told.
#[derive(Clone, Debug, Default)]
pub struct Raft {
    lives: BTreeMap<usize, Life>,
    leaders: BTreeMap<u64, usize>,
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
        match fact {
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
            Fact::Corrupted => {
                self.life(member).corrupted = true;
                Ok(())
            }
            Fact::Sound => {
                self.life(member).corrupted = false;
                Ok(())
            }
            Fact::Leads { term } => match self.leaders.insert(term, member) {
                Some(other) if other != member => fail(
                    Guarantee::ElectionSafety,
                    format!("members {other} and {member} both lead term {term}"),
                ),
                Some(_) | None => Ok(()),
            },
            Fact::HardState { term, vote, commit } => self
                .hard_state(member, term, vote, commit)
                .or_else(|text| fail(Guarantee::MonotonicState, text)),
            Fact::Persisted { last_index } => {
                self.life(member).persisted = last_index;
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

    /// The entry whose applying made `revision`.
    pub fn index_of(&self, revision: i64) -> Option<u64> {
        let at = |(_, applied): &(&u64, &AppliedAt)| applied.revision >= revision;
        self.applied.iter().find(at).map(|(index, _)| *index)
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
        let promised = life.persisted.min(life.committed);
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
        life.persisted = last_index;
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
mod tests {
    use super::*;

    fn broken(facts: &[(usize, Fact)]) -> Guarantee {
        let mut raft = Raft::default();
        let (last, before) = facts.split_last().expect("facts");
        for (i, (member, fact)) in before.iter().enumerate() {
            raft.observe(i as u64, *member, *fact).expect("true so far");
        }
        raft.observe(99, last.0, last.1).expect_err("a contradiction").guarantee
    }

    fn applied(index: u64, state_hash: u64) -> Fact {
        Fact::Applied { index, term: 1, revision: index as i64, state_hash }
    }

    #[test]
    fn two_leaders_of_a_term_are_seen() {
        let facts = [
            (0, Fact::Leads { term: 3 }),
            (0, Fact::Leads { term: 3 }),
            (1, Fact::Leads { term: 3 }),
        ];
        assert_eq!(broken(&facts), Guarantee::ElectionSafety);
    }

    #[test]
    fn terms_votes_and_commits_do_not_go_back() {
        let state = |term, vote, commit| (0, Fact::HardState { term, vote, commit });
        for last in [state(4, 0, 9), state(5, 2, 9), state(5, 0, 9), state(6, 2, 8)] {
            assert_eq!(broken(&[state(5, 1, 9), last]), Guarantee::MonotonicState);
        }
    }

    #[test]
    fn two_entries_at_a_committed_index_are_seen() {
        let commit = |term, checksum| Fact::Committed { index: 7, term, checksum };
        assert_eq!(broken(&[(0, commit(2, 5)), (1, commit(3, 5))]), Guarantee::LogMatching);
        assert_eq!(broken(&[(0, commit(2, 5)), (1, commit(2, 6))]), Guarantee::LogMatching);
    }

    #[test]
    fn states_that_differ_are_seen_also_across_a_restart() {
        let facts =
            [(0, applied(1, 10)), (0, applied(2, 20)), (1, applied(1, 10)), (1, applied(2, 21))];
        assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
        let facts = [(0, applied(1, 10)), (0, Fact::Started), (0, applied(1, 11))];
        assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
        let facts = [(0, applied(1, 10)), (0, applied(3, 30))];
        assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
    }

    #[test]
    fn a_state_that_was_damaged_on_purpose_is_passed_over_until_it_is_replaced() {
        let loaded = |index, state_hash| Fact::Loaded { index, revision: index as i64, state_hash };
        let mut facts = vec![(0, applied(1, 10)), (0, applied(2, 20)), (0, applied(3, 30))];
        facts.extend([(1, Fact::Corrupted), (1, applied(1, 11)), (1, loaded(1, 11))]);
        facts.extend([(1, applied(2, 21)), (1, loaded(2, 20)), (1, applied(3, 31))]);
        assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
    }

    #[test]
    fn a_checkpoint_with_another_state_is_seen() {
        let loaded =
            |index, state_hash| (1, Fact::Loaded { index, revision: index as i64, state_hash });
        let past = [(0, applied(1, 10)), (0, applied(2, 20))];
        for last in [loaded(2, 21), loaded(3, 30), loaded(1, 20)] {
            assert_eq!(broken(&[past[0], past[1], last]), Guarantee::StateMachineSafety);
        }
        // Whoever goes on from one applies the next entry, and none twice.
        for next in [applied(2, 20), applied(4, 40)] {
            let facts = [past[0], past[1], loaded(2, 20), (1, next)];
            assert_eq!(broken(&facts), Guarantee::StateMachineSafety);
        }
        let mut raft = Raft::default();
        for (member, fact) in [past[0], past[1], loaded(2, 20), (1, applied(3, 30))] {
            raft.observe(0, member, fact).expect("a checkpoint as it should be");
        }
    }

    #[test]
    fn an_install_is_a_promise_like_any_other() {
        let kept = |member| (member, Fact::Persisted { last_index: 9 });
        let commit = (0, Fact::Committed { index: 9, term: 4, checksum: 0 });
        let installed = |term| (1, Fact::Installed { index: 9, term });
        let begun = [kept(0), kept(2), commit];
        assert_eq!(broken(&[begun[0], begun[1], begun[2], installed(3)]), Guarantee::LogMatching);
        let lost = (1, Fact::Recovered { term: 4, last_index: 8, commit: 0 });
        let facts = [begun[0], begun[1], begun[2], installed(4), (1, Fact::Started), lost];
        assert_eq!(broken(&facts), Guarantee::CommittedIsDurable);
    }

    #[test]
    fn a_member_that_lost_what_was_durable_is_seen() {
        let up = |term, last_index, commit| (1, Fact::Recovered { term, last_index, commit });
        let state = (1, Fact::HardState { term: 4, vote: 2, commit: 7 });
        let kept = (1, Fact::Persisted { last_index: 9 });
        let commit = (1, Fact::Committed { index: 9, term: 4, checksum: 0 });
        for last in [up(3, 9, 7), up(4, 8, 7), up(4, 9, 6)] {
            let facts = [state, kept, commit, (1, Fact::Started), last];
            assert_eq!(broken(&facts), Guarantee::CommittedIsDurable);
        }
        // Another vote in the same term after the restart.
        let other = (1, Fact::HardState { term: 4, vote: 3, commit: 7 });
        let facts = [state, kept, (1, Fact::Started), up(4, 9, 7), other];
        assert_eq!(broken(&facts), Guarantee::MonotonicState);
        let mut raft = Raft::default();
        for (member, fact) in [state, kept, (1, Fact::Damaged), (1, Fact::Started), up(0, 0, 0)] {
            raft.observe(0, member, fact).expect("damage by the harness voids the promises");
        }
    }

    #[test]
    fn a_commit_before_a_quorum_has_it_durable_is_seen() {
        let kept = |member, last_index| (member, Fact::Persisted { last_index });
        let commit = (0, Fact::Committed { index: 5, term: 1, checksum: 0 });
        assert_eq!(
            broken(&[kept(0, 5), kept(1, 4), kept(2, 4), commit]),
            Guarantee::CommittedIsDurable
        );
        let mut raft = Raft::default();
        for (member, fact) in [kept(0, 5), kept(1, 5), kept(2, 4), commit] {
            raft.observe(0, member, fact).expect("two of three hold it");
        }
    }

    #[test]
    fn a_commit_without_a_quorum_of_platters_is_seen() {
        let mut raft = Raft::default();
        let commit = Fact::Committed { index: 5, term: 1, checksum: 0 };
        raft.observe(0, 1, commit).expect("true");
        let (held, other) = (Platter::Holds { term: 1 }, Platter::Holds { term: 2 });
        let quorum = [held, Platter::EndsAt(4), held];
        raft.check_platters(0, &quorum).expect("a quorum holds it");
        raft.check_platters(0, &[held, other, Platter::EndsAt(4)]).expect_err("one holds it");
        let rotten = [held, Platter::Destroyed, Platter::EndsAt(4)];
        raft.check_platters(0, &rotten).expect("what was destroyed may have held it");
    }

    fn members(index: u64, voters: Seats, removed: Seats) -> (usize, Fact) {
        (0, Fact::Members { index, voters, learners: 0, removed })
    }

    #[test]
    fn members_change_one_at_a_time_and_never_come_back() {
        for last in [members(4, 0b101, 0), members(4, 0b1011, 0b10), members(4, 0b11100, 0b1000000)]
        {
            let applied = [(0, applied(1, 1)), (0, applied(2, 1)), (0, applied(3, 1))];
            let facts = [members(3, 0b111, 0b1000000)].into_iter().chain([last]);
            let facts: Vec<_> = applied.into_iter().chain(facts).collect();
            assert_eq!(broken(&facts), Guarantee::MembershipSafety);
        }
        let facts = [members(3, 0b11, 0b100), (1, members(3, 0b111, 0).1)];
        assert_eq!(broken(&facts), Guarantee::MembershipSafety);
    }

    #[test]
    fn a_promotion_of_a_learner_that_is_far_behind_is_seen() {
        let after = Fact::Members { index: 19, voters: 0b1111, learners: 0, removed: 0 };
        let before = Fact::Members { index: 9, voters: 0b111, learners: 0b1000, removed: 0 };
        let kept = |last_index| (3, Fact::Persisted { last_index });
        let facts = [(0, before), kept(16), (0, after)];
        assert_eq!(broken(&facts), Guarantee::MembershipSafety);
        let mut raft = Raft::default();
        for (member, fact) in [(0, before), kept(17), (0, after)] {
            raft.observe(0, member, fact).expect("nine tenths of 18 entries");
        }
    }

    #[test]
    fn a_change_before_its_time_is_seen() {
        let committed = (0, Fact::Committed { index: 5, term: 3, checksum: 0 });
        let proposed =
            |index, term, applied| (0, Fact::ChangeProposed { index, term, commit: 5, applied });
        assert_eq!(broken(&[committed, proposed(9, 4, 5)]), Guarantee::MembershipSafety);
        assert_eq!(broken(&[proposed(9, 4, 5), committed]), Guarantee::MembershipSafety);
        let two = [committed, proposed(9, 3, 5), proposed(10, 3, 8)];
        assert_eq!(broken(&two), Guarantee::MembershipSafety);
        let mut raft = Raft::default();
        for (member, fact) in [committed, proposed(9, 3, 5), proposed(10, 3, 9)] {
            raft.observe(0, member, fact).expect("one after the other");
        }
    }

    #[test]
    fn a_commit_needs_a_quorum_of_those_who_vote() {
        let kept = |member, last_index| (member, Fact::Persisted { last_index });
        let commit = (0, Fact::Committed { index: 9, term: 1, checksum: 0 });
        // Five voters since entry 4, of which two hold it; the learner's copy does not count.
        let five = (0, Fact::Members { index: 4, voters: 0b11111, learners: 0b100000, removed: 0 });
        let four = (0, Fact::Members { index: 3, voters: 0b1111, learners: 0b100000, removed: 0 });
        let facts = [four, five, kept(0, 9), kept(1, 9), kept(5, 9), commit];
        assert_eq!(broken(&facts), Guarantee::CommittedIsDurable);
    }
}
