//! The keys in order, counted: a B+ tree whose branches know how many live keys are below.

use crate::mvcc::branch::{BRANCH_CHILDREN, Branch, NodeId};
use crate::mvcc::key_index::{KeyId, Keys};
use crate::mvcc::leaf::{LEAF_KEYS, Leaf};
use bytes::Bytes;
use std::ops::Bound;

/// The two ends of a walk.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Nodes this small look for a neighbour to merge with, if the two leave room for growth.
const SMALL: usize = 16;
const MERGED_MAX: usize = 48;

/// Maps keys to their numbers, in key order, and counts the live keys of a range by descending
/// once for each end.
///
/// Invariants: all leaves are at the same depth; no node but the root is empty; a key is in the
/// index exactly once. Keys themselves are in `Keys`, which every call is given.
#[derive(Debug)]
pub(super) struct Index {
    #[expect(clippy::vec_box, reason = "a table of large leaves would move when it grows")]
    leaves: Vec<Box<Leaf>>,
    free_leaves: Vec<NodeId>,
    branches: Vec<Branch>,
    free_branches: Vec<NodeId>,
    root: NodeId,
    /// Levels of branches above the leaves.
    height: usize,
}

impl Default for Index {
    fn default() -> Index {
        let (leaves, branches) = (vec![Leaf::new()], Vec::new());
        let (free_leaves, free_branches) = (Vec::new(), Vec::new());
        Index { leaves, free_leaves, branches, free_branches, root: 0, height: 0 }
    }
}

/// What a node that became too large gave away.
struct Split {
    separator: Bytes,
    right: NodeId,
    live: u64,
}

impl Index {
    fn leaf(&self, node: NodeId) -> &Leaf {
        &self.leaves[node as usize]
    }

    fn branch(&self, node: NodeId) -> &Branch {
        &self.branches[node as usize]
    }

    fn leaf_of(&self, key: &[u8]) -> &Leaf {
        let mut node = self.root;
        for _ in 0..self.height {
            let branch = self.branch(node);
            node = branch.child(branch.search(key));
        }
        self.leaf(node)
    }

    pub(super) fn get(&self, keys: &Keys, key: &[u8]) -> Option<KeyId> {
        let leaf = self.leaf_of(key);
        leaf.search(keys, key).ok().map(|place| leaf.ids()[place])
    }

    /// The number of live keys.
    pub(super) fn live(&self) -> u64 {
        self.live_below(self.root, self.height)
    }

    fn live_below(&self, node: NodeId, height: usize) -> u64 {
        if height == 0 { self.leaf(node).live() } else { self.branch(node).live() }
    }

    /// Says whether the newest revision of a key is a put.
    pub(super) fn set_live(&mut self, keys: &Keys, id: KeyId, live: bool) {
        let key = keys.key(id);
        let mut node = self.root;
        for _ in 0..self.height {
            let branch = &mut self.branches[node as usize];
            let place = branch.search(key);
            let count = branch.live_mut(place);
            *count = if live { *count + 1 } else { *count - 1 };
            node = branch.child(place);
        }
        let leaf = &mut self.leaves[node as usize];
        let place = leaf.search(keys, key).expect("the key is in the index");
        leaf.set_live(place, live);
    }

    /// Counts the live keys within `bounds`.
    pub(super) fn live_within(&self, keys: &Keys, bounds: Bounds<'_>) -> u64 {
        let below = match bounds.0 {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.live_before(keys, key, false),
            Bound::Excluded(key) => self.live_before(keys, key, true),
        };
        let up_to = match bounds.1 {
            Bound::Unbounded => self.live(),
            Bound::Included(key) => self.live_before(keys, key, true),
            Bound::Excluded(key) => self.live_before(keys, key, false),
        };
        up_to.saturating_sub(below)
    }

    fn live_before(&self, keys: &Keys, key: &[u8], inclusive: bool) -> u64 {
        let mut node = self.root;
        let mut count = 0;
        for _ in 0..self.height {
            let branch = self.branch(node);
            let place = branch.search(key);
            count += branch.live_among(place);
            node = branch.child(place);
        }
        let leaf = self.leaf(node);
        let place = match leaf.search(keys, key) {
            Ok(place) => place + usize::from(inclusive),
            Err(place) => place,
        };
        count + leaf.live_among(place)
    }

