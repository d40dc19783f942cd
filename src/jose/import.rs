//! Keys from elsewhere: PEM as PKCS#8 (RFC 5208), PKCS#1 (RFC 8017), SEC1 (RFC 5915) and SPKI (RFC 5280), encrypted or not,
//! and JWK (RFC 7517).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcKeyRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKey, Private, Public};
use openssl::rsa::{Rsa, RsaRef};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::text::{self, NotText};

use super::alg::Algorithm;
use super::jwk::{InvalidKid, Kid, Parameters, PublicJwk, thumbprint};
use super::key::{KeyError, PrivateKey, SelfTestError, self_test};
use super::roca;

/// The longest file that is read, in octets. An RSA key of 4096 bits as encrypted PEM takes under 4,000.
pub const LONGEST_FILE: usize = 16 * 1024;

/// A key that was read and found good.
#[derive(Debug)]
pub struct Imported {
    /// The name that its JWK gives it; a PEM gives none.
    pub kid: Option<Kid>,
    /// The one algorithm that it is for.
    pub alg: Algorithm,
    /// The public half.
    pub parameters: Parameters,
    /// The private half, where the file has it.
    pub private: Option<PrivateKey>,
}

/// Where the passphrase of an encrypted PEM comes from.
#[derive(Clone, Copy)]
pub enum Passphrase<'a> {
    /// There is none: an encrypted key is refused.
    None,
    /// This text.
    Text(&'a str),
    /// OpenSSL asks at the terminal, without echo. Only for a process that a person sits before.
    AskAtTerminal,
}

