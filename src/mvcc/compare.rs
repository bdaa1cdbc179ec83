//! The compares of a transaction.

use crate::error::Result;
use crate::mvcc::log::Version;
use crate::mvcc::revision::KeyRange;
use crate::mvcc::store::Store;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{Compare, RequestOp, TxnRequest};
use bytes::Bytes;
use std::cmp::Ordering;

/// The outcome of the compares of `request` and of each transaction nested in the side that is
/// chosen, outermost first and in order. Nothing is written before all are known.
pub(super) fn txn_path(store: &Store, request: &TxnRequest) -> Result<Vec<bool>> {
    let mut path = Vec::with_capacity(1);
    walk(store, request, &mut path)?;
    Ok(path)
}

fn walk(store: &Store, request: &TxnRequest, path: &mut Vec<bool>) -> Result<()> {
    let mut succeeded = true;
    for compare in &request.compare {
        if !holds(store, compare)? {
            succeeded = false;
            break;
        }
    }
    path.push(succeeded);
    for op in side(request, succeeded) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            walk(store, nested, path)?;
        }
    }
    Ok(())
}

/// The operations that the outcome of the compares chooses.
pub(super) fn side(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// Whether all keys of the range satisfy the compare. Without any key, an absent key is compared
/// as one with zero revisions, version and lease; its value satisfies nothing, not even
/// NOT_EQUAL.
fn holds(store: &Store, compare: &Compare) -> Result<bool> {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    if let KeyRange::One(key) = &range {
        let id = store.index.get(&store.keys, key);
        return match id.and_then(|id| store.visible(id, i64::MAX)) {
            Some(record) => holds_for(store, compare, record),
            None => Ok(holds_for_absent(compare)),
        };
    }
    let mut found = false;
    let mut outcome = Ok(true);
    store.index.visit(&store.keys, range.bounds(), false, &mut |id| {
        if let Some(record) = store.visible(id, i64::MAX) {
            found = true;
            outcome = holds_for(store, compare, record);
        }
        matches!(outcome, Ok(true))
    });
    if found { outcome } else { Ok(holds_for_absent(compare)) }
}

fn holds_for_absent(compare: &Compare) -> bool {
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => return false,
        Ok(target) => 0.cmp(&operand(compare, target)),
        Err(_) => Ordering::Equal,
    };
    satisfies(compare, ordering)
}

fn holds_for(store: &Store, compare: &Compare, record: &Version) -> Result<bool> {
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let expected = match &compare.target_union {
                Some(TargetUnion::Value(value)) => value.clone(),
                _ => Bytes::new(),
            };
            store.value(&record.value)?.cmp(&expected)
        }
        Ok(target) => {
            let actual = match target {
                CompareTarget::Version => record.version,
                CompareTarget::Create => record.create_revision,
                CompareTarget::Mod => record.main,
                CompareTarget::Lease => record.lease,
                CompareTarget::Value => unreachable!("matched above"),
            };
            actual.cmp(&operand(compare, target))
        }
        // etcd finds a target that it does not know equal.
        Err(_) => Ordering::Equal,
    };
    Ok(satisfies(compare, ordering))
}

/// The number to compare with: 0 unless the operand of this very target is given.
fn operand(compare: &Compare, target: CompareTarget) -> i64 {
    match (target, &compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(number)))
        | (CompareTarget::Create, Some(TargetUnion::CreateRevision(number)))
        | (CompareTarget::Mod, Some(TargetUnion::ModRevision(number)))
        | (CompareTarget::Lease, Some(TargetUnion::Lease(number))) => *number,
        _ => 0,
    }
}

fn satisfies(compare: &Compare, ordering: Ordering) -> bool {
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        // etcd takes a result that it does not know as satisfied.
        Err(_) => true,
    }
}
