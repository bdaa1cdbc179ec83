//! What backups hold, as they were decoded.

use crate::model::KeyValue;
use crate::moment::Nanos;
use std::collections::BTreeMap;

/// The versions of a key, each with its revision; `None` is a deletion.
pub type Versions = Vec<(i64, Option<KeyValue>)>;

/// A backup as it was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub member: usize,
    /// When it had been read whole.
    pub at: Nanos,
    /// The revision that its member had come to when the backup began.
    pub begun: i64,
    pub revision: i64,
    /// -1 before the first compaction.
    pub compacted: i64,
    pub keys: BTreeMap<String, Versions>,
}
