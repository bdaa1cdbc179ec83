//! Histories as JSON, for a judge that shares no code with ours (`tests/compat/judge`): what the
//! clients saw in a run, and for each a falsified copy. Each file says how we judge it.

use crate::checker::linearizability::{self, Ruling};
use crate::history::{History, Operation, Outcome};
use crate::model::{Answer, Model, Reply, Request};
use crate::plan::Plan;
use crate::random::Stream;
use crate::run;
use crate::sweep::Plans;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    pub consistent: u64,
    pub inconclusive: u64,
    /// Falsified ones that we refute.
    pub refuted: u64,
    /// Falsified ones that are possible all the same.
    pub possible: u64,
}

/// So many falsified histories are refuted for each one that is possible, at the least.
const REFUTED_MIN: u64 = 20;

/// Runs seeds and writes their histories into `dir`.
///
/// # Errors
/// When a run breaks a guarantee, more than a few falsified histories pass, or a file can't be
/// written.
pub fn write(plans: Plans, first: u64, seeds: u64, dir: &Path) -> Result<Written, String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut written = Written::default();
    for seed in first..first + seeds {
        let outcome = run::run(&plain(plans.draw(seed)), true);
        if let Some(violation) = outcome.violation {
            return Err(format!("seed {seed}: {violation}"));
        }
        let history = outcome.history.ok_or("a run with its trace has its history")?;
        let (verdict, count) = match outcome.inconclusive {
            true => ("inconclusive", &mut written.inconclusive),
            false => ("consistent", &mut written.consistent),
        };
        *count += 1;
        save(dir, &format!("{seed}-true"), verdict, &history)?;
        let Ok((Ruling::Consistent, model)) = linearizability::replay(&history, &BTreeMap::new())
        else {
            continue;
        };
        let Some(falsified) = falsify(&history, &model, seed) else { continue };
        let verdict = match linearizability::check(&falsified) {
            Err(_) => {
                written.refuted += 1;
                "violated"
            }
            Ok(Ruling::Inconclusive) => {
                written.inconclusive += 1;
                "inconclusive"
            }
            // A write whose outcome nobody knows may have made it true.
            Ok(Ruling::Consistent) => {
                written.possible += 1;
                "consistent"
            }
        };
        save(dir, &format!("{seed}-false"), verdict, &falsified)?;
    }
    if written.refuted < written.possible * REFUTED_MIN {
        return Err(format!("too many falsified histories pass: {written:?}"));
    }
    Ok(written)
}

/// The plan without those whose writes a judge of plain requests could not know of.
fn plain(mut plan: Plan) -> Plan {
    (plan.workload.lessees, plan.workload.lockers) = (0, 0);
    plan
}

fn save(dir: &Path, name: &str, verdict: &str, history: &History) -> Result<(), String> {
    let operations: Vec<Value> = history.operations.iter().filter_map(operation).collect();
    let text = json!({ "verdict": verdict, "operations": operations }).to_string();
    let path = dir.join(format!("{name}.json"));
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// What takes part: reads of the present that may not be stale, and what writes.
fn operation(operation: &Operation) -> Option<Value> {
    let takes_part = match &operation.request {
        Request::Range(range) => !range.serializable && range.revision == 0,
        Request::Put(_) | Request::Delete(_) | Request::Txn(_) => true,
        Request::Compact { .. } => false,
    };
    let reply = match &operation.outcome {
        Outcome::Done(reply) => Some(reply),
        Outcome::Unknown(_) if operation.request.may_write() => None,
        Outcome::Unknown(_) | Outcome::Refused(_) | Outcome::Failed(_) => return None,
    };
    takes_part.then(|| {
        json!({
            "client": operation.client,
            "called": operation.called,
            "returned": operation.returned,
            "request": operation.request,
            "reply": reply,
        })
    })
}

/// The same history with one read that is wrong: it saw the state before a write that had been
/// acknowledged when it was called, or it missed a key.
fn falsify(history: &History, model: &Model, seed: u64) -> Option<History> {
    let mut chance = Stream::new(seed, "falsify");
    let acknowledged_before = |called: u64| {
        let wrote = history.operations.iter().filter(move |o| o.returned < called);
        wrote.filter_map(|o| match &o.outcome {
            Outcome::Done(reply) if reply.answer.wrote() => Some(reply.revision),
            _ => None,
        })
    };
    let stale = chance.chance(500);
    let mut wrong = Vec::new();
    for (i, o) in history.operations.iter().enumerate() {
        let (Request::Range(range), Outcome::Done(reply)) = (&o.request, &o.outcome) else {
            continue;
        };
        if range.serializable || range.revision != 0 || range.count_only {
            continue;
        }
        let reply = if stale {
            let Some(newest) = acknowledged_before(o.called).max() else { continue };
            Reply { revision: newest - 1, answer: model.range_at(range, newest - 1) }
        } else {
            match &reply.answer {
                Answer::Range { kvs, .. } if !kvs.is_empty() => {}
                _ => continue,
            }
            let answer = Answer::Range { kvs: Vec::new(), count: 0, more: false };
            Reply { revision: reply.revision, answer }
        };
        wrong.push((i, reply));
    }
    if wrong.is_empty() {
        return None;
    }
    let (i, reply) = chance.pick(&wrong).clone();
    let mut falsified = history.clone();
    falsified.operations[i].outcome = Outcome::Done(reply);
    // What was asked for later can't make it right, and only costs a judge time.
    let returned = falsified.operations[i].returned;
    falsified.operations.retain(|o| o.called <= returned);
    Some(falsified)
}
