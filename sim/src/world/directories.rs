//! Where a member keeps its data.

use crate::disk::SimDisk;
use detcd::storage::wal_location;
use std::path::{Path, PathBuf};

pub const DATA_DIR: &str = "/data";
/// Where the log lies that has a directory of its own.
pub const WAL_DIR: &str = "/log";

/// Where a member keeps its log.
pub fn wal_dir(disk: &SimDisk) -> PathBuf {
    let member_dir = Path::new(DATA_DIR).join("member");
    // Where the note is unreadable the member does not start.
    wal_location::find(disk, &member_dir).unwrap_or_else(|_| member_dir.join("wal"))
}
