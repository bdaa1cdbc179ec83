//! Who the members of the cluster are: replicated state that changes only with a log entry.
//!
//! Identifiers are computed as etcd does (`server/etcdserver/api/membership/`), so that a cluster
//! keeps its ids when it moves from one to the other.

use crate::error::{Error, Result};
use crate::pb::detcd::raft::{ConfChange, ConfChangeKind, Member, MemberAttributes};
use prost::Message;
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};

/// The members, those that were removed, and the version that all of them speak.
///
/// Invariants:
/// - an id is never both a member and removed, and a removed id never comes back;
/// - no two members share a peer URL.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
    /// `major.minor.patch`, or empty until the leader has decided it.
    cluster_version: String,
    /// The version to which an operator lets the cluster go down; empty if to none.
    downgrade_target: String,
}

/// The form of `Members` in a checkpoint.
#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(message, repeated, tag = "1")]
    members: Vec<Member>,
    #[prost(uint64, repeated, tag = "2")]
    removed: Vec<u64>,
    #[prost(string, tag = "3")]
    cluster_version: String,
    #[prost(string, tag = "4")]
    downgrade_target: String,
}

/// The id of a member: from its URLs and the cluster's token, and, when it joins a running
/// cluster, from the second it is added in, so that it may leave and join again.
pub fn member_id(peer_urls: &[String], token: &str, added_at_seconds: Option<u64>) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    if let Some(seconds) = added_at_seconds {
        hash.update(seconds.to_string());
    }
    first_eight(hash)
}

/// The id of a cluster: from the ids of the members that it began with.
pub fn cluster_id(member_ids: impl IntoIterator<Item = u64>) -> u64 {
    let sorted: BTreeSet<u64> = member_ids.into_iter().collect();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.to_be_bytes());
    }
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a SHA-1 has twenty bytes"))
}

impl Members {
    /// The members that a cluster begins with, each a name and its peer URLs.
    pub fn bootstrap(initial_cluster: &[(String, Vec<String>)], token: &str) -> Members {
        let mut members = Members::default();
        for (name, peer_urls) in initial_cluster {
            let mut peer_urls = peer_urls.clone();
            peer_urls.sort_unstable();
            let id = member_id(&peer_urls, token, None);
            let member = Member { id, name: name.clone(), peer_urls, ..Default::default() };
            let other = members.members.insert(id, member);
            assert!(other.is_none(), "{name} and {other:?} have one id: same peer URLs");
        }
        members
    }

    /// These members, as another's log has them.
    pub fn of(founders: impl IntoIterator<Item = Member>) -> Members {
        let members = founders.into_iter().map(|member| (member.id, member)).collect();
        Members { members, ..Members::default() }
    }

    /// All members, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn get(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.iter().find(|member| member.name == name)
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The ids that can never come back.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    /// The ids of those who vote, sorted.
    pub fn voters(&self) -> Vec<u64> {
        self.iter().filter(|member| !member.is_learner).map(|member| member.id).collect()
    }

    /// The ids of those who only follow, sorted.
    pub fn learners(&self) -> Vec<u64> {
        self.iter().filter(|member| member.is_learner).map(|member| member.id).collect()
    }

    /// The version that all members speak; empty until it is decided.
    pub fn cluster_version(&self) -> &str {
        &self.cluster_version
    }

    pub fn set_cluster_version(&mut self, version: &str) {
        self.cluster_version = version.to_string();
    }

    /// The version to which the cluster is being taken down.
    pub fn downgrade_target(&self) -> Option<&str> {
        Some(self.downgrade_target.as_str()).filter(|target| !target.is_empty())
    }

    /// Begins to take the cluster down to a version, or gives it up with an empty one.
    pub fn set_downgrade_target(&mut self, target: &str) {
        self.downgrade_target = target.to_string();
    }

