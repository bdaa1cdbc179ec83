//! All watchers of one member: what they are owed, and in which order it leaves.
//!
//! The hub is pulled from: a published revision is only noted for the watchers it concerns, and
//! a response is made when its stream asks. So a reader that stops costs a bounded list of
//! references, and one that lags gets several revisions in one response.

use super::ranges::{KeyRange, RangeIndex, Slot, mix};
use super::stream::{PROGRESS_IN_LINE_MAX, Stream, Turn};
use super::watcher::{Item, State, Watcher};
use crate::mvcc::change::Change;
use crate::pb::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

/// Stands for all watchers of a stream, and for a watcher that was not created.
pub const NO_WATCH_ID: i64 = -1;

const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const NEGATIVE_START: &str = "mvcc: required revision has been compacted";

/// One stream of one hub. It may be used until it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// The bounds of a hub.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// How many items may wait in a stream, beside as many for each of its watchers.
    pub queue_items: usize,
    pub queue_items_per_watcher: usize,
    /// How many bytes of events may wait in a stream.
    pub queue_bytes: usize,
    /// How many replies to requests may wait before the stream's requests are read no further.
    pub queue_replies: usize,
    /// A response takes no further revision once it has so many bytes.
    pub response_bytes: usize,
    /// A response of more bytes is cut, for a watcher that allows fragments.
    pub fragment_bytes: usize,
    pub progress_interval: Duration,
    /// Spreads the progress timers of the streams.
    pub seed: u64,
}

impl Default for HubOptions {
    fn default() -> HubOptions {
        HubOptions {
            queue_items: 1024,
            queue_items_per_watcher: 4,
            queue_bytes: 8 << 20,
            queue_replies: 128,
            response_bytes: 1 << 20,
            fragment_bytes: 2 << 20,
            progress_interval: Duration::from_secs(600),
            seed: 0,
        }
    }
}

/// Figures of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    pub streams: usize,
    pub watchers: usize,
    /// Watchers that are fed from history.
    pub slow_watchers: usize,
    /// Events handed out since the start.
    pub events: u64,
    /// Items that wait in streams.
    pub pending: usize,
}

/// The watchers of one member.
///
/// Invariants:
/// - `revision` is the last one published, and every synced watcher has, in its queue or behind
///   it, all that it is owed up to there;
/// - `behind` holds exactly the watchers in `State::Behind`, each at its `next`;
/// - a watcher is in `index` unless it is doomed.
pub struct Hub {
    pub(super) options: HubOptions,
    pub(super) revision: i64,
    pub(super) watchers: Vec<Option<Watcher>>,
    free_watchers: Vec<Slot>,
    pub(super) streams: Vec<Option<Stream>>,
    free_streams: Vec<u32>,
    pub(super) index: RangeIndex,
    pub(super) behind: BTreeSet<(i64, Slot)>,
    timers: BTreeSet<(Duration, u32)>,
    serial: u64,
    /// How often all streams were ended: a stream belongs to the generation it was opened in.
    generation: u64,
    pub(super) touched: Vec<Slot>,
    pub(super) newest_first: bool,
    watcher_count: usize,
    stream_count: usize,
    events: u64,
}

impl Hub {
    /// A hub without watchers on a store at `revision`.
    pub fn new(options: HubOptions, revision: i64) -> Hub {
        Hub {
            options,
            revision,
            watchers: Vec::new(),
            free_watchers: Vec::new(),
            streams: Vec::new(),
            free_streams: Vec::new(),
            index: RangeIndex::default(),
            behind: BTreeSet::new(),
            timers: BTreeSet::new(),
            serial: 0,
            generation: 0,
            touched: Vec::new(),
            newest_first: false,
            watcher_count: 0,
            stream_count: 0,
            events: 0,
        }
    }

