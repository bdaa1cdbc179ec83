//! Plain HTTP: health, metrics, version.

use crate::http::health::{self, Check};
use crate::http::process;
use crate::metrics::ETCD_VERSION;
use crate::pb::etcdserverpb::AlarmType;
use crate::server::handle::Handle;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use std::fmt::Write;
use tonic::body::Body;

const TEXT: &str = "text/plain; charset=utf-8";
/// Etcd says so of `/health`, though it is JSON.
const PLAIN: &str = "text/plain; charset=UTF-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";

/// Answers one question; no question has a body.
pub async fn answer<B>(handle: &Handle, request: &Request<B>) -> Response<Body> {
    if request.method() == Method::OPTIONS {
        return reply(StatusCode::OK, JSON, String::new());
    }
    let (path, query) = (request.uri().path(), Query(request.uri().query().unwrap_or("")));
    let checks = match path.strip_prefix('/').unwrap_or(path) {
        "version" => return get(request, || reply(StatusCode::OK, JSON, version(handle))),
        "metrics" => return get(request, || reply(StatusCode::OK, METRICS, metrics(handle))),
        "health" if request.method() == Method::GET => return health(handle, &query).await,
        "health" => return not_allowed(),
        path => health::checks_at(path),
    };
    match checks {
        None => not_found(),
        Some(_) if request.method() != Method::GET => not_allowed(),
        Some((kind, checks)) => probe(handle, kind, checks, &query).await,
    }
}

/// Answers on the port of the members, where clients have no business.
pub fn answer_peer<B>(handle: &Handle, request: &Request<B>) -> Response<Body> {
    match request.uri().path() {
        "/version" => get(request, || reply(StatusCode::OK, JSON, version(handle))),
        _ => not_found(),
    }
}

/// Refuses a request that calls this server by a name which is not its own.
pub fn misdirected(text: String) -> Response<Body> {
    reply(StatusCode::MISDIRECTED_REQUEST, TEXT, text)
}

fn not_found() -> Response<Body> {
    reply(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_string())
}

fn get<B>(request: &Request<B>, answer: impl FnOnce() -> Response<Body>) -> Response<Body> {
    let allowed = [Method::GET, Method::HEAD].contains(request.method());
    if allowed { answer() } else { not_allowed() }
}

