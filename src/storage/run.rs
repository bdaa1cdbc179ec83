//! A run: an immutable file of records in the order of their revisions.
//!
//! ```text
//! header    magic 8 | version u32 | crc u32 | run id u64 | zeros to 64 bytes
//! block     crc u32 | length u32 | records ...                  about 4 KiB each
//! index     for each block: offset u64 | crc u32 | length u32 | records u32 | main i64 | sub i64
//! trailer   index offset u64 | index length u64 | records u64 | first, last revision 4 x i64 |
//!           index crc u32 | magic u32 | crc u32 | zeros u32     72 bytes, the end of the file
//! ```
//!
//! Every checksum of a block also covers the run and the offset it belongs to, so a block in the
//! wrong place does not verify. The index holds the checksum of each block and the trailer that
//! of the index, so the trailer's checksum stands for the whole file: the manifest names it.

use crate::env::disk::{Disk, File};
use crate::storage::error::StorageError;
use crate::storage::record::{Record, RecordRevision, RecordView, ValuePlace};
use crate::storage::varint::Reader;
use bytes::{BufMut, Bytes, BytesMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub const MAGIC: [u8; 8] = *b"detcdRUN";
pub const VERSION: u32 = 1;
pub const HEADER_BYTES: u64 = 64;
/// How much of a run is read at once by who goes through all of it.
const SCAN_BYTES: u64 = 256 << 10;
pub const BLOCK_HEADER_BYTES: usize = 8;
pub const TRAILER_BYTES: usize = 72;
pub const TRAILER_MAGIC: u32 = 0x4e55_5244;
const INDEX_ENTRY_BYTES: usize = 36;

/// What a manifest says about a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunMeta {
    pub id: u64,
    pub first: RecordRevision,
    pub last: RecordRevision,
    pub records: u64,
    /// The length of the file.
    pub bytes: u64,
    /// How much of it a rewrite would keep, as far as is known; the owner of the manifest
    /// brings it up to date after compactions.
    pub live_bytes: u64,
    /// The checksum of the trailer, which stands for the contents.
    pub fingerprint: u32,
}

/// Where one block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    pub offset: u64,
    pub crc: u32,
    /// Without the block's header.
    pub length: u32,
    pub records: u32,
    pub first: RecordRevision,
}

impl BlockEntry {
    /// Where the next block begins.
    fn end(&self) -> u64 {
        self.offset + self.length() as u64
    }

    /// With the block's header.
    fn length(&self) -> usize {
        BLOCK_HEADER_BYTES + self.length as usize
    }
}

pub fn file_name(id: u64) -> String {
    format!("{id:016x}.run")
}

/// The id in the name of a run's file.
pub fn parse_name(name: &str) -> Option<u64> {
    let id = name.strip_suffix(".run").filter(|id| id.len() == 16)?;
    u64::from_str_radix(id, 16).ok()
}

pub fn encode_header(id: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&id.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The checksum of a block, which holds only for its place.
pub fn block_crc(run: u64, offset: u64, records: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&run.to_le_bytes()), &offset.to_le_bytes());
    crc32c::crc32c_append(crc, records)
}

pub fn encode_index(index: &[BlockEntry]) -> BytesMut {
    let mut out = BytesMut::with_capacity(index.len() * INDEX_ENTRY_BYTES);
    for block in index {
        out.put_u64_le(block.offset);
        out.put_u32_le(block.crc);
        out.put_u32_le(block.length);
        out.put_u32_le(block.records);
        out.put_i64_le(block.first.main);
        out.put_i64_le(block.first.sub);
    }
    out
}

fn decode_index(bytes: &[u8]) -> Option<Vec<BlockEntry>> {
    let mut reader = Reader::new(bytes);
    let mut index = Vec::with_capacity(bytes.len() / INDEX_ENTRY_BYTES);
    while !reader.is_at_end() {
        index.push(BlockEntry {
            offset: reader.u64()?,
            crc: reader.u32()?,
            length: reader.u32()?,
            records: reader.u32()?,
            first: RecordRevision { main: reader.i64()?, sub: reader.i64()? },
        });
    }
    Some(index)
}

/// The last bytes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub index_offset: u64,
    pub index_length: u64,
    pub records: u64,
    pub first: RecordRevision,
    pub last: RecordRevision,
    pub index_crc: u32,
}

impl Trailer {
    pub fn encode(&self) -> ([u8; TRAILER_BYTES], u32) {
        let mut out = BytesMut::with_capacity(TRAILER_BYTES);
        out.put_u64_le(self.index_offset);
        out.put_u64_le(self.index_length);
        out.put_u64_le(self.records);
        for revision in [self.first, self.last] {
            out.put_i64_le(revision.main);
            out.put_i64_le(revision.sub);
        }
        out.put_u32_le(self.index_crc);
        out.put_u32_le(TRAILER_MAGIC);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.put_u32_le(0);
        (out[..].try_into().expect("a trailer has a fixed length"), crc)
    }

