//! What all flags together mean: defaults filled in, texts read, contradictions refused.

use crate::config::duration;
use crate::config::flags::{self, Given, Kind, Wish};
use crate::config::url::{self, Url};
use crate::config::yaml;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest election timeout: beyond it a lost leader would go unnoticed for minutes.
const ELECTION_MS_MAX: u64 = 50_000;
/// A request above this slows everything behind it.
const REQUEST_BYTES_ADVISED: usize = 10 * 1024 * 1024;
/// Entries between two checkpoints, where the flag says 0.
const SNAPSHOT_COUNT: u64 = 10_000;
/// What a quota of 0 stands for, and from where on etcd warns of it.
const QUOTA_BYTES_DEFAULT: i64 = 2 << 30;
const QUOTA_BYTES_ADVISED: i64 = 8 << 30;
/// The shortest time between two progress notifications.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

const GATES: [&str; 11] = [
    "InitialCorruptCheck",
    "CompactHashCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
    "FastLeaseKeepAlive",
    "PriorityRequest",
    "AllAlpha",
    "AllBeta",
];

/// Whether the cluster is founded or joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// When history is compacted without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoCompaction {
    #[default]
    Off,
    /// What is older than this goes.
    Periodic(Duration),
    /// So many revisions stay.
    Revisions(i64),
}

/// What a server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    pub data_dir: String,
    /// Empty: within the data directory.
    pub wal_dir: String,
    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// The founders, sorted by name, each with its peer URLs. Whether this member is one of them
    /// matters when it founds, and not when it comes back.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    pub force_new_cluster: bool,
    pub strict_reconfig_check: bool,
    pub max_learners: usize,
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub pre_vote: bool,
    pub initial_election_tick_advance: bool,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    /// Bytes of values on disk that may stay in memory too.
    pub resident_bytes: u64,
    /// How fast checkpoints are read to find damage; 0 for not at all.
    pub scrub_bytes_per_second: u64,
    /// Bytes of live data that this member puts up with; less than 0 for any number.
    pub quota_backend_bytes: i64,
    pub auto_compaction: AutoCompaction,
    /// Bytes of the disk that are set aside for the day on which it is full.
    pub disk_reserve_bytes: u64,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    pub max_concurrent_streams: u32,
    pub enable_grpc_gateway: bool,
    /// Origins whose pages may ask; none for all.
    pub cors: Vec<Url>,
    /// Names that clients over HTTP may call this member by; none for any.
    pub host_whitelist: Vec<String>,
    pub grpc_keepalive_interval: Duration,
    pub grpc_keepalive_timeout: Duration,
    pub watch_progress_notify_interval: Duration,
    pub wait_cluster_ready_timeout: Duration,
    /// Time between two checks of the values in memory; zero for none.
    pub corrupt_check_time: Duration,
    /// What the flight recorder may keep in the data directory; 0 for no recorder.
    pub flight_recorder_bytes: u64,
    /// Those that were named, by name.
    pub feature_gates: BTreeMap<String, bool>,
    pub log_level: LogLevel,
    pub log_is_json: bool,
    /// What to tell the operator, once there is a log.
    pub warnings: Vec<String>,
}

/// Why a server was not told what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The command line can't be read: exit code 2.
    Usage(String),
    /// It can be read and contradicts itself: exit code 1.
    Invalid(String),
}

/// What the daemon is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Run(Box<Config>),
    Help,
    Version,
}

/// Reads all three sources. `read_file` is asked for the configuration file, if one is named.
///
/// # Errors
/// What to print, and with it the exit code.
pub fn load(
    args: &[String],
    variables: &[(String, String)],
    read_file: impl FnOnce(&str) -> Result<String, String>,
) -> Result<Start, ConfigError> {
    let (wish, file) = flags::parse_args(args).map_err(ConfigError::Usage)?;
    let mut given = match wish {
        Wish::Help => return Ok(Start::Help),
        Wish::Version => return Ok(Start::Version),
        Wish::Run(given) => given,
    };
    let named = variables.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE");
    match file.or_else(|| named.map(|(_, path)| path.clone())) {
        Some(path) => {
            let text = read_file(&path).map_err(ConfigError::Invalid)?;
            let ignored = !given.values.is_empty();
            given = yaml::parse(&text).map_err(ConfigError::Invalid)?;
            if ignored {
                let text = "a configuration file is given: flags and environment are ignored";
                given.warnings.push(text.to_string());
            }
        }
        None => flags::add_environment(&mut given, variables.iter().cloned()),
    }
    Config::new(given).map(|config| Start::Run(Box::new(config)))
}

