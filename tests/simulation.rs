//! `cargo test` runs the everyday sweep of the simulator.

use process::simulator::simulator;
use std::env;
use std::path::Path;

/// Seeds of the everyday sweep: half of them standard ones, half lite, and a tenth more of the
/// modes that leave a quorum alone.
const SEEDS: &str = "5000";

#[test]
fn the_everyday_sweep_holds_all_guarantees() {
    let seeds = env::var("SIM_SEEDS").unwrap_or_else(|_| SEEDS.to_string());
    let arguments = ["everyday", "--seeds", &seeds, "sim/trace-hashes.toml"];
    let mut command = simulator(Path::new(env!("CARGO_MANIFEST_DIR")), &arguments);
    let status = command.status().expect("cargo is there, for it runs this test");
    assert!(status.success(), "the simulation failed; the seeds to repeat are printed above");
}
