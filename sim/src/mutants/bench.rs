//! Copies the tree, makes the edits in the copy, builds it once, and runs the mutants.

use super::found::{Finding, Findings};
use super::hunt::Verdict;
use super::page::{page, row};
use super::{Mutant, edit, parse};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The variable that names the mutant which is on.
const VARIABLE: &str = "DETCD_MUTANT";
/// The first seeds of the blocks; each block is judged alone, and the median is reported.
const BLOCKS: [u64; 3] = [0, 1_000_000, 2_000_000];
/// Seeds within which a mutant is to be caught, and a P0 row.
const SEEDS: u64 = 2_000;
const P0_SEEDS: u64 = 500;
const CONTROL_SEEDS: u64 = 25;

const SWITCH_SOURCE: &str = "\
//! Which known bug is switched on; in the mutants' copy of the tree only.

static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();

pub fn on(row: &str) -> bool {
    CHOSEN.get_or_init(|| std::env::var(\"DETCD_MUTANT\").unwrap_or_default()) == row
}
";

/// Which mutants to run.
pub struct Rows<'a> {
    /// Only those of which nothing was found yet.
    pub missing: bool,
    /// Only these, in this order; all of them if it is empty, P0 rows first.
    pub named: &'a [String],
}

/// Where the copy of the tree is, and what is built of it.
struct Places {
    root: PathBuf,
    copy: PathBuf,
    target: PathBuf,
}

impl Places {
    fn of(root: &Path) -> Result<Places, String> {
        // The build runs in the copy, so a path that depends on where one stands would go astray.
        let root = std::path::absolute(root).map_err(|e| e.to_string())?;
        let (copy, target) = (root.join("target/mutants/tree"), root.join("target/mutants/build"));
        Ok(Places { root, copy, target })
    }

    fn binary(&self) -> PathBuf {
        self.target.join("simulated/sim")
    }
}

/// Copies the tree, makes the edits and builds the copy.
pub fn prepare(root: &Path) -> Result<(), String> {
    let places = Places::of(root)?;
    copy_tree(&places.root, &places.copy)?;
    mutate(&places.copy, &read(&places.root)?)?;
    build(&places)
}

/// Runs the mutants that were built, on `jobs` threads, 0 for one a core. Every finding is kept as
/// it comes, and `docs/mutants.md` written anew, so that a bench which is stopped goes on from
/// there. A block that works longer than `minutes` is cut short, and says how many seeds it ran.
pub fn hunt_all(root: &Path, rows: &Rows<'_>, jobs: usize, minutes: u64) -> Result<(), String> {
    let places = Places::of(root)?;
    let root = &places.root;
    let all = read(root)?;
    let chosen = choose(&all, &read(&places.copy)?, &Findings::read(root)?, rows)?;
    let bench = Bench { binary: places.binary(), minutes };
    let next = AtomicUsize::new(0);
    let kept = Mutex::new(());
    let work = || {
        while let Some(mutant) = chosen.get(next.fetch_add(1, Ordering::SeqCst)) {
            let finding = match bench.judge(mutant) {
                Ok(finding) => finding,
                // The row stays without a finding, and the others go on.
                Err(text) => {
                    eprintln!("not judged: {text}");
                    continue;
                }
            };
            let _one_at_a_time = kept.lock().map_err(|_| "a worker failed")?;
            print!("{}", row(mutant, &finding));
            keep(root, finding)?;
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = if jobs == 0 { cores } else { jobs };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    })
}

/// Those of `all` that are asked for, if they were built as they are.
fn choose<'a>(
    all: &'a [Mutant],
    built: &[Mutant],
    known: &Findings,
    rows: &Rows<'_>,
) -> Result<Vec<&'a Mutant>, String> {
    let place = |mutant: &Mutant| rows.named.iter().position(|row| *row == mutant.row);
    let is_chosen = |mutant: &&Mutant| {
        (rows.named.is_empty() || place(mutant).is_some())
            && !(rows.missing && known.of(&mutant.row).is_some())
    };
    let mut chosen: Vec<&Mutant> = all.iter().filter(is_chosen).collect();
    chosen.sort_by_key(|mutant| (place(mutant), !mutant.p0));
    match chosen.iter().find(|mutant| !built.contains(mutant)) {
        Some(other) => Err(format!("{} was not built as it is: cargo sim mutants", other.row)),
        None => Ok(chosen),
    }
}

