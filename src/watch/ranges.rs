//! Which watchers a key concerns: an exact map for single keys and an interval tree for ranges.

use bytes::Bytes;
use std::collections::BTreeMap;

/// The slot of a watcher in its hub.
pub type Slot = u32;

/// Where a range of keys ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Right behind the one key that it begins with.
    Single,
    /// Before this key.
    Before(Bytes),
    /// Nowhere.
    Open,
}

/// The keys that a watcher wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: End,
}

impl KeyRange {
    /// Reads the two fields of a request as etcd's watch does: an empty key is the first of all,
    /// an empty end means one key, an end of one zero byte means every key from `key` on. None
    /// if no key can lie in the range.
    ///
    /// One key and all keys from there on differ in this function only: whoever authorises a
    /// watch must judge the same two fields.
    pub fn of_request(key: &Bytes, range_end: &Bytes) -> Option<KeyRange> {
        let start = if key.is_empty() { Bytes::from_static(&[0]) } else { key.clone() };
        let end = match range_end.as_ref() {
            [] => End::Single,
            [0] => End::Open,
            _ => End::Before(range_end.clone()),
        };
        if matches!(&end, End::Before(end) if *end <= start) {
            return None;
        }
        Some(KeyRange { start, end })
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => self.start == key,
            End::Before(end) => self.start <= key && key < end.as_ref(),
            End::Open => self.start <= key,
        }
    }
}

/// All watchers by the keys they want. Watchers of one range share one entry, so that the cost
/// of a change is the logarithm of the number of different ranges, plus the watchers it concerns.
#[derive(Default)]
pub struct RangeIndex {
    exact: BTreeMap<Bytes, Vec<Slot>>,
    tree: IntervalTree,
}

impl RangeIndex {
    pub fn insert(&mut self, range: &KeyRange, slot: Slot) {
        match &range.end {
            End::Single => self.exact.entry(range.start.clone()).or_default().push(slot),
            End::Before(_) | End::Open => self.tree.insert(range, slot),
        }
    }

    /// Removes a watcher, which must be there under just this range.
    pub fn remove(&mut self, range: &KeyRange, slot: Slot) {
        match &range.end {
            End::Single => {
                let slots = self.exact.get_mut(&range.start).expect("the key is watched");
                remove_slot(slots, slot);
                if slots.is_empty() {
                    self.exact.remove(&range.start);
                }
            }
            End::Before(_) | End::Open => self.tree.remove(range, slot),
        }
    }

    /// Calls `found` with the groups of watchers that want this key.
    pub fn for_key(&self, key: &[u8], found: &mut dyn FnMut(&[Slot])) {
        if let Some(slots) = self.exact.get(key) {
            found(slots);
        }
        self.tree.stab(self.tree.root, key, found);
    }
}

fn remove_slot(slots: &mut Vec<Slot>, slot: Slot) {
    let place = slots.iter().position(|&s| s == slot).expect("the watcher is in its group");
    slots.swap_remove(place);
}

type NodeId = u32;
const NIL: NodeId = NodeId::MAX;

struct Node {
    range: KeyRange,
    slots: Vec<Slot>,
    /// The farthest end below this node; it tells a search where it need not look.
    max_end: End,
    priority: u64,
    left: NodeId,
    right: NodeId,
}

/// A treap of half-open ranges.
///
/// Invariants:
/// - in order of (start, end) from left to right, no range twice;
/// - a node's priority is no less than its children's; priorities come from a counter through a
///   bit mixer, so that the shape depends on nothing but the history;
/// - `max_end` is the greatest end in the subtree, an open end being the greatest of all;
/// - no node without watchers.
struct IntervalTree {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    root: NodeId,
    counter: u64,
}

impl Default for IntervalTree {
    fn default() -> IntervalTree {
        IntervalTree { nodes: Vec::new(), free: Vec::new(), root: NIL, counter: 0 }
    }
}

