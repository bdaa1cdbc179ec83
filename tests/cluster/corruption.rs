//! A member whose data is not what it was, although every checksum is right: it is found, not
//! served, and rebuilt from the others, which go on meanwhile.

use crate::client::{bounded, channel, get_request, kv, put, wait_writable};
use crate::program;
use bytes::Bytes;
use detcd::env::disk::Disk;
use detcd::env::real_disk::RealDisk;
use detcd::pb::etcdserverpb as pb;
use detcd::storage::manifest::Manifest;
use detcd::storage::run::{Run, RunMeta};
use detcd::storage::run_writer::write_run;
use pb::alarm_request::AlarmAction;
use pb::maintenance_client::MaintenanceClient;
use process::Cluster;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(60);
const FLAGS: [&str; 1] = ["--snapshot-count=50"];
/// The name of what a manifest says of the state that it was taken of.
const HASH: &str = "state-hash";

/// Gives the newest checkpoint of a member that is down another value of `key`, and makes every
/// checksum right. Without its hash, nothing on this disk says that it was ever otherwise.
async fn alter(member_dir: &Path, key: &str, value: &str, keeps_hash: bool) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let dir = member_dir.join("member").join("runs");
    let newest = Manifest::sequences(&*disk, &dir).expect("a directory of runs")[0];
    let mut manifest = Manifest::load(&*disk, &dir, newest).expect("a manifest");
    let mut altered = 0;
    for meta in &mut manifest.runs {
        let run = Run::open(&*disk, &dir, meta.id).expect("a run of the manifest");
        let mut records: Vec<_> =
            run.scan().map(|stored| stored.expect("it verifies").record).collect();
        for record in records.iter_mut().filter(|record| record.key == key && !record.tombstone) {
            assert_eq!(record.value.len(), value.len());
            record.value = Bytes::from(value.to_string());
            altered += 1;
        }
        let id = manifest.next_run;
        manifest.next_run += 1;
        let written = write_run(&disk, &dir, id, records.into_iter(), |_, _| {}).await;
        let written = written.expect("there is room").expect("there are records");
        *meta = RunMeta { live_bytes: meta.live_bytes, ..written };
    }
    assert_eq!(altered, 1, "{key} stands in the checkpoint");
    manifest.sequence += 1;
    assert!(manifest.section(HASH).is_some(), "the manifest holds a hash");
    manifest.sections.retain(|(name, _)| keeps_hash || name != HASH);
    manifest.store(&*disk, &dir).await.expect("there is room");
}

/// Three members with a checkpoint each that holds `kept`.
async fn prepared(flags: &[&str]) -> Cluster {
    let flags = [&FLAGS, flags].concat();
    let cluster = Cluster::start(&program(), 3, &flags).expect("three members start");
    let urls = cluster.endpoints();
    assert!(wait_writable(&urls[0], PATIENCE).await, "a fresh cluster takes writes");
    put(&urls[0], "kept", "true").await.expect("a put");
    for number in 0..200 {
        put(&urls[number % 3], &format!("other/{number}"), "value").await.expect("a put");
    }
    cluster
}

/// Ends a member, and waits until the others have a leader again.
async fn take_down(cluster: &mut Cluster, member: usize) {
    cluster.kill(member).expect("the member dies");
    let other = &cluster.endpoints()[(member + 1) % 3];
    assert!(wait_writable(other, PATIENCE).await, "two members of three take writes");
}

async fn read(url: &str, serializable: bool) -> Result<Bytes, Status> {
    let answer = bounded(kv(url).range(get_request("kept", serializable))).await?;
    Ok(answer.kvs[0].value.clone())
}

async fn hash_kv(url: &str, revision: i64) -> Result<u32, Status> {
    let mut client = MaintenanceClient::new(channel(url));
    Ok(bounded(client.hash_kv(pb::HashKvRequest { revision })).await?.hash)
}

