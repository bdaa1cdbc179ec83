//! Which checkpoints are on their way to other members: their files, and the log behind them, stay.

use crate::raft::message::Index;
use crate::storage::manifest::Manifest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

/// What is being sent at this moment.
#[derive(Default)]
pub struct Sent {
    inner: Mutex<BTreeMap<u64, (Index, BTreeSet<u64>)>>,
}

impl Sent {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Index, BTreeSet<u64>)>> {
        self.inner.lock().expect("no holder of this lock panics and goes on")
    }

    /// The runs that must stay.
    pub fn runs(&self) -> BTreeSet<u64> {
        self.lock().values().flat_map(|(_, runs)| runs.iter().copied()).collect()
    }

    /// The log must stay from behind this index on, if anything is being sent.
    pub fn oldest_index(&self) -> Option<Index> {
        self.lock().values().map(|(index, _)| *index).min()
    }

    /// Notes that a checkpoint is being sent; `leave` with this number ends it.
    pub fn enter(&self, manifest: &Manifest) -> u64 {
        let runs = manifest.runs.iter().map(|run| run.id).collect();
        let mut inner = self.lock();
        let number = inner.last_key_value().map_or(0, |(last, _)| last + 1);
        inner.insert(number, (manifest.applied_index, runs));
        number
    }

    /// How many are being sent.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    pub fn leave(&self, number: u64) {
        self.lock().remove(&number);
    }
}
