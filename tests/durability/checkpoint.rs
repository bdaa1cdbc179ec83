//! Checkpoints: crashes at every operation of storing, releasing, rewriting, installing and
//! cleaning up; and what happens when a manifest or a run rots.

use crate::{shared, sim_disk};
use bytes::Bytes;
use detcd::env::clock::ManualClock;
use detcd::env::disk::Disk;
use detcd::env::pace::Pace;
use detcd::raft::message::{ConfState, Entry, EntryKind, HardState};
use detcd::storage::checkpoint::{self, Checkpoint, Recovery, next_numbers};
use detcd::storage::data_dir::DataDir;
use detcd::storage::error::StorageError;
use detcd::storage::manifest::Manifest;
use detcd::storage::record::Record;
use detcd::storage::run_receiver::RunReceiver;
use detcd::storage::run_writer::{rewrite, write_run};
use detcd::storage::segment::WalMetadata;
use detcd::storage::wal::{Wal, WalBatch, WalOptions};
use futures::executor::block_on;
use sim::disk::SimDisk;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const METADATA: WalMetadata = WalMetadata { cluster_id: 0xc1, member_id: 0xa1 };
const OPTIONS: WalOptions = WalOptions { segment_bytes: 2048 };
const FATES: u64 = 8;
const TERM: u64 = 2;
/// The term in which the snapshot that is installed was made.
const LATER_TERM: u64 = 5;

fn root() -> &'static Path {
    Path::new("/data")
}

fn run_dir() -> PathBuf {
    root().join("member/runs")
}

fn open_dir(disk: &SimDisk) -> impl Future<Output = Result<DataDir, StorageError>> {
    DataDir::open(shared(disk), root())
}

/// Entry `index` makes revision `index`: the state machine of this test.
fn record(index: u64) -> Record {
    Record {
        main: index as i64,
        sub: 0,
        tombstone: index.is_multiple_of(4),
        key: Bytes::from(format!("key {}", index % 7)),
        create_revision: if index.is_multiple_of(4) { 0 } else { 1 },
        version: if index.is_multiple_of(4) { 0 } else { 2 },
        lease: 0,
        value: if index.is_multiple_of(4) {
            Bytes::new()
        } else {
            Bytes::from(vec![index as u8; 100])
        },
    }
}

fn entry(term: u64, index: u64) -> Entry {
    Entry { term, index, kind: EntryKind::Normal, data: Bytes::from(vec![index as u8; 120]) }
}

/// What a compaction at `compact` lets a rewrite drop.
fn is_dead(main: i64, compact: i64) -> bool {
    main <= compact && main % 3 == 0
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append(u64),
    /// A checkpoint of all that is in the log, a release of all but the last few entries, and a
    /// cleaning up.
    Checkpoint,
    /// All runs become one, without what a compaction at half of the state killed.
    Rewrite,
    /// A snapshot from another member, so many entries ahead.
    Install(u64),
}

const WORKLOAD: [Step; 16] = [
    Step::Append(6),
    Step::Checkpoint,
    Step::Append(8),
    Step::Append(5),
    Step::Checkpoint,
    Step::Rewrite,
    Step::Append(7),
    Step::Checkpoint,
    Step::Append(2),
    Step::Install(30),
    Step::Append(5),
    Step::Checkpoint,
    Step::Rewrite,
    Step::Append(12),
    Step::Checkpoint,
    Step::Append(3),
];

/// A member at work.
struct Member {
    disk: SimDisk,
    /// Held for its lock.
    _dir: DataDir,
    wal: Wal,
    checkpoint: Option<Checkpoint>,
    last: u64,
    term: u64,
}

impl Member {
    async fn found(disk: &SimDisk) -> Result<Member, StorageError> {
        let dir = open_dir(disk).await?;
        let wal = Wal::create(shared(disk), &dir.wal_dir(), METADATA, OPTIONS).await?;
        Ok(Member { disk: disk.clone(), _dir: dir, wal, checkpoint: None, last: 0, term: TERM })
    }

