//! What a write changed, and what it answers: the words between the store and those above it.

use crate::pb::etcdserverpb::{DeleteRangeResponse, PutResponse, TxnResponse};
use crate::pb::mvccpb::KeyValue;

/// One put or delete, as watchers and leases need it.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// The version that was written; a delete has only `key` and `mod_revision`.
    pub kv: KeyValue,
    /// The version that this change ended, if there was one.
    pub prev: Option<KeyValue>,
    /// The value of `prev` is not in memory, and left empty here: who needs it asks
    /// `Store::fill_prev`. Writes never read the disk for a value that nobody may want.
    pub prev_is_cold: bool,
    pub deleted: bool,
    /// The place of this change among those of its revision.
    pub sub: i64,
}

impl Change {
    /// The lease that the key was attached to before this change; 0 for none.
    pub fn prev_lease(&self) -> i64 {
        self.prev.as_ref().map_or(0, |prev| prev.lease)
    }
}

/// A put: the response without its header, and the one change.
#[derive(Clone, PartialEq, Debug)]
pub struct PutOutcome {
    pub response: PutResponse,
    pub changes: Vec<Change>,
    /// The response lacks a value that can't be read on this member.
    pub lost: bool,
}

/// A delete: the response without its header, and a change for each key, in key order.
#[derive(Clone, PartialEq, Debug)]
pub struct DeleteOutcome {
    pub response: DeleteRangeResponse,
    pub changes: Vec<Change>,
    /// The response lacks a value that can't be read on this member.
    pub lost: bool,
}

/// A transaction: the response without its header (the responses inside have theirs, with the
/// revision alone, as in etcd), and the changes in `sub` order.
#[derive(Clone, PartialEq, Debug)]
pub struct TxnOutcome {
    pub response: TxnResponse,
    pub changes: Vec<Change>,
    /// The response lacks a value that can't be read on this member.
    pub lost: bool,
}

/// A stretch of history: whole revisions, oldest first.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HistoryChunk {
    /// Each revision with all its changes in `sub` order.
    pub revisions: Vec<(i64, Vec<Change>)>,
    /// The revision to ask for to go on.
    pub next: i64,
    /// Nothing that was written is left out after `revisions`.
    pub done: bool,
}

/// What a range request found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RangeResult {
    pub kvs: Vec<KeyValue>,
    /// The limit cut the result.
    pub more: bool,
    /// All keys of the range at that revision, before limit and filters.
    pub count: i64,
}
