//! Looks at the platters: what is committed must be on those of a quorum, whatever has happened.

use super::cluster::Cluster;
use crate::checker::raft::Platter;
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

/// What the platter of a member holds at `index`.
fn read(cluster: &Cluster, member: usize, index: u64) -> Platter {
    if cluster.is_rotten(member) {
        return Platter::Destroyed;
    }
    let image = cluster.disk(member).platter_image();
    let log = detcd::storage::replay::replay(&image, Path::new("/data/member/wal"), 0);
    let Ok(log) = log else { return Platter::EndsAt(0) };
    if log.segments.len() > 1 {
        cluster.book().reach("segments rolled");
    }
    match log.entries.iter().rev().find(|entry| entry.index == index) {
        Some(entry) => Platter::Holds { term: entry.term },
        None => Platter::EndsAt(log.last_index),
    }
}
