//! The one table of flags, and how the command line and the environment are read by it.
//!
//! Of each flag the variable is `ETCD_` and the name in capitals, and the key in a file is the
//! name ([`crate::config::yaml`] knows the few that stand in a section).

use std::collections::BTreeMap;

/// What a flag's text must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bool,
    /// A whole number.
    Int,
    /// A whole number from 0 on.
    Uint,
    Duration,
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does what it says.
    Honoured,
    /// Accepted with a warning: it will do what it says one day.
    Later,
    /// Accepted with a warning: there is nothing here that it could mean.
    Ignored,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub status: Status,
    pub help: &'static str,
}

const fn on(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, status: Status::Honoured, help }
}

const fn later(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag { name, kind, default, status: Status::Later, help: "Accepted; not there yet." }
}

const fn ignored(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag { name, kind, default, status: Status::Ignored, help: "Accepted; means nothing here." }
}

use Kind::{Bool, Duration, Int, Text, Uint};

/// Every flag, with etcd's names and defaults.
pub const FLAGS: &[Flag] = &[
    on("name", Text, "default", "Human-readable name for this member."),
    on("data-dir", Text, "", "Path to the data directory; ${name}.etcd if empty."),
    on("wal-dir", Text, "", "A directory of its own for the log."),
    on("snapshot-count", Uint, "10000", "Entries between two checkpoints."),
    on("snapshot-catchup-entries", Uint, "5000", "Entries kept for members that are behind."),
    on("resident-bytes", Uint, "16777216", "Values beyond this leave memory (not in etcd)."),
    on("scrub-bytes-per-second", Uint, "1048576", "Pace of the scrub; 0: none (not in etcd)."),
    ignored("max-snapshots", Uint, "5"),
    later("max-wals", Uint, "5"),
    on("heartbeat-interval", Uint, "100", "Milliseconds between heartbeats."),
    on("election-timeout", Uint, "1000", "Milliseconds without a leader before an election."),
    on(
        "initial-election-tick-advance",
        Bool,
        "true",
        "A member that starts waits for a heartbeat, not for an election timeout.",
    ),
    on("listen-peer-urls", Text, "http://localhost:2380", "URLs to listen on for members."),
    on("listen-client-urls", Text, "http://localhost:2379", "URLs to listen on for clients."),
    on("listen-client-http-urls", Text, "", "Further URLs for clients that speak plain HTTP."),
    on("listen-metrics-urls", Text, "", "Further URLs for metrics and probes."),
    on(
        "initial-advertise-peer-urls",
        Text,
        "http://localhost:2380",
        "Where members find this one.",
    ),
    on("advertise-client-urls", Text, "http://localhost:2379", "Where clients find this one."),
    on("initial-cluster", Text, "", "The founders: name=url,name=url."),
    on("initial-cluster-state", Text, "new", "'new' or 'existing'."),
    on("initial-cluster-token", Text, "etcd-cluster", "Part of the ids of cluster and members."),
    on("quota-backend-bytes", Int, "0", "Bytes of live data; 0 is 2 GiB, less is no quota."),
    on("max-txn-ops", Uint, "128", "Operations in a transaction."),
    on("max-request-bytes", Uint, "1572864", "Bytes of a request."),
    on("max-concurrent-streams", Uint, "4294967295", "Streams of one connection."),
    later("grpc-keepalive-min-time", Duration, "5s"),
    on("grpc-keepalive-interval", Duration, "2h", "Time between pings to a client."),
    on("grpc-keepalive-timeout", Duration, "20s", "Time that a client has to answer one."),
    later("socket-reuse-port", Bool, "false"),
    later("socket-reuse-address", Bool, "false"),
    on("enable-grpc-gateway", Bool, "true", "Let clients call in JSON below /v3/."),
    on("feature-gates", Text, "", "name=true,name=false"),
    on("strict-reconfig-check", Bool, "true", "Refuse changes that would cost the quorum."),
    on("pre-vote", Bool, "true", "Ask before campaigning."),
    on("max-learners", Int, "1", "Learners that there may be at once."),
    on("auto-compaction-mode", Text, "periodic", "'periodic' or 'revision'."),
    on(
        "auto-compaction-retention",
        Text,
        "0",
        "What history is kept: a duration, hours, or revisions; 0 keeps all.",
    ),
    on(
        "disk-reserve-bytes",
        Uint,
        "134217728",
        "Bytes of the disk set aside for deletes and compactions on a full disk (not in etcd).",
    ),
    later("cert-file", Text, ""),
    later("key-file", Text, ""),
    later("client-cert-file", Text, ""),
    later("client-key-file", Text, ""),
    later("client-cert-auth", Bool, "false"),
    later("client-crl-file", Text, ""),
    later("client-cert-allowed-hostname", Text, ""),
    later("trusted-ca-file", Text, ""),
    later("auto-tls", Bool, "false"),
    later("peer-cert-file", Text, ""),
    later("peer-key-file", Text, ""),
    later("peer-client-cert-file", Text, ""),
    later("peer-client-key-file", Text, ""),
    later("peer-client-cert-auth", Bool, "false"),
    later("peer-trusted-ca-file", Text, ""),
    later("peer-crl-file", Text, ""),
    later("peer-cert-allowed-cn", Text, ""),
    later("peer-cert-allowed-hostname", Text, ""),
    later("peer-auto-tls", Bool, "false"),
    later("peer-skip-client-san-verification", Bool, "false"),
    later("self-signed-cert-validity", Uint, "1"),
    later("cipher-suites", Text, ""),
    later("tls-min-version", Text, "TLS1.2"),
    later("tls-max-version", Text, ""),
    on("cors", Text, "*", "Origins whose pages may ask over HTTP; empty or *: all."),
    on(
        "host-whitelist",
        Text,
        "*",
        "Names that clients may call it by over HTTP; empty or *: all.",
    ),
    later("auth-token", Text, "simple"),
    later("auth-token-ttl", Uint, "300"),
    later("bcrypt-cost", Uint, "10"),
    later("metrics", Text, "basic"),
    on("watch-progress-notify-interval", Duration, "10m", "Time between progress notifications."),
    on(
        "wait-cluster-ready-timeout",
        Duration,
        "5s",
        "Clients are served after this time even without a cluster that agrees.",
    ),
    on(
        "flight-recorder-bytes",
        Uint,
        "8388608",
        "Own: bytes of the flight recorder in the data directory; 0 for none.",
    ),
    on("log-level", Text, "info", "debug, info, warn, error, panic or fatal."),
    on("log-format", Text, "json", "'json' or 'console'."),
    ignored("logger", Text, "zap"),
    later("log-outputs", Text, "default"),
    later("enable-log-rotation", Bool, "false"),
    later("log-rotation-config-json", Text, ""),
    later("warning-unary-request-duration", Duration, "300ms"),
    later("warning-apply-duration", Duration, "100ms"),
    on(
        "corrupt-check-time",
        Duration,
        "0s",
        "Time between two checks of the values in memory; 0 for none.",
    ),
    on("compact-hash-check-time", Duration, "1m", "States are compared every second anyway."),
    on("force-new-cluster", Bool, "false", "Go on alone, with the data that is there."),
    later("unsafe-no-fsync", Bool, "false"),
    later("discovery-token", Text, ""),
    later("discovery-endpoints", Text, ""),
    later("discovery-dial-timeout", Duration, "2s"),
    later("discovery-request-timeout", Duration, "5s"),
    later("discovery-keepalive-time", Duration, "2s"),
    later("discovery-keepalive-timeout", Duration, "6s"),
    later("discovery-insecure-transport", Bool, "true"),
    later("discovery-insecure-skip-tls-verify", Bool, "false"),
    later("discovery-cert", Text, ""),
    later("discovery-key", Text, ""),
    later("discovery-cacert", Text, ""),
    later("discovery-user", Text, ""),
    later("discovery-password", Text, ""),
    later("discovery-srv", Text, ""),
    later("discovery-srv-name", Text, ""),
    later("enable-distributed-tracing", Bool, "false"),
    later("distributed-tracing-address", Text, "localhost:4317"),
    later("distributed-tracing-service-name", Text, "etcd"),
    later("distributed-tracing-instance-id", Text, ""),
    later("distributed-tracing-sampling-rate", Int, "0"),
    ignored("discovery", Text, ""),
    ignored("discovery-proxy", Text, ""),
    ignored("discovery-fallback", Text, "exit"),
    ignored("enable-pprof", Bool, "false"),
    ignored("enable-v2", Bool, "false"),
    ignored("v2-deprecation", Text, ""),
    ignored("proxy", Text, "off"),
    ignored("proxy-failure-wait", Uint, "5000"),
    ignored("proxy-refresh-interval", Uint, "30000"),
    ignored("proxy-dial-timeout", Uint, "1000"),
    ignored("proxy-write-timeout", Uint, "5000"),
    ignored("proxy-read-timeout", Uint, "0"),
    ignored("backend-bbolt-freelist-type", Text, "map"),
    ignored("backend-batch-interval", Duration, "100ms"),
    ignored("backend-batch-limit", Int, "10000"),
    ignored("raft-read-timeout", Duration, "5s"),
    ignored("raft-write-timeout", Duration, "5s"),
    ignored("memory-mlock", Bool, "false"),
    ignored("compaction-batch-limit", Int, "1000"),
    ignored("compaction-sleep-interval", Duration, "10ms"),
    ignored("bootstrap-defrag-threshold-megabytes", Uint, "0"),
    ignored("downgrade-check-time", Duration, "5s"),
    ignored("cluster-active-size", Text, ""),
    ignored("cluster-remove-delay", Text, ""),
    ignored("cluster-sync-interval", Text, ""),
    ignored("config", Text, ""),
    ignored("force", Bool, "false"),
    ignored("max-result-buffer", Text, ""),
    ignored("max-retry-attempts", Text, ""),
    ignored("peer-heartbeat-interval", Text, ""),
    ignored("peer-election-timeout", Text, ""),
    ignored("retry-interval", Text, ""),
    ignored("snapshot", Text, ""),
    ignored("v", Text, ""),
    ignored("vv", Text, ""),
];

