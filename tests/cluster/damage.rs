//! Bits of a run rot under a member that works: what it serves stays right, and the run is
//! replaced. Bits of all checkpoints rot while a member is down: it gets its state from another.

use crate::client::{bounded, channel, get_request, kv, leader, put, put_request, wait_writable};
use crate::program;
use detcd::pb::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::maintenance_client::MaintenanceClient;
use pb::request_op::Request;
use process::Cluster;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// On a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(180);
const KEYS: usize = 200;
/// Within the records of the first block, whatever they are.
const DAMAGED_BYTES: std::ops::Range<u64> = 100..110;

/// The runs of a member, by path.
fn runs(data_dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data_dir.join("member/runs")).expect("a member has runs");
    let paths = files.map(|file| file.expect("a readable directory").path());
    let mut runs: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "run")).collect();
    runs.sort();
    runs
}

/// All values, as a member serves them.
async fn all(url: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    all_as(url, false).await
}

async fn all_as(url: &str, serializable: bool) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut request = get_request("d/", serializable);
    request.range_end = "d0".into();
    let answer = bounded(kv(url).range(request)).await.expect("a read of all");
    answer.kvs.iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())).collect()
}

fn damage(run: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(run).expect("the run is there");
    for offset in DAMAGED_BYTES {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("a run is longer");
        file.write_all_at(&[byte[0] ^ 0x55], offset).expect("the disk takes a byte");
    }
}

/// Starts three members that let all values go from memory, writes, and damages a run of one.
async fn damaged(flag: &str) -> (Cluster, usize, usize) {
    let flags = ["--snapshot-count=50", "--resident-bytes=0", flag];
    let cluster = Cluster::start(&program(), 3, &flags).expect("three members start");
    let urls = cluster.endpoints();
    assert!(wait_writable(&urls[0], PATIENCE).await, "a fresh cluster takes writes");
    let led = leader(&urls, PATIENCE).await.expect("a leader");
    for number in 0..KEYS {
        let value = format!("{number:0>100}");
        put(&urls[led], &format!("d/{number}"), &value).await.expect("a put");
    }
    let victim = (led + 1) % urls.len();
    let data_dir = &cluster.members[victim].dir;
    let begin = Instant::now();
    let mut before = Vec::new();
    // Once no other run comes, the largest holds values that nothing else does.
    let size = |run: &PathBuf| fs::metadata(run).map_or(0, |found| found.len());
    let largest = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = runs(data_dir);
        if let Some(largest) = now.iter().max_by_key(|run| size(run)).filter(|_| now == before) {
            break largest.clone();
        }
        before = now;
        assert!(begin.elapsed() < PATIENCE, "no checkpoint was taken");
    };
    damage(&largest);
    (cluster, led, victim)
}

/// Stops a process, or lets it go on.
fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status().expect("there is kill");
    assert!(sent.success(), "{name} was not sent to {pid}");
}

/// Flips a bit in each of so many bytes of a run, its ends aside.
fn damage_blocks(run: &Path) {
    const STRIDE: u64 = 64;
    let file = OpenOptions::new().read(true).write(true).open(run).expect("the run is there");
    let length = file.metadata().expect("it is open").len();
    let mut offset = STRIDE;
    while offset + STRIDE < length {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("it is so long");
        file.write_all_at(&[byte[0] ^ 0x55], offset).expect("the disk takes a byte");
        offset += STRIDE;
    }
}

/// Puts `new` where `old` stands: what the member holds of it decides.
async fn swap(url: &str, key: &str, old: &str, new: &str) {
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: key.to_string().into(),
        target_union: Some(TargetUnion::Value(old.to_string().into())),
        ..Default::default()
    };
    let put = pb::RequestOp { request: Some(Request::RequestPut(put_request(key, new))) };
    let txn = pb::TxnRequest { compare: vec![compare], success: vec![put], ..Default::default() };
    let swapped = bounded(kv(url).txn(txn)).await.expect("a quorum is there");
    assert!(swapped.succeeded, "{key} was not {old}");
}

