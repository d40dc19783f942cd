//! What a key is at a moment: pending, active, retired, expired or revoked (NIST SP 800-57 part 1 section 7).

use std::fmt;

use serde::Serialize;

use crate::clock::UnixTime;
use crate::jose::alg::Algorithm;
use crate::jose::jwk::Kid;

use super::SigningKey;
use super::policy::Policy;

/// What a key is at a moment. Never stored: it follows from the row, its line, the policy and the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Published, and not signing yet.
    Pending,
    /// The one that signs.
    Active,
    /// Superseded, and still published because a token it signed may live.
    Retired,
    /// Out of the set; nothing it signed is valid any more.
    Expired,
    /// Out of the set, and nothing it signed is accepted.
    Revoked,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Retired, Self::Expired, Self::Revoked];

    /// Whether a key in this state stands in the key set.
    #[must_use]
    pub const fn is_published(self) -> bool {
        matches!(self, Self::Pending | Self::Active | Self::Retired)
    }

    /// The state in lower case, as every output writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// All rows, each algorithm's in the order of its generations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<SigningKey>);

impl Keys {
    /// Puts rows in order.
    #[must_use]
    pub fn new(mut rows: Vec<SigningKey>) -> Self {
        rows.sort_by_key(|key| (key.alg, key.generation));
        Self(rows)
    }

    /// Every row, by algorithm and generation.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &SigningKey> {
        self.0.iter()
    }

    /// Whether there is no row at all: a first start.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The row of this name.
    #[must_use]
    pub fn find(&self, kid: &Kid) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.kid == *kid)
    }

    /// The rows of one algorithm, oldest generation first.
    #[must_use]
    pub fn line(&self, alg: Algorithm) -> &[SigningKey] {
        let from = self.0.partition_point(|key| key.alg < alg);
        let to = self.0.partition_point(|key| key.alg <= alg);
        &self.0[from..to]
    }

    /// The algorithms that have a row.
    #[must_use]
    pub fn algorithms(&self) -> Vec<Algorithm> {
        Algorithm::ALL
            .into_iter()
            .filter(|&alg| !self.line(alg).is_empty())
            .collect()
    }

    /// When a later generation takes over from this key; none while there is no such generation.
    #[must_use]
    pub fn superseded_at(&self, key: &SigningKey) -> Option<UnixTime> {
        self.line(key.alg)
            .iter()
            .filter(|later| later.generation > key.generation && !later.was_revoked_before_activation())
            // I1: a replacement is back-dated so that slow clocks sign with it, but it takes over from its insertion at the
            // earliest. Else the key that was superseded just before would end up to S too early.
            .map(|later| later.activates_at.max(later.published_at))
            .min()
    }

    /// The key of this algorithm that signs now; none before its first activation and after its removal.
    #[must_use]
    pub fn active(&self, alg: Algorithm, now: UnixTime) -> Option<&SigningKey> {
        let line = self.line(alg);
        let mut activated = line
            .iter()
            .rev()
            .filter(|key| key.revoked_at.is_none() && key.activates_at <= now);
        let newest = activated.clone().next();
        if newest.is_some_and(SigningKey::is_keyless) {
            return None;
        }
        activated.find(|key| key.has_private_half).or_else(|| stand_in(line))
    }

    /// Whether the newest activated generation marks the removal of this algorithm.
    #[must_use]
    pub fn is_removed(&self, alg: Algorithm, now: UnixTime) -> bool {
        self.line(alg)
            .iter()
            .rev()
            .find(|key| key.revoked_at.is_none() && key.activates_at <= now)
            .is_some_and(SigningKey::is_keyless)
    }

    /// When this key leaves the key set; none while nothing supersedes it.
    #[must_use]
    pub fn expires_at(&self, key: &SigningKey, policy: &Policy) -> Option<UnixTime> {
        self.superseded_at(key)
            .map(|superseded_at| superseded_at + policy.verify_window(key.max_token_ttl))
    }

    /// What this key is at this moment.
    #[must_use]
    pub fn state(&self, key: &SigningKey, policy: &Policy, now: UnixTime) -> State {
        if key.revoked_at.is_some() {
            return State::Revoked;
        }
        if self.active(key.alg, now).is_some_and(|active| active.kid == key.kid) {
            return State::Active;
        }
        // A pending key that was outranked is superseded before its own time comes, and never signs.
        match self.superseded_at(key) {
            Some(superseded_at) if superseded_at <= now => {
                if superseded_at + policy.verify_window(key.max_token_ttl) <= now {
                    State::Expired
                } else {
                    State::Retired
                }
            }
            _ if now < key.activates_at => State::Pending,
            _ => State::Retired,
        }
    }

    /// When the next generation is to sign: the earliest pending key's time, else when the schedule will have one sign;
    /// in the past when it is late. None for an algorithm that is not enabled.
    #[must_use]
    pub fn next_activation(&self, alg: Algorithm, policy: &Policy, now: UnixTime) -> Option<UnixTime> {
        let pending = self
            .line(alg)
            .iter()
            .filter(|key| self.state(key, policy, now) == State::Pending && !key.is_keyless())
            .map(|key| key.activates_at)
            .min();
        pending.or_else(|| {
            let active = self.active(alg, now)?;
            Some(active.activates_at + policy.windows().rotation_period)
        })
    }

    /// The keys that stand in the set at this moment, with their states.
    pub fn published<'a>(
        &'a self,
        policy: &'a Policy,
        now: UnixTime,
    ) -> impl Iterator<Item = (&'a SigningKey, State)> + 'a {
        self.0
            .iter()
            .filter(|key| !key.is_keyless())
            .map(move |key| (key, self.state(key, policy, now)))
            .filter(|(_, state)| state.is_published())
    }
}

/// Who signs when a clock that stepped back leaves no activated key: the oldest generation that still can, except an
/// algorithm's very first key while it waits for its time.
fn stand_in(line: &[SigningKey]) -> Option<&SigningKey> {
    let oldest = line
        .iter()
        .find(|key| key.revoked_at.is_none() && key.has_private_half)?;
    let earlier = || line.iter().filter(|key| key.generation < oldest.generation);
    // I2: after a removal a line begins anew, so its first key waits like any first key.
    let begins_after = earlier()
        .rfind(|key| key.is_keyless())
        .map_or(0, |removal| removal.generation);
    let never_active = earlier()
        .filter(|key| key.generation > begins_after && key.was_revoked_before_activation())
        .count();
    // Purged generations are missing from the line, but each of them was once activated or outranked.
    let is_first = i64::try_from(never_active).is_ok_and(|count| count == oldest.generation - begins_after - 1);
    (!(oldest.was_prepublished() && is_first)).then_some(oldest)
}
