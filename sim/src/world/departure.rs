//! When all is healed, the leader's process ends once more: whoever finds that it is gone does not
//! wait for an election timeout.

use super::cluster::Cluster;
use super::waiting::wait_for_leader;
use crate::checker::leadership::Found;
use crate::fault::Fault;
use crate::moment::Nanos;
use crate::options::Mode;
use std::time::Duration;

/// What is granted beside the heartbeats, for a tick and for what else the member has to do.
const SLACK_MS: u64 = 10;

/// Ends the leader's process if the plan ends some, and says what the others made of it.
pub async fn demand(cluster: &Cluster, core: &[usize]) -> Vec<Found> {
    let plan = cluster.plan();
    let kills = |fault: &Fault| matches!(fault, Fault::Kill { .. });
    let heals_all = matches!(plan.mode, Mode::Safety | Mode::Lite);
    let whole = core.len() > 2 && core.len() == plan.options.members && !plan.changes_members();
    if !heals_all || !whole || !plan.actions.iter().any(|action| kills(&action.fault)) {
        return Vec::new();
    }
    wait_for_leader(cluster, core).await;
    let leader = cluster.book().lock().members[core[0]].leader;
    let Some(leader) = leader.filter(|leader| core.contains(leader)) else { return Vec::new() };
    let others: Vec<usize> = core.iter().copied().filter(|member| *member != leader).collect();
    cluster.book().line(format_args!("m{leader} ends, and {others:?} find out"));
    cluster.hold_down(leader, false);
    let found = watch(cluster, leader, &others).await;
    cluster.release(leader);
    wait_for_leader(cluster, core).await;
    found
}

/// Looks at the others until nobody follows the leader that is gone.
async fn watch(cluster: &Cluster, leader: usize, others: &[usize]) -> Vec<Found> {
    let book = cluster.book();
    let options = &cluster.plan().options;
    let down_at = book.now();
    let term = book.lock().members[others[0]].term;
    // A word that had waited for a link to be healed may come long after: it takes a finding back.
    let heard_since = |member: usize, at: Nanos| {
        let (of, heard_at) = book.lock().members[member].heard;
        of == term && heard_at > at
    };
    // A heartbeat that was on its way takes a finding back, and who hears nothing for most of an
    // election timeout waits for the rest of it.
    let latency = options.latency_us.1 * 1_000;
    let from = down_at + latency;
    let until = (down_at + options.election_ms * 500_000).saturating_sub(latency);
    // The clocks may be a tenth slow.
    let wait_ms = options.heartbeat_ms * (others.len() as u64) * 10 / 9 + SLACK_MS;
    let mut found: Vec<Found> = Vec::new();
    let follows = |member: &usize| book.lock().members[*member].leader == Some(leader);
    while others.iter().any(follows) && book.now() < until + wait_ms * 2_000_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = book.now();
        for member in others {
            let gone = |at: &Nanos| (from..until).contains(at);
            let found_gone = book.lock().members[*member].found_gone.filter(gone);
            let found_gone = found_gone.filter(|at| !heard_since(*member, *at));
            let is_new = found.iter().all(|one| one.member != *member);
            if let Some(at) = found_gone.filter(|_| is_new) {
                let limit = at + wait_ms * 1_000_000;
                found.push(Found { member: *member, leader, at, limit, left: None });
            }
        }
        found.retain(|one| one.left.is_some() || !heard_since(one.member, one.at));
        // Before it found out, a member may have left and come back.
        for one in found.iter_mut().filter(|one| one.left.is_none() && !follows(&one.member)) {
            one.left = Some(now);
        }
    }
    found
}
