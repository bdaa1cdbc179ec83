//! Automatic compaction: by age, or by the number of revisions, with etcd's arithmetic
//! (`etcdserver/api/v3compactor`).
//!
//! Every member notes revisions, so that a new leader knows the past; only the leader compacts.

use super::handle::{Caller, Handle};
use crate::config::settings::AutoCompaction;
use crate::env::recorder;
use crate::error::Error;
use crate::pb::etcdserverpb::CompactionRequest;
use std::collections::VecDeque;
use std::time::Duration;

/// A period that is longer is compacted every hour nonetheless.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Revisions are noted this often in an interval.
const NOTES_PER_INTERVAL: u32 = 10;
/// How often a limit by revisions is looked at.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// When to look next and what to compact, by the time that a revision is kept.
struct Periodic {
    /// The newest noted revisions, as many as cover the period.
    noted: VecDeque<i64>,
    noted_max: usize,
    /// Between two looks.
    pause: Duration,
    /// Between two compactions; the whole period before the first.
    interval: Duration,
    later_interval: Duration,
    last_time: Duration,
    last_revision: i64,
}

impl Periodic {
    fn new(period: Duration, now: Duration) -> Periodic {
        let later_interval = period.min(INTERVAL_MAX);
        let pause = (later_interval / NOTES_PER_INTERVAL).max(Duration::from_nanos(1));
        let noted_max = period.as_nanos() / pause.as_nanos() + 1;
        Periodic {
            noted: VecDeque::new(),
            noted_max: usize::try_from(noted_max).unwrap_or(usize::MAX),
            pause,
            interval: period,
            later_interval,
            last_time: now,
            last_revision: 0,
        }
    }

    /// Notes the revision at the begin of a pause.
    fn note(&mut self, revision: i64) {
        self.noted.push_back(revision);
        if self.noted.len() > self.noted_max {
            self.noted.pop_front();
        }
    }

    /// What to compact after a pause.
    fn due(&self, now: Duration) -> Option<i64> {
        let oldest = *self.noted.front()?;
        let waited = now.saturating_sub(self.last_time) >= self.interval;
        (waited && oldest != self.last_revision).then_some(oldest)
    }

    fn compacted(&mut self, revision: i64, now: Duration) {
        self.interval = self.later_interval;
        (self.last_revision, self.last_time) = (revision, now);
    }
}

/// Compacts as the setting says, while this member leads; runs until the server stops.
pub async fn run(handle: Handle, setting: AutoCompaction) {
    match setting {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(period) => by_period(handle, period).await,
        AutoCompaction::Revisions(kept) => by_revisions(handle, kept).await,
    }
}

async fn by_period(handle: Handle, period: Duration) {
    let shared = handle.shared().clone();
    let now = || shared.env.clock.now().since_start();
    let mut periodic = Periodic::new(period, now());
    while shared.stop_reason().is_none() {
        let revision = shared.state().store.revision();
        periodic.note(revision);
        shared.env.clock.sleep(periodic.pause).await;
        if let Some(revision) = periodic.due(now())
            && compact(&handle, revision).await
        {
            periodic.compacted(revision, now());
        }
    }
}

async fn by_revisions(handle: Handle, kept: i64) {
    let shared = handle.shared().clone();
    let mut last = 0;
    while shared.stop_reason().is_none() {
        shared.env.clock.sleep(REVISION_INTERVAL).await;
        let revision = shared.state().store.revision().saturating_sub(kept);
        if revision > 0 && revision != last && compact(&handle, revision).await {
            last = revision;
        }
    }
}

/// Whether everything up to `revision` is compacted now. Who does not lead leaves it to the
/// leader, and a failure to the next look.
async fn compact(handle: &Handle, revision: i64) -> bool {
    if !handle.view().is_leader {
        return false;
    }
    handle.shared().env.recorder.record(&recorder::Event::AutoCompaction { revision });
    let request = CompactionRequest { revision, physical: false };
    match handle.compact(&Caller::default(), request).await {
        Ok(_) => {
            tracing::info!(revision, "compacted automatically");
            true
        }
        Err(Error::Compacted) => true,
        Err(error) => {
            tracing::warn!(%error, revision, "automatic compaction failed");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Looks as often as the compactor would, the revision growing by one with each look, and
    /// gives the minute and the revision of each compaction.
    fn compactions(period: Duration, looks: u32) -> Vec<(u64, i64)> {
        let mut periodic = Periodic::new(period, Duration::ZERO);
        let mut done = Vec::new();
        for look in 1..=looks {
            periodic.note(i64::from(look));
            let now = periodic.pause * look;
            if let Some(revision) = periodic.due(now) {
                done.push((now.as_secs() / 60, revision));
                periodic.compacted(revision, now);
            }
        }
        done
    }

    #[test]
    fn a_short_period_is_waited_for_once_and_then_compacted_in_its_own_rhythm() {
        // Ten looks a period: the first compaction keeps what came in the period.
        assert_eq!(compactions(10 * MINUTE, 35), [(10, 1), (20, 10), (30, 20)]);
    }

    #[test]
    fn a_long_period_is_waited_for_once_and_then_compacted_every_hour() {
        assert_eq!(compactions(120 * MINUTE, 45), [(120, 1), (180, 10), (240, 20)]);
    }

    #[test]
    fn nothing_is_compacted_twice_and_a_failure_is_tried_again_at_the_next_look() {
        let mut periodic = Periodic::new(10 * MINUTE, Duration::ZERO);
        for look in 1..=10 {
            periodic.note(7);
            assert_eq!(periodic.due(MINUTE * look), (look == 10).then_some(7));
        }
        periodic.note(7);
        assert_eq!(periodic.due(11 * MINUTE), Some(7), "nobody said that it was done");
        periodic.compacted(7, 11 * MINUTE);
        for look in 12..40 {
            periodic.note(7);
            assert_eq!(periodic.due(MINUTE * look), None);
        }
    }
}
