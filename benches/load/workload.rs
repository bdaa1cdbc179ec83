//! Closed loops of unary calls: many clients, each with one operation in flight.

use crate::options::{Kind, Options};
use crate::stats::Sample;
use detcd::pb::etcdserverpb::{self as pb, kv_client::KvClient, lease_client::LeaseClient};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Bytes that an answer may have before the client must say it read some.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What a client does over and over.
pub trait Operation: Send + 'static {
    /// Does the operation of this number.
    fn call(&mut self, number: u64) -> impl Future<Output = Result<(), Status>> + Send;
}

/// Numbers for the operations of all clients, and the times at which they are due.
pub struct Tickets {
    next: AtomicU64,
    total: u64,
    rate: u64,
    begin: Instant,
}

impl Tickets {
    /// Hands out `total` numbers, `rate` a second or as fast as they are asked for.
    pub fn new(total: u64, rate: u64) -> Tickets {
        Tickets { next: AtomicU64::new(0), total, rate, begin: Instant::now() }
    }

    /// The next number and the time its latency counts from: the time it was due at, so that an
    /// operation that waited for a free client counts its wait.
    pub async fn take(&self) -> Option<(u64, Instant)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.total {
            return None;
        }
        if self.rate == 0 {
            return Some((number, Instant::now()));
        }
        let due = self.begin + Duration::from_secs_f64(number as f64 / self.rate as f64);
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some((number, due));
        }
        tokio::time::sleep(left).await;
        Some((number, Instant::now()))
    }
}

/// Opens the connections, spread over the endpoints in turn.
pub async fn connect(options: &Options) -> Result<Vec<Channel>, String> {
    let mut channels = Vec::new();
    for index in 0..options.conns {
        let url = &options.endpoints[index % options.endpoints.len()];
        channels.push(open(url).await?);
    }
    Ok(channels)
}

/// Opens one connection.
pub async fn open(url: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(url.to_string())
        .map_err(|error| format!("{url}: {error}"))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    endpoint.connect().await.map_err(|error| format!("{url}: {error}"))
}

/// A client of the KV service that takes answers of any size.
pub fn kv(channel: &Channel) -> KvClient<Channel> {
    KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX)
}

/// Runs one of the closed loops to its end.
pub async fn run(options: &Options, channels: &[Channel]) -> Sample {
    let value = value(options.val_size);
    let channel = |client: usize| channels[client % channels.len()].clone();
    match options.kind {
        Kind::Put => {
            let keys = Keys::new(options);
            let make = |c| Put { kv: kv(&channel(c)), keys: keys.clone(), value: value.clone() };
            closed_loop(options, make).await
        }
        Kind::Range | Kind::RangePrefix => {
            let keys = Keys::new(options);
            let page = (options.kind == Kind::RangePrefix).then_some(options.page);
            let serializable = options.serializable;
            let make = |c| Read { kv: kv(&channel(c)), keys: keys.clone(), page, serializable };
            closed_loop(options, make).await
        }
        Kind::Mixed => {
            let keys = Keys::new(options);
            let make = |c| Mixed {
                put: Put { kv: kv(&channel(c)), keys: keys.clone(), value: value.clone() },
                read: Read {
                    kv: kv(&channel(c)),
                    keys: keys.clone(),
                    page: None,
                    serializable: options.serializable,
                },
            };
            closed_loop(options, make).await
        }
        Kind::Txn => {
            let make = |client| Txn {
                kv: kv(&channel(client)),
                key: format!("/txn/{client:06}").into(),
                value: value.clone(),
                seen: 0,
            };
            closed_loop(options, make).await
        }
        Kind::LeaseGrant => {
            let make = |client| Grant { lease: LeaseClient::new(channel(client)) };
            closed_loop(options, make).await
        }
        Kind::Watch
        | Kind::LeaseKeepalive
        | Kind::PutWatched
        | Kind::PutLaggard
        | Kind::LeaseDue
        | Kind::Failover => {
            unreachable!("{:?} is a stream", options.kind)
        }
    }
}

