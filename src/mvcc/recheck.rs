//! Holding what is in memory against what the state hash says of it.
//!
//! The state hash counts a record as it was when it came. What changes in memory later, as a bad
//! bit does, shows only when the record is hashed again.

use crate::mvcc::log::Version;
use crate::mvcc::record::Value;
use crate::mvcc::revision::Revision;
use crate::mvcc::store::Store;
use bytes::Bytes;

/// What one step of a recheck found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rechecked {
    /// Where to go on; none at the end.
    pub next: Option<Revision>,
    /// By how much the state hash is wrong for these records; 0 if they are as they were.
    pub damage: u64,
}

impl Store {
    /// Hashes up to `max_records` records from `from` on again. Those whose values are not in
    /// memory are passed over.
    pub fn recheck(&self, from: Revision, max_records: usize) -> Rechecked {
        let sub = u32::try_from(from.sub.max(0)).unwrap_or(u32::MAX);
        let mut damage = 0_u64;
        for (seen, record) in self.log.from(from.main, sub).enumerate() {
            if seen >= max_records {
                let next = Revision::new(record.main, i64::from(record.sub));
                return Rechecked { next: Some(next), damage };
            }
            damage = damage.wrapping_add(self.damage_of(record));
        }
        Rechecked { next: None, damage }
    }

    /// Whether the records from `from` to `last` are as they were when they came.
    pub fn is_intact(&self, from: Revision, last: Revision) -> bool {
        let sub = u32::try_from(from.sub.max(0)).unwrap_or(u32::MAX);
        let place = |record: &Version| Revision::new(record.main, i64::from(record.sub));
        let mut records = self.log.from(from.main, sub).take_while(|record| place(record) <= last);
        records.all(|record| self.damage_of(record) == 0)
    }

    fn damage_of(&self, record: &Version) -> u64 {
        match &record.value {
            Value::Resident(value) if self.survives(record) => {
                self.digest(record, value).wrapping_sub(record.digest)
            }
            Value::Resident(_) | Value::Cold(_) => 0,
        }
    }

    /// The first value left to a run that is not what it was when its record came, although its
    /// block verifies: it was damaged when it was written down. Reads all of them; for simulations
    /// and tests.
    pub fn damaged_on_disk(&self) -> Option<Revision> {
        let is_damaged = |record: &&Version| match &record.value {
            Value::Cold(place) if self.survives(record) => {
                let value = self.cold.as_ref().and_then(|cold| cold.read(*place).ok());
                value.is_some_and(|value| self.digest(record, &value) != record.digest)
            }
            Value::Resident(_) | Value::Cold(_) => false,
        };
        let found = self.log.from(0, 0).find(is_damaged)?;
        Some(Revision::new(found.main, i64::from(found.sub)))
    }

    /// Takes the result of a whole recheck into the state hash, so that others see it.
    pub fn set_damage(&mut self, damage: u64) {
        self.damage = damage;
    }

    /// Whether the last recheck found something.
    pub fn is_damaged(&self) -> bool {
        self.damage != 0
    }

    /// Flips a bit of a value in memory, as bad memory does: that of the `nth` record from a
    /// revision on that has one, counted around. Nothing else changes. For simulations and tests;
    /// says which it was.
    pub fn flip_bit(&mut self, from: i64, nth: usize) -> Option<Revision> {
        let is_open = |record: &&Version| match &record.value {
            Value::Resident(value) => !value.is_empty() && self.survives(record),
            Value::Cold(_) => false,
        };
        let candidates = || self.log.from(from, 0).filter(is_open);
        let count = candidates().count();
        let chosen = candidates().nth(nth.checked_rem(count)?)?;
        let (main, sub) = (chosen.main, chosen.sub);
        let record = self.log.find_mut(main, sub).expect("it was just found");
        let Value::Resident(value) = &record.value else { unreachable!("it was chosen for that") };
        let mut flipped = value.to_vec();
        flipped[0] ^= 1;
        record.value = Value::Resident(Bytes::from(flipped));
        Some(Revision::new(main, i64::from(sub)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::PutRequest;

    fn put(store: &mut Store, key: &'static str, value: &'static str) {
        let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        store.put(&request, &|_| true).expect("a put without a lease");
    }

    fn damage(store: &Store) -> u64 {
        let (mut next, mut damage) = (Some(Revision::default()), 0_u64);
        while let Some(from) = next {
            let step = store.recheck(from, 2);
            (next, damage) = (step.next, damage.wrapping_add(step.damage));
        }
        damage
    }

    #[test]
    fn a_flipped_bit_shows_when_the_record_is_hashed_again() {
        let mut store = Store::new();
        assert_eq!(store.flip_bit(0, 3), None);
        ["a", "b", "c", "d", "e"].into_iter().for_each(|key| put(&mut store, key, "some value"));
        let before = store.state_hash();
        assert_eq!(damage(&store), 0);
        let at = store.flip_bit(0, 7).expect("there are values");
        assert_eq!(at, Revision::new(4, 0));
        assert_eq!(store.value_at(b"c", 4).expect("it is there").value, "rome value");
        assert_eq!(store.state_hash(), before);
        let found = damage(&store);
        assert_ne!(found, 0);
        assert_eq!(store.damaged_on_disk(), None, "nothing is on a disk");
        store.set_damage(found);
        assert!(store.is_damaged());
        assert_ne!(store.state_hash(), before);
    }

    #[test]
    fn the_damage_is_what_a_restored_store_differs_by() {
        let mut store = Store::new();
        ["a", "b", "c"].into_iter().for_each(|key| put(&mut store, key, "some value"));
        store.flip_bit(0, 1);
        let restored = crate::mvcc::restore::Restored {
            revision: store.revision(),
            compact_revision: store.compact_revision(),
        };
        let records: Vec<_> = store.records(Revision::default()).collect();
        let again = Store::restore(records.into_iter(), restored);
        assert_ne!(again.state_hash(), store.state_hash());
        store.set_damage(damage(&store));
        assert_eq!(again.state_hash(), store.state_hash());
        assert_eq!(damage(&again), 0);
    }
}
