//! Signature keys: made, kept and used by OpenSSL, checked by a second implementation (RFC 7518 sections 3.3 and 3.4).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use josekit::jwk::Jwk;
use josekit::jws::{self, JwsVerifier};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use p256::ecdsa::signature::Verifier as _;
use rsa::signature::Verifier as _;
use zeroize::Zeroizing;

use super::alg::Algorithm;
use super::jwk::{JwkError, KeyParameters, PublicJwk, thumbprint};
use super::rsa_contexts::RsaContexts;
use crate::crypto::sha256;

/// The length of an RSA modulus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RsaBits {
    /// 112 bits of strength (NIST SP 800-57 part 1, table 2).
    Bits2048,
    /// 128 bits of strength.
    Bits3072,
    /// Beyond 128 bits, and slow to sign with.
    Bits4096,
}

/// The number of bits is not one that Keyround generates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an RSA key cannot have {0} bits here; use 2048, 3072 or 4096")]
pub struct UnsupportedRsaBits(pub u32);

impl RsaBits {
    /// The length in bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits2048 => 2048,
            Self::Bits3072 => 3072,
            Self::Bits4096 => 4096,
        }
    }
}

impl TryFrom<u32> for RsaBits {
    type Error = UnsupportedRsaBits;

    fn try_from(bits: u32) -> Result<Self, UnsupportedRsaBits> {
        [Self::Bits2048, Self::Bits3072, Self::Bits4096]
            .into_iter()
            .find(|choice| choice.bits() == bits)
            .ok_or(UnsupportedRsaBits(bits))
    }
}

/// Why a private key could not be made, read or used. No variant holds key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// OpenSSL failed.
    #[error("OpenSSL failed: {0}")]
    OpenSsl(#[from] ErrorStack),
    /// The bytes are no private key.
    #[error("the private key is not readable; it must be unencrypted PKCS#8 in DER (RFC 5208)")]
    NotPkcs8,
    /// The key is of another kind than its algorithm needs.
    #[error(
        "the private key does not fit {0}; RS256 needs RSA with 2048 to 4096 bits and e = 65537, ES256 needs P-256"
    )]
    DoesNotFit(Algorithm),
    /// The claims could not be written as JSON.
    #[error("the claims cannot be written as JSON: {0}")]
    Claims(#[from] serde_json::Error),
}

/// A private signature key, parsed once and ready to sign.
pub struct PrivateKey(Material);

/// The forms in which signing costs the least. For P-256 that is OpenSSL's plain call, which needs no context at all.
enum Material {
    Rsa(RsaContexts<Private>),
    P256(EcKey<Private>),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, redacted)", self.algorithm())
    }
}

