//! The state machine as etcd's database holds it, for backups and for coming from etcd.
//!
//! The layout is that of etcd 3.5, which later releases take over and migrate: ten buckets, of
//! which `key` holds a record for every revision and the others are small. The facts are those of
//! etcd's `server/storage/schema`.

use super::machine::StateMachine;
use crate::alarm::Alarms;
use crate::auth::kept::{KeptAuth, KeptItem};
use crate::lease::{Grant, Lessor};
use crate::membership::Members;
use crate::mvcc::record::{Record, RecordRef, Value};
use crate::mvcc::revision::{Revision, stored_key};
use crate::pb::etcdserverpb::{AlarmMember, AlarmType};
use crate::pb::leasepb::Lease;
use crate::pb::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;
use prost::encoding::WireType;
use serde::Serialize;
use std::time::Duration;

/// The bucket of the records.
pub const KEY: &str = "key";
const META: &str = "meta";
/// Who reads a backup decides anew which version the cluster speaks, but not below this.
const CLUSTER_VERSION: &str = "3.5.0";
/// What of `meta` differs between members with equal data; etcd's own hash leaves it out too.
const NOT_HASHED: [&[u8]; 4] = [b"consistent_index", b"term", b"confState", b"storageVersion"];

/// One of the small buckets; its items ascend.
pub struct SmallBucket {
    pub name: &'static str,
    pub items: Vec<(Bytes, Bytes)>,
}

impl SmallBucket {
    /// Whether an item counts in the hash over the whole database.
    pub fn is_hashed(&self, key: &[u8]) -> bool {
        self.name != META || !NOT_HASHED.contains(&key)
    }
}

/// A member as the database keeps it, in JSON.
#[derive(Serialize)]
struct MemberJson<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
}

/// The configuration of Raft as the database keeps it, in JSON.
#[derive(Serialize)]
struct ConfStateJson {
    voters: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    auto_leave: bool,
}

/// All buckets but `key`, in the order of their names.
pub fn small_buckets(state: &StateMachine) -> Vec<SmallBucket> {
    let kept = |items: &[KeptItem]| {
        items.iter().map(|item| (item.key.clone(), item.value.clone())).collect::<Vec<_>>()
    };
    let alarms = state.alarms.list(AlarmType::None).into_iter();
    let alarms = alarms.map(|alarm| (Bytes::from(alarm.encode_to_vec()), Bytes::new()));
    let version = (text("clusterVersion"), text(CLUSTER_VERSION));
    let mut auth = kept(&state.auth.auth);
    if auth.is_empty() {
        auth.push((text("authRevision"), Bytes::copy_from_slice(&1u64.to_be_bytes())));
    }
    let mut buckets = vec![
        SmallBucket { name: "alarm", items: alarms.collect() },
        SmallBucket { name: "auth", items: auth },
        SmallBucket { name: "authRoles", items: kept(&state.auth.roles) },
        SmallBucket { name: "authUsers", items: kept(&state.auth.users) },
        SmallBucket { name: "cluster", items: vec![version] },
        SmallBucket { name: "lease", items: leases(&state.lessor) },
        SmallBucket { name: "members", items: members(&state.members) },
        SmallBucket { name: "members_removed", items: removed(&state.members) },
        SmallBucket { name: META, items: meta(state) },
    ];
    for bucket in &mut buckets {
        bucket.items.sort();
    }
    buckets
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn leases(lessor: &Lessor) -> Vec<(Bytes, Bytes)> {
    let item = |(id, ttl, remaining_ttl): (i64, i64, i64)| {
        let lease = Lease { id, ttl, remaining_ttl };
        (Bytes::copy_from_slice(&id.to_be_bytes()), Bytes::from(lease.encode_to_vec()))
    };
    lessor.grants().map(item).collect()
}

fn members(members: &Members) -> Vec<(Bytes, Bytes)> {
    let mut items = Vec::new();
    for member in members.iter() {
        let json = MemberJson {
            id: member.id,
            peer_urls: &member.peer_urls,
            is_learner: member.is_learner,
            name: &member.name,
            client_urls: &member.client_urls,
        };
        items.push((Bytes::from(format!("{:x}", member.id)), to_json(&json)));
    }
    items
}

fn removed(members: &Members) -> Vec<(Bytes, Bytes)> {
    members.removed().map(|id| (Bytes::from(format!("{id:x}")), text("removed"))).collect()
}

fn meta(state: &StateMachine) -> Vec<(Bytes, Bytes)> {
    let number = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    let conf_state = ConfStateJson {
        voters: state.members.voters(),
        learners: state.members.learners(),
        auto_leave: false,
    };
    let applied = state.applied();
    let mut items = vec![
        (text("consistent_index"), number(applied.index)),
        (text("term"), number(applied.term)),
        (text("confState"), to_json(&conf_state)),
    ];
    let compacted = state.store.compact_revision();
    if compacted >= 0 {
        let (key, len) = stored_key(compacted, 0, false);
        for name in ["scheduledCompactRev", "finishedCompactRev"] {
            items.push((text(name), Bytes::copy_from_slice(&key[..len])));
        }
    }
    items
}

fn to_json(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("numbers and texts become JSON"))
}

