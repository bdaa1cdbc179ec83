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
    self, SmallBucket, put_record_head, put_record_tail, record_key, record_value_len,
    small_buckets,
};
use crate::env::yield_now;
use crate::error::{Error, Result};
use crate::mvcc::record::{RecordRef, Value};
use crate::mvcc::revision::{Revision, stored_key};
use crate::storage::bbolt::writer::{Payload, Plan, Writer};
use crate::storage::run::{Near, Run};
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

    /// Shows the next records from `from` on; gives the revision of the last.
    fn each(&self, from: Revision, each: impl FnMut(RecordRef)) -> Result<Option<Revision>> {
        let state = self.shared.state();
        // A leader's snapshot took the place of what was pinned.
        if self.shared.swaps.get() != self.swaps {
            return Err(Error::BackupInterrupted);
        }
        let (up_to, compacted) = (self.revision, self.compacted);
        let count = self.shared.limits.backup_chunk_records;
        Ok(state.store.each_record_at(from, up_to, compacted, count, each))
    }

    /// The next records from `from` on, with the runs that hold their values.
    fn chunk(&self, from: Revision) -> Result<Chunk> {
        let (mut heads, mut items, mut runs) = (Vec::new(), Vec::new(), BTreeMap::new());
        let last = self.each(from, |record| {
            put_record_head(&record, &mut heads);
            if let Value::Cold(location) = record.value
                && !runs.contains_key(&location.run)
            {
                let run = self.shared.runs.get(location.run);
                runs.insert(location.run, run.expect("a cold value stands in an open run"));
            }
            items.push(Item {
                revision: record.revision,
                tombstone: record.tombstone,
                head_end: heads.len(),
                value: record.value.clone(),
                lease: record.lease,
            });
        })?;
        Ok(Chunk { shared: self.shared.clone(), heads, items, runs, last })
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

/// A record of a chunk.
struct Item {
    revision: Revision,
    tombstone: bool,
    /// Where that ends which stands before its value.
    head_end: usize,
    value: Value,
    lease: i64,
}

/// Some records in order. Their runs stay readable, also when others take their place.
struct Chunk {
    shared: Arc<Shared>,
    /// What stands before the values, one behind the other.
    heads: Vec<u8>,
    items: Vec<Item>,
    runs: BTreeMap<u64, Arc<Run>>,
    last: Option<Revision>,
}

impl Chunk {
    fn values(&self, near: &mut Near) -> Result<Vec<Bytes>> {
        self.items.iter().map(|item| self.value(item, near)).collect()
    }

    fn value(&self, item: &Item, near: &mut Near) -> Result<Bytes> {
        let location = match &item.value {
            Value::Resident(value) => return Ok(value.clone()),
            Value::Cold(location) => *location,
        };
        let value = self.runs[&location.run].value_near(to_place(location), near);
        value.map_err(|error| {
            tracing::debug!(%error, "a value cannot be read");
            self.shared.runs.damage.report(location.run);
            Error::Unreadable
        })
    }

    /// Offers the key and the parts of the value of each item of the bucket `key`.
    fn each(&self, values: &[Bytes], mut take: impl FnMut(&[u8], &[&[u8]])) {
        let (mut begin, mut tail) = (0, Vec::new());
        for (item, value) in self.items.iter().zip(values) {
            let (key, len) = record_key(item.revision, item.tombstone);
            tail.clear();
            put_record_tail(item.lease, &mut tail);
            take(&key[..len], &[&self.heads[begin..item.head_end], value, &tail]);
            begin = item.head_end;
        }
    }
}

/// Goes through all records of a moment; `take` is given each with its value.
struct Walk<'a> {
    moment: &'a Moment,
    from: Revision,
    last_main: i64,
    near: Near,
}

impl<'a> Walk<'a> {
    fn new(moment: &'a Moment) -> Walk<'a> {
        Walk { moment, from: Revision::default(), last_main: 0, near: Near::default() }
    }

    /// Offers the next chunk of items of the bucket `key`, their values in parts; false at the end.
    async fn step(&mut self, mut take: impl FnMut(&[u8], &[&[u8]])) -> Result<bool> {
        let (chunk, values) = self.read().await?;
        chunk.each(&values, &mut take);
        Ok(self.go_on(chunk.last, |key| take(&key, &[])))
    }

    /// The next chunk with its values. One in a damaged run is waited for.
    async fn read(&mut self) -> Result<(Chunk, Vec<Bytes>)> {
        let shared = &self.moment.shared;
        let until = shared.env.clock.now() + REPAIR_PATIENCE;
        loop {
            let round = shared.runs.damage.round();
            let chunk = self.moment.chunk(self.from)?;
            match chunk.values(&mut self.near) {
                Ok(values) => return Ok((chunk, values)),
                Err(Error::Unreadable) if shared.env.clock.now() < until => {
                    shared.repaired_since(round, until).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Like `step`, with the lengths of the values.
    fn plan_step(&mut self, mut take: impl FnMut(&[u8], usize)) -> Result<bool> {
        let last = self.moment.each(self.from, |record| {
            let (key, len) = record_key(record.revision, record.tombstone);
            take(&key[..len], record_value_len(&record));
        })?;
        Ok(self.go_on(last, |key| take(&key, 0)))
    }

    fn go_on(&mut self, last: Option<Revision>, end: impl FnOnce(Bytes)) -> bool {
        if let Some(Revision { main, sub }) = last {
            (self.from, self.last_main) = (Revision::new(main, sub + 1), main);
            return true;
        }
        if let Some(key) = self.moment.bumped(self.last_main) {
            end(key);
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
    let (mut writer, piece) = (Writer::writing(plan), outlet.shared.limits.backup_piece_bytes);
    for bucket in &moment.small {
        writer.begin(bucket.name);
        for (at, (key, value)) in bucket.items.iter().enumerate() {
            writer.push(key, Payload::Parts(&[value]));
            if at % outlet.shared.limits.backup_chunk_records == 0 {
                stream.send(writer.take(piece)).await?;
            }
        }
        writer.end();
    }
    let mut walk = Walk::new(&moment);
    writer.begin(buckets::KEY);
    while walk.step(|key, parts| writer.push(key, Payload::Parts(parts))).await? {
        stream.send(writer.take(piece)).await?;
        yield_now().await;
    }
    writer.end();
    writer.finish();
    stream.send(writer.take(1)).await?;
    // Removal need not wait for a slow reader's last pieces.
    drop(moment);
    stream.finish().await
}

async fn plan(moment: &Moment) -> Result<Plan> {
    let mut writer = Writer::planning();
    for bucket in &moment.small {
        writer.begin(bucket.name);
        for (key, value) in &bucket.items {
            writer.push(key, Payload::Length(value.len()));
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
        .step(|key, parts| {
            add(key);
            parts.iter().for_each(|part| add(part));
        })
        .await?
    {
        yield_now().await;
    }
    small(behind, &mut add);
    Ok(crc)
}
