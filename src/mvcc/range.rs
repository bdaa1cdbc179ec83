//! Ranges: what a request finds at one revision, whole or in bounded chunks.

use crate::error::{Error, Result};
use crate::mvcc::change::RangeResult;
use crate::mvcc::key_index::KeyId;
use crate::mvcc::log::Version;
use crate::mvcc::queue::{End, QUEUE_KEYS_MIN, Queue};
use crate::mvcc::revision::KeyRange;
use crate::mvcc::sort::{Best, Picked, SortKey};
use crate::mvcc::store::Store;
use crate::pb::etcdserverpb::RangeRequest;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::mvccpb::KeyValue;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::ops::Bound;

/// A range in progress, pinned to a revision.
///
/// `count` and `more` are final once `Store::next_chunk` has answered `None`.
#[derive(Clone, Debug)]
pub struct RangeCursor {
    request: RangeRequest,
    range: KeyRange,
    revision: i64,
    order: Order,
    /// The last key that was visited.
    after: Option<Bytes>,
    phase: Phase,
    /// `count` is known from the index, without a visit to every key.
    counted: bool,
    /// The creation of each key that is visited, where their order is worth keeping.
    queue: Option<Vec<(i64, KeyId)>>,
    /// Keys returned so far.
    returned: i64,
    pub count: i64,
    pub more: bool,
}

impl RangeCursor {
    /// The revision that all chunks are read at.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The order of the keys, once all of them have been visited: for `Store::keep_queue`.
    pub fn take_queue(&mut self) -> Option<Queue> {
        let whole = matches!(self.phase, Phase::Emit(_) | Phase::Done);
        let keys = self.queue.take().filter(|_| whole)?;
        let keys = BTreeSet::from_iter(keys);
        Some(Queue { range: self.range.clone(), revision: self.revision, keys })
    }
}

/// The order in which results leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// By key: keys are returned as they are visited.
    Ascending,
    Descending,
    /// By something else: all keys are visited before the first is returned.
    By(SortTarget),
}

#[derive(Clone, Debug)]
enum Phase {
    /// Visits keys and returns them.
    Walk,
    /// Visits all keys and keeps the best.
    Gather(Best),
    /// Returns what was gathered.
    Emit(std::vec::IntoIter<Picked>),
    /// Visits the keys beyond the limit, to count them.
    Count,
    Done,
}

/// With more changes than this since the revision of a range, its count is found by visiting the
/// keys, in chunks. (Small in tests, so that both ways are taken.)
const COUNTED_CHANGES_MAX: usize = if cfg!(test) { 4 } else { 8192 };

/// Refuses a sort target that does not exist; etcd crashes on it. A sort order that does not
/// exist leaves the keys as they are, as in etcd.
pub(super) fn check_sort(request: &RangeRequest) -> Result<()> {
    SortTarget::try_from(request.sort_target).map(|_| ()).map_err(|_| Error::InvalidSortOption)
}

fn order(request: &RangeRequest) -> Order {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    match (SortOrder::try_from(request.sort_order), target) {
        (Ok(SortOrder::Descend), SortTarget::Key) => Order::Descending,
        (Err(_), _) | (_, SortTarget::Key) => Order::Ascending,
        // A target without an order sorts upward.
        (Ok(_), target) => Order::By(target),
    }
}

/// The filters look at these two numbers; a filter of 0 is none.
fn passes(request: &RangeRequest, record: &Version) -> bool {
    let (created, modified) = (record.create_revision, record.main);
    (request.max_mod_revision == 0 || modified <= request.max_mod_revision)
        && (request.min_mod_revision == 0 || modified >= request.min_mod_revision)
        && (request.max_create_revision == 0 || created <= request.max_create_revision)
        && (request.min_create_revision == 0 || created >= request.min_create_revision)
}

/// How many keys a limit leaves to a range that names a sort target and no order: the first ones
/// by key and one more, which are sorted and then cut (etcd's `executeRange`, txn/range.go). With
/// a filter all keys are sorted.
fn cut_before_sort(request: &RangeRequest) -> u64 {
    let unordered = request.sort_order == SortOrder::None as i32;
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    let cut = unordered && !filtered && request.limit > 0;
    if cut { request.limit.unsigned_abs().saturating_add(1) } else { u64::MAX }
}

