//! Fetching another member's checkpoint and putting it in the place of this member's state.
//!
//! The order is what makes a crash at any point harmless: the runs are received under temporary
//! names and verified whole; the manifest names them, durably; the state machine is swapped
//! between two entries; the log starts over. A crash before the manifest leaves the old state, and
//! one after it is completed at the next start (`storage/checkpoint.rs`, `finish_install`).

use super::checkpointer::Checkpointer;
use super::event::{Event, Swap};
use super::runs::restore;
use super::state_check::Rebuild;
use crate::apply::machine::{Position, StateMachine};
use crate::apply::snapshot::recorded_hash;
use crate::env::recorder::{self, Standing, Transfer as Step};
use crate::metrics::hex;
use crate::mvcc::restore::Restored;
use crate::mvcc::revision::Revision;
use crate::pb::raftpb::{FetchSnapshotRequest, SnapshotChunk};
use crate::raft::message::{Index, NodeId};
use crate::raft::ready::SnapshotOffer;
use crate::storage::error::StorageError;
use crate::storage::manifest::Manifest;
use crate::storage::run::{Run, RunMeta};
use crate::storage::run_receiver::RunReceiver;
use bytes::{Buf, Bytes, BytesMut};
use std::path::Path;
use tokio::sync::oneshot;

/// Streams that may break before the leader's next offer is waited for.
const ATTEMPTS_MAX: u32 = 20;
/// Nothing is applied while a rebuild goes on, so it is given up sooner.
const REBUILD_ATTEMPTS_MAX: u32 = 3;
/// A manifest is a few kilobytes and the leases; more than this is no manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// Why a fetch ended without a checkpoint.
enum Broken {
    /// The way to the other member, or what came over it. Another attempt may do.
    Transfer(String),
    /// The other member's copy is damaged: it will offer another one.
    Sender(String),
    /// This member's own disk.
    Storage(StorageError),
}

impl From<StorageError> for Broken {
    fn from(error: StorageError) -> Broken {
        match error {
            // What came does not verify: it is the sender's or the network's, not this disk's.
            StorageError::Damaged { .. } => Broken::Transfer(error.to_string()),
            error => Broken::Storage(error),
        }
    }
}

/// Installs the state that a leader offers, unless the log gets there first. Trouble on the way is
/// no error: the leader offers again.
///
/// # Errors
/// When this member's disk fails.
pub async fn install(owner: &mut Checkpointer, offer: SnapshotOffer) -> Result<(), StorageError> {
    let applied = owner.shared.view().applied;
    if offer.index <= applied {
        return Ok(());
    }
    let shared = owner.shared.clone();
    shared.env.recorder.record(&recorder::Event::Transfer(Step::Begun));
    let source = Source { from: offer.from, index: offer.index, index_min: 0 };
    let done = install_from(owner, source).await;
    shared.env.recorder.record(&recorder::Event::Transfer(Step::Ended));
    done
}

async fn install_from(owner: &mut Checkpointer, source: Source) -> Result<(), StorageError> {
    let Some((manifest, metas)) = receive(owner, source, ATTEMPTS_MAX).await? else {
        return Ok(());
    };
    let Some(received) = restore_received(owner, &manifest, &metas).await? else { return Ok(()) };
    let index = received.applied().index;
    let (reply, allowed) = oneshot::channel();
    let asked = owner.shared.inbox.send(Event::PrepareInstall { index, reply }).await.is_ok();
    if !asked || allowed.await != Ok(true) {
        // The log was faster, or the server is stopping. The next cleaning up removes the runs.
        return Ok(());
    }
    swap(owner, received, metas).await
}

