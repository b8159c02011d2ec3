//! Proxies on the way to the origins, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them.
//!
//! Go: `golang.org/x/net/http/httpproxy`, which chocon uses. Different from Go: a value that cannot be used ends the start;
//! Go goes around the proxy in silence.

#![forbid(unsafe_code)]

use crate::authority::{Scheme, canonical, check_name, split_port};
use ipnet::IpNet;
use std::{fmt, net::IpAddr, sync::Arc};

/// Which proxy stands before which origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Arc<Proxy>>,
    https: Option<Arc<Proxy>>,
    exceptions: Exceptions,
}

/// A proxy that is spoken to in plain HTTP.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// As [`canonical`] makes it.
    pub name: Arc<str>,
    pub port: u16,
    /// What `Proxy-Authorization` carries, from the URL's user and password.
    pub authorization: Option<Box<str>>,
}

/// Shows no password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, port) = (&self.name, self.port);
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

/// What `NO_PROXY` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Exceptions {
    all: bool,
    networks: Vec<IpNet>,
    addresses: Vec<(IpAddr, Option<u16>)>,
    names: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    /// With its dot in front.
    suffix: Box<str>,
    /// The name itself counts, too.
    itself: bool,
    port: Option<u16>,
}

impl Proxies {
    /// Reads the variables; `variable` gives their values. What is wrong goes to `mistakes`, a line each with cause and
    /// remedy.
    pub fn read(variable: impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> Self {
        // Go: the upper case wins, and an empty one is none.
        let of = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| {
                let value = variable(name).filter(|value| !value.is_empty())?;
                Some((name, value))
            })
        };
        let mut proxy = |names| {
            let (name, value) = of(names)?;
            Proxy::parse(&value).map_err(|cause| mistakes.push(format!("{name}: {cause}"))).ok()
        };
        let (http, https) =
            (proxy(["HTTP_PROXY", "http_proxy"]), proxy(["HTTPS_PROXY", "https_proxy"]));
        // A CGI script gets the client's `Proxy` field as HTTP_PROXY (CVE-2016-5386). Go refuses such requests.
        let is_cgi = variable("REQUEST_METHOD").is_some_and(|method| !method.is_empty());
        let exceptions = of(["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, value)| value);
        Self {
            http: http.filter(|_| !is_cgi).map(Arc::new),
            https: https.map(Arc::new),
            exceptions: Exceptions::parse(&exceptions),
        }
    }

    /// The proxy that stands before an origin; `name` is canonical.
    pub fn before(&self, scheme: Scheme, name: &str, port: u16) -> Option<&Arc<Proxy>> {
        let proxy = match scheme {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        };
        proxy.filter(|_| !self.exceptions.cover(name, port))
    }

    /// For the log: which proxy is in use for what.
    pub fn notes(&self) -> Vec<String> {
        let note = |scheme: &str, proxy: &Option<Arc<Proxy>>| {
            let proxy = proxy.as_ref()?;
            Some(format!(
                "{scheme} origins are reached through the proxy {proxy}, which looks their names up and decides what may \
                 be reached; NO_PROXY makes exceptions"
            ))
        };
        [note("http", &self.http), note("https", &self.https)].into_iter().flatten().collect()
    }
}

impl Proxy {
    /// Reads `[http://][user[:password]@]host[:port]`; what follows does not count. Errors: cause and remedy, without the
    /// value, which may hold a password.
    fn parse(value: &str) -> Result<Self, String> {
        const REMEDY: &str = "give http://[USER:PASSWORD@]NAME[:PORT], or unset it";
        let rest = match value.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _))
                if ["https", "socks5", "socks5h"].contains(&&*scheme.to_lowercase()) =>
            {
                return Err(format!("a proxy of scheme {scheme} is not supported; {REMEDY}"));
            }
            Some(_) => return Err(format!("its scheme is not known; {REMEDY}")),
            None => value,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let wrong = |cause: &'static str| format!("it {cause}; {REMEDY}");
        let (name, port) = split_port(host).map_err(|e| wrong(e.into()))?;
        let name = canonical(check_name(name).map_err(|e| wrong(e.into()))?);
        let authorization = user.map(|user| {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            let both = [&*percent_decoded(user), b":", &*percent_decoded(password)].concat();
            format!("Basic {}", base64(&both)).into()
        });
        Ok(Self { name, port: port.unwrap_or(80), authorization })
    }
}

