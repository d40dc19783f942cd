//! Where a request comes from: the peer, unless a proxy that we trust names somebody else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use actix_web::HttpRequest;

use crate::config::Network;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of the client behind this request, for logs.
#[must_use]
pub fn client_address(request: &HttpRequest, trusted: &[Network]) -> IpAddr {
    // A TCP connection always has a peer; only requests made up in memory have none.
    let peer = request
        .peer_addr()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    let lines: Vec<&str> = request
        .headers()
        .get_all(FORWARDED_FOR)
        .map(|line| line.to_str().unwrap_or(""))
        .collect();
    behind_proxies(peer, &lines, trusted)
}

/// Each proxy appends the address that it saw, so the list is read from its end, and only as far as the proxies that we
/// trust wrote it: whatever stands further left may be invented by the client.
fn behind_proxies(peer: IpAddr, forwarded_for: &[&str], trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut hops = forwarded_for.iter().rev().flat_map(|line| line.rsplit(','));
    let mut address = peer;
    while is_trusted(address) {
        match hops.next().and_then(|hop| parse(hop.trim())) {
            Some(previous) => address = previous,
            None => break,
        }
    }
    address.to_canonical()
}

/// Some proxies append the port.
fn parse(hop: &str) -> Option<IpAddr> {
    hop.parse()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "192.168.1.7"].map(|network| network.parse().unwrap());
        behind_proxies(peer.parse().unwrap(), lines, &trusted).to_string()
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
    fn ports_and_both_families_are_read() {
        assert_eq!(seen("10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(seen("::ffff:10.0.0.1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(seen("10.0.0.1", &["2001:db8::1"]), "2001:db8::1");
    }

    #[test]
    fn nonsense_leaves_the_last_proxy_standing() {
        for line in ["", "unknown", "1.1.1.1, x\u{1b}[31m", "1.1.1.1,,"] {
            assert_eq!(seen("10.0.0.1", &[line]), "10.0.0.1", "{line:?}");
        }
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
    }
}
