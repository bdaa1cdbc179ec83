//! Real processes of detcd on loopback: killed, cut down to a minority, filled up,
//! and fed bad input.
//!
//! `DETCD_KILLS=20` kills more leaders than the four of an ordinary run, and `DETCD_PROGRAM`
//! puts another server in the place of ours, for comparison.

mod checkpoint;
mod client;
mod corruption;
mod damage;
mod input;
mod kill;
mod membership;
mod metrics;
mod overload;
mod quorum;
mod recording;
mod space;
mod versions;
mod wal_dump;

use std::path::PathBuf;

/// The server under test.
fn program() -> PathBuf {
    let other = std::env::var_os("DETCD_PROGRAM").map(PathBuf::from);
    other.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_detcd")))
}
