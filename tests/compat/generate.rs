//! Draws requests of the KV and Lease services from a seed: most make sense, many do not.

use detcd::pb::etcdserverpb::compare::TargetUnion;
use detcd::pb::etcdserverpb::request_op::Request as Op;
use detcd::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use prost::bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One request to either server.
#[derive(Clone, Debug)]
pub enum Call {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRevokeRequest),
    LeaseTimeToLive(LeaseTimeToLiveRequest),
}

/// The keys in use. Twelve at most: etcd sorts with an algorithm that keeps the order of equal
/// elements only up to that length, and beyond it no order of ties could be called right.
const KEYS: [&[u8]; 12] = [
    b"\0",
    b"a",
    b"aa",
    b"a\0",
    b"ab",
    b"b",
    b"ba",
    b"c",
    b"foo",
    b"foo/bar",
    b"\xff",
    b"\xff\xff",
];

/// A txn or a list of compares may have this many elements.
const OPS_MAX: usize = 128;

/// Draws calls; it learns the store's revision from the answers.
pub struct Generator {
    rng: StdRng,
    pub revision: i64,
    leases: bool,
}

impl Generator {
    /// The same seed gives the same calls to servers that answer alike.
    pub fn new(seed: u64, leases: bool) -> Generator {
        Generator { rng: StdRng::seed_from_u64(seed), revision: 1, leases }
    }

    /// The next call.
    pub fn call(&mut self) -> Call {
        match self.rng.random_range(0..1000) {
            0..300 => Call::Range(self.range(true)),
            300..520 => Call::Put(self.put()),
            520..600 => Call::DeleteRange(self.delete_range(true)),
            600..950 => Call::Txn(self.txn(2)),
            950..953 => Call::Compact(self.compact()),
            953..955 => Call::Put(self.huge_put()),
            955..960 => Call::Txn(self.long_txn()),
            _ if !self.leases => Call::Put(self.put()),
            960..975 => {
                let id = self.lease();
                Call::LeaseGrant(LeaseGrantRequest { id, ttl: self.ttl() })
            }
            975..990 => Call::LeaseRevoke(LeaseRevokeRequest { id: self.lease() }),
            _ => {
                let keys = self.chance(50);
                Call::LeaseTimeToLive(LeaseTimeToLiveRequest { id: self.lease(), keys })
            }
        }
    }

    /// Puts a number that its enum does not have into a call, if the call has an enum.
    pub fn with_unknown_enum(&mut self, call: Call) -> Option<Call> {
        let unknown = [5, 9, -1, i32::MAX, i32::MIN][self.rng.random_range(0..5)];
        match call {
            Call::Range(mut range) => {
                if self.chance(50) {
                    range.sort_order = unknown;
                } else {
                    range.sort_target = unknown;
                }
                Some(Call::Range(range))
            }
            Call::Txn(mut txn) => {
                let count = txn.compare.len();
                let compare = txn.compare.get_mut(self.rng.random_range(0..count.max(1)))?;
                if self.rng.random_range(0..2) == 0 {
                    compare.result = unknown;
                } else {
                    compare.target = unknown;
                }
                Some(Call::Txn(txn))
            }
            _ => None,
        }
    }

