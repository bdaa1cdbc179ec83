//! The bench that puts known bugs back and measures how many seeds it takes to catch each.
//!
//! It copies the tree, makes the edits of all mutants behind one switch, builds the copy once, and
//! runs seeds with one mutant on at a time, in both rings: the whole server, and bare consensus
//! cores. The switch is compiled into the copy only. A kill by an assertion beside the mutant does
//! not count as a kill by a checker.

use serde::Deserialize;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stands for the switch in an edit.
const SWITCH: &str = "{on}";
/// The variable that names the mutant which is on.
const VARIABLE: &str = "DETCD_MUTANT";
/// The first seeds of the blocks; each block is judged alone, and the median is reported.
const BLOCKS: [u64; 3] = [0, 1_000_000, 2_000_000];
const CONTROL_SEEDS: u64 = 100;

const SWITCH_SOURCE: &str = "\
//! Which known bug is switched on; in the mutants' copy of the tree only.

static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();

pub fn on(row: &str) -> bool {
    CHOSEN.get_or_init(|| std::env::var(\"DETCD_MUTANT\").unwrap_or_default()) == row
}
";

/// One known bug, as `sim/mutants.toml` describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// The row of the list of known bugs.
    pub row: String,
    pub what: String,
    /// Where the bug was seen.
    pub source: String,
    /// The guarantee that it breaks.
    pub guarantee: String,
    /// Must be caught within 500 seeds.
    #[serde(default)]
    pub p0: bool,
    pub edits: Vec<Edit>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    pub file: String,
    pub find: String,
    /// `{on}` in it is whether the mutant is on.
    pub replace: String,
}

#[derive(Deserialize)]
struct Mutants {
    mutant: Vec<Mutant>,
}

/// Reads the list.
pub fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let mutants: Mutants = toml::from_str(text).map_err(|e| e.to_string())?;
    Ok(mutants.mutant)
}

/// Makes the edits of a mutant in a source file.
pub fn edit(source: &str, mutant: &Mutant, edit: &Edit) -> Result<String, String> {
    let found = source.matches(&edit.find).count();
    if found != 1 {
        let (row, file) = (&mutant.row, &edit.file);
        return Err(format!("{row}: the text to replace occurs {found} times in {file}"));
    }
    let switch = format!("crate::mutant::on({:?})", mutant.row);
    Ok(source.replacen(&edit.find, &edit.replace.replace(SWITCH, &switch), 1))
}

/// What a block of seeds said of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Caught by the n-th seed, with the guarantee that was named.
    Caught {
        seeds: u64,
        guarantee: String,
    },
    Survived {
        seeds: u64,
    },
}

/// What the bench found of one mutant.
struct Finding {
    mutant: Mutant,
    blocks: Vec<Verdict>,
    /// What the ring of bare cores says.
    cores: Verdict,
    control: Verdict,
}

