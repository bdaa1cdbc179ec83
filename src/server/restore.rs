//! From a backup in etcd's format to the data directory of a member of a new cluster.
//!
//! What is made is a checkpoint: runs with every record as it was, a manifest with the rest of the
//! state and the new membership, and an empty log behind it. The runs and the manifest come first:
//! a restore that was cut short leaves a directory in which no member starts.

use super::runs::to_stored;
use crate::apply::buckets::{self, Decoded, decode_record};
use crate::apply::snapshot::encode_sections;
use crate::env::disk::{Disk, File};
use crate::lease::Lessor;
use crate::membership::{Members, cluster_id, member_id};
use crate::mvcc::record::{Record, Value};
use crate::mvcc::restore::{Restore, Restored};
use crate::mvcc::revision::Revision;
use crate::mvcc::store::Store;
use crate::pb::etcdserverpb::{AlarmResponse, AlarmType};
use crate::pb::raftpb::MemberAttributes;
use crate::raft::message::{ConfState, HardState};
use crate::storage::bbolt::BboltError;
use crate::storage::bbolt::reader::{Bucket, Database};
use crate::storage::data_dir::DataDir;
use crate::storage::error::StorageError;
use crate::storage::manifest::Manifest;
use crate::storage::run::RunMeta;
use crate::storage::run_writer::RunWriter;
use crate::storage::segment::WalMetadata;
use crate::storage::wal::{Wal, WalOptions};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The checksum at the end of a backup.
const TRAILER_BYTES: u64 = 32;
/// A backup is pages and the checksum, so this is what its length leaves over such units.
const LENGTH_UNIT: u64 = 512;
/// A run is ended behind the transaction with which it exceeds this.
const RUN_BYTES: u64 = 256 << 20;
/// The term of a cluster that has had no election yet.
const FIRST_TERM: u64 = 1;

/// Who the restored member is, and with whom.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub name: String,
    /// Each a name and its peer URLs.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    pub initial_cluster_token: String,
    pub initial_advertise_peer_urls: Vec<String>,
    /// Must be empty or not there.
    pub data_dir: PathBuf,
    /// The log's own directory, if it is to have one.
    pub wal_dir: Option<PathBuf>,
    /// Takes the file also without its checksum: one that was copied from a data directory.
    pub skip_hash_check: bool,
    /// Raises the revision by so much, and compacts there.
    pub bump_revision: Option<u64>,
}

/// What a restore made.
#[derive(Clone, Copy, Debug)]
pub struct RestoredMember {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: i64,
    pub compact_revision: i64,
    pub records: u64,
}

/// A backup that was opened.
pub struct BackupFile {
    path: PathBuf,
    database: Database,
    buckets: Vec<(Bytes, Bucket)>,
}

impl BackupFile {
    /// Opens a backup and verifies its checksum.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(disk: &dyn Disk, path: &Path, skip_hash: bool) -> Result<BackupFile, String> {
        let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let file = disk.open_to_read(path).map_err(failed)?;
        let length = file.len().map_err(failed)?;
        let has_hash = length % LENGTH_UNIT == TRAILER_BYTES;
        let bytes = if has_hash { length - TRAILER_BYTES } else { length };
        let named = |error: BboltError| format!("{}: {error}", path.display());
        // First whether it is a database at all, which says more than a missing checksum.
        let database = Database::open(file.clone(), bytes).map_err(named)?;
        if !skip_hash {
            if !has_hash {
                return Err(format!(
                    "{}: it has no checksum at its end; a file that was copied from a data \
                     directory is taken with --skip-hash-check",
                    path.display()
                ));
            }
            check_hash(&*file, bytes).map_err(|what| format!("{}: {what}", path.display()))?;
        }
        let buckets = database.buckets().map_err(named)?;
        if !buckets.iter().any(|(name, _)| name == buckets::KEY) {
            return Err(format!("{}: it has no bucket \"key\"", path.display()));
        }
        Ok(BackupFile { path: path.to_path_buf(), database, buckets })
    }

    fn error(&self, what: impl std::fmt::Display) -> String {
        format!("{}: {what}", self.path.display())
    }

    /// Goes through all items in order: name of the bucket, key, value.
    fn for_each(
        &self,
        mut take: impl FnMut(&Bytes, Bytes, Bytes) -> Result<(), String>,
    ) -> Result<(), String> {
        for (name, bucket) in &self.buckets {
            for item in self.database.items(bucket) {
                let (key, value) = item.map_err(|error| self.error(error))?;
                take(name, key, value).map_err(|what| self.error(what))?;
            }
        }
        Ok(())
    }

    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = Result<Record, String>> + '_ {
        let bucket = self.buckets.iter().find(|(name, _)| name == buckets::KEY);
        let items = bucket.into_iter().flat_map(|(_, bucket)| self.database.items(bucket));
        let mut last = Revision::default();
        items.map(move |item| {
            let (key, value) = item.map_err(|error| self.error(error))?;
            let record = decode_record(&key, &value).map_err(|what| self.error(what))?;
            // A put and a tombstone of one revision have different keys.
            if record.revision <= last {
                let Revision { main, sub } = record.revision;
                return Err(self.error(format!("revision {main}.{sub} stands there twice")));
            }
            last = record.revision;
            Ok(record)
        })
    }

    /// What the small buckets say.
    pub fn decode(&self) -> Result<Decoded, String> {
        let mut decoded = Decoded::new();
        for (name, bucket) in self.buckets.iter().filter(|(name, _)| name != buckets::KEY) {
            for item in self.database.items(bucket) {
                let (key, value) = item.map_err(|error| self.error(error))?;
                decoded.take(name, key, value).map_err(|what| self.error(what))?;
            }
        }
        Ok(decoded)
    }

    /// What `snapshot status` tells.
    pub fn status(&self) -> Result<BackupStatus, String> {
        let mut status = BackupStatus::default();
        let mut bucket = Bytes::new();
        status.total_size = self.database.size_bytes();
        let mut names = self.buckets.iter().map(|(name, _)| name).peekable();
        self.for_each(|name, key, value| {
            // A bucket without items counts with its name.
            while bucket != *name {
                bucket = names.next().expect("items are in buckets").clone();
                status.hash = crc32c::crc32c_append(status.hash, &bucket);
            }
            status.hash = crc32c::crc32c_append(status.hash, &key);
            status.hash = crc32c::crc32c_append(status.hash, &value);
            status.total_key += 1;
            if name == buckets::KEY {
                status.revision = decode_record(&key, &value)?.revision.main;
            }
            Ok(())
        })?;
        for name in names {
            status.hash = crc32c::crc32c_append(status.hash, name);
        }
        Ok(status)
    }

    /// The store that a member restored from this file has. All of it is in memory.
    pub fn store(&self) -> Result<Store, String> {
        let decoded = self.decode()?;
        let mut restore = Restore::new(None);
        let mut revision = 1;
        for record in self.records() {
            let record = record?;
            revision = record.revision.main;
            restore.push(record, None);
        }
        Ok(restore.finish(Restored { revision, compact_revision: decoded.compact_revision }))
    }
}