impl Exceptions {
    /// Go: entries that mean nothing are passed over.
    fn parse(list: &str) -> Self {
        let mut exceptions = Self::default();
        for entry in list.split(',').map(|entry| entry.trim().to_lowercase()) {
            if entry == "*" {
                return Self { all: true, ..Self::default() };
            }
            if let Ok(network) = entry.parse::<IpNet>() {
                exceptions.networks.push(network);
                continue;
            }
            // An IPv6 address without brackets has colons of its own.
            let (host, port) = match entry.parse::<IpAddr>() {
                Ok(_) => (&*entry, None),
                Err(_) => match split_port(&entry) {
                    Ok(split) => split,
                    Err(_) => continue,
                },
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            if let Ok(ip) = host.parse::<IpAddr>() {
                exceptions.addresses.push((ip.to_canonical(), port));
                continue;
            }
            let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
            let itself = !host.starts_with('.');
            if host.trim_matches('.').is_empty() {
                continue;
            }
            let suffix = if itself { format!(".{host}").into() } else { host.into() };
            exceptions.names.push(Name { suffix, itself, port });
        }
        exceptions
    }

    /// Whether an origin is reached without a proxy.
    fn cover(&self, name: &str, port: u16) -> bool {
        let fits = |only: Option<u16>| only.is_none_or(|only| only == port);
        if self.all || name == "localhost" {
            return true;
        }
        if let Ok(ip) = name.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return ip.is_loopback()
                || self.networks.iter().any(|network| network.contains(&ip))
                || self.addresses.iter().any(|(address, only)| *address == ip && fits(*only));
        }
        self.names.iter().any(|entry| {
            let is_below = name.ends_with(&*entry.suffix);
            (is_below || (entry.itself && *name == entry.suffix[1..])) && fits(entry.port)
        })
    }
}

