//! What a member tells the cluster about itself once it runs, and the cluster's version.

use super::handle::Handle;
use crate::apply::request::Op;
use crate::metrics::CLUSTER_VERSION;
use crate::pb::raftpb::{ClusterVersion, MemberAttributes};
use std::time::Duration;

/// Pause between two looks at what is known.
const POLL: Duration = Duration::from_millis(50);

/// Publishes a name and addresses until they stand in the replicated state, and proposes the
/// cluster's version while none is decided. Clients parse the version, so nobody is served
/// before there is one.
pub async fn run(handle: Handle, name: String, client_urls: Vec<String>) {
    // Nobody takes anything from a member that was removed.
    while !is_published(&handle, &name, &client_urls) && !handle.shared().is_removed() {
        if handle.has_leader() {
            // Lost with its leader it would keep clients waiting for as long as a request may last.
            // It says the same every time, so it is soon said again.
            let patience = 2 * handle.shared().election_timeout;
            tokio::select! {
                biased;
                () = publish(&handle, &name, &client_urls) => {}
                () = handle.shared().env.clock.sleep(patience) => {}
            }
        }
        handle.shared().env.clock.sleep(POLL).await;
    }
}

/// Completes once the cluster knows this member and has a version.
pub async fn published(handle: &Handle, name: &str, client_urls: &[String]) {
    while !is_published(handle, name, client_urls) {
        handle.shared().env.clock.sleep(POLL).await;
    }
}

/// Whether the replicated state says of this member what it says of itself.
fn is_published(handle: &Handle, name: &str, client_urls: &[String]) -> bool {
    let decided = !handle.shared().state().members.cluster_version().is_empty();
    decided && is_known(handle, name, client_urls)
}

fn is_known(handle: &Handle, name: &str, client_urls: &[String]) -> bool {
    let shared = handle.shared();
    let state = shared.state();
    let me = state.members.get(shared.member_id);
    me.is_some_and(|me| me.name == name && me.client_urls == client_urls)
}

async fn publish(handle: &Handle, name: &str, client_urls: &[String]) {
    let undecided = handle.shared().state().members.cluster_version().is_empty();
    if undecided && handle.view().is_leader {
        let version = ClusterVersion { version: CLUSTER_VERSION.to_string() };
        // An attempt that fails is made again by the caller's loop.
        let _again = handle.propose_admitted(Op::ClusterVersion(version)).await;
    }
    if is_known(handle, name, client_urls) {
        return;
    }
    let attributes = MemberAttributes {
        id: handle.shared().member_id,
        name: name.to_string(),
        client_urls: client_urls.to_vec(),
    };
    let _again = handle.propose_admitted(Op::MemberAttributes(attributes)).await;
}
