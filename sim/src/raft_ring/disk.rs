//! The disk of one member of the ring: what is durable, and the writes that are not yet.

use std::collections::VecDeque;

use detcd::raft::core::Recovered;
use detcd::raft::message::{ConfState, Entry, HardState, Index, Message, Term};
use detcd::raft::ready::Write;

use crate::raft_ring::dice::Dice;

/// A durable state of the state machine.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    pub index: Index,
    pub term: Term,
    pub conf: ConfState,
}

/// The durable image. `entries` follow `base`, contiguous.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub hard: HardState,
    pub base: Index,
    pub base_term: Term,
    pub entries: Vec<Entry>,
    pub manifest: Manifest,
}

impl Image {
    fn restart_log(&mut self, index: Index, term: Term) {
        self.base = index;
        self.base_term = term;
        self.entries.clear();
    }

    /// Appends or overwrites; a gap is a bug of whoever wrote it.
    fn append(&mut self, entry: Entry) {
        let last = self.base + self.entries.len() as u64;
        assert!(entry.index > self.base, "entry {} at or below {}", entry.index, self.base);
        assert!(entry.index <= last + 1, "entry {} leaves a gap after {last}", entry.index);
        self.entries.truncate((entry.index - self.base - 1) as usize);
        self.entries.push(entry);
    }

    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.base {
            return Some(self.base_term);
        }
        let offset = index.checked_sub(self.base + 1)?;
        self.entries.get(offset as usize).map(|entry| entry.term)
    }

    /// Whether the entry would survive a crash, in the log or inside the manifest.
    pub fn holds(&self, index: Index, term: Term) -> bool {
        index <= self.manifest.index || self.term(index) == Some(term)
    }

    /// What a start finds. If the log doesn't agree with the manifest it is left to the core to
    /// sort out, which needs the manifest's own position for that.
    pub fn recover(&self) -> Recovered {
        let Manifest { index, term, ref conf } = self.manifest;
        let agrees = self.base <= index && self.term(index) == Some(term);
        let (snapshot_index, snapshot_term) =
            if agrees { (self.base, self.base_term) } else { (index, term) };
        Recovered {
            hard_state: self.hard,
            conf_state: conf.clone(),
            snapshot_index,
            snapshot_term,
            entries: self.entries.clone(),
            applied: index,
        }
    }
}

/// The disk: an image, and the writes handed over but not synced.
#[derive(Default)]
pub struct Disk {
    pub image: Image,
    waiting: VecDeque<Write>,
    /// Durable, but the core doesn't know yet.
    synced: VecDeque<(u64, Vec<Message>)>,
}

impl Disk {
    pub fn put(&mut self, write: Write) {
        self.waiting.push_back(write);
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.synced.is_empty()
    }

    /// Whether something is durable of which the core does not know.
    pub fn has_news(&self) -> bool {
        !self.synced.is_empty()
    }

    /// Syncs up to `count` writes, in order.
    pub fn sync(&mut self, count: usize) {
        for _ in 0..count {
            let Some(mut write) = self.waiting.pop_front() else { return };
            let messages = std::mem::take(&mut write.messages);
            self.synced.push_back((write.seq, messages));
            Self::store(&mut self.image, write, usize::MAX, false);
        }
    }

    /// The next news for the core: a write is durable, and these messages may leave.
    pub fn next_synced(&mut self) -> Option<(u64, Vec<Message>)> {
        self.synced.pop_front()
    }

    /// The power fails: any number of waiting writes made it, the last of them in part.
    pub fn power_fail(&mut self, dice: &mut Dice) {
        let survivors = dice.index(self.waiting.len() + 1);
        for position in 0..survivors {
            let write = self.waiting[position].clone();
            let torn = position + 1 == survivors && dice.chance(500);
            let parts = if torn { dice.index(write.entries.len() + 2) } else { usize::MAX };
            Self::store(&mut self.image, write, parts, torn && dice.chance(500));
        }
        self.waiting.clear();
        self.synced.clear();
    }

    /// Stores the first `parts` parts of a write: its hard state counts as one, each entry as
    /// one. Which of the two comes first is the driver's choice, but for the commit index, which
    /// may not outlive an entry that it names.
    fn store(image: &mut Image, write: Write, mut parts: usize, entries_first: bool) {
        if let Some((index, term)) = write.restart {
            if parts == 0 {
                return;
            }
            image.restart_log(index, term);
        }
        let hard = write.hard_state.unwrap_or(image.hard);
        let hard_first = !entries_first && parts > 0;
        if hard_first {
            parts -= 1;
            image.hard = HardState { commit: image.hard.commit, ..hard };
        }
        for entry in write.entries {
            if parts == 0 {
                return;
            }
            parts -= 1;
            image.append(entry);
        }
        if hard_first || (entries_first && parts > 0) {
            image.hard = hard;
        }
    }

    /// A checkpoint or an installed snapshot becomes durable at once and whole.
    pub fn put_manifest(&mut self, manifest: Manifest) {
        assert!(manifest.index >= self.image.manifest.index, "the manifest goes back");
        self.image.manifest = manifest;
    }

    /// Releases the durable log up to `index`, which the manifest covers. The log does so behind
    /// the writes that it was given before: while one of them begins no later, nothing is released.
    pub fn release(&mut self, index: Index) {
        let begins = |write: &Write| match write.restart {
            Some((base, _)) => Some(base),
            None => write.entries.first().map(|entry| entry.index),
        };
        if self.waiting.iter().filter_map(begins).any(|first| first <= index) {
            return;
        }
        let image = &mut self.image;
        let Some(term) = image.term(index) else { return };
        if index > image.base && index <= image.manifest.index {
            image.entries.drain(..(index - image.base) as usize);
            image.base = index;
            image.base_term = term;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use detcd::raft::message::EntryKind;

    #[test]
    fn the_log_is_not_released_past_a_write_that_waits() {
        let entry =
            |index| Entry { term: 1, index, kind: EntryKind::Normal, data: bytes::Bytes::new() };
        let mut disk = Disk::default();
        disk.put(Write { entries: (1..=7).map(entry).collect(), ..Write::default() });
        disk.sync(1);
        disk.put(Write { entries: vec![entry(5)], ..Write::default() });
        disk.put_manifest(Manifest { index: 9, term: 2, ..Manifest::default() });
        disk.release(7);
        assert_eq!(disk.image.base, 0);
        disk.release(4);
        assert_eq!(disk.image.base, 4);
        disk.sync(1);
        assert_eq!((disk.image.base, disk.image.entries.len()), (4, 1));
    }
}
