//! The way to the other members: one task and one bounded queue for each, and one long-lived
//! stream.
//!
//! The transport promises little, as Raft asks for little: messages arrive in order within one
//! stream, and may be lost with it. A message that finds its queue full is dropped and reported,
//! and so is everything queued for a member that can't be reached.

use super::event::Event;
use super::outbox::{Ends, Outbox};
use super::shared::Shared;
use crate::env::clock::Mono;
use crate::env::recorder;
use crate::metrics::hex;
use crate::pb::raftpb::peer_client::PeerClient;
use crate::pb::raftpb::{InfoRequest, Member, PeerBatch, PeerClosed, PeerHeader};
use crate::raft::message::{Message, NodeId, Payload};
use prometheus::{Histogram, IntCounter};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// The version of what members say to each other; a newer one is refused by older members.
pub const PROTOCOL_VERSION: u32 = 1;

/// Messages that may wait for one peer. In-flight limits of the core keep it far below.
const QUEUE_MESSAGES: usize = 4096;
/// How often a peer whose stream broke is asked whether it is there, while it gives no answer.
const QUESTIONS_MAX: u32 = 5;
/// The largest message a member accepts: a batch may hold one entry of the largest request.
pub const MESSAGE_BYTES_MAX: usize = 1 << 30;

struct Peer {
    urls: Vec<String>,
    queue: mpsc::Sender<Message>,
    task: JoinHandle<()>,
    /// When this member last heard from it, over the stream that the peer opened.
    heard: Mono,
    /// Messages to it were lost, and nothing was heard since.
    lost: bool,
    /// Nobody listened where it was, and nothing was heard since.
    gone: bool,
    /// When the oldest heartbeat left that it has not answered.
    asked: Option<Mono>,
    /// Since when it has been heard from without a longer silence; none if it never was.
    connected_since: Option<Mono>,
    /// Somebody there waits for what is committed.
    awaits: Arc<AtomicBool>,
    /// How long it takes to answer a heartbeat.
    round_trip: Histogram,
}

/// The other members, and how to reach them.
pub struct Peers {
    shared: Arc<Shared>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
}