async fn wait_for_repair(cluster: &Cluster, victim: usize) {
    let begin = Instant::now();
    loop {
        let log = cluster.log(victim).expect("the member writes a log");
        if log.contains("a damaged run was replaced") {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "the run was not replaced:\n{log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_damaged_value_is_not_served_and_comes_back_from_another_member() {
    let (mut cluster, led, victim) = damaged("--scrub-bytes-per-second=0").await;
    let urls = cluster.endpoints();
    let expected = all(&urls[led]).await;
    assert_eq!(all(&urls[victim]).await, expected, "what is read is what was written");
    wait_for_repair(&cluster, victim).await;
    // The new run is whole: the member starts from it.
    cluster.kill(victim).expect("the member dies");
    cluster.spawn(victim).expect("the member starts again");
    cluster.wait_ready(victim, PATIENCE).expect("the member serves again");
    assert_eq!(all(&urls[victim]).await, expected);
}

/// The largest run of a member.
fn largest(data_dir: &Path) -> PathBuf {
    let size = |run: &PathBuf| fs::metadata(run).map_or(0, |found| found.len());
    runs(data_dir).into_iter().max_by_key(size).expect("a member has runs")
}

async fn hash_kv(url: &str, revision: i64) -> u32 {
    let mut client = MaintenanceClient::new(channel(url));
    bounded(client.hash_kv(pb::HashKvRequest { revision })).await.expect("a hash").hash
}

#[tokio::test]
async fn a_stream_and_a_hash_wait_for_the_repair_as_well() {
    let (cluster, led, victim) = damaged("--scrub-bytes-per-second=0").await;
    let urls = cluster.endpoints();
    let mut request = get_request("d/", false);
    request.range_end = "d0".into();
    let mut stream = bounded(kv(&urls[victim]).range_stream(request)).await.expect("a stream");
    let mut found = BTreeMap::new();
    while let Some(answer) = stream.message().await.expect("what was damaged comes back") {
        let kvs = answer.range_response.expect("a part of the range").kvs;
        found.extend(kvs.iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())));
    }
    assert_eq!(found, all(&urls[led]).await);
    wait_for_repair(&cluster, victim).await;
    damage(&largest(&cluster.members[victim].dir));
    let revision = put(&urls[victim], "last", "put").await.expect("a put").header.expect("one");
    let revision = revision.revision;
    assert_eq!(hash_kv(&urls[victim], revision).await, hash_kv(&urls[led], revision).await);
}

#[tokio::test]
async fn the_scrub_finds_damage_that_nobody_reads() {
    let (cluster, _, victim) = damaged("--scrub-bytes-per-second=100000000").await;
    wait_for_repair(&cluster, victim).await;
}

