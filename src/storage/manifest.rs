//! The manifest: which runs make up the state at which index, and all state that is not records.
//!
//! ```text
//! magic 8 | version u32 | installed u32 | body length u64 | body | crc u32 over all before
//! ```
//!
//! The newest manifest that verifies is the checkpoint. The one before it is kept, with its runs,
//! in case the newest rots.

use crate::env::disk::Disk;
use crate::raft::message::ConfState;
use crate::storage::error::StorageError;
use crate::storage::record::RecordRevision;
use crate::storage::run::RunMeta;
use crate::storage::run_writer::create_afresh;
use crate::storage::segment::TEMPORARY;
use crate::storage::varint::Reader;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeSet;
use std::path::Path;

const MAGIC: [u8; 8] = *b"detcdMAN";
pub const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
/// How many manifests stay.
pub const KEPT: usize = 2;

/// One checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Grows with every manifest of this member; the highest is the newest.
    pub sequence: u64,
    pub cluster_id: u64,
    pub member_id: u64,
    /// The checkpoint came from elsewhere, another member or a backup. Only then may the log end
    /// before it: a crash came before the log was reset to it.
    pub installed: bool,
    /// The entry that the state includes, and no later one.
    pub applied_index: u64,
    pub applied_term: u64,
    /// The configuration at that entry.
    pub conf_state: ConfState,
    pub revision: i64,
    pub compact_revision: i64,
    /// No run of this member ever had this id or a later one of its own.
    pub next_run: u64,
    /// In the order of their revisions.
    pub runs: Vec<RunMeta>,
    /// The rest of the state by name (leases, auth, members, alarms), in the encoding of its
    /// owner.
    pub sections: Vec<(String, Bytes)>,
}

pub fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.manifest")
}

/// The sequence number in the name of a manifest.
pub fn parse_name(name: &str) -> Option<u64> {
    let sequence = name.strip_suffix(".manifest").filter(|number| number.len() == 16)?;
    u64::from_str_radix(sequence, 16).ok()
}

fn put_ids(out: &mut BytesMut, ids: &BTreeSet<u64>) {
    out.put_u32_le(u32::try_from(ids.len()).expect("a cluster has few members"));
    for id in ids {
        out.put_u64_le(*id);
    }
}

fn read_ids(reader: &mut Reader<'_>) -> Option<BTreeSet<u64>> {
    let count = reader.u32()?;
    (0..count).map(|_| reader.u64()).collect()
}

fn put_run(out: &mut BytesMut, run: &RunMeta) {
    out.put_u64_le(run.id);
    for revision in [run.first, run.last] {
        out.put_i64_le(revision.main);
        out.put_i64_le(revision.sub);
    }
    out.put_u64_le(run.records);
    out.put_u64_le(run.bytes);
    out.put_u64_le(run.live_bytes);
    out.put_u32_le(run.fingerprint);
}

fn read_run(reader: &mut Reader<'_>) -> Option<RunMeta> {
    Some(RunMeta {
        id: reader.u64()?,
        first: RecordRevision { main: reader.i64()?, sub: reader.i64()? },
        last: RecordRevision { main: reader.i64()?, sub: reader.i64()? },
        records: reader.u64()?,
        bytes: reader.u64()?,
        live_bytes: reader.u64()?,
        fingerprint: reader.u32()?,
    })
}