    /// Adds the key with number `id`, which is in `keys` and not in the index.
    pub(super) fn insert(&mut self, keys: &Keys, id: KeyId, live: bool) {
        let (root, height) = (self.root, self.height);
        if let Some(split) = self.insert_below(keys, root, height, id, live) {
            let left = self.live_below(root, height);
            let branch = Branch::new((root, left), split.separator, (split.right, split.live));
            self.root = self.add_branch(branch);
            self.height += 1;
        }
    }

    fn insert_below(
        &mut self,
        keys: &Keys,
        node: NodeId,
        height: usize,
        id: KeyId,
        live: bool,
    ) -> Option<Split> {
        if height == 0 {
            return self.insert_into_leaf(keys, node, id, live);
        }
        let branch = &mut self.branches[node as usize];
        let place = branch.search(keys.key(id));
        *branch.live_mut(place) += u64::from(live);
        let child = branch.child(place);
        let split = self.insert_below(keys, child, height - 1, id, live)?;
        let branch = &mut self.branches[node as usize];
        branch.insert(place, split.separator, split.right, split.live);
        if branch.len() <= BRANCH_CHILDREN {
            return None;
        }
        // Behind the last child means keys that ascend: they leave full nodes behind them.
        let ascending = place + 2 == branch.len();
        let at = if ascending { branch.len() - 2 } else { branch.len() / 2 };
        let (separator, right) = branch.split(at);
        let live = right.live();
        Some(Split { separator, right: self.add_branch(right), live })
    }

    fn insert_into_leaf(
        &mut self,
        keys: &Keys,
        node: NodeId,
        id: KeyId,
        live: bool,
    ) -> Option<Split> {
        let leaf = &mut self.leaves[node as usize];
        let place = leaf.search(keys, keys.key(id)).expect_err("the key is not in the index");
        if leaf.len() < LEAF_KEYS {
            leaf.insert(keys, place, id, live);
            return None;
        }
        let at = if place == LEAF_KEYS { LEAF_KEYS } else { LEAF_KEYS / 2 };
        let mut right = leaf.split(keys, at);
        if place >= at {
            right.insert(keys, place - at, id, live);
        } else {
            leaf.insert(keys, place, id, live);
        }
        let separator = keys.key(right.ids()[0]).clone();
        let live = right.live();
        Some(Split { separator, right: self.add_leaf(right), live })
    }

    fn add_leaf(&mut self, leaf: Box<Leaf>) -> NodeId {
        if let Some(node) = self.free_leaves.pop() {
            self.leaves[node as usize] = leaf;
            return node;
        }
        self.leaves.push(leaf);
        NodeId::try_from(self.leaves.len() - 1).expect("memory ends before 2^32 nodes")
    }

    fn add_branch(&mut self, branch: Branch) -> NodeId {
        if let Some(node) = self.free_branches.pop() {
            self.branches[node as usize] = branch;
            return node;
        }
        self.branches.push(branch);
        NodeId::try_from(self.branches.len() - 1).expect("memory ends before 2^32 nodes")
    }

    /// Removes the key with number `id`, while `keys` still holds it. It does not live.
    pub(super) fn remove(&mut self, keys: &Keys, id: KeyId) {
        self.remove_below(keys, self.root, self.height, keys.key(id));
        while self.height > 0 && self.branch(self.root).len() == 1 {
            let child = self.branch(self.root).child(0);
            self.free_branches.push(self.root);
            self.branches[self.root as usize] = Branch::default();
            self.root = child;
            self.height -= 1;
        }
    }

    /// Removes a key below a node, and answers how many keys or children the node has left.
    fn remove_below(&mut self, keys: &Keys, node: NodeId, height: usize, key: &[u8]) -> usize {
        if height == 0 {
            let leaf = &mut self.leaves[node as usize];
            let place = leaf.search(keys, key).expect("the key is in the index");
            leaf.remove(place);
            return leaf.len();
        }
        let place = self.branch(node).search(key);
        let child = self.branch(node).child(place);
        let left = self.remove_below(keys, child, height - 1, key);
        if left == 0 {
            self.branches[node as usize].remove(place);
            self.release(child, height - 1);
        } else if left <= SMALL {
            self.merge_child(keys, node, height, place);
        }
        self.branch(node).len()
    }

