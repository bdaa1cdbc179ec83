//! Every fault does what it says, and nothing that was synced is lost by any that should not.

use super::faults::{DiskCounters, DiskFaults, Operation};
use super::*;
use bytes::Bytes;
use detcd::env::disk::{Disk, File};
use futures::FutureExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// For futures of a disk that takes no time: they are ready at the first look.
fn done<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("this disk takes no time")
}

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed, "test", DiskFaults::none());
    disk.create_dir_all(Path::new("/d")).expect("it is healthy");
    done(disk.sync_dir(Path::new("/"))).expect("it is healthy");
    disk
}

fn path(name: &str) -> PathBuf {
    Path::new("/d").join(name)
}

/// A file of `len` bytes of 1 that is on the platter with its name.
fn durable_file(disk: &SimDisk, name: &str, len: usize) -> Arc<dyn File> {
    let file = disk.create(&path(name)).expect("it is healthy");
    done(file.write_and_sync(0, Bytes::from(vec![1; len]))).expect("it is healthy");
    done(disk.sync_dir(Path::new("/d"))).expect("it is healthy");
    file
}

fn contents(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(&path(name)).expect("it is there");
    let mut bytes = vec![0; file.len().expect("it is healthy") as usize];
    file.read_at(0, &mut bytes).expect("it is healthy");
    bytes
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_any_sectors_of_the_rest() {
    let (mut whole, mut none, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let disk = disk(seed);
        let file = durable_file(&disk, "a", 4096);
        file.write_at(1024, &[2; 2048]).expect("it is healthy");
        assert_eq!(contents(&disk, "a")[1024..3072], [2; 2048], "a reader sees the cache");
        assert_eq!(disk.platter(&path("a")).expect("it is there"), vec![1; 4096]);
        disk.power_cut();
        let bytes = contents(&disk, "a");
        assert_eq!(bytes[..1024], [1; 1024]);
        assert_eq!(bytes[3072..], [1; 1024]);
        let sectors: Vec<u8> = bytes[1024..3072].chunks(512).map(|sector| sector[0]).collect();
        for (sector, byte) in bytes[1024..3072].chunks(512).zip(&sectors) {
            assert!(sector.iter().all(|other| other == byte), "a sector is written whole");
        }
        match sectors.iter().filter(|byte| **byte == 2).count() {
            0 => none += 1,
            4 => whole += 1,
            _ => torn += 1,
        }
    }
    assert!(whole > 20 && none > 20 && torn > 20, "{whole} whole, {none} lost, {torn} torn");
}

#[test]
fn a_kill_keeps_the_cache_and_ends_the_handles() {
    let disk = disk(1);
    let file = durable_file(&disk, "a", 10);
    let lock = disk.lock(&path("lock")).expect("nobody has it");
    assert!(disk.lock(&path("lock")).is_err());
    file.write_at(0, &[2; 10]).expect("it is healthy");
    disk.kill();
    assert_eq!(contents(&disk, "a"), [2; 10]);
    assert!(file.write_at(0, &[3; 10]).is_err(), "a dead process can't write");
    let successor = disk.lock(&path("lock")).expect("the dead hold no locks");
    drop(lock);
    assert!(disk.lock(&path("lock")).is_err(), "the dead can't release the lock of another");
    drop(successor);
    assert!(disk.lock(&path("lock")).is_ok());
}

#[test]
fn names_are_durable_once_the_directory_is_synced() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..100 {
        let disk = disk(seed);
        durable_file(&disk, "a.tmp", 10);
        disk.rename(&path("a.tmp"), &path("a")).expect("it is healthy");
        disk.power_cut();
        match disk.list(Path::new("/d")).expect("it is there").as_slice() {
            [name] if name == "a" => new += 1,
            [name] if name == "a.tmp" => old += 1,
            names => panic!("{names:?}"),
        }
        let name = disk.list(Path::new("/d")).expect("it is there").remove(0);
        disk.rename(&path(&name), &path("b")).expect("it is healthy");
        done(disk.sync_dir(Path::new("/d"))).expect("it is healthy");
        disk.power_cut();
        assert_eq!(disk.list(Path::new("/d")).expect("it is there"), ["b"]);
    }
    assert!(old > 20 && new > 20, "{old} lost, {new} kept");
}

