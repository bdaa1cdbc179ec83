//! One change as it is kept, and the seam behind which its value may lie on disk.

use crate::error::Result;
use crate::mvcc::revision::Revision;
use bytes::Bytes;

/// Where a value lies when memory does not hold it: bytes of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    pub run: u64,
    pub offset: u64,
    pub len: u32,
}

/// What a value in memory takes beyond its bytes: the count of its users, and what the allocator's
/// sizes leave over.
const ALLOCATION_BYTES: u64 = 32;

/// A value in memory, or the way to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    Resident(Bytes),
    Cold(Location),
}

impl Value {
    /// The length of the value, wherever it lies.
    pub fn len(&self) -> usize {
        match self {
            Value::Resident(bytes) => bytes.len(),
            Value::Cold(location) => location.len as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory that the value takes, about.
    pub fn resident_bytes(&self) -> u64 {
        match self {
            Value::Resident(bytes) if !bytes.is_empty() => bytes.len() as u64 + ALLOCATION_BYTES,
            Value::Resident(_) | Value::Cold(_) => 0,
        }
    }
}

/// Reads the values that memory does not hold.
///
/// An implementation verifies what it reads. A value that cannot be read is a broken disk: where
/// a caller has no way to say so, the store ends the process.
pub trait ColdValues {
    fn read(&self, location: Location) -> Result<Bytes>;
}

/// A record where it lies, with its key.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    pub revision: Revision,
    pub tombstone: bool,
    pub key: &'a Bytes,
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub value: &'a Value,
}

/// A record that physical removal has taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Swept {
    pub revision: Revision,
    /// Of a tombstone, the key: while runs hold what it ended, they need it.
    pub tombstone: Option<Bytes>,
    /// Bytes of its key and its value.
    pub bytes: u32,
}

/// One change, as checkpoints write it and as a restored store takes it.
///
/// Invariant: a tombstone has only its revision and its key; everything else is zero or empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub revision: Revision,
    pub tombstone: bool,
    pub key: Bytes,
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
    pub value: Value,
}
