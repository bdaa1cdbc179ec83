//! Making runs: from records in order, or from other runs.

use crate::env::disk::{Disk, File};
use crate::env::pace::Pace;
use crate::env::yield_now;
use crate::storage::error::StorageError;
use crate::storage::record::{Record, RecordRevision, ValuePlace};
use crate::storage::run::{self, BlockEntry, Run, RunMeta, Scan, Stored, Trailer};
use crate::storage::segment::TEMPORARY;
use bytes::{BufMut, BytesMut};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A block is closed once it is this long: a read verifies a whole block, so a longer one makes
/// reads of single values dearer, and a shorter one makes the index longer.
const BLOCK_BYTES: usize = 4 << 10;
/// How much is encoded between two moments where other tasks may run.
pub const CHUNK_BYTES: usize = 256 << 10;
/// How much is written between two syncs, so that the log's syncs never wait behind more.
pub const SYNC_BYTES: u64 = 1 << 20;

/// A run that is being written, under a temporary name.
pub struct RunWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
    file: Arc<dyn File>,
    id: u64,
    /// Whole blocks and the one that is open.
    buffer: BytesMut,
    /// Where in the file `buffer` begins, and up to where the file is synced.
    offset: u64,
    synced: u64,
    /// Where in `buffer` the open block begins, if one is open.
    block: Option<usize>,
    block_first: RecordRevision,
    block_records: u32,
    index: Vec<BlockEntry>,
    first: RecordRevision,
    last: Option<RecordRevision>,
    records: u64,
    /// The file has its name, or is gone.
    finished: bool,
}

impl Drop for RunWriter {
    /// Gives the room of an unfinished run back at once; on a full disk others wait for it.
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: a leftover with a temporary name is removed at the next start.
            self.disk.remove(&self.path).ok();
        }
    }
}

impl RunWriter {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, id: u64) -> Result<RunWriter, StorageError> {
        let path = dir.join(format!("{}{TEMPORARY}", run::file_name(id)));
        let file = create_afresh(&*disk, &path)?;
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES + BLOCK_BYTES);
        buffer.put_slice(&run::encode_header(id));
        Ok(RunWriter {
            disk,
            dir: dir.to_path_buf(),
            path,
            file,
            id,
            buffer,
            offset: 0,
            synced: 0,
            block: None,
            block_first: RecordRevision::default(),
            block_records: 0,
            index: Vec::new(),
            first: RecordRevision::default(),
            last: None,
            records: 0,
            finished: false,
        })
    }

    /// Adds a record, which must be later than the one before; says where its value will stand.
    pub async fn push(&mut self, record: &Record) -> Result<ValuePlace, StorageError> {
        let revision = record.revision();
        if let Some(last) = self.last {
            assert!(revision > last, "{revision:?} follows {last:?} in run {}", self.id);
        } else {
            self.first = revision;
        }
        let before = if self.block.is_some() { self.last.map_or(0, |last| last.main) } else { 0 };
        if self.block.is_none() {
            self.block = Some(self.buffer.len());
            self.buffer.put_bytes(0, run::BLOCK_HEADER_BYTES);
            (self.block_first, self.block_records) = (revision, 0);
        }
        let value = record.encode(&mut self.buffer, before);
        self.block_records += 1;
        self.records += 1;
        self.last = Some(revision);
        let length = u32::try_from(record.value.len()).expect("a value is shorter than 4 GiB");
        let place = ValuePlace { run: self.id, offset: self.offset + value as u64, length };
        if self.buffer.len() - self.block.expect("a block is open") >= BLOCK_BYTES {
            self.close_block();
        }
        if self.buffer.len() >= CHUNK_BYTES && self.block.is_none() {
            self.flush().await?;
        }
        Ok(place)
    }

    fn close_block(&mut self) {
        let Some(start) = self.block.take() else { return };
        let offset = self.offset + start as u64;
        let records = &self.buffer[start + run::BLOCK_HEADER_BYTES..];
        let length = u32::try_from(records.len()).expect("a block is shorter than 4 GiB");
        let crc = run::block_crc(self.id, offset, records);
        self.buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        self.buffer[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        self.index.push(BlockEntry {
            offset,
            crc,
            length,
            records: self.block_records,
            first: self.block_first,
        });
    }

    async fn flush(&mut self) -> Result<(), StorageError> {
        let failed = |error| StorageError::io(&self.path, "writing", error);
        self.file.write_at(self.offset, &self.buffer).map_err(failed)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        if self.offset - self.synced >= SYNC_BYTES {
            self.file.sync().await.map_err(failed)?;
            self.synced = self.offset;
        }
        yield_now().await;
        Ok(())
    }

    /// Completes the run: durable, with its name. `None` if it holds no record; then there is no
    /// file either.
    pub async fn finish(mut self) -> Result<Option<RunMeta>, StorageError> {
        let Some(last) = self.last else { return Ok(None) };
        self.close_block();
        let index = run::encode_index(&self.index);
        let trailer = Trailer {
            index_offset: self.offset + self.buffer.len() as u64,
            index_length: index.len() as u64,
            records: self.records,
            first: self.first,
            last,
            index_crc: crc32c::crc32c(&index),
        };
        let (trailer, fingerprint) = trailer.encode();
        self.buffer.put_slice(&index);
        self.buffer.put_slice(&trailer);
        self.flush().await?;
        publish(&*self.disk, &self.dir, &self.path, &*self.file, self.id).await?;
        self.finished = true;
        Ok(Some(RunMeta {
            id: self.id,
            first: self.first,
            last,
            records: self.records,
            bytes: self.offset,
            live_bytes: self.offset,
            fingerprint,
        }))
    }
}

