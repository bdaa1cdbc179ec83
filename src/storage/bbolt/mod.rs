//! Reads and writes the files of bbolt, the B+tree in which etcd keeps its state and its backups.
//!
//! A file is a row of pages. Pages 0 and 1 are metas, of which the valid one with the higher
//! transaction counts; it names the page of the root bucket, whose items are the other buckets.
//! A bucket is a tree of branch and leaf pages; a small one lies inline in its item.
//!
//! ```text
//! page      id u64 | flags u16 | items u16 | overflow pages u32 | item headers | keys and values
//! meta      magic u32 | version u32 | page size u32 | flags u32 | root page u64 | sequence u64 |
//!           freelist page u64 | pages u64 | transaction u64 | FNV-1a-64 of all before
//! leaf      an item: flags u32 (1: a bucket) | position u32 | length of key, of value 2 x u32
//! branch    an item: position u32 | length of key u32 | page u64
//! bucket    its value: root page u64 (0: inline, a page follows) | sequence u64
//! ```
//!
//! All numbers are little-endian; a position counts from the header of its item. Data pages have
//! no checksum, so a reader checks all that can be checked: that pages lie in the file and are
//! used once, that items lie in their page, that keys ascend.

pub mod reader;
pub mod writer;

use std::fmt;
use std::io;

/// The page size that is written; a reader takes what the meta says.
pub const PAGE_BYTES: usize = 4096;
const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const PAGE_HEADER_BYTES: usize = 16;
const META_BYTES: usize = 64;
/// The header of an item, in a leaf and in a branch.
const ITEM_BYTES: usize = 16;
/// What a bucket's value begins with.
const BUCKET_BYTES: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
/// Flags of a leaf's item that is a bucket.
const IS_BUCKET: u32 = 0x01;
/// In the place of the freelist's page: there is none, whoever writes looks for free pages.
const NO_FREELIST: u64 = u64::MAX;

/// Why a file can't be read as a database.
#[derive(Debug)]
pub enum BboltError {
    Io(io::Error),
    /// It is something else, or a version that is not known.
    Foreign(String),
    /// It ends before what its meta promises.
    Truncated {
        bytes: u64,
        promised: u64,
    },
    /// A page is not what it should be.
    Damaged {
        page: u64,
        what: String,
    },
}

impl BboltError {
    fn damaged(page: u64, what: impl Into<String>) -> BboltError {
        BboltError::Damaged { page, what: what.into() }
    }
}

impl From<io::Error> for BboltError {
    fn from(error: io::Error) -> BboltError {
        BboltError::Io(error)
    }
}

impl fmt::Display for BboltError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BboltError::Io(error) => write!(f, "it can't be read: {error}"),
            BboltError::Foreign(what) => write!(f, "it is no database of etcd: {what}"),
            BboltError::Truncated { bytes, promised } => {
                write!(f, "it is truncated: {bytes} bytes of a database of {promised}")
            }
            BboltError::Damaged { page, what } => write!(f, "page {page} is damaged: {what}"),
        }
    }
}

impl std::error::Error for BboltError {}

/// FNV-1a in 64 bits, the checksum of a meta page.
fn fnv1a(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod properties;