    /// A call that writes, for building a history: puts, deletes and transactions.
    pub fn write(&mut self) -> Call {
        match self.rng.random_range(0..10) {
            0..6 => Call::Put(self.put()),
            6..8 => Call::DeleteRange(self.delete_range(true)),
            _ => Call::Txn(self.txn(1)),
        }
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// A key, seldom the empty one.
    pub fn key(&mut self) -> Bytes {
        if self.chance(2) {
            return Bytes::new();
        }
        Bytes::from_static(KEYS[self.rng.random_range(0..KEYS.len())])
    }

    /// An end for a range from this key: every kind that means something, and empty ranges.
    pub fn range_end(&mut self, key: &[u8]) -> Bytes {
        match self.rng.random_range(0..10) {
            0..4 => Bytes::new(),
            4 => Bytes::from_static(b"\0"),
            5 => [key, b"\0"].concat().into(),
            6 | 7 => prefix_end(key),
            8 => key.to_vec().into(),
            _ => self.key(),
        }
    }

    /// A revision around those that exist; zero is most common.
    pub fn some_revision(&mut self) -> i64 {
        match self.rng.random_range(0..10) {
            0..6 => 0,
            6 => self.rng.random_range(-3..=self.revision + 3),
            // The near past, in which keys differ and little is compacted.
            _ => (self.revision - self.rng.random_range(0..40)).max(0),
        }
    }

    fn range(&mut self, with_zero_end: bool) -> RangeRequest {
        let key = self.key();
        let mut range_end = self.range_end(&key);
        if !with_zero_end && range_end.as_ref() == b"\0" {
            range_end = Bytes::new();
        }
        let mut request = RangeRequest { key, range_end, ..Default::default() };
        request.revision = self.some_revision();
        request.serializable = self.chance(50);
        if self.chance(30) {
            request.limit = [1, 2, 3, 5, 12, -1, i64::MAX][self.rng.random_range(0..7)];
        }
        if self.chance(40) {
            request.sort_order = self.rng.random_range(0..3);
            request.sort_target = self.rng.random_range(0..5);
        }
        request.keys_only = self.chance(15);
        request.count_only = self.chance(10);
        for bound in [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            if self.rng.random_range(0..100) < 8 {
                *bound = self.rng.random_range(-1..=self.revision + 2);
            }
        }
        request
    }

    fn put(&mut self) -> PutRequest {
        let mut request = PutRequest { key: self.key(), ..Default::default() };
        request.value = self.value();
        request.prev_kv = self.chance(30);
        if self.chance(8) {
            request.ignore_value = true;
            if self.chance(80) {
                request.value = Bytes::new();
            }
        }
        if self.leases && self.chance(20) {
            request.lease = self.lease();
        }
        if self.chance(8) {
            request.ignore_lease = true;
            if self.chance(80) {
                request.lease = 0;
            }
        }
        request
    }

    /// Sizes around the limits on a request and on a message.
    fn huge_put(&mut self) -> PutRequest {
        let size = [1_400_000, 1_572_864 - 512, 1_572_864, 2_000_000, 2_096_128, 2_621_440];
        let size = size[self.rng.random_range(0..size.len())];
        PutRequest { key: self.key(), value: vec![b'h'; size].into(), ..Default::default() }
    }

    fn delete_range(&mut self, with_zero_end: bool) -> DeleteRangeRequest {
        let key = self.key();
        let mut range_end = self.range_end(&key);
        if !with_zero_end && range_end.as_ref() == b"\0" {
            range_end = Bytes::new();
        }
        DeleteRangeRequest { key, range_end, prev_kv: self.chance(40) }
    }

    fn txn(&mut self, depth: usize) -> TxnRequest {
        let compares = self.rng.random_range(0..4);
        let compare = (0..compares).map(|_| self.compare()).collect();
        TxnRequest { compare, success: self.ops(depth), failure: self.ops(depth) }
    }

    fn ops(&mut self, depth: usize) -> Vec<RequestOp> {
        let count = self.rng.random_range(0..4);
        (0..count).map(|_| RequestOp { request: self.op(depth) }).collect()
    }

    fn op(&mut self, depth: usize) -> Option<Op> {
        Some(match self.rng.random_range(0..100) {
            0..2 => return None,
            2..40 => {
                let mut range = self.range(true);
                // Revisions outside what exists are errors here as well, but not every time.
                if range.revision != 0 && self.chance(50) {
                    range.revision = 0;
                }
                Op::RequestRange(range)
            }
            40..70 => Op::RequestPut(self.put()),
            // An end of one zero byte is left out: etcd takes it literally when it looks for
            // overlaps, and may then stop on what it let through.
            70..85 => Op::RequestDeleteRange(self.delete_range(false)),
            _ if depth > 0 => Op::RequestTxn(self.txn(depth - 1)),
            _ => Op::RequestPut(self.put()),
        })
    }

    /// Around the largest number of operations, in each of the three lists.
    fn long_txn(&mut self) -> TxnRequest {
        let count = self.rng.random_range(OPS_MAX - 1..=OPS_MAX + 1);
        let read = RequestOp { request: Some(Op::RequestRange(self.range(true))) };
        let nested = TxnRequest { success: vec![read.clone(); 2], ..Default::default() };
        let mut txn = TxnRequest::default();
        match self.rng.random_range(0..4) {
            0 => txn.compare = (0..count).map(|_| self.compare()).collect(),
            1 => txn.success = vec![read; count],
            2 => txn.failure = vec![read; count],
            _ => {
                txn.success = vec![read; count - 2];
                txn.success.push(RequestOp { request: Some(Op::RequestTxn(nested)) });
            }
        }
        txn
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let range_end = if self.chance(30) { self.range_end(&key) } else { Bytes::new() };
        let mut compare = Compare { key, range_end, ..Default::default() };
        compare.result = self.rng.random_range(0..4);
        compare.target = self.rng.random_range(0..5);
        let fits = if self.chance(90) { compare.target } else { self.rng.random_range(0..6) };
        let revision = self.some_revision();
        compare.target_union = match fits {
            0 => Some(TargetUnion::Version(self.rng.random_range(0..4))),
            1 => Some(TargetUnion::CreateRevision(revision)),
            2 => Some(TargetUnion::ModRevision(revision)),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(self.lease())),
            _ => None,
        };
        compare
    }

    fn compact(&mut self) -> CompactionRequest {
        let revision = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(-2..=self.revision + 2),
            _ => (self.revision - self.rng.random_range(0..60)).max(0),
        };
        CompactionRequest { revision, physical: self.chance(50) }
    }

    fn value(&mut self) -> Bytes {
        match self.rng.random_range(0..20) {
            0 => Bytes::new(),
            1 => vec![b'x'; 1000].into(),
            _ => format!("v{}", self.rng.random_range(0..6)).into(),
        }
    }

    /// A lease id: few, so that grants collide and revokes hit. None below zero: etcd grants such
    /// a lease, ours does not (docs/compatibility.md).
    fn lease(&mut self) -> i64 {
        if !self.leases {
            return 0;
        }
        [1, 2, 3, 4, 5, 99, 0][self.rng.random_range(0..7)]
    }

    /// Long enough that nothing expires in a run, or refused.
    fn ttl(&mut self) -> i64 {
        if self.chance(90) { 1_000_000 } else { 9_000_000_001 }
    }
}

/// The first key behind all that begin with this one.
fn prefix_end(key: &[u8]) -> Bytes {
    let mut end = key.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}
