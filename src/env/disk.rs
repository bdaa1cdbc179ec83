//! The disk as a server sees it: files, directory entries, and what makes either durable.
//!
//! The contract is that of a POSIX file system on a device that writes sectors whole:
//!
//! - A write goes to the page cache. It survives the death of the process, and is durable only
//!   after [`File::sync`]; until then a power cut may keep any subset of its 512-byte sectors.
//! - A directory entry that was made, renamed or removed is durable only after
//!   [`Disk::sync_dir`] of its directory. A rename replaces its target in one step.
//! - A failed sync says nothing about what is on the disk and is never repeated: the kernel may
//!   have marked the lost pages clean, and the second call would succeed.
//!
//! Calls that only touch the page cache are plain functions; calls that wait for the device are
//! futures, and everything that depends on durability awaits them.

use bytes::Bytes;
use futures::future::BoxFuture;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The unit that a device writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// A file system, or the part of one that a server uses.
pub trait Disk: Send + Sync {
    /// Makes an empty file; fails if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file for reading and writing; fails if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Opens a file that is only looked at, so that it need not be one that may be written.
    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }

    /// Gives a file another name, replacing what bore it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Who has it open can still read it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a file that may be long: a file system takes some ten milliseconds for that.
    fn remove_long<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.remove(path) })
    }

    /// The names in a directory, files and directories alike, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a directory and those above it; content if they exist.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Whether a file or a directory of this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: &Path) -> BoxFuture<'_, io::Result<()>>;

    /// Takes a file as an exclusive lock, making it if needed; the lock lasts as long as the
    /// guard and no longer than the process. `WouldBlock` if somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;

    /// How many bytes can still be written in this directory.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait File: Send + Sync {
    fn len(&self) -> io::Result<u64>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset` on; `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes to the page cache, extending the file if needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Reserves room up to `len`, and extends the file to it with zeros if it is shorter.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the contents and the length durable.
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;

    /// `write_at` and `sync` as one step, which costs less than two.
    fn write_and_sync(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>>;
}
