//! `cargo sim`: runs seeds, repeats them, proves that they repeat, and replays incidents.

use sim::histories;
use sim::incident::{self, Incident};
use sim::mutants;
use sim::mutants::bench::Rows;
use sim::mutants::hunt::hunt;
use sim::options::Mode;
use sim::plan::Plan;
use sim::raft_ring;
use sim::run;
use sim::sweep::{Plans, Report, Sweep, story};
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
cargo sim run --seeds N [--first S] [--mode M] [--jobs J]   sweep; lists all failing seeds
cargo sim run --seed S [--mode M]                           one seed, with its whole trace
cargo sim twice --seed S [--mode M]                         the trace must be the same twice
cargo sim plan --seed S [--mode M]                          print the plan of a seed
cargo sim replay incidents/X | --seed S [--page FILE]       tell its story; draw its timeline
cargo sim timeline FILE|DIR... [--page FILE]                a real cluster's flight recordings
cargo sim from-recording FILE|DIR...                        a plan with the faults of recordings
cargo sim shrink --seed S [--mode M] | shrink FILE          make a failing plan small
cargo sim hashes FILE                                       compare the trace hashes in FILE
cargo sim everyday [--seeds N] [FILE]                       what `cargo test` runs
cargo sim until-failure --seeds N [--first S]               a sweep that ends with its first failure
cargo sim histories --seeds N [--mode M] DIR                what clients saw, for another judge
cargo sim ring --seeds N [--first S]                        bare consensus cores, until one fails
cargo sim mutants [missing] [ROW...] [--built]              put known bugs back and catch them
cargo sim mutants build                                     only the copy with them
cargo sim mutants page                                      the table again, of what was found

modes: safety liveness partial-cut slow-disk lite, standard and idle (by which speed is measured),
halves (standard and lite by turns), quorums (liveness, partial-cut and slow-disk by turns) or
faultless (any mode, without its faults); none of them: drawn from the seed
";

/// How many failures of a sweep are made small.
const SMALL_FAILURES: usize = 1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn command(arguments: &[String]) -> Result<(), String> {
    let Some((verb, rest)) = arguments.split_first() else { return Err(USAGE.into()) };
    let arguments = Arguments::parse(rest)?;
    match verb.as_str() {
        "run" => match arguments.seed {
            Some(seed) => one(&arguments.plans.draw(seed), arguments.plans),
            None => sweep(&arguments, arguments.plans, arguments.seeds.unwrap_or(1000))?.judge(),
        },
        "everyday" => everyday(&arguments),
        "plan" => {
            print!("{}", arguments.plans.draw(arguments.seed()?).to_toml());
            Ok(())
        }
        "twice" => twice(&arguments.plans.draw(arguments.seed()?)),
        "replay" => replay(&arguments),
        "timeline" => {
            let page = arguments.page.as_deref();
            let (story, page) = incident::tell_recordings(&arguments.files, page)?;
            print!("{story}\ntimeline: {}\n", page.display());
            Ok(())
        }
        "from-recording" => {
            print!("{}", incident::from_recordings(&arguments.files)?);
            Ok(())
        }
        "shrink" => shrink_plan(&arguments.plan()?),
        "hashes" => hashes(arguments.file()?),
        "until-failure" => {
            until_failure(&arguments);
            Ok(())
        }
        "histories" => {
            let (first, seeds) = (arguments.first, arguments.seeds.unwrap_or(200));
            let dir = Path::new(arguments.file()?);
            let written = histories::write(arguments.plans, first, seeds, dir)?;
            println!("{written:?}");
            Ok(())
        }
        "ring" => {
            ring(&arguments);
            Ok(())
        }
        "mutants" => bench(&arguments),
        other => Err(format!("there is no command {other:?}\n\n{USAGE}")),
    }
}

struct Arguments {
    seed: Option<u64>,
    seeds: Option<u64>,
    first: u64,
    jobs: usize,
    /// How long `until-failure` may go on, and a block of the mutants.
    minutes: u64,
    plans: Plans,
    /// The mutants are built already.
    built: bool,
    files: Vec<String>,
    /// Where the timeline goes.
    page: Option<String>,
}

