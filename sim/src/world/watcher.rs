//! The watchers: each keeps a stream open over some keys, and resumes where the last one broke.
//!
//! Some are plain clients. Some follow Kubernetes' pattern: they list, watch from the revision of
//! the list on, and list again once a compaction has overtaken them. Some are slow: they pull from
//! the server's own handle and take their time, because the simulated streams never push back.

use super::addresses::client_address;
use super::client::Caller;
use super::cluster::Cluster;
use super::nodes::WATCHER_NODES;
use crate::history::Outcome;
use crate::history::streams::{Delivery, Filter, Stream as Watched};
use crate::model::{Range, Request, Span, WatchEvent};
use crate::moment::Nanos;
use crate::random::Stream;
use crate::timer;
use crate::wire;
use detcd::pb::etcdserverpb::watch_client::WatchClient;
use detcd::pb::etcdserverpb::watch_create_request::FilterType;
use detcd::pb::etcdserverpb::watch_request::RequestUnion;
use detcd::pb::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use detcd::pb::mvccpb;
use detcd::server::watch_stream::WatchSession;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::Endpoint;

/// A stream that is silent for so long is given up, as a client's keep-alive would do it.
pub(super) const SILENCE: Duration = Duration::from_secs(3);
/// Pause before a stream is opened again.
const RETRY: Duration = Duration::from_millis(100);
/// The longest pause of a slow reader.
const SLOW_MS_MAX: u64 = 1_500;
/// Stands for all watchers of a stream.
const ALL_WATCHERS: i64 = -1;

