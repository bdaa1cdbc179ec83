//! Ten thousand clients at once: what a member can't hold is refused, and the rest is served.

use crate::client::{CALL_MAX, channel, kv, leader, put_request, wait_writable};
use crate::kill::everything;
use crate::program;
use detcd::pb::etcdserverpb::kv_client::KvClient;
use detcd::server::shared::Limits;
use process::{Cluster, usage};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

const CLIENTS: usize = 10_000;
const CONNECTIONS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(30);
/// What a member may propose by itself meanwhile: its name, the cluster's version, an alarm.
const OWN_REQUESTS_MAX: usize = 10;
/// Less than it takes the leader to miss the others.
const STOPPED_MAX: Duration = Duration::from_secs(7);
/// Far from what 10,000 requests without a limit would take, on a build without optimisation.
const MEMORY_MIB_MAX: f64 = 300.0;

fn signal(pids: &[u32], name: &str) {
    for pid in pids {
        let sent = Command::new("kill").args([name, &pid.to_string()]).status();
        assert!(sent.expect("kill is there").success(), "{name} {pid}");
    }
}

#[tokio::test]
async fn what_cannot_wait_is_refused_and_the_rest_is_served() {
    // A leader that hears nobody keeps its place for longer than this test stops the others.
    let flags = ["--heartbeat-interval=1000", "--election-timeout=10000"];
    let cluster = Cluster::start(&program(), 3, &flags).expect("three members start");
    let urls = cluster.endpoints();
    assert!(wait_writable(&urls[0], PATIENCE).await, "a fresh cluster takes writes");
    let led = leader(&urls, PATIENCE).await.expect("a leader");
    let pids = cluster.pids();
    let others: Vec<u32> = (0..3).filter(|member| *member != led).map(|m| pids[m]).collect();
    // Without the others nothing is committed, so that whoever is let in has to wait.
    signal(&others, "-STOP");
    let refused = Arc::new(AtomicUsize::new(0));
    let channels: Vec<_> = (0..CONNECTIONS).map(|_| channel(&urls[led])).collect();
    let mut calls = Vec::new();
    for number in 0..CLIENTS {
        let mut client = KvClient::new(channels[number % CONNECTIONS].clone());
        let request = put_request(&format!("w/{number:05}"), &"v".repeat(1024));
        let refused = refused.clone();
        calls.push(tokio::spawn(async move {
            let answer = tokio::time::timeout(CALL_MAX, client.put(request)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::internal("no answer")));
            refused.fetch_add(usize::from(answer.is_err()), Ordering::Relaxed);
            answer.map(drop)
        }));
    }
    let refusals = CLIENTS - Limits::default().max_pending_requests;
    let begin = Instant::now();
    while refused.load(Ordering::Relaxed) < refusals && begin.elapsed() < STOPPED_MAX {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    signal(&others, "-CONT");
    let mut served = 0;
    for call in calls {
        match call.await.expect("a client does not panic") {
            Ok(()) => served += 1,
            Err(status) => {
                // The code that a real etcd gives it.
                assert_eq!(status.code(), Code::Unknown, "{status:?}");
                assert_eq!(status.message(), "etcdserver: too many requests");
            }
        }
    }
    // Fewer where this machine was too busy to ask all at once, more by what the member asks for.
    let refused = CLIENTS - served;
    let most = refusals + OWN_REQUESTS_MAX;
    assert!((1..=most).contains(&refused), "{refused} were refused, of {refusals}");
    assert_eq!(everything(&urls[led]).await.len(), served, "who was refused changed nothing");
    let memory = usage::peak_rss_mib(&pids[led..=led]);
    assert!(memory < MEMORY_MIB_MAX, "{memory} MiB");
    println!("{refused} refused, {served} served, {memory:.0} MiB");
    kv(&urls[led]).put(put_request("after", "")).await.expect("a put after the rush");
}
