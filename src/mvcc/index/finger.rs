//! Where in the index a search ended: the next one begins there, and an insertion goes on from it.
//!
//! Records come back in the order of their revisions, and what was written together often stands
//! together. A search that ends outside the leaf goes down from the root.

use super::Index;
use crate::mvcc::branch::NodeId;
use crate::mvcc::key_index::{KeyId, Keys};
use crate::mvcc::leaf::LEAF_KEYS;

/// Invariants: while `is_set`, `path` leads from the root to `leaf`; no key is removed from the
/// index, and none is added but through the finger.
#[derive(Default, Debug)]
pub(in crate::mvcc) struct Finger {
    is_set: bool,
    /// Branches, each with the place of the child that the way goes through.
    path: Vec<(NodeId, usize)>,
    leaf: NodeId,
    /// The leaf is the first of all, or the last.
    is_first: bool,
    is_last: bool,
}

impl Index {
    /// Looks for `key`; if it is not there, gives its place in the leaf that the finger is at.
    pub(in crate::mvcc) fn find_near(
        &self,
        finger: &mut Finger,
        keys: &Keys,
        key: &[u8],
    ) -> Result<KeyId, usize> {
        if finger.is_set {
            let leaf = self.leaf(finger.leaf);
            match leaf.search(keys, key) {
                Ok(place) => return Ok(leaf.ids()[place]),
                Err(place) => {
                    // Between two keys of a leaf there is nothing of another one.
                    let is_above = place > 0 || finger.is_first;
                    if is_above && (place < leaf.len() || finger.is_last) {
                        return Err(place);
                    }
                }
            }
        }
        self.descend(finger, key);
        let leaf = self.leaf(finger.leaf);
        leaf.search(keys, key).map(|place| leaf.ids()[place])
    }

    fn descend(&self, finger: &mut Finger, key: &[u8]) {
        finger.path.clear();
        (finger.is_set, finger.is_first, finger.is_last) = (true, true, true);
        let mut node = self.root;
        for _ in 0..self.height {
            let branch = self.branch(node);
            let place = branch.search(key);
            finger.is_first &= place == 0;
            finger.is_last &= place + 1 == branch.len();
            finger.path.push((node, place));
            node = branch.child(place);
        }
        finger.leaf = node;
    }

    /// Adds the key with number `id` at the place that `find_near` has just given.
    pub(in crate::mvcc) fn insert_near(
        &mut self,
        finger: &mut Finger,
        keys: &Keys,
        place: usize,
        (id, live): (KeyId, bool),
    ) {
        assert!(finger.is_set, "nobody has looked for the key");
        let leaf = &mut self.leaves[finger.leaf as usize];
        if leaf.len() == LEAF_KEYS {
            finger.is_set = false;
            return self.insert(keys, id, live);
        }
        leaf.insert(keys, place, id, live);
        for &(node, place) in &finger.path {
            *self.branches[node as usize].live_mut(place) += u64::from(live);
        }
    }
}
