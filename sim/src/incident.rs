//! Incidents: plans in files, with their story in the comments above them, and failures of a sweep
//! that become such files.

use crate::checker::{Guarantee, Violation};
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::recording;
use crate::recording::merge::merge;
use crate::recording::replan::replan;
use crate::recording::trouble::{Cast, troubles};
use crate::run;
use crate::shrink::{Shrunk, shrink};
use crate::timeline::fold::fold;
use crate::timeline::page::page;
use crate::timeline::story::story;
use crate::timeline::{Timeline, record::Record};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where pages go that were not given a name.
const PAGES: &str = "target/timelines";

/// Where the plans of failures go.
const FAILURES: &str = "target/failures";
/// How long a failing plan may be made smaller.
const SHRINK_MAX: Duration = Duration::from_secs(120);

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

/// Replays every incident of a directory: what was fixed stays fixed.
pub fn hold(dir: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", dir.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    for path in &paths {
        let incident = Incident::read(&path.to_string_lossy())?;
        if let Some(violation) = run::run(&incident.plan, false).violation {
            return Err(format!("incident {}: {violation}", incident.name));
        }
    }
    println!("{} incidents hold", paths.len());
    Ok(())
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

/// Tells recordings of a real cluster and writes their page.
pub fn tell_recordings(paths: &[String], page: Option<&str>) -> Result<(String, PathBuf), String> {
    let recordings = recording::read(paths)?;
    let cast = Cast::of(&recordings);
    let troubles = troubles(&recordings, &cast);
    publish(&merge(&recordings, &cast, &troubles), "recordings", page)
}

/// Makes a plan with the faults of recordings, with its story above it.
pub fn from_recordings(paths: &[String]) -> Result<String, String> {
    let recordings = recording::read(paths)?;
    let cast = Cast::of(&recordings);
    let troubles = troubles(&recordings, &cast);
    let timeline = fold(&merge(&recordings, &cast, &troubles));
    let start = timeline.wall_ms.unwrap_or(0) * 1_000;
    let carry_out = |plan: &Plan| {
        let outcome = run::run(plan, true);
        let lost = || format!("seed {} ends with a panic", plan.seed);
        outcome.record.as_ref().map(fold).ok_or_else(lost)
    };
    let replan = replan(&recordings, &cast, &troubles, (start, &timeline), &carry_out)?;
    let names = cast.names[..cast.recorded].join(", ");
    Ok(format!(
        "# From the flight recordings of {names}.\n# The plan begins at {} ms of the Unix epoch.\n\
         # Longest time without a leader: {} ms recorded, {} ms replayed.\n\n{}",
        replan.from / 1_000,
        replan.recorded / 1_000,
        replan.replayed / 1_000,
        replan.plan.to_toml()
    ))
}

/// Makes a failing plan small; an error if it does not fail.
pub fn make_small(plan: &Plan) -> Result<(Shrunk, Guarantee), String> {
    let broken = |plan: &Plan| run::run(plan, false).violation.map(|v| v.guarantee);
    let guarantee = broken(plan).ok_or_else(|| format!("seed {} does not fail", plan.seed))?;
    Ok((shrink(plan, guarantee, SHRINK_MAX, &broken), guarantee))
}

/// Makes a failing plan small, and writes it with its timeline; the answer says where.
pub fn keep_failure(plan: &Plan, violation: &Violation) -> Result<String, String> {
    let (shrunk, guarantee) = make_small(plan)?;
    let small = shrunk.plan;
    let outcome = run::run(&small, true);
    let what = outcome.violation.as_ref().unwrap_or(violation).to_string();
    let title = format!("{guarantee:?} broken by seed {}", plan.seed);
    let text = format!("# {title}. {}\n\n{}", what.replace('\n', " "), small.to_toml());
    let name = format!("seed-{}", plan.seed);
    let path = Path::new(FAILURES).join(format!("{name}.toml"));
    let failed = |e| format!("{}: {e}", path.display());
    std::fs::create_dir_all(FAILURES).map_err(failed)?;
    std::fs::write(&path, text).map_err(failed)?;
    let incident = Incident { name, story: Some((title, what)), plan: small };
    let page = match incident.tell(&outcome, None) {
        Ok((_, page)) => format!("  timeline: {}", page.display()),
        Err(why) => format!("  no timeline: {why}"),
    };
    let Plan { actions, workload, options, .. } = &incident.plan;
    Ok(format!(
        "seed {} made small in {} runs: {} of {} faults, {} of {} operations, {} members\n  \
         replay: cargo sim replay {}\n{page}\n",
        plan.seed,
        shrunk.runs,
        actions.len(),
        plan.actions.len(),
        workload.operations,
        plan.workload.operations,
        options.members,
        path.display(),
    ))
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