/// What etcd 3.5 named otherwise. A gate stands for a flag that switches it.
const RENAMED: &[(&str, &str)] = &[
    ("experimental-watch-progress-notify-interval", "watch-progress-notify-interval"),
    ("experimental-wait-cluster-ready-timeout", "wait-cluster-ready-timeout"),
    ("experimental-corrupt-check-time", "corrupt-check-time"),
    ("experimental-compact-hash-check-time", "compact-hash-check-time"),
    ("experimental-compaction-batch-limit", "compaction-batch-limit"),
    ("experimental-compaction-sleep-interval", "compaction-sleep-interval"),
    ("experimental-peer-skip-client-san-verification", "peer-skip-client-san-verification"),
    ("experimental-downgrade-check-time", "downgrade-check-time"),
    ("experimental-warning-apply-duration", "warning-apply-duration"),
    ("experimental-warning-unary-request-duration", "warning-unary-request-duration"),
    ("experimental-memory-mlock", "memory-mlock"),
    ("experimental-bootstrap-defrag-threshold-megabytes", "bootstrap-defrag-threshold-megabytes"),
    ("experimental-max-learners", "max-learners"),
    ("experimental-snapshot-catch-up-entries", "snapshot-catchup-entries"),
    ("experimental-snapshot-catchup-entries", "snapshot-catchup-entries"),
    ("experimental-enable-distributed-tracing", "enable-distributed-tracing"),
    ("experimental-distributed-tracing-address", "distributed-tracing-address"),
    ("experimental-distributed-tracing-service-name", "distributed-tracing-service-name"),
    ("experimental-distributed-tracing-instance-id", "distributed-tracing-instance-id"),
    ("experimental-distributed-tracing-sampling-rate", "distributed-tracing-sampling-rate"),
];

