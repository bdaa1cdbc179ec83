//! One file of the log: its name, its header, how it comes into being and how it is read.
//!
//! A segment is made under a temporary name with its whole length reserved, synced, and only then
//! given its name; so a file that bears the name of a segment has a header that verifies, and
//! whatever does not is rot. The header has its sectors to itself.

use crate::env::disk::{Disk, File};
use crate::raft::message::HardState;
use crate::storage::error::StorageError;
use crate::storage::frame;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"detcdWAL";
/// The version of the format of segments that this program writes, and the only one it reads.
pub const VERSION: u32 = 1;
pub const HEADER_BYTES: u64 = 512;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
const CRC_AT: usize = HEADER_BYTES as usize - 4;
/// What a file is called until it is whole.
pub const TEMPORARY: &str = ".tmp";

/// `<sequence>-<first index>.wal`, both in 16 hexadecimal digits, so that names sort by sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    pub sequence: u64,
    /// The index after the last one written before this segment was begun.
    pub first_index: u64,
}

impl SegmentName {
    pub fn file_name(&self) -> String {
        format!("{:016x}-{:016x}.wal", self.sequence, self.first_index)
    }

    pub fn parse(name: &str) -> Option<SegmentName> {
        let (sequence, first_index) = name.strip_suffix(".wal")?.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let name = SegmentName { sequence: number(sequence)?, first_index: number(first_index)? };
        (sequence.len() == 16 && first_index.len() == 16).then_some(name)
    }
}

/// Whose log this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalMetadata {
    pub cluster_id: u64,
    pub member_id: u64,
}

/// What a segment begins with: enough to go on when all segments before it are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub name: SegmentName,
    pub metadata: WalMetadata,
    /// The state that held when the segment was begun.
    pub hard_state: HardState,
    /// The sequence number of the first batch in this segment.
    pub batch: u64,
    /// Where the checksum chain goes on from.
    pub chain: u32,
}

impl SegmentHeader {
    fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.chain.to_le_bytes());
        let numbers = [
            self.name.sequence,
            self.name.first_index,
            self.metadata.cluster_id,
            self.metadata.member_id,
            self.hard_state.term,
            self.hard_state.vote,
            self.hard_state.commit,
            self.batch,
        ];
        for (slot, number) in bytes[16..80].as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *slot = number.to_le_bytes();
        }
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of `bytes`, which came from `path`.
    fn decode(bytes: &[u8], path: &Path) -> Result<SegmentHeader, StorageError> {
        let Some(bytes) = bytes.first_chunk::<{ HEADER_BYTES as usize }>() else {
            return Err(StorageError::damaged(path, 0, "the file is shorter than its header"));
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes of the header"))
        };
        if bytes[..8] != MAGIC {
            return Err(StorageError::damaged(path, 0, "it does not begin with the magic"));
        }
        let found = u32_at(8);
        // The version comes before the checksum, because a later version may keep its checksum
        // elsewhere. A rotten version number is refused either way.
        if found > VERSION {
            let path = path.to_path_buf();
            return Err(StorageError::Newer { path, found, supported: VERSION });
        }
        if found != VERSION || crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(CRC_AT) {
            return Err(StorageError::damaged(
                path,
                0,
                "the checksum of the header does not match",
            ));
        }
        let mut numbers = [0; 8];
        for (number, slot) in numbers.iter_mut().zip(bytes[16..80].as_chunks::<8>().0) {
            *number = u64::from_le_bytes(*slot);
        }
        let [sequence, first_index, cluster_id, member_id, term, vote, commit, batch] = numbers;
        Ok(SegmentHeader {
            name: SegmentName { sequence, first_index },
            metadata: WalMetadata { cluster_id, member_id },
            hard_state: HardState { term, vote, commit },
            batch,
            chain: u32_at(12),
        })
    }
}

/// Makes a segment of `length` bytes that begins with `batch`, durable with its name when this
/// returns.
///
/// `NoSpace` means that nothing was left behind and the log is as before.
pub async fn create(
    disk: &dyn Disk,
    dir: &Path,
    header: &SegmentHeader,
    batch: &[u8],
    length: u64,
) -> Result<(PathBuf, Arc<dyn File>), StorageError> {
    assert!(length >= HEADER_BYTES, "a segment of {length} bytes has no room for its header");
    let path = dir.join(header.name.file_name());
    let temporary = dir.join(format!("{}{TEMPORARY}", header.name.file_name()));
    let file = match prepare(disk, &temporary, header, batch, length).await {
        Ok(file) => file,
        Err(error) => {
            // Best effort: whoever opens the log removes what has a temporary name.
            disk.remove(&temporary).ok();
            return Err(StorageError::io(&temporary, "making the log segment", error));
        }
    };
    let failed = |source| StorageError::Io { path: path.clone(), doing: "naming", source };
    disk.rename(&temporary, &path).map_err(failed)?;
    disk.sync_dir(dir).await.map_err(failed)?;
    Ok((path, file))
}