impl Config {
    /// Fills in the defaults and checks the whole.
    pub fn new(given: Given) -> Result<Config, ConfigError> {
        let raw = Raw { values: given.values };
        raw.check_kinds().map_err(ConfigError::Usage)?;
        let mut config = raw.read().map_err(ConfigError::Invalid)?;
        config.warnings.splice(0..0, given.warnings);
        config.check().map_err(ConfigError::Invalid)?;
        Ok(config)
    }

    /// Whether a gate was named and switched on.
    pub fn has_gate(&self, name: &str) -> bool {
        self.feature_gates.get(name).copied().unwrap_or(false)
    }

    fn check(&self) -> Result<(), String> {
        let bound = self.listen_peer_urls.iter().chain(&self.listen_client_urls);
        let more = self.listen_client_http_urls.iter().chain(&self.listen_metrics_urls);
        for url in bound.chain(more) {
            url.check_bindable()?;
            if url.is_https {
                return Err(format!("TLS is not there yet: {}", url.text));
            }
        }
        let (heartbeat, election) = (self.heartbeat_ms, self.election_ms);
        if heartbeat == 0 {
            return Err(format!("--heartbeat-interval must be >0 (set to {heartbeat}ms)"));
        }
        if election == 0 {
            return Err(format!("--election-timeout must be >0 (set to {election}ms)"));
        }
        if heartbeat.saturating_mul(5) > election {
            return Err(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as \
                 --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > ELECTION_MS_MAX {
            return Err(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than \
                 {ELECTION_MS_MAX}ms"
            ));
        }
        if self.watch_progress_notify_interval < PROGRESS_INTERVAL_MIN {
            return Err(format!(
                "--watch-progress-notify-interval must be at least {PROGRESS_INTERVAL_MIN:?}"
            ));
        }
        Ok(())
    }
}

/// Texts by flag name, before they are read.
struct Raw {
    values: BTreeMap<&'static str, String>,
}

impl Raw {
    fn text(&self, name: &str) -> &str {
        let default = || flags::find(name).map_or("", |flag| flag.default);
        self.values.get(name).map_or_else(default, String::as_str)
    }

    /// Go refuses a text of the wrong kind while it reads the command line.
    fn check_kinds(&self) -> Result<(), String> {
        for (name, value) in &self.values {
            let flag = flags::find(name).expect("only flags of the table are given");
            let sound = match flag.kind {
                Kind::Text => true,
                Kind::Bool => go_bool(value).is_some(),
                Kind::Int => value.parse::<i64>().is_ok(),
                Kind::Uint => value.parse::<u64>().is_ok(),
                Kind::Duration => duration::parse(value).is_some(),
            };
            if !sound {
                return Err(format!("invalid value {value:?} for flag -{name}: parse error"));
            }
        }
        Ok(())
    }

    fn uint(&self, name: &str) -> u64 {
        self.text(name).parse().expect("check_kinds has read it")
    }

    fn int(&self, name: &str) -> i64 {
        self.text(name).parse().expect("check_kinds has read it")
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.uint(name)).unwrap_or(usize::MAX)
    }

    /// A whole number that must not be negative.
    fn count(&self, name: &str) -> Result<usize, String> {
        let text = self.text(name);
        text.parse().map_err(|_| format!("--{name} must not be negative (set to {text})"))
    }

    fn bool(&self, name: &str) -> bool {
        go_bool(self.text(name)).expect("check_kinds has read it")
    }

    fn duration(&self, name: &str) -> Duration {
        duration::parse(self.text(name)).expect("check_kinds has read it")
    }

    /// A list of URLs; an empty text is no URL at all.
    fn urls(&self, name: &str) -> Result<Vec<Url>, String> {
        match self.text(name) {
            "" => Ok(Vec::new()),
            text => Url::parse_list(text).map_err(|error| format!("--{name}: {error}")),
        }
    }