/// Writes the page anew from what is known.
pub fn write_page(root: &Path) -> Result<(), String> {
    let report = root.join("docs/mutants.md");
    let text = page(&read(root)?, &Findings::read(root)?);
    fs::write(&report, text).map_err(|e| format!("{}: {e}", report.display()))
}

/// Keeps one finding. The files are read again, because they may have changed since.
fn keep(root: &Path, finding: Finding) -> Result<(), String> {
    let mut findings = Findings::read(root)?;
    findings.put(&read(root)?, finding);
    findings.write(root)?;
    write_page(root)
}

fn read(root: &Path) -> Result<Vec<Mutant>, String> {
    let list = root.join("sim/mutants.toml");
    let text = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    parse(&text)
}

/// Copies what belongs to the tree.
fn copy_tree(root: &Path, copy: &Path) -> Result<(), String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|e| format!("git ls-files: {e}"))?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in names.split('\0').filter(|n| !n.is_empty()) {
        let (from, to) = (root.join(name), copy.join(name));
        let failed = |e: std::io::Error| format!("copying {name}: {e}");
        let Ok(bytes) = fs::read(&from) else { continue };
        // A file that did not change keeps its time, so that cargo does not build it again.
        if fs::read(&to).is_ok_and(|present| present == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().expect("a file in a tree has a folder")).map_err(failed)?;
        fs::write(&to, bytes).map_err(failed)?;
    }
    remove_strays(root, copy, Path::new(""))
}

