//! Looks at the platters: what is committed must be on those of a quorum, whatever has happened.

use super::book::Book;
use super::cluster::Cluster;
use crate::checker::raft::Platter;
use crate::history::Outcome;
use crate::wire;
use detcd::apply::request::{Op, decode};
use detcd::raft::message::{Entry, EntryKind};
use detcd::storage::replay::{Replayed, replay};
use std::collections::BTreeMap;
use std::path::Path;

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
    let logs = (0..cluster.members()).filter_map(|member| log(cluster, member));
    let Some(longest) = logs.max_by_key(|log| log.last_index) else { return BTreeMap::new() };
    let entries: BTreeMap<u64, Entry> =
        longest.entries.into_iter().map(|entry| (entry.index, entry)).collect();
    let hint = |revision: i64| {
        let entry = entries.get(&book.raft.index_of(revision)?)?;
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return None;
        }
        let made = decode(&entry.data).op?;
        let (i, _) = unknown.iter().find(|(_, op)| *op == made)?;
        Some((revision, *i))
    };
    gaps.into_iter().filter_map(hint).collect()
}

/// What the platter of a member says.
fn log(cluster: &Cluster, member: usize) -> Option<Replayed> {
    let image = cluster.disk(member).platter_image();
    replay(&image, Path::new("/data/member/wal"), 0).ok()
}

/// What the platter of a member holds at `index`.
fn read(cluster: &Cluster, member: usize, index: u64) -> Platter {
    if cluster.is_rotten(member) {
        return Platter::Destroyed;
    }
    let Some(log) = log(cluster, member) else { return Platter::EndsAt(0) };
    if log.segments.len() > 1 {
        cluster.book().reach("segments rolled");
    }
    match log.entries.iter().rev().find(|entry| entry.index == index) {
        Some(entry) => Platter::Holds { term: entry.term },
        None => Platter::EndsAt(log.last_index),
    }
}
