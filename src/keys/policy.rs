//! How long everything lasts, and the two inequalities that make the promise: no verifier meets an unknown `kid`, and no
//! key leaves while a token it signed lives.

use crate::clock::Seconds;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{KeyParameters, Kid, PublicJwk, set_bytes, sha256_base64url};
use crate::jose::key::RsaBits;

/// The windows as they were written, not yet held against each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// The algorithms that are enabled, each with its own line of keys.
    pub algorithms: Vec<Algorithm>,
    /// Time from one key's activation to the next one's.
    pub rotation_period: Seconds,
    /// Time from a key's publication to its first signature.
    pub prepublish: Seconds,
    /// C: the longest time a verifier may use a cached key set.
    pub verifier_cache: Seconds,
    /// `max-age` of the key set.
    pub jwks_max_age: Seconds,
    /// The bound within which every node follows a change in the database.
    pub replica_refresh: Seconds,
    /// J: a node signs only with a snapshot younger than this.
    pub snapshot_max_age: Seconds,
    /// S: the largest difference between any two clocks.
    pub clock_skew: Seconds,
    /// L: the leeway that verifiers allow.
    pub verifier_leeway: Seconds,
    /// Time a superseded key stays published; none takes the shortest that is safe.
    pub verify_window: Option<Seconds>,
    /// T: the longest lifetime of any token.
    pub max_token_ttl: Seconds,
    /// The most keys the set may hold.
    pub max_published: usize,
    /// The most bytes the set may have.
    pub max_set_bytes: usize,
    /// The size of RSA keys.
    pub rsa_bits: RsaBits,
}

/// Windows that hold: the only thing that the rest of the core accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy(Windows);

/// A window that does not hold: what was given, what is needed, which setting to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A value outside its own range.
    #[error("{setting} is {given}, but must be {needed}")]
    OutOfRange {
        /// The setting's name.
        setting: &'static str,
        /// What was written.
        given: String,
        /// The range.
        needed: String,
    },
    /// A value too short for the others.
    #[error("{setting} is {given}, but at least {needed} is needed ({why}); lengthen {setting} or shorten {instead}")]
    TooShort {
        /// The setting's name.
        setting: &'static str,
        /// What was written.
        given: Seconds,
        /// The sum that it must reach.
        needed: Seconds,
        /// How the sum comes about, in numbers.
        why: String,
        /// The settings that make the sum smaller.
        instead: &'static str,
    },
    /// The key set would outgrow what real caches hold.
    #[error(
        "this policy leads to {leads_to} in the key set, but {setting} is {limit}; lengthen keys.rotation_period (now \
         {rotation_period}), shorten keys.prepublish or tokens.max_token_ttl, or raise {setting}"
    )]
    SetTooLarge {
        /// The limit's name.
        setting: &'static str,
        /// What the policy leads to, with its unit.
        leads_to: String,
        /// The limit.
        limit: usize,
        /// The period that was written.
        rotation_period: Seconds,
    },
}

/// A verifier that fetches too seldom for this policy: it would refuse valid tokens after each rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortForVerifier {
    /// Its name.
    pub verifier: &'static str,
    /// How long a key must be visible before its first signature for this verifier.
    pub needs: Seconds,
    /// For how long after a rotation it may refuse tokens.
    pub refuses_for: Seconds,
}

/// How long a key must be published before first use so that each verifier, with its default cache, meets no unknown
/// `kid`. Measured or read in the sources of the named versions: jose 6.2.17, `PyJWT` 2.15.1, Nimbus 10.9.1, oauth4webapi 3.8, keyfunc
/// 3.7, Envoy 1.40.0, jwx v3, Istio, the AWS documentation, Microsoft.IdentityModel 8.
const VERIFIERS: [(&str, Seconds); 8] = [
    ("npm jose, PyJWT and Nimbus JOSE+JWT", Seconds(30)),
    ("openid-client and oauth4webapi", Seconds(60)),
    ("Go keyfunc, Apigee, Azure API Management", Seconds(300)),
    ("Envoy and Rust jwt-authorizer", Seconds(600)),
    ("Go jwx and Caddy", Seconds(900)),
    ("Istio", Seconds(1_200)),
    ("AWS API Gateway (HTTP API)", Seconds(7_200)),
    (".NET JwtBearer", Seconds(46_800)),
];

