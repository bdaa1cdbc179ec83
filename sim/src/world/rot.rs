//! Damage to what is on a member's platter: bits that rot, and writes that landed somewhere else.
//!
//! It strikes a log only where a later record proves that it is no torn end: who loses the end of
//! its log without a trace has forgotten what it promised, and no protocol of majorities survives
//! that on its own.

use super::cluster::Cluster;
use super::directories::{DATA_DIR, wal_dir};
use crate::checker::raft::Fact;
use crate::disk::SimDisk;
use crate::random::Stream;
use crate::timer;
use detcd::env::disk::{Disk, SECTOR_BYTES};
use detcd::mvcc::record::Location;
use detcd::storage::run;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// A batch at the end may be this long, and damage to the last one can't be told from a tear.
const TAIL_BYTES: u64 = 24 << 10;
/// Sectors of one misdirected write at the most.
const SECTORS_MAX: u64 = 8;
/// How often it is looked for what a log has released: less than the time between two writes.
const LOOK: Duration = Duration::from_millis(1);
/// The end of a run, which says where all the rest is.
const END_BYTES: u64 = 16;

/// A file, and how it may be damaged.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    /// Damage strikes below this.
    limit: u64,
    /// From here on the file was never written.
    unused: u64,
    len: u64,
}

/// The segments of the log that can be damaged.
fn segments(image: &SimDisk) -> Vec<Place> {
    let dir = wal_dir(image);
    let names = image.list(&dir).unwrap_or_default();
    let paths: Vec<PathBuf> =
        names.iter().filter(|n| n.ends_with(".wal")).map(|n| dir.join(n)).collect();
    let mut places = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        let Some(bytes) = image.platter(path) else { continue };
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at as u64 + 1);
        let last = i + 1 == paths.len();
        let limit = if last { used.saturating_sub(TAIL_BYTES) } else { used };
        // The last two are looked at together: the end of the one before may be the tail.
        let before_last = i + 2 == paths.len();
        let limit = if before_last { limit.saturating_sub(TAIL_BYTES) } else { limit };
        if limit > 0 {
            let len = bytes.len() as u64;
            places.push(Place { path: path.clone(), limit, unused: used, len });
        }
    }
    places
}

fn run_dir() -> PathBuf {
    Path::new(DATA_DIR).join("member").join("runs")
}

/// Runs or manifests, by how their names end.
fn of_checkpoints(disk: &SimDisk, kind: &str) -> Vec<PathBuf> {
    let dir = run_dir();
    let names = disk.list(&dir).unwrap_or_default();
    names.iter().filter(|name| name.ends_with(kind)).map(|name| dir.join(name)).collect()
}

impl Cluster {
    /// Flips a bit of the log of a member that is down. Says where, or nothing if the log is too
    /// short.
    pub fn rot(&self, member: usize, stream: &mut Stream) -> Option<(PathBuf, u64)> {
        let disk = self.disk(member);
        let places = segments(&disk.platter_image());
        if places.is_empty() {
            return None;
        }
        let Place { path, limit, .. } = stream.pick(&places).clone();
        let offset = stream.below(limit);
        if !disk.rot(&path, offset, stream.below(8) as u8) {
            return None;
        }
        self.state(member).log_rotten = true;
        Some((path, offset))
    }

    /// Flips a bit of a run or a manifest of a member. Says where, or nothing if there is none.
    pub fn rot_checkpoint(&self, member: usize, stream: &mut Stream) -> Option<(PathBuf, u64)> {
        let disk = self.disk(member);
        let kind = if stream.chance(800) { ".run" } else { ".manifest" };
        let paths = of_checkpoints(disk, kind);
        let path = if paths.is_empty() { return None } else { stream.pick(&paths).clone() };
        self.rot_anywhere(member, path, stream)
    }

    /// Flips a bit of a file of a member's checkpoints. Says where.
    fn rot_anywhere(
        &self,
        member: usize,
        path: PathBuf,
        stream: &mut Stream,
    ) -> Option<(PathBuf, u64)> {
        let bytes = self.disk(member).platter(&path)?.len() as u64;
        let offset = stream.below(bytes.max(1));
        self.rot_at(member, path, offset, stream)
    }

    fn rot_at(
        &self,
        member: usize,
        path: PathBuf,
        offset: u64,
        stream: &mut Stream,
    ) -> Option<(PathBuf, u64)> {
        if !self.disk(member).rot(&path, offset, stream.below(8) as u8) {
            return None;
        }
        self.runs_rot(member);
        Some((path, offset))
    }

    /// Flips a bit of a value that lies in a run of a member. Says where, if the run is there.
    pub fn rot_value(
        &self,
        member: usize,
        value: Location,
        stream: &mut Stream,
    ) -> Option<(PathBuf, u64)> {
        let path = run_dir().join(run::file_name(value.run));
        let offset = value.offset + stream.below(u64::from(value.len).max(1));
        self.rot_at(member, path, offset, stream)
    }

