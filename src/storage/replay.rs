//! Reading a log from its oldest segment to its end: what it says, where it goes on, and whether
//! what does not verify is the tear of a power cut or rot.

use crate::env::disk::{Disk, File};
use crate::raft::message::{Entry, HardState};
use crate::storage::error::StorageError;
use crate::storage::frame::{self, Damage, Expected, Found, Place, Record};
use crate::storage::segment::{self, HEADER_BYTES, Segment, SegmentName, TEMPORARY, WalMetadata};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the log goes on.
pub struct Tail {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub offset: u64,
    pub batch: u64,
    pub chain: u32,
    /// Where the last byte behind `offset` that is not zero ends, if there is one.
    pub garbage_end: Option<u64>,
}

/// All that a log says.
pub struct Replayed {
    pub segments: VecDeque<(SegmentName, u64)>,
    /// Files that are of no use: unfinished segments, and released ones whose removal was lost.
    pub leftovers: Vec<PathBuf>,
    pub metadata: WalMetadata,
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
    pub last_index: u64,
    pub term_at_checkpoint: Option<u64>,
    pub base: Base,
    pub tail: Tail,
    pub repaired: Option<String>,
}

/// What the entries of a log follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub index: u64,
    /// Unknown where the segments before were released.
    pub term: Option<u64>,
}

/// Reads the log in `dir`, changing nothing. `after` is the index that the checkpoint reaches.
pub fn replay(disk: &dyn Disk, dir: &Path, after: u64) -> Result<Replayed, StorageError> {
    read(disk, dir, Some(after))
}

/// Like `replay`, when no checkpoint can be read: all entries that there are, wherever they begin.
pub fn replay_rest(disk: &dyn Disk, dir: &Path) -> Result<Replayed, StorageError> {
    read(disk, dir, None)
}

fn read(disk: &dyn Disk, dir: &Path, checkpoint: Option<u64>) -> Result<Replayed, StorageError> {
    let (names, leftovers) = find_segments(disk, dir, checkpoint.unwrap_or(u64::MAX))?;
    let after = checkpoint.unwrap_or(0);
    let mut reader: Option<Reader> = None;
    let mut segments = VecDeque::new();
    let mut tail = None;
    for (position, name) in names.iter().enumerate() {
        let segment = segment::read(disk, dir, *name)?;
        segments.push_back((*name, segment.bytes.len() as u64));
        let reader = match &mut reader {
            Some(reader) => {
                reader.continue_with(&segment)?;
                reader
            }
            None => reader.insert(Reader::new(&segment, after)),
        };
        let is_last = position + 1 == names.len();
        tail = reader.read(segment, is_last)?;
    }
    let not_initialised = || StorageError::NotInitialised { path: dir.to_path_buf() };
    let reader = reader.ok_or_else(not_initialised)?;
    let tail = tail.expect("the last segment of a log has a tail");
    if checkpoint.is_some() {
        reader.check_begin(dir)?;
    }
    reader.finish(dir, segments, leftovers, tail)
}

/// The segments of the log, oldest first, and the files that are none.
pub(super) fn find_segments(
    disk: &dyn Disk,
    dir: &Path,
    after: u64,
) -> Result<(Vec<SegmentName>, Vec<PathBuf>), StorageError> {
    let not_initialised = || StorageError::NotInitialised { path: dir.to_path_buf() };
    let failed = |error| StorageError::io(dir, "listing", error);
    if !disk.exists(dir).map_err(failed)? {
        return Err(not_initialised());
    }
    let files = disk.list(dir).map_err(failed)?;
    let unfinished = files.iter().filter(|name| name.ends_with(TEMPORARY));
    let mut leftovers: Vec<PathBuf> = unfinished.map(|name| dir.join(name)).collect();
    let mut names: Vec<_> = files.iter().filter_map(|name| SegmentName::parse(name)).collect();
    names.sort();
    // A power cut may keep any subset of the removals of a release. So a gap in the sequence is
    // no loss if the checkpoint reaches to where the segments behind the gap begin.
    let gap = names.windows(2).rposition(|pair| pair[0].sequence + 1 != pair[1].sequence);
    if let Some(gap) = gap {
        let first = names[gap + 1];
        if first.first_index > after.saturating_add(1) {
            let what = format!(
                "the segment before {} is gone, and the checkpoint reaches only index {after}",
                first.file_name()
            );
            return Err(StorageError::missing(dir, what));
        }
        leftovers.extend(names.drain(..=gap).map(|name| dir.join(name.file_name())));
    }
    if names.is_empty() { Err(not_initialised()) } else { Ok((names, leftovers)) }
}