    async fn recover(disk: &SimDisk) -> Result<Member, StorageError> {
        let dir = open_dir(disk).await?;
        if !dir.is_initialised()? {
            drop(dir);
            return Member::found(disk).await;
        }
        let Recovery { checkpoint, wal, log, .. } = checkpoint::recover(&dir, OPTIONS).await?;
        let applied = checkpoint.as_ref().map_or(0, |found| found.manifest.applied_index);
        let last = log.entries.last().map_or(applied, |entry| entry.index);
        let term = log.hard_state.term.max(TERM);
        Ok(Member { disk: disk.clone(), _dir: dir, wal, checkpoint, last, term })
    }

    async fn step(&mut self, step: Step) -> Result<(), StorageError> {
        match step {
            Step::Append(count) => {
                for _ in 0..count {
                    let commit = self.last;
                    let hard_state = Some(HardState { term: self.term, vote: 1, commit });
                    let entries = vec![entry(self.term, self.last + 1)];
                    self.wal.append(&[WalBatch { hard_state, entries }]).await?;
                    self.last += 1;
                }
                Ok(())
            }
            Step::Checkpoint => self.store().await,
            Step::Rewrite => self.rewrite().await,
            Step::Install(ahead) => self.install(ahead).await,
        }
    }

    fn manifest(&self) -> Manifest {
        let empty = || Manifest {
            cluster_id: METADATA.cluster_id,
            member_id: METADATA.member_id,
            conf_state: ConfState { voters: [1, 2, 3].into(), learners: [].into() },
            ..Manifest::default()
        };
        let newest = self.checkpoint.as_ref().map(|found| found.manifest.clone());
        let mut manifest = newest.unwrap_or_else(empty);
        manifest.installed = false;
        manifest
    }

    async fn adopt(&mut self, mut manifest: Manifest) -> Result<(), StorageError> {
        let disk = shared(&self.disk);
        manifest.sequence = next_numbers(&*disk, &run_dir(), 0, None)?.manifest;
        manifest.store(&*disk, &run_dir()).await?;
        self.checkpoint = Some(Checkpoint::open(&*disk, &run_dir(), manifest.sequence)?);
        Ok(())
    }

    async fn store(&mut self) -> Result<(), StorageError> {
        let disk = shared(&self.disk);
        let mut manifest = self.manifest();
        let id = next_numbers(&*disk, &run_dir(), 0, None)?.run;
        let fresh = (manifest.applied_index + 1..=self.last).map(record);
        let run = write_run(&disk, &run_dir(), id, fresh, |_, _| {}).await?;
        manifest.runs.extend(run);
        let leases = Bytes::from(self.last.to_le_bytes().to_vec());
        manifest.sections = vec![("leases".to_string(), leases)];
        (manifest.applied_index, manifest.applied_term) = (self.last, self.term);
        manifest.revision = self.last as i64;
        self.adopt(manifest).await?;
        let cleaned = checkpoint::clean_up(&*disk, &run_dir(), &BTreeSet::new()).await?;
        self.wal.release(cleaned.releasable).await.map(drop)
    }

    async fn rewrite(&mut self) -> Result<(), StorageError> {
        let disk = shared(&self.disk);
        let mut manifest = self.manifest();
        let compact = manifest.revision / 2;
        let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
        let runs: Vec<_> = checkpoint.runs.iter().collect();
        let id = next_numbers(&*disk, &run_dir(), 0, None)?.run;
        let keep = |record: &Record| !is_dead(record.main, compact);
        let mut pace = Pace::new(Arc::new(ManualClock::new()));
        let run = rewrite(&disk, &run_dir(), id, &runs, keep, &mut pace).await?;
        manifest.runs = run.into_iter().collect();
        manifest.compact_revision = compact;
        self.adopt(manifest).await?;
        checkpoint::clean_up(&*disk, &run_dir(), &BTreeSet::new()).await.map(drop)
    }

