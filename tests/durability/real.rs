//! The real disk keeps the contract that the simulated one makes hard.

use bytes::Bytes;
use detcd::env::disk::Disk;
use detcd::env::real_disk::RealDisk;
use detcd::raft::message::{Entry, EntryKind, HardState};
use detcd::storage::data_dir::DataDir;
use detcd::storage::error::StorageError;
use detcd::storage::segment::WalMetadata;
use detcd::storage::wal::{Wal, WalBatch, WalOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("detcd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("it was made by this test");
    }
}

#[tokio::test]
async fn files_and_names_behave_as_the_contract_says() {
    let scratch = Scratch::new("files");
    let dir: &Path = &scratch.0.join("a/b");
    RealDisk.create_dir_all(dir).unwrap();
    let path = dir.join("x");
    let file = RealDisk.create(&path).unwrap();
    assert_eq!(RealDisk.create(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    file.allocate(8192).unwrap();
    assert_eq!(file.len().unwrap(), 8192);
    file.write_and_sync(100, Bytes::from_static(b"hello")).await.unwrap();
    let mut bytes = [0; 7];
    file.read_at(99, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0hello\0");
    let end = file.read_at(8190, &mut bytes).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    file.set_len(50).unwrap();
    file.sync().await.unwrap();
    assert_eq!(file.len().unwrap(), 50);
    // That one can't be written shows that nobody was asked for leave to write, root or not.
    let looked_at = RealDisk.open_to_read(&path).unwrap();
    assert_eq!(looked_at.len().unwrap(), 50);
    assert!(looked_at.write_at(0, b"x").is_err());
    RealDisk.rename(&path, &dir.join("y")).unwrap();
    RealDisk.sync_dir(dir).await.unwrap();
    assert_eq!(RealDisk.list(dir).unwrap(), ["y"]);
    assert!(RealDisk.free_bytes(dir).unwrap() > 0);
    RealDisk.remove(&dir.join("y")).unwrap();
    assert!(!RealDisk.exists(&dir.join("y")).unwrap());
    assert_eq!(file.len().unwrap(), 50, "who has it open can still read it");
    assert_eq!(RealDisk.open(&path).err().unwrap().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_log_on_the_real_disk_is_read_back() {
    let scratch = Scratch::new("log");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let options = WalOptions { segment_bytes: 1 << 16 };
    let metadata = WalMetadata { cluster_id: 1, member_id: 2 };
    let dir = DataDir::open(disk.clone(), &scratch.0).await.unwrap();
    let refused = DataDir::open(disk.clone(), &scratch.0).await.map(drop).unwrap_err();
    assert!(matches!(refused, StorageError::Locked { .. }), "{refused}");
    let mut wal = Wal::create(disk.clone(), &dir.wal_dir(), metadata, options).await.unwrap();
    for index in 1..200 {
        let data = Bytes::from(vec![index as u8; 1000]);
        let entries = vec![Entry { term: 1, index, kind: EntryKind::Normal, data }];
        let hard_state = Some(HardState { term: 1, vote: 2, commit: index - 1 });
        wal.append(&[WalBatch { hard_state, entries }]).await.unwrap();
    }
    assert_eq!(wal.segment_count(), 4);
    assert_eq!(wal.release(150).await.unwrap(), 2);
    drop((wal, dir));
    let dir = DataDir::open(disk.clone(), &scratch.0).await.unwrap();
    assert!(dir.is_initialised().unwrap());
    let (_, state) = Wal::open(disk, &dir.wal_dir(), 150, options).await.unwrap();
    assert_eq!(state.entries.len(), 49);
    assert_eq!(state.hard_state, HardState { term: 1, vote: 2, commit: 198 });
    assert_eq!(state.repaired, None);
}