impl Policy {
    /// Accepts windows that keep the promise.
    ///
    /// # Errors
    /// The first window that does not hold, in one sentence with the numbers.
    pub fn new(windows: Windows) -> Result<Self, PolicyError> {
        let mut windows = windows;
        windows.algorithms.sort_unstable();
        check_ranges(&windows)?;
        let policy = Self(windows);
        policy.check_windows()?;
        policy.check_capacity()?;
        Ok(policy)
    }

    /// A short digest, so that nodes with different policies can be named.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut digest = sha256_base64url(format!("{:?}", self.0).as_bytes());
        digest.truncate(12);
        digest
    }

    /// The windows as they were accepted.
    #[must_use]
    pub const fn windows(&self) -> &Windows {
        &self.0
    }

    /// The enabled algorithms, in the key set's order.
    #[must_use]
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.0.algorithms
    }

    /// The share of P that an INSERT may take from its `published_at` stamp to its commit.
    #[must_use]
    pub const fn commit_share(&self) -> Seconds {
        self.0.replica_refresh
    }

    /// Half of S: a clock that differs more from the database's is not believed, so that no two believed clocks differ by
    /// more than S.
    #[must_use]
    pub const fn tolerated_difference(&self) -> Seconds {
        Seconds(self.0.clock_skew.0 / 2)
    }

    /// P: the time from a `published_at` stamp until the slowest node serves the new set.
    #[must_use]
    pub fn propagation(&self) -> Seconds {
        self.commit_share() + self.0.replica_refresh
    }

    /// The shortest safe `prepublish`: P + C + S.
    #[must_use]
    pub fn shortest_prepublish(&self) -> Seconds {
        self.propagation() + self.0.verifier_cache + self.0.clock_skew
    }

    /// How long a key that signed tokens of up to `max_token_ttl` stays published after it was superseded:
    /// J + T + L + S, or the configured window where that is longer.
    #[must_use]
    pub fn verify_window(&self, max_token_ttl: Seconds) -> Seconds {
        let derived = self.signing_tail() + max_token_ttl + self.0.verifier_leeway;
        derived.max(self.0.verify_window.unwrap_or(Seconds::ZERO))
    }

    /// J + S: how long after it was superseded a key may still sign on some node, and its private half exists.
    #[must_use]
    pub fn signing_tail(&self) -> Seconds {
        self.0.snapshot_max_age + self.0.clock_skew
    }

    /// The verifiers that would meet an unknown `kid` under this policy, and for how long.
    #[must_use]
    pub fn short_for(&self) -> Vec<ShortForVerifier> {
        let lead = self.0.prepublish - self.propagation() - self.0.clock_skew;
        VERIFIERS
            .into_iter()
            .filter(|&(_, needs)| needs > lead)
            .map(|(verifier, needs)| ShortForVerifier {
                verifier,
                needs,
                refuses_for: needs - lead,
            })
            .collect()
    }

    /// The most keys of one algorithm that are published at once when every rotation happens on time.
    #[must_use]
    pub fn published_per_algorithm(&self) -> usize {
        let visible_beside_active = self.0.prepublish + self.verify_window(self.0.max_token_ttl) + self.propagation();
        let whole_periods = visible_beside_active.0 / self.0.rotation_period.0.max(1);
        usize::try_from(whole_periods).unwrap_or(usize::MAX).saturating_add(2)
    }

    /// The length of one published key of this algorithm, in bytes.
    #[must_use]
    pub fn jwk_bytes(&self, alg: Algorithm) -> usize {
        let octets = |count: usize| "A".repeat((count * 4).div_ceil(3));
        let parameters = match alg {
            Algorithm::Rs256 => KeyParameters::Rsa {
                n: octets(usize::try_from(self.0.rsa_bits.bits() / 8).unwrap_or(usize::MAX)),
                e: "AQAB".to_owned(),
            },
            Algorithm::Es256 => KeyParameters::P256 {
                x: octets(32),
                y: octets(32),
            },
        };
        octets(32)
            .parse::<Kid>()
            .map_or(usize::MAX, |kid| PublicJwk { kid, alg, parameters }.to_json().len())
    }

    fn check_windows(&self) -> Result<(), PolicyError> {
        let windows = &self.0;
        let too_short = |setting, given, needed, why, instead| PolicyError::TooShort {
            setting,
            given,
            needed,
            why,
            instead,
        };
        if windows.verifier_cache < windows.jwks_max_age {
            return Err(too_short(
                "keys.verifier_cache",
                windows.verifier_cache,
                windows.jwks_max_age,
                "a verifier may keep the set for its max-age".to_owned(),
                "keys.jwks_max_age",
            ));
        }
        let two_refreshes = windows.replica_refresh * 2;
        if windows.snapshot_max_age < two_refreshes {
            return Err(too_short(
                "keys.snapshot_max_age",
                windows.snapshot_max_age,
                two_refreshes,
                format!("two refreshes of {}", windows.replica_refresh),
                "keys.replica_refresh",
            ));
        }
        if windows.prepublish < self.shortest_prepublish() {
            return Err(too_short(
                "keys.prepublish",
                windows.prepublish,
                self.shortest_prepublish(),
                format!(
                    "propagation {} + verifier_cache {} + clock_skew {}",
                    self.propagation(),
                    windows.verifier_cache,
                    windows.clock_skew
                ),
                "keys.verifier_cache, keys.replica_refresh or keys.clock_skew",
            ));
        }
        let derived = self.signing_tail() + windows.max_token_ttl + windows.verifier_leeway;
        if let Some(given) = windows.verify_window.filter(|&given| given < derived) {
            return Err(too_short(
                "keys.verify_window",
                given,
                derived,
                format!(
                    "snapshot_max_age {} + max_token_ttl {} + verifier_leeway {} + clock_skew {}",
                    windows.snapshot_max_age, windows.max_token_ttl, windows.verifier_leeway, windows.clock_skew
                ),
                "tokens.max_token_ttl, or leave keys.verify_window out",
            ));
        }
        Ok(())
    }

    /// The most keys that are published at once when every rotation happens on time, and their length in bytes.
    #[must_use]
    pub fn largest_set(&self) -> (usize, usize) {
        let per_algorithm = self.published_per_algorithm();
        let keys = per_algorithm.saturating_mul(self.algorithms().len());
        let lengths = self
            .algorithms()
            .iter()
            .flat_map(|&alg| std::iter::repeat_n(self.jwk_bytes(alg), per_algorithm.min(1_000)));
        (keys, set_bytes(lengths))
    }

    fn check_capacity(&self) -> Result<(), PolicyError> {
        let windows = &self.0;
        let (keys, bytes) = self.largest_set();
        if keys > windows.max_published {
            return Err(PolicyError::SetTooLarge {
                setting: "keys.max_published",
                leads_to: format!("{keys} keys"),
                limit: windows.max_published,
                rotation_period: windows.rotation_period,
            });
        }
        if bytes > windows.max_set_bytes {
            return Err(PolicyError::SetTooLarge {
                setting: "keys.max_set_bytes",
                leads_to: format!("{bytes} bytes"),
                limit: windows.max_set_bytes,
                rotation_period: windows.rotation_period,
            });
        }
        Ok(())
    }
}

