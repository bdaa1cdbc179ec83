//! Looks at the platters: what is committed must be on those of a quorum, whatever has happened.

use super::book::Book;
use super::cluster::Cluster;
use super::directories::{DATA_DIR, wal_dir};
use crate::checker::raft::Platter;
use crate::history::Outcome;
use crate::wire;
use detcd::apply::request::{Op, decode};
use detcd::env::disk::Disk;
use detcd::pb::etcdserverpb::request_op;
use detcd::raft::message::{Entry, EntryKind};
use detcd::storage::checkpoint::{Recovery, recover};
use detcd::storage::data_dir::DataDir;
use detcd::storage::error::StorageError;
use detcd::storage::replay::replay_rest;
use detcd::storage::run_receiver::verify_run;
use detcd::storage::wal::WalOptions;
use futures::executor::block_on;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Checks the platters as they are at this moment, as after a power cut of everybody.
pub fn check(cluster: &Cluster) {
    let book = cluster.book();
    let index = book.lock().raft.highest_committed();
    let platters: Vec<Platter> =
        (0..cluster.members()).map(|member| read(cluster, member, index)).collect();
    let at = book.now();
    let checked = book.lock().raft.check_platters(at, &platters);
    if let Err(violation) = checked {
        book.violated(violation);
    }
}

/// Which operation of unknown outcome made which revision, by what stands in the log: a hint for
/// the search of `checker::linearizability`, which believes nothing that the answers don't bear
/// out.
pub fn hints(cluster: &Cluster, book: &Book) -> BTreeMap<i64, usize> {
    let gaps = book.history.unexplained_revisions();
    let unknown: Vec<(usize, Op)> = book
        .history
        .operations
        .iter()
        .enumerate()
        .filter(|(_, o)| matches!(o.outcome, Outcome::Unknown(_)))
        .filter_map(|(i, o)| wire::op(&o.request).map(|op| (i, op)))
        .collect();
    if gaps.is_empty() || unknown.is_empty() {
        return BTreeMap::new();
    }
    let entries = entries(cluster, book);
    let hint = |revision: i64| {
        let entry = entries.get(&book.raft.entry_of(revision)?)?;
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return None;
        }
        let made = decode(&entry.data).op?;
        let asked = |wanted: &Op| unknown.iter().find(|(_, op)| op == wanted);
        // What stands there itself goes first: clients ask for the same deletions, too.
        let (i, _) = asked(&made).or_else(|| asked(&place_given_up(&made)?))?;
        Some((revision, *i))
    };
    gaps.into_iter().filter_map(hint).collect()
}

/// Every entry that stands in some log, or stood there before a checkpoint, by index and term. A
/// member may have lost those before a checkpoint of which nobody heard, its process having ended
/// with it; and of several terms at one index it is not always the latest that was committed.
fn entries(cluster: &Cluster, book: &Book) -> BTreeMap<(u64, u64), Entry> {
    let logs = (0..cluster.members()).filter_map(|member| found(cluster, member));
    let entries = logs.flat_map(|found| found.log.entries);
    let entries = entries.chain(book.released.values().cloned());
    entries.map(|entry| ((entry.index, entry.term), entry)).collect()
}

/// What the member would come up with after a power cut at this moment.
fn found(cluster: &Cluster, member: usize) -> Option<Recovery> {
    let image: Arc<dyn Disk> = Arc::new(cluster.disk(member).platter_image());
    // Without latency nothing waits.
    let found = async {
        let data_dir = DataDir::open(image, Path::new(DATA_DIR)).await?;
        let found = recover(&data_dir, WalOptions::default()).await?;
        for run in found.checkpoint.iter().flat_map(|checkpoint| &checkpoint.runs) {
            verify_run(run).await?;
        }
        Ok::<Recovery, StorageError>(found)
    };
    block_on(found).ok()
}

/// A service that gives up the place of a caller deletes its key, if it is still the one that it
/// made; the history knows only of which key that may have been.
fn place_given_up(op: &Op) -> Option<Op> {
    let Op::Txn(txn) = op else { return None };
    match txn.success.first()?.request.as_ref()? {
        request_op::Request::RequestDeleteRange(delete) if txn.success.len() == 1 => {
            Some(Op::DeleteRange(delete.clone()))
        }
        _ => None,
    }
}

/// What a member whose checkpoints rotted holds at `index`: all of its log counts.
fn rest(cluster: &Cluster, member: usize, index: u64) -> Platter {
    if !cluster.is_rotten(member) {
        return Platter::EndsAt(0);
    }
    let image = cluster.disk(member).platter_image();
    let Ok(log) = replay_rest(&image, &wal_dir(&image)) else {
        return Platter::EndsAt(0);
    };
    match log.entries.iter().rev().find(|entry| entry.index == index) {
        Some(entry) => Platter::Holds { term: entry.term },
        None if log.base.index >= index => Platter::Destroyed,
        None => Platter::EndsAt(log.last_index),
    }
}

/// What the platter of a member holds at `index`.
fn read(cluster: &Cluster, member: usize, index: u64) -> Platter {
    if cluster.is_log_rotten(member) {
        return Platter::Destroyed;
    }
    let Some(found) = found(cluster, member) else { return rest(cluster, member, index) };
    if found.wal.segment_count() > 1 {
        cluster.book().reach("segments rolled");
    }
    if found.wal.first_segment() > 0 {
        cluster.book().reach("log released");
    }
    if found.checkpoint.is_some_and(|checkpoint| checkpoint.manifest.applied_index >= index) {
        return Platter::Covered;
    }
    match found.log.entries.iter().rev().find(|entry| entry.index == index) {
        Some(entry) => Platter::Holds { term: entry.term },
        None => Platter::EndsAt(found.wal.last_index()),
    }
}
