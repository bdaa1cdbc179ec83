//! Sending a checkpoint to a member that fell behind the log.
//!
//! What travels is one stream of bytes: the length of the manifest, the manifest, and its runs one
//! after the other, cut into pieces with a checksum each. A receiver that was interrupted names
//! the checkpoint and says how much it has. While a checkpoint is being sent, its files and the
//! log behind it stay.

use super::event::Event;
use super::shared::Shared;
use crate::env::clock::Mono;
use crate::env::recorder::Standing;
use crate::metrics::hex;
use crate::pb::raftpb::{FetchSnapshotRequest, SnapshotChunk};
use crate::raft::message::{Index, NodeId};
use crate::storage::checkpoint::Checkpoint;
use crate::storage::error::StorageError;
use crate::storage::manifest::Manifest;
use crate::storage::run;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use tonic::Status;

/// A checkpoint on its way to one member.
pub struct Outgoing {
    shared: Arc<Shared>,
    to: NodeId,
    number: u64,
    checkpoint: Checkpoint,
    /// The length of the manifest and the manifest.
    head: Bytes,
    offset: u64,
    total: u64,
    ended: bool,
    begun: Mono,
}

impl Outgoing {
    /// Opens the newest checkpoint, or the one that the receiver has begun with.
    ///
    /// # Errors
    /// `NotFound` before the first checkpoint, `DataLoss` when all are damaged, `Internal` when
    /// they can't be read.
    #[allow(clippy::result_large_err, reason = "a status is what the transport takes")]
    pub fn open(
        shared: &Arc<Shared>,
        to: NodeId,
        request: &FetchSnapshotRequest,
    ) -> Result<Outgoing, Status> {
        // What somebody begins anew is the newest.
        let begun = if request.offset > 0 { request.index } else { 0 };
        let opened = find(shared, begun);
        let checkpoint = opened
            .map_err(|error| refusal(&error))?
            .ok_or_else(|| Status::not_found("there is no checkpoint yet"))?;
        let manifest = checkpoint.manifest.encode();
        let mut head = BytesMut::with_capacity(8 + manifest.len());
        head.put_u64_le(manifest.len() as u64);
        head.extend_from_slice(&manifest);
        let runs: u64 = checkpoint.manifest.runs.iter().map(|run| run.bytes).sum();
        let total = head.len() as u64 + runs;
        // Another checkpoint than the one that was begun is sent from its start.
        let is_begun = checkpoint.manifest.applied_index == request.index;
        let offset = if is_begun { request.offset.min(total) } else { 0 };
        let number = shared.sent.enter(&checkpoint.manifest);
        let (shared, head) = (shared.clone(), head.freeze());
        shared.metrics.snapshot_send_inflights_total.with_label_values(&[&hex(to)]).inc();
        let begun = shared.env.clock.now();
        Ok(Outgoing { shared, to, number, checkpoint, head, offset, total, ended: false, begun })
    }

    /// The next piece; none at the end.
    #[allow(clippy::result_large_err, reason = "a status is what the transport takes")]
    pub fn next_piece(&mut self) -> Option<Result<SnapshotChunk, Status>> {
        if self.ended {
            return None;
        }
        // An empty piece ends the stream and says that this was all.
        self.ended = self.offset == self.total;
        let data = match self.read() {
            Ok(data) => data,
            Err(error) => {
                self.ended = true;
                report(&self.shared, &error);
                return Some(Err(refusal(&error)));
            }
        };
        let (offset, crc32c) = (self.offset, crc32c::crc32c(&data));
        self.offset += data.len() as u64;
        Some(Ok(SnapshotChunk { offset, data, crc32c, total_bytes: self.total }))
    }

    fn read(&self) -> Result<Bytes, StorageError> {
        let (head, piece) = (self.head.len() as u64, self.shared.checkpoints.piece_bytes);
        if self.offset < head {
            let start = self.offset as usize;
            return Ok(self.head.slice(start..self.head.len().min(start + piece)));
        }
        let mut start = head;
        for run in &self.checkpoint.runs {
            let end = start + run.meta().bytes;
            if self.offset < end {
                // What is damaged here must not travel, and the sender has to know of it.
                run.verify_blocks_from(self.offset - start, piece)?;
                return run.raw(self.offset - start, piece);
            }
            start = end;
        }
        Ok(Bytes::new())
    }
}

/// Waits for a checkpoint that reaches `index`, and takes one if none does yet.
///
/// # Errors
/// When this member's state is known to be damaged, or does not come so far in all the time that a
/// request may wait.
#[allow(clippy::result_large_err, reason = "a status is what the transport takes")]
pub async fn await_checkpoint(shared: &Shared, index: Index) -> Result<(), Status> {
    if shared.standing() == Standing::Quarantined {
        return Err(Status::unavailable("the state of this member is damaged"));
    }
    tokio::select! {
        biased;
        () = shared.checkpoint_at(index) => Ok(()),
        () = shared.env.clock.sleep(shared.request_timeout()) => {
            Err(Status::unavailable(format!("there is no checkpoint at {index} yet")))
        }
    }
}

/// What a receiver is told of a failure: of damage, that it should begin anew.
fn refusal(error: &StorageError) -> Status {
    match error {
        StorageError::Damaged { .. } => Status::data_loss(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

/// Has damage repaired that was met here: whoever is sent this checkpoint next would meet it again.
fn report(shared: &Shared, error: &StorageError) {
    let StorageError::Damaged { path, .. } = error else { return };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    match name.as_deref().and_then(run::parse_name) {
        Some(run) => shared.runs.damage.report(run),
        None => {
            shared.runs.damage.report_manifest();
            shared.checkpoint.notify_one();
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.shared.sent.leave(self.number);
        let (peer, ok) = (self.to, self.offset == self.total);
        let (metrics, to) = (&self.shared.metrics, hex(peer));
        metrics.snapshot_send_inflights_total.with_label_values(&[&to]).dec();
        if ok {
            let took = (self.shared.env.clock.now() - self.begun).as_secs_f64();
            metrics.snapshot_send_success.with_label_values(&[&to]).inc();
            metrics.snapshot_send_total_duration_seconds.with_label_values(&[&to]).observe(took);
        } else {
            metrics.snapshot_send_failures.with_label_values(&[&to]).inc();
        }
        // With the inbox full the core asks again by itself after an election timeout.
        let _full = self.shared.inbox.try_send(Event::SnapshotSent { peer, ok });
    }
}

/// The checkpoint at `index` if it is still there, else the newest that is whole.
fn find(shared: &Shared, index: Index) -> Result<Option<Checkpoint>, StorageError> {
    let (disk, dir) = (&*shared.env.disk, &*shared.run_dir);
    let mut sequences = Manifest::sequences(disk, dir)?;
    let is_begun = |sequence: &u64| {
        index > 0
            && Manifest::load(disk, dir, *sequence).is_ok_and(|found| found.applied_index == index)
    };
    // The one that was begun comes first.
    sequences.sort_by_key(|sequence| !is_begun(sequence));
    let mut damaged = None;
    for sequence in sequences {
        match Checkpoint::open(disk, dir, sequence) {
            Ok(found) => return Ok(Some(found)),
            Err(error @ StorageError::Damaged { .. }) => {
                report(shared, &error);
                damaged.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    damaged.map_or(Ok(None), Err)
}
