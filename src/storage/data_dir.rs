//! The data directory of a member: where its files lie, and that nobody else has it.

use crate::env::disk::Disk;
use crate::storage::directory;
use crate::storage::error::StorageError;
use crate::storage::wal::Wal;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A locked data directory; the lock lasts as long as this.
///
/// ```text
/// <root>/lock                    held by the process that uses the directory
/// <root>/member/wal/             segments of the log
/// <root>/member/runs/            runs and manifests
/// <root>/flight/                 the flight recorder's; nothing here depends on it
/// ```
pub struct DataDir {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    _lock: Box<dyn Send + Sync>,
}

impl DataDir {
    /// Locks `root`, making it and what belongs below it if it is not there.
    pub async fn open(disk: Arc<dyn Disk>, root: &Path) -> Result<DataDir, StorageError> {
        let failed = |error| StorageError::io(root, "making the data directory", error);
        disk.create_dir_all(root).map_err(failed)?;
        let lock_path = root.join("lock");
        let lock = disk.lock(&lock_path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StorageError::Locked { path: root.to_path_buf() },
            _ => StorageError::io(&lock_path, "locking", error),
        })?;
        let data_dir = DataDir { disk, root: root.to_path_buf(), _lock: lock };
        data_dir.make_below().await?;
        data_dir.check_writable().await?;
        Ok(data_dir)
    }

    async fn make_below(&self) -> Result<(), StorageError> {
        directory::make_durable(&*self.disk, &self.wal_dir()).await?;
        directory::make_durable(&*self.disk, &self.run_dir()).await
    }

    /// Finds out before the first write of consensus whether files can be made here.
    async fn check_writable(&self) -> Result<(), StorageError> {
        let path = self.root.join("writable.tmp");
        let failed = |error| StorageError::io(&path, "trying to write", error);
        if self.disk.exists(&path).map_err(failed)? {
            self.disk.remove(&path).map_err(failed)?;
        }
        self.disk.create(&path).map_err(failed)?;
        self.disk.remove(&path).map_err(failed)
    }

    /// Whether a member lives here: its log was completely made.
    ///
    /// Checkpoints without a log are an error and not an empty directory: a member that began
    /// afresh there would have forgotten whom it voted for.
    pub fn is_initialised(&self) -> Result<bool, StorageError> {
        if Wal::exists(&*self.disk, &self.wal_dir())? {
            return Ok(true);
        }
        let dir = self.run_dir();
        let names = self.disk.list(&dir);
        let names = names.map_err(|error| StorageError::io(&dir, "listing", error))?;
        match names.iter().find(|name| !name.ends_with(".tmp")) {
            Some(name) => {
                let what = format!("there is a checkpoint file {name}, and no log");
                Err(StorageError::missing(&self.wal_dir(), what))
            }
            None => Ok(false),
        }
    }

    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn member_dir(&self) -> PathBuf {
        self.root.join("member")
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.member_dir().join("wal")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.member_dir().join("runs")
    }
}
