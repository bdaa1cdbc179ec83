//! How a member goes after its removal.

use super::peers::Peers;
use super::shared::{Shared, StopReason};
use crate::pb::raftpb::InfoRequest;
use crate::raft::message::NodeId;
use crate::raft::quorum::majority;
use std::sync::Arc;

/// Ends this member once the others go on without it.
///
/// Until a quorum of those who stay has applied the removal, they may still count this member's
/// vote: of two voters, one that was down while the other removed itself could never lead again
/// (etcd stops after a second, and has that hole). So it stays at hand, hands leadership over, and
/// tells candidates what is committed. Who is told of its removal by another member stops at once.
pub async fn leave(shared: Arc<Shared>, peers: Arc<Peers>) {
    tracing::warn!("the member has been permanently removed from the cluster");
    loop {
        shared.env.clock.sleep(shared.election_timeout).await;
        if others_know(&shared, &peers).await {
            return shared.stop(StopReason::Removed);
        }
        tracing::warn!("waiting for the others to learn that this member is removed");
    }
}

/// Whether a quorum of the voters has applied the removal.
async fn others_know(shared: &Arc<Shared>, peers: &Peers) -> bool {
    let voters: Vec<NodeId> = {
        let state = shared.state();
        state.members.iter().filter(|member| !member.is_learner).map(|member| member.id).collect()
    };
    let answers = voters.iter().map(|voter| knows(shared, peers, *voter));
    let known = futures::future::join_all(answers).await.into_iter().filter(|known| *known);
    known.count() >= majority(voters.len())
}

async fn knows(shared: &Arc<Shared>, peers: &Peers, voter: NodeId) -> bool {
    let Some(mut client) = peers.client(voter) else { return false };
    let request = InfoRequest { header: Some(peers.header(voter)) };
    let answer = tokio::select! {
        biased;
        answer = client.info(request) => answer,
        () = shared.env.clock.sleep(shared.election_timeout) => return false,
    };
    answer.is_ok_and(|info| {
        let info = info.into_inner();
        info.cluster_id == shared.cluster_id && info.removed.contains(&shared.member_id)
    })
}
