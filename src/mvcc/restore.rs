//! Records out of a store and into one: checkpoints, snapshots, and values that leave memory.

use crate::mvcc::index::finger::Finger;
use crate::mvcc::key_index::Mark;
use crate::mvcc::log::Version;
use crate::mvcc::owned::owned;
use crate::mvcc::record::{Location, Record, RecordRef, Swept, Value};
use crate::mvcc::revision::Revision;
use crate::mvcc::store::{SharedColdValues, Store};
use bytes::Bytes;

/// The revisions that a store is restored to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The current revision, as it was written down. The store never stands below its newest
    /// record or its compact revision, whatever this says.
    pub revision: i64,
    /// The compact revision, -1 for none. Of an etcd snapshot that was taken during a compaction:
    /// the scheduled one.
    pub compact_revision: i64,
}

/// A record as a store takes it back. It is lent: most of it is only looked at.
#[derive(Clone, Copy, Debug)]
pub struct Lent<'a> {
    pub revision: Revision,
    pub tombstone: bool,
    pub key: &'a [u8],
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub value: &'a [u8],
}

/// A store that is being filled from records in ascending order of revision.
pub struct Restore {
    store: Store,
    finger: Finger,
}

impl Restore {
    pub fn new(cold: Option<SharedColdValues>) -> Restore {
        let mut store = Store::new();
        store.cold = cold;
        Restore { store, finger: Finger::default() }
    }

    /// Takes the next record, wherever its value lies.
    pub fn push(&mut self, record: Record, location: Option<Location>) {
        let value = self.store.value(&record.value).expect("a restored value can be read");
        let Record { revision, tombstone, create_revision, version, lease, .. } = record;
        let (key, value) = (&record.key[..], &value[..]);
        let lent = Lent { revision, tombstone, key, create_revision, version, lease, value };
        self.take(lent, location);
    }

    /// Takes the next record. With a location, the record's value is only looked at, and left on
    /// disk: the record must hold it nonetheless, because the state hash covers it.
    ///
    /// A record without a key is what etcd writes to raise the revision after a restore with
    /// `--bump-revision`; it changes nothing but the revision.
    pub fn take(&mut self, record: Lent, location: Option<Location>) {
        let store = &mut self.store;
        let main = record.revision.main;
        assert!(main >= store.revision, "record {main} after revision {}", store.revision);
        store.revision = main;
        if record.key.is_empty() {
            return;
        }
        let sub = u32::try_from(record.revision.sub).expect("a transaction fits into memory");
        let mark = Mark { main, sub, tombstone: record.tombstone };
        let id = match store.index.find_near(&mut self.finger, &store.keys, record.key) {
            Ok(id) => {
                let newest = store.keys.entry(id).newest();
                if newest.tombstone != record.tombstone {
                    store.index.set_live(&store.keys, id, !record.tombstone);
                }
                if !newest.tombstone {
                    let sum = store.sum(store.record(newest));
                    store.doom(main, sum);
                }
                store.keys.entry_mut(id).push(mark);
                id
            }
            Err(place) => {
                let id = store.keys.add(owned(record.key), mark);
                let entry = (id, !record.tombstone);
                store.index.insert_near(&mut self.finger, &store.keys, place, entry);
                id
            }
        };
        let mut version = Version::tombstone_at((main, sub), id);
        if !record.tombstone {
            assert!(record.version > 0, "a put has a version: {record:?}");
            version.create_revision = record.create_revision;
            version.version = record.version;
            version.lease = record.lease;
            version.value = match location {
                Some(location) => Value::Cold(location),
                None => Value::Resident(owned(record.value)),
            };
        }
        assert_eq!(version.value.len(), record.value.len(), "value of {main}.{sub}");
        version.digest = store.digest(&version, record.value);
        store.add_sums(&version);
        if record.tombstone {
            let sum = store.sum(&version);
            store.doom(main, sum);
        }
        store.log.push(version);
    }

    pub fn finish(mut self, restored: Restored) -> Store {
        let store = &mut self.store;
        store.revision = store.revision.max(restored.revision).max(restored.compact_revision);
        if restored.compact_revision > store.compacted {
            store.compact(restored.compact_revision).expect("the revision was raised to it");
            while store.compact_step(usize::MAX) {}
        }
        self.store
    }
}

impl Store {
    /// A store with these records, which ascend by revision.
    pub fn restore(records: impl Iterator<Item = Record>, restored: Restored) -> Store {
        let mut restore = Restore::new(None);
        for record in records {
            restore.push(record, None);
        }
        restore.finish(restored)
    }

