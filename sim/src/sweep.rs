//! Runs many seeds on all cores, goes on past those that fail, and adds up what was seen.

use crate::checker::Violation;
use crate::marks::{self, Marks};
use crate::options::Mode;
use crate::outcome::{Figures, Outcome};
use crate::plan::Plan;
use crate::run;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Which seeds to run, and how.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub first: u64,
    pub seeds: u64,
    /// 0 is one for each core.
    pub jobs: usize,
    pub plans: Plans,
}

/// Where the plan of a seed comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plans {
    /// The mode is drawn as well.
    Any,
    Only(Mode),
    /// The plan by which speed is measured.
    Standard,
    /// The plan by which the speed of a cluster is measured that has hardly anything to do.
    Idle,
    /// Half of them standard, half of them lite.
    Halves,
    /// The modes that heal no more than a quorum, or leave one alone.
    Quorums,
    /// Any, but without its faults: what a mutant's control runs with.
    Faultless,
}

impl Plans {
    pub fn draw(self, seed: u64) -> Plan {
        match self {
            Plans::Any => Plan::draw(seed, None),
            Plans::Only(mode) => Plan::draw(seed, Some(mode)),
            Plans::Standard => Plan::standard(seed),
            Plans::Idle => Plan::idle(seed),
            Plans::Halves if seed.is_multiple_of(2) => Plan::standard(seed),
            Plans::Halves => Plan::draw(seed, Some(Mode::Lite)),
            Plans::Quorums => {
                let modes = [Mode::Liveness, Mode::PartialCut, Mode::SlowDisk];
                Plan::draw(seed, Some(modes[(seed % 3) as usize]))
            }
            Plans::Faultless => {
                Plan { actions: Vec::new(), disaster: None, ..Plan::draw(seed, None) }
            }
        }
    }

    /// The arguments that repeat a seed.
    pub fn arguments(self) -> String {
        match self {
            Plans::Any => String::new(),
            Plans::Only(mode) => format!(" --mode {}", mode.name()),
            Plans::Standard => " --mode standard".into(),
            Plans::Idle => " --mode idle".into(),
            Plans::Halves => " --mode halves".into(),
            Plans::Quorums => " --mode quorums".into(),
            Plans::Faultless => " --mode faultless".into(),
        }
    }
}

/// What a sweep saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub figures: Figures,
    pub marks: Marks,
    pub failures: Vec<(u64, Violation)>,
    pub inconclusive: Vec<u64>,
    pub wall: Duration,
    /// The seed that took longest, and how long.
    pub slowest: (Duration, u64),
    pub jobs: usize,
}

impl Sweep {
    pub fn run(&self) -> Report {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = if self.jobs == 0 { cores } else { self.jobs };
        let next = AtomicU64::new(self.first);
        let report = Mutex::new(Report { jobs, ..Report::default() });
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| self.work(&next, &report));
            }
        });
        let mut report = report.into_inner().expect("no worker panics with the report in hand");
        report.failures.sort_by_key(|(seed, _)| *seed);
        report.wall = began.elapsed();
        report
    }

    fn work(&self, next: &AtomicU64, report: &Mutex<Report>) {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= self.first + self.seeds {
                return;
            }
            let began = Instant::now();
            let outcome = run::run(&self.plans.draw(seed), false);
            let took = began.elapsed();
            let mut report = report.lock().expect("no worker panics with the report in hand");
            report.slowest = report.slowest.max((took, seed));
            report.take(seed, outcome);
        }
    }
}

impl Report {
    fn take(&mut self, seed: u64, outcome: Outcome) {
        self.figures.add(&outcome.figures);
        self.marks.add(&outcome.marks);
        if outcome.inconclusive {
            self.inconclusive.push(seed);
        }
        if let Some(violation) = outcome.violation {
            self.failures.push((seed, violation));
        }
    }

