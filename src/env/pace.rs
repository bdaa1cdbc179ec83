//! Keeps work in the background from crowding out what clients wait for.

use super::clock::{Clock, Mono};
use super::yield_now;
use std::sync::Arc;
use std::time::Duration;

/// Shorter work adds up before it is followed by a rest. A thread that this one has woken, the one
/// that syncs the log or a client on the same machine, is often put on the same core by the
/// operating system, and waits there until this thread sleeps: to yield is not enough.
pub const BURST: Duration = Duration::from_micros(300);
/// Timers are no finer.
const REST_MIN: Duration = Duration::from_millis(1);
/// A stall of the disk is no work of ours, so what follows it is no longer than this.
const REST_MAX: Duration = Duration::from_millis(50);

/// Leaves the disk and the processor alone for at least as long as it has used them: on any
/// machine the background gets at most half of either.
pub struct Pace {
    clock: Arc<dyn Clock>,
    burst: Duration,
    /// When the work that is under way began.
    begun: Mono,
    /// Work that no rest has followed yet.
    worked: Duration,
}

impl Pace {
    pub fn new(clock: Arc<dyn Clock>) -> Pace {
        Pace::with_bursts(clock, BURST)
    }

    /// For work that somebody waits for, which may go on for so long before a rest.
    pub fn with_bursts(clock: Arc<dyn Clock>, burst: Duration) -> Pace {
        let begun = clock.now();
        Pace { clock, burst, begun, worked: Duration::ZERO }
    }

    /// To be awaited between two steps, which should be shorter than a burst where they can be.
    pub async fn rest(&mut self) {
        self.worked += self.clock.now() - self.begun;
        if self.worked < self.burst {
            yield_now().await;
        } else {
            let worked = std::mem::take(&mut self.worked);
            self.clock.sleep(worked.clamp(REST_MIN, REST_MAX)).await;
        }
        self.begun = self.clock.now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::clock::ManualClock;
    use futures::FutureExt;

    #[test]
    fn a_rest_is_as_long_as_the_work_before_it() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(Arc::new(clock.clone()));
        clock.advance(Duration::from_millis(9));
        let mut rest = Box::pin(pace.rest());
        assert!(rest.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_millis(8));
        assert!(rest.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_millis(1));
        assert!(rest.now_or_never().is_some());
        // Nothing was done since.
        assert_eq!((pace.begun, pace.worked), (clock.now(), Duration::ZERO));
    }

    #[test]
    fn short_work_adds_up_to_a_burst() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(Arc::new(clock.clone()));
        clock.advance(BURST / 2);
        // A yield: ready when it is asked again.
        let mut yielded = Box::pin(pace.rest());
        assert!(yielded.as_mut().now_or_never().is_none());
        assert!(yielded.now_or_never().is_some());
        clock.advance(BURST / 2);
        let mut rest = Box::pin(pace.rest());
        assert!(rest.as_mut().now_or_never().is_none());
        clock.advance(REST_MIN - Duration::from_micros(1));
        assert!(rest.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_micros(1));
        assert!(rest.now_or_never().is_some());
    }

    #[test]
    fn a_stall_is_not_made_up_for() {
        let clock = ManualClock::new();
        let mut pace = Pace::new(Arc::new(clock.clone()));
        clock.advance(Duration::from_secs(9));
        let mut rest = Box::pin(pace.rest());
        assert!(rest.as_mut().now_or_never().is_none());
        clock.advance(REST_MAX);
        assert!(rest.now_or_never().is_some());
    }
}
