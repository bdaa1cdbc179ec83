//! One server in this process behind a real socket: what plain HTTP is told, and that gRPC is
//! answered on the same port.

use detcd::config::url::Url;
use detcd::env::Env;
use detcd::env::clock::RealClock;
use detcd::env::mem_disk::MemDisk;
use detcd::env::recorder::NoRecorder;
use detcd::http::access::Access;
use detcd::http::{self, Options, Site};
use detcd::pb::etcdserverpb::PutRequest;
use detcd::pb::etcdserverpb::kv_client::KvClient;
use detcd::server::Server;
use detcd::server::server_config::ServerConfig;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
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
    start_with(true).await
}

async fn start_with(gateway: bool) -> Port {
    start_for(gateway, Access::default()).await
}

async fn start_for(gateway: bool, access: Access) -> Port {
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
        gateway,
        access,
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
    ask_with(address, method, path, "").await
}

async fn ask_with(address: &str, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
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

/// What a call in JSON answers: the status of HTTP, and the object.
async fn post(address: &str, path: &str, body: &str) -> (u16, Value) {
    let (code, head, body) = ask_with(address, "POST", path, body).await;
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    (code, serde_json::from_str(&body).expect("JSON"))
}

#[tokio::test]
async fn calls_in_json_are_those_of_grpc() {
    let Port { server, address, stop } = start().await;
    let post = |path, body| post(&address, path, body);
    // `Zm9v` is foo and `YmFy` is bar.
    let (code, put) = post("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
    assert_eq!((code, &put["header"]["revision"]), (200, &json!("2")));
    let (_, range) = post("/v3beta/kv/range", r#"{"key":"Zm9v","unknown":[1]}"#).await;
    let kv = json!({
        "key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy"
    });
    assert_eq!((&range["kvs"], &range["count"]), (&json!([kv]), &json!("1")));
    assert!(range.get("more").is_none(), "zeros are left out");
    let swap = r#"{"compare":[{"target":"VERSION","key":"Zm9v","version":"0"}],
        "failure":[{"requestRange":{"key":"Zm9v","limit":1}}]}"#;
    let (_, txn) = post("/v3/kv/txn", swap).await;
    assert_eq!(txn["responses"][0]["response_range"]["kvs"], json!([kv]));
    assert!(txn.get("succeeded").is_none());

    let (code, refused) = post("/v3/kv/range", "").await;
    let text = "etcdserver: key is not provided";
    assert_eq!((code, refused), (400, json!({ "code": 3, "error": text, "message": text })));
    assert_eq!(post("/v3/lease/revoke", r#"{"ID":7}"#).await.0, 404);
    assert_eq!(post("/v3/nonsense", "{}").await.0, 404);
    for malformed in ["{", "[]", "null", r#"{"key":"!"}"#, r#"{"key":"Zm9v","limit":"x"}"#, "{}{}"]
    {
        let (code, refused) = post("/v3/kv/range", malformed).await;
        assert_eq!((code, &refused["code"]), (400, &json!(3)), "{malformed}");
    }
    let (code, _, body) = ask(&address, "GET", "/v3/kv/range").await;
    assert_eq!((code, body.contains("Method Not Allowed")), (501, true));
    // Long enough to be translated aside, there and back.
    let value = "QUJD".repeat(100_000);
    let put = format!(r#"{{"key":"bG9uZw==","value":"{value}"}}"#);
    assert_eq!(post("/v3/kv/put", &put).await.0, 200);
    let (_, range) = post("/v3/kv/range", r#"{"key":"bG9uZw=="}"#).await;
    assert_eq!(range["kvs"][0]["value"], value);
    // Too long for a message of gRPC, and too long to be read at all.
    for (bytes, limit) in [(3_000_000, "vs. 2097152"), (5_000_000, "vs. 4194304")] {
        let long = format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "AAAA".repeat(bytes / 4));
        let (code, _, body) = ask_with(&address, "POST", "/v3/kv/put", &long).await;
        assert_eq!((code, body.contains(limit)), (429, true), "{bytes}: {body}");
    }
    drop(stop);
    server.stop().await;

    let Port { server, address, stop } = start_with(false).await;
    let (code, _, body) = ask_with(&address, "POST", "/v3/kv/range", "{}").await;
    assert_eq!((code, body.as_str()), (404, "404 page not found\n"));
    drop(stop);
    server.stop().await;
}

#[tokio::test]
async fn a_stranger_is_not_answered_over_http() {
    let origins = Url::parse_list("http://pages.example:8080").expect("a URL");
    let access = Access::new(&origins, &["known.example".to_string()]);
    let Port { server, address, stop } = start_for(true, access).await;
    let ask = |method: &str, path: &str, host: &str, from: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\norigin: {from}\r\nconnection: close\r\n\
             content-length: 0\r\n\r\n"
        );
        let address = address.clone();
        async move { exchange(&address, request.as_bytes()).await.to_lowercase() }
    };
    for (method, path) in [("GET", "/health"), ("POST", "/v3/cluster/member/list")] {
        let stranger = ask(method, path, "stranger.example:2379", "x").await;
        assert!(stranger.starts_with("http/1.1 421 "), "{stranger}");
        let known = ask(method, path, "known.example:2379", "http://pages.example:8080").await;
        assert!(known.starts_with("http/1.1 200 "), "{known}");
        assert!(known.contains("access-control-allow-origin: http://pages.example:8080"));
        let elsewhere = ask(method, path, "known.example", "http://other.example").await;
        assert!(elsewhere.starts_with("http/1.1 200 ") && !elsewhere.contains("access-control"));
    }
    drop(stop);
    server.stop().await;
}

/// The next line of a stream that is JSON; the lengths of chunks stand between them.
async fn next_line(stream: &mut BufReader<TcpStream>) -> Value {
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(LIMIT, stream.read_line(&mut line)).await;
        assert_ne!(read.expect("a line comes").expect("it reads"), 0, "the stream ended");
        if line.starts_with('{') {
            return serde_json::from_str(&line).expect("JSON");
        }
    }
}

#[tokio::test]
async fn a_call_that_streams_answers_a_line_a_message() {
    let Port { server, address, stop } = start().await;
    let mut stream = TcpStream::connect(&address).await.expect("it listens");
    let create = r#"{"create_request":{"key":"Zm9v","watch_id":"7"}}"#;
    let length = create.len();
    let head = "POST /v3/watch HTTP/1.1\r\nhost: x\r\ngrpc-metadata-hasleader: true\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let request = format!("{head}{length:x}\r\n{create}\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut stream = BufReader::new(stream);
    let created = next_line(&mut stream).await;
    let (created, id) = (&created["result"]["created"], &created["result"]["watch_id"]);
    assert_eq!((created, id), (&json!(true), &json!("7")));
    post(&address, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
    let event = &next_line(&mut stream).await["result"]["events"][0];
    assert_eq!((&event["kv"]["value"], &event["kv"]["version"]), (&json!("YmFy"), &json!("1")));
    // The client goes on asking in the same stream.
    let cancel = r#"{"cancel_request":{"watch_id":7}}"#;
    let length = cancel.len();
    let further = format!("{length:x}\r\n{cancel}\r\n");
    stream.write_all(further.as_bytes()).await.expect("it reads");
    assert_eq!(next_line(&mut stream).await["result"]["canceled"], json!(true));
    drop(stream);

    // A stream that is refused has the status of its error, and one line.
    let odd = b"POST /v3/watch HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                grpc-metadata-client-api-version: \xe9\r\ncontent-length: 2\r\n\r\n{}";
    let refused = exchange(&address, odd).await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    assert_eq!(refused.matches("invalid client api version").count(), 1, "{refused}");
    // What can't be read is refused before anything is said.
    let (code, _, body) = ask_with(&address, "POST", "/v3/watch", "{]").await;
    assert_eq!((code, body.contains("\"code\":3")), (400, true), "{body}");
    drop(stop);
    server.stop().await;
}
