//! Incidents: plans in files, with their story in the comments above them.

use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::timeline::fold::fold;
use crate::timeline::page::page;
use crate::timeline::story::story;
use crate::timeline::{Timeline, record::Record};
use std::path::{Path, PathBuf};

/// Where pages go that were not given a name.
const PAGES: &str = "target/timelines";

/// A plan with what is told of it.
pub struct Incident {
    /// What its page is called.
    pub name: String,
    /// The first line of the story, then the rest.
    pub story: Option<(String, String)>,
    pub plan: Plan,
}

impl Incident {
    /// The plan of a seed, of which nothing is told.
    pub fn of_seed(plan: Plan) -> Incident {
        Incident { name: format!("seed-{}", plan.seed), story: None, plan }
    }

    /// Reads an incident by its path, or by its name below `sim/`.
    pub fn read(name: &str) -> Result<Incident, String> {
        let path = find(name).ok_or_else(|| format!("there is no incident {name}"))?;
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{shown}: {e}"))?;
        let plan = Plan::from_toml(&text).map_err(|e| format!("{shown}: {e}"))?;
        let stem = path.file_stem().map_or("incident".into(), |stem| stem.to_string_lossy());
        Ok(Incident { name: stem.into_owned(), story: told(&text), plan })
    }

    /// Tells what came of it and writes its page; the answer is where that lies.
    pub fn tell(&self, outcome: &Outcome, page: Option<&str>) -> Result<(String, PathBuf), String> {
        let Some(mut record) = outcome.record.clone() else {
            let what = outcome.violation.as_ref().map_or(String::new(), ToString::to_string);
            return Err(format!("the run ended with a panic, and nothing of it is left: {what}"));
        };
        if let Some((title, story)) = &self.story {
            record.title.clone_from(title);
            record.facts.push(("seed".into(), self.plan.seed.to_string()));
            record.facts.push(("story".into(), story.clone()));
        }
        publish(&record, &self.name, page)
    }
}

/// Tells a record and writes its page.
pub fn publish(
    record: &Record,
    name: &str,
    path: Option<&str>,
) -> Result<(String, PathBuf), String> {
    let timeline = fold(record);
    let path = path.map_or_else(|| Path::new(PAGES).join(format!("{name}.html")), PathBuf::from);
    write(&timeline, &path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok((story(&timeline), path))
}

fn write(timeline: &Timeline, path: &Path) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(path, page(timeline))
}

fn find(name: &str) -> Option<PathBuf> {
    let places = ["", "sim/", "sim/incidents/"];
    let paths = places.iter().flat_map(|place| {
        ["", ".toml"].iter().map(move |end| PathBuf::from(format!("{place}{name}{end}")))
    });
    paths.into_iter().find(|path| path.is_file())
}

/// The comment that a file begins with: its first sentence, and the rest as one line.
fn told(text: &str) -> Option<(String, String)> {
    let lines: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).collect();
    let whole = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    let (title, rest) = whole.split_once(". ").unwrap_or((&whole, ""));
    (!title.is_empty()).then(|| (title.to_string(), rest.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comment_above_a_plan_is_its_story() {
        let told = told("# No leader: two\n# of three died. They came back.\n\nseed = 1\n# no\n");
        let (title, rest) = told.expect("there is a comment");
        assert_eq!(
            (title.as_str(), rest.as_str()),
            ("No leader: two of three died", "They came back.")
        );
    }
}
