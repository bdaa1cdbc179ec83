//! Where the past can be read, for watchers that begin there or have fallen behind.

use crate::error::Result;
use crate::mvcc::change::Change;
use crate::mvcc::store::Store;
use std::sync::Arc;

/// A stretch of history ends once its values have so many bytes.
const STRETCH_BYTES_MAX: usize = 4 << 20;

/// All changes of one revision, in the order in which they were made.
#[derive(Clone, Debug)]
pub struct Revision {
    pub main: i64,
    pub changes: Arc<[Change]>,
}

/// The past of a store.
pub trait History {
    /// The least revision that can still be watched; below it there is no history.
    fn compact_revision(&self) -> i64;

    /// Whole revisions from `from` on and no later than `to`, in order: about `max_changes`
    /// changes, and at least one revision if there is any.
    ///
    /// # Errors
    /// `Unreadable` when a value of the first revision can't be read at this moment.
    fn history(&self, from: i64, to: i64, max_changes: usize) -> Result<Vec<Revision>>;
}

impl History for Store {
    fn compact_revision(&self) -> i64 {
        Store::compact_revision(self)
    }

    fn history(&self, from: i64, to: i64, max_changes: usize) -> Result<Vec<Revision>> {
        let chunk = Store::history(self, from, max_changes, STRETCH_BYTES_MAX)?;
        let mut stretch = Vec::with_capacity(chunk.revisions.len());
        for (main, mut changes) in chunk.revisions {
            if main > to {
                break;
            }
            let filled = changes.iter_mut().try_for_each(|change| self.fill_prev(change));
            match filled {
                Ok(()) => stretch.push(Revision { main, changes: Arc::from(changes) }),
                Err(error) if stretch.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(stretch)
    }
}
