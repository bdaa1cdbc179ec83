//! What is known to be damaged of this member's checkpoints, and who waits for the repair.

use crate::env::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// How far the repair of a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Values may lie in it that nobody can read.
    Found,
    /// Memory holds every value that it can't give; a new run may take its place.
    Healed,
}

/// The damage that was found and is not repaired yet.
#[derive(Default)]
pub struct Damage {
    inner: Mutex<Inner>,
    /// Wakes who fetches values.
    found: Notify,
    /// How often values were brought back.
    rounds: Signal<u64>,
}

#[derive(Default)]
struct Inner {
    runs: BTreeMap<u64, Stage>,
    /// Of those, the ones that nobody was told of yet.
    unreported: BTreeSet<u64>,
    manifest: bool,
    /// The entry that can't be applied before a value is back.
    apply_waits: Option<u64>,
}

impl Damage {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics and goes on")
    }

    /// Notes that a part of a run does not verify.
    pub fn report(&self, run: u64) {
        let mut inner = self.lock();
        if inner.runs.insert(run, Stage::Found).is_none() {
            inner.unreported.insert(run);
        }
        drop(inner);
        self.found.notify_one();
    }

    /// Notes which entry can't be applied for want of a value; none once apply goes on.
    pub fn apply_waits(&self, index: Option<u64>) {
        self.lock().apply_waits = index;
    }

    /// The entry that can't be applied for want of a value.
    pub fn waiting_entry(&self) -> Option<u64> {
        self.lock().apply_waits
    }

    /// Notes that one of the manifests does not verify.
    pub fn report_manifest(&self) {
        self.lock().manifest = true;
    }

    pub fn is_damaged(&self, run: u64) -> bool {
        self.lock().runs.contains_key(&run)
    }

    /// How many runs are damaged.
    pub fn runs(&self) -> usize {
        self.lock().runs.len()
    }

    /// The damaged runs that have come to light since the last call.
    pub fn take_unreported(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.lock().unreported)
    }

    /// The runs whose values have to be looked after; waits until there are some.
    pub async fn wait(&self) -> Vec<u64> {
        loop {
            let found = self.in_stage(Stage::Found);
            if !found.is_empty() {
                return found;
            }
            self.found.notified().await;
        }
    }

    fn in_stage(&self, stage: Stage) -> Vec<u64> {
        let inner = self.lock();
        inner.runs.iter().filter(|(_, at)| **at == stage).map(|(run, _)| *run).collect()
    }

    /// All values that this run can't give are in memory.
    pub fn healed(&self, run: u64) {
        if let Some(stage) = self.lock().runs.get_mut(&run) {
            *stage = Stage::Healed;
        }
    }

    /// Values were brought back: whoever waits for one looks again.
    pub fn end_round(&self) {
        self.rounds.update(|rounds| *rounds += 1);
    }

    /// The number of times that values were brought back. Ask before reading, to wait for the next.
    pub fn round(&self) -> u64 {
        self.rounds.get()
    }

    /// Completes once values were brought back after `round`.
    pub async fn repaired_since(&self, round: u64) {
        self.rounds.wait_for(|now| *now != round).await;
    }

    /// A run that a new one may take the place of.
    pub fn next_healed(&self) -> Option<u64> {
        self.in_stage(Stage::Healed).first().copied()
    }

    /// Whether a checkpoint would repair something.
    pub fn wants_checkpoint(&self) -> bool {
        let manifest = self.lock().manifest;
        manifest || self.next_healed().is_some()
    }

    /// A manifest was written.
    pub fn manifest_written(&self) {
        self.lock().manifest = false;
    }

    /// A run is no longer part of the state.
    pub fn forget(&self, run: u64) {
        self.lock().runs.remove(&run);
    }

    /// Forgets the runs that are not among these.
    pub fn retain(&self, open: impl Fn(u64) -> bool) {
        self.lock().runs.retain(|run, _| open(*run));
    }
}
