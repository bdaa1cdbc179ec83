//! What an operator waits for, ours beside etcd's: memory and restart of a large database, a
//! backup of it, a compaction, and a disk that fills while the same keys are written over and
//! over. One member each, so that nothing else takes part.

use crate::options::{CompareOptions, Options};
use crate::run::run as run_group;
use crate::stats::{Report, Sample};
use crate::workload::{Tickets, key, kv, open, value};
use detcd::pb::etcdserverpb::{self as pb, maintenance_client::MaintenanceClient};
use process::{Cluster, usage};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

const QUOTA: [&str; 1] = ["--quota-backend-bytes=8589934592"];
const RESTART_MAX: Duration = Duration::from_secs(120);
/// Puts a second beside a backup or a compaction.
const RATE: u64 = 500;
const KEYS: u64 = 1_000_000;
/// The loop: these keys of so many bytes, written until the total is reached.
const LOOP_KEYS: u64 = 100_000;
const LOOP_VALUE_BYTES: usize = 4096;
const LOOP_TOTAL_BYTES: u64 = 10 << 30;
const LOOP_CLIENTS: u64 = 50;
const LOOP_COMPACTION: Duration = Duration::from_secs(10);

/// The figures of one program, by their names.
type Figures = BTreeMap<&'static str, f64>;

/// Measures both programs and prints the table.
pub async fn run(options: &CompareOptions) -> Result<(), String> {
    let mut columns = Vec::new();
    for program in [&options.etcd, &options.detcd] {
        println!("{}", program.display());
        let mut figures = Figures::new();
        let wants = |part: &str| options.groups.is_empty() || options.groups.contains(&part.into());
        if wants("keys") {
            many_keys(program, KEYS / options.shrink, &mut figures).await?;
        }
        if wants("loop") {
            write_in_a_loop(program, LOOP_TOTAL_BYTES / options.shrink, &mut figures).await?;
        }
        columns.push(figures);
    }
    println!("\n| figure | etcd | detcd | etcd / detcd |\n|---|---|---|---|");
    for (name, theirs) in &columns[0] {
        let ours = columns[1].get(name).copied().unwrap_or(f64::NAN);
        println!("| {name} | {theirs:.1} | {ours:.1} | {:.2} |", theirs / ours);
    }
    Ok(())
}

/// A large database: its memory, a restart, a backup and a compaction beside puts.
async fn many_keys(program: &Path, keys: u64, figures: &mut Figures) -> Result<(), String> {
    let mut cluster = Cluster::start(program, 1, &QUOTA).map_err(text)?;
    let url = cluster.endpoints().remove(0);
    let pids = cluster.pids();
    let fill =
        load(&url, &pids, "fill", &format!("--order sequential --total {keys}"), keys).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    figures.insert("1 fill, puts/s", fill.per_second());
    figures.insert("2 memory after the fill, MiB", usage::rss_mib(&pids));
    cluster.kill(0).map_err(text)?;
    let begin = Instant::now();
    cluster.spawn(0).map_err(text)?;
    first_answer(&url, keys - 1).await?;
    figures.insert("3 kill -9 to first answer, ms", millis(begin.elapsed()));
    let pids = cluster.pids();
    tokio::time::sleep(Duration::from_secs(5)).await;
    figures.insert("4 memory after the restart, MiB", usage::rss_mib(&pids));
    load(&url, &pids, "overwrite", &format!("--order random --total {}", keys / 2), keys).await?;

    let quiet = puts_beside(&url, keys, tokio::time::sleep(Duration::from_secs(10))).await?.0;
    figures.insert("5 put p99 alone, ms", quiet.percentiles_ms[2]);
    figures.insert("5 put max alone, ms", quiet.percentiles_ms[4]);
    let (beside, backup) = puts_beside(&url, keys, back_up(&url)).await?;
    let (bytes, took) = backup?;
    figures.insert("6 backup, MiB", bytes as f64 / f64::from(1 << 20));
    figures.insert("6 backup, ms", millis(took));
    figures.insert("7 put p99 beside the backup, ms", beside.percentiles_ms[2]);
    figures.insert("7 put max beside the backup, ms", beside.percentiles_ms[4]);
    let now = revision(&url).await?;
    let (beside, compacted) = puts_beside(&url, keys, compact(&url, now, true)).await?;
    figures.insert("8 physical compaction, ms", millis(compacted?));
    figures.insert("9 put p99 beside the compaction, ms", beside.percentiles_ms[2]);
    figures.insert("9 put max beside the compaction, ms", beside.percentiles_ms[4]);
    Ok(())
}

/// The most that the disk held, and the most that it had to hold, in bytes.
#[derive(Default)]
struct Space {
    disk: u64,
    /// The values of the keys, and of the history since the last compaction.
    readable: u64,
}

impl Space {
    fn look(&mut self, disk: u64, revision: u64, compacted: u64) {
        let values = compacted.min(LOOP_KEYS) + revision.saturating_sub(compacted);
        self.disk = self.disk.max(disk);
        self.readable = self.readable.max(values * LOOP_VALUE_BYTES as u64);
    }
}

