//! Room to write: the quota of this member, and what is left on its disk.
//!
//! The two are kept apart. A quota that is exceeded becomes an alarm: replicated, so that every
//! member refuses alike from the same entry on, and taken back by the member that raised it once
//! there is room again. A full disk is this member's own trouble: it refuses what takes room, with
//! the same error, hands leadership over, and the others go on without it. While the disk is full
//! the log may use what was set aside, so that deletes, compactions and the checkpoints behind
//! them go through.

use crate::alarm::Quota;
use crate::env::disk::Disk;
use crate::error::{Error, Result};
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::storage::reserve::Reserve;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// What one server knows of its room. The applier and the log writer report; `space_driver` acts.
pub struct Space {
    quota: Quota,
    reserve: Reserve,
    /// Where the log lies, and how much room its next segment takes.
    dir: PathBuf,
    segment_bytes: u64,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// The applied state was above the quota when it was last looked at.
    exceeded: bool,
    /// This member owes the others an alarm.
    alarm_due: bool,
    disk_full: bool,
}

/// What [`Space`] is made of.
pub struct SpaceParts {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub quota_bytes: i64,
    pub segment_bytes: u64,
    pub reserve: Reserve,
}

impl Space {
    pub fn new(parts: SpaceParts) -> Space {
        let SpaceParts { disk, dir, quota_bytes, segment_bytes, reserve } = parts;
        Space {
            quota: Quota::new(quota_bytes),
            reserve,
            dir,
            segment_bytes,
            disk,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics and goes on")
    }

    pub fn quota(&self) -> Quota {
        self.quota
    }

    pub fn is_disk_full(&self) -> bool {
        self.lock().disk_full
    }

    /// Refuses a request of this member's callers that does not fit any more.
    pub fn admit(&self, live_bytes: u64, cost_bytes: u64) -> Result<()> {
        if cost_bytes == 0 {
            return Ok(());
        }
        let mut state = self.lock();
        if state.disk_full {
            return Err(Error::NoSpace);
        }
        if !self.quota.admits(live_bytes, cost_bytes) {
            state.alarm_due = true;
            self.changed.notify_one();
            return Err(Error::NoSpace);
        }
        Ok(())
    }

    /// Notes how much is alive after some entries, and whether this member's alarm is raised.
    /// Growing beyond the quota makes an alarm due; staying there does not, so that an operator
    /// can take it back.
    pub fn applied(&self, live_bytes: u64, is_raised: bool) {
        let mut state = self.lock();
        let exceeded = self.quota.is_exceeded(live_bytes);
        let grew = exceeded && !state.exceeded;
        state.exceeded = exceeded;
        state.alarm_due |= grew;
        if grew || (is_raised && self.quota.is_relieved(live_bytes)) {
            self.changed.notify_one();
        }
    }

    /// Notes that the log found no room. True if it was given the reserve and may try again.
    pub fn log_is_full(&self) -> bool {
        self.lock().disk_full = true;
        self.changed.notify_one();
        self.reserve.spend().unwrap_or_else(|error| {
            tracing::warn!(%error, "the reserve can't be given to the log");
            false
        })
    }

    fn restore_reserve(&self) -> bool {
        self.reserve.restore().unwrap_or_else(|error| {
            tracing::warn!(%error, "the reserve can't be set aside");
            false
        })
    }

    /// What to propose about this member's alarm, which is raised or not, with so much alive.
    pub fn alarm_action(&self, live_bytes: u64, is_raised: bool) -> Option<AlarmAction> {
        let relieved = self.quota.is_relieved(live_bytes);
        let mut state = self.lock();
        state.alarm_due &= !is_raised && !relieved;
        match (state.alarm_due, is_raised && relieved) {
            (true, _) => Some(AlarmAction::Activate),
            (false, true) => Some(AlarmAction::Deactivate),
            (false, false) => None,
        }
    }

    /// Notes that what `alarm_action` said was applied.
    pub fn alarm_changed(&self) {
        self.lock().alarm_due = false;
    }

    /// Completes when there is something to look at before its time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Looks at the disk, and sets the reserve aside if there is room.
    pub fn look_at_disk(&self) {
        let before = self.lock().disk_full;
        let free = match self.disk.free_bytes(&self.dir) {
            Ok(free) => free,
            Err(error) => {
                tracing::warn!(%error, "the room on the disk is not known");
                return;
            }
        };
        // Beside the reserve there must be room for a segment, and for two once there was none.
        let segments = if before { 2 } else { 1 };
        let full = match self.reserve.missing_bytes() {
            Ok(missing) if free < missing + segments * self.segment_bytes => true,
            Ok(0) => false,
            Ok(_) => !self.restore_reserve(),
            Err(error) => {
                tracing::warn!(%error, "the reserve is not known");
                before
            }
        };
        self.lock().disk_full = full;
        if full != before {
            tracing::warn!(free, full, "the disk of this member");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;

    fn space(quota_bytes: i64) -> Space {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        disk.create_dir_all("/m".as_ref()).expect("memory has room");
        let dir = PathBuf::from("/m");
        let reserve = Reserve::new(disk.clone(), dir.join("reserve"), 100);
        Space::new(SpaceParts { disk, dir, quota_bytes, segment_bytes: 100, reserve })
    }

    #[test]
    fn an_alarm_is_due_when_a_write_is_refused_or_the_state_outgrows_the_quota() {
        let space = space(1000);
        assert_eq!(space.admit(700, 299), Ok(()));
        assert!(!space.lock().alarm_due);
        assert_eq!(space.admit(700, 300), Err(Error::NoSpace));
        assert!(std::mem::take(&mut space.lock().alarm_due));
        assert_eq!(space.admit(5000, 0), Ok(()), "deletes take no room");
        space.applied(1000, false);
        assert!(std::mem::take(&mut space.lock().alarm_due));
        // Disarmed by hand, and no further write came.
        space.applied(1001, false);
        assert!(!space.lock().alarm_due);
    }

    #[test]
    fn a_full_disk_refuses_until_the_reserve_stands_again() {
        let space = space(-1);
        space.look_at_disk();
        assert_eq!(space.reserve.missing_bytes().expect("memory does not fail"), 0);
        assert!(space.log_is_full(), "the reserve was spent");
        assert!(!space.log_is_full(), "there is none left");
        assert_eq!(space.admit(0, 1), Err(Error::NoSpace));
        space.look_at_disk();
        assert_eq!(space.admit(0, 1), Ok(()));
        assert_eq!(space.reserve.missing_bytes().expect("memory does not fail"), 0);
    }
}
