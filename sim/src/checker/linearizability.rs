//! Linearizability: operations take effect once, between call and return, in revision order.
//!
//! Revisions are a total order of the writes, and every answer carries one. So the order needs no
//! search: writes are replayed in revision order against the model, reads must match the model at
//! their revision, and no operation may come before one that returned before it was called. What
//! remains open is which of the writes with an unknown outcome fill the revisions that no
//! acknowledged write explains. That is a search, and it is bounded: one that runs out of steps is
//! inconclusive, not passed.

mod refusals;

use super::{Guarantee, Violation};
use crate::history::streams::Stream;
use crate::history::{History, Operation, Outcome};
use crate::model::{Answer, KeyValue, Model, Reply, Request};
use crate::moment::Nanos;
use std::collections::{BTreeMap, BTreeSet};

/// How many writes of unknown outcome may be tried, over all revisions.
const STEPS_MAX: u64 = 400_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    Consistent,
    /// The search ran out of steps.
    Inconclusive,
}

/// Judges `history`.
pub fn check(history: &History) -> Result<Ruling, Violation> {
    replay(history, &BTreeMap::new()).map(|(ruling, _)| ruling)
}

/// Judges `history`, and gives the states that it went through; they are the true ones if the
/// ruling is `Consistent`.
///
/// `hints` name the operation that may have made a revision, for the search to try first. A wrong
/// hint costs a step and changes no ruling.
pub fn replay(
    history: &History,
    hints: &BTreeMap<i64, usize>,
) -> Result<(Ruling, Model), Violation> {
    let mut replay = Replay::new(&history.operations)?;
    replay.hints.clone_from(hints);
    replay.ends = history.leases.deletions();
    let last_end = replay.ends.last_key_value().map_or(1, |(revision, _)| *revision);
    replay.highest = replay.highest.max(last_end);
    replay.see_streams(&history.streams);
    replay.check_refusals()?;
    let ruling = replay.run()?;
    if ruling == Ruling::Consistent {
        replay.check_real_time()?;
    }
    Ok((ruling, replay.model))
}

/// A revision that no acknowledged write explains, and the attempts to explain it.
struct Gap {
    revision: i64,
    candidates: Vec<usize>,
    tried: usize,
}

/// The replay of a history against the model.
///
/// Invariant: `filled` holds one operation for each gap below the revision of the model.
struct Replay<'a> {
    operations: &'a [Operation],
    model: Model,
    /// The acknowledged write of each revision.
    writes: BTreeMap<i64, usize>,
    /// The lease whose end made each of these revisions.
    ends: BTreeMap<i64, i64>,
    /// The acknowledged operations that saw the state of each revision without writing.
    reads: BTreeMap<i64, Vec<usize>>,
    /// Writes with an unknown outcome, by the moment of their call.
    unknown: Vec<usize>,
    /// The versions that any answer showed, by the revision that made them.
    observed: BTreeMap<i64, Vec<&'a KeyValue>>,
    /// The deletions that a watcher was told of.
    deleted: BTreeMap<i64, Vec<&'a str>>,
    /// Which write of unknown outcome explains which revision.
    filled: BTreeMap<i64, usize>,
    /// The earliest return of an operation at or after each revision.
    deadlines: BTreeMap<i64, Nanos>,
    hints: BTreeMap<i64, usize>,
    highest: i64,
    steps: u64,
}

