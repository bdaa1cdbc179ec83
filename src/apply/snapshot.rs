//! The state machine as a checkpoint holds it: the records of the store apart, everything else as
//! named sections.

use super::machine::{Position, StateMachine};
use crate::alarm::Alarms;
use crate::auth::kept::KeptAuth;
use crate::lease::Lessor;
use crate::membership::Members;
use crate::mvcc::store::{STATE_HASH_VERSION, Store};
use crate::pb::etcdserverpb::AlarmResponse;
use crate::raft::message::ConfState;
use bytes::Bytes;
use prost::Message;
use std::fmt;

const LEASES: &str = "leases";
const MEMBERS: &str = "members";
const ALARMS: &str = "alarms";
/// Only where there is any.
const AUTH: &str = "auth";
/// The state hash, so that what is loaded can be held against what was written down: the version
/// of the hash in four bytes and the hash in eight, little-endian.
const HASH: &str = "state-hash";

/// Everything of a state machine but the records of its store, captured between two entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The entry that the image includes, and no later one.
    pub applied: Position,
    /// The configuration at that entry.
    pub conf_state: ConfState,
    /// The records up to this revision belong to the image.
    pub revision: i64,
    pub compact_revision: i64,
    /// Leases, members, alarms and users by name, each in the encoding of its owner.
    pub sections: Vec<(String, Bytes)>,
}

/// A section that is missing or that its owner did not write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSection {
    pub name: String,
    pub what: String,
}

impl fmt::Display for BadSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "section {:?} of the checkpoint: {}", self.name, self.what)
    }
}

impl std::error::Error for BadSection {}

impl StateMachine {
    /// Captures all but the records. Its cost follows the number of leases and members.
    pub fn image(&self) -> Image {
        let alarms = AlarmResponse { header: None, alarms: self.alarms.to_checkpoint() };
        let mut sections = encode_sections(&self.lessor, &self.members, &alarms, &self.auth);
        let hash = [&STATE_HASH_VERSION.to_le_bytes()[..], &self.state_hash().to_le_bytes()];
        sections.push((HASH.to_string(), Bytes::from(hash.concat())));
        Image {
            applied: self.applied(),
            conf_state: ConfState {
                voters: self.members.voters().into_iter().collect(),
                learners: self.members.learners().into_iter().collect(),
            },
            revision: self.store.revision(),
            compact_revision: self.store.compact_revision(),
            sections,
        }
    }

    /// The state machine that `image` and the records in `store` describe.
    ///
    /// # Errors
    /// When a section is missing, or is not what its owner writes.
    pub fn from_image(
        store: Store,
        applied: Position,
        sections: &[(String, Bytes)],
        min_ttl_secs: i64,
    ) -> Result<StateMachine, BadSection> {
        let lessor = Lessor::restore(min_ttl_secs, section(sections, LEASES)?)
            .map_err(|error| bad(LEASES, error))?;
        let members =
            Members::decode(section(sections, MEMBERS)?).map_err(|error| bad(MEMBERS, error))?;
        let alarms = AlarmResponse::decode(section(sections, ALARMS)?.clone())
            .map_err(|error| bad(ALARMS, error))?;
        let alarms = Alarms::restore(&alarms.alarms);
        let mut machine = StateMachine::at(applied, store, lessor, members, alarms);
        if let Ok(auth) = section(sections, AUTH) {
            machine.auth = KeptAuth::decode(auth.clone()).map_err(|error| bad(AUTH, error))?;
            machine.hash_cluster();
        }
        Ok(machine)
    }
}

/// The sections of a state that was not reached by applying entries, as after a restore from a
/// backup.
pub fn encode_sections(
    lessor: &Lessor,
    members: &Members,
    alarms: &AlarmResponse,
    auth: &KeptAuth,
) -> Vec<(String, Bytes)> {
    let mut sections = vec![
        (LEASES.to_string(), Bytes::from(lessor.encode())),
        (MEMBERS.to_string(), Bytes::from(members.encode())),
        (ALARMS.to_string(), Bytes::from(alarms.encode_to_vec())),
    ];
    if !auth.is_empty() {
        sections.push((AUTH.to_string(), Bytes::from(auth.encode_to_vec())));
    }
    sections
}

