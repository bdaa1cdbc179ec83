//! History: what changed since a revision, for watchers that catch up.

use crate::error::Result;
use crate::mvcc::change::{Change, HistoryChunk};
use crate::mvcc::log::Version;
use crate::mvcc::store::Store;
use crate::pb::mvccpb::KeyValue;

impl Store {
    /// The changes from revision `from` on: whole revisions, at least one, until about
    /// `max_records` or `max_bytes` are reached.
    ///
    /// What compaction keeps of the time before the compact revision is no history. At the compact
    /// revision itself everything is, tombstones too. Values of `prev` that memory does not hold
    /// are left out, as in a change that was just made.
    ///
    /// # Errors
    /// `Unreadable` when a value of the first revision can't be read. One further on ends the
    /// stretch before its revision.
    pub fn history(&self, from: i64, max_records: usize, max_bytes: usize) -> Result<HistoryChunk> {
        let from = from.max(self.compacted).max(0);
        let mut chunk = HistoryChunk { next: from, ..HistoryChunk::default() };
        let (mut count, mut bytes) = (0_usize, 0_usize);
        for record in self.log.from(from, 0).filter(|record| self.survives(record)) {
            let begins = chunk.revisions.last().is_none_or(|(main, _)| *main != record.main);
            if begins && count > 0 && (count >= max_records || bytes >= max_bytes) {
                chunk.next = record.main;
                return Ok(chunk);
            }
            let change = match self.change(record) {
                Ok(change) => change,
                Err(error) => {
                    chunk.revisions.pop_if(|_| !begins);
                    chunk.next = record.main;
                    return if chunk.revisions.is_empty() { Err(error) } else { Ok(chunk) };
                }
            };
            match chunk.revisions.last_mut() {
                Some((_, changes)) if !begins => changes.push(change),
                _ => chunk.revisions.push((record.main, vec![change])),
            }
            count += 1;
            bytes = bytes.saturating_add(self.keys.key(record.key).len() + record.value.len());
        }
        chunk.next = from.max(self.revision + 1);
        chunk.done = true;
        Ok(chunk)
    }

    fn change(&self, record: &Version) -> Result<Change> {
        let (prev, prev_is_cold) = self.before(record);
        let kv = if record.tombstone() {
            let key = self.keys.key(record.key).clone();
            KeyValue { key, mod_revision: record.main, ..KeyValue::default() }
        } else {
            self.key_value(record)?
        };
        let sub = i64::from(record.sub);
        Ok(Change { kv, prev, prev_is_cold, deleted: record.tombstone(), sub })
    }

    /// The version that a record ended, where compaction lets it be seen.
    fn before(&self, record: &Version) -> (Option<KeyValue>, bool) {
        // Seen by a reader at the revision before, so it is not once that is compacted: whether
        // the record is still there must not show.
        if record.main <= self.compacted {
            return (None, false);
        }
        let Some(mark) = self.keys.entry(record.key).before(record.main, record.sub) else {
            return (None, false);
        };
        self.ended(self.record(mark))
    }
}