    /// A list of names; none where it allows all.
    fn names(&self, name: &str) -> Vec<String> {
        let names = self.text(name).split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<String> = names.map(String::from).collect();
        if names.iter().any(|name| name == "*") { Vec::new() } else { names }
    }

    fn read(&self) -> Result<Config, String> {
        let name = self.text("name").to_string();
        let data_dir = match self.text("data-dir") {
            "" => format!("{name}.etcd"),
            path => path.to_string(),
        };
        let given = |name| self.values.contains_key(name);
        if given("listen-client-urls") && !given("advertise-client-urls") {
            let text = "--advertise-client-urls is required when --listen-client-urls is set \
                        explicitly";
            return Err(text.to_string());
        }
        let advertised = self.urls("initial-advertise-peer-urls")?;
        let initial_cluster = match self.text("initial-cluster") {
            "" => vec![(name.clone(), url::texts(&advertised))],
            text => parse_cluster(text)?,
        };
        let quota_backend_bytes = match self.int("quota-backend-bytes") {
            0 => QUOTA_BYTES_DEFAULT,
            bytes => bytes,
        };
        let warnings = self.warnings(quota_backend_bytes);
        Ok(Config {
            listen_peer_urls: self.urls("listen-peer-urls")?,
            listen_client_urls: self.urls("listen-client-urls")?,
            listen_client_http_urls: self.urls("listen-client-http-urls")?,
            listen_metrics_urls: self.urls("listen-metrics-urls")?,
            initial_advertise_peer_urls: advertised,
            advertise_client_urls: self.urls("advertise-client-urls")?,
            initial_cluster,
            initial_cluster_state: self.cluster_state()?,
            initial_cluster_token: self.text("initial-cluster-token").to_string(),
            force_new_cluster: self.bool("force-new-cluster"),
            strict_reconfig_check: self.bool("strict-reconfig-check"),
            max_learners: self.count("max-learners")?,
            heartbeat_ms: self.uint("heartbeat-interval"),
            election_ms: self.uint("election-timeout"),
            pre_vote: self.bool("pre-vote"),
            initial_election_tick_advance: self.bool("initial-election-tick-advance"),
            snapshot_count: self.snapshot_count(),
            snapshot_catchup_entries: self.uint("snapshot-catchup-entries"),
            resident_bytes: self.uint("resident-bytes"),
            scrub_bytes_per_second: self.uint("scrub-bytes-per-second"),
            quota_backend_bytes,
            auto_compaction: self.auto_compaction()?,
            disk_reserve_bytes: self.uint("disk-reserve-bytes"),
            max_txn_ops: self.size("max-txn-ops"),
            max_request_bytes: self.size("max-request-bytes"),
            max_concurrent_streams: u32::try_from(self.uint("max-concurrent-streams"))
                .unwrap_or(u32::MAX),
            enable_grpc_gateway: self.bool("enable-grpc-gateway"),
            cors: if self.text("cors") == "*" { Vec::new() } else { self.urls("cors")? },
            host_whitelist: self.names("host-whitelist"),
            grpc_keepalive_interval: self.duration("grpc-keepalive-interval"),
            grpc_keepalive_timeout: self.duration("grpc-keepalive-timeout"),
            watch_progress_notify_interval: self.duration("watch-progress-notify-interval"),
            wait_cluster_ready_timeout: self.duration("wait-cluster-ready-timeout"),
            corrupt_check_time: self.duration("corrupt-check-time"),
            flight_recorder_bytes: self.uint("flight-recorder-bytes"),
            feature_gates: parse_gates(self.text("feature-gates"))?,
            log_level: self.log_level()?,
            log_is_json: self.log_is_json()?,
            name,
            data_dir,
            wal_dir: self.text("wal-dir").to_string(),
            warnings,
        })
    }

    /// What may be set and is not advised.
    fn warnings(&self, quota_bytes: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.size("max-request-bytes") > REQUEST_BYTES_ADVISED {
            warnings
                .push(format!("--max-request-bytes is above the advised {REQUEST_BYTES_ADVISED}"));
        }
        if quota_bytes > QUOTA_BYTES_ADVISED {
            let text = "--quota-backend-bytes is above the advised";
            warnings.push(format!("{text} {QUOTA_BYTES_ADVISED}"));
        }
        warnings
    }

