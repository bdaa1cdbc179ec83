//! The log in memory, and the marks on it: written, persisted, committed, handed out, applied.

use std::collections::VecDeque;

use crate::raft::message::{Entry, EntryKind, Index, Term};

/// What became of an append from a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appended {
    /// The log agrees with the leader's up to this index.
    Matched(Index),
    /// There is no entry with the term the leader named at the index before its first.
    Rejected,
    /// The message contradicts what is committed here. No correct leader sends it.
    Broken,
}

/// A write handed to the driver and not yet acknowledged.
struct InFlight {
    seq: u64,
    /// The last entry of the write that is still part of the log, 0 if none.
    last: Index,
}

/// The log: entries after the compaction point, all in memory.
///
/// Invariants:
/// - entries are contiguous from `snapshot_index + 1`, and their terms never fall;
/// - `snapshot_index <= applied <= handed_out <= commit <= last_index`;
/// - `handed_out <= persisted < unwritten <= last_index + 1`, except that `persisted` may be
///   behind `unwritten` by any number of writes in flight;
/// - nothing at or below `commit` is ever truncated.
pub struct Log {
    snapshot_index: Index,
    snapshot_term: Term,
    entries: VecDeque<Entry>,
    commit: Index,
    handed_out: Index,
    applied: Index,
    /// Everything up to here is durable as it stands in this log.
    persisted: Index,
    /// The first entry that no write has carried yet.
    unwritten: Index,
    in_flight: VecDeque<InFlight>,
    /// The durable log must be told that it starts over after `snapshot_index`.
    restart_due: bool,
    /// Indexes of the ConfChange entries after `applied`, rising.
    conf_changes: VecDeque<Index>,
}

impl Log {
    /// The log as recovered. `entries` may begin before the snapshot; what is covered is dropped.
    ///
    /// A snapshot that was installed just before a crash can find older entries beside it. If
    /// the entry at its index has another term, the rest of that log belongs to another history
    /// and is dropped as well. In that case, and if the durable log ends before the snapshot, the
    /// first write makes it start over.
    pub fn new(
        snapshot_index: Index,
        snapshot_term: Term,
        entries: Vec<Entry>,
        commit: Index,
        applied: Index,
    ) -> Log {
        let conflict = entries.iter().any(|e| e.index == snapshot_index && e.term != snapshot_term);
        let mut kept = VecDeque::with_capacity(entries.len());
        let behind = entries.last().map_or(0, |last| last.index) < snapshot_index;
        for entry in entries {
            if entry.index > snapshot_index && !conflict {
                let expected = snapshot_index + 1 + kept.len() as u64;
                assert!(entry.index == expected, "gap: {} for {expected}", entry.index);
                kept.push_back(entry);
            }
        }
        let mut log = Log {
            snapshot_index,
            snapshot_term,
            entries: kept,
            commit: 0,
            handed_out: applied,
            applied,
            persisted: 0,
            unwritten: 0,
            in_flight: VecDeque::new(),
            restart_due: conflict || behind,
            conf_changes: VecDeque::new(),
        };
        let last = log.last_index();
        assert!(applied >= snapshot_index, "applied {applied} < snapshot {snapshot_index}");
        assert!(applied <= last, "applied {applied} beyond the last durable entry {last}");
        // A torn write can leave the hard state of a write without its entries.
        log.commit = commit.min(last).max(applied);
        log.persisted = last;
        log.unwritten = last + 1;
        for position in 0..log.entries.len() {
            let (index, kind) = (log.entries[position].index, log.entries[position].kind);
            log.note_conf_change(index, kind);
        }
        log
    }

    pub fn snapshot_index(&self) -> Index {
        self.snapshot_index
    }

    pub fn first_index(&self) -> Index {
        self.snapshot_index + 1
    }

    pub fn last_index(&self) -> Index {
        self.snapshot_index + self.entries.len() as u64
    }

    pub fn last_term(&self) -> Term {
        self.entries.back().map_or(self.snapshot_term, |entry| entry.term)
    }

    pub fn commit(&self) -> Index {
        self.commit
    }

    pub fn applied(&self) -> Index {
        self.applied
    }

    pub fn handed_out(&self) -> Index {
        self.handed_out
    }

    pub fn persisted(&self) -> Index {
        self.persisted
    }

