//! The URLs that members and clients are reached at, and etcd's rules for them
//! (`client/pkg/types/urls.go`, `server/embed/config.go`).

use core::net::{IpAddr, Ipv6Addr};

/// A host and a port, and how they are spoken to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// The text, as it was given.
    pub text: String,
    pub is_https: bool,
    pub host: String,
    pub port: u16,
}

impl Url {
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let is_https = match scheme {
            "http" => false,
            "https" => true,
            "unix" | "unixs" => return Err(format!("unix sockets are not there yet: {text}")),
            _ => {
                return Err(format!("URL scheme must be http, https, unix, or unixs: {text}"));
            }
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (address, path) = rest.split_at(end);
        let form = || format!("URL address does not have the form \"host:port\": {text}");
        let (host, port) = split_host_port(address).ok_or_else(form)?;
        let port = port.parse().map_err(|_| form())?;
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Url { text: text.to_string(), is_https, host: host.to_string(), port })
    }

    /// Reads a list with commas between; sorted, as etcd keeps them.
    pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
        let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<Url>, String>>()?;
        urls.sort();
        Ok(urls)
    }

    /// Whether one can listen there: a name may mean another machine tomorrow, so only
    /// `localhost` and addresses can be bound to.
    pub fn check_bindable(&self) -> Result<(), String> {
        if self.host == "localhost" || self.ip().is_some() {
            return Ok(());
        }
        Err(format!("expected IP in URL for binding ({})", self.text))
    }

    /// The address to listen on.
    pub fn ip(&self) -> Option<IpAddr> {
        if self.host == "localhost" {
            return Some(IpAddr::from([127, 0, 0, 1]));
        }
        let v6 = || self.host.split('%').next()?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
        self.host.parse().ok().or_else(v6)
    }
}

/// Takes `host:port` or `[v6]:port` apart.
fn split_host_port(address: &str) -> Option<(&str, &str)> {
    if let Some(rest) = address.strip_prefix('[') {
        return rest.split_once("]:");
    }
    let (host, port) = address.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, port))
}

/// The texts of a list.
pub fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(|url| url.text.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_host_and_port() {
        let url = Url::parse(" http://10.0.0.1:2380").expect("it is one");
        assert_eq!((url.host.as_str(), url.port, url.is_https), ("10.0.0.1", 2380, false));
        assert_eq!(url.text, "http://10.0.0.1:2380");
        let v6 = Url::parse("https://[::1]:2379").expect("it is one");
        assert_eq!((v6.host.as_str(), v6.port, v6.is_https), ("::1", 2379, true));
        assert_eq!(v6.ip(), Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])));
    }

    #[test]
    fn refusals_are_worded_as_etcd_words_them() {
        let refusals = [
            ("localhost:2379", "URL scheme must be http, https, unix, or unixs: localhost:2379"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http://a:b", "URL address does not have the form \"host:port\": http://a:b"),
            (
                "http://::1:2379",
                "URL address does not have the form \"host:port\": http://::1:2379",
            ),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
        ];
        for (text, refusal) in refusals {
            assert_eq!(Url::parse(text), Err(refusal.to_string()));
        }
        let named = Url::parse("http://example.com:2379").expect("it is one");
        assert_eq!(
            named.check_bindable(),
            Err("expected IP in URL for binding (http://example.com:2379)".to_string())
        );
        assert_eq!(Url::parse("http://localhost:1").expect("it is one").check_bindable(), Ok(()));
    }

    #[test]
    fn lists_are_sorted() {
        let list = Url::parse_list("http://b:1,http://a:1").expect("a list");
        assert_eq!(texts(&list), ["http://a:1", "http://b:1"]);
        assert!(Url::parse_list("http://a:1,").is_err());
    }
}