    fn decode(bytes: &[u8]) -> Option<(Trailer, u32)> {
        let mut reader = Reader::new(bytes);
        let (index_offset, index_length) = (reader.u64()?, reader.u64()?);
        let records = reader.u64()?;
        let first = RecordRevision { main: reader.i64()?, sub: reader.i64()? };
        let last = RecordRevision { main: reader.i64()?, sub: reader.i64()? };
        let (index_crc, magic) = (reader.u32()?, reader.u32()?);
        let covered = reader.position();
        let (crc, zeros) = (reader.u32()?, reader.u32()?);
        let verifies = magic == TRAILER_MAGIC
            && zeros == 0
            && reader.is_at_end()
            && crc == crc32c::crc32c(&bytes[..covered]);
        let trailer = Trailer { index_offset, index_length, records, first, last, index_crc };
        verifies.then_some((trailer, crc))
    }
}

/// An open run. Its index is in memory, 36 bytes for every 4 KiB.
pub struct Run {
    path: PathBuf,
    file: Arc<dyn File>,
    meta: RunMeta,
    index: Vec<BlockEntry>,
}

impl Run {
    /// Opens a run and verifies its header, trailer and index; blocks are verified as they are
    /// read.
    pub fn open(disk: &dyn Disk, dir: &Path, id: u64) -> Result<Run, StorageError> {
        let path = dir.join(file_name(id));
        let file =
            disk.open_to_read(&path).map_err(|error| StorageError::io(&path, "opening", error))?;
        Run::read(path, file, id)
    }

    /// Reads the ends of a file that is to be the run `id`.
    pub fn read(path: PathBuf, file: Arc<dyn File>, id: u64) -> Result<Run, StorageError> {
        let failed = |error| StorageError::io(&path, "reading", error);
        let bytes = file.len().map_err(failed)?;
        if bytes < HEADER_BYTES + TRAILER_BYTES as u64 {
            return Err(StorageError::damaged(&path, bytes, "the file is too short for a run"));
        }
        let mut header = [0; HEADER_BYTES as usize];
        file.read_at(0, &mut header).map_err(failed)?;
        let version = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
        // A version that rotted is no later one. Later ones keep their checksum here.
        let verifies = header[12..16] == crc.to_le_bytes();
        if header[..8] == MAGIC && version > VERSION && verifies {
            return Err(StorageError::Newer { path, found: version, supported: VERSION });
        }
        if header != encode_header(id) {
            let what = format!("the header is not that of run {id}");
            return Err(StorageError::damaged(&path, 0, what));
        }
        let trailer_at = bytes - TRAILER_BYTES as u64;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_at(trailer_at, &mut trailer).map_err(failed)?;
        let Some((trailer, fingerprint)) = Trailer::decode(&trailer) else {
            return Err(StorageError::damaged(&path, trailer_at, "the trailer does not verify"));
        };
        if trailer.index_offset.checked_add(trailer.index_length) != Some(trailer_at) {
            let what = "the index does not end where the trailer begins";
            return Err(StorageError::damaged(&path, trailer_at, what));
        }
        let length = usize::try_from(trailer.index_length).expect("an index fits memory");
        let mut index = vec![0; length];
        file.read_at(trailer.index_offset, &mut index).map_err(failed)?;
        let verifies = crc32c::crc32c(&index) == trailer.index_crc;
        let Some(index) = decode_index(&index).filter(|_| verifies) else {
            let what = "the index does not verify";
            return Err(StorageError::damaged(&path, trailer.index_offset, what));
        };
        let meta = RunMeta {
            id,
            first: trailer.first,
            last: trailer.last,
            records: trailer.records,
            bytes,
            live_bytes: bytes,
            fingerprint,
        };
        Ok(Run { path, file, meta, index })
    }

    pub fn meta(&self) -> &RunMeta {
        &self.meta
    }

    /// Reads back a value that this run holds, verifying the block around it.
    pub fn value(&self, place: ValuePlace) -> Result<Bytes, StorageError> {
        self.value_near(place, &mut Near::default())
    }

    /// Like `value`, for values in order: reads a block only once, and those behind it with it.
    pub fn value_near(&self, place: ValuePlace, near: &mut Near) -> Result<Bytes, StorageError> {
        self.value_by(place, |number| self.block_near(number, near))
    }

