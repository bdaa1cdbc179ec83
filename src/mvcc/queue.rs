//! Ranges in the order in which their keys were created, for those who ask for the first or the
//! last of them: every lock and every election does, for each of its waiters.
//!
//! Nobody pays for what is not asked for. A range that is asked for its first or last key is
//! visited whole, as any sorted range is; if it holds many keys, their order is kept, and from then
//! on follows creations and deletions. A queue that has drained is dropped.
//!
//! It is no part of the replicated state: answers do not depend on it.

use crate::mvcc::key_index::{KeyId, Keys};
use crate::mvcc::revision::KeyRange;
use std::collections::BTreeSet;

/// With fewer keys than this, visiting them is cheap. (Small in tests, so that both ways are
/// taken.)
pub(super) const QUEUE_KEYS_MIN: usize = if cfg!(test) { 3 } else { 64 };

/// Ranges kept in order; each costs a creation or deletion of a key a comparison.
const QUEUES_MAX: usize = if cfg!(test) { 3 } else { 64 };

/// Keys in all of them, at some 20 bytes each.
const KEYS_MAX: usize = 1 << 20;

/// The live keys of a range by creation revision.
#[derive(Debug)]
pub struct Queue {
    pub(super) range: KeyRange,
    /// The revision whose keys these are, until the store takes it.
    pub(super) revision: i64,
    pub(super) keys: BTreeSet<(i64, KeyId)>,
}

/// Which end of a queue is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) last: bool,
    /// Bounds of the creation revision; 0 is none.
    pub(super) min_create: i64,
    pub(super) max_create: i64,
}

/// The ranges whose order is kept.
///
/// Invariant: each queue holds exactly the live keys of its range.
#[derive(Debug, Default)]
pub(super) struct Queues {
    queues: Vec<Queue>,
    keys: usize,
}

impl Queues {
    pub(super) fn find(&self, range: &KeyRange) -> Option<&Queue> {
        self.queues.iter().find(|queue| queue.range == *range)
    }

    /// Takes a queue that is true at this moment. The one kept longest makes room.
    pub(super) fn keep(&mut self, queue: Queue) {
        if queue.keys.len() > KEYS_MAX || self.find(&queue.range).is_some() {
            return;
        }
        self.keys += queue.keys.len();
        self.queues.push(queue);
        while self.queues.len() > QUEUES_MAX || self.keys > KEYS_MAX {
            self.keys -= self.queues.remove(0).keys.len();
        }
    }

    pub(super) fn created(&mut self, key: &[u8], created: i64, id: KeyId) {
        for queue in &mut self.queues {
            if queue.range.contains(key) {
                queue.keys.insert((created, id));
                self.keys += 1;
            }
        }
    }

    pub(super) fn deleted(&mut self, key: &[u8], created: i64, id: KeyId) {
        let mut drained = false;
        for queue in &mut self.queues {
            if queue.range.contains(key) {
                let removed = queue.keys.remove(&(created, id));
                assert!(removed, "a key created at {created} was not in its queue");
                self.keys -= 1;
                drained |= queue.keys.len() < QUEUE_KEYS_MIN / 2;
            }
        }
        if drained {
            self.queues.retain(|queue| queue.keys.len() >= QUEUE_KEYS_MIN / 2);
            self.keys = self.queues.iter().map(|queue| queue.keys.len()).sum();
        }
    }
}

impl Queue {
    /// The key at an end, and whether more of them are within the bounds. Of keys created in one
    /// transaction it is the first in key order, whichever end is asked for.
    pub(super) fn end(&self, keys: &Keys, end: End) -> (Option<KeyId>, bool) {
        let low = (end.min_create, KeyId::MIN);
        let high = (if end.max_create == 0 { i64::MAX } else { end.max_create }, KeyId::MAX);
        if low > high {
            return (None, false);
        }
        let mut within = self.keys.range(low..=high);
        let found = if end.last { within.next_back() } else { within.next() };
        let Some(&(created, _)) = found else { return (None, false) };
        let more = within.next().is_some();
        let twins = self.keys.range((created, KeyId::MIN)..=(created, KeyId::MAX));
        (twins.map(|&(_, id)| id).min_by_key(|id| keys.key(*id)), more)
    }
}
