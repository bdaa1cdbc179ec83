//! The write-ahead log: what this member has promised, in the order it promised it.
//!
//! One [`Wal::append`] is one batch, one write and one sync, however many groups of entries it
//! carries. Segments are preallocated, so that a sync writes data and no metadata.
//!
//! Invariants:
//! - A batch is written only after the sync of the batch before it returned. So at most the last
//!   batch is torn, and everything before it verifies or has rotted.
//! - Behind the last batch a segment holds zeros. Opening a log restores this before it returns.
//! - A segment is begun only after the last batch of the one before it was synced.
//! - Every segment begins with the metadata and the HardState, so the oldest may be removed.

use crate::env::disk::{Disk, File};
use crate::raft::message::{Entry, HardState};
use crate::storage::directory;
use crate::storage::error::StorageError;
use crate::storage::frame::{self, BatchWriter, Expected, Place};
use crate::storage::replay::{self, Base, Replayed};
use crate::storage::segment::{self, HEADER_BYTES, SegmentHeader, SegmentName, WalMetadata};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A buffer that grew beyond this for one huge batch is given back.
const KEPT_BUFFER_BYTES: u64 = 8 << 20;
/// The first index of a log that never had a checkpoint put in its place.
const FIRST_INDEX: u64 = 1;

#[derive(Clone, Copy, Debug)]
pub struct WalOptions {
    /// The length of a segment; a larger batch gets a segment of its own size.
    pub segment_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions { segment_bytes: 64 << 20 }
    }
}

/// What a log says when it is opened.
#[derive(Debug)]
pub struct WalState {
    pub metadata: WalMetadata,
    pub hard_state: HardState,
    /// The entries after the checkpoint, without gaps; overwritten ones are gone.
    pub entries: Vec<Entry>,
    /// The term of the last entry that the checkpoint holds, if the log still knows it. Another
    /// term than the checkpoint's means that the entries are not its continuation.
    pub term_at_checkpoint: Option<u64>,
    /// What was cut off as torn, in words for the operator.
    pub repaired: Option<String>,
}

/// What is to become durable together.
#[derive(Clone, Debug, Default)]
pub struct WalBatch {
    pub hard_state: Option<HardState>,
    /// Consecutive; the first one may overwrite, and then all above it are gone too.
    pub entries: Vec<Entry>,
}

/// What batches amount to.
struct Content {
    /// The bytes of their records.
    size: usize,
    /// The end of the log after them.
    last_index: u64,
    hard_state: HardState,
}

impl Content {
    fn of(batches: &[WalBatch], last_index: u64, hard_state: HardState) -> Content {
        let mut content = Content { size: 0, last_index, hard_state };
        for batch in batches {
            if let Some(state) = batch.hard_state {
                content.size += frame::hard_state_bytes();
                content.hard_state = state;
            }
            for entry in &batch.entries {
                assert!(
                    entry.index <= content.last_index + 1 && entry.index > 0,
                    "entry {} does not continue a log that ends at {}",
                    entry.index,
                    content.last_index
                );
                content.size += frame::entry_bytes(entry.data.len());
                content.last_index = entry.index;
            }
        }
        content
    }

    /// Writes `batches` into `buffer` as one batch of the log, or nothing if they are empty.
    /// Returns the chain after it.
    fn encode(
        &self,
        batches: &[WalBatch],
        buffer: &mut BytesMut,
        place: Place,
        expected: Expected,
    ) -> u32 {
        if self.size == 0 {
            return expected.chain;
        }
        buffer.reserve(frame::batch_bytes(self.size));
        let mut writer = BatchWriter::new(buffer, expected.chain);
        for batch in batches {
            for entry in &batch.entries {
                writer.entry(entry);
            }
            if let Some(state) = &batch.hard_state {
                writer.hard_state(state);
            }
        }
        let chain = writer.finish(place, expected.sequence);
        assert_eq!(buffer.len(), frame::batch_bytes(self.size), "the size was worked out wrongly");
        chain
    }
}

/// Segments that are no part of the log any more, and still on the disk.
#[must_use]
pub struct Detached {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segments: Vec<PathBuf>,
}

impl Detached {
    /// Removes them, and says how many that were. Replay copes with any subset of these removals.
    pub async fn remove(self) -> Result<usize, StorageError> {
        for path in &self.segments {
            let removed = self.disk.remove_long(path).await;
            removed.map_err(|error| StorageError::io(path, "removing", error))?;
        }
        if !self.segments.is_empty() {
            // The room should be free for good once this returns.
            let synced = self.disk.sync_dir(&self.dir).await;
            synced.map_err(|error| StorageError::io(&self.dir, "syncing", error))?;
        }
        Ok(self.segments.len())
    }
}

