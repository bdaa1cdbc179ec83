//! The keys in order, counted.

use crate::mvcc::key_index::{KeyId, Keys};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Maps keys to their numbers, in key order, and counts the live keys of a range.
#[derive(Default, Debug)]
pub(super) struct Index {
    map: BTreeMap<Bytes, (KeyId, bool)>,
    live: u64,
}

/// The two ends of a walk.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl Index {
    pub(super) fn get(&self, _keys: &Keys, key: &[u8]) -> Option<KeyId> {
        self.map.get(key).map(|&(id, _)| id)
    }

    /// Adds the key with number `id`, which is in `keys` and not in the index.
    pub(super) fn insert(&mut self, keys: &Keys, id: KeyId, live: bool) {
        self.map.insert(keys.key(id).clone(), (id, live));
        self.live += u64::from(live);
    }

    /// Removes the key with number `id`, while `keys` still holds it.
    pub(super) fn remove(&mut self, keys: &Keys, id: KeyId) {
        let (_, live) = self.map.remove(keys.key(id)).expect("the key is in the index");
        self.live -= u64::from(live);
    }

    /// Says whether the newest revision of a key is a put.
    pub(super) fn set_live(&mut self, keys: &Keys, id: KeyId, live: bool) {
        let entry = self.map.get_mut(keys.key(id)).expect("the key is in the index");
        assert!(entry.1 != live, "liveness of a key must change");
        entry.1 = live;
        if live {
            self.live += 1;
        } else {
            self.live -= 1;
        }
    }

    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// Counts the live keys within `bounds`.
    pub(super) fn live_within(&self, _keys: &Keys, bounds: Bounds<'_>) -> u64 {
        self.map.range::<[u8], _>(bounds).filter(|(_, entry)| entry.1).count() as u64
    }

    /// Visits keys in order until `f` says to stop (false).
    pub(super) fn visit(
        &self,
        _keys: &Keys,
        bounds: Bounds<'_>,
        reverse: bool,
        f: &mut dyn FnMut(KeyId) -> bool,
    ) {
        let mut range = self.map.range::<[u8], _>(bounds);
        while let Some((_, &(id, _))) = if reverse { range.next_back() } else { range.next() } {
            if !f(id) {
                return;
            }
        }
    }
}
