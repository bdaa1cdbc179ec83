//! The daemon: reads its configuration, starts a server on the real world, and listens.
//!
//! Everything runs on one thread: on two cores that was faster than two workers, and it is how
//! the simulator runs it too.

mod local_cluster;
mod memory;

use detcd::config::settings::{self, ClusterState, Config, ConfigError, LogLevel, Start};
use detcd::config::url::{self, Url};
use detcd::env::Env;
use detcd::env::clock::RealClock;
use detcd::env::flight::Recording;
use detcd::env::flight::line::Writer;
use detcd::env::real_disk::RealDisk;
use detcd::env::recorder::{NoRecorder, Recorder};
use detcd::http::access::Access;
use detcd::http::{self, Options, Site};
use detcd::metrics::ETCD_VERSION;
use detcd::server::Server;
use detcd::server::reconfig_check::MembershipOptions;
use detcd::server::server_config::ServerConfig;
use detcd::server::shared::{CheckpointOptions, Limits, StopReason};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// Time that blocking work, a sync above all, has to end after the server has stopped.
const RUNTIME_STOP: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "local-cluster") {
        return local_cluster::main(&args[1..]);
    }
    let read_file = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
    };
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match settings::load(&args, &variables, read_file) {
        Ok(Start::Help) => {
            print!("{}", detcd::config::flags::help());
            ExitCode::SUCCESS
        }
        Ok(Start::Version) => {
            println!("etcd Version: {ETCD_VERSION}\ndetcd Version: {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Start::Run(config)) => run(*config),
        Err(ConfigError::Usage(text)) => {
            eprintln!("detcd: {text}\nRun 'detcd --help' for usage.");
            ExitCode::from(2)
        }
        Err(ConfigError::Invalid(text)) => fail(&text),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("detcd: {text}");
    ExitCode::FAILURE
}

fn run(config: Config) -> ExitCode {
    log_to_stderr(&config);
    abort_on_panic();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(serve(config));
    runtime.shutdown_timeout(RUNTIME_STOP);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => fail(&text),
    }
}

fn log_to_stderr(config: &Config) {
    let level = match config.log_level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    };
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level);
    if config.log_is_json {
        log.json().flatten_event(true).init();
    } else {
        log.compact().with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// A panic is a bug, and a server that goes on without one of its tasks is a worse one.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The sockets of one server, bound before anything is started: a port in use is found out
/// before the data directory is touched.
struct Listeners {
    clients: Vec<TcpListener>,
    peers: Vec<TcpListener>,
    probes: Vec<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Listeners, String> {
        let clients = [&config.listen_client_urls[..], &config.listen_client_http_urls].concat();
        Ok(Listeners {
            peers: bind_all(&config.listen_peer_urls, "members").await?,
            clients: bind_all(&clients, "clients").await?,
            probes: bind_all(&config.listen_metrics_urls, "metrics").await?,
        })
    }
}

async fn bind_all(urls: &[Url], whom: &str) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for url in urls {
        let ip = url.ip().expect("the configuration was checked for addresses to bind to");
        let bound = TcpListener::bind(SocketAddr::new(ip, url.port)).await;
        let failed = |error| format!("cannot listen on {} for {whom}: {error}", url.text);
        listeners.push(bound.map_err(failed)?);
    }
    Ok(listeners)
}

async fn serve(config: Config) -> Result<(), String> {
    let interrupt = on(SignalKind::interrupt())?;
    let terminate = on(SignalKind::terminate())?;
    let listeners = Listeners::bind(&config).await?;
    // The one place where chance enters the daemon: all streams of chance begin at this seed.
    #[expect(clippy::disallowed_methods)]
    let seed = rand::random();
    let clock = Arc::new(RealClock::new());
    let flight = record_flight(&config, &clock);
    let recorder: Arc<dyn Recorder> = match &flight {
        Some(flight) => flight.recorder.clone(),
        None => Arc::new(NoRecorder),
    };
    tokio::spawn(memory::give_back_freed(clock.clone()));
    let env = Env { clock, disk: Arc::new(RealDisk), seed, recorder };
    let started = Server::start(server_config(&config), env).await.map_err(|e| e.to_string());
    let ended = match started {
        Ok(server) => run_until_told(server, listeners, &config, [interrupt, terminate]).await,
        Err(reason) => Err(reason),
    };
    if let Some(flight) = flight {
        flight.finish(ended.as_ref().err(), RUNTIME_STOP).await;
    }
    ended
}

/// Serves until a signal comes, or until the server stops of itself.
async fn run_until_told(
    server: Server,
    listeners: Listeners,
    config: &Config,
    [mut interrupt, mut terminate]: [Signal; 2],
) -> Result<(), String> {
    let ended = tokio::select! {
        biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        reason = server.stopped() => told(reason),
        () = listen(&server, listeners, config) => Ok(()),
    };
    tracing::info!("stopping");
    server.stop().await;
    ended
}

