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

/// The revisions before the newest. Two are kept inline: between two compactions most keys are
/// written once or twice.
#[derive(Debug)]
enum Older {
    None,
    One(Mark),
    #[expect(clippy::box_collection, reason = "without the box, no entry fits a cache line")]
    Many(Box<VecDeque<Mark>>),
}

/// A key and its revisions, in one line of the cache.
///
/// Invariants: `older` ascends and ends before `newest`; `Many` holds at least two.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct KeyEntry {
    pub(super) key: Bytes,
    newest: Mark,
    older: Older,
}

const _: () = assert!(size_of::<KeyEntry>() == 64);

impl KeyEntry {
    pub(super) fn newest(&self) -> Mark {
        self.newest
    }

    /// The newest revision of the key that is not after the transaction `main`.
    pub(super) fn at(&self, main: i64) -> Option<Mark> {
        self.newest_where(|mark| mark.main <= main)
    }

    /// The revision before the one at (main, sub).
    pub(super) fn before(&self, main: i64, sub: u32) -> Option<Mark> {
        self.newest_where(|mark| (mark.main, mark.sub) < (main, sub))
    }

    /// The newest revision that is early enough for `early`, which holds up to some revision.
    fn newest_where(&self, early: impl Fn(&Mark) -> bool) -> Option<Mark> {
        if early(&self.newest) {
            return Some(self.newest);
        }
        match &self.older {
            Older::None => None,
            Older::One(mark) => Some(*mark).filter(early),
            Older::Many(older) => {
                let after = older.partition_point(early);
                after.checked_sub(1).map(|index| older[index])
            }
        }
    }

    pub(super) fn push(&mut self, mark: Mark) {
        let newest = self.newest;
        assert!(
            (newest.main, newest.sub) < (mark.main, mark.sub),
            "revision {mark:?} of a key is not after {newest:?}"
        );
        self.newest = mark;
        match &mut self.older {
            Older::None => self.older = Older::One(newest),
            Older::One(first) => {
                self.older = Older::Many(Box::new(VecDeque::from([*first, newest])));
            }
            Older::Many(older) => older.push_back(newest),
        }
    }

    pub(super) fn oldest(&self) -> Mark {
        match &self.older {
            Older::None => self.newest,
            Older::One(mark) => *mark,
            Older::Many(older) => *older.front().expect("many are at least two"),
        }
    }

    /// Forgets the oldest revision, if it is not the only one.
    pub(super) fn pop_oldest(&mut self) -> bool {
        match &mut self.older {
            Older::None => return false,
            Older::One(_) => self.older = Older::None,
            Older::Many(older) => {
                older.pop_front();
                if older.len() == 1 {
                    self.older = Older::One(older[0]);
                } else if older.capacity() > 64 && older.len() * 4 < older.capacity() {
                    older.shrink_to_fit();
                }
            }
        }
        true
    }

    fn forget_all(&mut self) {
        self.key = Bytes::new();
        self.older = Older::None;
    }
}

/// Keys in one piece of the table. With one more, 64 KiB had no room left to begin at a line of the
/// cache, and the allocator would take a quarter more.
const PIECE_KEYS: usize = 1023;

/// All keys that have a record, by number. The table grows by pieces, so that no write waits until
/// a large one has moved.
#[derive(Default, Debug)]
pub(super) struct Keys {
    pieces: Vec<Vec<KeyEntry>>,
    free: Vec<KeyId>,
}

impl Keys {
    pub(super) fn add(&mut self, key: Bytes, newest: Mark) -> KeyId {
        let entry = KeyEntry { key, newest, older: Older::None };
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
        self.entry_mut(id).forget_all();
        self.free.push(id);
    }

    pub(super) fn entry(&self, id: KeyId) -> &KeyEntry {
        &self.pieces[id as usize / PIECE_KEYS][id as usize % PIECE_KEYS]
    }

    pub(super) fn entry_mut(&mut self, id: KeyId) -> &mut KeyEntry {
        &mut self.pieces[id as usize / PIECE_KEYS][id as usize % PIECE_KEYS]
    }

    pub(super) fn key(&self, id: KeyId) -> &Bytes {
        &self.entry(id).key
    }
}