/// Puts another member's state in the place of this one's, which is damaged. The log and what this
/// member has voted stay as they are: what it has applied behind the other's checkpoint, it applies
/// again from its own log. Nothing is applied meanwhile, and everything is acknowledged. Trouble on
/// the way is no error: the next comparison asks again.
///
/// # Errors
/// When this member's disk fails.
pub async fn rebuild(owner: &mut Checkpointer, wish: Rebuild) -> Result<(), StorageError> {
    let shared = owner.shared.clone();
    if shared.standing() != Standing::Quarantined {
        return Ok(());
    }
    let (reply, held) = oneshot::channel();
    // Without the consensus task the server is stopping.
    let _stopping = shared.inbox.send(Event::HoldApply { reply }).await;
    let Ok(Some(index_min)) = held.await else { return Ok(()) };
    tracing::info!(from = hex(wish.from), index_min, "rebuilding the state from another member");
    let source = Source { from: wish.from, index: index_min, index_min };
    shared.env.recorder.record(&recorder::Event::Transfer(Step::Begun));
    let done = rebuild_from(owner, source).await;
    shared.env.recorder.record(&recorder::Event::Transfer(Step::Ended));
    if !matches!(done, Ok(true)) {
        let _stopping = shared.inbox.send(Event::AbortInstall).await;
    }
    done.map(|_| ())
}

/// Whether it came to an install.
async fn rebuild_from(owner: &mut Checkpointer, source: Source) -> Result<bool, StorageError> {
    let Some((manifest, metas)) = receive(owner, source, REBUILD_ATTEMPTS_MAX).await? else {
        return Ok(false);
    };
    if manifest.applied_index < source.index_min {
        tracing::warn!(index = manifest.applied_index, "the other's checkpoint is too old");
        return Ok(false);
    }
    match restore_received(owner, &manifest, &metas).await? {
        Some(received) => swap(owner, received, metas).await.map(|()| true),
        None => Ok(false),
    }
}

/// From whom a checkpoint is fetched, which one best, and how far it must reach.
#[derive(Clone, Copy)]
struct Source {
    from: NodeId,
    index: Index,
    index_min: Index,
}

/// Fetches a checkpoint whole and opens its runs; nothing when that did not come about in so many
/// attempts.
async fn receive(
    owner: &Checkpointer,
    source: Source,
    attempts: u32,
) -> Result<Option<(Manifest, Vec<RunMeta>)>, StorageError> {
    let mut transfer = Transfer::default();
    let (shared, from) = (owner.shared.clone(), hex(source.from));
    let (metrics, from) = (&shared.metrics, [from.as_str()]);
    let begun = shared.env.clock.now();
    for _ in 0..attempts {
        let inflight = metrics.snapshot_receive_inflights_total.with_label_values(&from);
        inflight.inc();
        let fetched = fetch(owner, source, &mut transfer).await;
        inflight.dec();
        match fetched {
            Ok(()) => {
                let took = (shared.env.clock.now() - begun).as_secs_f64();
                let durations = &metrics.snapshot_receive_total_duration_seconds;
                durations.with_label_values(&from).observe(took);
                metrics.snap_db_save_total_duration_seconds.observe(took);
                metrics.snapshot_receive_success.with_label_values(&from).inc();
                let (manifest, runs) = transfer.into_parts();
                let metas = runs.iter().map(|run| *run.meta()).collect();
                runs.into_iter().for_each(|run| shared.runs.open(run));
                return Ok(Some((manifest, metas)));
            }
            Err(Broken::Storage(error)) => return Err(error),
            Err(broken @ (Broken::Transfer(_) | Broken::Sender(_))) => {
                let reason = match broken {
                    Broken::Sender(reason) => {
                        transfer = Transfer::default();
                        reason
                    }
                    Broken::Transfer(reason) => reason,
                    Broken::Storage(_) => unreachable!("matched above"),
                };
                metrics.snapshot_receive_failures.with_label_values(&from).inc();
                tracing::info!(reason, from = hex(source.from), "snapshot interrupted");
                owner.shared.env.clock.sleep(owner.shared.election_timeout / 4).await;
            }
        }
    }
    Ok(None)
}

/// What has been received so far.
#[derive(Default)]
struct Transfer {
    received: u64,
    /// Bytes of the head, until the manifest is whole.
    head: BytesMut,
    manifest: Option<Manifest>,
    runs: Vec<Run>,
    receiver: Option<RunReceiver>,
}