/// The end of a queue that a request is for, if it asks for nothing else.
fn queue_end(request: &RangeRequest, order: Order) -> Option<End> {
    let only_created = request.min_mod_revision == 0 && request.max_mod_revision == 0;
    let ordered = request.sort_order != SortOrder::None as i32;
    let one = request.limit == 1 && !request.count_only && only_created && ordered;
    (one && order == Order::By(SortTarget::Create)).then_some(End {
        last: request.sort_order == SortOrder::Descend as i32,
        min_create: request.min_create_revision,
        max_create: request.max_create_revision,
    })
}

impl Store {
    /// The whole answer to a range request.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResult> {
        self.range_at(request, self.revision)
    }

    /// The same for a reader whose latest revision is `current`: inside a transaction that is one
    /// more than the store's, once something was written.
    pub(super) fn range_at(&self, request: &RangeRequest, current: i64) -> Result<RangeResult> {
        self.range_and_queue(request, current).map(|(found, _)| found)
    }

    /// The same, and the order of the keys if it came out and is worth keeping.
    pub(super) fn range_and_queue(
        &self,
        request: &RangeRequest,
        current: i64,
    ) -> Result<(RangeResult, Option<Queue>)> {
        if request.range_end.is_empty() {
            return Ok((self.range_one(request, current)?, None));
        }
        let mut cursor = self.open_range_at(request, current)?;
        let mut kvs = Vec::new();
        while let Some(chunk) = self.next_chunk(&mut cursor, usize::MAX, usize::MAX)? {
            if kvs.is_empty() {
                kvs = chunk;
            } else {
                kvs.extend(chunk);
            }
        }
        let queue = cursor.take_queue();
        Ok((RangeResult { kvs, more: cursor.more, count: cursor.count }, queue))
    }

    /// Keeps the order of a range, so that its next first or last key is found without a visit
    /// to all. What changed since it was read is made good; if that is too much, it is dropped.
    pub fn keep_queue(&mut self, mut queue: Queue) {
        if queue.revision < self.compacted {
            return;
        }
        for (seen, record) in self.log.from(queue.revision + 1, 0).enumerate() {
            let id = record.key;
            if seen == COUNTED_CHANGES_MAX {
                return;
            }
            if queue.range.contains(self.keys.key(id)) {
                if let Some(before) = self.visible(id, queue.revision) {
                    queue.keys.remove(&(before.create_revision, id));
                }
                if let Some(now) = self.visible(id, i64::MAX) {
                    queue.keys.insert((now.create_revision, id));
                }
            }
        }
        self.queues.keep(queue);
    }

    /// A range of one key: a look-up, without a cursor.
    fn range_one(&self, request: &RangeRequest, current: i64) -> Result<RangeResult> {
        let revision = self.pin(request, current)?;
        let id = self.index.get(&self.keys, &request.key);
        let Some(record) = id.and_then(|id| self.visible(id, revision)) else {
            return Ok(RangeResult::default());
        };
        let mut found = RangeResult { kvs: Vec::new(), more: false, count: 1 };
        if !request.count_only && passes(request, record) {
            let bare = request.keys_only;
            found.kvs.push(if bare { self.bare(record) } else { self.key_value(record)? });
        }
        Ok(found)
    }

    /// Validates a request and finds the revision that it reads at.
    fn pin(&self, request: &RangeRequest, current: i64) -> Result<i64> {
        check_sort(request)?;
        if request.revision > current {
            return Err(Error::FutureRevision);
        }
        let revision = if request.revision <= 0 { current } else { request.revision };
        if revision < self.compacted {
            return Err(Error::Compacted);
        }
        Ok(revision)
    }

    /// Begins a range that `next_chunk` continues: validates the request and pins the revision.
    pub fn open_range(&self, request: &RangeRequest) -> Result<RangeCursor> {
        self.open_range_at(request, self.revision)
    }

    fn open_range_at(&self, request: &RangeRequest, current: i64) -> Result<RangeCursor> {
        let revision = self.pin(request, current)?;
        let range = KeyRange::new(&request.key, &request.range_end);
        let known = self.count_from_index(&range, revision, current);
        let order = order(request);
        let end = queue_end(request, order).filter(|_| revision == current);
        let queue = end.and_then(|end| self.queues.find(&range).map(|queue| (queue, end)));
        let visits = end.is_some() && queue.is_none() && known >= Some(QUEUE_KEYS_MIN as i64);
        let mut more = false;
        let phase = match order {
            Order::By(_) if queue.is_some() => {
                let (queue, end) = queue.expect("it was just seen");
                let (id, others) = queue.end(&self.keys, end);
                more = others;
                let newest = id.map(|id| self.keys.entry(id).newest());
                let picked = newest.map(|mark| Picked::alone((mark.main, mark.sub)));
                Phase::Emit(Vec::from_iter(picked).into_iter())
            }
            _ if request.count_only && known.is_some() => Phase::Done,
            _ if request.count_only => Phase::Count,
            Order::Ascending | Order::Descending => Phase::Walk,
            Order::By(_) => {
                let descending = request.sort_order == SortOrder::Descend as i32;
                Phase::Gather(Best::new(usize::try_from(request.limit).unwrap_or(0), descending))
            }
        };
        Ok(RangeCursor {
            request: request.clone(),
            range,
            revision,
            order,
            after: None,
            phase,
            counted: known.is_some(),
            queue: visits.then(Vec::new),
            returned: 0,
            count: known.unwrap_or(0),
            more,
        })
    }

    /// The exact count of a range, where it costs less than a visit to all keys: the live keys
    /// of the moment, corrected by what changed since the revision.
    fn count_from_index(&self, range: &KeyRange, revision: i64, current: i64) -> Option<i64> {
        if matches!(range, KeyRange::One(_)) {
            return None;
        }
        let live = self.index.live_within(&self.keys, range.bounds());
        let mut count = i64::try_from(live).expect("keys fit into memory");
        if revision == current {
            return Some(count);
        }
        for (seen, record) in self.log.from(revision + 1, 0).enumerate() {
            if seen == COUNTED_CHANGES_MAX {
                return None;
            }
            let entry = self.keys.entry(record.key);
            let before = entry.before(record.main, record.sub);
            let first_since = before.is_none_or(|mark| mark.main <= revision);
            if first_since && range.contains(&entry.key) {
                count += i64::from(before.is_some_and(|mark| !mark.tombstone));
                count -= i64::from(!entry.newest().tombstone);
            }
        }
        Some(count)
    }

    /// Continues a range with at most `max_keys` keys visited and about `max_bytes` of answer
    /// (but at least one key). A chunk may be empty; `None` says that there is no more.
    ///
    /// A compaction beyond the pinned revision ends the range with `Error::Compacted`.
    pub fn next_chunk(
        &self,
        cursor: &mut RangeCursor,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<Option<Vec<KeyValue>>> {
        assert!(max_keys > 0, "a chunk without keys never ends");
        if cursor.revision < self.compacted {
            return Err(Error::Compacted);
        }
        match cursor.phase {
            Phase::Walk => self.walk(cursor, max_keys, max_bytes).map(Some),
            Phase::Gather(_) => self.gather(cursor, max_keys).map(Some),
            Phase::Emit(_) => self.emit(cursor, max_keys, max_bytes),
            Phase::Count => {
                self.count(cursor, max_keys);
                Ok(Some(Vec::new()))
            }
            Phase::Done => Ok(None),
        }
    }

    /// Visits up to `max` keys that live at the cursor's revision, or until `f` says to stop;
    /// true if the range is at its end.
    fn advance(
        &self,
        cursor: &mut RangeCursor,
        max: usize,
        f: &mut dyn FnMut(&mut RangeCursor, KeyId) -> bool,
    ) -> bool {
        let after = cursor.after.take();
        let range = cursor.range.clone();
        let (mut lower, mut upper) = range.bounds();
        let reverse = cursor.order == Order::Descending;
        if let Some(after) = &after {
            let bound = if reverse { &mut upper } else { &mut lower };
            *bound = Bound::Excluded(after);
        }
        if let (Bound::Included(lower), Bound::Excluded(upper)) = (lower, upper)
            && lower >= upper
        {
            return true;
        }
        let mut visited = 0;
        let mut ended = true;
        let mut last = None;
        self.index.visit(&self.keys, (lower, upper), reverse, &mut |id| {
            visited += 1;
            last = Some(id);
            let live = self.keys.entry(id).at(cursor.revision).is_some_and(|mark| !mark.tombstone);
            let go_on = !live || f(cursor, id);
            ended = go_on && visited < max;
            ended
        });
        cursor.after = match last {
            Some(id) => Some(self.keys.key(id).clone()),
            None => after,
        };
        ended
    }

    fn walk(
        &self,
        cursor: &mut RangeCursor,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<Vec<KeyValue>> {
        let mut kvs = Vec::new();
        let mut bytes = 0_usize;
        let mut failure = None;
        let mut cut = false;
        let ended = self.advance(cursor, max_keys, &mut |cursor, id| {
            if !cursor.counted {
                cursor.count += 1;
            }
            let record = self.visible(id, cursor.revision).expect("only live keys are visited");
            if !passes(&cursor.request, record) {
                return true;
            }
            if cursor.request.limit > 0 && cursor.returned == cursor.request.limit {
                cursor.more = true;
                cut = true;
                return false;
            }
            match self.result(cursor, record) {
                Ok(kv) => {
                    bytes = bytes.saturating_add(kv.key.len() + kv.value.len() + 32);
                    cursor.returned += 1;
                    kvs.push(kv);
                    bytes < max_bytes
                }
                Err(error) => {
                    failure = Some(error);
                    false
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        if ended || matches!(cursor.range, KeyRange::One(_)) || (cut && cursor.counted) {
            cursor.phase = Phase::Done;
        } else if cut {
            cursor.phase = Phase::Count;
        }
        Ok(kvs)
    }

    fn result(&self, cursor: &RangeCursor, record: &Version) -> Result<KeyValue> {
        if cursor.request.keys_only { Ok(self.bare(record)) } else { self.key_value(record) }
    }

    fn gather(&self, cursor: &mut RangeCursor, max_keys: usize) -> Result<Vec<KeyValue>> {
        let done = Phase::Done;
        let Phase::Gather(mut best) = std::mem::replace(&mut cursor.phase, done) else {
            unreachable!("the caller matched the phase")
        };
        let Order::By(target) = cursor.order else { unreachable!("only sorted ranges gather") };
        let offers_max = cut_before_sort(&cursor.request);
        let mut failure = None;
        let mut cut = false;
        let ended = self.advance(cursor, max_keys, &mut |cursor, id| {
            if !cursor.counted {
                cursor.count += 1;
            }
            let record = self.visible(id, cursor.revision).expect("only live keys are visited");
            if let Some(queue) = &mut cursor.queue {
                queue.push((record.create_revision, id));
            }
            if !passes(&cursor.request, record) {
                return true;
            }
            if best.offered() >= offers_max {
                cut = cursor.counted;
                return !cut;
            }
            let key = match target {
                SortTarget::Key => unreachable!("an order by key walks"),
                SortTarget::Version => SortKey::Number(record.version),
                SortTarget::Create => SortKey::Number(record.create_revision),
                SortTarget::Mod => SortKey::Number(record.main),
                SortTarget::Value => match self.value(&record.value) {
                    Ok(value) => SortKey::Value(value),
                    Err(error) => {
                        failure = Some(error);
                        return false;
                    }
                },
            };
            best.offer(key, (record.main, record.sub));
            true
        });
        if let Some(error) = failure {
            return Err(error);
        }
        if ended || cut {
            let (picked, more) = best.finish();
            cursor.more = more;
            cursor.phase = Phase::Emit(picked.into_iter());
        } else {
            cursor.phase = Phase::Gather(best);
        }
        Ok(Vec::new())
    }

    fn emit(
        &self,
        cursor: &mut RangeCursor,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<Option<Vec<KeyValue>>> {
        let mut kvs = Vec::new();
        let mut bytes = 0_usize;
        while kvs.len() < max_keys && bytes < max_bytes {
            let Phase::Emit(picked) = &mut cursor.phase else {
                unreachable!("the caller matched the phase")
            };
            let Some(next) = picked.next() else {
                cursor.phase = Phase::Done;
                break;
            };
            let (main, sub) = next.revision;
            let record = self.log.find(main, sub).expect("a pinned revision keeps its records");
            let kv = self.result(cursor, record)?;
            bytes = bytes.saturating_add(kv.key.len() + kv.value.len() + 32);
            kvs.push(kv);
        }
        let done = kvs.is_empty() && matches!(cursor.phase, Phase::Done);
        Ok((!done).then_some(kvs))
    }

    fn count(&self, cursor: &mut RangeCursor, max_keys: usize) {
        let ended = self.advance(cursor, max_keys, &mut |cursor, _| {
            cursor.count += 1;
            true
        });
        if ended {
            cursor.phase = Phase::Done;
        }
    }
}
