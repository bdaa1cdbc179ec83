//! A sequential model of the key-value service: what one member without faults would answer.
//!
//! It is written for reading, from the API's documentation and not from the server's code, and
//! keeps every version of every key, so that a checker can ask for the state at any revision.

use serde::Serialize;
use std::collections::BTreeMap;

/// One key as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// One change, as a watcher was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    pub key: String,
    pub revision: i64,
    /// `None` is a deletion.
    pub kv: Option<KeyValue>,
    /// The version before, if there was one and it was told.
    pub prev: Option<KeyValue>,
}

/// A key or a range of keys, by the API's rules for `range_end`: empty is the one key, a zero byte
/// is everything from the key on, anything else is the first key that is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    pub key: String,
    pub end: String,
}

impl Span {
    /// The one key.
    pub fn one(key: impl Into<String>) -> Span {
        Span { key: key.into(), end: String::new() }
    }

    /// Every key there is.
    pub fn all() -> Span {
        Span { key: "\0".into(), end: "\0".into() }
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &str) -> bool {
        match self.end.as_str() {
            "" => key == self.key,
            "\0" => key >= self.key.as_str(),
            end => key >= self.key.as_str() && key < end,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    pub span: Span,
    /// 0 is the newest state.
    pub revision: i64,
    /// 0 is no limit.
    pub limit: i64,
    pub serializable: bool,
    pub count_only: bool,
    pub keys_only: bool,
    pub descending: bool,
    /// In the order of creation, not of keys.
    pub by_creation: bool,
    /// Only keys that were created no later; 0 is no bound.
    pub max_create: i64,
}

impl Range {
    /// A linearizable read of `span` with no further wishes.
    pub fn of(span: Span) -> Range {
        Range {
            span,
            revision: 0,
            limit: 0,
            serializable: false,
            count_only: false,
            keys_only: false,
            descending: false,
            by_creation: false,
            max_create: 0,
        }
    }

    /// The first key by creation: what locks and elections ask for.
    pub fn first_created(span: Span) -> Range {
        Range { limit: 1, by_creation: true, ..Range::of(span) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Put {
    pub key: String,
    pub value: String,
    pub prev_kv: bool,
    /// 0 is none.
    pub lease: i64,
}

impl Put {
    /// A put with no further wishes.
    pub fn of(key: impl Into<String>, value: impl Into<String>) -> Put {
        Put { key: key.into(), value: value.into(), prev_kv: false, lease: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Delete {
    pub span: Span,
    pub prev_kv: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Relation {
    Equal,
    Greater,
    Less,
    NotEqual,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Operand {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compare {
    pub key: String,
    pub relation: Relation,
    pub operand: Operand,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub success: Vec<Request>,
    pub failure: Vec<Request>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Request {
    Range(Range),
    Put(Put),
    Delete(Delete),
    Txn(Txn),
    Compact { revision: i64, physical: bool },
}

/// A lease that nobody is ever granted.
pub const NO_LEASE: i64 = 1 << 40;

impl Request {
    /// Whether it could create a revision. What asks for a lease that is not there is refused, and
    /// all that stands beside it.
    pub fn may_write(&self) -> bool {
        match self {
            Request::Range(_) | Request::Compact { .. } => false,
            Request::Put(put) => put.lease != NO_LEASE,
            Request::Delete(_) => true,
            Request::Txn(txn) if txn.success.iter().any(Request::is_refused) => false,
            Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(Request::may_write),
        }
    }

    /// Whether it is refused whatever the state.
    fn is_refused(&self) -> bool {
        matches!(self, Request::Put(put) if put.lease == NO_LEASE)
    }
}

/// What a request returned, without the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Answer {
    Range { kvs: Vec<KeyValue>, count: i64, more: bool },
    Put { prev: Option<KeyValue> },
    Delete { deleted: i64, prevs: Vec<KeyValue> },
    Txn { succeeded: bool, answers: Vec<Answer> },
    Compact,
}

impl Answer {
    /// Whether the request created a revision.
    pub fn wrote(&self) -> bool {
        match self {
            Answer::Range { .. } | Answer::Compact => false,
            Answer::Put { .. } => true,
            Answer::Delete { deleted, .. } => *deleted > 0,
            Answer::Txn { answers, .. } => answers.iter().any(Answer::wrote),
        }
    }

    /// Every version of a key that the answer shows.
    pub fn each_kv<'a>(&'a self, see: &mut dyn FnMut(&'a KeyValue)) {
        match self {
            Answer::Range { kvs, .. } => kvs.iter().for_each(see),
            Answer::Put { prev } => prev.iter().for_each(see),
            Answer::Delete { prevs, .. } => prevs.iter().for_each(see),
            Answer::Txn { answers, .. } => answers.iter().for_each(|a| a.each_kv(see)),
            Answer::Compact => {}
        }
    }
}

/// An answer with the revision of its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reply {
    pub revision: i64,
    pub answer: Answer,
}

/// The store, at every revision from 1 (empty) to the newest.
///
/// Invariants: the versions of a key are in order of revision; none is beyond `revision`, outside
/// of `apply`.
#[derive(Clone, Debug)]
pub struct Model {
    revision: i64,
    /// The keys that each revision changed, in the order of the writes.
    order: BTreeMap<i64, Vec<String>>,
    /// `None` is a deletion.
    versions: BTreeMap<String, Vec<(i64, Option<KeyValue>)>>,
}

impl Default for Model {
    fn default() -> Model {
        Model { revision: 1, order: BTreeMap::new(), versions: BTreeMap::new() }
    }
}

impl Model {
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The key as it stood at revision `at`.
    pub fn get(&self, key: &str, at: i64) -> Option<&KeyValue> {
        self.versions.get(key).and_then(|versions| version_at(versions, at))
    }

    /// Carries `request` out and says what a client would be answered.
    pub fn apply(&mut self, request: &Request) -> Reply {
        let next = self.revision + 1;
        let answer = self.carry_out(request, next);
        if answer.wrote() {
            self.revision = next;
        }
        Reply { revision: self.revision, answer }
    }

    /// What a read answers when it sees the state at revision `at`.
    pub fn range_at(&self, range: &Range, at: i64) -> Answer {
        let mut kvs: Vec<KeyValue> = Vec::new();
        let mut count = 0;
        for (key, versions) in self.candidates(&range.span) {
            if !range.span.contains(key) {
                continue;
            }
            if let Some(kv) = version_at(versions, at) {
                count += 1;
                kvs.push(kv.clone());
            }
        }
        if range.count_only {
            return Answer::Range { kvs: Vec::new(), count, more: false };
        }
        if range.max_create > 0 {
            kvs.retain(|kv| kv.create_revision <= range.max_create);
        }
        // Equal creation revisions leave in the order of their keys.
        match (range.by_creation, range.descending) {
            (true, true) => kvs.sort_by_key(|kv| -kv.create_revision),
            (true, false) => kvs.sort_by_key(|kv| kv.create_revision),
            (false, true) => kvs.reverse(),
            (false, false) => {}
        }
        let more = range.limit > 0 && kvs.len() as i64 > range.limit;
        if more {
            kvs.truncate(range.limit as usize);
        }
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Answer::Range { kvs, count, more }
    }

    /// What revision `revision` changed within `span`, in the order in which watchers are told:
    /// that of the writes.
    pub fn changes(&self, revision: i64, span: &Span) -> Vec<WatchEvent> {
        let Some(keys) = self.order.get(&revision) else { return Vec::new() };
        let made = |key: &&String| span.contains(key);
        keys.iter().filter(made).map(|key| self.change(key, revision)).collect()
    }

    /// Whether revision `revision` deleted `key`.
    pub fn deletes(&self, key: &str, revision: i64) -> bool {
        let changed = self.order.get(&revision).is_some_and(|keys| keys.iter().any(|k| k == key));
        changed && self.get(key, revision).is_none()
    }

    fn change(&self, key: &str, revision: i64) -> WatchEvent {
        let (kv, prev) = (self.get(key, revision), self.get(key, revision - 1));
        WatchEvent { key: key.into(), revision, kv: kv.cloned(), prev: prev.cloned() }
    }

    fn push(&mut self, key: &str, revision: i64, kv: Option<KeyValue>) {
        self.versions.entry(key.into()).or_default().push((revision, kv));
        self.order.entry(revision).or_default().push(key.into());
    }

    /// Ends a lease: deletes its keys in their order, in one revision if there are any.
    pub fn end_lease(&mut self, lease: i64) {
        let next = self.revision + 1;
        let keys = self.attached(lease, i64::MAX);
        for key in &keys {
            self.push(key, next, None);
        }
        if !keys.is_empty() {
            self.revision = next;
        }
    }

    /// The keys that go with a lease, as of revision `at`.
    pub fn attached(&self, lease: i64, at: i64) -> Vec<String> {
        let goes = |versions: &Vec<_>| version_at(versions, at).is_some_and(|kv| kv.lease == lease);
        self.versions.iter().filter(|(_, v)| goes(v)).map(|(key, _)| key.clone()).collect()
    }

    /// Every key that there ever was.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.versions.keys().map(String::as_str)
    }

    /// All versions of a key, each with its revision.
    pub fn versions(&self, key: &str) -> &[(i64, Option<KeyValue>)] {
        self.versions.get(key).map_or(&[], Vec::as_slice)
    }

    /// Forgets everything after revision `revision`.
    pub fn undo_to(&mut self, revision: i64) {
        assert!(revision <= self.revision, "{revision} is beyond {}", self.revision);
        for versions in self.versions.values_mut() {
            while versions.last().is_some_and(|(r, _)| *r > revision) {
                versions.pop();
            }
        }
        self.order.split_off(&(revision + 1));
        self.revision = revision;
    }

    fn candidates(
        &self,
        span: &Span,
    ) -> impl Iterator<Item = (&String, &Vec<(i64, Option<KeyValue>)>)> {
        let single = span.end.is_empty();
        self.versions.range(span.key.clone()..).take(if single { 1 } else { usize::MAX })
    }

    fn carry_out(&mut self, request: &Request, next: i64) -> Answer {
        match request {
            Request::Range(range) => {
                let at = if range.revision > 0 { range.revision } else { i64::MAX };
                self.range_at(range, at)
            }
            Request::Put(put) => self.put(put, next),
            Request::Delete(delete) => self.delete(delete, next),
            Request::Compact { .. } => Answer::Compact,
            Request::Txn(txn) => {
                let succeeded = txn.compares.iter().all(|c| self.holds(c));
                let branch = if succeeded { &txn.success } else { &txn.failure };
                let answers = branch.iter().map(|r| self.carry_out(r, next)).collect();
                Answer::Txn { succeeded, answers }
            }
        }
    }

    fn put(&mut self, put: &Put, next: i64) -> Answer {
        let prev = self.get(&put.key, i64::MAX).cloned();
        let kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: prev.as_ref().map_or(next, |p| p.create_revision),
            mod_revision: next,
            version: prev.as_ref().map_or(1, |p| p.version + 1),
            lease: put.lease,
        };
        self.push(&put.key, next, Some(kv));
        Answer::Put { prev: prev.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &Delete, next: i64) -> Answer {
        let Answer::Range { kvs, .. } = self.range_at(&Range::of(delete.span.clone()), i64::MAX)
        else {
            unreachable!("a range answers with a range");
        };
        for kv in &kvs {
            self.push(&kv.key, next, None);
        }
        let deleted = kvs.len() as i64;
        Answer::Delete { deleted, prevs: if delete.prev_kv { kvs } else { Vec::new() } }
    }

    /// Whether a comparison holds. An absent key has version and revisions 0; comparing the value
    /// of an absent key never holds.
    fn holds(&self, compare: &Compare) -> bool {
        let kv = self.get(&compare.key, i64::MAX);
        let number = |f: fn(&KeyValue) -> i64| kv.map_or(0, f);
        let order = match &compare.operand {
            Operand::Version(n) => number(|kv| kv.version).cmp(n),
            Operand::Create(n) => number(|kv| kv.create_revision).cmp(n),
            Operand::Mod(n) => number(|kv| kv.mod_revision).cmp(n),
            Operand::Value(v) => match kv {
                Some(kv) => kv.value.cmp(v),
                None => return false,
            },
        };
        match compare.relation {
            Relation::Equal => order.is_eq(),
            Relation::Greater => order.is_gt(),
            Relation::Less => order.is_lt(),
            Relation::NotEqual => order.is_ne(),
        }
    }
}

fn version_at(versions: &[(i64, Option<KeyValue>)], at: i64) -> Option<&KeyValue> {
    versions.iter().rev().find(|(revision, _)| *revision <= at).and_then(|(_, kv)| kv.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Request {
        Request::Put(Put { prev_kv: true, ..Put::of(key, value) })
    }

    fn keys(answer: &Answer) -> Vec<String> {
        let mut keys = Vec::new();
        answer.each_kv(&mut |kv| keys.push(format!("{}={}", kv.key, kv.value)));
        keys
    }

    #[test]
    fn versions_and_revisions_follow_the_generations_of_a_key() {
        let mut m = Model::default();
        assert_eq!(m.apply(&put("a", "1")).revision, 2);
        let second = m.apply(&put("a", "2"));
        assert_eq!(keys(&second.answer), ["a=1"]);
        let gone = m.apply(&Request::Delete(Delete { span: Span::one("a"), prev_kv: true }));
        assert_eq!((gone.revision, keys(&gone.answer)), (4, vec!["a=2".to_string()]));
        let none = m.apply(&Request::Delete(Delete { span: Span::one("a"), prev_kv: true }));
        assert_eq!((none.revision, none.answer.wrote()), (4, false));
        m.apply(&put("a", "3"));
        let kv = m.get("a", 5).expect("written at 5");
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
        let kv = m.get("a", 3).expect("written at 3");
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
        assert_eq!(m.get("a", 4), None);
    }

    #[test]
    fn ranges_follow_the_rules_of_range_end() {
        let mut m = Model::default();
        for k in ["a", "b", "c", "d"] {
            m.apply(&put(k, k));
        }
        let read = |span: Span| keys(&m.range_at(&Range::of(span), i64::MAX)).join(" ");
        assert_eq!(read(Span::one("b")), "b=b");
        assert_eq!(read(Span::one("bb")), "");
        assert_eq!(read(Span { key: "b".into(), end: "d".into() }), "b=b c=c");
        assert_eq!(read(Span { key: "c".into(), end: "\0".into() }), "c=c d=d");
        assert_eq!(read(Span::all()), "a=a b=b c=c d=d");
        let limited = Range { limit: 1, descending: true, ..Range::of(Span::all()) };
        let Answer::Range { kvs, count, more } = m.range_at(&limited, 4) else { panic!() };
        assert_eq!((kvs[0].key.as_str(), kvs.len(), count, more), ("c", 1, 3, true));
    }

    #[test]
    fn the_end_of_a_lease_deletes_what_is_attached_at_that_moment() {
        let mut m = Model::default();
        let attach = |key: &str, lease| Request::Put(Put { lease, ..Put::of(key, "v") });
        m.apply(&attach("b", 7));
        m.apply(&attach("a", 7));
        m.apply(&attach("c", 7));
        m.apply(&attach("c", 8));
        assert_eq!(m.attached(7, i64::MAX), ["a", "b"]);
        assert_eq!(m.attached(7, 4), ["a", "b", "c"]);
        m.end_lease(7);
        assert_eq!((m.revision(), m.changes(6, &Span::all()).len()), (6, 2));
        m.end_lease(7);
        assert_eq!(m.revision(), 6, "without keys the revision stays");
    }

    #[test]
    fn the_order_of_creation_is_that_of_a_queue() {
        let mut m = Model::default();
        for key in ["c", "a", "b"] {
            m.apply(&put(key, "1"));
        }
        m.apply(&put("c", "2"));
        let first = Range::first_created(Span::all());
        assert_eq!(keys(&m.range_at(&first, i64::MAX)), ["c=2"]);
        let before = Range { descending: true, max_create: 3, ..first };
        let Answer::Range { kvs, count, more } = m.range_at(&before, i64::MAX) else { panic!() };
        assert_eq!((kvs[0].key.as_str(), count, more), ("a", 3, true));
    }

    #[test]
    fn a_transaction_is_one_revision_and_undo_takes_it_back_whole() {
        let mut m = Model::default();
        m.apply(&put("a", "1"));
        let txn = Request::Txn(Txn {
            compares: vec![Compare {
                key: "a".into(),
                relation: Relation::Equal,
                operand: Operand::Mod(2),
            }],
            success: vec![put("b", "x"), put("c", "y"), Request::Range(Range::of(Span::all()))],
            failure: vec![Request::Range(Range::of(Span::one("a")))],
        });
        let reply = m.apply(&txn);
        assert_eq!(reply.revision, 3);
        let Answer::Txn { succeeded: true, answers } = &reply.answer else { panic!("{reply:?}") };
        assert_eq!(keys(&answers[2]), ["a=1", "b=x", "c=y"]);
        m.apply(&put("a", "2"));
        let Answer::Txn { succeeded: false, .. } = m.apply(&txn).answer else { panic!() };
        m.undo_to(2);
        assert_eq!(keys(&m.range_at(&Range::of(Span::all()), i64::MAX)), ["a=1"]);
        let absent = Compare {
            key: "zz".into(),
            relation: Relation::NotEqual,
            operand: Operand::Value("v".into()),
        };
        assert!(!m.holds(&absent), "comparing the value of an absent key never holds");
    }
}
