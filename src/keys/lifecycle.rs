//! What a key is at a moment: pending, active, retired, expired or revoked (NIST SP 800-57 part 1 section 7).

use crate::clock::{Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwk::{Kid, PublicJwk};

use super::SigningKey;
use super::kept::Kept;
use super::policy::Policy;
use super::state::State;
use super::verifying::VerifyingKey;

/// All rows, each algorithm's in the order of its generations, the keys that only verify, and which keys stay longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<SigningKey>, Vec<VerifyingKey>, Option<Kept>);

impl Keys {
    /// Puts rows in order.
    #[must_use]
    pub fn new(mut rows: Vec<SigningKey>) -> Self {
        rows.sort_by_key(|key| (key.alg, key.generation));
        Self(rows, Vec::new(), None)
    }

    /// The same with these keys to verify with.
    #[must_use]
    pub fn with_verifying(mut self, mut rows: Vec<VerifyingKey>) -> Self {
        rows.sort_by(|a, b| (a.jwk.alg, &a.jwk.kid).cmp(&(b.jwk.alg, &b.jwk.kid)));
        self.1 = rows;
        self
    }

    /// The same with these keys kept longer.
    #[must_use]
    pub const fn with_kept(mut self, kept: Option<Kept>) -> Self {
        self.2 = kept;
        self
    }

    /// Which keys are kept longer, because time has leapt.
    #[must_use]
    pub const fn kept(&self) -> Option<Kept> {
        self.2
    }

    /// The longest lifetime of any token that a key has signed or may sign.
    #[must_use]
    pub fn longest_token(&self, policy: &Policy) -> Seconds {
        let longest = self.0.iter().map(|key| key.max_token_ttl).max();
        longest.unwrap_or(Seconds::ZERO).max(policy.windows().max_token_ttl)
    }

    /// Whether a token may still be valid that a node in doubt signed before time leapt.
    #[must_use]
    pub fn is_keeping(&self, policy: &Policy, now: UnixTime) -> bool {
        let end = |kept: Kept| kept.expires_at(kept.at, self.longest_token(policy), policy);
        self.2.and_then(end).is_some_and(|end| end > now)
    }

    /// What is kept once a node is sure at this time and another one has signed in doubt since `doubted`.
    #[must_use]
    pub fn keeping(&self, policy: &Policy, doubted: UnixTime, at: UnixTime) -> Kept {
        let earlier = self.2.filter(|_| self.is_keeping(policy, at));
        Kept {
            from: earlier.map_or(doubted, |earlier| earlier.from.min(doubted)),
            at,
        }
    }

    /// The same as a node shows them that has reached this time, while the mark of a node in doubt stands in the record. Nodes in
    /// doubt reach different times, and the one that is behind may still sign with a key that is old for the others.
    #[must_use]
    pub fn while_doubted(self, policy: &Policy, doubted: Option<UnixTime>, at: UnixTime) -> Self {
        match doubted {
            Some(doubted) => {
                let kept = self.keeping(policy, doubted, at);
                self.with_kept(Some(kept))
            }
            None => self,
        }
    }

    /// The same, where no key has a shorter longest token than in the rows `known` from before, and which keys had. A database that lost a
    /// raise lets a key leave before the last token that was signed since.
    #[must_use]
    pub fn with_lifetimes_of(mut self, known: &Self) -> (Self, Vec<(Kid, Seconds)>) {
        let mut shortened = Vec::new();
        for key in self.0.iter_mut().filter(|key| key.revoked_at.is_none()) {
            let longest = known.find(&key.kid).map(|known| known.max_token_ttl);
            if let Some(longest) = longest.filter(|&longest| longest > key.max_token_ttl) {
                key.max_token_ttl = longest;
                shortened.push((key.kid.clone(), longest));
            }
        }
        (self, shortened)
    }

    /// The keys that only verify, by algorithm and kid.
    #[must_use]
    pub fn verifying(&self) -> &[VerifyingKey] {
        &self.1
    }

    /// The key to verify with that has this name.
    #[must_use]
    pub fn find_verifying(&self, kid: &Kid) -> Option<&VerifyingKey> {
        self.1.iter().find(|key| key.jwk.kid == *kid)
    }

    /// When the key of this name was revoked, of whichever kind it is.
    #[must_use]
    pub fn revoked_at(&self, kid: &Kid) -> Option<UnixTime> {
        match self.find(kid) {
            Some(key) => key.revoked_at,
            None => self.find_verifying(kid)?.revoked_at,
        }
    }

    /// Every public half of either kind, with the time of its revocation.
    pub fn jwks(&self) -> impl Iterator<Item = (&PublicJwk, Option<UnixTime>)> {
        let signing = self
            .0
            .iter()
            .filter_map(|key| key.jwk.as_ref().map(|jwk| (jwk, key.revoked_at)));
        signing.chain(self.1.iter().map(|key| (&key.jwk, key.revoked_at)))
    }

    /// The rows that hold this key material, whatever their kids, with the time of their revocation.
    pub fn aliases<'a>(&'a self, jwk: &'a PublicJwk) -> impl Iterator<Item = (&'a PublicJwk, Option<UnixTime>)> + 'a {
        self.jwks().filter(|(other, _)| other.is_same_key(jwk))
    }

    /// Whether this key material was revoked under any kid: then no other kid of it is trusted.
    #[must_use]
    pub fn revokes(&self, jwk: &PublicJwk) -> bool {
        self.aliases(jwk).any(|(_, revoked_at)| revoked_at.is_some())
    }

    /// Every public key that stands in the set at this moment. A revoked key is not in it under any of its kids.
    pub fn published_jwks<'a>(&'a self, policy: &'a Policy, now: UnixTime) -> impl Iterator<Item = &'a PublicJwk> + 'a {
        let verifying = self.1.iter().filter(move |key| key.state(policy, now).is_published());
        self.published(policy, now)
            .filter_map(|(key, _)| key.jwk.as_ref())
            .chain(verifying.map(|key| &key.jwk))
            .filter(|jwk| !self.revokes(jwk))
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
            // A replacement is back-dated so that slow clocks sign with it, but it takes over from its insertion at the
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

    /// The removal of this algorithm that was announced or is in force; none once a later generation follows it.
    #[must_use]
    pub fn removal(&self, alg: Algorithm) -> Option<&SigningKey> {
        self.line(alg)
            .iter()
            .rfind(|key| key.revoked_at.is_none())
            .filter(|key| key.is_keyless())
    }

    /// Whether this algorithm has keys and was not removed.
    #[must_use]
    pub fn has_line(&self, alg: Algorithm) -> bool {
        self.line(alg)
            .iter()
            .rfind(|key| key.revoked_at.is_none())
            .is_some_and(|key| !key.is_keyless())
    }

    /// The last removal of this algorithm, whatever followed it, and the key that signs again if it is taken back.
    #[must_use]
    pub fn last_removal(&self, alg: Algorithm) -> Option<(&SigningKey, Option<&SigningKey>)> {
        let line = self.line(alg);
        let unrevoked = || line.iter().filter(|key| key.revoked_at.is_none());
        let removal = unrevoked().rfind(|key| key.is_keyless())?;
        let last = unrevoked().rfind(|key| key.generation < removal.generation && !key.is_keyless());
        Some((removal, last))
    }

    /// When this key leaves the key set; none while nothing supersedes it.
    #[must_use]
    pub fn expires_at(&self, key: &SigningKey, policy: &Policy) -> Option<UnixTime> {
        let superseded_at = self.superseded_at(key)?;
        let regular = superseded_at + policy.verify_window(key.max_token_ttl);
        let kept = self
            .2
            .and_then(|kept| kept.expires_at(superseded_at, key.max_token_ttl, policy));
        Some(kept.map_or(regular, |kept| kept.max(regular)))
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
                if self.expires_at(key, policy).is_some_and(|expires_at| expires_at <= now) {
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
    // After a removal a line begins anew, so its first key waits like any first key.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::jwk::KeyParameters;
    use crate::jose::key::RsaBits;
    use crate::keys::emergency::{Response, revoke};
    use crate::keys::plan::{Step, left_out, plan, removal, without_active};
    use crate::keys::policy::Windows;

    const NOW: UnixTime = UnixTime(1_000_000);

    /// P 10, C 20, S 4, J 10, L 3, T 30: the shortest lead is 34, a key stays 47 s, its half 14 s.
    fn policy() -> Policy {
        Policy::new(Windows {
            algorithms: vec![Algorithm::Es256],
            rotation_period: Seconds(100),
            prepublish: Seconds(40),
            verifier_cache: Seconds(20),
            jwks_max_age: Seconds(5),
            replica_refresh: Seconds(5),
            snapshot_max_age: Seconds(10),
            clock_skew: Seconds(4),
            verifier_leeway: Seconds(3),
            verify_window: None,
            max_token_ttl: Seconds(30),
            max_published: 16,
            max_set_bytes: 8_192,
            rsa_bits: RsaBits::Bits2048,
        })
        .unwrap()
    }

    fn key(generation: i64, published: i64, activates: i64) -> SigningKey {
        let kid: Kid = format!("k{generation}").parse().unwrap();
        SigningKey {
            kid: kid.clone(),
            alg: Algorithm::Es256,
            generation,
            jwk: Some(PublicJwk {
                kid,
                alg: Algorithm::Es256,
                parameters: KeyParameters::P256 {
                    x: format!("{generation:0>43}"),
                    y: "y".repeat(43),
                },
            }),
            published_at: NOW + Seconds(published),
            activates_at: NOW + Seconds(activates),
            prepublish: Seconds(40),
            max_token_ttl: Seconds(30),
            revoked_at: None,
            has_private_half: true,
        }
    }

    fn states(keys: &Keys, at: i64) -> Vec<State> {
        keys.iter()
            .map(|key| keys.state(key, &policy(), NOW + Seconds(at)))
            .collect()
    }

    #[test]
    fn a_rotation_second_by_second() {
        let keys = Keys::new(vec![key(1, 0, -4), key(2, 56, 96)]);
        assert_eq!(states(&keys, 95), [State::Active, State::Pending]);
        assert_eq!(states(&keys, 96), [State::Retired, State::Active]);
        assert_eq!(states(&keys, 142), [State::Retired, State::Active]);
        assert_eq!(states(&keys, 143), [State::Expired, State::Active]);
        assert!(plan(&keys, &policy(), NOW + Seconds(109)).steps.is_empty());
        let destroyed = plan(&keys, &policy(), NOW + Seconds(110)).steps;
        assert_eq!(
            destroyed,
            [Step::DestroyPrivateHalf {
                kid: "k1".parse().unwrap()
            }]
        );
    }

    #[test]
    fn a_clock_that_stepped_back_finds_the_oldest_key_but_never_a_first_one() {
        let line = Keys::new(vec![key(4, 0, 40), key(5, 100, 140)]);
        assert_eq!(
            line.active(Algorithm::Es256, NOW - Seconds(9_999)).unwrap().generation,
            4
        );
        let first = Keys::new(vec![key(1, 0, 40)]);
        assert_eq!(first.active(Algorithm::Es256, NOW), None);
        let mut removal = key(5, 0, 14);
        (removal.jwk, removal.has_private_half) = (None, false);
        let mut added_and_revoked = key(6, 1, 41);
        added_and_revoked.revoked_at = Some(NOW + Seconds(2));
        added_and_revoked.has_private_half = false;
        let anew = Keys::new(vec![removal, added_and_revoked, key(7, 2, 42)]);
        assert_eq!(anew.active(Algorithm::Es256, NOW + Seconds(3)), None);
    }

    #[test]
    fn a_key_that_a_node_in_doubt_may_have_signed_with_stays_for_a_window_after_the_leap() {
        // The first was superseded at -104, the second at -2.
        let keys = Keys::new(vec![key(1, -200, -204), key(2, -150, -104), key(3, -44, -2)]);
        let at = |seconds: i64| NOW + Seconds(seconds);
        let ends = |keys: &Keys| [0, 1].map(|place| keys.expires_at(&keys.line(Algorithm::Es256)[place], &policy()));
        assert_eq!(ends(&keys), [Some(at(-57)), Some(at(45))]);
        // While the mark stands, no node drops the second, also one that starts anew and has reached more.
        let marked = keys.clone().while_doubted(&policy(), Some(at(-50)), at(100));
        assert_eq!(ends(&marked), [Some(at(-57)), Some(at(151))]);
        assert_eq!(keys.clone().while_doubted(&policy(), None, at(100)), keys);
        let kept = keys.keeping(&policy(), at(-50), at(100));
        let keys = keys.with_kept(Some(kept));
        assert_eq!(
            ends(&keys),
            [Some(at(-57)), Some(at(151))],
            "a window of 47 s and a skew of 4 s after the leap"
        );
        assert!(keys.is_keeping(&policy(), at(150)) && !keys.is_keeping(&policy(), at(151)));
        // Another doubt meanwhile keeps what was kept, and one afterwards does not.
        assert_eq!(keys.keeping(&policy(), at(120), at(140)).from, at(-50));
        assert_eq!(keys.keeping(&policy(), at(120), at(160)).from, at(120));
    }

    #[test]
    fn an_emergency_takes_what_lay_beside_the_key_and_ends_no_other_early() {
        let rows = vec![key(1, -200, -104), key(2, -44, -2), key(3, 0, 98)];
        let keys = Keys::new(rows);
        let Ok(Response::Revoke(revocation)) = revoke(&keys, &policy(), &"k2".parse().unwrap(), NOW) else {
            panic!("nothing to revoke");
        };
        assert_eq!(
            revocation.revoke.iter().map(Kid::as_str).collect::<Vec<_>>(),
            ["k2", "k3"]
        );
        assert_eq!(revocation.destroy.iter().map(Kid::as_str).collect::<Vec<_>>(), ["k1"]);
        let replacement = revocation.replacement.unwrap();
        assert_eq!(
            (replacement.generation, replacement.activates_at),
            (4, NOW - Seconds(4))
        );

        // k1 was superseded at -2, and the back-dated replacement does not make that -4.
        let mut rows: Vec<SigningKey> = keys.iter().cloned().collect();
        rows[1].revoked_at = Some(NOW);
        rows[2].revoked_at = Some(NOW);
        rows.push(key(4, 0, -4));
        let after = Keys::new(rows);
        assert_eq!(
            after.superseded_at(&after.line(Algorithm::Es256)[0]),
            Some(NOW - Seconds(2))
        );
    }

    /// The same key material as that of a row, under another kid.
    #[test]
    fn a_key_that_a_revocation_could_not_replace_is_replaced_by_the_schedule_at_once() {
        // Rotated long before its time, so that the schedule would have its next turn at 100.
        let mut line = vec![key(1, -50, -4), key(2, 0, 40)];
        (line[0].has_private_half, line[1].revoked_at) = (false, Some(NOW + Seconds(50)));
        let revoked = Keys::new(line.clone());
        let at = NOW + Seconds(51);
        assert_eq!(without_active(&revoked, &policy(), at), [Algorithm::Es256]);
        let steps = plan(&revoked, &policy(), at).steps;
        let Some(Step::Insert(new)) = steps.first() else {
            panic!("{steps:?}");
        };
        assert_eq!(
            *new,
            crate::keys::plan::rotate_early(&revoked, &policy(), Algorithm::Es256, at)
        );
        assert_eq!(
            (new.generation, new.published_at, new.activates_at),
            (3, at, at - Seconds(4))
        );
        let mut replacement = key(3, 51, 47);
        replacement.kid = "k3".parse().unwrap();
        let replaced = Keys::new([line, vec![replacement]].concat());
        assert_eq!(states(&replaced, 51), [State::Retired, State::Revoked, State::Active]);
        assert!(plan(&replaced, &policy(), at).steps.is_empty());
        // The key before it leaves no earlier than if it had been superseded by the revoked one.
        let expected = revoked.expires_at(&revoked.line(Algorithm::Es256)[0], &policy());
        assert_eq!(
            replaced.expires_at(&replaced.line(Algorithm::Es256)[0], &policy()),
            expected
        );
        // A first key that waits for its time is not hurried by another one that never signed.
        let mut first = vec![key(1, 0, 40), key(2, 10, 50)];
        (first[0].has_private_half, first[0].revoked_at) = (false, Some(NOW + Seconds(20)));
        assert!(plan(&Keys::new(first), &policy(), NOW + Seconds(21)).steps.is_empty());
    }

    fn alias(of: &SigningKey, kid: &str) -> VerifyingKey {
        let mut jwk = of.jwk.clone().unwrap();
        jwk.kid = kid.parse().unwrap();
        VerifyingKey {
            jwk,
            published_at: NOW - Seconds(300),
            expires_at: NOW + Seconds(9_999),
            revoked_at: None,
        }
    }

    #[test]
    fn a_revocation_takes_every_kid_of_the_key_material() {
        let rows = vec![key(1, -200, -104), key(2, -44, -2), key(3, 0, 98)];
        let aliases = vec![
            alias(&rows[0], "old-1"),
            alias(&rows[1], "old-2"),
            alias(&rows[1], "older-2"),
            alias(&rows[2], "old-3"),
        ];
        let keys = Keys::new(rows.clone()).with_verifying(aliases);
        let revoked = |kid: &str| match revoke(&keys, &policy(), &kid.parse().unwrap(), NOW + Seconds(10)) {
            Ok(Response::Revoke(revocation)) => {
                let mut kids: Vec<String> = revocation.revoke.iter().map(Kid::to_string).collect();
                kids.sort();
                (kids.join(" "), revocation.replacement.is_some())
            }
            other => panic!("{other:?}"),
        };
        let emergency = ("k2 k3 old-2 old-3 older-2".to_owned(), true);
        let thumbprint = rows[1].jwk.as_ref().unwrap().thumbprint();
        for name in ["k2", "old-2", "older-2", thumbprint.as_str()] {
            assert_eq!(revoked(name), emergency, "{name}");
        }
        for name in ["k1", "old-1"] {
            assert_eq!(revoked(name), ("k1 old-1".to_owned(), false));
        }
        for name in ["k3", "old-3"] {
            assert_eq!(revoked(name), ("k3 old-3".to_owned(), false));
        }
    }

    #[test]
    fn a_row_that_an_older_version_left_is_neither_published_nor_called_revoked_already() {
        let mut rows = vec![key(1, -200, -104)];
        let verifying = vec![alias(&rows[0], "old-1")];
        rows[0].revoked_at = Some(NOW);
        let keys = Keys::new(rows).with_verifying(verifying);
        assert_eq!(keys.published_jwks(&policy(), NOW).count(), 0);
        for name in ["k1", "old-1"] {
            let response = revoke(&keys, &policy(), &name.parse().unwrap(), NOW).unwrap();
            let Response::Revoke(revocation) = response else {
                panic!("{response:?}");
            };
            assert_eq!(revocation.revoke, ["old-1".parse().unwrap()]);
        }
    }

    #[test]
    fn a_key_that_slow_nodes_still_sign_with_is_replaced() {
        let keys = Keys::new(vec![key(1, -200, -104), key(2, -44, -2)]);
        let kid: Kid = "k1".parse().unwrap();
        let replaced = |at: i64| match revoke(&keys, &policy(), &kid, NOW + Seconds(at)) {
            Ok(Response::Revoke(revocation)) => revocation.replacement.is_some(),
            other => panic!("{other:?}"),
        };
        assert!(replaced(1));
        assert!(!replaced(2));
    }

    #[test]
    fn an_algorithm_that_is_left_out_goes_on_until_it_is_removed() {
        let mut windows = policy().windows().clone();
        windows.algorithms = vec![Algorithm::Rs256];
        let without = Policy::new(windows).unwrap();
        let inserts = |keys: &Keys, at: i64| {
            let steps = plan(keys, &without, NOW + Seconds(at)).steps;
            let is_es256 = |step: &Step| matches!(step, Step::Insert(new) if new.alg == Algorithm::Es256);
            steps.into_iter().filter(is_es256).count()
        };
        let line = Keys::new(vec![key(1, -200, -104)]);
        assert_eq!(left_out(&line, &without), [Algorithm::Es256]);
        assert_eq!((inserts(&line, -45), inserts(&line, -44)), (0, 1));
        assert_eq!(without_active(&line, &without, NOW), []);

        let announced = removal(&line, &without, Algorithm::Es256, NOW);
        assert_eq!(announced.activates_at, NOW + Seconds(40), "as long ahead as a new key");
        let mut keyless = key(2, 0, 40);
        (keyless.jwk, keyless.has_private_half) = (None, false);
        let removed = Keys::new(vec![key(1, -200, -104), keyless.clone()]);
        assert_eq!(left_out(&removed, &without), []);
        assert_eq!(inserts(&removed, 39), 0);
        assert!(removed.active(Algorithm::Es256, NOW + Seconds(39)).is_some());
        assert!(removed.active(Algorithm::Es256, NOW + Seconds(40)).is_none());
        // Published 47 s longer, and its half with it: until then the removal can be taken back.
        let destroyed = |keys: &Keys, at: i64| {
            let steps = plan(keys, &without, NOW + Seconds(at)).steps;
            steps.iter().any(|step| matches!(step, Step::DestroyPrivateHalf { .. }))
        };
        assert!(!destroyed(&removed, 86) && destroyed(&removed, 87));

        // Configured again: its new key waits like any other, and no check calls that well.
        let again = Keys::new(vec![key(1, -200, -104), keyless, key(3, 50, 90)]);
        assert_eq!(without_active(&again, &policy(), NOW + Seconds(60)), [Algorithm::Es256]);
        assert_eq!(without_active(&again, &policy(), NOW + Seconds(90)), []);
        let (taken_back, last) = again.last_removal(Algorithm::Es256).unwrap();
        assert_eq!((taken_back.generation, last.unwrap().generation), (2, 1));
    }
}
