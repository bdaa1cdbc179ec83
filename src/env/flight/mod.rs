//! The flight recorder of the daemon: what the member was and did of late, in a small ring of
//! files, readable while it runs and after it was killed.
//!
//! ```text
//! the server's tasks -- record() --> a bounded queue -- write() --> <data-dir>/flight/*.jsonl
//! ```
//!
//! `record` counts, or queues one line, and never waits. `write` is a task: it wakes when a line
//! is queued and once a second, and hands what is there to the blocking pool. When the disk does
//! not take it, lines wait up to a bound and are counted beyond it, and once the disk goes on the
//! recording says how long it could not write and how many lines that cost.

pub mod line;
pub mod ring;

use crate::env::clock::{Clock, Mono};
use crate::env::disk::Disk;
use crate::env::recorder::{Event, Recorder};
use line::{FORMAT, Line, RoundTrips, Summary, What, Writer, id_text, role_text, standing_text};
use ring::Ring;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Lines that may wait for the disk.
const QUEUE_LINES: usize = 4096;
/// How often a summary is written.
const PERIOD: Duration = Duration::from_secs(1);
/// A sync that takes longer than this gets a line of its own.
const SLOW_SYNC: Duration = Duration::from_millis(100);
/// The wall clock may drift this far in a period before that is called a jump.
const JUMP_MIN: Duration = Duration::from_millis(100);
/// A task that wakes this much too late was kept from running.
const LATE_MIN: Duration = Duration::from_millis(500);
/// A write that takes longer than this is told of.
const SLOW_WRITE: Duration = Duration::from_millis(500);

/// A recorder and the task that writes.
pub struct Recording {
    pub recorder: Arc<FlightRecorder>,
    writing: JoinHandle<()>,
}

impl Recording {
    /// Begins a recording of about `bytes` in `dir`; `writer` says who records.
    pub fn start(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        writer: Writer,
        dir: PathBuf,
        bytes: u64,
    ) -> Recording {
        let recorder = FlightRecorder::new(clock, writer);
        let pen = recorder.clone();
        let writing = tokio::spawn(async move { pen.write(disk, &dir, bytes).await });
        Recording { recorder, writing }
    }

    /// Waits for the last words to be written, but no longer than `limit`: the disk may not take
    /// them.
    pub async fn finish(self, failure: Option<&String>, limit: Duration) {
        if let Some(reason) = failure {
            self.recorder.record(&Event::Stopped { reason: reason.clone() });
        }
        self.recorder.finish();
        tokio::select! {
            biased;
            _written = self.writing => {}
            () = self.recorder.clock.sleep(limit) => {}
        }
    }
}

/// Listens to a member, and writes down what it hears.
pub struct FlightRecorder {
    clock: Arc<dyn Clock>,
    writer: Writer,
    state: Mutex<State>,
    queued: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Line>,
    /// Lines that found the queue full, or a disk that refused them.
    lost: u64,
    counts: Counts,
    /// The term and the vote that were written last.
    vote: (u64, u64),
    /// A line says already that a sync is outstanding.
    stalled: bool,
    /// What is queued is the last of it.
    finishing: bool,
}

