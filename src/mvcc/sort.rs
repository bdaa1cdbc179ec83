//! The best of what a sorted range has gathered, without keeping the rest.

use bytes::Bytes;
use std::cmp::Ordering;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum SortKey {
    Number(i64),
    Value(Bytes),
}

/// A record that may be part of the answer.
#[derive(Clone, Debug)]
pub(super) struct Picked {
    key: SortKey,
    /// The place in key order: equal sort keys leave in the order of their keys.
    place: u64,
    pub(super) revision: (i64, u32),
}

impl Picked {
    /// The only record of an answer.
    pub(super) fn alone(revision: (i64, u32)) -> Picked {
        Picked { key: SortKey::Number(0), place: 0, revision }
    }
}

/// Keeps the first `limit` of what it is offered (0: all of it).
#[derive(Clone, Debug)]
pub(super) struct Best {
    limit: usize,
    descending: bool,
    offered: u64,
    kept: Vec<Picked>,
}

impl Best {
    pub(super) fn new(limit: usize, descending: bool) -> Best {
        Best { limit, descending, offered: 0, kept: Vec::new() }
    }

    /// How many records it was offered.
    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    pub(super) fn offer(&mut self, key: SortKey, revision: (i64, u32)) {
        self.kept.push(Picked { key, place: self.offered, revision });
        self.offered += 1;
        // Twice the limit, so that the work of dropping is linear in what is offered.
        if self.limit > 0 && self.kept.len() >= self.limit.saturating_mul(2).max(64) {
            self.drop_rest();
        }
    }

    fn drop_rest(&mut self) {
        if self.limit == 0 || self.kept.len() <= self.limit {
            return;
        }
        let descending = self.descending;
        self.kept.select_nth_unstable_by(self.limit - 1, |a, b| order(a, b, descending));
        self.kept.truncate(self.limit);
    }

    /// The answer in its order, and whether the limit cut it.
    pub(super) fn finish(mut self) -> (Vec<Picked>, bool) {
        self.drop_rest();
        let descending = self.descending;
        self.kept.sort_unstable_by(|a, b| order(a, b, descending));
        let more = self.offered > self.kept.len() as u64;
        (self.kept, more)
    }
}

fn order(a: &Picked, b: &Picked, descending: bool) -> Ordering {
    let by_key = if descending { b.key.cmp(&a.key) } else { a.key.cmp(&b.key) };
    by_key.then(a.place.cmp(&b.place))
}