    /// Whether a change may still be made. Every member asks this of the same state at the same
    /// log index, so all of them make the change or none.
    pub fn validate(&self, change: &ConfChange, max_learners: usize) -> Result<()> {
        let member = subject(change);
        let known = self.members.get(&member.id);
        if self.removed.contains(&member.id) {
            return Err(Error::MemberNotFound);
        }
        match kind(change) {
            ConfChangeKind::AddVoter | ConfChangeKind::AddLearner if known.is_some() => {
                Err(Error::MemberExists)
            }
            ConfChangeKind::AddVoter => self.check_peer_urls(member),
            ConfChangeKind::AddLearner => {
                self.check_peer_urls(member)?;
                let room = self.learners().len() < max_learners;
                if room { Ok(()) } else { Err(Error::TooManyLearners) }
            }
            ConfChangeKind::Promote => match known {
                None => Err(Error::MemberNotFound),
                Some(known) if !known.is_learner => Err(Error::MemberNotLearner),
                Some(_) => Ok(()),
            },
            ConfChangeKind::Remove if known.is_none() => Err(Error::MemberNotFound),
            // Nobody would be left to decide anything.
            ConfChangeKind::Remove if self.voters() == [member.id] => {
                Err(Error::NotEnoughStartedMembers)
            }
            ConfChangeKind::Remove => Ok(()),
            ConfChangeKind::Update if known.is_none() => Err(Error::MemberNotFound),
            ConfChangeKind::Update => self.check_peer_urls(member),
        }
    }

    fn check_peer_urls(&self, member: &Member) -> Result<()> {
        let others = self.iter().filter(|other| other.id != member.id);
        let mut taken = others.flat_map(|other| &other.peer_urls);
        if taken.any(|url| member.peer_urls.contains(url)) {
            return Err(Error::PeerUrlExists);
        }
        Ok(())
    }

    /// Makes a change that `validate` has passed on the same state.
    pub fn apply(&mut self, change: &ConfChange) {
        let member = subject(change);
        match kind(change) {
            added @ (ConfChangeKind::AddVoter | ConfChangeKind::AddLearner) => {
                let is_learner = added == ConfChangeKind::AddLearner;
                let other = self.members.insert(member.id, Member { is_learner, ..member.clone() });
                assert!(other.is_none(), "added {:x} twice: {other:?}", member.id);
            }
            ConfChangeKind::Promote => self.known(member.id).is_learner = false,
            ConfChangeKind::Remove => {
                let removed = self.members.remove(&member.id);
                assert!(removed.is_some(), "removed {:x}, which is no member", member.id);
                self.removed.insert(member.id);
            }
            // Whether it votes, and what it says of itself, stay as they are.
            ConfChangeKind::Update => {
                self.known(member.id).peer_urls = member.peer_urls.clone();
            }
        }
    }

    /// Takes over what a member says of itself. One that was removed meanwhile is ignored.
    pub fn set_attributes(&mut self, attributes: &MemberAttributes) {
        if let Some(member) = self.members.get_mut(&attributes.id) {
            member.name = attributes.name.clone();
            member.client_urls = attributes.client_urls.clone();
        }
    }

    fn known(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap_or_else(|| panic!("{id:x} is no member; not validated"))
    }

    /// Whether a quorum of the voters would be started with one voter more that is not. A second
    /// member is let in beside a single one: there is no other way to grow.
    pub fn may_add_voter(&self) -> bool {
        let (started, voters) = self.count_voters(None);
        (started == 1 && voters == 1) || has_quorum(started, voters + 1)
    }

    /// Whether a quorum of the voters would be started without this one.
    pub fn may_remove(&self, id: u64) -> bool {
        let (started, voters) = self.count_voters(Some(id));
        has_quorum(started, voters)
    }

    /// Whether a quorum of the voters would be started with this learner as a voter.
    pub fn may_promote(&self) -> bool {
        let (started, voters) = self.count_voters(None);
        has_quorum(started + 1, voters + 1)
    }

