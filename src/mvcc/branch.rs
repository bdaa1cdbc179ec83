//! A branch of the index: children in key order, each with the number of its live keys.

use crate::mvcc::leaf::{beside, head, shared_prefix};
use bytes::Bytes;
use std::cmp::Ordering;

pub(super) const BRANCH_CHILDREN: usize = 64;

/// The number of a leaf or of a branch; the height says which.
pub(super) type NodeId = u32;

/// Invariants: keys of child i are below `separators[i]`, keys of child i + 1 are not;
/// `heads[i]` is the head of separator i after the `prefix` bytes that all separators share;
/// `live[i]` counts the live keys of child i.
#[derive(Default, Debug)]
pub(super) struct Branch {
    prefix: usize,
    heads: Vec<u64>,
    separators: Vec<Bytes>,
    children: Vec<NodeId>,
    live: Vec<u64>,
}

impl Branch {
    /// A branch over two nodes.
    pub(super) fn new(left: (NodeId, u64), separator: Bytes, right: (NodeId, u64)) -> Branch {
        let mut branch = Branch {
            separators: vec![separator],
            children: vec![left.0, right.0],
            live: vec![left.1, right.1],
            ..Branch::default()
        };
        branch.rehead();
        branch
    }

    pub(super) fn len(&self) -> usize {
        self.children.len()
    }

    pub(super) fn child(&self, place: usize) -> NodeId {
        self.children[place]
    }

    pub(super) fn live(&self) -> u64 {
        self.live.iter().sum()
    }

    /// The live keys of the first `count` children.
    pub(super) fn live_among(&self, count: usize) -> u64 {
        self.live[..count].iter().sum()
    }

    pub(super) fn live_mut(&mut self, place: usize) -> &mut u64 {
        &mut self.live[place]
    }

    /// The place of the child that `key` belongs to: the number of separators not above it.
    pub(super) fn search(&self, key: &[u8]) -> usize {
        let Some(first) = self.separators.first() else { return 0 };
        match beside(key, &first[..self.prefix]) {
            Ordering::Less => return 0,
            Ordering::Equal => {}
            Ordering::Greater => return self.separators.len(),
        }
        let wanted = head(key, self.prefix);
        let mut place = self.heads.partition_point(|&head| head < wanted);
        while self.heads.get(place) == Some(&wanted) && self.separators[place] <= key {
            place += 1;
        }
        place
    }

    fn rehead(&mut self) {
        let Some((first, last)) = self.separators.first().zip(self.separators.last()) else {
            self.heads.clear();
            return;
        };
        let prefix = shared_prefix(first, last);
        self.prefix = prefix;
        self.heads = self.separators.iter().map(|separator| head(separator, prefix)).collect();
    }

    /// Puts a node behind child `place`, which gave it its keys from `separator` on.
    pub(super) fn insert(&mut self, place: usize, separator: Bytes, node: NodeId, live: u64) {
        self.live[place] -= live;
        self.separators.insert(place, separator);
        self.children.insert(place + 1, node);
        self.live.insert(place + 1, live);
        self.rehead();
    }

    /// Takes out child `place`, which has no keys.
    pub(super) fn remove(&mut self, place: usize) {
        assert_eq!(self.live[place], 0, "live keys in a node that is removed");
        self.children.remove(place);
        self.live.remove(place);
        if !self.separators.is_empty() {
            self.separators.remove(place.saturating_sub(1));
            self.rehead();
        }
    }

    /// Takes out child `place` + 1, whose keys child `place` has taken.
    pub(super) fn merged(&mut self, place: usize) {
        let live = self.live.remove(place + 1);
        self.live[place] += live;
        self.children.remove(place + 1);
        self.separators.remove(place);
        self.rehead();
    }

    pub(super) fn separator(&self, place: usize) -> &Bytes {
        &self.separators[place]
    }

    /// Moves the children from `place` on into a branch of their own; the separator between the
    /// two goes up.
    pub(super) fn split(&mut self, place: usize) -> (Bytes, Branch) {
        let mut right = Branch {
            separators: self.separators.split_off(place),
            children: self.children.split_off(place),
            live: self.live.split_off(place),
            ..Branch::default()
        };
        let separator = self.separators.pop().expect("a branch that splits has many children");
        self.rehead();
        right.rehead();
        (separator, right)
    }

    /// Takes the children of the branch that follows behind `separator`.
    pub(super) fn append(&mut self, separator: Bytes, right: Branch) {
        self.separators.push(separator);
        self.separators.extend(right.separators);
        self.children.extend(right.children);
        self.live.extend(right.live);
        self.rehead();
    }
}
