//! The Lease service.

use crate::api::front::Front;
use crate::api::status::to_status;
use crate::metrics::Call;
use crate::pb::etcdserverpb::lease_server::Lease;
use crate::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::server::handle::Handle;
use futures::stream::{BoxStream, StreamExt};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

/// Keep-alives of one stream that are under way at once; answers keep the order of the requests.
const KEEP_ALIVES_UNDER_WAY: usize = 256;

pub struct LeaseService {
    front: Front,
    grant: Call,
    revoke: Call,
    keep_alive: Call,
    time_to_live: Call,
    leases: Call,
}

impl LeaseService {
    pub fn new(front: Front) -> LeaseService {
        let call = |name| front.call("etcdserverpb.Lease", name);
        LeaseService {
            grant: call("LeaseGrant"),
            revoke: call("LeaseRevoke"),
            keep_alive: call("LeaseKeepAlive"),
            time_to_live: call("LeaseTimeToLive"),
            leases: call("LeaseLeases"),
            front,
        }
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |caller, request| handle.lease_grant(&caller, request).await;
        self.front.unary(&self.grant, request, work).await
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |caller, request| handle.lease_revoke(&caller, request).await;
        self.front.unary(&self.revoke, request, work).await
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.front.admit("stream", request.metadata())?;
        let handle = self.front.handle.clone();
        let stopping = handle.clone();
        let ended = Ended(self.keep_alive.clone());
        ended.0.begin();
        let failures = &handle.metrics().server_stream_failures_total;
        let failures = failures.with_label_values(&["receive", "lease-keepalive"]);
        let answers = request
            .into_inner()
            .map(move |request| keep_alive(handle.clone(), request))
            .buffered(KEEP_ALIVES_UNDER_WAY)
            .take_until(async move { stopping.stopped().await })
            .inspect(move |answer| match answer {
                Ok(answer) => {
                    // A question is its id, so it is about as long as that part of the answer.
                    ended.0.received(LeaseKeepAliveRequest { id: answer.id }.encoded_len());
                    ended.0.sent(answer.encoded_len());
                }
                Err(_) => failures.inc(),
            });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |_, request| handle.lease_time_to_live(request).await;
        self.front.unary(&self.time_to_live, request, work).await
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |_, _| handle.lease_leases().await;
        self.front.unary(&self.leases, request, work).await
    }
}

/// Counts the end of a stream.
struct Ended(Call);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end(0);
    }
}

/// One keep-alive. The header is of the moment before the renewal, as in etcd, so that its
/// revision is never later than what the answer is about.
async fn keep_alive(
    handle: Handle,
    request: Result<LeaseKeepAliveRequest, Status>,
) -> Result<LeaseKeepAliveResponse, Status> {
    let id = request?.id;
    let header = Some(handle.header());
    let ttl = handle.lease_renew(id).await.map_err(to_status)?;
    Ok(LeaseKeepAliveResponse { header, id, ttl })
}
