//! Leases: never gone while somebody asked for them in time, gone soon after nobody does.
//!
//! Time is the leader's own: every call and every fact carries what all the members' clocks showed
//! at its moment, and a bound is held against the clock of the member that led when the lease
//! ended. Wall clocks appear nowhere, so that a jump of one must not show.

use super::{Guarantee, Violation};
use crate::history::leases::{Ask, LeaseCall, LeaseEnd, LeaseGrant, Leases, Told};
use crate::history::{History, Operation, Outcome, Refusal};
use crate::model::{Answer, Model, Request};
use crate::moment::Nanos;

const SECOND: Nanos = 1_000_000_000;

/// What must be true when the run is over.
#[derive(Clone, Debug)]
pub struct Closing {
    pub at: Nanos,
    /// From then on there was a leader and nothing failed.
    pub healed_at: Nanos,
    /// The time beyond a TTL after which a lease must be gone.
    pub margin: Nanos,
}

/// Judges everything about leases but the upper bound.
pub fn check(history: &History) -> Result<(), Violation> {
    let leases = &history.leases;
    leases.ends.iter().try_for_each(|end| check_end(leases, end))?;
    leases.calls.iter().try_for_each(|call| check_call(leases, call))?;
    history.operations.iter().try_for_each(|operation| check_operation(leases, operation))
}

/// A lease ends because somebody revoked it, or a TTL after it was last renewed.
fn check_end(leases: &Leases, end: &LeaseEnd) -> Result<(), Violation> {
    let fail = |text| Err(Violation::new(Guarantee::LeaseLower, Some(end.at), text));
    let Some(grant) = leases.grant_before(end) else {
        return fail(format!("{end:?} of a lease that was not granted"));
    };
    if !end.expired {
        let asked = |c: &LeaseCall| c.id == end.id && c.ask == Ask::Revoke && c.called <= end.at;
        if leases.calls.iter().any(asked) {
            return Ok(());
        }
        return fail(format!("{end:?}, and nobody had revoked it"));
    }
    let Some(leader) = end.leader else {
        return fail(format!("{end:?} in a term without a leader"));
    };
    // Who was told after a new grant of the same id may have been told about that one.
    let mut grants = leases.grants.iter().filter(|g| g.id == end.id && g.index > end.index);
    let next = grants.next().map_or(Nanos::MAX, |grant| grant.at);
    let before = |call: &&LeaseCall| call.called < end.at && call.returned < next;
    for call in leases.renewals(grant).filter(before) {
        let Told::Alive(_) = call.told else { continue };
        let lived = end.clocks[leader] - call.clocks[leader];
        if lived < grant.ttl as u64 * SECOND {
            let ms = lived / 1_000_000;
            return fail(format!("{end:?}, {ms} ms by the clock of m{leader} after {call:?}"));
        }
    }
    Ok(())
}

/// Nobody is told that a lease is gone while it is there, nor that one is granted twice.
fn check_call(leases: &Leases, call: &LeaseCall) -> Result<(), Violation> {
    let fail = |text| Err(Violation::new(Guarantee::LeaseLower, Some(call.returned), text));
    match &call.told {
        Told::Gone => match leases.surely_alive(call.id, call.called, call.returned) {
            Some(grant) => fail(format!("{call:?}, but it is there: {grant:?}")),
            None => Ok(()),
        },
        Told::Exists => {
            let there = |grant: &LeaseGrant| {
                let ended = leases.end_of(grant).is_some_and(|end| end.at < call.called);
                grant.id == call.id && grant.at <= call.returned && !ended
            };
            if leases.grants.iter().any(there) {
                return Ok(());
            }
            fail(format!("{call:?}, but there was none"))
        }
        Told::Alive(_) if call.id <= 0 => fail(format!("{call:?}, which is no id of a lease")),
        Told::Alive(_) | Told::Keys(..) => {
            let there = |grant: &LeaseGrant| {
                let ended = leases.end_of(grant).is_some_and(|end| end.at < call.called);
                grant.id == call.id && grant.at <= call.returned && !ended
            };
            if leases.grants.iter().any(there) {
                return Ok(());
            }
            let text = format!("{call:?}, but it was gone");
            Err(Violation::new(Guarantee::LeaseUpper, Some(call.returned), text))
        }
        Told::Revoked => {
            if leases.surely_alive(call.id, call.called, call.returned).is_none() {
                return Ok(());
            }
            let text = format!("{call:?}, but it goes on");
            Err(Violation::new(Guarantee::LeaseUpper, Some(call.returned), text))
        }
        Told::Unknown(_) => Ok(()),
    }
}

