//! The key set document (RFC 7517 section 5): the same bytes on every node that has the same rows.

use crate::clock::UnixTime;
use crate::jose::jwk::{Kid, PublicJwk};

use super::lifecycle::Keys;
use super::policy::Policy;

/// The public keys that are published at one moment: RSA first, then by kid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<PublicJwk>);

impl KeySet {
    /// The keys that stand in the set at `now`.
    #[must_use]
    pub fn at(keys: &Keys, policy: &Policy, now: UnixTime) -> Self {
        Self::from_jwks(keys.published_jwks(policy, now).cloned())
    }

    /// This set with the keys of another that it lacks: what a node serves while its clock is in doubt, since then
    /// nothing may leave.
    #[must_use]
    pub fn union(self, other: impl IntoIterator<Item = PublicJwk>) -> Self {
        Self::from_jwks(self.0.into_iter().chain(other))
    }

    /// This set without the keys that are known to be revoked though their rows do not say so.
    #[must_use]
    pub fn without(mut self, is_revoked: impl Fn(&PublicJwk) -> bool) -> Self {
        self.0.retain(|jwk| !is_revoked(jwk));
        self
    }

    fn from_jwks(jwks: impl Iterator<Item = PublicJwk>) -> Self {
        let mut jwks: Vec<PublicJwk> = jwks.collect();
        jwks.sort_by(|a, b| (a.alg, &a.kid).cmp(&(b.alg, &b.kid)));
        jwks.dedup_by(|a, b| (a.alg, &a.kid) == (b.alg, &b.kid));
        Self(jwks)
    }

    /// The keys in the order they are served.
    #[must_use]
    pub fn jwks(&self) -> &[PublicJwk] {
        &self.0
    }

    /// Whether a token with this `kid` would find its key here.
    #[must_use]
    pub fn contains(&self, kid: &Kid) -> bool {
        self.0.iter().any(|jwk| jwk.kid == *kid)
    }

    /// The document that is served.
    #[must_use]
    pub fn to_json(&self) -> String {
        let keys: Vec<String> = self.0.iter().map(PublicJwk::to_json).collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }
}