#[test]
fn a_directory_that_was_not_synced_may_take_all_below_with_it() {
    let mut gone = 0;
    for seed in 0..50 {
        let disk = disk(seed);
        disk.create_dir_all(&path("sub")).expect("it is healthy");
        let file = disk.create(&path("sub/a")).expect("it is healthy");
        done(file.sync()).expect("it is healthy");
        done(disk.sync_dir(&path("sub"))).expect("it is healthy");
        disk.power_cut();
        let there = disk.exists(&path("sub")).expect("it is healthy");
        assert_eq!(disk.exists(&path("sub/a")).expect("it is healthy"), there);
        gone += u64::from(!there);
    }
    assert!(gone > 5 && gone < 45, "{gone} of 50 lost");
}

#[test]
fn after_a_failed_sync_the_next_one_succeeds_and_brings_nothing() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = disk(seed);
        let file = durable_file(&disk, "a", 2048);
        disk.set_faults(|faults| faults.sync_error_per_mille = 1000);
        file.write_at(0, &[2; 2048]).expect("it is healthy");
        assert!(done(file.sync()).is_err());
        disk.set_faults(|faults| faults.sync_error_per_mille = 0);
        done(file.sync()).expect("the pages count as clean");
        assert_eq!(contents(&disk, "a"), [2; 2048], "the cache still has it");
        disk.power_cut();
        lost += u64::from(contents(&disk, "a") != [2; 2048]);
    }
    assert!(lost > 20, "{lost} of 50 lost");
}

#[test]
fn a_crash_comes_at_the_operation_it_was_armed_for() {
    let disk = disk(1);
    let crashes = Arc::new(AtomicU64::new(0));
    let seen = crashes.clone();
    disk.on_crash(move || {
        seen.fetch_add(1, Ordering::Relaxed);
    });
    let file = durable_file(&disk, "a", 512);
    disk.arm_crash(2);
    file.write_at(0, &[2; 512]).expect("the first operation");
    file.write_at(0, &[3; 512]).expect("the second");
    assert!(!disk.has_crashed());
    assert!(file.write_at(0, &[4; 512]).is_err());
    assert!(disk.has_crashed());
    assert!(file.len().is_err() && disk.list(Path::new("/d")).is_err());
    assert_eq!(crashes.load(Ordering::Relaxed), 1);
    disk.kill();
    assert_eq!(contents(&disk, "a"), [3; 512]);
    disk.arm_crash_on(Operation::SyncEnd, "/d/a", 0);
    let file = disk.open(&path("a")).expect("it is there");
    let other = disk.create(&path("b")).expect("it is healthy");
    done(other.sync()).expect("another file");
    assert!(done(file.write_and_sync(0, Bytes::from_static(b"x"))).is_err());
    assert!(disk.has_crashed());
    assert_eq!(disk.platter(&path("a")).expect("it is there")[0], b'x', "it came that far");
}

#[test]
fn a_full_disk_refuses_growth_and_takes_the_rest() {
    let disk = disk(1);
    disk.set_faults(|faults| faults.capacity_bytes = 1000);
    let file = durable_file(&disk, "a", 900);
    assert_eq!(disk.free_bytes(Path::new("/d")).expect("it is healthy"), 100);
    let full = file.write_at(850, &[2; 200]).expect_err("it does not fit");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.allocate(1001).expect_err("nor this").kind(), io::ErrorKind::StorageFull);
    file.write_at(850, &[2; 150]).expect("this fits");
    disk.remove(&path("a")).expect("it is healthy");
    assert_eq!(disk.free_bytes(Path::new("/d")).expect("it is healthy"), 1000);
    assert_eq!(disk.counters().full, 2);
}