impl Transfer {
    fn into_parts(self) -> (Manifest, Vec<Run>) {
        (self.manifest.expect("a whole transfer holds the manifest"), self.runs)
    }

    /// Takes the next piece in.
    async fn take(&mut self, owner: &Checkpointer, mut data: Bytes) -> Result<(), Broken> {
        self.received += data.len() as u64;
        while !data.is_empty() {
            if self.manifest.is_none() {
                self.take_head(&mut data, &owner.dir)?;
                continue;
            }
            let receiver = match &mut self.receiver {
                Some(receiver) => receiver,
                None => self.begin_run(owner)?,
            };
            let left = receiver.missing();
            let piece = data.split_to(usize::try_from(left).unwrap_or(usize::MAX).min(data.len()));
            receiver.push(&piece).await?;
            if receiver.missing() == 0 {
                let receiver = self.receiver.take().expect("it was just filled");
                self.runs.push(receiver.finish().await?);
            }
        }
        Ok(())
    }

    fn take_head(&mut self, data: &mut Bytes, dir: &Path) -> Result<(), Broken> {
        self.head.extend_from_slice(data);
        data.clear();
        let Some(length) = self.head.first_chunk::<8>() else { return Ok(()) };
        let length = u64::from_le_bytes(*length);
        if length > MANIFEST_BYTES_MAX {
            return Err(Broken::Transfer(format!("a manifest of {length} bytes is announced")));
        }
        let end = 8 + usize::try_from(length).expect("it is bounded");
        if self.head.len() >= end {
            let mut head = std::mem::take(&mut self.head).freeze();
            head.advance(8);
            let manifest = head.split_to(end - 8);
            self.manifest = Some(Manifest::decode(&manifest, &dir.join("received"))?);
            *data = head;
        }
        Ok(())
    }

    fn begin_run(&mut self, owner: &Checkpointer) -> Result<&mut RunReceiver, Broken> {
        let manifest = self.manifest.as_ref().expect("runs come behind the manifest");
        let Some(meta) = manifest.runs.get(self.runs.len()) else {
            return Err(Broken::Transfer("there is more than the manifest names".to_string()));
        };
        let receiver = RunReceiver::new(owner.disk(), &owner.dir, *meta)?;
        Ok(self.receiver.insert(receiver))
    }

    fn is_whole(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.runs.len() == self.runs.len())
    }
}

/// Receives until all is there, going on where an earlier attempt broke off.
async fn fetch(
    owner: &Checkpointer,
    source: Source,
    transfer: &mut Transfer,
) -> Result<(), Broken> {
    let interrupted = |status: tonic::Status| match status.code() {
        tonic::Code::DataLoss => Broken::Sender(status.to_string()),
        _ => Broken::Transfer(status.to_string()),
    };
    let client = owner.peers.client(source.from);
    let mut client = client.ok_or_else(|| Broken::Transfer("no address".to_string()))?;
    let begun = transfer.manifest.as_ref().map(|manifest| manifest.applied_index);
    let broke_at = begun.map_or(0, |_| transfer.received);
    let request = FetchSnapshotRequest {
        header: Some(owner.peers.header(source.from)),
        index: begun.unwrap_or(source.index),
        index_min: source.index_min,
        offset: broke_at,
    };
    // The other one takes a checkpoint first, if it has none that reaches so far.
    let patience = owner.shared.request_timeout() + owner.shared.election_timeout;
    let opened = tokio::select! {
        biased;
        opened = client.fetch_snapshot(request) => opened.map_err(interrupted)?,
        () = owner.shared.env.clock.sleep(patience) => {
            return Err(Broken::Transfer("the sender does not answer".to_string()));
        }
    };
    let mut stream = opened.into_inner();
    loop {
        let patience = owner.shared.env.clock.sleep(4 * owner.shared.election_timeout);
        let piece = tokio::select! {
            biased;
            piece = stream.message() => piece.map_err(interrupted)?,
            () = patience => return Err(Broken::Transfer("the sender went silent".to_string())),
        };
        let Some(SnapshotChunk { offset, data, crc32c, .. }) = piece else {
            return Err(Broken::Transfer("the stream ended early".to_string()));
        };
        if crc32c::crc32c(&data) != crc32c {
            return Err(Broken::Transfer(format!("the piece at {offset} does not verify")));
        }
        if offset == 0 && transfer.received > 0 {
            *transfer = Transfer::default();
        } else if offset > 0 && offset == broke_at {
            owner.shared.env.recorder.record(&recorder::Event::Transfer(Step::Resumed));
        }
        if offset != transfer.received {
            let have = transfer.received;
            *transfer = Transfer::default();
            return Err(Broken::Transfer(format!("a piece at {offset} came behind {have}")));
        }
        if data.is_empty() {
            return match transfer.is_whole() {
                true => Ok(()),
                false => Err(Broken::Transfer("the sender ended early".to_string())),
            };
        }
        if let Err(broken) = transfer.take(owner, data).await {
            // What did not verify is fetched anew.
            *transfer = Transfer::default();
            return Err(broken);
        }
    }
}