    /// A member is started once it has published its name.
    fn count_voters(&self, except: Option<u64>) -> (usize, usize) {
        let voters = || self.iter().filter(|m| !m.is_learner && Some(m.id) != except);
        (voters().filter(|member| !member.name.is_empty()).count(), voters().count())
    }

    /// For a checkpoint; `decode` is the inverse.
    pub fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            members: self.members.values().cloned().collect(),
            removed: self.removed.iter().copied().collect(),
            cluster_version: self.cluster_version.clone(),
            downgrade_target: self.downgrade_target.clone(),
        };
        stored.encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> std::result::Result<Members, prost::DecodeError> {
        let stored = Stored::decode(bytes)?;
        Ok(Members {
            members: stored.members.into_iter().map(|member| (member.id, member)).collect(),
            removed: stored.removed.into_iter().collect(),
            cluster_version: stored.cluster_version,
            downgrade_target: stored.downgrade_target,
        })
    }
}

fn has_quorum(started: usize, voters: usize) -> bool {
    started > voters / 2
}

fn subject(change: &ConfChange) -> &Member {
    change.member.as_ref().expect("a proposed change names its member")
}

fn kind(change: &ConfChange) -> ConfChangeKind {
    ConfChangeKind::try_from(change.kind).expect("a proposed change is of a known kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|url| url.to_string()).collect()
    }

    fn three() -> Members {
        let named = |n: u64| (format!("m{n}"), urls(&[&format!("http://10.0.0.{n}:2380")]));
        Members::bootstrap(&[named(1), named(2), named(3)], "etcd-cluster")
    }

    fn change(kind: ConfChangeKind, id: u64, peer_urls: &[&str]) -> ConfChange {
        let member = Member { id, peer_urls: urls(peer_urls), ..Default::default() };
        ConfChange { id: 1, kind: kind as i32, member: Some(member) }
    }

    #[test]
    fn ids_are_those_of_etcd() {
        let id = member_id(&urls(&["http://localhost:2380"]), "etcd-cluster", None);
        assert_eq!(id, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id([id]), 0xcdf8_1819_4e3a_8c32);
        let two = urls(&["http://b:1", "http://a:1"]);
        let swapped = urls(&["http://a:1", "http://b:1"]);
        assert_eq!(member_id(&two, "t", None), member_id(&swapped, "t", None));
        assert_ne!(member_id(&two, "t", None), member_id(&two, "t", Some(1)));
        assert_eq!(cluster_id([1, 2]), cluster_id([2, 1]));
    }

    #[test]
    fn an_addition_needs_an_id_and_urls_of_its_own() {
        let members = three();
        let taken = members.voters()[0];
        let validate = |kind, id, url: &str| members.validate(&change(kind, id, &[url]), 1);
        let add = ConfChangeKind::AddVoter;
        assert_eq!(validate(add, 9, "http://10.0.0.9:2380"), Ok(()));
        assert_eq!(validate(add, taken, "http://10.0.0.9:2380"), Err(Error::MemberExists));
        assert_eq!(validate(add, 9, "http://10.0.0.2:2380"), Err(Error::PeerUrlExists));
        let learner = ConfChangeKind::AddLearner;
        assert_eq!(validate(learner, 9, "http://10.0.0.2:2380"), Err(Error::PeerUrlExists));
        let none = members.validate(&change(learner, 9, &["http://x:1"]), 0);
        assert_eq!(none, Err(Error::TooManyLearners));
    }

    #[test]
    fn a_learner_is_promoted_once_and_a_voter_never() {
        let mut members = three();
        let voter = members.voters()[0];
        let add = change(ConfChangeKind::AddLearner, 9, &["http://x:1"]);
        assert_eq!(members.validate(&add, 1), Ok(()));
        members.apply(&add);
        assert_eq!(members.learners(), [9]);
        let more = change(ConfChangeKind::AddLearner, 10, &["http://y:1"]);
        assert_eq!(members.validate(&more, 1), Err(Error::TooManyLearners));
        let promote = |id| change(ConfChangeKind::Promote, id, &[]);
        assert_eq!(members.validate(&promote(11), 1), Err(Error::MemberNotFound));
        assert_eq!(members.validate(&promote(voter), 1), Err(Error::MemberNotLearner));
        assert_eq!(members.validate(&promote(9), 1), Ok(()));
        members.apply(&promote(9));
        assert!(members.voters().contains(&9));
        assert_eq!(members.validate(&promote(9), 1), Err(Error::MemberNotLearner));
    }

    #[test]
    fn a_removed_member_never_comes_back() {
        let mut members = three();
        let id = members.voters()[1];
        let remove = change(ConfChangeKind::Remove, id, &[]);
        assert_eq!(members.validate(&remove, 1), Ok(()));
        members.apply(&remove);
        assert!(members.is_removed(id));
        assert_eq!(members.validate(&remove, 1), Err(Error::MemberNotFound));
        let back = change(ConfChangeKind::AddVoter, id, &["http://x:1"]);
        assert_eq!(members.validate(&back, 1), Err(Error::MemberNotFound));
        let unknown = change(ConfChangeKind::Remove, 9, &[]);
        assert_eq!(members.validate(&unknown, 1), Err(Error::MemberNotFound));
    }

    #[test]
    fn an_update_changes_urls_and_nothing_else() {
        let mut members = three();
        let id = members.by_name("m1").expect("it is there").id;
        let own = change(ConfChangeKind::Update, id, &["http://10.0.0.1:2380", "http://z:1"]);
        assert_eq!(members.validate(&own, 1), Ok(()));
        members.apply(&own);
        let member = members.get(id).expect("it is there");
        assert_eq!((member.name.as_str(), member.peer_urls.len()), ("m1", 2));
        assert!(!member.is_learner);
        let taken = change(ConfChangeKind::Update, id, &["http://10.0.0.2:2380"]);
        assert_eq!(members.validate(&taken, 1), Err(Error::PeerUrlExists));
        let unknown = change(ConfChangeKind::Update, 9, &["http://q:1"]);
        assert_eq!(members.validate(&unknown, 1), Err(Error::MemberNotFound));
    }

    #[test]
    fn strict_changes_keep_a_quorum_of_started_voters() {
        let one = Members::bootstrap(&[("a".into(), urls(&["http://a:1"]))], "t");
        assert!(one.may_add_voter());
        let mut members = three();
        assert!(members.may_add_voter() && members.may_promote());
        members.apply(&change(ConfChangeKind::AddVoter, 9, &["http://x:1"]));
        // Three of four are started: of five that is a quorum still; two of three is one too.
        assert!(members.may_add_voter());
        members.apply(&change(ConfChangeKind::AddVoter, 10, &["http://y:1"]));
        assert!(!members.may_add_voter());
        let started = members.by_name("m1").expect("it is there").id;
        assert!(!members.may_remove(started));
        assert!(members.may_remove(10));
        members.set_attributes(&MemberAttributes {
            id: 10,
            name: "m5".into(),
            ..Default::default()
        });
        assert!(members.may_remove(started));
    }

    #[test]
    fn a_checkpoint_holds_all_of_it() {
        let mut members = three();
        let id = members.voters()[2];
        members.apply(&change(ConfChangeKind::Remove, id, &[]));
        members.apply(&change(ConfChangeKind::AddLearner, 9, &["http://x:1"]));
        members.set_cluster_version("3.6.0");
        members.set_attributes(&MemberAttributes {
            id: 9,
            name: "nine".into(),
            client_urls: urls(&["http://x:2"]),
        });
        assert_eq!(Members::decode(&members.encode()), Ok(members));
        assert_eq!(Members::decode(&[]), Ok(Members::default()));
        assert!(Members::decode(&[0xff]).is_err());
    }
}
