//! gRPC requests: which service answers, and etcd's words where the library has its own.

use crate::api::auth::AuthService;
use crate::api::cluster::ClusterService;
use crate::api::election::ElectionService;
use crate::api::front::Front;
use crate::api::health::HealthService;
use crate::api::kv::KvService;
use crate::api::lease::LeaseService;
use crate::api::lock::LockService;
use crate::api::maintenance::MaintenanceService;
use crate::api::max_message_bytes;
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
use hyper::body::Body as HttpBody;
use hyper::{Request, Response};
use tonic::body::Body;
use tonic::codegen::{Service, StdError};
use tonic::{Code, Status};

/// The services of the client port.
pub struct Services {
    kv: KvServer<KvService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    auth: AuthServer<AuthService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    lock: LockServer<LockService>,
    election: ElectionServer<ElectionService>,
    health: HealthServer<HealthService>,
}

impl Services {
    pub fn new(handle: Handle) -> Services {
        let bytes = max_message_bytes(&handle);
        let front = Front::new(handle);
        let kv = KvServer::new(KvService::new(front.clone()));
        let cluster = ClusterServer::new(ClusterService::new(front.clone()));
        let maintenance = MaintenanceServer::new(MaintenanceService::new(front.clone()));
        let auth = AuthServer::new(AuthService::new(front.clone()));
        let watch = WatchServer::new(WatchService::new(front.clone()));
        let lock = LockServer::new(LockService::new(front.clone()));
        let election = ElectionServer::new(ElectionService::new(front.clone()));
        Services {
            kv: kv.max_decoding_message_size(bytes),
            cluster: cluster.max_decoding_message_size(bytes),
            maintenance: maintenance.max_decoding_message_size(bytes),
            auth: auth.max_decoding_message_size(bytes),
            watch: watch.max_decoding_message_size(bytes),
            lease: LeaseServer::new(LeaseService::new(front.clone())),
            lock: lock.max_decoding_message_size(bytes),
            election: election.max_decoding_message_size(bytes),
            health: HealthServer::new(HealthService::new(front)),
        }
    }
}

/// Answers one gRPC request: one that came over the network, or one that the gateway makes.
pub async fn answer<B>(services: &Services, request: Request<B>) -> Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    // Cheap: the parts of an address share one buffer.
    let uri = request.uri().clone();
    let response = match service_of(uri.path()) {
        "etcdserverpb.KV" => services.kv.clone().call(request).await,
        "etcdserverpb.Cluster" => services.cluster.clone().call(request).await,
        "etcdserverpb.Maintenance" => services.maintenance.clone().call(request).await,
        "etcdserverpb.Auth" => services.auth.clone().call(request).await,
        "etcdserverpb.Watch" => services.watch.clone().call(request).await,
        "etcdserverpb.Lease" => services.lease.clone().call(request).await,
        "v3lockpb.Lock" => services.lock.clone().call(request).await,
        "v3electionpb.Election" => services.election.clone().call(request).await,
        "grpc.health.v1.Health" => services.health.clone().call(request).await,
        unknown => {
            let text = format!("unknown service {unknown}");
            return Status::new(Code::Unimplemented, text).into_http();
        }
    };
    let Ok(response) = response;
    reword(uri.path(), response)
}

/// The service in `/package.Service/Method`.
fn service_of(path: &str) -> &str {
    path.strip_prefix('/').and_then(|path| path.split('/').next()).unwrap_or("")
}

/// Gives etcd's words to refusals that are made before a handler is called. Such an answer has
/// its status among the headers; that of any other comes after its messages.
fn reword(path: &str, response: Response<Body>) -> Response<Body> {
    if !response.headers().contains_key("grpc-status") {
        return response;
    }
    let status = Status::from_header_map(response.headers());
    match status.and_then(|status| reworded(path, &status)) {
        Some(status) => status.into_http(),
        None => response,
    }
}

fn reworded(path: &str, status: &Status) -> Option<Status> {
    match status.code() {
        Code::Unimplemented if status.message().is_empty() => {
            let method = path.rsplit('/').next().unwrap_or("");
            let text = format!("unknown method {method} for service {}", service_of(path));
            Some(Status::new(Code::Unimplemented, text))
        }
        Code::OutOfRange => {
            let (found, limit) = too_long(status.message())?;
            let text = format!("grpc: received message larger than max ({found} vs. {limit})");
            Some(Status::new(Code::ResourceExhausted, text))
        }
        _ => None,
    }
}

/// The two numbers in tonic's refusal of a long message.
fn too_long(message: &str) -> Option<(u64, u64)> {
    let numbers = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (found, limit) = numbers.split_once(" bytes, the limit is: ")?;
    Some((found.parse().ok()?, limit.strip_suffix(" bytes")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_before_a_handler_are_worded_as_etcd_words_them() {
        let path = "/etcdserverpb.KV/Nonsense";
        let unknown = reworded(path, &Status::new(Code::Unimplemented, "")).expect("reworded");
        assert_eq!(unknown.message(), "unknown method Nonsense for service etcdserverpb.KV");
        let absent = Status::new(Code::Unimplemented, "MemberAdd is not there yet");
        assert!(reworded(path, &absent).is_none());
        let long = "Error, decoded message length too large: found 2621452 bytes, \
                    the limit is: 2097152 bytes";
        let long = reworded(path, &Status::new(Code::OutOfRange, long)).expect("reworded");
        assert_eq!(long.code(), Code::ResourceExhausted);
        let text = "grpc: received message larger than max (2621452 vs. 2097152)";
        assert_eq!(long.message(), text);
        let compacted = Status::new(Code::OutOfRange, "etcdserver: mvcc: required revision");
        assert!(reworded(path, &compacted).is_none());
    }

    #[test]
    fn odd_paths_name_no_service() {
        assert_eq!(service_of("/etcdserverpb.KV/Range"), "etcdserverpb.KV");
        for path in ["", "/", "//", "x"] {
            assert_eq!(service_of(path), "", "{path:?}");
        }
    }
}
