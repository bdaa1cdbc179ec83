//! The JSON gateway: a POST with JSON becomes the gRPC call that its address names, and what the
//! call answers becomes JSON (`etcd/server/embed/serve.go`, grpc-gateway).
//!
//! It calls the same service objects as gRPC does, by frames in this process, so that limits,
//! metrics, refusals and their texts are the same. Which message a call takes and gives is read
//! from the descriptors that `build.rs` makes of `proto/`.
//!
//! A call that answers with one message answers with one object. One that streams answers with a
//! line `{"result":...}` for each message; where the client streams as well, it sends one object
//! after the other, and their end does not end the call.

mod messages;
mod paths;

use crate::http::grpc::{self, Services};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use messages::{Answers, Values, to_frame, to_json};
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use std::collections::BTreeMap;
use std::convert::Infallible;
use tonic::body::Body;
use tonic::{Code, Status};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// What a client may add to a call: `Grpc-Metadata-Hasleader: true` is its metadata `hasleader`.
const METADATA_PREFIX: &str = "grpc-metadata-";
/// Base64 and names make a request longer than the message that it becomes.
const JSON_PER_BYTE: usize = 2;

/// The calls that can be made in JSON.
pub struct Gateway {
    methods: BTreeMap<&'static str, MethodDescriptor>,
    /// The longest request.
    bytes_max: usize,
}

impl Gateway {
    /// A gateway for messages of up to so many bytes.
    pub fn new(message_bytes_max: usize) -> Gateway {
        let descriptors = &include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"))[..];
        let pool = DescriptorPool::decode(descriptors).expect("made together with this program");
        let methods = paths::PATHS.iter().map(|(path, service, method)| {
            let service = pool.get_service_by_name(service).expect("every service is there");
            let found = service.methods().find(|found| found.name() == *method);
            (*path, found.expect("every method is there"))
        });
        Gateway { methods: methods.collect(), bytes_max: JSON_PER_BYTE * message_bytes_max }
    }

    /// Answers a request whose address may be one of the gateway's; gives it back if not.
    pub async fn answer(
        &self,
        services: &Services,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Request<Incoming>> {
        let Some(path) = paths::behind_prefix(request.uri().path()) else { return Err(request) };
        let Some(method) = self.methods.get(path) else {
            return Ok(refusal(StatusCode::NOT_FOUND, &Status::not_found("Not Found")));
        };
        if request.method() == Method::OPTIONS {
            return Err(request);
        }
        if request.method() != Method::POST {
            let status = Status::unimplemented("Method Not Allowed");
            return Ok(refusal(StatusCode::NOT_IMPLEMENTED, &status));
        }
        let (head, body) = request.into_parts();
        let values = Values::new(body, self.bytes_max);
        let answered = call(services, method, &head, values).await;
        Ok(answered.unwrap_or_else(|status| refusal(status_code(status.code()), &status)))
    }
}

async fn call(
    services: &Services,
    method: &MethodDescriptor,
    head: &Parts,
    mut values: Values<Incoming>,
) -> Result<Response<Body>, Status> {
    let input = method.input();
    let body = if method.is_client_streaming() {
        let first = values.next().await?.unwrap_or_default();
        let first = to_frame(&input, first).await?;
        Body::new(StreamBody::new(stream::unfold(Requests::First(first, values, input), next)))
    } else {
        let message = to_frame(&input, values.rest().await?).await?;
        Body::new(Full::new(message))
    };
    let mut request = Request::new(body);
    let address = format!("/{}/{}", method.parent_service().full_name(), method.name());
    *request.uri_mut() = address.parse().expect("names make an address");
    *request.method_mut() = Method::POST;
    *request.headers_mut() = metadata(&head.headers);
    let mut answers = Answers::new(grpc::answer(services, request).await);
    let output = method.output();
    if method.is_server_streaming() {
        return Ok(lines(answers, output).await);
    }
    let message = answers.next().await?.unwrap_or_default();
    // The status comes behind the message.
    while answers.next().await?.is_some() {}
    let text = to_json(&output, message).await?;
    Ok(answer(StatusCode::OK, Body::new(Full::new(text.into()))))
}

/// What a client sends after its first message.
enum Requests {
    First(Bytes, Values<Incoming>, MessageDescriptor),
    Further(Values<Incoming>, MessageDescriptor),
}

/// The next message of a client that streams. The first one that is malformed is its last.
async fn next(requests: Requests) -> Option<(Result<Frame<Bytes>, Infallible>, Requests)> {
    let (message, values, kind) = match requests {
        Requests::First(first, values, kind) => (first, values, kind),
        Requests::Further(mut values, kind) => {
            let value = values.next().await.ok().flatten()?;
            (to_frame(&kind, value).await.ok()?, values, kind)
        }
    };
    Some((Ok(Frame::data(message)), Requests::Further(values, kind)))
}

/// A line for each message, and one for a failure, which is the last. The status of a call that is
/// refused at once is that of the response.
async fn lines(mut answers: Answers, kind: MessageDescriptor) -> Response<Body> {
    let first = answers.next().await;
    let code = match &first {
        Ok(_) => StatusCode::OK,
        Err(status) => status_code(status.code()),
    };
    let lines = Some((Some(first), answers, kind));
    let lines = stream::unfold(lines, |lines| async {
        let (ready, mut answers, kind) = lines?;
        let message = match ready {
            Some(first) => first,
            None => answers.next().await,
        };
        let text = match message {
            Ok(Some(message)) => to_json(&kind, message).await,
            Ok(None) => return None,
            Err(status) => Err(status),
        };
        Some(match text {
            Ok(text) => {
                let line = [b"{\"result\":", &text[..], b"}\n"].concat();
                (line, Some((None, answers, kind)))
            }
            Err(status) => (error_line(&status), None),
        })
    });
    let frames = lines.map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line))));
    answer(code, Body::new(StreamBody::new(frames)))
}