    /// Another member has the state `ahead` entries further, in a later term.
    async fn install(&mut self, ahead: u64) -> Result<(), StorageError> {
        let index = self.last + ahead;
        let theirs = sim_disk(99);
        let sender = shared(&theirs);
        sender.create_dir_all(&run_dir()).expect("the sender is healthy");
        let disk = shared(&self.disk);
        let id = next_numbers(&*disk, &run_dir(), 0, None)?.run;
        let run = write_run(&sender, &run_dir(), id, (1..=index).map(record), |_, _| {}).await;
        let meta = run.expect("the sender is healthy").expect("there are records");
        let bytes =
            theirs.platter(&run_dir().join(format!("{id:016x}.run"))).expect("it is synced");
        let mut receiver = RunReceiver::new(disk.clone(), &run_dir(), meta)?;
        for piece in bytes.chunks(1000) {
            receiver.push(piece).await?;
        }
        receiver.finish().await?;
        let mut manifest = self.manifest();
        manifest.installed = true;
        (manifest.applied_index, manifest.applied_term) = (index, LATER_TERM);
        (manifest.revision, manifest.compact_revision) = (index as i64, 0);
        manifest.runs = vec![meta];
        let leases = Bytes::from(index.to_le_bytes().to_vec());
        manifest.sections = vec![("leases".to_string(), leases)];
        self.adopt(manifest).await?;
        let hard_state = HardState { term: LATER_TERM, vote: 0, commit: index };
        self.wal.reset(index, LATER_TERM, hard_state).await?;
        (self.last, self.term) = (index, LATER_TERM);
        checkpoint::clean_up(&*disk, &run_dir(), &BTreeSet::new()).await.map(drop)
    }

    /// Checks that checkpoint and log together say each revision once, without gaps.
    fn check(&self, acked: u64, under_way: u64, story: &str) {
        assert!(
            (acked..=under_way).contains(&self.last),
            "{story}: recovered up to {}, acknowledged {acked}, under way {under_way}",
            self.last
        );
        let Some(checkpoint) = &self.checkpoint else { return };
        let manifest = &checkpoint.manifest;
        let compact = manifest.compact_revision;
        let mut found = Vec::new();
        for run in &checkpoint.runs {
            for stored in run.scan() {
                let stored = stored.unwrap_or_else(|error| panic!("{story}: {error}"));
                let value = run.value(stored.place).expect("it was scanned a moment ago");
                assert_eq!(value, stored.record.value, "{story}");
                found.push(stored.record);
            }
        }
        let rewritten = |record: &Record| is_dead(record.main, compact);
        let all = (1..=manifest.applied_index).map(record);
        // Runs of before the compaction hold what is dead, a rewritten one does not.
        let alive: Vec<Record> = all.filter(|record| !rewritten(record)).collect();
        found.retain(|record| !rewritten(record));
        assert_eq!(found, alive, "{story}");
        let leases = manifest.section("leases").expect("every checkpoint of this test has it");
        assert_eq!(leases[..], manifest.applied_index.to_le_bytes(), "{story}");
    }
}

/// Runs the workload until it is done or the machine stops. Returns the last index that was
/// acknowledged, and the last that may be there.
async fn run(disk: &SimDisk) -> (u64, u64) {
    let Ok(mut member) = Member::found(disk).await else { return (0, 0) };
    for step in WORKLOAD {
        if member.step(step).await.is_err() {
            let reach = match step {
                Step::Append(_) => 1,
                Step::Install(ahead) => ahead,
                Step::Checkpoint | Step::Rewrite => 0,
            };
            return (member.last, member.last + reach);
        }
    }
    (member.last, member.last)
}

