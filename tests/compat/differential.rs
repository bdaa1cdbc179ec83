//! Sends the same random requests to detcd and to a real etcd, and compares the answers.
//!
//! `cargo test --features compat --test differential -- --etcd PATH [--requests N] [--seed S]`

mod generate;
mod side;
mod watches;

use generate::{Call, Generator};
use side::{Answer, Side};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// After so many differences the two states have parted and more say nothing.
const DIFFERENCES_MAX: usize = 5;
/// A printed request or answer is cut here.
const TEXT_MAX: usize = 1500;

/// The command line.
struct Options {
    etcd: PathBuf,
    /// The server compared with etcd: ours, or another to test the test.
    other: PathBuf,
    requests: u64,
    seed: u64,
    leases: bool,
    /// Rounds of the comparison of watches; zero leaves it out.
    watch_rounds: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        etcd: std::env::var_os("DETCD_ETCD").map(PathBuf::from).unwrap_or_default(),
        other: PathBuf::from(env!("CARGO_BIN_EXE_detcd")),
        requests: 100_000,
        seed: 1,
        leases: true,
        watch_rounds: 0,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--etcd" => options.etcd = PathBuf::from(value()?),
            "--other" => options.other = PathBuf::from(value()?),
            "--requests" => options.requests = number(value()?)?,
            "--seed" => options.seed = number(value()?)?,
            "--watch-rounds" => options.watch_rounds = number(value()?)?,
            "--no-leases" => options.leases = false,
            unknown => return Err(format!("no option {unknown}")),
        }
    }
    if options.etcd.as_os_str().is_empty() {
        return Err("name a real etcd: --etcd PATH, or DETCD_ETCD".to_string());
    }
    Ok(options)
}

fn main() -> ExitCode {
    let run = async {
        let options = options()?;
        let mut etcd = Side::start("etcd", &options.etcd).await?;
        let mut other = Side::start("detcd", &options.other).await?;
        let mut differences = requests(&options, &mut etcd, &mut other).await;
        if options.watch_rounds > 0 && differences == 0 {
            let seed = options.seed;
            differences += watches::rounds(seed, options.watch_rounds, &mut etcd, &mut other).await;
        }
        Ok::<usize, String>(differences)
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    match runtime.block_on(run) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(differences) => {
            println!("{differences} differences");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Sends all requests one after the other to both; gives the number of differences.
async fn requests(options: &Options, etcd: &mut Side, other: &mut Side) -> usize {
    let mut generator = Generator::new(options.seed, options.leases);
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    let mut differences = 0;
    let begin = Instant::now();
    let mut sent = 0;
    while sent < options.requests && differences < DIFFERENCES_MAX {
        let call = generator.call();
        sent += 1;
        if generator.chance(1) {
            differences += unknown_enum(&mut generator, call.clone(), other).await;
        }
        let (theirs, ours) = futures::join!(etcd.send(&call), other.send(&call));
        generator.revision = generator.revision.max(theirs.revision);
        *answers.entry(label(&call, &theirs)).or_default() += 1;
        if theirs != ours {
            differences += 1;
            print_difference(sent, &call, (&etcd.name, &theirs), (&other.name, &ours));
        }
    }
    for (label, count) in answers {
        println!("{count:>8} {label}");
    }
    let took = begin.elapsed().as_secs_f64();
    println!("seed {}: {sent} requests in {took:.1} s, {differences} differences", options.seed);
    differences
}

/// Sends a call with a number that is not in its enum to our server alone; 1 if it is let through.
///
/// etcd 3.5 ignores some of them, and one combination (an order that sorts, by a target that does
/// not exist) ends its process. Ours refuses all of them.
async fn unknown_enum(generator: &mut Generator, call: Call, other: &mut Side) -> usize {
    let Some(call) = generator.with_unknown_enum(call) else { return 0 };
    let ours = other.send(&call).await;
    if ours.code == "InvalidArgument" {
        return 0;
    }
    println!("an unknown enum was let through: {}", cut(&format!("{call:?}")));
    println!("  {}: {} {}", other.name, ours.code, cut(&ours.text));
    1
}

/// The kind of call with the kind of answer, for the table of what was met.
fn label(call: &Call, answer: &Answer) -> String {
    let kind = match call {
        Call::Range(_) => "Range",
        Call::Put(_) => "Put",
        Call::DeleteRange(_) => "DeleteRange",
        Call::Txn(_) => "Txn",
        Call::Compact(_) => "Compact",
        Call::LeaseGrant(_) => "LeaseGrant",
        Call::LeaseRevoke(_) => "LeaseRevoke",
        Call::LeaseTimeToLive(_) => "LeaseTimeToLive",
    };
    if answer.code == "Ok" {
        return format!("{kind}: Ok");
    }
    format!("{kind}: {} {}", answer.code, answer.text)
}

fn print_difference(number: u64, call: &Call, theirs: (&str, &Answer), ours: (&str, &Answer)) {
    println!("request {number}: {}", cut(&format!("{call:?}")));
    for (name, answer) in [theirs, ours] {
        println!("  {name}: {} {}", answer.code, cut(&answer.text));
    }
}

fn cut(text: &str) -> String {
    if text.len() <= TEXT_MAX {
        return text.to_string();
    }
    let head: String = text.chars().take(TEXT_MAX).collect();
    format!("{head}... ({} bytes)", text.len())
}
