//! Leases: which keys live only as long as somebody asks for it, and when that time is over.
//!
//! A lease has two parts. What is granted, checkpointed and attached comes out of the log and is
//! alike on every replica. The deadlines are the leader's alone: they are counted by its own
//! monotonic clock, so that a jump of a wall clock neither ends a lease nor prolongs one, and a
//! follower has none. That a deadline is over changes nothing by itself: the leader proposes the
//! end of the lease, and only the log ends it.

mod encoding;

pub use encoding::BadEncoding;

use crate::error::{Error, Result};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The longest time to live that can be asked for, in seconds, as in etcd's `lessor.go`.
pub const TTL_SECS_MAX: i64 = 9_000_000_000;

/// How often the leader writes down what is left of a long lease. A lease with no more than this
/// left needs no checkpoint: a new leader gives it at most this much again.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// One grant of a lease. An id may be granted again once its lease is gone, so what is decided
/// about a lease and takes effect later names the grant that it was decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub id: i64,
    /// Where in the log it was granted.
    pub index: u64,
}

/// Why a lease was not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewError {
    /// This member does not keep the deadlines: the caller asks the leader.
    NotPrimary,
    /// There is no such lease. The answer to the client is a TTL of 0.
    NotFound,
    /// The deadline is over and the end of the lease is under way: wait for the outcome.
    Expiring,
}

/// What a keep-alive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The seconds that the lease has again.
    pub ttl: i64,
    pub grant: Grant,
    /// The log still holds a shorter remainder. It must be reset through the log before the
    /// client is answered, or else a new leader would end the lease too early.
    pub must_reset: bool,
}

/// The answer to a question for the time that is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    pub granted: i64,
    /// In whole seconds; below zero between the deadline and the end. None on a follower.
    pub remaining: Option<i64>,
    /// In order.
    pub keys: Vec<Bytes>,
}

/// When the time of one lease is over, on the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// This member is not the leader.
    None,
    At(Duration),
    /// Over since then, and the proposal that ends the lease is in flight.
    InFlight(Duration),
}

#[derive(Clone, Debug)]
struct Lease {
    /// Where in the log it was granted.
    granted_at: u64,
    ttl: i64,
    /// What was left at the last checkpoint, or 0 for the full TTL.
    remaining_ttl: i64,
    keys: BTreeSet<Bytes>,
    deadline: Deadline,
    /// When the next checkpoint of the remainder is due; the twin of its place in `checkpoints`.
    checkpoint_at: Option<Duration>,
}

impl Lease {
    /// What a new leader has to give.
    fn time_owed(&self) -> Duration {
        let secs = if self.remaining_ttl > 0 { self.remaining_ttl } else { self.ttl };
        Duration::from_secs(u64::try_from(secs).expect("a TTL is positive"))
    }
}

/// All leases of one replica.
///
/// Invariants:
/// - every TTL is within 1..=TTL_SECS_MAX, every id is positive;
/// - a remainder lies within 0..=ttl;
/// - off the leader no lease has a deadline, and `deadlines` and `checkpoints` are empty;
/// - on the leader every lease is in `deadlines` exactly once, or its end is in flight;
/// - `hash` is the sum of the hashes of all leases and attachments.
#[derive(Clone, Debug)]
pub struct Lessor {
    min_ttl: i64,
    leases: BTreeMap<i64, Lease>,
    primary: bool,
    /// In order of time; the id tells leases with one deadline apart.
    deadlines: BTreeSet<(Duration, i64)>,
    checkpoints: BTreeSet<(Duration, i64)>,
    hash: u64,
}

impl Lessor {
    pub fn new(min_ttl_secs: i64) -> Lessor {
        Lessor {
            min_ttl: min_ttl_secs.max(1),
            leases: BTreeMap::new(),
            primary: false,
            deadlines: BTreeSet::new(),
            checkpoints: BTreeSet::new(),
            hash: 0,
        }
    }

    /// The TTL that a request for `asked` seconds gets. The least TTL is this member's setting,
    /// so it is applied before the grant is proposed, never when it is applied.
    pub fn granted_ttl(&self, asked: i64) -> i64 {
        asked.max(self.min_ttl)
    }

    // --- what the log changes ---

    /// Grants a lease. `now` starts its time if this member is the leader.
    pub fn grant(&mut self, grant: Grant, ttl: i64, now: Duration) -> Result<i64> {
        let Grant { id, index: granted_at } = grant;
        if id <= 0 {
            return Err(Error::LeaseNotFound);
        }
        if ttl > TTL_SECS_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let ttl = ttl.max(1);
        let lease = Lease {
            granted_at,
            ttl,
            remaining_ttl: 0,
            keys: BTreeSet::new(),
            deadline: Deadline::None,
            checkpoint_at: None,
        };
        let owed = lease.time_owed();
        self.hash = self.hash.wrapping_add(lease_hash(id, &lease));
        self.leases.insert(id, lease);
        if self.primary {
            self.set_deadline(id, now + owed);
            self.plan_checkpoint(id, now, owed);
        }
        Ok(ttl)
    }

