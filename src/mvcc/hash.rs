//! HashKV: the checksum that etcd computes over its `key` bucket, bit for bit.
//!
//! etcd (server/storage/mvcc/hash.go) feeds CRC-32C with the bucket's name and then with each
//! record's key and value as they lie in the file: the key is the revision in 17 bytes (18 with
//! the mark of a tombstone), the value the encoded `KeyValue`.

use crate::error::{Error, Result};
use crate::mvcc::log::Version;
use crate::mvcc::revision::stored_key;
use crate::mvcc::store::Store;
use crate::pb::mvccpb::KeyValue;
use prost::Message;

/// A hash in progress, pinned to a revision and to the compact revision it began with.
#[derive(Debug)]
pub struct HashCursor {
    revision: i64,
    compacted: i64,
    /// Some key lives at `revision`. Without any, etcd skips nothing.
    keeps: bool,
    next: (i64, u32),
    crc: u32,
}

/// What HashKV answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashResult {
    pub hash: u32,
    pub compact_revision: i64,
    pub hash_revision: i64,
}

impl Store {
    /// The hash of all that is visible up to `revision` (0: the current one), as
    /// (hash, compact revision, hash revision).
    pub fn hash_kv(&self, revision: i64) -> Result<(u32, i64, i64)> {
        let mut cursor = self.open_hash(revision)?;
        loop {
            if let Some(result) = self.hash_step(&mut cursor, usize::MAX)? {
                return Ok((result.hash, result.compact_revision, result.hash_revision));
            }
        }
    }

    /// Begins a hash that `hash_step` continues.
    pub fn open_hash(&self, revision: i64) -> Result<HashCursor> {
        if revision > 0 && revision < self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        let revision = if revision <= 0 { self.revision } else { revision };
        let crc = crc32c::crc32c(b"key");
        let keeps = self.any_lives_at(revision);
        Ok(HashCursor { revision, compacted: self.compacted, keeps, next: (0, 0), crc })
    }

    /// Continues a hash over at most `max_records`. A compaction since it began ends it. A value
    /// that can't be read leaves the cursor as it was, for another attempt.
    pub fn hash_step(
        &self,
        cursor: &mut HashCursor,
        max_records: usize,
    ) -> Result<Option<HashResult>> {
        if cursor.compacted != self.compacted {
            return Err(Error::Compacted);
        }
        let mut crc = cursor.crc;
        for (seen, record) in self.log.from(cursor.next.0, cursor.next.1).enumerate() {
            if record.main > cursor.revision {
                break;
            }
            if seen >= max_records {
                (cursor.next, cursor.crc) = ((record.main, record.sub), crc);
                return Ok(None);
            }
            if self.is_hashed(cursor, record) {
                crc = self.hash_record(crc, record)?;
            }
        }
        Ok(Some(HashResult {
            hash: crc,
            compact_revision: cursor.compacted,
            hash_revision: cursor.revision,
        }))
    }

    fn any_lives_at(&self, revision: i64) -> bool {
        if revision == self.revision {
            return self.index.live() > 0;
        }
        let mut found = false;
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        self.index.visit(&self.keys, all, false, &mut |id| {
            found = self.keys.entry(id).at(revision).is_some_and(|mark| !mark.tombstone);
            !found
        });
        found
    }

    /// Up to the compact revision, etcd counts the records that a compaction at the hashed
    /// revision would keep, and no tombstone.
    fn is_hashed(&self, cursor: &HashCursor, record: &Version) -> bool {
        if record.main > cursor.compacted {
            return true;
        }
        let entry = self.keys.entry(record.key);
        let place = Some((record.main, record.sub));
        // Physical removal may lag: what the compact revision has killed must not show.
        let newest = |main| entry.at(main).map(|mark| (mark.main, mark.sub));
        if record.tombstone() || newest(cursor.compacted) != place {
            return false;
        }
        !cursor.keeps || newest(cursor.revision) == place
    }

    fn hash_record(&self, crc: u32, record: &Version) -> Result<u32> {
        let (key, len) = stored_key(record.main, u64::from(record.sub), record.tombstone());
        let crc = crc32c::crc32c_append(crc, &key[..len]);
        let value = if record.tombstone() {
            let key = self.keys.key(record.key).clone();
            KeyValue { key, ..KeyValue::default() }.encode_to_vec()
        } else {
            self.key_value(record)?.encode_to_vec()
        };
        Ok(crc32c::crc32c_append(crc, &value))
    }
}
