//! Processor time and memory of processes, and of the machine, from `/proc`.

use std::fs;

/// The kernel's clock ticks in a second, as every Linux of our targets has it for `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor seconds that these processes used so far; one that ended counts nothing.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| cpu_ticks(&format!("/proc/{pid}/stat")) as f64 / TICKS_PER_SECOND).sum()
}

/// Processor seconds that the calling process used so far.
pub fn own_cpu_seconds() -> f64 {
    cpu_ticks("/proc/self/stat") as f64 / TICKS_PER_SECOND
}

/// Processor seconds that the whole machine spent busy so far.
pub fn machine_busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal: all but idle and iowait is work.
    let busy: u64 =
        fields.iter().take(8).enumerate().filter(|(i, _)| *i != 3 && *i != 4).map(|(_, v)| v).sum();
    busy as f64 / TICKS_PER_SECOND
}

/// The sum of the processes' resident memory at its peak, in MiB.
pub fn peak_rss_mib(pids: &[u32]) -> f64 {
    sum_status(pids, "VmHWM:")
}

/// The sum of the processes' resident memory at this moment, in MiB.
pub fn rss_mib(pids: &[u32]) -> f64 {
    sum_status(pids, "VmRSS:")
}

/// Lets the peaks of these processes count from this moment.
pub fn reset_peak_rss(pids: &[u32]) {
    for pid in pids {
        // Refused where the kernel lacks the file: the peak then counts from the start.
        drop(fs::write(format!("/proc/{pid}/clear_refs"), "5"));
    }
}

fn sum_status(pids: &[u32], field: &str) -> f64 {
    let kib: u64 = pids
        .iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .filter_map(|text| {
            let line = text.lines().find(|line| line.starts_with(field))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .sum();
    kib as f64 / 1024.0
}

fn cpu_ticks(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The second field is the name in parentheses and may hold spaces: count after it. User and
    // system time are fields 14 and 15 of the line, so 12th and 13th after the parenthesis.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}
