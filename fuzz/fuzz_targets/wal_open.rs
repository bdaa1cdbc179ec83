//! Any bytes as the log's only segment: opening it gives the log or an error, and what was opened
//! opens again to the same.
#![no_main]

use detcd::env::disk::Disk;
use detcd::env::mem_disk::MemDisk;
use detcd::storage::segment::SegmentName;
use detcd::storage::wal::{Wal, WalOptions};
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::Arc;

fuzz_target!(|bytes: &[u8]| {
    let dir = Path::new("/wal");
    let disk = MemDisk::new();
    disk.create_dir_all(dir).expect("a directory in memory");
    let name = SegmentName { sequence: 0, first_index: 1 };
    disk.set_contents(&dir.join(name.file_name()), bytes.to_vec());
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let Ok((_, first)) = block_on(Wal::open(disk.clone(), dir, 0, WalOptions::default())) else {
        return;
    };
    let (_, second) = block_on(Wal::open(disk, dir, 0, WalOptions::default()))
        .unwrap_or_else(|error| panic!("opened once and not again: {error}"));
    assert_eq!(first.entries, second.entries, "the entries of a repaired log");
    assert_eq!(first.hard_state, second.hard_state, "the state of a repaired log");
});
