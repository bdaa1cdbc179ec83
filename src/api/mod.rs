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

/// What a message may be longer than the request that it holds (etcd, `v3rpc/grpc.go`).
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// The services of one server, ready to be served.
#[derive(Clone)]
pub struct Services {
    pub kv: KvServer<kv::KvService>,
    pub cluster: ClusterServer<cluster::ClusterService>,
    pub maintenance: MaintenanceServer<maintenance::MaintenanceService>,
    pub auth: AuthServer<auth::AuthService>,
    pub watch: WatchServer<watch::WatchService>,
    pub lease: LeaseServer<lease::LeaseService>,
    pub lock: LockServer<lock::LockService>,
    pub election: ElectionServer<election::ElectionService>,
    pub health: HealthServer<health::HealthService>,
}

/// The longest message that the client port takes.
pub fn max_message_bytes(handle: &Handle) -> usize {
    handle.limits().max_request_bytes + MESSAGE_OVERHEAD_BYTES
}

impl Services {
    pub fn new(handle: Handle) -> Services {
        let bytes = max_message_bytes(&handle);
        let front = front::Front::new(handle);
        let kv = KvServer::new(kv::KvService::new(front.clone()));
        let cluster = ClusterServer::new(cluster::ClusterService::new(front.clone()));
        let maintenance = maintenance::MaintenanceService::new(front.clone());
        Services {
            kv: kv.max_decoding_message_size(bytes),
            cluster: cluster.max_decoding_message_size(bytes),
            maintenance: MaintenanceServer::new(maintenance).max_decoding_message_size(bytes),
            auth: AuthServer::new(auth::AuthService::new(front.clone()))
                .max_decoding_message_size(bytes),
            watch: WatchServer::new(watch::WatchService::new(front.clone()))
                .max_decoding_message_size(bytes),
            lease: LeaseServer::new(lease::LeaseService::new(front.clone())),
            lock: LockServer::new(lock::LockService::new(front.clone()))
                .max_decoding_message_size(bytes),
            election: ElectionServer::new(election::ElectionService::new(front.clone()))
                .max_decoding_message_size(bytes),
            health: HealthServer::new(health::HealthService::new(front)),
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
    tonic::transport::Server::builder()
        .add_service(services.kv)
        .add_service(services.cluster)
        .add_service(services.maintenance)
        .add_service(services.auth)
        .add_service(services.watch)
        .add_service(services.lease)
        .add_service(services.lock)
        .add_service(services.election)
        .add_service(services.health)
        .serve_with_shutdown(addr, shutdown)
        .await
}
