//! Locks and elections: one holder at a time, in the order in which they came.
//!
//! Who is told that its turn has come must have been the first of its queue at the revision of the
//! answer. Holders write a counter, each time in a transaction that compares the creation of their
//! key: what they write says which number and whose turn it is, so that the versions of the counter
//! show whether two of them ever had it at once.

use super::{Guarantee, Violation};
use crate::history::queues::{Observed, Queues, Turn};
use crate::model::{Answer, Model, Range};
use crate::moment::Nanos;

/// What the holders of the lock count up.
pub const COUNTER: &str = "lock-counter";

/// A value of the counter.
pub fn count(number: u64, token: i64, tag: &str) -> String {
    format!("{number} {token} {tag}")
}

/// The number in a value of the counter, and the creation revision that fenced it.
pub fn counted(value: &str) -> Option<(u64, i64)> {
    let mut words = value.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Judges the turns, the counter and the announcements against the true states.
pub fn check(model: &Model, queues: &Queues) -> Result<(), Violation> {
    queues.turns.iter().try_for_each(|turn| check_turn(model, turn))?;
    check_counter(model)?;
    queues.observed.iter().try_for_each(|observed| check_observed(model, observed))
}

fn fail(at: Option<Nanos>, text: String) -> Result<(), Violation> {
    Err(Violation::new(Guarantee::LockFencing, at, text))
}

fn check_turn(model: &Model, turn: &Turn) -> Result<(), Violation> {
    if turn.revision > model.revision() {
        return Ok(());
    }
    let first = model.range_at(&Range::first_created(turn.queue.clone()), turn.revision);
    let Answer::Range { kvs, .. } = first else { unreachable!("a range answers with a range") };
    match kvs.first() {
        Some(kv) if kv.key == turn.key => Ok(()),
        first => fail(Some(turn.at), format!("{turn:?}, but the first in its queue is {first:?}")),
    }
}

/// Numbers rise by one, tokens never fall. (Somebody may delete the counter: then it starts from
/// whatever its writer had read.)
fn check_counter(model: &Model) -> Result<(), Violation> {
    let mut before: Option<(u64, i64)> = None;
    let mut token_max = 0;
    for (revision, kv) in model.versions(COUNTER) {
        let Some(kv) = kv else {
            before = None;
            continue;
        };
        let Some((number, token)) = counted(&kv.value) else { continue };
        if token < token_max {
            let text = format!(
                "at {revision} the holder of {token} writes after the holder of {token_max}"
            );
            return fail(None, text);
        }
        if before.is_some_and(|(last, _)| number != last + 1) {
            let text = format!("at {revision} the counter goes from {before:?} to {number}");
            return fail(None, text);
        }
        before = Some((number, token));
        token_max = token;
    }
    Ok(())
}

/// Announcements are those of leaders, in the order of their turns.
fn check_observed(model: &Model, observed: &Observed) -> Result<(), Violation> {
    let mut before = (0, 0);
    for (at, kv) in &observed.leaders {
        if kv.mod_revision > model.revision() {
            continue;
        }
        if model.get(&kv.key, kv.mod_revision) != Some(kv) {
            return fail(Some(*at), format!("an observer saw {kv:?}, which nobody announced"));
        }
        let place = (kv.create_revision, kv.mod_revision);
        if place < before {
            let client = observed.client;
            return fail(Some(*at), format!("observer {client} saw {kv:?} after {before:?}"));
        }
        before = place;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Delete, Put, Request, Span};

    fn queue() -> Span {
        Span { key: "q/".into(), end: "q0".into() }
    }

    /// b enters at 2, a at 3; b counts to 1 and 2 and leaves at 6, a counts to 3 at 7.
    fn world(counts: [(u64, i64); 3]) -> Model {
        let mut model = Model::default();
        let count = |model: &mut Model, (number, token): (u64, i64)| {
            model.apply(&Request::Put(Put::of(COUNTER, super::count(number, token, "c"))));
        };
        model.apply(&Request::Put(Put::of("q/b", "")));
        model.apply(&Request::Put(Put::of("q/a", "")));
        count(&mut model, counts[0]);
        count(&mut model, counts[1]);
        model.apply(&Request::Delete(Delete { span: Span::one("q/b"), prev_kv: false }));
        count(&mut model, counts[2]);
        model
    }

    fn turn(key: &str, revision: i64) -> Queues {
        let turn = Turn { client: 0, queue: queue(), key: key.into(), revision, at: 0 };
        Queues { turns: vec![turn], observed: vec![] }
    }

    const TRUE: [(u64, i64); 3] = [(1, 2), (2, 2), (3, 3)];

    #[test]
    fn a_turn_is_that_of_the_first_in_the_queue() {
        let model = world(TRUE);
        for (key, revision) in [("q/b", 2), ("q/b", 5), ("q/a", 6), ("q/a", 99)] {
            check(&model, &turn(key, revision)).expect("true");
        }
        for (key, revision) in [("q/a", 3), ("q/a", 5), ("q/b", 6), ("q/c", 6)] {
            let broken = check(&model, &turn(key, revision)).expect_err("false");
            assert_eq!(broken.guarantee, Guarantee::LockFencing);
        }
    }

    #[test]
    fn holders_that_interleave_are_seen() {
        for counts in [
            [(1, 2), (1, 2), (2, 3)],
            [(1, 2), (3, 2), (4, 3)],
            [(1, 3), (2, 2), (3, 3)],
            [(1, 2), (2, 3), (3, 2)],
        ] {
            check(&world(counts), &Queues::default()).expect_err("false");
        }
    }

    #[test]
    fn announcements_follow_the_turns() {
        let model = world(TRUE);
        let seen = |keys: [(&str, i64); 2]| {
            let kv = |(key, at)| (0, model.get(key, at).cloned().expect("it is there"));
            let observed = Observed { client: 0, leaders: keys.map(kv).into() };
            check(&model, &Queues { turns: vec![], observed: vec![observed] })
        };
        seen([("q/b", 2), ("q/a", 6)]).expect("true");
        seen([("q/a", 6), ("q/b", 2)]).expect_err("back to an earlier leader");
        let mut ghost = model.get("q/b", 2).cloned().expect("it is there");
        ghost.value = "ghost".into();
        let observed = vec![Observed { client: 0, leaders: vec![(0, ghost)] }];
        check(&model, &Queues { turns: vec![], observed }).expect_err("nobody announced it");
    }
}
