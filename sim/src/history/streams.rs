//! What watchers were told, stream by stream.

use crate::model::{Span, WatchEvent};
use crate::moment::Nanos;

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub at: Nanos,
    pub events: Vec<WatchEvent>,
    /// A message without events that promises: everything up to here was delivered.
    pub progress: Option<i64>,
}

/// Which changes a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    #[default]
    None,
    NoPut,
    NoDelete,
}

impl Filter {
    /// Whether a watcher with it is told of `event`.
    pub fn passes(self, event: &WatchEvent) -> bool {
        match self {
            Filter::None => true,
            Filter::NoPut => event.kv.is_none(),
            Filter::NoDelete => event.kv.is_some(),
        }
    }
}

/// What one stream delivered.
#[derive(Clone, Debug)]
pub struct Stream {
    pub client: u64,
    pub member: usize,
    pub span: Span,
    pub filter: Filter,
    /// The watcher asked for the version before each event.
    pub prev_kv: bool,
    /// The first revision that the watcher is owed.
    pub start: i64,
    pub opened: Nanos,
    pub closed: Nanos,
    pub deliveries: Vec<Delivery>,
    /// The revision up to which everything had to be there when the stream was closed, if the
    /// harness waited for it.
    pub owed: Option<i64>,
    /// When it was canceled although nobody had asked for that.
    pub cut_off: Option<Nanos>,
}

impl Stream {
    /// The highest revision that the stream showed or promised.
    pub fn seen(&self) -> i64 {
        let of = |d: &Delivery| {
            d.events.iter().map(|e| e.revision).max().unwrap_or(0).max(d.progress.unwrap_or(0))
        };
        self.deliveries.iter().map(of).max().unwrap_or(0).max(self.start - 1)
    }
}
