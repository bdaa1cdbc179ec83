//! The state hashes of late, so that members can compare their states at an index that all of them
//! have passed.

use crate::raft::message::Index;
use std::collections::VecDeque;

/// Hashes of every entry that are kept.
const RECENT: usize = 1_024;
/// Beyond those, the hash of every so manyth entry.
const STRIDE: Index = 256;
/// How many of these: together they reach back 65,536 entries.
const SPARSE: usize = 256;
/// While so many entries were applied since the last comparison, one at a multiple of the stride
/// is chosen: a busy member forgets the others before it is asked.
const BUSY: Index = RECENT as Index / 2;

/// The state hash after each of the entries applied last.
#[derive(Debug, Default)]
pub struct HashHistory {
    recent: VecDeque<(Index, u64)>,
    sparse: VecDeque<(Index, u64)>,
}

impl HashHistory {
    /// Notes the hash after an entry; indexes rise.
    pub fn note(&mut self, index: Index, hash: u64) {
        self.recent.push_back((index, hash));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        if index.is_multiple_of(STRIDE) {
            self.sparse.push_back((index, hash));
            if self.sparse.len() > SPARSE {
                self.sparse.pop_front();
            }
        }
    }

    /// Forgets everything: the state is another one.
    pub fn clear(&mut self) {
        self.recent.clear();
        self.sparse.clear();
    }

    /// The hash after the entry at `index`, if it is remembered.
    pub fn at(&self, index: Index) -> Option<u64> {
        [&self.recent, &self.sparse].into_iter().find_map(|known| {
            let place = known.binary_search_by_key(&index, |(index, _)| *index).ok()?;
            Some(known[place].1)
        })
    }

    /// Where to compare next, after a comparison at `compared`: every member that is not far
    /// behind will remember its hash there for some seconds.
    pub fn agreed_index(&self, compared: Index) -> Option<Index> {
        let (newest, _) = *self.recent.back()?;
        let multiple = newest - newest % STRIDE;
        let is_busy = newest.saturating_sub(compared) > BUSY && self.at(multiple).is_some();
        Some(if is_busy { multiple } else { newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recent_hash_is_there_and_multiples_for_longer() {
        let mut history = HashHistory::default();
        assert_eq!(history.agreed_index(0), None);
        history.note(70, 7);
        assert_eq!((history.agreed_index(0), history.at(70)), (Some(70), Some(7)));
        (71..=10_000).for_each(|index| history.note(index, index * 3));
        assert_eq!(history.at(10_000), Some(30_000));
        assert_eq!(history.at(10_000 - 1_023), Some(8_977 * 3));
        assert_eq!(history.at(10_000 - 1_024), None);
        assert_eq!((history.at(256), history.at(70)), (Some(768), None));
        assert_eq!(history.agreed_index(9_900), Some(10_000));
        assert_eq!(history.agreed_index(0), Some(9_984));
        (10_001..=100_000).for_each(|index| history.note(index, 0));
        assert_eq!(history.at(256), None);
        history.clear();
        assert_eq!((history.at(100_000), history.agreed_index(0)), (None, None));
    }
}
