//! The guarantees of Raft, each checked under its name from outside the core.

use std::collections::BTreeMap;

use detcd::raft::core::RaftCore;
use detcd::raft::message::{Entry, EntryKind, Index, Message, NodeId, Payload, Term};
use detcd::raft::ready::RoleKind;

use crate::raft_ring::disk::Image;

/// What the checker remembers of one running member.
#[derive(Clone, Copy, Default)]
struct Seen {
    term: Term,
    vote: NodeId,
    commit: Index,
    /// The last committed entry that was seen in its log, whoever knew that it is committed.
    has: Index,
    /// Whether it stood for election, or asked whether it may.
    campaigns: bool,
}

/// What is true of the whole group, as told by the first to know it.
#[derive(Default)]
pub struct Checker {
    leaders: BTreeMap<Term, NodeId>,
    /// For (index, term): the entry, and the term of the entry before it.
    entries: BTreeMap<(Index, Term), (Entry, Term)>,
    /// Committed entries from index 2 on (index 1 is the founders' snapshot), with the term of
    /// whoever knew first.
    committed: Vec<(Entry, Term)>,
    applied: BTreeMap<Index, Entry>,
    /// Votes that left a member, by term.
    votes: BTreeMap<(Term, NodeId), NodeId>,
    seen: BTreeMap<NodeId, Seen>,
}

/// The founders start with a snapshot here.
pub const FOUNDATION: Index = 1;

impl Checker {
    /// The highest index known to be committed by anybody.
    pub fn committed_to(&self) -> Index {
        FOUNDATION + self.committed.len() as u64
    }

    pub fn knows_leader(&self, term: Term) -> bool {
        self.leaders.contains_key(&term)
    }

    pub fn committed_at(&self, index: Index) -> Option<&Entry> {
        let offset = index.checked_sub(FOUNDATION + 1)?;
        self.committed.get(offset as usize).map(|(entry, _)| entry)
    }

    /// A member starts: what it forgot must not be what it had promised.
    pub fn started(&mut self, core: &RaftCore) -> Result<(), String> {
        let id = core.id();
        let hard = core.hard_state();
        for ((term, voter), candidate) in self.votes.range((hard.term, id)..) {
            if *voter == id && (*term > hard.term || hard.vote != *candidate) {
                return Err(format!(
                    "MonotonicVote: {id} voted for {candidate} in {term}, came back with {hard:?}"
                ));
            }
        }
        let seen = Seen {
            term: hard.term,
            vote: hard.vote,
            commit: core.commit_index(),
            ..Seen::default()
        };
        self.seen.insert(id, seen);
        Ok(())
    }