impl PrivateKey {
    /// Makes a new key from the operating system's randomness. `rsa_bits` matters for RS256 alone. An RSA key takes a
    /// quarter of a second and more.
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`] when OpenSSL cannot make one.
    pub fn generate(algorithm: Algorithm, rsa_bits: RsaBits) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::Rs256 => Self::from_rsa(Rsa::generate(rsa_bits.bits())?),
            Algorithm::Es256 => {
                let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
                Self::from_p256(EcKey::generate(&group)?)
            }
        }
    }

    /// The key as PKCS#8 in DER (RFC 5208), to be sealed.
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`] when OpenSSL cannot write it.
    pub fn to_pkcs8_der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let der = match &self.0 {
            Material::Rsa(rsa) => rsa.key().private_key_to_pkcs8()?,
            Material::P256(key) => PKey::from_ec_key(key.clone())?.private_key_to_pkcs8()?,
        };
        Ok(Zeroizing::new(der))
    }

    /// Reads a key that [`Self::to_pkcs8_der`] wrote, or an imported one. That its halves belong together is for
    /// [`self_test`] to find out.
    ///
    /// # Errors
    /// [`KeyError::NotPkcs8`], or [`KeyError::DoesNotFit`] when it is a key for something else.
    pub fn from_pkcs8_der(algorithm: Algorithm, der: &[u8]) -> Result<Self, KeyError> {
        let key = PKey::private_key_from_pkcs8(der).map_err(|_| KeyError::NotPkcs8)?;
        let misfit = |_| KeyError::DoesNotFit(algorithm);
        match algorithm {
            Algorithm::Rs256 => Self::from_rsa(key.rsa().map_err(misfit)?),
            Algorithm::Es256 => Self::from_p256(key.ec_key().map_err(misfit)?),
        }
    }

    pub(super) fn from_rsa(key: Rsa<Private>) -> Result<Self, KeyError> {
        let usual_exponent = *key.e() == *BigNum::from_u32(65_537)?;
        if !usual_exponent || !(2048..=4096).contains(&key.n().num_bits()) {
            return Err(KeyError::DoesNotFit(Algorithm::Rs256));
        }
        Ok(Self(Material::Rsa(RsaContexts::new(PKey::from_rsa(key)?)?)))
    }

    pub(super) fn from_p256(key: EcKey<Private>) -> Result<Self, KeyError> {
        if key.group().curve_name() != Some(Nid::X9_62_PRIME256V1) || key.check_key().is_err() {
            return Err(KeyError::DoesNotFit(Algorithm::Es256));
        }
        Ok(Self(Material::P256(key)))
    }

    /// The only algorithm this key signs with.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Material::Rsa(_) => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
        }
    }

    /// The public half, named by its thumbprint.
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`] when OpenSSL cannot tell the public half.
    pub fn public_jwk(&self) -> Result<PublicJwk, KeyError> {
        let parameters = match &self.0 {
            Material::Rsa(rsa) => {
                let key = rsa.key().rsa()?;
                KeyParameters::Rsa {
                    n: BASE64URL.encode(key.n().to_vec()),
                    e: BASE64URL.encode(key.e().to_vec()),
                }
            }
            Material::P256(key) => p256_parameters(key)?,
        };
        Ok(PublicJwk {
            kid: thumbprint(&parameters),
            alg: self.algorithm(),
            parameters,
        })
    }

    /// Signs `message`. RS256: as many octets as the modulus has (RFC 7518 section 3.3). ES256: the 64 octets R and S
    /// (section 3.4).
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`] when OpenSSL cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.0 {
            Material::Rsa(rsa) => Ok(rsa.sign(message)?),
            Material::P256(key) => {
                let pair = EcdsaSig::sign(&sha256(message), key)?;
                let mut signature = pair.r().to_vec_padded(32)?;
                signature.extend(pair.s().to_vec_padded(32)?);
                Ok(signature)
            }
        }
    }
}

fn p256_parameters(key: &EcKey<Private>) -> Result<KeyParameters, KeyError> {
    let (mut x, mut y, mut context) = (BigNum::new()?, BigNum::new()?, BigNumContext::new()?);
    key.public_key()
        .affine_coordinates(key.group(), &mut x, &mut y, &mut context)?;
    Ok(KeyParameters::P256 {
        x: BASE64URL.encode(x.to_vec_padded(32)?),
        y: BASE64URL.encode(y.to_vec_padded(32)?),
    })
}

/// Why a signature is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The JWK does not hold a key: not base64url, not on the curve, no possible modulus.
    #[error("the JWK holds no usable public key; it must hold an RSA modulus or a point on P-256")]
    Key,
    /// The signature was not made by this key over this message.
    #[error("the signature does not verify with this key")]
    Signature,
}

/// Verifies a signature by the second implementation, from the JWK alone.
///
/// # Errors
/// [`VerifyError`] when the key or the signature is not good.
pub fn verify(jwk: &PublicJwk, message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
    match (jwk.alg, &jwk.parameters) {
        (Algorithm::Rs256, KeyParameters::Rsa { n, e }) => verify_rsa([n, e], message, signature),
        (Algorithm::Es256, KeyParameters::P256 { x, y }) => verify_p256([x, y], message, signature),
        _ => Err(VerifyError::Key),
    }
}

