//! The KV service: reads, writes, transactions, compaction.

use crate::api::front::Front;
use crate::api::status::to_status;
use crate::api::validate::{self, StreamLimit};
use crate::error::Error;
use crate::metrics::Call;
use crate::mvcc::range::RangeCursor;
use crate::pb::etcdserverpb::kv_server::Kv;
use crate::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
    TxnResponse,
};
use crate::pb::mvccpb::KeyValue;
use crate::server::handle::{Caller, Handle};
use futures::stream::{self, BoxStream, Stream, StreamExt};
use prost::Message;
use tonic::{Code, Request, Response, Status};

/// Keys in the first chunk of a stream: a client that wants few gets them soon.
const FIRST_CHUNK_KEYS: usize = 10;
/// Keys in a chunk at the most, so that no chunk holds up writes for long.
const CHUNK_KEYS_MAX: usize = 10_000;

pub struct KvService {
    front: Front,
    range: Call,
    range_stream: Call,
    put: Call,
    delete_range: Call,
    txn: Call,
    compact: Call,
}

impl KvService {
    pub fn new(front: Front) -> KvService {
        let call = |name| front.call("etcdserverpb.KV", name);
        KvService {
            range: call("Range"),
            range_stream: call("RangeStream"),
            put: call("Put"),
            delete_range: call("DeleteRange"),
            txn: call("Txn"),
            compact: call("Compact"),
            front,
        }
    }

    async fn open_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<BoxStream<'static, Result<RangeStreamResponse, Status>>, Status> {
        let caller = self.front.admit("stream", request.metadata())?;
        let request = request.into_inner();
        if let Some(limit) = validate::check_range_stream(&request).map_err(to_status)? {
            return Err(Status::new(
                Code::Unimplemented,
                match limit {
                    StreamLimit::Order => "RangeStream does not support custom sort orders",
                    StreamLimit::Filter => "RangeStream does not support revision filters",
                },
            ));
        }
        let handle = self.front.handle.clone();
        if request.count_only {
            return Ok(count(handle, caller, request).boxed());
        }
        let (cursor, header) = handle.open_range(&caller, &request).await.map_err(to_status)?;
        Ok(Chunks {
            handle,
            cursor,
            header,
            call: self.range_stream.clone(),
            waiting: None,
            keys: FIRST_CHUNK_KEYS,
            ended: false,
        }
        .into_stream())
    }
}

/// A stream of one answer, which holds the number of keys and no keys.
fn count(
    handle: Handle,
    caller: Caller,
    request: RangeRequest,
) -> impl Stream<Item = Result<RangeStreamResponse, Status>> + Send {
    stream::once(async move {
        let answer = handle.range(&caller, request).await.map_err(to_status)?;
        Ok(RangeStreamResponse { range_response: Some(answer) })
    })
}

/// A range on its way to a client, chunk by chunk at one revision. The chunks put together are
/// what one Range would have answered.
struct Chunks {
    handle: Handle,
    cursor: RangeCursor,
    /// Of the whole answer.
    header: ResponseHeader,
    call: Call,
    /// Read and not sent yet: only the last chunk carries a header, and whether this is the last
    /// one shows when there is no next.
    waiting: Option<Vec<KeyValue>>,
    keys: usize,
    ended: bool,
}

impl Chunks {
    fn into_stream(self) -> BoxStream<'static, Result<RangeStreamResponse, Status>> {
        stream::unfold(self, |mut chunks| async move {
            let chunk = chunks.next().await?;
            Some((chunk, chunks))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<RangeStreamResponse, Status>> {
        if self.ended {
            return None;
        }
        loop {
            // Others get their turn between two holds of the state.
            crate::env::yield_now().await;
            let bytes = self.handle.limits().max_request_bytes;
            let cursor = &mut self.cursor;
            match self.handle.next_chunk_when_repaired(cursor, self.keys, bytes).await {
                Ok(Some(chunk)) => {
                    self.keys = (self.keys * 2).min(CHUNK_KEYS_MAX);
                    if let Some(kvs) = self.waiting.replace(chunk) {
                        let chunk = RangeResponse { kvs, ..Default::default() };
                        self.call.sent(chunk.encoded_len());
                        return Some(answer(chunk));
                    }
                }
                Ok(None) => return Some(self.last()),
                Err(error) => return Some(self.fail(error)),
            }
        }
    }

    fn last(&mut self) -> Result<RangeStreamResponse, Status> {
        self.ended = true;
        let last = RangeResponse {
            header: Some(self.header),
            kvs: self.waiting.take().unwrap_or_default(),
            more: self.cursor.more,
            count: self.cursor.count,
        };
        self.call.sent(last.encoded_len());
        self.call.end(0);
        answer(last)
    }

    fn fail(&mut self, error: Error) -> Result<RangeStreamResponse, Status> {
        self.ended = true;
        let status = to_status(error);
        self.call.end(status.code() as i32);
        Err(status)
    }
}

fn answer(response: RangeResponse) -> Result<RangeStreamResponse, Status> {
    Ok(RangeStreamResponse { range_response: Some(response) })
}

#[tonic::async_trait]
impl Kv for KvService {
    type RangeStreamStream = BoxStream<'static, Result<RangeStreamResponse, Status>>;

    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let handle = &self.front.handle;
        let work = |caller: Caller, request: RangeRequest| async move {
            validate::check_range(&request)?;
            handle.range(&caller, request).await
        };
        self.front.unary(&self.range, request, work).await
    }

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.range_stream.begin();
        self.range_stream.received(request.get_ref().encoded_len());
        let opened = self.open_stream(request).await;
        if let Err(status) = &opened {
            self.range_stream.end(status.code() as i32);
        }
        opened.map(Response::new)
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let handle = &self.front.handle;
        let work = |caller: Caller, request: PutRequest| async move {
            validate::check_put(&request)?;
            handle.put(&caller, request).await
        };
        self.front.unary(&self.put, request, work).await
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let handle = &self.front.handle;
        let work = |caller: Caller, request: DeleteRangeRequest| async move {
            validate::check_delete_range(&request)?;
            handle.delete_range(&caller, request).await
        };
        self.front.unary(&self.delete_range, request, work).await
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let handle = &self.front.handle;
        let work = |caller: Caller, request: TxnRequest| async move {
            validate::check_txn(&request, handle.limits().max_txn_ops)?;
            handle.txn(&caller, request).await
        };
        self.front.unary(&self.txn, request, work).await
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let handle = &self.front.handle;
        let work = |caller: Caller, request: CompactionRequest| async move {
            handle.compact(&caller, request).await
        };
        self.front.unary(&self.compact, request, work).await
    }
}