/// The key of a record in the bucket `key`, and how much of it counts.
pub fn record_key(revision: Revision, tombstone: bool) -> ([u8; 18], usize) {
    let sub = u64::try_from(revision.sub).expect("changes are counted from 0");
    stored_key(revision.main, sub, tombstone)
}

/// What stands before the value of a record in the bucket `key`: a `KeyValue` up to there.
pub fn put_record_head(record: &RecordRef, out: &mut Vec<u8>) {
    // As `encoding::bytes::encode` does, without a clone.
    prost::encoding::encode_key(1, WireType::LengthDelimited, out);
    prost::encoding::encode_varint(record.key.len() as u64, out);
    out.extend_from_slice(record.key);
    for (tag, number) in
        [(2, record.create_revision), (3, mod_revision(record)), (4, record.version)]
    {
        if number != 0 {
            prost::encoding::int64::encode(tag, &number, out);
        }
    }
    if !record.value.is_empty() {
        prost::encoding::encode_key(5, WireType::LengthDelimited, out);
        prost::encoding::encode_varint(record.value.len() as u64, out);
    }
}

/// What stands behind its value.
pub fn put_record_tail(lease: i64, out: &mut Vec<u8>) {
    if lease != 0 {
        prost::encoding::int64::encode(6, &lease, out);
    }
}

/// The length of all three.
pub fn record_value_len(record: &RecordRef) -> usize {
    let number = |tag, number: i64| match number {
        0 => 0,
        number => prost::encoding::int64::encoded_len(tag, &number),
    };
    let length = record.value.len();
    let value = if length == 0 { 0 } else { 1 + prost::length_delimiter_len(length) + length };
    prost::encoding::bytes::encoded_len(1, record.key)
        + number(2, record.create_revision)
        + number(3, mod_revision(record))
        + number(4, record.version)
        + value
        + number(6, record.lease)
}

fn mod_revision(record: &RecordRef) -> i64 {
    if record.tombstone { 0 } else { record.revision.main }
}

/// Reads an item of the bucket `key`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_record(key: &[u8], value: &Bytes) -> Result<Record, String> {
    let is_tombstone = key.len() == 18 && key[17] == b't';
    if !(key.len() == 17 || is_tombstone) || key[8] != b'_' {
        return Err(format!("the key {key:x?} is no revision"));
    }
    let number = |at: usize| i64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"));
    let revision = Revision::new(number(0), number(9));
    let Revision { main, sub } = revision;
    if main < 1 || u32::try_from(sub).is_err() {
        return Err(format!("there is no revision {main}.{sub}"));
    }
    let broken = |what: String| format!("revision {main}.{sub}: {what}");
    let kv = KeyValue::decode(value.clone()).map_err(|error| broken(error.to_string()))?;
    let tombstone = |key| Record {
        revision,
        tombstone: true,
        key,
        create_revision: 0,
        version: 0,
        lease: 0,
        value: Value::Resident(Bytes::new()),
    };
    if value.is_empty() {
        // What `--bump-revision` of a restore writes.
        return Ok(Record { tombstone: false, ..tombstone(Bytes::new()) });
    }
    if kv.key.is_empty() {
        return Err(broken("its key is empty".to_string()));
    }
    if is_tombstone {
        return Ok(tombstone(kv.key));
    }
    if kv.mod_revision != main || kv.version < 1 || !(1..=main).contains(&kv.create_revision) {
        let KeyValue { create_revision, mod_revision, version, .. } = kv;
        let numbers = format!("create {create_revision}, mod {mod_revision}, version {version}");
        return Err(broken(format!("its own numbers are {numbers}")));
    }
    Ok(Record {
        revision,
        tombstone: false,
        key: kv.key,
        create_revision: kv.create_revision,
        version: kv.version,
        lease: kv.lease,
        value: Value::Resident(kv.value),
    })
}

/// What the small buckets of a database say, without membership and positions in a log.
#[derive(Default)]
pub struct Decoded {
    /// -1 for none. Of a database whose compaction had not ended: the scheduled one.
    pub compact_revision: i64,
    pub alarms: Alarms,
    pub auth: KeptAuth,
    /// Id, granted TTL and remainder.
    pub leases: Vec<Lease>,
    /// How far the database is in its log.
    pub consistent_index: u64,
}

impl Decoded {
    pub fn new() -> Decoded {
        Decoded { compact_revision: -1, ..Decoded::default() }
    }

