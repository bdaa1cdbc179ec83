//! Checkpoints: storing them, cleaning up behind them, choosing runs to rewrite, and finding at
//! the start the newest one that the log continues.
//!
//! Invariants:
//! - A manifest names only runs that are durable. So runs come first, then the manifest, then the
//!   log may be released and files that no kept manifest names be removed.
//! - The log always continues the newest manifest without a gap. If the newest has rotted, the
//!   one before is used only if the log continues that one too; otherwise the node stops.

use crate::env::disk::Disk;
use crate::raft::message::HardState;
use crate::storage::data_dir::DataDir;
use crate::storage::error::StorageError;
use crate::storage::manifest::{self, KEPT, Manifest};
use crate::storage::run::{self, Run, RunMeta};
use crate::storage::segment::{TEMPORARY, WalMetadata};
use crate::storage::wal::{Wal, WalOptions, WalState};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

/// A checkpoint with its runs open.
pub struct Checkpoint {
    pub manifest: Manifest,
    /// In the order of the manifest.
    pub runs: Vec<Run>,
}

impl Checkpoint {
    /// Reads a manifest and opens all of its runs, which must be the ones it names.
    pub fn open(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<Checkpoint, StorageError> {
        let manifest = Manifest::load(disk, dir, sequence)?;
        let mut runs = Vec::with_capacity(manifest.runs.len());
        for expected in &manifest.runs {
            let run = Run::open(disk, dir, expected.id)?;
            let found = RunMeta { live_bytes: expected.live_bytes, ..*run.meta() };
            if found != *expected {
                let what = format!("manifest {sequence} names another run of this id");
                return Err(StorageError::damaged(&dir.join(run::file_name(found.id)), 0, what));
            }
            runs.push(run);
        }
        Ok(Checkpoint { manifest, runs })
    }
}

/// What a member starts from.
pub struct Recovery {
    /// Nothing before the first checkpoint.
    pub checkpoint: Option<Checkpoint>,
    pub wal: Wal,
    pub log: WalState,
    /// What was found broken and got around, in words for the operator.
    pub notes: Vec<String>,
}

/// Finds the newest checkpoint that verifies, opens the log behind it, and removes leftovers.
pub async fn recover(dir: &DataDir, options: WalOptions) -> Result<Recovery, StorageError> {
    recover_before(dir, options, u64::MAX).await
}

/// Like `recover`, among the checkpoints of lower sequence numbers than `before`: blocks of runs
/// are verified only when they are read, so one may turn out to be damaged later.
pub async fn recover_before(
    dir: &DataDir,
    options: WalOptions,
    before: u64,
) -> Result<Recovery, StorageError> {
    let disk = dir.disk();
    let run_dir = dir.run_dir();
    // A manifest whose name is only in the page cache must not be relied upon: what follows from
    // it, such as a reset of the log, would outlive it.
    let synced = disk.sync_dir(&run_dir).await;
    synced.map_err(|error| StorageError::io(&run_dir, "syncing", error))?;
    let mut notes = Vec::new();
    let mut broken = None;
    let mut checkpoint = None;
    let sequences = Manifest::sequences(&**disk, &run_dir)?;
    for sequence in sequences.into_iter().filter(|sequence| *sequence < before) {
        match Checkpoint::open(&**disk, &run_dir, sequence) {
            Ok(found) => {
                checkpoint = Some(found);
                break;
            }
            // What is broken stays broken, and the one before may do. Trouble with the device
            // or a later format are nobody's fault here and pass with a restart.
            Err(error @ (StorageError::Damaged { .. } | StorageError::Missing { .. })) => {
                notes.push(error.to_string());
                broken.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let after = checkpoint.as_ref().map_or(0, |found| found.manifest.applied_index);
    let opened = Wal::open(disk.clone(), &dir.wal_dir(), after, options).await;
    let (mut wal, mut log) = match (opened, broken) {
        // The log does not reach back to the older checkpoint, so the broken one was needed.
        (Err(StorageError::Missing { .. }), Some(broken)) => return Err(broken),
        (opened, _) => opened?,
    };
    if let Some(found) = &checkpoint {
        check_owner(&found.manifest, &log.metadata, &run_dir)?;
        let done = finish_install(&mut wal, &mut log, &found.manifest, &dir.wal_dir()).await?;
        notes.extend(done);
    }
    notes.extend(log.repaired.clone());
    // A broken newest manifest stays until a newer one takes its place; only files that no
    // manifest could ever name again go here.
    remove_unfinished(&**disk, &run_dir)?;
    Ok(Recovery { checkpoint, wal, log, notes })
}

fn check_owner(
    manifest: &Manifest,
    metadata: &WalMetadata,
    dir: &Path,
) -> Result<(), StorageError> {
    let owner = WalMetadata { cluster_id: manifest.cluster_id, member_id: manifest.member_id };
    if owner == *metadata {
        return Ok(());
    }
    let what = format!("the checkpoint belongs to {owner:x?} and the log to {metadata:x?}");
    Err(StorageError::damaged(&dir.join(manifest::file_name(manifest.sequence)), 0, what))
}

/// Completes the install of a snapshot that a crash cut short between the manifest and the reset
/// of the log. The log is then not the continuation of the checkpoint, and none of it counts.
///
/// A checkpoint of the member's own state was made of its log, so there such a log has lost
/// what it held, perhaps a vote among it.
async fn finish_install(
    wal: &mut Wal,
    log: &mut WalState,
    manifest: &Manifest,
    wal_dir: &Path,
) -> Result<Option<String>, StorageError> {
    let (index, term) = (manifest.applied_index, manifest.applied_term);
    let is_behind = wal.last_index() < index;
    let is_other = log.term_at_checkpoint.is_some_and(|found| found != term);
    if !is_behind && !is_other {
        return Ok(None);
    }
    if !manifest.installed {
        let what = format!(
            "the checkpoint reaches index {index} of term {term}, and the log ends at {} with \
             term {:?} there",
            wal.last_index(),
            log.term_at_checkpoint
        );
        return Err(StorageError::missing(wal_dir, what));
    }
    let before = log.hard_state;
    // A vote counts for its own term only.
    let vote = if term > before.term { 0 } else { before.vote };
    let hard_state = HardState { term: before.term.max(term), vote, commit: index };
    wal.reset(index, term, hard_state).await?;
    log.hard_state = hard_state;
    log.entries.clear();
    log.term_at_checkpoint = Some(term);
    Ok(Some(format!("completed the install of the snapshot at index {index}, term {term}")))
}

/// Numbers that no manifest and no run in the directory has, nor any that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextNumbers {
    pub manifest: u64,
    pub run: u64,
}

/// Looks for the numbers with which member `member_id` goes on behind `newest`. Also what a crash
/// left behind keeps its numbers, so that nothing ever has two meanings. The ids of runs begin
/// with the member's, because runs travel between members under the ids that they have.
pub fn next_numbers(
    disk: &dyn Disk,
    dir: &Path,
    member_id: u64,
    newest: Option<&Manifest>,
) -> Result<NextNumbers, StorageError> {
    let names = disk.list(dir).map_err(|error| StorageError::io(dir, "listing", error))?;
    let sequences = names.iter().filter_map(|name| manifest::parse_name(name));
    let prefix = member_id << 32;
    let own = names.iter().filter_map(|name| run::parse_name(name));
    let own = own.filter(|id| id >> 32 == prefix >> 32).chain([prefix]);
    let known = newest.filter(|found| found.member_id == member_id).map(|found| found.next_run);
    let highest = own.max().expect("the prefix at least");
    Ok(NextNumbers {
        manifest: sequences.max().map_or(0, |number| number + 1),
        run: (highest + 1).max(known.unwrap_or(0)),
    })
}

fn remove_unfinished(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    let names = disk.list(dir).map_err(|error| StorageError::io(dir, "listing", error))?;
    for name in names.iter().filter(|name| name.ends_with(TEMPORARY)) {
        let path = dir.join(name);
        disk.remove(&path).map_err(|error| StorageError::io(&path, "removing", error))?;
    }
    Ok(())
}

/// What a cleaning up did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanedUp {
    pub removed: usize,
    /// The log may be released up to here: every kept manifest is still continued by it. Nothing
    /// while there is no manifest to fall back on, because then the whole log is the fallback.
    pub releasable: u64,
}

/// Removes manifests beyond the newest [`KEPT`], and runs that none of those names. Call it after
/// a manifest was stored. `in_use` are runs that an install or an unfinished checkpoint needs.
pub async fn clean_up(
    disk: &dyn Disk,
    dir: &Path,
    in_use: &BTreeSet<u64>,
) -> Result<CleanedUp, StorageError> {
    let mut wanted = in_use.clone();
    let mut gone = Vec::new();
    let mut reached = Vec::new();
    for sequence in Manifest::sequences(disk, dir)? {
        match Manifest::load(disk, dir, sequence) {
            Ok(manifest) if reached.len() < KEPT => {
                wanted.extend(manifest.runs.iter().map(|run| run.id));
                reached.push(manifest.applied_index);
            }
            // A broken manifest does not count as one to fall back on.
            Ok(_) | Err(StorageError::Damaged { .. }) => gone.push(manifest::file_name(sequence)),
            Err(error) => return Err(error),
        }
    }
    let names = disk.list(dir).map_err(|error| StorageError::io(dir, "listing", error))?;
    let unwanted = |name: &&String| run::parse_name(name).is_some_and(|id| !wanted.contains(&id));
    // First the manifests for good, then the runs they name: no manifest outlives its runs.
    remove_all(disk, dir, &gone).await?;
    let runs: Vec<String> = names.iter().filter(unwanted).cloned().collect();
    remove_all(disk, dir, &runs).await?;
    let oldest = reached.iter().min().copied().filter(|_| reached.len() == KEPT);
    Ok(CleanedUp { removed: gone.len() + runs.len(), releasable: oldest.unwrap_or(0) })
}

async fn remove_all(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<(), StorageError> {
    for name in names {
        let path = dir.join(name);
        let removed = disk.remove_long(&path).await;
        removed.map_err(|error| StorageError::io(&path, "removing", error))?;
    }
    if names.is_empty() {
        return Ok(());
    }
    disk.sync_dir(dir).await.map_err(|error| StorageError::io(dir, "syncing", error))
}

/// Below this, a run is small enough to be joined with its neighbour.
const SMALL_BYTES: u64 = 4 << 20;
/// So many small neighbours are worth a rewrite.
const SMALL_NEIGHBOURS: usize = 4;

/// Which neighbouring runs should be rewritten as one next, if any: a run that is more than half
/// dead, else a row of small ones.
pub fn next_rewrite(runs: &[RunMeta]) -> Option<Range<usize>> {
    let dead = runs.iter().position(|run| run.live_bytes < run.bytes / 2);
    if let Some(position) = dead {
        return Some(position..position + 1);
    }
    let mut start = 0;
    for (position, run) in runs.iter().enumerate() {
        if run.bytes >= SMALL_BYTES {
            start = position + 1;
        } else if position + 1 - start >= SMALL_NEIGHBOURS {
            return Some(start..position + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::record::RecordRevision;

    fn run(bytes: u64, live_bytes: u64) -> RunMeta {
        let nowhere = RecordRevision::default();
        let (first, last) = (nowhere, nowhere);
        RunMeta { id: 0, first, last, records: 1, bytes, live_bytes, fingerprint: 0 }
    }

    #[test]
    fn dead_runs_and_rows_of_small_ones_are_rewritten() {
        let (small, large) = (run(1 << 20, 1 << 20), run(64 << 20, 64 << 20));
        assert_eq!(next_rewrite(&[]), None);
        assert_eq!(next_rewrite(&[large, small, small, small]), None);
        assert_eq!(next_rewrite(&[large, small, small, small, small]), Some(1..5));
        assert_eq!(next_rewrite(&[small, small, large, small, small]), None);
        let dead = run(64 << 20, 31 << 20);
        assert_eq!(next_rewrite(&[small, small, small, small, dead]), Some(4..5));
    }
}
