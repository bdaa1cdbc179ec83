//! Page cache against platter: what a file and a directory hold for who reads them, and what of
//! it a power cut leaves.

use crate::disk::pages::Pages;
use crate::random::Stream;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// A change of a file that is not on the platter yet.
pub enum Change {
    Data { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

/// A file, whatever it is called.
#[derive(Default)]
pub struct Inode {
    /// What a reader sees.
    pub cached: Pages,
    /// What is there after a power cut at the least.
    pub durable: Pages,
    /// What leads from `durable` to `cached`, in order, each with its number.
    pub pending: Vec<(u64, Change)>,
    pub next_change: u64,
}

/// A file that several names, in cache and on the platter, and open handles share.
#[derive(Clone, Default)]
pub struct FileRef(Arc<Mutex<Inode>>);

impl FileRef {
    pub fn get(&self) -> MutexGuard<'_, Inode> {
        self.0.lock().expect("no holder of this lock panics")
    }

    pub fn is(&self, other: &FileRef) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// How a power cut treats what is pending in a file.
#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    /// Sector by sector.
    Mixed,
}

impl Inode {
    pub fn change(&mut self, change: Change) {
        match &change {
            Change::Data { offset, bytes } => self.cached.write(*offset, bytes),
            Change::Length(len) => self.cached.set_len(*len),
        }
        self.next_change += 1;
        self.pending.push((self.next_change, change));
    }

    /// Puts bytes there that no sync has to bring to the platter any more.
    pub fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        self.cached.write(offset, bytes);
        self.durable.write(offset, bytes);
    }

    /// Brings all changes up to number `mark` to the platter.
    pub fn persist(&mut self, mark: u64) {
        for change in self.take_pending(mark) {
            match change {
                Change::Data { offset, bytes } => self.durable.write(offset, &bytes),
                Change::Length(len) => self.durable.set_len(len),
            }
        }
    }

    /// Like `persist`, but one write of the batch lands `sectors` sectors from its place.
    pub fn persist_misdirected(&mut self, mark: u64, sector: u64, stream: &mut Stream) {
        let mut changes = self.take_pending(mark);
        let writes = changes.iter().filter(|c| matches!(c, Change::Data { .. })).count() as u64;
        let mut chosen = stream.below(writes);
        let sectors = self.cached.len() / sector;
        for change in &mut changes {
            if let Change::Data { offset, .. } = change {
                if chosen == 0 {
                    *offset = *offset % sector + stream.below(sectors) * sector;
                }
                chosen = chosen.wrapping_sub(1);
            }
        }
        let len = self.cached.len();
        for change in changes {
            match change {
                Change::Data { offset, bytes } => self.durable.write(offset, &bytes),
                Change::Length(len) => self.durable.set_len(len),
            }
        }
        self.durable.set_len(len);
    }

    fn take_pending(&mut self, mark: u64) -> Vec<Change> {
        let count = self.pending.partition_point(|(number, _)| *number <= mark);
        self.pending.drain(..count).map(|(_, change)| change).collect()
    }

    /// Brings a random part of the changes up to `mark` to the platter and forgets the rest.
    /// Returns how many writes came through neither whole nor not at all.
    ///
    /// Each sector holds what it held before or after one of the writes to it. The length is
    /// what it was at some moment.
    pub fn persist_some(&mut self, mark: u64, sector: u64, stream: &mut Stream) -> u64 {
        let changes = self.take_pending(mark);
        let count = changes.len() as u64;
        let fate = match stream.below(4) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            _ => Fate::Mixed,
        };
        let draw = |stream: &mut Stream| match fate {
            Fate::Lost => 0,
            Fate::Kept => count,
            Fate::Mixed => match stream.below(4) {
                0 | 1 => count,
                2 => 0,
                _ => stream.below(count + 1),
            },
        };
        let length_reaches = draw(stream);
        // How many of the changes each sector saw.
        let mut reaches: BTreeMap<u64, u64> = BTreeMap::new();
        let mut torn = 0;
        for (number, change) in changes.iter().enumerate() {
            let number = number as u64;
            match change {
                Change::Length(len) => {
                    if number < length_reaches {
                        self.durable.set_len(*len);
                    }
                }
                Change::Data { offset, bytes } => {
                    let len = self.durable.len();
                    let (mut kept, mut lost) = (0, 0);
                    for (at, part) in sectors(*offset, bytes, sector) {
                        let reach = *reaches.entry(at / sector).or_insert_with(|| draw(stream));
                        if number < reach {
                            self.durable.write(at, part);
                            kept += 1;
                        } else {
                            lost += 1;
                        }
                    }
                    torn += u64::from(kept > 0 && lost > 0);
                    let end = offset + bytes.len() as u64;
                    let longer = if number < length_reaches { len.max(end) } else { len };
                    self.durable.set_len(longer);
                }
            }
        }
        torn
    }

    /// The machine loses power: what is not on the platter is gone.
    pub fn power_cut(&mut self, sector: u64, stream: &mut Stream) -> u64 {
        let torn = self.persist_some(u64::MAX, sector, stream);
        self.cached = self.durable.clone();
        torn
    }
}

