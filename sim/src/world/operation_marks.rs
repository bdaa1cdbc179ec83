//! Which mark an operation of a client reaches by its answer.

use crate::history::{Operation, Outcome, Refusal};
use crate::model::{Answer, Request};

/// Refusals by what they say.
const REFUSED: [(&str, &str); 3] = [
    ("space exceeded", "refused without room"),
    ("corrupt cluster", "refused in quarantine"),
    ("no leader", "refused without a leader"),
];

/// The mark of this operation, when `newest` is the newest revision that any client knew of.
pub fn mark(operation: &Operation, newest: i64) -> Option<&'static str> {
    match (&operation.request, &operation.outcome) {
        (request, Outcome::Done(reply)) => match (request, &reply.answer) {
            (Request::Range(range), _) if range.serializable && reply.revision < newest => {
                Some("stale serializable read")
            }
            (Request::Range(range), _) if range.revision > 0 && range.revision < reply.revision => {
                Some("read of an old revision")
            }
            (_, Answer::Txn { succeeded: false, .. }) => Some("swap refused"),
            (_, Answer::Compact) => Some("compacted"),
            (_, _) => None,
        },
        (Request::Range(_), Outcome::Refused(Refusal::Compacted)) => Some("refused as compacted"),
        (_, Outcome::Failed(text)) => {
            let known = REFUSED.iter().find(|(words, _)| text.contains(words));
            known.map(|(_, mark)| *mark)
        }
        (_, Outcome::Refused(_) | Outcome::Unknown(_)) => None,
    }
}
