//! SHA-256 (FIPS 180-4), as signatures need it.

use openssl::sha::Sha256;

/// Not `openssl::sha::sha256`, which looks the digest up by name each time.
pub fn sha256(message: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(message);
    hasher.finish()
}
