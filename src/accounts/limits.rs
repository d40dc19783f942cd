//! How often a password may be tried: the rule, and what an attempt is counted against.
//!
//! The rule is GCRA (ITU-T I.371, the virtual scheduling algorithm): a bucket is one time, at which everything that was charged
//! to it has drained. Each attempt moves it by one interval; an attempt that would move it further ahead than a burst allows
//! is refused, and told when it would not be. So a refusal is always temporary, and costs the refused nothing.
//!
//! An attempt is counted three times, before the password is looked at: against its address, against the account from
//! this address, and against the account from wherever. The last would let a stranger keep the owner out, so it spares
//! addresses from which the account was lately logged in to. Who attacks from such an address, behind the same router, meets the
//! second; an owner at a new address may have to wait while an attack lasts. Whether an account exists makes no difference.

use crate::clock::{Seconds, UnixTime};
use crate::crypto::keyed_hash::HashKey;
use crate::crypto::purpose::Purpose;

use super::client_address::ClientAddress;

/// How far ahead of a full bucket a time may lie before it is taken for that of a clock that has gone back since.
const CLOCK_SLACK: Seconds = Seconds(3_600);

/// How long an address is remembered from which an account was logged in to.
const REMEMBERED_FOR: Seconds = Seconds(30 * 86_400);

/// So many at once, and so many more in each period, evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least one.
    pub burst: u32,
    /// In which time they are all free again; at least a second for each.
    pub period: Seconds,
}

/// A rate in the unit of time that its bucket is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What one charge adds.
    pub interval: i64,
    /// How far ahead of now a full bucket is.
    pub full: i64,
    /// How much further ahead a time may lie; beyond, it is none that this rule wrote.
    pub slack: i64,
}

impl Rate {
    /// In whole seconds, as the database keeps it.
    #[must_use]
    pub fn in_seconds(self) -> Limit {
        self.limit(self.period.0, CLOCK_SLACK.0)
    }

    /// In milliseconds of monotonic time, which never goes back.
    #[must_use]
    pub fn in_milliseconds(self) -> Limit {
        self.limit(self.period.0.saturating_mul(1_000), 0)
    }

    fn limit(self, period: i64, slack: i64) -> Limit {
        let burst = i64::from(self.burst.max(1));
        let interval = (period / burst).max(1);
        Limit {
            interval,
            full: interval.saturating_mul(burst),
            slack,
        }
    }
}

impl Limit {
    /// The bucket's time after one more charge, or how long to wait for it.
    ///
    /// # Errors
    /// How long it takes until the charge would be taken.
    pub fn charge(self, drained_at: Option<i64>, now: i64) -> Result<i64, i64> {
        let believed = |at: &i64| *at > now && *at <= now.saturating_add(self.full + self.slack);
        let charged = drained_at.filter(believed).unwrap_or(now).saturating_add(self.interval);
        let over = charged.saturating_sub(now.saturating_add(self.full));
        if over > 0 { Err(over) } else { Ok(charged) }
    }

    /// How much of a charge has not drained yet, if the bucket held no more than this charge and those before it, and was empty at this time.
    /// More is never given back: it would be taken from a later charge.
    #[must_use]
    pub fn owed(self, drained_at: i64, now: i64) -> i64 {
        drained_at.saturating_sub(now).clamp(0, self.interval)
    }
}

/// The limits of what proves itself by a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptRates {
    /// Of one address (for IPv6, of its /64), whoever it tries to be.
    pub address: Rate,
    /// Of one account, from addresses at which it was not logged in to lately.
    pub account: Rate,
    /// Of one account from one address.
    pub address_and_account: Rate,
}

/// What is charged for one attempt to one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Its name in the table.
    pub bucket: String,
    /// Its limit, in seconds.
    pub limit: Limit,
}

fn bucket(class: &str, of: &str, key: &HashKey) -> String {
    format!("{class}:{}", key.digest(Purpose::Limit, of))
}