impl IntervalTree {
    fn insert(&mut self, range: &KeyRange, slot: Slot) {
        self.root = self.insert_at(self.root, range, slot);
    }

    fn insert_at(&mut self, at: NodeId, range: &KeyRange, slot: Slot) -> NodeId {
        if at == NIL {
            return self.new_node(range, slot);
        }
        match range.cmp(&self.node(at).range) {
            std::cmp::Ordering::Equal => {
                self.node_mut(at).slots.push(slot);
                return at;
            }
            std::cmp::Ordering::Less => {
                let child = self.insert_at(self.node(at).left, range, slot);
                self.node_mut(at).left = child;
                if self.node(child).priority > self.node(at).priority {
                    return self.rotate_right(at);
                }
            }
            std::cmp::Ordering::Greater => {
                let child = self.insert_at(self.node(at).right, range, slot);
                self.node_mut(at).right = child;
                if self.node(child).priority > self.node(at).priority {
                    return self.rotate_left(at);
                }
            }
        }
        self.update(at);
        at
    }

    fn remove(&mut self, range: &KeyRange, slot: Slot) {
        self.root = self.remove_at(self.root, range, slot);
    }

    fn remove_at(&mut self, at: NodeId, range: &KeyRange, slot: Slot) -> NodeId {
        assert!(at != NIL, "the range {range:?} is not watched");
        match range.cmp(&self.node(at).range) {
            std::cmp::Ordering::Equal => {
                remove_slot(&mut self.node_mut(at).slots, slot);
                if !self.node(at).slots.is_empty() {
                    return at;
                }
                let (left, right) = (self.node(at).left, self.node(at).right);
                self.free.push(at);
                return self.join(left, right);
            }
            std::cmp::Ordering::Less => {
                let child = self.remove_at(self.node(at).left, range, slot);
                self.node_mut(at).left = child;
            }
            std::cmp::Ordering::Greater => {
                let child = self.remove_at(self.node(at).right, range, slot);
                self.node_mut(at).right = child;
            }
        }
        self.update(at);
        at
    }

    /// One tree of two, all of the left one before all of the right one.
    fn join(&mut self, left: NodeId, right: NodeId) -> NodeId {
        if left == NIL {
            return right;
        }
        if right == NIL {
            return left;
        }
        let top = if self.node(left).priority > self.node(right).priority {
            let joined = self.join(self.node(left).right, right);
            self.node_mut(left).right = joined;
            left
        } else {
            let joined = self.join(left, self.node(right).left);
            self.node_mut(right).left = joined;
            right
        };
        self.update(top);
        top
    }

    fn rotate_right(&mut self, at: NodeId) -> NodeId {
        let top = self.node(at).left;
        self.node_mut(at).left = self.node(top).right;
        self.node_mut(top).right = at;
        self.update(at);
        self.update(top);
        top
    }

    fn rotate_left(&mut self, at: NodeId) -> NodeId {
        let top = self.node(at).right;
        self.node_mut(at).right = self.node(top).left;
        self.node_mut(top).left = at;
        self.update(at);
        self.update(top);
        top
    }

    fn update(&mut self, at: NodeId) {
        let node = self.node(at);
        let below = [node.left, node.right].into_iter().filter(|&child| child != NIL);
        let max = below.map(|child| &self.node(child).max_end).chain([&node.range.end]).max();
        let max = max.expect("there is at least the node's own end").clone();
        self.node_mut(at).max_end = max;
    }

    fn stab(&self, at: NodeId, key: &[u8], found: &mut dyn FnMut(&[Slot])) {
        if at == NIL {
            return;
        }
        let node = self.node(at);
        if matches!(&node.max_end, End::Before(end) if end.as_ref() <= key) {
            return;
        }
        self.stab(node.left, key, found);
        if node.range.start.as_ref() > key {
            return;
        }
        if node.range.contains(key) {
            found(&node.slots);
        }
        self.stab(node.right, key, found);
    }

