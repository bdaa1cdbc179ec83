//! Small cases of the store that need no script.

use crate::mvcc::store::Store;
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
