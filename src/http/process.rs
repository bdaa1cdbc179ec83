//! What the operating system says of this process, from `/proc`; elsewhere the figures stay 0.

use crate::metrics::Metrics;
use std::fs;

/// Ticks a second in `/proc/self/stat`; the kernel's interface fixes it.
const TICKS_PER_SECOND: f64 = 100.0;

/// Puts the figures of this moment in.
pub fn observe(metrics: &Metrics) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    if let Some(times) = times(&stat) {
        metrics.process_cpu_seconds_total.reset();
        metrics.process_cpu_seconds_total.inc_by(times.cpu_seconds);
        let boot = system.lines().find_map(|line| line.strip_prefix("btime "));
        let boot = boot.and_then(|seconds| seconds.trim().parse::<f64>().ok()).unwrap_or(0.0);
        metrics.process_start_time_seconds.set(boot + times.started_seconds);
    }
    metrics.process_resident_memory_bytes.set(kilobytes(&status, "VmRSS:") * 1024);
    metrics.process_virtual_memory_bytes.set(kilobytes(&status, "VmSize:") * 1024);
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
    let open = i64::try_from(open).unwrap_or(i64::MAX);
    let limit = open_files_limit(&limits);
    for (used, most) in [
        (&metrics.process_open_fds, &metrics.process_max_fds),
        (&metrics.os_fd_used, &metrics.os_fd_limit),
    ] {
        used.set(open);
        most.set(limit);
    }
}

struct Times {
    cpu_seconds: f64,
    /// Since the system started.
    started_seconds: f64,
}

/// The name of the process comes second and may hold anything, so fields are counted after it.
fn times(stat: &str) -> Option<Times> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(Times {
        cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
        started_seconds: ticks(19)? / TICKS_PER_SECOND,
    })
}

fn kilobytes(status: &str, name: &str) -> i64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn open_files_limit(limits: &str) -> i64 {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 8 7 6 250 50 0 0 20 0 1 0 4200 1 2 3";
        let times = times(stat).expect("it is whole");
        assert_eq!((times.cpu_seconds, times.started_seconds), (3.0, 42.0));
        assert!(super::times("7 (a) S 1").is_none());
        assert_eq!(kilobytes("Name: x\nVmRSS:\t  12 kB\n", "VmRSS:"), 12);
        assert_eq!(kilobytes("", "VmRSS:"), 0);
        assert_eq!(open_files_limit("Max open files   1024   4096   files"), 1024);
    }

    #[test]
    fn this_process_uses_memory() {
        let metrics = Metrics::new();
        observe(&metrics);
        if cfg!(target_os = "linux") {
            assert!(metrics.process_resident_memory_bytes.get() > 0);
            assert!(metrics.process_open_fds.get() > 0);
        }
    }
}
