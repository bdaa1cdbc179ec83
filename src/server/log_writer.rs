//! Makes entries, terms and votes durable, one batch at a time.
//!
//! Group commit without a timer: while one batch is being synced, what arrives waits, and leaves
//! together as the next one. A slow disk makes batches bigger; it never stops ticks or heartbeats,
//! which belong to another task.

use super::event::Event;
use super::peers::Peers;
use super::shared::{Shared, StopReason};
use crate::env::recorder;
use crate::raft::message::{HardState, Index};
use crate::raft::ready::Write;
use crate::storage::error::StorageError;
use crate::storage::wal::{Wal, WalBatch};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Writes of one sync at the most, so that a long stall does not end in one giant write.
const BATCH_WRITES_MAX: usize = 1024;

/// What the log is asked for.
pub enum LogJob {
    Write(Write),
    /// A checkpoint holds everything up to here.
    Release {
        up_to: Index,
    },
}

/// Owns the log; runs until the consensus task is gone or the disk has failed.
pub async fn run(
    mut wal: Wal,
    mut jobs: mpsc::UnboundedReceiver<LogJob>,
    peers: Arc<Peers>,
    shared: Arc<Shared>,
) {
    let mut next = None;
    loop {
        let job = match next.take() {
            Some(job) => job,
            None => match jobs.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        let done = match job {
            LogJob::Release { up_to } => wal.release(up_to).await.map(|_| ()),
            LogJob::Write(first) => {
                let mut batch = vec![first];
                while batch.len() < BATCH_WRITES_MAX
                    && let Ok(job) = jobs.try_recv()
                {
                    match job {
                        // A log that starts over begins a batch of its own.
                        LogJob::Write(write) if write.restart.is_none() => batch.push(write),
                        other => {
                            next = Some(other);
                            break;
                        }
                    }
                }
                write_batch(&mut wal, batch, &peers, &shared).await
            }
        };
        if let Err(error) = done {
            // A failed sync is never retried: the page cache may have forgotten what it held.
            shared.stop(StopReason::Disk(error.to_string()));
            return;
        }
    }
}

async fn write_batch(
    wal: &mut Wal,
    mut batch: Vec<Write>,
    peers: &Peers,
    shared: &Shared,
) -> Result<(), StorageError> {
    let started = shared.env.clock.now();
    let seq = batch.last().expect("a batch holds at least one write").seq;
    if let Some((index, term)) = batch[0].restart {
        let before = wal.hard_state();
        let after = batch[0].hard_state.unwrap_or(before);
        wal.reset(index, term, HardState { commit: after.commit.max(index), ..after }).await?;
        let took = shared.env.clock.now() - started;
        let event = recorder::Event::Persisted { last_index: index, entries: 0, took };
        shared.env.recorder.record(&event);
    }
    let mut after = Vec::new();
    let mut records = Vec::with_capacity(batch.len());
    for write in &mut batch {
        after.append(&mut write.messages);
        records.push(WalBatch {
            hard_state: write.hard_state,
            entries: std::mem::take(&mut write.entries),
        });
    }
    wal.append(&records).await?;
    let took = shared.env.clock.now() - started;
    shared.metrics.wal_fsync_duration_seconds.observe(took.as_secs_f64());
    record(shared, &records, took);
    // Votes and acknowledgements are promises about what is on the disk: they leave now.
    for message in after {
        peers.send(message);
    }
    // Without the consensus task the server is stopping.
    let _stopping = shared.inbox.send(Event::Persisted { seq }).await;
    Ok(())
}

fn record(shared: &Shared, records: &[WalBatch], took: std::time::Duration) {
    if let Some(HardState { term, vote, commit }) = records.iter().rev().find_map(|r| r.hard_state)
    {
        shared.env.recorder.record(&recorder::Event::HardState { term, vote, commit });
    }
    let entries: usize = records.iter().map(|r| r.entries.len()).sum();
    if let Some(last) = records.iter().rev().find_map(|r| r.entries.last()) {
        let event = recorder::Event::Persisted { last_index: last.index, entries, took };
        shared.env.recorder.record(&event);
    }
}
