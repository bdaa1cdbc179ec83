//! The clock of one simulated node: it runs at its own rate, and its wall clock jumps.
//!
//! The harness owns it, so it runs on while the node is down. Whoever sleeps on it is woken when
//! the rate changes and works out anew how long the rest takes.

use crate::timer::{Alarm, Timer};
use detcd::env::clock::{Clock, Mono};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The rate of a true clock: local microseconds in a second of the simulation.
pub const TRUE_RATE: u64 = 1_000_000;

/// What every monotonic clock starts at, so that nobody takes 0 for "never".
const ORIGIN: Duration = Duration::from_secs(1_000);

/// A clock with a rate of its own. Clones are the same clock.
#[derive(Clone)]
pub struct SimClock {
    line: Arc<Mutex<Line>>,
}

/// Local time as a straight line through the last change of rate.
struct Line {
    since: Instant,
    local: Duration,
    wall: Duration,
    rate: u64,
    /// Counts the changes of rate.
    changes: u64,
    /// Whom a change of rate wakes, in the order in which they fell asleep.
    sleepers: BTreeMap<u64, Arc<Alarm>>,
    next_sleeper: u64,
}

impl Line {
    /// Local time since the last change of rate.
    fn passed(&self) -> Duration {
        scale(self.since.elapsed(), self.rate, TRUE_RATE)
    }

    fn now(&self) -> Duration {
        self.local + self.passed()
    }

    /// Begins a line that goes on from here.
    fn bend(&mut self) {
        let passed = self.passed();
        self.since = Instant::now();
        self.local += passed;
        self.wall += passed;
    }

    /// When `left` of local time will have passed.
    fn due_in(&self, left: Duration) -> Instant {
        // The division rounds down; a nanosecond more makes sure that the moment is reached.
        Instant::now() + scale(left, TRUE_RATE, self.rate) + Duration::from_nanos(1)
    }

    /// Sets a timer that a change of rate wakes.
    fn register(&mut self, left: Duration) -> Registered {
        let (timer, number) = (Timer::new(self.due_in(left)), self.next_sleeper);
        self.next_sleeper += 1;
        self.sleepers.insert(number, timer.alarm().clone());
        Registered { timer, number, set_after: Some(self.changes) }
    }
}

/// `duration * numerator / denominator`, in whole nanoseconds and hence alike on every machine.
fn scale(duration: Duration, numerator: u64, denominator: u64) -> Duration {
    let nanos = duration.as_nanos() * u128::from(numerator) / u128::from(denominator);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl SimClock {
    /// A true clock whose wall shows `wall` since the Unix epoch.
    pub fn new(wall: Duration) -> SimClock {
        let line = Line {
            since: Instant::now(),
            local: ORIGIN,
            wall,
            rate: TRUE_RATE,
            changes: 0,
            sleepers: BTreeMap::new(),
            next_sleeper: 0,
        };
        SimClock { line: Arc::new(Mutex::new(line)) }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("no holder of this lock panics")
    }

    /// Makes this clock run `rate` local microseconds in a second of the simulation.
    pub fn set_rate(&self, rate: u64) {
        assert!(rate > 0, "a clock that stands still never wakes anybody");
        let sleepers: Vec<Arc<Alarm>> = {
            let mut line = self.line();
            line.bend();
            line.rate = rate;
            line.changes += 1;
            line.sleepers.values().cloned().collect()
        };
        sleepers.iter().for_each(|sleeper| sleeper.ring());
    }

    pub fn rate(&self) -> u64 {
        self.line().rate
    }

    /// Makes the wall clock jump forward; timers are not touched.
    pub fn jump_forward(&self, by: Duration) {
        self.line().wall += by;
    }

    /// Makes the wall clock jump back, at most to the Unix epoch.
    pub fn jump_back(&self, by: Duration) {
        let mut line = self.line();
        line.bend();
        line.wall = line.wall.saturating_sub(by);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Mono {
        Mono::new(self.line().now())
    }

    fn wall(&self) -> Duration {
        let line = self.line();
        line.wall + line.passed()
    }

    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()> {
        Box::pin(SimSleep { clock: self.clone(), at, timer: None })
    }
}

/// One who sleeps on a [`SimClock`].
struct SimSleep {
    clock: SimClock,
    at: Mono,
    timer: Option<Registered>,
}

/// A timer that hears of changes of rate.
struct Registered {
    timer: Timer,
    number: u64,
    /// The change of rate that it was set after; none if it has to be set.
    set_after: Option<u64>,
}

impl Future for SimSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut SimSleep>, context: &mut Context<'_>) -> Poll<()> {
        let SimSleep { clock, at, timer } = &mut *self;
        // Most polls come of something else that the task waits for.
        if let Some(set) = timer
            && !set.timer.has_rung()
            && Pin::new(&mut set.timer).poll(context).is_pending()
        {
            return Poll::Pending;
        }
        loop {
            let mut line = clock.line();
            let left = *at - Mono::new(line.now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            let timer = timer.get_or_insert_with(|| line.register(left));
            if timer.set_after != Some(line.changes) {
                timer.set_after = Some(line.changes);
                timer.timer.reset(line.due_in(left));
            }
            drop(line);
            if Pin::new(&mut timer.timer).poll(context).is_pending() {
                return Poll::Pending;
            }
            // Whatever is left yet is worked out anew.
            timer.set_after = None;
        }
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        if let Some(registered) = &self.timer {
            self.clock.line().sleepers.remove(&registered.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fast_clock_wakes_its_sleepers_early() {
        let clock = SimClock::new(Duration::from_secs(1_600_000_000));
        clock.set_rate(100 * TRUE_RATE);
        let (start, local) = (Instant::now(), clock.now());
        clock.sleep(Duration::from_secs(1)).await;
        assert!(clock.now() - local >= Duration::from_secs(1));
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_change_of_rate_reaches_who_sleeps_already() {
        let clock = SimClock::new(Duration::ZERO);
        clock.set_rate(1);
        let faster = clock.clone();
        let (start, local) = (Instant::now(), clock.now());
        let speed_up = async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            faster.set_rate(1_000 * TRUE_RATE);
        };
        // At the first rate this sleep would take 116 days.
        futures::join!(clock.sleep(Duration::from_secs(10)), speed_up);
        assert!(clock.now() - local >= Duration::from_secs(10));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn the_wall_jumps_and_monotonic_time_does_not() {
        let clock = SimClock::new(Duration::from_secs(5_000));
        let before = clock.now();
        clock.jump_forward(Duration::from_secs(3_600));
        assert!(clock.wall() >= Duration::from_secs(8_600));
        clock.jump_back(Duration::from_secs(1_000_000));
        assert!(clock.wall() < Duration::from_secs(60));
        assert!(clock.now() - before < Duration::from_secs(60));
    }
}
