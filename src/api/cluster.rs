//! The Cluster service: who the members are.

use crate::api::front::Front;
use crate::metrics::Call;
use crate::pb::detcd::raft;
use crate::pb::etcdserverpb::cluster_server::Cluster;
use crate::pb::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use crate::server::handle::Caller;
use tonic::{Request, Response, Status};

pub struct ClusterService {
    front: Front,
    list: Call,
    add: Call,
    remove: Call,
    update: Call,
    promote: Call,
}

impl ClusterService {
    pub fn new(front: Front) -> ClusterService {
        let call = |name| front.call("etcdserverpb.Cluster", name);
        ClusterService {
            list: call("MemberList"),
            add: call("MemberAdd"),
            remove: call("MemberRemove"),
            update: call("MemberUpdate"),
            promote: call("MemberPromote"),
            front,
        }
    }
}

/// A member as clients see it.
fn shown(member: &raft::Member) -> Member {
    Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let work = |_: Caller, request: MemberListRequest| async move {
            self.front.handle.check_voter()?;
            let (header, members) = self.front.handle.members(request.linearizable).await?;
            let members = members.iter().map(shown).collect();
            Ok(MemberListResponse { header: Some(header), members })
        };
        self.front.unary(&self.list, request, work).await
    }

    async fn member_add(
        &self,
        _: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        self.front.absent(&self.add, "MemberAdd")
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        self.front.absent(&self.remove, "MemberRemove")
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        self.front.absent(&self.update, "MemberUpdate")
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        self.front.absent(&self.promote, "MemberPromote")
    }
}
