//! Where a request comes from: the peer, unless a trusted proxy names the client in `X-Forwarded-For`.
//!
//! `Forwarded` (RFC 7239) and `X-Real-IP` are not read. A proxy overwrites or extends the one header that it knows and passes the others on
//! as the visitor sent them, so that with two of them the visitor could choose which one counts.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::HttpRequest;

use crate::accounts::client_address::ClientAddress;
use crate::config::ServerSettings as Settings;
use crate::values::Network;

/// The most proxies in a row whose word is taken.
pub const MAX_PROXIES: usize = 32;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// What other proxies write, and is not read.
const NOT_READ: [&str; 5] = [
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
];

/// Reads the addresses of clients, and warns once of each misconfiguration that it sees.
#[derive(Debug)]
pub struct ClientAddresses {
    trusted: Vec<Network>,
    is_proxied: bool,
    warned_unreadable: AtomicBool,
    warned_unnamed: AtomicBool,
    warned_untrusted: AtomicBool,
}

/// The client, and what is wrong with how the proxies named it.
#[derive(Debug, PartialEq, Eq)]
struct AddressReading {
    client: ClientAddress,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The last name is not an IP address.
    Unreadable,
    /// A trusted peer names no client.
    Unnamed,
    /// A peer that is not trusted names a client.
    Untrusted,
}

impl ClientAddresses {
    /// By the proxies that the settings trust.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            trusted: settings.trusted_proxies.clone(),
            is_proxied: settings.is_proxied(),
            warned_unreadable: AtomicBool::new(false),
            warned_unnamed: AtomicBool::new(false),
            warned_untrusted: AtomicBool::new(false),
        }
    }

    /// The client behind this request.
    #[must_use]
    pub fn of(&self, request: &HttpRequest) -> ClientAddress {
        // A TCP connection always has a peer; only requests made up in memory have none.
        let peer = request
            .peer_addr()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let lines: Vec<Cow<'_, str>> = request
            .headers()
            .get_all(FORWARDED_FOR)
            .map(|line| String::from_utf8_lossy(line.as_bytes()))
            .collect();
        let reading = behind_proxies(peer, &lines, &self.trusted);
        if self.is_proxied
            && let Some(fault) = reading.fault
        {
            let instead = NOT_READ.iter().find(|name| request.headers().contains_key(**name));
            self.warn_once(fault, peer, instead.copied());
        }
        reading.client
    }

    fn warn_once(&self, fault: Fault, peer: IpAddr, instead: Option<&'static str>) {
        let warned = match fault {
            Fault::Unreadable => &self.warned_unreadable,
            Fault::Unnamed => &self.warned_unnamed,
            Fault::Untrusted => &self.warned_untrusted,
        };
        // The cheap read first: it is the usual case.
        if warned.load(Ordering::Relaxed) || warned.swap(true, Ordering::Relaxed) {
            return;
        }
        let peer = peer.to_canonical();
        match fault {
            Fault::Unreadable => tracing::warn!(
                proxy.ip = %peer,
                "a trusted proxy names a client in X-Forwarded-For by a text that is not an IP address; limits count such a text as \
                 one client: let the proxy write the client's IP address"
            ),
            Fault::Unnamed => tracing::warn!(
                proxy.ip = %peer, header.not_read = instead,
                "a trusted proxy sent a request without X-Forwarded-For, which is the only header that is read; limits count its own \
                 address, which all its clients share: let the proxy write the header"
            ),
            Fault::Untrusted => tracing::warn!(
                peer.ip = %peer,
                "a peer that server.trusted_proxies does not list sent X-Forwarded-For; limits count the peer's address: if it is a \
                 proxy, list it"
            ),
        }
    }
}

/// Each proxy appends the address that it saw, so the list is read from its end, and only as far as trusted proxies wrote it:
/// everything further left may be invented by the client. Empty elements of a list are ignored (RFC 9110 section 5.6.1.2).
fn behind_proxies(peer: IpAddr, forwarded_for: &[impl AsRef<str>], trusted: &[Network]) -> AddressReading {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut hops = forwarded_for
        .iter()
        .rev()
        .flat_map(|line| line.as_ref().rsplit(',').map(str::trim))
        .filter(|hop| !hop.is_empty())
        .take(MAX_PROXIES)
        .peekable();
    let names_any = hops.peek().is_some();
    let mut fault = match (is_trusted(peer), names_any) {
        (true, false) => Some(Fault::Unnamed),
        (false, true) => Some(Fault::Untrusted),
        _ => None,
    };
    let mut address = peer;
    while is_trusted(address) {
        let Some(hop) = hops.next() else {
            break;
        };
        let Some(previous) = parse(hop) else {
            fault = Some(Fault::Unreadable);
            return AddressReading {
                client: ClientAddress::unreadable(hop),
                fault,
            };
        };
        address = previous;
    }
    AddressReading {
        client: address.to_canonical().into(),
        fault,
    }
}