/// An open log, positioned behind its last batch.
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: WalOptions,
    metadata: WalMetadata,
    /// All segments, oldest first, with their lengths; the last one is `file`.
    segments: VecDeque<(SegmentName, u64)>,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Where the next batch goes.
    offset: u64,
    /// The sequence number of the next batch.
    batch: u64,
    chain: u32,
    hard_state: HardState,
    last_index: u64,
    /// The encoded batch; kept between appends for its capacity.
    buffer: BytesMut,
    /// Bytes of batches since the log was opened.
    written: u64,
    /// Set while a write is under way and never cleared if it fails or is abandoned.
    in_doubt: bool,
}

impl Wal {
    /// Makes the log of a member that never had one. A crash on the way leaves a directory that
    /// [`Wal::exists`] denies.
    pub async fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        metadata: WalMetadata,
        options: WalOptions,
    ) -> Result<Wal, StorageError> {
        Wal::create_with(disk, dir, metadata, options, &[]).await
    }

    /// Like `create`, with a log that says `batches` from the first moment on: a crash leaves
    /// either no log or all of this.
    pub async fn create_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        metadata: WalMetadata,
        options: WalOptions,
        batches: &[WalBatch],
    ) -> Result<Wal, StorageError> {
        if Wal::exists(&*disk, dir)? {
            return Err(StorageError::AlreadyInitialised { path: dir.to_path_buf() });
        }
        directory::make_durable(&*disk, dir).await?;
        let header = SegmentHeader {
            name: SegmentName { sequence: 0, first_index: FIRST_INDEX },
            metadata,
            hard_state: HardState::default(),
            batch: 0,
            chain: 0,
        };
        let place = Place {
            cluster_id: metadata.cluster_id,
            member_id: metadata.member_id,
            segment: 0,
            offset: HEADER_BYTES,
        };
        let mut buffer = BytesMut::new();
        let content = Content::of(batches, FIRST_INDEX - 1, HardState::default());
        let chain = content.encode(batches, &mut buffer, place, Expected { sequence: 0, chain: 0 });
        let used = HEADER_BYTES + buffer.len() as u64;
        let length = options.segment_bytes.max(used);
        let (path, file) = segment::create(&*disk, dir, &header, &buffer, length).await?;
        buffer.clear();
        Ok(Wal {
            disk,
            dir: dir.to_path_buf(),
            options,
            metadata,
            segments: VecDeque::from([(header.name, length)]),
            path,
            file,
            offset: used,
            batch: u64::from(content.size > 0),
            chain,
            hard_state: content.hard_state,
            last_index: content.last_index,
            buffer,
            written: 0,
            in_doubt: false,
        })
    }

    /// Whether a log was ever completely made in this directory.
    pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, StorageError> {
        let failed = |error| StorageError::io(dir, "looking into", error);
        if !disk.exists(dir).map_err(failed)? {
            return Ok(false);
        }
        let names = disk.list(dir).map_err(failed)?;
        Ok(names.iter().any(|name| SegmentName::parse(name).is_some()))
    }

    /// Reads the log and makes it ready for appending. `after` is the index that the checkpoint
    /// reaches; entries up to it are not returned, and the log may begin behind it but no later.
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        after: u64,
        options: WalOptions,
    ) -> Result<(Wal, WalState), StorageError> {
        let replayed = replay::replay(&*disk, dir, after)?;
        Wal::go_on(disk, dir, options, replayed).await
    }

    /// Like `open`, when no checkpoint can be read: all entries that there are. Says what they
    /// follow, too.
    pub async fn open_rest(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: WalOptions,
    ) -> Result<(Wal, WalState, Base), StorageError> {
        let replayed = replay::replay_rest(&*disk, dir)?;
        let base = replayed.base;
        let (wal, state) = Wal::go_on(disk, dir, options, replayed).await?;
        Ok((wal, state, base))
    }

    async fn go_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: WalOptions,
        replayed: Replayed,
    ) -> Result<(Wal, WalState), StorageError> {
        replay::repair(&*disk, dir, &replayed).await?;
        let Replayed { segments, metadata, hard_state, entries, tail, .. } = replayed;
        let state = WalState {
            metadata,
            hard_state,
            entries,
            term_at_checkpoint: replayed.term_at_checkpoint,
            repaired: replayed.repaired,
        };
        let wal = Wal {
            disk,
            dir: dir.to_path_buf(),
            options,
            metadata,
            segments,
            path: tail.path,
            file: tail.file,
            offset: tail.offset,
            batch: tail.batch,
            chain: tail.chain,
            hard_state,
            last_index: replayed.last_index,
            buffer: BytesMut::new(),
            written: 0,
            in_doubt: false,
        };
        Ok((wal, state))
    }

    /// Makes all of `batches` durable with one write and one sync.
    ///
    /// After `NoSpace` the log is as before and may be appended to again. After any other error
    /// what the disk holds is unknown, and every later append is refused: the process must end.
    pub async fn append(&mut self, batches: &[WalBatch]) -> Result<(), StorageError> {
        let content = Content::of(batches, self.last_index, self.hard_state);
        if content.size == 0 {
            return Ok(());
        }
        self.make_room(frame::batch_bytes(content.size)).await?;
        let place = self.place();
        let expected = Expected { sequence: self.batch, chain: self.chain };
        let chain = content.encode(batches, &mut self.buffer, place, expected);
        self.write(chain).await?;
        (self.last_index, self.hard_state) = (content.last_index, content.hard_state);
        Ok(())
    }

    /// Says durably that a checkpoint at `index` took the place of the whole log. The checkpoint
    /// must be durable before this is called.
    pub async fn reset(
        &mut self,
        index: u64,
        term: u64,
        hard_state: HardState,
    ) -> Result<(), StorageError> {
        let size = frame::reset_bytes() + frame::hard_state_bytes();
        self.make_room(frame::batch_bytes(size)).await?;
        let place = self.place();
        let mut writer = BatchWriter::new(&mut self.buffer, self.chain);
        writer.reset(index, term);
        writer.hard_state(&hard_state);
        let chain = writer.finish(place, self.batch);
        self.write(chain).await?;
        (self.last_index, self.hard_state) = (index, hard_state);
        Ok(())
    }

    /// Removes the segments that hold nothing above `up_to`; the one in use stays. Returns how
    /// many went.
    ///
    /// The log then begins with an entry that its own commit index covers, so that it tells where
    /// a state belongs even when no checkpoint can be read any more.
    pub async fn release(&mut self, up_to: u64) -> Result<usize, StorageError> {
        self.detach(up_to).remove().await
    }

    /// Like `release`, for who removes the segments beside the writing.
    pub fn detach(&mut self, up_to: u64) -> Detached {
        let begin_max = up_to.saturating_add(1).min(self.hard_state.commit);
        let mut segments = Vec::new();
        while let [(oldest, _), (next, _), ..] = self.segments.make_contiguous()
            && next.first_index <= begin_max
        {
            segments.push(self.dir.join(oldest.file_name()));
            self.segments.pop_front();
        }
        Detached { disk: self.disk.clone(), dir: self.dir.clone(), segments }
    }

    /// What the log takes on the disk.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|(_, length)| length).sum()
    }

    /// Bytes of the batches that were written since the log was opened.
    pub fn written_bytes(&self) -> u64 {
        self.written
    }

    /// The sequence number of the oldest segment that is still there.
    pub fn first_segment(&self) -> u64 {
        self.segments.front().map_or(0, |(name, _)| name.sequence)
    }

    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    pub fn metadata(&self) -> WalMetadata {
        self.metadata
    }

    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The index of the last entry, or of the checkpoint that took the place of all.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    fn place(&self) -> Place {
        let (name, _) = self.segments.back().expect("a log has at least one segment");
        Place {
            cluster_id: self.metadata.cluster_id,
            member_id: self.metadata.member_id,
            segment: name.sequence,
            offset: self.offset,
        }
    }

    /// Begins the next segment if a batch of `size` bytes does not fit this one.
    async fn make_room(&mut self, size: usize) -> Result<(), StorageError> {
        if self.in_doubt {
            return Err(StorageError::Poisoned { path: self.path.clone() });
        }
        let size = size as u64;
        let (name, length) = *self.segments.back().expect("a log has at least one segment");
        if self.offset + size <= length {
            return Ok(());
        }
        let header = SegmentHeader {
            name: SegmentName { sequence: name.sequence + 1, first_index: self.last_index + 1 },
            metadata: self.metadata,
            hard_state: self.hard_state,
            batch: self.batch,
            chain: self.chain,
        };
        let length = self.options.segment_bytes.max(HEADER_BYTES + size);
        self.in_doubt = true;
        let made = segment::create(&*self.disk, &self.dir, &header, &[], length).await;
        self.in_doubt = made.as_ref().is_err_and(|e| !matches!(e, StorageError::NoSpace { .. }));
        (self.path, self.file) = made?;
        self.segments.push_back((header.name, length));
        self.offset = HEADER_BYTES;
        Ok(())
    }

    async fn write(&mut self, chain: u32) -> Result<(), StorageError> {
        let size = self.buffer.len() as u64;
        let data = self.buffer.split().freeze();
        self.in_doubt = true;
        let written = self.file.write_and_sync(self.offset, data).await;
        written.map_err(|source| {
            // Never `NoSpace`: the room was reserved, and part of the batch may be written.
            let path = self.path.clone();
            StorageError::Io { path, doing: "writing and syncing", source }
        })?;
        self.in_doubt = false;
        if size > KEPT_BUFFER_BYTES {
            self.buffer = BytesMut::new();
        }
        self.offset += size;
        self.written += size;
        self.batch += 1;
        self.chain = chain;
        Ok(())
    }
}