fn operations() -> u64 {
    let disk = sim_disk(0);
    block_on(run(&disk));
    assert!(!disk.has_crashed());
    disk.counters().operations
}

/// Goes on working after a recovery, loses power and recovers again.
async fn goes_on(disk: &SimDisk, mut member: Member, story: &str) {
    for step in [Step::Append(3), Step::Checkpoint, Step::Rewrite, Step::Append(2)] {
        let done = member.step(step).await;
        done.unwrap_or_else(|error| panic!("{story}: going on with {step:?}: {error}"));
    }
    let last = member.last;
    drop(member);
    disk.power_cut();
    let again = Member::recover(disk).await;
    let again = again.unwrap_or_else(|error| panic!("{story}: after going on: {error}"));
    again.check(last, last, story);
    let mut unfinished = disk.list(&run_dir()).expect("it is healthy");
    unfinished.extend(disk.list(&root().join("member/wal")).expect("it is healthy"));
    assert!(unfinished.iter().all(|name| !name.ends_with(".tmp")), "{story}: {unfinished:?}");
}

#[test]
fn a_power_cut_at_any_operation_of_a_checkpoint_is_survived() {
    let operations = operations();
    assert!(operations > 300, "the workload is {operations} operations long");
    for crash in 0..operations {
        for fate in 0..FATES {
            let story = format!("power cut at operation {crash}, fate {fate}");
            let disk = sim_disk(crash * FATES + fate);
            disk.arm_crash(crash);
            let (acked, under_way) = block_on(run(&disk));
            assert!(disk.has_crashed(), "{story}: did not happen");
            disk.power_cut();
            let member = block_on(Member::recover(&disk));
            let member = member.unwrap_or_else(|error| panic!("{story}: {error}"));
            member.check(acked, under_way, &story);
            block_on(goes_on(&disk, member, &story));
        }
    }
}

#[test]
fn a_kill_and_a_power_cut_in_recovery_are_survived() {
    for crash in (0..operations()).step_by(2) {
        for during in 0.. {
            let story = format!("kill at operation {crash}, power cut at {during} of recovery");
            let disk = sim_disk(crash * 64 + during);
            disk.arm_crash(crash);
            let (acked, under_way) = block_on(run(&disk));
            disk.kill();
            disk.arm_crash(during);
            drop(block_on(Member::recover(&disk)));
            let crashed = disk.has_crashed();
            disk.power_cut();
            let member = block_on(Member::recover(&disk));
            let member = member.unwrap_or_else(|error| panic!("{story}: {error}"));
            member.check(acked, under_way, &story);
            if !crashed {
                break;
            }
        }
    }
}

fn finished() -> (SimDisk, u64) {
    let disk = sim_disk(5);
    let (last, _) = block_on(run(&disk));
    disk.power_cut();
    (disk, last)
}

#[test]
fn a_rotten_manifest_gives_way_to_the_one_before() {
    let (disk, last) = finished();
    let names = disk.list(&run_dir()).expect("it is healthy");
    let manifests: Vec<_> = names.iter().filter(|name| name.ends_with(".manifest")).collect();
    assert_eq!(manifests.len(), 2, "{names:?}");
    assert!(disk.rot(&run_dir().join(manifests[1]), 60, 2));
    let member = block_on(Member::recover(&disk)).expect("the older one is continued");
    assert_eq!(member.last, last);
    member.check(last, last, "the newest manifest rotted");
    block_on(goes_on(&disk, member, "the newest manifest rotted"));
}