/// The hash of the state that these sections were captured of; none if it was not written down, or
/// is of another version than the one that is computed here.
pub fn recorded_hash(sections: &[(String, Bytes)]) -> Option<u64> {
    let (version, hash) = section(sections, HASH).ok()?.split_first_chunk::<4>()?;
    let hash = hash.first_chunk::<8>()?;
    (u32::from_le_bytes(*version) == STATE_HASH_VERSION).then(|| u64::from_le_bytes(*hash))
}

/// The members in these sections; none if they can't be read.
pub fn recorded_members(sections: &[(String, Bytes)]) -> Option<Members> {
    Members::decode(section(sections, MEMBERS).ok()?).ok()
}

fn section<'a>(sections: &'a [(String, Bytes)], name: &str) -> Result<&'a Bytes, BadSection> {
    let found = sections.iter().find(|(known, _)| known == name);
    found.map(|(_, bytes)| bytes).ok_or_else(|| bad(name, "it is missing"))
}

fn bad(name: &str, what: impl fmt::Display) -> BadSection {
    BadSection { name: name.to_string(), what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Grant;
    use crate::mvcc::restore::{Restore, Restored};
    use crate::mvcc::revision::Revision;
    use crate::pb::etcdserverpb::{AlarmType, PutRequest};
    use std::time::Duration;

    fn machine() -> StateMachine {
        let founders = [("a".to_string(), vec!["http://a:1".to_string()])];
        let mut lessor = Lessor::new(1);
        let grant = Grant { id: 7, index: 3 };
        lessor.grant(grant, 60, Duration::ZERO).expect("a fresh id");
        lessor.checkpoint(grant, 20);
        let mut alarms = Alarms::default();
        alarms.activate(3, AlarmType::Nospace);
        let mut machine =
            StateMachine::new(Store::new(), lessor, Members::bootstrap(&founders, "t"), alarms);
        for n in 0..5 {
            let request = PutRequest {
                key: Bytes::from(format!("k{}", n % 3)),
                value: Bytes::from_static(b"v"),
                lease: 7 * (n % 2),
                ..Default::default()
            };
            let put = machine.store.put(&request, &|_| true).expect("a valid put");
            for change in put.changes {
                machine.lessor.detach(&change.kv.key, change.prev.map_or(0, |kv| kv.lease));
                machine.lessor.attach(&change.kv.key, change.kv.lease);
            }
        }
        machine.store.compact(4).expect("a revision that is there");
        machine
    }

    #[test]
    fn what_is_captured_comes_back_with_the_same_hash() {
        let machine = machine();
        let image = machine.image();
        let mut restore = Restore::new(None);
        for record in machine.store.records(Revision::new(0, 0)) {
            restore.push(record, None);
        }
        let store = restore.finish(Restored {
            revision: image.revision,
            compact_revision: image.compact_revision,
        });
        let back = StateMachine::from_image(store, image.applied, &image.sections, 1)
            .expect("it was just captured");
        assert_eq!(back.state_hash(), machine.state_hash());
        assert_eq!(recorded_hash(&image.sections), Some(machine.state_hash()));
        assert_eq!(recorded_hash(&image.sections[..3]), None);
        assert_eq!(back.image(), image);
    }

    #[test]
    fn a_missing_or_foreign_section_is_named() {
        let image = machine().image();
        for (at, name) in [(0, LEASES), (1, MEMBERS), (2, ALARMS)] {
            let from = |sections: &[(String, Bytes)]| {
                let applied = Position::default();
                StateMachine::from_image(Store::new(), applied, sections, 1).err()
            };
            let mut without = image.sections.clone();
            without.remove(at);
            assert_eq!(from(&without), Some(bad(name, "it is missing")));
            let mut foreign = image.sections.clone();
            foreign[at].1 = Bytes::from_static(&[0xff; 3]);
            assert_eq!(from(&foreign).map(|error| error.name), Some(name.to_string()));
        }
    }
}
