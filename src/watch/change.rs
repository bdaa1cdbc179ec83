//! What a revision did to one key, and where the past can be read.

use crate::pb::mvccpb::KeyValue;
use std::sync::Arc;

/// One change of one key.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The version written; of a delete only the key and the revision.
    pub kv: KeyValue,
    /// The version before, if there was one and compaction has left it in place.
    pub prev: Option<KeyValue>,
    /// The value of `prev` is not in memory and left empty.
    pub prev_is_cold: bool,
    pub deleted: bool,
    /// The place of this change among those of its revision.
    pub sub: i64,
}

/// All changes of one revision, in the order in which they were made.
#[derive(Clone, Debug)]
pub struct Revision {
    pub main: i64,
    pub changes: Arc<[Change]>,
}

/// The past of a store, for watchers that begin there or have fallen behind.
pub trait History {
    /// The least revision that can still be watched.
    fn compact_revision(&self) -> i64;

    /// Whole revisions from `from` on and no later than `to`, in order: about `max_changes`
    /// changes, and at least one revision if there is any.
    fn history(&self, from: i64, to: i64, max_changes: usize) -> Vec<Revision>;
}
