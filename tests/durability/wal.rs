//! The log: crashes at every operation, tears, rot, full disks.

use crate::{shared, sim_disk};
use bytes::Bytes;
use detcd::env::disk::Disk;
use detcd::raft::message::{Entry, EntryKind, HardState};
use detcd::storage::error::StorageError;
use detcd::storage::replay::Base;
use detcd::storage::segment::WalMetadata;
use detcd::storage::wal::{Wal, WalBatch, WalOptions, WalState};
use futures::executor::block_on;
use sim::disk::SimDisk;
use std::path::{Path, PathBuf};

const METADATA: WalMetadata = WalMetadata { cluster_id: 0xc1, member_id: 0xa1 };
const OPTIONS: WalOptions = WalOptions { segment_bytes: 2048 };
/// How many fates of the unsynced sectors each crash point is tried with.
const FATES: u64 = 48;

fn wal_dir() -> PathBuf {
    PathBuf::from("/data/member/wal")
}

/// An entry whose data tells its term and index and is `size` bytes long.
fn entry(term: u64, index: u64, size: usize) -> Entry {
    let mut data = format!("entry {index} of term {term} ").into_bytes();
    let mut byte = (term * 31 + index * 7) as u8;
    data.resize_with(size.max(data.len()), || {
        byte = byte.wrapping_mul(13).wrapping_add(17);
        byte
    });
    let kind = if index.is_multiple_of(5) { EntryKind::ConfChange } else { EntryKind::Normal };
    Entry { term, index, kind, data: Bytes::from(data) }
}

#[derive(Clone)]
enum Step {
    Append(Vec<WalBatch>),
    Reset(u64, u64, HardState),
    /// A checkpoint reaches this index, and what it covers is released.
    Release(u64),
}

fn batch(hard_state: Option<(u64, u64, u64)>, entries: Vec<Entry>) -> WalBatch {
    let hard_state = hard_state.map(|(term, vote, commit)| HardState { term, vote, commit });
    WalBatch { hard_state, entries }
}

/// Appends of many sizes, overwrites, cuts, releases, a reset, and appends again.
fn workload() -> Vec<Step> {
    let append = |hard_state, entries| Step::Append(vec![batch(hard_state, entries)]);
    let mut steps = vec![
        append(Some((1, 1, 2)), vec![]),
        append(None, (3..6).map(|index| entry(1, index, 300)).collect()),
        append(Some((1, 1, 4)), vec![entry(1, 6, 10)]),
        Step::Append(vec![
            batch(None, (7..9).map(|index| entry(1, index, 700)).collect()),
            batch(Some((1, 1, 7)), vec![entry(1, 9, 80)]),
        ]),
        // Another leader overwrites what was not committed.
        append(Some((2, 2, 7)), (8..10).map(|index| entry(2, index, 200)).collect()),
        append(Some((3, 0, 7)), vec![entry(3, 8, 513)]),
        Step::Release(5),
        // Larger than a segment.
        append(Some((3, 0, 8)), vec![entry(3, 9, 5000)]),
    ];
    steps.extend((10..20).map(|index| append(Some((3, 0, index - 1)), vec![entry(3, index, 400)])));
    steps.push(Step::Release(15));
    steps.push(Step::Reset(30, 4, HardState { term: 4, vote: 0, commit: 30 }));
    steps.push(append(Some((4, 2, 30)), (31..34).map(|index| entry(4, index, 100)).collect()));
    steps.push(Step::Release(31));
    steps.push(append(Some((4, 2, 33)), (34..36).map(|index| entry(4, index, 900)).collect()));
    steps
}

/// What a log should say: the dumb twin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Twin {
    hard_state: HardState,
    entries: Vec<Entry>,
    after: u64,
}

impl Twin {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(batches) => {
                for batch in batches {
                    for entry in &batch.entries {
                        self.entries.retain(|kept| kept.index < entry.index);
                        self.entries.push(entry.clone());
                    }
                    self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
                }
            }
            Step::Reset(index, _, hard_state) => {
                self.entries.clear();
                self.hard_state = *hard_state;
                self.after = *index;
            }
            Step::Release(up_to) => {
                self.after = *up_to;
                self.entries.retain(|kept| kept.index > *up_to);
            }
        }
    }
}

