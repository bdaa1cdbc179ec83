//! The same history, watched from random revisions with random options on both servers.

use crate::generate::{Call, Generator};
use crate::side::{Side, clear};
use detcd::pb::etcdserverpb as pb;
use futures::channel::mpsc;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tonic::Streaming;

/// A stream that says nothing for so long has said all that it will.
const QUIET: Duration = Duration::from_millis(400);
/// Streams of a round, and watches of a stream.
const STREAMS: usize = 8;
const WATCHES: usize = 6;
/// Writes before and after the watches of a round are created.
const WRITES: usize = 60;

/// One stream on one server, and all that came over it.
struct Stream {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    seen: Seen,
}

/// What a client of the stream can rely on: how events are cut into responses is left open.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    /// Responses that create, cancel or report, by watch.
    control: BTreeMap<i64, Vec<String>>,
    /// Watches that compaction cancelled.
    compacted: BTreeSet<i64>,
    /// Events in the order they came, by watch.
    events: BTreeMap<i64, Vec<String>>,
    /// Breaches of what holds for every stream.
    broken: Vec<String>,
}

/// Runs rounds of watches; gives the number of differences.
pub async fn rounds(seed: u64, rounds: u64, etcd: &mut Side, other: &mut Side) -> usize {
    let mut differences = 0;
    let mut events = 0;
    let mut done = 0;
    let mut generator = Generator::new(seed ^ 0x77, false);
    let keeps = keeps_tombstones(etcd).await;
    let mut compacted = None;
    if !keeps {
        // From here on it is known which revision is the compacted one.
        write(&mut generator, etcd, other).await;
        let revision = generator.revision;
        compact(revision, etcd, other).await;
        compacted = Some(revision);
    }
    for round in 0..rounds {
        compacted = write(&mut generator, etcd, other).await.or(compacted);
        let mut scripts: Vec<Vec<pb::WatchRequest>> =
            (0..STREAMS).map(|_| script(&mut generator)).collect();
        if !keeps {
            scripts.iter_mut().flatten().for_each(|watch| start_beyond(watch, compacted));
        }
        let mut theirs = open(etcd, &scripts).await;
        let mut ours = open(other, &scripts).await;
        for both in [&mut theirs, &mut ours] {
            futures::future::join_all(both.iter_mut().map(Stream::drain)).await;
        }
        compacted = write(&mut generator, etcd, other).await.or(compacted);
        for both in [&mut theirs, &mut ours] {
            futures::future::join_all(both.iter_mut().map(Stream::drain)).await;
        }
        let ending = ending(&mut generator);
        for both in [&mut theirs, &mut ours] {
            for stream in both.iter_mut() {
                stream.send(&ending);
            }
            futures::future::join_all(both.iter_mut().map(Stream::drain)).await;
        }
        for ((a, b), script) in theirs.iter().zip(&ours).zip(&scripts) {
            events += a.seen.events.values().map(Vec::len).sum::<usize>();
            let (a, b) = (a.seen.clone().settled(), b.seen.clone().settled());
            if a != b {
                differences += 1;
                print_difference(round, script, &ending, &a, &b);
            }
        }
        done += 1;
        if differences > 0 {
            break;
        }
    }
    println!("watch: {done} rounds, {events} events on each side, {differences} differences");
    differences
}

/// Whether this etcd keeps a delete made exactly at the compacted revision for who watches from
/// there, as detcd does: releases before 3.4.34 and 3.5.16 lose it (etcd issue 18089).
async fn keeps_tombstones(etcd: &Side) -> bool {
    let mut client = pb::maintenance_client::MaintenanceClient::new(etcd.channel.clone());
    let status = client.status(pb::StatusRequest::default()).await.expect("etcd says what it is");
    let version = status.into_inner().version;
    let parts: Vec<u64> = version.split('.').map(|part| part.parse().unwrap_or(0)).collect();
    match parts[..] {
        [3, 4, patch] => patch >= 34,
        [3, 5, patch] => patch >= 16,
        _ => true,
    }
}

/// Moves a watch that starts at the compacted revision to the one behind it, where all releases
/// of etcd agree.
fn start_beyond(watch: &mut pb::WatchRequest, compacted: Option<i64>) {
    if let Some(RequestUnion::CreateRequest(create)) = &mut watch.request_union
        && Some(create.start_revision) == compacted
    {
        create.start_revision += 1;
    }
}

async fn compact(revision: i64, etcd: &mut Side, other: &mut Side) -> bool {
    let call = Call::Compact(pb::CompactionRequest { revision, physical: true });
    let (theirs, ours) = futures::join!(etcd.send(&call), other.send(&call));
    assert_eq!(theirs, ours, "the histories must agree before watches can: {call:?}");
    theirs.code == "Ok"
}

