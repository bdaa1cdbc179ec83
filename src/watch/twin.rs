//! Random histories of a hub against the dumbest watcher there is: a list of all events that are
//! owed, and a finger on the next one.

use super::catch_up::StepBudget;
use super::hub::{Hub, HubOptions, NO_WATCH_ID, StreamId};
use super::model::{ModelStore, print};
use super::ranges::KeyRange;
use crate::mvcc::change::Change;
use crate::pb::etcdserverpb::{WatchCreateRequest, WatchResponse};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Open,
    Close(usize),
    Create { stream: usize, key: u8, end: u8, start: i64, flags: u8, id: i64 },
    Cancel { stream: usize, id: i64 },
    Progress(usize),
    Publish(Vec<(u8, bool)>),
    Compact(i64),
    CatchUp { changes: usize, items: usize },
    Read { stream: usize, count: usize },
    Tick,
    Install(Vec<(u8, bool)>),
}

fn writes() -> impl Strategy<Value = Vec<(u8, bool)>> {
    prop::collection::vec((0..6u8, prop::bool::weighted(0.7)), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..3usize;
    prop_oneof![
        1 => Just(Step::Open),
        1 => stream.clone().prop_map(Step::Close),
        4 => (stream.clone(), 0..6u8, 0..8u8, 0..12i64, any::<u8>(), 0..4i64).prop_map(
            |(stream, key, end, start, flags, id)| {
                Step::Create { stream, key, end, start, flags, id }
            }
        ),
        1 => (stream.clone(), 0..4i64).prop_map(|(stream, id)| Step::Cancel { stream, id }),
        3 => stream.clone().prop_map(Step::Progress),
        10 => writes().prop_map(Step::Publish),
        1 => (0..4i64).prop_map(Step::Compact),
        5 => (1..6usize, 1..6usize).prop_map(|(changes, items)| Step::CatchUp { changes, items }),
        6 => (stream, 1..5usize).prop_map(|(stream, count)| Step::Read { stream, count }),
        1 => Just(Step::Tick),
        1 => writes().prop_map(Step::Install),
    ]
}

/// What a client knows of one watcher.
struct Client {
    range: KeyRange,
    request: WatchCreateRequest,
    created: bool,
    canceled: bool,
    /// The first revision whose events have not come yet.
    next: i64,
    fragment_of: Option<i64>,
}

impl Client {
    fn wants(&self, change: &Change) -> bool {
        let filter = i32::from(change.deleted);
        self.range.contains(&change.kv.key) && !self.request.filters.contains(&filter)
    }

    /// The events owed of one revision, printed.
    fn owed(&self, store: &ModelStore, revision: i64) -> Vec<String> {
        let Some(at) = usize::try_from(revision - 2).ok().and_then(|n| store.past.get(n)) else {
            return Vec::new();
        };
        let prev = |change: &Change| {
            self.request.prev_kv.then(|| change.prev.as_ref().map(|p| p.mod_revision)).flatten()
        };
        let wanted = at.changes.iter().filter(|change| self.wants(change));
        wanted.map(|c| format!("{:?} {:?} {}", c.kv, prev(c), c.deleted)).collect()
    }
}

struct World {
    hub: Hub,
    store: ModelStore,
    streams: BTreeMap<usize, (StreamId, BTreeMap<i64, Client>)>,
    /// Created and not yet acknowledged, in order.
    asked: BTreeMap<usize, VecDeque<(WatchCreateRequest, i64)>>,
    now: Duration,
    events: usize,
}

impl World {
    fn new() -> World {
        let options = HubOptions {
            queue_items: 4,
            queue_items_per_watcher: 0,
            queue_bytes: 1000,
            response_bytes: 200,
            fragment_bytes: 80,
            progress_interval: Duration::from_secs(10),
            ..HubOptions::default()
        };
        World {
            hub: Hub::new(options, 1),
            store: ModelStore::default(),
            streams: BTreeMap::new(),
            asked: BTreeMap::new(),
            now: Duration::ZERO,
            events: 0,
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Open => {
                let free = (0..3).find(|n| !self.streams.contains_key(n));
                if let Some(n) = free {
                    self.streams.insert(n, (self.hub.open_stream(), BTreeMap::new()));
                    self.asked.insert(n, VecDeque::new());
                }
            }
            Step::Close(n) => {
                if let Some((id, _)) = self.streams.remove(&n) {
                    self.hub.close_stream(id);
                }
            }
            Step::Create { stream, key, end, start, flags, id } => {
                let Some(&(stream_id, _)) = self.streams.get(&stream) else { return };
                let request = WatchCreateRequest {
                    key: key_of(key),
                    range_end: if end < 2 { Bytes::new() } else { key_of(end) },
                    start_revision: start * self.hub.revision() / 9,
                    progress_notify: flags & 1 > 0,
                    filters: if flags & 6 == 6 { vec![i32::from(flags & 8 > 0)] } else { vec![] },
                    prev_kv: flags & 16 > 0,
                    watch_id: id,
                    fragment: flags & 32 > 0,
                };
                self.hub.create(stream_id, &request, self.now);
                let revision = self.hub.revision();
                self.asked.get_mut(&stream).expect("open").push_back((request, revision));
            }
            Step::Cancel { stream, id } => {
                // Only what is acknowledged, so that the twin knows which watcher it names.
                let Some((stream_id, clients)) = self.streams.get_mut(&stream) else { return };
                if self.asked[&stream].is_empty()
                    && let Some(client) = clients.get_mut(&id)
                {
                    self.hub.cancel(*stream_id, id);
                    client.canceled = true;
                }
            }
            Step::Progress(n) => {
                if let Some(&(id, _)) = self.streams.get(&n) {
                    self.hub.request_progress(id);
                }
            }
            Step::Publish(ops) => {
                if let Some(revision) = self.store.write(&ops_of(ops)) {
                    self.hub.publish(revision.main, &revision.changes);
                }
            }
            Step::Compact(behind) => self.store.compact(self.hub.revision() - behind),
            Step::CatchUp { changes, items } => {
                self.hub.catch_up(&self.store, StepBudget { changes, items });
            }
            Step::Read { stream, count } => {
                (0..count).all(|_| self.read(stream));
            }
            Step::Tick => {
                self.now += Duration::from_secs(6);
                self.hub.tick_progress(self.now);
            }
            Step::Install(ops) => {
                self.store.write(&ops_of(ops));
                self.hub.snapshot_installed(self.store.revision());
            }
        }
    }

    /// Reads one response and judges it.
    fn read(&mut self, n: usize) -> bool {
        let Some((id, clients)) = self.streams.get_mut(&n) else { return false };
        let Some(response) = self.hub.next(*id) else { return false };
        let revision = response.header.as_ref().expect("set").revision;
        if response.created {
            let (request, at) = self.asked.get_mut(&n).expect("open").pop_front().expect("asked");
            if response.canceled {
                assert_eq!(response.watch_id, NO_WATCH_ID);
                return true;
            }
            let range = KeyRange::of_request(&request.key, &request.range_end).expect("created");
            let next = if request.start_revision == 0 { at + 1 } else { request.start_revision };
            let client =
                Client { range, request, created: true, canceled: false, next, fragment_of: None };
            assert!(clients.insert(response.watch_id, client).is_none(), "one id, two watchers");
        } else if response.canceled {
            let client = clients.remove(&response.watch_id).expect("Reliable: unknown id");
            let compacted = response.compact_revision;
            assert!(compacted == 0 || client.next < compacted, "ended without need");
        } else if response.watch_id == NO_WATCH_ID {
            // A watcher whose creation is not acknowledged yet is synced like any other.
            let for_someone = !clients.is_empty() || !self.asked[&n].is_empty();
            assert!(response.events.is_empty() && for_someone);
            clients.values().for_each(|client| check_progress(client, &self.store, revision));
        } else {
            let client = clients.get_mut(&response.watch_id).expect("created before events");
            assert!(client.created);
            let rest = client.fragment_of.is_some();
            assert!(!client.canceled || rest, "{} goes on", response.watch_id);
            if response.events.is_empty() {
                check_progress(client, &self.store, revision);
                client.next = client.next.max(revision + 1);
            } else {
                self.events += response.events.len();
                check_events(client, &self.store, &response);
            }
        }
        true
    }

    /// Lets everything come to rest and checks that nothing is still owed.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "Reliable: never comes to rest");
            let budget = StepBudget { changes: 3, items: 3 };
            self.hub.catch_up(&self.store, budget);
            let mut any = false;
            for n in 0..3 {
                while self.read(n) {
                    any = true;
                }
            }
            if !any && !self.hub.is_behind() {
                break;
            }
        }
        for (_, clients) in self.streams.values() {
            for client in clients.values() {
                assert!(!client.canceled, "a cancel has no reply");
                assert!(client.fragment_of.is_none(), "a response lacks its last fragment");
                check_progress(client, &self.store, self.hub.revision().max(client.next - 1));
            }
        }
        for n in 0..3 {
            self.run(Step::Progress(n));
            let reached = |client: &Client| client.request.start_revision <= self.hub.revision();
            let due = self
                .streams
                .get(&n)
                .is_some_and(|(_, clients)| !clients.is_empty() && clients.values().all(reached));
            assert_eq!(self.read(n), due, "Bookmarkable: all synced, so there is progress");
        }
    }
}

