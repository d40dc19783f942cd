//! What it costs to check a password, and the bound on what a refused login costs.
//!
//! A refused login is the same work for every account and for none: the check of the stored hash, and then everything that the
//! hash of another account would cost more. So its work grows with each kind of hash that is stored. [`MAX_REFUSED_LOGIN`] bounds
//! it: a hash whose kind would bring the work of all kinds beyond it is not imported. If a database holds more (from an earlier
//! version, or because the cost of new passwords was raised), a refused login still costs no more than the bound, filled up to it by
//! estimates, so that times differ by the error of the estimates only.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;

use argon2::Algorithm;

use super::derived::{self, Derived};
use super::{Argon2Hash, BCRYPT_COSTS, HashingFailed, KEYED, OF_DJANGO_SHA256, Password, PasswordHash, keyed};
use crate::crypto::key_derivation::Pbkdf2Digest;
use crate::crypto::keyed_hash::HashKey;

/// The most work of a refused login, in the time of one core that checks bcrypt of cost 12 in 250 ms. It is one check of bcrypt at
/// the highest cost.
pub const MAX_REFUSED_LOGIN: Duration = Duration::from_secs(2);

/// What checking a hash costs: its function, with what makes it dear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashCost {
    /// 2^cost rounds of bcrypt.
    Bcrypt {
        /// The cost, within [`BCRYPT_COSTS`](super::BCRYPT_COSTS).
        cost: u32,
    },
    /// Argon2, version 19.
    Argon2 {
        /// Argon2id, not Argon2i.
        is_id: bool,
        /// Memory in KiB.
        memory: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// PBKDF2.
    Pbkdf2 {
        /// The digest of its HMAC.
        digest: Pbkdf2Digest,
        /// Iterations times blocks of output.
        rounds: u32,
    },
    /// scrypt.
    Scrypt {
        /// The logarithm of N to the base 2.
        log_n: u8,
        /// The size of a block.
        r: u32,
        /// How often it is all done.
        p: u32,
    },
}

/// What the stored hashes of passwords cost to check, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredCosts {
    /// Each cost once.
    Known(BTreeSet<HashCost>),
    /// The database did not tell them.
    Unknown,
}

impl StoredCosts {
    /// What a check of `own` lacks to the work of a refused login, as further checks. Without the costs, every refused login is filled up
    /// to the bound: that needs no knowledge of other accounts.
    #[must_use]
    pub fn lacking(&self, own: Option<HashCost>) -> Vec<HashCost> {
        match self {
            Self::Known(all) => HashCost::lacking(own, all),
            Self::Unknown => HashCost::up_to_bound(own),
        }
    }
}

/// One round of bcrypt: 250 ms for cost 12.
const NANOSECONDS_OF_BCRYPT: u64 = 61_035;
/// One KiB in one pass of Argon2.
const NANOSECONDS_OF_ARGON2: u64 = 1_000;
/// One block of 128 octets of scrypt.
const NANOSECONDS_OF_SCRYPT: u64 = 430;

/// One round of PBKDF2.
const fn nanoseconds_of_pbkdf2(digest: Pbkdf2Digest) -> u64 {
    match digest {
        Pbkdf2Digest::Sha1 => 250,
        Pbkdf2Digest::Sha256 => 350,
        Pbkdf2Digest::Sha512 => 700,
    }
}

impl HashCost {
    /// Reads it from the beginning of a stored hash, up to its salt.
    #[must_use]
    pub fn parse(stored: &str) -> Option<Self> {
        if ["$pbkdf2", "$scrypt"].iter().any(|word| stored.starts_with(word)) {
            return Derived::cost_of(stored);
        }
        let modular = [KEYED, OF_DJANGO_SHA256]
            .iter()
            .find_map(|word| stored.strip_prefix(word))
            .unwrap_or(stored);
        // A salt and a hash of the right lengths, whose content does not matter.
        let whole = if modular.starts_with("$argon2") {
            format!("{modular}{0}${0}", "A".repeat(22))
        } else {
            format!("{modular}{}", "e".repeat(53))
        };
        PasswordHash::parse(&whole).ok().map(|hash| hash.cost())
    }

