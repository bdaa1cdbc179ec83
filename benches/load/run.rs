//! One run: connect, do the workload, and take the figures of the processes around it.

use crate::failover::Probe;
use crate::options::{Kind, Options};
use crate::stats::{Report, Sample};
use crate::{standing, streams, workload};
use process::usage;
use std::time::{Duration, Instant};

/// Does the workload within its time limit.
pub async fn run(name: &str, options: &Options) -> Result<Report, String> {
    let channels = workload::connect(options).await?;
    usage::reset_peak_rss(&options.server_pids);
    let before = Figures::take(&options.server_pids);
    let begin = Instant::now();
    let limit = Duration::from_secs(options.limit_seconds);
    let work = async {
        match options.kind {
            Kind::Watch => streams::watch(options, &channels).await,
            Kind::LeaseKeepalive => streams::keepalive(options, &channels).await,
            Kind::PutWatched => standing::put_watched(options, &channels).await,
            Kind::PutLaggard => standing::put_laggard(options).await,
            Kind::LeaseDue => standing::lease_due(options, &channels).await,
            Kind::Failover => return failover(options).await,
            _ => Ok((workload::run(options, &channels).await, begin.elapsed())),
        }
        .map_err(|status| format!("{:?}: {}", status.code(), status.message()))
    };
    let (sample, elapsed) = tokio::time::timeout(limit, work)
        .await
        .map_err(|_| format!("{name}: not done after {limit:?}"))??;
    let after = Figures::take(&options.server_pids);
    let mut report = Report::new(name.to_string(), sample, elapsed);
    report.server_cpu_seconds = after.server - before.server;
    report.client_cpu_seconds = after.client - before.client;
    let others = after.machine - before.machine;
    let others = others - report.server_cpu_seconds - report.client_cpu_seconds;
    report.other_cores = others.max(0.0) / begin.elapsed().as_secs_f64();
    report.server_peak_mib = usage::peak_rss_mib(&options.server_pids);
    report.server_mib = usage::rss_mib(&options.server_pids);
    Ok(report)
}

/// Puts until one succeeds: the caller has killed the leader a moment ago.
async fn failover(options: &Options) -> Result<(Sample, Duration), String> {
    let probe = Probe::connect(&options.endpoints).await?;
    let begin = Instant::now();
    let limit = Duration::from_secs(options.limit_seconds);
    let time = probe.first_success(begin, limit).await.ok_or("no put succeeded")?;
    let mut sample = Sample::default();
    sample.success(time);
    Ok((sample, time))
}

/// Processor seconds so far.
struct Figures {
    server: f64,
    client: f64,
    machine: f64,
}

impl Figures {
    fn take(pids: &[u32]) -> Figures {
        Figures {
            server: usage::cpu_seconds(pids),
            client: usage::own_cpu_seconds(),
            machine: usage::machine_busy_seconds(),
        }
    }
}
