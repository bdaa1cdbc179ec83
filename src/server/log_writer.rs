//! Makes entries, terms and votes durable, one batch at a time.
//!
//! Group commit without a timer: while one batch is being synced, what arrives waits, and leaves
//! together as the next one. A slow disk makes batches bigger; it never stops ticks or heartbeats,
//! which belong to another task.

use super::event::Event;
use super::log_remover::LogRemover;
use super::peers::Peers;
use super::shared::{Shared, StopReason};
use crate::env::recorder;
use crate::raft::message::{HardState, Index};
use crate::raft::ready::Write;
use crate::storage::error::StorageError;
use crate::storage::wal::{Wal, WalBatch};
use std::collections::VecDeque;
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
    wal: Wal,
    jobs: mpsc::UnboundedReceiver<LogJob>,
    peers: Arc<Peers>,
    shared: Arc<Shared>,
) {
    let remover = LogRemover::start(shared.clone());
    let mut writer = LogWriter { wal, jobs, put_off: VecDeque::new(), remover, peers, shared };
    while let Some(job) = writer.next().await {
        let done = match job {
            LogJob::Release { up_to } => {
                writer.remover.remove(writer.wal.detach(up_to));
                Ok(())
            }
            LogJob::Write(first) => writer.write_batch(first).await,
        };
        if let Err(error) = done {
            // A failed sync is never retried: the page cache may have forgotten what it held.
            writer.shared.stop(StopReason::Disk(error.to_string()));
            return;
        }
    }
}

struct LogWriter {
    wal: Wal,
    jobs: mpsc::UnboundedReceiver<LogJob>,
    /// What came while the log waited, in order; before anything that is still in `jobs`.
    put_off: VecDeque<LogJob>,
    remover: LogRemover,
    peers: Arc<Peers>,
    shared: Arc<Shared>,
}

impl LogWriter {
    async fn next(&mut self) -> Option<LogJob> {
        match self.put_off.pop_front() {
            Some(job) => Some(job),
            None => self.jobs.recv().await,
        }
    }

    /// The writes that wait behind `first` and may share its sync.
    fn gather(&mut self, first: Write) -> Vec<Write> {
        let mut batch = vec![first];
        while batch.len() < BATCH_WRITES_MAX {
            let job = self.put_off.pop_front().or_else(|| self.jobs.try_recv().ok());
            match job {
                // A log that starts over begins a batch of its own.
                Some(LogJob::Write(write)) if write.restart.is_none() => batch.push(write),
                Some(other) => {
                    self.put_off.push_front(other);
                    break;
                }
                None => break,
            }
        }
        batch
    }

    async fn write_batch(&mut self, first: Write) -> Result<(), StorageError> {
        let started = self.shared.env.clock.now();
        let mut batch = self.gather(first);
        let seq = batch.last().expect("a batch holds at least one write").seq;
        if let Some((index, term)) = batch[0].restart {
            let before = self.wal.hard_state();
            let after = batch[0].hard_state.unwrap_or(before);
            let state = HardState { commit: after.commit.max(index), ..after };
            while let Some(full) = full(self.wal.reset(index, term, state).await)? {
                self.wait_for_room(full).await?;
            }
            let took = self.shared.env.clock.now() - started;
            let event = recorder::Event::Persisted { last_index: index, entries: 0, took };
            self.shared.env.recorder.record(&event);
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
        self.append(&records).await?;
        let shared = &self.shared;
        let took = shared.env.clock.now() - started;
        shared.metrics.wal_fsync_duration_seconds.observe(took.as_secs_f64());
        shared.metrics.wal_write_duration_seconds.observe(took.as_secs_f64());
        let written = i64::try_from(self.wal.written_bytes()).unwrap_or(i64::MAX);
        shared.metrics.wal_write_bytes_total.set(written);
        record(shared, &records, took);
        // Votes and acknowledgements are promises about what is on the disk: they leave now.
        for message in after {
            self.peers.send(message);
        }
        // Without the consensus task the server is stopping.
        let _stopping = shared.inbox.send(Event::Persisted { seq }).await;
        Ok(())
    }

    /// Makes the records durable, however long the disk is full.
    async fn append(&mut self, records: &[WalBatch]) -> Result<(), StorageError> {
        while let Some(full) = full(self.wal.append(records).await)? {
            self.wait_for_room(full).await?;
        }
        Ok(())
    }

    /// Waits until it is worth trying again on a full disk, of which `full` tells. Meanwhile
    /// nothing is acknowledged from here; a checkpoint that releases some of the log makes room.
    async fn wait_for_room(&mut self, full: StorageError) -> Result<(), StorageError> {
        if self.shared.space.log_is_full() {
            return Ok(());
        }
        let pause = self.shared.env.clock.sleep(self.shared.election_timeout / 4);
        let mut pause = std::pin::pin!(pause);
        loop {
            tokio::select! {
                biased;
                job = self.jobs.recv() => match job {
                    Some(LogJob::Release { up_to }) => {
                        if self.wal.release(up_to).await? > 0 {
                            return Ok(());
                        }
                    }
                    Some(write) => self.put_off.push_back(write),
                    // Nobody asks any more: the server is stopping.
                    None => return Err(full),
                },
                () = &mut pause => return Ok(()),
            }
        }
    }
}

/// Tells a disk without room, on which the log is as it was, from success and from failure.
fn full(done: Result<(), StorageError>) -> Result<Option<StorageError>, StorageError> {
    match done {
        Ok(()) => Ok(None),
        Err(full @ StorageError::NoSpace { .. }) => Ok(Some(full)),
        Err(error) => Err(error),
    }
}

fn record(shared: &Shared, records: &[WalBatch], took: std::time::Duration) {
    let mut states = records.iter().filter_map(|r| r.hard_state).peekable();
    while let Some(HardState { term, vote, commit }) = states.next() {
        // Every vote that was given is told of, also one that a later term has overtaken since.
        if states.peek().is_none_or(|next| (next.term, next.vote) != (term, vote)) {
            shared.env.recorder.record(&recorder::Event::HardState { term, vote, commit });
        }
    }
    let entries: usize = records.iter().map(|r| r.entries.len()).sum();
    if let Some(last) = records.iter().rev().find_map(|r| r.entries.last()) {
        let event = recorder::Event::Persisted { last_index: last.index, entries, took };
        shared.env.recorder.record(&event);
    }
}
