//! What a server offers to those who serve its callers: requests in, answers out.
//!
//! The gRPC services, the HTTP endpoints and the simulator's own readers all come through here.
//! A request arrives validated; its answer carries a header.

use super::event::Event;
use super::shared::{Limits, Shared, StopReason, View};
use crate::apply::machine::{self, StateMachine};
use crate::apply::outcome::Response;
use crate::apply::request::{self, Op};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::mvcc::range::RangeCursor;
use crate::pb::etcdserverpb::{self as api, ResponseHeader, request_op};
use crate::pb::{mvccpb, raftpb};
use crate::raft::message::NodeId;
use prost::Message;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Keys that one hold of the state reads at the most.
const CHUNK_KEYS: usize = 512;
/// Bytes of them.
const CHUNK_BYTES: usize = 1 << 20;

/// What a caller brought beside its request.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The caller would rather be refused at once than wait for a leader (`hasleader` metadata).
    pub require_leader: bool,
    /// The token of an authenticated user.
    pub token: Option<String>,
}

/// A way into one server; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub fn new(shared: Arc<Shared>) -> Handle {
        Handle { shared }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    pub fn view(&self) -> View {
        self.shared.view()
    }

    pub fn has_leader(&self) -> bool {
        self.shared.view().leader != 0
    }

    /// The header of an answer given now.
    pub fn header(&self) -> ResponseHeader {
        self.shared.header()
    }

    /// The header of calls about the cluster itself, which carry no revision.
    pub fn cluster_header(&self) -> ResponseHeader {
        self.shared.header_at(0)
    }

    pub fn stop_reason(&self) -> Option<StopReason> {
        self.shared.stop_reason()
    }

    pub async fn stopped(&self) -> StopReason {
        self.shared.stopped().await
    }

    // --- reads ---

    /// Waits until this member has applied all that was committed when this was called.
    ///
    /// # Errors
    /// `NoLeader` when none was known in all the time a request may wait, `Timeout` when one was.
    pub async fn linearizable_barrier(&self) -> Result<()> {
        self.shared.check_running()?;
        let (reply, answer) = oneshot::channel();
        self.send(Event::Read(reply)).await?;
        answer.await.map_err(|_| Error::Stopped)?.map(|_| ())
    }

    /// Reads a range of keys, in bounded steps at one pinned revision.
    pub async fn range(
        &self,
        caller: &Caller,
        request: api::RangeRequest,
    ) -> Result<api::RangeResponse> {
        let begun = self.shared.env.clock.now();
        let answer = self.read_range(caller, request).await;
        let success = if answer.is_ok() { "true" } else { "false" };
        let took = (self.shared.env.clock.now() - begun).as_secs_f64();
        let durations = &self.shared.metrics.range_duration_seconds;
        durations.with_label_values(&[success]).observe(took);
        answer
    }

    async fn read_range(
        &self,
        caller: &Caller,
        request: api::RangeRequest,
    ) -> Result<api::RangeResponse> {
        self.admit_read(caller, request.serializable).await?;
        self.shared.metrics.mvcc_range_total.inc();
        let until = self.shared.env.clock.now() + self.shared.request_timeout();
        loop {
            let round = self.shared.runs.damage.round();
            match self.read_once(&request).await {
                Err(Error::Unreadable) if self.shared.env.clock.now() < until => {
                    self.shared.repaired_since(round, until).await;
                }
                answer => return answer,
            }
        }
    }

    async fn read_once(&self, request: &api::RangeRequest) -> Result<api::RangeResponse> {
        let (mut cursor, header) = {
            let state = self.shared.state();
            self.check_readable(&state)?;
            if request.range_end.is_empty() {
                let result = state.store.range(request)?;
                let header = Some(self.shared.header_at(state.store.revision()));
                let (kvs, more, count) = (result.kvs, result.more, result.count);
                return Ok(api::RangeResponse { header, kvs, more, count });
            }
            let header = Some(self.shared.header_at(state.store.revision()));
            (state.store.open_range(request)?, header)
        };
        let mut kvs = Vec::new();
        while let Some(mut chunk) = self.next_chunk(&mut cursor, CHUNK_KEYS, CHUNK_BYTES)? {
            kvs.append(&mut chunk);
            crate::env::yield_now().await;
        }
        if let Some(queue) = cursor.take_queue() {
            self.shared.state_mut().store.keep_queue(queue);
        }
        Ok(api::RangeResponse { header, kvs, more: cursor.more, count: cursor.count })
    }

    /// Begins a range that is read chunk by chunk; the header is that of the whole answer.
    pub async fn open_range(
        &self,
        caller: &Caller,
        request: &api::RangeRequest,
    ) -> Result<(RangeCursor, ResponseHeader)> {
        self.admit_read(caller, request.serializable).await?;
        let state = self.shared.state();
        self.check_readable(&state)?;
        let header = self.shared.header_at(state.store.revision());
        Ok((state.store.open_range(request)?, header))
    }

    /// The next keys of a range; `None` at its end.
    ///
    /// # Errors
    /// `Compacted` when a compaction has overtaken the revision that the range is read at.
    pub async fn next_chunk_when_repaired(
        &self,
        cursor: &mut RangeCursor,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<Option<Vec<mvccpb::KeyValue>>> {
        self.when_repaired(|state| {
            self.shared.check_trusted()?;
            // An attempt that fails has moved the cursor.
            let mut moved = cursor.clone();
            let chunk = state.store.next_chunk(&mut moved, max_keys, max_bytes)?;
            *cursor = moved;
            Ok(chunk)
        })
        .await
    }

    /// Like `next_chunk_when_repaired`, without the wait.
    fn next_chunk(
        &self,
        cursor: &mut RangeCursor,
        max_keys: usize,
        max_bytes: usize,
    ) -> Result<Option<Vec<mvccpb::KeyValue>>> {
        self.shared.check_trusted()?;
        self.shared.state().store.next_chunk(cursor, max_keys, max_bytes)
    }

    /// Reads the state; a value in it that can't be read is waited for, and the reading repeated,
    /// as long as a request may last.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn when_repaired<T>(
        &self,
        mut read: impl FnMut(&StateMachine) -> Result<T>,
    ) -> Result<T> {
        let until = self.shared.env.clock.now() + self.shared.request_timeout();
        loop {
            let round = self.shared.runs.damage.round();
            let answer = read(&self.shared.state());
            match answer {
                Err(Error::Unreadable) if self.shared.env.clock.now() < until => {
                    self.shared.repaired_since(round, until).await;
                }
                answer => return answer,
            }
        }
    }

    /// Also after a wait: a quarantine may have come meanwhile.
    fn check_readable(&self, state: &StateMachine) -> Result<()> {
        self.shared.check_trusted()?;
        state.check_readable()
    }

    async fn admit_read(&self, caller: &Caller, serializable: bool) -> Result<()> {
        self.shared.check_running()?;
        self.shared.check_trusted()?;
        let view = self.shared.view();
        if view.is_learner && !serializable {
            return Err(Error::NotSupportedForLearner);
        }
        if caller.require_leader && view.leader == 0 {
            return Err(Error::NoLeader);
        }
        if serializable { Ok(()) } else { self.linearizable_barrier().await }
    }

    // --- writes ---

    pub async fn put(&self, caller: &Caller, request: api::PutRequest) -> Result<api::PutResponse> {
        match self.propose(caller, Op::Put(request)).await? {
            Response::Put(mut response) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            other => unreachable!("a put was answered with {other:?}"),
        }
    }

    pub async fn delete_range(
        &self,
        caller: &Caller,
        request: api::DeleteRangeRequest,
    ) -> Result<api::DeleteRangeResponse> {
        match self.propose(caller, Op::DeleteRange(request)).await? {
            Response::DeleteRange(mut response) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            other => unreachable!("a deletion was answered with {other:?}"),
        }
    }

    /// A transaction that only reads does not go through the log.
    pub async fn txn(&self, caller: &Caller, request: api::TxnRequest) -> Result<api::TxnResponse> {
        if let Some(serializable) = reads_only(&request) {
            self.admit_read(caller, serializable).await?;
            let mut response = self.read_txn(&request).await?;
            self.complete(&mut response.header);
            return Ok(response);
        }
        match self.propose(caller, Op::Txn(request)).await? {
            Response::Txn(mut response) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            other => unreachable!("a transaction was answered with {other:?}"),
        }
    }

    async fn read_txn(&self, request: &api::TxnRequest) -> Result<api::TxnResponse> {
        let until = self.shared.env.clock.now() + self.shared.request_timeout();
        loop {
            let round = self.shared.runs.damage.round();
            let answer = self.shared.state_mut().read_txn(request);
            match answer {
                Err(Error::Unreadable) if self.shared.env.clock.now() < until => {
                    self.shared.repaired_since(round, until).await;
                }
                answer => return answer,
            }
        }
    }

    /// Forgets history before a revision; with `physical`, waits until its space is free.
    pub async fn compact(
        &self,
        caller: &Caller,
        request: api::CompactionRequest,
    ) -> Result<api::CompactionResponse> {
        let physical = request.physical;
        let revision = request.revision;
        self.propose(caller, Op::Compaction(request)).await?;
        if physical {
            let done = self.shared.compacted.wait_for(|done| *done >= revision);
            let stopped = self.shared.stopped();
            tokio::select! {
                biased;
                _ = done => {}
                _ = stopped => return Err(Error::Stopped),
            }
        }
        Ok(api::CompactionResponse { header: Some(self.header()) })
    }

    /// Puts a request into the log and waits until this member has applied it.
    ///
    /// # Errors
    /// A refusal of the state machine; `TooManyRequests` when too many wait; `NoLeader` when it
    /// was never sent; `Timeout` when its outcome is unknown.
    pub async fn propose(&self, caller: &Caller, op: Op) -> Result<Response> {
        self.admit_write(caller)?;
        if machine::touches_data(&op) {
            self.shared.check_trusted()?;
        }
        let live_bytes = self.shared.state().store.live_bytes();
        self.shared.space.admit(live_bytes, request::cost_bytes(&op))?;
        self.propose_admitted(op).await
    }

    /// Proposes what this member has to say itself, which it may do as a learner too.
    pub async fn propose_admitted(&self, op: Op) -> Result<Response> {
        self.shared.check_running()?;
        let bytes = raftpb::Request { id: u64::MAX, op: None, ..Default::default() }.encoded_len()
            + op.encoded_len();
        if bytes > self.shared.limits.max_request_bytes {
            return Err(Error::RequestTooLarge);
        }
        let (id, answer) = self.enter(bytes)?;
        self.send(Event::Propose { id, data: request::encode(id, op) }).await?;
        match answer.await.map_err(|_| Error::Stopped)?? {
            // It is applied; what came of it is not known here.
            Response::Lost => Err(Error::Timeout),
            response => Ok(response),
        }
    }

    /// Hands leadership to a member; 0 leaves the choice to the leader.
    pub async fn move_leader(&self, target: NodeId) -> Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(Event::TransferLeader { target, done }).await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    pub(super) fn admit_write(&self, caller: &Caller) -> Result<()> {
        self.shared.check_running()?;
        let view = self.shared.view();
        if view.is_learner {
            return Err(Error::NotSupportedForLearner);
        }
        if caller.require_leader && view.leader == 0 {
            return Err(Error::NoLeader);
        }
        if view.commit > view.applied + self.shared.limits.max_apply_lag {
            return Err(Error::TooManyRequests);
        }
        Ok(())
    }

    pub(super) fn enter(&self, bytes: usize) -> Result<(u64, oneshot::Receiver<Result<Response>>)> {
        let deadline = self.shared.env.clock.now() + self.shared.request_timeout();
        self.shared.pending().enter(bytes, deadline)
    }

    pub(super) async fn send(&self, event: Event) -> Result<()> {
        self.shared.inbox.send(event).await.map_err(|_| Error::Stopped)
    }

    /// Fills in what apply could not know: who answers, and in which term.
    fn complete(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.shared.header_at(revision));
    }
}

/// Whether a transaction only reads, and if so whether every read of it may be stale. One that
/// nests another counts as a write, as in etcd (`etcdserver/txn`, `IsTxnReadonly`).
fn reads_only(request: &api::TxnRequest) -> Option<bool> {
    let mut serializable = true;
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(request_op::Request::RequestRange(range)) => serializable &= range.serializable,
            _ => return None,
        }
    }
    Some(serializable)
}