    /// Looks at a member after every step it made.
    pub fn stepped<'a>(
        &mut self,
        core: &RaftCore,
        image: impl Fn(NodeId) -> &'a Image,
    ) -> Result<(), String> {
        self.check_monotonic(core)?;
        self.check_campaign(core)?;
        self.check_leader(core)?;
        self.check_persisted(core, image(core.id()))?;
        self.check_commit(core, image)?;
        self.check_kept(core)
    }

    /// What is committed never leaves a log again, also where nobody has said so yet: a leader that
    /// lacks it is never elected, and only a leader of a later term makes a log shorter.
    fn check_kept(&mut self, core: &RaftCore) -> Result<(), String> {
        let id = core.id();
        let agrees = |index: Index| {
            let term = self.committed_at(index).map(|entry| entry.term);
            term.is_some() && core.term_at(index) == term
        };
        let has = self.seen.get(&id).map_or(0, |seen| seen.has);
        if has >= core.first_index() && !agrees(has) {
            return Err(format!("LeaderCompleteness: {id} drops {has}, which is committed"));
        }
        let last = core.last_index().min(self.committed_to());
        if last > has && agrees(last) {
            self.seen.entry(id).or_default().has = last;
        }
        Ok(())
    }

    fn check_monotonic(&mut self, core: &RaftCore) -> Result<(), String> {
        let id = core.id();
        let hard = core.hard_state();
        let seen = self.seen.entry(id).or_default();
        if hard.term < seen.term {
            return Err(format!("MonotonicTerm: {id} from {} to {}", seen.term, hard.term));
        }
        if hard.term == seen.term && seen.vote != 0 && hard.vote != seen.vote {
            return Err(format!("MonotonicVote: {id} from {} to {}", seen.vote, hard.vote));
        }
        if hard.commit < seen.commit {
            return Err(format!("MonotonicCommit: {id} from {} to {}", seen.commit, hard.commit));
        }
        seen.term = hard.term;
        seen.vote = hard.vote;
        Ok(())
    }

    fn check_leader(&mut self, core: &RaftCore) -> Result<(), String> {
        if !core.is_leader() {
            return Ok(());
        }
        let (id, term) = (core.id(), core.term());
        if let Some(&other) = self.leaders.get(&term) {
            if other != id {
                return Err(format!("ElectionSafety: {other} and {id} lead term {term}"));
            }
            return Ok(());
        }
        self.leaders.insert(term, id);
        for (entry, known_in) in &self.committed {
            let compacted = entry.index < core.first_index();
            if *known_in < term && !compacted && core.term_at(entry.index) != Some(entry.term) {
                return Err(format!(
                    "LeaderCompleteness: {id} leads term {term} without entry {} of term {}, \
                     committed in term {known_in}",
                    entry.index, entry.term
                ));
            }
        }
        Ok(())
    }

    /// Nobody begins to campaign with a committed change of membership that it has not applied: it
    /// would count a quorum of the past.
    fn check_campaign(&mut self, core: &RaftCore) -> Result<(), String> {
        let campaigns = matches!(core.role(), RoleKind::PreCandidate | RoleKind::Candidate);
        let seen = self.seen.entry(core.id()).or_default();
        if !campaigns || std::mem::replace(&mut seen.campaigns, campaigns) {
            seen.campaigns = campaigns;
            return Ok(());
        }
        let (applied, commit) = (core.applied_index(), core.commit_index());
        let waiting = core.entries(applied + 1, commit);
        match waiting.iter().find(|entry| entry.kind == EntryKind::ConfChange) {
            Some(change) => Err(format!(
                "MembershipSafety: {} campaigns with the change at {} committed, and {applied} \
                 applied",
                core.id(),
                change.index
            )),
            None => Ok(()),
        }
    }

    /// What the core believes durable is durable.
    fn check_persisted(&self, core: &RaftCore, image: &Image) -> Result<(), String> {
        let (id, persisted, applied) = (core.id(), core.persisted_index(), core.applied_index());
        if applied > persisted {
            let text = format!("{id} has applied {applied}, and counts {persisted}");
            return Err(format!("CommittedIsDurable: {text}"));
        }
        match core.term_at(persisted) {
            Some(term) if persisted >= core.first_index() && !image.holds(persisted, term) => {
                Err(format!("CommittedIsDurable: {id} counts {persisted}, not on disk"))
            }
            _ => Ok(()),
        }
    }

    fn check_commit<'a>(
        &mut self,
        core: &RaftCore,
        image: impl Fn(NodeId) -> &'a Image,
    ) -> Result<(), String> {
        let id = core.id();
        let commit = core.commit_index();
        let seen = self.seen.entry(id).or_default();
        let from = (seen.commit + 1).max(core.first_index());
        seen.commit = commit;
        for index in from..=commit {
            let entries = core.entries(index, index);
            let entry = entries.first().ok_or(format!("no entry {index} at {id}"))?;
            if let Some(known) = self.committed_at(index) {
                if known != entry {
                    return Err(format!(
                        "StateMachineSafety: {id} commits {entry:?}, others {known:?}"
                    ));
                }
                continue;
            }
            if index != self.committed_to() + 1 {
                return Err(format!("StateMachineSafety: {id} commits {index} out of order"));
            }
            self.committed.push((entry.clone(), core.term()));
            let voters = &core.conf_state().voters;
            let held = voters.iter().filter(|voter| image(**voter).holds(index, entry.term));
            if core.is_leader() && held.clone().count() * 2 <= voters.len() {
                return Err(format!(
                    "CommittedIsDurable: {id} commits {index}, on disk only at {:?} of {voters:?}",
                    held.collect::<Vec<_>>()
                ));
            }
        }
        Ok(())
    }

    /// Entries enter a log: the same index and term mean the same entry after the same past.
    pub fn written(&mut self, core: &RaftCore, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let Some(before) = core.term_at(entry.index - 1) else { continue };
            let key = (entry.index, entry.term);
            match self.entries.get(&key) {
                Some(known) if *known != (entry.clone(), before) => {
                    return Err(format!(
                        "LogMatching: {} has {entry:?} after term {before}, others {known:?}",
                        core.id()
                    ));
                }
                Some(_) => {}
                None => {
                    self.entries.insert(key, (entry.clone(), before));
                }
            }
        }
        Ok(())
    }

    /// An entry is handed out for applying.
    pub fn applies(
        &mut self,
        id: NodeId,
        after: Index,
        entry: &Entry,
        image: &Image,
    ) -> Result<(), String> {
        if !image.holds(entry.index, entry.term) {
            return Err(format!("CommittedIsDurable: {id} applies {}, not on disk", entry.index));
        }
        if entry.index != after + 1 {
            return Err(format!("StateMachineSafety: {id} applies {} after {after}", entry.index));
        }
        let known = self.applied.entry(entry.index).or_insert_with(|| entry.clone());
        if known != entry {
            return Err(format!("StateMachineSafety: {id} applies {entry:?}, others {known:?}"));
        }
        Ok(())
    }

    /// A state of `term` has taken the place of a member's own: a log that ends in a later term
    /// than its owner's would make two logs of one term if that member were elected.
    pub fn installed(&self, core: &RaftCore, term: Term) -> Result<(), String> {
        if term > core.term() {
            let (id, own) = (core.id(), core.term());
            return Err(format!("LogMatching: {id} is in {own}, and has a state of {term}"));
        }
        Ok(())
    }

    /// A message leaves a member; what it promises can't be taken back.
    pub fn leaves(&mut self, message: &Message) -> Result<(), String> {
        let Message { from, to, term, ref payload } = *message;
        let candidate = match payload {
            Payload::VoteResponse { granted: true } => to,
            Payload::Vote { .. } => from,
            _ => return Ok(()),
        };
        let known = *self.votes.entry((term, from)).or_insert(candidate);
        if known != candidate {
            return Err(format!("MonotonicVote: {from} votes {known} and {candidate} in {term}"));
        }
        Ok(())
    }

    /// A read that began when `committed` was the last committed index is served at `index`.
    pub fn read(&self, id: NodeId, committed: Index, index: Index) -> Result<(), String> {
        if index < committed {
            return Err(format!("LinearizableRead: {id} reads at {index}, {committed} was done"));
        }
        Ok(())
    }
}
