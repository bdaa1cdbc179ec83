//! How records stand in a segment: batches of records with a chained checksum, and how a batch
//! that was torn by a power cut is told from one that rotted.
//!
//! One append is one batch is one sync. The next batch is written only after the sync of the one
//! before it returned, so only the last batch of a log may be torn. A torn batch lacks some of its
//! sectors, and what stands in their place is zeros, because the tail of a segment is zeroed
//! before anything is appended. Damage is therefore taken for a tear only if the first thing that
//! does not verify lies on a sector that reads as zeros; everything else is rot.
//!
//! ```text
//! batch    magic u32 | header crc u32 | sequence u64 | body length u64 |
//!          chain before u32 | count u32
//!          record ...
//!          end magic u32 | chain after u32
//! record   body length u32 | chain u32 | kind u8 | entry kind u8 | 6 zeros | body | padding to 8
//! ```
//!
//! The checksum of a batch header also covers where the batch stands (member, segment, offset),
//! so no bytes inside a value are ever taken for a header.

use crate::env::disk::SECTOR_BYTES;
use crate::raft::message::{Entry, EntryKind, HardState};
use bytes::{BufMut, Bytes, BytesMut};

const BATCH_MAGIC: u32 = 0x4854_4342;
const END_MAGIC: u32 = 0x444e_4542;
pub const BATCH_HEADER_BYTES: usize = 32;
const TRAILER_BYTES: usize = 8;
const RECORD_HEADER_BYTES: usize = 8;
const TAG_BYTES: usize = 8;
const ENTRY_FIXED_BYTES: usize = TAG_BYTES + 16;
const HARD_STATE_BYTES: usize = TAG_BYTES + 24;
const RESET_BYTES: usize = TAG_BYTES + 16;

const KIND_HARD_STATE: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_RESET: u8 = 3;

/// Where a batch stands; part of the checksum of its header.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub cluster_id: u64,
    pub member_id: u64,
    pub segment: u64,
    pub offset: u64,
}

impl Place {
    fn salt(&self) -> u32 {
        let Place { cluster_id, member_id, segment, offset } = *self;
        let mut bytes = [0; 32];
        let numbers = [cluster_id, member_id, segment, offset];
        for (slot, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *slot = number.to_le_bytes();
        }
        crc32c::crc32c(&bytes)
    }
}

/// One thing the log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    HardState(HardState),
    /// An entry; it replaces all entries of its index and above.
    Entry(Entry),
    /// A checkpoint took the place of the whole log; the next entry is `index + 1`.
    Reset {
        index: u64,
        term: u64,
    },
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

pub fn entry_bytes(data: usize) -> usize {
    RECORD_HEADER_BYTES + padded(ENTRY_FIXED_BYTES + data)
}

pub const fn hard_state_bytes() -> usize {
    RECORD_HEADER_BYTES + HARD_STATE_BYTES
}

pub const fn reset_bytes() -> usize {
    RECORD_HEADER_BYTES + RESET_BYTES
}

/// The size of a batch around records of `records` bytes together.
pub const fn batch_bytes(records: usize) -> usize {
    BATCH_HEADER_BYTES + records + TRAILER_BYTES
}

/// Writes one batch into a buffer: one copy of each entry's data, and no allocation once the
/// buffer has grown.
pub struct BatchWriter<'a> {
    buffer: &'a mut BytesMut,
    chain_before: u32,
    chain: u32,
    count: u32,
}

impl<'a> BatchWriter<'a> {
    /// Starts a batch after one whose chain ended in `chain`; `buffer` must be empty.
    pub fn new(buffer: &'a mut BytesMut, chain: u32) -> BatchWriter<'a> {
        assert!(buffer.is_empty(), "{} bytes of another batch are in the buffer", buffer.len());
        buffer.put_bytes(0, BATCH_HEADER_BYTES);
        BatchWriter { buffer, chain_before: chain, chain, count: 0 }
    }

    pub fn hard_state(&mut self, state: &HardState) {
        let start = self.begin(KIND_HARD_STATE, 0, HARD_STATE_BYTES);
        self.buffer.put_u64_le(state.term);
        self.buffer.put_u64_le(state.vote);
        self.buffer.put_u64_le(state.commit);
        self.end(start);
    }

    pub fn entry(&mut self, entry: &Entry) {
        let kind = match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
        };
        let start = self.begin(KIND_ENTRY, kind, ENTRY_FIXED_BYTES + entry.data.len());
        self.buffer.put_u64_le(entry.term);
        self.buffer.put_u64_le(entry.index);
        self.buffer.put_slice(&entry.data);
        self.end(start);
    }

