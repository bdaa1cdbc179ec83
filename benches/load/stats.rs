//! What a run measured, and how it is printed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What one client saw: latencies in microseconds, and its failures by text.
#[derive(Debug, Default)]
pub struct Sample {
    pub latencies_us: Vec<u32>,
    pub errors: BTreeMap<String, u64>,
}

/// The result of one run.
#[derive(Clone, Debug)]
pub struct Report {
    pub name: String,
    pub operations: u64,
    pub elapsed: Duration,
    /// p50, p90, p99, p99.9 and the largest, in milliseconds; not a number if nothing succeeded.
    pub percentiles_ms: [f64; 5],
    pub errors: BTreeMap<String, u64>,
    /// Zero where no server process was named.
    pub server_cpu_seconds: f64,
    pub server_peak_mib: f64,
    pub server_mib: f64,
    pub client_cpu_seconds: f64,
    /// Cores that neither the servers nor this client kept busy.
    pub other_cores: f64,
}

impl Sample {
    /// Notes one success.
    pub fn success(&mut self, latency: Duration) {
        self.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Notes one failure.
    pub fn failure(&mut self, status: &tonic::Status) {
        let text = format!("{:?}: {}", status.code(), status.message());
        *self.errors.entry(text).or_default() += 1;
    }

    /// Adds what another client saw.
    pub fn merge(&mut self, other: Sample) {
        self.latencies_us.extend_from_slice(&other.latencies_us);
        for (text, count) in other.errors {
            *self.errors.entry(text).or_default() += count;
        }
    }
}

impl Report {
    /// Sums up; the figures of processes are filled in by the caller.
    pub fn new(name: String, mut sample: Sample, elapsed: Duration) -> Report {
        sample.latencies_us.sort_unstable();
        let at = |part| percentile_ms(&sample.latencies_us, part);
        Report {
            name,
            operations: sample.latencies_us.len() as u64,
            elapsed,
            percentiles_ms: [at(0.5), at(0.9), at(0.99), at(0.999), at(1.0)],
            errors: sample.errors,
            server_cpu_seconds: 0.0,
            server_peak_mib: 0.0,
            server_mib: 0.0,
            client_cpu_seconds: 0.0,
            other_cores: 0.0,
        }
    }

    /// Successful operations a second.
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Processor seconds of all servers for 10,000 operations.
    pub fn server_cpu_per_10k(&self) -> f64 {
        self.server_cpu_seconds * 10_000.0 / self.operations as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, p999, max] = self.percentiles_ms;
        write!(f, "{}: {:.0} ops/s", self.name, self.per_second())?;
        write!(f, ", p50 {p50:.3} p90 {p90:.3} p99 {p99:.3} p99.9 {p999:.3} max {max:.3} ms")?;
        if self.server_peak_mib > 0.0 {
            write!(f, ", server {:.3} s/10k", self.server_cpu_per_10k())?;
            write!(f, ", rss {:.0} peak {:.0} MiB", self.server_mib, self.server_peak_mib)?;
        }
        write!(f, ", client {:.2} s", self.client_cpu_seconds)?;
        write!(f, ", other {:.2} cores", self.other_cores)?;
        write!(f, ", {} done in {:.2} s", self.operations, self.elapsed.as_secs_f64())?;
        for (text, count) in &self.errors {
            write!(f, "\n  {count} times {text}")?;
        }
        Ok(())
    }
}

/// The latency that this part of all operations did not exceed.
fn percentile_ms(sorted_us: &[u32], part: f64) -> f64 {
    let Some(last) = sorted_us.len().checked_sub(1) else { return f64::NAN };
    let rank = (sorted_us.len() as f64 * part).ceil() as usize;
    f64::from(sorted_us[rank.saturating_sub(1).min(last)]) / 1000.0
}

/// The middle value, or the mean of the two in the middle; not a number if there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}
