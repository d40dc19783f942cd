//! Keys from elsewhere: PEM as PKCS#8 (RFC 5208), PKCS#1 (RFC 8017), SEC1 (RFC 5915) and SPKI (RFC 5280), encrypted or not,
//! and JWK (RFC 7517).

mod jwk;
mod members;
mod old_encryption;
mod pem;
mod primes;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcKey, EcKeyRef};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKey, Private, Public};
use openssl::rsa::{Rsa, RsaRef};

use crate::text::{self, NotText};

use super::alg::Algorithm;
use super::jwk::{InvalidKid, KeyParameters, Kid, PublicJwk, thumbprint};
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
    pub parameters: KeyParameters,
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
    /// Something that goes with a key, or a key of another system.
    #[error("the file holds {0}")]
    Instead(&'static str),
    /// No UTF-8 text.
    #[error("the file cannot be read: {0}")]
    NotText(#[from] NotText),
    /// A certificate.
    #[error("the file holds a certificate; take its public key out by 'openssl x509 -in FILE -pubkey -noout'")]
    Certificate,
    /// More than one key.
    #[error("the file holds {0} keys; it must hold one, so that it is clear which is meant")]
    Several(usize),
    /// A key and certificates of other keys.
    #[error("the file holds a key and a certificate of another key; take the one out that is wrong")]
    OtherCertificate,
    /// ASN.1 without PEM around it.
    #[error(
        "the file is binary (DER or PKCS#12), not PEM; write it as PEM: 'openssl pkey -inform DER -in FILE' or \
         'openssl pkcs12 -nodes -nocerts -in FILE'"
    )]
    Binary,
    /// The format of ssh-keygen.
    #[error(
        "the key is in the format of OpenSSH; write a copy of an RSA or P-256 key as PEM: 'ssh-keygen -p -m PKCS8 -f COPY' (it leaves an ed25519 key as it is, which Keyround does not take)"
    )]
    OpenSsh,
    /// A PEM that was encoded once more.
    #[error("the file is a PEM in base64; decode it first: 'base64 -d FILE'")]
    WrappedPem,
    /// DER that was encoded, without the lines around it.
    #[error("the file is DER in base64 without the lines of PEM; write it as PEM: {0}")]
    WrappedDer(&'static str),
    /// Too long for any key.
    #[error("the file has {0} octets; a key has at most {LONGEST_FILE}")]
    TooLong(usize),
    /// Encrypted, and no passphrase was given.
    #[error("the key is encrypted; give its passphrase with --passphrase-file")]
    PassphraseNeeded,
    /// Encrypted in a way that OpenSSL gave up.
    #[error(
        "the key is encrypted with {0}, which OpenSSL does not open any more; encrypt it again: \
         'openssl pkcs8 -topk8 -v2 aes-256-cbc -provider legacy -provider default -in FILE'"
    )]
    OldEncryption(String),
    /// The passphrase is another one, or the text is damaged.
    #[error("the key does not open with this passphrase, or the file is damaged")]
    DoesNotOpen,
    /// The text between the PEM lines is not what they say.
    #[error("the PEM is damaged: what stands between its lines is not the key that they announce")]
    Damaged,
    /// A key of another kind.
    #[error("the key is of another kind; Keyround takes RSA (RS256) and P-256 (ES256)")]
    Kind,
    /// A key that signs and verifies.
    #[error(
        "the key is symmetric ('kty' oct): whoever verifies with it can sign with it; Keyround takes RSA (RS256) and P-256 (ES256) keys, such \
         as 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256' makes"
    )]
    Symmetric,
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
    // A sequence in DER, with octets that no text has.
    if text.starts_with(b"0") && text.iter().take(8).any(|octet| !matches!(octet, 9..=0x7e)) {
        return Err(ImportError::Binary);
    }
    let text = text::decode(text)?;
    let instead = |error| match (error, instead_of_key(text)) {
        (ImportError::NotAKey, Some(what)) => ImportError::Instead(what),
        (error, _) => error,
    };
    let imported = if text.trim_start().starts_with('{') {
        jwk::read(text)?
    } else {
        pem::read(text, passphrase).map_err(instead)?
    };
    if let Some(private) = &imported.private {
        self_test(private, &own_jwk(&imported).to_json())?;
    }
    Ok(imported)
}

