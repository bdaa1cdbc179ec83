//! The load generator: measures a running cluster, or ours beside etcd's; `--help` says how.

mod compare;
mod failover;
mod operate;
mod options;
mod run;
mod standing;
mod stats;
mod streams;
mod workload;

use options::{CompareOptions, HELP, Options};
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    // Cargo adds `--bench` to what it was given.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.is_empty() || words.iter().any(|word| word == "--help") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match start(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start(words: &[String]) -> Result<(), String> {
    if words[0] == "compare" || words[0] == "operate" {
        let options = CompareOptions::parse(&words[1..], env!("CARGO_BIN_EXE_detcd"))?;
        let runtime = runtime(options.threads)?;
        if words[0] == "compare" {
            return runtime.block_on(compare::run(&options));
        }
        return runtime.block_on(operate::run(&options));
    }
    let options = Options::parse(words)?;
    let report = runtime(options.threads)?.block_on(run::run(&words[0], &options))?;
    println!("{report}");
    Ok(())
}

/// One thread runs everything without locks between workers; more are workers of one pool.
fn runtime(threads: usize) -> Result<Runtime, String> {
    let mut builder =
        if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().map_err(|error| error.to_string())
}