    /// Whether the sweep found nothing, and was one that could have found something.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&self) -> Result<(), String> {
        let f = &self.figures;
        if !self.failures.is_empty() {
            return Err(format!("{} seeds failed", self.failures.len()));
        }
        if f.silent_runs * 20 > f.runs {
            let share = f.silent_runs * 100 / f.runs.max(1);
            return Err(format!(
                "{share} % of the seeds acknowledge nothing after their first fault"
            ));
        }
        Ok(())
    }

    /// Whether this is enough for a day: most seeds disturb a cluster at work, and all marks of the
    /// everyday list are reached.
    ///
    /// # Errors
    /// What is missing.
    pub fn judge_everyday(&self) -> Result<(), String> {
        let f = &self.figures;
        if f.full_runs * 2 < f.runs {
            return Err(format!("only {} of {} seeds are full ones", f.full_runs, f.runs));
        }
        let missing = self.marks.missing(&marks::EVERYDAY);
        if !missing.is_empty() {
            return Err(format!("marks that were never reached: {}", missing.join(", ")));
        }
        Ok(())
    }

    /// Adds what another sweep saw.
    pub fn add(&mut self, other: Report) {
        self.figures.add(&other.figures);
        self.marks.add(&other.marks);
        self.failures.extend(other.failures);
        self.inconclusive.extend(other.inconclusive);
        self.wall += other.wall;
        self.slowest = self.slowest.max(other.slowest);
    }

    /// The figures, for a person.
    pub fn table(&self, plans: Plans) -> String {
        let f = &self.figures;
        let mut out = String::new();
        let wall = self.wall.as_secs_f64().max(1e-9);
        let runs = f.runs.max(1);
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!(
            "{} seeds in {wall:.1} s on {} threads: {:.1} seeds/s, {:.0} simulated s per wall s",
            f.runs,
            self.jobs,
            f.runs as f64 / wall,
            f.simulated_ms as f64 / 1000.0 / wall
        ));
        line(format!(
            "slowest: seed {} with {:.2} s",
            self.slowest.1,
            self.slowest.0.as_secs_f64()
        ));
        line(format!(
            "operations {} (a seed: {}), acknowledged {}, outcome unknown {}, elections {}",
            f.operations,
            f.operations / runs,
            f.acknowledged,
            f.unknown,
            f.elections
        ));
        line(format!(
            "most tasks of a member: {}; full seeds (3 to 5 members, 5 faults, 100 acknowledged \
             operations): {} of {}",
            f.tasks_max, f.full_runs, f.runs
        ));
        line(format!(
            "silent after the first fault: {}; inconclusive: {:?}; faults: {}",
            f.silent_runs, self.inconclusive, f.faults
        ));
        for (class, count) in &f.drawn {
            line(format!("  fault {class:28} {count:8}"));
        }
        for (mark, _) in marks::ALL {
            line(format!("  mark  {mark:42} {:6} seeds", self.marks.count(mark)));
        }
        for (seed, violation) in &self.failures {
            let text = violation.to_string();
            let short: String = text.chars().take(400).collect();
            line(format!("FAILED seed {seed}: {short}"));
            line(format!("  repeat: cargo sim run --seed {seed}{}", plans.arguments()));
        }
        out
    }
}

/// Prints an outcome as a story.
pub fn story(outcome: &Outcome, plans: Plans) -> String {
    let mut out = String::new();
    let plan = &outcome.plan;
    writeln!(out, "# the plan\n{}", plan.to_toml()).expect("a String takes everything");
    out.push_str("# the trace\n");
    outcome.trace.iter().for_each(|line| out.push_str(line));
    let f = &outcome.figures;
    let verdict = match &outcome.violation {
        Some(violation) => format!("VIOLATION {violation}"),
        None if outcome.inconclusive => "inconclusive: a search ran out of steps".into(),
        None => "all guarantees held".into(),
    };
    writeln!(
        out,
        "# the verdict\n{verdict}\n{} operations, {} acknowledged, {} unknown, {} faults, {} \
         elections\ntrace: {} lines, hash {:016x}\nrepeat: cargo sim run --seed {}{}",
        f.operations,
        f.acknowledged,
        f.unknown,
        f.faults,
        f.elections,
        outcome.trace_lines,
        outcome.trace_hash,
        plan.seed,
        plans.arguments()
    )
    .expect("a String takes everything");
    out
}
