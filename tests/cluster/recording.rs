//! An outage of real members, recorded by them, becomes a plan that repeats it.

use crate::client::wait_writable;
use crate::program;
use process::Cluster;
use process::simulator::simulator;
use sim::recording::replan::longest_gap;
use sim::recording::trouble::{Cast, Kind, troubles};
use sim::recording::{self, merge::merge};
use sim::timeline::fold::fold;
use std::path::Path;
use std::time::{Duration, Instant};

/// The machine may have much else to do.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long two of three members stay dead.
const OUTAGE: Duration = Duration::from_secs(6);

/// The longest time without a leader, in milliseconds, as the members of these directories tell
/// it, and how many members they say were down.
fn told(dirs: &[String]) -> (u64, usize) {
    let recordings = recording::read(dirs).expect("recordings can be read");
    let cast = Cast::of(&recordings);
    let troubles = troubles(&recordings, &cast);
    let down = troubles.iter().filter(|trouble| trouble.kind == Kind::Down).count();
    let timeline = fold(&merge(&recordings, &cast, &troubles));
    let (from, to) = longest_gap(&timeline).unwrap_or_default();
    ((to - from) / 1_000, down)
}

/// The longest time without a leader, in milliseconds: recorded, and in the run of the plan that
/// is made of recordings.
fn repeated(dir: &str) -> (u64, u64) {
    let mut command = simulator(Path::new(env!("CARGO_MANIFEST_DIR")), &["from-recording", dir]);
    let output = command.output().expect("cargo is there, for it runs this test");
    let plan = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{plan}{}", String::from_utf8_lossy(&output.stderr));
    let line = plan.lines().find(|line| line.contains("without a leader"));
    let words = line.expect("the plan says how well it repeats").split(' ');
    let mut numbers = words.filter_map(|word| word.parse::<u64>().ok());
    let mut next = || numbers.next().expect("two lengths of time");
    (next(), next())
}

#[tokio::test]
async fn an_outage_is_read_off_the_recordings_and_repeated() {
    let mut cluster = Cluster::start(&program(), 3, &[]).expect("three members start");
    let urls = cluster.endpoints();
    assert!(wait_writable(&urls[0], PATIENCE).await, "a fresh cluster takes writes");
    // A calm second, so that summaries are there too.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let began = Instant::now();
    cluster.kill(1).expect("a member dies");
    cluster.kill(2).expect("another dies");
    tokio::time::sleep(OUTAGE).await;
    cluster.spawn(1).expect("a member starts again");
    cluster.spawn(2).expect("another starts again");
    assert!(wait_writable(&urls[0], PATIENCE).await, "three of three take writes");
    let outage_ms = u64::try_from(began.elapsed().as_millis()).expect("a short test");
    // What happened last is on its way to the files.
    tokio::time::sleep(Duration::from_millis(1_500)).await;

    let dirs: Vec<String> =
        cluster.members.iter().map(|member| member.dir.display().to_string()).collect();
    // The survivor alone, and all three: they must tell of the same outage.
    for told in [told(&dirs[..1]), told(&dirs)] {
        let (gap_ms, down) = told;
        assert_eq!(down, 2, "two members were down");
        let shortest = u64::try_from(OUTAGE.as_millis()).expect("a short test") - 2_500;
        assert!((shortest..=outage_ms).contains(&gap_ms), "{gap_ms} of {outage_ms} ms");
    } // The survivor's own recording is enough for a plan; cut members would look the same to it.
    let (recorded, replayed) = repeated(&dirs[0]);
    assert!(recorded.abs_diff(replayed) <= 1_000, "recorded {recorded} ms, replayed {replayed} ms");
}
