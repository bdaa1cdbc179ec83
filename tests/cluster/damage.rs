//! Bits of a run rot under a member that works: what it serves stays right, and the run is
//! replaced.

use crate::client::{bounded, get_request, kv, leader, put, wait_writable};
use crate::program;
use process::Cluster;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
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
    let mut request = get_request("d/", false);
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

#[tokio::test]
async fn the_scrub_finds_damage_that_nobody_reads() {
    let (cluster, _, victim) = damaged("--scrub-bytes-per-second=100000000").await;
    wait_for_repair(&cluster, victim).await;
}
