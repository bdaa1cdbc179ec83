//! Checkpoints: writes down what changed since the last one, releases the log behind it, lets
//! values leave memory, and rewrites runs that are mostly dead.
//!
//! One task owns the directory of runs, so checkpoints, rewrites and installs of a leader's
//! snapshot never meet there. The cost of a checkpoint follows what changed, never what is stored:
//! the records since the last one become a run, and a manifest names all runs with the rest of the
//! state.

use super::event::Event;
use super::log_writer::LogJob;
use super::peers::Peers;
use super::runs::{to_location, to_revision, to_stored};
use super::shared::Shared;
use super::state_check;
use crate::apply::snapshot::Image;
use crate::env::clock::Mono;
use crate::env::disk::Disk;
use crate::env::pace::{BURST, Pace};
use crate::env::recorder;
use crate::mvcc::record::{Location, Record, Value};
use crate::mvcc::revision::Revision;
use crate::mvcc::store::Store;
use crate::raft::message::Index;
use crate::storage::checkpoint::{NextNumbers, clean_up, next_rewrite};
use crate::storage::error::StorageError;
use crate::storage::manifest::Manifest;
use crate::storage::record::{self as stored, RecordRevision};
use crate::storage::run::{Run, RunMeta};
use crate::storage::run_writer::{RunWriter, rewrite};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Records that are taken out of the store under one hold of the state.
const CHUNK_RECORDS: usize = 256;
/// Bytes of keys and values read while moving values between two moments for other tasks.
const CHUNK_BYTES: usize = 256 << 10;
/// A checkpoint that follows another one so soon means that much is written: then eviction and
/// rewriting have to keep up, and writers wait for their like anyway.
const SOON: Duration = Duration::from_secs(5);
/// How long work goes on before a rest then.
const HURRIED_BURST: Duration = Duration::from_millis(2);

/// Holds back the physical removal of compacted records, while somebody reads the state as it was
/// at one moment.
pub struct SweepPin(Arc<Shared>);

impl SweepPin {
    /// The caller holds the state, so that the moment is that of its reading.
    pub fn new(shared: &Arc<Shared>) -> SweepPin {
        shared.sweep_pins.update(|pins| *pins += 1);
        SweepPin(shared.clone())
    }
}

impl Drop for SweepPin {
    fn drop(&mut self) {
        self.0.sweep_pins.update(|pins| *pins -= 1);
    }
}

/// What became of the records since the last checkpoint.
enum Written {
    Run(u64),
    /// There were none.
    Nothing,
    /// A record is not what it was when it came.
    Damage,
}

/// The owner of the directory of runs.
pub struct Checkpointer {
    pub(super) shared: Arc<Shared>,
    pub(super) peers: Arc<Peers>,
    pub(super) dir: PathBuf,
    pub(super) next: NextNumbers,
    /// The newest checkpoint: its entry, and the revision up to which runs hold the records.
    pub(super) index: Index,
    pub(super) revision: i64,
    /// What was rewritten since the newest manifest, which does not name it yet.
    rewritten: bool,
    log: mpsc::UnboundedSender<LogJob>,
    /// No value up to here is in memory.
    pub(super) evicted: Revision,
    /// When the last checkpoint was begun, at first when this was made.
    begun: Mono,
    /// How long work in the background goes on before a rest.
    burst: Duration,
}

impl Checkpointer {
    pub fn new(
        shared: Arc<Shared>,
        peers: Arc<Peers>,
        next: NextNumbers,
        log: mpsc::UnboundedSender<LogJob>,
    ) -> Checkpointer {
        let (index, revision) = {
            let (state, newest) = (shared.state(), shared.view().checkpoint);
            (newest, if newest == 0 { 0 } else { state.store.revision() })
        };
        let (dir, evicted) = (shared.run_dir.clone(), Revision::default());
        let (begun, burst) = (shared.env.clock.now(), BURST);
        let rewritten = false;
        Checkpointer {
            shared,
            peers,
            dir,
            next,
            index,
            revision,
            rewritten,
            log,
            evicted,
            begun,
            burst,
        }
    }