impl<'a> Replay<'a> {
    fn new(operations: &'a [Operation]) -> Result<Replay<'a>, Violation> {
        let mut replay = Replay {
            operations,
            model: Model::default(),
            writes: BTreeMap::new(),
            ends: BTreeMap::new(),
            reads: BTreeMap::new(),
            unknown: Vec::new(),
            observed: BTreeMap::new(),
            deleted: BTreeMap::new(),
            filled: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            hints: BTreeMap::new(),
            highest: 1,
            steps: 0,
        };
        for (i, operation) in operations.iter().enumerate() {
            match &operation.outcome {
                Outcome::Done(reply) => replay.sort_in(i, reply)?,
                Outcome::Unknown(_) if operation.request.may_write() => replay.unknown.push(i),
                Outcome::Unknown(_) | Outcome::Refused(_) | Outcome::Failed(_) => {}
            }
        }
        replay.unknown.sort_by_key(|i| (operations[*i].called, *i));
        replay.set_deadlines();
        Ok(replay)
    }

    fn sort_in(&mut self, i: usize, reply: &'a Reply) -> Result<(), Violation> {
        if reply.revision < 1 {
            return Err(self.violation(i, "an answer has no revision"));
        }
        self.highest = self.highest.max(reply.revision);
        let mut beyond = None;
        let observed = &mut self.observed;
        reply.answer.each_kv(&mut |kv| {
            let seen: &mut Vec<&KeyValue> = observed.entry(kv.mod_revision).or_default();
            if seen.len() < 8 {
                seen.push(kv);
            }
            if kv.mod_revision > reply.revision {
                beyond = Some(kv.mod_revision);
            }
        });
        if let Some(beyond) = beyond {
            return Err(self.violation(
                i,
                &format!("shows revision {beyond} under a header of {}", reply.revision),
            ));
        }
        if !reply.answer.wrote() {
            // A read of an old state is checked as soon as the replay gets there: it is what tells
            // the writes of unknown outcome apart.
            let seen = match &self.operations[i].request {
                Request::Range(range) if range.revision > reply.revision => {
                    return Err(self.violation(i, "a future revision was answered"));
                }
                Request::Range(range) if range.revision > 0 => range.revision,
                _ => reply.revision,
            };
            self.reads.entry(seen).or_default().push(i);
            return Ok(());
        }
        if let Some(other) = self.writes.insert(reply.revision, i) {
            return Err(self.violation(
                i,
                &format!(
                    "two acknowledged writes have revision {}; the other is {}",
                    reply.revision,
                    describe(other, &self.operations[other])
                ),
            ));
        }
        Ok(())
    }

    /// Events tell the writes of unknown outcome apart as well as reads do. Whether they are the
    /// right ones is for the checker of watches to say.
    fn see_streams(&mut self, streams: &'a [Stream]) {
        let deliveries = streams.iter().flat_map(|s| &s.deliveries);
        // The last writes may have been seen by watchers only, each of them one of the unknown.
        let most = self.highest + self.unknown.len() as i64;
        for event in deliveries.flat_map(|d| &d.events) {
            if event.revision <= most {
                self.highest = self.highest.max(event.revision);
            }
            if self.writes.contains_key(&event.revision) {
                continue;
            }
            match &event.kv {
                Some(kv) => self.observed.entry(event.revision).or_default().push(kv),
                None => self.deleted.entry(event.revision).or_default().push(&event.key),
            }
        }
        self.set_deadlines();
    }

    fn set_deadlines(&mut self) {
        let mut earliest = Nanos::MAX;
        for revision in (1..=self.highest).rev() {
            let write = self.writes.get(&revision).into_iter();
            let reads = self.reads.get(&revision).into_iter().flatten();
            for i in write.chain(reads) {
                earliest = earliest.min(self.operations[*i].returned);
            }
            self.deadlines.insert(revision, earliest);
        }
    }

    /// Replays every revision, going back to an earlier gap when nothing fits any more.
    fn run(&mut self) -> Result<Ruling, Violation> {
        let mut gaps: Vec<Gap> = Vec::new();
        let mut deepest: Option<(i64, Violation)> = None;
        self.check_reads(1)?;
        while self.model.revision() < self.highest {
            let next = self.model.revision() + 1;
            let step = match (self.writes.get(&next), self.ends.get(&next)) {
                (Some(i), None) => self.replay_write(next, *i),
                (write, Some(lease)) => self.replay_end(next, *lease, write.copied()),
                (None, None) => {
                    let candidates = self.candidates(next);
                    gaps.push(Gap { revision: next, candidates, tried: 0 });
                    self.fill(&mut gaps)
                }
            };
            let Err(violation) = step else { continue };
            if deepest.as_ref().is_none_or(|(revision, _)| *revision < next) {
                deepest = Some((next, violation));
            }
            loop {
                if self.steps > STEPS_MAX {
                    return Ok(Ruling::Inconclusive);
                }
                if gaps.is_empty() {
                    return Err(deepest.expect("a step failed").1);
                }
                if self.fill(&mut gaps).is_ok() {
                    break;
                }
            }
        }
        Ok(Ruling::Consistent)
    }

    /// Tries the next candidates of the last gap; drops the gap when none fits.
    fn fill(&mut self, gaps: &mut Vec<Gap>) -> Result<(), Violation> {
        let gap = gaps.last_mut().expect("called with a gap");
        let revision = gap.revision;
        self.forget_from(revision);
        let mut reason = format!("no write with an unknown outcome explains revision {revision}");
        while gap.tried < gap.candidates.len() {
            let i = gap.candidates[gap.tried];
            gap.tried += 1;
            self.steps += 1;
            self.model.apply(&self.operations[i].request);
            if self.model.revision() == revision {
                let fits = self.shows_observed(revision).and_then(|()| self.check_reads(revision));
                match fits {
                    Ok(()) => {
                        self.filled.insert(revision, i);
                        return Ok(());
                    }
                    Err(violation) => reason = violation.text,
                }
                self.model.undo_to(revision - 1);
            }
        }
        gaps.pop();
        let at = self.deadlines.get(&revision).copied().filter(|at| *at != Nanos::MAX);
        Err(Violation::new(Guarantee::Linearizability, at, reason))
    }

    fn forget_from(&mut self, revision: i64) {
        self.model.undo_to((revision - 1).min(self.model.revision()));
        self.filled.split_off(&revision);
    }

    /// The writes of unknown outcome that could have made `revision`.
    ///
    /// Of several that ask for the same, the first is enough: whichever is left over can explain a
    /// later revision as well, because the deadlines of revisions do not decrease.
    fn candidates(&self, revision: i64) -> Vec<usize> {
        let used: BTreeSet<usize> = self.filled.values().copied().collect();
        let deadline = self.deadlines.get(&revision).copied().unwrap_or(Nanos::MAX);
        let mut candidates: Vec<usize> = Vec::new();
        for i in &self.unknown {
            let operation = &self.operations[*i];
            let same = |j: &usize| self.operations[*j].request == operation.request;
            let tagged = matches!(operation.request, Request::Put(_));
            if operation.called > deadline || used.contains(i) {
                continue;
            }
            // Values of puts are unique; comparing them with each other would be in vain.
            if tagged || !candidates.iter().any(same) {
                candidates.push(*i);
            }
        }
        if let Some(hint) = self.hints.get(&revision) {
            let same = |i: &usize| self.operations[*i].request == self.operations[*hint].request;
            if let Some(at) = candidates.iter().position(same) {
                candidates.swap(0, at);
            }
        }
        candidates
    }

    /// Whether the model holds every version of `revision` that some answer showed.
    fn shows_observed(&self, revision: i64) -> Result<(), Violation> {
        for kv in self.observed.get(&revision).into_iter().flatten() {
            let made = self.model.get(&kv.key, revision);
            let same = made.is_some_and(|m| {
                m.mod_revision == revision
                    && m.create_revision == kv.create_revision
                    && m.version == kv.version
                    // A read of keys only shows no value.
                    && (m.value == kv.value || kv.value.is_empty())
            });
            if !same {
                let text = format!("an answer showed {kv:?}, which no write explains");
                return Err(Violation::new(Guarantee::Linearizability, None, text));
            }
        }
        for key in self.deleted.get(&revision).into_iter().flatten() {
            if !self.model.deletes(key, revision) {
                let text =
                    format!("a watcher saw {key} deleted at {revision}, which no write explains");
                return Err(Violation::new(Guarantee::Linearizability, None, text));
            }
        }
        Ok(())
    }

    fn replay_write(&mut self, revision: i64, i: usize) -> Result<(), Violation> {
        let expected = self.model.apply(&self.operations[i].request);
        self.expect(i, &expected.answer)?;
        if expected.revision != revision {
            return Err(self.violation(i, "the model writes nothing here"));
        }
        self.shows_observed(revision)?;
        self.check_reads(revision)
    }

    /// The end of a lease deletes its keys in a revision of its own.
    fn replay_end(&mut self, at: i64, lease: i64, write: Option<usize>) -> Result<(), Violation> {
        if let Some(i) = write {
            return Err(self.violation(i, &format!("lease {lease:x} ended in the same revision")));
        }
        self.model.end_lease(lease);
        if self.model.revision() != at {
            let text = format!("lease {lease:x} ended in revision {at} and had no keys");
            return Err(Violation::new(Guarantee::Linearizability, None, text));
        }
        self.shows_observed(at)?;
        self.check_reads(at)
    }

    /// Everything that was read at `revision` must match the model there.
    fn check_reads(&mut self, revision: i64) -> Result<(), Violation> {
        let Some(reads) = self.reads.get(&revision) else { return Ok(()) };
        for i in reads.clone() {
            let expected = self.model.apply(&self.operations[i].request);
            if self.model.revision() != revision {
                self.model.undo_to(revision);
                return Err(self.violation(i, "the model would have written here"));
            }
            self.expect(i, &expected.answer)?;
        }
        Ok(())
    }

    fn expect(&self, i: usize, expected: &Answer) -> Result<(), Violation> {
        let Outcome::Done(reply) = &self.operations[i].outcome else {
            unreachable!("only acknowledged operations are compared");
        };
        if reply.answer == *expected {
            return Ok(());
        }
        Err(self.violation(i, &format!("the model answers {expected:?}")))
    }

    /// No operation may take effect before one that had returned before it was called.
    ///
    /// A write of revision r has place 2r, everything that saw r without writing has 2r + 1.
    fn check_real_time(&self) -> Result<(), Violation> {
        let mut calls: Vec<(Nanos, i64, usize)> = Vec::new();
        let mut returns: Vec<(Nanos, i64, usize)> = Vec::new();
        for (i, operation) in self.operations.iter().enumerate() {
            let Outcome::Done(reply) = &operation.outcome else { continue };
            let place = reply.revision * 2 + i64::from(!reply.answer.wrote());
            returns.push((operation.returned, place, i));
            // A serializable read may see an older state, but none from the future.
            let serializable =
                matches!(&operation.request, Request::Range(range) if range.serializable);
            if !serializable {
                calls.push((operation.called, place, i));
            }
        }
        for (revision, i) in &self.filled {
            calls.push((self.operations[*i].called, revision * 2, *i));
        }
        calls.sort_unstable();
        returns.sort_unstable();
        let mut returned = returns.iter().peekable();
        let mut highest: Option<(i64, usize)> = None;
        for (called, place, i) in calls {
            while let Some((_, other, j)) = returned.next_if(|(at, ..)| *at < called) {
                highest = highest.max(Some((*other, *j)));
            }
            if let Some((other, j)) = highest.filter(|(other, _)| *other > place) {
                let text = format!(
                    "takes effect at place {place}, before place {other} of an operation that had \
                     returned: {}",
                    describe(j, &self.operations[j])
                );
                return Err(self.violation(i, &text));
            }
        }
        Ok(())
    }

    fn violation(&self, i: usize, text: &str) -> Violation {
        let operation = &self.operations[i];
        let text = format!("{}: {text}", describe(i, operation));
        Violation::new(Guarantee::Linearizability, Some(operation.returned), text)
    }
}

fn describe(i: usize, operation: &Operation) -> String {
    format!(
        "operation {i} of client {} at member {} ({} to {}) {:?} -> {:?}",
        operation.client,
        operation.member,
        crate::trace::clock(operation.called),
        crate::trace::clock(operation.returned),
        operation.request,
        operation.outcome
    )
}

#[cfg(test)]
mod tests;