/// What a backup holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupStatus {
    /// Over all buckets, names, keys and values.
    pub hash: u32,
    /// Of the last record.
    pub revision: i64,
    /// Items of all buckets.
    pub total_key: u64,
    pub total_size: u64,
}

fn check_hash(file: &dyn File, bytes: u64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("it can't be read: {error}");
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(buffer.len());
        file.read_at(at, &mut buffer[..length]).map_err(failed)?;
        hash.update(&buffer[..length]);
        at += length as u64;
    }
    let mut expected = [0; TRAILER_BYTES as usize];
    file.read_at(bytes, &mut expected).map_err(failed)?;
    if hash.finalize()[..] == expected {
        return Ok(());
    }
    Err("its checksum (SHA-256) does not match: the file was damaged or changed since it was \
         saved; take another backup"
        .to_string())
}

/// Makes a member's data directory from a backup.
///
/// # Errors
/// When the file or the options are at fault, or the disk fails. Then no member starts from the
/// directory, and it can be removed.
pub async fn restore(
    disk: Arc<dyn Disk>,
    backup: &BackupFile,
    options: &RestoreOptions,
) -> Result<RestoredMember, String> {
    let (members, me) = membership(options)?;
    restore_as(disk, backup, options, members, me).await
}

/// The same for a membership that is known: of `options` those that say who is in it don't count.
///
/// # Errors
/// As `restore`.
pub async fn restore_as(
    disk: Arc<dyn Disk>,
    backup: &BackupFile,
    options: &RestoreOptions,
    members: Members,
    me: u64,
) -> Result<RestoredMember, String> {
    let storage = |error: StorageError| error.to_string();
    check_empty(&*disk, "data-dir", &options.data_dir)?;
    if let Some(dir) = &options.wal_dir {
        check_empty(&*disk, "wal-dir", dir)?;
    }
    let decoded = backup.decode()?;
    let mut lessor = decoded.lessor().map_err(|what| backup.error(what))?;
    let wal_dir = options.wal_dir.as_deref();
    let data_dir = DataDir::open_with_wal(disk.clone(), &options.data_dir, wal_dir).await;
    let data_dir = data_dir.map_err(storage)?;
    let first_run = (me << 32) + 1;
    let mut writer = Runs::new(disk.clone(), data_dir.run_dir(), first_run);
    let mut newest: BTreeMap<Bytes, i64> = BTreeMap::new();
    for record in backup.records() {
        let record = record?;
        follow_lease(&mut newest, &record);
        writer.push(record).await.map_err(storage)?;
    }
    for (key, lease) in newest {
        // A lease that is gone left its id on the key, as in etcd.
        if lessor.exists(lease) {
            lessor.attach(&key, lease);
        }
    }
    let (runs, last) = writer.finish().await.map_err(storage)?;
    let mut revision = last.max(decoded.compact_revision).max(1);
    let mut compact_revision = decoded.compact_revision;
    if let Some(bump) = options.bump_revision {
        let raised = i64::try_from(bump).ok().and_then(|bump| revision.checked_add(bump));
        revision = raised.ok_or("--bump-revision: the revision would exceed its range")?;
        compact_revision = revision;
    }
    let cluster_id = cluster_id(members.iter().map(|member| member.id));
    let index = members.len() as u64;
    let manifest = Manifest {
        sequence: 1,
        cluster_id,
        member_id: me,
        installed: true,
        applied_index: index,
        applied_term: FIRST_TERM,
        conf_state: ConfState {
            voters: members.voters().into_iter().collect(),
            learners: Default::default(),
        },
        revision,
        compact_revision,
        next_run: first_run + runs.len() as u64,
        sections: sections(&lessor, &members, &decoded),
        runs: runs.clone(),
    };
    manifest.store(&*disk, &data_dir.run_dir()).await.map_err(storage)?;
    let (wal_dir, metadata) = (data_dir.wal_dir(), WalMetadata { cluster_id, member_id: me });
    let log = Wal::create(disk, &wal_dir, metadata, WalOptions::default()).await;
    let mut log = log.map_err(storage)?;
    let hard_state = HardState { term: FIRST_TERM, vote: 0, commit: index };
    log.reset(index, FIRST_TERM, hard_state).await.map_err(storage)?;
    let records = runs.iter().map(|run| run.records).sum();
    Ok(RestoredMember { cluster_id, member_id: me, revision, compact_revision, records })
}

