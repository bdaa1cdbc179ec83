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
use std::sync::Arc;

/// What a message may be longer than the request that it holds (etcd, `v3rpc/grpc.go`).
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// The services of one server.
///
/// They are wrapped for gRPC where they are served: the wrapper's type differs between the two
/// builds, so it is never named.
#[derive(Clone)]
pub struct Services {
    pub kv: Arc<kv::KvService>,
    pub cluster: Arc<cluster::ClusterService>,
    pub maintenance: Arc<maintenance::MaintenanceService>,
    pub auth: Arc<auth::AuthService>,
    pub watch: Arc<watch::WatchService>,
    pub lease: Arc<lease::LeaseService>,
    pub lock: Arc<lock::LockService>,
    pub election: Arc<election::ElectionService>,
    pub health: Arc<health::HealthService>,
    /// The longest message that is taken.
    pub message_bytes_max: usize,
}

/// The longest message that the client port takes.
pub fn max_message_bytes(handle: &Handle) -> usize {
    handle.limits().max_request_bytes + MESSAGE_OVERHEAD_BYTES
}

impl Services {
    pub fn new(handle: Handle) -> Services {
        let message_bytes_max = max_message_bytes(&handle);
        let front = front::Front::new(handle);
        Services {
            kv: Arc::new(kv::KvService::new(front.clone())),
            cluster: Arc::new(cluster::ClusterService::new(front.clone())),
            maintenance: Arc::new(maintenance::MaintenanceService::new(front.clone())),
            auth: Arc::new(auth::AuthService::new(front.clone())),
            watch: Arc::new(watch::WatchService::new(front.clone())),
            lease: Arc::new(lease::LeaseService::new(front.clone())),
            lock: Arc::new(lock::LockService::new(front.clone())),
            election: Arc::new(election::ElectionService::new(front.clone())),
            health: Arc::new(health::HealthService::new(front.clone())),
            message_bytes_max,
        }
    }
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
    let services = Services::new(handle);
    let bytes = services.message_bytes_max;
    tonic::transport::Server::builder()
        .add_service(KvServer::from_arc(services.kv).max_decoding_message_size(bytes))
        .add_service(ClusterServer::from_arc(services.cluster).max_decoding_message_size(bytes))
        .add_service(
            MaintenanceServer::from_arc(services.maintenance).max_decoding_message_size(bytes),
        )
        .add_service(AuthServer::from_arc(services.auth).max_decoding_message_size(bytes))
        .add_service(WatchServer::from_arc(services.watch).max_decoding_message_size(bytes))
        .add_service(LeaseServer::from_arc(services.lease).max_decoding_message_size(bytes))
        .add_service(LockServer::from_arc(services.lock).max_decoding_message_size(bytes))
        .add_service(ElectionServer::from_arc(services.election).max_decoding_message_size(bytes))
        .add_service(HealthServer::from_arc(services.health).max_decoding_message_size(bytes))
        .serve_with_shutdown(addr, shutdown)
        .await
}
