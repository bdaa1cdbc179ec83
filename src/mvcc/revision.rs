//! Revisions, and the ranges of keys that requests name.

use bytes::Bytes;
use std::ops::Bound;

/// The place of one change in the order of all changes: the transaction, and the change within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision {
    /// Counts transactions that changed something; an empty store stands at 1.
    pub main: i64,
    /// Counts changes within one transaction, from 0.
    pub sub: i64,
}

impl Revision {
    pub fn new(main: i64, sub: i64) -> Revision {
        Revision { main, sub }
    }
}

/// The key under which etcd stores the record of a revision: both numbers in big-endian order,
/// and a `t` behind those of a tombstone.
pub fn stored_key(main: i64, sub: u64, tombstone: bool) -> ([u8; 18], usize) {
    let mut key = [0; 18];
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[8] = b'_';
    key[9..17].copy_from_slice(&sub.to_be_bytes());
    key[17] = b't';
    (key, if tombstone { 18 } else { 17 })
}

/// The keys that a `key` and `range_end` pair of the API means.
///
/// No `range_end` is the one key; a `range_end` of one zero byte is every key from `key` on; any
/// other is the half-open interval, empty if it ends before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    One(Bytes),
    From(Bytes),
    Between(Bytes, Bytes),
}

impl KeyRange {
    pub fn new(key: &Bytes, range_end: &Bytes) -> KeyRange {
        match range_end.as_ref() {
            [] => KeyRange::One(key.clone()),
            [0] => KeyRange::From(key.clone()),
            _ => KeyRange::Between(key.clone(), range_end.clone()),
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::One(one) => one == key,
            KeyRange::From(start) => start.as_ref() <= key,
            KeyRange::Between(start, end) => start.as_ref() <= key && key < end.as_ref(),
        }
    }

    /// The bounds for a walk in key order; a range that ends before it begins has equal bounds.
    pub fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            KeyRange::One(one) => (Bound::Included(one), Bound::Included(one)),
            KeyRange::From(start) => (Bound::Included(start), Bound::Unbounded),
            KeyRange::Between(start, end) if end <= start => {
                (Bound::Included(start), Bound::Excluded(start))
            }
            KeyRange::Between(start, end) => (Bound::Included(start), Bound::Excluded(end)),
        }
    }
}
