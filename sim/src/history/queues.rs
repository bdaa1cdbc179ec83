//! Whose turn it was in locks and elections, as their clients were told.

use crate::model::{KeyValue, Span};
use crate::moment::Nanos;

/// A client was told that its turn has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub client: u64,
    pub queue: Span,
    pub key: String,
    /// The revision of the answer.
    pub revision: i64,
    pub at: Nanos,
}

/// What one stream of announcements showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub client: u64,
    pub leaders: Vec<(Nanos, KeyValue)>,
}

/// Everything about locks and elections.
#[derive(Clone, Debug, Default)]
pub struct Queues {
    pub turns: Vec<Turn>,
    pub observed: Vec<Observed>,
}
