//! Walks through a log record by record, as it was written: for people, with what was overwritten
//! later, and as far as it verifies.

use crate::env::disk::Disk;
use crate::storage::error::StorageError;
use crate::storage::frame::{self, Damage, Expected, Found, Place, Record};
use crate::storage::replay::{find_segments, judge_end};
use crate::storage::segment::{self, HEADER_BYTES, Segment, SegmentHeader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What is met on the way.
#[derive(Debug)]
pub enum Step<'a> {
    /// A segment begins; what it says of itself holds from here on.
    Segment(&'a SegmentHeader),
    /// A record, and where the batch begins that it is part of.
    Record { segment: &'a SegmentHeader, offset: u64, batch: u64, record: Record },
}

/// How a log ends that verifies.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    pub path: PathBuf,
    /// Where the next batch would stand.
    pub offset: u64,
    /// What a power cut has left there of a batch; the next start of the member cuts it off.
    pub torn: Option<&'static str>,
}

/// Shows `each` step, until it breaks off; then there is no end. Changes nothing.
///
/// # Errors
/// At the first damage, and when the log can't be read.
pub fn walk(
    disk: &dyn Disk,
    dir: &Path,
    mut each: impl FnMut(Step) -> ControlFlow<()>,
) -> Result<Option<End>, StorageError> {
    // What was released and came back after a power cut belongs to no log.
    let (names, _leftovers) = find_segments(disk, dir, u64::MAX)?;
    let mut expected: Option<Expected> = None;
    for (position, name) in names.iter().enumerate() {
        let segment = segment::look_at(disk, dir, *name)?;
        let header = &segment.header;
        let begin = Expected { sequence: header.batch, chain: header.chain };
        if let Some(Expected { sequence, chain }) = expected
            && (sequence, chain) != (begin.sequence, begin.chain)
        {
            let what = format!("it does not go on behind batch {sequence} of the one before it");
            return Err(StorageError::damaged(&segment.path, 0, what));
        }
        if each(Step::Segment(header)).is_break() {
            return Ok(None);
        }
        let mut here = Here { place: place(header), expected: begin };
        let damage = match here.read(&segment, &mut each) {
            ControlFlow::Continue(damage) => damage,
            ControlFlow::Break(()) => return Ok(None),
        };
        if position + 1 == names.len() {
            let torn = judge_end(&segment, here.place, here.expected.sequence, damage)?;
            let (path, torn) = (segment.path.clone(), torn.map(|torn| torn.why));
            return Ok(Some(End { path, offset: here.place.offset, torn }));
        }
        if let Some(damage) = damage {
            let what = format!("{}, and a later segment exists", damage.what);
            return Err(StorageError::damaged(&segment.path, damage.offset as u64, what));
        }
        expected = Some(here.expected);
    }
    Err(StorageError::NotInitialised { path: dir.to_path_buf() })
}

fn place(header: &SegmentHeader) -> Place {
    Place {
        cluster_id: header.metadata.cluster_id,
        member_id: header.metadata.member_id,
        segment: header.name.sequence,
        offset: HEADER_BYTES,
    }
}

/// Where the next batch of a segment is expected.
struct Here {
    place: Place,
    expected: Expected,
}

impl Here {
    /// Reads batches until none follows; gives what does not verify, if that is why.
    fn read(
        &mut self,
        segment: &Segment,
        each: &mut impl FnMut(Step) -> ControlFlow<()>,
    ) -> ControlFlow<(), Option<Damage>> {
        loop {
            let (offset, batch) = (self.place.offset, self.expected.sequence);
            match frame::read_batch(&segment.bytes, self.place, self.expected) {
                Found::Batch { records, end, chain } => {
                    for record in records {
                        each(Step::Record { segment: &segment.header, offset, batch, record })?;
                    }
                    self.place.offset = end as u64;
                    self.expected = Expected { sequence: batch + 1, chain };
                }
                Found::Nothing => return ControlFlow::Continue(None),
                Found::Damage(damage) => return ControlFlow::Continue(Some(damage)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;
    use crate::raft::message::{Entry, EntryKind};
    use crate::storage::segment::WalMetadata;
    use crate::storage::wal::{Wal, WalBatch, WalOptions};
    use bytes::Bytes;
    use futures::executor::block_on;
    use std::sync::Arc;

    const DIR: &str = "/wal";

    fn entry(index: u64, term: u64) -> Entry {
        Entry { term, index, kind: EntryKind::Normal, data: Bytes::from(vec![7; 700]) }
    }

    type Ended = Result<Option<End>, String>;

    /// Indexes and terms in the order in which they were written, and how the log ends.
    fn walked(disk: &dyn Disk) -> (Vec<(u64, u64)>, Ended) {
        let mut seen = Vec::new();
        let ended = walk(disk, Path::new(DIR), |step| {
            if let Step::Record { record: Record::Entry(entry), .. } = step {
                seen.push((entry.index, entry.term));
            }
            ControlFlow::Continue(())
        });
        (seen, ended.map_err(|error| error.to_string()))
    }

    #[test]
    fn a_log_is_shown_as_it_was_written_and_up_to_the_first_damage() {
        let mem = MemDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(mem.clone());
        let metadata = WalMetadata { cluster_id: 1, member_id: 2 };
        let options = WalOptions { segment_bytes: 4096 };
        let written = [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (5, 2)];
        let made = Wal::create(disk.clone(), Path::new(DIR), metadata, options);
        let mut wal = block_on(made).expect("in memory");
        for (index, term) in written {
            let batch = WalBatch { hard_state: None, entries: vec![entry(index, term)] };
            block_on(wal.append(&[batch])).expect("in memory");
        }
        drop(wal);
        let (seen, ended) = walked(&*disk);
        assert_eq!(seen, written, "with what was overwritten");
        let end = ended.expect("it is whole").expect("nothing broke off");
        assert_eq!(end.torn, None);
        let mut names = disk.list(Path::new(DIR)).expect("it is there");
        let last = Path::new(DIR).join(names.pop().expect("a segment"));
        let whole = mem.contents(&last).expect("it is there");
        // The last batch lacks a sector.
        let mut torn = whole.clone();
        let size = frame::batch_bytes(frame::entry_bytes(700));
        let at = (end.offset as usize - size).next_multiple_of(512);
        torn[at..at + 512].fill(0);
        mem.set_contents(&last, torn);
        let (seen, ended) = walked(&*disk);
        assert_eq!(seen, written[..written.len() - 1]);
        assert!(ended.expect("a tear is no damage").expect("an end").torn.is_some());
        mem.set_contents(&last, whole);
        // A bit of the first segment rots.
        let first = Path::new(DIR).join(names.remove(0));
        let mut rotten = mem.contents(&first).expect("it is there");
        rotten[512 + 900] ^= 1;
        mem.set_contents(&first, rotten);
        let (seen, ended) = walked(&*disk);
        assert_eq!(seen, written[..1]);
        let damage = ended.expect_err("it does not verify");
        assert!(damage.contains(&*first.to_string_lossy()), "{damage}");
        assert!(damage.contains("at byte"), "{damage}");
    }
}
