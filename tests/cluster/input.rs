//! Bad input to a real process: a clear error, nothing lost, no panic.

use crate::client::{bounded, get_request, kv, put, put_request, status, wait_writable};
use crate::program;
use detcd::pb::etcdserverpb as pb;
use process::{Cluster, Member};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Code;

/// A start or an end takes no longer than this on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// The part of an address behind its scheme.
fn host(url: &str) -> &str {
    url.strip_prefix("http://").expect("a plain address")
}

/// Sends bytes that are no protocol and reads until the server has enough of them.
fn throw(url: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(host(url)).expect("a listener");
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit");
    // The server may close before it has read all: that is its right.
    let _ = stream.write_all(bytes);
    let mut answer = [0_u8; 1024];
    while matches!(stream.read(&mut answer), Ok(count) if count > 0) {}
}

/// Bytes that follow no rule but are the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.push(state as u8);
    }
    bytes
}

#[tokio::test]
async fn garbage_on_either_port_changes_nothing() {
    let cluster = Cluster::start(&program(), 1, &[]).expect("a member starts");
    let Member { client_url, peer_url, .. } = &cluster.members[0];
    put(client_url, "key", "value").await.expect("a put");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let throws: Vec<Vec<u8>> = vec![
        noise(100_000),
        vec![0; 5000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"POST /etcdserverpb.KV/Put HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc".to_vec(),
        [preface.as_slice(), &noise(10_000)].concat(),
        vec![0x16, 0x03, 0x01, 0x00, 0xff, 0x01],
    ];
    for url in [client_url, peer_url] {
        for bytes in &throws {
            throw(url, bytes);
        }
    }
    let read = bounded(kv(client_url).range(get_request("key", false))).await.expect("a read");
    assert_eq!(read.kvs[0].value.as_ref(), b"value");
    let log = cluster.log(0).expect("the log");
    assert!(!log.contains("panicked"), "{log}");
}

/// Requires that a member ends of itself with a failure, and gives its log.
fn fails_to_start(cluster: &mut Cluster, index: usize) -> String {
    cluster.spawn(index).expect("the program runs");
    let status = cluster.wait_exit(index, SOON).expect("a process to wait for");
    let log = cluster.log(index).expect("the log");
    let status = status.unwrap_or_else(|| panic!("still runs after {SOON:?}:\n{log}"));
    assert!(!status.success(), "{status:?}:\n{log}");
    assert!(!log.contains("panicked"), "an error, not a panic:\n{log}");
    log
}

#[test]
fn a_port_in_use_is_named() {
    let holder = Cluster::start(&program(), 1, &[]).expect("a member starts");
    let mut second = Cluster::prepare(&program(), 1, &[]).expect("a second is prepared");
    let taken = holder.members[0].client_url.clone();
    second.members[0].client_url.clone_from(&taken);
    let log = fails_to_start(&mut second, 0);
    assert!(log.contains(host(&taken)), "the log names {taken}:\n{log}");
    assert!(log.to_lowercase().contains("in use"), "{log}");
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let mut cluster = Cluster::prepare(&program(), 1, &[]).expect("a member is prepared");
    let blocker = cluster.members[0].dir.with_extension("file");
    fs::write(&blocker, "not a directory").expect("a file in the way");
    cluster.members[0].dir = blocker.join("data");
    let log = fails_to_start(&mut cluster, 0);
    assert!(log.contains(&*blocker.to_string_lossy()), "the log names the path:\n{log}");
}

#[test]
fn a_directory_of_etcd_with_its_log_elsewhere_is_told_how_to_come_over() {
    let mut cluster = Cluster::prepare(&program(), 1, &[]).expect("a member is prepared");
    let dir = cluster.members[0].dir.clone();
    fs::create_dir_all(dir.join("member/snap")).expect("a directory of etcd");
    fs::write(dir.join("member/snap/db"), "its database").expect("a file");
    let log = fails_to_start(&mut cluster, 0);
    assert!(log.contains("detcdutl snapshot restore --skip-hash-check"), "{log}");
    assert!(!dir.join("member/runs").exists(), "nothing was begun there");
}

#[test]
fn a_log_of_etcd_is_no_damaged_log() {
    let mut cluster = Cluster::prepare(&program(), 1, &[]).expect("a member is prepared");
    let wal = cluster.members[0].dir.with_extension("wal");
    fs::create_dir_all(&wal).expect("a directory for the log");
    // A checksum of 0, as every segment of etcd's begins.
    let begin = [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 16, 0, 0, 0, 0, 0];
    let segment = wal.join("0000000000000000-0000000000000000.wal");
    fs::write(&segment, begin).expect("a file");
    let flag = format!("--wal-dir={}", wal.display());
    cluster.spawn_with(0, &[&flag]).expect("the process starts");
    let status = cluster.wait_exit(0, SOON).expect("its end").expect("it ends in time");
    let log = cluster.log(0).expect("its log");
    assert!(!status.success(), "{log}");
    for part in ["holds the log of an etcd", "name both", "detcdutl snapshot restore"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains("damaged"), "{log}");
    assert_eq!(fs::read(&segment).expect("it is there"), begin, "it stays as it is");
}

/// All files below a directory whose path has this part.
fn files_with(dir: &Path, part: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, part));
        } else if path.to_string_lossy().contains(part) {
            found.push(path);
        }
    }
    found
}