    /// Its work, in the time of one core that checks bcrypt of cost 12 in 250 ms. The other functions are estimated.
    #[must_use]
    pub fn estimate(self) -> Duration {
        let nanoseconds = match self {
            Self::Bcrypt { cost } => NANOSECONDS_OF_BCRYPT << cost.min(32),
            Self::Argon2 { memory, passes, .. } => {
                NANOSECONDS_OF_ARGON2.saturating_mul(u64::from(memory).saturating_mul(passes.into()))
            }
            Self::Pbkdf2 { digest, rounds } => nanoseconds_of_pbkdf2(digest).saturating_mul(rounds.into()),
            Self::Scrypt { log_n, r, p } => {
                let blocks = u64::from(r).saturating_mul(p.into());
                NANOSECONDS_OF_SCRYPT.saturating_mul(blocks << log_n.min(32))
            }
        };
        Duration::from_nanos(nanoseconds)
    }

    /// What a refused login would cost if these costs are stored and nothing bounds it.
    #[must_use]
    pub fn of_refused_login(all: &BTreeSet<Self>) -> Duration {
        Self::all_lacking(None, all).into_iter().map(Self::estimate).sum()
    }

    /// What a check of `own` lacks to the work of a refused login, as further checks: together they are the same work for every `own`
    /// in `all`, and for none. They are at most [`MAX_REFUSED_LOGIN`].
    #[must_use]
    pub fn lacking(own: Option<Self>, all: &BTreeSet<Self>) -> Vec<Self> {
        let mut lacking = Self::all_lacking(own, all);
        if Self::of_refused_login(all) <= MAX_REFUSED_LOGIN {
            return lacking;
        }
        let mut rest = MAX_REFUSED_LOGIN.saturating_sub(own.map(Self::estimate).unwrap_or_default());
        lacking.sort_by_key(|cost| cost.estimate());
        lacking.retain(|cost| {
            let left = rest.checked_sub(cost.estimate());
            rest = left.unwrap_or(rest);
            left.is_some()
        });
        let digest = Pbkdf2Digest::Sha256;
        let rounds = rest.as_nanos() / u128::from(nanoseconds_of_pbkdf2(digest));
        let fill = u32::try_from(rounds).ok().filter(|&rounds| rounds > 0);
        lacking.extend(fill.map(|rounds| Self::Pbkdf2 { digest, rounds }));
        lacking
    }

    /// What `own` lacks to [`MAX_REFUSED_LOGIN`]: exactly so if it is bcrypt, by estimates otherwise.
    fn up_to_bound(own: Option<Self>) -> Vec<Self> {
        let mut rest = MAX_REFUSED_LOGIN.saturating_sub(own.map(Self::estimate).unwrap_or_default());
        let costs = BCRYPT_COSTS.rev().map(|cost| Self::Bcrypt { cost });
        costs
            .filter(|cost| {
                let left = rest.checked_sub(cost.estimate());
                rest = left.unwrap_or(rest);
                left.is_some()
            })
            .collect()
    }

    /// What lacks if nothing bounds it: 2^n rounds of bcrypt are 2^m, 2^m, 2^(m+1) and so on up to 2^(n-1), and rounds of PBKDF2
    /// with one digest add up; what Argon2 and scrypt take depends on the memory of the machine, so each of their costs is paid as
    /// a whole.
    fn all_lacking(own: Option<Self>, all: &BTreeSet<Self>) -> Vec<Self> {
        let of_bcrypt = |cost: &Self| match cost {
            Self::Bcrypt { cost } => Some(*cost),
            _ => None,
        };
        let highest = all.iter().filter_map(of_bcrypt).max();
        let bcrypt = match (own.as_ref().and_then(of_bcrypt), highest) {
            (Some(own), Some(highest)) => own..highest,
            (None, Some(highest)) => highest..highest + 1,
            (_, None) => 0..0,
        };
        let whole = all
            .iter()
            .filter(|cost| matches!(cost, Self::Argon2 { .. } | Self::Scrypt { .. }) && Some(**cost) != own);
        bcrypt
            .map(|cost| Self::Bcrypt { cost })
            .chain(
                Pbkdf2Digest::ALL
                    .into_iter()
                    .filter_map(|digest| Self::lacking_pbkdf2(digest, own, all)),
            )
            .chain(whole.copied())
            .collect()
    }

