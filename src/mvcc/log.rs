//! The records in the order of their revisions.
//!
//! Records lie in segments, each of which covers a fixed stretch of main revisions, so that a
//! record is found by arithmetic while nothing is missing, and by a short binary search after a
//! compaction has made holes.

use crate::mvcc::key_index::KeyId;
use crate::mvcc::record::Value;
use bytes::Bytes;
use std::collections::VecDeque;

const SEGMENT_BITS: u32 = 8;
const SEGMENT_REVISIONS: usize = 1 << SEGMENT_BITS;
/// Stands in a record that was removed, until its segment is packed.
const REMOVED: KeyId = KeyId::MAX;

/// One record in 80 bytes; its key is kept once, in `Keys`.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) main: i64,
    pub(super) create_revision: i64,
    /// 0 in a tombstone.
    pub(super) version: i64,
    pub(super) lease: i64,
    /// This record's share of the state hash, kept because its value may be cold when it dies.
    pub(super) digest: u64,
    pub(super) value: Value,
    pub(super) sub: u32,
    pub(super) key: KeyId,
}

const _: () = assert!(size_of::<Version>() == 80);

impl Version {
    pub(super) fn tombstone_at((main, sub): (i64, u32), key: KeyId) -> Version {
        let value = Value::Resident(Bytes::new());
        Version { main, create_revision: 0, version: 0, lease: 0, digest: 0, value, sub, key }
    }

    pub(super) fn tombstone(&self) -> bool {
        self.version == 0
    }

    fn order(&self) -> (i64, u32) {
        (self.main, self.sub)
    }
}

/// Invariants: `records` ascends by (main, sub); all mains lie in the stretch `id`.
#[derive(Debug)]
struct Segment {
    id: i64,
    removed: usize,
    records: Vec<Version>,
}

impl Segment {
    fn position(&self, main: i64, sub: u32) -> Option<usize> {
        // With one record a revision and no holes, the place is known.
        let guess = main as usize & (SEGMENT_REVISIONS - 1);
        if self.records.get(guess).is_some_and(|record| record.order() == (main, sub)) {
            return Some(guess);
        }
        self.records.binary_search_by_key(&(main, sub), Version::order).ok()
    }
}

/// All records, oldest first. Invariant: segments ascend by id, and none is empty.
#[derive(Default, Debug)]
pub(super) struct RevisionLog {
    segments: VecDeque<Segment>,
    len: usize,
}

impl RevisionLog {
    /// Records that are not removed.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, record: Version) {
        let id = record.main >> SEGMENT_BITS;
        let full = match self.segments.back_mut() {
            Some(last) if last.id == id => {
                let end = last.records.last().expect("no segment is empty").order();
                assert!(end < record.order(), "record {record:?} is not after {end:?}");
                last.records.push(record);
                self.len += 1;
                return;
            }
            Some(last) => {
                assert!(last.id < id, "record {record:?} is before segment {}", last.id);
                Some(last)
            }
            None => None,
        };
        if let Some(last) = full {
            last.records.shrink_to_fit();
        }
        let mut records = Vec::with_capacity(SEGMENT_REVISIONS);
        records.push(record);
        self.segments.push_back(Segment { id, removed: 0, records });
        self.len += 1;
    }

    /// The index of the segment `id`, or where it would be.
    fn segment(&self, id: i64) -> Result<usize, usize> {
        let Some(first) = self.segments.front() else { return Err(0) };
        let guess = usize::try_from(id - first.id).unwrap_or(0);
        if self.segments.get(guess).is_some_and(|segment| segment.id == id) {
            return Ok(guess);
        }
        self.segments.binary_search_by_key(&id, |segment| segment.id)
    }

    pub(super) fn find(&self, main: i64, sub: u32) -> Option<&Version> {
        let segment = &self.segments[self.segment(main >> SEGMENT_BITS).ok()?];
        let record = &segment.records[segment.position(main, sub)?];
        (record.key != REMOVED).then_some(record)
    }

    pub(super) fn find_mut(&mut self, main: i64, sub: u32) -> Option<&mut Version> {
        let index = self.segment(main >> SEGMENT_BITS).ok()?;
        let segment = &mut self.segments[index];
        let position = segment.position(main, sub)?;
        let record = &mut segment.records[position];
        (record.key != REMOVED).then_some(record)
    }

    /// Removes a record that is there. Its memory returns once half of its segment is gone.
    pub(super) fn remove(&mut self, main: i64, sub: u32) {
        let index = self.segment(main >> SEGMENT_BITS).expect("the record's segment is there");
        let segment = &mut self.segments[index];
        let position = segment.position(main, sub).expect("the record is there");
        let record = &mut segment.records[position];
        assert!(record.key != REMOVED, "record {main}.{sub} is removed twice");
        record.key = REMOVED;
        record.value = Value::Resident(Bytes::new());
        segment.removed += 1;
        self.len -= 1;
        if segment.removed * 2 < segment.records.len() {
            return;
        }
        segment.records.retain(|record| record.key != REMOVED);
        // Few sizes, so that the allocator can hand the pieces on.
        segment.records.shrink_to(segment.records.len().next_power_of_two());
        segment.removed = 0;
        if segment.records.is_empty() {
            self.segments.remove(index);
        }
    }

    /// The records from (main, sub) on.
    pub(super) fn from(&self, main: i64, sub: u32) -> impl Iterator<Item = &Version> {
        let (first, skip) = match self.segment(main >> SEGMENT_BITS) {
            Ok(index) => {
                let records = &self.segments[index].records;
                (index, records.partition_point(|record| record.order() < (main, sub)))
            }
            Err(index) => (index, 0),
        };
        let head = self.segments.get(first).map_or(&[][..], |segment| &segment.records[skip..]);
        let tail = self.segments.range((first + 1).min(self.segments.len())..);
        head.iter()
            .chain(tail.flat_map(|segment| segment.records.iter()))
            .filter(|record| record.key != REMOVED)
    }
}