/// The state that a whole checkpoint describes; nothing if it can't be read any more, or is not the
/// one that was written down, because then the sender's copy is damaged.
async fn restore_received(
    owner: &Checkpointer,
    received: &Manifest,
    metas: &[RunMeta],
) -> Result<Option<StateMachine>, StorageError> {
    let (shared, table) = (&owner.shared, &owner.shared.runs);
    let restored =
        Restored { revision: received.revision, compact_revision: received.compact_revision };
    let budget = shared.checkpoints.resident_bytes;
    let store = match restore(table, metas, restored, budget).await {
        Ok(store) => store,
        Err(damaged @ StorageError::Damaged { .. }) => {
            // It verified when it came, and this member still has its own.
            tracing::error!(%damaged, "the snapshot was damaged where it lies");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let applied = Position { index: received.applied_index, term: received.applied_term };
    let min_ttl = shared.lease_ttl_secs_min;
    let state = match StateMachine::from_image(store, applied, &received.sections, min_ttl) {
        Ok(state) => state,
        Err(bad) => {
            tracing::error!(%bad, "the snapshot cannot be used");
            return Ok(None);
        }
    };
    if recorded_hash(&received.sections).is_some_and(|hash| hash != state.state_hash()) {
        tracing::error!("the snapshot is not the state that it was taken of");
        return Ok(None);
    }
    Ok(Some(state))
}

/// Puts a verified state in the place of the present one; applying was stopped for it.
async fn swap(
    owner: &mut Checkpointer,
    state: StateMachine,
    metas: Vec<RunMeta>,
) -> Result<(), StorageError> {
    let shared = owner.shared.clone();
    shared.metrics.snapshot_apply_in_progress_total.inc();
    let swapped = put_in_place(owner, state, metas).await;
    shared.metrics.snapshot_apply_in_progress_total.dec();
    swapped
}

async fn put_in_place(
    owner: &mut Checkpointer,
    state: StateMachine,
    metas: Vec<RunMeta>,
) -> Result<(), StorageError> {
    let shared = owner.shared.clone();
    let (image, index) = (state.image(), state.applied().index);
    let mut manifest = owner.manifest(&image);
    (manifest.installed, manifest.runs) = (true, metas.clone());
    if let Err(error) = owner.store(&manifest).await {
        let _stopping = shared.inbox.send(Event::AbortInstall).await;
        return Err(error);
    }
    let (done, swapped) = oneshot::channel();
    let swap = Swap { state, runs: metas, done };
    let sent = shared.inbox.send(Event::Install(Box::new(swap))).await.is_ok();
    if !sent || swapped.await.is_err() {
        return Ok(());
    }
    tracing::info!(index, revision = image.revision, "snapshot installed");
    let bytes = shared.view().applied_bytes;
    owner.evicted = Revision::default();
    owner.stored(&manifest, bytes).await
}