    /// The term at `index`; None if it is compacted away or not there yet. Never a made-up 0.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.snapshot_index {
            return Some(self.snapshot_term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let offset = index.checked_sub(self.first_index())?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// Entries from `low` to `high`, both included and clamped to what is in memory, as many as
    /// fit in `bytes_max` but at least one.
    pub fn slice(&self, low: Index, high: Index, bytes_max: usize) -> Vec<Entry> {
        let low = low.max(self.first_index());
        let high = high.min(self.last_index());
        if low > high {
            return Vec::new();
        }
        let first = (low - self.first_index()) as usize;
        let count = (high - low + 1) as usize;
        let mut bytes = 0usize;
        let fits = self
            .entries
            .range(first..first + count)
            .take_while(|entry| {
                bytes = bytes.saturating_add(entry.size_bytes());
                bytes <= bytes_max
            })
            .count();
        self.entries.range(first..first + fits.max(1)).cloned().collect()
    }

    /// The last index not after `index` whose term is at most `term`, with its term if known.
    ///
    /// Everything between that index and `index` has a higher term and can't match a log that
    /// has `term` at `index`, so both sides may skip it (paper, end of section 5.3).
    pub fn last_not_above(&self, index: Index, term: Term) -> (Index, Option<Term>) {
        let index = index.min(self.last_index());
        if index <= self.snapshot_index {
            return (index, self.term(index));
        }
        let count = (index - self.snapshot_index) as usize;
        let (front, back) = self.entries.as_slices();
        let not_above = if count <= front.len() {
            front[..count].partition_point(|entry| entry.term <= term)
        } else {
            match front.partition_point(|entry| entry.term <= term) {
                all if all == front.len() => {
                    let rest = &back[..count - front.len()];
                    all + rest.partition_point(|entry| entry.term <= term)
                }
                part => part,
            }
        };
        let found = self.snapshot_index + not_above as u64;
        (found, self.term(found))
    }

    /// Whether a candidate's log is at least as new as this one: by the last term, then by
    /// length (paper, section 5.4.1).
    pub fn is_up_to_date(&self, last_index: Index, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    /// A leader adds an entry of its own at the end.
    pub fn push(&mut self, entry: Entry) {
        let (last, last_term) = (self.last_index(), self.last_term());
        assert!(entry.index == last + 1, "push {} after {last}", entry.index);
        assert!(entry.term >= last_term, "push term {} after {last_term}", entry.term);
        let (index, kind) = (entry.index, entry.kind);
        self.entries.push_back(entry);
        self.note_conf_change(index, kind);
    }

    /// A follower takes entries from a leader, whose log has `prev_term` at `prev_index`.
    ///
    /// Expects contiguous entries from `prev_index + 1`. What is here already stays: only a
    /// real conflict truncates, so a late or repeated message takes nothing away.
    pub fn try_append(
        &mut self,
        prev_index: Index,
        prev_term: Term,
        entries: Vec<Entry>,
    ) -> Appended {
        let last_sent = prev_index + entries.len() as u64;
        if last_sent <= self.commit {
            // All of it is committed here, and perhaps compacted: agreed, not a conflict.
            return Appended::Matched(self.commit);
        }
        if prev_index >= self.commit && self.term(prev_index) != Some(prev_term) {
            return Appended::Rejected;
        }
        let skipped = self.commit.saturating_sub(prev_index) as usize;
        if skipped > 0 && self.term(self.commit) != Some(entries[skipped - 1].term) {
            return Appended::Broken;
        }
        for entry in entries.into_iter().skip(skipped) {
            match self.term(entry.index) {
                Some(term) if term == entry.term => continue,
                Some(_) => self.truncate_from(entry.index),
                None => {}
            }
            self.push(entry);
        }
        Appended::Matched(last_sent)
    }

    /// Drops the entries from `index` on. What was written of them counts for nothing from here
    /// on, even if the same entries should come back: their writes may be overwritten on disk
    /// by then (the ABA race of asynchronous writes).
    fn truncate_from(&mut self, index: Index) {
        assert!(index > self.commit, "truncate {index} at or below commit {}", self.commit);
        assert!(index <= self.last_index(), "truncate {index} after {}", self.last_index());
        self.entries.truncate((index - self.first_index()) as usize);
        self.unwritten = self.unwritten.min(index);
        self.void_writes_after(index - 1);
        while self.conf_changes.back().is_some_and(|change| *change >= index) {
            self.conf_changes.pop_back();
        }
    }

    fn void_writes_after(&mut self, index: Index) {
        self.persisted = self.persisted.min(index);
        for write in &mut self.in_flight {
            write.last = write.last.min(index);
        }
    }

    /// Remembers a change of membership. An earlier one that still waits must be committed,
    /// because a leader proposes a change only after it applied the one before.
    fn note_conf_change(&mut self, index: Index, kind: EntryKind) {
        if kind != EntryKind::ConfChange || index <= self.applied {
            return;
        }
        if let Some(&earlier) = self.conf_changes.back() {
            self.commit_to(earlier);
        }
        self.conf_changes.push_back(index);
    }

    /// Whether a committed change of membership waits to be applied here.
    pub fn has_unapplied_conf_change(&self) -> bool {
        self.conf_changes.front().is_some_and(|change| *change <= self.commit)
    }

    /// Raises the commit index. Returns whether it moved.
    pub fn commit_to(&mut self, index: Index) -> bool {
        if index <= self.commit {
            return false;
        }
        let last = self.last_index();
        assert!(index <= last, "commit {index} beyond the last entry {last}");
        self.commit = index;
        true
    }

    pub fn has_unwritten(&self) -> bool {
        self.unwritten <= self.last_index() || self.restart_due
    }

    pub fn has_writes_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Starts write `seq`: the entries no write has carried, and whether the durable log starts
    /// over at the snapshot first.
    pub fn start_write(&mut self, seq: u64) -> (Option<(Index, Term)>, Vec<Entry>) {
        assert!(self.in_flight.back().is_none_or(|w| w.seq < seq), "write {seq} out of order");
        let entries = self.slice(self.unwritten, self.last_index(), usize::MAX);
        let last = entries.last().map_or(0, |entry| entry.index);
        self.unwritten = self.last_index() + 1;
        self.in_flight.push_back(InFlight { seq, last });
        let restart = self.restart_due.then_some((self.snapshot_index, self.snapshot_term));
        self.restart_due = false;
        (restart, entries)
    }

    /// Write `seq` and all before it are durable.
    pub fn finish_writes(&mut self, seq: u64) {
        while let Some(write) = self.in_flight.pop_front_if(|write| write.seq <= seq) {
            self.persisted = self.persisted.max(write.last);
        }
    }

    /// Up to where entries may be handed out: committed, and durable here.
    fn applicable(&self) -> Index {
        self.commit.min(self.persisted)
    }

    pub fn has_applicable(&self) -> bool {
        self.handed_out < self.applicable()
    }

    /// Hands out committed entries, each exactly once.
    pub fn take_applicable(&mut self, bytes_max: usize) -> Vec<Entry> {
        let entries = self.slice(self.handed_out + 1, self.applicable(), bytes_max);
        if let Some(last) = entries.last() {
            self.handed_out = last.index;
        }
        entries
    }

    /// The state machine has applied everything up to `index`.
    pub fn applied_to(&mut self, index: Index) {
        if index <= self.applied {
            return;
        }
        let handed_out = self.handed_out;
        assert!(index <= handed_out, "applied {index}, but only {handed_out} was handed out");
        self.applied = index;
        self.forget_conf_changes();
    }

    fn forget_conf_changes(&mut self) {
        while self.conf_changes.front().is_some_and(|change| *change <= self.applied) {
            self.conf_changes.pop_front();
        }
    }

    /// How far the log may be compacted behind a checkpoint at `index` if `entries` before it are
    /// to stay, but no more of them than fit `bytes`: for followers that are a little behind.
    pub fn compaction_point(&self, index: Index, entries: u64, bytes: u64) -> Index {
        let lowest = index.saturating_sub(entries).max(self.snapshot_index);
        let mut point = index;
        let mut kept = 0;
        while point > lowest {
            kept += self.entry(point).map_or(0, |entry| entry.size_bytes() as u64);
            if kept > bytes {
                break;
            }
            point -= 1;
        }
        point
    }

    /// Entries up to `index` leave memory.
    pub fn compact(&mut self, index: Index) {
        if index <= self.snapshot_index {
            return;
        }
        assert!(index <= self.applied, "compact {index} beyond applied {}", self.applied);
        let term = self.term(index).expect("an applied entry after the compaction point");
        self.entries.drain(..(index - self.snapshot_index) as usize);
        self.snapshot_index = index;
        self.snapshot_term = term;
    }

    /// The state machine holds a durable snapshot at `index`; the log goes on from there.
    pub fn install(&mut self, index: Index, term: Term) {
        let handed_out = self.handed_out;
        assert!(index >= handed_out, "snapshot {index} behind {handed_out}, handed out");
        let matches = self.term(index) == Some(term);
        assert!(
            matches || index > self.commit,
            "snapshot {index} of term {term} contradicts what is committed up to {}",
            self.commit
        );
        // Entries that follow a matching one stay. If the disk doesn't have all of them up to
        // the snapshot, it starts over there and gets the rest again.
        let written = matches && self.unwritten > index;
        if matches {
            self.entries.drain(..(index - self.snapshot_index) as usize);
        } else {
            self.entries.clear();
        }
        self.snapshot_index = index;
        self.snapshot_term = term;
        if written {
            self.persisted = self.persisted.max(index);
        } else {
            self.restart_due = true;
            self.unwritten = index + 1;
            self.void_writes_after(0);
            self.persisted = index;
        }
        self.commit = self.commit.max(index);
        self.handed_out = index;
        self.applied = index;
        let last = self.last_index();
        self.conf_changes.retain(|change| *change > index && *change <= last);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn entry(index: Index, term: Term) -> Entry {
        Entry { term, index, kind: EntryKind::Normal, data: Bytes::new() }
    }

    /// The dumb twin: a plain list of terms, a disk that takes whole writes, and nothing clever.
    #[derive(Default)]
    struct Twin {
        terms: Vec<Term>,
        disk: Vec<Term>,
        /// Writes under way: where each begins, and its terms.
        writes: VecDeque<(usize, Vec<Term>)>,
        unwritten: usize,
    }

    impl Twin {
        fn append(&mut self, prev: usize, terms: &[Term]) {
            for (offset, term) in terms.iter().enumerate() {
                let position = prev + offset;
                if self.terms.get(position) != Some(term) {
                    self.terms.truncate(position);
                    self.unwritten = self.unwritten.min(position);
                    self.terms.push(*term);
                }
            }
        }

        fn write(&mut self) {
            self.writes.push_back((self.unwritten, self.terms[self.unwritten..].to_vec()));
            self.unwritten = self.terms.len();
        }

        fn sync(&mut self) {
            if let Some((from, terms)) = self.writes.pop_front()
                && !terms.is_empty()
            {
                self.disk.truncate(from);
                self.disk.extend(terms);
            }
        }

        /// Entries that are the same on disk and in memory, from the start.
        fn agreed(&self) -> u64 {
            self.terms.iter().zip(&self.disk).take_while(|(a, b)| a == b).count() as u64
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Append { prev: usize, count: usize, term_step: u64 },
        Write,
        Sync,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0usize..8, 1usize..4, 0u64..2)
                .prop_map(|(prev, count, term_step)| Op::Append { prev, count, term_step }),
            2 => Just(Op::Write),
            2 => Just(Op::Sync),
        ]
    }

    proptest! {
        #[test]
        fn persisted_never_claims_what_the_disk_does_not_hold(
            ops in prop::collection::vec(any_op(), 1..60),
        ) {
            let mut log = Log::new(0, 0, Vec::new(), 0, 0);
            let mut twin = Twin::default();
            let (mut term, mut written, mut synced) = (1, 0, 0);
            for op in ops {
                match op {
                    Op::Append { prev, count, term_step } => {
                        term += term_step;
                        let prev = prev.min(twin.terms.len());
                        let prev_term = if prev == 0 { 0 } else { twin.terms[prev - 1] };
                        let terms = vec![term; count];
                        let first = prev as u64 + 1;
                        let entries = (first..).take(count).map(|i| entry(i, term)).collect();
                        let appended = log.try_append(prev as u64, prev_term, entries);
                        prop_assert_eq!(appended, Appended::Matched((prev + count) as u64));
                        twin.append(prev, &terms);
                    }
                    Op::Write => {
                        written += 1;
                        let (_, entries) = log.start_write(written);
                        twin.write();
                        let (_, terms) = twin.writes.back().expect("just written");
                        prop_assert_eq!(&entries.iter().map(|e| e.term).collect::<Vec<_>>(), terms);
                    }
                    Op::Sync if synced < written => {
                        synced += 1;
                        log.finish_writes(synced);
                        twin.sync();
                    }
                    Op::Sync => {}
                }
                prop_assert_eq!(log.last_index(), twin.terms.len() as u64);
                prop_assert!(log.persisted() <= twin.agreed());
                if synced == written && log.unwritten == log.last_index() + 1 {
                    prop_assert_eq!(log.persisted(), log.last_index());
                }
            }
        }

        #[test]
        fn last_not_above_is_what_a_walk_finds(
            mut terms in prop::collection::vec(1u64..6, 0..12),
            snapshot in 0u64..3,
            index in 0u64..16,
            term in 0u64..7,
        ) {
            terms.sort_unstable();
            let first = snapshot + 1;
            let entries: Vec<Entry> =
                (first..).zip(&terms).map(|(index, term)| entry(index, *term)).collect();
            let log = Log::new(snapshot, 0, entries, 0, snapshot);
            let mut walk = index.min(log.last_index());
            while walk > snapshot && log.term(walk).is_some_and(|known| known > term) {
                walk -= 1;
            }
            prop_assert_eq!(log.last_not_above(index, term), (walk, log.term(walk)));
        }
    }
}
