//! Connections that are reset: what was under way on them is lost, and both ends hear of it.
//!
//! The simulated network delays and cuts, and knows no resets. So the service of a member's peer
//! port stands behind this one, which lets go of calls when the member's connections are reset;
//! clients do so themselves (`SharedBook::unless_reset`). It also hears what the others say.

use super::book::SharedBook;
use crate::checker::containment;
use crate::checker::peer_streams::{PeerStream, Said};
use detcd::pb::raftpb as pb;
use detcd::pb::raftpb::peer_server::Peer;
use detcd::pb::raftpb::raft_message::Payload;
use detcd::server::Server;
use detcd::server::peer_service::PeerService;
use detcd::server::shared::Shared;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tonic::{Code, Request, Response, Status, Streaming};

/// The service of a member's peer port, over connections that may be reset.
#[derive(Clone)]
pub struct Resettable {
    service: PeerService,
    book: SharedBook,
    member: usize,
    breaks: Breaks,
    /// The last entry that was sent to this process, by whomever.
    received: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

/// Transfers of states that are to break off: behind how many pieces, in order.
#[derive(Clone, Default)]
pub struct Breaks(Arc<Mutex<VecDeque<u64>>>);

impl Breaks {
    pub fn add(&self, pieces: u64, times: u64) {
        let mut waiting = self.0.lock().expect("no holder of this lock panics");
        waiting.extend((0..times).map(|_| pieces));
    }

    /// What has not begun breaks off no more.
    pub fn clear(&self) {
        self.0.lock().expect("no holder of this lock panics").clear();
    }

    fn take(&self) -> Option<u64> {
        self.0.lock().expect("no holder of this lock panics").pop_front()
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn reset() -> Status {
    Status::unavailable("connection reset by peer")
}

impl Resettable {
    pub fn new(server: &Server, book: SharedBook, member: usize, breaks: Breaks) -> Resettable {
        let (service, shared) = (server.peer_service(), server.handle().shared().clone());
        Resettable { service, book, member, breaks, received: Arc::default(), shared }
    }

    /// Holds what comes over a stream to its order.
    fn listen(&self, batches: Streaming<pb::PeerBatch>) -> Streaming<pb::PeerBatch> {
        let (listener, mut stream) = (self.clone(), PeerStream::default());
        let heard = move |batch: Result<pb::PeerBatch, Status>| {
            for message in batch.iter().flat_map(|batch| &batch.messages) {
                listener.hear(&mut stream, message);
            }
            batch
        };
        Streaming::from_stream(batches.map(heard).boxed())
    }

    fn hear(&self, stream: &mut PeerStream, message: &pb::RaftMessage) {
        let said = match &message.payload {
            Some(Payload::Append(append)) => {
                let last = append.prev_index + append.entries.len() as u64;
                Said::Append { prev: append.prev_index, last, commit: append.commit }
            }
            Some(Payload::Heartbeat(beat)) => {
                Said::Heartbeat { commit: beat.commit, read_seq: beat.read_seq }
            }
            Some(Payload::Snapshot(offer)) => Said::Offer { index: offer.index },
            Some(_) | None => return,
        };
        let now = self.book.now();
        let view = {
            let mut book = self.book.lock();
            book.members[self.member].heard = (message.term, now);
            book.members[self.member].clone()
        };
        let held = self.received.load(Ordering::SeqCst).max(view.persisted).max(view.applied);
        if let Err(violation) = stream.hear(now, (message.term, said), held) {
            self.book.violated(violation);
        }
        if let Said::Append { last, .. } = said {
            self.received.fetch_max(last, Ordering::SeqCst);
        }
    }

    /// Looks at why a state is not sent.
    fn refuses(&self, status: &Status) {
        let damage = &self.shared.runs.damage;
        let is_known = damage.runs() > 0 || damage.wants_checkpoint();
        if status.code() == Code::DataLoss
            && let Err(violation) = containment::told(self.book.now(), self.member, is_known)
        {
            self.book.violated(violation);
        }
    }

    async fn serve<T>(&self, call: impl Future<Output = Answer<T>>) -> Answer<T> {
        self.book.unless_reset(self.member, call).await.unwrap_or_else(|| Err(reset()))
    }
}

#[tonic::async_trait]
impl Peer for Resettable {
    async fn messages(&self, r: Request<Streaming<pb::PeerBatch>>) -> Answer<pb::PeerClosed> {
        self.serve(self.service.messages(r.map(|batches| self.listen(batches)))).await
    }

    async fn lease_renew(
        &self,
        r: Request<pb::LeaseRenewRequest>,
    ) -> Answer<pb::LeaseRenewResponse> {
        self.serve(self.service.lease_renew(r)).await
    }

    async fn lease_time_to_live(
        &self,
        r: Request<pb::PeerLeaseTimeToLiveRequest>,
    ) -> Answer<pb::PeerLeaseTimeToLiveResponse> {
        self.serve(self.service.lease_time_to_live(r)).await
    }

    async fn change_members(
        &self,
        r: Request<pb::ChangeMembersRequest>,
    ) -> Answer<pb::ChangeMembersResponse> {
        self.serve(self.service.change_members(r)).await
    }

    async fn info(&self, r: Request<pb::InfoRequest>) -> Answer<pb::InfoResponse> {
        self.serve(self.service.info(r)).await
    }

    type FetchSnapshotStream = BoxStream<'static, Result<pb::SnapshotChunk, Status>>;

    async fn fetch_snapshot(
        &self,
        r: Request<pb::FetchSnapshotRequest>,
    ) -> Answer<Self::FetchSnapshotStream> {
        let opened = self.serve(self.service.fetch_snapshot(r)).await;
        let pieces = opened.inspect_err(|status| self.refuses(status))?.into_inner();
        let (book, member, listener) = (self.book.clone(), self.member, self.clone());
        let pieces = pieces.inspect_err(move |status| listener.refuses(status));
        let before = book.resets(member);
        let unless_reset =
            move |piece| if book.resets(member) == before { piece } else { Err(reset()) };
        let pieces = pieces.map(unless_reset);
        Ok(Response::new(match self.breaks.take() {
            Some(count) => {
                self.book.line(format_args!("m{member} will break off behind piece {count}"));
                let breaks_off = futures::stream::once(async { Err(reset()) });
                pieces.take(usize::try_from(count).unwrap_or(usize::MAX)).chain(breaks_off).boxed()
            }
            None => pieces.boxed(),
        }))
    }

    async fn state_hash(&self, r: Request<pb::StateHashRequest>) -> Answer<pb::StateHashResponse> {
        self.serve(self.service.state_hash(r)).await
    }

    async fn fetch_values(
        &self,
        r: Request<pb::FetchValuesRequest>,
    ) -> Answer<pb::FetchValuesResponse> {
        self.serve(self.service.fetch_values(r)).await
    }
}
