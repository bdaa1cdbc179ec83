//! One server in this process behind a real socket: what plain HTTP is told, and that gRPC is
//! answered on the same port.

use detcd::env::Env;
use detcd::env::clock::RealClock;
use detcd::env::mem_disk::MemDisk;
use detcd::env::recorder::NoRecorder;
use detcd::http::{self, Options, Site};
use detcd::pb::etcdserverpb::PutRequest;
use detcd::pb::etcdserverpb::kv_client::KvClient;
use detcd::server::Server;
use detcd::server::server_config::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Nothing here takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// A server that serves clients on a port of its own.
struct Port {
    server: Server,
    address: String,
    stop: oneshot::Sender<()>,
}

async fn start() -> Port {
    let env = Env {
        clock: Arc::new(RealClock::new()),
        disk: Arc::new(MemDisk::new()),
        seed: 1,
        recorder: Arc::new(NoRecorder),
    };
    let config = ServerConfig { segment_bytes: 1 << 20, ..ServerConfig::default() };
    let server = Server::start(config, env).await.expect("an empty disk is fine to start from");
    tokio::time::timeout(LIMIT, server.ready()).await.expect("one member elects itself");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let options = Options {
        max_concurrent_streams: 100,
        keepalive_interval: Duration::from_secs(7200),
        keepalive_timeout: Duration::from_secs(20),
    };
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move { drop(stopped.await) };
    tokio::spawn(http::serve(listener, Site::clients(server.handle(), options), shutdown));
    Port { server, address, stop }
}

/// All that comes back for these bytes, until the other side closes.
async fn exchange(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    // A reset after garbage is as good as an end.
    drop(read.expect("it closes"));
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask(address: &str, method: &str, path: &str) -> (u16, String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (code.expect("a status"), head.to_lowercase(), body.to_string())
}

#[tokio::test]
async fn probes_metrics_and_version_stand_beside_grpc() {
    let Port { server, address, stop } = start().await;
    let get = |path| ask(&address, "GET", path);
    let (code, head, body) = get("/health").await;
    assert_eq!((code, body.as_str()), (200, "{\"health\":\"true\",\"reason\":\"\"}"));
    assert!(head.contains("content-type: text/plain"));
    assert_eq!(get("/livez").await.2, "ok\n");
    let verbose = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
                   [+]non_learner ok\nok\n";
    assert_eq!(get("/readyz?verbose").await.2, verbose);
    let single = get("/readyz/non_learner?verbose").await;
    assert_eq!((single.0, single.2.as_str()), (200, "[+]non_learner ok\nok\n"));
    let excluded = get("/readyz?verbose&exclude=linearizable_read&exclude=nonsense").await.2;
    assert!(!excluded.contains("linearizable") && excluded.ends_with("ok\n"));
    let version = get("/version").await.2;
    assert!(version.starts_with("{\"etcdserver\":\"3.6.5\",\"etcdcluster\":\"3.6.0\""));
    assert_eq!(get("/nonsense").await.0, 404);
    assert_eq!(ask(&address, "POST", "/health").await.0, 405);

    let put = PutRequest { key: "a".into(), value: "b".into(), ..PutRequest::default() };
    let client = KvClient::connect(format!("http://{address}")).await;
    let mut client = client.expect("gRPC is answered on the same port");
    let header = client.put(put).await.expect("there is a leader").into_inner().header;
    assert_eq!(header.expect("filled in").revision, 2);
    let metrics = get("/metrics").await.2;
    for line in [
        "etcd_server_has_leader 1",
        "etcd_debugging_mvcc_current_revision 2",
        "etcd_server_health_success 1",
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",\
         grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing");
    }
    drop(stop);
    server.stop().await;
}

#[tokio::test]
async fn garbage_ends_its_own_connection_only() {
    let Port { server, address, stop } = start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let long_frame = [&preface[..], &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1, 7, 7, 7]].concat();
    let bad_headers = [&preface[..], &[0, 0, 3, 1, 4, 0, 0, 0, 1, 0xff, 0xff, 0xff]].concat();
    for bytes in [&b"\0\x01\x02\xff\r\n\r\n"[..], b"GET\r\n\r\n", &long_frame, &bad_headers] {
        exchange(&address, bytes).await;
    }
    assert_eq!(ask(&address, "GET", "/livez").await.0, 200);
    // A port that stops serving closes what is open.
    let mut idle = TcpStream::connect(&address).await.expect("it listens");
    idle.write_all(preface).await.expect("it reads");
    drop(stop);
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LIMIT, idle.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "an idle connection outlives its port");
    server.stop().await;
}
