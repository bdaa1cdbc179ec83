//! A quota that is exceeded, and a disk that is full: what is refused, what goes on, and how it
//! ends.

use crate::client::{
    bounded, channel, get_request, kv, leader, put, put_request, status, wait_writable,
};
use crate::program;
use detcd::pb::etcdserverpb as pb;
use pb::alarm_request::AlarmAction;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::request_op::Request;
use process::{Cluster, scratch_dir};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(30);
const EXCEEDED: &str = "etcdserver: mvcc: database space exceeded";

fn value(bytes: usize) -> String {
    "v".repeat(bytes)
}

fn assert_refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), Code::ResourceExhausted, "{what}: {status:?}");
    assert_eq!(status.message(), EXCEEDED, "{what}");
}

async fn alarms(url: &str, action: AlarmAction, member_id: u64) -> Vec<pb::AlarmMember> {
    let alarm = if action == AlarmAction::Get { 0 } else { pb::AlarmType::Nospace as i32 };
    let request = pb::AlarmRequest { action: action.into(), member_id, alarm };
    let mut client = MaintenanceClient::new(channel(url));
    bounded(client.alarm(request)).await.expect("alarms are always answered").alarms
}

async fn grant(url: &str) -> Result<pb::LeaseGrantResponse, Status> {
    let request = pb::LeaseGrantRequest { ttl: 60, id: 0 };
    bounded(LeaseClient::new(channel(url)).lease_grant(request)).await
}

fn txn(op: Request) -> pb::TxnRequest {
    let success = vec![pb::RequestOp { request: Some(op) }];
    pb::TxnRequest { success, ..Default::default() }
}

async fn delete_all(url: &str) -> i64 {
    let request = pb::DeleteRangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    };
    let deleted = bounded(kv(url).delete_range(request)).await.expect("deletes go on");
    deleted.header.expect("an answer has a header").revision
}

async fn until<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let begin = Instant::now();
    while !done().await {
        assert!(begin.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Puts until it is refused; gives the number of puts that went through.
async fn fill(url: &str, bytes: usize) -> usize {
    for number in 0.. {
        match put(url, &format!("fill/{number}"), &value(bytes)).await {
            Ok(_) => assert!(number < 10_000, "the quota is not kept"),
            refused => {
                assert_refused("a put above the quota", refused);
                return number;
            }
        }
    }
    unreachable!("the loop ends with a refusal")
}

#[tokio::test]
async fn a_quota_refuses_what_takes_room_and_is_cleared_by_compaction() {
    let quota = ["--quota-backend-bytes=4194304"];
    let cluster = Cluster::start(&program(), 3, &quota).expect("three members start");
    let urls = cluster.endpoints();
    let (first, second) = (&urls[0], &urls[1]);
    assert!(wait_writable(first, LIMIT).await, "a fresh cluster takes writes");
    let count = fill(first, 64 << 10).await;
    assert!((55..=64).contains(&count), "{count} puts of 64 KiB fit into 4 MiB");

    until("an alarm", || async { !alarms(second, AlarmAction::Get, 0).await.is_empty() }).await;
    assert_refused("a put at another member", put(second, "a", "b").await);
    assert_refused("a lease", grant(second).await);
    let writes = txn(Request::RequestPut(put_request("a", "b")));
    assert_refused("a transaction with a put", bounded(kv(second).txn(writes)).await);
    let reads = txn(Request::RequestRange(get_request("fill/0", false)));
    bounded(kv(second).txn(reads)).await.expect("a transaction without a put");
    let read = bounded(kv(second).range(get_request("fill/0", false))).await;
    assert_eq!(read.expect("reads go on").kvs.len(), 1);
    let said = status(first).await.expect("the status goes on");
    assert!(said.errors.iter().any(|text| text.contains("alarm:NOSPACE")), "{:?}", said.errors);
    assert_eq!(said.db_size_quota, 4 << 20);
    assert!(said.db_size as u64 > (4 << 20) * 9 / 10, "{}", said.db_size);

    // Taken back by hand it is raised again by the next write that does not fit.
    for alarm in alarms(first, AlarmAction::Get, 0).await {
        alarms(first, AlarmAction::Deactivate, alarm.member_id).await;
    }
    fill(first, 64 << 10).await;
    until("an alarm", || async { !alarms(second, AlarmAction::Get, 0).await.is_empty() }).await;

    let revision = delete_all(second).await;
    let compaction = pb::CompactionRequest { revision, physical: true };
    bounded(kv(second).compact(compaction)).await.expect("compaction goes on");
    let mut client = MaintenanceClient::new(channel(second));
    bounded(client.defragment(pb::DefragmentRequest {})).await.expect("it answers");
    let cleared = || async { alarms(first, AlarmAction::Get, 0).await.is_empty() };
    until("every member took its alarm back", cleared).await;
    for url in &urls {
        put(url, "again", "yes").await.expect("there is room");
    }
}

/// A small file system of its own, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this process may not mount.
    fn mount(label: &str, mebibytes: u64) -> Option<SmallDisk> {
        let dir = scratch_dir(label).expect("a scratch directory");
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            std::fs::remove_dir(&dir).expect("it is empty");
            return None;
        }
        Some(SmallDisk(dir))
    }

    /// Takes all of its room but so many bytes.
    fn fill(&self, free_bytes: u64) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::create(&path).expect("a file fits");
        while free(&self.0) > free_bytes {
            let bytes = (free(&self.0) - free_bytes).min(16 << 20);
            let bytes = usize::try_from(bytes).expect("it is small");
            file.write_all(&vec![1; bytes]).expect("there was room");
        }
        path
    }
}

