//! Carries one state from etcd to detcd and back, by backups and restores, and compares what the
//! servers say of it after each step.
//!
//! `cargo test --features compat --test migration -- --etcd PATH --etcdctl PATH`: the second makes
//! etcd's data directories from backups, so it must be of a release that still can (up to 3.5).
//! `--keys 1000000` carries that many, and says how long each step took and in how much memory.

use detcd::pb::etcdserverpb as pb;
use futures::{StreamExt, TryStreamExt};
use pb::auth_client::AuthClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use process::{Cluster, scratch_dir, usage};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

const QUOTA: [&str; 1] = ["--quota-backend-bytes=8589934592"];
const READY_MAX: Duration = Duration::from_secs(60);
const KEYS: u64 = 1_500;
/// Puts under way at once while the state is made.
const WRITERS: usize = 200;

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    match options().and_then(|options| runtime.block_on(run(&options))) {
        Ok(()) => {
            println!("test result: ok. 1 passed; 0 failed;");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}\ntest result: FAILED. 0 passed; 1 failed;");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    etcd: PathBuf,
    etcdctl: PathBuf,
    keys: u64,
}

fn options() -> Outcome<Options> {
    let (mut etcd, mut etcdctl, mut keys) = (None, None, KEYS);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--etcd" => etcd = Some(PathBuf::from(value)),
            "--etcdctl" => etcdctl = Some(PathBuf::from(value)),
            "--keys" => keys = value.parse().map_err(|error| format!("--keys: {error}"))?,
            unknown => return Err(format!("no option {unknown}")),
        }
    }
    let both = etcd.zip(etcdctl).map(|(etcd, etcdctl)| Options { etcd, etcdctl, keys });
    both.ok_or_else(|| "name a real etcd and its etcdctl: --etcd PATH --etcdctl PATH".to_string())
}

/// Everything about a state that must stay as it is.
#[derive(Debug, PartialEq)]
struct Facts {
    hash: u32,
    revision: i64,
    compact_revision: i64,
    kvs: i64,
    leases: Vec<(i64, i64)>,
    compacted: String,
}

async fn run(options: &Options) -> Outcome<()> {
    let (etcd, etcdctl) = (options.etcd.as_path(), options.etcdctl.as_path());
    let detcd = Path::new(env!("CARGO_BIN_EXE_detcd"));
    let detcdutl = Path::new(env!("CARGO_BIN_EXE_detcdutl"));
    let dir = scratch_dir("migration").map_err(|error| error.to_string())?;
    let cluster = Cluster::start(etcd, 1, &QUOTA).map_err(|error| error.to_string())?;
    let channel = connect(&cluster).await?;
    fill(&channel, options.keys).await?;
    let mut before = facts(&channel).await?;
    let mut file = dir.join("0.db");
    save(&channel, &file).await?;
    drop(cluster);
    let ways = [(detcd, detcdutl), (etcd, etcdctl), (detcd, detcdutl)];
    for (step, (server, tool)) in ways.into_iter().enumerate() {
        let name = server.file_name().unwrap_or_default().display();
        let cluster = restore(server, tool, &file)?;
        let channel = connect(&cluster).await?;
        let now = facts(&channel).await?;
        if now != before {
            return Err(format!("step {step}, {name}:\nbefore {before:?}\nnow    {now:?}"));
        }
        println!("step {step}, {name}: {now:?}");
        // And it goes on from there.
        put(&channel, "behind", &format!("step {step}"), 0).await?;
        before = facts(&channel).await?;
        println!("  memory: {:.0} MiB", usage::peak_rss_mib(&cluster.pids()));
        file = dir.join(format!("{}.db", step + 1));
        save(&channel, &file).await?;
    }
    log_elsewhere(options, &file, &before).await?;
    std::fs::remove_dir_all(&dir).map_err(|error| error.to_string())
}

