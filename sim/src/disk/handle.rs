//! A simulated disk as a server sees it.

use crate::disk::faults::Operation;
use crate::disk::platter::{Change, FileRef, NameChange};
use crate::disk::{SimDisk, State, broken, dead};
use bytes::Bytes;
use detcd::env::disk::{Disk, File};
use futures::future::BoxFuture;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use tokio::time::Instant;

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl SimDisk {
    /// Waits as long as a sync takes, stalls included.
    async fn wait_for_device(&self) {
        let latency = self.state().sync_latency();
        let mut until = if latency.is_zero() { None } else { Some(Instant::now() + latency) };
        loop {
            until = until.max(self.state().stalled_until);
            let Some(at) = until else { return };
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    fn handle(&self, path: &Path, file: FileRef, process: u64) -> Arc<dyn File> {
        Arc::new(SimFile { disk: self.clone(), path: path.to_path_buf(), file, process })
    }

    /// The disk, for the process that began a wait before it.
    fn state_of(&self, process: u64) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.process != process { Err(dead()) } else { Ok(state) }
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.step(Operation::Create, path)?;
        let names = &state.tree.cached;
        if names.files.contains_key(path) || names.dirs.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match path.parent() {
            Some(dir) if !names.dirs.contains(dir) => return Err(not_found(dir)),
            Some(_) | None => {}
        }
        let file = FileRef::default();
        state.tree.change(NameChange::Create(path.to_path_buf(), file.clone()));
        Ok(self.handle(path, file, state.process))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let state = self.state();
        if state.crashed {
            return Err(dead());
        }
        let file = state.tree.cached.files.get(path).cloned().ok_or_else(|| not_found(path))?;
        Ok(self.handle(path, file, state.process))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::Rename, to)?;
        let file = state.tree.cached.files.get(from).cloned().ok_or_else(|| not_found(from))?;
        state.tree.change(NameChange::Rename(from.to_path_buf(), to.to_path_buf(), file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::Remove, path)?;
        let file = state.tree.cached.files.get(path).cloned().ok_or_else(|| not_found(path))?;
        state.tree.change(NameChange::Remove(path.to_path_buf(), file));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.crashed {
            return Err(dead());
        }
        let names = &state.tree.cached;
        if !names.dirs.contains(dir) {
            return Err(not_found(dir));
        }
        let paths = names.files.keys().chain(&names.dirs);
        let mut found: Vec<String> = paths
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        found.sort();
        Ok(found)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut above: Vec<&Path> = dir.ancestors().collect();
        above.reverse();
        for dir in above {
            if !dir.as_os_str().is_empty() && !state.tree.cached.dirs.contains(dir) {
                state.step(Operation::MakeDir, dir)?;
                state.tree.change(NameChange::MakeDir(dir.to_path_buf()));
            }
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        if state.crashed {
            return Err(dead());
        }
        let names = &state.tree.cached;
        Ok(names.files.contains_key(path) || names.dirs.contains(path))
    }

    fn sync_dir(&self, dir: &Path) -> BoxFuture<'_, io::Result<()>> {
        let dir = dir.to_path_buf();
        Box::pin(async move {
            let (process, mark) = {
                let mut state = self.state();
                state.step(Operation::SyncDirBegin, &dir)?;
                if !state.tree.cached.dirs.contains(&dir) {
                    return Err(not_found(&dir));
                }
                state.counters.dir_syncs += 1;
                (state.process, state.tree.mark())
            };
            self.wait_for_device().await;
            let mut state = self.state_of(process)?;
            if state.crashed {
                return Err(dead());
            }
            state.tree.persist(&dir, mark);
            state.step(Operation::SyncDirEnd, &dir)
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state();
        if state.crashed {
            return Err(dead());
        }
        if state.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.next_lock += 1;
        let number = state.next_lock;
        state.locks.insert(path.to_path_buf(), number);
        Ok(Box::new(SimLock { disk: self.clone(), path: path.to_path_buf(), number }))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.faults.capacity_bytes.saturating_sub(state.used_bytes()))
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    number: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // The lock of a process that was killed may belong to its successor by now.
        if state.locks.get(&self.path) == Some(&self.number) {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    file: FileRef,
    process: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state_of(self.process)?;
        if state.crashed { Err(dead()) } else { Ok(state) }
    }

    fn change(&self, operation: Operation, end: u64, change: Change) -> io::Result<()> {
        let mut state = self.state()?;
        state.step(operation, &self.path)?;
        let per_mille = state.faults.write_error_per_mille;
        if state.stream.chance(per_mille) {
            state.counters.failed_writes += 1;
            return Err(broken());
        }
        let len = self.file.get().cached.len();
        state.reserve(len, end)?;
        if let Change::Data { bytes, .. } = &change {
            state.counters.writes += 1;
            state.counters.written_bytes += bytes.len() as u64;
        }
        self.file.get().change(change);
        Ok(())
    }

    async fn bring_to_platter(&self) -> io::Result<()> {
        let mark = {
            let mut state = self.state()?;
            state.step(Operation::SyncBegin, &self.path)?;
            self.file.get().next_change
        };
        self.disk.wait_for_device().await;
        let mut state = self.state()?;
        let state = &mut *state;
        let mut inode = self.file.get();
        let sector = state.faults.sector_bytes;
        if state.stream.chance(state.faults.sync_error_per_mille) {
            state.counters.failed_syncs += 1;
            inode.persist_some(mark, sector, &mut state.stream);
            return Err(broken());
        }
        if state.stream.chance(state.faults.misdirect_per_mille) {
            state.counters.misdirected += 1;
            inode.persist_misdirected(mark, sector, &mut state.stream);
        } else {
            inode.persist(mark);
        }
        state.counters.syncs += 1;
        drop(inode);
        state.step(Operation::SyncEnd, &self.path)
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let _state = self.state()?;
        Ok(self.file.get().cached.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // Also of a machine that an armed crash has stopped: nobody learns what its ghost reads
        // until it is killed, and a read that fails would end it in another way.
        let mut state = self.disk.state_of(self.process)?;
        let per_mille = state.faults.read_error_per_mille;
        if state.stream.chance(per_mille) {
            state.counters.failed_reads += 1;
            return Err(broken());
        }
        if self.file.get().cached.read(offset, buf) {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let change = Change::Data { offset, bytes: data.to_vec() };
        self.change(Operation::Write, end, change)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let longer = self.len()?.max(len);
        self.change(Operation::Allocate, longer, Change::Length(longer))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Operation::SetLength, len, Change::Length(len))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.bring_to_platter())
    }

    fn write_and_sync(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.write_at(offset, &data)?;
            drop(data);
            self.bring_to_platter().await
        })
    }
}
