//! Transactions: compares, a check of all that may fail, and the writes in one revision.

use crate::error::{Error, Result};
use crate::mvcc::change::{Change, DeleteOutcome, PutOutcome, TxnOutcome};
use crate::mvcc::compare::{side, txn_path};
use crate::mvcc::log::Version;
use crate::mvcc::owned::owned;
use crate::mvcc::range::check_sort;
use crate::mvcc::revision::KeyRange;
use crate::mvcc::store::Store;
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use bytes::Bytes;
use std::slice::Iter;

/// A write transaction: all its changes have one main revision, and it has none without changes.
///
/// Nothing here can be undone: what may fail is checked before the first write. Dropping it keeps
/// what was written.
pub struct WriteTxn<'a> {
    store: &'a mut Store,
    changes: Vec<Change>,
    /// A value that the answer should show can't be read.
    lost: bool,
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        self.store.revision = self.revision();
    }
}

impl<'a> WriteTxn<'a> {
    /// A transaction that expects this many changes.
    pub(super) fn new(store: &'a mut Store, changes: usize) -> WriteTxn<'a> {
        WriteTxn { store, changes: Vec::with_capacity(changes), lost: false }
    }

    /// The revision that a read inside the transaction stands at.
    pub fn revision(&self) -> i64 {
        self.store.revision + i64::from(!self.changes.is_empty())
    }

    fn next(&self) -> (i64, u32) {
        let sub = u32::try_from(self.changes.len()).expect("a transaction fits into memory");
        (self.store.revision + 1, sub)
    }

    /// Writes a version of `key`, attached to `lease` (0: none).
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> &Change {
        self.put_owned(key, owned(value), lease)
    }

    fn put_owned(&mut self, key: &[u8], value: Bytes, lease: i64) -> &Change {
        let change = self.store.write_put(self.next(), key, value, lease);
        self.changes.push(change);
        self.changes.last().expect("a change was pushed")
    }

    /// Deletes `key` if it lives.
    pub fn delete(&mut self, key: &[u8]) -> Option<&Change> {
        let id = self.store.index.get(&self.store.keys, key)?;
        if self.store.keys.entry(id).newest().tombstone {
            return None;
        }
        let change = self.store.write_delete(self.next(), id);
        self.changes.push(change);
        self.changes.last()
    }

    /// The changes, in order. The store stands at their revision.
    pub fn end(mut self) -> Vec<Change> {
        self.store.revision = self.revision();
        std::mem::take(&mut self.changes)
    }

    /// Whether the answer lacks a value that can't be read on this member.
    pub(super) fn lost(&self) -> bool {
        self.lost
    }

    /// A put as the API asks for it; refused before it writes. `Unreadable` says that it needs a
    /// value which can't be read now: then nothing has happened.
    pub(super) fn apply_put(&mut self, request: &PutRequest) -> Result<PutResponse> {
        let mut prev_kv = None;
        let mut value = None;
        let mut lease = request.lease;
        if request.prev_kv || request.ignore_value || request.ignore_lease {
            let prev = self.store.newest(&request.key);
            if request.ignore_value || request.ignore_lease {
                let prev = prev.ok_or(Error::KeyNotFound)?;
                if request.ignore_value {
                    value = Some(self.store.value(&prev.value)?);
                }
                lease = if request.ignore_lease { prev.lease } else { lease };
            }
            if request.prev_kv {
                let read = prev.map(|prev| self.store.key_value(prev)).transpose();
                self.lost |= read.is_err();
                prev_kv = read.unwrap_or_default();
            }
        }
        let value = value.unwrap_or_else(|| owned(&request.value));
        self.put_owned(&request.key, value, lease);
        Ok(PutResponse { header: None, prev_kv })
    }

    /// A delete as the API asks for it.
    pub(super) fn apply_delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> DeleteRangeResponse {
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut doomed = Vec::new();
        let keys = &self.store.keys;
        self.store.index.visit(keys, range.bounds(), false, &mut |id| {
            if !keys.entry(id).newest().tombstone {
                doomed.push(id);
            }
            true
        });
        let mut response = DeleteRangeResponse::default();
        for id in doomed {
            let mut change = self.store.write_delete(self.next(), id);
            if request.prev_kv {
                self.lost |= self.store.fill_prev(&mut change).is_err();
                response.prev_kvs.extend(change.prev.clone());
            }
            response.deleted += 1;
            self.changes.push(change);
        }
        response
    }

    fn apply_range(&mut self, request: &RangeRequest) -> Result<RangeResponse> {
        let (found, queue) = match self.store.range_and_queue(request, self.revision()) {
            Err(Error::Unreadable) => {
                self.lost = true;
                return Ok(RangeResponse::default());
            }
            found => found?,
        };
        if let Some(queue) = queue {
            self.store.keep_queue(queue);
        }
        let (kvs, more, count) = (found.kvs, found.more, found.count);
        Ok(RangeResponse { header: None, kvs, more, count })
    }

    /// Executes the side of `request` that `path` chose; `path` holds the outcome of each
    /// transaction's compares, outermost first and in order.
    fn apply_ops(&mut self, request: &TxnRequest, path: &mut Iter<'_, bool>) -> TxnResponse {
        let succeeded = *path.next().expect("the path has an outcome for each transaction");
        let mut responses = Vec::new();
        for op in side(request, succeeded) {
            let op = op.request.as_ref().expect("checked before the first write");
            responses.push(ResponseOp { response: Some(self.apply_op(op, path)) });
        }
        TxnResponse { header: None, succeeded, responses }
    }

    fn apply_op(&mut self, op: &Request, path: &mut Iter<'_, bool>) -> Response {
        match op {
            Request::RequestRange(request) => {
                let mut response = self.apply_range(request).expect("ranges are checked before");
                response.header = self.header();
                Response::ResponseRange(response)
            }
            Request::RequestPut(request) => {
                let mut response = self.apply_put(request).expect("puts are checked before");
                response.header = self.header();
                Response::ResponsePut(response)
            }
            Request::RequestDeleteRange(request) => {
                let mut response = self.apply_delete_range(request);
                response.header = self.header();
                Response::ResponseDeleteRange(response)
            }
            Request::RequestTxn(request) => {
                let mut response = self.apply_ops(request, path);
                response.header = Some(ResponseHeader::default());
                Response::ResponseTxn(response)
            }
        }
    }

    /// The header of a response inside a transaction: in etcd it has the revision alone.
    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.revision(), ..ResponseHeader::default() })
    }
}

