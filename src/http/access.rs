//! From where pages may ask over plain HTTP and in JSON, and under which names of this server
//! (`--cors`, `--host-whitelist`; etcd, `embed/serve.go`).

use crate::config::url::Url;
use hyper::Request;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    HeaderMap, HeaderValue,
};

const HEADERS: HeaderValue = HeaderValue::from_static("accept, content-type, authorization");
const METHODS: HeaderValue = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");

/// Who may ask.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Empty for all.
    origins: Vec<String>,
    /// Empty for all.
    hosts: Vec<String>,
}

impl Access {
    /// Pages of these origins, to a server of these names; empty lists allow all.
    pub fn new(origins: &[Url], hosts: &[String]) -> Access {
        Access { origins: origins.iter().map(origin).collect(), hosts: hosts.to_vec() }
    }

    /// Why a request must not be answered: a page that calls this server by a name of its own
    /// choice may be one of somebody else's, whose name leads here for the moment ("DNS rebinding",
    /// CVE-2018-5702).
    pub fn refusal<B>(&self, request: &Request<B>) -> Option<String> {
        let host = host(request);
        if self.hosts.is_empty() || self.hosts.iter().any(|known| known == host) {
            return None;
        }
        Some(format!(
            "This server does not answer to the name {host:?} over plain HTTP.\n\
             To let it, start it with that name in its list: --host-whitelist {host:?}\n\
             The list keeps pages from reaching it by DNS rebinding (CVE-2018-5702).\n"
        ))
    }

    /// Says in an answer to a page of `from` that it may read it, if it may.
    pub fn allow(&self, from: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let allowed = if self.origins.is_empty() {
            HeaderValue::from_static("*")
        } else {
            let is_known = |from: &&HeaderValue| self.origins.iter().any(|known| known == *from);
            let Some(from) = from.filter(is_known) else { return };
            from.clone()
        };
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    }
}

/// An origin as browsers name it: without the port that its scheme has anyway.
fn origin(url: &Url) -> String {
    let usual = if url.is_https { ":443" } else { ":80" };
    url.text.strip_suffix(usual).unwrap_or(&url.text).to_string()
}

/// The name by which a request calls this server, without a port.
fn host<B>(request: &Request<B>) -> &str {
    let named = request.headers().get(hyper::header::HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    let host = named.or(authority).unwrap_or("");
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            host.trim_start_matches('[').trim_end_matches(']')
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let origins = Url::parse_list("http://a.example:80,https://b.example:8443");
        let hosts = ["good.example".to_string(), "::1".to_string()];
        Access::new(&origins.expect("URLs"), &hosts)
    }

    #[test]
    fn a_name_that_is_not_listed_is_refused() {
        let refused = |access: &Access, host: &str| {
            let request = Request::builder().header("host", host).body(()).expect("a request");
            access.refusal(&request).is_some()
        };
        for (host, is_refused) in [
            ("good.example", false),
            ("good.example:2379", false),
            ("[::1]:2379", false),
            ("bad.example", true),
            ("good.example.bad", true),
            ("", true),
        ] {
            assert_eq!(refused(&access(), host), is_refused, "{host:?}");
            assert!(!refused(&Access::default(), host));
        }
    }

    #[test]
    fn a_page_of_a_known_origin_may_read() {
        let allowed = |access: &Access, from: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            access.allow(from.map(HeaderValue::from_static).as_ref(), &mut headers);
            headers.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|v| v.to_str().expect("text").to_string())
        };
        let some = |text: &str| Some(text.to_string());
        assert_eq!(allowed(&access(), Some("http://a.example")), some("http://a.example"));
        assert_eq!(
            allowed(&access(), Some("https://b.example:8443")),
            some("https://b.example:8443")
        );
        for stranger in [None, Some("https://a.example"), Some("https://b.example"), Some("*")] {
            assert_eq!(allowed(&access(), stranger), None, "{stranger:?}");
        }
        assert_eq!(allowed(&Access::default(), None), some("*"));
    }
}
