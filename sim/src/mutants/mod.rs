//! The bench that puts known bugs back and measures how many seeds it takes to catch each.
//!
//! It copies the tree, makes the edits of all mutants behind one switch, builds the copy once, and
//! runs seeds with one mutant on at a time, in both rings: the whole server, and bare consensus
//! cores. The switch is compiled into the copy only. A kill by an assertion beside the mutant does
//! not count as a kill by a checker.

/// Copies the tree, builds the copy, and runs the mutants.
pub mod bench;
/// What was found, in a file.
pub mod found;
/// Seeds until one of them shows something.
pub mod hunt;
/// The table.
pub mod page;
/// How long this process has worked.
pub mod work;

use serde::Deserialize;

/// What stands for the switch in an edit.
const SWITCH: &str = "{on}";

/// One known bug, as `sim/mutants.toml` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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

/// Makes one edit of a mutant in a source file.
pub fn edit(source: &str, mutant: &Mutant, edit: &Edit) -> Result<String, String> {
    let found = source.matches(&edit.find).count();
    if found != 1 {
        let (row, file) = (&mutant.row, &edit.file);
        return Err(format!("{row}: the text to replace occurs {found} times in {file}"));
    }
    let switch = format!("crate::mutant::on({:?})", mutant.row);
    Ok(source.replacen(&edit.find, &edit.replace.replace(SWITCH, &switch), 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

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