/// Makes a data directory from a backup with the server's own tool, and starts the server on it.
fn restore(server: &Path, tool: &Path, file: &Path) -> Outcome<Cluster> {
    let mut cluster = Cluster::prepare(server, 1, &QUOTA).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    restored_by(tool, &cluster, file, &[])?;
    let (restored, begun) = (begun.elapsed(), Instant::now());
    cluster.spawn(0).map_err(|error| error.to_string())?;
    cluster.wait_ready(0, READY_MAX).map_err(|error| error.to_string())?;
    println!("  restored in {restored:.1?}, ready after {:.1?}", begun.elapsed());
    Ok(cluster)
}

/// Makes the data directory of the only member with a tool.
fn restored_by(tool: &Path, cluster: &Cluster, file: &Path, flags: &[&str]) -> Outcome<()> {
    let member = &cluster.members[0];
    let output = Command::new(tool)
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "restore"])
        .arg(file)
        .arg(format!("--name={}", member.name))
        .arg(format!("--initial-cluster={}={}", member.name, member.peer_url))
        .arg("--initial-cluster-token=test")
        .arg(format!("--initial-advertise-peer-urls={}", member.peer_url))
        .arg(format!("--data-dir={}", member.dir.display()))
        .args(flags)
        .output()
        .map_err(|error| format!("{}: {error}", tool.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} refused the backup: {text}", tool.display()));
    }
    Ok(())
}

/// What etcd's tool restored with `--wal-dir` is taken over if both directories are named, and told
/// how if one is missing.
async fn log_elsewhere(options: &Options, file: &Path, before: &Facts) -> Outcome<()> {
    let failed = |error: std::io::Error| error.to_string();
    let detcd = Path::new(env!("CARGO_BIN_EXE_detcd"));
    let mut cluster = Cluster::prepare(detcd, 1, &QUOTA).map_err(failed)?;
    let wal = cluster.members[0].dir.with_extension("wal");
    let flag = format!("--wal-dir={}", wal.display());
    restored_by(&options.etcdctl, &cluster, file, &[&flag])?;
    let other = format!("--wal-dir={}.other", wal.display());
    for flags in [&[][..], &[other.as_str()][..]] {
        cluster.spawn_with(0, flags).map_err(failed)?;
        let ended = cluster.wait_exit(0, READY_MAX).map_err(failed)?;
        let log = cluster.log(0).map_err(failed)?;
        if ended.is_none_or(|status| status.success()) || !log.contains("its log is not in") {
            return Err(format!("with {flags:?}: {log}"));
        }
    }
    // The second start finds the place by itself.
    for flags in [&[flag.as_str()][..], &[][..]] {
        cluster.spawn_with(0, flags).map_err(failed)?;
        cluster.wait_ready(0, READY_MAX).map_err(failed)?;
        let now = facts(&connect(&cluster).await?).await?;
        if now != *before {
            return Err(format!("log elsewhere:\nbefore {before:?}\nnow    {now:?}"));
        }
        cluster.kill(0).map_err(failed)?;
    }
    println!("a log elsewhere: {before:?}");
    Ok(())
}

async fn connect(cluster: &Cluster) -> Outcome<Channel> {
    let endpoint = Endpoint::from_shared(cluster.endpoints().remove(0));
    let endpoint = endpoint.map_err(|error| error.to_string())?;
    endpoint.connect().await.map_err(|error| error.to_string())
}

async fn put(channel: &Channel, key: &str, value: &str, lease: i64) -> Outcome<i64> {
    let (key, value) = (key.to_string().into(), value.to_string().into());
    let request = pb::PutRequest { key, value, lease, ..Default::default() };
    let answer = KvClient::new(channel.clone()).put(request).await;
    let answer = answer.map_err(|error| error.to_string())?.into_inner();
    Ok(answer.header.map_or(0, |header| header.revision))
}