impl Arguments {
    fn parse(words: &[String]) -> Result<Arguments, String> {
        let mut parsed = Arguments {
            seed: None,
            seeds: None,
            first: 0,
            jobs: 0,
            minutes: 20,
            plans: Plans::Any,
            built: false,
            files: vec![],
            page: None,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            let number = |text: &String| {
                text.parse::<u64>().map_err(|_| format!("{word} needs a number, not {text:?}"))
            };
            match word.as_str() {
                "--seed" => parsed.seed = Some(number(value()?)?),
                "--seeds" => parsed.seeds = Some(number(value()?)?),
                "--first" => parsed.first = number(value()?)?,
                "--page" => parsed.page = Some(value()?.clone()),
                "--minutes" => parsed.minutes = number(value()?)?,
                "--jobs" => parsed.jobs = number(value()?)? as usize,
                "--built" => parsed.built = true,
                "--mode" => parsed.plans = plans(value()?)?,
                flag if flag.starts_with("--") => {
                    return Err(format!("there is no flag {flag}\n\n{USAGE}"));
                }
                file => parsed.files.push(file.to_string()),
            }
        }
        Ok(parsed)
    }

    fn seed(&self) -> Result<u64, String> {
        self.seed.ok_or_else(|| "which seed? --seed S".into())
    }

    /// The seeds, where they are run one after the other.
    fn range(&self) -> Range<u64> {
        self.first..self.first + self.seeds.unwrap_or(1000)
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.minutes * 60)
    }

    fn file(&self) -> Result<&str, String> {
        self.files.first().map(String::as_str).ok_or_else(|| "which file?".into())
    }

    /// The plan of the file, or of the seed.
    fn plan(&self) -> Result<Plan, String> {
        match self.seed {
            Some(seed) => Ok(self.plans.draw(seed)),
            None => Ok(Incident::read(self.file()?)?.plan),
        }
    }
}

fn plans(name: &str) -> Result<Plans, String> {
    match name {
        "standard" => Ok(Plans::Standard),
        "idle" => Ok(Plans::Idle),
        "halves" => Ok(Plans::Halves),
        "quorums" => Ok(Plans::Quorums),
        "faultless" => Ok(Plans::Faultless),
        other => Mode::parse(other).map(Plans::Only).ok_or(format!("there is no mode {other:?}")),
    }
}

fn one(plan: &Plan, plans: Plans) -> Result<(), String> {
    let outcome = run::run(plan, true);
    print!("{}", story(&outcome, plans));
    match outcome.violation {
        Some(violation) => Err(format!("seed {}: {violation}", plan.seed)),
        None => Ok(()),
    }
}

/// Tells what came of an incident, and draws its timeline.
fn replay(arguments: &Arguments) -> Result<(), String> {
    let incident = match arguments.seed {
        Some(seed) => Incident::of_seed(arguments.plans.draw(seed)),
        None => Incident::read(arguments.file()?)?,
    };
    let outcome = run::run(&incident.plan, true);
    let (story, page) = incident.tell(&outcome, arguments.page.as_deref())?;
    print!("{story}\ntimeline: {}\n", page.display());
    match outcome.violation {
        Some(violation) => Err(format!("seed {}: {violation}", incident.plan.seed)),
        None => Ok(()),
    }
}

fn sweep(arguments: &Arguments, plans: Plans, seeds: u64) -> Result<Report, String> {
    let (first, jobs) = (arguments.first, arguments.jobs);
    let sweep = Sweep { first, seeds, jobs, plans };
    let report = sweep.run();
    print!("{}", report.table(sweep.plans));
    for (seed, violation) in report.failures.iter().take(SMALL_FAILURES) {
        print!("{}", incident::keep_failure(&sweep.plans.draw(*seed), violation)?);
    }
    Ok(report)
}

/// Ends with the first seed that a checker objects to; the last line is for the bench to read.
fn until_failure(arguments: &Arguments) {
    let plans = arguments.plans;
    let found = hunt(arguments.range(), arguments.time(), move |seed| {
        let violation = run::run(&plans.draw(seed), false).violation?;
        Some((format!("{:?}", violation.guarantee), violation.to_string()))
    });
    println!("{found}");
}

