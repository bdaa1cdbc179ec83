//! What the leader does about leases: it ends those whose time is up, writes down what is left of
//! long ones, and renews them once it knows that it still leads.
//!
//! Every decision that others must share goes through the log and carries the term in which it
//! was made; apply refuses it in any other term. So a leader that was deposed without noticing
//! ends nothing, and one that is paused between two lines does no harm when it goes on.

use super::handle::{Caller, Handle};
use super::shared::Shared;
use crate::apply::request::Op;
use crate::error::{Error, Result};
use crate::lease::{Grant, RenewError, TimeToLive};
use crate::pb::raftpb::{LeaseCheckpoint, LeaseExpire, LeaseRemaining};
use crate::raft::message::Term;
use std::sync::Arc;
use std::time::Duration;

/// How long the deadlines may go unlooked at. The least TTL is longer, so that no lease granted
/// meanwhile is overlooked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Leases in one proposal. Each of them is a revision, and apply does them in one go, while
/// which nobody reads: 50,000 leases are 200 proposals, and writes go in between.
const EXPIRE_BATCH: usize = 256;

/// Leases in one checkpoint, which costs apply next to nothing.
const CHECKPOINT_BATCH: usize = 1000;

/// The answer for a lease whose end is under way: ask again, or see it gone.
pub const EXPIRING: i64 = -1;

/// Ends leases whose time is up, while this member leads; runs until the server stops.
pub async fn run(shared: Arc<Shared>) {
    let handle = Handle::new(shared.clone());
    loop {
        let pause = match lead(&shared) {
            Some(term) => {
                expire(&handle, term).await;
                write_checkpoints(&handle, term).await;
                let now = shared.env.clock.now().since_start();
                let next = shared.state().lessor.next_deadline();
                next.map_or(CHECK_INTERVAL, |next| next.saturating_sub(now)).min(CHECK_INTERVAL)
            }
            None => CHECK_INTERVAL,
        };
        // A refused proposal leaves its leases due: they must not be tried without a pause.
        shared.env.clock.sleep(pause.max(Duration::from_millis(10))).await;
        if shared.stop_reason().is_some() {
            return;
        }
    }
}

/// The term that this member leads, as far as it knows.
fn lead(shared: &Shared) -> Option<Term> {
    let view = shared.view();
    view.is_leader.then_some(view.term)
}

async fn expire(handle: &Handle, term: Term) {
    let shared = handle.shared();
    loop {
        let now = shared.env.clock.now().since_start();
        let due = shared.state_mut().lessor.expired(now, EXPIRE_BATCH);
        if due.is_empty() {
            return;
        }
        let ids = due.iter().map(|grant| grant.id).collect();
        let granted_at = due.iter().map(|grant| grant.index).collect();
        let proposal = Op::LeaseExpire(LeaseExpire { term, ids, granted_at });
        let outcome = handle.propose(&Caller::default(), proposal).await;
        // What was not revoked is due again: the proposal was lost, refused, or applied in
        // another term. One that is late and yet applied finds the leases gone, or ends them
        // while nobody can have renewed them, because they were due all the time.
        shared.state_mut().lessor.not_expired(&due);
        match outcome {
            Ok(_) => shared.metrics.lease_expired_total.inc_by(due.len() as u64),
            Err(error) => {
                tracing::warn!(%error, leases = due.len(), "expiry was not proposed");
                return;
            }
        }
    }
}

fn remaining(grant: Grant, remaining_ttl: i64) -> LeaseRemaining {
    LeaseRemaining { id: grant.id, remaining_ttl, granted_at: grant.index }
}

async fn write_checkpoints(handle: &Handle, term: Term) {
    let shared = handle.shared();
    loop {
        let now = shared.env.clock.now().since_start();
        let due = shared.state_mut().lessor.due_checkpoints(now, CHECKPOINT_BATCH);
        if due.is_empty() {
            return;
        }
        let leases = due.into_iter().map(|(grant, left)| remaining(grant, left)).collect();
        let proposal = Op::LeaseCheckpoint(LeaseCheckpoint { term, leases });
        if let Err(error) = handle.propose(&Caller::default(), proposal).await {
            // The next checkpoint of these leases is due in five minutes.
            tracing::debug!(%error, "what is left of leases was not written down");
            return;
        }
    }
}

/// Renews leases on this member, which must lead: one confirmation of that for all of them.
///
/// Answers in the order of the ids: the TTL, 0 for a lease that is not there, `EXPIRING` for one
/// whose end is under way.
///
/// # Errors
/// When this member does not lead, or cannot make sure that it does.
pub async fn renew_here(shared: &Arc<Shared>, ids: &[i64]) -> Result<Vec<i64>> {
    let term = lead(shared).ok_or(Error::NotLeader)?;
    let handle = Handle::new(shared.clone());
    // Confirmed after the callers asked, and everything committed before is applied: a lease
    // whose grant was acknowledged is found. Who leads a term at its begin and its end has
    // answered the read itself.
    handle.linearizable_barrier().await?;
    let mut ttls = Vec::with_capacity(ids.len());
    let mut resets = Vec::new();
    {
        let mut state = shared.state_mut();
        if lead(shared) != Some(term) {
            return Err(Error::LeaderChanged);
        }
        let now = shared.env.clock.now().since_start();
        for &id in ids {
            ttls.push(match state.lessor.renew(id, now) {
                Ok(renewed) => {
                    if renewed.must_reset {
                        resets.push(remaining(renewed.grant, 0));
                    }
                    renewed.ttl
                }
                Err(RenewError::NotFound) => 0,
                Err(RenewError::Expiring) => EXPIRING,
                Err(RenewError::NotPrimary) => return Err(Error::LeaderChanged),
            });
        }
    }
    shared.metrics.lease_renewed_total.inc_by(ids.len() as u64);
    if !resets.is_empty() {
        let proposal = Op::LeaseCheckpoint(LeaseCheckpoint { term, leases: resets });
        handle.propose(&Caller::default(), proposal).await?;
        // In another term it was applied in vain, and the next leader knows the old remainder.
        if lead(shared) != Some(term) {
            return Err(Error::LeaderChanged);
        }
    }
    Ok(ttls)
}

/// What this member, which must lead, knows of a lease.
///
/// # Errors
/// When this member does not lead, or cannot make sure that it does.
pub async fn time_to_live_here(shared: &Arc<Shared>, id: i64) -> Result<Option<TimeToLive>> {
    let term = lead(shared).ok_or(Error::NotLeader)?;
    Handle::new(shared.clone()).linearizable_barrier().await?;
    let state = shared.state();
    if lead(shared) != Some(term) || !state.lessor.is_primary() {
        return Err(Error::LeaderChanged);
    }
    Ok(state.lessor.time_to_live(id, shared.env.clock.now().since_start()))
}