/// What a text without a key is instead, where it can be told.
fn instead_of_key(text: &str) -> Option<&'static str> {
    let begins = |with: &str| text.trim_start().starts_with(with);
    let is_ssh = ["ssh-rsa ", "ssh-ed25519 ", "ecdsa-sha2-", "---- BEGIN SSH2 PUBLIC KEY"];
    if text.trim().is_empty() {
        Some("nothing: it is empty")
    } else if is_ssh.into_iter().any(begins) {
        Some(
            "a public key of OpenSSH; write an RSA or P-256 key as PEM: 'ssh-keygen -e -m PKCS8 -f FILE' (an ed25519 key is not taken)",
        )
    } else if text.contains("BEGIN CERTIFICATE REQUEST") || text.contains("BEGIN NEW CERTIFICATE REQUEST") {
        Some(
            "a request for a certificate, not its key; give the file of the private key that the request was made with",
        )
    } else if text.contains("BEGIN EC PARAMETERS") {
        Some(
            "the parameters of a curve and no key; make one by 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256'",
        )
    } else if text.contains("BEGIN PGP ") {
        Some(
            "a key of OpenPGP, whose form is another one; export it by a tool of OpenPGP as PEM (PKCS#8), or make a new key",
        )
    } else if text::is_token(text) {
        Some("a token and no key")
    } else if begins("<") {
        Some("XML or HTML; write the key as PEM or JWK")
    } else {
        None
    }
}

