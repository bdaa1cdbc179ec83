//! How a simulated cluster is set up, and how busy its clients are: drawn from a seed, printed
//! with every plan, and editable.

use crate::random::Stream;
use detcd::server::shared::{CheckpointOptions, Limits};
use serde::{Deserialize, Serialize};

/// What a run is for; see `docs/simulation.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Arbitrary faults, any number of members down. Nothing may ever be wrong.
    Safety,
    /// At the end a quorum is healed and every other fault stays: it must work.
    Liveness,
    /// The links are cut so that some quorum stays connected in full: it must work.
    PartialCut,
    /// One member's disk is slow or stalls, mostly the leader's.
    SlowDisk,
    /// Three members, five seconds, crashes only: many a second.
    Lite,
}

impl Mode {
    pub const ALL: [Mode; 5] =
        [Mode::Safety, Mode::Liveness, Mode::PartialCut, Mode::SlowDisk, Mode::Lite];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Safety => "safety",
            Mode::Liveness => "liveness",
            Mode::PartialCut => "partial-cut",
            Mode::SlowDisk => "slow-disk",
            Mode::Lite => "lite",
        }
    }

    pub fn parse(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// The mode of a seed for which none was asked.
    pub fn draw(seed: u64) -> Mode {
        let mut stream = Stream::new(seed, "mode");
        // Lite seeds are cheap; the others need the time.
        Mode::ALL[stream.weighted(&[340, 120, 60, 80, 400])]
    }
}

/// The cluster and its surroundings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    pub members: usize,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub wal_segment_bytes: u64,
    /// The log has a directory of its own, outside of the data directory.
    #[serde(default)]
    pub wal_elsewhere: bool,
    /// How many entries are applied between two checkpoints.
    pub checkpoint_entries: u64,
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// The one-way delay of a message, from and to.
    pub latency_us: (u64, u64),
    /// What an fsync costs, from and to.
    pub fsync_us: (u64, u64),
    /// Revisions that may wait in a watch stream.
    #[serde(default = "usual_watch_queue")]
    pub watch_queue: usize,
    /// Changes that watchers which are behind are fed in one step.
    #[serde(default = "usual_catch_up_changes")]
    pub catch_up_changes: usize,
    /// Requests of one member that may wait for their outcome at once.
    #[serde(default = "usual_pending_max")]
    pub pending_max: usize,
    #[serde(default)]
    pub backups: Backups,
    /// The rate of each member's clock in thousandths.
    pub clock_rates: Vec<u64>,
    /// The quota of each member in bytes; none of them without any.
    #[serde(default)]
    pub quotas: Vec<i64>,
    /// How long history is kept by automatic compaction; 0 for ever.
    #[serde(default)]
    pub auto_compaction_ms: u64,
}

/// How backups are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backups {
    /// Records that are taken at once: everybody else goes on in between.
    pub chunk_records: usize,
    pub piece_bytes: usize,
}

impl Default for Backups {
    /// As the shipped server reads them.
    fn default() -> Backups {
        let shipped = Limits::default();
        Backups {
            chunk_records: shipped.backup_chunk_records,
            piece_bytes: shipped.backup_piece_bytes,
        }
    }
}

impl Backups {
    /// The state of a run is small, so the chunks are, too.
    fn draw(seed: u64) -> Backups {
        let mut s = Stream::new(seed, "options/backups");
        Backups {
            chunk_records: s.log_between(1, 128) as usize,
            piece_bytes: s.log_between(512, 32 << 10) as usize,
        }
    }
}

/// What checkpoints leave, and how they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoints {
    /// Bytes of entries after which a checkpoint is due, however few they are.
    pub log_bytes: u64,
    /// What stays of the log behind a checkpoint.
    pub keep_entries: u64,
    pub keep_bytes: u64,
    /// Bytes of values that may stay in memory although they are on disk.
    pub resident_bytes: u64,
    /// Bytes of one piece on the way to another member.
    pub piece_bytes: usize,
    /// Bytes that the scrub reads in a second, and the least time from one to the next.
    #[serde(default = "usual_scrub_bytes")]
    pub scrub_bytes_per_second: u64,
    #[serde(default = "usual_scrub_interval")]
    pub scrub_interval_ms: u64,
}