    /// Waits until a member receives a run of a state that another one sends it, and flips a bit of
    /// it. Says where, or nothing if none comes in time.
    pub async fn rot_received(
        &self,
        member: usize,
        within: Duration,
        stream: &mut Stream,
    ) -> Option<(PathBuf, u64)> {
        let until = Instant::now() + within;
        // What stood there when the transfer was first seen.
        let mut before: Option<Vec<PathBuf>> = None;
        while Instant::now() < until {
            if !self.book().lock().members[member].receives {
                before = None;
                let left = until - Instant::now();
                timer::timeout(left, pin!(self.book().next_transfer())).await.ok()?;
                continue;
            }
            let mut runs = self.durable_runs(member);
            let known = before.get_or_insert_with(|| runs.clone());
            runs.retain(|path| !known.contains(path));
            if let Some(path) = runs.pop() {
                return self.rot_anywhere(member, path, stream);
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// Waits until a member that leads is asked for its state, and flips a bit at the end of one of
    /// its runs, without which nobody can open it. Says where, or nothing if nobody asks in time.
    pub async fn rot_asked_for(
        &self,
        member: usize,
        within: Duration,
        stream: &mut Stream,
    ) -> Option<(PathBuf, u64)> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            let left = until - Instant::now();
            timer::timeout(left, pin!(self.book().next_transfer())).await.ok()?;
            let runs = self.durable_runs(member);
            if self.book().lock().members[member].leads && !runs.is_empty() {
                let path = stream.pick(&runs).clone();
                let bytes = self.disk(member).platter(&path)?.len() as u64;
                let offset = bytes.checked_sub(1 + stream.below(END_BYTES))?;
                return self.rot_at(member, path, offset, stream);
            }
        }
        None
    }

    /// The runs of a member whose names are durable: all of each is there, then.
    fn durable_runs(&self, member: usize) -> Vec<PathBuf> {
        let mut runs = self.disk(member).platter_names(&run_dir());
        runs.retain(|path| path.extension().is_some_and(|kind| kind == "run"));
        runs
    }

    /// Flips a bit in every manifest of a member, or in every run. Says where.
    pub fn rot_checkpoints(&self, member: usize, stream: &mut Stream) -> Vec<(PathBuf, u64)> {
        let kind = if stream.chance(500) { ".run" } else { ".manifest" };
        let disk = self.disk(member);
        let mut places = Vec::new();
        for path in of_checkpoints(disk, kind) {
            let bytes = disk.platter(&path).map_or(0, |bytes| bytes.len() as u64);
            let offset = stream.below(bytes.max(1));
            if disk.rot(&path, offset, stream.below(8) as u8) {
                places.push((path, offset));
            }
        }
        if !places.is_empty() {
            self.runs_rot(member);
        }
        places
    }

    fn runs_rot(&self, member: usize) {
        self.state(member).runs_rotten = true;
        self.book().fact(member, Fact::RunsDamaged);
    }

    /// Waits until all of a member's log but its last segment was released, durably; false if that
    /// does not happen in time.
    pub async fn log_released(&self, member: usize, within: Duration) -> bool {
        let disk = self.disk(member);
        let (until, mut before) = (Instant::now() + within, 0);
        while Instant::now() < until {
            let files = disk.platter_names(&wal_dir(disk));
            let segments = files.iter().filter(|path| path.extension().is_some_and(|e| e == "wal"));
            let segments = segments.count();
            if segments == 1 && before > 1 {
                return true;
            }
            before = segments;
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// Lets sectors that were written to the log or to a checkpoint of a member that is down stand
    /// at another place of the same file, or in another file. Says from where to where.
    pub fn misdirect(
        &self,
        member: usize,
        stream: &mut Stream,
    ) -> Option<((PathBuf, u64), (PathBuf, u64))> {
        let disk = self.disk(member);
        let logs = segments(&disk.platter_image());
        let mut places = logs.clone();
        for path in [".run", ".manifest"].iter().flat_map(|kind| of_checkpoints(disk, kind)) {
            let len = disk.platter(&path)?.len() as u64;
            places.push(Place { path, limit: len, unused: len, len });
        }
        if places.is_empty() {
            return None;
        }
        // Of a log there may be many segments, and of checkpoints many runs.
        let of_log = stream.chance(500) && !logs.is_empty();
        let from = stream.pick(if of_log { &logs } else { &places }).clone();
        let to = if stream.chance(500) { from.clone() } else { stream.pick(&places).clone() };
        let sectors = stream.between(1, SECTORS_MAX.min(from.limit / SECTOR_BYTES).max(1));
        let start = |stream: &mut Stream, place: &Place| {
            let room = (place.limit / SECTOR_BYTES).saturating_sub(sectors);
            stream.below(room + 1) * SECTOR_BYTES
        };
        let source = start(stream, &from);
        // Where nothing was written yet, what arrives may be taken for the next record.
        let unused = to.unused.next_multiple_of(SECTOR_BYTES);
        let into_unused = stream.chance(250) && unused < to.len;
        let target = if into_unused { unused } else { start(stream, &to) };
        let bytes = (sectors * SECTOR_BYTES).min(from.limit - source);
        let room = if into_unused { to.len } else { to.limit };
        let bytes = bytes.min(room.saturating_sub(target));
        if bytes == 0 || (&from.path, source) == (&to.path, target) {
            return None;
        }
        if !disk.misdirect((&from.path, source), (&to.path, target), bytes) {
            return None;
        }
        let is_log = |place: &Place| logs.iter().any(|log| log.path == place.path);
        for place in [&from, &to] {
            match is_log(place) {
                true => self.state(member).log_rotten = true,
                false => self.runs_rot(member),
            }
        }
        Some(((from.path, source), (to.path, target)))
    }

    pub fn is_rotten(&self, member: usize) -> bool {
        let state = self.state(member);
        state.log_rotten || state.runs_rotten
    }

    /// Whether its log was damaged: what it has promised can't be known any more.
    pub fn is_log_rotten(&self, member: usize) -> bool {
        self.state(member).log_rotten
    }
}
