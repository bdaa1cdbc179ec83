//! The command line of the load generator.

use std::path::PathBuf;

/// What a run does; each workload's clients do one of these over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Range,
    RangePrefix,
    Txn,
    Mixed,
    Watch,
    LeaseGrant,
    LeaseKeepalive,
    /// Puts beside many watches on one stream.
    PutWatched,
    /// Puts beside watchers that are far behind.
    PutLaggard,
    /// Puts while many leases fall due.
    LeaseDue,
    Failover,
}

/// Everything that a run can be told, with the defaults of a single client.
#[derive(Clone, Debug)]
pub struct Options {
    pub kind: Kind,
    pub endpoints: Vec<String>,
    pub conns: usize,
    pub clients: usize,
    pub total: u64,
    pub keyspace: u64,
    pub val_size: usize,
    /// Keys a page of `range-prefix`.
    pub page: u64,
    /// Operations a second over all clients; zero is as fast as it goes.
    pub rate: u64,
    /// Keys in the order of their numbers; else drawn from the key space.
    pub sequential: bool,
    pub serializable: bool,
    /// Threads of the client; one is a runtime without any locking between workers.
    pub threads: usize,
    pub server_pids: Vec<u32>,
    pub limit_seconds: u64,
}

/// What `compare` can be told.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    pub etcd: PathBuf,
    pub detcd: PathBuf,
    pub members: usize,
    pub rounds: usize,
    /// Names of groups, or all if empty.
    pub groups: Vec<String>,
    /// Divides every total, for a quick look.
    pub shrink: u64,
    pub failovers: usize,
    pub threads: usize,
}

/// The help text.
pub const HELP: &str = "\
usage: cargo bench --bench load -- COMMAND [OPTIONS]

commands: put range range-prefix txn mixed watch lease-grant lease-keepalive failover
          put-watched (--clients watches on one stream) put-laggard (--clients watchers
          that begin --keyspace revisions ago) lease-due (--clients leases) compare
          operate

  --endpoints A,B,C     client addresses (default http://127.0.0.1:2379)
  --conns N             connections, spread over the endpoints (1)
  --clients N           clients, spread over the connections (1); watch: watchers a stream
  --total N             operations (10000); watch: puts
  --keyspace N          keys in use (10000)
  --val-size N          bytes of a value (256)
  --page N              keys a page of range-prefix (1000)
  --order O             sequential or random keys (put: sequential, range: random)
  --consistency l|s     linearizable or serializable reads (l)
  --rate N              operations a second over all clients (0: as fast as it goes)
  --threads N           threads of the client (1)
  --server-pids A,B,C   report processor time and memory of these processes
  --limit-seconds N     give up after this time (300)

compare: starts members of detcd and of etcd in turn, and prints a table
  --etcd PATH           the etcd to compare with (needed)
  --detcd PATH          the detcd to measure (default: the one of this build)
  --members N           members of each cluster (3)
  --rounds N            times that each cluster is started anew (3)
  --groups A,B          only these groups
  --shrink N            divide every total by N (1)
  --failovers N         leaders killed a round (1)

operate: one member of each with 1,000,000 keys (restart, backup, compaction), and one that
overwrites 10 GiB in a loop; takes --etcd, --detcd, --shrink, and --groups keys,loop
";

/// Walks over `--name value` and `--name=value`.
struct Words<'a> {
    words: std::slice::Iter<'a, String>,
}

impl Words<'_> {
    fn pair(&mut self) -> Result<Option<(String, String)>, String> {
        let Some(word) = self.words.next() else { return Ok(None) };
        let name = word.strip_prefix("--").ok_or_else(|| format!("what is {word:?}?"))?;
        if let Some((name, value)) = name.split_once('=') {
            return Ok(Some((name.to_string(), value.to_string())));
        }
        let value = self.words.next().ok_or_else(|| format!("--{name} needs a value"))?;
        Ok(Some((name.to_string(), value.clone())))
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("--{name}: {value:?} is not a number"))
}

fn list(value: &str) -> Vec<String> {
    value.split(',').filter(|part| !part.is_empty()).map(str::to_string).collect()
}

