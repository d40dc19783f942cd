//! The types of single values: each accepts the text that a person wrote, or says what would be right.

mod database;
mod languages;
mod paths;
mod session_id;
mod uuids;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::clock::Seconds;
use crate::text;

pub use database::{Database, PostgresServer, PostgresUrl};
pub use languages::LANGUAGES;
pub use paths::check_path;
pub use session_id::{InvalidSessionId, LONGEST_ACCESS_TOKEN, SessionId};
pub use uuids::{parse_uuid, uuid_at};

/// Why a text is not a value, as the rest of a sentence. It never repeats the text of a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Refuses in these words.
///
/// # Errors
/// Always.
pub fn refuse<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(why.into()))
}

/// The longest length of time that a setting may have.
const LONGEST: Seconds = Seconds(36_500 * 86_400);

/// Reads `30d`, `24h`, `5m`, `10s`, and sums of them with the largest unit first (`1h30m`).
///
/// # Errors
/// A number without a unit, an unknown or repeated unit, or more than 100 years.
pub fn parse_duration(text: &str) -> Result<Seconds, Refusal> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        if text.bytes().all(|byte| byte == b'0') {
            return refuse("has no unit; write a length such as 30d, 24h, 5m or 10s, or 0s if none is meant");
        }
        let meant = ["s", "m", "h", "d"].map(|unit| format!("{text}{unit}"));
        let meant: Vec<String> = meant.into_iter().filter(|text| parse_duration(text).is_ok()).collect();
        return match meant.split_last() {
            None => refuse(format!("has no unit, and is too long in any; the most is {LONGEST}")),
            Some((last, [])) => refuse(format!("has no unit; write {last}")),
            Some((last, others)) => refuse(format!("has no unit; write {} or {last}", others.join(", "))),
        };
    }
    let form = "is not a length of time; write one such as 30d, 24h, 5m, 10s or 1h30m, the largest unit first";
    let mut units = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)].into_iter();
    let mut total: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let unit = tail.chars().next();
        let Some((_, length)) = unit.and_then(|unit| units.find(|&(name, _)| name == unit)) else {
            return refuse(form);
        };
        let count: i64 = match number.parse() {
            Ok(count) => count,
            Err(_) if digits == 0 => return refuse(form),
            Err(_) => LONGEST.0 + 1,
        };
        total = total.saturating_add(count.saturating_mul(length));
        rest = &tail[1..];
    }
    if total > LONGEST.0 {
        return refuse(format!("is too long; the most is {LONGEST}"));
    }
    Ok(Seconds(total))
}

/// The URL that names this server: `iss` of every token, kept byte for byte as it was written.
///
/// It has no query and no fragment (RFC 8414 section 2), no user, no trailing slash, and is written in its normal form, because
/// verifiers compare it as a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    url: Url,
}

impl Issuer {
    /// The issuer as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The issuer as a URL, to resolve others against.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// The path, empty when the issuer has none; it begins with a slash and does not end with one.
    #[must_use]
    pub fn path(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }

    /// The host, without a port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The origin of pages that lie beside the server.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin::of(&self.url)
    }

    /// Whether it is an https URL.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Whether its host is this very machine: 127.0.0.0/8, `::1` or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }
}

impl Issuer {
    /// Reads an issuer; what is wrong is said without what would be right.
    fn read(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "https" | "http"))
            .ok_or_else(|| text::url_fault(text).unwrap_or("is not an https URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user or a password, but an issuer is public; leave them out");
        }
        if let Some(fault) = text::host_fault(&url) {
            return Err(fault);
        }
        if text.contains('?') || text.contains('#') {
            return Err("has a query or a fragment; leave out everything from '?' or '#' on");
        }
        if text.ends_with('/') {
            return Err("ends with a slash");
        }
        if text != url.as_str().trim_end_matches('/') {
            return Err("is not in its normal form, and verifiers compare it byte by byte");
        }
        if url.port() == Some(0) {
            return Err("has port 0, which no client can reach; write the port that is served");
        }
        // Verifiers and proxies disagree about the other characters and about empty segments, and about what %2F means.
        let is_plain = |segment: &str| {
            let is_unreserved = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~".contains(&octet);
            !segment.is_empty() && segment.bytes().all(is_unreserved)
        };
        if !url.path().trim_end_matches('/').split('/').skip(1).all(is_plain) {
            return Err(
                "has a path that not every client writes in the same way; use letters, digits, '-', '.', '_' and '~', one '/' \
                 between them, and no percent-encoding",
            );
        }
        Ok(Self {
            text: text.to_owned(),
            url,
        })
    }

    /// The issuer that a text was meant to be. None if that would be refused too, or may repeat a secret.
    fn meant(text: &str) -> Option<Self> {
        if text::holds_secret(text) {
            return None;
        }
        let text = text.trim();
        let mut url = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "https" | "http"))
            .or_else(|| {
                Url::parse(&format!("https://{text}"))
                    .ok()
                    .filter(|_| !text.contains("://"))
            })?;
        url.set_query(None);
        url.set_fragment(None);
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        let host = url.host_str()?.trim_end_matches('.').to_owned();
        url.set_host(Some(&host)).ok()?;
        Self::read(url.as_str().trim_end_matches('/')).ok()
    }
}

