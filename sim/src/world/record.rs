//! What a timeline is made of: gathered from the book when a run is over.

use super::book::Book;
use super::short::{Short, ShortOutcome};
use crate::checker::Violation;
use crate::history;
use crate::history::streams::Stream;
use crate::plan::Plan;
use crate::timeline::record::{Answer, Call, Record, Watch};

/// What a timeline is made of, if one is wanted.
pub fn record(plan: &Plan, book: &mut Book, violation: Option<&Violation>) -> Option<Record> {
    let happenings = book.happenings.take()?;
    let caller = |client| match client < plan.workload.clients {
        true => format!("client {client}"),
        false => "probes".to_string(),
    };
    let call = |o: &history::Operation| Call {
        client: caller(o.client),
        member: o.member,
        called: o.called,
        returned: o.returned,
        answer: match o.outcome {
            history::Outcome::Done(_) => Answer::Done,
            history::Outcome::Refused(_) => Answer::Refused,
            history::Outcome::Failed(_) => Answer::Failed,
            history::Outcome::Unknown(_) => Answer::Unknown,
        },
        words: format!("{} {}", Short(&o.request), ShortOutcome(&o.outcome)),
    };
    let o = &plan.options;
    let fact = |name: &str, text: String| (name.to_string(), text);
    let last = happenings.last().map_or(0, |happening| happening.at);
    let calls: Vec<Call> = book.history.operations.iter().map(call).collect();
    let end = calls.iter().map(|call| call.returned).max().unwrap_or(0).max(last);
    Some(Record {
        title: format!("Seed {}, mode {}", plan.seed, plan.mode.name()),
        facts: vec![
            fact("members", o.members.to_string()),
            fact("heartbeat, election", format!("{} ms, {} ms", o.heartbeat_ms, o.election_ms)),
            fact("faults", plan.actions.len().to_string()),
            fact("calls", calls.len().to_string()),
        ],
        names: (0..book.members.len()).map(|member| format!("m{member}")).collect(),
        ids: book.ids().clone(),
        happenings,
        calls,
        watches: book.history.streams.iter().map(watch).collect(),
        violation: violation.cloned(),
        slow_sync: o.heartbeat_ms * 1_000_000,
        end,
        wall_ms: None,
    })
}

/// What one stream of a watcher was told, and when.
fn watch(stream: &Stream) -> Watch {
    let span = &stream.span;
    let end = if span.end.is_empty() { String::new() } else { format!("..{:?}", span.end) };
    Watch {
        watcher: format!("watcher {}", stream.client),
        member: stream.member,
        opened: stream.opened,
        closed: stream.closed,
        deliveries: stream.deliveries.iter().map(|d| (d.at, d.events.len())).collect(),
        words: format!("{:?}{end} from revision {}", span.key, stream.start),
    }
}
