//! `detcdutl wal dump` shows what a member has written, and where it does not verify.

use crate::client::{bounded, channel, put, wait_writable};
use crate::program;
use detcd::pb::etcdserverpb as pb;
use pb::lease_client::LeaseClient;
use process::Cluster;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn dump(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_detcdutl"));
    command.args(["wal", "dump"]).args(args).output().expect("detcdutl runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The entries of a dump in JSON lines.
fn entries(output: &Output) -> Vec<Value> {
    let lines = text(&output.stdout);
    let lines = lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
    lines.filter(|line: &Value| line["size"].is_u64()).collect()
}

fn segment(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).expect("a member has a log");
    let mut paths = files.map(|file| file.expect("a readable directory").path());
    paths.find(|path| path.extension().is_some_and(|end| end == "wal")).expect("a segment")
}

#[tokio::test]
async fn a_log_is_shown_with_its_requests_and_up_to_the_first_damage() {
    let mut cluster = Cluster::start(&program(), 1, &[]).expect("a member starts");
    let url = cluster.endpoints().remove(0);
    assert!(wait_writable(&url, SOON).await, "a fresh member takes writes");
    put(&url, "shown", "as it is").await.expect("a put");
    let grant = pb::LeaseGrantRequest { id: 77, ttl: 600 };
    bounded(LeaseClient::new(channel(&url)).lease_grant(grant)).await.expect("a lease");
    put(&url, "last", "one").await.expect("a put");
    cluster.kill(0).expect("the member dies");
    let member = cluster.members[0].dir.join("member");
    let data_dir = format!("--data-dir={}", cluster.members[0].dir.display());
    let wal_dir = format!("--wal-dir={}", member.join("wal").display());

    let shown = text(&dump(&[&data_dir]).stdout);
    for part in ["put { key=\"shown\" value=\"as it is\" }", "lease_grant { ID=77 TTL=600 }"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.contains("kind=ADD_VOTER"), "the founder is an entry: {shown}");
    let all = dump(&[&wal_dir, "-w", "json"]);
    assert!(all.status.success(), "{}", text(&all.stderr));
    let all = entries(&all);
    let last = all.last().expect("entries");
    assert_eq!(last["request"]["put"]["key"], "bGFzdA==", "{last}");
    assert_eq!(last["type"], "norm");
    let index = last["index"].as_u64().expect("an index");
    assert_eq!(all.len() as u64, index, "one after the other, from the first on");
    let bounds = [format!("--start-index={}", index - 2), format!("--end-index={}", index - 1)];
    let some = entries(&dump(&[&data_dir, "-w", "json", &bounds[0], &bounds[1]]));
    let shown: Vec<u64> = some.iter().filter_map(|entry| entry["index"].as_u64()).collect();
    assert_eq!(shown, [index - 2, index - 1]);

    let path = segment(&member.join("wal"));
    let whole = fs::read(&path).expect("it is there");
    let offset = last["offset"].as_u64().expect("an offset") as usize;
    // The last batch is not there from its second half on, where its sector is.
    let mut torn = whole.clone();
    let begin = (offset + 1).next_multiple_of(512);
    torn[begin..].fill(0);
    fs::write(&path, &torn).expect("room");
    let dumped = dump(&[&data_dir, "-w", "json"]);
    assert!(dumped.status.success(), "{}", text(&dumped.stderr));
    // A byte of the first entry rots.
    let mut rotten = whole;
    rotten[600] ^= 1;
    fs::write(&path, &rotten).expect("room");
    let dumped = dump(&[&data_dir, "-w", "json"]);
    assert!(!dumped.status.success(), "damage is an error");
    let said = text(&dumped.stderr);
    assert!(said.contains("is damaged at byte 5"), "{said}");
    assert!(said.contains(&*path.to_string_lossy()), "{said}");
    assert!(entries(&dumped).is_empty(), "nothing before it");
}

#[test]
fn a_log_of_etcd_is_left_to_the_tool_of_etcd() {
    let dir = process::scratch_dir("dump").expect("a directory");
    let begin = [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 16, 0, 0, 0, 0, 0];
    fs::write(dir.join("0000000000000000-0000000000000000.wal"), begin).expect("a file");
    let dumped = dump(&[&format!("--wal-dir={}", dir.display())]);
    assert!(!dumped.status.success());
    assert!(text(&dumped.stderr).contains("etcd-dump-logs"), "{}", text(&dumped.stderr));
    fs::remove_dir_all(dir).expect("it was made here");
}