/// Where these bytes stand in the log, and in which file.
fn find(dir: &Path, needle: &[u8]) -> (PathBuf, usize) {
    for path in files_with(dir, "wal") {
        let bytes = fs::read(&path).expect("a readable file");
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            return (path, at);
        }
    }
    panic!("no file below {} holds {:?}", dir.display(), String::from_utf8_lossy(needle));
}

/// A member with some keys, killed.
async fn killed_member() -> Cluster {
    let mut cluster = Cluster::start(&program(), 1, &[]).expect("a member starts");
    let url = cluster.endpoints().remove(0);
    for number in 0..20 {
        put(&url, &format!("key-{number:02}"), &format!("value-{number:02}")).await.expect("a put");
    }
    cluster.kill(0).expect("the member dies");
    cluster
}

#[tokio::test]
async fn damage_before_the_end_of_the_log_stops_the_member() {
    let mut cluster = killed_member().await;
    let (path, at) = find(&cluster.members[0].dir, b"value-05");
    let mut bytes = fs::read(&path).expect("a readable file");
    bytes[at] ^= 0x40;
    fs::write(&path, &bytes).expect("a writable file");
    let log = fails_to_start(&mut cluster, 0);
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    assert!(log.contains(&name), "the log names {name}:\n{log}");
    bytes[at] ^= 0x40;
    fs::write(&path, &bytes).expect("a writable file");
    cluster.spawn(0).expect("the member starts");
    cluster.wait_ready(0, SOON).expect("with the damage undone it serves");
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_cut() {
    let mut cluster = killed_member().await;
    let url = cluster.endpoints().remove(0);
    cluster.spawn(0).expect("the member starts");
    cluster.wait_ready(0, SOON).expect("the member serves");
    let long = "the last value ".repeat(300);
    put(&url, "last", &long).await.expect("a put");
    cluster.kill(0).expect("the member dies");
    let (path, at) = find(&cluster.members[0].dir, b"the last value ");
    let mut bytes = fs::read(&path).expect("a readable file");
    // A power cut keeps or loses whole sectors: the last write lost all but its first.
    bytes[at.next_multiple_of(512)..].fill(0);
    fs::write(&path, &bytes).expect("a writable file");
    cluster.spawn(0).expect("the member starts");
    cluster.wait_ready(0, SOON).expect("a torn end is no damage");
    let read = bounded(kv(&url).range(get_request("key-19", false))).await.expect("a read");
    assert_eq!(read.kvs[0].value.as_ref(), b"value-19");
    let read = bounded(kv(&url).range(get_request("last", false))).await.expect("a read");
    assert!(read.kvs.is_empty(), "half a value is no value");
    put(&url, "after", "value").await.expect("a put after the cut");
}

#[tokio::test]
async fn a_member_of_another_cluster_is_not_heard() {
    let ours = Cluster::start(&program(), 1, &[]).expect("a member starts");
    let url = ours.endpoints().remove(0);
    put(&url, "key", "value").await.expect("a put");
    let term = status(&url).await.expect("a status").raft_term;
    // The stranger believes that our member is the second of its own cluster of two.
    let mut stranger = Cluster::prepare(&program(), 2, &[]).expect("a stranger is prepared");
    stranger.members[1].peer_url.clone_from(&ours.members[0].peer_url);
    stranger.spawn(0).expect("the stranger starts");
    tokio::time::sleep(Duration::from_secs(4)).await;
    put(&url, "key", "again").await.expect("a put beside the stranger");
    assert_eq!(status(&url).await.expect("a status").raft_term, term, "no vote of a stranger");
    let theirs = stranger.endpoints().remove(0);
    if let Ok(status) = status(&theirs).await {
        assert_eq!(status.leader, 0, "the stranger found no quorum");
    }
    let log = ours.log(0).expect("the log");
    assert!(!log.contains("panicked"), "{log}");
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

#[tokio::test]
async fn bad_requests_get_the_texts_of_etcd() {
    let cluster = Cluster::start(&program(), 1, &[]).expect("a member starts");
    let url = cluster.endpoints().remove(0);
    assert!(wait_writable(&url, SOON).await, "a fresh member takes writes");
    let mut client = kv(&url);
    let put_op = |key: &str| op(pb::request_op::Request::RequestPut(put_request(key, "value")));
    let many = (0..129).map(|number| put_op(&format!("many-{number}"))).collect();
    let twice = vec![put_op("same"), put_op("same")];
    let txn = |success| pb::TxnRequest { success, ..Default::default() };
    let at = |revision| pb::RangeRequest { revision, ..get_request("key", false) };
    let compaction = |revision| pb::CompactionRequest { revision, physical: false };
    for number in 0..5 {
        client.put(put_request("key", &number.to_string())).await.expect("a put");
    }
    client.compact(compaction(4)).await.expect("a compaction");
    let huge = "h".repeat(1_572_864);
    let unknown = pb::RangeRequest { sort_order: 9, ..get_request("key", false) };

    let unknown = bounded(client.range(unknown)).await.map(drop);
    let empty = bounded(client.put(put_request("", "value"))).await.map(drop);
    let empty_get = bounded(client.range(get_request("", false))).await.map(drop);
    let future = bounded(client.range(at(1_000_000))).await.map(drop);
    let compacted = bounded(client.range(at(2))).await.map(drop);
    let too_far = bounded(client.compact(compaction(1_000_000))).await.map(drop);
    let too_many = bounded(client.txn(txn(many))).await.map(drop);
    let duplicate = bounded(client.txn(txn(twice))).await.map(drop);
    let too_large = bounded(client.put(put_request("key", &huge))).await.map(drop);
    let cases = [
        (empty, Code::InvalidArgument, "etcdserver: key is not provided"),
        (empty_get, Code::InvalidArgument, "etcdserver: key is not provided"),
        (unknown, Code::InvalidArgument, "etcdserver: invalid sort option"),
        (future, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        (compacted, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        (too_far, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        (too_many, Code::InvalidArgument, "etcdserver: too many operations in txn request"),
        (duplicate, Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        (too_large, Code::InvalidArgument, "etcdserver: request is too large"),
    ];
    for (answer, code, text) in cases {
        let status = answer.expect_err(text);
        assert_eq!((status.code(), status.message()), (code, text));
    }
    let unimplemented = tonic::client::Grpc::new(crate::client::channel(&url));
    let status = call_nonsense(unimplemented).await;
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
}

/// Calls a method that no service has.
async fn call_nonsense(
    mut client: tonic::client::Grpc<tonic::transport::Channel>,
) -> tonic::Status {
    client.ready().await.expect("a connection");
    let path = "/etcdserverpb.KV/Nonsense".parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<pb::PutRequest, pb::PutResponse>::default();
    let request = tonic::Request::new(put_request("key", "value"));
    let answer = client.unary(request, path, codec).await;
    answer.map(drop).expect_err("no such method")
}
