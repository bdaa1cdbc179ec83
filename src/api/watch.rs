//! The Watch service: one stream of requests in, one stream of responses out.

use crate::api::front::Front;
use crate::api::status::to_status;
use crate::metrics::Call;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::watch_server::Watch;
use crate::pb::etcdserverpb::{WatchRequest, WatchResponse};
use crate::server::watch_stream::WatchSession;
use futures::Stream;
use prometheus::IntCounter;
use prost::Message;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::{Request, Response, Status, Streaming};

pub struct WatchService {
    front: Front,
    watch: Call,
}

impl WatchService {
    pub fn new(front: Front) -> WatchService {
        let watch = front.call("etcdserverpb.Watch", "Watch");
        WatchService { front, watch }
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let caller = self.front.admit("stream", request.metadata())?;
        let session = self.front.handle.watch(caller.require_leader).map_err(to_status)?;
        self.watch.begin();
        let requests = Some(request.into_inner());
        let failures = &self.front.handle.metrics().server_stream_failures_total;
        let failures = failures.with_label_values(&["receive", "watch"]);
        let call = self.watch.clone();
        Ok(Response::new(Responses { session, requests, call, failures, code: 0 }))
    }
}

/// The responses of one stream. Requests are read when responses are asked for, so that one task
/// does both and a client that stops reading is not read from for ever.
pub struct Responses {
    session: WatchSession,
    /// None once the client has said all it wants.
    requests: Option<Streaming<WatchRequest>>,
    call: Call,
    /// Streams whose requests could not be read any further.
    failures: IntCounter,
    code: i32,
}

impl Responses {
    /// Takes the requests that have arrived.
    fn read_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while let Some(requests) = &mut self.requests {
            if self.session.is_congested() {
                return Ok(());
            }
            match Pin::new(requests).poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => self.requests = None,
                Poll::Ready(Some(request)) => self.take(request?),
            }
        }
        Ok(())
    }

    fn take(&mut self, request: WatchRequest) {
        self.call.received(request.encoded_len());
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.session.create(&create),
            Some(RequestUnion::CancelRequest(cancel)) => self.session.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.session.request_progress(),
            // What a later version of the API may ask; etcd passes over it too.
            None => {}
        }
    }
}

impl Stream for Responses {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let refused = this.read_requests(cx).err();
        let response = match refused {
            Some(status) => {
                this.failures.inc();
                Some(Err(status))
            }
            None => ready!(this.session.poll_next(cx)).map(|response| response.map_err(to_status)),
        };
        match &response {
            Some(Ok(response)) => this.call.sent(response.encoded_len()),
            Some(Err(status)) => this.code = status.code() as i32,
            None => {}
        }
        Poll::Ready(response)
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.call.end(self.code);
    }
}