    /// The records from `from` on, oldest first, without those that compaction has killed.
    pub fn records(&self, from: Revision) -> impl Iterator<Item = Record> + '_ {
        let alive = self.versions(from, i64::MAX).filter(|record| self.survives(record));
        alive.map(|record| self.as_record(record))
    }

    /// Up to `max_records` records from `from` on and not after revision `up_to`, without those
    /// that a compaction at `compacted` kills: the state as it was at `up_to`, read in pieces
    /// while writes go on. The caller holds physical removal back meanwhile.
    pub fn records_at(
        &self,
        from: Revision,
        up_to: i64,
        compacted: i64,
        max_records: usize,
    ) -> Vec<Record> {
        let candidates = self.versions(from, up_to);
        let alive = candidates.filter(|record| self.survives_at(record, compacted));
        alive.take(max_records).map(|record| self.as_record(record)).collect()
    }

    /// Like `records_at`, and shows each where it lies. Gives the revision of the last.
    pub fn each_record_at(
        &self,
        from: Revision,
        up_to: i64,
        compacted: i64,
        max_records: usize,
        mut each: impl FnMut(RecordRef),
    ) -> Option<Revision> {
        let candidates = self.versions(from, up_to);
        let alive = candidates.filter(|record| self.survives_at(record, compacted));
        let mut last = None;
        for record in alive.take(max_records) {
            let revision = Revision::new(record.main, i64::from(record.sub));
            last = Some(revision);
            each(RecordRef {
                revision,
                tombstone: record.tombstone(),
                key: self.keys.key(record.key),
                create_revision: record.create_revision,
                version: record.version,
                lease: record.lease,
                value: &record.value,
            });
        }
        last
    }

    /// Like `records_at`, with the tombstones that the compaction kills: what is written down of
    /// the revisions before may hold what they ended, and would bring it back without them.
    pub fn records_behind(
        &self,
        from: Revision,
        up_to: i64,
        compacted: i64,
        max_records: usize,
    ) -> Vec<Record> {
        let candidates = self.versions(from, up_to);
        let wanted = |record: &&Version| record.tombstone() || self.survives_at(record, compacted);
        let wanted = candidates.filter(wanted);
        wanted.take(max_records).map(|record| self.as_record(record)).collect()
    }

    /// What the log holds from `from` on and not after revision `up_to`.
    fn versions(&self, from: Revision, up_to: i64) -> impl Iterator<Item = &Version> {
        let sub = u32::try_from(from.sub.max(0)).unwrap_or(u32::MAX);
        self.log.from(from.main, sub).take_while(move |record| record.main <= up_to)
    }

    fn as_record(&self, record: &Version) -> Record {
        Record {
            revision: Revision::new(record.main, i64::from(record.sub)),
            tombstone: record.tombstone(),
            key: self.keys.key(record.key).clone(),
            create_revision: record.create_revision,
            version: record.version,
            lease: record.lease,
            value: record.value.clone(),
        }
    }

    /// Whether memory knows this record: it lives, or compaction has yet to sweep it.
    pub fn knows(&self, revision: Revision) -> bool {
        let Ok(sub) = u32::try_from(revision.sub) else { return false };
        self.log.find(revision.main, sub).is_some()
    }

    /// Whether the compact revision has left this record alive.
    pub fn is_live(&self, revision: Revision) -> bool {
        let Ok(sub) = u32::try_from(revision.sub) else { return false };
        self.log.find(revision.main, sub).is_some_and(|record| self.survives(record))
    }

    pub(super) fn survives(&self, record: &Version) -> bool {
        self.survives_at(record, self.compacted)
    }

    fn survives_at(&self, record: &Version, compacted: i64) -> bool {
        if record.main > compacted {
            return true;
        }
        let newest = self.keys.entry(record.key).at(compacted);
        newest.is_some_and(|mark| (mark.main, mark.sub) == (record.main, record.sub))
            && (!record.tombstone() || record.main == compacted)
    }

    /// Says where values that are not in memory are read.
    pub fn set_cold(&mut self, cold: SharedColdValues) {
        self.cold = Some(cold);
    }

    /// The memory that values take, about.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Notes that the value of a record lies at `location`, and lets it go from memory: after an
    /// eviction, or when a run was rewritten. False if the record is gone.
    pub fn relocate(&mut self, revision: Revision, location: Location) -> bool {
        let Ok(sub) = u32::try_from(revision.sub) else { return false };
        let Some(record) = self.log.find_mut(revision.main, sub) else { return false };
        self.resident_bytes -= record.value.resident_bytes();
        record.value = Value::Cold(location);
        true
    }

    /// Notes that a value which is not in memory was moved. False if there is no such value.
    pub fn moved(&mut self, revision: Revision, location: Location) -> bool {
        let Ok(sub) = u32::try_from(revision.sub) else { return false };
        let Some(record) = self.log.find_mut(revision.main, sub) else { return false };
        let is_cold = matches!(record.value, Value::Cold(_));
        if is_cold {
            assert_eq!(location.len as usize, record.value.len(), "value of {revision:?}");
            record.value = Value::Cold(location);
        }
        is_cold
    }

    /// Takes a value back into memory that can't be read where it lies. It comes from elsewhere,
    /// and is taken only if it is the one that the record was written with.
    pub fn heal(&mut self, revision: Revision, value: &[u8]) -> bool {
        let Ok(sub) = u32::try_from(revision.sub) else { return false };
        let Some(record) = self.log.find(revision.main, sub) else { return false };
        if record.tombstone() || self.digest(record, value) != record.digest {
            return false;
        }
        let record = self.log.find_mut(revision.main, sub).expect("it was just found");
        if let Value::Cold(_) = record.value {
            record.value = Value::Resident(owned(value));
            self.resident_bytes += record.value.resident_bytes();
        }
        true
    }

    /// The records that physical removal has taken since the last call, for the owner of the
    /// runs that hold them.
    pub fn take_swept(&mut self) -> Vec<Swept> {
        std::mem::take(&mut self.swept_out)
    }

    /// The value of the record at `revision`, wherever it lies; none if the record is gone.
    pub fn value_of(&self, revision: Revision) -> Option<crate::error::Result<Bytes>> {
        let sub = u32::try_from(revision.sub).ok()?;
        let record = self.log.find(revision.main, sub)?;
        Some(self.value(&record.value))
    }
}