    /// Rounds of PBKDF2 with this digest.
    fn lacking_pbkdf2(digest: Pbkdf2Digest, own: Option<Self>, all: &BTreeSet<Self>) -> Option<Self> {
        let rounds = |cost: &Self| match cost {
            Self::Pbkdf2 { digest: of, rounds } if *of == digest => Some(*rounds),
            _ => None,
        };
        let highest = all.iter().filter_map(rounds).max()?;
        let rounds = highest.saturating_sub(own.as_ref().and_then(rounds).unwrap_or(0));
        (rounds > 0).then_some(Self::Pbkdf2 { digest, rounds })
    }

    /// Spends it.
    ///
    /// # Errors
    /// [`HashingFailed::Function`].
    pub fn spend(self, password: &Password, key: &HashKey) -> Result<(), HashingFailed> {
        let digest = keyed(password, key);
        let salt = [0; 16];
        match self {
            Self::Bcrypt { cost } => {
                let hashed = bcrypt::hash_with_salt(digest.as_bytes(), cost, salt);
                black_box(hashed.map_err(|_| HashingFailed::Function)?);
            }
            Self::Argon2 {
                is_id,
                memory,
                passes,
                lanes,
            } => {
                let hash = Argon2Hash {
                    algorithm: if is_id { Algorithm::Argon2id } else { Algorithm::Argon2i },
                    memory,
                    passes,
                    lanes,
                    salt: salt.to_vec(),
                    output: vec![0; 32],
                };
                black_box(hash.compute(digest.as_bytes())?);
            }
            Self::Pbkdf2 { digest: of, rounds } => {
                black_box(derived::spend_pbkdf2(of, rounds, digest.as_bytes())?);
            }
            Self::Scrypt { log_n, r, p } => {
                black_box(derived::spend_scrypt(log_n, r, p, digest.as_bytes())?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Rounds of bcrypt and of PBKDF2, and the costs that are paid as a whole.
    fn work(costs: impl IntoIterator<Item = HashCost>) -> (u64, BTreeMap<Pbkdf2Digest, u64>, BTreeSet<HashCost>) {
        let mut sum = (0, BTreeMap::new(), BTreeSet::new());
        for cost in costs {
            match cost {
                HashCost::Bcrypt { cost } => sum.0 += 1_u64 << cost,
                HashCost::Pbkdf2 { digest, rounds } => *sum.1.entry(digest).or_default() += u64::from(rounds),
                whole => assert!(sum.2.insert(whole), "{whole:?} is paid twice"),
            }
        }
        sum
    }

    #[test]
    fn without_the_costs_every_refusal_is_filled_up_to_the_bound() {
        let argon2 = HashCost::Argon2 {
            is_id: true,
            memory: 19_456,
            passes: 2,
            lanes: 1,
        };
        let owns = BCRYPT_COSTS.map(|cost| Some(HashCost::Bcrypt { cost }));
        for own in owns.chain([None, Some(argon2)]) {
            let work: Duration = StoredCosts::Unknown
                .lacking(own)
                .into_iter()
                .chain(own)
                .map(HashCost::estimate)
                .sum();
            assert!(work <= MAX_REFUSED_LOGIN, "{own:?}: {work:?}");
            // The cheapest bcrypt is the step of the filling.
            let step = HashCost::Bcrypt {
                cost: *BCRYPT_COSTS.start(),
            }
            .estimate()
                * 2;
            assert!(MAX_REFUSED_LOGIN < work + step, "{own:?}: {work:?}");
        }
    }

    #[test]
    fn a_wrong_password_is_the_same_work_whatever_is_stored() {
        let argon2 = |memory| HashCost::Argon2 {
            is_id: memory != 256,
            memory,
            passes: 2,
            lanes: 1,
        };
        let bcrypt = |cost| HashCost::Bcrypt { cost };
        let pbkdf2 = |digest, rounds| HashCost::Pbkdf2 { digest, rounds };
        let scrypt = |log_n| HashCost::Scrypt { log_n, r: 8, p: 1 };
        let every = [
            bcrypt(4),
            bcrypt(10),
            bcrypt(15),
            argon2(64),
            argon2(65_536),
            pbkdf2(Pbkdf2Digest::Sha256, 260_000),
            pbkdf2(Pbkdf2Digest::Sha256, 1_000_000),
            pbkdf2(Pbkdf2Digest::Sha256, 1_200_000),
            pbkdf2(Pbkdf2Digest::Sha512, 210_000),
            pbkdf2(Pbkdf2Digest::Sha1, 1_000),
            scrypt(14),
            scrypt(15),
        ];
        // Every mix.
        for mix in 1..1_u32 << every.len() {
            let all: BTreeSet<HashCost> = (0..every.len())
                .filter(|at| mix >> at & 1 == 1)
                .map(|at| every[at])
                .collect();
            let unknown = work(HashCost::all_lacking(None, &all));
            assert!(
                unknown.0 > 0 || !unknown.1.is_empty() || !unknown.2.is_empty(),
                "an unknown account costs nothing"
            );
            for own in &all {
                let lacking = HashCost::all_lacking(Some(*own), &all);
                assert_eq!(work(lacking.into_iter().chain([*own])), unknown, "{own:?} in {all:?}");
            }
        }
    }

    fn argon2(memory: u32, passes: u32) -> HashCost {
        let (is_id, lanes) = (true, 1);
        HashCost::Argon2 {
            is_id,
            memory,
            passes,
            lanes,
        }
    }

    #[test]
    fn no_mix_of_stored_hashes_makes_a_refused_login_cost_more_than_the_bound() {
        let bcrypt = (4..=15).map(|cost| HashCost::Bcrypt { cost });
        let of_argon2 = (1..=10).flat_map(|passes| (1..=64).map(move |of| argon2(of * 1024, passes)));
        let of_pbkdf2 = [
            (Pbkdf2Digest::Sha1, 2_000_000),
            (Pbkdf2Digest::Sha256, 2_000_000),
            (Pbkdf2Digest::Sha512, 1_000_000),
        ]
        .map(|(digest, rounds)| HashCost::Pbkdf2 { digest, rounds });
        let of_scrypt = (1..=16).map(|p| HashCost::Scrypt { log_n: 13, r: 8, p });
        let every: Vec<HashCost> = bcrypt.chain(of_argon2).chain(of_pbkdf2).chain(of_scrypt).collect();
        for cost in &every {
            assert!(
                cost.estimate() <= MAX_REFUSED_LOGIN,
                "{cost:?} alone: {:?}",
                cost.estimate()
            );
        }
        // More and more kinds, the dearest first and the cheapest first.
        for is_reversed in [false, true] {
            let mut all = BTreeSet::new();
            let mut order = every.clone();
            order.sort_by_key(|cost| cost.estimate());
            if is_reversed {
                order.reverse();
            }
            for (count, cost) in order.into_iter().enumerate() {
                all.insert(cost);
                if count % 37 != 0 && count > 20 {
                    continue;
                }
                let unbounded = HashCost::of_refused_login(&all);
                let least = unbounded
                    .min(MAX_REFUSED_LOGIN)
                    .saturating_sub(Duration::from_micros(1));
                for own in all.iter().copied().map(Some).chain([None]) {
                    let work = HashCost::lacking(own, &all).into_iter().chain(own);
                    let work: Duration = work.map(HashCost::estimate).sum();
                    assert!(
                        (least..=MAX_REFUSED_LOGIN).contains(&work),
                        "{own:?} among {count} others: {work:?}"
                    );
                }
            }
        }
    }
}