#[test]
fn rot_and_misdirected_writes_reach_the_platter() {
    let disk = disk(3);
    let file = durable_file(&disk, "a", 8192);
    let (rotten, offset) = disk.rot_somewhere("/d/", 100).expect("there is a file");
    assert_eq!(rotten, path("a"));
    assert_ne!(contents(&disk, "a")[offset as usize], 1);
    assert!(!disk.rot(&path("a"), 8192, 0), "behind the end there is nothing");
    disk.set_faults(|faults| faults.misdirect_per_mille = 1000);
    done(file.write_and_sync(512, Bytes::from(vec![9; 512]))).expect("nobody notices");
    let platter = disk.platter(&path("a")).expect("it is there");
    assert_eq!(platter.iter().filter(|byte| **byte == 9).count(), 512);
    assert_eq!(platter.len(), 8192);
    let DiskCounters { rotten_bits, misdirected, .. } = disk.counters();
    assert_eq!((rotten_bits, misdirected), (1, 1));
}

#[test]
fn a_write_astray_leaves_zeros_where_it_belongs() {
    let disk = disk(3);
    let file = durable_file(&disk, "a", 2048);
    durable_file(&disk, "b", 2048);
    file.write_at(512, &[9; 512]).expect("it is healthy");
    done(file.sync()).expect("it is healthy");
    assert!(disk.misdirect((&path("a"), 512), (&path("b"), 1024), 512));
    assert_eq!(disk.platter(&path("a")).expect("it is there")[512..1024], [0; 512]);
    assert_eq!(contents(&disk, "b")[1024..1536], [9; 512]);
    disk.power_cut();
    assert_eq!(contents(&disk, "b")[1024..1536], [9; 512], "it is on the platter");
    assert!(!disk.misdirect((&path("a"), 2000), (&path("b"), 0), 512), "behind the end");
    assert!(!disk.misdirect((&path("a"), 0), (&path("c"), 0), 512), "there is no such file");
}

#[test]
fn failed_writes_and_reads_have_no_effect() {
    let disk = disk(3);
    let file = durable_file(&disk, "a", 100);
    disk.set_faults(|faults| {
        faults.write_error_per_mille = 1000;
        faults.read_error_per_mille = 1000;
    });
    assert!(file.write_at(0, &[7; 100]).is_err());
    assert!(file.read_at(0, &mut [0; 10]).is_err());
    disk.set_faults(|faults| *faults = DiskFaults::none());
    assert_eq!(contents(&disk, "a"), [1; 100]);
}

#[test]
fn an_image_of_the_platter_holds_what_is_safe_and_lives_alone() {
    let disk = disk(3);
    let file = durable_file(&disk, "a", 100);
    file.write_at(0, &[2; 100]).expect("it is healthy");
    disk.create(&path("b")).expect("it is healthy");
    let image = disk.platter_image();
    assert_eq!(image.list(Path::new("/d")).expect("it is there"), ["a"]);
    assert_eq!(contents(&image, "a"), [1; 100]);
    image.remove(&path("a")).expect("it is healthy");
    assert_eq!(contents(&disk, "a"), [2; 100]);
}

#[test]
fn one_seed_is_one_disk() {
    let story = |seed| {
        let disk = disk(seed);
        let file = durable_file(&disk, "a", 20_000);
        file.write_at(100, &[2; 15_000]).expect("it is healthy");
        file.set_len(18_000).expect("it is healthy");
        file.write_at(9_000, &[3; 12_000]).expect("it is healthy");
        disk.power_cut();
        (contents(&disk, "a"), disk.counters())
    };
    assert_eq!(story(4), story(4));
    assert!((5..20).any(|seed| story(seed) != story(4)));
}

#[tokio::test]
async fn a_sync_takes_its_time_and_waits_for_a_stall() {
    let disk = disk(1);
    let file = durable_file(&disk, "a", 100);
    let latency = Duration::from_millis(5);
    disk.set_faults(|faults| faults.sync_latency = latency..latency);
    let start = Instant::now();
    file.sync().await.expect("it is healthy");
    assert!(start.elapsed() >= latency);
    disk.stall(4 * latency);
    file.sync().await.expect("it is healthy");
    assert!(start.elapsed() >= 5 * latency);
    // The machine dies while a sync is under way: the sync never returns well.
    let sync = file.write_and_sync(0, Bytes::from_static(b"late"));
    let cut = async {
        tokio::time::sleep(latency / 5).await;
        disk.power_cut();
    };
    let (synced, ()) = futures::join!(sync, cut);
    assert!(synced.is_err());
}
