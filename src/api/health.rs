//! The health protocol of gRPC: whether requests are welcome here.

use crate::api::front::Front;
use crate::metrics::Call;
use crate::pb::health::health_check_response::ServingStatus;
use crate::pb::health::health_server::Health;
use crate::pb::health::{HealthCheckRequest, HealthCheckResponse};
use crate::server::handle::Handle;
use futures::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

pub struct HealthService {
    front: Front,
    check: Call,
    watch: Call,
}

impl HealthService {
    pub fn new(front: Front) -> HealthService {
        let call = |name| front.call("grpc.health.v1.Health", name);
        HealthService { check: call("Check"), watch: call("Watch"), front }
    }
}

/// Etcd serves the empty name only, which stands for the whole server.
fn is_known(request: &HealthCheckRequest) -> bool {
    request.service.is_empty()
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

fn status_of(handle: &Handle) -> ServingStatus {
    match handle.stop_reason() {
        None => ServingStatus::Serving,
        Some(_) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |_, request| {
            if !is_known(&request) {
                return Err(Status::not_found("unknown service"));
            }
            Ok(answer(status_of(handle)))
        };
        self.front.unary_status(&self.check, request, work).await
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// Says how it is, and then once more when that changes: a server that has stopped serving
    /// does not begin again.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.watch.begin();
        self.watch.end(0);
        let handle = self.front.handle.clone();
        if !is_known(request.get_ref()) {
            let unknown = stream::iter([Ok(answer(ServingStatus::ServiceUnknown))]);
            return Ok(Response::new(unknown.chain(stream::pending()).boxed()));
        }
        let first = answer(status_of(&handle));
        let stopped = stream::once(async move {
            handle.stopped().await;
            Ok(answer(ServingStatus::NotServing))
        });
        Ok(Response::new(stream::iter([Ok(first)]).chain(stopped).boxed()))
    }
}
