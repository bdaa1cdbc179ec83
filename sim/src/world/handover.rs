//! When all is healed, leadership is handed over once more: it must go where it is sent.

use super::cluster::Cluster;
use super::waiting::wait_for_leader;
use crate::fault::Fault;
use crate::options::Mode;
use std::time::Duration;

/// How often it is asked for; a leader may change for other reasons meanwhile.
const ATTEMPTS: usize = 3;

/// Asks for a handover if the plan has some, and says why it failed.
pub async fn demand(cluster: &Cluster, core: &[usize]) -> Option<String> {
    let hands_over = |fault: &Fault| matches!(fault, Fault::TransferLeader { .. });
    let plan = cluster.plan();
    // In slow-disk mode every move counts; where members change, a newcomer may yet be awaited.
    if plan.mode == Mode::SlowDisk
        || plan.changes_members()
        || !plan.actions.iter().any(|action| hands_over(&action.fault))
    {
        return None;
    }
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        wait_for_leader(cluster, core).await;
        failure = attempt(cluster, core).await.err();
        if failure.is_none() || cluster.book().is_broken() {
            return None;
        }
    }
    failure
}

async fn attempt(cluster: &Cluster, core: &[usize]) -> Result<(), String> {
    let (leader, voters) = {
        let book = cluster.book().lock();
        (core.first().and_then(|member| book.members[*member].leader), book.voters())
    };
    let Some(leader) = leader else { return Err("nobody leads".into()) };
    let fits = |member: &&usize| **member != leader && voters.contains(*member);
    let Some(target) = core.iter().copied().find(|member| fits(&member)) else { return Ok(()) };
    let id = cluster.book().lock().id_of(target);
    let (Some(server), Some(id)) = (cluster.server(leader), id) else { return Ok(()) };
    let election = Duration::from_millis(cluster.plan().options.election_ms);
    let moved = tokio::time::timeout(election * 2, server.move_leader(id)).await;
    cluster.book().line(format_args!("m{leader} hands over to m{target}: {moved:?}"));
    match moved {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("m{leader} did not hand over to m{target}: {error}")),
        Err(_) => Err(format!("m{leader} said nothing of the handover to m{target}")),
    }
}