impl FromStr for Issuer {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::read(text).map_err(|fault| {
            let meant = Self::meant(text);
            let fault = match &meant {
                Some(_) if !text.contains("://") => "has no scheme",
                _ => fault,
            };
            Refusal(match meant {
                Some(meant) => format!("{fault}; write {meant}"),
                None if fault.contains(';') => fault.to_owned(),
                None => format!("{fault}; write one such as https://id.example.com"),
            })
        })
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The origin of a web page (RFC 6454), as browsers write it: scheme, host, and a port that is not the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// The origin, byte for byte as browsers send it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The origin of a server at this URL.
    #[must_use]
    pub fn of(url: &Url) -> Self {
        Self(url.origin().ascii_serialization())
    }
}

impl FromStr for Origin {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let shown = text.escape_debug();
        if is_origin_of_app(text) {
            return Ok(Self(text.to_owned()));
        }
        let url = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "https" | "http"));
        let Some(url) = url else {
            let fault = text::url_fault(text).unwrap_or("is no origin");
            return refuse(format!(
                "holds '{shown}', which {fault}; write one such as https://app.example.com"
            ));
        };
        if text.contains('*') {
            return refuse(format!(
                "holds '{shown}', but a wildcard matches no origin; list each origin by itself"
            ));
        }
        if let Some(fault) = text::host_fault(&url) {
            return refuse(format!(
                "holds '{shown}', which {fault}; write one such as https://app.example.com"
            ));
        }
        if url.port() == Some(0) {
            return refuse(format!(
                "holds '{shown}', which has port 0, but no page is served there; write the port of the page"
            ));
        }
        let origin = Self::of(&url);
        if origin.0 != text {
            return refuse(format!("holds '{shown}', whose origin is {origin}; write that"));
        }
        Ok(origin)
    }
}

/// Whether a text is the origin of a page in the web view of an app, whose scheme is its own: it is compared as it is. Pages of the other
/// schemes here send `null`, or come from no app.
fn is_origin_of_app(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme
            .bytes()
            .all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"+-.".contains(&octet));
    let (host, port) = rest.split_once(':').unwrap_or((rest, "1"));
    let is_port = port
        .parse::<u16>()
        .is_ok_and(|number| number > 0 && number.to_string() == port);
    is_scheme
        && ![
            "https",
            "http",
            "wss",
            "ws",
            "ftp",
            "file",
            "data",
            "blob",
            "about",
            "javascript",
        ]
        .contains(&scheme)
        && !host.is_empty()
        && host
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet))
        && is_port
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An IP network, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether the address lies in the network; an IPv4 address that is mapped into IPv6 counts as the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether networks hold all of IPv4 or all of IPv6, in one or in several parts.
    #[must_use]
    pub fn hold_every_address(networks: &[Self]) -> bool {
        let networks: Vec<IpNet> = networks.iter().map(|network| network.0).collect();
        IpNet::aggregate(&networks).iter().any(|whole| whole.prefix_len() == 0)
    }
}

impl FromStr for Network {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let form = || {
            Refusal(format!(
                "holds '{text}', which is neither an IP address nor a network such as 10.0.0.0/8"
            ))
        };
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        // `ipnet` takes leading zeros, which others read as octal.
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let is_number = |length: &str| length == "0" || !length.starts_with(['0', '+']);
        let network = match length {
            None => IpNet::from(address),
            Some(length) => length
                .parse()
                .ok()
                .filter(|_| is_number(length))
                .and_then(|length| IpNet::new(address, length).ok())
                .ok_or_else(form)?,
        };
        if let (IpAddr::V4(mapped), IpAddr::V6(_)) = (address.to_canonical(), address) {
            // Addresses are compared in their IPv4 form, so that this would match none.
            let length = network.prefix_len().checked_sub(96).ok_or_else(form)?;
            let meant = IpNet::new(mapped.into(), length).map_err(|_| form())?.trunc();
            return refuse(format!("holds '{text}', which is an IPv4 network; write {meant}"));
        }
        let whole = network.trunc();
        if whole != network {
            return refuse(format!(
                "holds '{text}', whose network begins at {}; write {whole}",
                whole.addr()
            ));
        }
        Ok(Self(network))
    }
}