impl Store {
    /// The newest version of a key, if it lives.
    fn newest(&self, key: &[u8]) -> Option<&Version> {
        let id = self.index.get(&self.keys, key)?;
        self.visible(id, i64::MAX)
    }

    /// Begins a transaction that takes the next revision once it changes something.
    pub fn write(&mut self) -> WriteTxn<'_> {
        WriteTxn::new(self, 0)
    }

    /// Applies one put as a transaction of its own.
    pub fn put(
        &mut self,
        request: &PutRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<PutOutcome> {
        // etcd looks at the lease before the key (apply.go, Put).
        if request.lease != 0 && !lease_exists(request.lease) {
            return Err(Error::LeaseNotFound);
        }
        let mut txn = WriteTxn::new(self, 1);
        let response = txn.apply_put(request)?;
        let lost = txn.lost();
        Ok(PutOutcome { response, changes: txn.end(), lost })
    }

    /// Deletes the live keys of a range as a transaction of its own.
    pub fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteOutcome {
        let mut txn = self.write();
        let response = txn.apply_delete_range(request);
        let lost = txn.lost();
        DeleteOutcome { response, changes: txn.end(), lost }
    }

    /// Deletes those of `keys` that live, in key order and in one revision, as the end of a lease
    /// does. Without any, the revision stays.
    pub fn delete_keys(&mut self, keys: &[Bytes]) -> Vec<Change> {
        let mut sorted: Vec<&Bytes> = keys.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let mut txn = self.write();
        for key in sorted {
            txn.delete(key);
        }
        txn.end()
    }

    /// Applies a transaction: all compares first, those of nested transactions too; then a check
    /// of everything that may be refused; then the operations, which cannot fail.
    ///
    /// The checks look at the logical state alone, so that members whose physical compaction
    /// stands at different points agree.
    ///
    /// # Errors
    /// `Unreadable` when a value can't be read that decides what is written; then nothing is.
    pub fn apply_txn(
        &mut self,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<TxnOutcome> {
        let path = txn_path(self, request)?;
        let mut check = Check { store: self, lease_exists, written: Vec::new() };
        check.puts(request, &mut path.iter())?;
        check.ranges(request, &mut path.iter())?;
        let mut txn = self.write();
        let response = txn.apply_ops(request, &mut path.iter());
        let lost = txn.lost();
        Ok(TxnOutcome { response, changes: txn.end(), lost })
    }
}

/// The checks that come before the first write, in etcd's order: puts, then ranges.
struct Check<'a> {
    store: &'a Store,
    lease_exists: &'a dyn Fn(i64) -> bool,
    /// What the operations before the one being checked put (true) or delete (false).
    written: Vec<(KeyRange, bool)>,
}