fn key_of(n: u8) -> Bytes {
    Bytes::from(vec![b'a' + n])
}

fn ops_of(ops: Vec<(u8, bool)>) -> Vec<(Bytes, Option<Bytes>)> {
    let mut seen = BTreeMap::new();
    for (key, put) in ops {
        seen.insert(key_of(key), put.then(|| Bytes::from_static(b"some value")));
    }
    seen.into_iter().collect()
}

/// Bookmarkable: nothing up to a reported revision is still owed.
fn check_progress(client: &Client, store: &ModelStore, revision: i64) {
    assert!(client.fragment_of.is_none(), "progress between fragments");
    assert!(client.request.start_revision <= revision || client.next > revision);
    for owed in client.next..=revision {
        assert!(client.owed(store, owed).is_empty(), "Bookmarkable: {owed} of {revision} is owed");
    }
}

/// Ordered, Unique, Atomic, Reliable: the events are just the next ones that are owed, and all of
/// each revision.
fn check_events(client: &mut Client, store: &ModelStore, response: &WatchResponse) {
    let mut got: VecDeque<(i64, String)> = VecDeque::new();
    for event in &response.events {
        let kv = event.kv.as_ref().expect("a kv");
        let prev = event.prev_kv.as_ref().map(|prev| prev.mod_revision);
        got.push_back((kv.mod_revision, format!("{kv:?} {prev:?} {}", event.r#type == 1)));
    }
    if response.fragment || client.fragment_of.is_some() {
        assert!(client.request.fragment, "Atomic: a fragment that was not allowed");
        let first = got.front().expect("events").0;
        assert!(first >= client.next, "Unique");
        // The parts of one response are judged by their revisions alone.
        for owed in client.next..first {
            assert!(client.owed(store, owed).is_empty(), "Reliable: {owed} is left out");
        }
        let last = got.back().expect("events").0;
        client.next = if response.fragment { last } else { last + 1 };
        client.fragment_of = response.fragment.then_some(last);
        return;
    }
    while let Some(&(revision, _)) = got.front() {
        assert!(revision >= client.next, "Ordered, Unique: {} at {}", print(response), client.next);
        for owed in client.next..revision {
            assert!(client.owed(store, owed).is_empty(), "Reliable: {owed} is left out");
        }
        let owed = client.owed(store, revision);
        assert!(got.len() >= owed.len(), "Atomic: {}", print(response));
        let part: Vec<String> = got.drain(..owed.len()).map(|(_, event)| event).collect();
        assert_eq!(part, owed, "Atomic: {}", print(response));
        client.next = revision + 1;
    }
    let revision = response.header.as_ref().expect("set").revision;
    assert_eq!(client.next, revision + 1, "the header's revision is the last event's");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn every_guarantee_holds(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        world.run(Step::Open);
        for step in steps {
            world.run(step);
            let stats = world.hub.stats();
            prop_assert!(stats.pending <= 3 * 5, "a queue grew to {}", stats.pending);
        }
        world.settle();
    }
}

/// The checks above would pass on a hub that hands out nothing.
#[test]
fn events_do_come() {
    let mut world = World::new();
    world.run(Step::Open);
    let create = Step::Create { stream: 0, key: 0, end: 7, start: 0, flags: 0, id: 0 };
    world.run(create);
    (0..50).for_each(|_| world.run(Step::Publish(vec![(0, true), (1, true)])));
    world.settle();
    assert_eq!(world.events, 100);
}
