//! Makes entries, terms and votes durable, one batch at a time.
//!
//! Group commit without a timer: while one batch is being synced, what arrives waits, and leaves
//! together as the next one. A slow disk makes batches bigger; it never stops ticks or heartbeats,
//! which belong to another task.

use super::event::Event;
use super::peers::Peers;
use super::shared::{Shared, StopReason};
use crate::env::recorder;
use crate::raft::message::HardState;
use crate::raft::ready::Write;
use crate::storage::wal::{Wal, WalBatch};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Writes of one sync at the most, so that a long stall does not end in one giant write.
const BATCH_WRITES_MAX: usize = 1024;

/// Owns the log; runs until the consensus task is gone or the disk has failed.
pub async fn run(
    mut wal: Wal,
    mut writes: mpsc::UnboundedReceiver<Write>,
    peers: Arc<Peers>,
    shared: Arc<Shared>,
) {
    while let Some(first) = writes.recv().await {
        let mut batch = vec![first];
        while batch.len() < BATCH_WRITES_MAX
            && let Ok(write) = writes.try_recv()
        {
            batch.push(write);
        }
        if !write_batch(&mut wal, batch, &peers, &shared).await {
            return;
        }
    }
}

/// Returns whether the log is still to be trusted.
async fn write_batch(wal: &mut Wal, mut batch: Vec<Write>, peers: &Peers, shared: &Shared) -> bool {
    let started = shared.env.clock.now();
    let seq = batch.last().expect("a batch holds at least one write").seq;
    let mut after = Vec::new();
    let mut records = Vec::with_capacity(batch.len());
    for write in &mut batch {
        assert!(write.restart.is_none(), "the log starts over without an installed snapshot");
        after.append(&mut write.messages);
        records.push(WalBatch {
            hard_state: write.hard_state,
            entries: std::mem::take(&mut write.entries),
        });
    }
    if let Err(error) = wal.append(&records).await {
        // A failed sync is never retried: the page cache may have forgotten what it held.
        shared.stop(StopReason::Disk(error.to_string()));
        return false;
    }
    let took = shared.env.clock.now() - started;
    shared.metrics.wal_fsync_duration_seconds.observe(took.as_secs_f64());
    record(shared, &records, took);
    // Votes and acknowledgements are promises about what is on the disk: they leave now.
    for message in after {
        peers.send(message);
    }
    shared.inbox.send(Event::Persisted { seq }).await.is_ok()
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