/// What the next summary is made of.
#[derive(Default)]
struct Counts {
    summary: Summary,
    sync_us: u64,
    /// By peer: count, sum and maximum in microseconds.
    round_trips: BTreeMap<u64, (u64, u64, u64)>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl FlightRecorder {
    /// A recorder for a member; `writer` says who that is.
    pub fn new(clock: Arc<dyn Clock>, writer: Writer) -> Arc<FlightRecorder> {
        let writer = Writer { format: FORMAT, ..writer };
        let (state, queued) = (Mutex::default(), Notify::new());
        Arc::new(FlightRecorder { clock, writer, state, queued })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the queue panics and goes on")
    }

    fn line(&self, what: What) -> Line {
        let (wall_us, mono_us) =
            (micros(self.clock.wall()), micros(self.clock.now().since_start()));
        Line { wall_us, mono_us, what }
    }

    /// Queues a line, unless too many wait already.
    fn queue(&self, state: &mut State, what: What) {
        if state.queue.len() >= QUEUE_LINES {
            state.lost += 1;
            return;
        }
        state.queue.push_back(self.line(what));
        self.queued.notify_one();
    }

    /// Lets `write` end once it has written what is queued.
    pub fn finish(&self) {
        self.state().finishing = true;
        self.queued.notify_one();
    }

    /// Writes what is recorded into a ring of about `bytes` in `dir`, until it is told to finish.
    pub async fn write(self: Arc<Self>, disk: Arc<dyn Disk>, dir: &Path, bytes: u64) {
        let mut pen = Pen { ring: Some(Ring::new(disk, dir, bytes)), failed: None };
        let mut due = self.clock.now() + PERIOD;
        let mut offset = self.wall_offset();
        loop {
            tokio::select! {
                biased;
                () = self.clock.sleep_until(due) => {
                    let now = self.clock.now();
                    self.watch_clocks(now, due, &mut offset);
                    self.summarise();
                    due = now + PERIOD;
                }
                () = self.queued.notified() => {}
            }
            let last = self.state().finishing;
            pen.write(&self).await;
            if last {
                return;
            }
        }
    }

    /// Microseconds from the monotonic clock's origin to the Unix epoch.
    fn wall_offset(&self) -> i64 {
        let (wall, mono) = (self.clock.wall(), self.clock.now().since_start());
        i64::try_from(micros(wall)).unwrap_or(i64::MAX)
            - i64::try_from(micros(mono)).unwrap_or(i64::MAX)
    }

    /// Notes a jump of the wall clock, and a period that was longer than it should have been.
    fn watch_clocks(&self, now: Mono, due: Mono, offset: &mut i64) {
        let (before, after) = (*offset, self.wall_offset());
        *offset = after;
        let late = now - due;
        let mut state = self.state();
        if (after - before).unsigned_abs() >= micros(JUMP_MIN) {
            self.queue(&mut state, What::ClockJump { by_us: after - before });
        }
        if late >= LATE_MIN {
            self.queue(&mut state, What::NotRunning { for_us: micros(late) });
        }
    }

    fn summarise(&self) {
        let mut state = self.state();
        let Counts { mut summary, sync_us, round_trips } = std::mem::take(&mut state.counts);
        summary.sync_mean_us = sync_us / summary.syncs.max(1);
        let round_trip = |(peer, (count, sum_us, max_us)): (u64, (u64, u64, u64))| {
            let mean_us = sum_us / count.max(1);
            (id_text(peer), RoundTrips { count, mean_us, max_us })
        };
        summary.round_trips = round_trips.into_iter().map(round_trip).collect();
        // Where the log and the state stand is true until the next entry.
        let Summary { commit, applied, revision, .. } = summary;
        state.counts.summary = Summary { commit, applied, revision, ..Summary::default() };
        self.queue(&mut state, What::Summary(summary));
    }
}

/// The writing end: the ring, and since when the disk has refused.
struct Pen {
    /// Out while the blocking pool has it.
    ring: Option<Ring>,
    failed: Option<(Mono, String)>,
}

impl Pen {
    /// Writes what is queued, and says afterwards if that did not go as it should.
    async fn write(&mut self, recorder: &FlightRecorder) {
        let (lines, lost) = {
            let mut state = recorder.state();
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.lost))
        };
        let began = recorder.clock.now();
        let count = lines.len() as u64;
        let mut text = String::new();
        if let Some((since, why)) = &self.failed {
            let for_us = micros(began - *since);
            let what = What::NotWritten { for_us, lines: lost, why: why.clone() };
            text.push_str(&recorder.line(what).to_text());
        }
        lines.iter().for_each(|line| text.push_str(&line.to_text()));
        let opening = recorder.line(What::Segment(recorder.writer.clone())).to_text();
        let Some(mut ring) = self.ring.take() else { return };
        let (ring, written) = blocking(move || {
            let written = ring.append(text.as_bytes(), || opening.into_bytes());
            (ring, written)
        })
        .await;
        self.ring = Some(ring);
        let took = recorder.clock.now() - began;
        match written {
            Ok(()) => self.failed = None,
            Err(error) => {
                self.failed.get_or_insert((began, error.to_string()));
                recorder.state().lost += lost + count;
                return;
            }
        }
        if took >= SLOW_WRITE {
            let lines = std::mem::take(&mut recorder.state().lost);
            let why = "the disk did not take it".to_string();
            let what = What::NotWritten { for_us: micros(took), lines, why };
            let mut state = recorder.state();
            recorder.queue(&mut state, what);
        }
    }
}