    /// The last revision published.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn progress_interval(&self) -> Duration {
        self.options.progress_interval
    }

    pub fn watchers(&self) -> usize {
        self.watcher_count
    }

    pub fn stats(&self) -> HubStats {
        let parked = self.streams.iter().flatten().map(|stream| stream.parked.len());
        HubStats {
            streams: self.stream_count,
            watchers: self.watcher_count,
            slow_watchers: self.behind.len() + parked.sum::<usize>(),
            events: self.events,
            pending: self.streams.iter().flatten().map(|stream| stream.queued).sum(),
        }
    }

    // --- what a client asks for ---

    pub fn open_stream(&mut self) -> StreamId {
        self.serial += 1;
        self.stream_count += 1;
        let tenth = u64::try_from(self.options.progress_interval.as_nanos() / 10);
        let tenth = tenth.unwrap_or(u64::MAX).max(1);
        let jitter = Duration::from_nanos(mix(self.options.seed ^ self.serial) % tenth);
        let stream = Stream::new(self.options.progress_interval + jitter);
        if let Some(at) = self.free_streams.pop() {
            self.streams[at as usize] = Some(stream);
            return StreamId(at);
        }
        self.streams.push(Some(stream));
        StreamId(u32::try_from(self.streams.len() - 1).expect("fewer than 2^32 streams"))
    }

    pub fn close_stream(&mut self, id: StreamId) {
        let slots: Vec<Slot> = self.stream(id.0).ids.values().copied().collect();
        for slot in slots {
            self.remove_watcher(slot);
        }
        let stream = self.streams[id.0 as usize].take().expect("the stream is open");
        if let Some(at) = stream.progress_at {
            self.timers.remove(&(at, id.0));
        }
        self.free_streams.push(id.0);
        self.stream_count -= 1;
    }

    /// Whether so many replies wait that no further request should be read.
    pub fn is_congested(&self, id: StreamId) -> bool {
        self.streams[id.0 as usize].as_ref().expect("the stream is open").replies
            >= self.options.queue_replies
    }

    /// Begins a watcher, and replies that it is created before any event of it. `now` starts the
    /// progress timer of the stream.
    pub fn create(&mut self, id: StreamId, request: &WatchCreateRequest, now: Duration) {
        let Some(range) = KeyRange::of_request(&request.key, &request.range_end) else {
            return self.refuse(id, EMPTY_RANGE.to_owned());
        };
        if request.start_revision < 0 {
            return self.refuse(id, NEGATIVE_START.to_owned());
        }
        let slot = self.free_watchers.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            Slot::try_from(self.watchers.len() - 1).expect("fewer than 2^32 watchers")
        });
        let Some(watch_id) = self.stream(id.0).take_id(request.watch_id, slot) else {
            self.free_watchers.push(slot);
            return self.refuse(id, DUPLICATE_ID.to_owned());
        };
        self.serial += 1;
        let mut watcher = Watcher::new(self.serial, id.0, watch_id, range, request);
        self.index.insert(&watcher.range, slot);
        if watcher.start == 0 {
            watcher.next = self.revision + 1;
        } else if watcher.start <= self.revision {
            watcher.state = State::Behind;
            self.behind.insert((watcher.next, slot));
        }
        let progress_notify = watcher.progress_notify;
        self.watchers[slot as usize] = Some(watcher);
        self.watcher_count += 1;
        let mut reply = self.response(watch_id, self.revision);
        reply.created = true;
        let stream = self.stream(id.0);
        stream.reply(reply);
        if progress_notify {
            stream.progress_watchers += 1;
            if stream.progress_at.is_none() {
                let at = now + stream.progress_interval;
                stream.progress_at = Some(at);
                self.timers.insert((at, id.0));
            }
        }
    }

    /// Replies that a watcher was not created, and why.
    pub fn refuse(&mut self, id: StreamId, cancel_reason: String) {
        let mut reply = self.response(NO_WATCH_ID, self.revision);
        (reply.created, reply.canceled, reply.cancel_reason) = (true, true, cancel_reason);
        self.stream(id.0).reply(reply);
    }

    /// Ends a watcher; one that is not there is passed over in silence.
    pub fn cancel(&mut self, id: StreamId, watch_id: i64) {
        let Some(&slot) = self.stream(id.0).ids.get(&watch_id) else { return };
        self.remove_watcher(slot);
        // Its events were room that a parked watcher waits for, and nothing else may be in line.
        self.unpark(id);
        let mut reply = self.response(watch_id, self.revision);
        reply.canceled = true;
        let stream = self.stream(id.0);
        stream.reply(reply);
        stream.delay_progress();
    }

    /// Asks how far all watchers of a stream have come. There is no answer unless all of them
    /// are synced and have reached their start.
    pub fn request_progress(&mut self, id: StreamId) {
        let revision = self.revision;
        let stream = self.streams[id.0 as usize].as_ref().expect("the stream is open");
        let synced = stream.ids.values().all(|&slot| {
            let watcher = self.watcher(slot);
            watcher.state == State::Synced && watcher.start <= revision
        });
        if synced && !stream.ids.is_empty() && stream.progress_in_line < PROGRESS_IN_LINE_MAX {
            let stream = self.stream(id.0);
            stream.progress_in_line += 1;
            stream.line.push_back(Turn::Progress(revision));
            stream.wake();
        }
    }

    // --- what the store tells ---

    /// Notes the changes of a revision for every synced watcher they concern, and wakes the
    /// readers that wait for them.
    pub fn publish(&mut self, revision: i64, changes: &Arc<[Change]>) {
        assert!(revision > self.revision, "published {revision} after {}", self.revision);
        self.revision = revision;
        let mut touched = std::mem::take(&mut self.touched);
        for (n, change) in changes.iter().enumerate() {
            let n = u32::try_from(n).expect("fewer than 2^32 changes in a revision");
            let watchers = &mut self.watchers;
            self.index.for_key(&change.kv.key, &mut |slots| {
                for &slot in slots {
                    let watcher = watchers[slot as usize].as_mut().expect("an indexed watcher");
                    let owed = watcher.state == State::Synced && watcher.next <= revision;
                    if owed && watcher.wants(change) {
                        if watcher.hits.is_empty() {
                            touched.push(slot);
                        }
                        watcher.hits.push(n);
                    }
                }
            });
        }
        let is_cold = changes.iter().any(|change| change.prev_is_cold);
        for slot in touched.drain(..) {
            if is_cold && self.watcher(slot).prev_kv {
                self.fall_behind(slot, revision);
            } else {
                self.offer(slot, revision, changes);
            }
        }
        self.touched = touched;
    }

    /// A value before some change has to be read from the disk, which is no work for writers:
    /// the watcher gets this revision from history.
    fn fall_behind(&mut self, slot: Slot, revision: i64) {
        let watcher = self.watchers[slot as usize].as_mut().expect("a watcher with hits");
        watcher.hits.clear();
        (watcher.state, watcher.next) = (State::Behind, revision);
        self.behind.insert((revision, slot));
    }

    /// The store was replaced whole by a later state. Watchers go on where they were: what they
    /// missed comes from the history of the other store, and nothing comes twice.
    pub fn snapshot_installed(&mut self, revision: i64) {
        assert!(revision >= self.revision, "back from {} to {revision}", self.revision);
        for (n, watcher) in self.watchers.iter_mut().enumerate() {
            let Some(watcher) = watcher else { continue };
            if watcher.state == State::Synced {
                watcher.next = watcher.next.max(self.revision + 1);
                if watcher.next <= revision {
                    watcher.state = State::Behind;
                    self.behind.insert((watcher.next, n as Slot));
                }
            }
        }
        self.revision = revision;
    }

    /// Ends all streams at once, because what they were told may be wrong, and goes on without any
    /// on a store at `revision`. Their readers are woken, and find that their generation is over.
    pub fn end_all(&mut self, revision: i64) {
        self.streams.iter_mut().flatten().for_each(Stream::wake);
        let (serial, generation, events) = (self.serial, self.generation + 1, self.events);
        let fresh = Hub::new(self.options.clone(), revision);
        *self = Hub { serial, generation, events, ..fresh };
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Lets the progress timers strike that are due, and says when the next one is.
    pub fn tick_progress(&mut self, now: Duration) -> Option<Duration> {
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                return Some(at);
            }
            self.timers.pop_first();
            self.report_progress(id);
            let stream = self.stream(id);
            stream.progress_at = None;
            if stream.progress_watchers > 0 {
                let at = now + stream.progress_interval;
                stream.progress_at = Some(at);
                self.timers.insert((at, id));
            }
        }
        None
    }

    fn report_progress(&mut self, id: u32) {
        let stream = self.streams[id as usize].as_mut().expect("a closed stream has no timer");
        let before = stream.line.len();
        for &slot in stream.ids.values() {
            let watcher = self.watchers[slot as usize].as_mut().expect("an id has its watcher");
            if !watcher.progress_notify || watcher.progress_in_line {
                continue;
            }
            let synced = watcher.state == State::Synced && watcher.start <= self.revision;
            if watcher.quiet && synced {
                watcher.progress_in_line = true;
                stream.line.push_back(Turn::WatcherProgress(slot, watcher.serial));
            }
            watcher.quiet = true;
        }
        if stream.line.len() > before {
            stream.wake();
        }
    }

    // --- what leaves ---

    /// The next response of a stream, for a reader that wants to be woken if there is none.
    pub fn poll_next(&mut self, id: StreamId, waker: &Waker) -> Option<WatchResponse> {
        let response = self.next(id);
        if response.is_none() {
            let stream = self.stream(id.0);
            match &mut stream.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        response
    }

    /// The next response of a stream, if there is one.
    ///
    /// Of the header only the revision is set: everything up to it that concerns the watcher
    /// has been handed out with this response.
    pub fn next(&mut self, id: StreamId) -> Option<WatchResponse> {
        loop {
            let stream = self.stream(id.0);
            if let Some(fragment) = stream.fragments.pop_front() {
                return Some(fragment);
            }
            let turn = stream.line.pop_front()?;
            let response = match turn {
                Turn::Reply(response) => {
                    stream.replies -= 1;
                    Some(*response)
                }
                Turn::Events(slot, serial) => self.take_events(id, slot, serial),
                Turn::WatcherProgress(slot, serial) => self.watcher_progress(slot, serial),
                Turn::Progress(at_least) => self.stream_progress(id, at_least),
                Turn::End(slot, serial) => self.end(id, slot, serial),
            };
            if response.is_some() {
                return response;
            }
        }
    }

    /// As many whole revisions as go into one response.
    fn take_events(&mut self, id: StreamId, slot: Slot, serial: u64) -> Option<WatchResponse> {
        let watcher = self.watchers[slot as usize].as_mut().filter(|w| w.serial == serial)?;
        let stream = self.streams[id.0 as usize].as_mut().expect("the stream is open");
        let (mut size, mut revision) = (0, 0);
        let mut items = 0;
        for item in &watcher.pending {
            if items > 0 && size + item.size_bytes > self.options.response_bytes {
                break;
            }
            (size, revision, items) = (size + item.size_bytes, item.revision, items + 1);
        }
        let count = watcher.pending.iter().take(items).map(Item::len).sum();
        let mut events = Vec::with_capacity(count);
        for _ in 0..items {
            let item = watcher.pending.pop_front().expect("it was counted above");
            events.extend(item.iter().map(|change| watcher.event(change)));
        }
        stream.queued -= items;
        stream.queued_bytes -= size;
        watcher.quiet = false;
        watcher.in_line = !watcher.pending.is_empty();
        if watcher.in_line {
            stream.line.push_front(Turn::Events(slot, serial));
        }
        self.events += count as u64;
        let (watch_id, fragment) = (watcher.id, watcher.fragment);
        self.unpark(id);
        let mut response = self.response(watch_id, revision);
        response.events = events;
        if fragment && size > self.options.fragment_bytes && response.events.len() > 1 {
            return Some(self.cut(id, response));
        }
        Some(response)
    }

    /// Cuts a response into fragments, queues all but the first and returns that.
    fn cut(&mut self, id: StreamId, response: WatchResponse) -> WatchResponse {
        let limit = self.options.fragment_bytes;
        let WatchResponse { header, watch_id, events, .. } = response;
        let stream = self.stream(id.0);
        let part = || WatchResponse { header, watch_id, fragment: true, ..Default::default() };
        let (mut current, mut size) = (part(), 0);
        for event in events {
            let event_size = prost::Message::encoded_len(&event);
            if size + event_size > limit && !current.events.is_empty() {
                stream.fragments.push_back(std::mem::replace(&mut current, part()));
                size = 0;
            }
            size += event_size;
            current.events.push(event);
        }
        current.fragment = false;
        stream.fragments.push_back(current);
        stream.fragments.pop_front().expect("at least one was pushed")
    }

    fn watcher_progress(&mut self, slot: Slot, serial: u64) -> Option<WatchResponse> {
        let revision = self.revision;
        let watcher = self.watchers[slot as usize].as_mut().filter(|w| w.serial == serial)?;
        watcher.progress_in_line = false;
        let position = watcher.position(revision);
        let (id, start) = (watcher.id, watcher.start);
        (position >= start).then(|| self.response(id, position))
    }

    fn stream_progress(&mut self, id: StreamId, at_least: i64) -> Option<WatchResponse> {
        self.stream(id.0).progress_in_line -= 1;
        let stream = self.streams[id.0 as usize].as_ref().expect("the stream is open");
        let watchers = stream.ids.values().map(|&slot| self.watcher(slot));
        let position = watchers.map(|watcher| watcher.position(self.revision)).min()?;
        let reached = stream.ids.values().all(|&slot| self.watcher(slot).start <= position);
        // A watcher created or fallen behind since the request makes the stream unsynced again.
        (reached && position >= at_least).then(|| self.response(NO_WATCH_ID, position))
    }

    fn end(&mut self, id: StreamId, slot: Slot, serial: u64) -> Option<WatchResponse> {
        let watcher = self.watchers[slot as usize].as_ref().filter(|w| w.serial == serial)?;
        let State::Doomed { compact_revision } = watcher.state else {
            panic!("watcher {} ends and is {:?}", watcher.id, watcher.state);
        };
        let mut response = self.response(watcher.id, self.revision);
        (response.canceled, response.compact_revision) = (true, compact_revision);
        self.remove_watcher(slot);
        self.unpark(id);
        Some(response)
    }

    // --- within ---

    /// Queues the changes found for a watcher, or parks it if its stream is full.
    pub(super) fn offer(&mut self, slot: Slot, revision: i64, changes: &Arc<[Change]>) {
        let watcher = self.watchers[slot as usize].as_mut().expect("a watcher with hits");
        let stream = self.streams[watcher.stream as usize].as_mut().expect("its stream is open");
        let items_max =
            self.options.queue_items + self.options.queue_items_per_watcher * stream.ids.len();
        if stream.queued >= items_max || stream.queued_bytes >= self.options.queue_bytes {
            watcher.hits.clear();
            (watcher.state, watcher.next) = (State::Parked, revision);
            stream.parked.push(slot);
            return;
        }
        let item = watcher.take_hits(revision, changes);
        stream.queued += 1;
        stream.queued_bytes += item.size_bytes;
        watcher.pending.push_back(item);
        if !watcher.in_line {
            watcher.in_line = true;
            stream.line.push_back(Turn::Events(slot, watcher.serial));
        }
        stream.wake();
    }

    /// Once half of a full stream is handed out, its parked watchers go on from history.
    fn unpark(&mut self, id: StreamId) {
        let stream = self.streams[id.0 as usize].as_mut().expect("the stream is open");
        let has_room = stream.queued <= self.options.queue_items / 2
            && stream.queued_bytes <= self.options.queue_bytes / 2;
        if stream.parked.is_empty() || !has_room {
            return;
        }
        for slot in stream.parked.drain(..) {
            let watcher = self.watchers[slot as usize].as_mut().expect("a parked watcher");
            assert!(watcher.state == State::Parked, "parked and {:?}", watcher.state);
            watcher.state = State::Behind;
            self.behind.insert((watcher.next, slot));
        }
    }

    fn remove_watcher(&mut self, slot: Slot) {
        let watcher = self.watchers[slot as usize].take().expect("the watcher is there");
        let stream = self.streams[watcher.stream as usize].as_mut().expect("its stream is open");
        stream.queued -= watcher.pending.len();
        stream.queued_bytes -= watcher.pending.iter().map(|item| item.size_bytes).sum::<usize>();
        stream.ids.remove(&watcher.id);
        stream.progress_watchers -= usize::from(watcher.progress_notify);
        match watcher.state {
            State::Synced | State::Doomed { .. } => {}
            State::Behind => {
                assert!(self.behind.remove(&(watcher.next, slot)), "lost at {}", watcher.next);
            }
            State::Parked => stream.parked.retain(|&parked| parked != slot),
        }
        if !matches!(watcher.state, State::Doomed { .. }) {
            self.index.remove(&watcher.range, slot);
        }
        self.free_watchers.push(slot);
        self.watcher_count -= 1;
    }

    fn response(&self, watch_id: i64, revision: i64) -> WatchResponse {
        let header = Some(ResponseHeader { revision, ..Default::default() });
        WatchResponse { header, watch_id, ..Default::default() }
    }

    fn watcher(&self, slot: Slot) -> &Watcher {
        self.watchers[slot as usize].as_ref().expect("an id has its watcher")
    }

    pub(super) fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams[id as usize].as_mut().expect("the stream is open")
    }
}
