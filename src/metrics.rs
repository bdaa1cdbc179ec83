//! The metrics of one server, under etcd's names, so that its dashboards and alerts go on working.
//!
//! Never global: five servers share a simulated process. Nothing here reads a clock or the
//! operating system; whoever measures puts the figure in (`process_*` come from `http/`).

use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector, exponential_buckets,
};

/// The release of etcd that this server is compatible with. Clients parse it: digits and dots.
pub const ETCD_VERSION: &str = "3.6.5";
/// The version that the cluster agrees on, and that of the stored format, in etcd's terms.
pub const CLUSTER_VERSION: &str = "3.6.0";

const UNARY: &str = "unary";
const SERVER_STREAM: &str = "server_stream";
const BIDI_STREAM: &str = "bidi_stream";

/// Every call of the API; `grpc_server_*` begin at 0 for each, so that a rate is never missing.
pub const METHODS: [(&str, &str, &[&str]); 12] = [
    ("etcdserverpb.KV", UNARY, &["Range", "Put", "DeleteRange", "Txn", "Compact"]),
    ("etcdserverpb.KV", SERVER_STREAM, &["RangeStream"]),
    ("etcdserverpb.Watch", BIDI_STREAM, &["Watch"]),
    ("etcdserverpb.Lease", UNARY, &["LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases"]),
    ("etcdserverpb.Lease", BIDI_STREAM, &["LeaseKeepAlive"]),
    (
        "etcdserverpb.Cluster",
        UNARY,
        &["MemberAdd", "MemberRemove", "MemberUpdate", "MemberList", "MemberPromote"],
    ),
    (
        "etcdserverpb.Maintenance",
        UNARY,
        &["Alarm", "Status", "Defragment", "Hash", "HashKV", "MoveLeader", "Downgrade"],
    ),
    ("etcdserverpb.Maintenance", SERVER_STREAM, &["Snapshot"]),
    (
        "etcdserverpb.Auth",
        UNARY,
        &[
            "AuthEnable",
            "AuthDisable",
            "AuthStatus",
            "Authenticate",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
        ],
    ),
    ("v3lockpb.Lock", UNARY, &["Lock", "Unlock"]),
    ("v3electionpb.Election", UNARY, &["Campaign", "Proclaim", "Leader", "Resign"]),
    ("v3electionpb.Election", SERVER_STREAM, &["Observe"]),
];
/// The names of the gRPC codes, by number.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    pub server: ServerMetrics,
    pub disk: DiskMetrics,
    pub mvcc: MvccMetrics,
    pub network: NetworkMetrics,
    pub lease: LeaseMetrics,
    pub grpc: GrpcMetrics,
    pub process: ProcessMetrics,
}

/// `etcd_server_*`, `etcd_cluster_*`.
pub struct ServerMetrics {
    pub has_leader: IntGauge,
    pub is_leader: IntGauge,
    pub is_learner: IntGauge,
    pub leader_changes_seen_total: IntCounter,
    pub heartbeat_send_failures_total: IntCounter,
    pub proposals_committed_total: IntGauge,
    pub proposals_applied_total: IntGauge,
    pub proposals_pending: IntGauge,
    pub proposals_failed_total: IntCounter,
    pub slow_apply_total: IntCounter,
    pub slow_read_indexes_total: IntCounter,
    pub read_indexes_failed_total: IntCounter,
    pub learner_promote_successes: IntCounter,
    /// By reason.
    pub learner_promote_failures: IntCounterVec,
    pub snapshot_apply_in_progress_total: IntGauge,
    pub quota_backend_bytes: IntGauge,
    pub health_success: IntCounter,
    pub health_failures: IntCounter,
    /// By type (livez, readyz) and name of the check.
    pub healthcheck: IntGaugeVec,
    /// By type, name and status (success, error).
    pub healthchecks_total: IntCounterVec,
    /// By type of call and API version of the client.
    pub client_requests_total: IntCounterVec,
    /// By version, operation and success.
    pub apply_duration_seconds: HistogramVec,
    /// By success.
    pub range_duration_seconds: HistogramVec,
    /// By member id in hexadecimal.
    pub id: IntGaugeVec,
    pub version: IntGaugeVec,
    pub cluster_version: IntGaugeVec,
    /// By member and type of alarm.
    pub alarms: IntGaugeVec,
}