/// What of a request's headers the call gets to see.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let added = name.as_str().strip_prefix(METADATA_PREFIX);
        let added = added.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        let passed = (*name == AUTHORIZATION).then(|| name.clone());
        if let Some(name) = added.or(passed) {
            metadata.append(name, value.clone());
        }
    }
    metadata.insert(CONTENT_TYPE, GRPC);
    metadata.insert(TE, HeaderValue::from_static("trailers"));
    metadata
}

fn answer(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Older releases of etcd call the text `error`, later ones `message`.
fn refusal(code: StatusCode, status: &Status) -> Response<Body> {
    let (error, number) = (status.message(), status.code() as i32);
    let body = serde_json::json!({ "error": error, "code": number, "message": error });
    answer(code, Body::new(Full::new(Bytes::from(body.to_string()))))
}

/// The last line of a stream that fails, with the names of either version of the gateway.
fn error_line(status: &Status) -> Vec<u8> {
    let (http, number) = (status_code(status.code()), status.code() as i32);
    let error = serde_json::json!({
        "grpc_code": number,
        "http_code": http.as_u16(),
        "code": number,
        "message": status.message(),
        "http_status": http.canonical_reason().unwrap_or_default(),
    });
    format!("{{\"error\":{error}}}\n").into_bytes()
}

/// The status of HTTP that goes with a code (grpc-gateway, `runtime/errors.go`).
fn status_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).expect("a client that is gone"),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_stream_has_the_names_of_either_version() {
        let line = error_line(&Status::out_of_range("etcdserver: mvcc: \"x\""));
        let error: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
        let error = &error["error"];
        assert_eq!((&error["grpc_code"], &error["code"]), (&11.into(), &11.into()));
        assert_eq!(error["http_code"], 400);
        assert_eq!(error["message"], "etcdserver: mvcc: \"x\"");
    }

    #[test]
    fn metadata_is_what_was_meant_for_the_call() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "x"),
            ("content-type", "application/json"),
            ("authorization", "abc.7"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-content-type", "text/plain"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let metadata = metadata(&headers);
        assert_eq!(metadata["authorization"], "abc.7");
        assert_eq!(metadata["hasleader"], "true");
        assert_eq!(metadata["content-type"], "application/grpc");
        assert!(!metadata.contains_key("host"));
    }
}