impl Kind {
    fn parse(word: &str) -> Result<Kind, String> {
        Ok(match word {
            "put" => Kind::Put,
            "range" => Kind::Range,
            "range-prefix" => Kind::RangePrefix,
            "txn" => Kind::Txn,
            "mixed" => Kind::Mixed,
            "watch" => Kind::Watch,
            "lease-grant" => Kind::LeaseGrant,
            "lease-keepalive" => Kind::LeaseKeepalive,
            "put-watched" => Kind::PutWatched,
            "put-laggard" => Kind::PutLaggard,
            "lease-due" => Kind::LeaseDue,
            "failover" => Kind::Failover,
            other => return Err(format!("no command {other:?}\n{HELP}")),
        })
    }
}

impl Kind {
    /// Whether the clients are not who makes the operations.
    fn counts_others(self) -> bool {
        matches!(self, Kind::Watch | Kind::PutWatched | Kind::PutLaggard | Kind::LeaseDue)
    }
}

impl Options {
    /// Reads a command and its options.
    pub fn parse(words: &[String]) -> Result<Options, String> {
        let kind = Kind::parse(words.first().map_or("", String::as_str))?;
        let mut options = Options {
            kind,
            endpoints: vec!["http://127.0.0.1:2379".to_string()],
            conns: 1,
            clients: usize::from(kind != Kind::PutLaggard),
            total: 10_000,
            keyspace: 10_000,
            val_size: 256,
            page: 1000,
            rate: 0,
            sequential: kind == Kind::Put,
            serializable: false,
            threads: 1,
            server_pids: Vec::new(),
            limit_seconds: 300,
        };
        let mut rest = Words { words: words[1..].iter() };
        while let Some((name, value)) = rest.pair()? {
            options.set(&name, &value)?;
        }
        if options.clients < options.conns && !kind.counts_others() {
            options.clients = options.conns;
        }
        assert!(options.conns > 0 && options.keyspace > 0 && options.threads > 0, "{options:?}");
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "endpoints" => self.endpoints = list(value).iter().map(|e| with_scheme(e)).collect(),
            "conns" => self.conns = number(name, value)?,
            "clients" => self.clients = number(name, value)?,
            "total" => self.total = number(name, value)?,
            "keyspace" => self.keyspace = number(name, value)?,
            "val-size" => self.val_size = number(name, value)?,
            "page" => self.page = number(name, value)?,
            "rate" => self.rate = number(name, value)?,
            "order" => self.sequential = value == "sequential",
            "consistency" => self.serializable = value == "s",
            "threads" => self.threads = number(name, value)?,
            "limit-seconds" => self.limit_seconds = number(name, value)?,
            "server-pids" => {
                self.server_pids =
                    list(value).iter().map(|pid| number(name, pid)).collect::<Result<_, _>>()?;
            }
            other => return Err(format!("no option --{other}\n{HELP}")),
        }
        Ok(())
    }
}

impl CompareOptions {
    /// Reads the options of `compare`.
    pub fn parse(words: &[String], detcd: &str) -> Result<CompareOptions, String> {
        let mut options = CompareOptions {
            etcd: PathBuf::new(),
            detcd: PathBuf::from(detcd),
            members: 3,
            rounds: 3,
            groups: Vec::new(),
            shrink: 1,
            failovers: 1,
            threads: 1,
        };
        let mut rest = Words { words: words.iter() };
        while let Some((name, value)) = rest.pair()? {
            match name.as_str() {
                "etcd" => options.etcd = PathBuf::from(value),
                "detcd" => options.detcd = PathBuf::from(value),
                "members" => options.members = number(&name, &value)?,
                "rounds" => options.rounds = number(&name, &value)?,
                "groups" => options.groups = list(&value),
                "shrink" => options.shrink = number(&name, &value)?,
                "failovers" => options.failovers = number(&name, &value)?,
                "threads" => options.threads = number(&name, &value)?,
                other => return Err(format!("no option --{other}\n{HELP}")),
            }
        }
        if options.etcd.as_os_str().is_empty() {
            return Err(format!("it needs --etcd PATH\n{HELP}"));
        }
        assert!(options.members > 0 && options.rounds > 0 && options.shrink > 0, "{options:?}");
        Ok(options)
    }
}

fn with_scheme(endpoint: &str) -> String {
    if endpoint.contains("://") { endpoint.to_string() } else { format!("http://{endpoint}") }
}