/// `etcd_disk_*`, `etcd_snap_*`.
pub struct DiskMetrics {
    pub wal_fsync_duration_seconds: Histogram,
    pub wal_write_duration_seconds: Histogram,
    pub wal_write_bytes_total: IntGauge,
    /// One checkpoint: what stands in the place of etcd's commit to its B-tree file.
    pub backend_commit_duration_seconds: Histogram,
    pub backend_snapshot_duration_seconds: Histogram,
    pub backend_defrag_duration_seconds: Histogram,
    pub defrag_inflight: IntGauge,
    pub snap_fsync_duration_seconds: Histogram,
    pub snap_db_fsync_duration_seconds: Histogram,
    pub snap_db_save_total_duration_seconds: Histogram,
}

/// `etcd_mvcc_*` and `etcd_debugging_mvcc_*`.
pub struct MvccMetrics {
    pub range_total: IntCounter,
    pub put_total: IntCounter,
    pub delete_total: IntCounter,
    pub txn_total: IntCounter,
    pub db_total_size_in_bytes: IntGauge,
    pub db_total_size_in_use_in_bytes: IntGauge,
    pub db_open_read_transactions: IntGauge,
    pub hash_duration_seconds: Histogram,
    pub hash_rev_duration_seconds: Histogram,
    pub keys_total: IntGauge,
    pub watch_stream_total: IntGauge,
    pub watcher_total: IntGauge,
    pub slow_watcher_total: IntGauge,
    pub events_total: IntCounter,
    pub pending_events_total: IntGauge,
    pub current_revision: IntGauge,
    pub compact_revision: IntGauge,
    pub total_put_size_in_bytes: IntGauge,
    pub db_compaction_keys_total: IntCounter,
    pub db_compaction_last: IntGauge,
    pub db_compaction_total_duration_milliseconds: Histogram,
    pub db_compaction_pause_duration_milliseconds: Histogram,
    pub index_compaction_pause_duration_milliseconds: Histogram,
}

/// `etcd_network_*`; peers are named by their id in hexadecimal.
pub struct NetworkMetrics {
    pub peer_round_trip_time_seconds: HistogramVec,
    pub peer_sent_bytes_total: IntCounterVec,
    pub peer_received_bytes_total: IntCounterVec,
    pub peer_sent_failures_total: IntCounterVec,
    pub peer_received_failures_total: IntCounterVec,
    /// By local and remote id.
    pub active_peers: IntGaugeVec,
    pub known_peers: IntGaugeVec,
    pub disconnected_peers_total: IntCounterVec,
    pub client_grpc_sent_bytes_total: IntCounter,
    pub client_grpc_received_bytes_total: IntCounter,
    /// By type (receive, send) and API.
    pub server_stream_failures_total: IntCounterVec,
    pub snapshot_send_success: IntCounterVec,
    pub snapshot_send_failures: IntCounterVec,
    pub snapshot_send_inflights_total: IntGaugeVec,
    pub snapshot_send_total_duration_seconds: HistogramVec,
    pub snapshot_receive_success: IntCounterVec,
    pub snapshot_receive_failures: IntCounterVec,
    pub snapshot_receive_inflights_total: IntGaugeVec,
    pub snapshot_receive_total_duration_seconds: HistogramVec,
}