/// Why a file is not taken. No variant holds key material.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nothing that looks like a key.
    #[error("the file holds no key; it must hold one key as PEM (PKCS#8, PKCS#1, SEC1 or a public key) or as JWK")]
    NotAKey,
    /// No UTF-8 text.
    #[error("the file cannot be read: {0}")]
    NotText(#[from] NotText),
    /// A certificate.
    #[error("the file holds a certificate; take its public key out by 'openssl x509 -in FILE -pubkey -noout'")]
    Certificate,
    /// More than one key.
    #[error("the file holds {0} keys; it must hold one, so that it is clear which is meant")]
    Several(usize),
    /// Too long for any key.
    #[error("the file has {0} octets; a key has at most {LONGEST_FILE}")]
    TooLong(usize),
    /// Encrypted, and no passphrase was given.
    #[error("the key is encrypted; give its passphrase with --passphrase-file")]
    PassphraseNeeded,
    /// The passphrase is another one, or the text is damaged.
    #[error("the key does not open with this passphrase, or the file is damaged")]
    DoesNotOpen,
    /// The text between the PEM lines is not what they say.
    #[error("the PEM is damaged: what stands between its lines is not the key that they announce")]
    Damaged,
    /// A key of another kind.
    #[error("the key is of another kind; Keyround takes RSA (RS256) and P-256 (ES256)")]
    Kind,
    /// Another curve.
    #[error("the key is on another curve; ES256 needs P-256")]
    Curve,
    /// Too short or too long.
    #[error("the RSA key has {0} bits; it must have 2048 to 4096")]
    RsaBits(i32),
    /// A weak or unusual exponent.
    #[error("the RSA key has another exponent than 65537, which is the only one that Keyround takes")]
    Exponent,
    /// The private half follows from the public one.
    #[error(
        "the RSA key has the fingerprint of a faulty library (ROCA, CVE-2017-15361): its private half can be computed from the public \
         one; replace it"
    )]
    Roca,
    /// Its parts do not belong together.
    #[error("the parts of the key do not belong together; the file is damaged, or the point is not on the curve")]
    Inconsistent,
    /// The JWK is not well formed.
    #[error("the JWK cannot be read: {0}")]
    Jwk(String),
    /// A name that cannot be published.
    #[error("the JWK's kid cannot be kept: {0}")]
    Kid(#[from] InvalidKid),
    /// What it signs does not verify.
    #[error("the key fails its self-test: {0}")]
    SelfTest(#[from] SelfTestError),
    /// OpenSSL failed.
    #[error("OpenSSL failed: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// Reads the one key that a file holds and tests it: sizes, curve, exponent, that its parts belong together, and for a
/// private key that the second implementation accepts what it signs.
///
/// # Errors
/// [`ImportError`] says what is wrong and what would be right.
pub fn read(text: &[u8], passphrase: Passphrase<'_>) -> Result<Imported, ImportError> {
    if text.len() > LONGEST_FILE {
        return Err(ImportError::TooLong(text.len()));
    }
    let text = text::decode(text)?;
    let imported = if text.trim_start().starts_with('{') {
        read_jwk(text)?
    } else {
        read_pem(text, passphrase)?
    };
    if let Some(private) = &imported.private {
        self_test(private, &own_jwk(&imported).to_json())?;
    }
    Ok(imported)
}

fn own_jwk(imported: &Imported) -> PublicJwk {
    PublicJwk {
        kid: thumbprint(&imported.parameters),
        alg: imported.alg,
        parameters: imported.parameters.clone(),
    }
}

/// The public half as PEM (`SubjectPublicKeyInfo`, RFC 5280 section 4.1).
///
/// # Errors
/// [`ImportError::Inconsistent`] when the parameters are no key.
pub fn public_pem(parameters: &Parameters) -> Result<String, ImportError> {
    let key = match parameters {
        Parameters::Rsa { n, e } => PKey::from_rsa(Rsa::from_public_components(number(n)?, number(e)?)?)?,
        Parameters::P256 { x, y } => PKey::from_ec_key(point(&number(x)?, &number(y)?)?)?,
    };
    String::from_utf8(key.public_key_to_pem()?).map_err(|_| ImportError::Inconsistent)
}

/// The labels of the PEM blocks, without the parameters that OpenSSL writes before a SEC1 key.
fn labels(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .filter(|label| *label != "EC PARAMETERS")
        .collect()
}

fn read_pem(text: &str, passphrase: Passphrase<'_>) -> Result<Imported, ImportError> {
    let labels = labels(text);
    let [label] = labels[..] else {
        return Err(if labels.is_empty() {
            ImportError::NotAKey
        } else {
            ImportError::Several(labels.len())
        });
    };
    let damaged = |_| ImportError::Damaged;
    match label {
        "PUBLIC KEY" => public(&PKey::public_key_from_pem(text.as_bytes()).map_err(damaged)?),
        "RSA PUBLIC KEY" => {
            let key = Rsa::public_key_from_pem_pkcs1(text.as_bytes()).map_err(damaged)?;
            public(&PKey::from_rsa(key)?)
        }
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => {
            let is_encrypted = label.starts_with("ENCRYPTED") || text.contains("Proc-Type: 4,ENCRYPTED");
            private(&open_pem(text, is_encrypted, passphrase)?)
        }
        "CERTIFICATE" => Err(ImportError::Certificate),
        _ => Err(ImportError::NotAKey),
    }
}

fn open_pem(text: &str, is_encrypted: bool, passphrase: Passphrase<'_>) -> Result<PKey<Private>, ImportError> {
    // Without a passphrase OpenSSL would ask at the terminal by itself.
    match (is_encrypted, passphrase) {
        (false, _) => PKey::private_key_from_pem_passphrase(text.as_bytes(), b"").map_err(|_| ImportError::Damaged),
        (true, Passphrase::None) => Err(ImportError::PassphraseNeeded),
        (true, Passphrase::Text(passphrase)) => {
            PKey::private_key_from_pem_passphrase(text.as_bytes(), passphrase.as_bytes())
                .map_err(|_| ImportError::DoesNotOpen)
        }
        (true, Passphrase::AskAtTerminal) => {
            PKey::private_key_from_pem(text.as_bytes()).map_err(|_| ImportError::DoesNotOpen)
        }
    }
}

fn private(key: &PKey<Private>) -> Result<Imported, ImportError> {
    // RSASSA-PSS keys have an id of their own and must not sign PKCS#1 v1.5 (RFC 8017 appendix A.2.3).
    match key.id() {
        Id::RSA => private_rsa(key.rsa()?),
        Id::EC => private_p256(key.ec_key()?),
        _ => Err(ImportError::Kind),
    }
}

fn private_rsa(key: Rsa<Private>) -> Result<Imported, ImportError> {
    let parameters = rsa_parameters(&key)?;
    if !key.check_key().is_ok_and(|good| good) {
        return Err(ImportError::Inconsistent);
    }
    with_private(parameters, PrivateKey::from_rsa(key))
}

fn private_p256(key: EcKey<Private>) -> Result<Imported, ImportError> {
    let parameters = p256_parameters(&key)?;
    with_private(parameters, PrivateKey::from_p256(key))
}

fn with_private(parameters: Parameters, key: Result<PrivateKey, KeyError>) -> Result<Imported, ImportError> {
    let key = key.map_err(|_| ImportError::Inconsistent)?;
    Ok(Imported {
        kid: None,
        alg: key.algorithm(),
        parameters,
        private: Some(key),
    })
}

fn public(key: &PKey<Public>) -> Result<Imported, ImportError> {
    let (alg, parameters) = match key.id() {
        Id::RSA => (Algorithm::Rs256, rsa_parameters(&*key.rsa()?)?),
        Id::EC => (Algorithm::Es256, p256_parameters(&*key.ec_key()?)?),
        _ => return Err(ImportError::Kind),
    };
    Ok(Imported {
        kid: None,
        alg,
        parameters,
        private: None,
    })
}

fn rsa_parameters<T: HasPublic>(key: &RsaRef<T>) -> Result<Parameters, ImportError> {
    let bits = key.n().num_bits();
    if !(2048..=4096).contains(&bits) {
        return Err(ImportError::RsaBits(bits));
    }
    if *key.e() != *BigNum::from_u32(65_537)? {
        return Err(ImportError::Exponent);
    }
    // A modulus is a product of odd primes.
    if !key.n().is_bit_set(0) {
        return Err(ImportError::Inconsistent);
    }
    if roca::has_fingerprint(&key.n().to_vec()) {
        return Err(ImportError::Roca);
    }
    Ok(Parameters::Rsa {
        n: BASE64URL.encode(key.n().to_vec()),
        e: BASE64URL.encode(key.e().to_vec()),
    })
}

fn p256_parameters<T: HasPublic>(key: &EcKeyRef<T>) -> Result<Parameters, ImportError> {
    if key.group().curve_name() != Some(Nid::X9_62_PRIME256V1) {
        return Err(ImportError::Curve);
    }
    key.check_key().map_err(|_| ImportError::Inconsistent)?;
    let (mut x, mut y, mut context) = (BigNum::new()?, BigNum::new()?, BigNumContext::new()?);
    key.public_key()
        .affine_coordinates(key.group(), &mut x, &mut y, &mut context)?;
    Ok(Parameters::P256 {
        x: BASE64URL.encode(x.to_vec_padded(32)?),
        y: BASE64URL.encode(y.to_vec_padded(32)?),
    })
}

/// The members that matter; others are left alone (RFC 7517 section 4).
#[derive(Deserialize)]
struct Members {
    kty: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<PrivateMember>,
    p: Option<PrivateMember>,
    q: Option<PrivateMember>,
    dp: Option<PrivateMember>,
    dq: Option<PrivateMember>,
    qi: Option<PrivateMember>,
    oth: Option<serde::de::IgnoredAny>,
    keys: Option<Vec<serde::de::IgnoredAny>>,
}

/// A private member, wiped when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
struct PrivateMember(Zeroizing<String>);

impl From<String> for PrivateMember {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

fn read_jwk(text: &str) -> Result<Imported, ImportError> {
    // The message of the parser may quote a private member, so only the place is told.
    let members: Members = serde_json::from_str(text).map_err(|error| {
        ImportError::Jwk(format!(
            "line {}, column {} is not as RFC 7517 has it",
            error.line(),
            error.column()
        ))
    })?;
    if let Some(keys) = &members.keys {
        return Err(match keys.len() {
            1 => ImportError::Jwk("it is a JWK set; take the one key out of its array 'keys'".to_owned()),
            count => ImportError::Several(count),
        });
    }
    if members.r#use.as_deref().is_some_and(|usage| usage != "sig") {
        return Err(ImportError::Jwk("its 'use' must be sig".to_owned()));
    }
    if let Some(operations) = &members.key_ops {
        check_operations(operations, members.d.is_some())?;
    }
    let kid = members.kid.as_deref().map(str::parse).transpose()?;
    let alg = match members.kty.as_deref() {
        Some("RSA") => Algorithm::Rs256,
        Some("EC") => Algorithm::Es256,
        Some(_) => return Err(ImportError::Kind),
        None => return Err(ImportError::NotAKey),
    };
    if alg == Algorithm::Es256 && members.crv.as_deref() != Some("P-256") {
        return Err(ImportError::Curve);
    }
    if members.alg.as_deref().is_some_and(|named| named != alg.name()) {
        return Err(ImportError::Jwk(format!("its 'alg' must be {alg}, or be left out")));
    }
    let imported = match alg {
        Algorithm::Rs256 => rsa_from_jwk(&members)?,
        Algorithm::Es256 => p256_from_jwk(&members)?,
    };
    Ok(Imported { kid, ..imported })
}

/// `key_ops` must allow what the key is for, and nothing beside signatures (RFC 7517 section 4.3).
fn check_operations(operations: &[String], is_private: bool) -> Result<(), ImportError> {
    let needed = if is_private { "sign" } else { "verify" };
    let refused = |why: String| Err(ImportError::Jwk(why));
    if let Some(other) = operations
        .iter()
        .find(|name| !matches!(name.as_str(), "sign" | "verify"))
    {
        return refused(format!(
            "its 'key_ops' allow '{}'; a key for signatures has no other operation than sign and verify",
            other.escape_debug()
        ));
    }
    if !operations.iter().any(|name| name == needed) {
        return refused(format!("its 'key_ops' do not allow {needed}"));
    }
    if operations
        .iter()
        .enumerate()
        .any(|(at, name)| operations[..at].contains(name))
    {
        return refused("its 'key_ops' name an operation twice".to_owned());
    }
    Ok(())
}

fn rsa_from_jwk(members: &Members) -> Result<Imported, ImportError> {
    let (n, e) = (member("n", members.n.as_ref())?, member("e", members.e.as_ref())?);
    let Some(d) = &members.d else {
        return public(&PKey::from_rsa(Rsa::from_public_components(n, e)?)?);
    };
    if members.oth.is_some() {
        return Err(ImportError::Jwk(
            "it has more than two primes ('oth'); it must have two".to_owned(),
        ));
    }
    let secret = |name, value: &Option<PrivateMember>| member(name, value.as_ref().map(|value| &*value.0));
    // Out of range, OpenSSL would refuse them one by one; the sizes are told first.
    rsa_parameters(&*Rsa::from_public_components(n.to_owned()?, e.to_owned()?)?)?;
    let key = Rsa::from_private_components(
        n,
        e,
        number(&d.0)?,
        secret("p", &members.p)?,
        secret("q", &members.q)?,
        secret("dp", &members.dp)?,
        secret("dq", &members.dq)?,
        secret("qi", &members.qi)?,
    );
    private_rsa(key.map_err(|_| ImportError::Inconsistent)?)
}

fn p256_from_jwk(members: &Members) -> Result<Imported, ImportError> {
    let (x, y) = (member("x", members.x.as_ref())?, member("y", members.y.as_ref())?);
    let key = point(&x, &y)?;
    let Some(d) = &members.d else {
        return public(&PKey::from_ec_key(key)?);
    };
    let secret = number(&d.0)?;
    let key = EcKey::from_private_components(key.group(), &secret, key.public_key())
        .map_err(|_| ImportError::Inconsistent)?;
    private_p256(key)
}

fn point(x: &BigNum, y: &BigNum) -> Result<EcKey<Public>, ImportError> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    EcKey::from_public_key_affine_coordinates(&group, x, y).map_err(|_| ImportError::Inconsistent)
}

fn member(name: &str, text: Option<&String>) -> Result<BigNum, ImportError> {
    number(text.ok_or_else(|| ImportError::Jwk(format!("it has no '{name}'")))?)
}

fn number(text: &str) -> Result<BigNum, ImportError> {
    let octets = BASE64URL
        .decode(text)
        .map(Zeroizing::new)
        .map_err(|_| ImportError::Jwk("a member is not base64url without padding".to_owned()))?;
    Ok(BigNum::from_slice(&octets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENS: Passphrase<'static> = Passphrase::Text("opens-the-fixtures");

    fn fixture(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/fixtures/keys/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn refusal(text: &[u8], passphrase: Passphrase<'_>) -> String {
        read(text, passphrase).unwrap_err().to_string()
    }

    #[test]
    fn every_encoding_gives_the_same_key() {
        for (alg, private, public) in [
            (
                Algorithm::Rs256,
                &[
                    "rsa.pkcs8.pem",
                    "rsa.pkcs1.pem",
                    "rsa.pkcs8.encrypted.pem",
                    "rsa.pkcs1.encrypted.pem",
                    "rsa.jwk",
                ][..],
                &["rsa.spki.pem", "rsa.public.pkcs1.pem", "rsa.public.jwk"][..],
            ),
            (
                Algorithm::Es256,
                &[
                    "p256.pkcs8.pem",
                    "p256.sec1.pem",
                    "p256.sec1.parameters.pem",
                    "p256.pkcs8.encrypted.pem",
                    "p256.sec1.encrypted.pem",
                    "p256.jwk",
                ][..],
                &["p256.spki.pem", "p256.public.jwk"][..],
            ),
        ] {
            let first = read(&fixture(private[0]), Passphrase::None).unwrap();
            let der = first.private.as_ref().unwrap().to_pkcs8_der().unwrap();
            assert_eq!(
                first.private.unwrap().public_jwk().unwrap().parameters,
                first.parameters
            );
            for name in private {
                let key = read(&fixture(name), OPENS).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!((key.alg, &key.parameters), (alg, &first.parameters), "{name}");
                assert_eq!(key.private.unwrap().to_pkcs8_der().unwrap(), der, "{name}");
            }
            for name in public {
                let key = read(&fixture(name), Passphrase::None).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!((key.alg, &key.parameters), (alg, &first.parameters), "{name}");
                assert!(key.private.is_none(), "{name}");
            }
        }
        let kid = |name| read(&fixture(name), Passphrase::None).unwrap().kid.map(String::from);
        assert_eq!(kid("rsa.public.jwk").as_deref(), Some("old-issuer:2024/a=1"));
        assert_eq!(kid("rsa.spki.pem"), None);
    }

    #[test]
    fn what_is_exported_as_pem_is_what_openssl_wrote() {
        for name in ["rsa", "p256"] {
            let key = read(&fixture(&format!("{name}.pkcs8.pem")), Passphrase::None).unwrap();
            let expected = String::from_utf8(fixture(&format!("{name}.spki.pem"))).unwrap();
            assert_eq!(public_pem(&key.parameters).unwrap(), expected);
        }
    }

    #[test]
    fn each_unfit_file_is_refused_with_its_own_reason() {
        for (name, reason) in [
            ("refused.rsa1024.pem", "has 1024 bits"),
            ("refused.exponent3.pem", "another exponent"),
            ("refused.rsa-pss.pem", "another kind"),
            ("refused.ed25519.pem", "another kind"),
            ("refused.p384.pem", "another curve"),
            ("refused.secp256k1.pem", "another curve"),
            ("refused.certificate.pem", "a certificate"),
            ("refused.two.pem", "holds 2 keys"),
            ("rsa.pkcs8.encrypted.pem", "give its passphrase"),
            ("p256.sec1.encrypted.pem", "give its passphrase"),
        ] {
            let refusal = refusal(&fixture(name), Passphrase::None);
            assert!(refusal.contains(reason), "{name}: {refusal}");
        }
        for name in [
            "rsa.pkcs8.encrypted.pem",
            "rsa.pkcs1.encrypted.pem",
            "p256.sec1.encrypted.pem",
        ] {
            let refusal = refusal(&fixture(name), Passphrase::Text("another"));
            assert!(refusal.contains("does not open"), "{name}: {refusal}");
        }
        for text in [&b""[..], b"hello", b"-----BEGIN DH PARAMETERS-----\n", b"{}"] {
            assert!(refusal(text, OPENS).contains("holds no key"), "{text:?}");
        }
        assert!(refusal(b"\xff\xfe-\0", OPENS).contains("UTF-16"));
        let with_mark = [b"\xef\xbb\xbf", &*fixture("rsa.pkcs8.pem")].concat();
        assert!(read(&with_mark, OPENS).is_ok());
        assert!(refusal(&vec![b'a'; LONGEST_FILE + 1], OPENS).contains("at most"));
        let truncated = fixture("rsa.pkcs8.pem")[..900].to_vec();
        assert!(refusal(&truncated, OPENS).contains("damaged"));
    }

    /// A prime as the faulty library made them: `k * M + 65537^a mod M`, `M` the product of the first primes.
    fn roca_prime() -> BigNum {
        let mut context = BigNumContext::new().unwrap();
        let mut product = BigNum::from_u32(1).unwrap();
        let is_prime = |number: &u32| (2..*number).all(|divisor| !number.is_multiple_of(divisor));
        for prime in (2..=701_u32).filter(is_prime) {
            product.mul_word(prime).unwrap();
        }
        let generator = BigNum::from_u32(65_537).unwrap();
        let (mut exponent, mut factor) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        let (mut power, mut prime) = (BigNum::new().unwrap(), BigNum::new().unwrap());
        loop {
            exponent.rand(62, openssl::bn::MsbOption::ONE, false).unwrap();
            factor
                .rand(1_024 - product.num_bits(), openssl::bn::MsbOption::TWO_ONES, false)
                .unwrap();
            power.mod_exp(&generator, &exponent, &product, &mut context).unwrap();
            prime.checked_mul(&factor, &product, &mut context).unwrap();
            prime.add_word(0).unwrap();
            let mut sum = BigNum::new().unwrap();
            sum.checked_add(&prime, &power).unwrap();
            if sum.num_bits() == 1_024 && sum.is_prime(20, &mut context).unwrap() {
                return sum;
            }
        }
    }

    /// CVE-2017-15361: the private half of such a key follows from the public one, so that it must be trusted in no form.
    #[test]
    #[expect(clippy::many_single_char_names, reason = "the names of RFC 8017")]
    fn a_key_with_the_roca_fingerprint_is_refused_in_every_form() {
        let mut context = BigNumContext::new().unwrap();
        let (p, q) = loop {
            let (p, q) = (roca_prime(), roca_prime());
            let mut n = BigNum::new().unwrap();
            n.checked_mul(&p, &q, &mut context).unwrap();
            if n.num_bits() == 2_048 {
                break (p, q);
            }
        };
        let one = BigNum::from_u32(1).unwrap();
        let e = BigNum::from_u32(65_537).unwrap();
        let (mut n, mut p1, mut q1, mut phi) = (
            BigNum::new().unwrap(),
            BigNum::new().unwrap(),
            BigNum::new().unwrap(),
            BigNum::new().unwrap(),
        );
        n.checked_mul(&p, &q, &mut context).unwrap();
        p1.checked_sub(&p, &one).unwrap();
        q1.checked_sub(&q, &one).unwrap();
        phi.checked_mul(&p1, &q1, &mut context).unwrap();
        let [mut d, mut dp, mut dq, mut qi] = std::array::from_fn(|_| BigNum::new().unwrap());
        d.mod_inverse(&e, &phi, &mut context).unwrap();
        dp.nnmod(&d, &p1, &mut context).unwrap();
        dq.nnmod(&d, &q1, &mut context).unwrap();
        qi.mod_inverse(&q, &p, &mut context).unwrap();
        let copy = |number: &openssl::bn::BigNumRef| number.to_owned().unwrap();
        let rsa = Rsa::from_private_components(copy(&n), copy(&e), copy(&d), copy(&p), copy(&q), dp, dq, qi).unwrap();
        assert!(rsa.check_key().unwrap(), "a good key but for its primes");
        let encoded = BASE64URL.encode(n.to_vec());
        let public = format!(r#"{{"kty":"RSA","n":"{encoded}","e":"AQAB"}}"#);
        let private = PKey::from_rsa(rsa).unwrap();
        for text in [
            public.into_bytes(),
            private.private_key_to_pem_pkcs8().unwrap(),
            private.public_key_to_pem().unwrap(),
        ] {
            assert!(refusal(&text, OPENS).contains("ROCA"), "{text:?}");
        }
        assert!(read(&fixture("rsa.pkcs8.pem"), OPENS).is_ok());
    }

    #[test]
    fn operations_of_a_jwk_agree_with_what_it_is_for() {
        use serde_json::json;

        let with = |name, operations: serde_json::Value| {
            let mut jwk: serde_json::Value = serde_json::from_slice(&fixture(name)).unwrap();
            jwk["key_ops"] = operations;
            read(jwk.to_string().as_bytes(), OPENS).map_err(|error| error.to_string())
        };
        for (name, good) in [
            ("rsa.public.jwk", json!(["verify"])),
            ("p256.public.jwk", json!(["sign", "verify"])),
            ("rsa.jwk", json!(["sign"])),
            ("p256.jwk", json!(["verify", "sign"])),
        ] {
            assert!(with(name, good.clone()).is_ok(), "{name} {good}");
        }
        for (name, bad) in [
            ("rsa.public.jwk", json!(["encrypt"])),
            ("rsa.public.jwk", json!(["verify", "encrypt"])),
            ("rsa.public.jwk", json!(["sign"])),
            ("p256.public.jwk", json!([])),
            ("p256.public.jwk", json!(["deriveKey"])),
            ("p256.public.jwk", json!(["verify", "verify"])),
            ("p256.public.jwk", json!(["Verify"])),
            ("rsa.jwk", json!(["verify"])),
            ("rsa.jwk", json!(["sign", "wrapKey"])),
        ] {
            let refusal = with(name, bad.clone()).unwrap_err();
            assert!(refusal.contains("'key_ops'"), "{name} {bad}: {refusal}");
        }
        for malformed in [json!("verify"), json!([1]), json!({})] {
            assert!(with("rsa.public.jwk", malformed).is_err());
        }
    }

    #[test]
    fn a_jwk_whose_parts_do_not_fit_is_refused() {
        let jwk = |name, member: &str, value: serde_json::Value| {
            let mut jwk: serde_json::Value = serde_json::from_slice(&fixture(name)).unwrap();
            jwk[member] = value;
            jwk.to_string()
        };
        let other = |name, member: &str| {
            let key: serde_json::Value = serde_json::from_slice(&fixture(name)).unwrap();
            let mut octets = BASE64URL.decode(key[member].as_str().unwrap()).unwrap();
            let last = octets.len() - 1;
            octets[last] ^= 2;
            serde_json::Value::String(BASE64URL.encode(octets))
        };
        let apart = "do not belong together";
        for member in ["n", "d", "p", "q", "dp", "dq", "qi"] {
            let refusal = refusal(jwk("rsa.jwk", member, other("rsa.jwk", member)).as_bytes(), OPENS);
            assert!(refusal.contains(apart), "{member}: {refusal}");
        }
        for (name, member) in [("p256.jwk", "d"), ("p256.jwk", "x"), ("p256.public.jwk", "y")] {
            let refusal = refusal(jwk(name, member, other(name, member)).as_bytes(), OPENS);
            assert!(refusal.contains(apart), "{member}: {refusal}");
        }
        for (name, member, value, reason) in [
            ("rsa.public.jwk", "e", "Aw", "another exponent"),
            ("rsa.public.jwk", "n", "AQAB", "bits"),
            ("rsa.public.jwk", "alg", "PS256", "'alg' must be RS256"),
            ("rsa.public.jwk", "use", "enc", "'use' must be sig"),
            ("rsa.public.jwk", "kty", "oct", "another kind"),
            ("rsa.public.jwk", "kid", "a\"b", "kid cannot be kept"),
            ("p256.public.jwk", "crv", "P-384", "another curve"),
            ("p256.public.jwk", "x", "a+b", "not base64url"),
        ] {
            let refusal = refusal(jwk(name, member, value.into()).as_bytes(), OPENS);
            assert!(refusal.contains(reason), "{member}: {refusal}");
        }
        let secret = refusal(jwk("rsa.jwk", "d", 314_159.into()).as_bytes(), OPENS);
        assert!(secret.contains("line 1") && !secret.contains("314159"), "{secret}");
        assert!(refusal(br#"{"keys":[{},{}]}"#, OPENS).contains("holds 2 keys"));
    }
}
