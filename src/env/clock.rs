//! Time as one node sees it: a monotonic clock for timers, a wall clock for stamps.

use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment of the monotonic time of ONE node.
///
/// It means nothing to another node, nor to the same node after a restart, so it is neither sent
/// nor stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(Duration);

impl Mono {
    pub const ZERO: Mono = Mono(Duration::ZERO);

    /// The moment `since_start` after the origin of this clock.
    pub const fn new(since_start: Duration) -> Mono {
        Mono(since_start)
    }

    /// The time since the origin of this clock.
    pub const fn since_start(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;

    /// Saturates, so that "in a very long time" is a moment too.
    fn add(self, later: Duration) -> Mono {
        Mono(self.0.saturating_add(later))
    }
}

impl Sub<Mono> for Mono {
    type Output = Duration;

    /// The time from `earlier` to `self`, and zero if `earlier` is the later one.
    fn sub(self, earlier: Mono) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where a server gets the time and its timers from.
pub trait Clock: Send + Sync {
    /// Monotonic time of this node; never steps back while the process lives.
    fn now(&self) -> Mono;

    /// Time since the Unix epoch. It may jump either way: nothing may be timed by it.
    fn wall(&self) -> Duration;

    /// Completes once `now()` has reached `at`.
    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()>;

    /// Completes once `pause` has passed on this clock.
    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + pause)
    }
}

/// The clock of the machine, with the timers of the runtime.
pub struct RealClock {
    origin: tokio::time::Instant,
}

impl RealClock {
    pub fn new() -> RealClock {
        RealClock { origin: tokio::time::Instant::now() }
    }
}

impl Default for RealClock {
    fn default() -> RealClock {
        RealClock::new()
    }
}

impl Clock for RealClock {
    fn now(&self) -> Mono {
        Mono(self.origin.elapsed())
    }

    fn wall(&self) -> Duration {
        // A machine set to a year before 1970 is taken to stand at 1970.
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()> {
        let left = at - self.now();
        Box::pin(async move { tokio::time::sleep(left).await })
    }
}

/// A clock that a unit test moves by hand. Clones share the time.
#[derive(Clone, Default)]
pub struct ManualClock {
    time: Arc<Mutex<ManualTime>>,
}

#[derive(Default)]
struct ManualTime {
    now: Duration,
    wall: Duration,
    next_sleeper: u64,
    /// Who sleeps until when; the number keeps two sleepers of one moment apart.
    sleepers: BTreeMap<(Mono, u64), Waker>,
}

impl ManualClock {
    pub fn new() -> ManualClock {
        ManualClock::default()
    }

    fn lock(&self) -> MutexGuard<'_, ManualTime> {
        self.time.lock().expect("no holder of this lock panics")
    }

    /// Moves both times on and wakes who is due.
    pub fn advance(&self, by: Duration) {
        let mut time = self.lock();
        time.now += by;
        time.wall += by;
        let now = Mono(time.now);
        let later = time.sleepers.split_off(&(now + Duration::from_nanos(1), 0));
        let due = std::mem::replace(&mut time.sleepers, later);
        drop(time);
        for waker in due.into_values() {
            waker.wake();
        }
    }

    /// Makes the wall clock jump; sleepers are not touched.
    pub fn set_wall(&self, wall: Duration) {
        self.lock().wall = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Mono {
        Mono(self.lock().now)
    }

    fn wall(&self) -> Duration {
        self.lock().wall
    }

    fn sleep_until(&self, at: Mono) -> BoxFuture<'static, ()> {
        Box::pin(ManualSleep { clock: self.clone(), at, number: None })
    }
}

/// One sleeper of a [`ManualClock`].
struct ManualSleep {
    clock: ManualClock,
    at: Mono,
    number: Option<u64>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut time = clock.lock();
        if Mono(time.now) >= self.at {
            return Poll::Ready(());
        }
        let number = match self.number {
            Some(number) => number,
            None => {
                time.next_sleeper += 1;
                time.next_sleeper
            }
        };
        self.number = Some(number);
        time.sleepers.insert((self.at, number), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.clock.lock().sleepers.remove(&(self.at, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_sleeper_wakes_when_its_moment_comes_and_not_before() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(2));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(Duration::from_millis(1999));
        assert!((&mut sleep).now_or_never().is_none());
        clock.advance(Duration::from_millis(1));
        assert!((&mut sleep).now_or_never().is_some());
        assert_eq!(clock.lock().sleepers.len(), 0);
    }

    #[test]
    fn a_dropped_sleeper_leaves_nothing_behind() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(2));
        assert!((&mut sleep).now_or_never().is_none());
        assert_eq!(clock.lock().sleepers.len(), 1);
        drop(sleep);
        assert_eq!(clock.lock().sleepers.len(), 0);
    }

    #[test]
    fn the_wall_jumps_alone() {
        let clock = ManualClock::new();
        clock.set_wall(Duration::from_secs(1_000));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.wall(), Duration::from_secs(1_001));
        assert_eq!(clock.now(), Mono::new(Duration::from_secs(1)));
        assert_eq!(Mono::ZERO - clock.now(), Duration::ZERO, "time differences do not go below 0");
    }
}
