//! Runs real clients against detcd and against a real etcd, and compares what they print.
//!
//! `cargo test --features compat --test clients -- --etcd PATH [--etcdctl PATH]... [--python PATH]
//! [--program PATH]...`: etcdctl runs the scripts in `testdata/`, python the program in `python/`,
//! and a program (those in `go/` and `rust/`) is called with each part and the endpoints.

mod held;
mod script;

use process::Cluster;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What a program can be asked to do; one that does not know a part ends with this status.
const PARTS: [&str; 7] = ["kv", "lease", "watch", "lock", "election", "gateway", "patroni"];
const NO_SUCH_PART: i32 = 64;
/// A client that takes longer hangs.
const CLIENT_MAX: Duration = Duration::from_secs(90);

/// The command line.
#[derive(Default)]
struct Options {
    etcd: PathBuf,
    other: PathBuf,
    etcdctls: Vec<PathBuf>,
    python: Option<PathBuf>,
    programs: Vec<PathBuf>,
    /// Print what the clients printed.
    verbose: bool,
}

/// What one client printed on one server, under a name.
struct Transcript {
    name: String,
    text: String,
}

fn options() -> Result<Options, String> {
    let detcd = PathBuf::from(env!("CARGO_BIN_EXE_detcd"));
    let mut options = Options { other: detcd, ..Default::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--verbose" {
            options.verbose = true;
            continue;
        }
        let value = words.next().map(PathBuf::from).ok_or(format!("{word} needs a value"))?;
        match word.as_str() {
            "--etcd" => options.etcd = value,
            "--other" => options.other = value,
            "--etcdctl" => options.etcdctls.push(value),
            "--python" => options.python = Some(value),
            "--program" => options.programs.push(value),
            unknown => return Err(format!("no option {unknown}")),
        }
    }
    if options.etcd.as_os_str().is_empty() {
        return Err("name a real etcd: --etcd PATH".to_string());
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything on both; true if nothing differed.
fn run(options: &Options) -> Result<bool, String> {
    let start = Cluster::start(&options.etcd, 3, &[]);
    let mut cluster = start.map_err(|error| format!("etcd: {error}"))?;
    let addresses = cluster.addresses();
    let theirs = transcripts(options, &mut cluster)?;
    drop(cluster);
    // On the same addresses, so that every id that is computed from them must be the same.
    let start = Cluster::start_like(&options.other, &addresses);
    let mut cluster = start.map_err(|error| format!("detcd: {error}"))?;
    let ours = transcripts(options, &mut cluster)?;
    drop(cluster);
    assert_eq!(theirs.len(), ours.len(), "the same clients ran on both");
    let (mut passed, mut failed) = (0, 0);
    for (theirs, ours) in theirs.iter().zip(&ours) {
        if options.verbose {
            println!("---- {}\n{}", theirs.name, theirs.text);
        }
        if theirs.text == ours.text {
            println!("same: {}, {} lines", theirs.name, theirs.text.lines().count());
            passed += 1;
        } else {
            print_difference(theirs, ours);
            failed += 1;
        }
    }
    // In the words of cargo's own tests, so that one sum covers both.
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed;");
    Ok(failed == 0)
}

/// All clients on one cluster, each with what it printed.
fn transcripts(options: &Options, cluster: &mut Cluster) -> Result<Vec<Transcript>, String> {
    let endpoints = cluster.endpoints().join(",");
    // One endpoint, so that the member in each header is the same; commands that ask all members
    // find them by themselves.
    let first = cluster.endpoints().remove(0);
    let mut all = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat");
    for (number, etcdctl) in options.etcdctls.iter().enumerate() {
        let run = format!("run{number}");
        for name in ["kv", "cluster", "lease", "watch", "lock"] {
            let path = root.join("testdata").join(format!("{name}.txt"));
            let text = script::run(&path, etcdctl, &first, &run)?;
            all.push(Transcript { name: format!("{} {name}", etcdctl.display()), text });
        }
    }
    for part in PARTS {
        let mut commands = Vec::new();
        if let Some(python) = &options.python {
            let mut command = Command::new(python);
            command.arg(root.join("python/client.py"));
            commands.push((format!("python {part}"), command));
        }
        for program in &options.programs {
            commands.push((format!("{} {part}", program.display()), Command::new(program)));
        }
        for (name, mut command) in commands {
            command.args([part, &endpoints]);
            if let Some(text) = bounded_output(&mut command)? {
                all.push(Transcript { name, text });
            }
        }
    }
    for program in &options.programs {
        if let Some(text) = held::run(program, cluster)? {
            let name = format!("{} held, while the leader is killed", program.display());
            all.push(Transcript { name, text });
        }
    }
    Ok(all)
}

/// What the command printed and how it ended; none if it does not know the part.
fn bounded_output(command: &mut Command) -> Result<Option<String>, String> {
    let program = command.get_program().to_os_string();
    let failed = |error: std::io::Error| format!("{program:?}: {error}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let begin = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if begin.elapsed() > CLIENT_MAX {
            child.kill().map_err(|error| error.to_string())?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.code() == Some(NO_SUCH_PART) {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(Some(format!("{text}ended with {:?}\n", output.status.code())))
}

fn print_difference(theirs: &Transcript, ours: &Transcript) {
    println!("DIFFERENT: {}", theirs.name);
    let (a, b): (Vec<&str>, Vec<&str>) =
        (theirs.text.lines().collect(), ours.text.lines().collect());
    let mut shown = 0;
    for number in 0..a.len().max(b.len()) {
        let (left, right) = (a.get(number), b.get(number));
        if left != right && shown < 8 {
            shown += 1;
            println!("  line {number}\n    etcd:  {left:?}\n    detcd: {right:?}");
        }
    }
}