/// `etcd_debugging_lease_*` and the revision of the auth store.
pub struct LeaseMetrics {
    pub granted_total: IntCounter,
    pub revoked_total: IntCounter,
    pub renewed_total: IntCounter,
    pub ttl_total: Histogram,
    pub expired_total: IntCounter,
    pub auth_revision: IntGauge,
}

/// `grpc_server_*`, by type, service and method.
pub struct GrpcMetrics {
    started_total: IntCounterVec,
    handled_total: IntCounterVec,
    msg_received_total: IntCounterVec,
    msg_sent_total: IntCounterVec,
}

/// `process_*`: what the operating system says of this process.
pub struct ProcessMetrics {
    pub cpu_seconds_total: Counter,
    pub start_time_seconds: Gauge,
    pub resident_memory_bytes: IntGauge,
    pub virtual_memory_bytes: IntGauge,
    pub open_fds: IntGauge,
    pub max_fds: IntGauge,
    pub os_fd_used: IntGauge,
    pub os_fd_limit: IntGauge,
}

/// The counters of one call, looked up once; counting is then an addition.
#[derive(Clone)]
pub struct Call {
    pub started: IntCounter,
    pub received: IntCounter,
    pub sent: IntCounter,
    handled: [IntCounter; CODES.len()],
}

impl Call {
    /// Counts one finished call by the number of its gRPC code.
    pub fn handled(&self, code: i32) {
        let code = usize::try_from(code).expect("codes are not negative");
        self.handled[code].inc();
    }

    /// A unary call whose request has come in whole.
    pub fn begin(&self) {
        self.started.inc();
        self.received.inc();
    }

    /// A unary call that was answered with a message (code 0) or without one.
    pub fn end(&self, code: i32) {
        if code == 0 {
            self.sent.inc();
        }
        self.handled(code);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let registry = Registry::new();
        Metrics {
            server: ServerMetrics::new(&registry),
            disk: DiskMetrics::new(&registry),
            mvcc: MvccMetrics::new(&registry),
            network: NetworkMetrics::new(&registry),
            lease: LeaseMetrics::new(&registry),
            grpc: GrpcMetrics::new(&registry),
            process: ProcessMetrics::new(&registry),
            registry,
        }
    }

    /// The counters of one call; service and name as in the protobuf files.
    pub fn call(&self, service: &str, name: &str) -> Call {
        let listed = METHODS.iter().find(|(s, _, names)| *s == service && names.contains(&name));
        let (_, kind, _) = listed.unwrap_or_else(|| panic!("{service}/{name} is not in METHODS"));
        self.grpc.call(service, name, kind)
    }

    /// All of them in the text format of Prometheus, sorted by name.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        let families = self.registry.gather();
        TextEncoder::new().encode(&families, &mut text).expect("memory takes every byte");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

/// Makes and registers metrics whose names begin alike.
struct Maker<'a> {
    registry: &'a Registry,
    prefix: &'static str,
}

