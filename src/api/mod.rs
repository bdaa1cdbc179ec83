//! The gRPC services of the client port, one file a service.
//!
//! A call comes in through [`front`], which reads its metadata and counts it; [`validate`] holds
//! the checks that need no state; the work itself is done by the server's handle, and [`status`]
//! words what goes wrong. The same services are served by `serve_clients` in the simulator and by
//! `http/` in the daemon.

pub mod auth;
pub mod cluster;
pub mod front;
pub mod kv;
pub mod maintenance;
pub mod status;
pub mod validate;

use crate::api::auth::AuthService;
use crate::api::cluster::ClusterService;
use crate::api::front::Front;
use crate::api::kv::KvService;
use crate::api::maintenance::MaintenanceService;
use crate::pb::etcdserverpb::auth_server::AuthServer;
use crate::pb::etcdserverpb::cluster_server::ClusterServer;
use crate::pb::etcdserverpb::kv_server::KvServer;
use crate::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::server::handle::Handle;
use std::future::Future;
use std::net::SocketAddr;

/// What a message may be longer than the request that it holds (etcd, `v3rpc/grpc.go`).
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// The longest message that the client port takes.
pub fn max_message_bytes(handle: &Handle) -> usize {
    handle.limits().max_request_bytes + MESSAGE_OVERHEAD_BYTES
}

/// Serves the client port, gRPC alone, until `shutdown` completes.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve_clients(
    handle: Handle,
    addr: SocketAddr,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let bytes = max_message_bytes(&handle);
    let front = Front::new(handle);
    // The two builds give these services types of different shapes, so none is named here.
    let kv = KvServer::new(KvService::new(front.clone()));
    let cluster = ClusterServer::new(ClusterService::new(front.clone()));
    let maintenance = MaintenanceServer::new(MaintenanceService::new(front.clone()));
    let auth = AuthServer::new(AuthService::new(front));
    tonic::transport::Server::builder()
        .add_service(kv.max_decoding_message_size(bytes))
        .add_service(cluster.max_decoding_message_size(bytes))
        .add_service(maintenance.max_decoding_message_size(bytes))
        .add_service(auth.max_decoding_message_size(bytes))
        .serve_with_shutdown(addr, shutdown)
        .await
}