    /// Takes a checkpoint, and a second one if runs were rewritten behind it.
    pub async fn checkpoint(&mut self) -> Result<(), StorageError> {
        let last = std::mem::replace(&mut self.begun, self.shared.env.clock.now());
        self.burst = if self.begun - last < SOON { HURRIED_BURST } else { BURST };
        self.take().await?;
        let evicted = self.evict().await;
        self.is_whole(evicted)?;
        while let Some(range) = self.next_rewrite() {
            let rewritten = self.rewrite(range).await;
            if !self.is_whole(rewritten)? {
                break;
            }
        }
        if std::mem::take(&mut self.rewritten) {
            self.take().await?;
        }
        Ok(())
    }

    /// Which runs are to be rewritten next; a damaged one has to be repaired first.
    fn next_rewrite(&self) -> Option<Range<usize>> {
        let metas = self.shared.runs.metas();
        let is_damaged = |meta: &RunMeta| self.shared.runs.damage.is_damaged(meta.id);
        next_rewrite(&metas).filter(|range| !metas[range.clone()].iter().any(is_damaged))
    }

    pub(super) async fn take(&mut self) -> Result<(), StorageError> {
        let started = self.shared.env.clock.now();
        let (image, pin, bytes) = {
            let state = self.shared.state();
            let bytes = self.shared.view().applied_bytes;
            (state.image(), SweepPin::new(&self.shared), bytes)
        };
        if image.revision > self.revision {
            match self.write_run(&image).await? {
                Written::Run(run) => self.shared.runs.append(run),
                Written::Nothing => {}
                Written::Damage => {
                    drop(pin);
                    // What is left of the file has a temporary name. The whole is looked through
                    // before this goes on: a checkpoint of a damaged state is worth nothing.
                    state_check::recheck_once(&self.shared).await;
                    return Ok(());
                }
            }
        }
        // Also if the manifest can't be stored now: the next one names this run.
        self.revision = image.revision;
        drop(pin);
        let manifest = Manifest { runs: self.shared.runs.metas(), ..self.manifest(&image) };
        self.store(&manifest).await?;
        let took = self.shared.env.clock.now() - started;
        let (index, revision) = (manifest.applied_index, manifest.revision);
        self.shared.metrics.snap_save_total_duration_seconds.observe(took.as_secs_f64());
        tracing::debug!(index, revision, ?took, "checkpoint");
        let runs = manifest.runs.len();
        let event = recorder::Event::Checkpointed { index, revision, runs, took };
        self.shared.env.recorder.record(&event);
        self.stored(&manifest, bytes).await
    }

    pub(super) fn disk(&self) -> Arc<dyn Disk> {
        self.shared.env.disk.clone()
    }

    /// For work that nobody waits for.
    fn pace(&self) -> Pace {
        Pace::with_bursts(self.shared.env.clock.clone(), self.burst)
    }

    /// Makes a manifest durable.
    pub(super) async fn store(&self, manifest: &Manifest) -> Result<(), StorageError> {
        let begun = self.shared.env.clock.now();
        manifest.store(&*self.disk(), &self.dir).await?;
        let took = (self.shared.env.clock.now() - begun).as_secs_f64();
        self.shared.metrics.backend_commit_duration_seconds.observe(took);
        self.shared.metrics.snap_fsync_duration_seconds.observe(took);
        Ok(())
    }

    pub(super) fn next_run(&mut self) -> u64 {
        self.next.run += 1;
        self.next.run - 1
    }

    /// The next manifest, for this image and without runs.
    pub(super) fn manifest(&mut self, image: &Image) -> Manifest {
        self.next.manifest += 1;
        Manifest {
            sequence: self.next.manifest - 1,
            cluster_id: self.shared.cluster_id,
            member_id: self.shared.member_id,
            installed: false,
            applied_index: image.applied.index,
            applied_term: image.applied.term,
            conf_state: image.conf_state.clone(),
            revision: image.revision,
            compact_revision: image.compact_revision,
            next_run: self.next.run,
            runs: Vec::new(),
            sections: image.sections.clone(),
        }
    }