fn not_allowed() -> Response<Body> {
    let text = "Method Not Allowed\n".to_string();
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

fn reply(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if kind == TEXT {
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

/// Clients parse the first three as numbers; our own version stands apart.
fn version(handle: &Handle) -> String {
    let cluster = handle.cluster_version();
    let cluster = if cluster.is_empty() { "not_decided" } else { &cluster };
    let storage = handle.storage_version();
    let own = env!("CARGO_PKG_VERSION");
    format!(
        "{{\"etcdserver\":\"{ETCD_VERSION}\",\"etcdcluster\":\"{cluster}\",\
         \"storage\":\"{storage}\",\"detcd\":\"{own}\"}}"
    )
}

/// What is measured where it happens, and what is only looked up when somebody asks.
fn metrics(handle: &Handle) -> String {
    let metrics = handle.metrics();
    let shared = handle.shared();
    {
        let state = shared.state();
        let size = i64::try_from(state.store.live_bytes()).unwrap_or(i64::MAX);
        metrics.mvcc_db_total_size_in_bytes.set(size);
        metrics.mvcc_db_total_size_in_use_in_bytes.set(size);
        metrics.mvcc_current_revision.set(state.store.revision());
        let reads = i64::try_from(shared.runs.reads()).unwrap_or(i64::MAX);
        metrics.value_reads_total.set(reads);
        let damaged = shared.runs.damage.runs();
        metrics.damaged_runs.set(i64::try_from(damaged).unwrap_or(i64::MAX));
        metrics.mvcc_compact_revision.set(state.store.compact_revision());
        metrics.mvcc_keys_total.set(i64::try_from(state.store.key_count()).unwrap_or(i64::MAX));
        metrics.alarms.reset();
        for alarm in state.alarms.list(AlarmType::None) {
            let member = format!("{:x}", alarm.member_id);
            metrics.alarms.with_label_values(&[&member, alarm.alarm().as_str_name()]).set(1);
        }
    }
    let cluster = handle.cluster_version();
    if !cluster.is_empty() {
        metrics.cluster_version.reset();
        metrics.cluster_version.with_label_values(&[&cluster]).set(1);
    }
    metrics.id.with_label_values(&[&format!("{:x}", shared.member_id)]).set(1);
    metrics.version.with_label_values(&[ETCD_VERSION]).set(1);
    let pins = i64::try_from(shared.sweep_pins.get()).unwrap_or(i64::MAX);
    metrics.mvcc_db_open_read_transactions.set(pins);
    metrics.is_learner.set(i64::from(handle.view().is_learner));
    process::observe(metrics);
    metrics.render()
}

/// `/health`, the older of the probes.
async fn health(handle: &Handle, query: &Query<'_>) -> Response<Body> {
    let excluded: Vec<String> = query.all("exclude").collect();
    let serializable = query.all("serializable").next().as_deref() == Some("true");
    let reason = health::sick(handle, &excluded, serializable).await;
    let metrics = handle.metrics();
    match reason {
        None => {
            metrics.health_success.inc();
            let text = "{\"health\":\"true\",\"reason\":\"\"}".to_string();
            reply(StatusCode::OK, PLAIN, text)
        }
        Some(reason) => {
            metrics.health_failures.inc();
            let reason = reason.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
        }
    }
}

/// `/livez`, `/readyz` and their single checks.
async fn probe(
    handle: &Handle,
    kind: &'static str,
    checks: &'static [Check],
    query: &Query<'_>,
) -> Response<Body> {
    let excluded: Vec<String> = query.all("exclude").collect();
    let (mut text, mut sick) = (String::new(), false);
    for check in checks {
        let name = check.name();
        if excluded.iter().any(|excluded| excluded == name) {
            continue;
        }
        let failure = check.run(handle).await;
        health::record(handle.metrics(), kind, name, failure.is_none());
        let line = match failure {
            None => writeln!(text, "[+]{name} ok"),
            Some(error) => {
                sick = true;
                writeln!(text, "[-]{name} failed: {error}")
            }
        };
        line.expect("a string takes every line");
    }
    if sick {
        return reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, text + "\n");
    }
    let told = if query.has("verbose") { text } else { String::new() };
    reply(StatusCode::OK, TEXT, told + "ok\n")
}

/// The part of an address after its question mark.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let parts = self.0.split('&').filter(|part| !part.is_empty());
        parts.map(|part| part.split_once('=').unwrap_or((part, "")))
    }

    fn has(&self, name: &str) -> bool {
        self.pairs().any(|(found, _)| found == name)
    }

    fn all(&self, name: &str) -> impl Iterator<Item = String> {
        let values = self.pairs().filter(move |(found, _)| *found == name);
        values.map(|(_, value)| unescape(value)).filter(|value| !value.is_empty())
    }
}

/// Undoes `%XX` and `+`. What is not well formed stays as it is: it names nothing then.
fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).filter(|_| *first == b'%');
        let hex = escaped.and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_repeat_and_escape() {
        let query = Query("exclude=NOSPACE&verbose&exclude=a%20b+c&exclude=&x=%zz%4");
        let excluded: Vec<String> = query.all("exclude").collect();
        assert_eq!(excluded, ["NOSPACE", "a b c"]);
        assert!(query.has("verbose"));
        assert!(!query.has("verb"));
        assert_eq!(query.all("x").next().as_deref(), Some("%zz%4"));
        assert_eq!(Query("").pairs().count(), 0);
    }
}
