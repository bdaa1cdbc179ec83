//! An independent judge of short histories, which does not look at revisions: the search of Wing
//! and Gong, with the memory of Lowe. It shares no reasoning with `linearizability`, so that the
//! two can be held against each other.

use crate::history::{Operation, Outcome};
use crate::model::{Model, Request, Span};
use crate::moment::Nanos;
use std::collections::BTreeSet;

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    Linearizable,
    NotLinearizable,
    /// It ran out of steps.
    Inconclusive,
}

struct Search<'a> {
    operations: Vec<&'a Operation>,
    done: Vec<bool>,
    left: usize,
    seen: BTreeSet<(Vec<bool>, String)>,
    steps: u64,
}

/// Whether there is an order of `operations` that the model could have produced.
///
/// Serializable reads and refusals say nothing about the order and are left out.
pub fn search(operations: &[Operation], steps_max: u64) -> Finding {
    let operations: Vec<&Operation> = operations.iter().filter(|o| takes_part(o)).collect();
    let done = vec![false; operations.len()];
    let left = operations.iter().filter(|o| matches!(o.outcome, Outcome::Done(_))).count();
    let mut search = Search { operations, done, left, seen: BTreeSet::new(), steps: steps_max };
    match search.extend(&Model::default()) {
        Some(true) => Finding::Linearizable,
        Some(false) => Finding::NotLinearizable,
        None => Finding::Inconclusive,
    }
}

fn takes_part(operation: &Operation) -> bool {
    match (&operation.outcome, &operation.request) {
        (Outcome::Done(_), Request::Range(range)) => !range.serializable,
        (Outcome::Done(_), _) => true,
        (Outcome::Unknown(_), request) => request.may_write(),
        (Outcome::Refused(_) | Outcome::Failed(_), _) => false,
    }
}

impl Search<'_> {
    /// Whether the operations that are left can follow; `None` when out of steps.
    fn extend(&mut self, model: &Model) -> Option<bool> {
        if self.left == 0 {
            return Some(true);
        }
        let state =
            format!("{:?}", model.range_at(&crate::model::Range::of(Span::all()), i64::MAX));
        if !self.seen.insert((self.done.clone(), state)) {
            return Some(false);
        }
        let horizon = self.horizon();
        for i in 0..self.operations.len() {
            if self.done[i] || self.operations[i].called > horizon {
                continue;
            }
            self.steps = self.steps.checked_sub(1)?;
            let mut next = model.clone();
            let reply = next.apply(&self.operations[i].request);
            let known = match &self.operations[i].outcome {
                Outcome::Done(seen) if *seen != reply => continue,
                Outcome::Done(_) => true,
                Outcome::Unknown(_) | Outcome::Refused(_) | Outcome::Failed(_) => false,
            };
            self.done[i] = true;
            self.left -= usize::from(known);
            if self.extend(&next)? {
                return Some(true);
            }
            self.left += usize::from(known);
            self.done[i] = false;
        }
        Some(false)
    }

    /// The earliest return among the operations that are left: what was called after it comes
    /// later.
    fn horizon(&self) -> Nanos {
        let left = self.operations.iter().zip(&self.done).filter(|(_, done)| !**done);
        let known = left.filter(|(o, _)| matches!(o.outcome, Outcome::Done(_)));
        known.map(|(o, _)| o.returned).min().unwrap_or(Nanos::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::linearizability;
    use crate::history::History;
    use crate::model::{Delete, Put, Range};
    use crate::random::Stream;

    /// A random history of overlapping operations on two keys: each takes effect at a moment
    /// between its call and its return, or its outcome is unknown.
    fn random_history(stream: &mut Stream) -> History {
        let mut effects: Vec<(Nanos, u64, Request)> = Vec::new();
        for n in 0..stream.between(3, 9) {
            let key = *stream.pick(&["a", "b"]);
            let request = match stream.below(4) {
                0 | 1 => Request::Put(Put {
                    prev_kv: stream.chance(300),
                    ..Put::of(key, format!("v{n}"))
                }),
                2 => Request::Delete(Delete { span: Span::one(key), prev_kv: true }),
                _ => Request::Range(Range::of(Span::all())),
            };
            effects.push((100 + stream.below(100), n, request));
        }
        effects.sort_by_key(|(at, n, _)| (*at, *n));
        let mut model = Model::default();
        let mut operations = Vec::new();
        for (at, client, request) in effects {
            let (called, returned) = (at - stream.below(60), at + stream.below(60));
            let outcome = if stream.chance(150) {
                if stream.chance(500) {
                    model.apply(&request);
                }
                Outcome::Unknown("timeout".into())
            } else {
                Outcome::Done(model.apply(&request))
            };
            operations.push(Operation { client, member: 0, request, called, returned, outcome });
        }
        operations.sort_by_key(|o| o.returned);
        History { operations, ..History::default() }
    }

    fn falsify(history: &mut History, stream: &mut Stream) {
        let n = history.operations.len() as u64;
        let i = stream.below(n) as usize;
        let j = stream.below(n) as usize;
        match stream.below(3) {
            0 => {
                let outcome = history.operations[i].outcome.clone();
                history.operations[j].outcome = outcome;
            }
            1 => {
                let late = history.operations[i].returned + 200;
                history.operations[j].called += late;
                history.operations[j].returned += late;
            }
            _ => drop(history.operations.remove(i)),
        }
        history.operations.sort_by_key(|o| o.returned);
    }

    #[test]
    fn both_judges_agree_on_true_and_on_falsified_histories() {
        let mut stream = Stream::new(11, "judges");
        let (mut passed, mut rejected) = (0, 0);
        for round in 0..3000 {
            let mut history = random_history(&mut stream);
            if round % 2 == 1 {
                falsify(&mut history, &mut stream);
            }
            let by_revision = linearizability::check(&history);
            let by_search = search(&history.operations, 2_000_000);
            let expected = match &by_revision {
                Ok(_) => Finding::Linearizable,
                Err(_) => Finding::NotLinearizable,
            };
            assert_eq!(by_search, expected, "{by_revision:?} for {history:#?}");
            match by_search {
                Finding::Linearizable => passed += 1,
                Finding::NotLinearizable => rejected += 1,
                Finding::Inconclusive => panic!("short histories are decided"),
            }
        }
        assert!(passed > 1500 && rejected > 500, "{passed} passed, {rejected} rejected");
    }
}