    fn new_node(&mut self, range: &KeyRange, slot: Slot) -> NodeId {
        self.counter += 1;
        let node = Node {
            range: range.clone(),
            slots: vec![slot],
            max_end: range.end.clone(),
            priority: mix(self.counter),
            left: NIL,
            right: NIL,
        };
        if let Some(at) = self.free.pop() {
            *self.node_mut(at) = node;
            return at;
        }
        self.nodes.push(node);
        NodeId::try_from(self.nodes.len() - 1).expect("fewer than 2^32 ranges")
    }

    fn node(&self, at: NodeId) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: NodeId) -> &mut Node {
        &mut self.nodes[at as usize]
    }
}

/// The finalizer of splitmix64.
pub(super) fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(key: &'static str, end: &'static str) -> Option<KeyRange> {
        KeyRange::of_request(&Bytes::from(key), &Bytes::from(end))
    }

    #[test]
    fn the_two_fields_of_a_request_mean_what_etcd_says() {
        assert_eq!(range("b", "a"), None);
        assert_eq!(range("b", "b"), None);
        assert!(range("", "a").is_some(), "an empty key is the first of all");
        assert!(range("b", "").expect("one key").contains(b"b"));
        assert!(!range("b", "").expect("one key").contains(b"b\0"));
        assert!(range("b", "\0").expect("open").contains(b"zz"));
        assert!(!range("b", "\0").expect("open").contains(b"a"));
        assert!(range("", "\0").expect("all").contains(b"\0"));
        assert!(!range("b", "c").expect("half open").contains(b"c"));
    }

    impl IntervalTree {
        fn check(&self, at: NodeId) -> (usize, End) {
            let node = self.node(at);
            assert!(!node.slots.is_empty());
            let (mut height, mut max) = (1, node.range.end.clone());
            for child in [node.left, node.right] {
                if child != NIL {
                    assert!(self.node(child).priority <= node.priority);
                    let (below, end) = self.check(child);
                    (height, max) = (height.max(below + 1), max.max(end));
                }
            }
            assert_eq!(max, node.max_end);
            (height, max)
        }
    }

    #[test]
    fn ten_thousand_prefixes_make_a_shallow_tree() {
        let mut tree = IntervalTree::default();
        for n in 0..10_000u32 {
            let key = Bytes::from(format!("/registry/{n:05}/"));
            let end = Bytes::from(format!("/registry/{n:05}0"));
            tree.insert(&KeyRange::of_request(&key, &end).expect("a prefix"), n);
        }
        let (height, _) = tree.check(tree.root);
        assert!(height < 50, "height {height}");
        let mut hits = Vec::new();
        tree.stab(tree.root, b"/registry/04711/x", &mut |slots| hits.extend_from_slice(slots));
        assert_eq!(hits, vec![4711]);
    }

    fn small_key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0..3u8, 0..3).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn finds_what_a_scan_finds(
            steps in prop::collection::vec((small_key(), small_key(), 0..4usize), 1..60)
        ) {
            let mut index = RangeIndex::default();
            let mut twin: Vec<(KeyRange, Slot)> = Vec::new();
            for (n, (key, end, kind)) in steps.into_iter().enumerate() {
                if kind == 0 && !twin.is_empty() {
                    let (range, slot) = twin.swap_remove(n * 7 % twin.len());
                    index.remove(&range, slot);
                } else if let Some(range) = KeyRange::of_request(&key, &end) {
                    index.insert(&range, n as Slot);
                    twin.push((range, n as Slot));
                }
                if index.tree.root != NIL {
                    index.tree.check(index.tree.root);
                }
                let mut hits = Vec::new();
                index.for_key(&key, &mut |slots| hits.extend_from_slice(slots));
                hits.sort_unstable();
                let mut expected: Vec<Slot> = twin.iter()
                    .filter(|(range, _)| range.contains(&key)).map(|&(_, slot)| slot).collect();
                expected.sort_unstable();
                prop_assert_eq!(hits, expected);
            }
        }
    }
}
