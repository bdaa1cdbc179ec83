//! The scrub: reads runs and manifests slowly, again and again, so that damage is found while
//! other members still have what was damaged.

use super::shared::Shared;
use crate::env::recorder;
use crate::storage::error::StorageError;
use crate::storage::manifest::{KEPT, Manifest};
use crate::storage::run::Run;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that are read between two pauses, at least.
const PIECE_BYTES: u64 = 64 << 10;

/// Reads all there is, and begins again; runs until the server stops.
pub async fn run(shared: Arc<Shared>) {
    if shared.checkpoints.scrub_bytes_per_second == 0 {
        return;
    }
    loop {
        let next = shared.env.clock.now() + shared.checkpoints.scrub_interval;
        for meta in shared.runs.metas() {
            // One that is gone was rewritten meanwhile.
            let Some(run) = shared.runs.get(meta.id) else { continue };
            if shared.runs.damage.is_damaged(meta.id) {
                continue;
            }
            if let Err(error) = scrub(&shared, &run).await {
                found(&shared, &error);
                shared.runs.damage.report(meta.id);
            }
        }
        scrub_manifests(&shared);
        shared.metrics.scrubs_total.inc();
        shared.env.clock.sleep_until(next).await;
    }
}

fn found(shared: &Shared, error: &StorageError) {
    tracing::error!(%error, "the scrub found damage");
    shared.metrics.scrub_damage_total.inc();
    shared.env.recorder.record(&recorder::Event::ScrubFound);
}

/// Reads a run whole, at the pace that the options set.
async fn scrub(shared: &Shared, run: &Run) -> Result<(), StorageError> {
    let mut read = run.verify_ends()?;
    for number in 0..run.blocks() {
        if read >= PIECE_BYTES {
            pause(shared, &mut read).await;
        }
        read += run.verify_block(number)?;
    }
    pause(shared, &mut read).await;
    Ok(())
}

/// Waits as long as so many bytes may take.
async fn pause(shared: &Shared, read: &mut u64) {
    shared.metrics.scrub_bytes_total.inc_by(*read);
    let rate = shared.checkpoints.scrub_bytes_per_second as f64;
    let pause = Duration::from_secs_f64(std::mem::take(read) as f64 / rate);
    shared.env.clock.sleep(pause).await;
}

/// A manifest that does not verify is good for nothing; another one takes its place.
fn scrub_manifests(shared: &Shared) {
    let (disk, dir) = (&*shared.env.disk, &*shared.run_dir);
    // One that is not there any more was cleaned up meanwhile.
    for sequence in Manifest::sequences(disk, dir).unwrap_or_default().into_iter().take(KEPT) {
        if let Err(error @ StorageError::Damaged { .. }) = Manifest::load(disk, dir, sequence) {
            found(shared, &error);
            shared.runs.damage.report_manifest();
            shared.checkpoint.notify_one();
        }
    }
}
