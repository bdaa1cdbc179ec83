//! Small cases of the store that need no script.

use crate::mvcc::store::Store;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::{PutRequest, RangeRequest};
use bytes::Bytes;

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
    assert_eq!(store.history(3, 10, 1000).revisions[0].1[0].prev, None);
    assert!(store.history(3, 10, 1000).revisions[0].1[0].deleted);
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