/// The state of reading, between batches.
struct Reader {
    after: u64,
    metadata: WalMetadata,
    hard_state: HardState,
    /// The highest commit index that any durable HardState named.
    commit: u64,
    entries: Vec<Entry>,
    last_index: u64,
    term_at_checkpoint: Option<u64>,
    base: Base,
    expected: Expected,
    repaired: Option<String>,
}

impl Reader {
    fn new(oldest: &Segment, after: u64) -> Reader {
        let header = &oldest.header;
        let index = header.name.first_index - 1;
        Reader {
            after,
            metadata: header.metadata,
            hard_state: header.hard_state,
            commit: header.hard_state.commit,
            entries: Vec::new(),
            last_index: index,
            term_at_checkpoint: None,
            base: Base { index, term: (index == 0).then_some(0) },
            expected: Expected { sequence: header.batch, chain: header.chain },
            repaired: None,
        }
    }

    /// Checks that a segment goes on where the one before it ended.
    fn continue_with(&mut self, segment: &Segment) -> Result<(), StorageError> {
        let header = &segment.header;
        let continues = header.metadata == self.metadata
            && header.batch == self.expected.sequence
            && header.chain == self.expected.chain
            && header.hard_state == self.hard_state
            && header.name.first_index == self.last_index + 1;
        if continues {
            return Ok(());
        }
        let what = format!(
            "it does not continue the segment before it, which ends at batch {} and index {}",
            self.expected.sequence, self.last_index
        );
        Err(StorageError::damaged(&segment.path, 0, what))
    }

    /// Reads all batches of a segment. The last segment ends where its tail begins; the others
    /// were synced to their end before the next one was begun, so there nothing may be torn.
    fn read(&mut self, segment: Segment, is_last: bool) -> Result<Option<Tail>, StorageError> {
        let mut place = Place {
            cluster_id: self.metadata.cluster_id,
            member_id: self.metadata.member_id,
            segment: segment.header.name.sequence,
            offset: HEADER_BYTES,
        };
        loop {
            match frame::read_batch(&segment.bytes, place, self.expected) {
                Found::Batch { records, end, chain } => {
                    for record in records {
                        self.apply(record);
                    }
                    place.offset = end as u64;
                    self.expected = Expected { sequence: self.expected.sequence + 1, chain };
                }
                // Of a segment in the middle, the header of the next one tells whether this was
                // the end: it names the next batch.
                Found::Nothing if !is_last => return Ok(None),
                Found::Damage(damage) if !is_last => {
                    let what = format!("{}, and a later segment exists", damage.what);
                    return Err(StorageError::damaged(&segment.path, damage.offset as u64, what));
                }
                Found::Nothing => return self.end(segment, place, None).map(Some),
                Found::Damage(damage) => return self.end(segment, place, Some(damage)).map(Some),
            }
        }
    }

