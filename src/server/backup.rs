//! Backups: the state as it was at one moment, as a file of etcd's, while writes go on.
//!
//! The moment is pinned: physical removal waits, and the records up to its revision are read in
//! chunks between which everyone else runs. They are read twice, since the front of the file names
//! what stands at its end: first with the lengths of the values only, which the index knows, then
//! with the values. Memory holds one chunk and the open pages of a tree.

use super::checkpointer::SweepPin;
use super::runs::to_place;
use super::shared::Shared;
use crate::apply::buckets::{
    self, SmallBucket, record_key, record_value, record_value_len, small_buckets,
};
use crate::env::yield_now;
use crate::error::{Error, Result};
use crate::mvcc::record::{Record, Value};
use crate::mvcc::revision::{Revision, stored_key};
use crate::storage::bbolt::writer::{Payload, Plan, Writer};
use crate::storage::run::Run;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Backups that may be read from one member at once.
const BACKUPS_MAX: usize = 4;
/// Pieces that wait for their reader.
const PIECES_MAX: usize = 8;
/// A reader that takes nothing for so long is given up, since removal waits for it.
const READER_PATIENCE: Duration = Duration::from_secs(60);
/// How long a value in a damaged run is waited for.
const REPAIR_PATIENCE: Duration = Duration::from_secs(10);

/// One piece of a backup.
pub struct Piece {
    /// Bytes of the file that come behind it, without the checksum at the end.
    pub remaining: u64,
    pub bytes: Bytes,
}

/// The pieces of a backup on their way to its reader.
pub type Pieces = mpsc::Receiver<Result<Piece>>;

/// Begins a backup of the state as it is now.
///
/// # Errors
/// When too many are being read, or the state is known to be damaged.
pub fn begin(shared: &Arc<Shared>) -> Result<Pieces> {
    shared.check_running()?;
    shared.check_trusted()?;
    let moment = Moment::pin(shared)?;
    let (pieces, taken) = mpsc::channel(PIECES_MAX);
    let outlet = Outlet { shared: shared.clone(), pieces };
    tokio::spawn(async move {
        if let Err(error) = run(moment, &outlet).await {
            // Whoever reads is told, unless that is who went away.
            outlet.give(Err(error)).await.ok();
        }
    });
    Ok(taken)
}

/// The state at one moment, held for as long as this lives.
struct Moment {
    shared: Arc<Shared>,
    /// Everything but the records.
    small: Vec<SmallBucket>,
    revision: i64,
    compacted: i64,
    swaps: u64,
    _pin: SweepPin,
    _counted: Counted,
}

/// One backup in the count of those that are being read.
struct Counted(Arc<Shared>);

