//! Watch: what a stream delivers is ordered, unique, atomic, resumable, reliable and bookmarkable.
//!
//! The replay of the history gives the true changes of every revision. Each stream is held against
//! them from its first revision to the last one that it showed, so a client that resumes at the
//! revision after the last one it saw misses nothing and sees nothing twice.
//!
//! | guarantee | an event ... |
//! |---|---|
//! | Ordered | never comes behind one of a later place |
//! | Unique | never comes twice |
//! | Atomic | comes in the same message as all others of its revision |
//! | Resumable | is the first that was due from the revision asked for |
//! | Reliable | is true, and none before it is missing |
//! | Bookmarkable | never comes, and is never missing, behind a promise that covers it |
//! | PrevKv | shows the version that it ended |
//! | Filtered | is of a kind that was asked for |

use super::{Guarantee, Violation};
use crate::history::streams::Stream;
use crate::model::{Model, WatchEvent};
use crate::moment::Nanos;
use std::collections::BTreeSet;

/// Judges one stream against the true changes in `model`. `compactions` are the revisions of the
/// compactions that were asked for, each with the moment of the call.
pub fn check(
    model: &Model,
    compactions: &[(Nanos, i64)],
    stream: &Stream,
) -> Result<(), Violation> {
    if let Some(at) = stream.cut_off {
        return Err(broken(stream, Guarantee::Reliable, Some(at), "canceled without being asked"));
    }
    order(stream)?;
    truth(model, compactions, stream)?;
    completeness(model, stream)
}

fn broken(stream: &Stream, guarantee: Guarantee, at: Option<Nanos>, text: &str) -> Violation {
    let who = format!("watcher {} at member {}", stream.client, stream.member);
    Violation::new(guarantee, at, format!("{who}: {text}"))
}

/// What the deliveries say by themselves: order, repetitions, split revisions, broken promises.
fn order(stream: &Stream) -> Result<(), Violation> {
    let mut seen: BTreeSet<(i64, &str)> = BTreeSet::new();
    let (mut reached, mut promised) = (0, stream.start - 1);
    for delivery in &stream.deliveries {
        let fail =
            |guarantee, text: String| Err(broken(stream, guarantee, Some(delivery.at), &text));
        let before = reached;
        for event in &delivery.events {
            let revision = event.revision;
            if !seen.insert((revision, &event.key)) {
                return fail(Guarantee::Unique, format!("{event:?} came twice"));
            }
            if revision < stream.start {
                let start = stream.start;
                return fail(Guarantee::Resumable, format!("{event:?} before the start {start}"));
            }
            if revision <= promised {
                let text = format!("{event:?} after the promise of {promised}");
                return fail(Guarantee::Bookmarkable, text);
            }
            if revision < reached {
                return fail(Guarantee::Ordered, format!("{event:?} after revision {reached}"));
            }
            if revision == before {
                return fail(Guarantee::Atomic, format!("{event:?} in a message of its own"));
            }
            reached = revision;
        }
        promised = promised.max(delivery.progress.unwrap_or(0));
    }
    Ok(())
}

/// What each event says.
fn truth(model: &Model, compactions: &[(Nanos, i64)], stream: &Stream) -> Result<(), Violation> {
    for delivery in &stream.deliveries {
        let fail =
            |guarantee, text: String| Err(broken(stream, guarantee, Some(delivery.at), &text));
        for event in &delivery.events {
            if !stream.filter.passes(event) {
                return fail(Guarantee::Filtered, format!("{event:?}, which was not wanted"));
            }
            let true_events = model.changes(event.revision, &stream.span);
            let Some(due) = true_events.into_iter().find(|due| due.key == event.key) else {
                return fail(Guarantee::Reliable, format!("{event:?}, which no write explains"));
            };
            if due.kv != event.kv {
                return fail(Guarantee::Reliable, format!("{event:?} where {due:?} was due"));
            }
            let expected = due.prev.filter(|_| stream.prev_kv);
            let forgotten = event.prev.is_none()
                && compactions.iter().any(|(at, r)| *at <= delivery.at && *r >= event.revision);
            if event.prev != expected && !forgotten {
                let text = format!("{event:?}, but the version before was {expected:?}");
                return fail(Guarantee::PrevKv, text);
            }
        }
    }
    Ok(())
}