/// An IP address as proxies write it: also with a port, in brackets, in quotes, or with the zone of a link-local address.
fn parse(hop: &str) -> Option<IpAddr> {
    let hop = hop
        .strip_prefix('"')
        .and_then(|quoted| quoted.strip_suffix('"'))
        .unwrap_or(hop);
    let bare = hop
        .strip_prefix('[')
        .and_then(|bracketed| bracketed.strip_suffix(']'))
        .unwrap_or(hop);
    let without_zone = bare.split_once('%').map_or(bare, |(address, _)| address);
    let in_brackets = bare.len() < hop.len();
    without_zone
        .parse()
        .ok()
        .filter(|address: &IpAddr| address.is_ipv6() || !in_brackets)
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| {
            hop.parse::<SocketAddrV6>()
                .ok()
                .map(|address| IpAddr::V6(*address.ip()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(peer: &str, lines: &[&str]) -> AddressReading {
        let trusted = ["10.0.0.0/8", "192.168.1.7"].map(|network| network.parse().unwrap());
        behind_proxies(peer.parse().unwrap(), lines, &trusted)
    }

    fn seen(peer: &str, lines: &[&str]) -> String {
        read(peer, lines).client.to_string()
    }

    #[test]
    fn a_stranger_cannot_name_another_address() {
        assert_eq!(seen("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(seen("203.0.113.9", &["10.0.0.1, 192.168.1.7"]), "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_names_the_client_and_what_stands_further_left_is_hearsay() {
        assert_eq!(seen("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, 198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            seen("10.0.0.1", &["1.1.1.1, 198.51.100.1, 192.168.1.7"]),
            "198.51.100.1"
        );
        assert_eq!(
            seen("10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.2.3.4"]),
            "198.51.100.1"
        );
    }

    #[test]
    fn so_many_proxies_are_followed_and_the_last_one_counts_as_the_client() {
        let proxy = |at: usize| format!("10.{}.{}.1", at / 250, at % 250);
        let proxies = |count: usize| (0..count).map(proxy).collect::<Vec<_>>();
        // The proxy on the right is the one that is nearest.
        let with_client = |count: usize| [vec!["198.51.100.1".to_owned()], proxies(count)].concat().join(", ");
        assert_eq!(seen("10.0.0.1", &[&with_client(MAX_PROXIES - 1)]), "198.51.100.1");
        for more in [0, 1, 1_000] {
            assert_eq!(
                seen("10.0.0.1", &[&with_client(MAX_PROXIES + more)]),
                proxy(more),
                "{more} more"
            );
        }
        // As lines of their own, too.
        let lines = [vec!["198.51.100.1".to_owned()], proxies(MAX_PROXIES)].concat();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(seen("10.0.0.1", &lines), "10.0.0.1");
    }

    #[test]
    fn addresses_are_read_in_every_form_that_proxies_write() {
        for (hop, address) in [
            ("198.51.100.1:4711", "198.51.100.1"),
            ("\"198.51.100.1\"", "198.51.100.1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8:0:0::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%2]:4711", "fe80::1"),
            ("\t2001:db8::1 ", "2001:db8::1"),
        ] {
            let reading = read("10.0.0.1", &[hop]);
            assert_eq!(
                (reading.client.to_string().as_str(), reading.fault),
                (address, None),
                "{hop}"
            );
            assert_eq!(
                seen("10.0.0.1", &[&format!("1.1.1.1, {hop},10.9.9.9")]),
                address,
                "{hop}"
            );
        }
        assert_eq!(seen("::ffff:10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
    }

    #[test]
    fn empty_elements_of_the_list_name_nobody() {
        for lines in [
            &["198.51.100.1,"][..],
            &[",198.51.100.1, ,\t"],
            &["1.1.1.1,,198.51.100.1,,10.2.3.4,"],
            &["198.51.100.1", "", ","],
        ] {
            let reading = read("10.0.0.1", lines);
            assert_eq!(
                (reading.client.to_string().as_str(), reading.fault),
                ("198.51.100.1", None),
                "{lines:?}"
            );
        }
        let commas = ",".repeat(30_000);
        assert_eq!(seen("10.0.0.1", &[&format!("198.51.100.1{commas}")]), "198.51.100.1");
        assert_eq!(read("203.0.113.9", &[","]).fault, None);
    }

    /// Or five wrong passwords of one would lock out all of them, and everybody else behind the proxy.
    #[test]
    fn clients_with_an_unreadable_name_share_no_limit() {
        let names = [
            "unknown",
            "_hidden",
            "_SEVKISEK",
            "x\u{1b}[31m",
            "010.0.0.1",
            "1.2.3",
            "[1.2.3.4]",
            "::g",
            "1.2.3.4:99999",
            "\u{fffd}",
        ];
        let mut seen: Vec<ClientAddress> = names
            .iter()
            .map(|name| {
                let reading = read("10.0.0.1", &[&format!("1.1.1.1, {name}")]);
                assert_eq!(reading.fault, Some(Fault::Unreadable), "{name}");
                let shown = reading.client.to_string();
                assert!(
                    shown.starts_with("unreadable:") && !shown.contains(char::is_control),
                    "{shown}"
                );
                assert_eq!(reading.client.network(), reading.client);
                reading.client
            })
            .collect();
        seen.push(ClientAddress::Ip([10, 0, 0, 1].into()));
        for (index, client) in seen.iter().enumerate() {
            assert!(!seen[..index].contains(client), "{client} twice");
        }
        assert_eq!(read("10.0.0.1", &["unknown"]), read("10.2.3.4", &["2.2.2.2, unknown"]));
    }

    #[test]
    fn a_proxy_that_names_no_client_is_noticed() {
        for lines in [&[][..], &[""], &[","], &[" ,\t, "], &["", ","]] {
            let reading = read("10.0.0.1", lines);
            assert_eq!(
                (reading.client.to_string().as_str(), reading.fault),
                ("10.0.0.1", Some(Fault::Unnamed))
            );
        }
        let inside = read("10.0.0.1", &["10.2.3.4"]);
        assert_eq!((inside.client.to_string().as_str(), inside.fault), ("10.2.3.4", None));
        let stranger = read("203.0.113.9", &["198.51.100.1"]);
        assert_eq!(stranger.fault, Some(Fault::Untrusted));
        assert_eq!(read("203.0.113.9", &[]).fault, None);
    }
}