impl Charge {
    fn new(class: &str, of: &str, rate: Rate, key: &HashKey) -> Self {
        Self {
            bucket: bucket(class, of, key),
            limit: rate.in_seconds(),
        }
    }
}

/// An attempt to prove a password: what it is counted against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The account from this address; none when no account is in question.
    pub pair: Option<Charge>,
    /// The account from wherever; none when no account is in question.
    pub account: Option<Charge>,
    /// The address.
    pub address: Charge,
    /// The name under which it is remembered that the account was logged in to from this address.
    pub known: String,
}

impl Attempt {
    /// An attempt from this address to be the account of this normalised e-mail address, whether it exists or not.
    #[must_use]
    pub fn new(email: &str, address: ClientAddress, rates: &AttemptRates, key: &HashKey) -> Self {
        let network = address.network();
        let both = format!("{network} {email}");
        Self {
            pair: Some(Charge::new("pair", &both, rates.address_and_account, key)),
            account: Some(Charge::new("account", email, rates.account, key)),
            known: bucket("known", &both, key),
            ..Self::without_account(network, rates, key)
        }
    }

    /// An attempt from this address that concerns no account yet.
    #[must_use]
    pub fn without_account(address: ClientAddress, rates: &AttemptRates, key: &HashKey) -> Self {
        let network = address.network().to_string();
        Self {
            pair: None,
            account: None,
            address: Charge::new("address", &network, rates.address, key),
            known: String::new(),
        }
    }

