//! Queues of keys: what locks and elections are made of.
//!
//! Who wants its turn puts a key under a prefix, attached to its lease. The order of creation
//! revisions is the queue: a key has its turn when no older one is left. Each waiter watches only
//! the key just before its own, so that one departure wakes one waiter. The creation revision
//! fences: it tells this stay in the queue from an earlier or a later one of the same lease.
//! (etcd, `client/v3/concurrency`, `mutex.go` and `election.go`.)

use super::handle::{Caller, Handle};
use super::place::Place;
use super::shared::Shared;
use super::watch_stream::WatchSession;
use crate::error::{Error, Result};
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{
    self as api, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader,
    TxnRequest, TxnResponse, WatchCreateRequest, response_op,
};
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Gives a place up unless it is kept: a caller that goes away drops the future it waited in.
struct Guard {
    shared: Arc<Shared>,
    place: Option<Place>,
}

impl Guard {
    fn keep(mut self) {
        self.place = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        self.shared.abandoned.push(place);
    }
}

/// Deletes the keys of callers that went away; runs until the server stops.
pub async fn run(shared: Arc<Shared>) {
    let handle = Handle::new(shared.clone());
    loop {
        shared.abandoned.wake.notified().await;
        for place in shared.abandoned.take() {
            // Without a quorum the key stays until its lease ends.
            if let Err(error) = handle.leave(&Caller::default(), &place).await {
                tracing::debug!(%error, "an abandoned place in a queue stays");
            }
        }
    }
}

/// How a caller stands in a queue after it entered.
pub struct Entered {
    pub header: ResponseHeader,
    pub place: Place,
    /// The value that the key had already; none if it was created just now.
    pub found: Option<KeyValue>,
    /// Somebody else is first in the queue.
    pub waits: bool,
}

impl Handle {
    /// Enters a queue, or finds the place that the lease has in it already.
    pub async fn join_queue(
        &self,
        caller: &Caller,
        prefix: &Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<Entered> {
        let mut key = BytesMut::from(prefix.as_ref());
        key.put_slice(format!("{lease:x}").as_bytes());
        let key = key.freeze();
        let put = PutRequest { key: key.clone(), value, lease, ..Default::default() };
        let get = RangeRequest { key: key.clone(), ..Default::default() };
        let first = op(Request::RequestRange(first_of(prefix)));
        let request = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![op(Request::RequestPut(put)), first.clone()],
            failure: vec![op(Request::RequestRange(get)), first],
        };
        let response = self.txn(caller, request).await?;
        let header = response.header.expect("the handle fills in the header");
        let found = if response.succeeded { None } else { kv_at(&response, 0) };
        let revision = found.as_ref().map_or(header.revision, |kv| kv.create_revision);
        let first = kv_at(&response, 1).map(|kv| kv.create_revision);
        let place = Place { key, revision };
        Ok(Entered { header, place, found, waits: first != Some(revision) })
    }

