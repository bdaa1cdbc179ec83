//! Keeps work in the background from crowding out what clients wait for.

use super::clock::{Clock, Mono};
use super::yield_now;
use std::sync::Arc;
use std::time::Duration;

/// Shorter work adds up before it is followed by a rest: timers are no finer.
const WORK_MIN: Duration = Duration::from_millis(2);
/// A stall of the disk is no work of ours, so what follows it is no longer than this.
const REST_MAX: Duration = Duration::from_millis(50);

/// Leaves the disk and the processor alone for as long as it has used them: on any machine the
/// background gets at most half of either.
pub struct Pace {
    clock: Arc<dyn Clock>,
    /// When the work that is under way began.
    begun: Mono,
    /// Work that no rest has followed yet.
    worked: Duration,
}

impl Pace {
    pub fn new(clock: Arc<dyn Clock>) -> Pace {
        let begun = clock.now();
        Pace { clock, begun, worked: Duration::ZERO }
    }

    /// To be awaited between two steps, which should be of some hundred KiB.
    pub async fn rest(&mut self) {
        self.worked += self.clock.now() - self.begun;
        if self.worked < WORK_MIN {
            yield_now().await;
        } else {
            let worked = std::mem::take(&mut self.worked);
            self.clock.sleep(worked.min(REST_MAX)).await;
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
