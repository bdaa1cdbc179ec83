//! What can go wrong with the files of a data directory, said so that an operator can act on it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A failure of storage.
///
/// None of these is reached alike by every replica, so none of them may decide what an entry
/// does: they stop the node, `NoSpace` aside.
#[derive(Debug)]
pub enum StorageError {
    /// The device or the file system failed.
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    /// No room was left before anything was written; the caller may go on reading and try again.
    NoSpace { path: PathBuf },
    /// Bytes that were synced once do not verify.
    Damaged { path: PathBuf, offset: u64, what: String },
    /// Entries that a durable commit index or a checkpoint relies on are not in the log.
    Missing { path: PathBuf, what: String },
    /// The file was written by a later version of this program.
    Newer { path: PathBuf, found: u32, supported: u32 },
    /// The directory holds no log: nothing was ever made here, or making it was cut short.
    NotInitialised { path: PathBuf },
    /// The directory holds the data of a member already.
    AlreadyInitialised { path: PathBuf },
    /// The log of the member stands elsewhere than it was asked for.
    WalElsewhere { asked: PathBuf, found: PathBuf },
    /// The directory of the log is not what it was.
    WalGone { path: PathBuf },
    /// Somebody else has the data directory.
    Locked { path: PathBuf },
    /// An earlier write failed or was abandoned, so what the disk holds is unknown.
    Poisoned { path: PathBuf },
}

impl StorageError {
    /// Wraps a failure of the disk; a full disk keeps its own kind.
    pub fn io(path: &Path, doing: &'static str, source: io::Error) -> StorageError {
        if source.kind() == io::ErrorKind::StorageFull {
            return StorageError::NoSpace { path: path.to_path_buf() };
        }
        StorageError::Io { path: path.to_path_buf(), doing, source }
    }

    pub fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { path: path.to_path_buf(), offset, what: what.into() }
    }

    pub fn missing(path: &Path, what: impl Into<String>) -> StorageError {
        StorageError::Missing { path: path.to_path_buf(), what: what.into() }
    }
}

/// What an operator does with a member whose own copy is lost.
const REPLACE: &str = "this copy can't be trusted: keep the directory for inspection, remove the \
    member from the cluster and add it again with an empty data directory, or restore a backup";

impl fmt::Display for StorageError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Io { path, doing, source } => {
                write!(out, "{doing} {}: {source}; ", path.display())?;
                out.write_str("check the device, its mount and the owner of the directory")
            }
            StorageError::NoSpace { path } => {
                write!(out, "{}: no space left on the device; free some", path.display())
            }
            StorageError::Damaged { path, offset, what } => {
                write!(out, "{} is damaged at byte {offset}: {what}; {REPLACE}", path.display())
            }
            StorageError::Missing { path, what } => {
                write!(out, "{} is incomplete: {what}; {REPLACE}", path.display())
            }
            StorageError::Newer { path, found, supported } => {
                write!(out, "{} has format version {found}, ", path.display())?;
                write!(out, "and this program reads up to version {supported}; ")?;
                out.write_str("start the later version that wrote it")
            }
            StorageError::NotInitialised { path } => {
                write!(out, "{} holds no write-ahead log: ", path.display())?;
                out.write_str("start the member as one that joins or founds a cluster")
            }
            StorageError::AlreadyInitialised { path } => {
                write!(out, "{} holds the data of a member already; ", path.display())?;
                out.write_str("choose an empty directory")
            }
            StorageError::WalElsewhere { asked, found } => {
                write!(out, "the log of this member is in {}, ", found.display())?;
                write!(
                    out,
                    "and not in {}; start with --wal-dir={}, ",
                    asked.display(),
                    found.display()
                )?;
                out.write_str("or move its files first")
            }
            StorageError::WalGone { path } => {
                write!(out, "{} does not hold the log of this member any more; ", path.display())?;
                out.write_str("see that its disk is mounted")
            }
            StorageError::Locked { path } => {
                write!(out, "{} is locked: another process uses this directory; ", path.display())?;
                out.write_str("stop it, or give this one its own directory")
            }
            StorageError::Poisoned { path } => {
                write!(out, "{}: an earlier write failed, and ", path.display())?;
                out.write_str("what it left on the disk is unknown; restart the process")
            }
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StorageError::Io { source, .. } => Some(source),
            StorageError::NoSpace { .. }
            | StorageError::Damaged { .. }
            | StorageError::Missing { .. }
            | StorageError::Newer { .. }
            | StorageError::NotInitialised { .. }
            | StorageError::AlreadyInitialised { .. }
            | StorageError::WalElsewhere { .. }
            | StorageError::WalGone { .. }
            | StorageError::Locked { .. }
            | StorageError::Poisoned { .. } => None,
        }
    }
}
