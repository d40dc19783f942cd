//! Random values.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use openssl::error::ErrorStack;
use openssl::rand::{rand_bytes, rand_priv_bytes};
use zeroize::Zeroizing;

/// The operating system gives no randomness.
#[derive(Debug, thiserror::Error)]
#[error("there is no randomness: OpenSSL failed: {0}")]
pub struct NoRandomness(#[from] ErrorStack);

/// A new secret for a client: 256 random bits in base64url.
///
/// # Errors
/// [`NoRandomness`].
pub fn random_secret() -> Result<Zeroizing<String>, NoRandomness> {
    Ok(Zeroizing::new(BASE64URL.encode(*random_key()?)))
}

/// A new salt of 128 random bits, which is no secret.
///
/// # Errors
/// [`NoRandomness`].
pub fn random_salt() -> Result<[u8; 16], NoRandomness> {
    let mut salt = [0; 16];
    rand_bytes(&mut salt)?;
    Ok(salt)
}

/// 256 random bits.
///
/// # Errors
/// [`NoRandomness`].
pub fn random_key() -> Result<Zeroizing<[u8; 32]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand_priv_bytes(&mut *bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn secrets_have_256_bits_and_differ() {
        let secrets: HashSet<String> = (0..500).map(|_| random_secret().unwrap().to_string()).collect();
        assert_eq!(secrets.len(), 500);
        assert!(
            secrets
                .iter()
                .all(|secret| BASE64URL.decode(secret).unwrap().len() == 32)
        );
    }
}
