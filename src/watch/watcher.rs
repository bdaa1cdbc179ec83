//! One watcher: what it wants, how far it has come, and what waits for it.

use super::ranges::KeyRange;
use crate::mvcc::change::Change;
use crate::pb::etcdserverpb::WatchCreateRequest;
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::mvccpb::{Event, KeyValue, event::EventType};
use std::collections::VecDeque;
use std::sync::Arc;

/// What the fields of an event take on the wire beside key and value, at most.
const EVENT_OVERHEAD_BYTES: usize = 64;

/// How a watcher gets its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// From each published revision.
    Synced,
    /// From history; it stands in the hub's list of those behind, at `next`.
    Behind,
    /// From history, once its stream has room; it stands in the stream's list.
    Parked,
    /// Not any more: a revision it wants is compacted. It ends behind its last event.
    Doomed { compact_revision: i64 },
}

/// Which changes of a revision a watcher gets.
#[derive(Clone, Debug)]
pub enum Hits {
    All,
    One(u32),
    /// In order.
    Some(Box<[u32]>),
}

/// The events of one revision for one watcher. The changes are shared with all other watchers
/// and with the store's history.
#[derive(Clone, Debug)]
pub struct Item {
    pub revision: i64,
    pub changes: Arc<[Change]>,
    pub hits: Hits,
    /// What the events take on the wire.
    pub size_bytes: usize,
}

/// One watcher of one stream.
///
/// Invariants:
/// - the revisions in `pending` rise and lie below `next` unless the watcher is synced;
/// - no event of a revision below `next` is still to come from history;
/// - `in_line` says whether a turn for its events stands in the stream's line, and it does so
///   whenever `pending` holds something.
pub struct Watcher {
    /// Tells this watcher from earlier ones in the same slot.
    pub serial: u64,
    pub stream: u32,
    pub id: i64,
    pub range: KeyRange,
    no_put: bool,
    no_delete: bool,
    pub prev_kv: bool,
    pub fragment: bool,
    pub progress_notify: bool,
    /// The revision asked for; 0 if none was. No progress below it is reported.
    pub start: i64,
    pub next: i64,
    pub state: State,
    pub pending: VecDeque<Item>,
    pub in_line: bool,
    /// No event was handed out since the progress timer of the stream last struck.
    pub quiet: bool,
    /// A report of progress stands in line.
    pub progress_in_line: bool,
    /// Scratch of `publish` and `catch_up`: the changes found so far of the revision at hand.
    pub hits: Vec<u32>,
    /// Scratch of `catch_up`: takes part in the step at hand.
    pub in_step: bool,
}

impl Watcher {
    pub fn new(
        serial: u64,
        stream: u32,
        id: i64,
        range: KeyRange,
        request: &WatchCreateRequest,
    ) -> Watcher {
        let has = |filter: FilterType| request.filters.contains(&(filter as i32));
        Watcher {
            serial,
            stream,
            id,
            range,
            no_put: has(FilterType::Noput),
            no_delete: has(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            start: request.start_revision,
            next: request.start_revision,
            state: State::Synced,
            pending: VecDeque::new(),
            in_line: false,
            quiet: false,
            progress_in_line: false,
            hits: Vec::new(),
            in_step: false,
        }
    }

    pub fn wants(&self, change: &Change) -> bool {
        !(if change.deleted { self.no_delete } else { self.no_put })
    }

    /// The revision up to which everything owed has been handed out.
    pub fn position(&self, revision: i64) -> i64 {
        match self.pending.front() {
            Some(item) => item.revision - 1,
            None if self.state == State::Synced => revision,
            None => self.next - 1,
        }
    }

    /// Makes the changes found into an item and clears the scratch.
    pub fn take_hits(&mut self, revision: i64, changes: &Arc<[Change]>) -> Item {
        let hits = match self.hits.len() {
            n if n == changes.len() => Hits::All,
            1 => Hits::One(self.hits[0]),
            _ => Hits::Some(self.hits.as_slice().into()),
        };
        self.hits.clear();
        self.hits.shrink_to(8);
        let mut item = Item { revision, changes: Arc::clone(changes), hits, size_bytes: 0 };
        item.size_bytes = item.iter().map(|change| self.size_of(change)).sum();
        item
    }

    fn size_of(&self, change: &Change) -> usize {
        let size = |kv: &KeyValue| kv.key.len() + kv.value.len() + EVENT_OVERHEAD_BYTES;
        let prev = change.prev.as_ref().filter(|_| self.prev_kv).map_or(0, size);
        size(&change.kv) + prev
    }

    pub fn event(&self, change: &Change) -> Event {
        let kind = if change.deleted { EventType::Delete } else { EventType::Put };
        Event {
            r#type: kind as i32,
            kv: Some(change.kv.clone()),
            prev_kv: if self.prev_kv { change.prev.clone() } else { None },
        }
    }
}

impl Item {
    pub fn len(&self) -> usize {
        match &self.hits {
            Hits::All => self.changes.len(),
            Hits::One(_) => 1,
            Hits::Some(hits) => hits.len(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        (0..self.len()).map(|n| match &self.hits {
            Hits::All => &self.changes[n],
            Hits::One(hit) => &self.changes[*hit as usize],
            Hits::Some(hits) => &self.changes[hits[n] as usize],
        })
    }
}
