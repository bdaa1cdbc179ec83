//! What the clients saw: every operation with the moments of its call and its return.

/// What backups hold.
pub mod backups;
/// What was asked of leases, and what became of them.
pub mod leases;
/// Whose turn it was in locks and elections.
pub mod queues;
/// What watchers were told.
pub mod streams;

use crate::model::{Reply, Request};
use crate::moment::Nanos;
use backups::Backup;
use leases::Leases;
use queues::Queues;
use std::collections::BTreeSet;
use streams::Stream;

/// How an operation ended, as far as its client can know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done(Reply),
    /// The server refused it for what it says, at the state it was applied to: no effect.
    Refused(Refusal),
    /// It certainly had no effect: it was never proposed.
    Failed(String),
    /// It may have had its effect, may have it later, or never.
    Unknown(String),
}

/// A refusal whose truth can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Compacted,
    FutureRevision,
    LeaseNotFound,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u64,
    /// The member that was asked.
    pub member: usize,
    pub request: Request,
    pub called: Nanos,
    /// When the client learned the outcome; for an unknown one, when it gave up.
    pub returned: Nanos,
    pub outcome: Outcome,
}

/// All operations of a run, in the order in which they returned, what the watchers were told, and
/// what became of leases, locks and elections.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    pub streams: Vec<Stream>,
    pub leases: Leases,
    pub queues: Queues,
    pub backups: Vec<Backup>,
}

impl History {
    pub fn push(&mut self, operation: Operation) {
        assert!(
            operation.called <= operation.returned,
            "an operation returned before it was called: {operation:?}"
        );
        self.operations.push(operation);
    }

    /// How many operations were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.operations.iter().filter(|o| matches!(o.outcome, Outcome::Done(_))).count()
    }

    /// The revisions that no acknowledged write created, up to the highest that anybody saw.
    pub fn unexplained_revisions(&self) -> Vec<i64> {
        let ends = self.leases.deletions();
        let mut explained: BTreeSet<i64> = ends.into_keys().collect();
        let mut highest = explained.last().copied().unwrap_or(1);
        for operation in &self.operations {
            if let Outcome::Done(reply) = &operation.outcome {
                highest = highest.max(reply.revision);
                if reply.answer.wrote() {
                    explained.insert(reply.revision);
                }
            }
        }
        let deliveries = self.streams.iter().flat_map(|stream| &stream.deliveries);
        let seen = deliveries.flat_map(|delivery| &delivery.events).map(|event| event.revision);
        let seen = seen.chain(self.backups.iter().map(|backup| backup.revision));
        // No more than a write of unknown outcome each can have made them.
        let most = highest + self.operations.len() as i64;
        highest = seen.filter(|revision| *revision <= most).fold(highest, i64::max);
        (2..=highest).filter(|r| !explained.contains(r)).collect()
    }

    /// The revisions of the compactions that were asked for, with the moments of the calls.
    pub fn compactions(&self) -> Vec<(Nanos, i64)> {
        let asked = |o: &Operation| match (&o.request, &o.outcome) {
            (_, Outcome::Failed(_)) => None,
            (Request::Compact { revision, .. }, _) => Some((o.called, *revision)),
            (_, _) => None,
        };
        self.operations.iter().filter_map(asked).collect()
    }
}