/// Runs steps until one fails. Returns the log as acknowledged, and as it is if the step that
/// failed took effect all the same.
async fn run(disk: &SimDisk, steps: &[Step]) -> (Option<Twin>, Option<Twin>) {
    let founding = [batch(Some((1, 0, 2)), vec![entry(1, 1, 60), entry(1, 2, 70)])];
    let mut twin = Twin::default();
    twin.step(&Step::Append(founding.to_vec()));
    let made = Wal::create_with(shared(disk), &wal_dir(), METADATA, OPTIONS, &founding).await;
    let Ok(mut wal) = made else { return (None, Some(twin)) };
    for step in steps {
        let before = twin.clone();
        twin.step(step);
        let done = match step {
            Step::Append(batches) => wal.append(batches).await,
            Step::Reset(index, term, state) => wal.reset(*index, *term, *state).await,
            Step::Release(up_to) => wal.release(*up_to).await.map(drop),
        };
        if done.is_err() {
            return (Some(before), Some(twin));
        }
    }
    (Some(twin), None)
}

fn says(state: &WalState, after: u64) -> Twin {
    assert_eq!(state.metadata, METADATA);
    Twin { hard_state: state.hard_state, entries: state.entries.clone(), after }
}

/// Opens the log for a checkpoint that reaches `twin.after` and compares.
async fn recovers_to(disk: &SimDisk, twin: &Twin) -> Result<(Wal, bool), StorageError> {
    let (wal, state) = Wal::open(shared(disk), &wal_dir(), twin.after, OPTIONS).await?;
    let equal = says(&state, twin.after) == *twin;
    Ok((wal, equal))
}

/// Opens the log after a crash and demands what was acknowledged, or that and the step under
/// way. The checkpoint of a release or a reset is durable before the step begins.
async fn check(disk: &SimDisk, acked: Option<Twin>, in_flight: Option<Twin>, story: &str) -> Twin {
    if !Wal::exists(&disk.clone(), &wal_dir()).expect("the directory can be listed") {
        assert!(acked.is_none(), "{story}: the log is gone");
        let created = Wal::create(shared(disk), &wal_dir(), METADATA, OPTIONS).await;
        created.unwrap_or_else(|error| panic!("{story}: making the log again: {error}"));
        return Twin::default();
    }
    let reached = in_flight.as_ref().or(acked.as_ref()).expect("a log was begun").after;
    let mut acked = acked.unwrap_or_default();
    // The newer checkpoint is there, and the log perhaps as it was before.
    acked.after = reached;
    acked.entries.retain(|entry| entry.index > reached);
    let opened = Wal::open(shared(disk), &wal_dir(), reached, OPTIONS).await;
    let (_, state) = opened.unwrap_or_else(|error| panic!("{story}: {error}"));
    let found = says(&state, reached);
    assert!(found == acked || Some(&found) == in_flight.as_ref(), "{story}: found {found:#?}");
    found
}

/// Appends `count` entries behind what was recovered, and reads all back after a power cut.
async fn goes_on(disk: &SimDisk, mut twin: Twin, count: u64, story: &str) {
    let (mut wal, equal) = recovers_to(disk, &twin).await.expect("it was opened before");
    assert!(equal, "{story}: a second opening says something else");
    let term = twin.hard_state.term + 1;
    if wal.last_index() < twin.after {
        // The crash came between the checkpoint and the reset; recovery repeats the reset.
        let state = HardState { term, vote: 0, commit: twin.after };
        wal.reset(twin.after, term, state).await.expect("the disk is healthy");
        twin.hard_state = state;
    }
    let next = twin.entries.last().map_or(twin.after, |entry| entry.index) + 1;
    for index in next..next + count {
        let entries = vec![entry(term, index, 600)];
        let step = Step::Append(vec![batch(Some((term, 3, twin.hard_state.commit)), entries)]);
        twin.step(&step);
        let Step::Append(batches) = step else { unreachable!("it was made above") };
        wal.append(&batches).await.unwrap_or_else(|error| panic!("{story}: going on: {error}"));
    }
    drop(wal);
    disk.power_cut();
    let reopened = recovers_to(disk, &twin).await;
    let (_, equal) = reopened.unwrap_or_else(|error| panic!("{story}: after going on: {error}"));
    assert!(equal, "{story}: what was appended after the crash is not there");
}

