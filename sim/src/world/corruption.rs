//! Damage to the states in memory: done, and looked for when the faults are over.

use super::cluster::Cluster;
use crate::checker::containment::{self, FOUND_WITHIN};
use crate::checker::raft::Fact;
use crate::fault::Fault;
use bytes::Bytes;
use detcd::mvcc::record::Value;
use detcd::mvcc::revision::Revision;
use detcd::server::handle::Handle;
use detcd::storage::record::{Record, RecordRevision};
use std::time::Duration;

/// Entries before a checkpoint at which it is nearly due.
const NEARLY: u64 = 3;
/// How often it is looked for that, and how often at the most.
const LOOK: Duration = Duration::from_millis(5);
const LOOKS_MAX: usize = 1_000;

/// Flips a bit of a value of the target, and, if nothing else happens in this plan, waits for the
/// target to find out.
pub async fn corrupt(cluster: &Cluster, fault: &Fault) {
    let Fault::Corrupt { target, nth, shows, unwritten } = *fault else {
        unreachable!("{fault:?} is another fault");
    };
    let member = cluster.resolve(target);
    let from = if unwritten { nearly_due(cluster, member).await } else { 0 };
    let Some(server) = cluster.server(member).filter(|_| !cluster.is_rotten(member)) else {
        return;
    };
    let flipped = server.shared().state_mut().store.flip_bit(from, nth);
    let Some(revision) = flipped else { return };
    let Revision { main, .. } = revision;
    if let Some(value) = damaged_value(&server, revision) {
        drop(tokio::spawn(watch_runs(cluster.clone(), member, revision, value)));
    }
    let book = cluster.book();
    book.line(format_args!("m{member} has a flipped bit in the value of revision {main}"));
    book.fact(member, Fact::Corrupted);
    if from > 0 {
        book.reach("value damaged before it was written down");
    }
    if shows {
        let damage = damage(&server);
        server.shared().state_mut().store.set_damage(damage);
    }
    let is_calm =
        |fault: &Fault| matches!(fault, Fault::Corrupt { .. } | Fault::TransferLeader { .. });
    if cluster.plan().actions.iter().all(|action| is_calm(&action.fault)) {
        tokio::time::sleep(Duration::from_nanos(FOUND_WITHIN)).await;
        look(cluster, &[member]);
        report(cluster, &[member]);
    }
}

/// Waits until the next checkpoint of a member is nearly due, but not for ever. Answers with the
/// first revision that the one before does not hold.
async fn nearly_due(cluster: &Cluster, member: usize) -> i64 {
    let entries = cluster.plan().options.checkpoint_entries;
    for _ in 0..LOOKS_MAX {
        let view = cluster.book().lock().members[member].clone();
        let (index, revision) = view.checkpoint;
        if view.up && view.applied + NEARLY >= index + entries {
            return revision + 1;
        }
        tokio::time::sleep(LOOK).await;
    }
    0
}

/// What memory holds of a record, if that is damaged: a second flip may have mended it.
fn damaged_value(server: &Handle, revision: Revision) -> Option<Bytes> {
    let state = server.shared().state();
    if state.store.is_intact(revision, revision) {
        return None;
    }
    let compacted = state.store.compact_revision();
    let records = state.store.records_at(revision, revision.main, compacted, 1);
    match &records.first()?.value {
        Value::Resident(value) => Some(value.clone()),
        Value::Cold(_) => None,
    }
}

/// Looks at whether the next checkpoint of a member wrote its damaged value down.
async fn watch_runs(cluster: Cluster, member: usize, revision: Revision, damaged: Bytes) {
    let boot = cluster.boots(member);
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(LOOK).await;
        if cluster.boots(member) != boot || cluster.book().is_broken() {
            return;
        }
        let (_, written) = cluster.book().lock().members[member].checkpoint;
        let Some(server) = cluster.server(member).filter(|_| written >= revision.main) else {
            continue;
        };
        if is_in_a_run(&server, revision, &damaged) {
            let at = cluster.book().now();
            cluster.book().violated(containment::written_down(at, member, revision.main));
        }
        return;
    }
}

fn is_in_a_run(server: &Handle, revision: Revision, value: &Bytes) -> bool {
    let runs = &server.shared().runs;
    let at = RecordRevision { main: revision.main, sub: revision.sub };
    let place = |record: &Record| RecordRevision { main: record.main, sub: record.sub };
    runs.metas().iter().filter_map(|meta| runs.get(meta.id)).any(|run| {
        let records = run.scan_from(at).map_while(Result::ok).map(|stored| stored.record);
        let mut records = records.take_while(|record| place(record) <= at);
        records.any(|record| place(&record) == at && record.value == *value)
    })
}

/// By how much the hash of what is in memory differs from what it is held to be.
fn damage(server: &Handle) -> u64 {
    server.shared().state().store.recheck(Revision::default(), usize::MAX).damage
}

/// Who has the state that belongs to its index, and no damage in memory, is sound: the damaged
/// value may have been compacted away, or read from the disk again.
fn look(cluster: &Cluster, members: &[usize]) {
    for member in members {
        let is_damaged = cluster.book().lock().damage[*member].since.is_some();
        let Some(server) = cluster.server(*member).filter(|_| is_damaged) else { continue };
        let agrees = cluster.book().lock().raft.agrees(*member);
        if agrees && damage(&server) == 0 && !server.shared().state().store.is_damaged() {
            cluster.book().fact(*member, Fact::Sound);
        }
    }
}

/// Whether nobody of these has a damaged state, or holds its own to be.
pub fn is_over(cluster: &Cluster, members: &[usize]) -> bool {
    look(cluster, members);
    let book = cluster.book().lock();
    let is_well =
        |m: &usize| book.damage[*m].since.is_none() && book.damage[*m].distrusted.is_none();
    members.iter().all(is_well)
}

/// Reports the first of these whose damage has not been dealt with, or was written down: from there
/// it would come back with a checksum that verifies.
pub fn report(cluster: &Cluster, members: &[usize]) {
    let at = cluster.book().now();
    for member in members {
        let server = cluster.server(*member);
        let written = server.and_then(|server| server.shared().state().store.damaged_on_disk());
        if let Some(Revision { main, .. }) = written {
            return cluster.book().violated(containment::written_down(at, *member, main));
        }
        let damage = cluster.book().lock().damage[*member];
        if damage.since.is_some() || damage.distrusted.is_some() {
            return cluster.book().violated(containment::not_found(at, *member, &damage));
        }
    }
}