/// That nothing is missing, and that the order within a revision is that of the writes.
fn completeness(model: &Model, stream: &Stream) -> Result<(), Violation> {
    let delivered: Vec<&WatchEvent> = stream.deliveries.iter().flat_map(|d| &d.events).collect();
    let shown: BTreeSet<i64> = delivered.iter().map(|event| event.revision).collect();
    let promised = stream.deliveries.iter().filter_map(|d| d.progress.map(|p| (p, d.at)));
    let promise = promised.max();
    let last = stream.owed.unwrap_or(0).max(stream.seen()).min(model.revision());
    let due = (stream.start..=last).flat_map(|revision| model.changes(revision, &stream.span));
    let mut next = delivered.iter();
    for due in due.filter(|due| stream.filter.passes(due)) {
        let missing = |guarantee, at| {
            Err(broken(stream, guarantee, at, &format!("{due:?} was never delivered")))
        };
        if next.clone().next().is_some_and(|e| e.revision == due.revision && e.key == due.key) {
            next.next();
            continue;
        }
        if delivered.iter().any(|e| e.revision == due.revision && e.key == due.key) {
            let text = format!("{due:?} is not in the order of the writes");
            return Err(broken(stream, Guarantee::Ordered, None, &text));
        }
        if shown.contains(&due.revision) {
            return missing(Guarantee::Atomic, None);
        }
        if let Some((_, at)) = promise.filter(|(promise, _)| due.revision <= *promise) {
            return missing(Guarantee::Bookmarkable, Some(at));
        }
        if shown.first().is_some_and(|first| due.revision < *first) {
            return missing(Guarantee::Resumable, None);
        }
        return missing(Guarantee::Reliable, None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::streams::{Delivery, Filter};
    use crate::model::{Delete, Put, Request, Span, Txn};

    fn put(key: &str, value: &str) -> Request {
        Request::Put(Put::of(key, value))
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
            |revision| Delivery { at: 7, events: model.changes(revision, &span), progress: None };
        let mut deliveries: Vec<Delivery> = [2, 4, 5].into_iter().map(delivery).collect();
        deliveries.push(Delivery { at: 7, events: vec![], progress: Some(5) });
        deliveries.push(delivery(6));
        Stream {
            client: 0,
            member: 0,
            span,
            filter: Filter::None,
            prev_kv: true,
            start: 2,
            opened: 1,
            closed: 9,
            deliveries,
            owed: Some(6),
            cut_off: None,
        }
    }

    #[test]
    fn a_true_stream_passes() {
        let model = world();
        check(&model, &[], &truth(&model)).expect("true");
        // Without the promise of an end it may stop anywhere between two revisions.
        let mut cut = truth(&model);
        cut.owed = None;
        cut.deliveries.truncate(2);
        check(&model, &[], &cut).expect("true so far");
        // A filter leaves out what it says, and a revision may be empty for it.
        let mut filtered = truth(&model);
        filtered.filter = Filter::NoPut;
        filtered.deliveries.iter_mut().for_each(|d| d.events.retain(|e| e.kv.is_none()));
        check(&model, &[], &filtered).expect("true to its filter");
        // What a compaction has taken cannot be told.
        let mut forgotten = truth(&model);
        forgotten.deliveries[2].events[0].prev = None;
        check(&model, &[(3, 5)], &forgotten).expect("compacted");
        check(&model, &[(3, 4)], &forgotten).expect_err("not compacted so far");
        check(&model, &[(8, 5)], &forgotten).expect_err("compacted later");
    }

    #[test]
    fn each_false_stream_is_rejected_under_its_name() {
        let model = world();
        let rejected = |guarantee, change: &dyn Fn(&mut Stream)| {
            let mut stream = truth(&model);
            change(&mut stream);
            let violation = check(&model, &[], &stream).expect_err("a false stream");
            assert_eq!(violation.guarantee, guarantee, "{violation}");
        };
        rejected(Guarantee::Resumable, &|s| {
            s.deliveries.remove(3);
            s.deliveries.remove(0);
        });
        rejected(Guarantee::Resumable, &|s| s.start = 3);
        rejected(Guarantee::Bookmarkable, &|s| drop(s.deliveries.remove(1)));
        rejected(Guarantee::Bookmarkable, &|s| s.deliveries[3].progress = Some(6));
        rejected(Guarantee::Reliable, &|s| {
            s.deliveries.remove(3);
            s.deliveries.remove(1);
        });
        rejected(Guarantee::Reliable, &|s| drop(s.deliveries.pop()));
        rejected(Guarantee::Reliable, &|s| s.deliveries[0].events[0].kv = None);
        rejected(Guarantee::Reliable, &|s| s.cut_off = Some(5));
        rejected(Guarantee::Ordered, &|s| s.deliveries.swap(0, 1));
        rejected(Guarantee::Ordered, &|s| s.deliveries[1].events.swap(0, 1));
        rejected(Guarantee::Unique, &|s| s.deliveries.push(s.deliveries[0].clone()));
        rejected(Guarantee::Unique, &|s| s.deliveries.insert(1, s.deliveries[0].clone()));
        rejected(Guarantee::Atomic, &|s| drop(s.deliveries[1].events.pop()));
        rejected(Guarantee::Atomic, &|s| {
            let late = s.deliveries[1].events.pop().expect("two events");
            let at = s.deliveries[1].at;
            s.deliveries.insert(2, Delivery { at, events: vec![late], progress: None });
        });
        rejected(Guarantee::PrevKv, &|s| s.deliveries[2].events[0].prev = None);
        rejected(Guarantee::PrevKv, &|s| {
            let version = s.deliveries[0].events[0].kv.clone();
            s.deliveries[2].events[0].prev = version;
        });
        rejected(Guarantee::PrevKv, &|s| s.prev_kv = false);
        rejected(Guarantee::Filtered, &|s| s.filter = Filter::NoDelete);
    }
}
