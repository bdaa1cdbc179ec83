//! Writes, compactions, watchers, slow readers and bounded steps in any order: what each watcher is
//! told is a gapless stretch of what happened within its range, and at the end all of it.
#![no_main]

use bytes::Bytes;
use detcd::mvcc::change::Change;
use detcd::mvcc::store::Store;
use detcd::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, WatchCreateRequest, WatchResponse};
use detcd::watch::catch_up::StepBudget;
use detcd::watch::hub::{Hub, HubOptions, StreamId};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use std::time::Duration;

const STEPS_MAX: usize = 400;
const WATCHERS_MAX: usize = 12;

/// An event as a watcher sees it: revision, key, and whether the key was deleted.
type Event = (i64, Bytes, bool);

/// A stream with one watcher, and what it has been told.
struct Reader {
    stream: StreamId,
    key: u8,
    end: u8,
    start: i64,
    told: Vec<Event>,
    /// What it asked for is compacted up to here.
    compacted: Option<i64>,
}

struct World {
    store: Store,
    hub: Hub,
    happened: Vec<Event>,
    readers: Vec<Reader>,
}

fn key(byte: u8) -> Bytes {
    vec![b'a' + byte % 8].into()
}

impl World {
    fn new() -> World {
        let options =
            HubOptions { queue_items: 4, queue_items_per_watcher: 1, ..HubOptions::default() };
        World {
            store: Store::new(),
            hub: Hub::new(options, 1),
            happened: Vec::new(),
            readers: Vec::new(),
        }
    }

    fn publish(&mut self, changes: Vec<Change>) {
        let Some(first) = changes.first() else { return };
        let revision = first.kv.mod_revision;
        let event = |change: &Change| (revision, change.kv.key.clone(), change.deleted);
        self.happened.extend(changes.iter().map(event));
        self.hub.publish(revision, &Arc::from(changes));
    }

    fn watch(&mut self, key: u8, end: u8, start: i64) {
        let stream = self.hub.open_stream();
        let request = WatchCreateRequest {
            key: vec![b'a' + key].into(),
            range_end: vec![b'a' + end].into(),
            start_revision: start,
            prev_kv: start % 2 == 0,
            ..Default::default()
        };
        self.hub.create(stream, &request, Duration::ZERO);
        let start = if start == 0 { self.store.revision() + 1 } else { start };
        self.readers.push(Reader { stream, key, end, start, told: Vec::new(), compacted: None });
    }

    /// Reads up to `count` responses; says how many there were.
    fn read(&mut self, reader: usize, count: usize) -> usize {
        for done in 0..count {
            let reader = &mut self.readers[reader];
            let Some(response) = self.hub.next(reader.stream) else { return done };
            reader.hear(response);
        }
        count
    }

    fn check(&self, reader: &Reader, whole: bool) {
        let within = |event: &&Event| {
            event.0 >= reader.start
                && event.1[0] >= b'a' + reader.key
                && event.1[0] < b'a' + reader.end
        };
        let owed: Vec<&Event> = self.happened.iter().filter(within).collect();
        let told: Vec<&Event> = reader.told.iter().collect();
        assert!(owed.starts_with(&told), "owed {owed:?}, told {told:?}");
        let compacted = reader.compacted.is_some();
        assert!(!whole || compacted || owed.len() == told.len(), "owed {owed:?}, told {told:?}");
    }
}

impl Reader {
    fn hear(&mut self, response: WatchResponse) {
        assert!(self.compacted.is_none(), "told after the end: {response:?}");
        if response.canceled {
            self.compacted = Some(response.compact_revision);
        }
        for event in response.events {
            let deleted = event.r#type() == detcd::pb::mvccpb::event::EventType::Delete;
            let kv = event.kv.expect("an event has a key");
            self.told.push((kv.mod_revision, kv.key, deleted));
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut world = World::new();
    for step in bytes.chunks_exact(3).take(STEPS_MAX) {
        let [kind, a, b] = [step[0] % 10, step[1], step[2]];
        match kind {
            0..4 => {
                let request =
                    PutRequest { key: key(a), value: vec![b].into(), ..Default::default() };
                let put = world.store.put(&request, &|_| false).expect("a put without a lease");
                world.publish(put.changes);
            }
            4 => {
                let request =
                    DeleteRangeRequest { key: key(a), range_end: key(b), ..Default::default() };
                let deleted = world.store.delete_range(&request);
                world.publish(deleted.changes);
            }
            5 if world.readers.len() < WATCHERS_MAX => {
                let start = (world.store.revision() + 2 - i64::from(b % 32)).max(0);
                world.watch(a % 8, a % 8 + 1 + b % 4, start);
            }
            6 => {
                let revision = world.store.revision() - i64::from(a % 16);
                // Refused if it is compacted already.
                let _ = world.store.compact(revision);
            }
            7 => {
                let budget =
                    StepBudget { changes: 1 + usize::from(a % 8), items: 1 + usize::from(b % 8) };
                world.hub.catch_up(&world.store, budget);
            }
            _ if !world.readers.is_empty() => {
                let reader = usize::from(a) % world.readers.len();
                world.read(reader, 1 + usize::from(b % 4));
                world.check(&world.readers[reader], false);
            }
            _ => {}
        }
    }
    // Everybody reads to the end.
    for _ in 0..STEPS_MAX * 4 {
        let more = world.hub.catch_up(&world.store, StepBudget::default());
        let read: usize = (0..world.readers.len()).map(|n| world.read(n, usize::MAX)).sum();
        // Reading makes room for watchers that were parked.
        if !more && read == 0 {
            break;
        }
    }
    world.readers.iter().for_each(|reader| world.check(reader, true));
});