/// The parts of a write, cut at the borders of sectors.
fn sectors(offset: u64, bytes: &[u8], sector: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = offset;
    let mut left = bytes;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        let room = usize::try_from(sector - at % sector).expect("a sector fits memory");
        let (part, rest) = left.split_at(room.min(left.len()));
        let item = (at, part);
        at += part.len() as u64;
        left = rest;
        Some(item)
    })
}

/// Which names exist.
#[derive(Clone)]
pub struct Names {
    pub files: BTreeMap<PathBuf, FileRef>,
    pub dirs: BTreeSet<PathBuf>,
}

impl Default for Names {
    /// The root is always there.
    fn default() -> Names {
        Names { files: BTreeMap::new(), dirs: BTreeSet::from([PathBuf::from("/")]) }
    }
}

/// A change of a directory that is not on the platter yet.
pub enum NameChange {
    Create(PathBuf, FileRef),
    Rename(PathBuf, PathBuf, FileRef),
    Remove(PathBuf, FileRef),
    MakeDir(PathBuf),
}

impl NameChange {
    /// Whether syncing `dir` makes this durable.
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            NameChange::Create(path, _) | NameChange::Remove(path, _) => path.parent() == Some(dir),
            NameChange::MakeDir(path) => path.parent() == Some(dir),
            NameChange::Rename(from, to, _) => {
                from.parent() == Some(dir) || to.parent() == Some(dir)
            }
        }
    }
}

impl Names {
    /// Makes a change, if what it relies on is there.
    pub fn change(&mut self, change: &NameChange) {
        let holds = |files: &BTreeMap<PathBuf, FileRef>, path: &Path, file: &FileRef| {
            files.get(path).is_some_and(|named| named.is(file))
        };
        match change {
            NameChange::Create(path, file) => {
                self.files.insert(path.clone(), file.clone());
            }
            NameChange::Rename(from, to, file) => {
                if holds(&self.files, from, file) {
                    self.files.remove(from);
                    self.files.insert(to.clone(), file.clone());
                }
            }
            NameChange::Remove(path, file) => {
                if holds(&self.files, path, file) {
                    self.files.remove(path);
                }
            }
            NameChange::MakeDir(path) => {
                self.dirs.insert(path.clone());
            }
        }
    }

    /// Forgets what lies in a directory that does not exist.
    pub fn drop_orphans(&mut self) {
        let dirs = self.dirs.clone();
        let reachable = |path: &Path| {
            let mut above = path.ancestors().skip(1);
            above.all(|dir| dir.as_os_str().is_empty() || dirs.contains(dir))
        };
        self.dirs.retain(|dir| reachable(dir));
        self.files.retain(|path, _| reachable(path));
    }
}

/// The directories of a disk.
#[derive(Default)]
pub struct Tree {
    pub cached: Names,
    pub durable: Names,
    pending: Vec<(u64, NameChange)>,
    next_change: u64,
}

impl Tree {
    pub fn change(&mut self, change: NameChange) {
        self.cached.change(&change);
        self.next_change += 1;
        self.pending.push((self.next_change, change));
    }

    /// The number of the last change: a sync that begins here reaches so far.
    pub fn mark(&self) -> u64 {
        self.next_change
    }

    /// Brings the changes of one directory up to number `mark` to the platter.
    pub fn persist(&mut self, dir: &Path, mark: u64) {
        let pending = std::mem::take(&mut self.pending);
        for (number, change) in pending {
            if number <= mark && change.is_in(dir) {
                self.durable.change(&change);
            } else {
                self.pending.push((number, change));
            }
        }
    }

    /// The machine loses power: of the pending changes a beginning survives, as on a file system
    /// with a journal, or any part, as POSIX allows. Returns how many were lost.
    pub fn power_cut(&mut self, stream: &mut Stream) -> u64 {
        let pending = std::mem::take(&mut self.pending);
        let in_order = stream.below(2) == 0;
        let reach = stream.below(pending.len() as u64 + 1);
        let mut lost = 0;
        for (position, (_, change)) in pending.iter().enumerate() {
            let survives = if in_order { (position as u64) < reach } else { stream.below(2) == 0 };
            if survives {
                self.durable.change(change);
            } else {
                lost += 1;
            }
        }
        self.durable.drop_orphans();
        self.cached = self.durable.clone();
        lost
    }
}
