//! Turns the member's clock into ticks of the consensus core.

use super::event::Event;
use super::shared::Shared;
use std::sync::Arc;
use std::time::Duration;

/// Ticks in one heartbeat interval. More than one, so that election timeouts are drawn finely
/// enough to keep two members from campaigning at once.
pub const TICKS_PER_HEARTBEAT: u32 = 4;

/// Sends a tick every `period` until the consensus task is gone. A tick that comes late is not
/// made up for: after a pause of the process the others must not look dead at once.
pub async fn run(period: Duration, shared: Arc<Shared>) {
    let clock = &shared.env.clock;
    let mut next = clock.now() + period;
    loop {
        clock.sleep_until(next).await;
        if clock.now() - next > period * TICKS_PER_HEARTBEAT && shared.view().is_leader {
            // A whole heartbeat was not sent in its time.
            shared.metrics.heartbeat_send_failures_total.inc();
        }
        if shared.inbox.send(Event::Tick).await.is_err() {
            return;
        }
        next = (next + period).max(clock.now());
    }
}
