//! Puts through a change of leader: how long until one succeeds again.

use crate::workload::{kv, open};
use detcd::pb::etcdserverpb::{self as pb, maintenance_client::MaintenanceClient};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// A put leaves this often on every survivor.
const PERIOD: Duration = Duration::from_millis(10);

/// Which of the members leads, as each of them says of itself; asked until one does.
pub async fn leader(endpoints: &[String], limit: Duration) -> Result<usize, String> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        for (index, url) in endpoints.iter().enumerate() {
            let mut client = MaintenanceClient::new(open(url).await?);
            let Ok(status) = client.status(pb::StatusRequest::default()).await else { continue };
            let status = status.into_inner();
            let own = status.header.map_or(0, |header| header.member_id);
            if own != 0 && own == status.leader {
                return Ok(index);
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
    Err("no leader".to_string())
}

/// Connections to the survivors, opened before anything is killed.
pub struct Probe {
    channels: Vec<Channel>,
}

impl Probe {
    /// Connects to all of them.
    pub async fn connect(endpoints: &[String]) -> Result<Probe, String> {
        let mut channels = Vec::new();
        for url in endpoints {
            channels.push(open(url).await?);
        }
        Ok(Probe { channels })
    }

    /// The time from `begin` until a put that was sent later succeeded on any survivor.
    pub async fn first_success(&self, begin: Instant, limit: Duration) -> Option<Duration> {
        let (sender, mut first) = tokio::sync::mpsc::channel::<Duration>(1);
        let mut number = 0_u64;
        while begin.elapsed() < limit {
            for channel in &self.channels {
                let (mut kv, sender) = (kv(channel), sender.clone());
                let key = format!("/failover/{number}").into();
                number += 1;
                tokio::spawn(async move {
                    let put = pb::PutRequest { key, ..Default::default() };
                    if kv.put(put).await.is_ok() {
                        // Full means that an earlier put reported already.
                        let _ = sender.try_send(begin.elapsed());
                    }
                });
            }
            if let Ok(Some(time)) = tokio::time::timeout(PERIOD, first.recv()).await {
                return Some(time);
            }
        }
        None
    }
}
