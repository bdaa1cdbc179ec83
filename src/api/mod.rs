//! The gRPC services of the client port, one file a service.
//!
//! A call comes in through [`front`], which reads its metadata and counts it; [`validate`] holds
//! the checks that need no state; the work itself is done by the server's handle, and [`status`]
//! words what goes wrong. The same services are served by `serve_clients` in the simulator and by
//! `http/` in the daemon.

pub mod auth;
pub mod cluster;
pub mod election;
pub mod front;
pub mod health;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod status;
pub mod validate;
pub mod watch;

use crate::api::auth::AuthService;
use crate::api::cluster::ClusterService;
use crate::api::election::ElectionService;
use crate::api::front::Front;
use crate::api::health::HealthService;
use crate::api::kv::KvService;
use crate::api::lease::LeaseService;
use crate::api::lock::LockService;
use crate::api::maintenance::MaintenanceService;
use crate::api::watch::WatchService;
use crate::pb::etcdserverpb::auth_server::AuthServer;
use crate::pb::etcdserverpb::cluster_server::ClusterServer;
use crate::pb::etcdserverpb::kv_server::KvServer;
use crate::pb::etcdserverpb::lease_server::LeaseServer;
use crate::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::pb::etcdserverpb::watch_server::WatchServer;
use crate::pb::health::health_server::HealthServer;
use crate::pb::v3electionpb::election_server::ElectionServer;
use crate::pb::v3lockpb::lock_server::LockServer;
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
    let auth = AuthServer::new(AuthService::new(front.clone()));
    let watch = WatchServer::new(WatchService::new(front.clone()));
    let lease = LeaseServer::new(LeaseService::new(front.clone()));
    let lock = LockServer::new(LockService::new(front.clone()));
    let election = ElectionServer::new(ElectionService::new(front.clone()));
    let health = HealthServer::new(HealthService::new(front));
    tonic::transport::Server::builder()
        .add_service(kv.max_decoding_message_size(bytes))
        .add_service(cluster.max_decoding_message_size(bytes))
        .add_service(maintenance.max_decoding_message_size(bytes))
        .add_service(auth.max_decoding_message_size(bytes))
        .add_service(watch.max_decoding_message_size(bytes))
        .add_service(lease)
        .add_service(lock.max_decoding_message_size(bytes))
        .add_service(election.max_decoding_message_size(bytes))
        .add_service(health)
        .serve_with_shutdown(addr, shutdown)
        .await
}
