//! The workloads that live on streams: watchers and keep-alives.

use crate::options::Options;
use crate::stats::Sample;
use crate::workload::{Tickets, kv, open, value};
use detcd::pb::etcdserverpb::{self as pb, lease_client::LeaseClient, watch_client::WatchClient};
use futures::channel::mpsc;
use prost::bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// The prefix that all watchers watch, and the first key behind it.
const PREFIX: &[u8] = b"/watched/";
const PREFIX_END: &[u8] = b"/watched0";
/// Puts in flight at once when watchers are measured as fast as it goes.
const WRITERS: usize = 50;

/// When each put was sent, in nanoseconds after `begin`.
struct SendTimes {
    begin: Instant,
    sent_ns: Vec<AtomicU64>,
}

impl SendTimes {
    fn note(&self, number: u64) {
        let now = self.begin.elapsed().as_nanos() as u64;
        self.sent_ns[number as usize].store(now, Ordering::Relaxed);
    }

    fn since(&self, number: u64) -> Duration {
        let sent = Duration::from_nanos(self.sent_ns[number as usize].load(Ordering::Relaxed));
        self.begin.elapsed().saturating_sub(sent)
    }
}

/// One stream a connection with `clients` watchers each, all on one prefix; puts from a
/// connection aside. An operation is one event at one watcher, its latency counts from the put.
pub async fn watch(options: &Options, channels: &[Channel]) -> Result<(Sample, Duration), Status> {
    let puts = options.total;
    let times = Arc::new(SendTimes {
        begin: Instant::now(),
        sent_ns: (0..puts).map(|_| AtomicU64::new(0)).collect(),
    });
    let mut readers = Vec::new();
    for channel in channels {
        let (sender, stream) = subscribe(channel, options.clients).await?;
        let events = puts * options.clients as u64;
        readers.push(tokio::spawn(receive(sender, stream, events, times.clone())));
    }
    let writer = open(&options.endpoints[0]).await.map_err(Status::unavailable)?;
    let tickets = Arc::new(Tickets::new(puts, options.rate));
    let begin = Instant::now();
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let (kv, tickets, times) = (kv(&writer), tickets.clone(), times.clone());
        let size = options.val_size;
        writers.push(tokio::spawn(write(kv, tickets, times, size)));
    }
    for task in writers {
        task.await.expect("a writer does not panic")?;
    }
    let mut all = Sample::default();
    for task in readers {
        all.merge(task.await.expect("a reader does not panic"));
    }
    Ok((all, begin.elapsed()))
}

async fn write(
    mut kv: pb::kv_client::KvClient<Channel>,
    tickets: Arc<Tickets>,
    times: Arc<SendTimes>,
    val_size: usize,
) -> Result<(), Status> {
    while let Some((number, _)) = tickets.take().await {
        let mut bytes = number.to_be_bytes().to_vec();
        bytes.extend_from_slice(&value(val_size.saturating_sub(8)));
        let key = [PREFIX, format!("{:06}", number % 1000).as_bytes()].concat().into();
        times.note(number);
        kv.put(pb::PutRequest { key, value: bytes.into(), ..Default::default() }).await?;
    }
    Ok(())
}

type Requests = mpsc::UnboundedSender<pb::WatchRequest>;

/// Opens a stream and waits until all its watchers are created.
async fn subscribe(
    channel: &Channel,
    watchers: usize,
) -> Result<(Requests, Streaming<pb::WatchResponse>), Status> {
    let (sender, requests) = mpsc::unbounded();
    for _ in 0..watchers {
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(PREFIX),
            range_end: Bytes::from_static(PREFIX_END),
            ..Default::default()
        };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        let request = pb::WatchRequest { request_union: Some(union) };
        sender.unbounded_send(request).expect("the receiver is at hand");
    }
    let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let mut stream = client.watch(requests).await?.into_inner();
    for _ in 0..watchers {
        let answer = stream.message().await?.ok_or_else(|| Status::aborted("stream ended"))?;
        if !answer.created || answer.canceled {
            return Err(Status::aborted(format!("not created: {answer:?}")));
        }
    }
    Ok((sender, stream))
}

/// Reads until all events came; the sender is held, since dropping it ends the stream.
async fn receive(
    sender: Requests,
    mut stream: Streaming<pb::WatchResponse>,
    events: u64,
    times: Arc<SendTimes>,
) -> Sample {
    let mut sample = Sample::default();
    while (sample.latencies_us.len() as u64) < events {
        let answer = match stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                sample.failure(&Status::aborted("the stream ended"));
                break;
            }
            Err(status) => {
                sample.failure(&status);
                break;
            }
        };
        for event in answer.events {
            let value = event.kv.expect("an event has a key").value;
            let number = u64::from_be_bytes(value[..8].try_into().expect("eight bytes"));
            sample.success(times.since(number));
        }
    }
    drop(sender);
    sample
}

/// A lease and a keep-alive stream a client, one request in flight each.
pub async fn keepalive(
    options: &Options,
    channels: &[Channel],
) -> Result<(Sample, Duration), Status> {
    let mut streams = Vec::new();
    for client in 0..options.clients {
        let mut lease = LeaseClient::new(channels[client % channels.len()].clone());
        let id = lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 0 }).await?;
        let id = id.into_inner().id;
        let (sender, requests) = mpsc::unbounded();
        let request = pb::LeaseKeepAliveRequest { id };
        sender.unbounded_send(request).expect("the receiver is at hand");
        let mut stream = lease.lease_keep_alive(requests).await?.into_inner();
        stream.message().await?;
        streams.push((id, sender, stream));
    }
    let tickets = Arc::new(Tickets::new(options.total, options.rate));
    let begin = Instant::now();
    let mut clients = Vec::new();
    for (id, sender, mut stream) in streams {
        let tickets = tickets.clone();
        clients.push(tokio::spawn(async move {
            let mut sample = Sample::default();
            while let Some((_, begin)) = tickets.take().await {
                let request = pb::LeaseKeepAliveRequest { id };
                if sender.unbounded_send(request).is_err() {
                    sample.failure(&Status::aborted("the stream ended"));
                    break;
                }
                match stream.message().await {
                    Ok(Some(answer)) if answer.ttl > 0 => sample.success(begin.elapsed()),
                    Ok(answer) => sample.failure(&Status::not_found(format!("{answer:?}"))),
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
    Ok((all, begin.elapsed()))
}