fn check_empty(disk: &dyn Disk, flag: &str, dir: &Path) -> Result<(), String> {
    let failed = |error| format!("cannot look into {}: {error}", dir.display());
    if disk.exists(dir).map_err(failed)? && !disk.list(dir).map_err(failed)?.is_empty() {
        return Err(format!("{flag} {:?} not empty or could not be read", dir.display()));
    }
    Ok(())
}

/// The members of the new cluster, none of which has said its name yet, and which this is.
fn membership(options: &RestoreOptions) -> Result<(Members, u64), String> {
    let token = &options.initial_cluster_token;
    let name = &options.name;
    let Some((_, urls)) = options.initial_cluster.iter().find(|(known, _)| known == name) else {
        return Err(format!(
            "couldn't find local name \"{name}\" in the initial cluster \
                            configuration"
        ));
    };
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort_unstable();
        urls
    };
    let (urls, advertised) = (sorted(urls), sorted(&options.initial_advertise_peer_urls));
    if urls != advertised {
        return Err(format!(
            "--initial-cluster has {name}={} but missing from --initial-advertise-peer-urls={}",
            urls.join(","),
            advertised.join(",")
        ));
    }
    let members = Members::bootstrap(&options.initial_cluster, token);
    let me = member_id(&urls, token, None);
    Ok((members, me))
}

fn sections(lessor: &Lessor, members: &Members, decoded: &Decoded) -> Vec<(String, Bytes)> {
    // Who has not said a name has not started.
    let mut unnamed = members.clone();
    for member in members.iter() {
        unnamed.set_attributes(&MemberAttributes { id: member.id, ..Default::default() });
    }
    let alarms = AlarmResponse { header: None, alarms: decoded.alarms.list(AlarmType::None) };
    encode_sections(lessor, &unnamed, &alarms, &decoded.auth)
}

/// Keeps which lease the newest version of a key names.
fn follow_lease(newest: &mut BTreeMap<Bytes, i64>, record: &Record) {
    if record.lease == 0 {
        newest.remove(&record.key);
    } else {
        newest.insert(Bytes::copy_from_slice(&record.key), record.lease);
    }
}

/// Runs that are being written, one after the other.
struct Runs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    next: u64,
    open: Option<RunWriter>,
    bytes: u64,
    last: i64,
    done: Vec<RunMeta>,
}

impl Runs {
    fn new(disk: Arc<dyn Disk>, dir: PathBuf, next: u64) -> Runs {
        Runs { disk, dir, next, open: None, bytes: 0, last: 0, done: Vec::new() }
    }

    async fn push(&mut self, record: Record) -> Result<(), StorageError> {
        let main = record.revision.main;
        if self.bytes >= RUN_BYTES && main != self.last {
            self.close().await?;
        }
        self.last = main;
        if record.key.is_empty() {
            // It only raises the revision, which the manifest says.
            return Ok(());
        }
        let value = match &record.value {
            Value::Resident(value) => value.clone(),
            Value::Cold(place) => panic!("a record of a backup is cold at {place:?}"),
        };
        self.bytes += (record.key.len() + value.len()) as u64;
        let writer = match &mut self.open {
            Some(writer) => writer,
            none => none.insert(RunWriter::new(self.disk.clone(), &self.dir, self.next)?),
        };
        writer.push(&to_stored(record, value)).await?;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), StorageError> {
        if let Some(writer) = self.open.take() {
            self.done.extend(writer.finish().await?);
            self.next += 1;
            self.bytes = 0;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(Vec<RunMeta>, i64), StorageError> {
        self.close().await?;
        Ok((self.done, self.last))
    }
}