/// A key is attached to a lease that is there, and refused only if it is not.
fn check_operation(leases: &Leases, operation: &Operation) -> Result<(), Violation> {
    let fail = |text| Err(Violation::new(Guarantee::LeaseLower, Some(operation.returned), text));
    match &operation.outcome {
        Outcome::Refused(Refusal::LeaseNotFound) => {
            let (called, returned) = (operation.called, operation.returned);
            let mut ids = Vec::new();
            put_leases(&operation.request, &mut ids);
            if ids.iter().all(|id| leases.surely_alive(*id, called, returned).is_some()) {
                return fail(format!("{operation:?}, but the leases are there"));
            }
            Ok(())
        }
        Outcome::Done(reply) => {
            let mut ids = Vec::new();
            executed_leases(&operation.request, &reply.answer, &mut ids);
            for id in ids {
                let there = |grant: &LeaseGrant| {
                    let end = leases.end_of(grant);
                    grant.id == id
                        && grant.revision < reply.revision
                        && end.is_none_or(|end| reply.revision <= end.revision)
                };
                if !leases.grants.iter().any(there) {
                    return fail(format!("{operation:?}, but lease {id:x} was not there"));
                }
            }
            Ok(())
        }
        Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown(_) => Ok(()),
    }
}

fn put_leases(request: &Request, ids: &mut Vec<i64>) {
    match request {
        Request::Put(put) if put.lease != 0 => ids.push(put.lease),
        Request::Txn(txn) => {
            txn.success.iter().chain(&txn.failure).for_each(|request| put_leases(request, ids));
        }
        Request::Put(_) | Request::Range(_) | Request::Delete(_) | Request::Compact { .. } => {}
    }
}

/// The leases that were attached to, as the answer says.
fn executed_leases(request: &Request, answer: &Answer, ids: &mut Vec<i64>) {
    match (request, answer) {
        (Request::Txn(txn), Answer::Txn { succeeded, .. }) => {
            let side = if *succeeded { &txn.success } else { &txn.failure };
            side.iter().for_each(|request| put_leases(request, ids));
        }
        (_, _) => put_leases(request, ids),
    }
}

/// The keys of a lease were those of some revision between the call and the answer.
pub fn check_keys(history: &History, model: &Model) -> Result<(), Violation> {
    for call in &history.leases.calls {
        let Told::Keys(keys, revision) = &call.told else { continue };
        let before = |o: &&Operation| o.returned < call.called;
        let seen = history.operations.iter().filter(before).filter_map(|o| match &o.outcome {
            Outcome::Done(reply) => Some(reply.revision),
            Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown(_) => None,
        });
        let from = seen.max().unwrap_or(1);
        let to = (*revision).min(model.revision());
        if to < from || (from..=to).any(|at| model.attached(call.id, at) == *keys) {
            continue;
        }
        let attached = model.attached(call.id, to);
        let text = format!("{call:?}, but attached at {to} are {attached:?}");
        return Err(Violation::new(Guarantee::Linearizability, Some(call.returned), text));
    }
    Ok(())
}

