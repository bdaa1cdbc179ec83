//! The watchers: each keeps a stream open over some keys, and resumes where the last one broke.

use super::book::SharedBook;
use super::client::client_address;
use crate::checker::watch::{Delivery, Stream as Watched, WatchEvent};
use crate::model::Span;
use crate::plan::Plan;
use crate::random::Stream;
use crate::wire;
use bytes::Bytes;
use detcd::pb::etcdserverpb::watch_client::WatchClient;
use detcd::pb::etcdserverpb::watch_request::RequestUnion;
use detcd::pb::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use detcd::pb::mvccpb;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::Endpoint;

/// A stream that is silent for so long is given up, as a client's keep-alive would do it.
const SILENCE: Duration = Duration::from_secs(3);
/// Pause before a stream is opened again.
const RETRY: Duration = Duration::from_millis(100);

/// What the watchers are told when the faults are over.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Open a stream at one of these members, and stay.
    pub core: Vec<usize>,
    /// Everything up to here has to arrive.
    pub owed: i64,
    /// It is too late.
    pub over: bool,
}

/// How a stream ended.
enum End {
    Broken,
    /// What was asked for is compacted up to here.
    Compacted(i64),
    /// Everything owed is there, or time is up.
    Finished,
}

/// One watcher's life.
pub async fn run(plan: Plan, watcher: u64, book: SharedBook) {
    let mut chance = Stream::new(plan.seed, &format!("watcher/{watcher}"));
    let key = format!("k{:02}", chance.below(plan.workload.keys));
    let span = match chance.below(3) {
        0 => Span::one(key),
        1 => Span { key, end: "\0".into() },
        _ => Span::all(),
    };
    // 0 is from the present on.
    let mut start = chance.below(2) as i64;
    loop {
        let ending = book.ending().get();
        let member = match ending.core.is_empty() {
            true => chance.below(plan.options.members as u64) as usize,
            false => *chance.pick(&ending.core),
        };
        let mut life = Life { watcher, member, span: span.clone(), book: book.clone(), start };
        let (watched, end) = life.stream(&mut chance).await;
        let mut finished = false;
        if let Some(mut watched) = watched {
            finished = matches!(end, End::Finished);
            start = watched.seen() + 1;
            if finished {
                watched.owed = Some(book.ending().get().owed);
            }
            book.streamed(watched);
        }
        if let End::Compacted(revision) = end {
            start = revision.max(start);
        }
        if finished || book.ending().get().over {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Life {
    watcher: u64,
    member: usize,
    span: Span,
    book: SharedBook,
    start: i64,
}

impl Life {
    /// Opens one stream and listens until it ends; nothing is returned if it was not created.
    async fn stream(&mut self, chance: &mut Stream) -> (Option<Watched>, End) {
        let uri = format!("http://{}", client_address(self.member));
        let endpoint = Endpoint::from_shared(uri).expect("an address is a valid URI");
        let mut client = WatchClient::new(endpoint.connect_lazy());
        let (requests, mut outgoing) = mpsc::channel(8);
        let create = WatchCreateRequest {
            key: Bytes::copy_from_slice(self.span.key.as_bytes()),
            range_end: Bytes::copy_from_slice(self.span.end.as_bytes()),
            start_revision: self.start,
            progress_notify: true,
            ..Default::default()
        };
        let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(first).await.expect("the queue is new");
        let outgoing = futures::stream::poll_fn(move |cx| outgoing.poll_recv(cx));
        let Ok(Ok(response)) = tokio::time::timeout(SILENCE, client.watch(outgoing)).await else {
            return (None, End::Broken);
        };
        let mut incoming = response.into_inner();
        let began_at_end = !self.book.ending().get().core.is_empty();
        let mut watched: Option<Watched> = None;
        loop {
            let ending = self.book.ending().get();
            if ending.over {
                return (watched, End::Finished);
            }
            let arrived = watched.as_ref().is_some_and(|w| w.seen() >= ending.owed);
            if began_at_end && ending.owed > 0 && arrived {
                return (watched, End::Finished);
            }
            // Everybody opens a stream anew once the faults are over.
            if !began_at_end && !ending.core.is_empty() {
                return (watched, End::Broken);
            }
            if chance.chance(100) || began_at_end {
                let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                let _full = requests.try_send(WatchRequest { request_union: Some(ask) });
            }
            let patience = if began_at_end { RETRY } else { SILENCE };
            let response = match tokio::time::timeout(patience, incoming.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None) | Err(_)) => return (watched, End::Broken),
                Err(_) if began_at_end => continue,
                Err(_) => return (watched, End::Broken),
            };
            if response.canceled {
                let compacted = response.compact_revision;
                let end = if compacted > 0 { End::Compacted(compacted) } else { End::Broken };
                return (watched, end);
            }
            self.take(&mut watched, response);
        }
    }

    fn take(&mut self, watched: &mut Option<Watched>, response: WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |h| h.revision);
        if response.created {
            let start = if self.start > 0 { self.start } else { revision + 1 };
            *watched = Some(Watched {
                client: self.watcher,
                member: self.member,
                span: self.span.clone(),
                start,
                deliveries: Vec::new(),
                owed: None,
            });
            self.book
                .line(format_args!("w{} watches at m{} from {start}", self.watcher, self.member));
            return;
        }
        let Some(watched) = watched else { return };
        let events: Vec<WatchEvent> = response.events.into_iter().map(event).collect();
        let progress = events.is_empty().then_some(revision);
        let (count, at) = (events.len(), self.book.now());
        self.book.line(format_args!(
            "w{} <- m{} {count} events, header {revision}",
            self.watcher, self.member
        ));
        watched.deliveries.push(Delivery { at, events, progress });
    }
}

fn event(event: mvccpb::Event) -> WatchEvent {
    let deleted = event.r#type() == mvccpb::event::EventType::Delete;
    let kv = wire::key_value(event.kv.expect("an event names its key"));
    let (key, revision) = (kv.key.clone(), kv.mod_revision);
    WatchEvent { key, revision, kv: (!deleted).then_some(kv) }
}