impl Peers {
    pub fn new(shared: Arc<Shared>) -> Arc<Peers> {
        Arc::new(Peers { shared, peers: Mutex::new(BTreeMap::new()) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().expect("no holder of the peers panics and goes on")
    }

    /// Makes a member reachable at these addresses, in place of those known of it.
    pub fn set(self: &Arc<Peers>, id: NodeId, urls: &[String]) {
        if id == self.shared.member_id {
            return;
        }
        let mut peers = self.lock();
        if peers.get(&id).is_some_and(|peer| peer.urls == urls) {
            return;
        }
        let (queue, waiting) = mpsc::channel(QUEUE_MESSAGES);
        let metrics = &self.shared.metrics;
        let sent = metrics.peer_sent_bytes_total.with_label_values(&[&hex(id)]);
        let round_trip = metrics.peer_round_trip_time_seconds.with_label_values(&[&hex(id)]);
        let awaits = Arc::new(AtomicBool::new(false));
        let link = Link {
            id,
            urls: urls.to_vec(),
            next_url: 0,
            sent,
            peer_awaits: awaits.clone(),
            peers: self.clone(),
            question: None,
        };
        let task = tokio::spawn(link.run(waiting));
        let now = self.shared.env.clock.now();
        let mut peer = Peer {
            urls: urls.to_vec(),
            queue,
            task,
            heard: now,
            lost: false,
            gone: false,
            asked: None,
            connected_since: None,
            awaits,
            round_trip,
        };
        if let Some(before) = peers.remove(&id) {
            before.task.abort();
            // Another address is no other member.
            (peer.heard, peer.connected_since) = (before.heard, before.connected_since);
        }
        peers.insert(id, peer);
    }

    /// Makes exactly these members reachable.
    pub fn set_all(self: &Arc<Peers>, members: &[Member]) {
        let known: Vec<NodeId> = self.lock().keys().copied().collect();
        for id in known.into_iter().filter(|id| members.iter().all(|member| member.id != *id)) {
            self.remove(id);
        }
        for member in members.iter().filter(|member| !member.peer_urls.is_empty()) {
            self.set(member.id, &member.peer_urls);
        }
    }

    /// A connection of its own to a member, for calls beside the stream of messages.
    pub fn client(&self, id: NodeId) -> Option<PeerClient<Channel>> {
        let urls = self.urls(id);
        let at = self.shared.draw() as usize % urls.len().max(1);
        connect(urls.get(at)?, self.shared.election_timeout)
    }

    /// Forgets a member.
    pub fn remove(&self, id: NodeId) {
        if let Some(peer) = self.lock().remove(&id) {
            peer.task.abort();
        }
    }

    /// Ends all links.
    pub fn stop(&self) {
        for (_, peer) in std::mem::take(&mut *self.lock()) {
            peer.task.abort();
        }
    }

    /// Queues a message; never waits.
    pub fn send(&self, message: Message) {
        let to = message.to;
        let asks = matches!(message.payload, Payload::Heartbeat { .. });
        let full = match self.lock().get_mut(&to) {
            Some(peer) => {
                if asks && peer.asked.is_none() {
                    peer.asked = Some(self.shared.env.clock.now());
                }
                peer.queue.try_send(message).is_err()
            }
            // A member that has left: nobody waits for this.
            None => false,
        };
        if full {
            self.report_unreachable(to);
        }
    }

    /// Makes a member reachable that nobody else has spoken of yet.
    pub fn introduce(self: &Arc<Peers>, id: NodeId, urls: &[String]) {
        if !urls.is_empty() && !self.lock().contains_key(&id) {
            self.set(id, urls);
        }
    }

    /// Notes that a peer was heard from, whether it answers a heartbeat, and whether it waits for
    /// what is committed; false if there is no such peer.
    pub fn heard(&self, id: NodeId, messages: &[Message], awaits: bool) -> bool {
        let now = self.shared.env.clock.now();
        let answers = |m: &Message| matches!(m.payload, Payload::HeartbeatResponse { .. });
        let (was_lost, asked, round_trip) = {
            let mut peers = self.lock();
            let Some(peer) = peers.get_mut(&id) else { return false };
            if now - peer.heard > self.shared.election_timeout {
                peer.connected_since = None;
            }
            peer.connected_since.get_or_insert(now);
            peer.heard = now;
            peer.gone = false;
            peer.awaits.store(awaits, Ordering::Relaxed);
            let asked = messages.iter().any(answers).then(|| peer.asked.take()).flatten();
            (std::mem::replace(&mut peer.lost, false), asked, peer.round_trip.clone())
        };
        if was_lost {
            self.shared.env.recorder.record(&recorder::Event::PeerBack { peer: id });
        }
        if let Some(asked) = asked {
            let took = now - asked;
            round_trip.observe(took.as_secs_f64());
            self.shared.env.recorder.record(&recorder::Event::RoundTrip { peer: id, took });
        }
        true
    }

    /// Notes that messages to a peer were lost.
    fn lost(&self, id: NodeId) {
        let first = match self.lock().get_mut(&id) {
            Some(peer) => {
                peer.asked = None;
                !std::mem::replace(&mut peer.lost, true)
            }
            None => false,
        };
        if first {
            self.shared.env.recorder.record(&recorder::Event::PeerLost { peer: id });
        }
        self.report_unreachable(id);
    }

    /// Notes that nobody listens where a peer was. An inbox that is full drops the word: who does
    /// not hear of it waits for the election timeout.
    fn gone(&self, id: NodeId) {
        let first = match self.lock().get_mut(&id) {
            Some(peer) => !std::mem::replace(&mut peer.gone, true),
            None => return,
        };
        if first {
            tracing::warn!(peer = format!("{id:x}"), "nobody listens at the peer's address");
            self.shared.env.recorder.record(&recorder::Event::PeerGone { peer: id });
        }
        let _full = self.shared.inbox.try_send(Event::Gone(id));
    }

    /// Another member says that this one was removed. It will say so again if the inbox is full.
    fn told_of_removal(&self) {
        let _full = self.shared.inbox.try_send(Event::Removed);
    }

    /// For how long a peer has been connected; none if it is silent.
    pub fn connected_for(&self, id: NodeId) -> Option<Duration> {
        let now = self.shared.env.clock.now();
        let peers = self.lock();
        let peer = peers.get(&id)?;
        let since = peer.connected_since?;
        (now - peer.heard <= self.shared.election_timeout).then(|| now - since)
    }

    fn last_heard(&self, id: NodeId) -> Option<Mono> {
        self.lock().get(&id).map(|peer| peer.heard)
    }

    /// Drops the report when the inbox is full: the next failure reports again.
    fn report_unreachable(&self, id: NodeId) {
        self.shared.metrics.peer_sent_failures_total.with_label_values(&[&hex(id)]).inc();
        let _full = self.shared.inbox.try_send(Event::Unreachable(id));
    }

    /// The addresses of a member.
    pub fn urls(&self, id: NodeId) -> Vec<String> {
        self.lock().get(&id).map(|peer| peer.urls.clone()).unwrap_or_default()
    }

    /// How this member presents itself to another.
    pub fn header(&self, to: NodeId) -> PeerHeader {
        PeerHeader {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: self.shared.cluster_id,
            from: self.shared.member_id,
            to,
            peer_urls: self.shared.peer_urls.clone(),
        }
    }
}

/// The task that keeps one peer reachable.
struct Link {
    id: NodeId,
    urls: Vec<String>,
    next_url: usize,
    /// Bytes of messages handed to the transport.
    sent: IntCounter,
    peer_awaits: Arc<AtomicBool>,
    peers: Arc<Peers>,
    /// The question that follows a stream's end; one at a time.
    question: Option<JoinHandle<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(question) = self.question.take() {
            question.abort();
        }
    }
}

impl Link {
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        loop {
            let first = tokio::select! {
                biased;
                first = queue.recv() => match first {
                    Some(first) => Some(first),
                    None => return,
                },
                () = self.peers.shared.env.clock.sleep(self.pause()) => None,
            };
            queue = self.stream(first, queue).await;
            self.ask_after_it();
            // What waited for the stream that broke is stale: Raft sends again what matters.
            while queue.try_recv().is_ok() {}
            self.peers.lost(self.id);
            let pause = self.peers.shared.election_timeout / 10;
            self.peers.shared.env.clock.sleep(pause).await;
        }
    }