async fn prepare(
    disk: &dyn Disk,
    temporary: &Path,
    header: &SegmentHeader,
    batch: &[u8],
    length: u64,
) -> std::io::Result<Arc<dyn File>> {
    if disk.exists(temporary)? {
        disk.remove(temporary)?;
    }
    let file = disk.create(temporary)?;
    file.allocate(length)?;
    file.write_at(0, &header.encode())?;
    if !batch.is_empty() {
        file.write_at(HEADER_BYTES, batch)?;
    }
    file.sync().await?;
    Ok(file)
}

/// A segment in memory.
pub struct Segment {
    pub path: PathBuf,
    pub file: Arc<dyn File>,
    pub header: SegmentHeader,
    pub bytes: Vec<u8>,
}

/// Reads a segment that may be written to, and verifies its header and its name.
pub fn read(disk: &dyn Disk, dir: &Path, name: SegmentName) -> Result<Segment, StorageError> {
    let path = dir.join(name.file_name());
    let file = disk.open(&path).map_err(|source| StorageError::io(&path, "reading", source))?;
    verified(path, file, name)
}

/// The same of one that is only looked at.
pub fn look_at(disk: &dyn Disk, dir: &Path, name: SegmentName) -> Result<Segment, StorageError> {
    let path = dir.join(name.file_name());
    let file =
        disk.open_to_read(&path).map_err(|source| StorageError::io(&path, "reading", source))?;
    verified(path, file, name)
}

fn verified(
    path: PathBuf,
    file: Arc<dyn File>,
    name: SegmentName,
) -> Result<Segment, StorageError> {
    let failed = |source| StorageError::io(&path, "reading", source);
    let length = usize::try_from(file.len().map_err(failed)?).expect("a segment fits memory");
    let bytes = read_sparsely(&*file, length).map_err(failed)?;
    let header = SegmentHeader::decode(&bytes, &path)?;
    if header.name != name {
        let what = format!("its header is that of {}", header.name.file_name());
        return Err(StorageError::damaged(&path, 0, what));
    }
    Ok(Segment { path, file, header, bytes })
}

/// Reads a file that is mostly room for what is still to come. Memory that was asked for as
/// zeros costs nothing until it is written, so stretches of zeros are not written.
fn read_sparsely(file: &dyn File, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut chunk = vec![0; READ_BYTES.min(length)];
    for (position, target) in bytes.chunks_mut(READ_BYTES).enumerate() {
        let chunk = &mut chunk[..target.len()];
        file.read_at((position * READ_BYTES) as u64, chunk)?;
        if !frame::is_zero(chunk) {
            target.copy_from_slice(chunk);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_sort_by_sequence() {
        let name = SegmentName { sequence: 10, first_index: 0xabc };
        assert_eq!(name.file_name(), "000000000000000a-0000000000000abc.wal");
        assert_eq!(SegmentName::parse(&name.file_name()), Some(name));
        let later = SegmentName { sequence: 0x100, first_index: 1 };
        assert!(name.file_name() < later.file_name());
        for other in ["a-b.wal", "000000000000000a-0000000000000abc.wal.tmp", "lock", ".wal"] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn any_changed_byte_of_a_header_is_refused() {
        let header = SegmentHeader {
            name: SegmentName { sequence: 3, first_index: 7 },
            metadata: WalMetadata { cluster_id: 1, member_id: 2 },
            hard_state: HardState { term: 4, vote: 5, commit: 6 },
            batch: 9,
            chain: 0xfeed,
        };
        let bytes = header.encode();
        let path = Path::new("x.wal");
        assert_eq!(SegmentHeader::decode(&bytes, path).expect("it is whole"), header);
        for at in 0..bytes.len() {
            let mut changed = bytes;
            changed[at] ^= 1 << (at % 8);
            assert!(SegmentHeader::decode(&changed, path).is_err(), "byte {at} changed");
        }
    }
}
