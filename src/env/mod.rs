//! The seams to the world: clock, disk, seed.
//!
//! All that a server learns from outside other than over the network comes through an [`Env`]:
//! what time it is, what the disk holds, and where chance begins. The daemon builds one of a
//! [`clock::RealClock`] and a [`real_disk::RealDisk`]; the simulator builds one a node, whose
//! clock runs at its own rate and whose disk loses power; unit tests use
//! [`clock::ManualClock`] and [`mem_disk::MemDisk`].
//!
//! Faults occur behind these traits only, so the code above them is the same in all three worlds.
//! The blocking pool, threads and `std::fs` occur in this folder only.

pub mod clock;
pub mod disk;
pub mod flight;
pub mod mem_disk;
pub mod pace;
pub mod real_disk;
pub mod recorder;
pub mod signal;
pub mod sync_thread;

use crate::env::clock::Clock;
use crate::env::disk::Disk;
use crate::env::recorder::Recorder;
use std::sync::Arc;

/// The world of one server.
#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
    /// Where every stream of chance of this server begins: election jitter, ids, sampling.
    pub seed: u64,
    /// Who is told what happens here, without keys and values.
    pub recorder: Arc<dyn Recorder>,
}

/// Lets other tasks run; for loops over much data that have nothing to wait for.
pub async fn yield_now() {
    tokio::task::yield_now().await;
}