/// Flags of etcd 3.5 that are feature gates since.
const GATES: &[(&str, &str)] = &[
    ("experimental-initial-corrupt-check", "InitialCorruptCheck"),
    ("experimental-compact-hash-check-enabled", "CompactHashCheck"),
    ("experimental-enable-lease-checkpoint", "LeaseCheckpoint"),
    ("experimental-enable-lease-checkpoint-persist", "LeaseCheckpointPersist"),
    ("experimental-txn-mode-write-with-shared-buffer", "TxnModeWriteWithSharedBuffer"),
    ("experimental-stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"),
];

/// Texts by flag name, and what to warn of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub values: BTreeMap<&'static str, String>,
    pub warnings: Vec<String>,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Run(Given),
    Help,
    Version,
}

/// Looks a flag up by its name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The variable that stands for a flag.
pub fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.to_uppercase().replace('-', "_"))
}

impl Given {
    /// Takes a value for a flag under any name that etcd has had for it. False if it has none.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        if let Some((_, gate)) = GATES.iter().find(|(old, _)| *old == name) {
            self.warnings.push(format!("--{name} is deprecated: use --feature-gates={gate}=true"));
            let gates = self.values.entry("feature-gates").or_default();
            let comma = if gates.is_empty() { "" } else { "," };
            *gates = format!("{gates}{comma}{gate}={value}");
            return true;
        }
        let renamed = RENAMED.iter().find(|(old, _)| *old == name);
        if let Some((_, current)) = renamed {
            self.warnings.push(format!("--{name} is deprecated: use --{current}"));
        }
        let Some(flag) = find(renamed.map_or(name, |(_, current)| current)) else { return false };
        match flag.status {
            Status::Honoured => {}
            Status::Later => {
                self.warnings.push(format!("--{} is accepted and not honoured yet", flag.name));
            }
            Status::Ignored => {
                self.warnings.push(format!("--{} is accepted and means nothing here", flag.name));
            }
        }
        self.values.insert(flag.name, value.to_string());
        true
    }
}

