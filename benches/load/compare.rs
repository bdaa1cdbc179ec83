//! detcd and etcd side by side: the same groups on both, in turn, and the ratios of the medians.

use crate::failover::{Probe, leader};
use crate::options::{CompareOptions, Options};
use crate::stats::{Report, median};
use process::Cluster;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The groups, in an order in which each finds the keys that it needs.
const GROUPS: [(&str, &str); 22] = [
    ("put-1", "put --total 4000"),
    ("put-1000", "put --conns 100 --clients 1000 --total 100000 --keyspace 100000"),
    (
        "put-1000-random",
        "put --conns 100 --clients 1000 --total 60000 --order random --keyspace 100000",
    ),
    ("range-1-l", "range --total 4000 --keyspace 100000"),
    ("range-1-s", "range --total 10000 --consistency s --keyspace 100000"),
    ("range-1000-l", "range --conns 100 --clients 1000 --total 100000 --keyspace 100000"),
    (
        "range-1000-s",
        "range --conns 100 --clients 1000 --total 100000 --consistency s --keyspace 100000",
    ),
    ("mixed-1000", "mixed --conns 100 --clients 1000 --total 80000 --keyspace 100000"),
    (
        "range-prefix",
        "range-prefix --conns 10 --clients 20 --total 1500 --consistency s --keyspace 90000",
    ),
    ("txn-1", "txn --total 3000"),
    ("txn-1000", "txn --conns 100 --clients 1000 --total 60000"),
    ("put-rate-2000", "put --conns 100 --clients 1000 --total 20000 --rate 2000 --keyspace 100000"),
    ("lease-grant", "lease-grant --conns 100 --clients 1000 --total 30000"),
    ("lease-keepalive", "lease-keepalive --conns 100 --clients 1000 --total 150000"),
    ("watch-rate-100", "watch --conns 100 --clients 10 --total 500 --rate 100"),
    ("watch-fast", "watch --conns 100 --clients 100 --total 2000"),
    ("watch-1000", "watch --conns 10 --clients 100 --total 1000"),
    ("watches-1", "put-watched --clients 1 --total 4000 --rate 500"),
    ("watches-10000", "put-watched --clients 10000 --total 4000 --rate 500"),
    ("laggards-0", "put-laggard --clients 0 --keyspace 1000000 --total 4000 --rate 500"),
    ("laggards-1", "put-laggard --clients 1 --keyspace 1000000 --total 4000 --rate 500"),
    ("lease-due-50000", "lease-due --conns 20 --clients 50000"),
];

/// How long a change of leader may take.
const FAILOVER_MAX: Duration = Duration::from_secs(30);

/// What was measured of one program.
#[derive(Default)]
struct Measured {
    reports: BTreeMap<&'static str, Vec<Report>>,
    failovers_ms: Vec<f64>,
}

/// Runs all rounds and prints the table.
pub async fn run(options: &CompareOptions) -> Result<(), String> {
    let mut etcd = Measured::default();
    let mut detcd = Measured::default();
    for round in 0..options.rounds {
        for (name, program, measured) in
            [("etcd", &options.etcd, &mut etcd), ("detcd", &options.detcd, &mut detcd)]
        {
            println!("round {} of {}: {name}", round + 1, options.rounds);
            run_round(options, program, measured).await?;
        }
    }
    print_table(options, &etcd, &detcd);
    Ok(())
}

/// One fresh cluster through all groups, and its leaders killed at the end.
async fn run_round(
    options: &CompareOptions,
    program: &Path,
    measured: &mut Measured,
) -> Result<(), String> {
    let start = Cluster::start(program, options.members, &[]);
    let mut cluster = start.map_err(|error| format!("{}: {error}", program.display()))?;
    for (name, words) in GROUPS {
        if !options.groups.is_empty() && !options.groups.iter().any(|group| group == name) {
            continue;
        }
        let words: Vec<String> = words.split(' ').map(str::to_string).collect();
        let mut group = Options::parse(&words)?;
        group.endpoints = cluster.endpoints();
        group.server_pids = cluster.pids();
        group.total = (group.total / options.shrink).max(1);
        group.keyspace = (group.keyspace / options.shrink).max(1);
        group.limit_seconds = group.limit_seconds.max(900);
        match crate::run::run(name, &group).await {
            Ok(report) => {
                println!("  {report}");
                measured.reports.entry(name).or_default().push(report);
            }
            Err(error) => println!("  {name}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    if options.members > 1 {
        for _ in 0..options.failovers {
            let time = kill_leader(&mut cluster).await?;
            println!("  failover: {time:.0} ms");
            measured.failovers_ms.push(time);
        }
    }
    Ok(())
}

/// Kills the leader, times the survivors, and brings the member back.
async fn kill_leader(cluster: &mut Cluster) -> Result<f64, String> {
    let endpoints = cluster.endpoints();
    let victim = leader(&endpoints, FAILOVER_MAX).await?;
    let survivors: Vec<String> = endpoints
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != victim)
        .map(|(_, e)| e.clone())
        .collect();
    let probe = Probe::connect(&survivors).await?;
    let failed = |error: std::io::Error| error.to_string();
    cluster.kill(victim).map_err(failed)?;
    let begin = Instant::now();
    let time = probe.first_success(begin, FAILOVER_MAX).await.ok_or("no put succeeded")?;
    cluster.spawn(victim).map_err(failed)?;
    cluster.wait_ready(victim, FAILOVER_MAX).map_err(failed)?;
    Ok(time.as_secs_f64() * 1000.0)
}

/// Prints medians and ratios; a cell is etcd's figure, ours, and how often ours is better.
fn print_table(options: &CompareOptions, etcd: &Measured, detcd: &Measured) {
    println!("\n{} members each, medians of {} rounds;", options.members, options.rounds);
    println!("a cell is etcd / detcd (how many times better detcd is)\n");
    println!("| group | ops/s | p50 ms | p99 ms | server CPU s per 10k | peak RSS MiB |");
    println!("|---|---|---|---|---|---|");
    let none = Vec::new();
    for (name, _) in GROUPS {
        let theirs = etcd.reports.get(name).unwrap_or(&none);
        let ours = detcd.reports.get(name).unwrap_or(&none);
        if theirs.is_empty() && ours.is_empty() {
            continue;
        }
        let pair = |pick: fn(&Report) -> f64| {
            (median(theirs.iter().map(pick).collect()), median(ours.iter().map(pick).collect()))
        };
        println!(
            "| {name} | {} | {} | {} | {} | {} |",
            cell(pair(Report::per_second), true),
            cell(pair(|report| report.percentiles_ms[0]), false),
            cell(pair(|report| report.percentiles_ms[2]), false),
            cell(pair(Report::server_cpu_per_10k), false),
            cell(pair(|report| report.server_peak_mib), false),
        );
    }
    if !etcd.failovers_ms.is_empty() {
        let pair = (median(etcd.failovers_ms.clone()), median(detcd.failovers_ms.clone()));
        let worst = |times: &[f64]| times.iter().copied().fold(f64::NAN, f64::max);
        println!("\nkill of the leader to the next successful put, ms: {}", cell(pair, false));
        let (theirs, ours) = (worst(&etcd.failovers_ms), worst(&detcd.failovers_ms));
        println!("the longest: {theirs:.0} / {ours:.0}");
    }
}

fn cell((theirs, ours): (f64, f64), more_is_better: bool) -> String {
    let ratio = if more_is_better { ours / theirs } else { theirs / ours };
    format!("{} / {} ({ratio:.2}x)", figure(theirs), figure(ours))
}

/// Three digits that count.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}
