//! What a run gives: a verdict, the trace, marks and figures.

use crate::checker::{Guarantee, Violation};
use crate::history::History;
use crate::marks::Marks;
use crate::plan::Plan;
use crate::timeline::record::Record;
use std::collections::BTreeMap;

/// The result of one plan.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub plan: Plan,
    pub violation: Option<Violation>,
    /// A search of a checker ran out of steps.
    pub inconclusive: bool,
    pub trace_hash: u64,
    pub trace_lines: u64,
    /// All lines where they were asked for, else the last ones.
    pub trace: Vec<String>,
    pub marks: Marks,
    pub figures: Figures,
    /// What a timeline is made of, where the whole trace was asked for.
    pub record: Option<Record>,
    /// What the clients saw, where the whole trace was asked for.
    pub history: Option<History>,
}

impl Outcome {
    /// The outcome of a run that ended in a panic: everything it knew is gone.
    pub fn panicked(plan: &Plan, text: String) -> Outcome {
        Outcome {
            plan: plan.clone(),
            violation: Some(Violation::new(Guarantee::NoPanic, None, text)),
            inconclusive: false,
            trace_hash: 0,
            trace_lines: 0,
            trace: Vec::new(),
            marks: Marks::default(),
            figures: Figures::default(),
            record: None,
            history: None,
        }
    }
}

/// Sums over one run or many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub runs: u64,
    pub simulated_ms: u64,
    pub operations: u64,
    pub acknowledged: u64,
    pub unknown: u64,
    pub elections: u64,
    pub faults: u64,
    /// Faults by class.
    pub drawn: BTreeMap<&'static str, u64>,
    /// Runs that acknowledged nothing after their first fault.
    pub silent_runs: u64,
    /// Runs with 3 to 5 members, 5 faults or more and 100 acknowledged operations or more.
    pub full_runs: u64,
    pub inconclusive_runs: u64,
    /// The most tasks that a member had.
    pub tasks_max: u64,
}

impl Figures {
    /// Notes how many tasks a member has.
    pub fn note_tasks(&mut self, tasks: u64) {
        self.tasks_max = self.tasks_max.max(tasks);
    }

    pub fn add(&mut self, other: &Figures) {
        self.runs += other.runs;
        self.simulated_ms += other.simulated_ms;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.elections += other.elections;
        self.faults += other.faults;
        self.silent_runs += other.silent_runs;
        self.full_runs += other.full_runs;
        self.inconclusive_runs += other.inconclusive_runs;
        self.note_tasks(other.tasks_max);
        for (class, count) in &other.drawn {
            *self.drawn.entry(class).or_default() += count;
        }
    }
}