/// A piece of history on both servers; gives the revision that it compacted at, if it did.
async fn write(generator: &mut Generator, etcd: &mut Side, other: &mut Side) -> Option<i64> {
    let mut compacted = None;
    for number in 0..WRITES {
        if number == 7 && generator.chance(30) {
            let revision = generator.revision - 20;
            if compact(revision, etcd, other).await {
                compacted = Some(revision);
            }
            continue;
        }
        let call = generator.write();
        let (theirs, ours) = futures::join!(etcd.send(&call), other.send(&call));
        assert_eq!(theirs, ours, "the histories must agree before watches can: {call:?}");
        generator.revision = generator.revision.max(theirs.revision);
    }
    compacted
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

/// The watches of one stream.
fn script(generator: &mut Generator) -> Vec<pb::WatchRequest> {
    (0..WATCHES).map(|_| request(RequestUnion::CreateRequest(create(generator)))).collect()
}

fn create(generator: &mut Generator) -> pb::WatchCreateRequest {
    let key = generator.key();
    let range_end = generator.range_end(&key);
    let start_revision = match generator.below(10) {
        0..3 => 0,
        3 => generator.revision + generator.below(8) as i64,
        4 => generator.some_revision().max(0),
        _ => (generator.revision - generator.below(100) as i64).max(1),
    };
    let filters = match generator.below(6) {
        0 => vec![0],
        1 => vec![1],
        2 => vec![0, 1],
        _ => vec![],
    };
    let watch_id = if generator.chance(20) { generator.below(8) as i64 } else { 0 };
    pb::WatchCreateRequest {
        key,
        range_end,
        start_revision,
        filters,
        prev_kv: generator.chance(50),
        fragment: generator.chance(20),
        watch_id,
        ..Default::default()
    }
}

/// Cancels of watches that exist or not, and a request for progress.
fn ending(generator: &mut Generator) -> Vec<pb::WatchRequest> {
    let cancel = |watch_id| pb::WatchCancelRequest { watch_id };
    let mut requests = vec![request(RequestUnion::ProgressRequest(Default::default()))];
    for _ in 0..generator.below(4) {
        let id = generator.below(10) as i64;
        requests.push(request(RequestUnion::CancelRequest(cancel(id))));
    }
    requests
}

/// Opens a stream for each script; etcd answers the call itself only with its first message, so
/// the requests are on their way before.
async fn open(side: &Side, scripts: &[Vec<pb::WatchRequest>]) -> Vec<Stream> {
    let mut streams = Vec::new();
    for script in scripts {
        let (requests, receiver) = mpsc::unbounded();
        for request in script {
            requests.unbounded_send(request.clone()).expect("the receiver is at hand");
        }
        let mut client = WatchClient::new(side.channel.clone());
        let responses = client.watch(receiver).await.expect("a stream").into_inner();
        streams.push(Stream { requests, responses, seen: Seen::default() });
    }
    streams
}

impl Stream {
    fn send(&self, requests: &[pb::WatchRequest]) {
        for request in requests {
            self.requests.unbounded_send(request.clone()).expect("an open stream");
        }
    }

    /// Reads until the stream is quiet.
    async fn drain(&mut self) {
        while let Ok(message) = tokio::time::timeout(QUIET, self.responses.message()).await {
            match message {
                Ok(Some(response)) => self.seen.note(response),
                Ok(None) => {
                    self.seen.broken.push("the stream ended".to_string());
                    return;
                }
                Err(status) => {
                    self.seen.broken.push(format!("{:?} {}", status.code(), status.message()));
                    return;
                }
            }
        }
    }
}

impl Seen {
    /// Leaves out what docs/compatibility.md lists as different: after a compaction cancelled a
    /// watch, etcd cancels it once more on request, and reports no progress on that stream.
    fn settled(mut self) -> Seen {
        for id in &self.compacted {
            let control = self.control.entry(*id).or_default();
            let cancel = control.iter().position(|text| !text.contains("compact_revision: 0"));
            control.truncate(cancel.map_or(0, |at| at + 1));
        }
        if !self.compacted.is_empty() {
            let reports = self.control.entry(-1).or_default();
            reports.retain(|text| text.contains("created: true"));
        }
        self.control.retain(|_, texts| !texts.is_empty());
        self
    }

    fn note(&mut self, mut response: pb::WatchResponse) {
        clear(&mut response);
        let id = response.watch_id;
        if response.compact_revision != 0 {
            self.compacted.insert(id);
            response.header = None;
        }
        let events = std::mem::take(&mut response.events);
        if events.is_empty() || response.created || response.canceled {
            self.control.entry(id).or_default().push(format!("{response:?}"));
        }
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        for event in events {
            let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if revision > header {
                self.broken.push(format!("watch {id}: an event at {revision}, header {header}"));
            }
            self.events.entry(id).or_default().push(format!("{event:?}"));
        }
    }
}

fn print_difference(
    round: u64,
    script: &[pb::WatchRequest],
    ending: &[pb::WatchRequest],
    theirs: &Seen,
    ours: &Seen,
) {
    println!("round {round}: a stream with {script:?}, then {ending:?}");
    for id in theirs.control.keys().chain(ours.control.keys()) {
        let (a, b) = (theirs.control.get(id), ours.control.get(id));
        if a != b {
            println!("  watch {id}, control\n    etcd: {a:?}\n    detcd: {b:?}");
        }
    }
    let none = Vec::new();
    for id in theirs.events.keys().chain(ours.events.keys()) {
        let a = theirs.events.get(id).unwrap_or(&none);
        let b = ours.events.get(id).unwrap_or(&none);
        let differs = a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()));
        if a != b {
            println!("  watch {id}, event {differs} of {} and {}", a.len(), b.len());
            println!("    etcd: {:?}\n    detcd: {:?}", a.get(differs), b.get(differs));
        }
    }
    println!("  broken\n    etcd: {:?}\n    detcd: {:?}", theirs.broken, ours.broken);
}