impl Check<'_> {
    fn puts(&mut self, request: &TxnRequest, path: &mut Iter<'_, bool>) -> Result<()> {
        let succeeded = *path.next().expect("the path has an outcome for each transaction");
        for op in side(request, succeeded) {
            match op.request.as_ref().ok_or(Error::KeyNotFound)? {
                Request::RequestRange(_) => {}
                Request::RequestPut(request) => self.put(request)?,
                Request::RequestDeleteRange(request) => {
                    let range = KeyRange::new(&request.key, &request.range_end);
                    self.written.push((range, false));
                }
                Request::RequestTxn(request) => self.puts(request, path)?,
            }
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest) -> Result<()> {
        if (request.ignore_value || request.ignore_lease) && !self.lives(&request.key) {
            return Err(Error::KeyNotFound);
        }
        if request.ignore_value
            && let Some(prev) = self.store.newest(&request.key)
        {
            // Read once more when it is written: what decides must be seen before the first write.
            self.store.value(&prev.value)?;
        }
        if request.lease != 0 && !(self.lease_exists)(request.lease) {
            return Err(Error::LeaseNotFound);
        }
        self.written.push((KeyRange::One(request.key.clone()), true));
        Ok(())
    }

    /// Whether `key` lives when the operation being checked is executed. (The API refuses
    /// transactions that write a key twice; the store does not depend on it.)
    fn lives(&self, key: &Bytes) -> bool {
        if let Some((_, put)) = self.written.iter().rev().find(|(range, _)| range.contains(key)) {
            return *put;
        }
        let id = self.store.index.get(&self.store.keys, key);
        id.is_some_and(|id| !self.store.keys.entry(id).newest().tombstone)
    }

    fn ranges(&self, request: &TxnRequest, path: &mut Iter<'_, bool>) -> Result<()> {
        let succeeded = *path.next().expect("the path has an outcome for each transaction");
        for op in side(request, succeeded) {
            match op.request.as_ref().ok_or(Error::KeyNotFound)? {
                Request::RequestRange(request) => self.range(request)?,
                Request::RequestPut(_) | Request::RequestDeleteRange(_) => {}
                Request::RequestTxn(request) => self.ranges(request, path)?,
            }
        }
        Ok(())
    }

    /// etcd's `checkRange` (apply.go): unlike a range on its own, a negative revision here is
    /// compared with the compact revision.
    fn range(&self, request: &RangeRequest) -> Result<()> {
        check_sort(request)?;
        if request.revision > self.store.revision {
            return Err(Error::FutureRevision);
        }
        if request.revision != 0 && request.revision < self.store.compacted {
            return Err(Error::Compacted);
        }
        Ok(())
    }
}
