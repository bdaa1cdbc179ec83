//! The task that owns the directory of runs: takes checkpoints when they are due, puts whole runs
//! in the place of damaged ones, and installs what a leader offers. One task does all, so that
//! they never meet there.

use super::checkpointer::Checkpointer;
use super::installer;
use super::shared::{Shared, StopReason};
use crate::raft::ready::SnapshotOffer;
use crate::storage::error::StorageError;
use tokio::sync::mpsc;

/// Runs until the server stops or the disk fails.
pub async fn run(mut owner: Checkpointer, mut offers: mpsc::Receiver<SnapshotOffer>) {
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
            () = shared.checkpoint.notified() => {}
        }
        loop {
            let done = if shared.runs.damage.wants_checkpoint() {
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
