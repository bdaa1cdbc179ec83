//! Every metric that is declared is fed: three members at work, and what they publish.

use crate::client::{bounded, channel, get_request, kv, leader, put, put_request, wait_writable};
use crate::program;
use detcd::metrics::NAMES;
use detcd::pb::etcdserverpb as pb;
use pb::alarm_request::AlarmAction;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::request_op::Request;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use process::Cluster;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(40);

/// There is nothing that they could count.
const ALWAYS_ZERO: [&str; 3] = [
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_disk_defrag_inflight",
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
];

/// They need trouble or features that this test does not bring about.
const NOT_HERE: [&str; 40] = [
    "detcd_damaged_runs",
    "detcd_disk_full",
    "detcd_quarantined",
    "detcd_quarantines_total",
    "detcd_repaired_values_total",
    "detcd_scrub_bytes_total",
    "detcd_scrub_damage_total",
    "detcd_value_reads_total",
    "etcd_debugging_auth_revision",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_disk_backend_snapshot_duration_seconds",
    "etcd_mvcc_db_open_read_transactions",
    "etcd_mvcc_hash_duration_seconds",
    "etcd_network_peer_received_failures_total",
    "etcd_network_server_stream_failures_total",
    "etcd_network_snapshot_receive_failures",
    "etcd_network_snapshot_receive_inflights_total",
    "etcd_network_snapshot_receive_success",
    "etcd_network_snapshot_receive_total_duration_seconds",
    "etcd_network_snapshot_send_failures",
    "etcd_network_snapshot_send_inflights_total",
    "etcd_network_snapshot_send_success",
    "etcd_network_snapshot_send_total_duration_seconds",
    "etcd_server_healthcheck",
    "etcd_server_healthchecks_total",
    "etcd_server_health_failures",
    "etcd_server_heartbeat_send_failures_total",
    "etcd_server_is_learner",
    "etcd_server_learner_promote_failures",
    "etcd_server_learner_promote_successes",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_snapshot_apply_in_progress_total",
    "etcd_snap_db_save_total_duration_seconds",
    "os_fd_limit",
    "process_max_fds",
];

fn get(url: &str, path: &str) -> String {
    let host = url.strip_prefix("http://").expect("a plain address");
    let mut stream = TcpStream::connect(host).expect("a listener");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the answer is text");
    text
}

/// The metrics of which some sample is not 0; of a histogram its count is looked at.
fn moved(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let name = name.split('{').next().expect("a split has a first part");
        if value.parse::<f64>().is_ok_and(|value| value != 0.0) {
            found.insert(name.to_string());
            found.extend(name.strip_suffix("_count").map(str::to_string));
        }
    }
    found
}

/// One call of every kind that counts something.
async fn use_everything(url: &str) {
    put(url, "a", "b").await.expect("a put");
    bounded(kv(url).range(get_request("a", false))).await.expect("a read");
    let op = |request| pb::RequestOp { request: Some(request) };
    let parts = vec![
        op(Request::RequestPut(put_request("c", "d"))),
        op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: "a".into(),
            ..Default::default()
        })),
    ];
    let txn = pb::TxnRequest { success: parts, ..Default::default() };
    let txn = bounded(kv(url).txn(txn)).await.expect("a transaction");
    let revision = txn.header.expect("an answer has a header").revision;
    let mut leases = LeaseClient::new(channel(url));
    let grant = |id| pb::LeaseGrantRequest { ttl: 1, id };
    for id in [7, 8] {
        bounded(leases.lease_grant(grant(id))).await.expect("a grant");
    }
    bounded(leases.lease_revoke(pb::LeaseRevokeRequest { id: 7 })).await.expect("a revocation");
    let alive = futures::stream::iter([pb::LeaseKeepAliveRequest { id: 8 }]);
    let mut alive = bounded(leases.lease_keep_alive(alive)).await.expect("a keep-alive");
    alive.message().await.expect("an answer");
    let mut maintenance = MaintenanceClient::new(channel(url));
    let hash = pb::HashKvRequest { revision: 0 };
    bounded(maintenance.hash_kv(hash)).await.expect("a hash");
    let activate = pb::AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: 1,
        alarm: pb::AlarmType::Nospace.into(),
    };
    bounded(maintenance.alarm(activate)).await.expect("an alarm");
    let compaction = pb::CompactionRequest { revision, physical: true };
    bounded(kv(url).compact(compaction)).await.expect("a compaction");
}

async fn watch(url: &str) -> tonic::Streaming<pb::WatchResponse> {
    let key = "w".into();
    let create = pb::WatchCreateRequest { key, ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = futures::StreamExt::chain(
        futures::stream::iter([create]),
        futures::stream::pending::<pb::WatchRequest>(),
    );
    let mut stream = bounded(WatchClient::new(channel(url)).watch(requests)).await.expect("one");
    stream.message().await.expect("it is created");
    stream
}

#[tokio::test]
async fn every_declared_metric_moves_or_is_known_not_to() {
    let mut cluster = Cluster::start(&program(), 3, &[]).expect("three members start");
    let urls = cluster.endpoints();
    assert!(wait_writable(&urls[0], LIMIT).await, "a fresh cluster takes writes");
    let mut events = watch(&urls[0]).await;
    put(&urls[0], "w", "seen").await.expect("a put");
    events.message().await.expect("an event");
    // So much that the log asks for a checkpoint.
    let value = "v".repeat(1 << 20);
    for _ in 0..70 {
        put(&urls[0], "large", &value).await.expect("a put of a mebibyte");
    }
    for path in ["/health", "/readyz", "/livez"] {
        get(&urls[0], path);
    }
    use_everything(&urls[0]).await;
    // The others lose their leader, and have somebody whom they don't reach.
    let led = leader(&urls, LIMIT).await.expect("somebody leads");
    let mut found = moved(&get(&urls[led], "/metrics"));
    cluster.kill(led).expect("it dies");
    let survivors: Vec<String> =
        (0..3).filter(|index| *index != led).map(|index| urls[index].clone()).collect();
    leader(&survivors, LIMIT).await.expect("somebody else leads");
    let begin = Instant::now();
    let missing = loop {
        survivors.iter().for_each(|url| found.extend(moved(&get(url, "/metrics"))));
        let known = |name: &&&str| ALWAYS_ZERO.contains(*name) || NOT_HERE.contains(*name);
        let still = |name: &&&str| !found.contains(**name);
        let missing: Vec<_> = NAMES.iter().filter(still).filter(|name| !known(name)).collect();
        if missing.is_empty() || begin.elapsed() > LIMIT {
            break missing;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(missing.is_empty(), "never moved: {missing:?}");
    let zero = ALWAYS_ZERO.iter().filter(|name| found.contains(**name));
    assert_eq!(zero.count(), 0, "what is always 0 moved");
}
