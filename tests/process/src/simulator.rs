//! Starts the simulator, which is a build of its own: package `sim` with `--cfg madsim`, in a
//! target directory of its own.
//!
//! The two builds must not share a directory, or the binaries of one would replace those of the
//! other. `--offline` is not passed: on a fresh machine the simulated build's own dependencies have
//! not been downloaded yet.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The command that builds the simulator of the tree at `root`, if need be, and runs it.
pub fn simulator(root: &Path, arguments: &[&str]) -> Command {
    let target = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    // Flags from the environment would replace those of a configuration file, so ours join them.
    let mut flags = env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" --cfg madsim");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root)
        .args(["run", "--locked", "--quiet", "--profile", "simulated", "--package", "sim"])
        .arg("--target-dir")
        .arg(target.join("sim"))
        .arg("--")
        .args(arguments)
        .env("RUSTFLAGS", flags.trim())
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    // What cargo sets for a test would be taken for settings of the inner build.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let outer = ["CARGO_PKG", "CARGO_MANIFEST", "CARGO_BIN_EXE", "CARGO_CRATE_NAME"];
        if outer.iter().any(|o| text.starts_with(o)) || text == "LD_LIBRARY_PATH" {
            command.env_remove(&name);
        }
    }
    command
}
