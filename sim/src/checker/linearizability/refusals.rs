//! Whether what was refused had to be, and what was answered might be.

use super::{Replay, describe};
use crate::checker::Violation;
use crate::history::{Operation, Outcome, Refusal};
use crate::model::Request;

impl<'a> Replay<'a> {
    /// A refusal must be explained: a compacted revision by a compaction that was asked for, a
    /// future one by nobody having seen that revision before.
    pub(super) fn check_refusals(&self) -> Result<(), Violation> {
        let compactions: Vec<(i64, &Operation)> =
            self.operations.iter().filter_map(compaction).collect();
        for (i, operation) in self.operations.iter().enumerate() {
            let asked = match &operation.request {
                Request::Range(range) => range.revision,
                Request::Compact { revision, .. } => *revision,
                Request::Txn(txn) => txn.success.iter().map(old_revision).max().unwrap_or(0),
                Request::Put(_) | Request::Delete(_) => 0,
            };
            match operation.outcome {
                Outcome::Refused(Refusal::Compacted) => {
                    let explained = compactions
                        .iter()
                        .any(|(r, c)| *r >= asked && c.called <= operation.returned);
                    if !explained {
                        return Err(self.violation(i, "nobody asked for such a compaction"));
                    }
                }
                Outcome::Refused(Refusal::FutureRevision) => {
                    if let Some(j) = self.seen_before(asked, operation) {
                        let text = format!("was seen before: {}", describe(j, &self.operations[j]));
                        return Err(self.violation(i, &text));
                    }
                }
                Outcome::Done(_) => {
                    if let Some((r, _)) = self.compacted_before(asked, operation, &compactions) {
                        let text = format!("answered although {r} had been compacted");
                        return Err(self.violation(i, &text));
                    }
                }
                // Whether the lease was there is for the checker of leases to say.
                Outcome::Refused(Refusal::LeaseNotFound)
                | Outcome::Failed(_)
                | Outcome::Unknown(_) => {}
            }
        }
        Ok(())
    }

    fn seen_before(&self, revision: i64, by: &Operation) -> Option<usize> {
        if matches!(&by.request, Request::Range(range) if range.serializable) {
            return None;
        }
        let saw = |o: &Operation| match &o.outcome {
            Outcome::Done(reply) => o.returned < by.called && reply.revision >= revision,
            Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown(_) => false,
        };
        self.operations.iter().position(saw)
    }

    fn compacted_before(
        &self,
        asked: i64,
        by: &Operation,
        compactions: &[(i64, &'a Operation)],
    ) -> Option<(i64, &'a Operation)> {
        let Request::Range(range) = &by.request else { return None };
        if asked == 0 || range.serializable {
            return None;
        }
        let done = |c: &Operation| matches!(c.outcome, Outcome::Done(_)) && c.returned < by.called;
        compactions.iter().copied().find(|(r, c)| *r > asked && done(c))
    }
}

/// The revision at which an operation of a transaction reads; 0 for the newest.
fn old_revision(operation: &Request) -> i64 {
    match operation {
        Request::Range(range) => range.revision,
        Request::Put(_) | Request::Delete(_) | Request::Txn(_) | Request::Compact { .. } => 0,
    }
}

fn compaction(operation: &Operation) -> Option<(i64, &Operation)> {
    match operation.request {
        Request::Compact { revision, .. } => Some((revision, operation)),
        Request::Range(_) | Request::Put(_) | Request::Delete(_) | Request::Txn(_) => None,
    }
}
