//! The callers' side of leases: grant, revoke, keep alive, list, on whichever member is asked.
//!
//! Keep-alives are many and cheap, so they travel together: all that wait on this member at one
//! moment are renewed by one confirmation of leadership, or forwarded in one call to the leader.

use super::handle::{Caller, Handle};
use super::keep_alive_queue::Link;
use super::lease_driver::{EXPIRING, renew_here, time_to_live_here};
use super::peers::PROTOCOL_VERSION;
use super::shared::Shared;
use crate::apply::outcome::Response;
use crate::apply::request::Op;
use crate::env::clock::Mono;
use crate::error::{Error, Result};
use crate::pb::etcdserverpb as api;
use crate::pb::raftpb::peer_client::PeerClient;
use crate::pb::raftpb::{LeaseRenewRequest, PeerHeader, PeerLeaseTimeToLiveRequest};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// The pause before a keep-alive is tried again, for want of a leader or for an end under way.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How often a lease id of ours is drawn before the caller is told that all were taken.
const DRAWS_MAX: usize = 8;

/// Renews what waits, batch by batch; runs until the server stops.
pub async fn run(shared: Arc<Shared>) {
    loop {
        shared.keep_alives.wake.notified().await;
        loop {
            let batch = shared.keep_alives.take_batch();
            if batch.is_empty() {
                break;
            }
            let ids: Vec<i64> = batch.iter().map(|(id, _)| *id).collect();
            let renewed = renew(&shared, &ids).await;
            for (n, (_, reply)) in batch.into_iter().enumerate() {
                let answer = renewed.as_ref().map(|ttls| ttls[n]).map_err(Clone::clone);
                // A caller that has gone away does not want its answer any more.
                let _gone = reply.send(answer);
            }
        }
    }
}

/// Renews leases here or on the leader, within two election timeouts.
async fn renew(shared: &Arc<Shared>, ids: &[i64]) -> Result<Vec<i64>> {
    let view = shared.view();
    let renewed = async {
        if view.is_leader {
            return renew_here(shared, ids).await;
        }
        let (mut client, header) = leader_client(shared)?;
        let request = LeaseRenewRequest { header: Some(header), ids: ids.to_vec() };
        let answer = client.lease_renew(request).await.map_err(|_| unlink(shared))?;
        Ok(answer.into_inner().ttls)
    };
    let ttls = tokio::select! {
        biased;
        renewed = renewed => renewed?,
        () = shared.env.clock.sleep(2 * shared.election_timeout) => return Err(unlink(shared)),
    };
    if ttls.len() == ids.len() { Ok(ttls) } else { Err(unlink(shared)) }
}

/// A connection to the leader, and how to present oneself to it.
pub fn leader_client(shared: &Shared) -> Result<(PeerClient<Channel>, PeerHeader)> {
    let leader = shared.view().leader;
    let header = PeerHeader {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: shared.cluster_id,
        from: shared.member_id,
        to: leader,
        peer_urls: shared.peer_urls.clone(),
    };
    let mut link = shared.keep_alives.link();
    if let Some(link) = link.as_ref().filter(|link| link.leader == leader) {
        return Ok((link.client.clone(), header));
    }
    let urls = shared.state().members.get(leader).map(|member| member.peer_urls.clone());
    let urls = urls.filter(|urls| !urls.is_empty()).ok_or(Error::NoLeader)?;
    let at = usize::try_from(shared.draw() % urls.len() as u64).expect("an index fits");
    let endpoint = Endpoint::from_shared(urls[at].clone()).map_err(|_| Error::NoLeader)?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(shared.election_timeout);
    let client = PeerClient::new(endpoint.connect_lazy());
    *link = Some(Link { leader, client: client.clone() });
    Ok((client, header))
}

/// Forgets a connection that failed, so that the next try draws an address afresh.
fn unlink(shared: &Shared) -> Error {
    *shared.keep_alives.link() = None;
    Error::LeaderChanged
}

