//! Any bytes as a backup: reading it gives its items or an error, and never a panic.
#![no_main]

use detcd::env::disk::Disk;
use detcd::env::mem_disk::MemDisk;
use detcd::server::restore::BackupFile;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let (disk, path) = (MemDisk::new(), Path::new("/backup.db"));
    disk.set_contents(path, bytes.to_vec());
    let disk: &dyn Disk = &disk;
    let Ok(backup) = BackupFile::open(disk, path, true) else { return };
    drop(backup.status());
    drop(backup.decode().map(|decoded| decoded.lessor().err()));
    for record in backup.records() {
        if record.is_err() {
            break;
        }
    }
});
