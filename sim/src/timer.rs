//! A timer that asks the runtime once, however often it is polled.
//!
//! The simulated runtime enters an alarm at every poll of a sleep, and forgets none: a sleep that
//! waits beside something else leaves one behind each time it is polled, and all of them wake its
//! task for nothing when their time comes. Here they ring at a place of the timer's own, which
//! passes on one wake-up, and none once the timer is gone.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Completes at its moment.
pub struct Timer {
    alarm: Arc<Alarm>,
    sleep: Pin<Box<Sleep>>,
}

/// Where a timer's sleep rings.
pub struct Alarm {
    /// It has rung since the sleep was last polled, so that it is worth polling it.
    rung: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Alarm {
    pub fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        let waiting = self.waiting.lock().expect("no holder of this lock panics").take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    fn wait(&self, waker: Option<&Waker>) {
        let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
        match (&mut *waiting, waker) {
            (Some(before), Some(now)) => before.clone_from(now),
            (waiting, now) => *waiting = now.cloned(),
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Alarm>) {
        self.ring();
    }
}

impl Timer {
    pub fn new(at: Instant) -> Timer {
        let alarm = Alarm { rung: AtomicBool::new(true), waiting: Mutex::new(None) };
        Timer { alarm: Arc::new(alarm), sleep: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// Another moment, in place of the one before.
    pub fn reset(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at);
        self.alarm.rung.store(true, Ordering::SeqCst);
    }

    /// Whether there is more to a poll than to say who waits.
    pub fn has_rung(&self) -> bool {
        self.alarm.rung.load(Ordering::SeqCst)
    }

    /// What wakes whoever waits for this timer.
    pub fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Timer>, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.wait(Some(cx.waker()));
        if !self.alarm.rung.swap(false, Ordering::SeqCst) {
            return Poll::Pending;
        }
        let waker = Waker::from(self.alarm.clone());
        self.sleep.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.alarm.wait(None);
    }
}

/// Waits for as long as `pause`.
pub fn sleep(pause: Duration) -> Timer {
    Timer::new(Instant::now() + pause)
}

/// It took longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// What `work` gives, unless it takes longer than `limit`.
///
/// # Errors
/// When it takes longer.
pub async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let timer = sleep(limit);
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = timer => Err(Elapsed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Bell(std::sync::atomic::AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Bell>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_timer_wakes_once_however_often_it_was_polled() {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let mut cx = Context::from_waker(&waker);
        let mut timer = Box::pin(sleep(Duration::from_millis(20)));
        for _ in 0..10 {
            assert!(timer.as_mut().poll(&mut cx).is_pending());
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(bell.0.load(Ordering::SeqCst), 1);
        assert!(timer.as_mut().poll(&mut cx).is_ready());
    }

    #[tokio::test]
    async fn a_timer_that_is_gone_wakes_nobody() {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let mut timer = Box::pin(sleep(Duration::from_millis(5)));
        assert!(timer.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(timer);
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(bell.0.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_limit_ends_what_takes_longer_and_nothing_else() {
        let begun = Instant::now();
        let never = timeout(Duration::from_millis(10), std::future::pending::<()>());
        assert_eq!(never.await, Err(Elapsed));
        assert!(begun.elapsed() >= Duration::from_millis(10));
        assert_eq!(timeout(Duration::from_secs(60), async { 7 }).await, Ok(7));
        let mut reset = sleep(Duration::from_secs(60));
        assert!((&mut reset).now_or_never().is_none());
        reset.reset(Instant::now() + Duration::from_millis(5));
        assert!(timeout(Duration::from_secs(5), reset).await.is_ok());
    }
}