    /// How long a peer is left without a word: those that have nothing to say to each other show
    /// that they are there, and learn of a removal.
    fn pause(&self) -> Duration {
        self.peers.shared.election_timeout / 2
    }

    /// Sends until the stream breaks, the peer has been silent for too long, or the link is gone;
    /// gives the queue back.
    async fn stream(
        &mut self,
        first: Option<Message>,
        queue: mpsc::Receiver<Message>,
    ) -> mpsc::Receiver<Message> {
        let Some(mut client) = self.connect() else { return queue };
        let header = Some(self.peers.header(self.id));
        let opening = PeerBatch { header, ..PeerBatch::default() };
        let (outbox, batches) = Outbox::lend(queue, opening, first, self.ends());
        {
            let call = client.messages(batches);
            let mut call = std::pin::pin!(call);
            let opened = self.peers.shared.env.clock.now();
            let mut greets_at = opened + self.pause();
            loop {
                let look_at = greets_at.min(self.silent_at(opened));
                tokio::select! {
                    biased;
                    ended = &mut call => {
                        self.ended(ended.map(|closed| closed.into_inner()));
                        break;
                    }
                    () = self.peers.shared.env.clock.sleep_until(look_at) => {}
                }
                let now = self.peers.shared.env.clock.now();
                if now >= self.silent_at(opened) {
                    break;
                }
                if now >= greets_at {
                    outbox.greet_if_quiet();
                    greets_at = now + self.pause();
                }
            }
        }
        outbox.take_back()
    }

    fn ends(&self) -> Ends {
        let shared = self.peers.shared.clone();
        Ends {
            clock: shared.env.clock.clone(),
            peer_awaits: self.peer_awaits.clone(),
            we_await: Box::new(move || shared.awaits_commit()),
            sent: self.sent.clone(),
        }
    }

    /// A stream may end because this member was removed, and the answer that says so get lost; or
    /// because the peer's process ended, and then a fresh connection is refused.
    fn ask_after_it(&mut self) {
        if self.question.as_ref().is_some_and(|question| !question.is_finished()) {
            return;
        }
        let Some(mut client) = self.connect() else { return };
        let (id, peers, shared) = (self.id, self.peers.clone(), self.peers.shared.clone());
        let header = Some(self.peers.header(id));
        self.question = Some(tokio::spawn(async move {
            for _ in 0..QUESTIONS_MAX {
                let answer = tokio::select! {
                    biased;
                    answer = client.info(InfoRequest { header: header.clone() }) => answer,
                    () = shared.env.clock.sleep(shared.election_timeout) => return,
                };
                match answer.map(|info| info.into_inner()) {
                    Ok(info) => {
                        let ours = info.cluster_id == shared.cluster_id;
                        if ours && info.removed.contains(&shared.member_id) {
                            peers.told_of_removal();
                        }
                        return;
                    }
                    Err(status) if status.code() == Code::Unavailable => return peers.gone(id),
                    // A process that is ending may still take a connection, and reset it then.
                    Err(status) => tracing::debug!(peer = format!("{id:x}"), %status, "no answer"),
                }
                shared.env.clock.sleep(shared.election_timeout / 40).await;
            }
        }));
    }

    fn ended(&self, ended: Result<PeerClosed, tonic::Status>) {
        match ended {
            Ok(closed) if closed.removed => self.peers.told_of_removal(),
            Ok(closed) if closed.reason.is_empty() => {}
            Ok(closed) => tracing::warn!(peer = format!("{:x}", self.id), reason = closed.reason),
            Err(status) => {
                tracing::debug!(peer = format!("{:x}", self.id), %status, "stream broke");
            }
        }
    }

    /// A stream that was cut in the middle can look alive for as long as the transport retries.
    /// A peer that has said nothing for an election timeout is worth a fresh one.
    fn silent_at(&self, opened: Mono) -> Mono {
        let heard = self.peers.last_heard(self.id).unwrap_or(opened).max(opened);
        heard + self.peers.shared.election_timeout
    }

    /// The next of the peer's addresses.
    fn connect(&mut self) -> Option<PeerClient<Channel>> {
        let url = self.urls.get(self.next_url % self.urls.len().max(1))?;
        self.next_url += 1;
        connect(url, self.peers.shared.election_timeout)
    }
}

/// A client of a member at this address; none if it is no address.
pub fn connect(url: &str, timeout: Duration) -> Option<PeerClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_string()).ok()?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(timeout);
    let client = PeerClient::new(endpoint.connect_lazy());
    Some(client.max_encoding_message_size(MESSAGE_BYTES_MAX))
}