/// The number of operations until the workload is done.
fn operations_of(steps: &[Step]) -> u64 {
    let disk = sim_disk(0);
    block_on(run(&disk, steps));
    disk.counters().operations
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let steps = workload();
    let operations = operations_of(&steps);
    assert!(operations > 100, "the workload is {operations} operations long");
    let mut torn = 0;
    for crash in 0..operations {
        for fate in 0..FATES {
            let story = format!("power cut at operation {crash}, fate {fate}");
            let disk = sim_disk(crash * FATES + fate);
            disk.arm_crash(crash);
            let (acked, in_flight) = block_on(run(&disk, &steps));
            assert!(disk.has_crashed(), "{story}: did not happen");
            disk.power_cut();
            torn += disk.counters().torn_writes;
            let found = block_on(check(&disk, acked, in_flight, &story));
            block_on(goes_on(&disk, found, 4, &story));
        }
    }
    assert!(torn > 100, "only {torn} writes were torn");
}

#[test]
fn a_kill_at_any_operation_loses_nothing_acknowledged() {
    let steps = workload();
    for crash in 0..operations_of(&steps) {
        // What was read back after a kill is promised from then on, also to a power cut; and what
        // is appended then, before anything else is synced, must not hang on an unsynced name.
        for (then_cut, count) in [(true, 4), (false, 1)] {
            for fate in 0..4 {
                let story = format!("kill at operation {crash}, cut {then_cut}, fate {fate}");
                let disk = sim_disk(crash * 4 + fate);
                disk.arm_crash(crash);
                let (acked, in_flight) = block_on(run(&disk, &steps));
                disk.kill();
                let found = block_on(check(&disk, acked, in_flight, &story));
                if then_cut {
                    disk.power_cut();
                    let again = block_on(check(&disk, Some(found.clone()), None, &story));
                    assert_eq!(found, again, "{story}: recovery counted on the page cache");
                }
                block_on(goes_on(&disk, found, count, &story));
            }
        }
    }
}

#[test]
fn a_power_cut_during_recovery_changes_nothing() {
    let steps = workload();
    for crash in (0..operations_of(&steps)).step_by(3) {
        for during in 0.. {
            let story = format!("power cut at operation {crash}, then at {during} of recovery");
            let disk = sim_disk(crash + during);
            disk.arm_crash(crash);
            let (acked, in_flight) = block_on(run(&disk, &steps));
            disk.power_cut();
            disk.arm_crash(during);
            let after = in_flight.as_ref().or(acked.as_ref()).map_or(0, |twin| twin.after);
            let opened = block_on(Wal::open(shared(&disk), &wal_dir(), after, OPTIONS));
            let crashed = disk.has_crashed();
            drop(opened);
            disk.power_cut();
            let found = block_on(check(&disk, acked, in_flight, &story));
            block_on(goes_on(&disk, found, 4, &story));
            if !crashed {
                break;
            }
        }
    }
}

/// A finished log, without anything unsynced.
fn finished(steps: &[Step]) -> (SimDisk, Twin) {
    let disk = sim_disk(7);
    let (twin, in_flight) = block_on(run(&disk, steps));
    assert!(in_flight.is_none());
    disk.power_cut();
    (disk, twin.expect("the log was made"))
}

#[test]
fn a_flipped_bit_anywhere_is_detected_or_harmless() {
    let (pristine, twin) = finished(&workload());
    let files = pristine.list(&wal_dir()).expect("the log is there");
    let (mut detected, mut harmless) = (0, 0);
    for name in &files {
        let path = wal_dir().join(name);
        let length = pristine.open(&path).and_then(|file| file.len()).expect("it is there");
        for offset in 0..length {
            let disk = pristine.platter_image();
            assert!(disk.rot(&path, offset, (offset % 8) as u8));
            match block_on(recovers_to(&disk, &twin)) {
                Ok((_, equal)) => {
                    assert!(equal, "byte {offset} of {name} flipped: another log is read");
                    harmless += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(name.as_str()), "{text} does not name {name}");
                    detected += 1;
                }
            }
        }
    }
    println!("{detected} flips detected, {harmless} harmless");
    assert!(detected > 4_000, "only {detected} flips were detected");
}

