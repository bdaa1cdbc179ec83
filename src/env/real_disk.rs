//! The disk of the machine.

use crate::env::disk::{Disk, File};
use crate::env::sync_thread::{SyncThread, Synced};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Files and directories through the operating system.
///
/// Reads and writes of the page cache happen on the calling thread: they are short, and a hop to
/// the blocking pool costs more. Syncs wait for the device, so they go to the blocking pool, and
/// those of a file that is written and synced in one step (the log) to a thread of its own.
pub struct RealDisk;

/// Only the owner may read a data directory: it holds the keys and the hashed passwords.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// The simulated runtime marks this call as deprecated, since it blocks the simulation; there no
/// server has a real disk.
#[allow(deprecated)]
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(format!("the blocking pool failed: {error}"))),
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        Ok(Arc::new(RealFile::new(options.open(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile::new(file)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile::new(fs::File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_long<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        let path = path.to_path_buf();
        Box::pin(blocking(move || fs::remove_file(path)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is not ours; its lossy form can't match any of ours.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_dir(&self, dir: &Path) -> BoxFuture<'_, io::Result<()>> {
        let dir = dir.to_path_buf();
        Box::pin(blocking(move || fs::File::open(&dir)?.sync_all()))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = options.open(path)?;
        match file.try_lock() {
            // Closing the file releases the lock, so the file is the guard.
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let mut name = dir.as_os_str().as_bytes().to_vec();
        name.push(0);
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the name ends with a zero byte, and `stat` has room for what is written.
        let code = unsafe { libc::statvfs(name.as_ptr().cast(), stat.as_mut_ptr()) };
        if code != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: statvfs returned success, so it has filled the structure.
        let stat = unsafe { stat.assume_init() };
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

struct RealFile {
    file: Arc<fs::File>,
    /// Started by the first write that is to be synced in the same step.
    sync_thread: Mutex<Option<SyncThread>>,
}

impl RealFile {
    fn new(file: fs::File) -> RealFile {
        RealFile { file: Arc::new(file), sync_thread: Mutex::new(None) }
    }

    /// Has the thread that syncs do so; what is returned completes with it.
    fn have_synced(&self, offset: u64, data: Bytes) -> io::Result<Synced> {
        let mut slot = self.sync_thread.lock().expect("nobody panics with the lock");
        let thread = match slot.take() {
            Some(thread) => thread,
            None => SyncThread::start(self.file.clone())?,
        };
        Ok(slot.insert(thread).write_and_sync(offset, data))
    }
}

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let length = libc::off_t::try_from(len)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "file too long"))?;
        loop {
            // SAFETY: the descriptor is open as long as `self.file` lives.
            let code = unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, length) };
            if code == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // The file system can't reserve: the length alone still saves the later syncs
                // from writing it.
                Some(libc::EOPNOTSUPP) | Some(libc::ENOSYS) => {
                    let longer = len.max(self.len()?);
                    return self.file.set_len(longer);
                }
                _ => return Err(error),
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        let file = self.file.clone();
        Box::pin(blocking(move || file.sync_data()))
    }

    fn write_and_sync(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move { self.have_synced(offset, data)?.done().await })
    }
}
