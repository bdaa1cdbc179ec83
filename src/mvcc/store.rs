//! The store: every version of every key since the last compaction, in memory or on the way to it.

use crate::error::Result;
use crate::mvcc::change::Change;
use crate::mvcc::digest::Digest;
use crate::mvcc::index::Index;
use crate::mvcc::key_index::{KeyId, Keys, Mark};
use crate::mvcc::log::{RevisionLog, Version};
use crate::mvcc::owned::owned;
use crate::mvcc::queue::Queues;
use crate::mvcc::record::{ColdValues, Swept, Value};
use crate::pb::mvccpb::KeyValue;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a record costs beyond its key and its value, as the quota counts it. A constant of the
/// replicated state: it must never differ between members.
pub const RECORD_OVERHEAD_BYTES: u64 = 96;

/// The version of what `state_hash` computes; hashes of different versions say nothing about each
/// other.
pub const STATE_HASH_VERSION: u32 = 1;

/// Where the values that memory does not hold are read.
pub type SharedColdValues = Arc<dyn ColdValues + Send + Sync>;

/// A sum over records that adds and subtracts in any order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) hash: u64,
}

impl Sum {
    pub(super) fn add(&mut self, other: Sum) {
        self.bytes += other.bytes;
        self.hash = self.hash.wrapping_add(other.hash);
    }

    pub(super) fn sub(&mut self, other: Sum) {
        self.bytes = self.bytes.checked_sub(other.bytes).expect("a sum holds its parts");
        self.hash = self.hash.wrapping_sub(other.hash);
    }
}

/// All that a compaction at `main` or later kills, counted from the beginning of the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doom {
    pub(super) main: i64,
    pub(super) sum: Sum,
}

/// The multi-version store.
///
/// Invariants:
/// - Every key in `index` has at least one record in `log`; `keys` lists exactly the records of
///   each key that `log` holds.
/// - Answers at a revision not below `compacted` do not depend on how far the physical removal
///   of records (`swept`) has come, and neither do `live_bytes` and `state_hash`.
/// - `revision` never goes back.
pub struct Store {
    pub(super) log: RevisionLog,
    pub(super) keys: Keys,
    pub(super) index: Index,
    pub(super) queues: Queues,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    /// Physical removal is complete up to a compaction at this revision.
    pub(super) swept: i64,
    /// The transaction that the sweep goes on with.
    pub(super) sweep_next: i64,
    /// All records ever written, those that are gone too.
    pub(super) added: Sum,
    /// All records that compaction has killed, gone or not.
    pub(super) killed: Sum,
    /// What a compaction at any revision would kill, so that `compact` costs a binary search:
    /// ascending, one for each revision after `compacted` that ended a version.
    pub(super) dooms: VecDeque<Doom>,
    /// What `dooms` begins from.
    pub(super) doomed_before: Sum,
    pub(super) cold: Option<SharedColdValues>,
    pub(super) resident_bytes: u64,
    /// What was removed and not yet asked for.
    pub(super) swept_out: Vec<Swept>,
    /// What the last recheck found: by how much the hash of what is in memory differs.
    pub(super) damage: u64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("revision", &self.revision)
            .field("compacted", &self.compacted)
            .field("keys", &self.key_count())
            .field("records", &self.record_count())
            .finish_non_exhaustive()
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl Store {
    /// An empty store, at revision 1 and, as in etcd, with compact revision -1 until the first
    /// compaction.
    pub fn new() -> Store {
        Store {
            log: RevisionLog::default(),
            keys: Keys::default(),
            index: Index::default(),
            queues: Queues::default(),
            revision: 1,
            compacted: -1,
            swept: -1,
            sweep_next: 0,
            added: Sum::default(),
            killed: Sum::default(),
            dooms: VecDeque::new(),
            doomed_before: Sum::default(),
            cold: None,
            resident_bytes: 0,
            swept_out: Vec::new(),
            damage: 0,
        }
    }

    /// The revision of the last transaction that changed something.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision of the last compaction; -1 if there was none.
    pub fn compact_revision(&self) -> i64 {
        self.compacted
    }

    /// What the quota is compared with: key, value and overhead of every record that the compact
    /// revision has not killed. A function of the applied state only.
    pub fn live_bytes(&self) -> u64 {
        let mut live = self.added;
        live.sub(self.killed);
        live.bytes
    }

    /// A hash of everything replicated here: the records that compaction has not killed, in no
    /// order, with the revision and the compact revision.
    pub fn state_hash(&self) -> u64 {
        let mut live = self.added;
        live.sub(self.killed);
        let mut digest = Digest::new();
        digest.word(live.hash.wrapping_add(self.damage));
        digest.word(self.revision as u64);
        digest.word(self.compacted as u64);
        digest.finish()
    }

    /// The number of live keys.
    pub fn key_count(&self) -> u64 {
        self.index.live()
    }

    /// The number of records that memory knows, those included that compaction has yet to sweep.
    pub fn record_count(&self) -> usize {
        self.log.len()
    }

    /// The version of `key` that a reader at `revision` sees; none if the revision is compacted.
    ///
    /// The version before a change is `value_at(key, mod_revision - 1)`.
    pub fn value_at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        if revision < self.compacted {
            return None;
        }
        let id = self.index.get(&self.keys, key)?;
        let record = self.visible(id, revision)?;
        let broken = |error| panic!("the value of revision {} of a key: {error}", record.main);
        Some(self.key_value(record).unwrap_or_else(broken))
    }

