//! Reads the log that a restore of etcd's tools writes: enough to know whose it is, and that no
//! member has run on it.
//!
//! ```text
//! frame     u64: the length in the low 56 bits; with the top bit set, bits 56 to 58 count the
//!           bytes of padding | a record in protobuf: type, CRC, data | padding
//! ```
//!
//! Types: 1 metadata, 2 entry, 3 HardState, 4 checksum, 5 snapshot. A length of 0 ends the log.

use crate::env::disk::Disk;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::path::Path;

const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const HARD_STATE: i64 = 3;
const CHECKSUM: i64 = 4;
const CONF_CHANGE: i32 = 1;
const ADD_MEMBER: i32 = 0;
/// A log that was just made is far shorter.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Enough for the first record of a segment.
const HEAD_BYTES: u64 = 64;

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(uint32, tag = "2")]
    crc: u32,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(uint64, tag = "1")]
    node_id: u64,
    #[prost(uint64, tag = "2")]
    cluster_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

/// The change of an entry: which kind, and the member in JSON.
#[derive(Clone, PartialEq, Message)]
struct Change {
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(bytes = "vec", tag = "4")]
    member: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct HardState {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    vote: u64,
    #[prost(uint64, tag = "3")]
    commit: u64,
}

/// The log of a member of etcd's that has not run yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreshLog {
    pub member_id: u64,
    pub cluster_id: u64,
    /// Each is an entry, the first at index 1.
    pub founders: Vec<Founder>,
}

/// A member of a new cluster, as etcd writes it into its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Founder {
    pub id: u64,
    pub name: String,
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
}

/// Reads the only segment of a log. None if anything but the founders stands in it.
///
/// # Errors
/// When it can't be read.
pub fn read_fresh(disk: &dyn Disk, dir: &Path) -> std::io::Result<Option<FreshLog>> {
    let names = disk.list(dir)?;
    let mut segments = names.iter().filter(|name| name.ends_with(".wal"));
    let (Some(segment), None) = (segments.next(), segments.next()) else { return Ok(None) };
    let file = disk.open_to_read(&dir.join(segment))?;
    let length = file.len()?.min(READ_BYTES_MAX) as usize;
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes)?;
    Ok(parse(&bytes))
}

/// The segments of etcd's in a directory: each begins with a checksum.
///
/// # Errors
/// When it can't be read.
pub fn segments(disk: &dyn Disk, dir: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    if !disk.exists(dir)? {
        return Ok(found);
    }
    for name in disk.list(dir)?.into_iter().filter(|name| name.ends_with(".wal")) {
        let file = disk.open_to_read(&dir.join(&name))?;
        let mut bytes = vec![0; file.len()?.min(HEAD_BYTES) as usize];
        file.read_at(0, &mut bytes)?;
        if frame(&bytes).is_some_and(|(record, _)| record.kind == CHECKSUM) {
            found.push(name);
        }
    }
    Ok(found)
}

/// The record at the beginning of these bytes, and what is behind it.
fn frame(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    let head = u64::from_le_bytes(*head);
    let padding = if head >> 63 == 1 { (head >> 56 & 7) as usize } else { 0 };
    let length = usize::try_from(head & ((1 << 56) - 1)).ok()?;
    let record = Record::decode(rest.get(..length)?).ok()?;
    Some((record, rest.get(length + padding..)?))
}

fn parse(mut bytes: &[u8]) -> Option<FreshLog> {
    let mut log = FreshLog::default();
    let mut commit = None;
    while bytes.first_chunk().is_some_and(|head| u64::from_le_bytes(*head) != 0) {
        let (record, rest) = frame(bytes)?;
        bytes = rest;
        match record.kind {
            METADATA => {
                let metadata = Metadata::decode(&record.data[..]).ok()?;
                (log.member_id, log.cluster_id) = (metadata.node_id, metadata.cluster_id);
            }
            ENTRY => {
                let entry = Entry::decode(&record.data[..]).ok()?;
                if entry.kind != CONF_CHANGE || entry.term != 1 {
                    return None;
                }
                let change = Change::decode(&entry.data[..]).ok()?;
                if change.kind != ADD_MEMBER {
                    return None;
                }
                log.founders.push(serde_json::from_slice(&change.member).ok()?);
                if entry.index != log.founders.len() as u64 {
                    return None;
                }
            }
            HARD_STATE => {
                let state = HardState::decode(&record.data[..]).ok()?;
                // The tools write a vote themselves; a member that runs begins a later term.
                if state.term != 1 {
                    return None;
                }
                commit = Some(state.commit);
            }
            _ => {}
        }
    }
    let count = log.founders.len() as u64;
    (count > 0 && commit == Some(count)).then_some(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: i64, data: Vec<u8>) -> Vec<u8> {
        let record = Record { kind, crc: 0, data }.encode_to_vec();
        let padding = record.len().next_multiple_of(8) - record.len();
        let flag = if padding > 0 { 0x80 | padding as u64 } else { 0 };
        let mut bytes = (record.len() as u64 | flag << 56).to_le_bytes().to_vec();
        bytes.extend(record);
        bytes.extend(vec![0; padding]);
        bytes
    }

    fn founder(number: u64) -> Founder {
        let peer_urls = vec![format!("http://127.0.0.1:{number}")];
        Founder { id: number, name: format!("m{number}"), peer_urls }
    }

    fn log(entries: &[(i32, u64)], hard_state: (u64, u64, u64)) -> Vec<u8> {
        let mut bytes = frame(METADATA, Metadata { node_id: 7, cluster_id: 9 }.encode_to_vec());
        for (at, (kind, term)) in entries.iter().enumerate() {
            let member = serde_json::to_vec(&founder(at as u64)).expect("numbers and texts");
            let data = Change { kind: ADD_MEMBER, member }.encode_to_vec();
            let entry = Entry { kind: *kind, term: *term, index: at as u64 + 1, data };
            bytes.extend(frame(ENTRY, entry.encode_to_vec()));
        }
        let (term, vote, commit) = hard_state;
        bytes.extend(frame(HARD_STATE, HardState { term, vote, commit }.encode_to_vec()));
        bytes.extend([0; 64]);
        bytes
    }

    #[test]
    fn a_log_of_founders_is_fresh_and_any_other_is_not() {
        let fresh =
            FreshLog { member_id: 7, cluster_id: 9, founders: vec![founder(0), founder(1)] };
        assert_eq!(parse(&log(&[(1, 1), (1, 1)], (1, 7, 2))), Some(fresh));
        assert_eq!(parse(&log(&[(1, 1), (0, 1)], (1, 0, 2))), None, "a write");
        assert_eq!(parse(&log(&[(1, 1), (1, 2)], (1, 0, 2))), None, "a later term");
        assert_eq!(parse(&log(&[(1, 1), (1, 1)], (2, 7, 2))), None, "an election");
        assert_eq!(parse(&log(&[(1, 1), (1, 1)], (1, 7, 1))), None, "an entry beyond");
        assert_eq!(parse(&log(&[], (1, 0, 0))), None, "nobody");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _read = parse(&bytes);
        }
    }
}
