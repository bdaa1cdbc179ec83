//! `cargo test` runs the everyday sweep of the simulator: it builds package `sim` with
//! `--cfg madsim` into a target directory of its own and starts it.
//!
//! The two builds must not share a directory, or the binaries of one would replace those of the
//! other. `--offline` is not passed: on a fresh machine the simulated build's own dependencies have
//! not been downloaded yet.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Seeds of the everyday sweep.
const SEEDS: &str = "2000";

#[test]
fn the_everyday_sweep_holds_all_guarantees() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let target = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    // Flags from the environment would replace those of a configuration file, so ours join them.
    let mut flags = env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" --cfg madsim");
    let seeds = env::var("SIM_SEEDS").unwrap_or_else(|_| SEEDS.to_string());
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(&root)
        .args(["run", "--locked", "--quiet", "--release", "--package", "sim", "--target-dir"])
        .arg(target.join("sim"))
        .args(["--", "everyday", "--seeds", &seeds, "sim/trace-hashes.toml"])
        .env("RUSTFLAGS", flags.trim())
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    // What cargo sets for this test would be taken for settings of the inner build.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let outer = ["CARGO_PKG", "CARGO_MANIFEST", "CARGO_BIN_EXE", "CARGO_CRATE_NAME"];
        if outer.iter().any(|o| text.starts_with(o)) || text == "LD_LIBRARY_PATH" {
            command.env_remove(&name);
        }
    }
    let status = command.status().expect("cargo is there, for it runs this test");
    assert!(status.success(), "the simulation failed; the seeds to repeat are printed above");
}