    /// Reads the value of `change.prev` if memory did not hold it when the change was made. A
    /// compaction since then may have taken the version away: then there is none.
    ///
    /// # Errors
    /// `Unreadable` when the value lies in a damaged part of the disk.
    pub fn fill_prev(&self, change: &mut Change) -> Result<()> {
        if change.prev_is_cold {
            change.prev = self.read_prev(&change.kv.key, change.kv.mod_revision, change.sub)?;
            change.prev_is_cold = false;
        }
        Ok(())
    }

    fn read_prev(&self, key: &[u8], main: i64, sub: i64) -> Result<Option<KeyValue>> {
        if main <= self.compacted {
            return Ok(None);
        }
        let sub = u32::try_from(sub).expect("a transaction fits into memory");
        let id = self.index.get(&self.keys, key);
        let mark = id.and_then(|id| self.keys.entry(id).before(main, sub));
        mark.map(|mark| self.key_value(self.record(mark))).transpose()
    }

    /// The record of key `id` that a reader at `main` sees.
    pub(super) fn visible(&self, id: KeyId, main: i64) -> Option<&Version> {
        let mark = self.keys.entry(id).at(main)?;
        if mark.tombstone {
            return None;
        }
        Some(self.record(mark))
    }

    pub(super) fn record(&self, mark: Mark) -> &Version {
        self.log.find(mark.main, mark.sub).expect("every revision of a key has its record")
    }

    /// The record as the API shows it, but without its value.
    pub(super) fn bare(&self, record: &Version) -> KeyValue {
        KeyValue {
            key: self.keys.key(record.key).clone(),
            create_revision: record.create_revision,
            mod_revision: record.main,
            version: record.version,
            value: Bytes::new(),
            lease: record.lease,
        }
    }

    pub(super) fn key_value(&self, record: &Version) -> Result<KeyValue> {
        let mut kv = self.bare(record);
        kv.value = self.value(&record.value)?;
        Ok(kv)
    }

    pub(super) fn value(&self, value: &Value) -> Result<Bytes> {
        match value {
            Value::Resident(bytes) => Ok(bytes.clone()),
            Value::Cold(location) => {
                let cold = self.cold.as_ref().expect("a store with cold values can read them");
                let bytes = cold.read(*location)?;
                assert_eq!(bytes.len(), location.len as usize, "value at {location:?}");
                Ok(bytes)
            }
        }
    }

    /// The version that a record ended, with its value if memory holds it, and whether it does
    /// not.
    pub(super) fn ended(&self, record: &Version) -> (Option<KeyValue>, bool) {
        if record.tombstone() {
            return (None, false);
        }
        let mut kv = self.bare(record);
        match &record.value {
            Value::Resident(bytes) => {
                kv.value = bytes.clone();
                (Some(kv), false)
            }
            Value::Cold(_) => (Some(kv), true),
        }
    }