/// Runs the bench over the mutants in `rows`, or all, and writes `docs/mutants.md`.
pub fn bench(root: &Path, rows: &[String]) -> Result<(), String> {
    // The build runs in the copy, so a path that depends on where one stands would go astray.
    let root = &std::path::absolute(root).map_err(|e| e.to_string())?;
    let list = root.join("sim/mutants.toml");
    let text = fs::read_to_string(&list).map_err(|e| format!("{}: {e}", list.display()))?;
    let all = parse(&text)?;
    let copy = root.join("target/mutants/tree");
    copy_tree(root, &copy)?;
    mutate(&copy, &all)?;
    let binary = build(&copy, &root.join("target/mutants/build"))?;
    let chosen = |m: &&Mutant| rows.is_empty() || rows.contains(&m.row);
    let mut findings = Vec::new();
    for mutant in all.iter().filter(chosen) {
        let finding = try_mutant(&binary, mutant)?;
        print!("{}", row_of(&finding));
        findings.push(finding);
    }
    if rows.is_empty() {
        let report = root.join("docs/mutants.md");
        fs::write(&report, page(&findings)).map_err(|e| format!("{}: {e}", report.display()))?;
    }
    Ok(())
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

fn build(copy: &Path, target: &Path) -> Result<PathBuf, String> {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    if !flags.contains("cfg madsim") {
        flags.push_str(" --cfg madsim");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--locked", "--release", "--package", "sim", "--target-dir"])
        .arg(target)
        .current_dir(copy)
        .env("RUSTFLAGS", flags.trim())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err("the copy with the mutants does not build".into());
    }
    Ok(target.join("release/sim"))
}

fn try_mutant(binary: &Path, mutant: &Mutant) -> Result<Finding, String> {
    let (blocks, seeds) = if mutant.p0 { (3, 500) } else { (1, 2000) };
    let server = |first| run(binary, mutant, first, seeds, &["until-failure"]);
    let verdicts = BLOCKS[..blocks].iter().map(|first| server(*first));
    let blocks = verdicts.collect::<Result<Vec<_>, String>>()?;
    let cores = run(binary, mutant, 0, seeds, &["ring"])?;
    let faultless = ["until-failure", "--mode", "faultless"];
    let control = run(binary, mutant, 0, CONTROL_SEEDS, &faultless)?;
    Ok(Finding { mutant: mutant.clone(), blocks, cores, control })
}

fn run(
    binary: &Path,
    mutant: &Mutant,
    first: u64,
    seeds: u64,
    command: &[&str],
) -> Result<Verdict, String> {
    let output = Command::new(binary)
        .args(command)
        .args(["--first", &first.to_string(), "--seeds", &seeds.to_string()])
        .env(VARIABLE, &mutant.row)
        .output()
        .map_err(|e| format!("{}: {e}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("caught"), Some(seeds), Some(guarantee)) => {
            let seeds = seeds.parse().map_err(|_| format!("{line:?} is no verdict"))?;
            Ok(Verdict::Caught { seeds, guarantee: guarantee.to_string() })
        }
        (Some("survived"), Some(_), _) => Ok(Verdict::Survived { seeds }),
        _ => Err(format!("{}: {line:?} is no verdict", mutant.row)),
    }
}

impl Verdict {
    fn is_caught(&self) -> bool {
        matches!(self, Verdict::Caught { .. })
    }

    fn is_by_assertion(&self) -> bool {
        matches!(self, Verdict::Caught { guarantee, .. } if guarantee.contains("Panic"))
    }

    fn seeds(&self) -> u64 {
        match self {
            Verdict::Caught { seeds, .. } => *seeds,
            Verdict::Survived { .. } => u64::MAX,
        }
    }

    fn text(&self) -> String {
        match self {
            Verdict::Caught { seeds, guarantee } => format!("{seeds} ({guarantee})"),
            Verdict::Survived { seeds } => format!("not in {seeds}"),
        }
    }
}

impl Finding {
    /// The median over the blocks of the whole server.
    fn median(&self) -> u64 {
        let mut seeds: Vec<u64> = self.blocks.iter().map(Verdict::seeds).collect();
        seeds.sort_unstable();
        seeds[seeds.len() / 2]
    }

    fn is_caught(&self) -> bool {
        self.median() < u64::MAX || self.cores.seeds() < u64::MAX
    }

    /// Who catches it; an assertion beside the mutant is nobody to be proud of.
    fn caught_by(&self) -> &'static str {
        let by_checker = |v: &Verdict| v.is_caught() && !v.is_by_assertion();
        let in_server = self.median() < u64::MAX && self.blocks.iter().any(by_checker);
        match (in_server, by_checker(&self.cores)) {
            _ if !self.is_caught() => "nobody",
            (true, true) => "checkers of both rings",
            (true, false) => "a checker",
            (false, true) => "a checker of the cores",
            (false, false) => "an assertion",
        }
    }
}

/// One line of the table.
fn row_of(finding: &Finding) -> String {
    let Finding { mutant, blocks, cores, control } = finding;
    let median = match finding.median() {
        u64::MAX => "not caught".into(),
        seeds => seeds.to_string(),
    };
    let blocks: Vec<String> = blocks.iter().map(Verdict::text).collect();
    format!(
        "| {}{} | {} | {} | {} | {median} | {} | {} | {} | {} |\n",
        mutant.row,
        if mutant.p0 { " P0" } else { "" },
        mutant.what,
        mutant.source,
        mutant.guarantee,
        finding.caught_by(),
        blocks.join("; "),
        cores.text(),
        control.text()
    )
}

fn page(findings: &[Finding]) -> String {
    let mut out = String::from(
        "# Mutants\n\nKnown bugs of this field, put back one at a time by `cargo sim mutants`, and \
         how many seeds it\ntook to catch each. A block is 500 seeds of the whole server for a P0 \
         row (three disjoint blocks)\nand 2,000 for others; the ring of bare consensus cores runs \
         one block of its own. The control runs\nwithout faults. A kill by an assertion beside the \
         mutant does not count as a kill by a checker.\n\n\
         | row | bug | seen in | breaks | median seeds | caught by | blocks | bare cores | control \
         |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for finding in findings {
        out.push_str(&row_of(finding));
    }
    let caught = findings.iter().filter(|f| f.is_caught()).count();
    let checker = |f: &&Finding| f.caught_by().contains("checker");
    let by_checker = findings.iter().filter(checker).count();
    writeln!(
        out,
        "\n{caught} of {} mutants were caught, {by_checker} of them by a checker.",
        findings.len()
    )
    .expect("a String takes everything");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every edit finds its place exactly once in the tree, so that the bench does not rot.
    #[test]
    fn the_edits_fit_the_tree() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = fs::read_to_string(root.join("sim/mutants.toml")).expect("the list is there");
        let mutants = parse(&text).expect("the list can be read");
        assert!(mutants.len() >= 7);
        let mut sources = std::collections::BTreeMap::new();
        for mutant in &mutants {
            let switched = mutant.edits.iter().any(|one| one.replace.contains(SWITCH));
            assert!(switched, "{}: no switch", mutant.row);
            for one in &mutant.edits {
                let source = sources.entry(one.file.clone()).or_insert_with(|| {
                    fs::read_to_string(root.join(&one.file)).expect("an edited file exists")
                });
                *source = edit(source, mutant, one).expect("the edit fits");
            }
        }
    }
}
