//! The store against its dumb twin, on random histories.

use crate::error::Result;
use crate::mvcc::change::{Change, RangeResult};
use crate::mvcc::record::{ColdValues, Location, Value};
use crate::mvcc::restore::{Restore, Restored};
use crate::mvcc::revision::Revision;
use crate::mvcc::store::{RECORD_OVERHEAD_BYTES, Store};
use crate::mvcc::twin::{Answer, Twin};
use crate::pb::etcdserverpb::compare::TargetUnion;
use crate::pb::etcdserverpb::range_request::SortTarget;
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
enum Step {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    DeleteKeys(Vec<Bytes>),
    Txn(TxnRequest),
    Range(RangeRequest, usize, usize),
    /// Compacts at this distance from the current revision (negative: in the future).
    Compact(i64),
    Sweep(usize),
    History(i64, usize),
    Hash(i64),
    Evict(i64, u64, usize),
    Restore,
}

/// A disk for values: a location's offset is an index into the list.
#[derive(Default)]
struct Shelf(Mutex<Vec<Bytes>>);

impl ColdValues for Shelf {
    fn read(&self, location: Location) -> Result<Bytes> {
        Ok(self.0.lock().unwrap()[location.offset as usize].clone())
    }
}

impl Shelf {
    fn keep(&self, value: Bytes) -> Location {
        let mut values = self.0.lock().unwrap();
        let len = value.len() as u32;
        values.push(value);
        Location { run: 1, offset: values.len() as u64 - 1, len }
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    let letter = prop_oneof![Just(b'a'), Just(b'b'), Just(0), Just(0xff)];
    prop_oneof![
        4 => (0_u8..6).prop_map(|n| Bytes::from(vec![b'k', n + b'a'])),
        1 => prop::collection::vec(letter, 1..4).prop_map(Bytes::from),
    ]
}

fn range_end() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => Just(Bytes::new()),
        2 => Just(Bytes::from_static(b"\0")),
        4 => key(),
        1 => Just(Bytes::from_static(b"l")),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        (0_u8..4).prop_map(|n| Bytes::from(vec![n + b'0'])),
        (0_usize..300).prop_map(|n| Bytes::from(vec![b'v'; n])),
    ]
}

/// Leases 1 and 2 exist, 3 does not.
fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0_i64), 2 => Just(1), 2 => Just(2), 1 => Just(3)]
}

fn lease_exists(id: i64) -> bool {
    id < 3
}

