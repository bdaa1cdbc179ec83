//! Crashes at every single disk operation of a workload, torn sectors and flipped bits: what was
//! acknowledged is there afterwards, and what can't be trusted is refused.

mod checkpoint;
mod real;
mod wal;

use detcd::env::disk::Disk;
use sim::disk::SimDisk;
use sim::disk::faults::DiskFaults;
use std::sync::Arc;

/// A disk on which nothing takes time, so that it needs no runtime.
fn sim_disk(seed: u64) -> SimDisk {
    SimDisk::new(seed, "disk", DiskFaults::none())
}

fn shared(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}
