//! What the bench found of each mutant: kept in a file, so that a single row can be judged anew.

use super::Mutant;
use super::hunt::Verdict;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const HEADER: &str = "\
# What `cargo sim mutants` found of each row of sim/mutants.toml; docs/mutants.md is made of it.
# Blocks: the whole server; cores: bare consensus cores; control: the whole server without faults.
";

/// What the bench found of one mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub row: String,
    /// The whole server, a block of seeds each.
    #[serde(with = "lines")]
    pub blocks: Vec<Verdict>,
    /// What the ring of bare cores says.
    #[serde(with = "line")]
    pub cores: Verdict,
    #[serde(with = "line")]
    pub control: Verdict,
}

/// All findings, in the order of the list of mutants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    #[serde(default)]
    pub finding: Vec<Finding>,
}

/// Where the findings of a tree are.
pub fn path(root: &Path) -> PathBuf {
    root.join("sim/mutants-found.toml")
}

impl Findings {
    /// Reads the file of a tree; none is as good as an empty one.
    pub fn read(root: &Path) -> Result<Findings, String> {
        let path = path(root);
        if !path.exists() {
            return Ok(Findings::default());
        }
        let failed = |e: String| format!("{}: {e}", path.display());
        let text = fs::read_to_string(&path).map_err(|e| failed(e.to_string()))?;
        toml::from_str(&text).map_err(|e| failed(e.to_string()))
    }

    /// Puts a finding in the place of the one before; what is no mutant any more goes.
    pub fn put(&mut self, mutants: &[Mutant], finding: Finding) {
        self.finding.retain(|old| old.row != finding.row);
        self.finding.push(finding);
        let place = |row: &str| mutants.iter().position(|mutant| mutant.row == row);
        self.finding.retain(|one| place(&one.row).is_some());
        self.finding.sort_by_key(|one| place(&one.row));
    }

    pub fn of(&self, row: &str) -> Option<&Finding> {
        self.finding.iter().find(|finding| finding.row == row)
    }

    pub fn write(&self, root: &Path) -> Result<(), String> {
        let text = toml::to_string(self).expect("findings consist of what TOML has");
        let path = path(root);
        fs::write(&path, HEADER.to_string() + &text).map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Finding {
    /// The median over the blocks of the whole server; none if it is not caught in most of them.
    pub fn median(&self) -> Option<u64> {
        let mut seeds: Vec<u64> =
            self.blocks.iter().map(|block| block.seeds().unwrap_or(u64::MAX)).collect();
        seeds.sort_unstable();
        seeds.get(seeds.len() / 2).copied().filter(|seeds| *seeds < u64::MAX)
    }

    pub fn is_caught(&self) -> bool {
        self.blocks.iter().any(Verdict::is_caught) || self.cores.is_caught()
    }

    pub fn is_caught_by_server(&self) -> bool {
        self.blocks.iter().any(Verdict::is_by_checker)
    }

    pub fn is_caught_by_checker(&self) -> bool {
        self.is_caught_by_server() || self.cores.is_by_checker()
    }

    /// Whether a checker catches it within so many seeds: in most blocks of the whole server, or
    /// among bare cores.
    pub fn is_caught_within(&self, limit: u64) -> bool {
        let in_time = |verdict: &&Verdict| {
            verdict.is_by_checker() && verdict.seeds().is_some_and(|seeds| seeds <= limit)
        };
        let blocks = self.blocks.iter().filter(in_time).count();
        blocks * 2 > self.blocks.len() || in_time(&&self.cores)
    }

    /// Who catches it.
    pub fn caught_by(&self) -> &'static str {
        let hangs = self.blocks.iter().any(Verdict::is_hang);
        match (self.is_caught_by_server(), self.cores.is_by_checker()) {
            _ if !self.is_caught() => "nobody",
            (true, true) => "checkers of both rings",
            (true, false) => "a checker",
            (false, true) => "a checker of the cores",
            (false, false) if hangs => "a run without an end",
            (false, false) => "an assertion",
        }
    }
}

mod line {
    use super::Verdict;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(verdict: &Verdict, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(verdict)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Verdict, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

mod lines {
    use super::Verdict;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(verdicts: &[Verdict], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(verdicts.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Verdict>, D::Error> {
        let lines = Vec::<String>::deserialize(from)?;
        lines.iter().map(|line| line.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(seeds: u64, guarantee: &str) -> Verdict {
        Verdict::Caught { seeds, guarantee: guarantee.into() }
    }

    fn finding(blocks: &[Verdict], cores: Verdict) -> Finding {
        let control = Verdict::Survived { seeds: 100 };
        Finding { row: "R1".into(), blocks: blocks.to_vec(), cores, control }
    }

    #[test]
    fn a_median_counts_a_block_that_survives_as_the_longest() {
        let survived = Verdict::Survived { seeds: 500 };
        let (early, late) = (caught(4, "Watch"), caught(300, "Liveness"));
        let two = finding(&[early.clone(), survived.clone(), late.clone()], survived.clone());
        assert_eq!((two.median(), two.caught_by()), (Some(300), "a checker"));
        let one = finding(&[survived.clone(), survived.clone(), late], survived.clone());
        assert_eq!((one.median(), one.caught_by()), (None, "a checker"));
        assert!(two.is_caught_within(300) && !two.is_caught_within(299));
        assert!(!one.is_caught_within(500));
        let cores = finding(&[survived.clone(), survived], early);
        assert_eq!(cores.caught_by(), "a checker of the cores");
    }

    #[test]
    fn an_assertion_is_told_from_a_checker() {
        let survived = Verdict::Survived { seeds: 500 };
        let asserted = finding(&[caught(4, "NoPanic")], survived.clone());
        assert_eq!((asserted.is_caught(), asserted.is_caught_by_checker()), (true, false));
        assert_eq!(finding(&[caught(4, "Hang")], survived).caught_by(), "a run without an end");
    }

    #[test]
    fn findings_survive_their_file() {
        let one = finding(&[caught(4, "Watch")], Verdict::Survived { seeds: 7 });
        let all = Findings { finding: vec![one] };
        let text = HEADER.to_string() + &toml::to_string(&all).expect("it can be written");
        assert_eq!(toml::from_str(&text), Ok(all));
    }
}