    /// Writes the records since the last checkpoint as a run, and opens it.
    async fn write_run(&mut self, image: &Image) -> Result<Written, StorageError> {
        let mut from = Revision::new(self.revision + 1, 0);
        let id = self.next_run();
        let mut writer = RunWriter::new(self.disk(), &self.dir, id)?;
        let mut buried = self.shared.runs.buried(image.revision).into_iter().peekable();
        loop {
            let Some(chunk) = self.records(from, image) else { return Ok(Written::Damage) };
            let last = chunk.last().map(|record| record.revision);
            for record in chunk {
                while let Some((revision, key)) = buried.next_if(|(r, _)| *r < record.revision) {
                    writer.push(&tombstone(revision, key)).await?;
                }
                let value = value_of(&record);
                writer.push(&to_stored(record, value)).await?;
            }
            let Some(last) = last else { break };
            from = Revision::new(last.main, last.sub + 1);
        }
        for (revision, key) in buried {
            writer.push(&tombstone(revision, key)).await?;
        }
        let begun = self.shared.env.clock.now();
        if writer.finish().await?.is_none() {
            return Ok(Written::Nothing);
        }
        let took = (self.shared.env.clock.now() - begun).as_secs_f64();
        self.shared.metrics.snap_db_fsync_duration_seconds.observe(took);
        self.shared.runs.open(Run::open(&*self.disk(), &self.dir, id)?);
        Ok(Written::Run(id))
    }

    /// Some records of the image, from a revision on. A tombstone that a compaction has killed
    /// belongs to them as long as an older run may hold what it ended. Nothing if one of them has
    /// changed in memory since it came.
    fn records(&self, from: Revision, image: &Image) -> Option<Vec<Record>> {
        let state = self.shared.state();
        let (up_to, compacted) = (image.revision, image.compact_revision);
        let records = if self.shared.runs.metas().is_empty() {
            state.store.records_at(from, up_to, compacted, CHUNK_RECORDS)
        } else {
            state.store.records_behind(from, up_to, compacted, CHUNK_RECORDS)
        };
        let last = records.last().map_or(from, |record| record.revision);
        state.store.is_intact(from, last).then_some(records)
    }

    /// A manifest is durable: what came before it may go. It was captured when `bytes` of entries
    /// had been applied.
    pub(super) async fn stored(
        &mut self,
        manifest: &Manifest,
        bytes: u64,
    ) -> Result<(), StorageError> {
        (self.index, self.revision) = (manifest.applied_index, manifest.revision);
        self.shared.checkpointed(self.index, bytes);
        self.shared.runs.damage.manifest_written();
        self.shared.runs.close_others();
        let in_use = self.shared.sent.runs();
        let cleaned = clean_up(&*self.disk(), &self.dir, &in_use).await?;
        let releasable = self.shared.sent.oldest_index().unwrap_or(u64::MAX);
        // Without listeners the server is stopping.
        let up_to = cleaned.releasable.min(releasable);
        let _stopping = self.log.send(LogJob::Release { up_to });
        let _stopping = self.shared.inbox.send(Event::Checkpointed { index: self.index }).await;
        Ok(())
    }

    /// Lets the oldest values go from memory until the rest keeps to the budget.
    async fn evict(&mut self) -> Result<(), StorageError> {
        let budget = self.shared.checkpoints.resident_bytes;
        let mut evicted = self.evicted;
        for meta in self.shared.runs.metas() {
            if self.shared.state().store.resident_bytes() <= budget {
                break;
            }
            if to_revision(meta.last) <= evicted {
                continue;
            }
            let from = evicted;
            let evict = |store: &mut Store, revision, location| {
                if store.resident_bytes() <= budget {
                    return ControlFlow::Break(());
                }
                store.relocate(revision, location);
                evicted = revision;
                ControlFlow::Continue(())
            };
            self.move_values(meta.id, from, evict).await?;
        }
        self.evicted = evicted;
        Ok(())
    }