fn is_bool(name: &str) -> bool {
    let gate = GATES.iter().any(|(old, _)| *old == name);
    let current = RENAMED.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new);
    gate || find(current).is_some_and(|flag| flag.kind == Bool)
}

/// Reads a command line without the program's name, by the rules of Go: one dash or two,
/// `--flag=value` or `--flag value`, and a boolean alone is true. The second result is the path
/// of a configuration file, if one is named.
///
/// # Errors
/// What to print before the exit with code 2.
pub fn parse_args(args: &[String]) -> Result<(Wish, Option<String>), String> {
    let mut given = Given::default();
    let mut file = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(format!("{arg:?} is not a valid flag"));
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (name, None),
        };
        match name {
            "help" | "h" => return Ok((Wish::Help, None)),
            "version" if value.as_deref() != Some("false") => return Ok((Wish::Version, None)),
            "version" => continue,
            _ => {}
        }
        let value = match value {
            Some(value) => value,
            None if is_bool(name) => "true".to_string(),
            None if name != "config-file" && !is_known(name) => String::new(),
            None => {
                let next = args.next().cloned();
                next.ok_or_else(|| format!("flag needs an argument: -{name}"))?
            }
        };
        if name == "config-file" {
            file = Some(value);
        } else if !given.set(name, &value) {
            return Err(format!("flag provided but not defined: -{name}"));
        }
    }
    Ok((Wish::Run(given), file))
}

fn is_known(name: &str) -> bool {
    let old = RENAMED.iter().chain(GATES).any(|(old, _)| *old == name);
    old || find(name).is_some()
}

/// Adds the environment's word on flags that the command line does not name.
pub fn add_environment(given: &mut Given, variables: impl Iterator<Item = (String, String)>) {
    for (variable, value) in variables {
        let Some(name) = variable.strip_prefix("ETCD_") else { continue };
        let name = name.to_lowercase().replace('_', "-");
        let current = RENAMED.iter().find(|(old, _)| *old == name).map_or(&*name, |(_, new)| new);
        if given.values.contains_key(current) || ["version", "config-file"].contains(&&*name) {
            continue;
        }
        if !given.set(&name, &value) {
            given.warnings.push(format!("unrecognized environment variable {variable}={value}"));
        }
    }
}