fn verify_rsa([n, e]: [&str; 2], message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
    let [n, e] = [octets(n)?, octets(e)?].map(|octets| rsa::BigUint::from_bytes_be(&octets));
    let key = rsa::RsaPublicKey::new(n, e).map_err(|_| VerifyError::Key)?;
    let signature = rsa::pkcs1v15::Signature::try_from(signature).map_err(|_| VerifyError::Signature)?;
    rsa::pkcs1v15::VerifyingKey::<rsa::sha2::Sha256>::new(key)
        .verify(message, &signature)
        .map_err(|_| VerifyError::Signature)
}

fn verify_p256(coordinates: [&str; 2], message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
    // SEC 1 section 2.3.3: an uncompressed point is 4, x, y.
    let mut point = vec![4];
    for coordinate in coordinates {
        let coordinate = octets(coordinate)?;
        // Two wrong lengths could add up to a right one.
        if coordinate.len() != 32 {
            return Err(VerifyError::Key);
        }
        point.extend(coordinate);
    }
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).map_err(|_| VerifyError::Key)?;
    let signature = p256::ecdsa::Signature::from_slice(signature).map_err(|_| VerifyError::Signature)?;
    key.verify(message, &signature).map_err(|_| VerifyError::Signature)
}

fn octets(text: &str) -> Result<Vec<u8>, VerifyError> {
    BASE64URL.decode(text).map_err(|_| VerifyError::Key)
}

