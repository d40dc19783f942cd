//! The address of a client: what attempts are counted against, and what logs name.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::jose::jwk::sha256_base64url;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A trusted proxy named the client by a text that is not an IP address. Each text counts by itself, so that these clients share
    /// no limit with the proxy or with each other.
    Unreadable([u8; 16]),
}

impl ClientAddress {
    /// The client that a proxy named by this text.
    #[must_use]
    pub fn unreadable(text: &str) -> Self {
        let digest = sha256_base64url(text.as_bytes());
        let mut shortened = [0; 16];
        shortened.copy_from_slice(&digest.as_bytes()[..16]);
        Self::Unreadable(shortened)
    }

    /// What is counted as one client: an IPv4 address, also one that is embedded in an IPv6 address; the /64 of any other IPv6
    /// address (one customer has all of it); or a text.
    #[must_use]
    pub fn network(self) -> Self {
        let Self::Ip(IpAddr::V6(address)) = self else {
            return self;
        };
        if let Some(embedded) = embedded_ipv4(address) {
            embedded.into()
        } else if address.to_bits() >> 80 == 0x0064_ff9b_0001 {
            // NAT64 of one's own network (RFC 8215). Where the IPv4 address is in it differs; each address has another one.
            address.into()
        } else {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

/// The IPv4 address of a client that a translator or a tunnel shows as an IPv6 address. All such clients would share one /64.
fn embedded_ipv4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = address.to_bits();
    let at = |shift: u32| Ipv4Addr::from_bits(u32::try_from(bits >> shift & u128::from(u32::MAX)).unwrap_or_default());
    match address.segments() {
        // IPv4-mapped (RFC 4291 section 2.5.5.2), IPv4-translated (RFC 2765 section 2.1), NAT64 (RFC 6052 section 2.1).
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(at(0)),
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => Some(at(80)),
        // Teredo has it inverted (RFC 4380 section 4).
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!at(0).to_bits())),
        _ => None,
    }
}

impl<T: Into<IpAddr>> From<T> for ClientAddress {
    fn from(address: T) -> Self {
        Self::Ip(address.into())
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => fmt::Display::fmt(address, f),
            // The text may hold anything; its digest cannot forge a line of the log.
            Self::Unreadable(digest) => {
                f.write_str("unreadable:")?;
                digest.iter().try_for_each(|&octet| f.write_char(char::from(octet)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_ipv4_address_is_counted_as_itself() {
        for (address, counted) in [
            ("192.0.2.33", "192.0.2.33"),
            ("::ffff:192.0.2.33", "192.0.2.33"),
            ("::ffff:0:192.0.2.33", "192.0.2.33"),
            ("64:ff9b::192.0.2.33", "192.0.2.33"),
            ("64:ff9b::198.51.100.1", "198.51.100.1"),
            ("2002:c000:221::1", "192.0.2.33"),
            ("2002:c000:221:ffff:1:2:3:4", "192.0.2.33"),
            ("2001:0:4136:e378:8000:63bf:3fff:fdde", "192.0.2.33"),
            // NAT64 of one's own, by a prefix of 96, 64 and 48 bits.
            ("64:ff9b:1::192.0.2.33", "64:ff9b:1::192.0.2.33"),
            ("64:ff9b:1:fffe:c0:2:2100::", "64:ff9b:1:fffe:c0:2:2100::"),
            ("64:ff9b:1:c000:2:2100::", "64:ff9b:1:c000:2:2100::"),
            // No embedded address.
            ("64:ff9b:0:1::192.0.2.33", "64:ff9b:0:1::"),
            ("64:ff9b:2::192.0.2.33", "64:ff9b:2::"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:1:4136:e378:8000:63bf:3fff:fdde", "2001:1:4136:e378::"),
            ("::1", "::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let counted: IpAddr = counted.parse().unwrap();
            assert_eq!(ClientAddress::from(address).network(), counted.into(), "{address}");
        }
    }
}
