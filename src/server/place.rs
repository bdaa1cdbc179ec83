//! A place in a queue of keys, and the places that are to be given up.

use bytes::Bytes;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// A place in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub key: Bytes,
    /// The creation revision of the key.
    pub revision: i64,
}

/// The places of callers who went away while they waited, to be given up.
#[derive(Default)]
pub struct Abandoned {
    places: Mutex<Vec<Place>>,
    /// Wakes the task that gives them up.
    pub wake: Notify,
}

impl Abandoned {
    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().expect("no holder of abandoned places panics")
    }

    pub fn push(&self, place: Place) {
        self.lock().push(place);
        self.wake.notify_one();
    }

    /// How many wait to be given up.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    pub fn take(&self) -> Vec<Place> {
        std::mem::take(&mut *self.lock())
    }
}