    /// Enters a queue and waits for the turn; none if the lease ended meanwhile. A caller that
    /// goes away before, at whatever point, gives up the place if this call made it.
    pub async fn take_turn(
        &self,
        caller: &Caller,
        prefix: &Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<Option<Entered>> {
        let (reply, answer) = oneshot::channel();
        let (handle, queue) = (self.clone(), prefix.clone());
        let who = caller.clone();
        // In a task of its own, so that a caller who goes away while the key is on its way into
        // the log does not leave it there: the guard comes back with the answer, or ends here.
        tokio::spawn(async move {
            let entered = handle.join_queue(&who, &queue, lease, value).await;
            let guarded = entered.map(|entered| {
                let made = entered.found.is_none().then(|| entered.place.clone());
                (entered, Guard { shared: handle.shared().clone(), place: made })
            });
            let _gone = reply.send(guarded);
        });
        let (mut entered, guard) = answer.await.map_err(|_| Error::Stopped)??;
        if entered.waits {
            match self.wait_turn(caller, prefix, &entered.place).await? {
                Some(header) => entered.header = header,
                None => return Ok(None),
            }
        }
        guard.keep();
        Ok(Some(entered))
    }

    /// Waits until no older key is left in the queue; none if the own one is gone by then.
    async fn wait_turn(
        &self,
        caller: &Caller,
        prefix: &Bytes,
        place: &Place,
    ) -> Result<Option<ResponseHeader>> {
        let own = RangeRequest { key: place.key.clone(), ..Default::default() };
        let before = last_before(prefix, place.revision);
        let both = TxnRequest {
            success: [own, before].map(|range| op(Request::RequestRange(range))).into(),
            ..Default::default()
        };
        loop {
            let response = self.txn(caller, both.clone()).await?;
            let header = response.header.expect("the handle fills in the header");
            // Both at one revision: the turn has come only if the own key is there as well.
            let own = kv_at(&response, 0).filter(|kv| kv.create_revision == place.revision);
            match (own, kv_at(&response, 1)) {
                (None, _) => return Ok(None),
                (Some(_), None) => return Ok(Some(header)),
                (Some(own), Some(before)) => {
                    self.wait_for_delete([own.key, before.key], header.revision).await?;
                }
            }
        }
    }

    /// Waits until one of two keys, both seen at a revision, is deleted. The own key is one of
    /// them, so that a waiter whose lease ran out is refused at once.
    async fn wait_for_delete(&self, keys: [Bytes; 2], revision: i64) -> Result<()> {
        let mut session = self.watch(false)?;
        for key in keys {
            session.create(&WatchCreateRequest {
                key,
                start_revision: revision + 1,
                ..Default::default()
            });
        }
        while let Some(response) = session.next().await {
            let response = response?;
            let deleted = |event: &Event| event.r#type() == EventType::Delete;
            // If a compaction overtook the watch, the keys are looked at again as well.
            if response.canceled || response.events.iter().any(deleted) {
                return Ok(());
            }
        }
        Err(Error::Stopped)
    }

    /// Leaves a queue, if the key is still the one that was entered with.
    pub async fn leave(&self, caller: &Caller, place: &Place) -> Result<ResponseHeader> {
        let delete = DeleteRangeRequest { key: place.key.clone(), ..Default::default() };
        let request = TxnRequest {
            compare: vec![created_at(&place.key, place.revision)],
            success: vec![op(Request::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        let response = self.txn(caller, request).await?;
        Ok(response.header.expect("the handle fills in the header"))
    }

    /// Changes the value of a place; false if it is lost.
    pub async fn proclaim(
        &self,
        caller: &Caller,
        place: &Place,
        value: Bytes,
        lease: i64,
    ) -> Result<(bool, ResponseHeader)> {
        let put = PutRequest { key: place.key.clone(), value, lease, ..Default::default() };
        let request = TxnRequest {
            compare: vec![created_at(&place.key, place.revision)],
            success: vec![op(Request::RequestPut(put))],
            failure: Vec::new(),
        };
        let response = self.txn(caller, request).await?;
        Ok((response.succeeded, response.header.expect("the handle fills in the header")))
    }

    /// The first in a queue.
    pub async fn first_in_queue(
        &self,
        caller: &Caller,
        prefix: &Bytes,
    ) -> Result<api::RangeResponse> {
        self.range(caller, first_of(prefix)).await
    }

    /// Watches one key from a revision on.
    pub fn watch_key(&self, key: &Bytes, from: i64) -> Result<WatchSession> {
        let session = self.watch(false)?;
        let key = key.clone();
        let request = WatchCreateRequest { key, start_revision: from, ..Default::default() };
        session.create(&request);
        Ok(session)
    }

    /// Watches a whole queue from a revision on.
    pub fn watch_queue(&self, prefix: &Bytes, from: i64) -> Result<WatchSession> {
        let session = self.watch(false)?;
        session.create(&WatchCreateRequest {
            key: prefix.clone(),
            range_end: prefix_end(prefix),
            start_revision: from,
            ..Default::default()
        });
        Ok(session)
    }
}

/// The prefix of the keys of a queue.
pub fn queue_prefix(name: &Bytes) -> Bytes {
    let mut prefix = BytesMut::from(name.as_ref());
    prefix.put_u8(b'/');
    prefix.freeze()
}

/// The first key behind all those with a prefix.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|&byte| byte < u8::MAX);
    let Some(last) = kept else { return Bytes::from_static(&[0]) };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Bytes::from(end)
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn first_of(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        limit: 1,
        ..Default::default()
    }
}

fn last_before(prefix: &Bytes, revision: i64) -> RangeRequest {
    RangeRequest {
        sort_order: SortOrder::Descend as i32,
        max_create_revision: revision - 1,
        ..first_of(prefix)
    }
}

/// The key that a read inside a transaction found.
fn kv_at(response: &TxnResponse, op: usize) -> Option<KeyValue> {
    match response.responses.get(op)?.response.as_ref()? {
        response_op::Response::ResponseRange(range) => range.kvs.first().cloned(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_skips_bytes_that_cannot_grow() {
        assert_eq!(prefix_end(b"a/"), Bytes::from("a0"));
        assert_eq!(prefix_end(&[b'a', 255, 255]), Bytes::from("b"));
        assert_eq!(prefix_end(&[255]), Bytes::from_static(&[0]));
        assert_eq!(queue_prefix(&Bytes::from("lock")), Bytes::from("lock/"));
    }
}