#[test]
fn a_manifest_that_the_log_does_not_continue_is_not_used() {
    let (disk, _) = finished();
    // The log lets go of what the older manifest needs.
    let mut member = block_on(Member::recover(&disk)).expect("it is healthy");
    let reached = member.checkpoint.as_ref().expect("there is one").manifest.applied_index;
    block_on(member.step(Step::Append(40))).expect("it is healthy");
    assert!(block_on(member.wal.release(reached)).expect("it is healthy") > 0);
    drop(member);
    let newest = Manifest::sequences(&disk, &run_dir()).expect("it is healthy")[0];
    disk.kill();
    assert!(disk.rot(&run_dir().join(format!("{newest:016x}.manifest")), 60, 2));
    let error = block_on(Member::recover(&disk)).map(drop).expect_err("nothing can be trusted");
    let text = error.to_string();
    assert!(text.contains(&format!("{newest:016x}.manifest")), "{text}");
}

#[test]
fn a_rotten_run_is_refused_when_it_is_read() {
    let (disk, _) = finished();
    let member = block_on(Member::recover(&disk)).expect("it is healthy");
    let checkpoint = member.checkpoint.as_ref().expect("there is one");
    let run = &checkpoint.runs[0];
    assert!(disk.rot(&run_dir().join(format!("{:016x}.run", run.meta().id)), 100, 0));
    let error = run.scan().find_map(Result::err).expect("a block has rotted").to_string();
    assert!(error.contains("checksum of a block"), "{error}");
}

#[test]
fn a_log_that_ends_before_its_own_checkpoint_is_refused() {
    let (disk, last) = finished();
    let mut member = block_on(Member::recover(&disk)).expect("it is healthy");
    let mut manifest = member.manifest();
    manifest.applied_index = last + 10;
    manifest.sections = vec![];
    block_on(member.adopt(manifest)).expect("it is healthy");
    drop(member);
    let error = block_on(Member::recover(&disk)).map(drop).expect_err("the log lost entries");
    assert!(error.to_string().contains("the log ends at"), "{error}");
}

#[test]
fn a_log_of_another_term_gives_way_to_an_installed_checkpoint() {
    let disk = sim_disk(2);
    let mut member = block_on(Member::found(&disk)).expect("it is healthy");
    let entries = (1..13).map(|index| entry(TERM, index)).collect();
    let hard_state = Some(HardState { term: TERM, vote: 1, commit: 0 });
    let batch = WalBatch { hard_state, entries };
    block_on(member.wal.append(&[batch])).expect("it is healthy");
    let mut manifest = member.manifest();
    manifest.installed = true;
    (manifest.applied_index, manifest.applied_term) = (7, LATER_TERM);
    block_on(member.adopt(manifest)).expect("it is healthy");
    drop(member);
    // The crash came before the log was reset; entries 8 to 12 follow another entry 7.
    disk.power_cut();
    let dir = block_on(open_dir(&disk)).expect("nobody has it");
    for _ in 0..2 {
        let recovered = block_on(checkpoint::recover(&dir, OPTIONS)).expect("it can be completed");
        assert_eq!(recovered.log.entries, vec![]);
        assert_eq!(recovered.wal.last_index(), 7);
        let HardState { term, vote, commit } = recovered.log.hard_state;
        assert_eq!((term, vote, commit), (LATER_TERM, 0, 7), "a vote counts for its term only");
    }
}

#[test]
fn two_processes_do_not_share_a_directory() {
    let disk = sim_disk(1);
    let first = block_on(open_dir(&disk)).map(drop);
    first.expect("nobody has it");
    let held = block_on(open_dir(&disk)).expect("the first one let go");
    let refused = block_on(open_dir(&disk)).map(drop).expect_err("it is held");
    assert!(matches!(refused, StorageError::Locked { .. }), "{refused}");
    drop(held);
}

#[test]
fn checkpoints_without_a_log_are_not_an_empty_directory() {
    let (disk, _) = finished();
    let wal_dir = root().join("member/wal");
    for name in disk.list(&wal_dir).expect("it is healthy") {
        disk.remove(&wal_dir.join(name)).expect("it is healthy");
    }
    let error = block_on(Member::recover(&disk)).map(drop).expect_err("the log is gone");
    assert!(error.to_string().contains("no log"), "{error}");
}
