//! The index against a sorted map.

use super::*;
use crate::mvcc::key_index::Mark;
use proptest::prelude::*;
use std::collections::BTreeMap;

impl Index {
    fn check(&self, keys: &Keys) {
        self.check_below(keys, self.root, self.height, None, None);
        let used = self.leaves.len() - self.free_leaves.len();
        assert!(self.height > 0 || used == 1, "{used} leaves without a branch");
    }

    fn check_below(
        &self,
        keys: &Keys,
        node: NodeId,
        height: usize,
        lower: Option<&Bytes>,
        upper: Option<&Bytes>,
    ) {
        assert!(node == self.root || self.size(node, height) > 0);
        if height == 0 {
            let leaf = self.leaf(node);
            leaf.check(keys);
            for id in leaf.ids() {
                assert!(lower.is_none_or(|lower| keys.key(*id) >= lower));
                assert!(upper.is_none_or(|upper| keys.key(*id) < upper));
            }
            return;
        }
        let branch = self.branch(node);
        for place in 0..branch.len() {
            let child = branch.child(place);
            let live = branch.live_among(place + 1) - branch.live_among(place);
            assert_eq!(live, self.live_below(child, height - 1));
            let lower = place.checked_sub(1).map(|left| branch.separator(left)).or(lower);
            let upper = Some(place).filter(|p| p + 1 < branch.len());
            let upper = upper.map(|place| branch.separator(place)).or(None);
            self.check_below(keys, child, height - 1, lower, upper);
        }
    }
}

/// Long common beginnings, zero bytes, and one key that begins another.
fn key(number: u32) -> Bytes {
    let tail = number / 3;
    match number % 3 {
        0 => Bytes::from(format!("/registry/pods/{tail:05}")),
        1 => Bytes::from(format!("/registry/pods/{tail:05}\0")),
        _ => Bytes::from(tail.to_be_bytes().to_vec()),
    }
}

fn bounds(pair: &(Bound<Bytes>, Bound<Bytes>)) -> Bounds<'_> {
    (pair.0.as_ref().map(|key| key.as_ref()), pair.1.as_ref().map(|key| key.as_ref()))
}

#[derive(Clone, Debug)]
enum Step {
    Toggle(u32),
    Ascend(u32),
    Remove(u32, u32),
    Ask(u32, u32, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0_u32..900).prop_map(Step::Toggle),
        2 => (0_u32..900).prop_map(Step::Ascend),
        2 => (0_u32..900, 1_u32..150).prop_map(|(from, count)| Step::Remove(from, count)),
        4 => (0_u32..900, 0_u32..900, 0_u8..18).prop_map(|(a, b, kind)| Step::Ask(a, b, kind)),
    ]
}

struct Run {
    keys: Keys,
    index: Index,
    twin: BTreeMap<Bytes, (KeyId, bool)>,
}

impl Run {
    fn toggle(&mut self, key: Bytes) {
        match self.twin.get_mut(&key) {
            Some((id, live)) => {
                *live = !*live;
                self.index.set_live(&self.keys, *id, *live);
            }
            None => {
                let mark = Mark { main: 2, sub: 0, tombstone: false };
                let id = self.keys.add(key.clone(), mark);
                let live = id.is_multiple_of(2);
                self.index.insert(&self.keys, id, live);
                self.twin.insert(key, (id, live));
            }
        }
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some((id, live)) = self.twin.remove(key) {
            if live {
                self.index.set_live(&self.keys, id, false);
            }
            self.index.remove(&self.keys, id);
            self.keys.remove(id);
        }
    }

    fn ask(&self, a: u32, b: u32, kind: u8) {
        let bound = |key: Bytes, kind: u8| match kind {
            0 => Bound::Included(key),
            1 => Bound::Excluded(key),
            _ => Bound::Unbounded,
        };
        let (a, b) = (key(a).min(key(b)), key(b).max(key(a)));
        if a == b {
            return;
        }
        let pair = (bound(a, kind % 3), bound(b, kind / 3 % 3));
        let within: Vec<_> = self.twin.range(pair.clone()).map(|(_, entry)| *entry).collect();
        let live = within.iter().filter(|entry| entry.1).count() as u64;
        assert_eq!(self.index.live_within(&self.keys, bounds(&pair)), live);
        let mut ids: Vec<_> = within.iter().map(|entry| entry.0).collect();
        let reverse = kind >= 9;
        if reverse {
            ids.reverse();
        }
        let mut visited = Vec::new();
        self.index.visit(&self.keys, bounds(&pair), reverse, &mut |id| {
            visited.push(id);
            visited.len() < 300
        });
        ids.truncate(300);
        assert_eq!(visited, ids);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..ProptestConfig::default()
    })]
    #[test]
    fn the_index_is_a_sorted_map(steps in prop::collection::vec(step(), 1..300)) {
        let (keys, index) = (Keys::default(), Index::default());
        let mut run = Run { keys, index, twin: BTreeMap::new() };
        for step in &steps {
            match step {
                Step::Toggle(number) => run.toggle(key(*number)),
                Step::Ascend(from) => (*from..*from + 200).for_each(|n| run.toggle(key(n))),
                Step::Remove(from, count) => {
                    (*from..*from + *count).for_each(|n| run.remove(&key(n)));
                }
                Step::Ask(a, b, kind) => run.ask(*a, *b, *kind),
            }
            run.index.check(&run.keys);
        }
        for (key, (id, _)) in &run.twin {
            prop_assert_eq!(run.index.get(&run.keys, key), Some(*id));
        }
        prop_assert_eq!(run.index.get(&run.keys, b"absent"), None);
    }
}

#[test]
fn keys_that_ascend_are_told_apart_by_their_heads() {
    let (mut keys, mut index) = (Keys::default(), Index::default());
    for number in 0..300 {
        let mark = Mark { main: 2, sub: 0, tombstone: false };
        let id = keys.add(Bytes::from(format!("/registry/pods/{number:05}")), mark);
        index.insert(&keys, id, true);
    }
    index.check(&keys);
    let shared = index.leaves.iter().map(|leaf| leaf.prefix()).min();
    assert!(shared >= Some("/registry/pods/00".len()), "{shared:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..ProptestConfig::default()
    })]
    #[test]
    fn a_finger_finds_and_adds_what_a_descent_would(
        stretches in prop::collection::vec((0_u32..900, 1_u32..150, any::<bool>()), 1..30),
    ) {
        let (mut keys, mut index) = (Keys::default(), Index::default());
        let mut finger = finger::Finger::default();
        for (from, count, live) in stretches {
            for number in from..from + count {
                let key = key(number);
                let found = index.get(&keys, &key);
                match index.find_near(&mut finger, &keys, &key) {
                    Ok(id) => {
                        prop_assert_eq!(found, Some(id));
                        if number.is_multiple_of(7) {
                            let was = index.live();
                            let lives = index.live_within(&keys, (
                                Bound::Included(&key[..]), Bound::Included(&key[..]),
                            )) == 1;
                            index.set_live(&keys, id, !lives);
                            prop_assert_eq!(index.live() > was, !lives);
                        }
                    }
                    Err(place) => {
                        prop_assert_eq!(found, None);
                        let mark = Mark { main: 2, sub: 0, tombstone: !live };
                        let id = keys.add(key.clone(), mark);
                        index.insert_near(&mut finger, &keys, place, (id, live));
                        prop_assert_eq!(index.get(&keys, &key), Some(id));
                    }
                }
            }
            index.check(&keys);
        }
    }
}