impl Default for Checkpoints {
    /// Those of the shipped server.
    fn default() -> Checkpoints {
        let shipped = CheckpointOptions::default();
        Checkpoints {
            log_bytes: shipped.log_bytes,
            keep_entries: shipped.keep_entries,
            keep_bytes: shipped.keep_bytes,
            resident_bytes: shipped.resident_bytes,
            piece_bytes: shipped.piece_bytes,
            scrub_bytes_per_second: usual_scrub_bytes(),
            scrub_interval_ms: usual_scrub_interval(),
        }
    }
}

impl Checkpoints {
    fn draw(seed: u64) -> Checkpoints {
        let mut s = Stream::new(seed, "options/checkpoints");
        let mut scrub = Stream::new(seed, "options/scrub");
        Checkpoints {
            log_bytes: s.log_between(1 << 10, 64 << 20),
            keep_entries: s.log_between(1, 10_000) - 1,
            keep_bytes: s.log_between(256, 32 << 20),
            resident_bytes: if s.chance(300) { 0 } else { s.log_between(64, 1 << 20) },
            piece_bytes: s.log_between(128, 128 << 10) as usize,
            scrub_bytes_per_second: scrub.log_between(1 << 10, 1 << 20),
            scrub_interval_ms: scrub.log_between(200, 60_000),
        }
    }
}

fn usual_scrub_bytes() -> u64 {
    CheckpointOptions::default().scrub_bytes_per_second
}

fn usual_scrub_interval() -> u64 {
    CheckpointOptions::default().scrub_interval.as_millis() as u64
}

fn usual_watch_queue() -> usize {
    1_024
}

fn usual_catch_up_changes() -> usize {
    Limits::default().catch_up_changes
}

fn usual_pending_max() -> usize {
    Limits::default().max_pending_requests
}

/// What the clients do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    pub clients: u64,
    /// Over all clients and the whole run, if every one of them is answered at once.
    pub operations: u64,
    pub keys: u64,
    pub timeout_ms: u64,
    #[serde(default)]
    pub watchers: u64,
    /// Clients that hold leases.
    #[serde(default)]
    pub lessees: u64,
    /// Clients that want locks and elections.
    #[serde(default)]
    pub lockers: u64,
    /// Who takes backups, one after the other.
    #[serde(default)]
    pub backups: u64,
    /// How often each kind of request is drawn, relative to each other.
    pub weights: Weights,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    pub put: u64,
    pub get: u64,
    pub range: u64,
    pub delete: u64,
    /// Compare-and-swap transactions over one or more keys.
    pub transaction: u64,
    pub compact: u64,
}

impl Options {
    /// The rate of a member's clock in thousandths; that of a newcomer is true.
    pub fn clock_rate(&self, member: usize) -> u64 {
        self.clock_rates.get(member).copied().unwrap_or(1000)
    }

    pub fn draw(seed: u64, mode: Mode) -> Options {
        let mut s = Stream::new(seed, "options");
        let members = match mode {
            Mode::Lite => 3,
            Mode::Safety => [1, 3, 5][s.weighted(&[1, 4, 5])],
            Mode::Liveness | Mode::SlowDisk => [3, 5][s.weighted(&[1, 1])],
            Mode::PartialCut => 5,
        };
        // Five seconds are no more than a few elections of a lite run.
        let heartbeat_ms = s.log_between(20, if mode == Mode::Lite { 50 } else { 150 });
        let election_ms = heartbeat_ms * s.between(5, 12);
        let wal_segment_bytes = s.log_between(4 << 10, 1 << 20) & !4095;
        let wal_segment_bytes = draw_small_segments(seed).unwrap_or(wal_segment_bytes);
        let checkpoint_entries = s.log_between(5, 10_000);
        let slowest = if s.chance(200) { 20_000 } else { 3_000 };
        let latency_us = (s.between(50, 500), s.between(600, slowest));
        let fsync_us = (s.log_between(50, 1_000), s.log_between(1_001, 8_000));
        let skewed = s.chance(500);
        let clock_rates =
            (0..members).map(|_| if skewed { s.between(900, 1100) } else { 1000 }).collect();
        let watch_queue = Stream::new(seed, "options/watch").log_between(1, 1_024) as usize;
        Options {
            watch_queue,
            catch_up_changes: Stream::new(seed, "options/catch-up").log_between(1, 1_000) as usize,
            pending_max: draw_pending_max(seed, mode),
            members,
            heartbeat_ms,
            election_ms,
            wal_segment_bytes,
            wal_elsewhere: Stream::new(seed, "options/wal-dir").chance(250),
            checkpoint_entries,
            checkpoints: Checkpoints::draw(seed),
            backups: Backups::draw(seed),
            latency_us,
            fsync_us,
            clock_rates,
            quotas: draw_quotas(seed, members),
            auto_compaction_ms: draw_auto_compaction(seed),
        }
    }
}