    fn block_near(&self, number: usize, near: &mut Near) -> Result<Bytes, StorageError> {
        let Near { run, number: last, records, mut ahead } = std::mem::take(near);
        let is_near = run == self.meta.id && records.is_some();
        let records = match records {
            Some(records) if is_near && last == number => records,
            _ if is_near && last + 1 == number => {
                if ahead.is_empty() {
                    // What can't be read with others may well be readable alone.
                    ahead = self.read_ahead(number).unwrap_or_default();
                }
                let block = ahead.split_to(ahead.len().min(self.index[number].length()));
                if block.is_empty() { self.block(number)? } else { self.verified(number, block)? }
            }
            _ => {
                ahead = Bytes::new();
                self.block(number)?
            }
        };
        let run = self.meta.id;
        *near = Near { run, number, records: Some(records.clone()), ahead };
        Ok(records)
    }

    /// Like `value`, where `block` gives the records of the block of this number.
    pub fn value_by(
        &self,
        place: ValuePlace,
        block: impl FnOnce(usize) -> Result<Bytes, StorageError>,
    ) -> Result<Bytes, StorageError> {
        assert_eq!(place.run, self.meta.id, "a value of run {} is asked of another", place.run);
        if place.length == 0 {
            // An empty value at the end of a block stands where the next block begins.
            return Ok(Bytes::new());
        }
        let after = self.index.partition_point(|block| block.offset <= place.offset);
        let number = after.checked_sub(1).unwrap_or_else(|| panic!("{place:?} is in no block"));
        let records = block(number)?;
        let entry = self.index[number];
        let start = (place.offset - entry.offset) as usize - BLOCK_HEADER_BYTES;
        let end = start + place.length as usize;
        assert!(end <= records.len(), "{place:?} reaches beyond its block of {entry:?}");
        Ok(records.slice(start..end))
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.index.len()
    }

    /// Reads a block only to see that it verifies; says how many bytes that took.
    pub fn verify_block(&self, number: usize) -> Result<u64, StorageError> {
        let records = self.block(number)?;
        Ok((BLOCK_HEADER_BYTES + records.len()) as u64)
    }

    /// Verifies the blocks that begin within so many bytes from `offset` on.
    pub fn verify_blocks_from(&self, offset: u64, length: usize) -> Result<(), StorageError> {
        let first = self.index.partition_point(|block| block.offset < offset);
        let end = self.index.partition_point(|block| block.offset < offset + length as u64);
        (first..end).try_for_each(|number| self.block(number).map(|_| ()))
    }

    /// Reads header, index and trailer again, which memory has held since the run was opened;
    /// says how many bytes that took.
    pub fn verify_ends(&self) -> Result<u64, StorageError> {
        let found = Run::read(self.path.clone(), self.file.clone(), self.meta.id)?;
        if found.meta != self.meta {
            let what = "another run has taken its place";
            return Err(StorageError::damaged(&self.path, 0, what));
        }
        Ok(HEADER_BYTES + (TRAILER_BYTES + self.index.len() * INDEX_ENTRY_BYTES) as u64)
    }

    /// Reads and verifies one block.
    pub fn block(&self, number: usize) -> Result<Bytes, StorageError> {
        let block = &self.index[number];
        let mut bytes = BytesMut::zeroed(BLOCK_HEADER_BYTES + block.length as usize);
        let read = self.file.read_at(block.offset, &mut bytes);
        read.map_err(|error| StorageError::io(&self.path, "reading a block of", error))?;
        self.verified(number, bytes.freeze())
    }

    /// The records of a block that was read.
    fn verified(&self, number: usize, bytes: Bytes) -> Result<Bytes, StorageError> {
        let block = &self.index[number];
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let records = bytes.slice(BLOCK_HEADER_BYTES..);
        let verifies = word(0) == block.crc
            && word(4) == block.length
            && block.crc == block_crc(self.meta.id, block.offset, &records);
        if !verifies {
            let what = "the checksum of a block does not match";
            return Err(StorageError::damaged(&self.path, block.offset, what));
        }
        Ok(records)
    }

