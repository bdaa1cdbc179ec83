//! A disk in memory for unit tests: everything is durable at once, and nothing fails unless told.

use crate::env::disk::{Disk, File};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

type Contents = Arc<Mutex<Vec<u8>>>;

/// Files in memory. Clones share them, so a test can close everything and open it again.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<MemState>>,
}

#[derive(Default)]
struct MemState {
    files: BTreeMap<PathBuf, Contents>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    /// Operations that change something and may still happen before all of them fail.
    fail_after: Option<(u64, io::ErrorKind)>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl MemDisk {
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// After `operations` more changes, every change fails with `kind`, until `heal`.
    pub fn fail_after(&self, operations: u64, kind: io::ErrorKind) {
        hold(&self.state).fail_after = Some((operations, kind));
    }

    pub fn heal(&self) {
        hold(&self.state).fail_after = None;
    }

    /// The contents of a file, for a test to look at.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let contents = hold(&self.state).files.get(path).cloned()?;
        let bytes = hold(&contents).clone();
        Some(bytes)
    }

    /// Replaces the contents of a file, for a test to damage it.
    pub fn set_contents(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = hold(&self.state);
        *hold(state.files.entry(path.to_path_buf()).or_default()) = bytes;
    }

    /// Counts one change, and says whether it may happen.
    fn change(&self) -> io::Result<MutexGuard<'_, MemState>> {
        let mut state = hold(&self.state);
        match &mut state.fail_after {
            Some((0, kind)) => Err((*kind).into()),
            Some((left, _)) => {
                *left -= 1;
                Ok(state)
            }
            None => Ok(state),
        }
    }
}

impl Disk for MemDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.change()?;
        if state.files.contains_key(path) || state.dirs.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if let Some(parent) = path.parent()
            && !state.dirs.contains(parent)
        {
            return Err(not_found(parent));
        }
        let contents = Contents::default();
        state.files.insert(path.to_path_buf(), contents.clone());
        Ok(Arc::new(MemFile { disk: self.clone(), contents }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let contents = hold(&self.state).files.get(path).cloned();
        let contents = contents.ok_or_else(|| not_found(path))?;
        Ok(Arc::new(MemFile { disk: self.clone(), contents }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        let contents = state.files.remove(from).ok_or_else(|| not_found(from))?;
        state.files.insert(to.to_path_buf(), contents);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        state.files.remove(path).map(drop).ok_or_else(|| not_found(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = hold(&self.state);
        if !state.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let names = state.files.keys().chain(state.dirs.iter());
        let mut names: Vec<String> = names
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        for above in dir.ancestors() {
            state.dirs.insert(above.to_path_buf());
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = hold(&self.state);
        Ok(state.files.contains_key(path) || state.dirs.contains(path))
    }

    fn sync_dir(&self, dir: &Path) -> BoxFuture<'_, io::Result<()>> {
        let result = match self.change() {
            Ok(state) if !state.dirs.contains(dir) => Err(not_found(dir)),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        Box::pin(std::future::ready(result))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = hold(&self.state);
        if !state.locked.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemLock { disk: self.clone(), path: path.to_path_buf() }))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct MemLock {
    disk: MemDisk,
    path: PathBuf,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        hold(&self.disk.state).locked.remove(&self.path);
    }
}

struct MemFile {
    disk: MemDisk,
    contents: Contents,
}

fn memory_offset(offset: u64) -> usize {
    usize::try_from(offset).expect("a file in memory is shorter than memory")
}

impl File for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(hold(&self.contents).len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let contents = hold(&self.contents);
        let start = memory_offset(offset);
        let bytes = contents.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let _state = self.disk.change()?;
        let mut contents = hold(&self.contents);
        let start = memory_offset(offset);
        let end = start + data.len();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[start..end].copy_from_slice(data);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let _state = self.disk.change()?;
        let mut contents = hold(&self.contents);
        let longer = memory_offset(len).max(contents.len());
        contents.resize(longer, 0);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _state = self.disk.change()?;
        hold(&self.contents).resize(memory_offset(len), 0);
        Ok(())
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        let result = self.disk.change().map(drop);
        Box::pin(std::future::ready(result))
    }

    fn write_and_sync(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        let result = self.write_at(offset, &data);
        Box::pin(std::future::ready(result))
    }
}