impl Handle {
    /// Grants a lease. What differs by member is decided here, before it goes into the log: the
    /// id, if the caller leaves it to us, and the least TTL.
    pub async fn lease_grant(
        &self,
        caller: &Caller,
        request: api::LeaseGrantRequest,
    ) -> Result<api::LeaseGrantResponse> {
        let ttl = self.shared().state().lessor.granted_ttl(request.ttl);
        for draw in 1.. {
            let id = match request.id {
                0 => (self.shared().draw() >> 1).max(1).cast_signed(),
                id => id,
            };
            let op = Op::LeaseGrant(api::LeaseGrantRequest { id, ttl });
            match self.propose(caller, op).await {
                Ok(Response::LeaseGrant { id, ttl }) => {
                    let header = Some(self.header());
                    return Ok(api::LeaseGrantResponse { header, id, ttl, ..Default::default() });
                }
                Ok(other) => unreachable!("a grant was answered with {other:?}"),
                Err(Error::LeaseExists) if request.id == 0 && draw < DRAWS_MAX => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last draw returns")
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(
        &self,
        caller: &Caller,
        request: api::LeaseRevokeRequest,
    ) -> Result<api::LeaseRevokeResponse> {
        match self.propose(caller, Op::LeaseRevoke(request)).await? {
            Response::LeaseRevoke => Ok(api::LeaseRevokeResponse { header: Some(self.header()) }),
            other => unreachable!("a revocation was answered with {other:?}"),
        }
    }

    /// Starts the time of a lease anew and returns its TTL; 0 if there is no such lease, also if
    /// its time was up and it ended while the caller waited.
    ///
    /// # Errors
    /// `NoLeader` or `Timeout` when no leader has answered in all the time a request may wait.
    pub async fn lease_renew(&self, id: i64) -> Result<i64> {
        let shared = self.shared();
        let deadline = shared.env.clock.now() + shared.request_timeout();
        loop {
            shared.check_running()?;
            shared.check_trusted()?;
            let answer = shared.keep_alives.enter(id)?;
            match answer.await.map_err(|_| Error::Stopped)? {
                // Who has not caught up can't tell a lease that has ended from one that it has
                // not heard of yet.
                Ok(EXPIRING) => match self.linearizable_barrier().await {
                    Ok(()) if !shared.state().lessor.exists(id) => return Ok(0),
                    Err(error) if !may_pass(&error) => return Err(error),
                    Ok(()) | Err(_) => {}
                },
                Ok(ttl) => return Ok(ttl),
                Err(error) if !may_pass(&error) => return Err(error),
                Err(_) => {}
            }
            self.pause_for_leader(deadline).await?;
        }
    }

    /// Says how much time a lease has left, and which keys are attached to it if asked.
    pub async fn lease_time_to_live(
        &self,
        request: api::LeaseTimeToLiveRequest,
    ) -> Result<api::LeaseTimeToLiveResponse> {
        let shared = self.shared();
        let deadline = shared.env.clock.now() + shared.request_timeout();
        let mut response = api::LeaseTimeToLiveResponse { id: request.id, ..Default::default() };
        loop {
            shared.check_running()?;
            shared.check_trusted()?;
            match self.ask_time_to_live(request.id).await {
                Ok(found) => {
                    (response.ttl, response.granted_ttl) = found.unwrap_or((-1, 0));
                    break;
                }
                Err(error) if !may_pass(&error) => return Err(error),
                Err(_) => self.pause_for_leader(deadline).await?,
            }
        }
        if request.keys && response.granted_ttl > 0 {
            // Attachments are replicated: this member has them all once it has caught up.
            self.linearizable_barrier().await?;
            shared.check_trusted()?;
            let state = shared.state();
            let found = state.lessor.time_to_live(request.id, Duration::ZERO);
            response.keys = found.map(|found| found.keys).unwrap_or_default();
        }
        response.header = Some(self.header());
        Ok(response)
    }

    /// Asks the leader, here or elsewhere, for the seconds left and granted.
    async fn ask_time_to_live(&self, id: i64) -> Result<Option<(i64, i64)>> {
        let shared = self.shared();
        if shared.view().is_leader {
            let found = time_to_live_here(shared, id).await?;
            return Ok(found.map(|found| (found.remaining.unwrap_or(0), found.granted)));
        }
        let (mut client, header) = leader_client(shared)?;
        let request = PeerLeaseTimeToLiveRequest { header: Some(header), id };
        let answer = tokio::select! {
            biased;
            answer = client.lease_time_to_live(request) => answer,
            () = shared.env.clock.sleep(2 * shared.election_timeout) => {
                return Err(unlink(shared));
            }
        };
        let found = answer.map_err(|_| unlink(shared))?.into_inner();
        Ok(found.found.then_some((found.ttl, found.granted_ttl)))
    }

    /// Lists all leases that are granted at this moment.
    pub async fn lease_leases(&self) -> Result<api::LeaseLeasesResponse> {
        self.linearizable_barrier().await?;
        self.shared().check_trusted()?;
        let ids = self.shared().state().lessor.leases();
        let leases = ids.into_iter().map(|id| api::LeaseStatus { id }).collect();
        Ok(api::LeaseLeasesResponse { header: Some(self.header()), leases })
    }

    /// A pause before the leader is asked again, unless the time for that is up.
    async fn pause_for_leader(&self, deadline: Mono) -> Result<()> {
        let shared = self.shared();
        if shared.env.clock.now() >= deadline {
            let known = shared.view().leader != 0;
            return Err(if known { Error::Timeout } else { Error::NoLeader });
        }
        shared.env.clock.sleep(RETRY_PAUSE).await;
        Ok(())
    }
}

/// Whether a failure says only that no leader could be asked at that moment.
fn may_pass(error: &Error) -> bool {
    matches!(
        error,
        Error::NoLeader
            | Error::NotLeader
            | Error::LeaderChanged
            | Error::Timeout
            | Error::TimeoutLeaderFail
            | Error::TimeoutConnectionLost
            | Error::TooManyRequests
    )
}