/// Writes through the members that are well, while one is healed; all of it goes through. Ends when
/// the sick one says that it is trusted, and says what it answered until then.
async fn heal(cluster: &Cluster, sick: usize) -> Vec<Result<Bytes, Status>> {
    let urls = cluster.endpoints();
    let others: Vec<&String> = (0..3).filter(|m| *m != sick).map(|m| &urls[m]).collect();
    let (begin, mut answers) = (Instant::now(), Vec::new());
    for number in 0.. {
        put(others[number % 2], &format!("meanwhile/{number}"), "x").await.expect("they go on");
        answers.push(read(&urls[sick], true).await);
        let log = cluster.log(sick).expect("the member writes a log");
        if log.contains("the state of this member is trusted") {
            assert!(log.contains("rebuilding the state from another member"), "{log}");
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "not healed:\n{log}");
    }
    println!("healed after {:?}, {} answers", begin.elapsed(), answers.len());
    let answer = put(&urls[sick], "after", "x").await.expect("it takes writes again");
    let revision = answer.header.expect("an answer has a header").revision;
    assert_eq!(read(&urls[sick], false).await.expect("it serves again"), "true");
    let right = hash_kv(others[0], revision).await.expect("a hash");
    let begin = Instant::now();
    while hash_kv(&urls[sick], revision).await.ok() != Some(right) {
        assert!(begin.elapsed() < PATIENCE, "the states differ");
    }
    assert!((0..3).all(|index| cluster.is_running(index)), "nobody stopped");
    answers
}

fn is_false(answer: &Result<Bytes, Status>) -> bool {
    matches!(answer, Ok(value) if value != "true")
}

#[tokio::test]
async fn a_member_that_differs_from_the_others_is_found_and_rebuilt() {
    let mut cluster = prepared(&[]).await;
    take_down(&mut cluster, 2).await;
    alter(&cluster.members[2].dir, "kept", "bent", false).await;
    cluster.spawn(2).expect("the member starts");
    let answers = heal(&cluster, 2).await;
    let gated = |answer: &Result<Bytes, Status>| {
        matches!(answer, Err(status) if status.code() == Code::DataLoss
            && status.message() == "etcdserver: corrupt cluster")
    };
    // Once it is found out it shows nothing, until it is healed.
    if let Some(found) = answers.iter().position(gated) {
        assert!(!answers[found..].iter().any(is_false), "{answers:?}");
    }
    // What it has now is its own: it also survives the end of the process.
    cluster.kill(2).expect("the member dies");
    cluster.spawn(2).expect("the member starts again");
    cluster.wait_ready(2, PATIENCE).expect("the member serves again");
    assert_eq!(read(&cluster.endpoints()[2], false).await.expect("it serves"), "true");
}

#[tokio::test]
async fn a_checkpoint_that_is_not_what_was_written_down_is_never_served() {
    let mut cluster = prepared(&[]).await;
    take_down(&mut cluster, 1).await;
    alter(&cluster.members[1].dir, "kept", "bent", true).await;
    cluster.spawn(1).expect("the member starts");
    let answers = heal(&cluster, 1).await;
    assert!(!answers.iter().any(is_false), "{answers:?}");
}

#[tokio::test]
async fn with_the_initial_check_nothing_is_served_before_it_is_compared() {
    let mut cluster = prepared(&["--experimental-initial-corrupt-check=true"]).await;
    take_down(&mut cluster, 0).await;
    alter(&cluster.members[0].dir, "kept", "bent", false).await;
    cluster.spawn(0).expect("the member starts");
    let answers = heal(&cluster, 0).await;
    assert!(!answers.iter().any(is_false), "{answers:?}");
}

#[tokio::test]
async fn without_an_agreeing_majority_the_cluster_is_stopped_and_nothing_rebuilt() {
    let mut cluster = prepared(&[]).await;
    for (member, value) in [(1, "bent"), (2, "warp")] {
        cluster.kill(member).expect("the member dies");
        alter(&cluster.members[member].dir, "kept", value, false).await;
    }
    for member in [1, 2] {
        cluster.spawn(member).expect("the member starts");
    }
    let urls = cluster.endpoints();
    let begin = Instant::now();
    let refused = loop {
        match put(&urls[0], "any", "thing").await {
            Err(status) if status.code() == Code::DataLoss => break status,
            _ => assert!(begin.elapsed() < PATIENCE, "no alarm is raised"),
        }
    };
    assert_eq!(refused.message(), "etcdserver: corrupt cluster");
    let list = pb::AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
    let mut client = MaintenanceClient::new(channel(&urls[0]));
    let alarms = bounded(client.alarm(list)).await.expect("alarms are always answered").alarms;
    assert_eq!(alarms, [pb::AlarmMember { member_id: 0, alarm: pb::AlarmType::Corrupt.into() }]);
    for member in 0..3 {
        assert!(cluster.is_running(member), "nobody stopped");
        let log = cluster.log(member).expect("the member writes a log");
        assert!(!log.contains("rebuilding"), "{log}");
    }
}
