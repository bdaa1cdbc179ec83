//! The runs that make up the state on disk: open for reading, in order, with what of each is
//! still alive.

use super::block_cache::BlockCache;
use super::damage::Damage;
use crate::env::yield_now;
use crate::error::{Error, Result};
use crate::mvcc::record::{ColdValues, Location, Record, Swept, Value};
use crate::mvcc::restore::{Lent, Restore, Restored};
use crate::mvcc::revision::Revision;
use crate::mvcc::store::Store;
use crate::storage::error::StorageError;
use crate::storage::record as stored;
use crate::storage::record::{RecordRevision, ValuePlace};
use crate::storage::run::{Run, RunMeta};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a record costs in a run beyond its key and its value, about.
const RECORD_OVERHEAD_BYTES: u64 = 12;
/// Bytes read while restoring between two moments where other tasks may run.
const CHUNK_BYTES: usize = 1 << 20;

/// The open runs of one state. Values that memory does not hold are read through it.
///
/// Invariants:
/// - `current` ascends: every revision of a run is before every one of the next.
/// - Every value that the store holds as cold stands in a run of `open`.
pub struct RunTable {
    inner: Mutex<Inner>,
    /// What of the runs can't be read.
    pub damage: Damage,
    /// What was read last.
    blocks: BlockCache,
    /// Values that were read from runs so far.
    reads: AtomicU64,
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<u64, Arc<Run>>,
    current: Vec<Counted>,
    /// Runs that are no part of the state, though some of its values may be read only there.
    held: BTreeSet<u64>,
    /// Tombstones behind the last run that memory has forgotten.
    buried: Vec<(Revision, Bytes)>,
}

/// A run of the state, and what a rewrite would spare.
#[derive(Clone, Copy)]
struct Counted {
    meta: RunMeta,
    /// Bytes of records that are dead for good.
    dead: u64,
    /// Bytes of dead tombstones, which go only once no older run is left.
    dead_tombstones: u64,
}

impl Counted {
    fn new(meta: RunMeta) -> Counted {
        Counted { meta, dead: 0, dead_tombstones: 0 }
    }

    fn meta(&self, is_oldest: bool) -> RunMeta {
        let dead = self.dead + if is_oldest { self.dead_tombstones } else { 0 };
        RunMeta { live_bytes: self.meta.bytes.saturating_sub(dead), ..self.meta }
    }
}

