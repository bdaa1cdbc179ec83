//! The disk of one simulated node: page cache against platter, and all that disks do wrong.
//!
//! The harness owns it, so it survives the node. After a kill the page cache is still there;
//! after a power cut only the platter is, with a random part of what was not synced. Handles of
//! a process that died fail from then on, so that a task that outlives its node can't write.
//!
//! All chance comes from a stream of the disk's own.

pub mod faults;
mod handle;
mod pages;
mod platter;
#[cfg(test)]
mod tests;

use crate::disk::faults::{DiskCounters, DiskFaults, Operation};
use crate::disk::platter::{FileRef, NameChange, Tree};
use crate::random::Stream;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// A simulated disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

type CrashHook = Box<dyn Fn() + Send>;

/// When the machine is to stop.
struct Armed {
    /// Matching operations that still go through.
    left: u64,
    /// Which operations count; all without one.
    only: Option<(Operation, String)>,
}

struct State {
    stream: Stream,
    faults: DiskFaults,
    counters: DiskCounters,
    tree: Tree,
    /// Who holds which lock, by a number that no two holders share.
    locks: BTreeMap<PathBuf, u64>,
    next_lock: u64,
    /// The number of the process that runs on this disk; handles of others are dead.
    process: u64,
    armed: Option<Armed>,
    crashed: bool,
    on_crash: Option<CrashHook>,
    stalled_until: Option<Instant>,
}

fn broken() -> io::Error {
    io::Error::other("the simulated device failed")
}

fn dead() -> io::Error {
    io::Error::other("the simulated machine is down")
}

impl State {
    /// Counts a change, and stops the machine if this is the one that was armed for.
    fn step(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        if self.crashed {
            return Err(dead());
        }
        self.counters.operations += 1;
        let Some(armed) = &mut self.armed else { return Ok(()) };
        let counts = armed.only.as_ref().is_none_or(|(only, part)| {
            *only == operation && path.to_string_lossy().contains(part.as_str())
        });
        if !counts {
            return Ok(());
        }
        if armed.left > 0 {
            armed.left -= 1;
            return Ok(());
        }
        self.armed = None;
        self.crashed = true;
        if let Some(hook) = &self.on_crash {
            hook();
        }
        Err(dead())
    }

    fn used_bytes(&self) -> u64 {
        self.tree.cached.files.values().map(|file| file.get().cached.len()).sum()
    }