    /// What is charged, in the order in which all writers take the rows; `known_until` is what is remembered of the pair.
    ///
    /// The address comes last: many attempts share its row, and hold it for the shortest time.
    #[must_use]
    pub fn charges(&self, known_until: Option<i64>, now: UnixTime) -> Vec<&Charge> {
        let latest = self.remembered_until(now).0.saturating_add(CLOCK_SLACK.0);
        let is_known = known_until.is_some_and(|until| until > now.0 && until <= latest);
        let account = self.account.as_ref().filter(|_| !is_known);
        [self.pair.as_ref(), account, Some(&self.address)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Until when it is remembered that the account was logged in to from here.
    #[must_use]
    pub fn remembered_until(&self, now: UnixTime) -> UnixTime {
        now + REMEMBERED_FOR
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate {
        burst: 5,
        period: Seconds(300),
    };

    fn attempt(email: &str, address: &str) -> Attempt {
        let rates = AttemptRates {
            address: RATE,
            account: RATE,
            address_and_account: RATE,
        };
        Attempt::new(
            email,
            address.parse::<std::net::IpAddr>().unwrap().into(),
            &rates,
            &HashKey::from_bytes([7; 32]),
        )
    }

    #[test]
    fn a_burst_passes_and_then_one_in_each_interval() {
        let limit = RATE.in_seconds();
        let mut bucket = None;
        for _ in 0..5 {
            bucket = Some(limit.charge(bucket, 1_000).unwrap());
        }
        assert_eq!(bucket, Some(1_300));
        assert_eq!(limit.charge(bucket, 1_000), Err(60));
        assert_eq!(limit.charge(bucket, 1_059), Err(1));
        assert_eq!(limit.charge(bucket, 1_060), Ok(1_360));
        assert_eq!(limit.charge(Some(1_360), 1_060), Err(60), "and no more than that");
        assert_eq!(limit.charge(bucket, 1_300), Ok(1_360), "drained");
        assert_eq!(
            limit.charge(bucket, 9_000),
            Ok(9_060),
            "what is not used is not saved up"
        );
    }

    #[test]
    fn of_a_charge_what_has_drained_is_not_owed() {
        let limit = RATE.in_seconds();
        // The second of two charges: the first drains before it.
        for (now, owed) in [
            (1_000, 60),
            (1_060, 60),
            (1_061, 59),
            (1_119, 1),
            (1_120, 0),
            (9_000, 0),
            (0, 60),
        ] {
            assert_eq!(limit.owed(1_120, now), owed, "{now}");
        }
        assert_eq!(limit.owed(i64::MIN, i64::MAX), 0, "and nothing overflows");
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out_for_ever() {
        let limit = RATE.in_seconds();
        let a_year_ahead = Some(1_000 + 365 * 86_400);
        assert_eq!(limit.charge(a_year_ahead, 1_000), Ok(1_060));
        let an_hour_ahead = Some(1_000 + 300 + 3_600);
        assert_eq!(limit.charge(an_hour_ahead, 1_000), Err(3_660));
        assert_eq!(
            limit.charge(Some(i64::MAX), i64::MAX - 10),
            Ok(i64::MAX),
            "and nothing overflows"
        );
    }

    #[test]
    fn units_and_the_least_of_rates() {
        assert_eq!(
            RATE.in_milliseconds(),
            Limit {
                interval: 60_000,
                full: 300_000,
                slack: 0
            }
        );
        let many = Rate {
            burst: 6_000,
            period: Seconds(60),
        };
        assert_eq!(
            many.in_milliseconds(),
            Limit {
                interval: 10,
                full: 60_000,
                slack: 0
            }
        );
        let none = Rate {
            burst: 0,
            period: Seconds(0),
        };
        assert_eq!(none.in_seconds().charge(None, 5), Ok(6));
    }

    proptest! {
        /// Whatever the times, no window of one period sees more than two bursts, and a refusal tells when it would pass.
        #[test]
        fn the_rate_is_kept(steps in proptest::collection::vec(0..90_i64, 1..200)) {
            let limit = RATE.in_seconds();
            let (mut now, mut bucket, mut taken) = (0, None, Vec::new());
            for step in steps {
                now += step;
                match limit.charge(bucket, now) {
                    Ok(charged) => {
                        bucket = Some(charged);
                        taken.push(now);
                    }
                    Err(wait) => {
                        prop_assert!(limit.charge(bucket, now + wait - 1).is_err());
                        prop_assert!(limit.charge(bucket, now + wait).is_ok());
                    }
                }
            }
            for start in &taken {
                let within = taken.iter().filter(|at| (*start..start + 300).contains(*at)).count();
                prop_assert!(within < 2 * 5);
            }
        }
    }

    #[test]
    fn who_shares_a_network_is_counted_together() {
        let same =
            |one: &str, other: &str| attempt("a@example.com", one).address == attempt("a@example.com", other).address;
        assert!(same("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
    }

    #[test]
    fn buckets_are_apart_and_tell_nothing() {
        let one = attempt("a@example.com", "192.0.2.1");
        let other = attempt("b@example.com", "192.0.2.1");
        let elsewhere = attempt("a@example.com", "192.0.2.2");
        assert!(one.address == other.address && one.account != other.account && one.pair != other.pair);
        assert!(one.account == elsewhere.account && one.pair != elsewhere.pair && one.known != elsewhere.known);
        let text = format!("{one:?}");
        assert!(!text.contains("example") && !text.contains("192.0"), "{text}");
    }

    /// A stranger does not lock the owner out of an address that is known.
    #[test]
    fn the_account_is_not_charged_from_a_known_address() {
        let attempt = attempt("a@example.com", "192.0.2.1");
        let now = UnixTime(1_000);
        let (pair, account) = (attempt.pair.as_ref().unwrap(), attempt.account.as_ref().unwrap());
        let all = vec![pair, account, &attempt.address];
        let spared = vec![pair, &attempt.address];
        assert_eq!(attempt.charges(None, now), all);
        assert_eq!(attempt.charges(Some(1_001), now), spared);
        assert_eq!(attempt.charges(Some(1_000), now), all, "forgotten");
        assert_eq!(attempt.charges(Some(attempt.remembered_until(now).0), now), spared);
        assert_eq!(
            attempt.charges(Some(i64::MAX), now),
            all,
            "by a clock that has gone back"
        );
    }
}
