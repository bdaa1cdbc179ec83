//! Makes a failing plan small: drops classes of faults, actions, operations, clients, members and
//! kinds of requests as long as what is left breaks the same guarantee.

use crate::checker::Guarantee;
use crate::fault::{Action, Fault, Target};
use crate::options::Workload;
use crate::plan::Plan;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How far shrinking came.
#[derive(Clone, Debug)]
pub struct Shrunk {
    pub plan: Plan,
    pub runs: u64,
}

/// Shrinks `plan`, which breaks `guarantee`; `breaks` runs a plan and says what it broke.
pub fn shrink(
    plan: &Plan,
    guarantee: Guarantee,
    limit: Duration,
    breaks: &dyn Fn(&Plan) -> Option<Guarantee>,
) -> Shrunk {
    let mut search =
        Search { best: plan.clone(), guarantee, runs: 0, until: Instant::now() + limit, breaks };
    loop {
        let before = search.best.clone();
        search.drop_classes();
        search.drop_actions();
        search.shorten();
        search.fewer_clients();
        search.fewer_members();
        search.fewer_others();
        search.simpler_world();
        if search.best == before || search.out_of_time() {
            return Shrunk { plan: search.best, runs: search.runs };
        }
    }
}

struct Search<'a> {
    best: Plan,
    guarantee: Guarantee,
    runs: u64,
    until: Instant,
    breaks: &'a dyn Fn(&Plan) -> Option<Guarantee>,
}

impl Search<'_> {
    fn out_of_time(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Keeps `plan` if it fails the same way.
    fn attempt(&mut self, plan: Plan) -> bool {
        if plan == self.best || self.out_of_time() {
            return false;
        }
        self.runs += 1;
        let fails = (self.breaks)(&plan) == Some(self.guarantee);
        if fails {
            self.best = plan;
        }
        fails
    }

    /// Drops all actions of one class after the other.
    fn drop_classes(&mut self) {
        let mut classes: Vec<&str> = self.best.actions.iter().map(|a| a.fault.class()).collect();
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            let mut plan = self.best.clone();
            plan.actions.retain(|action| action.fault.class() != class);
            self.attempt(plan);
        }
        let mut plan = self.best.clone();
        if plan.disaster.take().is_some() {
            self.attempt(plan);
        }
    }

    /// Drops halves, then quarters, down to single actions (delta debugging).
    fn drop_actions(&mut self) {
        let mut chunk = self.best.actions.len().div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            while from < self.best.actions.len() {
                let mut plan = self.best.clone();
                let to = (from + chunk).min(plan.actions.len());
                plan.actions.drain(from..to);
                if !self.attempt(plan) {
                    from += chunk;
                }
            }
            chunk /= 2;
        }
    }

    /// Ends the run earlier, and with fewer operations.
    fn shorten(&mut self) {
        for (numerator, denominator) in [(1, 2), (3, 4), (9, 10)] {
            let mut plan = self.best.clone();
            plan.duration_ms = plan.duration_ms * numerator / denominator;
            plan.workload.operations = plan.workload.operations * numerator / denominator;
            plan.actions.retain(|a| a.at_ms < plan.duration_ms);
            while self.attempt(plan.clone()) {
                plan.duration_ms = plan.duration_ms * numerator / denominator;
                plan.workload.operations = plan.workload.operations * numerator / denominator;
                plan.actions.retain(|a| a.at_ms < plan.duration_ms);
            }
            let mut plan = self.best.clone();
            plan.workload.operations = plan.workload.operations * numerator / denominator;
            self.attempt(plan);
        }
    }

    fn fewer_clients(&mut self) {
        while self.best.workload.clients > 1 {
            let mut plan = self.best.clone();
            plan.workload.clients -= 1;
            if !self.attempt(plan) {
                return;
            }
        }
    }

    /// A smaller cluster, without the links to those that are gone.
    fn fewer_members(&mut self) {
        let before = self.best.options.members;
        for members in [1, 3].into_iter().filter(|members| *members < before) {
            let mut plan = self.best.clone();
            plan.options.members = members;
            plan.options.clock_rates.truncate(members);
            plan.disaster = plan.disaster.filter(|d| members > 1 && d.survivor < members);
            for action in &mut plan.actions {
                if let Fault::CutLinks { links, .. } = &mut action.fault {
                    links.retain(|(from, to)| *from < members && *to < members);
                }
            }
            if keeps_to_the_atlas(&plan) && self.attempt(plan) {
                return;
            }
        }
    }

    /// Without watchers, leases and locks, if they play no part.
    fn fewer_others(&mut self) {
        let keep: [fn(&mut Workload) -> &mut u64; 3] =
            [|w| &mut w.watchers, |w| &mut w.lessees, |w| &mut w.lockers];
        for count in keep {
            let mut plan = self.best.clone();
            *count(&mut plan.workload) = 0;
            if !self.attempt(plan.clone()) {
                *count(&mut plan.workload) = 1;
                if *count(&mut self.best.workload.clone()) > 1 {
                    self.attempt(plan);
                }
            }
        }
    }

    fn simpler_world(&mut self) {
        let mut plan = self.best.clone();
        plan.workload.watchers = 0;
        self.attempt(plan);
        let mut plan = self.best.clone();
        plan.options.clock_rates = vec![1000; plan.options.members];
        self.attempt(plan);
        let mut plan = self.best.clone();
        plan.workload.keys = 1;
        self.attempt(plan);
        let weights = self.best.workload.weights.clone();
        for kind in 0..4 {
            let mut plan = self.best.clone();
            let w = &mut plan.workload.weights;
            match kind {
                0 => w.range = 0,
                1 => w.delete = 0,
                2 => w.transaction = 0,
                _ => w.compact = 0,
            }
            if plan.workload.weights != weights {
                self.attempt(plan);
            }
        }
    }
}

