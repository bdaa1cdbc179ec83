//! Small cases of the store that need no script.

use crate::error::{Error, Result};
use crate::mvcc::record::{ColdValues, Location};
use crate::mvcc::revision::Revision;
use crate::mvcc::store::Store;
use crate::pb::etcdserverpb::compare::{CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

#[test]
fn the_first_write_is_revision_two() {
    let mut store = Store::new();
    assert_eq!(store.revision(), 1);
    let request = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    let outcome = store.put(&request, &|_| false).unwrap();
    assert_eq!(store.revision(), 2);
    assert_eq!(outcome.changes[0].kv.create_revision, 2);
    let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
    let found = store.range(&request).unwrap();
    assert_eq!((found.count, found.kvs[0].value.clone()), (1, Bytes::from("v")));
}

#[test]
fn a_delete_and_a_compaction_leave_nothing() {
    let mut store = Store::new();
    let request = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    store.put(&request, &|_| false).unwrap();
    store.delete_keys(&["k".into()]);
    store.put(&PutRequest { key: "l".into(), ..PutRequest::default() }, &|_| false).unwrap();
    store.compact(3).unwrap();
    while store.compact_step(1) {}
    assert_eq!(store.record_count(), 2);
    assert_eq!(store.history(3, 10, 1000).expect("in memory").revisions[0].1[0].prev, None);
    assert!(store.history(3, 10, 1000).expect("in memory").revisions[0].1[0].deleted);
    store.compact(4).unwrap();
    while store.compact_step(1) {}
    assert_eq!((store.record_count(), store.key_count()), (1, 1));
}

/// The answer of a range that is read one key at a time, and in how many steps it came.
fn in_steps(store: &mut Store, request: &RangeRequest) -> (Vec<Bytes>, bool, usize) {
    let mut cursor = store.open_range(request).unwrap();
    let (mut keys, mut steps) = (Vec::new(), 0);
    while let Some(chunk) = store.next_chunk(&mut cursor, 1, usize::MAX).unwrap() {
        keys.extend(chunk.into_iter().map(|kv| kv.key));
        steps += 1;
    }
    if let Some(queue) = cursor.take_queue() {
        store.keep_queue(queue);
    }
    (keys, cursor.more, steps)
}

#[test]
fn the_ends_of_a_queue_are_found_without_a_visit_to_all_of_it() {
    let mut store = Store::new();
    // Created in another order than that of the keys: 7 and 100 have no common divisor.
    for n in 0..100 {
        let key = Bytes::from(format!("lock/{:02}", n * 7 % 100));
        store.put(&PutRequest { key, ..PutRequest::default() }, &|_| false).unwrap();
    }
    let first = RangeRequest {
        key: "lock/".into(),
        range_end: "lock0".into(),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::default()
    };
    let order = SortOrder::Descend as i32;
    let before = RangeRequest { sort_order: order, max_create_revision: 50, ..first.clone() };
    let (keys, more, steps) = in_steps(&mut store, &first);
    assert_eq!((keys, more), (vec![Bytes::from("lock/00")], true));
    assert!(steps > 100, "nobody had asked before");
    let front = in_steps(&mut store, &first);
    assert_eq!(front, (vec![Bytes::from("lock/00")], true, 1));
    let neighbour = Bytes::from(format!("lock/{:02}", 48 * 7 % 100));
    assert_eq!(in_steps(&mut store, &before), (vec![neighbour], true, 1));
    store.delete_keys(&["lock/00".into()]);
    let front = in_steps(&mut store, &first);
    assert_eq!(front, (vec![Bytes::from("lock/07")], true, 1));
}

#[test]
fn a_limit_without_an_order_cuts_by_key_before_the_sort() {
    let mut store = Store::new();
    for key in ["d", "c", "b", "a"] {
        let put = PutRequest { key: key.into(), ..PutRequest::default() };
        store.put(&put, &|_| false).unwrap();
    }
    let unordered = RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        limit: 1,
        sort_order: SortOrder::None as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::default()
    };
    // Of a and b, the first two by key, b is the older one; d is older than both.
    let found = store.range(&unordered).unwrap();
    assert_eq!((found.kvs[0].key.as_ref(), found.more, found.count), (&b"b"[..], true, 4));
    let filtered = RangeRequest { min_create_revision: 1, ..unordered.clone() };
    assert_eq!(store.range(&filtered).unwrap().kvs[0].key, "d");
    let all = RangeRequest { limit: 4, ..unordered };
    let keys = store.range(&all).unwrap().kvs.into_iter().map(|kv| kv.key);
    assert_eq!(keys.collect::<Vec<_>>(), ["d", "c", "b", "a"]);
}