/// Overwrites the same keys until the total is reached, with a compaction now and then.
async fn write_in_a_loop(program: &Path, total: u64, figures: &mut Figures) -> Result<(), String> {
    let cluster = Cluster::start(program, 1, &QUOTA).map_err(text)?;
    let url = cluster.endpoints().remove(0);
    let dir = cluster.members[0].dir.clone();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let compactions = tokio::spawn({
        let url = url.clone();
        async move {
            let (mut most, mut look, mut last) = (Space::default(), Instant::now(), Instant::now());
            let mut compacted = 0;
            while !*stopped.borrow() {
                let _ = tokio::time::timeout(Duration::from_millis(500), stopped.changed()).await;
                if look.elapsed() >= Duration::from_millis(500) {
                    most.look(disk_bytes(&dir), revision(&url).await?, compacted);
                    look = Instant::now();
                }
                if last.elapsed() >= LOOP_COMPACTION {
                    last = Instant::now();
                    compacted = revision(&url).await?;
                    compact(&url, compacted, false).await?;
                }
            }
            Ok::<Space, String>(most)
        }
    });
    let words = format!(
        "--clients {LOOP_CLIENTS} --conns 10 --val-size {LOOP_VALUE_BYTES} --total {}",
        total / LOOP_VALUE_BYTES as u64
    );
    let report = load(&url, &cluster.pids(), "loop", &words, LOOP_KEYS).await?;
    stop.send(true).map_err(text)?;
    let most = compactions.await.map_err(text)??;
    figures.insert("loop, puts/s", report.per_second());
    figures.insert("loop, put p99, ms", report.percentiles_ms[2]);
    figures.insert("loop, put p99.9, ms", report.percentiles_ms[3]);
    figures.insert("loop, put max, ms", report.percentiles_ms[4]);
    figures.insert("loop, peak memory, MiB", usage::peak_rss_mib(&cluster.pids()));
    let disk = most.disk as f64;
    figures.insert("loop, most disk / most that could be read", disk / most.readable as f64);
    let keys = LOOP_KEYS * LOOP_VALUE_BYTES as u64;
    figures.insert("loop, most disk / what the keys hold", disk / keys as f64);
    Ok(())
}

/// Puts by many clients, unless the words say otherwise.
async fn load(
    url: &str,
    pids: &[u32],
    name: &str,
    words: &str,
    keyspace: u64,
) -> Result<Report, String> {
    let all = format!("put --clients 500 --conns 50 --keyspace {keyspace} {words}");
    let words: Vec<String> = all.split(' ').map(str::to_string).collect();
    let mut options = Options::parse(&words)?;
    options.endpoints = vec![url.to_string()];
    options.server_pids = pids.to_vec();
    options.limit_seconds = 3600;
    let report = run_group(name, &options).await?;
    println!("  {report}");
    Ok(report)
}

/// Puts of one client at a fixed rate for as long as `work` takes (at least some seconds). They
/// have a thread of their own: what a backup's reader decodes must not count as time of the puts.
async fn puts_beside<T>(
    url: &str,
    keys: u64,
    work: impl Future<Output = T>,
) -> Result<(Report, T), String> {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let thread = std::thread::Builder::new().name("puts".to_string());
    let url = url.to_string();
    let writer = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(text)?.block_on(put_at_the_rate(&url, keys, stopped))
    });
    let writer = writer.map_err(text)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let result = work.await;
    stop.send(true).map_err(text)?;
    let (sample, elapsed) = writer.join().expect("the writer does not panic")?;
    let report = Report::new("beside".to_string(), sample, elapsed);
    println!("  {report}");
    Ok((report, result))
}

async fn put_at_the_rate(
    url: &str,
    keys: u64,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> Result<(Sample, Duration), String> {
    let channel = open(url).await?;
    let (mut client, mut sample) = (kv(&channel), Sample::default());
    let (tickets, begin) = (Tickets::new(u64::MAX, RATE), Instant::now());
    while !*stopped.borrow() || begin.elapsed() < Duration::from_secs(5) {
        let (number, due) = tickets.take().await.expect("numbers do not run out");
        let key = key(number * 7919 % keys);
        let put = pb::PutRequest { key, value: value(256), ..Default::default() };
        match client.put(put).await {
            Ok(_) => sample.success(due.elapsed()),
            Err(status) => sample.failure(&status),
        }
    }
    Ok((sample, begin.elapsed()))
}

/// Pulls a whole backup and throws it away.
async fn back_up(url: &str) -> Result<(u64, Duration), String> {
    let mut client = MaintenanceClient::new(open(url).await?);
    let begin = Instant::now();
    let stream = client.snapshot(pb::SnapshotRequest::default()).await.map_err(text)?;
    let (mut stream, mut bytes) = (stream.into_inner(), 0);
    while let Some(part) = stream.message().await.map_err(text)? {
        bytes += part.blob.len() as u64;
    }
    Ok((bytes, begin.elapsed()))
}

/// The revision of the store.
async fn revision(url: &str) -> Result<u64, String> {
    let read = pb::RangeRequest { key: key(0), ..Default::default() };
    let answer = kv(&open(url).await?).range(read).await.map_err(text)?;
    Ok(answer.into_inner().header.map_or(0, |header| header.revision as u64))
}

/// Compacts everything up to a revision.
async fn compact(url: &str, revision: u64, physical: bool) -> Result<Duration, String> {
    let mut client = kv(&open(url).await?);
    let begin = Instant::now();
    let revision = revision as i64;
    client.compact(pb::CompactionRequest { revision, physical }).await.map_err(text)?;
    Ok(begin.elapsed())
}

/// Asks for a key until it is there.
async fn first_answer(url: &str, number: u64) -> Result<(), String> {
    let begin = Instant::now();
    while begin.elapsed() < RESTART_MAX {
        if let Ok(channel) = open(url).await {
            let read = pb::RangeRequest { key: key(number), ..Default::default() };
            let answer = kv(&channel).range(read).await;
            if answer.is_ok_and(|answer| answer.into_inner().count == 1) {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(format!("no answer within {RESTART_MAX:?}"))
}

/// Bytes on the disk below a directory.
fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