impl Counted {
    fn enter(shared: &Arc<Shared>) -> Result<Counted> {
        if shared.backups.get() >= BACKUPS_MAX {
            return Err(Error::TooManyRequests);
        }
        shared.backups.update(|backups| *backups += 1);
        Ok(Counted(shared.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.backups.update(|backups| *backups -= 1);
    }
}

impl Moment {
    fn pin(shared: &Arc<Shared>) -> Result<Moment> {
        let counted = Counted::enter(shared)?;
        let state = shared.state();
        Ok(Moment {
            small: small_buckets(&state),
            revision: state.store.revision(),
            compacted: state.store.compact_revision(),
            swaps: shared.swaps.get(),
            _pin: SweepPin::new(shared),
            _counted: counted,
            shared: shared.clone(),
        })
    }

    /// The next records from `from` on, with the runs that hold their values.
    fn chunk(&self, from: Revision) -> Result<Chunk> {
        let state = self.shared.state();
        // A leader's snapshot took the place of what was pinned.
        if self.shared.swaps.get() != self.swaps {
            return Err(Error::BackupInterrupted);
        }
        let (up_to, compacted) = (self.revision, self.compacted);
        let count = self.shared.limits.backup_chunk_records;
        let records = state.store.records_at(from, up_to, compacted, count);
        let mut runs = BTreeMap::new();
        for record in &records {
            if let Value::Cold(location) = record.value
                && !runs.contains_key(&location.run)
            {
                let run = self.shared.runs.get(location.run);
                runs.insert(location.run, run.expect("a cold value stands in an open run"));
            }
        }
        Ok(Chunk { shared: self.shared.clone(), records, runs })
    }

    /// The revision that no record stands for: that of a restore which raised it. etcd keeps such
    /// a revision by an item without a value.
    fn bumped(&self, last: i64) -> Option<Bytes> {
        if last.max(self.compacted).max(1) >= self.revision {
            return None;
        }
        let (key, len) = stored_key(self.revision, 0, false);
        Some(Bytes::copy_from_slice(&key[..len]))
    }
}

/// Some records in order. Their runs stay readable, also when others take their place.
struct Chunk {
    shared: Arc<Shared>,
    records: Vec<Record>,
    runs: BTreeMap<u64, Arc<Run>>,
}

impl Chunk {
    fn values(&self, last: &mut Option<(u64, usize, Bytes)>) -> Result<Vec<Bytes>> {
        self.records.iter().map(|record| self.value(record, last)).collect()
    }

    fn value(&self, record: &Record, last: &mut Option<(u64, usize, Bytes)>) -> Result<Bytes> {
        let location = match &record.value {
            Value::Resident(value) => return Ok(value.clone()),
            Value::Cold(location) => *location,
        };
        let mut block = match last.take() {
            Some((run, number, bytes)) if run == location.run => Some((number, bytes)),
            _ => None,
        };
        let value = self.runs[&location.run].value_near(to_place(location), &mut block);
        *last = block.map(|(number, bytes)| (location.run, number, bytes));
        value.map_err(|error| {
            tracing::debug!(%error, "a value cannot be read");
            self.shared.runs.damage.report(location.run);
            Error::Unreadable
        })
    }
}

/// Goes through all records of a moment; `take` is given each with its value.
struct Walk<'a> {
    moment: &'a Moment,
    from: Revision,
    last_main: i64,
    block: Option<(u64, usize, Bytes)>,
}

impl<'a> Walk<'a> {
    fn new(moment: &'a Moment) -> Walk<'a> {
        Walk { moment, from: Revision::default(), last_main: 0, block: None }
    }

    /// Offers the next chunk of items of the bucket `key`; false at the end.
    async fn step(&mut self, mut take: impl FnMut(Bytes, Bytes)) -> Result<bool> {
        let (chunk, values) = self.read().await?;
        for (record, value) in chunk.records.iter().zip(values) {
            take(record_key(record), record_value(record, value));
        }
        Ok(self.go_on(&chunk, |key| take(key, Bytes::new())))
    }

    /// The next chunk with its values. One in a damaged run is waited for.
    async fn read(&mut self) -> Result<(Chunk, Vec<Bytes>)> {
        let shared = &self.moment.shared;
        let until = shared.env.clock.now() + REPAIR_PATIENCE;
        loop {
            let round = shared.runs.damage.round();
            let chunk = self.next()?;
            match chunk.values(&mut self.block) {
                Ok(values) => return Ok((chunk, values)),
                Err(Error::Unreadable) if shared.env.clock.now() < until => {
                    shared.repaired_since(round, until).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Like `step`, with the lengths of the values.
    fn plan_step(&mut self, mut take: impl FnMut(Bytes, usize)) -> Result<bool> {
        let chunk = self.next()?;
        for record in &chunk.records {
            take(record_key(record), record_value_len(record));
        }
        Ok(self.go_on(&chunk, |key| take(key, 0)))
    }

    fn next(&self) -> Result<Chunk> {
        self.moment.chunk(self.from)
    }

    fn go_on(&mut self, chunk: &Chunk, last: impl FnOnce(Bytes)) -> bool {
        if let Some(record) = chunk.records.last() {
            let Revision { main, sub } = record.revision;
            (self.from, self.last_main) = (Revision::new(main, sub + 1), main);
            return true;
        }
        if let Some(key) = self.moment.bumped(self.last_main) {
            last(key);
        }
        false
    }
}

/// Where the pieces go.
struct Outlet {
    shared: Arc<Shared>,
    pieces: mpsc::Sender<Result<Piece>>,
}

impl Outlet {
    /// Hands a piece on.
    ///
    /// # Errors
    /// When nobody takes it.
    async fn give(&self, piece: Result<Piece>) -> Result<()> {
        tokio::select! {
            biased;
            given = self.pieces.send(piece) => given.map_err(|_| Error::Canceled),
            () = self.shared.env.clock.sleep(READER_PATIENCE) => Err(Error::Canceled),
        }
    }
}

async fn run(moment: Moment, outlet: &Outlet) -> Result<()> {
    let plan = plan(&moment).await?;
    let mut stream = Stream { outlet, left: plan.bytes(), hash: Sha256::new() };
    let mut writer = Writer::writing(plan);
    for bucket in &moment.small {
        writer.begin(bucket.name);
        for (at, (key, value)) in bucket.items.iter().enumerate() {
            writer.push(key.clone(), Payload::Bytes(value.clone()));
            if at % outlet.shared.limits.backup_chunk_records == 0 {
                stream.send(writer.take()).await?;
            }
        }
        writer.end();
    }
    let mut walk = Walk::new(&moment);
    writer.begin(buckets::KEY);
    while walk.step(|key, value| writer.push(key, Payload::Bytes(value))).await? {
        stream.send(writer.take()).await?;
        yield_now().await;
    }
    writer.end();
    writer.finish();
    stream.send(writer.take()).await?;
    // Removal need not wait for a slow reader's last pieces.
    drop(moment);
    stream.finish().await
}

async fn plan(moment: &Moment) -> Result<Plan> {
    let mut writer = Writer::planning();
    for bucket in &moment.small {
        writer.begin(bucket.name);
        for (key, value) in &bucket.items {
            writer.push(key.clone(), Payload::Length(value.len()));
        }
        writer.end();
    }
    let mut walk = Walk::new(moment);
    writer.begin(buckets::KEY);
    while walk.plan_step(|key, length| writer.push(key, Payload::Length(length)))? {
        yield_now().await;
    }
    writer.end();
    Ok(writer.finish())
}

/// The file as a stream of pieces, with its checksum as the last one.
struct Stream<'a> {
    outlet: &'a Outlet,
    left: u64,
    hash: Sha256,
}

impl Stream<'_> {
    async fn send(&mut self, mut bytes: Bytes) -> Result<()> {
        let most = self.outlet.shared.limits.backup_piece_bytes;
        while !bytes.is_empty() {
            let piece = bytes.split_to(most.min(bytes.len()));
            self.hash.update(&piece);
            self.left -= piece.len() as u64;
            self.outlet.give(Ok(Piece { remaining: self.left, bytes: piece })).await?;
        }
        Ok(())
    }

    async fn finish(self) -> Result<()> {
        assert_eq!(self.left, 0, "a backup has the length that was planned");
        let hash = Bytes::copy_from_slice(&self.hash.finalize());
        self.outlet.give(Ok(Piece { remaining: 0, bytes: hash })).await
    }
}

/// The hash over all buckets, as a backup would hold them: equal on members with equal data.
///
/// # Errors
/// As for a backup.
pub async fn hash(shared: &Arc<Shared>) -> Result<u32> {
    let moment = Moment::pin(shared)?;
    let mut crc = 0;
    let mut add = |bytes: &[u8]| crc = crc32c::crc32c_append(crc, bytes);
    let (before, behind): (Vec<_>, Vec<_>) =
        moment.small.iter().partition(|bucket| bucket.name < buckets::KEY);
    let small = |buckets: Vec<&SmallBucket>, add: &mut dyn FnMut(&[u8])| {
        for bucket in buckets {
            add(bucket.name.as_bytes());
            for (key, value) in bucket.items.iter().filter(|(key, _)| bucket.is_hashed(key)) {
                add(key);
                add(value);
            }
        }
    };
    small(before, &mut add);
    add(buckets::KEY.as_bytes());
    let mut walk = Walk::new(&moment);
    while walk
        .step(|key, value| {
            add(&key);
            add(&value);
        })
        .await?
    {
        yield_now().await;
    }
    small(behind, &mut add);
    Ok(crc)
}
