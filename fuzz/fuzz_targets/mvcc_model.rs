//! Puts, deletes and compactions on the store and on a map of whole snapshots: reads at every
//! revision that is left give the same.
#![no_main]

use bytes::Bytes;
use detcd::mvcc::store::Store;
use detcd::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;

/// More steps say nothing more and cost memory: the twin keeps every revision whole.
const STEPS_MAX: usize = 200;

type Snapshot = BTreeMap<Bytes, (Bytes, i64, i64)>;

/// The twin: all keys with value, create revision and version, at every revision.
struct Twin {
    at: BTreeMap<i64, Snapshot>,
    revision: i64,
}

impl Twin {
    fn change(&mut self, change: impl FnOnce(&mut Snapshot, i64) -> bool) {
        let mut snapshot = self.at[&self.revision].clone();
        if change(&mut snapshot, self.revision + 1) {
            self.revision += 1;
            self.at.insert(self.revision, snapshot);
        }
    }
}

fn key(byte: u8) -> Bytes {
    vec![b'a' + byte % 8].into()
}

fuzz_target!(|bytes: &[u8]| {
    let mut store = Store::new();
    let mut twin = Twin { at: BTreeMap::from([(1, Snapshot::new())]), revision: 1 };
    let mut compacted = -1;
    for step in bytes.chunks_exact(3).take(STEPS_MAX) {
        let [kind, a, b] = [step[0], step[1], step[2]];
        match kind % 8 {
            0..4 => {
                let (key, value) = (key(a), Bytes::from(vec![b]));
                let request =
                    PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
                store.put(&request, &|_| false).expect("a put without a lease");
                twin.change(|snapshot, revision| {
                    let old = snapshot.get(&key).map(|(_, create, version)| (*create, *version));
                    let (create, version) = old.unwrap_or((revision, 0));
                    snapshot.insert(key, (value, create, version + 1));
                    true
                });
            }
            4 | 5 => {
                let (key, range_end) = (key(a), key(b));
                let request = DeleteRangeRequest {
                    key: key.clone(),
                    range_end: range_end.clone(),
                    ..Default::default()
                };
                let outcome = store.delete_range(&request);
                twin.change(|snapshot, _| {
                    let before = snapshot.len();
                    snapshot.retain(|k, _| !(*k >= key && *k < range_end));
                    let gone = before - snapshot.len();
                    assert_eq!(outcome.response.deleted, gone as i64, "deleted keys");
                    gone > 0
                });
            }
            6 => {
                let revision = twin.revision - i64::from(a % 16);
                let possible = revision > compacted && revision <= twin.revision;
                let done = store.compact(revision).is_ok();
                assert_eq!(done, possible, "compact {revision} after {compacted}");
                compacted = if done { revision } else { compacted };
            }
            _ => {
                let revision = (twin.revision - i64::from(a % 16)).max(1);
                let request = RangeRequest {
                    key: Bytes::from_static(b"\0"),
                    range_end: Bytes::from_static(b"\0"),
                    revision,
                    ..Default::default()
                };
                let found = store.range(&request);
                assert_eq!(found.is_err(), revision < compacted, "a read at {revision}");
                let Ok(found) = found else { continue };
                let found: Snapshot = found
                    .kvs
                    .into_iter()
                    .map(|kv| (kv.key, (kv.value, kv.create_revision, kv.version)))
                    .collect();
                assert_eq!(found, twin.at[&revision], "the keys at {revision}");
            }
        }
        assert_eq!(store.revision(), twin.revision, "the revision");
    }
});
