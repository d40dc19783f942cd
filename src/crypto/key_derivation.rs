//! PBKDF2 (RFC 8018) and scrypt (RFC 7914), computed by OpenSSL.

use openssl::hash::MessageDigest;
use openssl::pkcs5;

/// The digest of PBKDF2's HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pbkdf2Digest {
    /// SHA-1, whose weakness to collisions HMAC does not share.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// OpenSSL refused the parameters, or had no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key derivation failed")]
pub struct KdfError;

impl Pbkdf2Digest {
    /// Every digest.
    pub const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    /// The octets of one block of output.
    #[must_use]
    pub const fn octets(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn openssl(self) -> MessageDigest {
        match self {
            Self::Sha1 => MessageDigest::sha1(),
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha512 => MessageDigest::sha512(),
        }
    }
}

/// Fills `output` by PBKDF2.
///
/// # Errors
/// [`KdfError`].
pub fn pbkdf2(
    digest: Pbkdf2Digest,
    iterations: u32,
    secret: &[u8],
    salt: &[u8],
    output: &mut [u8],
) -> Result<(), KdfError> {
    let iterations = usize::try_from(iterations).map_err(|_| KdfError)?;
    pkcs5::pbkdf2_hmac(secret, salt, iterations, digest.openssl(), output).map_err(|_| KdfError)
}

/// The costs of scrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrypt {
    /// The logarithm of N to the base 2.
    pub log_n: u8,
    /// The size of a block.
    pub r: u32,
    /// How often it is all done.
    pub p: u32,
}

/// Fills `output` by scrypt, with at most so many octets of memory.
///
/// # Errors
/// [`KdfError`].
pub fn scrypt(costs: Scrypt, most_memory: u64, secret: &[u8], salt: &[u8], output: &mut [u8]) -> Result<(), KdfError> {
    let n = 1_u64.checked_shl(costs.log_n.into()).ok_or(KdfError)?;
    pkcs5::scrypt(secret, salt, n, costs.r.into(), costs.p.into(), most_memory, output).map_err(|_| KdfError)
}