/// Keys with history, deletes, large values, leases, users and a compaction among them.
async fn fill(channel: &Channel, keys: u64) -> Outcome<()> {
    let mut kv = KvClient::new(channel.clone());
    let mut leases = LeaseClient::new(channel.clone());
    let failed = |error: tonic::Status| error.to_string();
    for id in [71, 72, 1 << 62] {
        let grant = pb::LeaseGrantRequest { id, ttl: 5000 };
        leases.lease_grant(grant).await.map_err(failed)?;
    }
    let write = |n: u64| async move {
        let lease = if n.is_multiple_of(10) { 71 + (n % 20 / 10) as i64 } else { 0 };
        let value = "v".repeat((n % 400) as usize);
        put(channel, &format!("key {}", n % keys), &value, lease).await?;
        if n.is_multiple_of(50) {
            let key = format!("key {}", n / 3).into();
            let delete = pb::DeleteRangeRequest { key, ..Default::default() };
            KvClient::new(channel.clone()).delete_range(delete).await.map_err(failed)?;
        }
        Ok::<(), String>(())
    };
    // Every key has a history of two puts.
    let writes = futures::stream::iter(0..2 * keys).map(write).buffer_unordered(WRITERS);
    writes.try_collect::<()>().await?;
    let revision = put(channel, "large", &"x".repeat(1_000_000), 0).await?;
    let compaction = pb::CompactionRequest { revision: revision / 2, physical: true };
    kv.compact(compaction).await.map_err(failed)?;
    put(channel, "key 1", "behind the compaction", 72).await?;
    let user = pb::AuthUserAddRequest {
        name: "somebody".to_string(),
        password: "secret".to_string(),
        ..Default::default()
    };
    AuthClient::new(channel.clone()).user_add(user).await.map_err(failed)?;
    Ok(())
}

async fn facts(channel: &Channel) -> Outcome<Facts> {
    let failed = |error: tonic::Status| error.to_string();
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let hashed = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await;
    let hashed = hashed.map_err(failed)?.into_inner();
    let mut kv = KvClient::new(channel.clone());
    let (key, range_end) = (vec![0].into(), vec![0].into());
    let all = pb::RangeRequest { key, range_end, count_only: true, ..Default::default() };
    let range = kv.range(all.clone()).await.map_err(failed)?.into_inner();
    let old = pb::RangeRequest { revision: hashed.compact_revision - 1, ..all };
    let compacted = kv.range(old).await.err().map_or(String::new(), |error| error.to_string());
    let client = LeaseClient::new(channel.clone());
    let mut client = client.max_decoding_message_size(usize::MAX);
    let listed = client.lease_leases(pb::LeaseLeasesRequest {}).await.map_err(failed)?;
    let mut leases = Vec::new();
    for lease in listed.into_inner().leases {
        let request = pb::LeaseTimeToLiveRequest { id: lease.id, keys: true };
        let left = client.lease_time_to_live(request).await.map_err(failed)?.into_inner();
        // How long it was granted for, and how many keys are attached to it.
        leases.push((left.granted_ttl, left.keys.len() as i64));
    }
    leases.sort_unstable();
    Ok(Facts {
        hash: hashed.hash,
        revision: range.header.map_or(0, |header| header.revision),
        compact_revision: hashed.compact_revision,
        kvs: range.count,
        leases,
        compacted,
    })
}

async fn save(channel: &Channel, file: &Path) -> Outcome<()> {
    let failed = |error: tonic::Status| error.to_string();
    let begun = Instant::now();
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let stream = maintenance.snapshot(pb::SnapshotRequest {}).await.map_err(failed)?;
    let (mut stream, mut bytes) = (stream.into_inner(), Vec::new());
    while let Some(piece) = stream.message().await.map_err(failed)? {
        bytes.extend_from_slice(&piece.blob);
    }
    let mib = bytes.len() as f64 / f64::from(1 << 20);
    println!("  backup of {mib:.1} MiB in {:.1?}", begun.elapsed());
    std::fs::write(file, bytes).map_err(|error| error.to_string())
}
