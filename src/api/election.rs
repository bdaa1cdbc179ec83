//! The Election service: whoever is first in the queue of a name leads.

use super::lock::session_lease;
use crate::api::front::Front;
use crate::api::status::to_status;
use crate::error::Error;
use crate::metrics::Call;
use crate::pb::etcdserverpb::ResponseHeader;
use crate::pb::mvccpb::KeyValue;
use crate::pb::mvccpb::event::EventType;
use crate::pb::v3electionpb::election_server::Election;
use crate::pb::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use crate::server::handle::{Caller, Handle};
use crate::server::place::Place;
use crate::server::recipes::queue_prefix;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use prost::Message;
use tonic::{Request, Response, Status};

// Etcd's words for what its table does not give a code (`concurrency/election.go` and
// `v3election/election.go`).
const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";
const MISSING_LEADER_KEY: &str = "\"leader\" field must be provided";

pub struct ElectionService {
    front: Front,
    campaign: Call,
    proclaim: Call,
    leader: Call,
    observe: Call,
    resign: Call,
}

impl ElectionService {
    pub fn new(front: Front) -> ElectionService {
        let call = |name| front.call("v3electionpb.Election", name);
        ElectionService {
            campaign: call("Campaign"),
            proclaim: call("Proclaim"),
            leader: call("Leader"),
            observe: call("Observe"),
            resign: call("Resign"),
            front,
        }
    }
}

async fn campaign(
    handle: &Handle,
    caller: &Caller,
    request: CampaignRequest,
) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease, value } = request;
    let lease = session_lease(handle, caller, lease).await.map_err(to_status)?;
    let prefix = queue_prefix(&name);
    let entered = handle.take_turn(caller, &prefix, lease, value.clone()).await;
    let entered = entered.map_err(to_status)?.ok_or_else(|| Status::unknown(NOT_LEADER))?;
    let (mut header, place) = (entered.header, entered.place);
    // A lease that campaigns again keeps its place and announces the other value.
    if entered.found.is_some_and(|kv| kv.value != value) {
        let proclaimed = handle.proclaim(caller, &place, value, lease).await;
        let (kept, at) = proclaimed.map_err(to_status)?;
        if !kept {
            return Err(Status::unknown(NOT_LEADER));
        }
        header = at;
    }
    let leader = LeaderKey { name, key: place.key, rev: place.revision, lease };
    Ok(CampaignResponse { header: Some(header), leader: Some(leader) })
}

/// The place that a leader's key stands for.
fn place_of(leader: Option<LeaderKey>) -> Result<(Place, i64), Status> {
    let leader = leader.ok_or_else(|| Status::unknown(MISSING_LEADER_KEY))?;
    Ok((Place { key: leader.key, revision: leader.rev }, leader.lease))
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |caller: Caller, request| campaign(handle, &caller, request).await;
        self.front.unary_status(&self.campaign, request, work).await
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |caller: Caller, request: ProclaimRequest| {
            let (place, lease) = place_of(request.leader)?;
            let proclaimed = handle.proclaim(&caller, &place, request.value, lease).await;
            match proclaimed.map_err(to_status)? {
                (true, header) => Ok(ProclaimResponse { header: Some(header) }),
                (false, _) => Err(Status::unknown(NOT_LEADER)),
            }
        };
        self.front.unary_status(&self.proclaim, request, work).await
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |caller: Caller, request: LeaderRequest| {
            let prefix = queue_prefix(&request.name);
            let found = handle.first_in_queue(&caller, &prefix).await.map_err(to_status)?;
            let kv = found.kvs.into_iter().next().ok_or_else(|| Status::unknown(NO_LEADER))?;
            Ok(LeaderResponse { header: found.header, kv: Some(kv) })
        };
        self.front.unary_status(&self.leader, request, work).await
    }

    type ObserveStream = BoxStream<'static, Result<LeaderResponse, Status>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let caller = self.front.admit("stream", request.metadata())?;
        let prefix = queue_prefix(&request.into_inner().name);
        let handle = self.front.handle.clone();
        let ended = Ended(self.observe.clone());
        ended.0.begin();
        let observer = Observer { handle, caller, prefix, leader: None, ended };
        let states = futures::stream::unfold(Some(observer), |observer| async {
            let mut observer = observer?;
            match observer.next().await {
                Ok(response) => {
                    observer.ended.0.sent(response.encoded_len());
                    Some((Ok(response), Some(observer)))
                }
                Err(error) => Some((Err(to_status(error)), None)),
            }
        });
        Ok(Response::new(states.boxed()))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let handle = &self.front.handle;
        let work = async move |caller: Caller, request: ResignRequest| {
            let (place, _) = place_of(request.leader)?;
            let header = handle.leave(&caller, &place).await.map_err(to_status)?;
            Ok(ResignResponse { header: Some(header) })
        };
        self.front.unary_status(&self.resign, request, work).await
    }
}

/// Counts the end of a stream.
struct Ended(Call);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end(0);
    }
}

/// Follows who leads and what the leader announces.
struct Observer {
    handle: Handle,
    caller: Caller,
    prefix: Bytes,
    /// The leader that was reported last, and the revision up to which its words are known.
    leader: Option<(Place, i64)>,
    ended: Ended,
}

impl Observer {
    /// The next announcement of a leader.
    async fn next(&mut self) -> Result<LeaderResponse, Error> {
        if let Some((place, seen)) = self.leader.take()
            && let Some((header, kv)) = self.announcement(&place.key, seen + 1).await?
        {
            let seen = kv.mod_revision;
            return Ok(self.report(header, kv, seen));
        }
        loop {
            let first = self.handle.first_in_queue(&self.caller, &self.prefix).await?;
            let header = first.header.expect("the handle fills in the header");
            if let Some(kv) = first.kvs.into_iter().next() {
                // Its own revision may be compacted, and could not be watched from.
                let seen = header.revision;
                return Ok(self.report(header, kv, seen));
            }
            // Nobody leads: the first to enter the queue will, unless it left again meanwhile.
            let mut session = self.handle.watch_queue(&self.prefix, header.revision + 1)?;
            while let Some(response) = session.next().await {
                let response = response?;
                if response.canceled || !response.events.is_empty() {
                    break;
                }
            }
        }
    }

    /// Waits for a leader's next value; none once it leads no more.
    async fn announcement(
        &self,
        key: &Bytes,
        from: i64,
    ) -> Result<Option<(ResponseHeader, KeyValue)>, Error> {
        let mut session = self.handle.watch_key(key, from)?;
        while let Some(response) = session.next().await {
            let response = response?;
            if response.canceled {
                return Ok(None);
            }
            // Several values may have come at once: the first is reported, and the rest again
            // from its revision on.
            if let Some(event) = response.events.into_iter().next() {
                let is_put = event.r#type() == EventType::Put;
                return Ok(response.header.zip(event.kv).filter(|_| is_put));
            }
        }
        Err(Error::Stopped)
    }

    /// Reports a leader; what it announces up to revision `seen` is known.
    fn report(&mut self, header: ResponseHeader, kv: KeyValue, seen: i64) -> LeaderResponse {
        let place = Place { key: kv.key.clone(), revision: kv.create_revision };
        self.leader = Some((place, seen));
        LeaderResponse { header: Some(header), kv: Some(kv) }
    }
}