/// A disk of which some values can't be read.
#[derive(Default)]
struct Shelf {
    values: Mutex<Vec<Bytes>>,
    damaged: AtomicBool,
}

impl ColdValues for Shelf {
    fn read(&self, location: Location) -> Result<Bytes> {
        if self.damaged.load(Ordering::Relaxed) {
            return Err(Error::Unreadable);
        }
        Ok(self.values.lock().unwrap()[location.offset as usize].clone())
    }
}

/// A store whose value at revision 2, of key "a", lies on a disk.
fn store_with_a_cold_value() -> (Store, Arc<Shelf>) {
    let shelf = Arc::new(Shelf::default());
    let mut store = Store::new();
    store.set_cold(shelf.clone());
    store.put(&put("a", "old"), &|_| false).unwrap();
    shelf.values.lock().unwrap().push(Bytes::from("old"));
    let place = Location { run: 1, offset: 0, len: 3 };
    assert!(store.relocate(Revision::new(2, 0), place));
    (store, shelf)
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// What can't be read on one member changes nothing of what is written there.
#[test]
fn a_damaged_value_decides_nothing_and_takes_only_the_answer() {
    let (mut whole, _) = store_with_a_cold_value();
    let (mut damaged, shelf) = store_with_a_cold_value();
    shelf.damaged.store(true, Ordering::Relaxed);
    let with_prev = PutRequest { prev_kv: true, ..put("a", "new") };
    let range = RangeRequest { key: "a".into(), revision: 2, ..RangeRequest::default() };
    let txn = TxnRequest {
        success: vec![
            op(Request::RequestRange(range.clone())),
            op(Request::RequestPut(put("b", "1"))),
        ],
        ..TxnRequest::default()
    };
    let mut outcomes = Vec::new();
    for store in [&mut whole, &mut damaged] {
        let put = store.put(&with_prev, &|_| false).unwrap();
        let txn = store.apply_txn(&txn, &|_| false).unwrap();
        outcomes.push((put.lost, txn.lost, store.revision(), store.state_hash()));
    }
    let (revision, hash) = (whole.revision(), whole.state_hash());
    assert_eq!(outcomes, [(false, false, revision, hash), (true, true, revision, hash)]);
    assert_eq!(damaged.range(&range), Err(Error::Unreadable));
    assert!(damaged.history(2, 10, 1000).is_err(), "the first revision can't be read");
}

#[test]
fn what_depends_on_a_damaged_value_waits_and_writes_nothing() {
    let (mut store, shelf) = store_with_a_cold_value();
    shelf.damaged.store(true, Ordering::Relaxed);
    let hash = store.state_hash();
    let keeps = PutRequest { ignore_value: true, lease: 1, ..put("a", "") };
    assert_eq!(store.put(&keeps, &|_| true), Err(Error::Unreadable));
    let nested = TxnRequest {
        success: vec![op(Request::RequestPut(put("b", "1"))), op(Request::RequestPut(keeps))],
        ..TxnRequest::default()
    };
    assert_eq!(store.apply_txn(&nested, &|_| true), Err(Error::Unreadable));
    let compare = Compare {
        key: "a".into(),
        target: CompareTarget::Value.into(),
        target_union: Some(TargetUnion::Value("old".into())),
        ..Compare::default()
    };
    let swap = TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(put("b", "1")))],
        ..TxnRequest::default()
    };
    assert_eq!(store.apply_txn(&swap, &|_| true), Err(Error::Unreadable));
    assert_eq!((store.revision(), store.state_hash()), (2, hash));
    // What comes from elsewhere counts only if it is the value that was written.
    assert!(!store.heal(Revision::new(2, 0), b"odd"));
    assert!(!store.heal(Revision::new(3, 0), b"old"), "there is no such record");
    assert!(store.heal(Revision::new(2, 0), b"old"));
    let value = crate::mvcc::record::Value::Resident("old".into());
    assert_eq!(store.resident_bytes(), value.resident_bytes());
    assert!(store.apply_txn(&swap, &|_| true).unwrap().response.succeeded);
}