    /// The end of the log.
    fn end(
        &mut self,
        segment: Segment,
        place: Place,
        damage: Option<Damage>,
    ) -> Result<Tail, StorageError> {
        let (offset, sequence) = (place.offset, self.expected.sequence);
        let torn = judge_end(&segment, place, sequence, damage)?;
        self.repaired = torn.as_ref().map(|torn| {
            let path = segment.path.display();
            format!("{path}: cut the torn last batch {sequence} at byte {offset} ({})", torn.why)
        });
        Ok(Tail {
            path: segment.path,
            file: segment.file,
            offset,
            batch: sequence,
            chain: self.expected.chain,
            garbage_end: torn.map(|torn| torn.end),
        })
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::HardState(state) => {
                self.commit = self.commit.max(state.commit);
                self.hard_state = state;
            }
            Record::Entry(entry) => self.push(entry),
            Record::Reset { index, term } => {
                self.entries.clear();
                self.last_index = index;
                self.base = Base { index, term: Some(term) };
                self.term_at_checkpoint = (index == self.after).then_some(term);
            }
        }
    }

    fn push(&mut self, entry: Entry) {
        let index = entry.index;
        if index > self.last_index + 1 {
            // What is missing in between is either in the checkpoint or found missing at the end.
            self.entries.clear();
        }
        if index > self.last_index + 1 || index <= self.base.index {
            self.base = Base { index: index - 1, term: None };
        }
        self.last_index = index;
        if index <= self.after {
            self.entries.clear();
            if index == self.after {
                self.term_at_checkpoint = Some(entry.term);
            } else if self.term_at_checkpoint.is_some() {
                // The entry at the checkpoint was overwritten from below.
                self.term_at_checkpoint = None;
            }
            return;
        }
        let keep = self.entries.partition_point(|kept| kept.index < index);
        self.entries.truncate(keep);
        self.entries.push(entry);
    }

    /// The log begins behind the checkpoint and no later.
    fn check_begin(&self, dir: &Path) -> Result<(), StorageError> {
        let first = self.entries.first().map(|entry| entry.index);
        let first = first.unwrap_or(self.last_index + 1);
        if first <= self.after + 1 {
            return Ok(());
        }
        let after = self.after;
        let what = format!("the checkpoint reaches index {after}, and the log begins at {first}");
        Err(StorageError::missing(dir, what))
    }

    fn finish(
        self,
        dir: &Path,
        segments: VecDeque<(SegmentName, u64)>,
        leftovers: Vec<PathBuf>,
        tail: Tail,
    ) -> Result<Replayed, StorageError> {
        let held = self.last_index.max(self.after);
        if self.commit > held {
            let what = format!(
                "index {} is known to be committed, and the log ends at {held}{}",
                self.commit,
                self.repaired.map(|what| format!(" ({what})")).unwrap_or_default()
            );
            return Err(StorageError::missing(dir, what));
        }
        Ok(Replayed {
            segments,
            leftovers,
            metadata: self.metadata,
            hard_state: self.hard_state,
            entries: self.entries,
            last_index: self.last_index,
            term_at_checkpoint: self.term_at_checkpoint,
            base: self.base,
            tail,
            repaired: self.repaired,
        })
    }
}

/// A batch that a power cut has torn.
pub(super) struct Torn {
    /// Where the last byte of it that is not zero ends.
    pub end: u64,
    pub why: &'static str,
}

/// The end of the log at a place where no batch verifies: clean, torn, or rot that only looks like
/// an end.
pub(super) fn judge_end(
    segment: &Segment,
    place: Place,
    sequence: u64,
    damage: Option<Damage>,
) -> Result<Option<Torn>, StorageError> {
    let offset = place.offset as usize;
    if let Some(damage) = &damage
        && !damage.can_be_torn
    {
        let what = format!("{}, and no sector is missing as after a power cut", damage.what);
        return Err(StorageError::damaged(&segment.path, damage.offset as u64, what));
    }
    let rest = segment.bytes.get(offset..).unwrap_or(&[]);
    let Some(bytes) = frame::garbage_bytes(rest) else { return Ok(None) };
    if let Some(later) = frame::later_batch(&segment.bytes, place, offset, sequence) {
        let what = format!("a batch that was synced later stands at byte {later}");
        return Err(StorageError::damaged(&segment.path, place.offset, what));
    }
    let why = damage.map_or("its header is missing", |damage| damage.what);
    Ok(Some(Torn { end: (offset + bytes) as u64, why }))
}

/// Restores what appending relies on: zeros behind the last batch, and no leftovers.
pub async fn repair(disk: &dyn Disk, dir: &Path, replayed: &Replayed) -> Result<(), StorageError> {
    for path in &replayed.leftovers {
        disk.remove(path).map_err(|error| StorageError::io(path, "removing", error))?;
    }
    // The name of the last segment may be in the page cache only, if the process died between
    // the rename and the sync of the directory. What is appended must not vanish with it.
    disk.sync_dir(dir).await.map_err(|error| StorageError::io(dir, "syncing", error))?;
    let tail = &replayed.tail;
    let failed = |error| StorageError::io(&tail.path, "zeroing the torn tail of", error);
    if let Some(end) = tail.garbage_end {
        let length = usize::try_from(end - tail.offset).expect("a segment fits memory");
        tail.file.write_at(tail.offset, &vec![0; length]).map_err(failed)?;
    }
    // Also without a tear: the process may have died between a write and its sync, and what was
    // read back is about to be counted as promised.
    tail.file.sync().await.map_err(failed)
}
