//! How often sessions may be refreshed and logins with other providers begun: kept in memory, for each node by itself, because
//! neither is a guess at anything.
//!
//! A client that presents one token 64 times at once, from all its tabs, is honest and meets no limit.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use super::client_address::ClientAddress;
use super::limits::{Limit, Rate};
use crate::clock::Seconds;

/// How many buckets of a kind are kept. When all are in use, who comes new is not counted: better that than to refuse the honest.
const MOST: usize = 65_536;

/// How often logins with other providers may begin from one address. Each is a row for ten minutes, whether or not anybody comes back;
/// many people may share the address.
const FEDERATED_LOGINS: Rate = Rate {
    burst: 600,
    period: Seconds(600),
};

/// How often one client may deny its tokens, or the tokens of one session. Each is remembered until no verifier accepts it.
pub const REVOCATIONS: Rate = Rate {
    burst: 600,
    period: Seconds(600),
};

/// How often a full table is searched for buckets that have drained.
const SWEEP_EVERY: i64 = 1_000;

/// The buckets of one kind, in milliseconds of monotonic time.
#[derive(Debug)]
struct Buckets<K> {
    limit: Limit,
    drained_at: HashMap<K, i64>,
    next_sweep: i64,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(rate: Rate) -> Self {
        Self {
            limit: rate.in_milliseconds(),
            drained_at: HashMap::new(),
            next_sweep: 0,
        }
    }

    fn charge(&mut self, key: K, now: Duration) -> Result<(), Seconds> {
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let known = self.drained_at.get(&key).copied();
        let charged = self.limit.charge(known, now).map_err(in_whole_seconds)?;
        if known.is_none() && self.drained_at.len() >= MOST && now >= self.next_sweep {
            self.drained_at.retain(|_, at| *at > now);
            self.next_sweep = now.saturating_add(SWEEP_EVERY);
        }
        if known.is_some() || self.drained_at.len() < MOST {
            self.drained_at.insert(key, charged);
        }
        Ok(())
    }
}

fn in_whole_seconds(milliseconds: i64) -> Seconds {
    Seconds(milliseconds.saturating_add(999) / 1_000)
}

/// The limits of this node.
#[derive(Debug)]
pub struct NodeLimits {
    families: Buckets<String>,
    addresses: Buckets<ClientAddress>,
    federated_logins: Buckets<ClientAddress>,
    revocations: Buckets<String>,
}

impl NodeLimits {
    /// Limits that nobody has used up anything of.
    #[must_use]
    pub fn new(family: Rate, address: Rate) -> Self {
        Self {
            families: Buckets::new(family),
            addresses: Buckets::new(address),
            federated_logins: Buckets::new(FEDERATED_LOGINS),
            revocations: Buckets::new(REVOCATIONS),
        }
    }

    /// Counts a refresh against where it comes from, at this monotonic time; before the token is read.
    ///
    /// # Errors
    /// How long to wait.
    pub fn charge_address(&mut self, address: ClientAddress, now: Duration) -> Result<(), Seconds> {
        self.addresses.charge(address.network(), now)
    }

    /// Counts a login with another provider against where it begins, at this monotonic time; before anything is written.
    ///
    /// # Errors
    /// How long to wait.
    pub fn charge_federated_login(&mut self, address: ClientAddress, now: Duration) -> Result<(), Seconds> {
        self.federated_logins.charge(address.network(), now)
    }

    /// Counts a denied token against the client or session whose it is, at this monotonic time.
    ///
    /// # Errors
    /// How long to wait.
    pub fn charge_revocation(&mut self, whose: &str, now: Duration) -> Result<(), Seconds> {
        self.revocations.charge(whose.to_owned(), now)
    }

    /// Counts a refresh against its family, at this monotonic time; after the token's tag was found to be ours, so that nobody
    /// uses up what belongs to others.
    ///
    /// # Errors
    /// How long to wait.
    pub fn charge_family(&mut self, family: &str, now: Duration) -> Result<(), Seconds> {
        self.families.charge(family.to_owned(), now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn limits() -> NodeLimits {
        let family = Rate {
            burst: 128,
            period: Seconds(128),
        };
        let address = Rate {
            burst: 1_000,
            period: Seconds(10),
        };
        NodeLimits::new(family, address)
    }

    const NOW: Duration = Duration::from_millis(5);

    #[test]
    fn sixty_four_at_once_are_honest_and_a_storm_is_not() {
        let mut limits = limits();
        for _ in 0..128 {
            assert_eq!(limits.charge_family("storm", NOW), Ok(()));
        }
        assert_eq!(limits.charge_family("storm", NOW), Err(Seconds(1)));
        assert_eq!(limits.charge_family("other", NOW), Ok(()), "R13: others go on");
        let later = NOW + Duration::from_secs(64);
        for _ in 0..64 {
            assert_eq!(limits.charge_family("storm", later), Ok(()));
        }
        assert_eq!(limits.charge_family("storm", later), Err(Seconds(1)));
    }

    #[test]
    fn an_address_has_its_own_limit() {
        let mut limits = limits();
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        for host in 0..1_000 {
            let of_the_network = format!("2001:db8::{host:x}");
            assert_eq!(limits.charge_address(address(&of_the_network), NOW), Ok(()));
        }
        assert_eq!(limits.charge_address(address("2001:db8::ffff"), NOW), Err(Seconds(1)));
        assert_eq!(limits.charge_address(address("2001:db8:0:1::1"), NOW), Ok(()));
        let later = NOW + Duration::from_millis(10);
        assert_eq!(limits.charge_address(address("2001:db8::1"), later), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_what_has_drained_makes_room() {
        let mut limits = limits();
        for number in 0..=u32::try_from(MOST).unwrap() {
            assert_eq!(limits.charge_address(IpAddr::V4(number.into()).into(), NOW), Ok(()));
        }
        assert_eq!(limits.addresses.drained_at.len(), MOST);
        let later = NOW + Duration::from_secs(2);
        assert_eq!(limits.charge_address(IpAddr::V4(u32::MAX.into()).into(), later), Ok(()));
        assert_eq!(limits.addresses.drained_at.len(), 1);
    }
}
