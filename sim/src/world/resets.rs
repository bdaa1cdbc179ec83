//! Connections that are reset: what was under way on them is lost, and both ends hear of it.
//!
//! The simulated network delays and cuts, and knows no resets. So the service of a member's peer
//! port stands behind this one, which lets go of calls when the member's connections are reset;
//! clients do so themselves (`SharedBook::unless_reset`).

use super::book::SharedBook;
use detcd::pb::raftpb as pb;
use detcd::pb::raftpb::peer_server::Peer;
use detcd::server::peer_service::PeerService;
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

/// The service of a member's peer port, over connections that may be reset.
#[derive(Clone)]
pub struct Resettable {
    service: PeerService,
    book: SharedBook,
    member: usize,
}

type Answer<T> = Result<Response<T>, Status>;

fn reset() -> Status {
    Status::unavailable("connection reset by peer")
}

impl Resettable {
    pub fn new(service: PeerService, book: SharedBook, member: usize) -> Resettable {
        Resettable { service, book, member }
    }

    async fn serve<T>(&self, call: impl Future<Output = Answer<T>>) -> Answer<T> {
        self.book.unless_reset(self.member, call).await.unwrap_or_else(|| Err(reset()))
    }
}

#[tonic::async_trait]
impl Peer for Resettable {
    async fn messages(&self, r: Request<Streaming<pb::PeerBatch>>) -> Answer<pb::PeerClosed> {
        self.serve(self.service.messages(r)).await
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
        let pieces = self.serve(self.service.fetch_snapshot(r)).await?.into_inner();
        let (book, member) = (self.book.clone(), self.member);
        let before = book.resets(member);
        let unless_reset =
            move |piece| if book.resets(member) == before { piece } else { Err(reset()) };
        Ok(Response::new(pieces.map(unless_reset).boxed()))
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