    /// Writes a put as change `sub` of transaction `main`.
    pub(super) fn write_put(
        &mut self,
        (main, sub): (i64, u32),
        key: &[u8],
        value: Bytes,
        lease: i64,
    ) -> Change {
        let mark = Mark { main, sub, tombstone: false };
        let found = self.index.get(&self.keys, key);
        let mut prev = None;
        let mut prev_is_cold = false;
        let mut create_revision = main;
        let mut version = 1;
        let id = match found {
            Some(id) => {
                let newest = self.keys.entry(id).newest();
                if newest.tombstone {
                    self.index.set_live(&self.keys, id, true);
                    self.queues.created(key, main, id);
                } else {
                    let record = self.record(newest);
                    (prev, prev_is_cold) = self.ended(record);
                    create_revision = record.create_revision;
                    version = record.version + 1;
                    let sum = self.sum(record);
                    self.doom(main, sum);
                }
                self.keys.entry_mut(id).push(mark);
                id
            }
            None => {
                let id = self.keys.add(owned(key), mark);
                self.index.insert(&self.keys, id, true);
                self.queues.created(key, main, id);
                id
            }
        };
        let value = Value::Resident(value);
        let mut record =
            Version { main, create_revision, version, lease, digest: 0, value, sub, key: id };
        self.append(&mut record);
        let Value::Resident(value) = &record.value else {
            unreachable!("the value was made resident above")
        };
        let mut kv = self.bare(&record);
        kv.value = value.clone();
        self.log.push(record);
        Change { kv, prev, prev_is_cold, deleted: false, sub: i64::from(sub) }
    }

    /// Writes a tombstone on a live key as change `sub` of transaction `main`.
    pub(super) fn write_delete(&mut self, (main, sub): (i64, u32), id: KeyId) -> Change {
        let ended = self.record(self.keys.entry(id).newest());
        assert!(!ended.tombstone(), "a delete at {main}.{sub} of a key that is deleted");
        let (prev, prev_is_cold) = self.ended(ended);
        let (sum, created) = (self.sum(ended), ended.create_revision);
        self.doom(main, sum);
        let mark = Mark { main, sub, tombstone: true };
        self.keys.entry_mut(id).push(mark);
        self.index.set_live(&self.keys, id, false);
        self.queues.deleted(self.keys.key(id), created, id);
        let mut record = Version::tombstone_at((main, sub), id);
        self.append(&mut record);
        let sum = self.sum(&record);
        self.doom(main, sum);
        self.log.push(record);
        let kv =
            KeyValue { key: self.keys.key(id).clone(), mod_revision: main, ..KeyValue::default() };
        Change { kv, prev, prev_is_cold, deleted: true, sub: i64::from(sub) }
    }

    /// Counts a record that is about to enter the log with its value.
    pub(super) fn append(&mut self, record: &mut Version) {
        let Value::Resident(value) = &record.value else {
            unreachable!("a record enters the log with its value")
        };
        record.digest = self.digest(record, value);
        self.add_sums(record);
    }

    /// Like `append`, for a record that has its digest.
    pub(super) fn add_sums(&mut self, record: &Version) {
        self.resident_bytes += record.value.resident_bytes();
        let sum = self.sum(record);
        self.added.add(sum);
    }

    /// What the state hash knows of a record whose value is `value`.
    pub(super) fn digest(&self, record: &Version, value: &[u8]) -> u64 {
        let mut digest = Digest::new();
        digest.word(record.main as u64);
        digest.word(u64::from(record.sub) << 1 | u64::from(record.tombstone()));
        digest.word(record.create_revision as u64);
        digest.word(record.version as u64);
        digest.word(record.lease as u64);
        digest.bytes(self.keys.key(record.key));
        digest.bytes(value);
        digest.finish()
    }

    /// A record's share of `live_bytes` and of the state hash.
    pub(super) fn sum(&self, record: &Version) -> Sum {
        let payload = self.keys.key(record.key).len() + record.value.len();
        Sum { bytes: payload as u64 + RECORD_OVERHEAD_BYTES, hash: record.digest }
    }

    /// Notes that a compaction at `main` or later kills a record with this share. (For a tombstone,
    /// `main` is its own revision: `compact` spares those exactly at the revision asked for.)
    pub(super) fn doom(&mut self, main: i64, sum: Sum) {
        match self.dooms.back_mut() {
            Some(last) if last.main == main => last.sum.add(sum),
            last => {
                let mut total = last.map_or(self.doomed_before, |last| last.sum);
                total.add(sum);
                self.dooms.push_back(Doom { main, sum: total });
            }
        }
    }
}
