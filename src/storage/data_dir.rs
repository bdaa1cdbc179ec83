//! The data directory of a member: where its files lie, and that nobody else has it.

use crate::env::disk::Disk;
use crate::storage::directory;
use crate::storage::error::StorageError;
use crate::storage::reserve;
use crate::storage::wal::Wal;
use crate::storage::wal_location::{self, WalPlace};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What belongs to the member, below the root.
const MEMBER: &str = "member";

/// A locked data directory; the lock lasts as long as this.
///
/// ```text
/// <root>/lock                    held by the process that uses the directory
/// <root>/member/wal/             segments of the log, unless they have a directory elsewhere
/// <root>/member/wal.location     that directory
/// <root>/member/runs/            runs and manifests
/// <root>/flight/                 the flight recorder's; nothing here depends on it
/// ```
pub struct DataDir {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    wal: WalPlace,
    _lock: Box<dyn Send + Sync>,
}

impl DataDir {
    /// Locks `root`, making it and what belongs below it if it is not there.
    pub async fn open(disk: Arc<dyn Disk>, root: &Path) -> Result<DataDir, StorageError> {
        DataDir::open_with_wal(disk, root, None).await
    }

    /// The same, with the log in a directory of its own.
    pub async fn open_with_wal(
        disk: Arc<dyn Disk>,
        root: &Path,
        wal_dir: Option<&Path>,
    ) -> Result<DataDir, StorageError> {
        let failed = |error| StorageError::io(root, "making the data directory", error);
        disk.create_dir_all(root).map_err(failed)?;
        let lock_path = root.join("lock");
        let lock = disk.lock(&lock_path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StorageError::Locked { path: root.to_path_buf() },
            _ => StorageError::io(&lock_path, "locking", error),
        })?;
        let wal = wal_location::locate(&*disk, &root.join(MEMBER), wal_dir).await?;
        let data_dir = DataDir { disk, root: root.to_path_buf(), wal, _lock: lock };
        directory::make_durable(&*data_dir.disk, &data_dir.run_dir()).await?;
        data_dir.check_writable().await?;
        Ok(data_dir)
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
        self.root.join(MEMBER)
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.wal.dir.clone()
    }

    /// The reserve of room is on the disk of the log.
    pub fn reserve_path(&self) -> PathBuf {
        let elsewhere = self.wal.lock.is_some();
        let dir = if elsewhere { self.wal_dir() } else { self.member_dir() };
        dir.join(reserve::FILE_NAME)
    }

    pub fn run_dir(&self) -> PathBuf {
        self.member_dir().join("runs")
    }
}