/// What is wrong with a key that must not be published.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The served text is no JWK.
    #[error("the published JWK cannot be read: {0}")]
    Published(#[from] JwkError),
    /// The served JWK is for another algorithm.
    #[error("the published JWK is for {published}, the private key for {private}; they must agree")]
    Algorithm {
        /// The algorithm of the JWK.
        published: Algorithm,
        /// The algorithm of the private key.
        private: Algorithm,
    },
    /// The served name is not the key's own.
    #[error("the published kid is not the thumbprint of the published key (RFC 7638)")]
    Kid,
    /// The private key cannot sign.
    #[error(transparent)]
    Sign(#[from] KeyError),
    /// The second implementation refuses the signature.
    #[error("a signature by the private key does not pass the second implementation with the published JWK: {0}")]
    Refused(VerifyError),
    /// The second implementation accepts what it must refuse.
    #[error("the second implementation accepts {0}; it must not")]
    Forgery(&'static str),
    /// An ordinary JOSE library refuses the token.
    #[error("josekit refuses a token by the private key with the published JWK: {0}")]
    Library(josekit::JoseError),
}

/// Proves, before a key is published, that its tokens verify with `published`, the very JSON that will be served. The
/// second implementation judges the signature, and `josekit` judges the token and the JSON as a client would.
///
/// # Errors
/// [`SelfTestError`] names the fault; the key must then not be published.
pub fn self_test(key: &PrivateKey, published: &str) -> Result<(), SelfTestError> {
    let jwk = PublicJwk::parse(published)?;
    if jwk.alg != key.algorithm() {
        return Err(SelfTestError::Algorithm {
            published: jwk.alg,
            private: key.algorithm(),
        });
    }
    if jwk.kid != thumbprint(&jwk.parameters) {
        return Err(SelfTestError::Kid);
    }
    let header = format!(r#"{{"alg":"{}","typ":"at+jwt","kid":"{}"}}"#, jwk.alg, jwk.kid);
    let claims = r#"{"iss":"https://self-test.invalid","sub":"self-test"}"#;
    let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(claims));
    let signature = key.sign(message.as_bytes())?;
    judge(message.as_bytes(), &signature, |message, signature| {
        verify(&jwk, message, signature)
    })?;
    let token = format!("{message}.{}", BASE64URL.encode(signature));
    ordinary_library(jwk.alg, published, &token).map_err(SelfTestError::Library)
}

/// Both halves of the judgement: the signature passes, and no neighbour of it does.
fn judge(
    message: &[u8],
    signature: &[u8],
    verify: impl Fn(&[u8], &[u8]) -> Result<(), VerifyError>,
) -> Result<(), SelfTestError> {
    verify(message, signature).map_err(SelfTestError::Refused)?;
    let mut flipped = signature.to_vec();
    if let Some(octet) = flipped.last_mut() {
        *octet ^= 1;
    }
    if verify(message, &flipped).is_ok() {
        return Err(SelfTestError::Forgery("a signature with a flipped bit"));
    }
    if verify(&[message, b"x"].concat(), signature).is_ok() {
        return Err(SelfTestError::Forgery("the signature of another message"));
    }
    Ok(())
}

fn ordinary_library(algorithm: Algorithm, published: &str, token: &str) -> Result<(), josekit::JoseError> {
    let jwk = Jwk::from_bytes(published)?;
    let verifier: Box<dyn JwsVerifier> = match algorithm {
        Algorithm::Rs256 => Box::new(jws::RS256.verifier_from_jwk(&jwk)?),
        Algorithm::Es256 => Box::new(jws::ES256.verifier_from_jwk(&jwk)?),
    };
    jws::deserialize_compact(token, &*verifier).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::LazyLock;

    use super::*;
    use crate::jose::jwk::Kid;

    static RSA: LazyLock<PrivateKey> = LazyLock::new(|| generate(Algorithm::Rs256));

    fn generate(algorithm: Algorithm) -> PrivateKey {
        PrivateKey::generate(algorithm, RsaBits::Bits2048).unwrap()
    }

    /// The key of RFC 7515 appendix A.2, its message and its signature.
    const A2_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const A2_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    /// The key of RFC 7515 appendix A.3 and its signature.
    const A3_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const A3_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
    const A3_SIGNATURE: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn named(alg: Algorithm, parameters: KeyParameters) -> PublicJwk {
        let kid = thumbprint(&parameters);
        PublicJwk { kid, alg, parameters }
    }

    fn a2() -> PublicJwk {
        let (n, e) = (A2_N.to_owned(), "AQAB".to_owned());
        named(Algorithm::Rs256, KeyParameters::Rsa { n, e })
    }

    fn a3() -> PublicJwk {
        let (x, y) = (A3_X.to_owned(), A3_Y.to_owned());
        named(Algorithm::Es256, KeyParameters::P256 { x, y })
    }

    #[test]
    fn the_vectors_of_rfc_7515_verify() {
        let cases = [
            (a2(), "eyJhbGciOiJSUzI1NiJ9", A2_SIGNATURE),
            (a3(), "eyJhbGciOiJFUzI1NiJ9", A3_SIGNATURE),
        ];
        for (jwk, header, signature) in cases {
            let message = format!("{header}.{PAYLOAD}");
            let signature = BASE64URL.decode(signature).unwrap();
            assert_eq!(verify(&jwk, message.as_bytes(), &signature), Ok(()));
            let other = message.replace('.', ",");
            assert_eq!(verify(&jwk, other.as_bytes(), &signature), Err(VerifyError::Signature));
            for spoilt in [&signature[1..], &[&[0], &signature[..]].concat(), &[]] {
                let verdict = verify(&jwk, message.as_bytes(), spoilt);
                assert_eq!(verdict, Err(VerifyError::Signature));
            }
        }
    }

    #[test]
    fn verify_refuses_what_is_no_key() {
        let mut off_curve = a3();
        off_curve.parameters = KeyParameters::P256 {
            x: A3_X.to_owned(),
            y: A3_X.to_owned(),
        };
        assert_eq!(verify(&off_curve, b"", &[1; 64]), Err(VerifyError::Key));
        let mut crossed = a3();
        crossed.alg = Algorithm::Rs256;
        assert_eq!(verify(&crossed, b"", &[1; 64]), Err(VerifyError::Key));
        let mut shifted = a3();
        let bytes = [BASE64URL.decode(A3_X).unwrap(), BASE64URL.decode(A3_Y).unwrap()].concat();
        let (x, y) = (BASE64URL.encode(&bytes[..31]), BASE64URL.encode(&bytes[31..]));
        shifted.parameters = KeyParameters::P256 { x, y };
        assert_eq!(verify(&shifted, b"", &[1; 64]), Err(VerifyError::Key));
    }

    #[test]
    fn rs256_is_deterministic_and_both_implementations_accept_it() {
        let (first, second) = (RSA.sign(b"message").unwrap(), RSA.sign(b"message").unwrap());
        assert_eq!(first, second);
        assert_eq!(first.len(), 256);
        assert_eq!(verify(&RSA.public_jwk().unwrap(), b"message", &first), Ok(()));
        let Material::Rsa(rsa) = &RSA.0 else {
            panic!("an RSA key")
        };
        let mut openssl = openssl::sign::Verifier::new(openssl::hash::MessageDigest::sha256(), rsa.key()).unwrap();
        assert!(openssl.verify_oneshot(&first, b"message").unwrap());
    }

    #[test]
    fn es256_is_64_octets_and_never_repeats_r() {
        let key = generate(Algorithm::Es256);
        let jwk = key.public_jwk().unwrap();
        let mut seen = HashSet::new();
        // One r in 256 starts with a zero octet, which must be kept: go on until one did.
        while seen.len() < 100 || !seen.iter().any(|r: &Vec<u8>| r[0] == 0) {
            let signature = key.sign(b"message").unwrap();
            assert_eq!(signature.len(), 64);
            if signature[0] == 0 {
                assert_eq!(verify(&jwk, b"message", &signature), Ok(()));
            }
            assert!(seen.insert(signature[..32].to_vec()), "r repeats");
        }
    }

    fn p256_with_leading_zero() -> PrivateKey {
        loop {
            let key = generate(Algorithm::Es256);
            let [x, _] = coordinates(&key.public_jwk().unwrap());
            // A shorter one ends the search too, for the test to see.
            if x[0] == 0 || x.len() < 32 {
                return key;
            }
        }
    }

    fn coordinates(jwk: &PublicJwk) -> [Vec<u8>; 2] {
        let KeyParameters::P256 { x, y } = &jwk.parameters else {
            panic!("a P-256 key")
        };
        [BASE64URL.decode(x).unwrap(), BASE64URL.decode(y).unwrap()]
    }

    #[test]
    fn generated_keys_are_distinct_and_coordinates_have_32_octets() {
        let mut kids = HashSet::new();
        for key in (0..1_000)
            .map(|_| generate(Algorithm::Es256))
            .chain([p256_with_leading_zero()])
        {
            let jwk = key.public_jwk().unwrap();
            assert!(coordinates(&jwk).iter().all(|coordinate| coordinate.len() == 32));
            assert_eq!(jwk.kid, thumbprint(&jwk.parameters));
            assert!(kids.insert(jwk.kid));
        }
        for _ in 0..5 {
            assert!(kids.insert(generate(Algorithm::Rs256).public_jwk().unwrap().kid));
        }
        assert_eq!(kids.len(), 1_006);
    }

    #[test]
    fn good_keys_pass_the_self_test_also_after_pkcs8() {
        let keys = [
            generate(Algorithm::Rs256),
            generate(Algorithm::Es256),
            p256_with_leading_zero(),
        ];
        for key in keys {
            let published = key.public_jwk().unwrap().to_json();
            self_test(&key, &published).unwrap();
            let read = PrivateKey::from_pkcs8_der(key.algorithm(), &key.to_pkcs8_der().unwrap()).unwrap();
            self_test(&read, &published).unwrap();
        }
    }

    #[test]
    fn the_self_test_finds_the_jwk_of_another_key() {
        let (key, other) = (generate(Algorithm::Es256), generate(Algorithm::Es256));
        let refusal = self_test(&key, &other.public_jwk().unwrap().to_json());
        assert!(matches!(refusal, Err(SelfTestError::Refused(VerifyError::Signature))));
        let refusal = self_test(&RSA, &a2().to_json());
        assert!(matches!(refusal, Err(SelfTestError::Refused(VerifyError::Signature))));
        let refusal = self_test(&key, &a2().to_json());
        assert!(matches!(refusal, Err(SelfTestError::Algorithm { .. })));
    }

    #[test]
    fn the_self_test_finds_a_wrong_kid() {
        let mut jwk = RSA.public_jwk().unwrap();
        jwk.kid = "another".parse::<Kid>().unwrap();
        assert!(matches!(self_test(&RSA, &jwk.to_json()), Err(SelfTestError::Kid)));
    }

    #[test]
    fn the_self_test_finds_a_stripped_leading_zero() {
        let key = p256_with_leading_zero();
        let mut jwk = key.public_jwk().unwrap();
        let [x, y] = coordinates(&jwk).map(|coordinate| BASE64URL.encode(coordinate.as_slice()));
        let stripped = BASE64URL.encode(&BASE64URL.decode(&x).unwrap()[1..]);
        jwk = named(jwk.alg, KeyParameters::P256 { x: stripped, y });
        let refusal = self_test(&key, &jwk.to_json());
        assert!(matches!(
            refusal,
            Err(SelfTestError::Published(JwkError::Coordinate { octets: 31, .. }))
        ));
    }

    #[test]
    fn the_self_test_finds_swapped_coordinates_and_a_point_off_the_curve() {
        let key = generate(Algorithm::Es256);
        let [x, y] = coordinates(&key.public_jwk().unwrap()).map(|coordinate| BASE64URL.encode(coordinate));
        let jwk = named(Algorithm::Es256, KeyParameters::P256 { x: y, y: x });
        let refusal = self_test(&key, &jwk.to_json());
        assert!(matches!(refusal, Err(SelfTestError::Refused(_))), "{refusal:?}");
    }

    #[test]
    fn the_self_test_distrusts_a_verifier_that_accepts_everything() {
        let refusal = judge(b"message", b"signature", |_, _| Ok(()));
        assert!(matches!(
            refusal,
            Err(SelfTestError::Forgery("a signature with a flipped bit"))
        ));
        let deaf = |_: &[u8], signature: &[u8]| match signature {
            b"signature" => Ok(()),
            _ => Err(VerifyError::Signature),
        };
        let refusal = judge(b"message", b"signature", deaf);
        assert!(matches!(
            refusal,
            Err(SelfTestError::Forgery("the signature of another message"))
        ));
    }

    #[test]
    fn josekit_refuses_a_token_whose_kid_is_not_the_published_one() {
        let jwk = RSA.public_jwk().unwrap();
        let message = format!("{}.e30", BASE64URL.encode(r#"{"alg":"RS256","kid":"another"}"#));
        let token = format!("{message}.{}", BASE64URL.encode(RSA.sign(message.as_bytes()).unwrap()));
        assert!(ordinary_library(Algorithm::Rs256, &jwk.to_json(), &token).is_err());
    }

    #[test]
    fn keys_for_something_else_are_refused() {
        let pkcs8 = |key: PKey<Private>| key.private_key_to_pkcs8().unwrap();
        let p384 = EcKey::generate(&EcGroup::from_curve_name(Nid::SECP384R1).unwrap()).unwrap();
        let three = BigNum::from_u32(3).unwrap();
        let cases = [
            (
                Algorithm::Rs256,
                generate(Algorithm::Es256).to_pkcs8_der().unwrap().to_vec(),
            ),
            (Algorithm::Es256, RSA.to_pkcs8_der().unwrap().to_vec()),
            (Algorithm::Es256, pkcs8(PKey::from_ec_key(p384).unwrap())),
            (Algorithm::Es256, pkcs8(PKey::generate_ed25519().unwrap())),
            (
                Algorithm::Rs256,
                pkcs8(PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap()),
            ),
            (
                Algorithm::Rs256,
                pkcs8(PKey::from_rsa(Rsa::generate_with_e(2048, &three).unwrap()).unwrap()),
            ),
        ];
        for (algorithm, der) in cases {
            let refusal = PrivateKey::from_pkcs8_der(algorithm, &der);
            assert!(matches!(refusal, Err(KeyError::DoesNotFit(_))), "{refusal:?}");
        }
        let refusal = PrivateKey::from_pkcs8_der(Algorithm::Rs256, b"no key");
        assert!(matches!(refusal, Err(KeyError::NotPkcs8)));
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", *RSA), "PrivateKey(RS256, redacted)");
    }

    #[test]
    fn rsa_bits_are_three() {
        for bits in [2048, 3072, 4096] {
            assert_eq!(RsaBits::try_from(bits).unwrap().bits(), bits);
        }
        assert_eq!(RsaBits::try_from(1024), Err(UnsupportedRsaBits(1024)));
    }
}
