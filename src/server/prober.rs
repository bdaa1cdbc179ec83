//! Measures the way to the other members: one small question to each every other second.
//!
//! A question goes over a connection of its own, so that it does not wait behind messages: what
//! it takes is the network and the other member's attention.

use super::peers::Peers;
use super::shared::Shared;
use crate::metrics::hex;
use crate::pb::raftpb::InfoRequest;
use crate::pb::raftpb::peer_client::PeerClient;
use crate::raft::message::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Channel;

const INTERVAL: Duration = Duration::from_secs(2);

/// What is known of the way to one member.
struct Probe {
    client: PeerClient<Channel>,
    /// The first question opens the connection, so it measures something else.
    is_connected: bool,
}

/// Asks until the server stops.
pub async fn run(shared: Arc<Shared>, peers: Arc<Peers>) {
    let mut probes: BTreeMap<NodeId, Probe> = BTreeMap::new();
    while shared.stop_reason().is_none() {
        let members: Vec<NodeId> = shared.state().members.iter().map(|member| member.id).collect();
        probes.retain(|id, _| members.contains(id));
        for id in members.into_iter().filter(|id| *id != shared.member_id) {
            let probe = match probes.remove(&id) {
                Some(probe) => Some(probe),
                None => peers.client(id).map(|client| Probe { client, is_connected: false }),
            };
            let Some(mut probe) = probe else { continue };
            let answered = ask(&shared, &peers, id, &mut probe).await;
            note(&shared, id, probe.is_connected, answered);
            // One that did not answer may have other addresses by now.
            if answered {
                probe.is_connected = true;
                probes.insert(id, probe);
            }
        }
        shared.env.clock.sleep(INTERVAL).await;
    }
}

/// Whether the member answered within an election timeout.
async fn ask(shared: &Shared, peers: &Peers, id: NodeId, probe: &mut Probe) -> bool {
    let begin = shared.env.clock.now();
    let question = probe.client.info(InfoRequest { header: Some(peers.header(id)) });
    let answered = tokio::select! {
        biased;
        answer = question => match answer {
            Ok(info) => {
                let version = info.into_inner().version;
                let mut versions = shared.versions.lock().expect("no holder panics and goes on");
                versions.insert(id, version);
                true
            }
            Err(_) => false,
        },
        () = shared.env.clock.sleep(shared.election_timeout) => false,
    };
    if answered && probe.is_connected {
        let took = (shared.env.clock.now() - begin).as_secs_f64();
        shared.metrics.peer_round_trip_time_seconds.with_label_values(&[&hex(id)]).observe(took);
    }
    answered
}

fn note(shared: &Shared, id: NodeId, was_connected: bool, answered: bool) {
    let names = [hex(shared.member_id), hex(id)];
    let names = [names[0].as_str(), names[1].as_str()];
    shared.metrics.known_peers.with_label_values(&names).set(1);
    shared.metrics.active_peers.with_label_values(&names).set(i64::from(answered));
    let lost = shared.metrics.disconnected_peers_total.with_label_values(&names);
    if was_connected && !answered {
        lost.inc();
    }
}
