//! Three servers in one process, on the real runtime and on memory disks: the shortest way to see
//! the ring turn.

use detcd::env::Env;
use detcd::env::clock::RealClock;
use detcd::env::mem_disk::MemDisk;
use detcd::env::recorder::NoRecorder;
use detcd::pb::etcdserverpb::{PutRequest, RangeRequest};
use detcd::server::handle::Caller;
use detcd::server::server_config::ServerConfig;
use detcd::server::{Server, serve_peers};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

async fn start(name: &str, cluster: &[(String, Vec<String>)], seed: u64) -> Server {
    let config = ServerConfig {
        name: name.to_string(),
        data_dir: format!("/{name}").into(),
        initial_cluster: cluster.to_vec(),
        advertise_client_urls: vec![format!("http://{name}:2379")],
        segment_bytes: 1 << 20,
        ..ServerConfig::default()
    };
    let env = Env {
        clock: Arc::new(RealClock::new()),
        disk: Arc::new(MemDisk::new()),
        seed,
        recorder: Arc::new(NoRecorder),
    };
    Server::start(config, env).await.expect("an empty disk is fine to start from")
}

#[tokio::test]
async fn what_one_member_acknowledges_every_member_reads() {
    let addresses: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
    let cluster: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(i, address)| (format!("m{i}"), vec![format!("http://{address}")]))
        .collect();
    let mut servers = Vec::new();
    for (i, address) in addresses.iter().enumerate() {
        let server = start(&format!("m{i}"), &cluster, i as u64).await;
        tokio::spawn(serve_peers(server.peer_service(), *address));
        servers.push(server);
    }
    for server in &servers {
        server.ready().await;
    }
    let caller = Caller::default();
    for (i, server) in servers.iter().enumerate() {
        let put = PutRequest {
            key: format!("key{i}").into(),
            value: "value".into(),
            ..PutRequest::default()
        };
        let put = server.handle().put(&caller, put).await.expect("a leader is there");
        assert_eq!(put.header.expect("filled in").revision, 2 + i as i64);
        for reader in &servers {
            let range = RangeRequest {
                key: "key".into(),
                range_end: "kez".into(),
                ..RangeRequest::default()
            };
            let range = reader.handle().range(&caller, range).await.expect("a leader is there");
            assert_eq!(range.count, 1 + i as i64);
        }
    }
    let hashes: Vec<_> = servers.iter().map(|s| s.handle().hash_kv(4)).collect();
    assert!(hashes.iter().all(|hash| {
        hash.as_ref().expect("the revision is there").hash
            == hashes[0].as_ref().expect("the revision is there").hash
    }));
    for server in servers {
        server.stop().await;
    }
}
