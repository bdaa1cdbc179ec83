//! Calls to a member by its address, each bounded by a time limit of the test.

use detcd::pb::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Longer than any answer that the server owes, shorter than a hang.
pub const CALL_MAX: Duration = Duration::from_secs(20);

/// A channel that connects when it is first used, and again after a loss.
pub fn channel(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_string()).expect("an address of a member");
    endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()
}

/// A client of the KV service.
pub fn kv(url: &str) -> KvClient<Channel> {
    KvClient::new(channel(url)).max_decoding_message_size(usize::MAX)
}

/// Bounds a call; a call that is not answered is a failure of its own kind.
pub async fn bounded<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::new(Code::Internal, "the test gave up waiting")),
    }
}

/// A put of text.
pub fn put_request(key: &str, value: &str) -> pb::PutRequest {
    let (key, value) = (key.to_string().into(), value.to_string().into());
    pb::PutRequest { key, value, ..Default::default() }
}

/// A read of one key.
pub fn get_request(key: &str, serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_string().into(), serializable, ..Default::default() }
}

/// Writes one key at one member.
pub async fn put(url: &str, key: &str, value: &str) -> Result<pb::PutResponse, Status> {
    bounded(kv(url).put(put_request(key, value))).await
}

/// The status of one member.
pub async fn status(url: &str) -> Result<pb::StatusResponse, Status> {
    let mut client = MaintenanceClient::new(channel(url));
    bounded(client.status(pb::StatusRequest::default())).await
}

/// Waits until a member says of itself that it leads; gives its place in the list.
pub async fn leader(urls: &[String], limit: Duration) -> Option<usize> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        for (index, url) in urls.iter().enumerate() {
            if let Ok(status) = status(url).await
                && status.leader != 0
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                return Some(index);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// Puts again and again until the cluster takes one.
pub async fn wait_writable(url: &str, limit: Duration) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if put(url, "writable", "yes").await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}
