//! gRPC requests: which service answers, and etcd's words where the library has its own.

use crate::api::Services;
use crate::pb::etcdserverpb::auth_server::AuthServer;
use crate::pb::etcdserverpb::cluster_server::ClusterServer;
use crate::pb::etcdserverpb::kv_server::KvServer;
use crate::pb::etcdserverpb::lease_server::LeaseServer;
use crate::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::pb::etcdserverpb::watch_server::WatchServer;
use crate::pb::health::health_server::HealthServer;
use crate::pb::v3electionpb::election_server::ElectionServer;
use crate::pb::v3lockpb::lock_server::LockServer;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

/// Answers one gRPC request.
pub async fn answer(services: &Services, request: Request<Incoming>) -> Response<Body> {
    // Cheap: the parts of an address share one buffer.
    let uri = request.uri().clone();
    let bytes = services.message_bytes_max;
    let response = match service_of(uri.path()) {
        "etcdserverpb.KV" => {
            let service = KvServer::from_arc(services.kv.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
        "etcdserverpb.Cluster" => {
            let service = ClusterServer::from_arc(services.cluster.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
        "etcdserverpb.Maintenance" => {
            let service = MaintenanceServer::from_arc(services.maintenance.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
        "etcdserverpb.Auth" => {
            let service = AuthServer::from_arc(services.auth.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
        "etcdserverpb.Watch" => {
            let service = WatchServer::from_arc(services.watch.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
        "etcdserverpb.Lease" => {
            let service = LeaseServer::from_arc(services.lease.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
        "v3lockpb.Lock" => {
            let service = LockServer::from_arc(services.lock.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
        "v3electionpb.Election" => {
            let service = ElectionServer::from_arc(services.election.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
        "grpc.health.v1.Health" => {
            let service = HealthServer::from_arc(services.health.clone());
            service.max_decoding_message_size(bytes).call(request).await
        }
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