/// Tears the last batch in every way that leaves out sectors, and damages the one before it.
#[test]
fn a_torn_last_batch_is_cut_and_a_torn_middle_is_refused() {
    let first = Step::Append(vec![batch(Some((1, 1, 0)), vec![entry(1, 1, 1400)])]);
    let second = Step::Append(vec![batch(None, vec![entry(1, 2, 1400), entry(1, 3, 700)])]);
    let options = WalOptions { segment_bytes: 16384 };
    let disk = sim_disk(1);
    let mut kept = Twin::default();
    kept.step(&first);
    let steps = [first, second];
    block_on(async {
        let mut wal = Wal::create(shared(&disk), &wal_dir(), METADATA, options).await.unwrap();
        for step in &steps {
            let Step::Append(batches) = step else { unreachable!("both append") };
            wal.append(batches).await.unwrap();
        }
    });
    let name = disk.list(&wal_dir()).unwrap().remove(0);
    let path = wal_dir().join(name);
    let bytes = disk.platter(&path).unwrap();
    let magic = bytes[512..516].to_vec();
    let second_at = (520..bytes.len()).find(|at| bytes[*at..].starts_with(&magic)).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let tear = |from: usize, to: usize, missing: u32| {
        let disk = disk.platter_image();
        let file = disk.open(&path).unwrap();
        for (number, sector) in (from / 512..to.div_ceil(512)).enumerate() {
            if missing & (1 << number) != 0 {
                let start = (sector * 512).max(from);
                let end = ((sector + 1) * 512).min(to);
                file.write_at(start as u64, &vec![0; end - start]).unwrap();
            }
        }
        disk
    };
    let sectors = end.div_ceil(512) - second_at / 512;
    for missing in 1u32..1 << sectors {
        let disk = tear(second_at, end, missing);
        let opened = block_on(recovers_to(&disk, &kept));
        let (_, equal) = opened.unwrap_or_else(|error| panic!("tear {missing:b}: {error}"));
        assert!(equal, "tear {missing:b}: another log is read");
    }
    let sectors = second_at.div_ceil(512) - 1;
    for missing in 1u32..1 << sectors {
        let disk = tear(512, second_at, missing);
        let opened = block_on(recovers_to(&disk, &kept));
        let refused = opened.map(drop).expect_err("synced data is missing").to_string();
        assert!(refused.contains("synced later"), "tear {missing:b}: {refused}");
    }
}

#[test]
fn without_a_checkpoint_all_that_a_log_holds_is_read() {
    let steps = workload();
    let reset = steps.iter().position(|step| matches!(step, Step::Reset(..))).expect("one of them");
    let (disk, twin) = finished(&steps[..reset]);
    let (_, state, base) =
        block_on(Wal::open_rest(shared(&disk), &wal_dir(), OPTIONS)).expect("it is whole");
    assert!(base.index > 0 && base.index <= twin.after, "{base:?}");
    assert_eq!(base.term, None, "the entry before was released");
    assert_eq!(state.entries[0].index, base.index + 1);
    assert!(state.entries.ends_with(&twin.entries));
    assert_eq!(state.hard_state, twin.hard_state);
    let (disk, twin) = finished(&steps[..reset + 2]);
    let (_, state, base) =
        block_on(Wal::open_rest(shared(&disk), &wal_dir(), OPTIONS)).expect("it is whole");
    assert_eq!(base, Base { index: 30, term: Some(4) });
    assert_eq!((state.entries, state.hard_state), (twin.entries, twin.hard_state));
}