/// How a watcher lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Lists, watches from there, and lists again.
    Informer,
    /// Pulls from the server's handle, with pauses.
    Slow,
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
pub async fn run(cluster: Cluster, watcher: u64) {
    let (plan, book) = (cluster.plan().clone(), cluster.book().clone());
    let mut chance = Stream::new(plan.seed, &format!("watcher/{watcher}"));
    let wish = Wish::draw(&mut chance, plan.workload.keys);
    let kind = [Kind::Plain, Kind::Informer, Kind::Slow][chance.weighted(&[4, 3, 3])];
    // 0 is from the present on.
    let mut start = chance.below(2) as i64;
    let mut listed = kind != Kind::Informer;
    loop {
        let ending = book.ending().get();
        // Whoever chose a member before the faults were over is owed nothing by it.
        let at_end = !ending.core.is_empty();
        let member = match at_end {
            false => chance.below(plan.options.members as u64) as usize,
            true => *chance.pick(&ending.core),
        };
        if !listed && let Some(revision) = list(&cluster, watcher, member, &wish.span).await {
            (start, listed) = (revision + 1, true);
        }
        let mut finished = false;
        if listed {
            let mut life = Life {
                watcher,
                member,
                wish: wish.clone(),
                cluster: cluster.clone(),
                start,
                watched: None,
                decoy: None,
                cancel_sent: false,
            };
            let end = life.stream(kind, at_end, &mut chance).await;
            finished = matches!(end, End::Finished) && life.watched.is_some();
            let main = life.watched.take();
            if let Some(mut watched) = main {
                start = watched.seen() + 1;
                if finished {
                    watched.owed = Some(book.ending().get().owed);
                }
                book.streamed(watched);
            }
            life.decoy.take().into_iter().for_each(|decoy| book.streamed(decoy));
            if let End::Compacted(revision) = end {
                book.reach("watcher compacted");
                start = revision.max(start);
                listed = kind != Kind::Informer;
            }
        }
        if finished || book.ending().get().over {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Reads what a watcher is about, and says at which revision.
async fn list(cluster: &Cluster, watcher: u64, member: usize, span: &Span) -> Option<i64> {
    let client = WATCHER_NODES + watcher;
    let book = cluster.book().clone();
    let mut caller = Caller::new(client, cluster.members(), Duration::from_secs(1), book);
    match caller.ask(member, Request::Range(Range::of(span.clone()))).await {
        Outcome::Done(reply) => Some(reply.revision),
        Outcome::Refused(_) | Outcome::Failed(_) | Outcome::Unknown(_) => None,
    }
}

/// What a watcher wants to know.
#[derive(Clone)]
struct Wish {
    span: Span,
    prev_kv: bool,
    filter: Filter,
}

impl Wish {
    fn draw(chance: &mut Stream, keys: u64) -> Wish {
        let key = format!("k{:02}", chance.below(keys));
        let span = match chance.below(3) {
            0 => Span::one(key),
            1 => Span { key, end: "\0".into() },
            _ => Span::all(),
        };
        let filter = [Filter::None, Filter::NoPut, Filter::NoDelete][chance.weighted(&[8, 1, 1])];
        Wish { span, prev_kv: chance.chance(500), filter }
    }

    fn request(&self, start: i64) -> WatchCreateRequest {
        let filters = match self.filter {
            Filter::None => vec![],
            Filter::NoPut => vec![FilterType::Noput as i32],
            Filter::NoDelete => vec![FilterType::Nodelete as i32],
        };
        WatchCreateRequest {
            key: wire::bytes(&self.span.key),
            range_end: wire::bytes(&self.span.end),
            start_revision: start,
            progress_notify: true,
            prev_kv: self.prev_kv,
            filters,
            ..Default::default()
        }
    }
}

/// A stream, over the network or pulled from the server itself.
enum Source {
    Remote(mpsc::Sender<WatchRequest>, tonic::Streaming<WatchResponse>),
    Pulled(Box<WatchSession>),
}

impl Source {
    async fn open(kind: Kind, cluster: &Cluster, member: usize) -> Option<Source> {
        if kind == Kind::Slow {
            let session = cluster.server(member)?.watch(false).ok()?;
            return Some(Source::Pulled(Box::new(session)));
        }
        let uri = format!("http://{}", client_address(member));
        let endpoint = Endpoint::from_shared(uri).expect("an address is a valid URI");
        let mut client = WatchClient::new(endpoint.connect_lazy());
        let (requests, mut outgoing) = mpsc::channel(8);
        let outgoing = futures::stream::poll_fn(move |cx| outgoing.poll_recv(cx));
        match timer::timeout(SILENCE, client.watch(outgoing)).await {
            Ok(Ok(response)) => Some(Source::Remote(requests, response.into_inner())),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn send(&self, request: RequestUnion) {
        match (self, request) {
            (Source::Remote(requests, _), request) => {
                let _full = requests.try_send(WatchRequest { request_union: Some(request) });
            }
            (Source::Pulled(session), RequestUnion::CreateRequest(request)) => {
                session.create(&request);
            }
            (Source::Pulled(session), RequestUnion::CancelRequest(request)) => {
                session.cancel(request.watch_id);
            }
            (Source::Pulled(session), RequestUnion::ProgressRequest(_)) => {
                session.request_progress();
            }
        }
    }

    async fn next(&mut self) -> Option<WatchResponse> {
        match self {
            Source::Remote(_, incoming) => incoming.message().await.ok()?,
            Source::Pulled(session) => session.next().await?.ok(),
        }
    }
}

struct Life {
    watcher: u64,
    member: usize,
    wish: Wish,
    cluster: Cluster,
    start: i64,
    watched: Option<Watched>,
    /// Another watcher of the same stream, which is canceled at some point.
    decoy: Option<Watched>,
    /// Its cancel was sent; until the reply is there, it is judged like any other.
    cancel_sent: bool,
}

impl Life {
    /// Opens one stream and listens until it ends.
    async fn stream(&mut self, kind: Kind, began_at_end: bool, chance: &mut Stream) -> End {
        let book = self.cluster.book().clone();
        let boot = self.cluster.boots(self.member);
        let opened = Source::open(kind, &self.cluster, self.member).await;
        let Some(mut source) = opened else { return End::Broken };
        let main = self.create_all(&source, chance);
        loop {
            let ending = book.ending().get();
            // Everybody opens a stream anew once the faults are over.
            if !began_at_end && !ending.core.is_empty() {
                return End::Broken;
            }
            if ending.over {
                return End::Finished;
            }
            // A handle outlives the process that it is of, as no connection does.
            if kind == Kind::Slow && !self.is_in_boot(boot) {
                return End::Broken;
            }
            let has_arrived = |w: &Watched| w.seen() >= ending.owed;
            if began_at_end && ending.owed > 0 && self.watched.as_ref().is_some_and(has_arrived) {
                return End::Finished;
            }
            if kind == Kind::Slow {
                // What is pulled comes at once: without a pause, time would stand still.
                let pause = if began_at_end { 5 } else { chance.log_between(1, SLOW_MS_MAX) };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            self.ask_along(&source, main, chance, began_at_end);
            let patience = if began_at_end { RETRY } else { SILENCE };
            let arrival = book.unless_reset(self.member, source.next());
            let response = match timer::timeout(patience, arrival).await {
                Ok(Some(Some(response))) => response,
                Err(_) if began_at_end => continue,
                Ok(Some(None) | None) | Err(_) => return End::Broken,
            };
            if let Some(end) = self.take(main, response) {
                return end;
            }
        }
    }

    /// Whether the process of its member is still the one of that boot.
    fn is_in_boot(&self, boot: u64) -> bool {
        let (cluster, member) = (&self.cluster, self.member);
        cluster.boots(member) == boot && cluster.server(member).is_some()
    }

    /// Creates the watcher, and sometimes another one before or behind it; says which id it gets.
    fn create_all(&mut self, source: &Source, chance: &mut Stream) -> i64 {
        let create = RequestUnion::CreateRequest;
        let own = create(self.wish.request(self.start));
        if !chance.chance(300) {
            source.send(own);
            return 0;
        }
        let wish = Wish { span: Span::all(), prev_kv: false, filter: Filter::None };
        let other = create(wish.request(0));
        let first = chance.chance(500);
        let [before, behind] = if first { [other, own] } else { [own, other] };
        source.send(before);
        source.send(behind);
        self.decoy = Some(self.blank(&wish, i64::MAX));
        i64::from(first)
    }

    /// Asks for progress now and then, and cancels the other watcher.
    fn ask_along(&mut self, source: &Source, main: i64, chance: &mut Stream, at_end: bool) {
        if chance.chance(100) || at_end {
            source.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        }
        let created = self.decoy.as_ref().is_some_and(|w| w.start < i64::MAX);
        let both = created && self.watched.is_some();
        if both && !self.cancel_sent && chance.chance(150) {
            let cancel = WatchCancelRequest { watch_id: 1 - main };
            source.send(RequestUnion::CancelRequest(cancel));
            self.cluster.book().reach("watcher canceled beside another");
            self.cancel_sent = true;
        }
    }

    fn blank(&self, wish: &Wish, start: i64) -> Watched {
        Watched {
            client: self.watcher,
            member: self.member,
            span: wish.span.clone(),
            filter: wish.filter,
            prev_kv: wish.prev_kv,
            start,
            opened: self.cluster.book().now(),
            closed: 0,
            deliveries: Vec::new(),
            owed: None,
            cut_off: None,
        }
    }

    /// Takes a response for one of the watchers; the end of the main one ends the stream.
    fn take(&mut self, main: i64, response: WatchResponse) -> Option<End> {
        let book = self.cluster.book().clone();
        let (at, id) = (book.now(), response.watch_id);
        let revision = response.header.as_ref().map_or(0, |h| h.revision);
        if response.canceled {
            if id != main {
                // It has ended; what it was told is judged.
                let decoy = self.decoy.take().filter(|w| w.start < i64::MAX);
                decoy.into_iter().for_each(|watched| book.streamed(watched));
                return None;
            }
            let compacted = response.compact_revision;
            if compacted > 0 {
                return Some(End::Compacted(compacted));
            }
            if let Some(watched) = &mut self.watched {
                watched.cut_off = Some(at);
            }
            return Some(End::Broken);
        }
        if response.created {
            self.created(id == main, revision);
            return None;
        }
        let delivery = deliver(at, revision, response);
        book.line(format_args!(
            "w{} <- m{} {} events for {id}, header {revision}",
            self.watcher,
            self.member,
            delivery.events.len()
        ));
        if id == ALL_WATCHERS || id == main {
            self.watched.iter_mut().for_each(|w| w.deliveries.push(delivery.clone()));
        }
        if id == ALL_WATCHERS || id != main {
            let created = self.decoy.iter_mut().filter(|w| w.start < i64::MAX);
            created.for_each(|w| w.deliveries.push(delivery.clone()));
        }
        None
    }

    fn created(&mut self, is_main: bool, revision: i64) {
        let book = self.cluster.book();
        if !is_main {
            self.decoy.iter_mut().for_each(|w| w.start = revision + 1);
            return;
        }
        let start = if self.start > 0 { self.start } else { revision + 1 };
        book.line(format_args!("w{} watches at m{} from {start}", self.watcher, self.member));
        self.watched = Some(self.blank(&self.wish, start));
    }
}

fn deliver(at: Nanos, revision: i64, response: WatchResponse) -> Delivery {
    let events: Vec<WatchEvent> = response.events.into_iter().map(event).collect();
    let progress = events.is_empty().then_some(revision);
    Delivery { at, events, progress }
}

fn event(event: mvccpb::Event) -> WatchEvent {
    let deleted = event.r#type() == mvccpb::event::EventType::Delete;
    let kv = wire::key_value(event.kv.expect("an event names its key"));
    let (key, revision) = (kv.key.clone(), kv.mod_revision);
    let prev = event.prev_kv.map(wire::key_value);
    WatchEvent { key, revision, kv: (!deleted).then_some(kv), prev }
}
