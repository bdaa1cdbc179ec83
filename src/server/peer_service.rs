//! The service on the peer port.

use super::event::Event;
use super::lost_state::NO_STATE;
use super::peers::{PROTOCOL_VERSION, Peers};
use super::reconfigure;
use super::shared::Shared;
use super::snapshots::{Outgoing, await_checkpoint};
use super::wire;
use crate::apply::request::core_change;
use crate::env::recorder::Standing;
use crate::metrics::hex;
use crate::mvcc::store::STATE_HASH_VERSION;
use crate::pb::raftpb as pb;
use crate::pb::raftpb::peer_server::Peer;
use crate::raft::message::{Message, NodeId};
use futures::stream::BoxStream;
use std::sync::Arc;
use std::task::Poll;
use tonic::{Request, Response, Status, Streaming};

/// Serves the other members.
#[derive(Clone)]
pub struct PeerService {
    shared: Arc<Shared>,
    peers: Arc<Peers>,
}

impl PeerService {
    pub fn new(shared: Arc<Shared>, peers: Arc<Peers>) -> PeerService {
        PeerService { shared, peers }
    }

    /// Refuses who is not of this cluster, does not mean this member, or speaks a newer protocol.
    fn check(&self, header: Option<pb::PeerHeader>) -> Result<pb::PeerHeader, Status> {
        let header =
            header.ok_or_else(|| Status::invalid_argument("the peer did not say who it is"))?;
        if header.protocol_version > PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "peer protocol {} is newer than {PROTOCOL_VERSION}: upgrade this member first",
                header.protocol_version
            )));
        }
        if header.cluster_id != self.shared.cluster_id {
            return Err(Status::failed_precondition(format!(
                "cluster ID mismatch: this is {:x}, the peer is of {:x}; \
                 check initial-cluster and initial-cluster-token",
                self.shared.cluster_id, header.cluster_id
            )));
        }
        if header.to != self.shared.member_id {
            return Err(Status::failed_precondition(format!(
                "this is member {:x}, the peer looks for {:x}; check its peer URLs",
                self.shared.member_id, header.to
            )));
        }
        Ok(header)
    }

    fn is_removed(&self, id: NodeId) -> bool {
        self.shared.state().members.is_removed(id)
    }
}

/// What a member is told that no longer is one.
fn removed(id: NodeId) -> pb::PeerClosed {
    let reason = format!("member {id:x} has been removed from the cluster");
    pb::PeerClosed { reason, removed: true }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn messages(
        &self,
        request: Request<Streaming<pb::PeerBatch>>,
    ) -> Result<Response<pb::PeerClosed>, Status> {
        let mut stream = request.into_inner();
        let Some(opening) = stream.message().await? else {
            return Ok(Response::new(pb::PeerClosed::default()));
        };
        let header = self.check(opening.header)?;
        let (from, to) = (header.from, header.to);
        if self.is_removed(from) {
            return Ok(Response::new(removed(from)));
        }
        // One that joined while this member was away: its addition is yet to be applied here.
        self.peers.introduce(from, &header.peer_urls);
        let metrics = &self.shared.metrics;
        let received = metrics.peer_received_bytes_total.with_label_values(&[&hex(from)]);
        let broken = |_: &Status| {
            metrics.peer_received_failures_total.with_label_values(&[&hex(from)]).inc();
        };
        while let Some(batch) = stream.message().await.inspect_err(broken)? {
            let awaits = batch.awaits_commit;
            let messages = batch.messages.into_iter().filter_map(|m| wire::decode(from, to, m));
            let messages: Vec<Message> = messages.collect();
            if !self.peers.heard(from, &messages, awaits) && self.is_removed(from) {
                return Ok(Response::new(removed(from)));
            }
            if messages.is_empty() {
                continue;
            }
            received.inc_by(messages.iter().map(|m| wire::size_bytes(m) as u64).sum());
            if self.shared.inbox.send(Event::Peer(messages)).await.is_err() {
                return Err(Status::unavailable("this member is stopping"));
            }
        }
        Ok(Response::new(pb::PeerClosed::default()))
    }

    async fn lease_renew(
        &self,
        request: Request<pb::LeaseRenewRequest>,
    ) -> Result<Response<pb::LeaseRenewResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header)?;
        let ttls = super::lease_driver::renew_here(&self.shared, &request.ids).await;
        let ttls = ttls.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(pb::LeaseRenewResponse { ttls }))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::PeerLeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::PeerLeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header)?;
        let found = super::lease_driver::time_to_live_here(&self.shared, request.id).await;
        let found = found.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(match found {
            Some(found) => pb::PeerLeaseTimeToLiveResponse {
                found: true,
                ttl: found.remaining.unwrap_or(0),
                granted_ttl: found.granted,
            },
            None => pb::PeerLeaseTimeToLiveResponse::default(),
        }))
    }

    async fn info(
        &self,
        _request: Request<pb::InfoRequest>,
    ) -> Result<Response<pb::InfoResponse>, Status> {
        let state = self.shared.state();
        if state.is_lost() {
            return Err(Status::unavailable(NO_STATE));
        }
        Ok(Response::new(pb::InfoResponse {
            cluster_id: self.shared.cluster_id,
            member_id: self.shared.member_id,
            version: crate::metrics::ETCD_VERSION.to_string(),
            members: state.members.iter().cloned().collect(),
            removed: state.members.removed().collect(),
            applied: state.applied().index,
        }))
    }

    async fn change_members(
        &self,
        request: Request<pb::ChangeMembersRequest>,
    ) -> Result<Response<pb::ChangeMembersResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header)?;
        let change = request.change.filter(|change| core_change(change).is_some());
        let change =
            change.ok_or_else(|| Status::invalid_argument("the change does not say of whom"))?;
        let changed = reconfigure::change_here(&self.shared, change).await;
        Ok(Response::new(reconfigure::answer(changed)))
    }

    type FetchSnapshotStream = BoxStream<'static, Result<pb::SnapshotChunk, Status>>;

    async fn fetch_snapshot(
        &self,
        request: Request<pb::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let request = request.into_inner();
        let to = self.check(request.header.clone())?.from;
        await_checkpoint(&self.shared, request.index_min).await?;
        let mut outgoing = Outgoing::open(&self.shared, to, &request)?;
        let pieces = futures::stream::poll_fn(move |_| Poll::Ready(outgoing.next_piece()));
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn fetch_values(
        &self,
        request: Request<pb::FetchValuesRequest>,
    ) -> Result<Response<pb::FetchValuesResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header)?;
        if self.shared.standing() == Standing::Quarantined {
            return Err(Status::unavailable("the state of this member is damaged"));
        }
        let values = super::repair::values(&self.shared, &request.revisions);
        Ok(Response::new(pb::FetchValuesResponse { values }))
    }

    async fn state_hash(
        &self,
        request: Request<pb::StateHashRequest>,
    ) -> Result<Response<pb::StateHashResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header)?;
        let version = STATE_HASH_VERSION;
        Ok(Response::new(match self.shared.hashes().at(request.index) {
            Some(hash) => pb::StateHashResponse { index: request.index, hash, version },
            None => pb::StateHashResponse { version, ..Default::default() },
        }))
    }
}