    fn release(&mut self, node: NodeId, height: usize) {
        if height == 0 {
            self.leaves[node as usize] = Leaf::new();
            self.free_leaves.push(node);
        } else {
            self.branches[node as usize] = Branch::default();
            self.free_branches.push(node);
        }
    }

    fn size(&self, node: NodeId, height: usize) -> usize {
        if height == 0 { self.leaf(node).len() } else { self.branch(node).len() }
    }

    /// Merges child `place` with a neighbour, if there is one that leaves room.
    fn merge_child(&mut self, keys: &Keys, node: NodeId, height: usize, place: usize) {
        let branch = self.branch(node);
        let below = height - 1;
        let fits = |left: usize| {
            left + 1 < branch.len()
                && self.size(branch.child(left), below) + self.size(branch.child(left + 1), below)
                    <= MERGED_MAX
        };
        let candidates = [Some(place), place.checked_sub(1)];
        let Some(left) = candidates.into_iter().flatten().find(|&left| fits(left)) else { return };
        let (into, from) = (branch.child(left), branch.child(left + 1));
        if below == 0 {
            let right = std::mem::replace(&mut self.leaves[from as usize], Leaf::new());
            self.leaves[into as usize].append(keys, &right);
        } else {
            let separator = branch.separator(left).clone();
            let right = std::mem::take(&mut self.branches[from as usize]);
            self.branches[into as usize].append(separator, right);
        }
        self.branches[node as usize].merged(left);
        self.release(from, below);
    }

    /// Visits keys in order until `f` says to stop (false).
    pub(super) fn visit(
        &self,
        keys: &Keys,
        bounds: Bounds<'_>,
        reverse: bool,
        f: &mut dyn FnMut(KeyId) -> bool,
    ) {
        self.visit_below(keys, (self.root, self.height), bounds, reverse, f);
    }

    /// True if `f` never said to stop.
    fn visit_below(
        &self,
        keys: &Keys,
        (node, height): (NodeId, usize),
        (lower, upper): Bounds<'_>,
        reverse: bool,
        f: &mut dyn FnMut(KeyId) -> bool,
    ) -> bool {
        if height == 0 {
            return self.visit_leaf(keys, self.leaf(node), (lower, upper), reverse, f);
        }
        let branch = self.branch(node);
        let place = |bound: Bound<&[u8]>, open: usize| match bound {
            Bound::Included(key) | Bound::Excluded(key) => branch.search(key),
            Bound::Unbounded => open,
        };
        let (first, last) = (place(lower, 0), place(upper, branch.len() - 1));
        let mut visit = |child: usize| {
            // Only the outer children are cut by the bounds.
            let lower = if child == first { lower } else { Bound::Unbounded };
            let upper = if child == last { upper } else { Bound::Unbounded };
            let below = (branch.child(child), height - 1);
            self.visit_below(keys, below, (lower, upper), reverse, f)
        };
        if reverse { (first..=last).rev().all(&mut visit) } else { (first..=last).all(visit) }
    }

    fn visit_leaf(
        &self,
        keys: &Keys,
        leaf: &Leaf,
        (lower, upper): Bounds<'_>,
        reverse: bool,
        f: &mut dyn FnMut(KeyId) -> bool,
    ) -> bool {
        let place = |key: &[u8], behind: bool| match leaf.search(keys, key) {
            Ok(place) => place + usize::from(behind),
            Err(place) => place,
        };
        let first = match lower {
            Bound::Unbounded => 0,
            Bound::Included(key) => place(key, false),
            Bound::Excluded(key) => place(key, true),
        };
        let end = match upper {
            Bound::Unbounded => leaf.len(),
            Bound::Included(key) => place(key, true),
            Bound::Excluded(key) => place(key, false),
        };
        let ids = leaf.ids().get(first..end).unwrap_or_default();
        if reverse { ids.iter().rev().all(|&id| f(id)) } else { ids.iter().all(|&id| f(id)) }
    }
}

pub(super) mod finger;
#[cfg(test)]
mod tests;