    /// etcd takes 0 for its default.
    fn snapshot_count(&self) -> u64 {
        match self.uint("snapshot-count") {
            0 => SNAPSHOT_COUNT,
            count => count,
        }
    }

    fn cluster_state(&self) -> Result<ClusterState, String> {
        match self.text("initial-cluster-state") {
            "new" => Ok(ClusterState::New),
            "existing" => Ok(ClusterState::Existing),
            other => Err(format!("unexpected clusterState {other:?}")),
        }
    }

    /// A bare number counts hours or revisions. A duration counts revisions too if that is the
    /// mode: its nanoseconds, as in etcd (`embed/etcd.go`, `parseCompactionRetention`).
    fn auto_compaction(&self) -> Result<AutoCompaction, String> {
        let text = self.text("auto-compaction-retention");
        let number = if text.is_empty() { Some(0) } else { text.parse::<i64>().ok() };
        let number = number.filter(|number| *number >= 0);
        let duration = || {
            let read = duration::parse(text).filter(|_| number.is_none());
            read.ok_or_else(|| format!("error parsing CompactionRetention: invalid {text:?}"))
        };
        match (self.text("auto-compaction-mode"), number) {
            ("periodic" | "revision", Some(0)) => Ok(AutoCompaction::Off),
            ("periodic", Some(hours)) => {
                let seconds = hours.unsigned_abs().saturating_mul(3600);
                Ok(AutoCompaction::Periodic(Duration::from_secs(seconds)))
            }
            ("revision", Some(revisions)) => Ok(AutoCompaction::Revisions(revisions)),
            ("periodic", None) => match duration()? {
                Duration::ZERO => Ok(AutoCompaction::Off),
                period => Ok(AutoCompaction::Periodic(period)),
            },
            ("revision", None) => match i64::try_from(duration()?.as_nanos()) {
                Ok(0) => Ok(AutoCompaction::Off),
                Ok(revisions) => Ok(AutoCompaction::Revisions(revisions)),
                Err(_) => Ok(AutoCompaction::Revisions(i64::MAX)),
            },
            ("", _) => Err("undefined auto-compaction-mode".to_string()),
            (other, _) => Err(format!("unknown auto-compaction-mode {other:?}")),
        }
    }

    fn log_level(&self) -> Result<LogLevel, String> {
        match self.text("log-level") {
            "debug" => Ok(LogLevel::Debug),
            "" | "info" => Ok(LogLevel::Info),
            "warn" => Ok(LogLevel::Warn),
            "error" | "dpanic" | "panic" | "fatal" => Ok(LogLevel::Error),
            other => Err(format!("unrecognized level: {other:?}")),
        }
    }

    fn log_is_json(&self) -> Result<bool, String> {
        match self.text("log-format") {
            "json" => Ok(true),
            "console" => Ok(false),
            other => Err(format!("unknown log format: {other}, supported values json, console")),
        }
    }
}

/// The texts that Go takes for a truth value.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads `name=url,name=url`; a name that stands there again has several URLs.
pub fn parse_cluster(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').unwrap_or((part, ""));
        let url = Url::parse(url).map_err(|error| format!("--initial-cluster: {error}"))?;
        members.entry(name.trim().to_string()).or_default().push(url);
    }
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for (name, urls) in &members {
        for url in urls {
            if let Some(other) = taken.insert(url.text.clone(), name.clone()) {
                return Err(format!(
                    "--initial-cluster: {name} and {other} have one URL, {}",
                    url.text
                ));
            }
        }
    }
    let sorted = |mut urls: Vec<Url>| {
        urls.sort();
        url::texts(&urls)
    };
    Ok(members.into_iter().map(|(name, urls)| (name, sorted(urls))).collect())
}