/// Whether no more than a minority is damaged. Else a smaller plan fails for another reason.
fn keeps_to_the_atlas(plan: &Plan) -> bool {
    let members = plan.options.members;
    let damaged = |action: &Action| {
        let (Fault::BitRot { target: Target::Member(member), .. }
        | Fault::RunRot { target: Target::Member(member) }
        | Fault::ValueRot { target: Target::Member(member), .. }
        | Fault::InstallRot { target: Target::Member(member), .. }
        | Fault::OfferRot { target: Target::Member(member), .. }
        | Fault::CheckpointRot { target: Target::Member(member), .. }
        | Fault::ReleasedRot { target: Target::Member(member), .. }
        | Fault::MisdirectedWrite { target: Target::Member(member), .. }
        | Fault::Corrupt { target: Target::Member(member), .. }) = action.fault
        else {
            return None;
        };
        Some(member % members)
    };
    let damaged: BTreeSet<usize> = plan.actions.iter().filter_map(damaged).collect();
    damaged.len() <= (members - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Mode;

    #[test]
    fn no_more_than_a_minority_stays_damaged() {
        let rot = |member| Action {
            at_ms: 100,
            fault: Fault::CheckpointRot { target: Target::Member(member), down_ms: 10 },
        };
        let mut plan = Plan::draw(1, Some(Mode::Lite));
        plan.actions = vec![rot(1)];
        for (members, kept) in [(1, false), (2, false), (3, true)] {
            plan.options.members = members;
            assert_eq!(keeps_to_the_atlas(&plan), kept, "{members}");
        }
        plan.actions.push(rot(2));
        assert!(!keeps_to_the_atlas(&plan));
        plan.options.members = 5;
        assert!(keeps_to_the_atlas(&plan));
    }

    #[test]
    fn what_is_not_needed_is_dropped() {
        let plan = (0..)
            .map(|seed| Plan::draw(seed, Some(Mode::Safety)))
            .find(|p| {
                let classes: Vec<_> = p.actions.iter().map(|a| a.fault.class()).collect();
                classes.contains(&"kill") && classes.contains(&"pause") && classes.len() > 12
            })
            .expect("some seed has them");
        // It fails whenever a kill and a pause are left and there are more than 40 operations.
        let breaks = |plan: &Plan| {
            let has = |class| plan.actions.iter().any(|a: &Action| a.fault.class() == class);
            let fails = has("kill") && has("pause") && plan.workload.operations > 40;
            fails.then_some(Guarantee::Linearizability)
        };
        let limit = Duration::from_secs(60);
        let shrunk = shrink(&plan, Guarantee::Linearizability, limit, &breaks);
        let classes: Vec<_> = shrunk.plan.actions.iter().map(|a| a.fault.class()).collect();
        assert_eq!(classes.len(), 2, "{classes:?}");
        assert!(shrunk.plan.workload.operations <= 100, "{}", shrunk.plan.workload.operations);
        assert_eq!(shrunk.plan.workload.clients, 1);
        assert_eq!(shrunk.plan.options.members, 1);
        assert!(!shrunk.plan.actions.iter().any(|a| matches!(a.fault, Fault::Loss { .. })));
    }
}
