//! Too many requests at once, at one member: it refuses what it can't hold, answers the rest, and
//! goes on.

use super::client::Caller;
use super::cluster::Cluster;
use super::nodes::BURST_NODES;
use crate::fault::Fault;
use crate::history::Outcome;
use crate::workload::Generator;
use std::time::Duration;

/// Asks a member for so many things at once; ends when all were answered, or given up.
pub async fn run(cluster: &Cluster, number: usize, member: usize, requests: u64) {
    let plan = cluster.plan();
    let is_burst = |fault: &Fault| matches!(fault, Fault::Burst { .. });
    let before = plan.actions[..number].iter().filter(|action| is_burst(&action.fault)).count();
    // Each burst comes from a node of its own, and its values name it.
    let client = BURST_NODES + before as u64;
    let node = cluster.client_node(client);
    let mut generator = Generator::new(plan.seed, client, &plan.workload);
    let timeout = Duration::from_millis(plan.workload.timeout_ms);
    let caller = Caller::new(client, cluster.members(), timeout, cluster.book().clone());
    for _ in 0..requests {
        let (mut caller, request) = (caller.clone(), generator.request());
        let book = cluster.book().clone();
        cluster.await_guest(node.spawn(async move {
            let outcome = caller.ask(member, request).await;
            if matches!(outcome, Outcome::Failed(text) if text.contains("too many requests")) {
                book.reach("refused as too many");
            }
        }));
    }
    tokio::time::sleep(timeout).await;
}