#[test]
fn what_is_known_to_be_committed_must_be_there() {
    let steps = [
        Step::Append(vec![batch(Some((1, 1, 2)), vec![])]),
        Step::Append(vec![batch(None, vec![entry(1, 3, 1000)])]),
    ];
    let (disk, _) = finished(&steps);
    let (mut wal, _) =
        block_on(Wal::open(shared(&disk), &wal_dir(), 0, OPTIONS)).expect("it is healthy");
    let hard_state = HardState { term: 1, vote: 1, commit: 4 };
    let lie = WalBatch { hard_state: Some(hard_state), entries: vec![] };
    block_on(wal.append(&[lie])).expect("the disk is healthy");
    drop(wal);
    let opened = block_on(Wal::open(shared(&disk), &wal_dir(), 0, OPTIONS));
    let error = opened.map(drop).expect_err("entry 4 was never written").to_string();
    assert!(error.contains("index 4 is known to be committed"), "{error}");
    // A checkpoint that holds it is as good.
    let opened = block_on(Wal::open(shared(&disk), &wal_dir(), 4, OPTIONS));
    assert_eq!(opened.expect("the checkpoint holds it").1.entries, vec![]);
}

/// Without a checkpoint nothing else tells what was committed.
#[test]
fn a_release_leaves_an_entry_that_is_known_to_be_committed() {
    let append = |index| Step::Append(vec![batch(Some((1, 1, 4)), vec![entry(1, index, 600)])]);
    let (disk, _) = finished(&(3..20).map(append).collect::<Vec<_>>());
    let (mut wal, _) =
        block_on(Wal::open(shared(&disk), &wal_dir(), 0, OPTIONS)).expect("it is healthy");
    assert!(wal.segment_count() > 3);
    assert!(block_on(wal.release(19)).expect("it is healthy") > 0);
    drop(wal);
    let (_, log, base) = block_on(Wal::open_rest(shared(&disk), &wal_dir(), OPTIONS)).expect("so");
    assert_eq!((base.term, log.hard_state.commit), (None, 4));
    assert_eq!(log.entries[0].index, 4);
}

#[test]
fn a_failed_sync_poisons_the_log() {
    let disk = sim_disk(3);
    let mut wal =
        block_on(Wal::create(shared(&disk), &wal_dir(), METADATA, OPTIONS)).expect("healthy");
    disk.set_faults(|faults| faults.sync_error_per_mille = 1000);
    let append = [batch(Some((1, 1, 0)), vec![entry(1, 1, 100)])];
    assert!(matches!(block_on(wal.append(&append)), Err(StorageError::Io { .. })));
    disk.set_faults(|faults| faults.sync_error_per_mille = 0);
    assert!(matches!(block_on(wal.append(&append)), Err(StorageError::Poisoned { .. })));
}

#[test]
fn a_full_disk_leaves_the_log_as_it_was() {
    let disk = sim_disk(3);
    disk.set_faults(|faults| faults.capacity_bytes = 3 * OPTIONS.segment_bytes);
    let mut wal =
        block_on(Wal::create(shared(&disk), &wal_dir(), METADATA, OPTIONS)).expect("healthy");
    let append = |index| [batch(Some((1, 1, 0)), vec![entry(1, index, 600)])];
    let mut index = 1;
    let error = loop {
        match block_on(wal.append(&append(index))) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
    disk.set_faults(|faults| faults.capacity_bytes = u64::MAX);
    block_on(wal.append(&append(index))).expect("there is room again");
    drop(wal);
    disk.power_cut();
    let (_, state) = block_on(Wal::open(shared(&disk), &wal_dir(), 0, OPTIONS)).expect("healthy");
    assert_eq!(state.entries.last().map(|entry| entry.index), Some(index));
    assert_eq!(state.entries.len() as u64, index);
}

#[test]
fn a_later_format_is_refused_by_name() {
    let (disk, twin) = finished(&workload());
    let name = disk.list(&wal_dir()).expect("the log is there").remove(0);
    let path: &Path = &wal_dir().join(&name);
    let file = disk.open(path).expect("it is there");
    file.write_at(8, &9u32.to_le_bytes()).expect("the disk is healthy");
    let opened = block_on(recovers_to(&disk, &twin)).map(drop);
    let error = opened.expect_err("version 9 is not ours").to_string();
    assert!(error.contains("version 9") && error.contains(&name), "{error}");
}