    /// Takes an item of any bucket but `key`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, bucket: &[u8], key: Bytes, value: Bytes) -> Result<(), String> {
        match bucket {
            b"lease" => self.leases.push(decode_lease(&key, value)?),
            b"alarm" => {
                let alarm = AlarmMember::decode(key).map_err(|error| format!("alarm: {error}"))?;
                let kind = AlarmType::try_from(alarm.alarm);
                let kind = kind.map_err(|_| format!("there is no alarm {}", alarm.alarm))?;
                self.alarms.activate(alarm.member_id, kind);
            }
            b"auth" => self.auth.auth.push(KeptItem { key, value }),
            b"authUsers" => self.auth.users.push(KeptItem { key, value }),
            b"authRoles" => self.auth.roles.push(KeptItem { key, value }),
            b"meta" if key == "consistent_index" => self.consistent_index = number(&value)?,
            b"meta" if key == "scheduledCompactRev" || key == "finishedCompactRev" => {
                let main = value.get(..8).map(|main| number(main).expect("eight bytes"));
                let main = main.ok_or_else(|| format!("meta: {key:?} is cut off"))?;
                let main = i64::try_from(main).map_err(|_| format!("no revision {main}"))?;
                self.compact_revision = self.compact_revision.max(main);
            }
            // Who the members were and which version they spoke ends with the old cluster.
            _ => {}
        }
        Ok(())
    }

    /// The leases, with nothing attached.
    ///
    /// # Errors
    /// When one can't be held.
    pub fn lessor(&self) -> Result<Lessor, String> {
        let mut lessor = Lessor::new(1);
        for lease in &self.leases {
            // No log tells where: these are of a time before it.
            let grant = Grant { id: lease.id, index: 0 };
            let granted = lessor.grant(grant, lease.ttl, Duration::ZERO);
            granted.map_err(|error| format!("lease {:x} can't be held: {error}", lease.id))?;
            lessor.checkpoint(grant, lease.remaining_ttl);
        }
        Ok(lessor)
    }
}

fn decode_lease(key: &[u8], value: Bytes) -> Result<Lease, String> {
    let lease = Lease::decode(value).map_err(|error| format!("lease {key:x?}: {error}"))?;
    if key != lease.id.to_be_bytes() {
        return Err(format!("lease {:x} stands under {key:x?}", lease.id));
    }
    Ok(lease)
}

fn number(value: &[u8]) -> Result<u64, String> {
    let bytes = value.try_into().map_err(|_| format!("{value:x?} is no number"))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_comes_back_with_the_length_that_was_planned(
            main in 1..i64::MAX, sub: u32, tombstone: bool,
            key in prop::collection::vec(any::<u8>(), 1..9),
            numbers in (1..i64::MAX, 1..i64::MAX, any::<i64>()),
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let or_zero = |number: i64| if tombstone { 0 } else { number };
            let value = Bytes::from(if tombstone { Vec::new() } else { value });
            let record = Record {
                revision: Revision::new(main, i64::from(sub)),
                tombstone,
                key: Bytes::from(key),
                create_revision: or_zero(numbers.0.min(main)),
                version: or_zero(numbers.1),
                lease: or_zero(numbers.2),
                value: Value::Resident(value.clone()),
            };
            let shown = RecordRef {
                revision: record.revision,
                tombstone,
                key: &record.key,
                create_revision: record.create_revision,
                version: record.version,
                lease: record.lease,
                value: &record.value,
            };
            let mut stored = Vec::new();
            put_record_head(&shown, &mut stored);
            stored.extend_from_slice(&value);
            put_record_tail(record.lease, &mut stored);
            prop_assert_eq!(stored.len(), record_value_len(&shown));
            let (key, len) = record_key(record.revision, tombstone);
            prop_assert_eq!(decode_record(&key[..len], &stored.into()), Ok(record));
        }

        #[test]
        fn no_item_makes_the_decoder_panic(
            bucket in prop::sample::select(&["lease", "alarm", "auth", "meta", "members"][..]),
            key: Vec<u8>, value: Vec<u8>,
        ) {
            drop(decode_record(&key, &Bytes::from(value.clone())));
            drop(Decoded::new().take(bucket.as_bytes(), key.into(), value.into()));
        }
    }

    #[test]
    fn a_broken_record_is_called_by_its_revision() {
        let kv = |mod_revision, version| KeyValue {
            key: Bytes::from_static(b"k"),
            create_revision: 2,
            mod_revision,
            version,
            ..KeyValue::default()
        };
        let (key, len) = stored_key(5, 0, false);
        let decode = |kv: KeyValue| decode_record(&key[..len], &Bytes::from(kv.encode_to_vec()));
        assert!(decode(kv(5, 1)).is_ok());
        for wrong in [kv(6, 1), kv(5, 0), KeyValue { create_revision: 6, ..kv(5, 1) }] {
            let error = decode(wrong).expect_err("numbers that contradict each other");
            assert!(error.starts_with("revision 5.0"), "{error}");
        }
    }
}