/// The simulated runtime marks this call as deprecated, since it blocks the simulation; there no
/// server has a flight recorder.
#[allow(deprecated)]
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("writing lines does not panic")
}

impl Recorder for FlightRecorder {
    fn record(&self, event: &Event) {
        let mut state = self.state();
        let counts = &mut state.counts;
        let what = match event {
            Event::Proposed { count } => {
                counts.summary.proposals += *count as u64;
                None
            }
            Event::RoundTrip { peer, took } => {
                let took = micros(*took);
                let (count, sum, max) = counts.round_trips.entry(*peer).or_default();
                (*count, *sum, *max) = (*count + 1, sum.saturating_add(took), took.max(*max));
                None
            }
            Event::Committed { index, .. } => {
                counts.summary.commit = *index;
                None
            }
            Event::Applied { index, revision, .. } => {
                (counts.summary.applied, counts.summary.revision) = (*index, *revision);
                None
            }
            Event::Persisted { took, .. } => {
                let took_us = micros(*took);
                counts.summary.syncs += 1;
                counts.sync_us = counts.sync_us.saturating_add(took_us);
                counts.summary.sync_max_us = counts.summary.sync_max_us.max(took_us);
                state.stalled = false;
                (*took >= SLOW_SYNC).then_some(What::SlowSync { took_us })
            }
            Event::SyncStalled { outstanding } => {
                let first = !std::mem::replace(&mut state.stalled, true);
                first.then(|| What::SyncOutstanding { for_us: micros(*outstanding) })
            }
            Event::HardState { term, vote, .. } => {
                let changed = std::mem::replace(&mut state.vote, (*term, *vote)) != (*term, *vote);
                changed.then(|| What::Vote { term: *term, vote: id_text(*vote) })
            }
            Event::Rewritten { .. } => None,
            told => said(told),
        };
        if let Some(what) = what {
            self.queue(&mut state, what);
        }
    }
}

/// The line of an event that is written as it comes.
fn said(event: &Event) -> Option<What> {
    Some(match event {
        Event::Recovered { member, term, last_index, commit, applied, .. } => What::Start {
            member: id_text(*member),
            term: *term,
            last_index: *last_index,
            commit: *commit,
            applied: *applied,
        },
        Event::RoleChanged { role, term, leader } => {
            What::Role { role: role_text(*role).to_string(), term: *term, leader: id_text(*leader) }
        }
        Event::PeerLost { peer } => What::PeerLost { peer: id_text(*peer) },
        Event::PeerGone { peer } => What::PeerGone { peer: id_text(*peer) },
        Event::PeerBack { peer } => What::PeerBack { peer: id_text(*peer) },
        Event::Alarm { member, alarm, raised } => {
            What::Alarm { member: id_text(*member), alarm: alarm.to_string(), raised: *raised }
        }
        Event::DiskFull { full } => What::DiskFull { full: *full },
        Event::Checkpointed { index, took, .. } => {
            What::Checkpoint { index: *index, took_us: micros(*took) }
        }
        Event::Installed { index, term, .. } => What::Installed { index: *index, term: *term },
        Event::Standing { standing, index } => {
            What::Standing { standing: standing_text(*standing).to_string(), index: *index }
        }
        Event::Damaged { run } => What::Damaged { run: id_text(*run) },
        Event::RunRepaired { run } => What::Repaired { run: id_text(*run) },
        Event::Stopped { reason } => What::Stop { reason: reason.clone() },
        Event::Proposed { .. }
        | Event::RoundTrip { .. }
        | Event::Committed { .. }
        | Event::Applied { .. }
        | Event::Persisted { .. }
        | Event::SyncStalled { .. }
        | Event::HardState { .. }
        | Event::Rewritten { .. }
        | Event::Transfer(_)
        | Event::FellBack
        | Event::ScrubFound
        | Event::ValuesRepaired { .. }
        // Its becoming an alarm of the cluster is what counts.
        | Event::OwnAlarm { .. }
        | Event::AutoCompaction { .. }
        | Event::MembersChanged { .. }
        | Event::LeaseGranted { .. }
        | Event::LeaseEnded { .. }
        | Event::ChangeProposed { .. } => return None,
    })
}

#[cfg(test)]
mod tests;