impl RunTable {
    /// A table of these runs, which are in the order of their revisions.
    pub fn new(runs: Vec<Run>) -> RunTable {
        let mut inner = Inner::default();
        for run in runs {
            inner.current.push(Counted::new(*run.meta()));
            inner.open.insert(run.meta().id, Arc::new(run));
        }
        RunTable {
            inner: Mutex::new(inner),
            damage: Damage::default(),
            blocks: BlockCache::default(),
            reads: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the runs panics and goes on")
    }

    /// The runs in order, each with the bytes that a rewrite would keep.
    pub fn metas(&self) -> Vec<RunMeta> {
        let inner = self.lock();
        inner.current.iter().enumerate().map(|(n, run)| run.meta(n == 0)).collect()
    }

    pub fn get(&self, id: u64) -> Option<Arc<Run>> {
        self.lock().open.get(&id).cloned()
    }

    /// Makes a run readable that is not part of the state yet.
    pub fn open(&self, run: Run) {
        self.lock().open.insert(run.meta().id, Arc::new(run));
    }

    /// Keeps a run open that was to become part of the state and can't, because it was damaged when
    /// some values had been moved to it: until another state takes the place of this one. On disk
    /// those values stand where they stood.
    pub fn hold(&self, id: u64) {
        self.lock().held.insert(id);
    }

    /// Adds an open run behind all others.
    pub fn append(&self, id: u64) {
        let mut inner = self.lock();
        let meta = *inner.open[&id].meta();
        if let Some(last) = inner.current.last() {
            assert!(meta.first > last.meta.last, "run {id} overlaps run {}", last.meta.id);
        }
        inner.current.push(Counted::new(meta));
        inner.buried.retain(|(revision, _)| *revision > to_revision(meta.last));
    }

    /// Makes these the runs of the state; they are open already.
    pub fn set_current(&self, runs: &[RunMeta]) {
        let mut inner = self.lock();
        assert!(runs.iter().all(|run| inner.open.contains_key(&run.id)), "{runs:?} are not open");
        inner.current = runs.iter().copied().map(Counted::new).collect();
        inner.buried.clear();
        inner.held.clear();
    }

    /// Puts an open run, or nothing, in the place of some. Those stay readable until `retain`.
    pub fn replace(&self, range: Range<usize>, id: Option<u64>) {
        let mut inner = self.lock();
        let new = id.map(|id| Counted::new(*inner.open[&id].meta()));
        inner.current.splice(range, new);
    }

    /// Closes all runs that the state does not need.
    pub fn close_others(&self) {
        let mut inner = self.lock();
        let mut needed: BTreeSet<u64> = inner.current.iter().map(|run| run.meta.id).collect();
        needed.extend(&inner.held);
        inner.open.retain(|id, _| needed.contains(id));
        self.damage.retain(|id| needed.contains(&id));
    }

    /// Values that were read from runs so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Counts records that compaction has removed.
    pub fn count_swept(&self, swept: Vec<Swept>) {
        let mut inner = self.lock();
        for Swept { revision, tombstone, bytes } in swept {
            let at = inner.current.partition_point(|run| to_revision(run.meta.last) < revision);
            let bytes = u64::from(bytes) + RECORD_OVERHEAD_BYTES;
            let is_first = inner.current.is_empty();
            match (inner.current.get_mut(at), tombstone) {
                (Some(run), Some(_)) => run.dead_tombstones += bytes,
                (Some(run), None) => run.dead += bytes,
                (None, Some(key)) if !is_first => inner.buried.push((revision, key)),
                // What no run holds yet will never get into one.
                (None, _) => {}
            }
        }
    }

    /// Tombstones that memory has forgotten and no run holds yet, although runs may hold what they
    /// ended: those up to revision `up_to`, in order.
    pub fn buried(&self, up_to: i64) -> Vec<(Revision, Bytes)> {
        let mut buried = self.lock().buried.clone();
        buried.retain(|(revision, _)| revision.main <= up_to);
        buried.sort_unstable();
        buried
    }
}

impl ColdValues for RunTable {
    fn read(&self, location: Location) -> Result<Bytes> {
        let run = location.run;
        let open = self.get(run);
        let open = open.unwrap_or_else(|| panic!("a value stands in run {run}, which is closed"));
        self.reads.fetch_add(1, Ordering::Relaxed);
        let block = |number| self.blocks.get((run, number), || open.block(number));
        open.value_by(to_place(location), block).map_err(|error| {
            tracing::debug!(%error, "a value cannot be read");
            self.damage.report(run);
            Error::Unreadable
        })
    }
}

/// Fills a store from open runs. Values stay on disk if all of them together exceed
/// `budget_bytes`.
///
/// # Errors
/// When a run does not verify or can't be read.
pub async fn restore(
    table: &Arc<RunTable>,
    runs: &[RunMeta],
    restored: Restored,
    budget_bytes: u64,
) -> std::result::Result<Store, StorageError> {
    let mut restore = Restore::new(Some(table.clone()));
    let is_cold = runs.iter().map(|run| run.bytes).sum::<u64>() > budget_bytes;
    let mut read = 0;
    for meta in runs {
        let run = table.get(meta.id).expect("the runs of a state are open");
        let mut scan = run.scan();
        while let Some((record, place)) = scan.next_view()? {
            read += record.key.len() + record.value.len();
            // An empty value takes no room, and a rewrite moves none: it stays in memory.
            let cold = is_cold && place.length > 0;
            restore.take(to_lent(record), cold.then(|| to_location(place)));
            if read >= CHUNK_BYTES {
                read = 0;
                yield_now().await;
            }
        }
    }
    Ok(restore.finish(restored))
}

pub fn to_location(place: ValuePlace) -> Location {
    Location { run: place.run, offset: place.offset, len: place.length }
}

pub fn to_place(location: Location) -> ValuePlace {
    ValuePlace { run: location.run, offset: location.offset, length: location.len }
}

pub fn to_revision(revision: RecordRevision) -> Revision {
    Revision::new(revision.main, revision.sub)
}

/// A record of a run, as a store takes it back.
fn to_lent(record: stored::RecordView) -> Lent {
    Lent {
        revision: Revision::new(record.main, record.sub),
        tombstone: record.tombstone,
        key: record.key,
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
        value: record.value,
    }
}

/// A record of a run, as the store takes it.
pub fn to_record(record: stored::Record) -> Record {
    Record {
        revision: Revision::new(record.main, record.sub),
        tombstone: record.tombstone,
        key: record.key,
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
        value: Value::Resident(record.value),
    }
}

/// A record of the store with its value, as a run takes it.
pub fn to_stored(record: Record, value: Bytes) -> stored::Record {
    stored::Record {
        main: record.revision.main,
        sub: record.revision.sub,
        tombstone: record.tombstone,
        key: record.key,
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::Disk;
    use crate::env::mem_disk::MemDisk;
    use crate::storage::run_writer::write_run;
    use futures::executor::block_on;
    use std::path::Path;

    /// The keys `key 2`, whose value is empty, and `key 3`.
    fn table_of_one() -> Arc<RunTable> {
        let dir = Path::new("/runs");
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        disk.create_dir_all(dir).expect("in memory");
        let record = |main: i64, value: &'static str| stored::Record {
            main,
            sub: 0,
            tombstone: false,
            key: Bytes::from(format!("key {main}")),
            create_revision: main,
            version: 1,
            lease: 0,
            value: Bytes::from(value),
        };
        let records = [record(2, ""), record(3, "some")].into_iter();
        let written = block_on(write_run(&disk, dir, 1, records, |_, _| {}));
        written.expect("in memory").expect("there are records");
        let run = Run::open(&*disk, dir, 1).expect("it was written");
        Arc::new(RunTable::new(vec![run]))
    }

    #[test]
    fn an_empty_value_needs_no_run() {
        let table = table_of_one();
        let restored = Restored { revision: 3, compact_revision: -1 };
        let store = block_on(restore(&table, &table.metas(), restored, 0)).expect("a whole run");
        let value = |key: &str| store.value_at(key.as_bytes(), 3).expect("it is there").value;
        assert_eq!(store.resident_bytes(), 0);
        assert_eq!((value("key 2"), value("key 3")), (Bytes::new(), Bytes::from("some")));
        // A rewrite puts another run in its place, and moves what is on disk: no empty values.
        table.set_current(&[]);
        table.close_others();
        assert_eq!(value("key 2"), Bytes::new());
    }

    #[test]
    fn a_run_that_is_held_stays_open_until_another_state_comes() {
        let table = table_of_one();
        let is_open = || table.get(1).is_some();
        table.hold(1);
        table.replace(0..1, None);
        table.close_others();
        assert!(is_open());
        table.set_current(&[]);
        table.close_others();
        assert!(!is_open());
    }
}
