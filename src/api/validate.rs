//! The checks that a request must pass before it is proposed, in etcd's order, so that the first
//! failure is the same one. Source: etcd's `server/etcdserver/api/v3rpc/key.go`.
//!
//! Where we are stricter, on purpose: a range that ends in `"\0"` has no end also when deletes
//! and puts of one transaction are compared (etcd compares it literally there and overlooks the
//! overlap), and a comparison with an unknown operator or target is refused (etcd calls an unknown
//! operator true and compares an unknown target as if both sides were equal).

use crate::error::{Error, Result};
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};

/// Checks a read.
pub fn check_range(request: &RangeRequest) -> Result<()> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Error::InvalidSortOption);
    }
    Ok(())
}

/// Whether a read asks for what only a whole answer can give: an order or a filter.
pub enum StreamLimit {
    Order,
    Filter,
}

/// Checks a read that is answered in chunks; chunks go out in key order, unfiltered.
pub fn check_range_stream(request: &RangeRequest) -> Result<Option<StreamLimit>> {
    check_range(request)?;
    let by_key = request.sort_target == SortTarget::Key as i32;
    if !by_key || request.sort_order == SortOrder::Descend as i32 {
        return Ok(Some(StreamLimit::Order));
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    Ok(filters.iter().any(|revision| *revision != 0).then_some(StreamLimit::Filter))
}

/// Checks a write of one key.
pub fn check_put(request: &PutRequest) -> Result<()> {
    if request.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<()> {
    if request.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction: first its operations, then whether two of them meet on a key.
pub fn check_txn(request: &TxnRequest, max_ops: usize) -> Result<()> {
    check_ops(request, max_ops)?;
    Touched::of(&request.success)?;
    Touched::of(&request.failure)?;
    Ok(())
}

/// The longest of the three lists counts against the budget, and what it leaves is the budget of
/// each nested transaction. A nested one costs at least the one operation that holds it, so the
/// recursion is no deeper than `max_ops`.
fn check_ops(request: &TxnRequest, max_ops: usize) -> Result<()> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = max_ops.checked_sub(longest) else {
        return Err(Error::TooManyOps);
    };
    for compare in &request.compare {
        check_compare(compare)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        check_op(op, left)?;
    }
    Ok(())
}

fn check_compare(compare: &Compare) -> Result<()> {
    if compare.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    if CompareResult::try_from(compare.result).is_err() {
        return Err(Error::UnknownEnum("compare result"));
    }
    if CompareTarget::try_from(compare.target).is_err() {
        return Err(Error::UnknownEnum("compare target"));
    }
    Ok(())
}

fn check_op(op: &RequestOp, max_ops: usize) -> Result<()> {
    match &op.request {
        Some(Request::RequestRange(request)) => check_range(request),
        Some(Request::RequestPut(request)) => check_put(request),
        Some(Request::RequestDeleteRange(request)) => check_delete_range(request),
        Some(Request::RequestTxn(request)) => check_ops(request, max_ops),
        // Etcd's word for an operation that says nothing.
        None => Err(Error::KeyNotFound),
    }
}

/// The keys that a list of operations may put, and the ranges that it may delete.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Ranges,
}

impl<'a> Touched<'a> {
    /// Fails where a put meets another put or a delete of the same list, nested transactions
    /// included. The branches of one nested transaction exclude each other, so a key may stand in
    /// both; deletes may overlap deletes, for the second finds nothing.
    fn of(ops: &'a [RequestOp]) -> Result<Touched<'a>> {
        let mut touched = Touched::default();
        for op in ops {
            if let Some(Request::RequestDeleteRange(delete)) = &op.request {
                touched.deletes.insert(&delete.key, &delete.range_end);
            }
        }
        for op in ops {
            if let Some(Request::RequestTxn(txn)) = &op.request {
                touched.nested(Touched::of(&txn.success)?, Touched::of(&txn.failure)?)?;
            }
        }
        for op in ops {
            if let Some(Request::RequestPut(put)) = &op.request {
                touched.put(&put.key)?;
            }
        }
        Ok(touched)
    }

    fn nested(&mut self, success: Touched<'a>, failure: Touched<'a>) -> Result<()> {
        for key in &success.puts {
            self.put(key)?;
        }
        for key in failure.puts {
            if !success.puts.contains(key) {
                self.put(key)?;
            }
        }
        self.deletes.union(success.deletes);
        self.deletes.union(failure.deletes);
        Ok(())
    }

    fn put(&mut self, key: &'a [u8]) -> Result<()> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }
}

/// A union of key ranges.
///
/// Invariant: begin to end, half open, `None` for no end; no two of them overlap or touch, so a
/// look-up is one step in the map however many deletes a request holds.
#[derive(Default)]
struct Ranges(BTreeMap<Bytes, Option<Bytes>>);

impl Ranges {
    /// Adds the range of a delete. A range that ends before it begins holds nothing.
    fn insert(&mut self, key: &Bytes, range_end: &Bytes) {
        match &range_end[..] {
            [] => self.add(key.clone(), Some(successor(key))),
            [0] => self.add(key.clone(), None),
            end if end > &key[..] => self.add(key.clone(), Some(range_end.clone())),
            _ => {}
        }
    }

    fn add(&mut self, mut begin: Bytes, mut end: Option<Bytes>) {
        if let Some((before, before_end)) = self.0.range(..=begin.clone()).next_back()
            && before_end.as_ref().is_none_or(|before_end| *before_end >= begin)
        {
            begin = before.clone();
        }
        while let Some((next, next_end)) = self.0.range(begin.clone()..).next() {
            if end.as_ref().is_some_and(|end| next > end) {
                break;
            }
            let next = next.clone();
            end = match (end, next_end.clone()) {
                (Some(one), Some(other)) => Some(one.max(other)),
                _ => None,
            };
            self.0.remove(&next);
        }
        self.0.insert(begin, end);
    }

    fn union(&mut self, other: Ranges) {
        for (begin, end) in other.0 {
            self.add(begin, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Unbounded, Included(key))).next_back();
        before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < &end[..]))
    }
}

/// The first key after `key`.
fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn put(k: &str) -> RequestOp {
        let put = PutRequest { key: key(k), ..Default::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(k: &str, end: &str) -> RequestOp {
        let delete = DeleteRangeRequest { key: key(k), range_end: key(end), prev_kv: false };
        RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn get(k: &str) -> RequestOp {
        let range = RangeRequest { key: key(k), ..Default::default() };
        RequestOp { request: Some(Request::RequestRange(range)) }
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        let txn = TxnRequest { compare: vec![], success, failure };
        RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    fn success(success: Vec<RequestOp>) -> Result<()> {
        check_txn(&TxnRequest { compare: vec![], success, failure: vec![] }, 128)
    }

    #[test]
    fn a_read_needs_a_key_and_known_enums() {
        let mut range = RangeRequest::default();
        assert_eq!(check_range(&range), Err(Error::EmptyKey));
        range.key = key("a");
        assert_eq!(check_range(&range), Ok(()));
        // This pair kills etcd 3.4.23 and 3.5.30.
        range.sort_order = 1;
        range.sort_target = 9;
        assert_eq!(check_range(&range), Err(Error::InvalidSortOption));
        range.sort_order = 9;
        range.sort_target = 0;
        assert_eq!(check_range(&range), Err(Error::InvalidSortOption));
        range.sort_order = -1;
        assert_eq!(check_range(&range), Err(Error::InvalidSortOption));
    }

    #[test]
    fn chunks_have_key_order_and_no_filter() {
        let plain = RangeRequest { key: key("a"), ..Default::default() };
        assert!(matches!(check_range_stream(&plain), Ok(None)));
        let ascend = RangeRequest { sort_order: 1, ..plain.clone() };
        assert!(matches!(check_range_stream(&ascend), Ok(None)));
        let descend = RangeRequest { sort_order: 2, ..plain.clone() };
        assert!(matches!(check_range_stream(&descend), Ok(Some(StreamLimit::Order))));
        let by_version = RangeRequest { sort_target: 1, ..plain.clone() };
        assert!(matches!(check_range_stream(&by_version), Ok(Some(StreamLimit::Order))));
        let filter = RangeRequest { max_create_revision: 3, ..plain };
        assert!(matches!(check_range_stream(&filter), Ok(Some(StreamLimit::Filter))));
    }

    #[test]
    fn a_put_says_what_it_keeps_only_once() {
        let mut request = PutRequest::default();
        assert_eq!(check_put(&request), Err(Error::EmptyKey));
        request.key = key("a");
        request.value = key("v");
        request.lease = 7;
        request.ignore_value = true;
        request.ignore_lease = true;
        assert_eq!(check_put(&request), Err(Error::ValueProvided));
        request.value = Bytes::new();
        assert_eq!(check_put(&request), Err(Error::LeaseProvided));
        request.lease = 0;
        assert_eq!(check_put(&request), Ok(()));
    }

    #[test]
    fn the_budget_counts_the_longest_list_and_shrinks_inside() {
        let puts = |n: usize| (0..n).map(|i| put(&format!("{i}"))).collect::<Vec<_>>();
        assert_eq!(success(puts(128)), Ok(()));
        assert_eq!(success(puts(129)), Err(Error::TooManyOps));
        let mut ops = puts(28);
        ops.push(nested((0..99).map(|i| get(&format!("x{i}"))).collect(), vec![]));
        assert_eq!(success(ops), Ok(()));
        let mut ops = puts(28);
        ops.push(nested(vec![], (0..100).map(|i| get(&format!("x{i}"))).collect()));
        assert_eq!(success(ops), Err(Error::TooManyOps));
        let mut deep = nested(vec![], vec![]);
        for _ in 0..127 {
            deep = nested(vec![deep], vec![]);
        }
        assert_eq!(success(vec![deep.clone()]), Ok(()));
        assert_eq!(success(vec![nested(vec![deep], vec![])]), Err(Error::TooManyOps));
    }

    #[test]
    fn failures_come_in_the_order_of_etcd() {
        let no_key = Compare::default();
        let empty_op = RequestOp { request: None };
        let both = TxnRequest {
            compare: vec![no_key],
            success: vec![empty_op.clone(), put("a"), put("a")],
            failure: vec![],
        };
        assert_eq!(check_txn(&both, 2), Err(Error::TooManyOps));
        assert_eq!(check_txn(&both, 3), Err(Error::EmptyKey));
        let ops = TxnRequest { compare: vec![], ..both };
        assert_eq!(check_txn(&ops, 3), Err(Error::KeyNotFound));
        // Duplicates are looked for only when each operation is sound.
        assert_eq!(success(vec![put("a"), put("a"), put("")]), Err(Error::EmptyKey));
    }

    #[test]
    fn comparisons_name_a_known_operator_and_target() {
        let compare = |result, target| TxnRequest {
            compare: vec![Compare { result, target, key: key("a"), ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(check_txn(&compare(3, 4), 128), Ok(()));
        assert_eq!(check_txn(&compare(4, 0), 128), Err(Error::UnknownEnum("compare result")));
        assert_eq!(check_txn(&compare(0, 5), 128), Err(Error::UnknownEnum("compare target")));
    }

    #[test]
    fn puts_meet_neither_puts_nor_deletes() {
        let duplicate = Err(Error::DuplicateKey);
        assert_eq!(success(vec![put("a"), put("a")]), duplicate);
        assert_eq!(success(vec![put("a"), delete("a", "")]), duplicate);
        assert_eq!(success(vec![put("a"), delete("a", "b")]), duplicate);
        assert_eq!(success(vec![put("b"), delete("a", "b")]), Ok(()));
        assert_eq!(success(vec![put("z"), delete("a", "\0")]), duplicate);
        assert_eq!(success(vec![put("a"), delete("b", "\0")]), Ok(()));
        assert_eq!(success(vec![put("b"), delete("b", "a")]), Ok(()));
        assert_eq!(success(vec![put("b"), delete("b", "b")]), Ok(()));
        assert_eq!(success(vec![put("a"), delete("b", "a")]), Ok(()));
        assert_eq!(success(vec![delete("a", "c"), delete("b", "d")]), Ok(()));
        assert_eq!(success(vec![put("a"), get("a")]), Ok(()));
    }

    #[test]
    fn branches_of_one_nested_transaction_exclude_each_other() {
        let duplicate = Err(Error::DuplicateKey);
        assert_eq!(success(vec![nested(vec![put("a")], vec![put("a")])]), Ok(()));
        let twice = vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])];
        assert_eq!(success(twice), duplicate);
        assert_eq!(success(vec![nested(vec![put("a")], vec![]), put("a")]), duplicate);
        assert_eq!(success(vec![nested(vec![delete("a", "")], vec![]), put("a")]), duplicate);
        assert_eq!(success(vec![nested(vec![put("a")], vec![]), delete("a", "")]), duplicate);
        assert_eq!(success(vec![nested(vec![put("a")], vec![delete("a", "")])]), Ok(()));
        let both = TxnRequest { compare: vec![], success: vec![put("a")], failure: vec![put("a")] };
        assert_eq!(check_txn(&both, 128), Ok(()));
    }

    proptest! {
        /// The twin asks every range in turn.
        #[test]
        fn ranges_hold_what_a_list_of_them_holds(
            ranges in prop::collection::vec(("[a-e]{1,2}", "[a-e]{0,2}|\0"), 0..12),
            probe in "[a-e]{1,3}",
        ) {
            let mut merged = Ranges::default();
            for (begin, end) in &ranges {
                merged.insert(&key(begin), &key(end));
            }
            let twin = ranges.iter().any(|(begin, end)| {
                match end.as_str() {
                    "" => *begin == probe,
                    "\0" => *begin <= probe,
                    end => *begin <= probe && probe.as_str() < end,
                }
            });
            prop_assert_eq!(merged.contains(probe.as_bytes()), twin);
            let list: Vec<_> = merged.0.iter().collect();
            for pair in list.windows(2) {
                let end = pair[0].1.as_ref().expect("only the last range has no end");
                prop_assert!(end < pair[1].0, "{:?} and {:?} touch", pair[0], pair[1]);
            }
        }
    }
}