/// Histories of bare consensus cores; ends with the first failure, as `until_failure` does.
fn ring(arguments: &Arguments) {
    /// Steps of the stormy part of a history.
    const STEPS: usize = 2_000;
    let found = hunt(arguments.range(), arguments.time(), |seed| {
        let text = raft_ring::run(seed, STEPS).err()?;
        let guarantee = text.split(':').next().unwrap_or_default().to_string();
        Some((guarantee, text))
    });
    println!("{found}");
}

/// Puts the known bugs back that the arguments name, those of them not judged yet, or all.
fn bench(arguments: &Arguments) -> Result<(), String> {
    let root = Path::new(".");
    let (missing, named) = match arguments.files.as_slice() {
        [word] if word == "page" => return mutants::bench::write_page(root),
        [word] if word == "build" => return mutants::bench::prepare(root),
        [word, named @ ..] if word == "missing" => (true, named),
        named => (false, named),
    };
    if !arguments.built {
        mutants::bench::prepare(root)?;
    }
    let rows = Rows { missing, named };
    mutants::bench::hunt_all(root, &rows, arguments.jobs, arguments.minutes)
}

/// The sweep of every day, the hashes and the incidents in the tree, and two seeds twice.
fn everyday(arguments: &Arguments) -> Result<(), String> {
    if let Some(file) = arguments.files.first() {
        hashes(file)?;
    }
    incident::hold(Path::new("sim/incidents"))?;
    for seed in [1, 2] {
        twice(&Plan::draw(seed, None))?;
    }
    let seeds = arguments.seeds.unwrap_or(5000);
    let mut report = sweep(arguments, Plans::Halves, seeds)?;
    report.judge()?;
    let quorums = sweep(arguments, Plans::Quorums, seeds / 10)?;
    quorums.judge()?;
    report.add(quorums);
    report.judge_everyday()
}

fn twice(plan: &Plan) -> Result<(), String> {
    let (first, second) = (run::run(plan, true), run::run(plan, true));
    for (number, (a, b)) in first.trace.iter().zip(&second.trace).enumerate() {
        if a != b {
            return Err(format!("seed {}: line {number} differs:\n{a}{b}", plan.seed));
        }
    }
    if first.trace_hash != second.trace_hash || first.trace.len() != second.trace.len() {
        return Err(format!("seed {}: one trace goes on where the other ends", plan.seed));
    }
    println!(
        "seed {}: the same {} lines twice, hash {:016x}",
        plan.seed, first.trace_lines, first.trace_hash
    );
    Ok(())
}

/// Compares the trace of each seed in a file with the hash beside it, and again in the other order;
/// `REWRITE=1` writes it anew.
fn hashes(file: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let known: toml::Table = text.parse().map_err(|e| format!("{file}: {e}"))?;
    let header: String =
        text.lines().take_while(|l| l.starts_with('#')).flat_map(|l| [l, "\n"]).collect();
    let mut rewritten = header;
    let mut wrong = Vec::new();
    let hash_of = |seed: &String| {
        let number = seed.parse().map_err(|_| format!("{file}: {seed} is no seed"))?;
        Ok::<_, String>(format!("{:016x}", run::run(&Plan::draw(number, None), false).trace_hash))
    };
    let backwards = known.keys().rev().map(hash_of).collect::<Result<Vec<_>, _>>()?;
    for ((seed, hash), before) in known.iter().zip(backwards.iter().rev()) {
        let found = hash_of(seed)?;
        if found != *before {
            return Err(format!("seed {seed}: trace hash {found}, in the other order {before}"));
        }
        if hash.as_str() != Some(found.as_str()) {
            wrong.push(format!("seed {seed}: trace hash {found}, in the tree {hash}"));
        }
        rewritten.push_str(&format!("{seed} = \"{found}\"\n"));
    }
    if wrong.is_empty() {
        println!("{} trace hashes are as in {file}", known.len());
        return Ok(());
    }
    if std::env::var_os("REWRITE").is_some() {
        return std::fs::write(file, rewritten).map_err(|e| format!("{file}: {e}"));
    }
    Err(format!("{}\nif the trace was meant to change: REWRITE=1", wrong.join("\n")))
}

fn shrink_plan(plan: &Plan) -> Result<(), String> {
    let (shrunk, guarantee) = incident::make_small(plan)?;
    eprintln!("# {guarantee:?}, after {} runs", shrunk.runs);
    print!("{}", shrunk.plan.to_toml());
    Ok(())
}
