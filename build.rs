//! Turns `proto/` into Rust, with a protobuf compiler written in Rust: no protoc to install.

use prost::Message;
use std::path::PathBuf;

const PROTOS: [&str; 6] = [
    "proto/etcdserverpb/rpc.proto",
    "proto/v3lockpb/v3lock.proto",
    "proto/v3electionpb/v3election.proto",
    "proto/grpc/health/v1/health.proto",
    "proto/leasepb/lease.proto",
    "proto/detcd/raft.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let path = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(&path, descriptors.encode_to_vec())?;
    tonic_build::configure()
        .file_descriptor_set_path(&path)
        .skip_protoc_run()
        .bytes(["."])
        .compile_protos(&PROTOS, &["proto"])?;
    Ok(())
}
