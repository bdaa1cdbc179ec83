//! The messages and services that `build.rs` generates from `proto/`; no logic.
//!
//! The nesting follows the protobuf packages, because generated code of one package names another
//! by its relative path (`super::mvccpb::KeyValue`).

/// Versions of keys and the events that report them.
#[allow(clippy::all)]
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Leases as they are stored.
#[allow(clippy::all)]
pub mod leasepb {
    tonic::include_proto!("leasepb");
}

/// Users, roles and permissions.
#[allow(clippy::all)]
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The services KV, Watch, Lease, Cluster, Maintenance and Auth with their messages.
#[allow(clippy::all)]
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// The lock service.
#[allow(clippy::all)]
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// The election service.
#[allow(clippy::all)]
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// The health protocol of gRPC (package `grpc.health.v1`, which names no other package).
#[allow(clippy::all)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The packages that are ours alone.
pub mod detcd {
    /// What goes into the log and what peers say to each other (package `detcd.raft`).
    #[allow(clippy::all)]
    pub mod raft {
        tonic::include_proto!("detcd.raft");
    }
}

pub use detcd::raft as raftpb;