/// Starts the clients, each with an operation of its own, and gathers what they saw.
async fn closed_loop<O: Operation>(options: &Options, make: impl Fn(usize) -> O) -> Sample {
    let tickets = Arc::new(Tickets::new(options.total, options.rate));
    let mut clients = Vec::new();
    for client in 0..options.clients {
        let mut operation = make(client);
        let tickets = tickets.clone();
        clients.push(tokio::spawn(async move {
            let mut sample = Sample::default();
            while let Some((number, begin)) = tickets.take().await {
                match operation.call(number).await {
                    Ok(()) => sample.success(begin.elapsed()),
                    Err(status) => sample.failure(&status),
                }
            }
            sample
        }));
    }
    let mut all = Sample::default();
    for client in clients {
        all.merge(client.await.expect("a client does not panic"));
    }
    all
}

/// Which key belongs to which operation.
#[derive(Clone)]
pub struct Keys {
    space: u64,
    sequential: bool,
}

impl Keys {
    fn new(options: &Options) -> Keys {
        Keys { space: options.keyspace, sequential: options.sequential }
    }

    /// The number of the key: the same for the same operation in every run.
    fn pick(&self, number: u64) -> u64 {
        if self.sequential {
            return number % self.space;
        }
        // SplitMix64: evenly spread, and no state to share between clients.
        let mut mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % self.space
    }
}

/// The key of this number.
pub fn key(number: u64) -> prost::bytes::Bytes {
    format!("/load/{number:010}").into()
}

/// Bytes that do not compress to nothing.
pub fn value(size: usize) -> prost::bytes::Bytes {
    (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as u8).collect::<Vec<u8>>().into()
}

struct Put {
    kv: KvClient<Channel>,
    keys: Keys,
    value: prost::bytes::Bytes,
}

impl Operation for Put {
    async fn call(&mut self, number: u64) -> Result<(), Status> {
        let key = key(self.keys.pick(number));
        let request = pb::PutRequest { key, value: self.value.clone(), ..Default::default() };
        self.kv.put(request).await.map(|_| ())
    }
}

struct Read {
    kv: KvClient<Channel>,
    keys: Keys,
    /// Keys a page, or none for a single key.
    page: Option<u64>,
    serializable: bool,
}

impl Operation for Read {
    async fn call(&mut self, number: u64) -> Result<(), Status> {
        let first = self.keys.pick(number);
        let (range_end, limit) = match self.page {
            Some(page) => (key(first + page), page as i64),
            None => Default::default(),
        };
        let serializable = self.serializable;
        let key = key(first);
        let request =
            pb::RangeRequest { key, range_end, limit, serializable, ..Default::default() };
        self.kv.range(request).await.map(|_| ())
    }
}

/// Puts and reads in turn.
struct Mixed {
    put: Put,
    read: Read,
}

impl Operation for Mixed {
    async fn call(&mut self, number: u64) -> Result<(), Status> {
        if number.is_multiple_of(2) {
            self.put.call(number).await
        } else {
            self.read.call(number).await
        }
    }
}

/// What an API server does to an object: write it if nobody else did, else read it.
struct Txn {
    kv: KvClient<Channel>,
    key: prost::bytes::Bytes,
    value: prost::bytes::Bytes,
    seen: i64,
}

impl Operation for Txn {
    async fn call(&mut self, _number: u64) -> Result<(), Status> {
        use pb::compare::{CompareResult, CompareTarget, TargetUnion};
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: self.key.clone(),
            target_union: Some(TargetUnion::ModRevision(self.seen)),
            ..Default::default()
        };
        let (key, value) = (self.key.clone(), self.value.clone());
        let put = pb::PutRequest { key, value, ..Default::default() };
        let get = pb::RangeRequest { key: self.key.clone(), ..Default::default() };
        let op = |request| pb::RequestOp { request: Some(request) };
        let request = pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(pb::request_op::Request::RequestPut(put))],
            failure: vec![op(pb::request_op::Request::RequestRange(get))],
        };
        let answer = self.kv.txn(request).await?.into_inner();
        self.seen = match answer.responses.first().and_then(|op| op.response.as_ref()) {
            Some(pb::response_op::Response::ResponseRange(range)) => {
                range.kvs.first().map_or(0, |kv| kv.mod_revision)
            }
            _ => answer.header.map_or(0, |header| header.revision),
        };
        Ok(())
    }
}

struct Grant {
    lease: LeaseClient<Channel>,
}

impl Operation for Grant {
    async fn call(&mut self, _number: u64) -> Result<(), Status> {
        let request = pb::LeaseGrantRequest { ttl: 3600, id: 0 };
        self.lease.lease_grant(request).await.map(|_| ())
    }
}
