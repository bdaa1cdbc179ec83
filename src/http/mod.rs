//! The ports of the daemon: gRPC and plain HTTP, versions 1 and 2, on one socket.
//!
//! A connection shows in its first bytes which version it speaks. A request of type
//! `application/grpc` goes to the service objects that the simulator serves too ([`grpc`]); one
//! below `/v3/` is a call in JSON ([`gateway`]); any other is a plain question ([`plain`]): health,
//! metrics, version. There is no router and no layer between the connection and the service: what
//! stands there, every request pays for.

pub mod access;
pub mod authority;
pub mod gateway;
pub mod grpc;
pub mod health;
pub mod plain;
pub mod process;

use crate::api::max_message_bytes;
use crate::http::access::Access;
use crate::http::authority::Lenient;
use crate::http::gateway::Gateway;
use crate::http::grpc::Services;
use crate::pb::raftpb::peer_server::PeerServer;
use crate::server::handle::Handle;
use crate::server::peer_service::PeerService;
use crate::server::peers::MESSAGE_BYTES_MAX;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, ORIGIN};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::Service;

/// Time that open requests have to finish once the server stops; watches never do by themselves.
const DRAIN: Duration = Duration::from_secs(1);
/// Pause after the system refused to give a connection: usually it has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are kept.
#[derive(Clone, Debug)]
pub struct Options {
    pub max_concurrent_streams: u32,
    /// Whether clients may call in JSON.
    pub gateway: bool,
    /// From where they may do so.
    pub access: Access,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
}

/// What one port serves.
pub struct Site {
    handle: Handle,
    role: Role,
    options: Options,
}

enum Role {
    Clients(Box<Services>, Option<Gateway>),
    Peers(PeerServer<PeerService>),
    /// Health, metrics and version alone.
    Probes,
}

impl Site {
    /// A port of `--listen-client-urls`.
    pub fn clients(handle: Handle, options: Options) -> Arc<Site> {
        let gateway = options.gateway.then(|| Gateway::new(max_message_bytes(&handle)));
        let role = Role::Clients(Box::new(Services::new(handle.clone())), gateway);
        Arc::new(Site { handle, role, options })
    }

    /// A port of `--listen-peer-urls`.
    pub fn peers(handle: Handle, service: PeerService, options: Options) -> Arc<Site> {
        let service = PeerServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Arc::new(Site { handle, role: Role::Peers(service), options })
    }

    /// A port of `--listen-metrics-urls`.
    pub fn probes(handle: Handle, options: Options) -> Arc<Site> {
        Arc::new(Site { handle, role: Role::Probes, options })
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let kind = request.headers().get(CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        match &self.role {
            Role::Clients(services, _) if is_grpc => grpc::answer(services, request).await,
            Role::Peers(service) if is_grpc => {
                let Ok(response) = service.clone().call(request).await;
                response
            }
            Role::Peers(_) => plain::answer_peer(&self.handle, &request),
            Role::Clients(services, gateway) => {
                self.answer_page(services, gateway.as_ref(), request).await
            }
            Role::Probes => plain::answer(&self.handle, &request).await,
        }
    }

    /// Answers what a page may ask for as well: a call in JSON, or a plain question.
    async fn answer_page(
        &self,
        services: &Services,
        gateway: Option<&Gateway>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let access = &self.options.access;
        if let Some(refusal) = access.refusal(&request) {
            return plain::misdirected(refusal);
        }
        let origin = request.headers().get(ORIGIN).cloned();
        let called = match gateway {
            Some(gateway) => gateway.answer(services, request).await,
            None => Err(request),
        };
        let mut response = match called {
            Ok(response) => response,
            Err(request) => plain::answer(&self.handle, &request).await,
        };
        access.allow(origin.as_ref(), response.headers_mut());
        response
    }
}

/// Serves connections until `shutdown` completes, then lets open requests finish for a moment.
pub async fn serve(listener: TcpListener, site: Arc<Site>, shutdown: impl Future<Output = ()>) {
    let (stop, stopped) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, site.clone(), stopped.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                site.handle.shared().env.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    drop(stopped);
    stop.send_replace(true);
    // Every connection holds a receiver: none left means that all of them are done.
    tokio::select! {
        biased;
        () = stop.closed() => {}
        () = site.handle.shared().env.clock.sleep(DRAIN) => {}
    }
}

/// Serves one connection to its end. What goes wrong on it is the client's affair: what does not
/// parse is answered by hyper, and the connection closed.
async fn connection(stream: TcpStream, site: Arc<Site>, mut stopped: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the peer is gone before its first request");
        return;
    }
    let options = &site.options;
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_concurrent_streams)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    let service = service_fn(|request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request).await) }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(Lenient::new(stream)), service));
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = until_told(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

async fn until_told(stopped: &mut watch::Receiver<bool>) {
    // That nobody is left who could tell means the same.
    drop(stopped.wait_for(|stopped| *stopped).await);
}
