//! A run whose bytes are any, or that was written and then changed in one place: reading it gives
//! an error, or the records that were written.
#![no_main]

use bytes::Bytes;
use detcd::env::disk::Disk;
use detcd::env::mem_disk::MemDisk;
use detcd::storage::record::Record;
use detcd::storage::run::{self, Run};
use detcd::storage::run_writer::write_run;
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::Arc;

const DIR: &str = "/runs";
const ID: u64 = 7;
const RECORDS_MAX: usize = 400;

/// One record for each three bytes.
fn records(bytes: &[u8]) -> Vec<Record> {
    let mut main = 1;
    let mut sub = 0;
    let mut record = |step: &[u8]| {
        (main, sub) = if step[0] % 4 == 0 { (main, sub + 1) } else { (main + 1, 0) };
        let tombstone = step[0] % 8 == 7;
        let (live, value) = match tombstone {
            true => (0, Bytes::new()),
            false => (1, vec![step[2]; usize::from(step[2]) * usize::from(step[0])].into()),
        };
        Record {
            main,
            sub,
            tombstone,
            key: vec![step[1]; 1 + usize::from(step[1] % 9)].into(),
            create_revision: live * main,
            version: live,
            lease: live * i64::from(step[0] % 3),
            value,
        }
    };
    bytes.chunks_exact(3).take(RECORDS_MAX).map(|step| record(step)).collect()
}

/// What a run says, as far as it can be read.
fn read(disk: &MemDisk) -> (Vec<Record>, bool) {
    let Ok(run) = Run::open(disk, Path::new(DIR), ID) else { return (Vec::new(), false) };
    let mut found = Vec::new();
    for stored in run.scan() {
        let Ok(stored) = stored else { return (found, false) };
        found.push(stored.record);
    }
    (found, true)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, bytes)) = bytes.split_first() else { return };
    let dir = Path::new(DIR);
    let path = dir.join(run::file_name(ID));
    let disk = MemDisk::new();
    disk.create_dir_all(dir).expect("a directory in memory");
    if mode % 2 == 0 {
        disk.set_contents(&path, bytes.to_vec());
        read(&disk);
        return;
    }
    let written = records(bytes);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let made = block_on(write_run(&shared, dir, ID, written.iter().cloned(), |_, _| {}));
    if made.expect("a disk in memory").is_none() {
        return;
    }
    assert_eq!(read(&disk), (written.clone(), true), "a run that nobody changed");
    let mut contents = disk.contents(&path).expect("it was written");
    let place = bytes
        .iter()
        .fold(usize::from(*mode), |sum, byte| sum.wrapping_mul(31) ^ usize::from(*byte));
    let at = place % contents.len();
    contents[at] ^= 1 << (mode / 2 % 8);
    disk.set_contents(&path, contents);
    let (found, whole) = read(&disk);
    assert!(written.starts_with(&found), "what verifies is what was written");
    assert!(!whole || found == written, "byte {at} changed, and nothing was noticed");
});
