//! Histories, true and falsified.

use super::*;
use crate::history::Refusal;
use crate::history::leases::LeaseEnd;
use crate::history::streams::{Delivery, Filter};
use crate::model::{Delete, Put, Range, Span, WatchEvent};

/// A writer of histories: every operation is carried out by a model, so that what it answers is
/// true until a test falsifies it.
struct Story {
    model: Model,
    history: History,
    at: Nanos,
}

impl Story {
    fn new() -> Story {
        Story { model: Model::default(), history: History::default(), at: 0 }
    }

    fn done(&mut self, request: Request) -> usize {
        let reply = self.model.apply(&request);
        self.push(request, Outcome::Done(reply))
    }

    fn unknown(&mut self, request: Request, applied: bool) -> usize {
        if applied {
            self.model.apply(&request);
        }
        self.push(request, Outcome::Unknown("timeout".into()))
    }

    fn push(&mut self, request: Request, outcome: Outcome) -> usize {
        self.at += 10;
        let (called, returned) = (self.at, self.at + 5);
        self.history.push(Operation { client: 0, member: 0, request, called, returned, outcome });
        self.history.operations.len() - 1
    }

    fn reply(&mut self, i: usize) -> &mut Reply {
        match &mut self.history.operations[i].outcome {
            Outcome::Done(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn rejected(&self, why: &str) {
        let violation = check(&self.history).expect_err("a false history");
        assert!(violation.text.contains(why), "{}", violation.text);
    }

    fn accepted(&self) {
        assert_eq!(check(&self.history), Ok(Ruling::Consistent));
    }
}

fn put(key: &str, value: &str) -> Request {
    Request::Put(Put::of(key, value))
}

fn get(key: &str) -> Request {
    Request::Range(Range::of(Span::one(key)))
}

fn delete(key: &str) -> Request {
    Request::Delete(Delete { span: Span::one(key), prev_kv: false })
}

#[test]
fn a_true_history_passes() {
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.done(get("a"));
    s.unknown(put("a", "2"), false);
    s.unknown(put("a", "3"), true);
    s.unknown(delete("b"), false);
    s.unknown(delete("a"), true);
    s.unknown(delete("a"), false);
    s.done(get("a"));
    s.done(delete("a"));
    s.done(put("a", "4"));
    s.done(get("a"));
    s.accepted();
}

#[test]
fn a_last_write_that_only_a_watcher_saw_is_explained() {
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.unknown(put("a", "2"), false);
    s.unknown(put("b", "3"), true);
    let kv = s.model.get("b", 3).expect("it was applied").clone();
    let event = WatchEvent { key: "b".into(), revision: 3, kv: Some(kv), prev: None };
    let delivery = Delivery { at: 99, events: vec![event], progress: None };
    let stream = Stream {
        client: 9,
        member: 0,
        span: Span::all(),
        filter: Filter::None,
        prev_kv: false,
        start: 3,
        opened: 0,
        closed: 99,
        deliveries: vec![delivery],
        owed: None,
        cut_off: None,
    };
    s.history.streams.push(stream.clone());
    let (ruling, model) = replay(&s.history, &BTreeMap::new()).expect("a true history");
    assert_eq!(ruling, Ruling::Consistent);
    crate::checker::watch::check(&model, &[], &stream).expect("the write explains the event");
}

#[test]
fn a_stale_read_is_rejected() {
    let mut s = Story::new();
    s.done(put("a", "1"));
    let stale = s.done(get("a"));
    let old = s.reply(stale).clone();
    s.done(put("a", "2"));
    let read = s.done(get("a"));
    *s.reply(read) = old;
    s.rejected("before place 6");
    // The same answer to a serializable read is allowed.
    let Request::Range(range) = &mut s.history.operations[read].request else { panic!() };
    range.serializable = true;
    s.accepted();
}

#[test]
fn a_lost_write_is_rejected() {
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.model.undo_to(1);
    s.done(put("a", "2"));
    s.rejected("two acknowledged writes have revision 2");
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.model.undo_to(1);
    s.done(get("a"));
    s.rejected("before place 4");
}

#[test]
fn a_write_applied_twice_is_rejected() {
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.model.apply(&put("a", "1"));
    s.done(get("a"));
    s.rejected("revision 3");
    let mut s = Story::new();
    s.unknown(put("a", "1"), true);
    s.model.apply(&put("a", "1"));
    s.done(get("a"));
    s.rejected("revision 3");
}

#[test]
fn a_refused_write_that_was_applied_is_rejected() {
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.model.apply(&put("a", "2"));
    s.push(put("a", "2"), Outcome::Failed("no leader".into()));
    s.done(get("a"));
    s.rejected("revision 3");
}

#[test]
fn falsified_answers_are_rejected() {
    let falsify = |change: &dyn Fn(&mut Reply)| {
        let mut s = Story::new();
        s.done(put("a", "1"));
        s.done(put("b", "2"));
        let read = s.done(Request::Range(Range::of(Span::all())));
        s.done(put("c", "3"));
        change(s.reply(read));
        assert!(check(&s.history).is_err());
    };
    let in_kvs = |change: &'static dyn Fn(&mut Vec<KeyValue>)| {
        move |reply: &mut Reply| match &mut reply.answer {
            Answer::Range { kvs, .. } => change(kvs),
            other => panic!("{other:?}"),
        }
    };
    falsify(&in_kvs(&|kvs| kvs.swap(0, 1)));
    falsify(&in_kvs(&|kvs| kvs.truncate(1)));
    falsify(&in_kvs(&|kvs| kvs.push(kvs[0].clone())));
    falsify(&in_kvs(&|kvs| kvs[0].value = "9".into()));
    falsify(&in_kvs(&|kvs| kvs[0].version += 1));
    falsify(&in_kvs(&|kvs| kvs[1].mod_revision -= 1));
    falsify(&|reply| reply.revision -= 1);
    falsify(&|reply| reply.revision += 1);
    falsify(&|reply| reply.revision = 0);
}

#[test]
fn refusals_need_a_reason() {
    let old = |revision| Request::Range(Range { revision, ..Range::of(Span::one("a")) });
    let compact = Request::Compact { revision: 3, physical: false };
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.done(put("a", "2"));
    s.push(old(2), Outcome::Refused(Refusal::Compacted));
    s.rejected("nobody asked");
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.done(put("a", "2"));
    s.done(compact.clone());
    s.push(old(2), Outcome::Refused(Refusal::Compacted));
    s.push(old(9), Outcome::Refused(Refusal::FutureRevision));
    s.accepted();
    s.push(old(3), Outcome::Refused(Refusal::FutureRevision));
    s.rejected("was seen before");
    s.history.operations.pop();
    let i = s.done(old(2));
    s.reply(i);
    s.rejected("had been compacted");
}

#[test]
fn the_end_of_a_lease_is_a_write_of_its_own() {
    let attach = |key: &str, lease| Request::Put(Put { lease, ..Put::of(key, "v") });
    let mut s = Story::new();
    s.done(attach("a", 7));
    s.done(attach("b", 7));
    s.done(put("c", "1"));
    s.model.end_lease(7);
    s.done(Request::Range(Range::of(Span::all())));
    s.rejected("revision 5");
    let end = |revision, keys| LeaseEnd { id: 7, revision, keys, ..LeaseEnd::default() };
    s.history.leases.ends = vec![end(5, 2)];
    s.accepted();
    // It may not take a revision without keys, nor share one, nor leave a key behind.
    s.history.leases.ends = vec![end(5, 2), end(6, 0)];
    s.accepted();
    s.done(put("d", "1"));
    s.history.leases.ends = vec![end(5, 2), end(6, 1)];
    s.rejected("in the same revision");
    s.history.leases.ends = vec![end(5, 2)];
    s.history.operations.remove(0);
    s.rejected("no write");
}

#[test]
fn a_value_from_nowhere_is_rejected() {
    let mut s = Story::new();
    s.done(put("a", "1"));
    s.unknown(put("a", "2"), false);
    s.model.apply(&put("a", "ghost"));
    s.done(get("a"));
    s.rejected("no write explains");
}

#[test]
fn an_unknown_write_may_land_late_but_not_before_its_call() {
    let mut s = Story::new();
    s.unknown(put("a", "1"), false);
    s.done(put("b", "1"));
    s.model.apply(&put("a", "1"));
    s.done(get("a"));
    s.accepted();
    let mut s = Story::new();
    s.model.apply(&put("a", "1"));
    s.done(put("b", "1"));
    s.done(get("a"));
    s.unknown(put("a", "1"), false);
    s.rejected("revision 2");
}