fn put() -> impl Strategy<Value = PutRequest> {
    let flag = || prop::bool::weighted(0.2);
    (key(), value(), lease(), flag(), flag(), flag()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (key(), range_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

/// Revisions are drawn as distances from the current one, which the run adds.
fn range() -> impl Strategy<Value = RangeRequest> {
    let bound = || prop_oneof![4 => Just(0_i64), 1 => 1_i64..40];
    let revision = prop_oneof![3 => Just(0_i64), 1 => -3_i64..45];
    let sort = (prop_oneof![3 => Just(0), 3 => 0_i32..4], prop_oneof![3 => Just(0), 3 => 0_i32..6]);
    let bounds = (bound(), bound(), bound(), bound());
    (key(), range_end(), -1_i64..5, revision, sort, prop::bool::weighted(0.2), bounds, any::<u8>())
        .prop_map(|(key, range_end, limit, revision, sort, keys_only, bounds, count)| {
            RangeRequest {
                key,
                range_end,
                limit,
                revision,
                sort_order: sort.0,
                sort_target: sort.1,
                serializable: false,
                keys_only,
                count_only: count < 30,
                min_mod_revision: bounds.0,
                max_mod_revision: bounds.1,
                min_create_revision: bounds.2,
                max_create_revision: bounds.3,
            }
        })
}

/// What locks and elections ask for.
fn end_of_queue() -> impl Strategy<Value = RangeRequest> {
    let end = prop_oneof![Just(&b"\0"[..]), Just(&b"kd"[..]), Just(&b"l"[..])];
    let start = prop_oneof![Just(&b"\0"[..]), Just(&b"k"[..])];
    let bounds =
        (prop_oneof![2 => Just(0_i64), 1 => 1_i64..40], prop_oneof![Just(0_i64), 1_i64..40]);
    (start, end, 0_i32..3, bounds).prop_map(|(key, end, sort_order, bounds)| RangeRequest {
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(end),
        limit: 1,
        sort_order,
        sort_target: SortTarget::Create as i32,
        min_create_revision: bounds.0,
        max_create_revision: bounds.1,
        ..Default::default()
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let union = prop_oneof![
        Just(None),
        (0_i64..4).prop_map(|n| Some(TargetUnion::Version(n))),
        (0_i64..30).prop_map(|n| Some(TargetUnion::CreateRevision(n))),
        (0_i64..30).prop_map(|n| Some(TargetUnion::ModRevision(n))),
        (0_i64..3).prop_map(|n| Some(TargetUnion::Lease(n))),
        value().prop_map(|value| Some(TargetUnion::Value(value))),
    ];
    let end = prop_oneof![3 => Just(Bytes::new()), 1 => range_end()];
    (0_i32..4, 0_i32..5, key(), end, union).prop_map(|(result, target, key, range_end, union)| {
        Compare { result, target, key, range_end, target_union: union }
    })
}

fn ops(request: BoxedStrategy<Request>) -> impl Strategy<Value = Vec<RequestOp>> {
    prop::collection::vec(request.prop_map(|r| RequestOp { request: Some(r) }), 0..4)
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        put().prop_map(Request::RequestPut),
        delete().prop_map(Request::RequestDeleteRange),
        range().prop_map(Request::RequestRange),
        end_of_queue().prop_map(Request::RequestRange),
    ];
    let request = leaf.prop_recursive(2, 12, 3, |inner| {
        let sides = (ops(inner.clone()), ops(inner));
        (prop::collection::vec(compare(), 0..2), sides).prop_map(|(compare, sides)| {
            let (success, failure) = sides;
            Request::RequestTxn(TxnRequest { compare, success, failure })
        })
    });
    let sides = (ops(request.clone().boxed()), ops(request.boxed()));
    (prop::collection::vec(compare(), 0..3), sides)
        .prop_map(|(compare, (success, failure))| TxnRequest { compare, success, failure })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => put().prop_map(Step::Put),
        3 => delete().prop_map(Step::Delete),
        1 => prop::collection::vec(key(), 0..4).prop_map(Step::DeleteKeys),
        4 => txn().prop_map(Step::Txn),
        4 => (end_of_queue(), 1_usize..5, 1_usize..200).prop_map(|(r, k, b)| Step::Range(r, k, b)),
        6 => (range(), 1_usize..5, 1_usize..200).prop_map(|(r, k, b)| Step::Range(r, k, b)),
        2 => (-1_i64..12).prop_map(Step::Compact),
        2 => (1_usize..6).prop_map(Step::Sweep),
        2 => (-2_i64..20, 1_usize..6).prop_map(|(from, max)| Step::History(from, max)),
        1 => (-1_i64..12).prop_map(Step::Hash),
        1 => (0_i64..20, 0_u64..300, 1_usize..9).prop_map(|(r, b, m)| Step::Evict(r, b, m)),
        1 => Just(Step::Restore),
    ]
}

fn answer(response: &TxnResponse) -> Answer {
    let answers = response.responses.iter().map(|op| match op.response.as_ref().unwrap() {
        Response::ResponseRange(r) => {
            Answer::Range(RangeResult { kvs: r.kvs.clone(), more: r.more, count: r.count })
        }
        Response::ResponsePut(r) => Answer::Put(r.prev_kv.clone()),
        Response::ResponseDeleteRange(r) => Answer::Delete(r.deleted, r.prev_kvs.clone()),
        Response::ResponseTxn(r) => answer(r),
    });
    Answer::Txn(response.succeeded, answers.collect())
}

/// The real store, a second one that never sweeps nor evicts, and the twin.
struct Run {
    store: Store,
    lazy: Store,
    twin: Twin,
    shelf: Arc<Shelf>,
}

impl Run {
    fn new() -> Run {
        let shelf = Arc::new(Shelf::default());
        let mut store = Store::new();
        store.set_cold(shelf.clone());
        Run { store, lazy: Store::new(), twin: Twin::new(), shelf }
    }

    fn filled(&self, mut changes: Vec<Change>) -> Vec<Change> {
        let filled = changes.iter_mut().try_for_each(|change| self.store.fill_prev(change));
        filled.expect("the shelf can be read");
        changes
    }

    fn range(&mut self, request: &RangeRequest, max_keys: usize, max_bytes: usize) {
        let expected = self.twin.range(request, self.twin.revision);
        assert_eq!(self.store.range(request), expected, "{request:?}");
        assert_eq!(self.lazy.range(request), expected, "{request:?}");
        let mut cursor = match self.store.open_range(request) {
            Ok(cursor) => cursor,
            Err(error) => return assert_eq!(expected, Err(error)),
        };
        let mut kvs = Vec::new();
        while let Some(chunk) = self.store.next_chunk(&mut cursor, max_keys, max_bytes).unwrap() {
            assert!(chunk.len() <= max_keys);
            kvs.extend(chunk);
        }
        let result = RangeResult { kvs, more: cursor.more, count: cursor.count };
        assert_eq!(Ok(result), expected, "in chunks: {request:?}");
        if let Some(queue) = cursor.take_queue() {
            self.store.keep_queue(queue);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(request) => {
                let mut changes = Vec::new();
                let expected = self.twin.put(request, &mut changes, &lease_exists);
                self.twin.end(&changes);
                let outcome = self.store.put(request, &lease_exists);
                let _ = self.lazy.put(request, &lease_exists);
                match outcome {
                    Ok(outcome) => {
                        assert_eq!(Ok(Answer::Put(outcome.response.prev_kv)), expected);
                        assert_eq!(self.filled(outcome.changes), changes);
                    }
                    Err(error) => assert_eq!(Err(error), expected),
                }
            }
            Step::Delete(request) => {
                let mut changes = Vec::new();
                let expected = self.twin.delete(request, &mut changes);
                self.twin.end(&changes);
                let outcome = self.store.delete_range(request);
                self.lazy.delete_range(request);
                let response = outcome.response;
                assert_eq!(Answer::Delete(response.deleted, response.prev_kvs), expected);
                assert_eq!(self.filled(outcome.changes), changes);
            }
            Step::DeleteKeys(keys) => {
                let mut sorted = keys.clone();
                sorted.sort();
                let mut changes = Vec::new();
                for key in sorted {
                    let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
                    self.twin.delete(&request, &mut changes);
                }
                self.twin.end(&changes);
                let found = self.store.delete_keys(keys);
                self.lazy.delete_keys(keys);
                assert_eq!(self.filled(found), changes);
            }
            Step::Txn(request) => {
                let expected = self.twin.txn(request, &lease_exists);
                let _ = self.lazy.apply_txn(request, &lease_exists);
                match self.store.apply_txn(request, &lease_exists) {
                    Ok(outcome) => {
                        let changes = self.filled(outcome.changes);
                        assert_eq!(Ok((answer(&outcome.response), changes)), expected);
                    }
                    Err(error) => assert_eq!(Err(error), expected),
                }
            }
            Step::Range(request, max_keys, max_bytes) => {
                self.range(request, *max_keys, *max_bytes);
            }
            Step::Compact(distance) => {
                let revision = self.twin.revision - distance;
                let expected = self.twin.compact(revision);
                assert_eq!(self.store.compact(revision), expected);
                assert_eq!(self.lazy.compact(revision), expected);
            }
            Step::Sweep(max) => {
                self.store.compact_step(*max);
            }
            Step::History(from, max) => self.history(*from, *max),
            Step::Hash(distance) => self.hash(self.twin.revision - distance),
            Step::Evict(distance, budget, max) => self.evict(*distance, *budget, *max),
            Step::Restore => self.restore(),
        }
    }

    fn history(&self, from: i64, max: usize) {
        for store in [&self.store, &self.lazy] {
            let mut revisions = Vec::new();
            let mut next = from;
            loop {
                let chunk = store.history(next, max, 500).expect("it can be read");
                revisions.extend(chunk.revisions);
                next = chunk.next;
                if chunk.done {
                    break;
                }
            }
            for (_, changes) in &mut revisions {
                *changes = self.filled(std::mem::take(changes));
            }
            assert_eq!(revisions, self.twin.history(from));
            assert_eq!(next, from.max(self.twin.compacted).max(self.twin.revision + 1));
        }
    }

    fn hash(&self, revision: i64) {
        let found = self.store.hash_kv(revision);
        assert_eq!(self.lazy.hash_kv(revision), found);
        if let Ok((hash, compacted, revision)) = found {
            assert_eq!(hash, self.twin.hash(revision), "HashKV at {revision}");
            assert_eq!(compacted, self.twin.compacted);
        }
    }

    fn evict(&mut self, distance: i64, budget: u64, max: usize) {
        let up_to = self.twin.revision - distance;
        let records = self.store.records(Revision::default());
        let early = records.take_while(|record| record.revision.main <= up_to);
        let resident = early.filter(|record| record.value.resident_bytes() > 0);
        let oldest: Vec<Revision> = resident.take(max).map(|record| record.revision).collect();
        for revision in oldest {
            if self.store.resident_bytes() > budget {
                let value = self.lazy.value_of(revision).expect("the lazy store keeps all");
                self.store.relocate(revision, self.shelf.keep(value.unwrap()));
            }
        }
    }

    fn restore(&mut self) {
        let options = Restored {
            revision: self.store.revision(),
            compact_revision: self.store.compact_revision(),
        };
        let mut restore = Restore::new(Some(self.shelf.clone()));
        let mut restored_lazy = Restore::new(None);
        for record in self.store.records(Revision::default()) {
            let value = self.store.value_of(record.revision).unwrap().unwrap();
            let cold = (record.revision.main % 2 == 0).then(|| self.shelf.keep(value.clone()));
            restore.push(record.clone(), cold);
            let value = Value::Resident(value);
            restored_lazy.push(crate::mvcc::record::Record { value, ..record }, None);
        }
        let store = restore.finish(options);
        assert_eq!(store.record_count(), self.twin.entries.len());
        self.lazy = restored_lazy.finish(options);
        assert_eq!(store.state_hash(), self.store.state_hash());
        self.store = store;
    }

    fn check(&self) {
        for store in [&self.store, &self.lazy] {
            assert_eq!(store.revision(), self.twin.revision);
            assert_eq!(store.compact_revision(), self.twin.compacted);
            assert_eq!(store.live_bytes(), self.twin.live_bytes(RECORD_OVERHEAD_BYTES));
            let live = self.twin.live(b"", b"\0", i64::MAX).len() as u64;
            assert_eq!(store.key_count(), live);
            assert!(store.record_count() >= self.twin.entries.len());
        }
        assert_eq!(self.store.state_hash(), self.lazy.state_hash());
        let listed: Vec<_> =
            self.store.records(Revision::default()).map(|record| record.revision).collect();
        let expected: Vec<_> = self
            .twin
            .entries
            .iter()
            .map(|entry| Revision::new(entry.kv.mod_revision, entry.sub))
            .collect();
        assert_eq!(listed, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256, failure_persistence: None, ..ProptestConfig::default()
    })]
    #[test]
    fn the_store_is_its_twin(steps in prop::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        while run.store.compact_step(1) {}
        prop_assert_eq!(run.store.record_count(), run.twin.entries.len());
        let resident = run.store.resident_bytes();
        let values = run.twin.entries.iter().map(|entry| Value::Resident(entry.kv.value.clone()));
        prop_assert!(resident <= values.map(|value| value.resident_bytes()).sum());
    }
}
