//! What a simulated disk does wrong, and what it has done.

use std::ops::Range;
use std::time::Duration;

/// How a disk behaves until told otherwise.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// How long a sync takes; an empty range is the fixed time of its start.
    pub sync_latency: Range<Duration>,
    /// How often, in a thousand syncs, one stalls, and for how long.
    pub stall_per_mille: u64,
    pub stall: Range<Duration>,
    /// How often, in a thousand, a write fails without effect.
    pub write_error_per_mille: u64,
    /// How often, in a thousand, a sync fails. What it was to bring to the platter is then there
    /// in part and counts as clean: another sync succeeds and does not bring the rest.
    pub sync_error_per_mille: u64,
    pub read_error_per_mille: u64,
    /// How often, in a thousand syncs, one write lands in another place of its file.
    pub misdirect_per_mille: u64,
    /// What fits, counting files at their full length.
    pub capacity_bytes: u64,
    /// What is written whole or not at all.
    pub sector_bytes: u64,
}

impl DiskFaults {
    /// A disk that takes no time and never fails; it needs no runtime.
    pub fn none() -> DiskFaults {
        DiskFaults {
            sync_latency: Duration::ZERO..Duration::ZERO,
            stall_per_mille: 0,
            stall: Duration::ZERO..Duration::ZERO,
            write_error_per_mille: 0,
            sync_error_per_mille: 0,
            read_error_per_mille: 0,
            misdirect_per_mille: 0,
            capacity_bytes: u64::MAX,
            sector_bytes: detcd::env::disk::SECTOR_BYTES,
        }
    }
}

impl Default for DiskFaults {
    /// A healthy disk of ordinary speed.
    fn default() -> DiskFaults {
        let sync_latency = Duration::from_micros(100)..Duration::from_millis(3);
        DiskFaults { sync_latency, ..DiskFaults::none() }
    }
}

/// What happened to a disk so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Changes asked for: what `arm_crash` counts.
    pub operations: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub syncs: u64,
    pub dir_syncs: u64,
    pub stalls: u64,
    pub power_cuts: u64,
    pub kills: u64,
    /// Power cuts left part of a write, or not a change of a directory.
    pub torn_writes: u64,
    pub lost_name_changes: u64,
    pub failed_writes: u64,
    pub failed_syncs: u64,
    pub failed_reads: u64,
    pub full: u64,
    pub rotten_bits: u64,
    pub misdirected: u64,
}

/// A kind of change, for a crash that is to hit a certain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Rename,
    Remove,
    MakeDir,
    Write,
    Allocate,
    SetLength,
    /// Before anything of the sync has happened.
    SyncBegin,
    /// After the data is on the platter and before anybody is told.
    SyncEnd,
    SyncDirBegin,
    SyncDirEnd,
}
