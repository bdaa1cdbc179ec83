//! The revisions of each key, oldest first.
//!
//! A key lives in generations: a generation begins with a put on an absent key and ends with a
//! tombstone. They need no structure of their own: in the list of a key's revisions, a tombstone
//! ends a generation and what follows begins the next.
//!
//! ```text
//! put at 2, put at 4, delete at 5, put at 8:    2  4  5t | 8
//! at revision 1: nothing    3: 2    4: 4    5, 6, 7: nothing    8 and later: 8
//! ```

use bytes::Bytes;
use std::collections::VecDeque;

/// The number of a key in `Keys`. It is free for another key once the key's last record is gone.
pub(super) type KeyId = u32;

/// One revision of a key, in 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) main: i64,
    pub(super) sub: u32,
    pub(super) tombstone: bool,
}

/// A key and its revisions. Most keys have one: it is kept inline.
///
/// Invariants: `older` ascends and ends before `newest`; it is never empty.
#[derive(Debug)]
pub(super) struct KeyEntry {
    pub(super) key: Bytes,
    newest: Mark,
    // A thin pointer: most keys have none, and 8 bytes a key count more than the indirection.
    #[expect(clippy::box_collection, reason = "the pointer is a third of the size")]
    older: Option<Box<VecDeque<Mark>>>,
}

impl KeyEntry {
    pub(super) fn newest(&self) -> Mark {
        self.newest
    }

    /// The newest revision of the key that is not after the transaction `main`.
    pub(super) fn at(&self, main: i64) -> Option<Mark> {
        if self.newest.main <= main {
            return Some(self.newest);
        }
        let older = self.older.as_ref()?;
        let after = older.partition_point(|mark| mark.main <= main);
        after.checked_sub(1).map(|index| older[index])
    }

    /// The revision before the one at (main, sub).
    pub(super) fn before(&self, main: i64, sub: u32) -> Option<Mark> {
        if (self.newest.main, self.newest.sub) < (main, sub) {
            return Some(self.newest);
        }
        let older = self.older.as_ref()?;
        let after = older.partition_point(|mark| (mark.main, mark.sub) < (main, sub));
        after.checked_sub(1).map(|index| older[index])
    }

    pub(super) fn push(&mut self, mark: Mark) {
        let newest = self.newest;
        assert!(
            (newest.main, newest.sub) < (mark.main, mark.sub),
            "revision {mark:?} of a key is not after {newest:?}"
        );
        self.older.get_or_insert_default().push_back(newest);
        self.newest = mark;
    }

    pub(super) fn oldest(&self) -> Mark {
        self.older.as_ref().and_then(|older| older.front()).copied().unwrap_or(self.newest)
    }

    /// Forgets the oldest revision, if it is not the only one.
    pub(super) fn pop_oldest(&mut self) -> bool {
        let Some(older) = self.older.as_mut() else { return false };
        older.pop_front();
        if older.is_empty() {
            self.older = None;
        } else if older.capacity() > 64 && older.len() * 4 < older.capacity() {
            older.shrink_to_fit();
        }
        true
    }
}

/// Keys in one piece of the table.
const PIECE_BITS: u32 = 10;
const PIECE_KEYS: usize = 1 << PIECE_BITS;

/// All keys that have a record, by number. The table grows by pieces, so that no write waits until
/// a large one has moved.
#[derive(Default, Debug)]
pub(super) struct Keys {
    pieces: Vec<Vec<KeyEntry>>,
    free: Vec<KeyId>,
}

impl Keys {
    pub(super) fn add(&mut self, key: Bytes, newest: Mark) -> KeyId {
        let entry = KeyEntry { key, newest, older: None };
        if let Some(id) = self.free.pop() {
            *self.entry_mut(id) = entry;
            return id;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE_KEYS) {
            self.pieces.push(Vec::with_capacity(PIECE_KEYS));
        }
        let before = (self.pieces.len() - 1) * PIECE_KEYS;
        let last = self.pieces.last_mut().expect("a piece with room was made sure of");
        let id = KeyId::try_from(before + last.len()).expect("memory ends before 2^32 keys");
        last.push(entry);
        id
    }

    pub(super) fn remove(&mut self, id: KeyId) {
        let entry = self.entry_mut(id);
        entry.key = Bytes::new();
        entry.older = None;
        self.free.push(id);
    }

    pub(super) fn entry(&self, id: KeyId) -> &KeyEntry {
        &self.pieces[(id >> PIECE_BITS) as usize][id as usize & (PIECE_KEYS - 1)]
    }

    pub(super) fn entry_mut(&mut self, id: KeyId) -> &mut KeyEntry {
        &mut self.pieces[(id >> PIECE_BITS) as usize][id as usize & (PIECE_KEYS - 1)]
    }

    pub(super) fn key(&self, id: KeyId) -> &Bytes {
        &self.entry(id).key
    }
}