/// Makes an empty file, in the place of what an earlier attempt left.
pub fn create_afresh(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn File>, StorageError> {
    let failed = |error| StorageError::io(path, "making", error);
    if disk.exists(path).map_err(failed)? {
        disk.remove(path).map_err(failed)?;
    }
    disk.create(path).map_err(failed)
}

/// Makes a finished file durable and gives it the name of the run.
pub async fn publish(
    disk: &dyn Disk,
    dir: &Path,
    path: &Path,
    file: &dyn File,
    id: u64,
) -> Result<(), StorageError> {
    let failed = |error| StorageError::io(path, "making durable", error);
    file.sync().await.map_err(failed)?;
    disk.rename(path, &dir.join(run::file_name(id))).map_err(failed)?;
    disk.sync_dir(dir).await.map_err(failed)
}

/// Writes records, which come in the order of their revisions, as run `id`. `placed` is told
/// where each value stands. `None` if there are no records.
pub async fn write_run(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    id: u64,
    records: impl Iterator<Item = Record>,
    mut placed: impl FnMut(&Record, ValuePlace),
) -> Result<Option<RunMeta>, StorageError> {
    let mut writer = RunWriter::new(disk.clone(), dir, id)?;
    for record in records {
        let place = writer.push(&record).await?;
        placed(&record, place);
    }
    writer.finish().await
}

/// Writes what `keep` wants of several runs as one, run `id`, in the order of revisions.
///
/// The runs must not hold the same revision twice. A tombstone may go only if no older run holds
/// a record of its key, which only the caller can know. Writers do not wait for it, so it keeps to
/// `pace`.
pub async fn rewrite(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    id: u64,
    runs: &[&Run],
    mut keep: impl FnMut(&Record) -> bool,
    pace: &mut Pace,
) -> Result<Option<RunMeta>, StorageError> {
    let mut writer = RunWriter::new(disk.clone(), dir, id)?;
    let mut scans: Vec<Peekable<Scan<'_>>> = runs.iter().map(|run| run.scan().peekable()).collect();
    let mut read = 0;
    while let Some(stored) = next_of(&mut scans)? {
        let record = stored.record;
        read += record.key.len() + record.value.len();
        if keep(&record) {
            writer.push(&record).await?;
        }
        if read >= CHUNK_BYTES {
            // Also where nothing is kept, and so nothing written.
            read = 0;
            pace.rest().await;
        }
    }
    writer.finish().await
}

/// Takes the earliest record that any of the scans has next.
fn next_of(scans: &mut [Peekable<Scan<'_>>]) -> Result<Option<Stored>, StorageError> {
    let mut earliest: Option<(RecordRevision, usize)> = None;
    for (number, scan) in scans.iter_mut().enumerate() {
        let revision = match scan.peek() {
            None => continue,
            Some(Ok(stored)) => stored.record.revision(),
            Some(Err(_)) => return scan.next().transpose(),
        };
        if earliest.is_none_or(|(earlier, _)| revision < earlier) {
            earliest = Some((revision, number));
        }
    }
    match earliest {
        Some((_, number)) => scans[number].next().transpose(),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::clock::ManualClock;
    use crate::env::mem_disk::MemDisk;
    use crate::storage::run::{Near, file_name};
    use crate::storage::run_receiver::verify_run;
    use bytes::Bytes;
    use futures::executor::block_on;
    use proptest::prelude::*;

    fn dir() -> &'static Path {
        Path::new("/runs")
    }

    fn disk() -> (MemDisk, Arc<dyn Disk>) {
        let disk = MemDisk::new();
        disk.create_dir_all(dir()).expect("in memory");
        (disk.clone(), Arc::new(disk))
    }

    /// Records of which every fifth is a tombstone, with values of about `size` bytes.
    fn records(range: std::ops::Range<i64>, size: usize) -> Vec<Record> {
        let record = |main: i64| {
            let tombstone = main % 5 == 0;
            let value = vec![main as u8; if tombstone { 0 } else { size + main as usize % 7 }];
            let or_zero = |number| if tombstone { 0 } else { number };
            Record {
                main,
                sub: main % 3,
                tombstone,
                key: Bytes::from(format!("key {}", main % 11)),
                create_revision: or_zero(main / 2),
                version: or_zero(main % 4 + 1),
                lease: or_zero(main % 2 * -7),
                value: Bytes::from(value),
            }
        };
        range.map(record).collect()
    }

    fn all(run: &Run) -> Vec<Record> {
        run.scan().map(|stored| stored.expect("it is whole").record).collect()
    }

    #[test]
    fn a_run_gives_back_records_and_values() {
        let (_, disk) = disk();
        let written = records(1..3000, 300);
        let mut places = Vec::new();
        let placed = |record: &Record, place| places.push((record.value.clone(), place));
        let run = write_run(&disk, dir(), 4, written.iter().cloned(), placed);
        let meta = block_on(run).expect("in memory").expect("there are records");
        assert_eq!(meta.records, 2999);
        let run = Run::open(&*disk, dir(), 4).expect("it was written");
        assert_eq!(*run.meta(), meta);
        assert_eq!(all(&run), written);
        let scanned: Vec<_> = run.scan().map(|stored| stored.expect("whole").place).collect();
        for ((value, place), scanned) in places.iter().zip(scanned) {
            assert_eq!(run.value(*place).expect("it is whole"), *value);
            assert_eq!(*place, scanned);
        }
        let mut scan = run.scan();
        for (record, (_, place)) in written.iter().zip(&places) {
            let (view, at) = scan.next_view().expect("it is whole").expect("one more record");
            assert_eq!(
                (view.main, view.sub, view.tombstone),
                (record.main, record.sub, record.tombstone)
            );
            assert_eq!((view.key, view.value), (&record.key[..], &record.value[..]));
            assert_eq!(
                (view.create_revision, view.version, view.lease),
                (record.create_revision, record.version, record.lease)
            );
            assert_eq!(at, *place);
        }
        assert_eq!(scan.next_view().expect("it is whole"), None);
    }

    #[test]
    fn of_values_that_are_read_in_order_a_damaged_block_costs_its_own() {
        let (_, disk) = disk();
        let written = records(1..3000, 300);
        let run = write_run(&disk, dir(), 4, written.iter().cloned(), |_, _| {});
        block_on(run).expect("in memory").expect("there are records");
        let run = Run::open(&*disk, dir(), 4).expect("it was written");
        let places: Vec<ValuePlace> =
            run.scan().map(|stored| stored.expect("it is whole").place).collect();
        let file = disk.open(&dir().join(file_name(4))).expect("it was written");
        let rotten = places[1500];
        let mut byte = [0];
        file.read_at(rotten.offset, &mut byte).expect("in memory");
        file.write_at(rotten.offset, &[byte[0] ^ 1]).expect("in memory");
        let (mut near, mut unread) = (Near::default(), 0);
        for (place, record) in places.iter().zip(&written) {
            let alone = run.value(*place).ok();
            assert_eq!(run.value_near(*place, &mut near).ok(), alone);
            match alone {
                Some(value) => assert_eq!(value, record.value),
                None => unread += 1,
            }
        }
        assert!((1..100).contains(&unread), "{unread} values");
        // Also in no order at all.
        for place in places.iter().step_by(7).rev() {
            assert_eq!(run.value_near(*place, &mut near).ok(), run.value(*place).ok());
        }
    }

    #[test]
    fn no_records_make_no_file() {
        let (_, disk) = disk();
        let none = block_on(write_run(&disk, dir(), 1, std::iter::empty(), |_, _| {}));
        assert_eq!(none.expect("in memory"), None);
        assert_eq!(disk.list(dir()).expect("in memory"), Vec::<String>::new());
    }

    #[test]
    fn a_rewrite_merges_and_drops() {
        let (_, disk) = disk();
        let (odd, even): (Vec<_>, Vec<_>) =
            records(1..500, 100).into_iter().partition(|record| record.main % 2 == 1);
        for (id, part) in [(1, odd), (2, even)] {
            block_on(write_run(&disk, dir(), id, part.into_iter(), |_, _| {})).expect("in memory");
        }
        let open = |id| Run::open(&*disk, dir(), id).expect("it was written");
        let (first, second) = (open(1), open(2));
        let both = [&first, &second];
        let keep = |record: &Record| record.main % 3 != 0;
        let mut pace = Pace::new(Arc::new(ManualClock::new()));
        let merged = rewrite(&disk, dir(), 3, &both, keep, &mut pace);
        let meta = block_on(merged).expect("in memory").expect("some are kept");
        let expected: Vec<_> = records(1..500, 100).into_iter().filter(keep).collect();
        assert_eq!(all(&open(3)), expected);
        assert_eq!(meta.records, expected.len() as u64);
        let nothing = rewrite(&disk, dir(), 9, &both, |_| false, &mut pace);
        assert_eq!(block_on(nothing).expect("in memory"), None);
    }

    #[test]
    fn any_changed_byte_is_found() {
        let (mem, disk) = disk();
        let written = records(1..40, 30);
        let run = write_run(&disk, dir(), 1, written.iter().cloned(), |_, _| {});
        block_on(run).expect("in memory");
        let path = dir().join(run::file_name(1));
        let bytes = mem.contents(&path).expect("it was written");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            mem.set_contents(&path, changed);
            let read = Run::open(&*disk, dir(), 1).and_then(|run| block_on(verify_run(&run)));
            assert!(read.is_err(), "byte {at} of {} changed", bytes.len());
        }
    }

    #[test]
    fn a_full_disk_gets_its_room_back() {
        let (mem, disk) = disk();
        mem.fail_after(2, std::io::ErrorKind::StorageFull);
        let run = write_run(&disk, dir(), 1, records(1..9000, 300).into_iter(), |_, _| {});
        let error = block_on(run).expect_err("the disk is full");
        assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_record_comes_back(
            main: i64, sub: i64, before: i64, key: Vec<u8>, value: Vec<u8>,
            numbers: (i64, i64, i64), tombstone: bool,
        ) {
            let (create_revision, version, lease) = if tombstone { (0, 0, 0) } else { numbers };
            let value = if tombstone { Bytes::new() } else { Bytes::from(value) };
            let key = Bytes::from(key);
            let record =
                Record { main, sub, tombstone, key, create_revision, version, lease, value };
            let mut block = BytesMut::new();
            let at = record.encode(&mut block, before);
            let block = block.freeze();
            let end = block.len();
            prop_assert_eq!(Record::decode(&block, 0, before), Some((record.clone(), at, end)));
            for cut in 0..end {
                prop_assert_eq!(Record::decode(&block.slice(..cut), 0, before), None);
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>, before: i64) {
            let block = Bytes::from(bytes);
            if let Some((_, value, next)) = Record::decode(&block, 0, before) {
                prop_assert!(value <= next && next <= block.len());
            }
        }
    }
}
