//! One of the two servers under comparison, and its answers without what may differ.

use crate::generate::Call;
use detcd::pb::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::response_op::Response;
use process::Cluster;
use std::fmt::Debug;
use std::path::Path;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response as Answered, Status};

/// A running server and clients of it.
pub struct Side {
    pub name: String,
    pub channel: Channel,
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
    /// Held for its drop, which ends the process.
    _cluster: Cluster,
}

/// An answer as text, with the revision that its header gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub revision: i64,
    /// The status code, or "Ok".
    pub code: String,
    pub text: String,
}

impl Side {
    /// Starts one member with fresh data.
    pub async fn start(name: &str, program: &Path) -> Result<Side, String> {
        let cluster = Cluster::start(program, 1, &[]).map_err(|error| error.to_string())?;
        let url = cluster.endpoints().remove(0);
        let endpoint = Endpoint::from_shared(url).map_err(|error| error.to_string())?;
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        let lease = LeaseClient::new(channel.clone());
        Ok(Side { name: name.to_string(), channel, kv, lease, _cluster: cluster })
    }

    /// Sends one call and waits for its answer.
    pub async fn send(&mut self, call: &Call) -> Answer {
        match call.clone() {
            Call::Range(request) => answer(self.kv.range(request).await),
            Call::Put(request) => answer(self.kv.put(request).await),
            Call::DeleteRange(request) => answer(self.kv.delete_range(request).await),
            Call::Txn(request) => answer(self.kv.txn(request).await),
            Call::Compact(request) => answer(self.kv.compact(request).await),
            Call::LeaseGrant(request) => {
                let chosen = request.id != 0;
                let answered = self.lease.lease_grant(request).await.map(|mut response| {
                    // An id that the server chose is its own.
                    if !chosen {
                        response.get_mut().id = 0;
                    }
                    response
                });
                answer(answered)
            }
            Call::LeaseRevoke(request) => answer(self.lease.lease_revoke(request).await),
            Call::LeaseTimeToLive(request) => {
                let answered = self.lease.lease_time_to_live(request).await.map(|mut response| {
                    // Seconds pass: compare that time is left, not how much.
                    let lease = response.get_mut();
                    lease.ttl = lease.ttl.signum();
                    // Etcd lists the keys of a map, in any order.
                    lease.keys.sort();
                    response
                });
                answer(answered)
            }
        }
    }
}

/// Answers with a header.
pub trait Headed: Debug {
    fn header(&mut self) -> &mut Option<pb::ResponseHeader>;

    /// Clears what may differ below the first header.
    fn clear_inner(&mut self) {}
}

macro_rules! headed {
    ($($name:ident),*) => { $(
        impl Headed for pb::$name {
            fn header(&mut self) -> &mut Option<pb::ResponseHeader> {
                &mut self.header
            }
        }
    )* };
}
headed!(RangeResponse, PutResponse, DeleteRangeResponse, CompactionResponse);
headed!(LeaseGrantResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, WatchResponse);

impl Headed for pb::TxnResponse {
    fn header(&mut self) -> &mut Option<pb::ResponseHeader> {
        &mut self.header
    }

    fn clear_inner(&mut self) {
        for op in &mut self.responses {
            match op.response.as_mut() {
                Some(Response::ResponseRange(range)) => drop(clear(range)),
                Some(Response::ResponsePut(put)) => drop(clear(put)),
                Some(Response::ResponseDeleteRange(delete)) => drop(clear(delete)),
                Some(Response::ResponseTxn(txn)) => drop(clear(txn)),
                None => {}
            }
        }
    }
}

/// Takes out ids and term, which differ between any two clusters; gives the revision.
pub fn clear(response: &mut impl Headed) -> Option<i64> {
    response.clear_inner();
    let header = response.header().as_mut()?;
    header.cluster_id = 0;
    header.member_id = 0;
    header.raft_term = 0;
    Some(header.revision)
}

fn answer<R: Headed>(answered: Result<Answered<R>, Status>) -> Answer {
    match answered {
        Ok(response) => {
            let mut response = response.into_inner();
            let revision = clear(&mut response).unwrap_or(0);
            Answer { revision, code: "Ok".to_string(), text: format!("{response:?}") }
        }
        Err(status) => Answer {
            revision: 0,
            code: format!("{:?}", status.code()),
            text: status.message().to_string(),
        },
    }
}