/// Whether a key that was read needed its passphrase: PKCS#8 says so by its label, older forms by a header (RFC 7468 section 11, RFC 1421).
#[must_use]
pub fn is_encrypted(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
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
pub fn public_pem(parameters: &KeyParameters) -> Result<String, ImportError> {
    let key = match parameters {
        KeyParameters::Rsa { n, e } => {
            let (n, e) = (jwk::number("n", n)?, jwk::number("e", e)?);
            PKey::from_rsa(Rsa::from_public_components(n, e)?)?
        }
        KeyParameters::P256 { x, y } => PKey::from_ec_key(jwk::point(&jwk::number("x", x)?, &jwk::number("y", y)?)?)?,
    };
    String::from_utf8(key.public_key_to_pem()?).map_err(|_| ImportError::Inconsistent)
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

fn with_private(parameters: KeyParameters, key: Result<PrivateKey, KeyError>) -> Result<Imported, ImportError> {
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

fn rsa_parameters<T: HasPublic>(key: &RsaRef<T>) -> Result<KeyParameters, ImportError> {
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
    Ok(KeyParameters::Rsa {
        n: BASE64URL.encode(key.n().to_vec()),
        e: BASE64URL.encode(key.e().to_vec()),
    })
}

fn p256_parameters<T: HasPublic>(key: &EcKeyRef<T>) -> Result<KeyParameters, ImportError> {
    if key.group().curve_name() != Some(Nid::X9_62_PRIME256V1) {
        return Err(ImportError::Curve);
    }
    key.check_key().map_err(|_| ImportError::Inconsistent)?;
    let (mut x, mut y, mut context) = (BigNum::new()?, BigNum::new()?, BigNumContext::new()?);
    key.public_key()
        .affine_coordinates(key.group(), &mut x, &mut y, &mut context)?;
    Ok(KeyParameters::P256 {
        x: BASE64URL.encode(x.to_vec_padded(32)?),
        y: BASE64URL.encode(y.to_vec_padded(32)?),
    })
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
    fn what_is_there_in_place_of_a_key_is_named() {
        for (text, says) in [
            ("", "nothing: it is empty"),
            (" \n", "nothing: it is empty"),
            (
                "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC ada@host",
                "a public key of OpenSSH",
            ),
            ("ecdsa-sha2-nistp256 AAAA ada@host", "ssh-keygen -e -m PKCS8"),
            (
                "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n",
                "a request for a certificate",
            ),
            (
                "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
                "the parameters of a curve",
            ),
            (
                "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nabc\n-----END PGP PRIVATE KEY BLOCK-----\n",
                "a key of OpenPGP",
            ),
            ("eyJhbGciOiJFUzI1NiJ9.e30.AA", "a token and no key"),
            ("<RSAKeyValue/>", "XML or HTML"),
            ("k: v", "the file holds no key"),
        ] {
            let refused = read(text.as_bytes(), Passphrase::None).unwrap_err().to_string();
            assert!(refused.contains(says), "{text}: {refused}");
        }
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
                    "rsa.pkcs8.3des.pem",
                    "rsa.certified.pem",
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
            ("refused.certified.pem", "a certificate of another key"),
            ("refused.dek-des.pem", "encrypted with DES-CBC, which"),
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
        for (name, algorithm) in [
            ("refused.pbe-md5-des.pem", "PBE-MD5-DES"),
            ("refused.pbe-sha1-rc2-40.pem", "PBE-SHA1-RC2-40"),
            ("refused.pbes2-des.pem", "DES-CBC"),
            ("refused.dek-des.pem", "DES-CBC"),
        ] {
            for passphrase in [OPENS, Passphrase::Text("another"), Passphrase::None] {
                let refusal = refusal(&fixture(name), passphrase);
                let reason = format!("encrypted with {algorithm}, which OpenSSL does not open any more");
                assert!(refusal.contains(&reason), "{name}: {refusal}");
            }
        }
        for text in [&b"hello"[..], b"-----BEGIN DH PARAMETERS-----\n", b"{}"] {
            assert!(refusal(text, OPENS).contains("holds no key"), "{text:?}");
        }
        assert!(refusal(b"\xff\xfe-\0", OPENS).contains("UTF-16"));
        let with_mark = [b"\xef\xbb\xbf", &*fixture("rsa.pkcs8.pem")].concat();
        assert!(read(&with_mark, OPENS).is_ok());
        assert!(refusal(&vec![b'a'; LONGEST_FILE + 1], OPENS).contains("at most"));
        let truncated = fixture("rsa.pkcs8.pem")[..900].to_vec();
        assert!(refusal(&truncated, OPENS).contains("damaged"));
    }

    #[test]
    fn a_pem_is_read_however_its_lines_end_and_whatever_is_around_it() {
        let text = |name| String::from_utf8(fixture(name)).unwrap();
        let with_text = |pem: &str| format!("Bag Attributes\n    friendlyName: a\n\n{pem}\nafter it\n");
        for name in [
            "rsa.pkcs1.encrypted.pem",
            "rsa.certified.pem",
            "p256.sec1.parameters.pem",
            "p256.spki.pem",
        ] {
            let pem = text(name);
            let expected = read(pem.as_bytes(), OPENS).unwrap().parameters;
            for variant in [
                pem.replace('\n', "\r\n"),
                pem.replace('\n', "\r"),
                pem.replace('\n', "\\n"),
                format!("\"{}\"", pem.replace('\n', "\\r\\n")),
                format!("  {}", pem.replace('\n', "\n  ")),
                format!("\u{feff}{pem}"),
                pem.trim_end().to_owned(),
                with_text(&pem),
            ] {
                let read = read(variant.as_bytes(), OPENS).unwrap_or_else(|error| panic!("{error}: {variant:?}"));
                assert_eq!(read.parameters, expected, "{variant:?}");
            }
        }
        let both = format!("{}{}", text("p256.spki.pem"), text("p256.sec1.pem"));
        assert!(read(both.as_bytes(), OPENS).unwrap().private.is_some());
        let others = format!("{}{}", text("rsa.spki.pem"), text("p256.sec1.pem"));
        assert!(refusal(others.as_bytes(), OPENS).contains("holds 2 keys"));
        let wrapped = base64::engine::general_purpose::STANDARD.encode(fixture("rsa.pkcs8.pem"));
        assert!(refusal(wrapped.as_bytes(), OPENS).contains("PEM in base64"));
        let openssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE=\n-----END OPENSSH PRIVATE KEY-----\n";
        assert!(refusal(openssh.as_bytes(), OPENS).contains("ssh-keygen -p -m PKCS8"));
        let der = read(&fixture("p256.pkcs8.pem"), OPENS)
            .unwrap()
            .private
            .unwrap()
            .to_pkcs8_der()
            .unwrap();
        assert!(refusal(&der, OPENS).contains("binary (DER or PKCS#12)"));
        let utf16: Vec<u8> = text("rsa.pkcs8.pem")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        for mark in [&b""[..], b"\xff\xfe"] {
            assert!(refusal(&[mark, &utf16].concat(), OPENS).contains("UTF-16"));
        }
    }

    #[test]
    fn the_primes_of_a_private_jwk_are_found_when_it_states_none() {
        let whole: serde_json::Value = serde_json::from_slice(&fixture("rsa.jwk")).unwrap();
        let without = |names: &[&str]| {
            let mut jwk = whole.clone();
            for name in names {
                jwk.as_object_mut().unwrap().remove(*name);
            }
            jwk
        };
        let der = |jwk: &serde_json::Value| {
            let read = read(jwk.to_string().as_bytes(), OPENS).map_err(|error| error.to_string())?;
            Ok::<_, String>(read.private.unwrap().to_pkcs8_der().unwrap())
        };
        let bare = without(&["p", "q", "dp", "dq", "qi"]);
        assert_eq!(der(&bare).unwrap(), der(&whole).unwrap());
        for missing in ["p", "q", "dp", "dq", "qi"] {
            let refusal = der(&without(&[missing])).unwrap_err();
            assert!(
                refusal.contains(&format!("no '{missing}'")) && refusal.contains("or none of them"),
                "{refusal}"
            );
        }
        let encode = |octets: &[u8]| BASE64URL.encode(octets);
        let n = BASE64URL.decode(whole["n"].as_str().unwrap()).unwrap();
        let mut other = BASE64URL.decode(whole["d"].as_str().unwrap()).unwrap();
        *other.last_mut().unwrap() ^= 2;
        for d in [
            vec![],
            vec![0],
            vec![1],
            vec![3],
            other,
            n.clone(),
            [&n[..], &n].concat(),
        ] {
            let mut wrong = bare.clone();
            wrong["d"] = encode(&d).into();
            let refusal = der(&wrong).unwrap_err();
            assert!(refusal.contains("do not belong together"), "{d:?}: {refusal}");
        }
        // A prime, of which no base finds factors: 2^2203 - 1.
        let mut prime = vec![0xff; 276];
        prime[0] = 0x07;
        let (n, e) = (BigNum::from_slice(&prime).unwrap(), BigNum::from_u32(65_537).unwrap());
        let (mut order, mut d) = (n.to_owned().unwrap(), BigNum::new().unwrap());
        order.sub_word(1).unwrap();
        d.mod_inverse(&e, &order, &mut BigNumContext::new().unwrap()).unwrap();
        let jwk = serde_json::json!({"kty": "RSA", "n": encode(&prime), "e": "AQAB", "d": encode(&d.to_vec())});
        assert!(der(&jwk).unwrap_err().contains("do not belong together"));
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
            ("rsa.public.jwk", "kty", "oct", "the key is symmetric"),
            ("rsa.public.jwk", "kid", "a\0b", "kid cannot be kept"),
            ("p256.public.jwk", "crv", "P-384", "another curve"),
            ("p256.public.jwk", "x", "a+b", "'x' is not base64url"),
        ] {
            let refusal = refusal(jwk(name, member, value.into()).as_bytes(), OPENS);
            assert!(refusal.contains(reason), "{member}: {refusal}");
        }
        let secret = refusal(jwk("rsa.jwk", "d", 314_159.into()).as_bytes(), OPENS);
        assert!(
            secret.contains("its 'd' must be a string") && !secret.contains("314159"),
            "{secret}"
        );
        assert!(refusal(br#"{"keys":[{},{}]}"#, OPENS).contains("holds 2 keys"));
    }
}