    /// Ends a lease and gives back the keys that go with it, in order.
    pub fn revoke(&mut self, id: i64) -> Result<Vec<Bytes>> {
        let Some(lease) = self.leases.remove(&id) else {
            return Err(Error::LeaseNotFound);
        };
        if let Deadline::At(at) = lease.deadline {
            assert!(self.deadlines.remove(&(at, id)), "lease {id} due at {at:?} was not in order");
        }
        if let Some(at) = lease.checkpoint_at {
            assert!(self.checkpoints.remove(&(at, id)), "lease {id} had a lost checkpoint");
        }
        self.hash = self.hash.wrapping_sub(lease_hash(id, &lease));
        for key in &lease.keys {
            self.hash = self.hash.wrapping_sub(attachment_hash(id, key));
        }
        Ok(lease.keys.into_iter().collect())
    }

    pub fn exists(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Whether this very grant is still in force.
    pub fn holds(&self, grant: Grant) -> bool {
        self.leases.get(&grant.id).is_some_and(|lease| lease.granted_at == grant.index)
    }

    /// Makes a key end with a lease, which must exist: apply has checked it. 0 is no lease.
    pub fn attach(&mut self, key: &Bytes, id: i64) {
        if id == 0 {
            return;
        }
        let lease = self.leases.get_mut(&id);
        let lease =
            lease.unwrap_or_else(|| panic!("{key:?} attached to lease {id}, which is gone"));
        if !lease.keys.contains(key) {
            lease.keys.insert(key.clone());
            self.hash = self.hash.wrapping_add(attachment_hash(id, key));
        }
    }

    /// Takes a key off a lease. The lease may be gone: its own end deletes its keys.
    pub fn detach(&mut self, key: &Bytes, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id)
            && lease.keys.remove(key)
        {
            self.hash = self.hash.wrapping_sub(attachment_hash(id, key));
        }
    }

    /// Writes down what is left of a lease; 0 stands for its full TTL. A lease that ended
    /// meanwhile is left alone, and so is another one under its id. Deadlines do not move: they
    /// are what the remainder is read from.
    pub fn checkpoint(&mut self, grant: Grant, remaining_ttl: i64) {
        if !self.holds(grant) {
            return;
        }
        let lease = self.leases.get_mut(&grant.id).expect("the grant is in force");
        self.hash = self.hash.wrapping_sub(lease_hash(grant.id, lease));
        lease.remaining_ttl = remaining_ttl.clamp(0, lease.ttl);
        self.hash = self.hash.wrapping_add(lease_hash(grant.id, lease));
    }

    // --- what the leader's clock decides ---