/// Begins the recording in the data directory, unless that is turned off.
fn record_flight(config: &Config, clock: &Arc<RealClock>) -> Option<Recording> {
    let bytes = config.flight_recorder_bytes;
    if bytes == 0 {
        return None;
    }
    let writer = Writer {
        name: config.name.clone(),
        members: config.initial_cluster.len(),
        heartbeat_ms: config.heartbeat_ms,
        election_ms: config.election_ms,
        ..Writer::default()
    };
    let dir = Path::new(&config.data_dir).join("flight");
    Some(Recording::start(Arc::new(RealDisk), clock.clone(), writer, dir, bytes))
}

fn on(kind: SignalKind) -> Result<Signal, String> {
    signal(kind).map_err(|error| format!("cannot wait for signals: {error}"))
}

/// Why a server stopped by itself.
fn told(reason: StopReason) -> Result<(), String> {
    match reason {
        StopReason::Requested => Ok(()),
        StopReason::Removed => {
            tracing::warn!("the member has been permanently removed from the cluster");
            Ok(())
        }
        StopReason::Disk(text) => Err(text),
    }
}

/// Serves all ports. Completes only by being dropped.
async fn listen(server: &Server, listeners: Listeners, config: &Config) {
    let options = Options {
        max_concurrent_streams: config.max_concurrent_streams,
        gateway: config.enable_grpc_gateway,
        access: Access::new(&config.cors, &config.host_whitelist),
        keepalive_interval: config.grpc_keepalive_interval,
        keepalive_timeout: config.grpc_keepalive_timeout,
    };
    // Dropped with this future: every port drains then.
    let (_alive, dropped) = watch::channel(());
    let open = |listeners: Vec<TcpListener>, site: Arc<Site>| {
        for listener in listeners {
            let mut dropped = dropped.clone();
            let shutdown = async move {
                // An error is all that ever comes: the sender says nothing and is dropped.
                drop(dropped.changed().await);
            };
            tokio::spawn(http::serve(listener, site.clone(), shutdown));
        }
    };
    let handle = server.handle();
    let clock = handle.shared().env.clock.clone();
    open(listeners.probes, Site::probes(handle.clone(), options.clone()));
    open(listeners.peers, Site::peers(handle.clone(), server.peer_service(), options.clone()));
    tokio::select! {
        biased;
        () = server.ready() => {}
        () = clock.sleep(config.wait_cluster_ready_timeout) => {
            // Stale reads and the status help whoever looks into it (etcd issue 13524).
            tracing::warn!("timed out waiting for the cluster; serving clients without it");
        }
    }
    open(listeners.clients, Site::clients(handle, options));
    let endpoints = url::texts(&config.advertise_client_urls).join(",");
    tracing::info!(endpoints, "ready to serve client requests");
    tracing::info!("talk to it: etcdctl --endpoints={endpoints} put hello world");
    notify_supervisor();
    std::future::pending().await
}

/// Tells systemd, if it started this process and waits for that (`Type=notify`).
fn notify_supervisor() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot tell the supervisor that this member is ready");
    }
}

/// A path that stays the same wherever the process is started; none if it is empty.
fn absolute(path: &str) -> Option<PathBuf> {
    (!path.is_empty()).then(|| std::path::absolute(path).unwrap_or_else(|_| path.into()))
}

fn server_config(config: &Config) -> ServerConfig {
    ServerConfig {
        name: config.name.clone(),
        data_dir: config.data_dir.clone().into(),
        wal_dir: absolute(&config.wal_dir),
        initial_cluster: config.initial_cluster.clone(),
        initial_cluster_token: config.initial_cluster_token.clone(),
        joins: config.initial_cluster_state == ClusterState::Existing,
        force_new_cluster: config.force_new_cluster,
        advertise_client_urls: url::texts(&config.advertise_client_urls),
        advertise_peer_urls: url::texts(&config.initial_advertise_peer_urls),
        heartbeat_ms: config.heartbeat_ms,
        election_ms: config.election_ms,
        pre_vote: config.pre_vote,
        initial_tick_advance: config.initial_election_tick_advance,
        progress_notify_interval: config.watch_progress_notify_interval,
        quota_bytes: config.quota_backend_bytes,
        auto_compaction: config.auto_compaction,
        reserve_bytes: config.disk_reserve_bytes,
        limits: Limits {
            max_txn_ops: config.max_txn_ops,
            max_request_bytes: config.max_request_bytes,
            ..Limits::default()
        },
        checkpoints: CheckpointOptions {
            entries: config.snapshot_count,
            keep_entries: config.snapshot_catchup_entries,
            resident_bytes: config.resident_bytes,
            scrub_bytes_per_second: config.scrub_bytes_per_second,
            ..CheckpointOptions::default()
        },
        membership: MembershipOptions {
            strict: config.strict_reconfig_check,
            max_learners: config.max_learners,
            ..MembershipOptions::default()
        },
        initial_corrupt_check: config.has_gate("InitialCorruptCheck"),
        corrupt_check_interval: config.corrupt_check_time,
        ..ServerConfig::default()
    }
}
