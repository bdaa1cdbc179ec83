//! What writers feel of those who only stand there: many watches on one stream, a watcher far
//! behind, many leases that fall due at once. The operations are puts of one client each.

use crate::options::Options;
use crate::stats::Sample;
use crate::workload::{Tickets, kv, open, value};
use detcd::pb::etcdserverpb::watch_request::RequestUnion;
use detcd::pb::etcdserverpb::{self as pb, lease_client::LeaseClient, watch_client::WatchClient};
use futures::channel::{mpsc, oneshot};
use process::usage;
use prost::bytes::Bytes;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Puts in flight at once while history is made.
const WRITERS: u64 = 200;
/// Grants and keep-alives in flight at once.
const LESSEES: u64 = 500;
/// The TTL of leases that fall due: long enough to grant and to renew them all.
const TTL_SECS: i64 = 30;

type Watching = (mpsc::UnboundedSender<pb::WatchRequest>, Streaming<pb::WatchResponse>);

/// `clients` watches on distinct prefixes, all on one stream, each told of its share of the puts.
pub async fn put_watched(
    options: &Options,
    channels: &[Channel],
) -> Result<(Sample, Duration), Status> {
    let before = usage::rss_mib(&options.server_pids);
    let prefix = |n: u64| Bytes::from(format!("/standing/{n:08}/"));
    let end = |n: u64| Bytes::from(format!("/standing/{n:08}0"));
    let count = options.clients as u64;
    let creates = (0..count).map(|n| (prefix(n), end(n), 0));
    let (sender, mut stream) = subscribe(&channels[0], creates.collect()).await?;
    if count > 0 && before > 0.0 {
        let kib = (usage::rss_mib(&options.server_pids) - before) * 1024.0 / count as f64;
        println!("    {kib:.2} KiB of memory a watch, over all members");
    }
    let reader = tokio::spawn(async move {
        let mut events = 0;
        while let Ok(Some(answer)) = stream.message().await {
            events += answer.events.len();
            tokio::task::yield_now().await;
        }
        events
    });
    let key = |n: u64| Bytes::from(format!("/standing/{:08}/key", n * 7919 % count.max(1)));
    let measured = puts(options, &key).await?;
    drop(sender);
    reader.abort();
    Ok(measured)
}

/// Puts beside `clients` watchers that begin `keyspace` revisions ago. The watchers have a thread
/// of their own: what they have to decode must not count as time of the puts.
pub async fn put_laggard(options: &Options) -> Result<(Sample, Duration), Status> {
    let (first, newest) = make_history(options).await?;
    let endpoints = options.endpoints.clone();
    let laggards: Vec<_> = endpoints.into_iter().cycle().take(options.clients).collect();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("laggards".to_string());
    let readers = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(async {
            let readers = laggards.iter().map(|endpoint| catch_up(endpoint, first, newest));
            tokio::select! {
                biased;
                _ = stopped => Ok(()),
                failed = futures::future::try_join_all(readers) => failed.map(drop),
            }
        })
    });
    let readers = readers.map_err(|error| Status::internal(error.to_string()))?;
    let measured = puts(options, &|n| Bytes::from(format!("/beside/{:06}", n % 1000))).await;
    drop(stop);
    readers.join().expect("a reader does not panic")?;
    measured
}

/// Watches everything from revision `first` on, and says how long it takes to reach `newest`.
async fn catch_up(endpoint: &str, first: i64, newest: i64) -> Result<(), Status> {
    let channel = open(endpoint).await.map_err(Status::unavailable)?;
    let all = Bytes::from_static(&[0]);
    let (_sender, mut stream) = subscribe(&channel, vec![(all.clone(), all, first)]).await?;
    let (begin, mut events, mut is_behind) = (Instant::now(), 0_u64, true);
    while let Some(answer) = stream.message().await? {
        events += answer.events.len() as u64;
        let seen = answer.events.last().and_then(|e| e.kv.as_ref());
        if is_behind && seen.is_some_and(|kv| kv.mod_revision >= newest) {
            is_behind = false;
            println!("    a watcher caught up with {events} events in {:?}", begin.elapsed());
        }
    }
    Err(Status::aborted("the stream ended"))
}

/// `clients` leases that are renewed at once and then fall due, and puts until all are gone.
pub async fn lease_due(
    options: &Options,
    channels: &[Channel],
) -> Result<(Sample, Duration), Status> {
    let ids = grant(options.clients as u64, channels).await?;
    let begin = Instant::now();
    renew(&ids, channels).await?;
    let renewed = begin.elapsed();
    let due = begin + Duration::from_secs(TTL_SECS as u64);
    tokio::time::sleep_until(due.into()).await;
    let writer = open(&options.endpoints[0]).await.map_err(Status::unavailable)?;
    let mut leases = LeaseClient::new(channels[0].clone()).max_decoding_message_size(usize::MAX);
    let (mut sample, size) = (Sample::default(), options.val_size);
    let mut client = kv(&writer);
    let mut look = Instant::now();
    for n in 0_u64.. {
        let put = Instant::now();
        let key = Bytes::from(format!("/due/{:06}", n % 1000));
        let request = pb::PutRequest { key, value: value(size), ..Default::default() };
        match client.put(request).await {
            Ok(_) => sample.success(put.elapsed()),
            Err(status) => sample.failure(&status),
        }
        if look.elapsed() > Duration::from_millis(100) {
            let left = leases.lease_leases(pb::LeaseLeasesRequest {}).await?.into_inner().leases;
            let ours: std::collections::BTreeSet<i64> = ids.iter().copied().collect();
            if !left.iter().any(|lease| ours.contains(&lease.id)) {
                break;
            }
            look = Instant::now();
        }
    }
    let gone = due.elapsed();
    println!(
        "    {} leases, renewed within {renewed:?}, gone {gone:?} after the first was due",
        ids.len()
    );
    Ok((sample, gone))
}

