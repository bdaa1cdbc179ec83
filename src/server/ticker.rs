//! Turns the member's clock into ticks of the consensus core.

use super::event::Event;
use crate::env::clock::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Ticks in one heartbeat interval. More than one, so that election timeouts are drawn finely
/// enough to keep two members from campaigning at once.
pub const TICKS_PER_HEARTBEAT: u32 = 4;

/// Sends a tick every `period` until the consensus task is gone. A tick that comes late is not
/// made up for: after a pause of the process the others must not look dead at once.
pub async fn run(clock: Arc<dyn Clock>, period: Duration, inbox: mpsc::Sender<Event>) {
    let mut next = clock.now() + period;
    loop {
        clock.sleep_until(next).await;
        if inbox.send(Event::Tick).await.is_err() {
            return;
        }
        next = (next + period).max(clock.now());
    }
}
