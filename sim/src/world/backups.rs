//! Who takes backups: pulls one from a member at random moments, at a random pace, and looks into
//! it.

use super::client::Caller;
use super::cluster::Cluster;
use super::nodes::BACKUP_NODES;
use crate::checker::{Guarantee, Violation};
use crate::history::backups::Backup;
use crate::model::{Put, Request};
use crate::random::Stream;
use crate::timer;
use crate::wire;
use detcd::env::mem_disk::MemDisk;
use detcd::mvcc::record::{Record, Value};
use detcd::server::handle::Handle;
use detcd::server::restore::BackupFile;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// A pull that takes longer is given up: its member is down, or waits for a repair.
const PATIENCE: Duration = Duration::from_secs(5);
/// Writes that are on their way when a backup begins, at the most.
pub const WRITES_MAX: usize = 32;
/// How often a slow reader pauses, about.
const PAUSES: u64 = 8;

/// Takes backups until `until`.
pub async fn run(cluster: Cluster, number: u64, until: Instant) {
    let plan = cluster.plan().clone();
    let mut chance = Stream::new(plan.seed, &format!("backup/{number}"));
    loop {
        let pause = Duration::from_millis(chance.log_between(200, 10_000));
        if Instant::now() + pause + PATIENCE >= until {
            return;
        }
        tokio::time::sleep(pause).await;
        let member = *chance.pick(&cluster.current());
        if chance.chance(500) {
            write_meanwhile(&cluster, number, &mut chance).await;
        }
        let Some(server) = cluster.server(member) else { continue };
        let begun = cluster.book().now();
        let pull = pull(&server, plan.options.election_ms, &mut chance);
        let pulled = timer::timeout(PATIENCE, pull).await;
        // A bit that flipped in memory is in a backup too, until the damage is found.
        if cluster.book().lock().damage[member].taints(begun) {
            continue;
        }
        if let Ok(Some((begun, file))) = pulled {
            look_into(&cluster, member, begun, file);
        }
    }
}

/// Writes something through all members at about the same time, so that much is applied while the
/// backup is read; waits until the writes may be arriving.
async fn write_meanwhile(cluster: &Cluster, number: u64, chance: &mut Stream) {
    let options = &cluster.plan().options;
    let patience = Duration::from_millis(options.election_ms);
    let client = BACKUP_NODES + number;
    let caller = Caller::new(client, cluster.members(), patience, cluster.book().clone());
    let members = cluster.current();
    let at = cluster.book().now();
    for nth in 0..chance.between(4, WRITES_MAX as u64) {
        let (mut caller, member) = (caller.clone(), members[nth as usize % members.len()]);
        let delay = Duration::from_micros(chance.below(options.latency_us.1));
        let put = Request::Put(Put::of("backup", format!("b{number}-{at}-{nth}")));
        cluster.await_guest(tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            caller.ask(member, put).await;
        }));
    }
    // About as long as it takes to commit the first of them, and no longer than the last.
    let most = 4 * options.latency_us.1 + options.fsync_us.1;
    tokio::time::sleep(Duration::from_micros(chance.below(most))).await;
}

/// Reads a backup to its end, and says which revision the member had come to when it began; nothing
/// if it ended early.
async fn pull(server: &Handle, slow_ms: u64, chance: &mut Stream) -> Option<(i64, Vec<u8>)> {
    let mut pieces = server.backup().ok()?;
    let begun = server.shared().state().store.revision();
    // Some readers are slow, so that much goes on between the first piece and the last.
    let slow = chance.chance(500);
    let mut file = Vec::new();
    let mut pauses = None;
    while let Some(piece) = pieces.recv().await {
        let piece = piece.ok()?;
        file.extend_from_slice(&piece.bytes);
        // However small the pieces are, it gets to the end.
        let count = piece.remaining / piece.bytes.len().max(1) as u64 + 1;
        let pauses = *pauses.get_or_insert(1_000 * PAUSES / count);
        if slow && chance.chance(pauses) {
            tokio::time::sleep(Duration::from_millis(chance.between(0, slow_ms))).await;
        }
    }
    Some((begun, file))
}

fn look_into(cluster: &Cluster, member: usize, begun: i64, file: Vec<u8>) {
    let book = cluster.book();
    let at = book.now();
    let bytes = file.len();
    match decode(member, (at, begun), file) {
        Ok(backup) => {
            let (revision, compacted) = (backup.revision, backup.compacted);
            book.line(format_args!(
                "a backup of m{member}: {bytes} bytes, revision {revision}, compacted {compacted}"
            ));
            book.reach("backup taken");
            book.lock().history.backups.push(backup);
        }
        Err(what) => {
            let text = format!("a backup of member {member} can't be read: {what}");
            book.violated(Violation::new(Guarantee::BackupIsExact, Some(at), text));
        }
    }
}

fn decode(member: usize, (at, begun): (u64, i64), bytes: Vec<u8>) -> Result<Backup, String> {
    let (disk, path) = (MemDisk::new(), Path::new("/backup.db"));
    disk.set_contents(path, bytes);
    let file = BackupFile::open(&disk, path, false)?;
    let store = file.store()?;
    let (revision, compacted) = (store.revision(), store.compact_revision());
    let mut keys: BTreeMap<String, _> = BTreeMap::new();
    for record in file.records() {
        let record = record?;
        // One without a key only raises the revision.
        if !record.key.is_empty() {
            let versions: &mut Vec<_> = keys.entry(wire::text(&record.key)).or_default();
            versions.push((record.revision.main, version(record)?));
        }
    }
    Ok(Backup { member, at, begun, revision, compacted, keys })
}

fn version(record: Record) -> Result<Option<crate::model::KeyValue>, String> {
    if record.tombstone {
        return Ok(None);
    }
    let Value::Resident(value) = record.value else {
        return Err("a record of a backup is not in memory".to_string());
    };
    Ok(Some(wire::key_value(detcd::pb::mvccpb::KeyValue {
        key: record.key,
        create_revision: record.create_revision,
        mod_revision: record.revision.main,
        version: record.version,
        value,
        lease: record.lease,
    })))
}
