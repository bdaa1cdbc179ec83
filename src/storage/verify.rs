//! Looks at all files of a member that does not run, and changes nothing.

use crate::env::disk::Disk;
use crate::storage::error::StorageError;
use crate::storage::manifest::{self, Manifest};
use crate::storage::replay::replay;
use crate::storage::run::{self, Run, RunMeta};
use crate::storage::run_receiver::verify_run;
use crate::storage::wal_location;
use std::collections::BTreeSet;
use std::path::Path;

/// One file, or the log, and what is wrong with it.
#[derive(Debug)]
pub struct Looked {
    pub what: String,
    pub damage: Option<StorageError>,
}

/// Reads every block of every run that a manifest names, and the log behind the newest manifest.
///
/// # Errors
/// When the directory can't be read, or a member runs in it.
pub async fn verify(disk: &dyn Disk, data_dir: &Path) -> Result<Vec<Looked>, StorageError> {
    let lock = data_dir.join("lock");
    let failed = |error| StorageError::io(&lock, "locking", error);
    let wal = wal_location::find(disk, &data_dir.join("member"))?;
    if !disk.exists(&wal).map_err(failed)? {
        return Err(StorageError::NotInitialised { path: wal });
    }
    let _lock = disk.lock(&lock).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => StorageError::Locked { path: data_dir.to_path_buf() },
        _ => failed(error),
    })?;
    let run_dir = data_dir.join("member/runs");
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut after = None;
    for sequence in Manifest::sequences(disk, &run_dir)? {
        let loaded = Manifest::load(disk, &run_dir, sequence);
        let name = manifest::file_name(sequence);
        let manifest = match loaded {
            Ok(manifest) => manifest,
            Err(error) => {
                found.push(Looked { what: name, damage: Some(error) });
                continue;
            }
        };
        let (index, revision) = (manifest.applied_index, manifest.revision);
        let what = format!("{name}: entry {index}, revision {revision}");
        found.push(Looked { what, damage: None });
        after.get_or_insert(index);
        for meta in manifest.runs.iter().filter(|meta| seen.insert(meta.id)) {
            let damage = look_into(disk, &run_dir, meta).await.err();
            let what = format!("{}: {} records", run::file_name(meta.id), meta.records);
            found.push(Looked { what, damage });
        }
    }
    found.push(match replay(disk, &wal, after.unwrap_or(0)) {
        Ok(log) => {
            let what = format!("log: {} segments, to {}", log.segments.len(), log.last_index);
            Looked { what, damage: None }
        }
        Err(error) => Looked { what: "log".to_string(), damage: Some(error) },
    });
    Ok(found)
}

async fn look_into(disk: &dyn Disk, dir: &Path, meta: &RunMeta) -> Result<(), StorageError> {
    let run = Run::open(disk, dir, meta.id)?;
    let found = RunMeta { live_bytes: meta.live_bytes, ..*run.meta() };
    if found != *meta {
        let what = "its manifest names another run of this id";
        return Err(StorageError::damaged(&dir.join(run::file_name(meta.id)), 0, what));
    }
    verify_run(&run).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;
    use crate::raft::message::HardState;
    use crate::storage::data_dir::DataDir;
    use crate::storage::record::Record;
    use crate::storage::run_writer::write_run;
    use crate::storage::segment::WalMetadata;
    use crate::storage::wal::{Wal, WalBatch, WalOptions};
    use bytes::Bytes;
    use futures::executor::block_on;
    use std::sync::Arc;

    async fn member(disk: &Arc<dyn Disk>) {
        let data_dir = DataDir::open(disk.clone(), Path::new("/m")).await.expect("in memory");
        let metadata = WalMetadata { cluster_id: 1, member_id: 2 };
        let hard_state = Some(HardState { term: 1, vote: 0, commit: 0 });
        let batch = WalBatch { hard_state, entries: Vec::new() };
        let options = WalOptions { segment_bytes: 4096 };
        let (wal_dir, batches) = (data_dir.wal_dir(), [batch]);
        let wal = Wal::create_with(disk.clone(), &wal_dir, metadata, options, &batches).await;
        wal.expect("in memory");
        let record = Record {
            main: 2,
            sub: 0,
            tombstone: false,
            key: Bytes::from("key"),
            create_revision: 2,
            version: 1,
            lease: 0,
            value: Bytes::from(vec![7; 100]),
        };
        let run = write_run(disk, &data_dir.run_dir(), 9, [record].into_iter(), |_, _| {}).await;
        let runs = vec![run.expect("in memory").expect("there is a record")];
        let manifest = Manifest { sequence: 3, revision: 2, runs, ..Manifest::default() };
        manifest.store(&**disk, &data_dir.run_dir()).await.expect("in memory");
    }

    #[test]
    fn a_whole_member_is_whole_and_a_damaged_file_is_named() {
        let mem = MemDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(mem.clone());
        block_on(member(&disk));
        let look = || block_on(verify(&*disk, Path::new("/m"))).expect("nobody has the lock");
        let names: Vec<String> = look().into_iter().map(|found| found.what).collect();
        assert_eq!(names.len(), 3, "a manifest, a run and the log: {names:?}");
        assert!(look().iter().all(|found| found.damage.is_none()), "{:?}", look());
        for (file, number) in [("0000000000000003.manifest", 0), ("0000000000000009.run", 1)] {
            let path = Path::new("/m/member/runs").join(file);
            let bytes = mem.contents(&path).expect("it is there");
            let mut damaged = bytes.clone();
            damaged[90] ^= 1;
            mem.set_contents(&path, damaged);
            assert!(look()[number].damage.is_some(), "{file}: {:?}", look());
            mem.set_contents(&path, bytes);
        }
        let _lock = disk.lock(Path::new("/m/lock")).expect("nobody has it");
        let locked = block_on(verify(&*disk, Path::new("/m")));
        assert!(matches!(locked, Err(StorageError::Locked { .. })), "{locked:?}");
    }
}
