//! A member that was down while the log was released comes back by a snapshot, and those who watch
//! there miss nothing.

use crate::client::{CALL_MAX, bounded, channel, kv, leader, put, wait_writable};
use crate::kill::everything;
use crate::program;
use detcd::pb::etcdserverpb as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use process::Cluster;
use std::path::Path;
use std::time::{Duration, Instant};

/// On a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(30);
/// Far more than the log keeps.
const WRITES: usize = 400;

/// The revisions that a watch of `w/` from `start` on is told of, up to `end`.
async fn watched(url: &str, start: i64, end: i64) -> Vec<i64> {
    let create = pb::WatchCreateRequest {
        key: "w/".into(),
        range_end: "w0".into(),
        start_revision: start,
        ..Default::default()
    };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests =
        futures::StreamExt::chain(futures::stream::iter([request]), futures::stream::pending());
    let mut client = WatchClient::new(channel(url));
    let mut stream = client.watch(requests).await.expect("a stream").into_inner();
    let mut revisions = Vec::new();
    while revisions.last().is_none_or(|last| *last < end) {
        let message = tokio::time::timeout(CALL_MAX, stream.message()).await;
        let message = message.expect("an event in time").expect("no error").expect("no end");
        assert!(!message.canceled, "{message:?}");
        let kvs = message.events.into_iter().filter_map(|event| event.kv);
        revisions.extend(kvs.map(|kv| kv.mod_revision));
    }
    revisions
}

#[tokio::test]
async fn a_member_that_fell_behind_the_log_comes_back_by_a_snapshot() {
    let flags = ["--snapshot-count=50", "--snapshot-catchup-entries=5", "--resident-bytes=1000"];
    let mut cluster = Cluster::start(&program(), 3, &flags).expect("three members start");
    let urls = cluster.endpoints();
    assert!(wait_writable(&urls[0], PATIENCE).await, "a fresh cluster takes writes");
    let first = put(&urls[0], "w/first", "value").await.expect("a put");
    let first = first.header.expect("an answer has a header").revision;
    let led = leader(&urls, PATIENCE).await.expect("a leader");
    let lagging = (led + 1) % urls.len();
    cluster.kill(lagging).expect("the member dies");
    let mut last = first;
    for number in 0..WRITES {
        let value = format!("{number:0>100}");
        let answer = put(&urls[led], &format!("w/{}", number % 100), &value).await.expect("a put");
        last = answer.header.expect("an answer has a header").revision;
    }
    cluster.spawn(lagging).expect("the member starts again");
    cluster.wait_ready(lagging, PATIENCE).expect("the member serves again");
    let begin = Instant::now();
    while everything(&urls[lagging]).await.len() < 101 {
        assert!(begin.elapsed() < PATIENCE, "the member does not catch up");
    }
    let log = cluster.log(lagging).expect("the member writes a log");
    assert!(log.contains("snapshot installed"), "it came back by the log:\n{log}");
    let expected: Vec<i64> = (first..=last).collect();
    assert_eq!(watched(&urls[lagging], first, last).await, expected, "every event once, in order");
    // What it has now is its own: it also survives the end of the process.
    cluster.kill(lagging).expect("the member dies");
    cluster.spawn(lagging).expect("the member starts again");
    cluster.wait_ready(lagging, PATIENCE).expect("the member serves again");
    assert_eq!(everything(&urls[lagging]).await, everything(&urls[led]).await);
    let compact = pb::CompactionRequest { revision: last, physical: true };
    bounded(kv(&urls[lagging]).compact(compact)).await.expect("a compaction");
    assert_eq!(watched(&urls[led], last, last).await, [last]);
}

#[tokio::test]
async fn a_log_on_a_disk_of_its_own_is_never_left_behind() {
    let mut cluster = Cluster::prepare(&program(), 1, &[]).expect("a member is prepared");
    let url = cluster.endpoints().remove(0);
    let wal_dir = cluster.members[0].dir.with_extension("wal");
    let flag = |dir: &Path| format!("--wal-dir={}", dir.display());
    cluster.spawn_with(0, &[&flag(&wal_dir)]).expect("the program runs");
    cluster.wait_ready(0, PATIENCE).expect("the member serves");
    put(&url, "w/key", "value").await.expect("a put");
    assert!(!cluster.members[0].dir.join("member/wal").exists(), "the log is elsewhere");
    cluster.kill(0).expect("the member dies");
    // Without the flag it finds its log, and with another one it does not begin afresh.
    cluster.spawn(0).expect("the member starts again");
    cluster.wait_ready(0, PATIENCE).expect("the member serves again");
    assert_eq!(everything(&url).await.len(), 1);
    cluster.kill(0).expect("the member dies");
    let other = cluster.members[0].dir.with_extension("other");
    cluster.spawn_with(0, &[&flag(&other)]).expect("the program runs");
    let status = cluster.wait_exit(0, PATIENCE).expect("a process to wait for");
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
    let log = cluster.log(0).expect("the member writes a log");
    assert!(log.contains(&*wal_dir.to_string_lossy()), "it says where the log is:\n{log}");
}