fn parse_gates(text: &str) -> Result<BTreeMap<String, bool>, String> {
    let mut gates = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let on = go_bool(value.trim());
        let on = on.ok_or_else(|| format!("invalid value of {name}: {value:?}"))?;
        if !GATES.contains(&name) {
            return Err(format!("unrecognized feature gate: {name}"));
        }
        gates.insert(name.to_string(), on);
    }
    Ok(gates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start(args: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Start, ConfigError> {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        load(&args, &variables.collect::<Vec<_>>(), |_| Ok(file.to_string()))
    }

    fn config(args: &[&str]) -> Config {
        match start(args, &[], "") {
            Ok(Start::Run(config)) => *config,
            other => panic!("{args:?} gives {other:?}"),
        }
    }

    fn refusal(args: &[&str]) -> String {
        match start(args, &[], "") {
            Err(ConfigError::Invalid(text)) => text,
            other => panic!("{args:?} gives {other:?}"),
        }
    }

    #[test]
    fn without_a_word_it_is_a_member_of_its_own() {
        let config = config(&[]);
        assert_eq!((config.name.as_str(), config.data_dir.as_str()), ("default", "default.etcd"));
        let founders = [("default".to_string(), vec!["http://localhost:2380".to_string()])];
        assert_eq!(config.initial_cluster, founders);
        assert_eq!((config.heartbeat_ms, config.election_ms), (100, 1000));
        assert_eq!((config.max_txn_ops, config.max_request_bytes), (128, 1_572_864));
        assert_eq!((config.snapshot_count, config.snapshot_catchup_entries), (10_000, 5_000));
        assert_eq!(config.resident_bytes, 16 << 20);
        assert_eq!(config.listen_client_urls[0].text, "http://localhost:2379");
        assert!(config.pre_vote && config.log_is_json && config.warnings.is_empty());
    }

    #[test]
    fn a_name_names_the_data_and_the_founder() {
        let config =
            config(&["--name", "m1", "--initial-advertise-peer-urls", "http://10.0.0.1:1"]);
        assert_eq!(config.data_dir, "m1.etcd");
        let founders = [("m1".to_string(), vec!["http://10.0.0.1:1".to_string()])];
        assert_eq!(config.initial_cluster, founders);
    }

    #[test]
    fn founders_may_have_several_urls() {
        let cluster = "b=http://b:1,a=http://a:2,a=http://a:1";
        let config = config(&["--name=a", "--initial-cluster", cluster]);
        let urls = |list: &[&str]| list.iter().map(|url| url.to_string()).collect::<Vec<_>>();
        let a = ("a".to_string(), urls(&["http://a:1", "http://a:2"]));
        let b = ("b".to_string(), urls(&["http://b:1"]));
        assert_eq!(config.initial_cluster, [a, b]);
    }

    #[test]
    fn contradictions_are_refused_in_the_words_of_etcd() {
        assert_eq!(
            refusal(&["--listen-client-urls=http://127.0.0.1:1"]),
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        );
        assert_eq!(
            refusal(&["--heartbeat-interval=300"]),
            "--election-timeout[1000ms] should be at least as 5 times as \
             --heartbeat-interval[300ms]"
        );
        assert_eq!(
            refusal(&["--election-timeout=50001"]),
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms"
        );
        assert_eq!(
            refusal(&["--heartbeat-interval=0"]),
            "--heartbeat-interval must be >0 (set to 0ms)"
        );
        assert_eq!(
            refusal(&["--listen-peer-urls=http://example.com:2380"]),
            "expected IP in URL for binding (http://example.com:2380)"
        );
        assert_eq!(refusal(&["--initial-cluster-state=old"]), "unexpected clusterState \"old\"");
        assert_eq!(refusal(&["--feature-gates=X=true"]), "unrecognized feature gate: X");
        let twice = "--initial-cluster=default=http://a:1,b=http://a:1";
        assert!(refusal(&[twice]).contains("have one URL"));
    }

    #[test]
    fn retention_is_hours_a_duration_or_revisions() {
        let read = |mode: &str, retention: &str| {
            let mode = format!("--auto-compaction-mode={mode}");
            config(&[&mode, &format!("--auto-compaction-retention={retention}")]).auto_compaction
        };
        let seconds = |seconds| AutoCompaction::Periodic(Duration::from_secs(seconds));
        assert_eq!(config(&[]).auto_compaction, AutoCompaction::Off);
        assert_eq!(read("periodic", "0"), AutoCompaction::Off);
        assert_eq!(read("periodic", "0s"), AutoCompaction::Off);
        assert_eq!(read("periodic", "2"), seconds(7200));
        assert_eq!(read("periodic", "1h30m"), seconds(5400));
        assert_eq!(read("periodic", "1.5h"), seconds(5400));
        assert_eq!(read("revision", "1000"), AutoCompaction::Revisions(1000));
        assert_eq!(read("revision", "0"), AutoCompaction::Off);
        assert_eq!(
            refusal(&["--auto-compaction-mode=daily"]),
            "unknown auto-compaction-mode \"daily\""
        );
        assert_eq!(refusal(&["--auto-compaction-mode="]), "undefined auto-compaction-mode");
        let refused = refusal(&["--auto-compaction-retention=soon"]);
        assert_eq!(refused, "error parsing CompactionRetention: invalid \"soon\"");
        assert!(refusal(&["--auto-compaction-retention=-1"]).contains("CompactionRetention"));
    }

    #[test]
    fn a_quota_of_nothing_is_the_default_and_one_below_is_none() {
        let read = |bytes: &str| config(&[&format!("--quota-backend-bytes={bytes}")]);
        assert_eq!(config(&[]).quota_backend_bytes, 2 << 30);
        assert_eq!(read("0").quota_backend_bytes, 2 << 30);
        assert_eq!(read("-1").quota_backend_bytes, -1);
        let huge = read("8589934593");
        assert_eq!((huge.quota_backend_bytes, huge.warnings.len()), (8_589_934_593, 1));
    }

    #[test]
    fn the_file_of_the_guide_is_read() {
        let file = "heartbeat-interval: 100\nelection-timeout: 1000\n\
                    auto-compaction-mode: periodic\nauto-compaction-retention: \"1h\"\n\
                    # the default is 2 GiB\nquota-backend-bytes: 8589934592 # 8GB\n";
        let Ok(Start::Run(config)) = start(&["--config-file=etcd.yaml"], &[], file) else {
            panic!("it does not start");
        };
        assert_eq!(config.quota_backend_bytes, 8 << 30);
        assert_eq!(config.auto_compaction, AutoCompaction::Periodic(Duration::from_secs(3600)));
        assert_eq!(config.warnings, [""; 0]);
    }

    #[test]
    fn a_text_of_the_wrong_kind_is_a_usage_error() {
        let usage = |text: &str| Err(ConfigError::Usage(text.to_string()));
        assert_eq!(
            start(&["--election-timeout=1s"], &[], ""),
            usage("invalid value \"1s\" for flag -election-timeout: parse error")
        );
        assert_eq!(
            start(&["--pre-vote=maybe"], &[], ""),
            usage("invalid value \"maybe\" for flag -pre-vote: parse error")
        );
        assert_eq!(
            start(&["--nonsense"], &[], ""),
            usage("flag provided but not defined: -nonsense")
        );
    }

    #[test]
    fn a_file_stands_in_for_flags_and_environment() {
        let file = "name: f\nelection-timeout: 2000\n";
        let variables = [("ETCD_NAME", "e"), ("ETCD_CONFIG_FILE", "x.yml")];
        let Ok(Start::Run(config)) = start(&["--name=a"], &variables, file) else {
            panic!("it does not start");
        };
        assert_eq!((config.name.as_str(), config.election_ms), ("f", 2000));
        assert_eq!(config.warnings.len(), 1);
        let Ok(Start::Run(config)) = start(&[], &[("ETCD_NAME", "e")], "") else {
            panic!("it does not start");
        };
        assert_eq!(config.name, "e");
    }

    proptest! {
        #[test]
        fn any_value_is_taken_or_refused(
            at in 0..flags::FLAGS.len(),
            value in prop_oneof![".{0,12}", "[0-9]{1,25}", "[a-z]{0,3}=?https?://[a-z0-9:./]{0,9}"],
        ) {
            let flag = flags::FLAGS[at];
            let mut given = Given::default();
            prop_assert!(given.set(flag.name, &value));
            // No panic is what is asked here.
            let read = Config::new(given);
            prop_assert!(read.is_ok() || flag.name != "name" || value.is_empty());
        }
    }
}
