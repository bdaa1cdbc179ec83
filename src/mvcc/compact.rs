//! Compaction: at once for readers, in bounded steps for memory.
//!
//! A compaction at C keeps, of each key, the newest version not after C, unless that is a
//! tombstone before C. (A tombstone exactly at C stays, so that a watch from C sees the delete;
//! etcd since 3.5.16.) What dies between two compactions died by a revision between them, so a
//! sweep visits those revisions only, and costs what changed rather than what is stored.

use crate::error::{Error, Result};
use crate::mvcc::record::Swept;
use crate::mvcc::revision::Revision;
use crate::mvcc::store::{Store, Sum};

impl Store {
    /// Compacts: from here on, nothing below `revision` can be read. `compact_step` removes.
    pub fn compact(&mut self, revision: i64) -> Result<()> {
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        let reached = self.dooms.partition_point(|doom| doom.main <= revision);
        if let Some(last) = reached.checked_sub(1) {
            self.doomed_before = self.dooms[last].sum;
            self.dooms.drain(..reached);
        }
        self.killed = self.doomed_before;
        self.compacted = revision;
        // Tombstones are counted at their own revision, but one exactly there lives on.
        let mut spared = Sum::default();
        for record in self.log.from(revision, 0).take_while(|record| record.main == revision) {
            if record.tombstone() && self.survives(record) {
                spared.add(self.sum(record));
            }
        }
        self.killed.sub(spared);
        Ok(())
    }

    /// Removes dead records, visiting at most about `max_records`; true if there is more to do.
    ///
    /// Answers, `live_bytes` and `state_hash` do not depend on how far this is.
    pub fn compact_step(&mut self, max_records: usize) -> bool {
        let mut budget = max_records.max(1);
        while self.swept < self.compacted && budget > 0 {
            match self.next_main(self.sweep_next) {
                Some(main) if main < self.compacted => {
                    budget = budget.saturating_sub(self.sweep(main));
                    self.sweep_next = main + 1;
                }
                last => {
                    if last == Some(self.compacted) {
                        self.sweep(self.compacted);
                    }
                    // The next sweep begins with this revision again: its tombstones are spared
                    // by this one only.
                    self.sweep_next = self.compacted;
                    self.swept = self.compacted;
                }
            }
        }
        self.swept < self.compacted
    }

    fn next_main(&self, from: i64) -> Option<i64> {
        self.log.from(from, 0).next().map(|record| record.main)
    }

    /// Removes what the records of `main` end, and its tombstones if they are not at the compact
    /// revision itself; returns the number of records looked at.
    fn sweep(&mut self, main: i64) -> usize {
        let records: Vec<_> = self
            .log
            .from(main, 0)
            .take_while(|record| record.main == main)
            .map(|record| (record.sub, record.key, record.tombstone()))
            .collect();
        let mut work = records.len();
        for (sub, id, tombstone) in records {
            loop {
                let oldest = self.keys.entry(id).oldest();
                if (oldest.main, oldest.sub) >= (main, sub) {
                    break;
                }
                self.forget(oldest.main, oldest.sub);
                assert!(self.keys.entry_mut(id).pop_oldest(), "a revision after the oldest");
                work += 1;
            }
            if tombstone && main < self.compacted {
                self.forget(main, sub);
                if !self.keys.entry_mut(id).pop_oldest() {
                    self.index.remove(&self.keys, id);
                    self.keys.remove(id);
                }
            }
        }
        work
    }

    fn forget(&mut self, main: i64, sub: u32) {
        let record = self.log.find(main, sub).expect("every revision of a key has its record");
        self.resident_bytes -= record.value.resident_bytes();
        let bytes = self.keys.key(record.key).len() + record.value.len();
        let bytes = u32::try_from(bytes).expect("a record is shorter than 4 GiB");
        let tombstone = record.tombstone().then(|| self.keys.key(record.key).clone());
        let revision = Revision::new(main, i64::from(sub));
        self.swept_out.push(Swept { revision, tombstone, bytes });
        self.log.remove(main, sub);
    }
}
