//! A value that tasks wait on, which wakes them in the order in which they came.
//!
//! It stands in for tokio's watch channel, which spreads its waiters at random, seeded by a counter
//! of the whole process: with two waiters, one seed of the simulator gives two different runs.

use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// A value, and who waits for it to change.
#[derive(Debug, Default)]
pub struct Signal<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Clone> Signal<T> {
    pub fn new(value: T) -> Signal<T> {
        Signal { value: Mutex::new(value), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().expect("no holder of this lock panics and goes on")
    }

    pub fn get(&self) -> T {
        self.lock().clone()
    }

    pub fn set(&self, value: T) {
        self.update(|present| *present = value);
    }

    /// Changes the value and wakes everybody who waits.
    pub fn update(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    /// Completes with the value once `done` holds for it.
    pub async fn wait_for(&self, done: impl Fn(&T) -> bool) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Listens from here on, so that no change between the look and the wait is missed.
            changed.as_mut().enable();
            let value = self.get();
            if done(&value) {
                return value;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn whoever_waits_is_told_and_the_first_comes_first() {
        let signal = Signal::new(0);
        assert_eq!(signal.wait_for(|v| *v == 0).now_or_never(), Some(0));
        let mut waiting = Box::pin(signal.wait_for(|v| *v > 1));
        assert_eq!((&mut waiting).now_or_never(), None);
        signal.set(1);
        assert_eq!((&mut waiting).now_or_never(), None);
        signal.update(|v| *v += 1);
        assert_eq!((&mut waiting).now_or_never(), Some(2));
    }
}