    /// Refuses to let a file grow from `from` to `to` bytes beyond what fits.
    fn reserve(&mut self, from: u64, to: u64) -> io::Result<()> {
        if to > from && self.faults.capacity_bytes < u64::MAX {
            let free = self.faults.capacity_bytes.saturating_sub(self.used_bytes());
            if to - from > free {
                self.counters.full += 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(())
    }

    /// Draws how long a sync takes.
    fn sync_latency(&mut self) -> Duration {
        let mut latency = draw(&mut self.stream, &self.faults.sync_latency);
        if self.stream.chance(self.faults.stall_per_mille) {
            self.counters.stalls += 1;
            latency += draw(&mut self.stream, &self.faults.stall);
        }
        latency
    }

    fn begin_process(&mut self) {
        self.process += 1;
        self.locks.clear();
        self.armed = None;
        self.crashed = false;
        self.stalled_until = None;
    }
}

fn draw(stream: &mut Stream, range: &Range<Duration>) -> Duration {
    let nanos = range.end.saturating_sub(range.start).as_nanos();
    range.start + Duration::from_nanos(stream.below(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

impl SimDisk {
    /// An empty disk; `label` tells its stream of chance from those of other disks.
    pub fn new(seed: u64, label: &str, faults: DiskFaults) -> SimDisk {
        let state = State {
            stream: Stream::new(seed, label),
            faults,
            counters: DiskCounters::default(),
            tree: Tree::default(),
            locks: BTreeMap::new(),
            next_lock: 0,
            process: 0,
            armed: None,
            crashed: false,
            on_crash: None,
            stalled_until: None,
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Changes how the disk behaves from here on.
    pub fn set_faults(&self, change: impl FnOnce(&mut DiskFaults)) {
        change(&mut self.state().faults);
    }

    pub fn counters(&self) -> DiskCounters {
        self.state().counters
    }

    /// What its files take, at their full length.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// No sync returns before `pause` has passed.
    pub fn stall(&self, pause: Duration) {
        let mut state = self.state();
        state.counters.stalls += 1;
        state.stalled_until = state.stalled_until.max(Some(Instant::now() + pause));
    }

    /// Lets `operations` more changes happen and stops the machine at the next one: that one and
    /// all after it fail without effect, until a kill or a power cut.
    pub fn arm_crash(&self, operations: u64) {
        self.state().armed = Some(Armed { left: operations, only: None });
    }

    /// Takes an armed crash back, if it has not happened.
    pub fn disarm_crash(&self) {
        self.state().armed = None;
    }

    /// Like `arm_crash`, counting only one kind of change, on paths that contain `part`.
    pub fn arm_crash_on(&self, operation: Operation, part: &str, operations: u64) {
        let only = Some((operation, part.to_string()));
        self.state().armed = Some(Armed { left: operations, only });
    }

    /// What to call when an armed crash happens. It must not touch this disk.
    pub fn on_crash(&self, hook: impl Fn() + Send + 'static) {
        self.state().on_crash = Some(Box::new(hook));
    }

    /// Whether an armed crash has happened. The harness then cuts the power or kills the node.
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// The process dies, and the machine lives on: the page cache stays.
    pub fn kill(&self) {
        let mut state = self.state();
        state.counters.kills += 1;
        state.begin_process();
    }

    /// The machine loses power, and what was not synced may be lost in any part.
    pub fn power_cut(&self) {
        let mut state = self.state();
        let state = &mut *state;
        state.counters.power_cuts += 1;
        let sector = state.faults.sector_bytes;
        // Each file once, though the cache and the platter may know it by different names.
        let mut files: Vec<FileRef> = Vec::new();
        let names = [&state.tree.cached, &state.tree.durable];
        for file in names.iter().flat_map(|names| names.files.values()) {
            if !files.iter().any(|known| known.is(file)) {
                files.push(file.clone());
            }
        }
        for file in files {
            state.counters.torn_writes += file.get().power_cut(sector, &mut state.stream);
        }
        state.counters.lost_name_changes += state.tree.power_cut(&mut state.stream);
        state.begin_process();
    }

    /// How many changes of files no sync has made durable yet.
    pub fn unsynced_changes(&self) -> u64 {
        let state = self.state();
        let files = state.tree.cached.files.values();
        files.map(|file| file.get().pending.len() as u64).sum()
    }

    /// Puts an empty disk in the place of this one.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.tree = Tree::default();
        state.begin_process();
    }

    /// Flips a bit, on the platter and in the cache; false if there is no such byte.
    pub fn rot(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut state = self.state();
        let Some(file) = state.tree.cached.files.get(path).cloned() else { return false };
        let mut inode = file.get();
        let cached = inode.cached.flip(offset, bit);
        let durable = inode.durable.flip(offset, bit);
        state.counters.rotten_bits += u64::from(cached || durable);
        cached || durable
    }

    /// Puts what stands at one place at another one, as if its write had gone astray: where it
    /// belongs stand zeros. False if one of the files is not there.
    pub fn misdirect(&self, from: (&Path, u64), to: (&Path, u64), bytes: u64) -> bool {
        let mut state = self.state();
        let files = &state.tree.cached.files;
        let both = (files.get(from.0).cloned(), files.get(to.0).cloned());
        let (Some(source), Some(target)) = both else { return false };
        let mut astray = vec![0; usize::try_from(bytes).expect("a few sectors")];
        if !source.get().cached.read(from.1, &mut astray) {
            return false;
        }
        source.get().overwrite(from.1, &vec![0; astray.len()]);
        target.get().overwrite(to.1, &astray);
        state.counters.misdirected += 1;
        true
    }

    /// Flips a random bit of a random file whose path contains `part`, below `limit` bytes from
    /// its start. Says where.
    pub fn rot_somewhere(&self, part: &str, limit: u64) -> Option<(PathBuf, u64)> {
        let (path, offset, bit) = {
            let mut state = self.state();
            let State { tree, stream, .. } = &mut *state;
            let files: Vec<(&PathBuf, u64)> = tree
                .cached
                .files
                .iter()
                .filter(|(path, _)| path.to_string_lossy().contains(part))
                .map(|(path, file)| (path, file.get().cached.len().min(limit)))
                .filter(|(_, len)| *len > 0)
                .collect();
            if files.is_empty() {
                return None;
            }
            let (path, len) = files[stream.below(files.len() as u64) as usize];
            (path.clone(), stream.below(len), stream.below(8) as u8)
        };
        self.rot(&path, offset, bit).then_some((path, offset))
    }

    /// What of a file is on the platter at the least.
    pub fn platter(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.state().tree.durable.files.get(path).cloned()?;
        let bytes = file.get().durable.to_vec();
        Some(bytes)
    }

    /// The files of a directory that are there also after a power cut.
    pub fn platter_names(&self, dir: &Path) -> Vec<PathBuf> {
        let state = self.state();
        let paths = state.tree.durable.files.keys();
        paths.filter(|path| path.parent() == Some(dir)).cloned().collect()
    }

    /// A disk without faults that holds what is on this platter at the least, for a checker to
    /// read. It shares the pages, so it costs little.
    pub fn platter_image(&self) -> SimDisk {
        let image = SimDisk::new(0, "image", DiskFaults::none());
        let state = self.state();
        let mut copy = image.state();
        copy.tree.durable.dirs.clone_from(&state.tree.durable.dirs);
        for (path, file) in &state.tree.durable.files {
            let copied = FileRef::default();
            let durable = file.get().durable.clone();
            {
                let mut inode = copied.get();
                inode.cached = durable.clone();
                inode.durable = durable;
            }
            copy.tree.durable.change(&NameChange::Create(path.clone(), copied));
        }
        copy.tree.durable.drop_orphans();
        copy.tree.cached = copy.tree.durable.clone();
        drop(copy);
        image
    }
}
