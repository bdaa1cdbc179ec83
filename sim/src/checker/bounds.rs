//! Bounds: no queue of a member grows beyond what is stated for it, and once nobody asks for
//! anything any more, all of them drain.
//!
//! A queue that is never emptied, a table that keeps who has left, a task that nobody ends: none of
//! them is a wrong answer, and each of them is an outage after a month.

use super::{Guarantee, Violation};
use crate::moment::Nanos;
use detcd::server::load::Load;

/// What one member held at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub at: Nanos,
    pub member: usize,
    pub load: Load,
    /// Tasks of its process.
    pub tasks: usize,
}

/// What is stated for every member of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// While the run goes on. Nothing is said of what stands at its largest number.
    pub busy: Load,
    pub busy_tasks: usize,
    /// Once nobody asks any more.
    pub idle: Load,
    pub idle_tasks: usize,
}

impl Limits {
    /// No sample of a run exceeds what is stated.
    pub fn check_busy(&self, sample: &Sample) -> Result<(), Violation> {
        exceeded(&self.busy, self.busy_tasks, sample).map_or(Ok(()), |what| {
            let text = format!("member {} holds {what}", sample.member);
            Err(Violation::new(Guarantee::BoundedQueues, Some(sample.at), text))
        })
    }

    /// What is above the idle level, if anything.
    pub fn above_idle(&self, sample: &Sample) -> Option<String> {
        exceeded(&self.idle, self.idle_tasks, sample)
    }

    /// Of the last samples of each member, taken when it had had its time, all are at the idle
    /// level.
    pub fn check_idle(&self, last: &[Sample]) -> Result<(), Violation> {
        for sample in last {
            if let Some(what) = self.above_idle(sample) {
                let text =
                    format!("member {} still holds {what}, and nobody asks it", sample.member);
                return Err(Violation::new(Guarantee::BoundedQueues, Some(sample.at), text));
            }
        }
        Ok(())
    }
}

/// The first figure of a sample that is above its limit, in words.
fn exceeded(limit: &Load, tasks_max: usize, sample: &Sample) -> Option<String> {
    let figures = figures(&sample.load);
    let limits = figures_of(limit);
    let above = figures.iter().zip(limits).find(|((_, figure), limit)| figure > limit);
    match above {
        Some(((name, figure), limit)) => Some(format!("{figure} {name}, of {limit} at the most")),
        None if sample.tasks > tasks_max => {
            Some(format!("{} tasks, of {tasks_max} at the most", sample.tasks))
        }
        None => None,
    }
}

fn figures_of(load: &Load) -> [u64; 13] {
    figures(load).map(|(_, figure)| figure)
}

/// All figures with their names. The pattern is complete: a figure that is added is judged too.
fn figures(load: &Load) -> [(&'static str, u64); 13] {
    let Load {
        pending_requests,
        pending_bytes,
        inbox,
        readers,
        keep_alives,
        abandoned,
        apply_lag,
        watch_streams,
        watchers,
        watch_items,
        log_entries,
        sent,
        backups,
    } = *load;
    [
        ("pending requests", pending_requests as u64),
        ("bytes of pending requests", pending_bytes as u64),
        ("events in the inbox", inbox as u64),
        ("waiting reads", readers as u64),
        ("waiting keep-alives", keep_alives as u64),
        ("abandoned places in queues", abandoned as u64),
        ("entries that are committed and not applied", apply_lag),
        ("watch streams", watch_streams as u64),
        ("watchers", watchers as u64),
        ("revisions waiting in watch streams", watch_items as u64),
        ("entries of the log in memory", log_entries),
        ("checkpoints being sent", sent as u64),
        ("backups", backups as u64),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let busy = Load {
            pending_requests: 16,
            pending_bytes: 1_000,
            inbox: 100,
            readers: 50,
            keep_alives: 5,
            abandoned: 5,
            apply_lag: 30,
            watch_streams: 4,
            watchers: 8,
            watch_items: 64,
            log_entries: u64::MAX,
            sent: 2,
            backups: 1,
        };
        let idle = Load { inbox: 3, log_entries: 100, ..Load::default() };
        Limits { busy, busy_tasks: 200, idle, idle_tasks: 40 }
    }

    /// Each way in which a load can be too large by one.
    fn one_too_many(limit: &Load) -> Vec<Load> {
        let l = *limit;
        vec![
            Load { pending_requests: l.pending_requests + 1, ..l },
            Load { pending_bytes: l.pending_bytes + 1, ..l },
            Load { inbox: l.inbox + 1, ..l },
            Load { readers: l.readers + 1, ..l },
            Load { keep_alives: l.keep_alives + 1, ..l },
            Load { abandoned: l.abandoned + 1, ..l },
            Load { apply_lag: l.apply_lag + 1, ..l },
            Load { watch_streams: l.watch_streams + 1, ..l },
            Load { watchers: l.watchers + 1, ..l },
            Load { watch_items: l.watch_items + 1, ..l },
            Load { sent: l.sent + 1, ..l },
            Load { backups: l.backups + 1, ..l },
        ]
    }

    #[test]
    fn a_load_at_its_limits_passes_and_one_more_of_anything_does_not() {
        let limits = limits();
        let sample = Sample { at: 7, member: 2, load: limits.busy, tasks: 200 };
        limits.check_busy(&sample).expect("at the limit");
        for load in one_too_many(&limits.busy) {
            let broken = limits.check_busy(&Sample { load, ..sample }).expect_err("too much");
            assert_eq!((broken.guarantee, broken.at), (Guarantee::BoundedQueues, Some(7)));
        }
        limits.check_busy(&Sample { tasks: 201, ..sample }).expect_err("a task too many");
    }

    #[test]
    fn what_never_drains_is_seen_in_the_end() {
        let limits = limits();
        let sample = Sample { at: 9, member: 0, load: limits.idle, tasks: 40 };
        let good = Sample { member: 1, load: Load::default(), ..sample };
        limits.check_idle(&[sample, good]).expect("drained");
        let mut falsified = one_too_many(&limits.idle);
        falsified.push(Load { log_entries: 101, ..limits.idle });
        for load in falsified {
            let broken = limits.check_idle(&[good, Sample { load, ..sample }]).expect_err("left");
            assert!(broken.text.contains("member 0 still holds"), "{broken}");
        }
        limits.check_idle(&[Sample { tasks: 41, ..sample }]).expect_err("a task is left");
    }
}