    pub fn reset(&mut self, index: u64, term: u64) {
        let start = self.begin(KIND_RESET, 0, RESET_BYTES);
        self.buffer.put_u64_le(index);
        self.buffer.put_u64_le(term);
        self.end(start);
    }

    fn begin(&mut self, kind: u8, entry_kind: u8, length: usize) -> usize {
        let start = self.buffer.len();
        let length = u32::try_from(length).expect("an entry is far shorter than 4 GiB");
        self.buffer.put_u32_le(length);
        self.buffer.put_u32_le(0);
        self.buffer.put_slice(&[kind, entry_kind, 0, 0, 0, 0, 0, 0]);
        start
    }

    fn end(&mut self, start: usize) {
        let length = self.buffer.len() - start;
        self.buffer.put_bytes(0, padded(length) - length);
        self.chain = record_chain(self.chain, &self.buffer[start..]);
        self.buffer[start + 4..start + 8].copy_from_slice(&self.chain.to_le_bytes());
        self.count += 1;
    }

    /// Completes the batch and returns the chain after it.
    pub fn finish(self, place: Place, sequence: u64) -> u32 {
        assert!(self.count > 0, "an empty batch has nothing to say");
        self.buffer.put_u32_le(END_MAGIC);
        self.buffer.put_u32_le(self.chain);
        let body = (self.buffer.len() - BATCH_HEADER_BYTES) as u64;
        let header = &mut self.buffer[..BATCH_HEADER_BYTES];
        header[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        header[8..16].copy_from_slice(&sequence.to_le_bytes());
        header[16..24].copy_from_slice(&body.to_le_bytes());
        header[24..28].copy_from_slice(&self.chain_before.to_le_bytes());
        header[28..32].copy_from_slice(&self.count.to_le_bytes());
        let crc = crc32c::crc32c_append(place.salt(), &header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        self.chain
    }
}

/// The chain goes over the length, the tag, the body and the padding, but not over itself.
fn record_chain(chain: u32, record: &[u8]) -> u32 {
    let chain = crc32c::crc32c_append(chain, &record[..4]);
    crc32c::crc32c_append(chain, &record[8..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[derive(Debug, PartialEq, Eq)]
struct BatchHeader {
    sequence: u64,
    body: u64,
    chain_before: u32,
    count: u32,
}

fn read_header(bytes: &[u8], place: Place) -> Option<BatchHeader> {
    if bytes.len() < BATCH_HEADER_BYTES || u32_at(bytes, 0) != BATCH_MAGIC {
        return None;
    }
    let crc = crc32c::crc32c_append(place.salt(), &bytes[8..BATCH_HEADER_BYTES]);
    (crc == u32_at(bytes, 4)).then(|| BatchHeader {
        sequence: u64_at(bytes, 8),
        body: u64_at(bytes, 16),
        chain_before: u32_at(bytes, 24),
        count: u32_at(bytes, 28),
    })
}

/// What stands at a place where a batch may begin.
#[derive(Debug)]
pub enum Found {
    Batch {
        records: Vec<Record>,
        end: usize,
        chain: u32,
    },
    /// Zeros where the header would be: the end of the log, or a header that was torn off.
    Nothing,
    Damage(Damage),
}

/// Bytes that do not verify.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    pub offset: usize,
    pub what: &'static str,
    /// Whether a power cut during the write of this batch can have left these bytes.
    pub can_be_torn: bool,
}

/// What the log expects at the next place.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub sequence: u64,
    pub chain: u32,
}

/// Reads the batch at `place.offset` of a segment.
pub fn read_batch(segment: &[u8], place: Place, expected: Expected) -> Found {
    let start = place.offset as usize;
    let rot = |offset, what| Found::Damage(Damage { offset, what, can_be_torn: false });
    if segment.len() < start + BATCH_HEADER_BYTES {
        let rest = segment.get(start..).unwrap_or(&[]);
        return if is_zero(rest) {
            Found::Nothing
        } else {
            rot(start, "bytes after the last batch")
        };
    }
    let header_bytes = &segment[start..start + BATCH_HEADER_BYTES];
    if is_zero(header_bytes) {
        return Found::Nothing;
    }
    let Some(header) = read_header(header_bytes, place) else {
        let range = start..start + BATCH_HEADER_BYTES;
        let can_be_torn = lacks_sector(segment, range.clone(), range);
        let what = "the header of a batch does not verify";
        return Found::Damage(Damage { offset: start, what, can_be_torn });
    };
    if header.sequence != expected.sequence {
        return rot(start, "a batch of another sequence number stands here");
    }
    if header.chain_before != expected.chain {
        return rot(start, "the checksum chain does not continue");
    }
    let room = (segment.len() - start - BATCH_HEADER_BYTES) as u64;
    if header.body > room || header.body < TRAILER_BYTES as u64 || header.body % 8 != 0 {
        return rot(start, "a batch reaches beyond the end of its segment");
    }
    let end = start + BATCH_HEADER_BYTES + header.body as usize;
    read_body(segment, start, end, &header)
}

fn read_body(segment: &[u8], start: usize, end: usize, header: &BatchHeader) -> Found {
    let damage = |range: std::ops::Range<usize>, what| {
        let offset = range.start;
        let can_be_torn = lacks_sector(segment, range, start..end);
        Found::Damage(Damage { offset, what, can_be_torn })
    };
    let trailer = end - TRAILER_BYTES;
    let mut at = start + BATCH_HEADER_BYTES;
    let mut chain = header.chain_before;
    let mut records = Vec::with_capacity(header.count.min(1 << 16) as usize);
    while at < trailer {
        let length = u32_at(segment, at) as usize;
        let size = RECORD_HEADER_BYTES + padded(length);
        if length < TAG_BYTES || size > trailer - at {
            return damage(at..at + RECORD_HEADER_BYTES, "a record has an impossible length");
        }
        let record = &segment[at..at + size];
        chain = record_chain(chain, record);
        if chain != u32_at(record, 4) {
            return damage(at..at + size, "the checksum of a record does not match");
        }
        match parse(&record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length]) {
            Some(record) => records.push(record),
            // It verified, so it was written like this: no tear makes such a record.
            None => {
                let what = "a record of unknown kind";
                return Found::Damage(Damage { offset: at, what, can_be_torn: false });
            }
        }
        at += size;
    }
    let ends_well = u32_at(segment, trailer) == END_MAGIC && u32_at(segment, trailer + 4) == chain;
    if !ends_well {
        return damage(trailer..end, "the end mark of a batch does not match");
    }
    if records.len() != header.count as usize {
        return Found::Damage(Damage {
            offset: start,
            what: "a batch holds another number of records than it says",
            can_be_torn: false,
        });
    }
    Found::Batch { records, end, chain }
}

fn parse(record: &[u8]) -> Option<Record> {
    let (tag, body) = record.split_at(TAG_BYTES);
    if !is_zero(&tag[2..]) {
        return None;
    }
    match tag[0] {
        KIND_HARD_STATE if record.len() == HARD_STATE_BYTES => {
            let (term, vote, commit) = (u64_at(body, 0), u64_at(body, 8), u64_at(body, 16));
            Some(Record::HardState(HardState { term, vote, commit }))
        }
        KIND_ENTRY if record.len() >= ENTRY_FIXED_BYTES => {
            let kind = match tag[1] {
                0 => EntryKind::Normal,
                1 => EntryKind::ConfChange,
                _ => return None,
            };
            let data = Bytes::copy_from_slice(&body[16..]);
            Some(Record::Entry(Entry { term: u64_at(body, 0), index: u64_at(body, 8), kind, data }))
        }
        KIND_RESET if record.len() == RESET_BYTES => {
            Some(Record::Reset { index: u64_at(body, 0), term: u64_at(body, 8) })
        }
        _ => None,
    }
}

/// Whether a sector that `range` touches reads as zeros in all of its part of the batch.
///
/// Of the first and the last sector of a batch only a part belongs to it; the rest belongs to
/// the batch before, or to the tail. No such part is ever zeros when it is whole: a batch begins
/// with its magic and ends with another.
fn lacks_sector(
    segment: &[u8],
    range: std::ops::Range<usize>,
    batch: std::ops::Range<usize>,
) -> bool {
    let sector = SECTOR_BYTES as usize;
    let first = range.start / sector;
    let last = (range.end - 1) / sector;
    (first..=last).any(|number| {
        let start = (number * sector).max(batch.start);
        let end = ((number + 1) * sector).min(batch.end);
        is_zero(&segment[start..end])
    })
}

pub fn is_zero(bytes: &[u8]) -> bool {
    // In blocks, so that the compiler compares many bytes at once.
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

/// How far bytes reach that are not zeros; `None` if all are zeros.
pub fn garbage_bytes(bytes: &[u8]) -> Option<usize> {
    // In blocks, because most of a tail is zeros.
    let block = 4096;
    let number = bytes.chunks(block).rposition(|block| !is_zero(block))?;
    let start = number * block;
    let block = &bytes[start..(start + block).min(bytes.len())];
    block.iter().rposition(|byte| *byte != 0).map(|at| start + at + 1)
}

/// Where a batch begins that was written later than `sequence`, at or after `from`.
///
/// There is one only if all batches before it were synced.
pub fn later_batch(segment: &[u8], place: Place, from: usize, sequence: u64) -> Option<usize> {
    let mut at = from.next_multiple_of(8);
    while at + BATCH_HEADER_BYTES <= segment.len() {
        if u32_at(segment, at) == BATCH_MAGIC {
            let place = Place { offset: at as u64, ..place };
            if read_header(&segment[at..], place).is_some_and(|header| header.sequence > sequence) {
                return Some(at);
            }
        }
        at += 8;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_ends_behind_its_last_byte() {
        for size in [0, 1, 100, 4096, 4097, 20_000] {
            let mut bytes = vec![0; size];
            assert_eq!(garbage_bytes(&bytes), None);
            for at in [0, 99, 4095, 4096, 8191, 8192, 19_999] {
                if at < size {
                    bytes[at] = 1;
                    assert_eq!(garbage_bytes(&bytes), Some(at + 1), "size {size}");
                }
            }
        }
    }

    #[test]
    fn a_batch_is_read_only_at_its_place() {
        let place = Place { cluster_id: 1, member_id: 2, segment: 3, offset: 64 };
        let expected = Expected { sequence: 9, chain: 77 };
        let entry = |index| Entry {
            term: 5,
            index,
            kind: EntryKind::ConfChange,
            data: Bytes::from(vec![7; index as usize]),
        };
        let state = HardState { term: 5, vote: 1, commit: 12 };
        let mut buffer = BytesMut::new();
        let mut writer = BatchWriter::new(&mut buffer, expected.chain);
        writer.entry(&entry(13));
        writer.entry(&entry(14));
        writer.reset(20, 5);
        writer.hard_state(&state);
        let after = writer.finish(place, expected.sequence);
        let sizes = entry_bytes(13) + entry_bytes(14) + reset_bytes() + hard_state_bytes();
        assert_eq!(buffer.len(), batch_bytes(sizes));
        let mut segment = vec![0; 64];
        segment.extend_from_slice(&buffer);
        segment.resize(1024, 0);
        let Found::Batch { records, end, chain } = read_batch(&segment, place, expected) else {
            panic!("a whole batch is found");
        };
        assert_eq!((end, chain), (64 + buffer.len(), after));
        let reset = Record::Reset { index: 20, term: 5 };
        let entries = [Record::Entry(entry(13)), Record::Entry(entry(14))];
        assert_eq!(records[..2], entries);
        assert_eq!(records[2..], [reset, Record::HardState(state)]);
        let elsewhere = [
            (Place { segment: 4, ..place }, expected),
            (Place { member_id: 3, ..place }, expected),
            (place, Expected { sequence: 8, ..expected }),
            (place, Expected { chain: 78, ..expected }),
        ];
        for (place, expected) in elsewhere {
            let found = read_batch(&segment, place, expected);
            assert!(matches!(found, Found::Damage(Damage { can_be_torn: false, .. })), "{found:?}");
        }
        assert_eq!(later_batch(&segment, place, 0, 8), Some(64));
        assert_eq!(later_batch(&segment, place, 0, 9), None);
    }
}
