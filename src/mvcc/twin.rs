//! The dumb twin of the store: all versions in one list, every question a scan.

use crate::error::{Error, Result};
use crate::mvcc::change::{Change, RangeResult};
use crate::pb::etcdserverpb::compare::TargetUnion;
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::pb::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;

/// One version, as a `KeyValue`; a tombstone has version 0.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) sub: i64,
    pub(super) kv: KeyValue,
}

#[derive(Clone, Debug)]
pub(super) struct Twin {
    pub(super) entries: Vec<Entry>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
}

/// What one operation of a transaction answered: keys found or deleted, and how many in all.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Answer {
    Range(RangeResult),
    Put(Option<KeyValue>),
    Delete(i64, Vec<KeyValue>),
    Txn(bool, Vec<Answer>),
}

pub(super) fn within(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

impl Twin {
    pub(super) fn new() -> Twin {
        Twin { entries: Vec::new(), revision: 1, compacted: -1 }
    }

    /// All live keys at `main` within a range, in key order.
    pub(super) fn live(&self, start: &[u8], end: &[u8], main: i64) -> Vec<KeyValue> {
        let mut newest = std::collections::BTreeMap::new();
        for entry in &self.entries {
            if entry.kv.mod_revision <= main && within(&entry.kv.key, start, end) {
                newest.insert(entry.kv.key.clone(), entry.kv.clone());
            }
        }
        newest.into_values().filter(|kv| kv.version > 0).collect()
    }

    pub(super) fn range(&self, request: &RangeRequest, current: i64) -> Result<RangeResult> {
        if !(0..5).contains(&request.sort_target) {
            return Err(Error::InvalidSortOption);
        }
        if request.revision > current {
            return Err(Error::FutureRevision);
        }
        let main = if request.revision <= 0 { current } else { request.revision };
        if main < self.compacted {
            return Err(Error::Compacted);
        }
        let mut kvs = self.live(&request.key, &request.range_end, main);
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(RangeResult { kvs: Vec::new(), more: false, count });
        }
        let filter = |wanted: i64, holds: bool| wanted == 0 || holds;
        kvs.retain(|kv| {
            filter(request.min_mod_revision, kv.mod_revision >= request.min_mod_revision)
                && filter(request.max_mod_revision, kv.mod_revision <= request.max_mod_revision)
                && filter(
                    request.min_create_revision,
                    kv.create_revision >= request.min_create_revision,
                )
                && filter(
                    request.max_create_revision,
                    kv.create_revision <= request.max_create_revision,
                )
        });
        let bounds = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        if request.sort_order == 0 && request.limit > 0 && bounds == [0; 4] {
            // etcd takes no more from its tree, and sorts what it took.
            kvs.truncate(usize::try_from(request.limit).unwrap_or(usize::MAX).saturating_add(1));
        }
        let by = |kv: &KeyValue| match request.sort_target {
            1 => (kv.version, Bytes::new()),
            2 => (kv.create_revision, Bytes::new()),
            3 => (kv.mod_revision, Bytes::new()),
            4 => (0, kv.value.clone()),
            _ => (0, kv.key.clone()),
        };
        match request.sort_order {
            0 | 1 => kvs.sort_by_key(by),
            2 => kvs.sort_by_key(|kv| std::cmp::Reverse(by(kv))),
            _ => {}
        }
        let more = request.limit > 0 && kvs.len() as i64 > request.limit;
        if more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(RangeResult { kvs, more, count })
    }

    fn newest(&self, key: &[u8]) -> Option<KeyValue> {
        self.live(key, b"", i64::MAX).pop()
    }

    fn write(&mut self, sub: i64, kv: KeyValue) -> Change {
        let prev = self.newest(&kv.key);
        self.entries.push(Entry { sub, kv: kv.clone() });
        Change { deleted: kv.version == 0, kv, prev, prev_is_cold: false, sub }
    }

    pub(super) fn put(
        &mut self,
        request: &PutRequest,
        changes: &mut Vec<Change>,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<Answer> {
        if request.lease != 0 && !lease_exists(request.lease) {
            return Err(Error::LeaseNotFound);
        }
        let prev = self.newest(&request.key);
        if (request.ignore_value || request.ignore_lease) && prev.is_none() {
            return Err(Error::KeyNotFound);
        }
        let main = self.revision + 1;
        let old = prev.clone().unwrap_or_default();
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: if prev.is_some() { old.create_revision } else { main },
            mod_revision: main,
            version: old.version + 1,
            value: if request.ignore_value { old.value } else { request.value.clone() },
            lease: if request.ignore_lease { old.lease } else { request.lease },
        };
        let change = self.write(changes.len() as i64, kv);
        changes.push(change);
        Ok(Answer::Put(prev.filter(|_| request.prev_kv)))
    }

    pub(super) fn delete(
        &mut self,
        request: &DeleteRangeRequest,
        changes: &mut Vec<Change>,
    ) -> Answer {
        let gone = self.live(&request.key, &request.range_end, i64::MAX);
        for kv in &gone {
            let mod_revision = self.revision + 1;
            let kv = KeyValue { key: kv.key.clone(), mod_revision, ..KeyValue::default() };
            let change = self.write(changes.len() as i64, kv);
            changes.push(change);
        }
        let count = gone.len() as i64;
        Answer::Delete(count, if request.prev_kv { gone } else { Vec::new() })
    }

    pub(super) fn end(&mut self, changes: &[Change]) {
        self.revision += i64::from(!changes.is_empty());
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found = self.live(&compare.key, &compare.range_end, i64::MAX);
        if found.is_empty() {
            return compare.target != 3 && Self::holds_for(compare, &KeyValue::default());
        }
        found.iter().all(|kv| Self::holds_for(compare, kv))
    }

    fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
        let union = &compare.target_union;
        let number = |actual: i64, expected: Option<i64>| actual.cmp(&expected.unwrap_or(0));
        let ordering = match compare.target {
            0 => number(
                kv.version,
                match union {
                    Some(TargetUnion::Version(number)) => Some(*number),
                    _ => None,
                },
            ),
            1 => number(
                kv.create_revision,
                match union {
                    Some(TargetUnion::CreateRevision(number)) => Some(*number),
                    _ => None,
                },
            ),
            2 => number(
                kv.mod_revision,
                match union {
                    Some(TargetUnion::ModRevision(number)) => Some(*number),
                    _ => None,
                },
            ),
            3 => match union {
                Some(TargetUnion::Value(value)) => kv.value.cmp(value),
                _ => kv.value.cmp(&Bytes::new()),
            },
            _ => number(
                kv.lease,
                match union {
                    Some(TargetUnion::Lease(number)) => Some(*number),
                    _ => None,
                },
            ),
        };
        match compare.result {
            0 => ordering.is_eq(),
            1 => ordering.is_gt(),
            2 => ordering.is_lt(),
            _ => ordering.is_ne(),
        }
    }

    fn path(&self, request: &TxnRequest, path: &mut Vec<bool>) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in if succeeded { &request.success } else { &request.failure } {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.path(nested, path);
            }
        }
    }

    /// Executes on a copy: an error leaves nothing behind, whatever fails.
    pub(super) fn txn(
        &mut self,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<(Answer, Vec<Change>)> {
        let mut path = Vec::new();
        self.path(request, &mut path);
        let mut copy = self.clone();
        let mut changes = Vec::new();
        let mut errors = (None, None);
        let mut path = path.into_iter();
        let answer = copy.ops(request, &mut path, &mut changes, &mut errors, lease_exists);
        // A put that is refused comes before a range that is refused.
        if let Some(error) = errors.0.or(errors.1) {
            return Err(error);
        }
        copy.end(&changes);
        *self = copy;
        Ok((answer, changes))
    }

    fn ops(
        &mut self,
        request: &TxnRequest,
        path: &mut dyn Iterator<Item = bool>,
        changes: &mut Vec<Change>,
        errors: &mut (Option<Error>, Option<Error>),
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Answer {
        let succeeded = path.next().unwrap();
        let ops: &Vec<RequestOp> = if succeeded { &request.success } else { &request.failure };
        let mut answers = Vec::new();
        for op in ops {
            answers.push(match op.request.as_ref().unwrap() {
                Request::RequestPut(put) => match self.put(put, changes, lease_exists) {
                    Ok(answer) => answer,
                    Err(error) => {
                        // The order of refusals of one put in a transaction: key, then lease.
                        let missing = put.ignore_value || put.ignore_lease;
                        let absent = missing && self.newest(&put.key).is_none();
                        let error = if absent { Error::KeyNotFound } else { error };
                        errors.0.get_or_insert(error);
                        Answer::Put(None)
                    }
                },
                Request::RequestDeleteRange(delete) => self.delete(delete, changes),
                Request::RequestTxn(nested) => {
                    self.ops(nested, path, changes, errors, lease_exists)
                }
                Request::RequestRange(range) => {
                    if !(0..5).contains(&range.sort_target) {
                        errors.1.get_or_insert(Error::InvalidSortOption);
                    }
                    if range.revision < 0 && range.revision < self.compacted {
                        errors.1.get_or_insert(Error::Compacted);
                    }
                    if range.revision > self.revision {
                        errors.1.get_or_insert(Error::FutureRevision);
                    }
                    let current = self.revision + i64::from(!changes.is_empty());
                    match self.range(range, current) {
                        Ok(result) => Answer::Range(result),
                        Err(error) => {
                            errors.1.get_or_insert(error);
                            Answer::Range(RangeResult::default())
                        }
                    }
                }
            });
        }
        Answer::Txn(succeeded, answers)
    }

    pub(super) fn compact(&mut self, revision: i64) -> Result<()> {
        if revision <= self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        self.compacted = revision;
        let all = self.entries.clone();
        self.entries.retain(|entry| {
            let newer = all.iter().any(|other| {
                other.kv.key == entry.kv.key
                    && (other.kv.mod_revision, other.sub) > (entry.kv.mod_revision, entry.sub)
                    && other.kv.mod_revision <= revision
            });
            let dead = entry.kv.version == 0 && entry.kv.mod_revision < revision;
            !newer && !dead || entry.kv.mod_revision > revision
        });
        Ok(())
    }

    /// Keys, values and overhead of all entries.
    pub(super) fn live_bytes(&self, overhead: u64) -> u64 {
        let size = |entry: &Entry| (entry.kv.key.len() + entry.kv.value.len()) as u64 + overhead;
        self.entries.iter().map(size).sum()
    }

    /// HashKV by the letter of etcd's description: a set of revisions to keep, and three rules.
    pub(super) fn hash(&self, revision: i64) -> u32 {
        let keep: Vec<i64> =
            self.live(b"", b"\0", revision).iter().map(|kv| kv.mod_revision).collect();
        let mut bytes = b"key".to_vec();
        for entry in &self.entries {
            let main = entry.kv.mod_revision;
            let tombstone = entry.kv.version == 0;
            let newest = self.live(&entry.kv.key, b"", revision).pop();
            let kept = newest.is_some_and(|kv| kv.mod_revision == main);
            if main > revision
                || (main <= self.compacted && !keep.is_empty() && !kept)
                || (main == self.compacted && tombstone)
            {
                continue;
            }
            bytes.extend(main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(entry.sub.to_be_bytes());
            let mut kv = entry.kv.clone();
            if tombstone {
                bytes.push(b't');
                kv = KeyValue { key: kv.key, ..KeyValue::default() };
            }
            bytes.extend(kv.encode_to_vec());
        }
        crc32c::crc32c(&bytes)
    }

    /// All changes from `from` on, with the versions that they ended if a reader may see them.
    pub(super) fn history(&self, from: i64) -> Vec<(i64, Vec<Change>)> {
        let mut revisions: Vec<(i64, Vec<Change>)> = Vec::new();
        for entry in &self.entries {
            let main = entry.kv.mod_revision;
            if main < from.max(self.compacted) {
                continue;
            }
            let place = (main, entry.sub);
            let before = |other: &&Entry| {
                other.kv.key == entry.kv.key && (other.kv.mod_revision, other.sub) < place
            };
            let ended = self.entries.iter().rfind(before).filter(|other| other.kv.version > 0);
            let visible = main > self.compacted;
            let prev = ended.filter(|_| visible).map(|other| other.kv.clone());
            let change = Change {
                kv: entry.kv.clone(),
                prev,
                prev_is_cold: false,
                deleted: entry.kv.version == 0,
                sub: entry.sub,
            };
            match revisions.last_mut() {
                Some((last, changes)) if *last == main => changes.push(change),
                _ => revisions.push((main, vec![change])),
            }
        }
        revisions
    }
}
