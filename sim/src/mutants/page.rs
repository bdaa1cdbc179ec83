//! `docs/mutants.md`, made of the list of mutants and of what was found of them.

use super::Mutant;
use super::found::{Finding, Findings};
use super::hunt::Verdict;
use std::fmt::Write;

const HEADER: &str = "\
# Mutants

Known bugs of this field, put back one at a time by `cargo sim mutants`, and how many seeds it
took to catch each. A block is 500 seeds of the whole server for a P0 row (three disjoint blocks;
the median is given) and 2,000 for others; a P0 row that no block catches goes on to 2,000 seeds in
the first. For bugs of the core the ring of bare consensus cores runs up to 2,000 seeds of its own,
and a row that it catches gets 500 of the whole server. The control runs 25 seeds without faults.
A checker names a guarantee that was broken; a kill by an assertion beside the mutant, or by a run
that never ends, does not count as one. A block that its time cut short names the seeds that it ran,
and rows are judged at different times: `cargo sim mutants ROW` judges one again, on this tree. The
table is made of `sim/mutants-found.toml`.

| row | bug | seen in | breaks | median seeds | caught by | blocks | bare cores | control |
|---|---|---|---|---|---|---|---|---|
";

/// The page.
pub fn page(mutants: &[Mutant], findings: &Findings) -> String {
    let judged: Vec<(&Mutant, &Finding)> =
        mutants.iter().filter_map(|m| Some((m, findings.of(&m.row)?))).collect();
    let mut out = HEADER.to_string();
    for (mutant, finding) in &judged {
        out.push_str(&row(mutant, finding));
    }
    out.push('\n');
    out.push_str(&summary(&judged));
    let names = |rows: Vec<&str>| rows.join(", ");
    let missed: Vec<&str> = judged
        .iter()
        .filter(|(_, finding)| !finding.is_caught_by_checker())
        .map(|(mutant, _)| mutant.row.as_str())
        .collect();
    if !missed.is_empty() {
        let missed = names(missed);
        writeln!(out, "\nNo checker catches: {missed}.").expect("a String takes everything");
    }
    let slow: Vec<&str> = judged
        .iter()
        .filter(|(mutant, finding)| {
            mutant.p0 && finding.is_caught_by_checker() && !finding.is_caught_within(500)
        })
        .map(|(mutant, _)| mutant.row.as_str())
        .collect();
    if !slow.is_empty() {
        let slow = names(slow);
        writeln!(out, "\nP0 rows that take more than 500 seeds: {slow}.").expect("see above");
    }
    let unjudged: Vec<&str> = mutants
        .iter()
        .filter(|mutant| findings.of(&mutant.row).is_none())
        .map(|mutant| mutant.row.as_str())
        .collect();
    if !unjudged.is_empty() {
        let unjudged = names(unjudged);
        writeln!(out, "\nNot judged yet: {unjudged}.").expect("a String takes everything");
    }
    out
}

fn summary(judged: &[(&Mutant, &Finding)]) -> String {
    let count = |what: &dyn Fn(&&(&Mutant, &Finding)) -> bool| judged.iter().filter(what).count();
    let caught = count(&|(_, finding)| finding.is_caught_by_checker());
    let percent = caught * 100 / judged.len().max(1);
    format!(
        "{} mutants were judged. Within 2,000 seeds a checker caught {caught} of them \
         ({percent} %); of the {} P0 rows, {} within 500. Without faults {} of them survived.\n",
        judged.len(),
        count(&|(mutant, _)| mutant.p0),
        count(&|(mutant, finding)| mutant.p0 && finding.is_caught_within(500)),
        count(&|(_, finding)| !finding.control.is_caught()),
    )
}

/// One line of the table.
pub fn row(mutant: &Mutant, finding: &Finding) -> String {
    let median = match finding.median() {
        None if finding.blocks.iter().any(Verdict::is_caught) => "not in most blocks".into(),
        None => "not caught".into(),
        Some(seeds) => seeds.to_string(),
    };
    let blocks: Vec<String> = finding.blocks.iter().map(words).collect();
    format!(
        "| {}{} | {} | {} | {} | {median} | {} | {} | {} | {} |\n",
        mutant.row,
        if mutant.p0 { " P0" } else { "" },
        mutant.what,
        mutant.source,
        mutant.guarantee,
        finding.caught_by(),
        blocks.join("; "),
        words(&finding.cores),
        words(&finding.control)
    )
}

fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Caught { seeds, guarantee } => format!("{seeds} ({guarantee})"),
        Verdict::Survived { seeds: 0 } => "-".into(),
        Verdict::Survived { seeds } => format!("not in {seeds}"),
    }
}