async fn grant(count: u64, channels: &[Channel]) -> Result<Vec<i64>, Status> {
    let mut tasks = Vec::new();
    for task in 0..LESSEES {
        let mut client = LeaseClient::new(channels[task as usize % channels.len()].clone());
        let share = (task..count).step_by(LESSEES as usize).count();
        tasks.push(tokio::spawn(async move {
            let mut ids = Vec::with_capacity(share);
            for _ in 0..share {
                let request = pb::LeaseGrantRequest { ttl: TTL_SECS, id: 0 };
                ids.push(client.lease_grant(request).await?.into_inner().id);
            }
            Ok::<_, Status>(ids)
        }));
    }
    let mut ids = Vec::new();
    for task in tasks {
        ids.extend(task.await.expect("a lessee does not panic")?);
    }
    Ok(ids)
}

/// Renews all leases, over a few streams, as fast as it goes.
async fn renew(ids: &[i64], channels: &[Channel]) -> Result<(), Status> {
    let mut tasks = Vec::new();
    for (n, share) in ids.chunks(ids.len().div_ceil(20).max(1)).enumerate() {
        let mut client = LeaseClient::new(channels[n % channels.len()].clone());
        let share = share.to_vec();
        tasks.push(tokio::spawn(async move {
            let expected = share.len();
            let requests = share.into_iter().map(|id| pb::LeaseKeepAliveRequest { id });
            let requests = futures::stream::iter(requests);
            let mut answers = client.lease_keep_alive(requests).await?.into_inner();
            for _ in 0..expected {
                answers.message().await?.ok_or_else(|| Status::aborted("the stream ended"))?;
            }
            Ok::<_, Status>(())
        }));
    }
    for task in tasks {
        task.await.expect("a lessee does not panic")?;
    }
    Ok(())
}

/// Opens a stream and waits until all its watches are created.
async fn subscribe(
    channel: &Channel,
    creates: Vec<(Bytes, Bytes, i64)>,
) -> Result<Watching, Status> {
    let (sender, requests) = mpsc::unbounded();
    let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let count = creates.len();
    for (key, range_end, start_revision) in creates {
        let create =
            pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let union = RequestUnion::CreateRequest(create);
        let request = pb::WatchRequest { request_union: Some(union) };
        sender.unbounded_send(request).expect("the receiver is at hand");
    }
    let mut stream = client.watch(requests).await?.into_inner();
    let mut created = 0;
    while created < count {
        let answer = stream.message().await?.ok_or_else(|| Status::aborted("stream ended"))?;
        if answer.canceled {
            return Err(Status::aborted(format!("not created: {answer:?}")));
        }
        created += usize::from(answer.created);
    }
    Ok((sender, stream))
}

/// The puts that are measured: one at a time, at the rate that was asked for.
async fn puts(options: &Options, key: &dyn Fn(u64) -> Bytes) -> Result<(Sample, Duration), Status> {
    let writer = open(&options.endpoints[0]).await.map_err(Status::unavailable)?;
    let mut client = kv(&writer);
    let tickets = Tickets::new(options.total, options.rate);
    let (begin, mut sample) = (Instant::now(), Sample::default());
    while let Some((number, due)) = tickets.take().await {
        let (key, value) = (key(number), value(options.val_size));
        match client.put(pb::PutRequest { key, value, ..Default::default() }).await {
            Ok(_) => sample.success(due.elapsed()),
            Err(status) => sample.failure(&status),
        }
    }
    Ok((sample, begin.elapsed()))
}

/// Makes `keyspace` revisions and says which are the first and the last of them.
async fn make_history(options: &Options) -> Result<(i64, i64), Status> {
    let writer = open(&options.endpoints[0]).await.map_err(Status::unavailable)?;
    let put = |n: u64| pb::PutRequest {
        key: Bytes::from(format!("/history/{:06}", n % 100_000)),
        value: value(64),
        ..Default::default()
    };
    let header = kv(&writer).put(put(0)).await?.into_inner().header;
    let first = header.map_or(1, |header| header.revision);
    // What an earlier run of this group has made serves as well.
    let missing = (options.keyspace as i64 - first).max(0) as u64;
    let mut tasks = Vec::new();
    for task in 0..WRITERS {
        let mut client = kv(&writer);
        tasks.push(tokio::spawn(async move {
            for n in (task..missing).step_by(WRITERS as usize) {
                client.put(put(n)).await?;
            }
            Ok::<_, Status>(())
        }));
    }
    for task in tasks {
        task.await.expect("a writer does not panic")?;
    }
    Ok((2, first + missing as i64))
}