    /// Writes neighbouring runs as one, without what is dead.
    async fn rewrite(&mut self, range: Range<usize>) -> Result<(), StorageError> {
        let metas: Vec<RunMeta> = self.shared.runs.metas()[range.clone()].to_vec();
        let open = |meta: &RunMeta| self.shared.runs.get(meta.id).expect("it is of the state");
        let old: Vec<Arc<Run>> = metas.iter().map(open).collect();
        let old: Vec<&Run> = old.iter().map(|run| &**run).collect();
        let id = self.next_run();
        let is_oldest = range.start == 0;
        let shared = self.shared.clone();
        // What the store knows it may still ask for. A tombstone hides what older runs hold of
        // its key, so it goes only when there is no older run.
        let keep = |record: &stored::Record| {
            let must_hide = record.tombstone && !is_oldest;
            let revision = Revision::new(record.main, record.sub);
            must_hide || shared.state().store.knows(revision)
        };
        let written = rewrite(&self.disk(), &self.dir, id, &old, keep, &mut self.pace()).await?;
        if written.is_some() {
            self.shared.runs.open(Run::open(&*self.disk(), &self.dir, id)?);
            self.moved(id).await?;
        }
        self.shared.runs.replace(range, written.map(|meta| meta.id));
        self.rewritten = true;
        let bytes = metas.iter().map(|meta| meta.bytes).sum();
        let kept = written.map_or(0, |meta| meta.bytes);
        let event = recorder::Event::Rewritten { runs: metas.len(), bytes, kept };
        self.shared.env.recorder.record(&event);
        Ok(())
    }

    /// Tells the store that values which are not in memory stand in this run now. If it can't be
    /// read to its end, some do, and it is held.
    pub(super) async fn moved(&self, id: u64) -> Result<(), StorageError> {
        let moved = |store: &mut Store, revision, location| {
            store.moved(revision, location);
            ControlFlow::Continue(())
        };
        let done = self.move_values(id, Revision::default(), moved).await;
        if done.is_err() {
            self.shared.runs.hold(id);
        }
        done
    }

    /// Goes through a run in steps, from a revision on, and offers every place to `take` until
    /// that has enough.
    async fn move_values(
        &self,
        id: u64,
        from: Revision,
        mut take: impl FnMut(&mut Store, Revision, Location) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        let run = self.shared.runs.get(id).expect("it was just opened");
        let mut scan = run.scan_from(RecordRevision { main: from.main, sub: from.sub });
        let (mut pace, mut more) = (self.pace(), true);
        while more {
            let mut places = Vec::new();
            let mut read = 0;
            more = false;
            while let Some((record, place)) = scan.next_view()? {
                read += record.key.len() + record.value.len();
                if !record.tombstone && place.length > 0 {
                    let revision = Revision::new(record.main, record.sub);
                    places.push((revision, to_location(place)));
                }
                if read >= CHUNK_BYTES {
                    more = true;
                    break;
                }
            }
            {
                let mut state = self.shared.state_mut();
                for (revision, place) in places {
                    if take(&mut state.store, revision, place).is_break() {
                        return Ok(());
                    }
                }
            }
            pace.rest().await;
        }
        Ok(())
    }
}

fn tombstone(revision: Revision, key: bytes::Bytes) -> stored::Record {
    stored::Record {
        main: revision.main,
        sub: revision.sub,
        tombstone: true,
        key,
        create_revision: 0,
        version: 0,
        lease: 0,
        value: bytes::Bytes::new(),
    }
}

/// The value of a record that no checkpoint holds yet.
fn value_of(record: &Record) -> bytes::Bytes {
    match &record.value {
        Value::Resident(value) => value.clone(),
        Value::Cold(place) => panic!("revision {:?} is cold at {place:?}", record.revision),
    }
}