    /// Begins to keep the deadlines: every lease gets what the log says it has left, and
    /// `extend` (an election timeout), for the keep-alives that found no leader meanwhile.
    pub fn promote(&mut self, now: Duration, extend: Duration) {
        self.demote();
        self.primary = true;
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            let owed = self.leases[&id].time_owed() + extend;
            self.set_deadline(id, now + owed);
            self.plan_checkpoint(id, now, owed);
        }
    }

    /// Forgets the deadlines: another member keeps them.
    pub fn demote(&mut self) {
        self.primary = false;
        self.deadlines.clear();
        self.checkpoints.clear();
        for lease in self.leases.values_mut() {
            lease.deadline = Deadline::None;
            lease.checkpoint_at = None;
        }
    }

    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Starts the time of a lease anew. The caller has made sure that this member still leads.
    pub fn renew(&mut self, id: i64, now: Duration) -> std::result::Result<Renewed, RenewError> {
        if !self.primary {
            return Err(RenewError::NotPrimary);
        }
        let lease = self.leases.get(&id).ok_or(RenewError::NotFound)?;
        match lease.deadline {
            Deadline::At(at) if at > now => {}
            Deadline::At(_) | Deadline::InFlight(_) => return Err(RenewError::Expiring),
            Deadline::None => panic!("lease {id} of a leader has no deadline"),
        }
        let grant = Grant { id, index: lease.granted_at };
        let renewed = Renewed { ttl: lease.ttl, grant, must_reset: lease.remaining_ttl > 0 };
        let full = Duration::from_secs(u64::try_from(lease.ttl).expect("a TTL is positive"));
        self.set_deadline(id, now + full);
        self.plan_checkpoint(id, now, full);
        Ok(renewed)
    }

    /// Up to `max` leases whose time is over, the longest overdue first. Their ends count as in
    /// flight until they are revoked or `not_expired` takes them back.
    pub fn expired(&mut self, now: Duration, max: usize) -> Vec<Grant> {
        let mut due = Vec::new();
        while due.len() < max {
            let Some(&(at, id)) = self.deadlines.first() else { break };
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            let lease = self.leases.get_mut(&id).expect("every deadline has its lease");
            lease.deadline = Deadline::InFlight(at);
            due.push(Grant { id, index: lease.granted_at });
        }
        due
    }

    /// The proposal that was to end these leases is lost: they are due again.
    pub fn not_expired(&mut self, grants: &[Grant]) {
        for &Grant { id, index } in grants {
            let lease = self.leases.get_mut(&id).filter(|lease| lease.granted_at == index);
            let Some(lease) = lease else { continue };
            if let Deadline::InFlight(at) = lease.deadline {
                lease.deadline = Deadline::At(at);
                self.deadlines.insert((at, id));
            }
        }
    }

    /// Up to `max` long leases whose remainder should be written down, with that remainder.
    pub fn due_checkpoints(&mut self, now: Duration, max: usize) -> Vec<(Grant, i64)> {
        let mut due = Vec::new();
        while due.len() < max {
            let Some(&(at, id)) = self.checkpoints.first() else { break };
            if at > now {
                break;
            }
            self.checkpoints.pop_first();
            let lease = self.leases.get_mut(&id).expect("every checkpoint has its lease");
            lease.checkpoint_at = None;
            if let Deadline::At(deadline) = lease.deadline
                && deadline > now
            {
                let left = deadline - now;
                let secs = i64::try_from(left.as_secs()).expect("a TTL fits").clamp(1, lease.ttl);
                due.push((Grant { id, index: lease.granted_at }, secs));
                self.plan_checkpoint(id, now, left);
            }
        }
        due
    }

    /// When the next lease ends or is to be written down; None if nothing is to be done.
    pub fn next_deadline(&self) -> Option<Duration> {
        let end = self.deadlines.first().map(|&(at, _)| at);
        let checkpoint = self.checkpoints.first().map(|&(at, _)| at);
        end.into_iter().chain(checkpoint).min()
    }

    fn set_deadline(&mut self, id: i64, at: Duration) {
        let lease = self.leases.get_mut(&id).expect("the caller looked the lease up");
        if let Deadline::At(old) = lease.deadline {
            self.deadlines.remove(&(old, id));
        }
        lease.deadline = Deadline::At(at);
        self.deadlines.insert((at, id));
    }

    fn plan_checkpoint(&mut self, id: i64, now: Duration, left: Duration) {
        let lease = self.leases.get_mut(&id).expect("the caller looked the lease up");
        if let Some(old) = lease.checkpoint_at.take() {
            self.checkpoints.remove(&(old, id));
        }
        if left > CHECKPOINT_INTERVAL {
            lease.checkpoint_at = Some(now + CHECKPOINT_INTERVAL);
            self.checkpoints.insert((now + CHECKPOINT_INTERVAL, id));
        }
    }

    // --- questions ---

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The ids of all leases, in order.
    pub fn leases(&self) -> Vec<i64> {
        self.leases.keys().copied().collect()
    }

    /// All leases in order: id, granted TTL, and the remainder of the last checkpoint (0: all).
    pub fn grants(&self) -> impl Iterator<Item = (i64, i64, i64)> + '_ {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl, lease.remaining_ttl))
    }

    pub fn time_to_live(&self, id: i64, now: Duration) -> Option<TimeToLive> {
        let lease = self.leases.get(&id)?;
        let remaining = match lease.deadline {
            Deadline::None => None,
            Deadline::At(at) | Deadline::InFlight(at) => Some(seconds_until(at, now)),
        };
        let keys = lease.keys.iter().cloned().collect();
        Some(TimeToLive { granted: lease.ttl, remaining, keys })
    }

    /// A sum over all leases and attachments, in which order and deadlines play no part.
    pub fn state_hash(&self) -> u64 {
        self.hash
    }
}

/// Whole seconds from `now` to `at`, rounded down, also below zero.
fn seconds_until(at: Duration, now: Duration) -> i64 {
    let secs = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    if at >= now {
        return secs(at - now);
    }
    let over = now - at;
    -secs(over) - i64::from(over.subsec_nanos() > 0)
}

fn lease_hash(id: i64, lease: &Lease) -> u64 {
    let mut hash = mix(0x6c65_6173_6500_0001);
    for number in [id, lease.ttl, lease.remaining_ttl] {
        hash = mix(hash ^ number.cast_unsigned());
    }
    mix(hash ^ lease.granted_at)
}

fn attachment_hash(id: i64, key: &[u8]) -> u64 {
    let mut hash = mix(mix(0x6b65_7900_0000_0001) ^ id.cast_unsigned());
    for chunk in key.chunks(8) {
        let mut word = [0u8; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word));
    }
    mix(hash ^ key.len() as u64)
}

/// The finalizer of splitmix64: every bit of the input reaches every bit of the output.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