/// In some runs the members have quotas, which differ in half of them. The least quota holds the
/// tombstones of all keys, so that deletes can bring relief.
fn draw_quotas(seed: u64, members: usize) -> Vec<i64> {
    let mut s = Stream::new(seed, "options/quotas");
    if !s.chance(250) {
        return Vec::new();
    }
    let mut draw = || s.log_between(16 << 10, 200 << 10) as i64;
    let first = draw();
    let different = Stream::new(seed, "options/quotas differ").chance(500);
    (0..members).map(|_| if different { draw() } else { first }).collect()
}

/// In some runs a segment has room for a few batches only, so that logs are released often, and
/// to their last batches.
fn draw_small_segments(seed: u64) -> Option<u64> {
    let mut s = Stream::new(seed, "options/small-segments");
    s.chance(150).then(|| s.log_between(1 << 10, 4 << 10))
}

/// In some runs a member takes few requests at once, so that a burst is too much for it.
fn draw_pending_max(seed: u64, mode: Mode) -> usize {
    let mut s = Stream::new(seed, "options/pending-max");
    let has_bursts = matches!(mode, Mode::Safety | Mode::Liveness);
    if has_bursts && s.chance(500) { s.log_between(16, 100) as usize } else { usual_pending_max() }
}

fn draw_auto_compaction(seed: u64) -> u64 {
    let mut s = Stream::new(seed, "options/auto-compaction");
    if s.chance(250) { s.log_between(500, 8_000) } else { 0 }
}

impl Workload {
    pub fn draw(seed: u64, mode: Mode) -> Workload {
        let mut s = Stream::new(seed, "workload");
        let (clients, operations) = match mode {
            Mode::Lite => (s.between(2, 4), 300),
            Mode::Safety | Mode::Liveness => (s.between(2, 8), s.between(600, 1500)),
            Mode::PartialCut | Mode::SlowDisk => (s.between(2, 6), s.between(500, 1000)),
        };
        let keys = s.log_between(1, 40);
        let timeout_ms = s.log_between(500, 6_000);
        // Swarm: a kind of request is left out of half of the seeds, but for puts and gets,
        // without which a run says nothing.
        let mut weight = |high: u64| if s.chance(500) { s.between(1, high) } else { 0 };
        let weights = Weights {
            range: weight(8),
            delete: weight(6),
            transaction: weight(10),
            compact: weight(2),
            put: 2 + weight(8),
            get: 2 + weight(8),
        };
        let watchers = Stream::new(seed, "workload/watchers").below(4).saturating_sub(1);
        let lessees = Stream::new(seed, "workload/lessees").below(4).saturating_sub(1);
        let lockers = Stream::new(seed, "workload/lockers").below(6).saturating_sub(2);
        let backups = Stream::new(seed, "workload/backups").below(3).saturating_sub(1);
        Workload {
            clients,
            operations,
            keys,
            timeout_ms,
            watchers,
            lessees,
            lockers,
            backups,
            weights,
        }
    }

    /// Whether anybody holds leases.
    pub fn has_leases(&self) -> bool {
        self.lessees + self.lockers > 0
    }
}
