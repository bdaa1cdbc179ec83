//! One revision of one key, as runs keep it.

use crate::storage::varint::{self, Reader};
use bytes::{BufMut, Bytes, BytesMut};

/// A revision: the number of the transaction, and of the change within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordRevision {
    pub main: i64,
    pub sub: i64,
}

/// What one revision says about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub main: i64,
    pub sub: i64,
    /// The key was deleted; then all but the key is zero or empty.
    pub tombstone: bool,
    pub key: Bytes,
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub value: Bytes,
}

/// A record where it stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub main: i64,
    pub sub: i64,
    pub tombstone: bool,
    pub key: &'a [u8],
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub value: &'a [u8],
}

/// Where a value stands; what it takes to read it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValuePlace {
    pub run: u64,
    /// From the start of the file of the run.
    pub offset: u64,
    pub length: u32,
}

const TOMBSTONE: u8 = 1;

fn unsigned(number: i64) -> u64 {
    u64::from_le_bytes(number.to_le_bytes())
}

fn signed(number: u64) -> i64 {
    i64::from_le_bytes(number.to_le_bytes())
}

impl Record {
    pub fn revision(&self) -> RecordRevision {
        RecordRevision { main: self.main, sub: self.sub }
    }

    /// Appends the record to a block; returns where in the block its value begins.
    ///
    /// `before` is the main revision of the record before it in the block, or 0.
    pub fn encode(&self, out: &mut BytesMut, before: i64) -> usize {
        out.put_u8(if self.tombstone { TOMBSTONE } else { 0 });
        varint::put(out, unsigned(self.main.wrapping_sub(before)));
        varint::put(out, unsigned(self.sub));
        varint::put(out, self.key.len() as u64);
        if !self.tombstone {
            varint::put(out, unsigned(self.main.wrapping_sub(self.create_revision)));
            varint::put(out, unsigned(self.version));
            varint::put(out, unsigned(self.lease));
            varint::put(out, self.value.len() as u64);
        }
        out.put_slice(&self.key);
        let start = out.len();
        if !self.tombstone {
            out.put_slice(&self.value);
        }
        start
    }

    /// Reads the record at `start` of a block whose checksum was verified, sharing its memory.
    /// Returns it with where its value begins and where the next record does.
    pub fn decode(block: &Bytes, start: usize, before: i64) -> Option<(Record, usize, usize)> {
        let (view, value_at, next) = RecordView::decode(block, start, before)?;
        let RecordView { main, sub, tombstone, create_revision, version, lease, .. } = view;
        let (key, value) = (block.slice_ref(view.key), block.slice_ref(view.value));
        let record = Record { main, sub, tombstone, key, create_revision, version, lease, value };
        Some((record, value_at, next))
    }
}

impl<'a> RecordView<'a> {
    /// Like `Record::decode`.
    pub fn decode(
        block: &'a [u8],
        start: usize,
        before: i64,
    ) -> Option<(RecordView<'a>, usize, usize)> {
        let mut reader = Reader::new(&block[start..]);
        let flags = reader.u8()?;
        if flags & !TOMBSTONE != 0 {
            return None;
        }
        let tombstone = flags & TOMBSTONE != 0;
        let main = before.wrapping_add(signed(reader.varint()?));
        let sub = signed(reader.varint()?);
        let key_length = reader.length()?;
        let (mut create_revision, mut version, mut lease, mut value_length) = (0, 0, 0, 0);
        if !tombstone {
            create_revision = main.wrapping_sub(signed(reader.varint()?));
            version = signed(reader.varint()?);
            lease = signed(reader.varint()?);
            value_length = reader.length()?;
        }
        let key = reader.slice(key_length)?;
        let value_at = start + reader.position();
        let value = reader.slice(value_length)?;
        let next = start + reader.position();
        let view = RecordView { main, sub, tombstone, key, create_revision, version, lease, value };
        Some((view, value_at, next))
    }
}
