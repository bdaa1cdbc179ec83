//! What is heard is written, in a bounded place, and what could not be written is said.

use super::*;
use crate::env::clock::ManualClock;
use crate::env::mem_disk::MemDisk;
use crate::env::recorder::RoleName;
use std::future::Future;
use std::io;

const DIR: &str = "/data/flight";

struct Setup {
    clock: ManualClock,
    disk: MemDisk,
    recorder: Arc<FlightRecorder>,
}

fn setup() -> Setup {
    let clock = ManualClock::new();
    clock.set_wall(Duration::from_secs(1_000));
    let writer = Writer { name: "m0".into(), members: 3, ..Writer::default() };
    let recorder = FlightRecorder::new(Arc::new(clock.clone()), writer);
    Setup { clock, disk: MemDisk::new(), recorder }
}

impl Setup {
    /// Does `work` while the recording is written.
    async fn writing<T>(&self, work: impl Future<Output = T>) -> T {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        tokio::select! {
            biased;
            () = self.recorder.clone().write(disk, Path::new(DIR), 1 << 20) => {
                panic!("nobody said that it should finish")
            }
            done = work => done,
        }
    }

    /// All lines that are on the disk.
    fn lines(&self) -> Vec<Line> {
        let names = self.disk.list(Path::new(DIR)).unwrap_or_default();
        let files = names.iter().filter_map(|name| self.disk.contents(&Path::new(DIR).join(name)));
        let text = files.map(|bytes| String::from_utf8(bytes).expect("JSON is UTF-8"));
        let text: String = text.collect();
        text.lines().map(|line| Line::from_text(line).expect("a whole line")).collect()
    }

    /// Waits until the disk has a line like this.
    async fn written(&self, wanted: impl Fn(&What) -> bool) -> What {
        for _ in 0..10_000 {
            if let Some(line) = self.lines().into_iter().find(|line| wanted(&line.what)) {
                return line.what;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("no such line: {:?}", self.lines());
    }

    /// Lets a period pass.
    async fn tick(&self) {
        self.clock.advance(PERIOD);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn roles_are_written_at_once_and_counts_once_a_second() {
    let setup = setup();
    let recorder = setup.recorder.clone();
    setup
        .writing(async {
            recorder.record(&Event::RoleChanged { role: RoleName::Leader, term: 7, leader: 9 });
            let role = setup.written(|what| matches!(what, What::Role { .. })).await;
            let expected = What::Role { role: "leader".into(), term: 7, leader: "9".into() };
            assert_eq!(role, expected);
            for ms in [2, 4, 250] {
                let took = Duration::from_millis(ms);
                recorder.record(&Event::Persisted { last_index: ms, entries: 1, took });
                recorder.record(&Event::RoundTrip { peer: 10, took });
            }
            recorder.record(&Event::Proposed { count: 5 });
            setup.tick().await;
            let summary = setup.written(|what| matches!(what, What::Summary(_))).await;
            let What::Summary(summary) = summary else { unreachable!() };
            assert_eq!((summary.proposals, summary.syncs), (5, 3));
            assert_eq!((summary.sync_mean_us, summary.sync_max_us), (85_333, 250_000));
            assert_eq!(summary.round_trips["a"].count, 3);
            let slow = setup.written(|what| matches!(what, What::SlowSync { .. })).await;
            assert_eq!(slow, What::SlowSync { took_us: 250_000 });
        })
        .await;
    let first = setup.lines().remove(0);
    let What::Segment(writer) = first.what else { panic!("{first:?}") };
    assert_eq!((writer.format, writer.name.as_str(), writer.members), (FORMAT, "m0", 3));
}

#[tokio::test]
async fn a_stall_is_told_once_and_a_vote_only_when_it_changes() {
    let setup = setup();
    let recorder = setup.recorder.clone();
    let stalled = Event::SyncStalled { outstanding: Duration::from_secs(2) };
    let hard_state = |commit| Event::HardState { term: 3, vote: 4, commit };
    setup
        .writing(async {
            for n in 0..3 {
                recorder.record(&stalled);
                recorder.record(&hard_state(n));
            }
            recorder.record(&Event::Stopped { reason: "Requested".into() });
            setup.written(|what| matches!(what, What::Stop { .. })).await;
        })
        .await;
    let count =
        |wanted: fn(&What) -> bool| setup.lines().iter().filter(|line| wanted(&line.what)).count();
    assert_eq!(count(|what| matches!(what, What::SyncOutstanding { .. })), 1);
    assert_eq!(count(|what| matches!(what, What::Vote { .. })), 1);
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_and_a_pause_of_the_process_are_told() {
    let setup = setup();
    setup
        .writing(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            setup.clock.set_wall(Duration::from_secs(400));
            setup.tick().await;
            let jump = setup.written(|what| matches!(what, What::ClockJump { .. })).await;
            assert_eq!(jump, What::ClockJump { by_us: -600_000_000 });
            setup.clock.advance(Duration::from_secs(9));
            let late = setup.written(|what| matches!(what, What::NotRunning { .. })).await;
            assert_eq!(late, What::NotRunning { for_us: 8_000_000 });
        })
        .await;
}

#[tokio::test]
async fn what_a_full_disk_cost_is_said_once_there_is_room_again() {
    let setup = setup();
    let recorder = setup.recorder.clone();
    setup
        .writing(async {
            recorder.record(&Event::PeerLost { peer: 1 });
            setup.written(|what| matches!(what, What::PeerLost { .. })).await;
            setup.disk.fail_after(0, io::ErrorKind::StorageFull);
            recorder.record(&Event::PeerBack { peer: 1 });
            setup.tick().await;
            setup.tick().await;
            setup.disk.heal();
            setup.tick().await;
            let told = setup.written(|what| matches!(what, What::NotWritten { .. })).await;
            let What::NotWritten { lines, for_us, .. } = told else { unreachable!() };
            assert!(lines >= 2 && for_us >= 1_000_000, "{lines} lines, {for_us} us");
        })
        .await;
}

#[tokio::test]
async fn the_last_words_are_written_before_it_finishes() {
    let setup = setup();
    setup.recorder.record(&Event::Stopped { reason: "Requested".into() });
    setup.recorder.finish();
    let disk: Arc<dyn Disk> = Arc::new(setup.disk.clone());
    setup.recorder.clone().write(disk, Path::new(DIR), 1 << 20).await;
    let last = setup.lines().pop().map(|line| line.what);
    assert_eq!(last, Some(What::Stop { reason: "Requested".into() }));
}

#[test]
fn a_queue_that_nobody_empties_is_bounded() {
    let setup = setup();
    for term in 0..2 * QUEUE_LINES as u64 {
        let event = Event::RoleChanged { role: RoleName::Follower, term, leader: 0 };
        setup.recorder.record(&event);
    }
    let state = setup.recorder.state();
    assert_eq!((state.queue.len(), state.lost), (QUEUE_LINES, QUEUE_LINES as u64));
}
