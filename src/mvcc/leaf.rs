//! A leaf of the index: up to 64 keys in order, and which of them live.

use crate::mvcc::key_index::{KeyId, Keys};
use std::cmp::Ordering;

pub(super) const LEAF_KEYS: usize = 64;

/// The eight bytes of `key` from `skip` on, as a number that orders as they do. Keys that share
/// their first `skip` bytes order by it, as far as it goes.
pub(super) fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => {
            let mut chunk = [0; 8];
            chunk[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(chunk)
        }
    }
}

pub(super) fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How `key` stands to all keys that begin with `prefix`: before, after, or among them.
pub(super) fn beside(key: &[u8], prefix: &[u8]) -> Ordering {
    key[..key.len().min(prefix.len())].cmp(prefix)
}

/// Keys by number, sorted, with enough of each beside it that most comparisons touch no key.
///
/// Invariants: `heads[i]` is the head of key i after `prefix` bytes, which all keys share; bit i of
/// `live` says whether key i lives; bits from `len` on are zero.
#[derive(Debug)]
pub(super) struct Leaf {
    len: usize,
    prefix: usize,
    live: u64,
    heads: [u64; LEAF_KEYS],
    ids: [KeyId; LEAF_KEYS],
}

impl Leaf {
    pub(super) fn new() -> Box<Leaf> {
        let (heads, ids) = ([0; LEAF_KEYS], [0; LEAF_KEYS]);
        Box::new(Leaf { len: 0, prefix: 0, live: 0, heads, ids })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn ids(&self) -> &[KeyId] {
        &self.ids[..self.len]
    }

    pub(super) fn live(&self) -> u64 {
        u64::from(self.live.count_ones())
    }

    /// The live keys among the first `count`.
    pub(super) fn live_among(&self, count: usize) -> u64 {
        u64::from((self.live & low_bits(count)).count_ones())
    }

    /// The place of `key`, or where it would be.
    pub(super) fn search(&self, keys: &Keys, key: &[u8]) -> Result<usize, usize> {
        let heads = &self.heads[..self.len];
        let wanted = head(key, self.prefix);
        let first = heads.partition_point(|&head| head < wanted);
        let equal = heads[first..].iter().take_while(|&&head| head == wanted).count();
        // If the key is here, it is among those with its head, whatever its first bytes are.
        let mut place = first;
        for &id in &self.ids[first..first + equal] {
            match keys.key(id).as_ref().cmp(key) {
                Ordering::Less => place += 1,
                Ordering::Equal => return Ok(place),
                Ordering::Greater => break,
            }
        }
        if self.len == 0 || self.prefix == 0 {
            return Err(place);
        }
        match beside(key, &keys.key(self.ids[0])[..self.prefix]) {
            Ordering::Less => Err(0),
            Ordering::Equal => Err(place),
            Ordering::Greater => Err(self.len),
        }
    }

    /// Recomputes the shared prefix, which a sorted leaf has in common between its ends.
    fn rehead(&mut self, keys: &Keys) {
        let Some((first, last)) = self.ids().first().zip(self.ids().last()) else { return };
        self.prefix = shared_prefix(keys.key(*first), keys.key(*last));
        for place in 0..self.len {
            self.heads[place] = head(keys.key(self.ids[place]), self.prefix);
        }
    }

    /// Inserts a key at its place into a leaf that has room.
    pub(super) fn insert(&mut self, keys: &Keys, place: usize, id: KeyId, live: bool) {
        assert!(self.len < LEAF_KEYS && place <= self.len, "no room at {place} of {}", self.len);
        self.heads.copy_within(place..self.len, place + 1);
        self.ids.copy_within(place..self.len, place + 1);
        let low = low_bits(place);
        self.live = (self.live & low) | (self.live & !low) << 1 | u64::from(live) << place;
        self.ids[place] = id;
        self.len += 1;
        let key = keys.key(id);
        let other = keys.key(self.ids[usize::from(place == 0 && self.len > 1)]);
        // A lone key shares all of itself: without that, keys that ascend would share nothing.
        if self.len == 1 || shared_prefix(key, other) < self.prefix {
            self.rehead(keys);
        } else {
            self.heads[place] = head(key, self.prefix);
        }
    }

    pub(super) fn remove(&mut self, place: usize) {
        assert!(place < self.len, "no key at {place} of {}", self.len);
        self.heads.copy_within(place + 1..self.len, place);
        self.ids.copy_within(place + 1..self.len, place);
        let low = low_bits(place);
        self.live = (self.live & low) | (self.live >> 1 & !low);
        self.len -= 1;
    }

    pub(super) fn set_live(&mut self, place: usize, live: bool) {
        let bit = 1 << place;
        assert!((self.live & bit != 0) != live, "liveness of key {place} must change");
        self.live ^= bit;
    }

    /// Moves the keys from `place` on into a leaf of their own.
    pub(super) fn split(&mut self, keys: &Keys, place: usize) -> Box<Leaf> {
        let mut right = Leaf::new();
        right.len = self.len - place;
        right.ids[..right.len].copy_from_slice(&self.ids[place..self.len]);
        if place < LEAF_KEYS {
            right.live = self.live >> place;
        }
        self.len = place;
        self.live &= low_bits(place);
        self.rehead(keys);
        right.rehead(keys);
        right
    }

    /// Takes the keys of the leaf that follows.
    pub(super) fn append(&mut self, keys: &Keys, right: &Leaf) {
        let len = self.len + right.len;
        assert!(len <= LEAF_KEYS, "{} and {} keys in one leaf", self.len, right.len);
        self.ids[self.len..len].copy_from_slice(right.ids());
        if self.len < LEAF_KEYS {
            self.live |= right.live << self.len;
        }
        self.len = len;
        self.rehead(keys);
    }

    /// How many bytes at the front of all keys the heads leave out.
    #[cfg(test)]
    pub(super) fn prefix(&self) -> usize {
        self.prefix
    }

    #[cfg(test)]
    pub(super) fn check(&self, keys: &Keys) {
        assert!(self.ids().is_sorted_by(|a, b| keys.key(*a) < keys.key(*b)));
        assert_eq!(self.live & !low_bits(self.len), 0);
        for (place, id) in self.ids().iter().enumerate() {
            assert_eq!(self.heads[place], head(keys.key(*id), self.prefix));
            assert!(shared_prefix(keys.key(*id), keys.key(self.ids[0])) >= self.prefix);
        }
    }
}

fn low_bits(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}