impl Maker<'_> {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}{name}", self.prefix), help)
    }

    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names and buckets are well formed");
        self.registry.register(Box::new(collector.clone())).expect("each name occurs once");
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(self.opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(self.opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(self.opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(self.opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Buckets) -> Histogram {
        self.add(Histogram::with_opts(self.histogram_opts(name, help, buckets)))
    }

    fn histograms(&self, name: &str, help: &str, by: Buckets, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(self.histogram_opts(name, help, by), labels))
    }

    fn histogram_opts(&self, name: &str, help: &str, buckets: Buckets) -> HistogramOpts {
        let Buckets(first, count) = buckets;
        let bounds = exponential_buckets(first, 2.0, count).expect("first and count are positive");
        HistogramOpts::from(self.opts(name, help)).buckets(bounds)
    }
}

/// The first bound of a histogram and how many there are; each is twice the one before.
#[derive(Clone, Copy)]
struct Buckets(f64, usize);

const DISK: Buckets = Buckets(0.001, 14);

impl ServerMetrics {
    fn new(registry: &Registry) -> ServerMetrics {
        let make = Maker { registry, prefix: "etcd_server_" };
        let cluster = Maker { registry, prefix: "etcd_cluster_" };
        let debugging = Maker { registry, prefix: "etcd_debugging_server_" };
        let apply = Buckets(0.0001, 20);
        ServerMetrics {
            has_leader: make.gauge("has_leader", "1 if a leader is known, 0 if not."),
            is_leader: make.gauge("is_leader", "1 if this member is the leader, 0 if not."),
            is_learner: make.gauge("is_learner", "1 if this member is a learner, 0 if not."),
            leader_changes_seen_total: make
                .counter("leader_changes_seen_total", "Changes of leader seen."),
            heartbeat_send_failures_total: make
                .counter("heartbeat_send_failures_total", "Heartbeats that were not sent."),
            proposals_committed_total: make
                .gauge("proposals_committed_total", "Index of the last committed entry."),
            proposals_applied_total: make
                .gauge("proposals_applied_total", "Index of the last applied entry."),
            proposals_pending: make.gauge("proposals_pending", "Proposals waiting to commit."),
            proposals_failed_total: make.counter("proposals_failed_total", "Failed proposals."),
            slow_apply_total: make.counter("slow_apply_total", "Slow applies."),
            slow_read_indexes_total: make
                .counter("slow_read_indexes_total", "Reads that waited long for their index."),
            read_indexes_failed_total: make
                .counter("read_indexes_failed_total", "Reads that got no index."),
            learner_promote_successes: make
                .counter("learner_promote_successes", "Promoted learners, on the leader."),
            learner_promote_failures: make.counters(
                "learner_promote_failures",
                "Refused promotions of learners, on the leader.",
                &["Reason"],
            ),
            snapshot_apply_in_progress_total: make
                .gauge("snapshot_apply_in_progress_total", "1 while a snapshot is installed."),
            quota_backend_bytes: make.gauge("quota_backend_bytes", "The quota of the store."),
            health_success: make.counter("health_success", "Health checks passed."),
            health_failures: make.counter("health_failures", "Health checks failed."),
            healthcheck: make.gauges("healthcheck", "Result of each check.", &["type", "name"]),
            healthchecks_total: make.counters(
                "healthchecks_total",
                "Results of each check.",
                &["type", "name", "status"],
            ),
            client_requests_total: make.counters(
                "client_requests_total",
                "Requests by API version of the client.",
                &["type", "client_api_version"],
            ),
            apply_duration_seconds: make.histograms(
                "apply_duration_seconds",
                "How long an apply takes.",
                apply,
                &["version", "op", "success"],
            ),
            range_duration_seconds: make.histograms(
                "range_duration_seconds",
                "How long a read takes.",
                apply,
                &["success"],
            ),
            id: make.gauges("id", "1 for the id of this member, in hex.", &["server_id"]),
            version: make.gauges("version", "1 for the version that runs.", &["server_version"]),
            cluster_version: cluster.gauges(
                "version",
                "1 for the version that the cluster agreed on.",
                &["cluster_version"],
            ),
            alarms: debugging.gauges(
                "alarms",
                "Raised alarms, by member and type.",
                &["server_id", "alarm_type"],
            ),
        }
    }
}

impl DiskMetrics {
    fn new(registry: &Registry) -> DiskMetrics {
        let make = Maker { registry, prefix: "etcd_disk_" };
        let snap = Maker { registry, prefix: "etcd_snap_" };
        DiskMetrics {
            wal_fsync_duration_seconds: make.histogram(
                "wal_fsync_duration_seconds",
                "How long a sync of the WAL takes.",
                DISK,
            ),
            wal_write_duration_seconds: make.histogram(
                "wal_write_duration_seconds",
                "How long a WAL write takes.",
                DISK,
            ),
            wal_write_bytes_total: make.gauge("wal_write_bytes_total", "Bytes written to the WAL."),
            backend_commit_duration_seconds: make.histogram(
                "backend_commit_duration_seconds",
                "How long a commit takes.",
                DISK,
            ),
            backend_snapshot_duration_seconds: make.histogram(
                "backend_snapshot_duration_seconds",
                "How long a backup takes.",
                Buckets(0.01, 17),
            ),
            backend_defrag_duration_seconds: make.histogram(
                "backend_defrag_duration_seconds",
                "How long a defragmentation takes; there is nothing to defragment here.",
                Buckets(0.1, 13),
            ),
            defrag_inflight: make.gauge("defrag_inflight", "1 while defragmenting; always 0."),
            snap_fsync_duration_seconds: snap.histogram(
                "fsync_duration_seconds",
                "How long a manifest's sync takes.",
                DISK,
            ),
            snap_db_fsync_duration_seconds: snap.histogram(
                "db_fsync_duration_seconds",
                "How long a run's sync takes.",
                DISK,
            ),
            snap_db_save_total_duration_seconds: snap.histogram(
                "db_save_total_duration_seconds",
                "How long receiving a snapshot takes.",
                Buckets(0.1, 10),
            ),
        }
    }
}

impl MvccMetrics {
    fn new(registry: &Registry) -> MvccMetrics {
        let make = Maker { registry, prefix: "etcd_mvcc_" };
        let debug = Maker { registry, prefix: "etcd_debugging_mvcc_" };
        let hash = Buckets(0.01, 15);
        MvccMetrics {
            range_total: make.counter("range_total", "Reads seen by this member."),
            put_total: make.counter("put_total", "Puts seen by this member."),
            delete_total: make.counter("delete_total", "Deletes seen by this member."),
            txn_total: make.counter("txn_total", "Transactions seen by this member."),
            db_total_size_in_bytes: make.gauge("db_total_size_in_bytes", "Size of the store."),
            db_total_size_in_use_in_bytes: make
                .gauge("db_total_size_in_use_in_bytes", "Size of what is alive in the store."),
            db_open_read_transactions: make.gauge("db_open_read_transactions", "Pinned revisions."),
            hash_duration_seconds: make.histogram(
                "hash_duration_seconds",
                "How long a hash takes.",
                hash,
            ),
            hash_rev_duration_seconds: make.histogram(
                "hash_rev_duration_seconds",
                "How long a hash at a revision takes.",
                hash,
            ),
            keys_total: debug.gauge("keys_total", "Keys."),
            watch_stream_total: debug.gauge("watch_stream_total", "Watch streams."),
            watcher_total: debug.gauge("watcher_total", "Watchers."),
            slow_watcher_total: debug.gauge("slow_watcher_total", "Watchers that lag behind."),
            events_total: debug.counter("events_total", "Events sent."),
            pending_events_total: debug.gauge("pending_events_total", "Events to be sent."),
            current_revision: debug.gauge("current_revision", "The revision of the store."),
            compact_revision: debug.gauge("compact_revision", "The last compacted revision."),
            total_put_size_in_bytes: debug
                .gauge("total_put_size_in_bytes", "Bytes of all puts seen by this member."),
            db_compaction_keys_total: debug
                .counter("db_compaction_keys_total", "Records removed by compactions."),
            db_compaction_last: debug
                .gauge("db_compaction_last", "Unix time of the last compaction; 0 at first."),
            db_compaction_total_duration_milliseconds: debug.histogram(
                "db_compaction_total_duration_milliseconds",
                "How long a compaction takes.",
                Buckets(100.0, 14),
            ),
            db_compaction_pause_duration_milliseconds: debug.histogram(
                "db_compaction_pause_duration_milliseconds",
                "How long a compaction holds up others.",
                Buckets(1.0, 13),
            ),
            index_compaction_pause_duration_milliseconds: debug.histogram(
                "index_compaction_pause_duration_milliseconds",
                "How long a compaction of the index holds up others.",
                Buckets(0.5, 14),
            ),
        }
    }
}

impl NetworkMetrics {
    fn new(registry: &Registry) -> NetworkMetrics {
        let make = Maker { registry, prefix: "etcd_network_" };
        let (to, from, both) = (&["To"], &["From"], &["Local", "Remote"]);
        let snapshot = Buckets(0.1, 10);
        NetworkMetrics {
            peer_round_trip_time_seconds: make.histograms(
                "peer_round_trip_time_seconds",
                "Round trip times between members.",
                Buckets(0.0001, 16),
                to,
            ),
            peer_sent_bytes_total: make.counters(
                "peer_sent_bytes_total",
                "Bytes sent to members.",
                to,
            ),
            peer_received_bytes_total: make.counters(
                "peer_received_bytes_total",
                "Bytes received from members.",
                from,
            ),
            peer_sent_failures_total: make.counters(
                "peer_sent_failures_total",
                "Failures to send to members.",
                to,
            ),
            peer_received_failures_total: make.counters(
                "peer_received_failures_total",
                "Failures to receive from members.",
                from,
            ),
            active_peers: make.gauges("active_peers", "Open connections to members.", both),
            known_peers: make.gauges("known_peers", "Known members.", both),
            disconnected_peers_total: make.counters(
                "disconnected_peers_total",
                "Connections to members lost.",
                both,
            ),
            client_grpc_sent_bytes_total: make
                .counter("client_grpc_sent_bytes_total", "Bytes sent to clients."),
            client_grpc_received_bytes_total: make
                .counter("client_grpc_received_bytes_total", "Bytes received from clients."),
            server_stream_failures_total: make.counters(
                "server_stream_failures_total",
                "Failures of streams to clients.",
                &["Type", "API"],
            ),
            snapshot_send_success: make.counters("snapshot_send_success", "Sent snapshots.", to),
            snapshot_send_failures: make.counters(
                "snapshot_send_failures",
                "Snapshots not sent.",
                to,
            ),
            snapshot_send_inflights_total: make.gauges(
                "snapshot_send_inflights_total",
                "Snapshots being sent.",
                to,
            ),
            snapshot_send_total_duration_seconds: make.histograms(
                "snapshot_send_total_duration_seconds",
                "How long sending a snapshot takes.",
                snapshot,
                to,
            ),
            snapshot_receive_success: make.counters(
                "snapshot_receive_success",
                "Received snapshots.",
                from,
            ),
            snapshot_receive_failures: make.counters(
                "snapshot_receive_failures",
                "Snapshots not received.",
                from,
            ),
            snapshot_receive_inflights_total: make.gauges(
                "snapshot_receive_inflights_total",
                "Snapshots being received.",
                from,
            ),
            snapshot_receive_total_duration_seconds: make.histograms(
                "snapshot_receive_total_duration_seconds",
                "How long receiving a snapshot takes.",
                snapshot,
                from,
            ),
        }
    }
}

impl LeaseMetrics {
    fn new(registry: &Registry) -> LeaseMetrics {
        let make = Maker { registry, prefix: "etcd_debugging_lease_" };
        let server = Maker { registry, prefix: "etcd_debugging_server_" };
        let auth = Maker { registry, prefix: "etcd_debugging_auth_" };
        LeaseMetrics {
            granted_total: make.counter("granted_total", "Granted leases."),
            revoked_total: make.counter("revoked_total", "Revoked leases."),
            renewed_total: make.counter("renewed_total", "Renewed leases, on the leader."),
            ttl_total: make.histogram("ttl_total", "Granted times to live.", Buckets(1.0, 24)),
            expired_total: server.counter("lease_expired_total", "Expired leases."),
            auth_revision: auth.gauge("revision", "The revision of the auth store."),
        }
    }
}

impl GrpcMetrics {
    fn new(registry: &Registry) -> GrpcMetrics {
        let make = Maker { registry, prefix: "grpc_server_" };
        let by = ["grpc_method", "grpc_service", "grpc_type"];
        let by_code = ["grpc_code", "grpc_method", "grpc_service", "grpc_type"];
        let grpc = GrpcMetrics {
            started_total: make.counters("started_total", "Calls begun.", &by),
            handled_total: make.counters("handled_total", "Calls ended, by code.", &by_code),
            msg_received_total: make.counters("msg_received_total", "Messages received.", &by),
            msg_sent_total: make.counters("msg_sent_total", "Messages sent.", &by),
        };
        for (service, kind, names) in METHODS {
            for name in names {
                // Looking a counter up makes it exist, at 0.
                grpc.call(service, name, kind);
            }
        }
        grpc
    }

    fn call(&self, service: &str, name: &str, kind: &str) -> Call {
        let by = [name, service, kind];
        let handled = |code| self.handled_total.with_label_values(&[code, name, service, kind]);
        Call {
            started: self.started_total.with_label_values(&by),
            received: self.msg_received_total.with_label_values(&by),
            sent: self.msg_sent_total.with_label_values(&by),
            handled: CODES.map(handled),
        }
    }
}

impl ProcessMetrics {
    fn new(registry: &Registry) -> ProcessMetrics {
        let make = Maker { registry, prefix: "process_" };
        let os = Maker { registry, prefix: "os_fd_" };
        ProcessMetrics {
            cpu_seconds_total: make
                .add(Counter::with_opts(make.opts("cpu_seconds_total", "CPU time used."))),
            start_time_seconds: make
                .add(Gauge::with_opts(make.opts("start_time_seconds", "Unix time of the start."))),
            resident_memory_bytes: make.gauge("resident_memory_bytes", "Resident memory."),
            virtual_memory_bytes: make.gauge("virtual_memory_bytes", "Virtual memory."),
            open_fds: make.gauge("open_fds", "Open file descriptors."),
            max_fds: make.gauge("max_fds", "Limit of open file descriptors."),
            os_fd_used: os.gauge("used", "Open file descriptors."),
            os_fd_limit: os.gauge("limit", "Limit of open file descriptors."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_begin_at_zero_under_the_names_of_etcd() {
        let text = Metrics::new().render();
        let expected = [
            "etcd_server_has_leader 0",
            "etcd_server_leader_changes_seen_total 0",
            "etcd_server_proposals_failed_total 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 0",
            "etcd_disk_backend_commit_duration_seconds_count 0",
            "etcd_mvcc_db_total_size_in_bytes 0",
            "etcd_debugging_mvcc_current_revision 0",
            "etcd_debugging_server_lease_expired_total 0",
            "process_resident_memory_bytes 0",
            "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",\
             grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 0",
            "grpc_server_started_total{grpc_method=\"Watch\",\
             grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 0",
        ];
        for line in expected {
            assert!(text.lines().any(|found| found == line), "{line} is missing");
        }
        let handled = text.lines().filter(|line| line.starts_with("grpc_server_handled_total{"));
        let methods: usize = METHODS.iter().map(|(_, _, names)| names.len()).sum();
        assert_eq!(handled.count(), methods * CODES.len());
    }

    #[test]
    fn two_servers_of_one_process_count_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.mvcc.put_total.inc();
        one.network.peer_round_trip_time_seconds.with_label_values(&["8e9e"]).observe(0.0003);
        let call = one.call("etcdserverpb.KV", "Put");
        call.begin();
        call.end(3);
        assert!(one.render().contains("etcd_mvcc_put_total 1\n"));
        let bucket =
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"8e9e\",le=\"0.0004\"} 1";
        assert!(one.render().contains(bucket));
        assert!(one.render().contains(
            "grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Put\",\
             grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1"
        ));
        assert!(other.render().contains("etcd_mvcc_put_total 0\n"));
    }
}
