//! Memory that was freed goes back to the system.

use detcd::env::clock::Clock;
use std::sync::Arc;
use std::time::Duration;

/// How often the allocator is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Gives back what the allocator keeps for the time being. It does so by itself only while memory
/// is taken and freed, so that a member that becomes idle would keep what its load has needed.
pub async fn give_back_freed(clock: Arc<dyn Clock>) {
    loop {
        clock.sleep(INTERVAL).await;
        // SAFETY: the allocator allows this at any time, from any thread.
        unsafe { libmimalloc_sys::mi_collect(false) };
    }
}