/// Removes what an earlier copy left that is not in the tree any more: it would be built, too.
fn remove_strays(root: &Path, copy: &Path, below: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("looking into {}: {e}", below.display());
    for entry in fs::read_dir(copy.join(below)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = below.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            remove_strays(root, copy, &name)?;
        } else if !root.join(&name).exists() {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn mutate(copy: &Path, mutants: &[Mutant]) -> Result<(), String> {
    for mutant in mutants {
        for one in &mutant.edits {
            let path = copy.join(&one.file);
            let failed = |e: std::io::Error| format!("{}: {e}", path.display());
            let source = fs::read_to_string(&path).map_err(failed)?;
            fs::write(&path, edit(&source, mutant, one)?).map_err(failed)?;
        }
    }
    let lib = copy.join("src/lib.rs");
    let failed = |e: std::io::Error| format!("{}: {e}", lib.display());
    let mut source = fs::read_to_string(&lib).map_err(failed)?;
    source.push_str("\n/// Known bugs, switched on one at a time.\npub mod mutant;\n");
    fs::write(&lib, source).map_err(failed)?;
    fs::write(copy.join("src/mutant.rs"), SWITCH_SOURCE).map_err(failed)
}

fn build(places: &Places) -> Result<(), String> {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    if !flags.contains("cfg madsim") {
        flags.push_str(" --cfg madsim");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--locked", "--profile", "simulated", "--package", "sim", "--target-dir"])
        .arg(&places.target)
        .current_dir(&places.copy)
        .env("RUSTFLAGS", flags.trim())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err("the copy with the mutants does not build".into());
    }
    Ok(())
}

/// The copy, built.
struct Bench {
    binary: PathBuf,
    minutes: u64,
}

impl Bench {
    fn judge(&self, mutant: &Mutant) -> Result<Finding, String> {
        // The bare cores know nothing of the rest. They are quick, so they come first: what they
        // have caught is not hunted so long among whole servers.
        let in_core = mutant.edits.iter().any(|one| one.file.starts_with("src/raft/"));
        let cores = match in_core {
            true => self.run(mutant, 0, SEEDS, &["ring"])?,
            false => Verdict::Survived { seeds: 0 },
        };
        let (blocks, seeds) = match (mutant.p0, cores.is_by_checker()) {
            (true, _) => (3, P0_SEEDS),
            (false, true) => (1, P0_SEEDS),
            (false, false) => (1, SEEDS),
        };
        let server = |first| self.run(mutant, first, seeds, &["until-failure"]);
        let blocks = BLOCKS[..blocks].iter().map(|first| server(*first));
        let mut blocks = blocks.collect::<Result<Vec<Verdict>, String>>()?;
        let survives = !cores.is_by_checker() && !blocks.iter().any(Verdict::is_caught);
        if mutant.p0 && survives {
            let on = BLOCKS[0] + P0_SEEDS;
            let rest = self.run(mutant, on, SEEDS - P0_SEEDS, &["until-failure"])?;
            blocks[0] = blocks[0].clone().followed_by(rest);
        }
        let faultless = ["until-failure", "--mode", "faultless"];
        let control = self.run(mutant, 0, CONTROL_SEEDS, &faultless)?;
        Ok(Finding { row: mutant.row.clone(), blocks, cores, control })
    }

    /// Runs seeds with the mutant on. A seed that fails without it as well says nothing of it.
    fn run(
        &self,
        mutant: &Mutant,
        first: u64,
        seeds: u64,
        command: &[&str],
    ) -> Result<Verdict, String> {
        let mut verdict = self.seeds(&mutant.row, first, seeds, command)?;
        while let Some(tried) = verdict.seeds() {
            let last = first + tried - 1;
            if !self.seeds("", last, 1, command)?.is_caught() {
                break;
            }
            let rest = match seeds - tried {
                0 => Verdict::Survived { seeds: 0 },
                left => self.seeds(&mutant.row, last + 1, left, command)?,
            };
            verdict = Verdict::Survived { seeds: tried }.followed_by(rest);
        }
        Ok(verdict)
    }

    /// Runs seeds with the mutant of a row on; none has no name.
    fn seeds(
        &self,
        row: &str,
        first: u64,
        seeds: u64,
        command: &[&str],
    ) -> Result<Verdict, String> {
        let output = Command::new(&self.binary)
            .args(command)
            .args(["--first", &first.to_string(), "--seeds", &seeds.to_string()])
            .args(["--minutes", &self.minutes.to_string()])
            .env(VARIABLE, row)
            .output()
            .map_err(|e| format!("{}: {e}", self.binary.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        line.parse().map_err(|e| format!("{row}: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(row: &str, p0: bool) -> Mutant {
        let (what, source, guarantee) = (row.to_string(), String::new(), String::new());
        Mutant { row: row.into(), what, source, guarantee, p0, edits: vec![] }
    }

    #[test]
    fn rows_come_in_the_order_asked_for_and_only_as_they_were_built() {
        let all = [mutant("A", false), mutant("B", true), mutant("C", false)];
        let control = Verdict::Survived { seeds: 1 };
        let finding = Finding { row: "C".into(), blocks: vec![], cores: control.clone(), control };
        let known = Findings { finding: vec![finding] };
        let chosen = |missing, named: &[&str], built: &[Mutant]| {
            let named: Vec<String> = named.iter().map(|row| row.to_string()).collect();
            let rows = Rows { missing, named: &named };
            let chosen = choose(&all, built, &known, &rows)?;
            Ok(chosen.iter().map(|mutant| mutant.row.clone()).collect::<Vec<_>>())
        };
        assert_eq!(chosen(false, &[], &all), Ok(vec!["B".into(), "A".into(), "C".into()]));
        assert_eq!(chosen(true, &[], &all), Ok(vec!["B".into(), "A".into()]));
        assert_eq!(chosen(false, &["C", "B"], &all), Ok(vec!["C".into(), "B".into()]));
        assert_eq!(chosen(true, &["C", "B"], &all), Ok(vec!["B".into()]));
        let other = [mutant("A", true), mutant("B", true)];
        assert!(chosen(false, &["A"], &other).is_err_and(|e: String| e.starts_with("A was not")));
    }
}