/// RFC 3986 §2.1; what is no escape stays as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let escape = || {
            let digits = std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?;
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
        };
        match (*byte == b'%').then(escape).flatten() {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// RFC 4648 §4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let index = (group >> (18 - 6 * at)) & 63;
            let is_padding = at > chunk.len();
            out.push(if is_padding { '=' } else { char::from(ALPHABET[index as usize]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Proxies, Vec<String>) {
        let mut mistakes = Vec::new();
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let proxies = Proxies::read(value, &mut mistakes);
        (proxies, mistakes)
    }

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let (proxies, mistakes) = read(variables);
        assert_eq!(mistakes, [""; 0], "{variables:?}");
        proxies
    }

    fn before(proxies: &Proxies, scheme: Scheme, name: &str, port: u16) -> Option<String> {
        proxies.before(scheme, name, port).map(ToString::to_string)
    }

    #[test]
    fn each_scheme_has_its_variable_and_upper_case_wins() {
        let both = proxies(&[
            ("HTTP_PROXY", "http://a:1"),
            ("http_proxy", "http://b:2"),
            ("HTTPS_PROXY", ""),
            ("https_proxy", "c:3"),
        ]);
        assert_eq!(before(&both, Scheme::Http, "x.test", 80).as_deref(), Some("a:1"));
        assert_eq!(before(&both, Scheme::Https, "x.test", 443).as_deref(), Some("c:3"));
        let http = proxies(&[("http_proxy", "a")]);
        assert_eq!(before(&http, Scheme::Http, "x.test", 80).as_deref(), Some("a:80"));
        assert_eq!(before(&http, Scheme::Https, "x.test", 443), None);
    }

    #[test]
    fn a_value_is_a_url_or_an_authority() {
        for (value, shown) in [
            ("http://Proxy.Test:3128/path?x", "proxy.test:3128"),
            ("HTTP://proxy.test", "proxy.test:80"),
            ("proxy.test:3128", "proxy.test:3128"),
            ("http://[2001:DB8::1]:3128", "[2001:db8::1]:3128"),
            ("10.0.0.1", "10.0.0.1:80"),
        ] {
            let proxy = Proxy::parse(value).unwrap();
            assert_eq!((proxy.to_string().as_str(), proxy.authorization), (shown, None), "{value}");
        }
    }

    #[test]
    fn user_and_password_become_basic_authorization() {
        for (value, authorization) in [
            ("http://Aladdin:open%20sesame@p", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("u@p", "Basic dTo="),
            ("http://a@b:c@p", "Basic YUBiOmM="),
            ("http://%zz:%@p", "Basic JXp6OiU="),
        ] {
            let proxy = Proxy::parse(value).unwrap();
            assert_eq!(proxy.authorization.as_deref(), Some(authorization), "{value}");
            assert!(!format!("{proxy:?}").contains("Basic"), "no log shows it");
        }
    }

    #[test]
    fn what_cannot_be_used_is_a_mistake_that_shows_no_password() {
        for (value, cause) in [
            ("https://u:secret@p", "a proxy of scheme https is not supported"),
            ("socks5://p", "a proxy of scheme socks5 is not supported"),
            ("gopher://secret@p", "its scheme is not known"),
            ("http://", "it has no host name"),
            ("http://u:secret@p:0", "it has a port that is not a number"),
            ("http://secret host", "it has no valid host name"),
        ] {
            let (_, mistakes) = read(&[("HTTPS_PROXY", value)]);
            assert_eq!(mistakes.len(), 1, "{value}");
            let said = &mistakes[0];
            assert!(said.starts_with("HTTPS_PROXY: ") && said.contains(cause), "{said}");
            assert!(said.contains("unset it") && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn http_proxy_does_not_count_where_a_web_server_runs_us() {
        let variables = [("HTTP_PROXY", "a"), ("HTTPS_PROXY", "b"), ("REQUEST_METHOD", "GET")];
        let proxies = proxies(&variables);
        assert_eq!(before(&proxies, Scheme::Http, "x.test", 80), None);
        assert_eq!(before(&proxies, Scheme::Https, "x.test", 443).as_deref(), Some("b:80"));
    }

    /// Go's table (`httpproxy/proxy_test.go`) in substance: which origins a list leaves out.
    #[test]
    fn exceptions_are_read_as_go_reads_them() {
        for (list, direct, proxied) in [
            (
                "",
                &["localhost:80", "127.0.0.1:80", "127.9.9.9:80", "::1:80", "::ffff:127.0.0.1:80"]
                    [..],
                &["a.test:80", "10.0.0.1:80", "localhost.test:80"][..],
            ),
            ("a.test", &["a.test:80", "b.a.test:443", "c.b.a.test:80"], &["xa.test:80", "test:80"]),
            (".a.test", &["b.a.test:80"], &["a.test:80"]),
            ("*.a.test", &["b.a.test:80"], &["a.test:80"]),
            ("A.Test:81 , b.test", &["a.test:81", "x.a.test:81", "b.test:80"], &["a.test:80"]),
            ("a.test:http", &[], &["a.test:80"]),
            ("10.0.0.0/8", &["10.1.2.3:80", "::ffff:10.1.2.3:80"], &["11.0.0.1:80", "ten.test:80"]),
            ("2001:db8::/32", &["2001:db8::1:80"], &["2001:db9::1:80"]),
            ("10.0.0.1", &["10.0.0.1:80", "10.0.0.1:81"], &["10.0.0.2:80", "1.10.0.0.1.test:80"]),
            ("10.0.0.1:81", &["10.0.0.1:81"], &["10.0.0.1:80"]),
            ("2001:db8::1", &["2001:db8::1:80"], &["2001:db8::2:80"]),
            ("[2001:db8::1]:81", &["2001:db8::1:81"], &["2001:db8::1:80"]),
            (",, .,*.,:80,", &[], &["a.test:80", "10.0.0.1:80"]),
            ("a.test,*", &["b.test:80", "10.0.0.1:80"], &[]),
        ] {
            let proxies = proxies(&[("HTTP_PROXY", "p"), ("NO_PROXY", list)]);
            for (origins, expected) in [(direct, false), (proxied, true)] {
                for origin in origins {
                    let (name, port) = origin.rsplit_once(':').unwrap();
                    let proxy = proxies.before(Scheme::Http, name, port.parse().unwrap());
                    assert_eq!(proxy.is_some(), expected, "{origin} with {list:?}");
                }
            }
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648 §10.
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