/// Every lease must be gone a TTL and a margin after it was last renewed, or could have been.
pub fn check_closing(leases: &Leases, closing: &Closing) -> Result<(), Violation> {
    for grant in leases.alive() {
        let last = leases.renewals(grant).map(|call| call.returned).max().unwrap_or(grant.at);
        let due = last.max(closing.healed_at) + grant.ttl as u64 * SECOND + closing.margin;
        if closing.at > due {
            let text = format!("{grant:?} was last renewed at {last} ns and is not gone");
            return Err(Violation::new(Guarantee::LeaseUpper, Some(closing.at), text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Put, Reply};

    const MS: Nanos = 1_000_000;

    /// Lease 7 of 2 s is granted, renewed at 1 s, and ends at 3.1 s with one key, in revision 3.
    /// Member 1's clock is a tenth faster than the others'.
    fn truth() -> History {
        let clocks = |at: Nanos| vec![at, at * 11 / 10, at];
        let call = |ask, ms: Nanos, told| LeaseCall {
            client: 0,
            member: 0,
            id: 7,
            ask,
            called: ms * MS,
            clocks: clocks(ms * MS),
            returned: (ms + 10) * MS,
            told,
        };
        let mut history = History::default();
        history.leases.calls = vec![
            call(Ask::Grant, 0, Told::Alive(2)),
            call(Ask::Renew, 1_000, Told::Alive(2)),
            call(Ask::TimeToLive, 1_500, Told::Keys(vec!["a".into()], 2)),
            call(Ask::Renew, 3_200, Told::Gone),
        ];
        history.leases.grants =
            vec![LeaseGrant { id: 7, index: 4, revision: 1, ttl: 2, at: 5 * MS }];
        history.leases.ends = vec![LeaseEnd {
            id: 7,
            index: 9,
            revision: 3,
            keys: 1,
            expired: true,
            at: 3_100 * MS,
            clocks: clocks(3_100 * MS),
            leader: Some(0),
        }];
        let put = Request::Put(Put { lease: 7, ..Put::of("a", "1") });
        let done = Outcome::Done(Reply { revision: 2, answer: Answer::Put { prev: None } });
        let refused = Outcome::Refused(Refusal::LeaseNotFound);
        for (ms, outcome) in [(500, done), (3_150, refused)] {
            let (called, returned) = (ms * MS, (ms + 5) * MS);
            let request = put.clone();
            let operation = Operation { client: 1, member: 0, request, called, returned, outcome };
            history.push(operation);
        }
        history
    }

    fn falsified(change: impl Fn(&mut History)) -> Guarantee {
        let mut history = truth();
        change(&mut history);
        check(&history).expect_err("a false history").guarantee
    }

    #[test]
    fn a_true_history_passes() {
        check(&truth()).expect("true");
        // By the clock of the member that leads, 1.9 true seconds may be two.
        let mut fast = truth();
        fast.leases.ends[0].leader = Some(1);
        fast.leases.ends[0].clocks[1] = fast.leases.calls[1].clocks[1] + 2_000 * MS;
        check(&fast).expect("the leader's own clock counts");
        // A renewal of unknown outcome promises nothing.
        let mut unknown = truth();
        unknown.leases.calls[3].told = Told::Unknown("timeout".into());
        unknown.leases.calls[3].called = 2_900 * MS;
        check(&unknown).expect("nothing was promised");
    }

    #[test]
    fn an_end_too_early_is_rejected() {
        let lower = Guarantee::LeaseLower;
        assert_eq!(falsified(|h| h.leases.ends[0].clocks[0] = 2_990 * MS), lower);
        assert_eq!(falsified(|h| h.leases.ends[0].expired = false), lower, "nobody revoked it");
        assert_eq!(falsified(|h| h.leases.ends[0].leader = None), lower);
        assert_eq!(falsified(|h| drop(h.leases.ends.pop())), lower, "it is still there");
        assert_eq!(falsified(|h| h.leases.calls[1].told = Told::Gone), lower);
        assert_eq!(falsified(|h| h.operations[0].outcome = h.operations[1].outcome.clone()), lower);
        assert_eq!(falsified(|h| h.leases.calls[0].id = -7), lower);
        let late = |h: &mut History| {
            let answer = Answer::Put { prev: None };
            h.operations[1].outcome = Outcome::Done(Reply { revision: 4, answer });
        };
        assert_eq!(falsified(late), lower, "a key attached to a lease that was gone");
    }

    #[test]
    fn an_end_too_late_is_rejected() {
        let upper = Guarantee::LeaseUpper;
        assert_eq!(falsified(|h| h.leases.calls[3].told = Told::Alive(2)), upper);
        let revoked = |h: &mut History| {
            h.leases.calls[1].ask = Ask::Revoke;
            h.leases.calls[1].told = Told::Revoked;
        };
        assert_eq!(falsified(revoked), upper, "it ended two seconds later");
        let mut leases = truth().leases;
        let closing = |ms: Nanos, healed: Nanos| Closing {
            at: ms * MS,
            healed_at: healed * MS,
            margin: 500 * MS,
        };
        check_closing(&leases, &closing(90_000, 0)).expect("it is gone");
        leases.ends.clear();
        leases.calls.truncate(2);
        check_closing(&leases, &closing(3_500, 0)).expect("it may live a little longer");
        check_closing(&leases, &closing(5_500, 3_100)).expect("nobody led");
        let broken = check_closing(&leases, &closing(3_600, 0)).expect_err("it should be gone");
        assert_eq!(broken.guarantee, upper);
    }
}
