//! What clients asked of leases and were told, and what became of the leases.

use crate::moment::Nanos;
use std::collections::BTreeMap;

/// What the monotonic clock of every member showed at a moment.
pub type Clocks = Vec<Nanos>;

/// What a client asked of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Grant,
    Renew,
    Revoke,
    TimeToLive,
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The seconds that the lease has, or the time left of them.
    Alive(i64),
    /// The keys that go with it, as of a revision.
    Keys(Vec<String>, i64),
    Revoked,
    /// There is no such lease.
    Gone,
    /// There is one already.
    Exists,
    /// It may have been done, or be done yet.
    Unknown(String),
}

/// One call about a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseCall {
    pub client: u64,
    pub member: usize,
    pub id: i64,
    pub ask: Ask,
    pub called: Nanos,
    pub clocks: Clocks,
    pub returned: Nanos,
    pub told: Told,
}

/// A grant that entered the state, as the first member to apply it saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseGrant {
    pub id: i64,
    pub index: u64,
    pub revision: i64,
    pub ttl: i64,
    pub at: Nanos,
}

/// The end of a lease, as the first member to apply it saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseEnd {
    pub id: i64,
    pub index: u64,
    /// The revision that its keys were deleted in; the newest one if it had none.
    pub revision: i64,
    pub keys: usize,
    pub expired: bool,
    pub at: Nanos,
    pub clocks: Clocks,
    /// Who led the term of the entry.
    pub leader: Option<usize>,
}

/// Everything about leases.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    pub calls: Vec<LeaseCall>,
    pub grants: Vec<LeaseGrant>,
    pub ends: Vec<LeaseEnd>,
}

impl Leases {
    /// The revisions that were made by the end of a lease.
    pub fn deletions(&self) -> BTreeMap<i64, i64> {
        self.ends.iter().filter(|e| e.keys > 0).map(|e| (e.revision, e.id)).collect()
    }

    /// The leases that are there after all that is known.
    pub fn alive(&self) -> impl Iterator<Item = &LeaseGrant> {
        self.grants.iter().filter(|grant| self.end_of(grant).is_none())
    }

    /// How a grant ended, if it did.
    pub fn end_of(&self, grant: &LeaseGrant) -> Option<&LeaseEnd> {
        let ends = self.ends.iter().filter(|e| e.id == grant.id && e.index > grant.index);
        ends.min_by_key(|end| end.index)
    }

    /// The grant that an end is of.
    pub fn grant_before(&self, end: &LeaseEnd) -> Option<&LeaseGrant> {
        let grants = self.grants.iter().filter(|g| g.id == end.id && g.index < end.index);
        grants.max_by_key(|grant| grant.index)
    }

    /// The calls after which a grant's time began anew, or may have.
    pub fn renewals<'a>(&'a self, grant: &'a LeaseGrant) -> impl Iterator<Item = &'a LeaseCall> {
        self.calls.iter().filter(|call| {
            call.id == grant.id
                && matches!(call.ask, Ask::Grant | Ask::Renew)
                && call.returned >= grant.at
        })
    }

    /// A grant of `id` that was acknowledged before `called` and not ended by `returned`.
    pub fn surely_alive(&self, id: i64, called: Nanos, returned: Nanos) -> Option<&LeaseGrant> {
        let acknowledged = |grant: &LeaseGrant| {
            self.calls.iter().any(|call| {
                call.id == id
                    && matches!((call.ask, &call.told), (Ask::Grant | Ask::Renew, Told::Alive(_)))
                    && call.returned >= grant.at
                    && call.returned < called
            })
        };
        self.grants.iter().filter(|grant| grant.id == id).find(|grant| {
            let ended = self.end_of(grant).is_some_and(|end| end.at <= returned);
            !ended && acknowledged(grant)
        })
    }
}