impl Manifest {
    /// The section of this name, or nothing where the state was empty.
    pub fn section(&self, name: &str) -> Option<&Bytes> {
        self.sections.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes)
    }

    /// The bytes of the file; also how it travels to another member.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(&MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(u32::from(self.installed));
        out.put_u64_le(0);
        let numbers =
            [self.sequence, self.cluster_id, self.member_id, self.applied_index, self.applied_term];
        for number in numbers {
            out.put_u64_le(number);
        }
        put_ids(&mut out, &self.conf_state.voters);
        put_ids(&mut out, &self.conf_state.learners);
        out.put_i64_le(self.revision);
        out.put_i64_le(self.compact_revision);
        out.put_u64_le(self.next_run);
        out.put_u32_le(u32::try_from(self.runs.len()).expect("runs are merged when many"));
        for run in &self.runs {
            put_run(&mut out, run);
        }
        out.put_u32_le(u32::try_from(self.sections.len()).expect("there are few sections"));
        for (name, bytes) in &self.sections {
            out.put_u32_le(u32::try_from(name.len()).expect("names are short"));
            out.put_slice(name.as_bytes());
            out.put_u64_le(bytes.len() as u64);
            out.put_slice(bytes);
        }
        let body = (out.len() - HEADER_BYTES) as u64;
        out[16..24].copy_from_slice(&body.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// Reads what `encode` made; `path` is where it came from, for the error.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Manifest, StorageError> {
        let damaged = |what: &str| StorageError::damaged(path, 0, what);
        let mut header = Reader::new(bytes);
        if header.slice(8) != Some(&MAGIC[..]) {
            return Err(damaged("it does not begin with the magic of a manifest"));
        }
        let version = header.u32().ok_or_else(|| damaged("it is too short"))?;
        let (covered, crc) = bytes.split_at(bytes.len() - 4);
        // First, because a version that rotted is no later one. Later ones keep it here.
        if crc != crc32c::crc32c(covered).to_le_bytes() {
            return Err(damaged("its checksum does not match"));
        }
        if version > VERSION {
            let path = path.to_path_buf();
            return Err(StorageError::Newer { path, found: version, supported: VERSION });
        }
        let (installed, length) = (header.u32(), header.u64());
        let body = covered.get(HEADER_BYTES..).unwrap_or(&[]);
        let fits = matches!(installed, Some(0 | 1)) && length == Some(body.len() as u64);
        let manifest = if fits { Manifest::decode_body(body) } else { None };
        let manifest = manifest.map(|body| Manifest { installed: installed == Some(1), ..body });
        manifest.ok_or_else(|| damaged("its checksum matches and its fields do not"))
    }

    fn decode_body(body: &[u8]) -> Option<Manifest> {
        let mut reader = Reader::new(body);
        let mut manifest = Manifest {
            sequence: reader.u64()?,
            cluster_id: reader.u64()?,
            member_id: reader.u64()?,
            applied_index: reader.u64()?,
            applied_term: reader.u64()?,
            ..Manifest::default()
        };
        manifest.conf_state.voters = read_ids(&mut reader)?;
        manifest.conf_state.learners = read_ids(&mut reader)?;
        manifest.revision = reader.i64()?;
        manifest.compact_revision = reader.i64()?;
        manifest.next_run = reader.u64()?;
        let runs = reader.u32()?;
        manifest.runs = (0..runs).map(|_| read_run(&mut reader)).collect::<Option<_>>()?;
        for _ in 0..reader.u32()? {
            let length = reader.u32()? as usize;
            let name = String::from_utf8(reader.slice(length)?.to_vec()).ok()?;
            let length = usize::try_from(reader.u64()?).ok()?;
            let bytes = Bytes::copy_from_slice(reader.slice(length)?);
            manifest.sections.push((name, bytes));
        }
        reader.is_at_end().then_some(manifest)
    }

    /// Makes this the newest checkpoint: durable, with its name, when this returns. All runs that
    /// it names must be durable already.
    pub async fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
        let path = dir.join(file_name(self.sequence));
        let temporary = dir.join(format!("{}{TEMPORARY}", file_name(self.sequence)));
        let failed = |error| StorageError::io(&path, "writing", error);
        assert!(!disk.exists(&path).map_err(failed)?, "manifest {} exists already", self.sequence);
        let file = create_afresh(disk, &temporary)?;
        if let Err(error) = file.write_and_sync(0, self.encode()).await {
            // Best effort: on a full disk others wait for the room.
            disk.remove(&temporary).ok();
            return Err(failed(error));
        }
        disk.rename(&temporary, &path).map_err(failed)?;
        disk.sync_dir(dir).await.map_err(failed)
    }

    /// Reads one manifest.
    pub fn load(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<Manifest, StorageError> {
        let path = dir.join(file_name(sequence));
        let failed = |error| StorageError::io(&path, "reading", error);
        let file = disk.open_to_read(&path).map_err(failed)?;
        let length = usize::try_from(file.len().map_err(failed)?).expect("it fits memory");
        let mut bytes = vec![0; length];
        file.read_at(0, &mut bytes).map_err(failed)?;
        let manifest = Manifest::decode(&bytes, &path)?;
        if manifest.sequence != sequence {
            let what = format!("it is manifest {} under another name", manifest.sequence);
            return Err(StorageError::damaged(&path, 0, what));
        }
        Ok(manifest)
    }

    /// The sequence numbers of the manifests that are there, newest first.
    pub fn sequences(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, StorageError> {
        let names = disk.list(dir).map_err(|error| StorageError::io(dir, "listing", error))?;
        Ok(names.iter().rev().filter_map(|name| parse_name(name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::mem_disk::MemDisk;
    use futures::executor::block_on;

    fn example() -> Manifest {
        let run = |id: u64| RunMeta {
            id,
            first: RecordRevision { main: id as i64 * 10, sub: 0 },
            last: RecordRevision { main: id as i64 * 10 + 9, sub: 3 },
            records: 40,
            bytes: 4096,
            live_bytes: 4000,
            fingerprint: 77,
        };
        Manifest {
            sequence: 3,
            cluster_id: 0xc1,
            member_id: 0xa1,
            installed: true,
            applied_index: 500,
            applied_term: 4,
            conf_state: ConfState { voters: [1, 2, 3].into(), learners: [9].into() },
            revision: 80,
            compact_revision: 20,
            next_run: 6,
            runs: vec![run(1), run(5)],
            sections: vec![
                ("leases".to_string(), Bytes::from_static(b"some leases")),
                ("auth".to_string(), Bytes::new()),
            ],
        }
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let disk = MemDisk::new();
        let dir = Path::new("/runs");
        disk.create_dir_all(dir).expect("in memory");
        let manifest = example();
        block_on(manifest.store(&disk, dir)).expect("in memory");
        assert_eq!(Manifest::sequences(&disk, dir).expect("in memory"), vec![3]);
        let loaded = Manifest::load(&disk, dir, 3).expect("it was stored");
        assert_eq!(loaded, manifest);
        assert_eq!(loaded.section("auth"), Some(&Bytes::new()));
        assert_eq!(loaded.section("alarms"), None);
    }

    #[test]
    fn any_changed_or_missing_byte_is_refused() {
        let bytes = example().encode();
        let path = Path::new("x.manifest");
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << (at % 8);
            assert!(Manifest::decode(&changed, path).is_err(), "byte {at} changed");
            assert!(Manifest::decode(&bytes[..at], path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_later_version_is_refused_as_such() {
        let mut bytes = example().encode().to_vec();
        bytes[8] = 7;
        let rotten = Manifest::decode(&bytes, Path::new("x.manifest")).expect_err("its checksum");
        assert!(matches!(rotten, StorageError::Damaged { .. }), "{rotten}");
        let covered = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..covered]);
        bytes[covered..].copy_from_slice(&crc.to_le_bytes());
        let error = Manifest::decode(&bytes, Path::new("x.manifest")).expect_err("version 7");
        assert!(matches!(error, StorageError::Newer { found: 7, supported: 1, .. }), "{error}");
    }
}