/// The help text.
pub fn help() -> String {
    let mut text = String::from(
        "Usage:\n  detcd [flags]\n  detcd --config-file FILE (flags and environment are ignored)\n\
         \x20 detcd local-cluster [--members N] [--data-dir DIR]\n  detcd --version\n\nFlags:\n",
    );
    for flag in FLAGS.iter().filter(|flag| flag.status == Status::Honoured) {
        text += &format!("  --{} '{}'\n    \t{}\n", flag.name, flag.default, flag.help);
    }
    text += "\nAccepted, with a warning:\n";
    for flag in FLAGS.iter().filter(|flag| flag.status != Status::Honoured) {
        text += &format!("  --{}\n", flag.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(args: &[&str]) -> Result<(Wish, Option<String>), String> {
        parse_args(&args.iter().map(|arg| arg.to_string()).collect::<Vec<_>>())
    }

    fn values(args: &[&str]) -> Vec<(&'static str, String)> {
        match parse(args) {
            Ok((Wish::Run(given), _)) => given.values.into_iter().collect(),
            other => panic!("{args:?} gives {other:?}"),
        }
    }

    #[test]
    fn names_are_unique_and_defaults_well_formed() {
        for (at, flag) in FLAGS.iter().enumerate() {
            assert!(FLAGS[..at].iter().all(|other| other.name != flag.name), "{}", flag.name);
            let sound = match flag.kind {
                Text => true,
                Bool => flag.default.parse::<bool>().is_ok(),
                Int => flag.default.parse::<i64>().is_ok(),
                Uint => flag.default.parse::<u64>().is_ok(),
                Duration => crate::config::duration::parse(flag.default).is_some(),
            };
            assert!(sound, "--{} by default {:?}", flag.name, flag.default);
        }
        assert!(RENAMED.iter().all(|(_, current)| find(current).is_some()));
    }

    #[test]
    fn command_lines_follow_the_rules_of_go() {
        let two = [("name", "a".to_string()), ("pre-vote", "true".to_string())];
        assert_eq!(values(&["--name", "a", "-pre-vote"]), two);
        assert_eq!(values(&["-name=a", "--pre-vote=true"]), two);
        assert_eq!(values(&["--name=x", "--name=a", "--pre-vote"]), two);
        assert_eq!(parse(&["--nonsense"]), Err("flag provided but not defined: -nonsense".into()));
        assert_eq!(parse(&["--name"]), Err("flag needs an argument: -name".into()));
        assert_eq!(parse(&["serve"]), Err("\"serve\" is not a valid flag".into()));
        assert_eq!(parse(&["--version"]), Ok((Wish::Version, None)));
        assert_eq!(parse(&["-h", "--nonsense"]), Ok((Wish::Help, None)));
        assert_eq!(parse(&["--config-file", "a.yml"]).expect("fine").1.as_deref(), Some("a.yml"));
    }

    #[test]
    fn the_environment_speaks_where_the_command_line_is_silent() {
        let variables = [
            ("ETCD_NAME", "b"),
            ("ETCD_PRE_VOTE", "false"),
            ("PATH", "/"),
            ("ETCD_VERSION", "3.4"),
            ("ETCD_NONSENSE", "1"),
        ];
        let mut given = Given::default();
        given.set("name", "a");
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        add_environment(&mut given, variables);
        assert_eq!(given.values["name"], "a");
        assert_eq!(given.values["pre-vote"], "false");
        assert_eq!(given.warnings, ["unrecognized environment variable ETCD_NONSENSE=1"]);
    }

    #[test]
    fn names_of_older_releases_still_mean_what_they_meant() {
        let mut given = Given::default();
        assert!(given.set("experimental-initial-corrupt-check", "true"));
        assert!(given.set("experimental-watch-progress-notify-interval", "5s"));
        assert_eq!(given.values["feature-gates"], "InitialCorruptCheck=true");
        assert_eq!(given.values["watch-progress-notify-interval"], "5s");
        assert_eq!(given.warnings.len(), 2);
    }

    proptest! {
        #[test]
        fn any_command_line_is_read_or_refused(
            args in prop::collection::vec("-{0,2}[a-z-]{0,12}=?.{0,4}", 0..6),
        ) {
            // No panic is what is asked here; what comes out is checked above.
            let read = parse_args(&args);
            prop_assert!(read.is_ok() || read.is_err_and(|error| !error.is_empty()));
        }
    }
}
