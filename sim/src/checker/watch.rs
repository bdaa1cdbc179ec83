//! Watch: what a stream delivers is ordered, unique, atomic and complete.
//!
//! The replay of the history gives the true changes of every revision. Each stream is held against
//! them from its first revision to the last one that it showed, so a client that resumes at the
//! revision after the last one it saw misses nothing and sees nothing twice.

use super::{Guarantee, Violation};
use crate::history::Nanos;
use crate::model::{KeyValue, Model, Span};

/// One change, as a watcher was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    pub key: String,
    pub revision: i64,
    /// `None` is a deletion.
    pub kv: Option<KeyValue>,
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub at: Nanos,
    pub events: Vec<WatchEvent>,
    /// A message without events that promises: everything up to here was delivered.
    pub progress: Option<i64>,
}

/// What one stream delivered.
#[derive(Clone, Debug)]
pub struct Stream {
    pub client: u64,
    pub member: usize,
    pub span: Span,
    /// The first revision that the watcher is owed.
    pub start: i64,
    pub deliveries: Vec<Delivery>,
    /// The revision up to which everything had to be there when the stream was closed, if the
    /// harness waited for it.
    pub owed: Option<i64>,
}

impl Stream {
    /// The highest revision that the stream showed or promised.
    pub fn seen(&self) -> i64 {
        let of = |d: &Delivery| {
            d.events.iter().map(|e| e.revision).max().unwrap_or(0).max(d.progress.unwrap_or(0))
        };
        self.deliveries.iter().map(of).max().unwrap_or(0).max(self.start - 1)
    }
}

/// Judges one stream against the true changes in `model`.
pub fn check(model: &Model, stream: &Stream) -> Result<(), Violation> {
    let last = stream.owed.unwrap_or(0).max(stream.seen()).min(model.revision());
    let due = |revision| model.changes(revision, &stream.span);
    let mut expected = (stream.start..=last).flat_map(due).peekable();
    let mut reached = stream.start - 1;
    for delivery in &stream.deliveries {
        let fail = |text: String| {
            let who = format!("watcher {} at member {}", stream.client, stream.member);
            Err(Violation::new(Guarantee::Watch, Some(delivery.at), format!("{who}: {text}")))
        };
        let first = delivery.events.first().map_or(i64::MAX, |e| e.revision);
        if first <= reached {
            return fail(format!("revision {first} after {reached} was delivered or promised"));
        }
        for event in &delivery.events {
            match expected.next() {
                Some(due) if due == *event => {}
                Some(due) => return fail(format!("{event:?} where {due:?} was due")),
                None => return fail(format!("{event:?}, which no write explains")),
            }
            reached = event.revision;
        }
        if let Some(due) = expected.peek() {
            if due.revision == reached {
                return fail(format!("revision {reached} is split, {due:?} is missing"));
            }
            if delivery.progress.is_some_and(|progress| due.revision <= progress) {
                return fail(format!("{delivery:?} promises {due:?}, which was not delivered"));
            }
        }
        reached = reached.max(delivery.progress.unwrap_or(0));
    }
    match expected.next() {
        Some(due) => {
            let who = format!("watcher {} at member {}", stream.client, stream.member);
            let text = format!("{who}: {due:?} was never delivered");
            Err(Violation::new(Guarantee::Watch, None, text))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Delete, Put, Request, Txn};

    fn put(key: &str, value: &str) -> Request {
        Request::Put(Put { key: key.into(), value: value.into(), prev_kv: false })
    }

    fn world() -> Model {
        let mut model = Model::default();
        model.apply(&put("a", "1"));
        model.apply(&put("z", "2"));
        let success = vec![put("a", "3"), put("b", "4")];
        model.apply(&Request::Txn(Txn { compares: vec![], success, failure: vec![] }));
        model.apply(&Request::Delete(Delete { span: Span::one("a"), prev_kv: false }));
        model.apply(&put("b", "5"));
        model
    }

    /// The true stream over a and b from revision 2: 2, 4 (two events), 5, 6.
    fn truth(model: &Model) -> Stream {
        let span = Span { key: "a".into(), end: "c".into() };
        let delivery =
            |revision| Delivery { at: 0, events: model.changes(revision, &span), progress: None };
        let mut deliveries: Vec<Delivery> = [2, 4, 5].into_iter().map(delivery).collect();
        deliveries.push(Delivery { at: 0, events: vec![], progress: Some(5) });
        deliveries.push(delivery(6));
        Stream { client: 0, member: 0, span, start: 2, deliveries, owed: Some(6) }
    }

    #[test]
    fn a_true_stream_passes() {
        let model = world();
        check(&model, &truth(&model)).expect("true");
        // Without the promise of an end it may stop anywhere between two revisions.
        let mut cut = truth(&model);
        cut.owed = None;
        cut.deliveries.truncate(2);
        check(&model, &cut).expect("true so far");
    }

    #[test]
    fn false_streams_are_rejected() {
        let model = world();
        let rejected = |change: &dyn Fn(&mut Stream)| {
            let mut stream = truth(&model);
            change(&mut stream);
            check(&model, &stream).expect_err("a false stream");
        };
        rejected(&|s| drop(s.deliveries.remove(0)));
        rejected(&|s| drop(s.deliveries.remove(1)));
        rejected(&|s| drop(s.deliveries.pop()));
        rejected(&|s| s.deliveries.swap(0, 1));
        rejected(&|s| s.deliveries.push(s.deliveries[0].clone()));
        rejected(&|s| s.deliveries.insert(1, s.deliveries[0].clone()));
        rejected(&|s| drop(s.deliveries[1].events.pop()));
        rejected(&|s| s.deliveries[1].events.swap(0, 1));
        rejected(&|s| s.deliveries[0].events[0].kv = None);
        rejected(&|s| s.deliveries[2].events[0].revision = 6);
        rejected(&|s| s.deliveries[3].progress = Some(6));
        rejected(&|s| {
            let late = s.deliveries[1].events.pop().expect("two events");
            let at = s.deliveries[1].at;
            s.deliveries.insert(2, Delivery { at, events: vec![late], progress: None });
        });
    }
}
