//! What a server is told when it starts, and what it goes by if it is told nothing.

use super::reconfig_check::MembershipOptions;
use super::shared::{CheckpointOptions, Limits};
use crate::config::settings::AutoCompaction;
use std::path::PathBuf;
use std::time::Duration;

/// What a server is told when it starts.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub name: String,
    pub data_dir: PathBuf,
    /// The log's own directory, if it has one.
    pub wal_dir: Option<PathBuf>,
    /// The founders, or the members of the cluster to join: each a name and its peer URLs.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    /// A member without data joins a running cluster, and founds none.
    pub joins: bool,
    /// Make this member the only one of a cluster of its own, with the data that it has.
    pub force_new_cluster: bool,
    pub initial_cluster_token: String,
    pub advertise_client_urls: Vec<String>,
    /// Where the other members find this one.
    pub advertise_peer_urls: Vec<String>,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub pre_vote: bool,
    /// A member that starts waits for a leader's heartbeat, not for an election timeout.
    pub initial_tick_advance: bool,
    pub segment_bytes: u64,
    pub quota_bytes: i64,
    pub auto_compaction: AutoCompaction,
    /// Bytes of the disk that are set aside for the day on which it is full.
    pub reserve_bytes: u64,
    pub progress_notify_interval: Duration,
    pub limits: Limits,
    pub checkpoints: CheckpointOptions,
    pub membership: MembershipOptions,
    /// Serve clients only once the state was found equal to that of a majority.
    pub initial_corrupt_check: bool,
    /// How often what is in memory is held against its digests; zero for never.
    pub corrupt_check_interval: Duration,
}

impl ServerConfig {
    /// The shortest TTL that a lease is granted: long enough to survive an election, in whole
    /// seconds (etcd, `etcdserver/server.go`, `minTTL`).
    pub fn lease_ttl_secs_min(&self) -> i64 {
        let ms = (3 * self.election_ms).div_ceil(2);
        i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX)
    }
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            name: "default".to_string(),
            data_dir: PathBuf::from("default.etcd"),
            wal_dir: None,
            initial_cluster: vec![(
                "default".to_string(),
                vec!["http://localhost:2380".to_string()],
            )],
            joins: false,
            force_new_cluster: false,
            initial_cluster_token: "etcd-cluster".to_string(),
            advertise_client_urls: vec!["http://localhost:2379".to_string()],
            advertise_peer_urls: vec!["http://localhost:2380".to_string()],
            heartbeat_ms: 100,
            election_ms: 1000,
            pre_vote: true,
            initial_tick_advance: true,
            segment_bytes: 64 << 20,
            quota_bytes: 2 << 30,
            auto_compaction: AutoCompaction::Off,
            reserve_bytes: 0,
            progress_notify_interval: Duration::from_secs(600),
            limits: Limits::default(),
            checkpoints: CheckpointOptions::default(),
            membership: MembershipOptions::default(),
            initial_corrupt_check: false,
            corrupt_check_interval: Duration::ZERO,
        }
    }
}