    /// All records in order, some blocks in memory at a time. Keys and values share the memory of
    /// the blocks: copy what is to be kept.
    pub fn scan(&self) -> Scan<'_> {
        self.scan_from(RecordRevision::default())
    }

    /// The records from `revision` on, and perhaps some before it.
    pub fn scan_from(&self, revision: RecordRevision) -> Scan<'_> {
        let after = self.index.partition_point(|block| block.first <= revision);
        Scan {
            run: self,
            next_block: after.saturating_sub(1),
            ahead: Bytes::new(),
            block: Bytes::new(),
            offset: 0,
            at: 0,
            before: 0,
            left: 0,
        }
    }

    /// Blocks from `first` on as they are, as many as fit into one read, and one at the least.
    fn read_ahead(&self, first: usize) -> Result<Bytes, StorageError> {
        let begin = self.index[first].offset;
        let ends = self.index[first..].iter().map(|block| block.end() - begin);
        let within = ends.clone().take_while(|end| *end <= SCAN_BYTES).last();
        let length = within.or(ends.clone().next()).expect("there is a first block");
        let mut bytes = BytesMut::zeroed(usize::try_from(length).expect("a block fits memory"));
        let read = self.file.read_at(begin, &mut bytes);
        read.map_err(|error| StorageError::io(&self.path, "reading blocks of", error))?;
        Ok(bytes.freeze())
    }

    fn place(&self, offset: u64, length: usize) -> ValuePlace {
        ValuePlace { run: self.meta.id, offset, length: length as u32 }
    }

    /// Reads a piece of the file as it is, for sending it to another member.
    pub fn raw(&self, offset: u64, length: usize) -> Result<Bytes, StorageError> {
        let left = usize::try_from(self.meta.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = BytesMut::zeroed(length.min(left));
        let read = self.file.read_at(offset, &mut bytes);
        read.map_err(|error| StorageError::io(&self.path, "reading", error))?;
        Ok(bytes.freeze())
    }
}

/// The block that a value was read from last, and what was read with it.
#[derive(Default)]
pub struct Near {
    run: u64,
    number: usize,
    /// Nothing before the first value, and after an error.
    records: Option<Bytes>,
    /// Whole blocks from the next one on; not verified yet.
    ahead: Bytes,
}

/// A record as it stands in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub record: Record,
    pub place: ValuePlace,
}

/// An iterator over the records of a run; it ends at the first error.
pub struct Scan<'a> {
    run: &'a Run,
    next_block: usize,
    /// Blocks from the next one on that were read with others.
    ahead: Bytes,
    block: Bytes,
    /// Where in the file the records of the block begin.
    offset: u64,
    at: usize,
    before: i64,
    /// Records that the index promises in the rest of the block.
    left: u32,
}

impl Scan<'_> {
    /// The next record where it stands, for who keeps little of it. Ends at the first error.
    pub fn next_view(&mut self) -> Result<Option<(RecordView<'_>, ValuePlace)>, StorageError> {
        if !self.fill()? {
            return Ok(None);
        }
        let decoded = RecordView::decode(&self.block, self.at, self.before);
        let Some((view, value, next)) = decoded.filter(|_| self.left > 0) else {
            let error = self.no_record();
            (self.next_block, self.left) = (self.run.index.len(), 0);
            self.at = self.block.len();
            return Err(error);
        };
        let place = self.run.place(self.offset + value as u64, view.value.len());
        (self.at, self.before) = (next, view.main);
        self.left -= 1;
        Ok(Some((view, place)))
    }

    fn read(&mut self) -> Result<Option<Stored>, StorageError> {
        if !self.fill()? {
            return Ok(None);
        }
        let decoded = Record::decode(&self.block, self.at, self.before);
        let Some((record, value, next)) = decoded.filter(|_| self.left > 0) else {
            let error = self.no_record();
            self.end();
            return Err(error);
        };
        let place = self.run.place(self.offset + value as u64, record.value.len());
        (self.at, self.before) = (next, record.main);
        self.left -= 1;
        Ok(Some(Stored { record, place }))
    }

    /// Sees to it that the next record stands in the block; false if there is none.
    fn fill(&mut self) -> Result<bool, StorageError> {
        while self.at == self.block.len() {
            match self.next_block() {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => {
                    self.end();
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    fn next_block(&mut self) -> Result<bool, StorageError> {
        if self.left > 0 {
            return Err(self.damaged("a block holds fewer records than the index says"));
        }
        let Some(entry) = self.run.index.get(self.next_block) else { return Ok(false) };
        if self.ahead.is_empty() {
            self.ahead = self.run.read_ahead(self.next_block)?;
        }
        let bytes = self.ahead.split_to(entry.length());
        self.block = self.run.verified(self.next_block, bytes)?;
        self.offset = entry.offset + BLOCK_HEADER_BYTES as u64;
        (self.at, self.before, self.left) = (0, 0, entry.records);
        self.next_block += 1;
        Ok(true)
    }

    /// Nothing comes behind an error.
    fn end(&mut self) {
        (self.next_block, self.left) = (self.run.index.len(), 0);
        self.at = self.block.len();
    }

    fn no_record(&self) -> StorageError {
        self.damaged("a block verifies and does not hold records")
    }

    fn damaged(&self, what: &str) -> StorageError {
        StorageError::damaged(&self.run.path, self.offset + self.at as u64, what)
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Stored, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
