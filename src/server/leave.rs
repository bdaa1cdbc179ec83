//! How a member goes after its removal.

use super::peers::Peers;
use super::shared::{Shared, StopReason};
use crate::pb::raftpb::{InfoRequest, InfoResponse, Member};
use crate::raft::message::NodeId;
use crate::raft::quorum::majority;
use std::sync::Arc;

/// Ends this member once the others go on without it.
///
/// Until a quorum of those who stay has applied the removal, they may still count this member's
/// vote: of two voters, one that was down while the other removed itself could never lead again
/// (etcd stops after a second, and has that hole). So it stays at hand, hands leadership over, and
/// tells candidates what is committed. Who was down meanwhile, and is told by another member, does
/// the same: that one may die, and the rest still need a vote.
pub async fn leave(shared: Arc<Shared>, peers: Arc<Peers>) {
    tracing::warn!(
        "the member has been permanently removed from the cluster: it stops once a quorum of the \
         others has applied that; stop it by hand only if they will not come back"
    );
    loop {
        shared.env.clock.sleep(shared.election_timeout).await;
        if others_know(&shared, &peers).await {
            return shared.stop(StopReason::Removed);
        }
    }
}

/// Whether a quorum of the voters has applied the removal. Who votes is as the one says that has
/// applied most.
async fn others_know(shared: &Arc<Shared>, peers: &Peers) -> bool {
    let others: Vec<NodeId> = {
        let state = shared.state();
        let ids = state.members.iter().map(|member| member.id);
        ids.filter(|id| *id != shared.member_id).collect()
    };
    let answers = others.iter().map(|other| ask(shared, peers, *other));
    let answers: Vec<InfoResponse> =
        futures::future::join_all(answers).await.into_iter().flatten().collect();
    let Some(newest) = answers.iter().max_by_key(|info| info.applied) else { return false };
    let is_voter = |member: &&Member| !member.is_learner && member.id != shared.member_id;
    let voters: Vec<NodeId> = newest.members.iter().filter(is_voter).map(|m| m.id).collect();
    let knows = |info: &&InfoResponse| {
        voters.contains(&info.member_id) && info.removed.contains(&shared.member_id)
    };
    answers.iter().filter(knows).count() >= majority(voters.len())
}

async fn ask(shared: &Arc<Shared>, peers: &Peers, other: NodeId) -> Option<InfoResponse> {
    let mut client = peers.client(other)?;
    let request = InfoRequest { header: Some(peers.header(other)) };
    let answer = tokio::select! {
        biased;
        answer = client.info(request) => answer.ok()?.into_inner(),
        () = shared.env.clock.sleep(shared.election_timeout) => return None,
    };
    (answer.cluster_id == shared.cluster_id).then_some(answer)
}