fn check_ranges(windows: &Windows) -> Result<(), PolicyError> {
    let require = |holds: bool, setting, given: String, needed: &str| {
        if holds {
            return Ok(());
        }
        Err(PolicyError::OutOfRange {
            setting,
            given,
            needed: needed.to_owned(),
        })
    };
    let distinct = windows.algorithms.windows(2).all(|pair| pair[0] != pair[1]);
    require(
        distinct && !windows.algorithms.is_empty(),
        "keys.algorithms",
        format!(
            "{:?}",
            windows.algorithms.iter().map(|alg| alg.name()).collect::<Vec<_>>()
        ),
        "one or more of RS256 and ES256, each once",
    )?;
    if windows.rotation_period == Seconds::ZERO {
        return require(
            false,
            "keys.rotation_period",
            Seconds::ZERO.to_string(),
            "at least 1s, such as 30d: each key signs for this long before the next one",
        );
    }
    let shortest = [
        ("keys.rotation_period", windows.rotation_period, Seconds(1)),
        ("keys.replica_refresh", windows.replica_refresh, Seconds(1)),
        // Clocks are read in whole seconds: half of S must still be one.
        ("keys.clock_skew", windows.clock_skew, Seconds(2)),
        ("keys.verifier_cache", windows.verifier_cache, Seconds::ZERO),
        ("keys.jwks_max_age", windows.jwks_max_age, Seconds::ZERO),
        ("keys.verifier_leeway", windows.verifier_leeway, Seconds::ZERO),
        ("tokens.max_token_ttl", windows.max_token_ttl, Seconds(1)),
    ];
    for (setting, given, least) in shortest {
        require(given >= least, setting, given.to_string(), &format!("at least {least}"))?;
    }
    require(
        (1..=100).contains(&windows.max_published),
        "keys.max_published",
        windows.max_published.to_string(),
        "1 to 100",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Windows {
        Windows {
            algorithms: vec![Algorithm::Es256, Algorithm::Rs256],
            rotation_period: Seconds(30 * 86_400),
            prepublish: Seconds(86_400),
            verifier_cache: Seconds(1_800),
            jwks_max_age: Seconds(300),
            replica_refresh: Seconds(5),
            snapshot_max_age: Seconds(30),
            clock_skew: Seconds(60),
            verifier_leeway: Seconds(300),
            verify_window: None,
            max_token_ttl: Seconds(3_600),
            max_published: 16,
            max_set_bytes: 8_192,
            rsa_bits: RsaBits::Bits2048,
        }
    }

    #[test]
    fn the_default_windows_come_out_as_computed_by_hand() {
        let policy = Policy::new(defaults()).unwrap();
        assert_eq!(policy.algorithms(), [Algorithm::Rs256, Algorithm::Es256]);
        assert_eq!(policy.propagation(), Seconds(10));
        assert_eq!(policy.shortest_prepublish(), Seconds(10 + 1_800 + 60));
        assert_eq!(policy.verify_window(Seconds(3_600)), Seconds(30 + 3_600 + 300 + 60));
        assert_eq!(policy.signing_tail(), Seconds(90));
        // A day ahead and little over an hour after: never more than the active key and one beside it.
        assert_eq!(policy.published_per_algorithm(), 2);
        assert!(policy.short_for().is_empty());
    }

    #[test]
    fn a_lead_that_is_too_short_is_refused_with_its_sum() {
        let refused = Policy::new(Windows {
            prepublish: Seconds(1_869),
            ..defaults()
        });
        assert_eq!(
            refused.unwrap_err().to_string(),
            "keys.prepublish is 31m9s, but at least 31m10s is needed (propagation 10s + verifier_cache 30m + clock_skew \
             1m); lengthen keys.prepublish or shorten keys.verifier_cache, keys.replica_refresh or keys.clock_skew"
        );
    }

    #[test]
    fn a_set_that_outgrows_caches_is_refused_with_its_count() {
        let refused = Policy::new(Windows {
            rotation_period: Seconds(3_600),
            ..defaults()
        });
        // 86,400 + 3,990 + 10 seconds are 25 whole hours, and two more: 27 keys for each of two algorithms.
        let sentence = refused.unwrap_err().to_string();
        assert!(
            sentence.contains("54 keys") && sentence.contains("keys.max_published is 16"),
            "{sentence}"
        );
    }

    #[test]
    fn verifiers_that_fetch_too_seldom_are_named_with_their_gap() {
        let policy = Policy::new(Windows {
            prepublish: Seconds(1_870),
            ..defaults()
        });
        let short: Vec<_> = policy
            .unwrap()
            .short_for()
            .iter()
            .map(|short| (short.needs, short.refuses_for))
            .collect();
        assert_eq!(
            short,
            [(Seconds(7_200), Seconds(5_400)), (Seconds(46_800), Seconds(45_000))]
        );
    }
}
