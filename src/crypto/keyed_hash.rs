//! Keyed hashes: HMAC-SHA256 (RFC 2104), each for one purpose.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, KeyInit, Mac};
use openssl::memcmp;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::purpose::Purpose;
use super::random::{NoRandomness, random_key};

/// A key for digests of secrets that are random already, such as client secrets: fast, and useless to who reads the
/// database alone.
pub struct HashKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(redacted)")
    }
}

impl HashKey {
    /// A new key from the operating system's randomness.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn generate() -> Result<Self, NoRandomness> {
        random_key().map(Self)
    }

    /// The key that [`Self::as_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key itself, to be sealed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of a secret: HMAC-SHA256 over the purpose with its length, then the secret, in base64url.
    #[must_use]
    pub fn digest(&self, purpose: Purpose, secret: &str) -> String {
        BASE64URL.encode(self.mac(purpose, secret.as_bytes()))
    }

    /// HMAC-SHA256 over the purpose with its length, then the message.
    #[must_use]
    pub fn mac(&self, purpose: Purpose, message: &[u8]) -> [u8; 32] {
        let purpose = purpose.text().as_bytes();
        hmac_sha256(&self.0, [&(purpose.len() as u64).to_be_bytes(), purpose, message])
    }

    /// Whether `mac` is that of the message for `purpose`, in a time that does not depend on where they differ.
    #[must_use]
    pub fn verifies(&self, purpose: Purpose, message: &[u8], mac: &[u8]) -> bool {
        same_octets(&self.mac(purpose, message), mac)
    }

    /// Whether `digest` is the digest of `secret` for `purpose`, in a time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, purpose: Purpose, secret: &str, digest: &str) -> bool {
        same_octets(self.digest(purpose, secret).as_bytes(), digest.as_bytes())
    }
}

/// Whether two digests are the same, in a time that does not depend on where they differ.
#[must_use]
pub fn same_octets(one: &[u8], other: &[u8]) -> bool {
    // `memcmp::eq` panics on different lengths, and the length of a digest is no secret.
    one.len() == other.len() && memcmp::eq(one, other)
}

/// HMAC-SHA256 over the parts, one behind the other.
#[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104, section 2)")]
pub(super) fn hmac_sha256<const N: usize>(key: &[u8; 32], parts: [&[u8]; N]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::sign::Signer;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hmac_is_the_one_of_openssl(key in any::<[u8; 32]>(), message in proptest::collection::vec(any::<u8>(), 0..200)) {
            let own = hmac_sha256(&key, [&message]);
            let mut signer = Signer::new(MessageDigest::sha256(), &PKey::hmac(&key).unwrap()).unwrap();
            prop_assert_eq!(own.to_vec(), signer.sign_oneshot_to_vec(&message).unwrap());
        }
    }

    #[test]
    fn digests_match_their_own_secret_and_purpose_alone() {
        let key = HashKey::generate().unwrap();
        let digest = key.digest(Purpose::ClientSecret, "secret");
        assert!(key.matches(Purpose::ClientSecret, "secret", &digest));
        assert!(HashKey::from_bytes(*key.as_bytes()).matches(Purpose::ClientSecret, "secret", &digest));
        assert!(!key.matches(Purpose::ClientSecret, "Secret", &digest));
        assert!(!key.matches(Purpose::Password, "secret", &digest));
        assert!(!key.matches(Purpose::ClientSecret, "secret", &digest[1..]));
        assert!(!key.matches(Purpose::ClientSecret, "secret", ""));
        assert!(
            !HashKey::generate()
                .unwrap()
                .matches(Purpose::ClientSecret, "secret", &digest)
        );
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", HashKey::generate().unwrap()), "HashKey(redacted)");
    }
}