#[tokio::test]
async fn a_member_that_lacks_a_value_which_all_others_have_compacted_is_rebuilt() {
    let (cluster, led, victim) = damaged("--scrub-bytes-per-second=0").await;
    let urls = cluster.endpoints();
    let pid = cluster.pids()[victim];
    signal(pid, "-STOP");
    for run in runs(&cluster.members[victim].dir) {
        damage_blocks(&run);
    }
    let mut revision = 0;
    for number in 0..KEYS {
        swap(&urls[led], &format!("d/{number}"), &format!("{number:0>100}"), "new").await;
        revision =
            put(&urls[led], "d/last", "new").await.expect("a put").header.expect("one").revision;
    }
    for url in urls.iter().filter(|url| **url != urls[victim]) {
        let compact = pb::CompactionRequest { revision, physical: true };
        // The second one finds it done.
        let _done = bounded(kv(url).compact(compact)).await;
    }
    signal(pid, "-CONT");
    let begin = Instant::now();
    while !says(&cluster, victim, "a value is gone everywhere") {
        assert!(begin.elapsed() < PATIENCE, "it does not notice: {:?}", cluster.log(victim));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while !says(&cluster, victim, "the state of this member is trusted") {
        assert!(begin.elapsed() < PATIENCE, "it is not rebuilt: {:?}", cluster.log(victim));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let expected = all(&urls[led]).await;
    assert!(expected.values().all(|value| value == b"new"));
    assert_eq!(all(&urls[victim]).await, expected);
}

/// Values of this size fill more than one segment of the log, so that its beginning is released
/// and only checkpoints hold the state there.
const LARGE_BYTES: usize = 1 << 20;
const LARGE_COUNT: usize = 110;
const LARGE_KEYS: usize = 20;

/// Starts members and writes until none of their logs reaches back to its first entry.
async fn with_released_logs(members: usize) -> Cluster {
    let cluster = started(members).await;
    put_large(&cluster, 0..LARGE_COUNT).await;
    wait_for_release(&cluster).await;
    cluster
}

async fn started(members: usize) -> Cluster {
    let flags = ["--snapshot-count=15", "--scrub-bytes-per-second=0"];
    let cluster = Cluster::start(&program(), members, &flags).expect("the members start");
    assert!(wait_writable(&cluster.endpoints()[0], PATIENCE).await, "a fresh cluster takes writes");
    cluster
}

/// Writes so many large values at the first member.
async fn put_large(cluster: &Cluster, numbers: std::ops::Range<usize>) {
    let url = cluster.endpoints()[0].clone();
    let begin = Instant::now();
    for number in numbers {
        let value = number.to_string().repeat(LARGE_BYTES / number.to_string().len());
        // Who led may be gone; the same value twice is the same state.
        while let Err(status) = put(&url, &format!("d/{}", number % LARGE_KEYS), &value).await {
            assert!(begin.elapsed() < PATIENCE, "{status:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Waits until the logs of those that run begin behind their first segment.
async fn wait_for_release(cluster: &Cluster) {
    let begin = Instant::now();
    let first = |index: usize| cluster.members[index].dir.join("member/wal");
    let holds = |index: usize| cluster.is_running(index) && holds_first_segment(&first(index));
    while (0..cluster.members.len()).any(holds) {
        assert!(begin.elapsed() < PATIENCE, "no log was released");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn holds_first_segment(dir: &Path) -> bool {
    let files = fs::read_dir(dir).expect("a member has a log");
    let mut names = files.map(|file| file.expect("a readable directory").file_name());
    names.any(|name| name.to_string_lossy().starts_with("0000000000000000-"))
}

/// Flips bits in every file of a member's checkpoints with this ending.
fn damage_all(data_dir: &Path, ending: &str) {
    let files = fs::read_dir(data_dir.join("member/runs")).expect("a member has runs");
    let paths = files.map(|file| file.expect("a readable directory").path());
    let damaged = paths.filter(|path| path.extension().is_some_and(|end| end == ending));
    assert!(damaged.inspect(|path| damage(path)).count() > 0, "there is nothing to damage");
}

/// Whether a member has said something since it was last started.
fn says(cluster: &Cluster, member: usize, text: &str) -> bool {
    cluster.log(member).expect("the member writes a log").contains(text)
}

/// Starts a member whose checkpoints are damaged, kills it while its state is on its way, and
/// starts it again: it serves what the others have.
async fn is_rebuilt(cluster: &mut Cluster, victim: usize) {
    const REBUILDING: &str = "rebuilding the state from another member";
    cluster.spawn(victim).expect("the member starts");
    let begin = Instant::now();
    while !says(cluster, victim, REBUILDING) {
        assert!(cluster.is_running(victim), "it refuses: {:?}", cluster.log(victim));
        assert!(begin.elapsed() < PATIENCE, "it is not rebuilt: {:?}", cluster.log(victim));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(says(cluster, victim, "no checkpoint can be loaded"), "{:?}", cluster.log(victim));
    cluster.kill(victim).expect("the member dies");
    cluster.spawn(victim).expect("the member starts again");
    cluster.wait_ready(victim, PATIENCE).expect("the member serves again");
}

#[tokio::test]
async fn a_member_whose_checkpoints_are_all_damaged_takes_the_state_of_another() {
    let mut cluster = with_released_logs(3).await;
    let urls = cluster.endpoints();
    let led = leader(&urls, PATIENCE).await.expect("a leader");
    let victim = (led + 1) % urls.len();
    let data_dir = cluster.members[victim].dir.clone();
    let expected = all(&urls[led]).await;
    assert_eq!(expected.len(), LARGE_KEYS);
    for ending in ["manifest", "run"] {
        cluster.kill(victim).expect("the member dies");
        damage_all(&data_dir, ending);
        is_rebuilt(&mut cluster, victim).await;
        assert!(all(&urls[victim]).await == expected, "after damage to each {ending}");
    }
    put(&urls[victim], "after", "it").await.expect("the member takes part");
}

#[tokio::test]
async fn a_lone_member_whose_checkpoints_are_all_damaged_says_so_and_ends() {
    let mut cluster = with_released_logs(1).await;
    cluster.kill(0).expect("the member dies");
    damage_all(&cluster.members[0].dir.clone(), "manifest");
    cluster.spawn(0).expect("the process starts");
    let exit = cluster.wait_exit(0, PATIENCE).expect("it ends").expect("in time");
    assert!(!exit.success(), "{exit:?}");
    let log = cluster.log(0).expect("the member writes a log");
    for part in [".manifest is damaged at byte", "no other member", "restore a backup"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

/// Kills the first two of three members and takes all their checkpoints.
fn lose_two_states(cluster: &mut Cluster) {
    for index in [0, 1] {
        cluster.kill(index).expect("the member dies");
        damage_all(&cluster.members[index].dir.clone(), "manifest");
    }
}

fn start_all(cluster: &mut Cluster) {
    for index in 0..cluster.members.len() {
        cluster.spawn(index).expect("the member starts");
    }
}

#[tokio::test]
async fn a_majority_without_a_state_goes_on_from_one_that_lags() {
    let mut cluster = with_released_logs(3).await;
    let urls = cluster.endpoints();
    cluster.kill(2).expect("the member dies");
    put_large(&cluster, LARGE_COUNT..LARGE_COUNT + 3).await;
    put(&urls[0], "d/last", "acknowledged by a majority").await.expect("a put");
    let expected = all(&urls[1]).await;
    lose_two_states(&mut cluster);
    start_all(&mut cluster);
    for index in 0..3 {
        cluster.wait_ready(index, PATIENCE).expect("the member serves again");
    }
    for index in [0, 1] {
        assert!(says(&cluster, index, "no checkpoint can be loaded"), "{:?}", cluster.log(index));
    }
    for url in &urls {
        assert!(all(url).await == expected, "at {url}");
    }
    put(&urls[2], "after", "it").await.expect("all take part");
}

/// Streams a backup into a file, as `etcdctl snapshot save` does.
async fn save(url: &str, file: &Path) {
    let mut client = MaintenanceClient::new(channel(url));
    let answer = bounded(client.snapshot(pb::SnapshotRequest {})).await.expect("a backup");
    let (mut stream, mut bytes) = (answer, Vec::new());
    while let Some(piece) = stream.message().await.expect("a whole backup") {
        bytes.extend_from_slice(&piece.blob);
    }
    fs::write(file, bytes).expect("room for a backup");
}

/// Makes the data directory of every member of a backup, as the runbook does.
fn restore(cluster: &Cluster, file: &Path) {
    let all: Vec<String> =
        cluster.members.iter().map(|m| format!("{}={}", m.name, m.peer_url)).collect();
    for member in &cluster.members {
        let broken = member.dir.with_extension("broken");
        fs::rename(&member.dir, &broken).expect("what was there is kept");
        let done = Command::new(env!("CARGO_BIN_EXE_detcdutl"))
            .args(["snapshot", "restore"])
            .arg(file)
            .args(["--name", &member.name, "--initial-cluster", &all.join(",")])
            .args(["--initial-cluster-token", "test"])
            .args(["--initial-advertise-peer-urls", &member.peer_url])
            .arg("--data-dir")
            .arg(&member.dir)
            .output()
            .expect("detcdutl runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[tokio::test]
async fn what_nobody_has_any_more_is_given_up_by_hand() {
    let mut cluster = started(3).await;
    let urls = cluster.endpoints();
    put_large(&cluster, 0..20).await;
    all(&urls[2]).await;
    cluster.kill(2).expect("the member dies");
    put_large(&cluster, 20..LARGE_COUNT + 20).await;
    wait_for_release(&cluster).await;
    lose_two_states(&mut cluster);
    start_all(&mut cluster);
    let begin = Instant::now();
    // Its state does not reach the entry with which the logs of the others begin.
    while !says(&cluster, 0, "no state reaches the entry with which this log begins") {
        assert!(begin.elapsed() < PATIENCE, "{:?}", cluster.log(0));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = put(&urls[2], "key", "value").await.expect_err("nobody leads");
    assert!(refused.message().contains("no leader"), "{refused:?}");
    let file = cluster.members[2].dir.with_extension("db");
    save(&urls[2], &file).await;
    // The end of its log is not known to be committed, and is not in it.
    let expected = all_as(&urls[2], true).await;
    assert!(!expected.is_empty());
    for index in 0..3 {
        cluster.kill(index).expect("the member dies");
    }
    restore(&cluster, &file);
    start_all(&mut cluster);
    for (index, url) in urls.iter().enumerate() {
        cluster.wait_ready(index, PATIENCE).expect("the member serves again");
        assert!(all(url).await == expected, "at {index}");
    }
    put(&urls[0], "after", "it").await.expect("a new cluster takes writes");
}
