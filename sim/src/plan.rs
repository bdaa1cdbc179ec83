//! A plan is data: all that a run depends on, drawn from a seed, printed, edited, replayed, shrunk.
//!
//! A seed only generates a plan. Every class of fault has a stream of its own, so that a class that
//! is added leaves the plans of the others as they were.

use crate::fault::{Action, Fault};
use crate::nemesis::{self, Frame};
use crate::options::{Mode, Options, Workload};
use crate::random::Stream;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub seed: u64,
    pub mode: Mode,
    /// How long the clients and the nemesis work, before everything is healed.
    pub duration_ms: u64,
    pub options: Options,
    pub workload: Workload,
    #[serde(default)]
    pub actions: Vec<Action>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disaster: Option<Disaster>,
}

/// What comes when all else is judged: a majority loses its disks, and one that is left is made a
/// cluster of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disaster {
    pub survivor: usize,
    /// Writes that the survivor does not hear of, being cut off.
    pub unheard_writes: u64,
    /// A member was added just before that never started: a learner, or a voter while one of five
    /// was down.
    pub learner: bool,
    pub grows: bool,
    /// So many of the others come back with their old disks, but no majority.
    pub back: usize,
    /// The power fails before the survivor starts without the flag.
    pub power_cut: bool,
}

impl Disaster {
    /// In some seeds; never where the atlas has struck a disk already, members come and go, or
    /// there may be no room for a write.
    fn draw(plan: &Plan) -> Option<Disaster> {
        let mut s = Stream::new(plan.seed, "disaster");
        let has_all = matches!(plan.mode, Mode::Safety | Mode::Lite) && plan.options.members > 1;
        let is_sound = !plan.changes_members() && !plan.corrupts();
        // Members come and go in most safety seeds, and lite ones are many.
        let on = if plan.mode == Mode::Safety { 600 } else { 150 };
        if !has_all || !is_sound || !plan.options.quotas.is_empty() || !s.chance(on) {
            return None;
        }
        Some(Disaster {
            survivor: s.below(plan.options.members as u64) as usize,
            unheard_writes: s.below(6),
            learner: s.chance(300),
            grows: s.chance(500),
            back: s.below(3) as usize,
            power_cut: s.chance(500),
        })
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64, mode: Option<Mode>) -> Plan {
        let mode = mode.unwrap_or_else(|| Mode::draw(seed));
        let options = Options::draw(seed, mode);
        let workload = Workload::draw(seed, mode);
        let duration_ms = match mode {
            Mode::Lite => 5_000,
            Mode::Safety | Mode::Liveness => 20_000,
            Mode::PartialCut => 15_000,
            Mode::SlowDisk => 20_000,
        };
        let (actions, disaster) = (Vec::new(), None);
        let mut plan = Plan { seed, mode, duration_ms, options, workload, actions, disaster };
        plan.draw_actions();
        plan
    }

    fn draw_actions(&mut self) {
        let (seed, mode, duration_ms) = (self.seed, self.mode, self.duration_ms);
        let frame = Frame { seed, mode, duration_ms, options: &self.options };
        self.actions = nemesis::draw(&frame);
        if self.corrupts() {
            // The holders of the lock write what they have read, and one may read a damaged value.
            self.workload.lockers = 0;
        }
        self.disaster = Disaster::draw(self);
    }

    /// The standard plan by which speed is measured: five members, thirty simulated seconds, 1,500
    /// operations, ten to thirty faults.
    pub fn standard(seed: u64) -> Plan {
        let mut plan = Plan::draw(seed, Some(Mode::Safety));
        plan.duration_ms = 30_000;
        plan.options.members = 5;
        plan.options.clock_rates.resize(5, 1000);
        plan.workload.operations = 1_500;
        plan.draw_actions();
        plan.actions.truncate(30);
        plan
    }

    /// Hardly anything to do: three members, five simulated minutes, an operation a second, and no
    /// faults.
    pub fn idle(seed: u64) -> Plan {
        let mut plan = Plan::draw(seed, Some(Mode::Safety));
        plan.duration_ms = 300_000;
        plan.options.members = 3;
        plan.options.clock_rates.resize(3, 1000);
        plan.options.quotas.clear();
        let workload = &mut plan.workload;
        (workload.clients, workload.operations) = (1, 300);
        (workload.watchers, workload.lessees) = (0, 0);
        (workload.lockers, workload.backups) = (0, 0);
        (plan.actions, plan.disaster) = (Vec::new(), None);
        plan
    }

    /// How many members there may be in all: the founders, and those that an action adds.
    pub fn seats(&self) -> usize {
        let seat = |action: &Action| match action.fault {
            Fault::AddMember { seat, .. } | Fault::ReplaceMember { seat, .. } => seat + 1,
            _ => 0,
        };
        self.actions.iter().map(seat).fold(self.options.members, usize::max)
    }

    /// How many members the book may hear of, those included that are added and never start.
    pub fn places(&self) -> usize {
        self.seats() + if self.disaster.is_some() { 2 } else { 0 }
    }

    /// Whether members come and go.
    pub fn changes_members(&self) -> bool {
        let changes = |action: &Action| {
            matches!(
                action.fault,
                Fault::AddMember { .. } | Fault::RemoveMember { .. } | Fault::ReplaceMember { .. }
            )
        };
        self.actions.iter().any(changes)
    }

    /// Whether states are damaged.
    pub fn corrupts(&self) -> bool {
        self.actions.iter().any(|action| matches!(action.fault, Fault::Corrupt { .. }))
    }

    /// Whether some of that shows only to who looks.
    pub fn hides_damage(&self) -> bool {
        self.actions
            .iter()
            .any(|action| matches!(action.fault, Fault::Corrupt { shows: false, .. }))
    }

    /// The plan as a file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a plan consists of what TOML has")
    }

    /// Reads a plan from a file.
    pub fn from_toml(text: &str) -> Result<Plan, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_plan_survives_its_file() {
        for seed in 0..300 {
            let plan = Plan::draw(seed, None);
            let text = plan.to_toml();
            assert_eq!(Plan::from_toml(&text), Ok(plan), "{text}");
        }
    }

    #[test]
    fn the_modes_keep_their_shapes() {
        let mut classes: BTreeMap<&str, u64> = BTreeMap::new();
        for seed in 0..400 {
            let lite = Plan::draw(seed, Some(Mode::Lite));
            assert_eq!((lite.options.members, lite.duration_ms), (3, 5_000));
            // What is left after the first fault is enough for an election and for work.
            assert!(lite.options.election_ms <= 600, "{lite:?}");
            for action in &lite.actions {
                if let Fault::Kill { down_ms, .. } | Fault::PowerCutAll { down_ms } = &action.fault
                {
                    assert!(*down_ms <= 1_000, "{lite:?}");
                }
            }
            let plan = Plan::draw(seed, None);
            assert!([1, 3, 5].contains(&plan.options.members));
            assert!(plan.actions.windows(2).all(|w| w[0].at_ms <= w[1].at_ms));
            assert!(plan.actions.iter().all(|a| a.at_ms < plan.duration_ms), "{plan:?}");
            for action in &plan.actions {
                *classes.entry(action.fault.class()).or_default() += 1;
            }
        }
        assert_eq!(classes.len(), 40, "every class is drawn: {classes:?}");
    }

    #[test]
    fn a_standard_plan_has_ten_to_thirty_faults() {
        for seed in 0..200 {
            let plan = Plan::standard(seed);
            assert!((5..=30).contains(&plan.actions.len()), "{}", plan.actions.len());
            assert_eq!(plan.options.clock_rates.len(), 5);
        }
    }
}
