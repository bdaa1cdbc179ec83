//! What every call passes before its own work: metadata is read, and the call is counted.

use crate::api::status::to_status;
use crate::error::Error;
use crate::metrics::Call;
use crate::server::handle::{Caller, Handle};
use prost::Message;
use std::future::Future;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

/// The door of one server, shared by its services.
#[derive(Clone)]
pub struct Front {
    pub handle: Handle,
}

impl Front {
    pub fn new(handle: Handle) -> Front {
        Front { handle }
    }

    /// The counters of a call, for a service to look up once.
    pub fn call(&self, service: &str, name: &str) -> Call {
        self.handle.metrics().call(service, name)
    }

    /// Who asks. A caller that wants a leader and finds none is refused here, whatever it asks.
    pub fn admit(&self, kind: &str, metadata: &MetadataMap) -> Result<Caller, Status> {
        let version = match metadata.get("client-api-version").map(|value| value.to_str()) {
            None => "unknown",
            Some(Ok(version)) => known_version(version),
            Some(Err(_)) => {
                let text = "etcdserver: invalid client api version";
                return Err(Status::new(Code::InvalidArgument, text));
            }
        };
        let counter = &self.handle.metrics().client_requests_total;
        counter.with_label_values(&[kind, version]).inc();
        let require_leader = metadata.get("hasleader").is_some_and(|value| value == "true");
        if require_leader && !self.handle.has_leader() {
            return Err(to_status(Error::NoLeader));
        }
        Ok(Caller { require_leader, token: token(metadata) })
    }

    /// Serves one unary call: `work` is given who asks and what.
    pub async fn unary<T, R, F>(
        &self,
        call: &Call,
        request: Request<T>,
        work: impl FnOnce(Caller, T) -> F,
    ) -> Result<Response<R>, Status>
    where
        T: Message,
        R: Message,
        F: Future<Output = Result<R, Error>>,
    {
        let work = async |caller, request| work(caller, request).await.map_err(to_status);
        self.unary_status(call, request, work).await
    }

    /// Serves one unary call with failures that no `Error` stands for.
    pub async fn unary_status<T, R, F>(
        &self,
        call: &Call,
        request: Request<T>,
        work: impl FnOnce(Caller, T) -> F,
    ) -> Result<Response<R>, Status>
    where
        T: Message,
        R: Message,
        F: Future<Output = Result<R, Status>>,
    {
        call.begin();
        call.received(request.get_ref().encoded_len());
        let answer = match self.admit("unary", request.metadata()) {
            Ok(caller) => work(caller, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        };
        match &answer {
            Ok(answer) => {
                call.sent(answer.encoded_len());
                call.end(0);
            }
            Err(status) => call.end(status.code() as i32),
        }
        answer.map(Response::new)
    }

    /// Serves one call that is not there yet, so that clients fall back to what is.
    pub fn absent<R>(&self, call: &Call, name: &'static str) -> Result<Response<R>, Status> {
        call.begin();
        let status = to_status(Error::Unimplemented(name));
        call.end(status.code() as i32);
        Err(status)
    }
}

/// A client may name any version; only what looks like one becomes a label, for labels stay in
/// memory.
fn known_version(version: &str) -> &str {
    let (major, minor) = version.split_once('.').unwrap_or(("", ""));
    let digits = |part: &str| {
        (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    if digits(major) && digits(minor) { version } else { "unknown" }
}

/// The token of an authenticated user: from gRPC clients, or from the gateway's header.
fn token(metadata: &MetadataMap) -> Option<String> {
    let value = metadata.get("token").or_else(|| metadata.get("authorization"))?;
    let value = value.to_str().ok()?;
    Some(value.strip_prefix("Bearer ").unwrap_or(value).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_versions_or_one_word() {
        assert_eq!(known_version("3.6"), "3.6");
        for strange in ["", "3", "3.", "3.6.5", "x.y", "333.1", "3.6\n"] {
            assert_eq!(known_version(strange), "unknown", "{strange:?}");
        }
    }

    #[test]
    fn tokens_come_from_either_header() {
        let mut metadata = MetadataMap::new();
        assert_eq!(token(&metadata), None);
        metadata.insert("authorization", "Bearer abc.7".parse().expect("ASCII"));
        assert_eq!(token(&metadata).as_deref(), Some("abc.7"));
        metadata.insert("token", "def.8".parse().expect("ASCII"));
        assert_eq!(token(&metadata).as_deref(), Some("def.8"));
    }
}
