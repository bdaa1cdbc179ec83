//! The Cluster service: who the members are.

use crate::api::front::Front;
use crate::config::url::Url;
use crate::error::Error;
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

/// The addresses of a member, if all of them are some.
fn check_urls(urls: Vec<String>) -> Result<Vec<String>, Error> {
    let valid = !urls.is_empty() && urls.iter().all(|url| Url::parse(url).is_ok());
    if valid { Ok(urls) } else { Err(Error::MemberBadUrls) }
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
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let work = |caller: Caller, request: MemberAddRequest| async move {
            let handle = &self.front.handle;
            let urls = check_urls(request.peer_ur_ls)?;
            let (member, members) = handle.member_add(&caller, urls, request.is_learner).await?;
            let members = members.iter().map(shown).collect();
            let header = Some(handle.cluster_header());
            Ok(MemberAddResponse { header, member: Some(shown(&member)), members })
        };
        self.front.unary(&self.add, request, work).await
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let work = |caller: Caller, request: MemberRemoveRequest| async move {
            let handle = &self.front.handle;
            let members = handle.member_remove(&caller, request.id).await?;
            let members = members.iter().map(shown).collect();
            Ok(MemberRemoveResponse { header: Some(handle.cluster_header()), members })
        };
        self.front.unary(&self.remove, request, work).await
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let work = |caller: Caller, request: MemberUpdateRequest| async move {
            let handle = &self.front.handle;
            let urls = check_urls(request.peer_ur_ls)?;
            let members = handle.member_update(&caller, request.id, urls).await?;
            let members = members.iter().map(shown).collect();
            Ok(MemberUpdateResponse { header: Some(handle.cluster_header()), members })
        };
        self.front.unary(&self.update, request, work).await
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let work = |caller: Caller, request: MemberPromoteRequest| async move {
            let handle = &self.front.handle;
            let members = handle.member_promote(&caller, request.id).await?;
            let members = members.iter().map(shown).collect();
            Ok(MemberPromoteResponse { header: Some(handle.cluster_header()), members })
        };
        self.front.unary(&self.promote, request, work).await
    }
}
