//! The address of a client: what attempts are counted against, and what logs name.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};

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

    /// What is counted as one client: an IPv4 address, the /64 of an IPv6 address (one customer has all of it), or a text.
    #[must_use]
    pub fn network(self) -> Self {
        match self {
            Self::Ip(address) => match address.to_canonical() {
                IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
                address @ IpAddr::V4(_) => Self::Ip(address),
            },
            unreadable @ Self::Unreadable(_) => unreadable,
        }
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
