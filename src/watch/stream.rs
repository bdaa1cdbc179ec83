//! One stream of watchers: the line in which its responses leave, and how long that may grow.

use super::ranges::Slot;
use crate::pb::etcdserverpb::WatchResponse;
use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;
use std::time::Duration;

/// How many reports of progress for all watchers may stand in line at once. A further request is
/// dropped, as one on a stream that is not synced.
pub const PROGRESS_IN_LINE_MAX: usize = 4;

/// What leaves next. A turn names its watcher by slot and serial, because the watcher may be
/// cancelled, and its slot taken again, before the turn comes.
#[derive(Debug)]
pub enum Turn {
    /// The answer to a request.
    Reply(Box<WatchResponse>),
    /// All that is pending for a watcher at that moment.
    Events(Slot, u64),
    /// How far one watcher has come.
    WatcherProgress(Slot, u64),
    /// How far all watchers have come; at least this far.
    Progress(i64),
    /// The end of a watcher whose revision is compacted.
    End(Slot, u64),
}

/// One stream.
///
/// Invariants:
/// - `queued` and `queued_bytes` are the sums over the pending items of all its watchers;
/// - a watcher has at most one `Events` turn in `line`;
/// - whatever was queued for any watcher before a `Progress` turn is handed out before it: each
///   watcher with pending items has its turn further ahead, and a turn that leaves items behind
///   goes back to the head of the line.
pub struct Stream {
    /// The watchers by their ids.
    pub ids: BTreeMap<i64, Slot>,
    pub next_id: i64,
    pub line: VecDeque<Turn>,
    /// The rest of a response that was cut into fragments; it leaves before anything else.
    pub fragments: VecDeque<WatchResponse>,
    pub queued: usize,
    pub queued_bytes: usize,
    /// How many `Reply` turns are in line.
    pub replies: usize,
    /// How many `Progress` turns are in line.
    pub progress_in_line: usize,
    pub parked: Vec<Slot>,
    /// Whom to wake once there is something in line; set by a reader that found nothing.
    pub waker: Option<Waker>,
    pub progress_watchers: usize,
    /// When the progress timer strikes; None while no watcher asked for it.
    pub progress_at: Option<Duration>,
    pub progress_interval: Duration,
}

impl Stream {
    pub fn new(progress_interval: Duration) -> Stream {
        Stream {
            ids: BTreeMap::new(),
            next_id: 0,
            line: VecDeque::new(),
            fragments: VecDeque::new(),
            queued: 0,
            queued_bytes: 0,
            replies: 0,
            progress_in_line: 0,
            parked: Vec::new(),
            waker: None,
            progress_watchers: 0,
            progress_at: None,
            progress_interval,
        }
    }

    /// Takes the id that was asked for, or the least one that was not given yet if 0 was.
    /// None if it is in use.
    pub fn take_id(&mut self, asked: i64, slot: Slot) -> Option<i64> {
        let id = if asked == 0 {
            while self.ids.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        } else {
            asked
        };
        if self.ids.contains_key(&id) {
            return None;
        }
        self.ids.insert(id, slot);
        Some(id)
    }

    pub fn reply(&mut self, response: WatchResponse) {
        self.replies += 1;
        self.line.push_back(Turn::Reply(Box::new(response)));
        self.wake();
    }

    /// Puts reports of progress for all watchers at the end of the line, behind the reply to a
    /// cancel. In front of it the reader counts that watcher among those that a report speaks
    /// for, and it may miss events that were thrown away or have been published since.
    pub fn delay_progress(&mut self) {
        if self.progress_in_line == 0 {
            return;
        }
        let is_report = |turn: &Turn| matches!(turn, Turn::Progress(_));
        let line = std::mem::take(&mut self.line);
        let (reports, others): (Vec<Turn>, Vec<Turn>) = line.into_iter().partition(is_report);
        self.line.extend(others);
        self.line.extend(reports);
    }

    /// Wakes the reader, once for each time that it found nothing.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
