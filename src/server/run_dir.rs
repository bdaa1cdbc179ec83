//! The task that owns the directory of runs: takes checkpoints when they are due, puts whole runs
//! in the place of damaged ones, and installs what a leader offers, or another member has when this
//! one's state is damaged. One task does all of it, so that they never meet there.

use super::checkpointer::Checkpointer;
use super::installer;
use super::shared::{Shared, StopReason};
use super::state_check::Rebuild;
use crate::env::recorder::Standing;
use crate::raft::ready::SnapshotOffer;
use crate::storage::error::StorageError;
use tokio::sync::mpsc;

/// Runs until the server stops or the disk fails.
pub async fn run(
    mut owner: Checkpointer,
    mut offers: mpsc::Receiver<SnapshotOffer>,
    mut rebuilds: mpsc::Receiver<Rebuild>,
) {
    let shared = owner.shared.clone();
    loop {
        tokio::select! {
            biased;
            offer = offers.recv() => {
                let Some(offer) = offer else { return };
                let installed = installer::install(&mut owner, offer).await;
                if !survives(&shared, installed) {
                    return;
                }
            }
            rebuild = rebuilds.recv() => {
                let Some(rebuild) = rebuild else { return };
                let rebuilt = installer::rebuild(&mut owner, rebuild).await;
                if !survives(&shared, rebuilt) {
                    return;
                }
            }
            () = shared.checkpoint.notified() => {}
        }
        loop {
            // A state that is known to be damaged is not written down, for whatever reason, and one
            // before the first entry is none: to those who fetch, index 0 is no checkpoint.
            let is_sound = shared.standing() != Standing::Quarantined && shared.view().applied > 0;
            let done = if is_sound && shared.runs.damage.wants_checkpoint() {
                owner.repair().await
            } else if shared.is_checkpoint_due() {
                owner.checkpoint().await
            } else {
                break;
            };
            let full = matches!(done, Err(StorageError::NoSpace { .. }));
            if !survives(&shared, done) {
                return;
            }
            if full {
                // Nothing was changed; perhaps there is room later.
                shared.env.clock.sleep(shared.election_timeout).await;
            }
        }
    }
}

/// Whether to go on. A disk that fails otherwise than by being full ends the server.
fn survives(shared: &Shared, done: Result<(), StorageError>) -> bool {
    match done {
        Ok(()) => true,
        Err(error @ StorageError::NoSpace { .. }) => {
            tracing::warn!(%error, "no room for a checkpoint");
            true
        }
        Err(error) => {
            shared.stop(StopReason::Disk(error.to_string()));
            false
        }
    }
}