/// A text that is never shown and is wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes a text in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [
            ("30d", 2_592_000),
            ("24h", 86_400),
            ("5m", 300),
            ("10s", 10),
            ("0s", 0),
            ("1h30m", 5_400),
            ("90m", 5_400),
            ("1d1h1m1s", 90_061),
        ] {
            assert_eq!(parse_duration(text), Ok(Seconds(seconds)), "{text}");
        }
        for text in [
            "",
            "30",
            "-5s",
            "+5s",
            "1.5h",
            "5 m",
            "5M",
            "m",
            "30m1h",
            "1m1m",
            "1h30",
            "5ms",
            "5µ",
            "99999999999999999999d",
            "36501d",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_duration("30").unwrap_err().to_string(),
            "has no unit; write 30s, 30m, 30h or 30d"
        );
    }

    #[test]
    fn an_issuer_stays_as_it_was_written() {
        for (text, path) in [
            ("https://id.example.com", ""),
            ("https://id.example.com:8443/tenants/one", "/tenants/one"),
            ("http://127.0.0.1:8080", ""),
            ("http://[::1]:8080", ""),
            ("https://id.example.com/A-z0._~/9", "/A-z0._~/9"),
        ] {
            let issuer: Issuer = text.parse().unwrap();
            assert_eq!((issuer.as_str(), issuer.path()), (text, path));
        }
        for text in [
            "",
            "id.example.com",
            "ftp://id.example.com",
            "https://id.example.com/",
            "https://id.example.com/a/",
            "https://id.example.com//",
            "https://id.example.com?a=b",
            "https://id.example.com?",
            "https://id.example.com#",
            "https://user@id.example.com",
            "https://ID.example.com",
            "https://id.example.com:443",
            "HTTPS://id.example.com",
            " https://id.example.com",
            "https://id.example.com/a/../b",
            "https://bücher.example",
            "https://127.1",
            "http://127.0.0.1:0",
            "https://id.example.com/%C3%A9",
            "https://id.example.com/é",
            "https://id.example.com/a%2Fb",
            "https://id.example.com/a//b",
            "https://id.example.com/{tenant}",
            "https://id.example.com/a;b",
            "https://id.example.com/a:b",
            "https://id.example.com/*",
            "https://id..example.com",
            "https://id.example.com.",
            "https://-id.example.com",
        ] {
            assert!(text.parse::<Issuer>().is_err(), "{text}");
        }
        assert_eq!(
            "https://bücher.example".parse::<Issuer>().unwrap_err().to_string(),
            "is not in its normal form, and verifiers compare it byte by byte; write https://xn--bcher-kva.example"
        );
    }

    /// What is behind "write" in a refusal.
    fn proposed(refusal: &str) -> Vec<&str> {
        let (_, proposed) = refusal.rsplit_once("; write ").unwrap_or_default();
        let proposed = proposed.trim_start_matches("one such as ");
        let is_value = !proposed.is_empty() && !proposed.starts_with("the port");
        proposed
            .split([' ', ','])
            .filter(|word| is_value && !matches!(*word, "or" | ""))
            .collect()
    }

    #[test]
    fn every_value_that_a_refusal_proposes_is_accepted() {
        for text in [
            "id.example.com",
            "id.example.com/",
            "ID.example.com/a?b#c",
            "id.example.com/a b",
            "id.example.com/%C3%A9",
            "id..example.com",
            "id.example.com.",
            "id.example.com:0",
            "id.example.com:443/x/",
            "https://id.example.com//",
            "https://id.example.com/a//",
            "https://id.example.com/{tenant}/",
            "https://ada:pw@id.example.com/?x",
            "https://ada:pw@ID.example.com:0",
            "HTTPS://ID.example.com./a/",
            "https://id.example.com/a%2Fb/",
            "https://127.1/",
            "http://id.example.com:80",
            "ftp://id.example.com",
            "mailto:ada@example.com",
            "localhost:8080",
            "[::1]:8080",
            "https://b\u{fc}cher.example/",
            "https:id.example.com",
            "https:///id.example.com",
            " https://id.example.com ",
            "id example com",
            "https://",
            "",
            "*",
        ] {
            let refusal = text.parse::<Issuer>().unwrap_err().to_string();
            assert!(!refusal.contains("ada:pw"), "{refusal}");
            for proposal in proposed(&refusal) {
                assert!(proposal.parse::<Issuer>().is_ok(), "{text}: {refusal}");
            }
        }
        assert_eq!(
            "id.example.com/a?b".parse::<Issuer>().unwrap_err().to_string(),
            "has no scheme; write https://id.example.com/a"
        );
        for text in ["30", "36501", "3153600001", "99999999999999999999"] {
            let refusal = parse_duration(text).unwrap_err().to_string();
            for proposal in proposed(&refusal) {
                assert!(parse_duration(proposal).is_ok(), "{text}: {refusal}");
            }
        }
        assert_eq!(
            parse_duration("52560001").unwrap_err().to_string(),
            "has no unit; write 52560001s"
        );
        for text in [
            "https://app.example.com/",
            "https://APP.example.com:443/a",
            "https://ada:pw@app.example.com",
            "https://app..example.com/",
            "https://app.example.com./",
            "https://app.example.com:0/",
            "https://b\u{fc}cher.example",
            "http://127.1",
        ] {
            let refusal = text.parse::<Origin>().unwrap_err().to_string();
            let proposal = refusal
                .split("origin is ")
                .nth(1)
                .and_then(|rest| rest.split(';').next());
            if let Some(proposal) = proposal {
                assert!(proposal.parse::<Origin>().is_ok(), "{text}: {refusal}");
            }
        }
        for text in ["10.0.0.1/8", "fd00::1/8", "::ffff:10.0.0.1/100"] {
            let refusal = text.parse::<Network>().unwrap_err().to_string();
            for proposal in proposed(&refusal) {
                assert!(proposal.parse::<Network>().is_ok(), "{text}: {refusal}");
            }
        }
    }

    #[test]
    fn an_origin_has_a_host_that_dns_can_have() {
        let long = format!("https://{}.example", "a".repeat(64));
        let longest = format!("https://{}.example", "a".repeat(63));
        let too_many = format!("https://{}example", "abcdefg.".repeat(32));
        for (bad, says) in [
            ("https://app..example.com", "a label that is empty"),
            ("https://.example.com", "a label that is empty"),
            ("https://app.example.com.", "a dot at its end"),
            ("https://-app.example.com", "begins or ends with a hyphen"),
            ("https://app-.example.com", "begins or ends with a hyphen"),
            ("https://app.my_zone", "an underscore in its last label"),
            ("https://app.123", "whose last label is a number"),
            ("https://app.example.0x7f", "whose last label is a number"),
            ("https://1.2.3.4.5", "is no IPv4 address"),
            ("https://::1", "an IPv6 address without brackets"),
            ("https://app.example.com:70000", "a port beyond 65535"),
            ("app.example.com", "no origin"),
            ("https://app!.example.com", "other than letters, digits"),
            ("https://a'b.example.com", "other than letters, digits"),
            ("https://app.example.com:0", "port 0"),
            (&long, "more than 63 characters"),
            (&too_many, "more than 253 characters"),
        ] {
            let refusal = bad.parse::<Origin>().unwrap_err().to_string();
            assert!(refusal.contains(says), "{bad}: {refusal}");
        }
        for good in [
            "https://app.example.com",
            "http://localhost:3000",
            "http://my_service:8080",
            "https://my_app.example.com",
            "https://_app.example.com",
            "https://a--b.example.com",
            "https://xn--bcher-kva.example",
            "https://3com.example",
            "http://127.0.0.1",
            "http://[::1]:8080",
            &longest,
        ] {
            assert_eq!(good.parse::<Origin>().map(|origin| origin.0), Ok(good.to_owned()));
        }
    }

    #[test]
    fn loopback_is_this_machine_alone() {
        let is_loopback = |text: &str| text.parse::<Issuer>().unwrap().is_loopback();
        for text in [
            "http://127.0.0.1",
            "http://127.9.9.9:1",
            "http://[::1]",
            "https://localhost:8080",
        ] {
            assert!(is_loopback(text), "{text}");
        }
        for text in [
            "http://localhost.example.com",
            "http://10.0.0.1",
            "http://[::2]",
            "http://127.0.0.1.example.com",
        ] {
            assert!(!is_loopback(text), "{text}");
        }
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for good in ["https://app.example.com", "http://127.0.0.1:3000", "https://[::1]:8443"] {
            assert_eq!(good.parse::<Origin>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "null",
            "*",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com:443",
            "https://APP.example.com",
            "https://*.example.com/a",
            "https://*.example.com",
            "https://*",
            "ftp://a.example",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_hold_their_addresses() {
        let holds =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("192.168.1.7", "192.168.1.7") && !holds("192.168.1.7", "192.168.1.8"));
        assert!(holds("0.0.0.0/0", "1.2.3.4") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1"));
        assert!(holds("::/0", "fe80::1") && holds("::1", "::1"));
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0/8",
            "example.com",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "010.0.0.0/8",
            "010.0.0.1",
            "::ffff:10.0.0.0/90",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
        for (mapped, meant) in [
            ("::ffff:127.0.0.1", "127.0.0.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            let refusal = mapped.parse::<Network>().unwrap_err().to_string();
            assert!(refusal.ends_with(&format!("write {meant}")), "{refusal}");
            assert!(meant.parse::<Network>().is_ok());
        }
    }
}
