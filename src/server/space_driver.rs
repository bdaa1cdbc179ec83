//! Acts on what is known of the room to write: proposes this member's alarm and takes it back,
//! watches the disk, and hands leadership over when it is full.

use super::event::Event;
use super::handle::{Caller, Handle};
use super::shared::Shared;
use crate::apply::request::Op;
use crate::env::recorder;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::{AlarmRequest, AlarmType};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long quota and disk may go unlooked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks after quota and disk; runs until the server stops.
pub async fn run(shared: Arc<Shared>) {
    let handle = Handle::new(shared.clone());
    let mut known_full = false;
    loop {
        shared.space.look_at_disk();
        let full = shared.space.is_disk_full();
        if full != known_full {
            known_full = full;
            shared.metrics.disk_full.set(i64::from(full));
            shared.env.recorder.record(&recorder::Event::DiskFull { full });
            if full {
                hand_over(&shared).await;
            }
        }
        keep_alarm(&handle).await;
        tokio::select! {
            biased;
            () = shared.space.changed() => {}
            () = shared.env.clock.sleep(CHECK_INTERVAL.min(shared.election_timeout)) => {}
        }
        if shared.stop_reason().is_some() {
            return;
        }
    }
}

/// Asks the consensus task, once for each time that the disk fills up, to let somebody lead whose
/// disk may have room.
async fn hand_over(shared: &Arc<Shared>) {
    if shared.view().is_leader {
        let (done, _unheard) = oneshot::channel();
        // Without the consensus task the server is stopping.
        let _stopping = shared.inbox.send(Event::TransferLeader { target: 0, done }).await;
    }
}

/// Raises this member's alarm if it is due, and takes it back if there is room again.
async fn keep_alarm(handle: &Handle) {
    let shared = handle.shared();
    let action = {
        let state = shared.state();
        let raised = state.alarms.is_raised_by(shared.member_id, AlarmType::Nospace);
        shared.space.alarm_action(state.store.live_bytes(), raised)
    };
    let Some(action) = action else { return };
    if !handle.has_leader() {
        return;
    }
    let request = AlarmRequest {
        action: action.into(),
        member_id: shared.member_id,
        alarm: AlarmType::Nospace.into(),
    };
    match handle.propose(&Caller::default(), Op::Alarm(request)).await {
        Ok(_) => {
            tracing::warn!(?action, "NOSPACE alarm of this member");
            shared.space.alarm_changed();
            let raised = action == AlarmAction::Activate;
            shared.env.recorder.record(&recorder::Event::OwnAlarm { raised });
        }
        // The next look decides anew.
        Err(error) => tracing::warn!(%error, ?action, "the NOSPACE alarm was not proposed"),
    }
}