fn free(dir: &Path) -> u64 {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(dir).output();
    let text = String::from_utf8(output.expect("df is there").stdout).expect("df writes text");
    let line = text.lines().nth(1).expect("df names one file system");
    line.trim().parse().expect("a number of bytes")
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if unmounted.is_ok_and(|status| status.success()) {
            drop(std::fs::remove_dir(&self.0));
        }
    }
}

async fn move_leader(urls: &[String], target: usize) {
    let target_id = status(&urls[target]).await.expect("it is up").header.expect("one").member_id;
    until("the leadership moved", || async {
        let Some(now) = leader(urls, LIMIT).await else { return false };
        if now == target {
            return true;
        }
        let mut client = MaintenanceClient::new(channel(&urls[now]));
        drop(bounded(client.move_leader(pb::MoveLeaderRequest { target_id })).await);
        false
    })
    .await;
}

/// Deletes what is not there, with keys of a mebibyte: nothing but the log grows.
async fn grow_log(url: &str, mebibytes: usize) {
    for number in 0..mebibytes {
        let key = format!("{number}/{}", value(1 << 20)).into();
        let request = pb::DeleteRangeRequest { key, ..Default::default() };
        bounded(kv(url).delete_range(request)).await.expect("deletes go on");
    }
}

#[tokio::test]
async fn a_full_disk_stops_one_member_from_writing_and_nobody_else() {
    let Some(disk) = SmallDisk::mount("full", 400) else {
        println!("skipped: this process may not mount a file system");
        return;
    };
    let reserve = ["--disk-reserve-bytes=134217728"];
    let mut cluster = Cluster::prepare(&program(), 3, &reserve).expect("ports are free");
    cluster.members[0].dir = disk.0.join("m0");
    (0..3).for_each(|index| cluster.spawn(index).expect("it starts"));
    (0..3).for_each(|index| cluster.wait_ready(index, LIMIT).expect("it is ready"));
    let urls = cluster.endpoints();
    assert!(wait_writable(&urls[0], LIMIT).await, "a fresh cluster takes writes");
    put(&urls[0], "kept", "value").await.expect("there is room");
    move_leader(&urls, 0).await;

    let filler = disk.fill(1 << 20);
    until("the member refuses", || async { put(&urls[0], "a", "b").await.is_err() }).await;
    assert_refused("a put on a full disk", put(&urls[0], "a", "b").await);
    let others = urls[1..].to_vec();
    until("another one leads", || async { leader(&others, LIMIT).await.is_some() }).await;
    for url in &others {
        put(url, "meanwhile", "yes").await.expect("the others have room");
    }
    assert!(alarms(&urls[1], AlarmAction::Get, 0).await.is_empty(), "that is no alarm");
    let read = bounded(kv(&urls[0]).range(get_request("kept", false))).await;
    assert_eq!(read.expect("reads go on").kvs.len(), 1);
    // More than the rest of a segment, so that the log needs the reserve.
    grow_log(&urls[0], 80).await;
    assert!(cluster.is_running(0));
    let said = status(&urls[0]).await.expect("the status goes on").errors;
    assert!(said.iter().any(|text| text.contains("disk of this member is full")), "{said:?}");

    std::fs::remove_file(filler).expect("it is there");
    assert!(wait_writable(&urls[0], LIMIT).await, "the member takes writes again");
    assert!(disk.0.join("m0/member/reserve").exists(), "the reserve stands again");
    for url in &urls {
        let read = bounded(kv(url).range(get_request("meanwhile", false))).await;
        assert_eq!(read.expect("reads go on").kvs.len(), 1);
    }
}
