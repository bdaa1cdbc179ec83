//! The metrics of one server, under etcd's names, so that its dashboards and alerts go on working.
//!
//! Never global: five servers share a simulated process. Nothing here reads a clock or the
//! operating system; whoever measures puts the figure in (`process_*` come from `http/`).

use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector, exponential_buckets,
};
use std::sync::{Arc, OnceLock};

/// The release of etcd that this server is compatible with. Clients parse it: digits and dots.
pub const ETCD_VERSION: &str = "3.6.5";
/// The version that the cluster agrees on, and that of the stored format, in etcd's terms.
pub const CLUSTER_VERSION: &str = "3.6.0";

/// How ids stand in labels.
pub fn hex(id: u64) -> String {
    format!("{id:x}")
}

const UNARY: &str = "unary";
const SERVER_STREAM: &str = "server_stream";
const BIDI_STREAM: &str = "bidi_stream";

/// Every call of the API; `grpc_server_*` begin at 0 for each, so that a rate is never missing.
pub const METHODS: [(&str, &str, &[&str]); 14] = [
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
    ("grpc.health.v1.Health", UNARY, &["Check"]),
    ("grpc.health.v1.Health", SERVER_STREAM, &["Watch"]),
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

/// The first bound of a histogram and how many there are; each is twice the one before.
#[derive(Clone, Copy)]
struct Buckets(f64, usize);

const DISK: Buckets = Buckets(0.001, 14);

/// Declares the metrics in one list: under a prefix, each field by the rest of its name, then how
/// it is made and what it means.
macro_rules! family {
    ($($prefix:literal {
        $($(#[$about:meta])* $field:ident: $make:ident($($with:expr),*),)*
    })*) => {
        /// All metrics of one server.
        pub struct Metrics {
            registry: Registry,
            grpc: GrpcMetrics,
            $($($(#[$about])* pub $field: made_by!($make),)*)*
        }

        /// The name of every metric but `grpc_server_*`.
        pub const NAMES: &[&str] = &[$($(concat!($prefix, stringify!($field)),)*)*];

        impl Metrics {
            pub fn new() -> Metrics {
                let registry = Registry::new();
                let make = Maker(&registry);
                Metrics {
                    $($($field: make.$make(concat!($prefix, stringify!($field)), $($with),*),)*)*
                    grpc: GrpcMetrics::new(&make),
                    registry,
                }
            }
        }
    };
}

/// The type that each verb of `Maker` gives.
macro_rules! made_by {
    (counter) => {
        IntCounter
    };
    (counters) => {
        IntCounterVec
    };
    (float_counter) => {
        Counter
    };
    (gauge) => {
        IntGauge
    };
    (gauges) => {
        IntGaugeVec
    };
    (float_gauge) => {
        Gauge
    };
    (histogram) => {
        Histogram
    };
    (histograms) => {
        HistogramVec
    };
}

family! {
    "etcd_server_" {
        has_leader: gauge("1 if a leader is known, 0 if not."),
        is_leader: gauge("1 if this member is the leader, 0 if not."),
        is_learner: gauge("1 if this member is a learner, 0 if not."),
        leader_changes_seen_total: counter("Changes of leader seen."),
        heartbeat_send_failures_total: counter("Heartbeats that were not sent."),
        proposals_committed_total: gauge("Index of the last committed entry."),
        proposals_applied_total: gauge("Index of the last applied entry."),
        proposals_pending: gauge("Proposals waiting to commit."),
        proposals_failed_total: counter("Failed proposals."),
        slow_apply_total: counter("Slow applies."),
        slow_read_indexes_total: counter("Reads that waited long for their index."),
        read_indexes_failed_total: counter("Reads that got no index."),
        learner_promote_successes: counter("Promoted learners, on the leader."),
        /// By reason.
        learner_promote_failures: counters(
            "Refused promotions of learners, on the leader.", &["Reason"]
        ),
        snapshot_apply_in_progress_total: gauge("1 while a snapshot is installed."),
        quota_backend_bytes: gauge("The quota of the store."),
        health_success: counter("Health checks passed."),
        health_failures: counter("Health checks failed."),
        /// By type (livez, readyz) and name of the check.
        healthcheck: gauges("Result of each check.", &["type", "name"]),
        /// By type, name and status (success, error).
        healthchecks_total: counters("Results of each check.", &["type", "name", "status"]),
        /// By type of call and API version of the client.
        client_requests_total: counters(
            "Requests by API version of the client.", &["type", "client_api_version"]
        ),
        /// By version, operation and success.
        apply_duration_seconds: histograms(
            "How long an apply takes.", Buckets(0.0001, 20), &["version", "op", "success"]
        ),
        /// By success.
        range_duration_seconds: histograms(
            "How long a read takes.", Buckets(0.0001, 20), &["success"]
        ),
        /// By member id in hexadecimal.
        id: gauges("1 for the id of this member, in hex.", &["server_id"]),
        version: gauges("1 for the version that runs.", &["server_version"]),
    }
    "etcd_" {
        cluster_version: gauges(
            "1 for the version that the cluster agreed on.", &["cluster_version"]
        ),
    }
    "etcd_debugging_server_" {
        /// By member and type of alarm.
        alarms: gauges("Raised alarms, by member and type.", &["server_id", "alarm_type"]),
    }
    "detcd_" {
        disk_full: gauge("1 while the disk of this member has no room."),
        quarantined: gauge("1 while the state of this member is not served."),
        quarantines_total: counter("How often the state of this member was found damaged."),
        damaged_runs: gauge("Runs of records that are damaged and not repaired yet."),
        repaired_values_total: counter("Values that other members gave back."),
        value_reads_total: gauge("Values that were read from the disk."),
        scrubs_total: counter("How often the scrub has read all there is."),
        scrub_bytes_total: counter("Bytes that the scrub has read."),
        scrub_damage_total: counter("How often the scrub found damage."),
    }
    "etcd_disk_" {
        wal_fsync_duration_seconds: histogram("How long a sync of the WAL takes.", DISK),
        wal_write_duration_seconds: histogram(
            "How long a WAL write takes, its sync included.", DISK
        ),
        wal_write_bytes_total: gauge("Bytes written to the WAL."),
        /// The manifest that makes a checkpoint count, written and synced: what stands in the
        /// place of etcd's commit to its B-tree file.
        backend_commit_duration_seconds: histogram("How long a commit takes.", DISK),
        backend_snapshot_duration_seconds: histogram(
            "How long a backup takes.", Buckets(0.01, 17)
        ),
        backend_defrag_duration_seconds: histogram(
            "How long a defragmentation takes; there is none here.", Buckets(0.1, 13)
        ),
        defrag_inflight: gauge("1 while defragmenting; always 0."),
    }
    "etcd_debugging_" {
        snap_save_total_duration_seconds: histogram("How long a checkpoint takes.", DISK),
    }
    "etcd_" {
        snap_fsync_duration_seconds: histogram("How long a manifest's sync takes.", DISK),
        snap_db_fsync_duration_seconds: histogram("How long a run's sync takes.", DISK),
        snap_db_save_total_duration_seconds: histogram(
            "How long receiving a snapshot takes.", Buckets(0.1, 10)
        ),
    }
    "etcd_" {
        mvcc_range_total: counter("Reads seen by this member."),
        mvcc_put_total: counter("Puts seen by this member."),
        mvcc_delete_total: counter("Deletes seen by this member."),
        mvcc_txn_total: counter("Transactions seen by this member."),
        mvcc_db_total_size_in_bytes: gauge("Size of the store."),
        mvcc_db_total_size_in_use_in_bytes: gauge("Size of what is alive in the store."),
        mvcc_db_open_read_transactions: gauge("Pinned revisions."),
        mvcc_hash_duration_seconds: histogram("How long a hash takes.", Buckets(0.01, 15)),
        mvcc_hash_rev_duration_seconds: histogram(
            "How long a hash at a revision takes.", Buckets(0.01, 15)
        ),
    }
    "etcd_debugging_" {
        mvcc_keys_total: gauge("Keys."),
        mvcc_watch_stream_total: gauge("Watch streams."),
        mvcc_watcher_total: gauge("Watchers."),
        mvcc_slow_watcher_total: gauge("Watchers that lag behind."),
        mvcc_events_total: counter("Events sent."),
        mvcc_pending_events_total: gauge("Events to be sent."),
        mvcc_current_revision: gauge("The revision of the store."),
        mvcc_compact_revision: gauge("The last compacted revision."),
        mvcc_total_put_size_in_bytes: gauge("Bytes of all puts seen by this member."),
        mvcc_db_compaction_keys_total: counter("Records removed by compactions."),
        mvcc_db_compaction_last: gauge("Unix time of the last compaction; 0 at first."),
        mvcc_db_compaction_total_duration_milliseconds: histogram(
            "How long a compaction takes.", Buckets(100.0, 14)
        ),
        mvcc_db_compaction_pause_duration_milliseconds: histogram(
            "How long a compaction holds up others.", Buckets(1.0, 13)
        ),
        mvcc_index_compaction_pause_duration_milliseconds: histogram(
            "How long a compaction of the index holds up others.", Buckets(0.5, 14)
        ),
    }
    "etcd_network_" {
        peer_round_trip_time_seconds: histograms(
            "Round trip times between members.", Buckets(0.0001, 16), &["To"]
        ),
        peer_sent_bytes_total: counters("Bytes sent to members.", &["To"]),
        peer_received_bytes_total: counters("Bytes received from members.", &["From"]),
        peer_sent_failures_total: counters("Failures to send to members.", &["To"]),
        peer_received_failures_total: counters("Failures to receive from members.", &["From"]),
        /// By local and remote id.
        active_peers: gauges("Open connections to members.", &["Local", "Remote"]),
        known_peers: gauges("Known members.", &["Local", "Remote"]),
        disconnected_peers_total: counters(
            "Connections to members lost.", &["Local", "Remote"]
        ),
        client_grpc_sent_bytes_total: counter("Bytes sent to clients."),
        client_grpc_received_bytes_total: counter("Bytes received from clients."),
        /// By type (receive, send) and API.
        server_stream_failures_total: counters(
            "Failures of streams to clients.", &["Type", "API"]
        ),
        snapshot_send_success: counters("Sent snapshots.", &["To"]),
        snapshot_send_failures: counters("Snapshots not sent.", &["To"]),
        snapshot_send_inflights_total: gauges("Snapshots being sent.", &["To"]),
        snapshot_send_total_duration_seconds: histograms(
            "How long sending a snapshot takes.", Buckets(0.1, 10), &["To"]
        ),
        snapshot_receive_success: counters("Received snapshots.", &["From"]),
        snapshot_receive_failures: counters("Snapshots not received.", &["From"]),
        snapshot_receive_inflights_total: gauges("Snapshots being received.", &["From"]),
        snapshot_receive_total_duration_seconds: histograms(
            "How long receiving a snapshot takes.", Buckets(0.1, 10), &["From"]
        ),
    }
    "etcd_debugging_" {
        lease_granted_total: counter("Granted leases."),
        lease_revoked_total: counter("Revoked leases."),
        lease_renewed_total: counter("Renewed leases, on the leader."),
        lease_ttl_total: histogram("Granted times to live.", Buckets(1.0, 24)),
    }
    "etcd_debugging_server_" {
        lease_expired_total: counter("Expired leases."),
    }
    "etcd_debugging_" {
        auth_revision: gauge("The revision of the auth store."),
    }
    "" {
        process_cpu_seconds_total: float_counter("CPU time used."),
        process_start_time_seconds: float_gauge("Unix time of the start."),
        process_resident_memory_bytes: gauge("Resident memory."),
        process_virtual_memory_bytes: gauge("Virtual memory."),
        process_open_fds: gauge("Open file descriptors."),
        process_max_fds: gauge("Limit of open file descriptors."),
    }
    "" {
        os_fd_used: gauge("Open file descriptors."),
        os_fd_limit: gauge("Limit of open file descriptors."),
    }
}

/// `grpc_server_*`, by type, service and method.
#[derive(Clone)]
pub struct GrpcMetrics {
    started_total: IntCounterVec,
    handled_total: IntCounterVec,
    msg_received_total: IntCounterVec,
    msg_sent_total: IntCounterVec,
}

/// The counters of one call, looked up when the first one begins; counting a success is then an
/// addition.
#[derive(Clone)]
pub struct Call {
    method: [&'static str; 3],
    grpc: GrpcMetrics,
    counters: Arc<OnceLock<Counters>>,
    /// Of all calls together.
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
}

struct Counters {
    started: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    succeeded: IntCounter,
}

impl Call {
    fn counters(&self) -> &Counters {
        self.counters.get_or_init(|| self.grpc.counters(self.method))
    }

    /// A call begins: a stream, or a unary call whose request has come in whole.
    pub fn begin(&self) {
        self.counters().started.inc();
    }

    /// A message of so many bytes came in.
    pub fn received(&self, bytes: usize) {
        self.counters().received.inc();
        self.received_bytes.inc_by(bytes as u64);
    }

    /// A message of so many bytes went out.
    pub fn sent(&self, bytes: usize) {
        self.counters().sent.inc();
        self.sent_bytes.inc_by(bytes as u64);
    }

    /// A call ends with this number of a gRPC code.
    pub fn end(&self, code: i32) {
        if code == 0 {
            return self.counters().succeeded.inc();
        }
        let [name, service, kind] = self.method;
        let code = usize::try_from(code).expect("codes are not negative");
        self.grpc.handled_total.with_label_values(&[CODES[code], name, service, kind]).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// The counters of one call; service and name as in the protobuf files.
    pub fn call(&self, service: &str, name: &str) -> Call {
        let rows = METHODS.iter().filter(|(of, _, _)| *of == service);
        let mut calls = rows.flat_map(|(of, kind, names)| names.iter().map(move |n| (of, n, kind)));
        let found = calls.find(|(_, of, _)| **of == name);
        let (service, name, kind) =
            found.unwrap_or_else(|| panic!("{service}/{name} is not in METHODS"));
        let (received, sent) =
            (&self.client_grpc_received_bytes_total, &self.client_grpc_sent_bytes_total);
        Call {
            method: [name, service, kind],
            grpc: self.grpc.clone(),
            counters: Arc::default(),
            received_bytes: received.clone(),
            sent_bytes: sent.clone(),
        }
    }

    /// All of them in the text format of Prometheus, sorted by name.
    pub fn render(&self) -> String {
        // The zeros are made here: a simulated server, which nobody asks, need not carry them.
        for (service, kind, names) in METHODS {
            for name in names {
                self.grpc.counters([name, service, kind]);
                self.grpc.touch(service, name, kind);
            }
        }
        let mut text = Vec::new();
        let families = self.registry.gather();
        TextEncoder::new().encode(&families, &mut text).expect("memory takes every byte");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("names and buckets are well formed");
        self.0.register(Box::new(collector.clone())).expect("each name occurs once");
        collector
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn float_counter(&self, name: &str, help: &str) -> Counter {
        self.add(Counter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str, buckets: Buckets) -> Histogram {
        self.add(Histogram::with_opts(histogram_opts(name, help, buckets)))
    }

    fn histograms(&self, name: &str, help: &str, by: Buckets, labels: &[&str]) -> HistogramVec {
        self.add(HistogramVec::new(histogram_opts(name, help, by), labels))
    }
}

fn histogram_opts(name: &str, help: &str, Buckets(first, count): Buckets) -> HistogramOpts {
    let bounds = exponential_buckets(first, 2.0, count).expect("first and count are positive");
    HistogramOpts::new(name, help).buckets(bounds)
}

impl GrpcMetrics {
    fn new(make: &Maker) -> GrpcMetrics {
        let by = ["grpc_method", "grpc_service", "grpc_type"];
        let by_code = ["grpc_code", "grpc_method", "grpc_service", "grpc_type"];
        GrpcMetrics {
            started_total: make.counters("grpc_server_started_total", "Calls begun.", &by),
            handled_total: make.counters(
                "grpc_server_handled_total",
                "Calls ended, by code.",
                &by_code,
            ),
            msg_received_total: make.counters(
                "grpc_server_msg_received_total",
                "Messages received.",
                &by,
            ),
            msg_sent_total: make.counters("grpc_server_msg_sent_total", "Messages sent.", &by),
        }
    }

    fn counters(&self, by: [&str; 3]) -> Counters {
        let [name, service, kind] = by;
        Counters {
            started: self.started_total.with_label_values(&by),
            received: self.msg_received_total.with_label_values(&by),
            sent: self.msg_sent_total.with_label_values(&by),
            succeeded: self.handled_total.with_label_values(&[CODES[0], name, service, kind]),
        }
    }

    /// Makes the counters of all codes exist, at 0: looking one up is enough.
    fn touch(&self, service: &str, name: &str, kind: &str) {
        for code in CODES {
            self.handled_total.with_label_values(&[code, name, service, kind]);
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
        one.mvcc_put_total.inc();
        one.peer_round_trip_time_seconds.with_label_values(&["8e9e"]).observe(0.0003);
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
