//! Hashes of other systems by PBKDF2 (RFC 8018) and scrypt (RFC 7914). Each form that is read is stored in one, that of
//! the Password Hashing Competition:
//!
//! | read | of |
//! |---|---|
//! | `$pbkdf2-sha256$i=…,l=…$SALT$HASH`, also `sha512`, and `$pbkdf2$` for SHA-1 | PHC; passlib with the iterations alone |
//! | `pbkdf2_sha256$…`, `pbkdf2_sha1$…`, `scrypt$N$SALT$r$p$HASH` | Django |
//! | `pbkdf2:sha256:…$SALT$HEX`, `scrypt:N:r:p$SALT$HEX` | Werkzeug |
//! | `AQAAAA…`, `AA…` | ASP.NET Core Identity, versions 3 and 2 |
//! | `$scrypt$ln=…,r=…,p=…$SALT$HASH` | PHC, passlib |

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use zeroize::Zeroizing;

use crate::crypto::key_derivation::{self, Pbkdf2Digest, Scrypt};

use super::{HashCost, HashingFailed, InvalidHash, MOST_MEMORY, split};

const LONGEST: usize = 512;
const SALT_OCTETS: std::ops::RangeInclusive<usize> = 4..=64;
const OUTPUT_OCTETS: std::ops::RangeInclusive<usize> = 16..=64;
/// The rounds of PBKDF2 that are computed: iterations times blocks of output.
const ROUNDS: std::ops::RangeInclusive<u32> = 1_000..=2_000_000;
/// SHA-512 takes twice as long.
const MOST_ROUNDS_OF_SHA512: u32 = 1_000_000;
/// The most work of scrypt, as N times r times p: twice that of N = 2^16 and r = 8.
const MOST_SCRYPT: u64 = 1 << 20;
/// The most memory of scrypt in octets, with what it needs beside N blocks.
const MOST_SCRYPT_MEMORY: u64 = MOST_MEMORY as u64 * 1024 * 2;

/// The first word of the stored form.
const fn word(digest: Pbkdf2Digest) -> &'static str {
    match digest {
        Pbkdf2Digest::Sha1 => "pbkdf2",
        Pbkdf2Digest::Sha256 => "pbkdf2-sha256",
        Pbkdf2Digest::Sha512 => "pbkdf2-sha512",
    }
}

fn digest_by_name(name: &str) -> Result<Pbkdf2Digest, InvalidHash> {
    match name {
        "sha1" => Ok(Pbkdf2Digest::Sha1),
        "sha256" => Ok(Pbkdf2Digest::Sha256),
        "sha512" => Ok(Pbkdf2Digest::Sha512),
        _ => Err(InvalidHash::Form),
    }
}

/// How many rounds so many iterations are for an output of this length.
fn rounds(digest: Pbkdf2Digest, iterations: u32, length: usize) -> Option<u32> {
    let blocks = length.div_ceil(digest.octets());
    iterations.checked_mul(u32::try_from(blocks).ok()?)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kdf {
    Pbkdf2 { digest: Pbkdf2Digest, iterations: u32 },
    Scrypt(Scrypt),
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Derived {
    kdf: Kdf,
    salt: Vec<u8>,
    output: Vec<u8>,
}

/// The form in which it is stored, whatever it was read from.
impl fmt::Display for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, output] = [&self.salt, &self.output].map(|octets| BASE64_STANDARD_NO_PAD.encode(octets));
        match self.kdf {
            Kdf::Pbkdf2 { digest, iterations } => {
                let (word, length) = (word(digest), self.output.len());
                write!(f, "${word}$i={iterations},l={length}${salt}${output}")
            }
            Kdf::Scrypt(Scrypt { log_n, r, p }) => write!(f, "$scrypt$ln={log_n},r={r},p={p}${salt}${output}"),
        }
    }
}

impl Derived {
    /// Reads any of the forms.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidHash> {
        if text.len() > LONGEST {
            return Err(InvalidHash::Form);
        }
        let parts: Vec<&str> = text.split('$').collect();
        let (kdf, salt, output) = match parts.as_slice() {
            ["", word, parameters, salt, output] => {
                let (kdf, length) = kdf(word, parameters)?;
                let output = base64(output)?;
                if length.is_some_and(|length| length != output.len()) {
                    return Err(InvalidHash::Form);
                }
                (kdf, base64(salt)?, output)
            }
            ["pbkdf2_sha256" | "pbkdf2_sha1", iterations, salt, output] => {
                let digest = digest_by_name(&parts[0]["pbkdf2_".len()..])?;
                let iterations = number(iterations)?;
                (
                    Kdf::Pbkdf2 { digest, iterations },
                    salt.as_bytes().to_vec(),
                    base64(output)?,
                )
            }
            ["scrypt", n, salt, r, p, output] => (scrypt(n, r, p)?, salt.as_bytes().to_vec(), base64(output)?),
            [method, salt, output] => {
                let kdf = match method.split(':').collect::<Vec<_>>().as_slice() {
                    ["pbkdf2", digest, iterations] => Kdf::Pbkdf2 {
                        digest: digest_by_name(digest)?,
                        iterations: number(iterations)?,
                    },
                    ["scrypt", n, r, p] => scrypt(n, r, p)?,
                    _ => return Err(InvalidHash::Form),
                };
                (kdf, salt.as_bytes().to_vec(), hex(output)?)
            }
            [blob] => asp_net(&base64(blob)?).ok_or(InvalidHash::Form)?,
            _ => return Err(InvalidHash::Form),
        };
        if !SALT_OCTETS.contains(&salt.len()) || !OUTPUT_OCTETS.contains(&output.len()) {
            return Err(InvalidHash::Form);
        }
        let derived = Self { kdf, salt, output };
        derived.cost().map(|_| derived)
    }

    /// What checking it costs, from what stands before the salt in the stored form.
    pub(super) fn cost_of(beginning: &str) -> Option<HashCost> {
        let ["", word, parameters, ""] = split::<4>(beginning, '$')? else {
            return None;
        };
        let (kdf, length) = kdf(word, parameters).ok()?;
        kdf.cost(length.unwrap_or(*OUTPUT_OCTETS.start())).ok()
    }

    pub(super) fn cost(&self) -> Result<HashCost, InvalidHash> {
        self.kdf.cost(self.output.len())
    }

    pub(super) fn compute(&self, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, HashingFailed> {
        let mut output = Zeroizing::new(vec![0; self.output.len()]);
        let computed = match self.kdf {
            Kdf::Pbkdf2 { digest, iterations } => {
                key_derivation::pbkdf2(digest, iterations, secret, &self.salt, &mut output)
            }
            Kdf::Scrypt(costs) => key_derivation::scrypt(costs, MOST_SCRYPT_MEMORY, secret, &self.salt, &mut output),
        };
        computed.map_err(|_| HashingFailed::Function)?;
        Ok(output)
    }

    pub(super) fn matches(&self, password: &str) -> Result<bool, HashingFailed> {
        let output = self.compute(password.as_bytes())?;
        // HMAC fills its key with NUL, so that one at the end of a password would change nothing.
        Ok(crate::crypto::keyed_hash::same_octets(&output, &self.output) && !password.contains('\0'))
    }
}

/// Spends what a check costs.
pub(super) fn spend_pbkdf2(
    digest: Pbkdf2Digest,
    rounds: u32,
    secret: &[u8],
) -> Result<Zeroizing<Vec<u8>>, HashingFailed> {
    let work = Derived {
        kdf: Kdf::Pbkdf2 {
            digest,
            iterations: rounds,
        },
        salt: vec![0; 16],
        output: vec![0; digest.octets()],
    };
    work.compute(secret)
}

/// Spends what a check costs.
pub(super) fn spend_scrypt(log_n: u8, r: u32, p: u32, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, HashingFailed> {
    let work = Derived {
        kdf: Kdf::Scrypt(Scrypt { log_n, r, p }),
        salt: vec![0; 16],
        output: vec![0; 32],
    };
    work.compute(secret)
}

impl Kdf {
    fn cost(self, length: usize) -> Result<HashCost, InvalidHash> {
        match self {
            Self::Pbkdf2 { digest, iterations } => {
                let rounds = rounds(digest, iterations, length).ok_or(InvalidHash::Cost)?;
                let is_too_much = digest == Pbkdf2Digest::Sha512 && rounds > MOST_ROUNDS_OF_SHA512;
                if is_too_much || !ROUNDS.contains(&rounds) {
                    return Err(InvalidHash::Cost);
                }
                Ok(HashCost::Pbkdf2 { digest, rounds })
            }
            Self::Scrypt(Scrypt { log_n, r, p }) => {
                let n = 1_u64.checked_shl(log_n.into()).ok_or(InvalidHash::Cost)?;
                let blocks = n.checked_mul(r.into()).ok_or(InvalidHash::Cost)?;
                let work = blocks.checked_mul(p.into()).ok_or(InvalidHash::Cost)?;
                // What OpenSSL asks for: N blocks, two more, and one for each of p.
                let held = n
                    .saturating_add(2)
                    .saturating_add(p.into())
                    .saturating_mul(u64::from(r));
                let has_memory = blocks <= u64::from(MOST_MEMORY) * 1024 / 128 && held <= MOST_SCRYPT_MEMORY / 128;
                // A block is 128 octets times r, and N is less than 2^(16 r) (RFC 7914 section 2).
                let is_sound = log_n >= 1 && r >= 1 && p >= 1 && u32::from(log_n) < r.saturating_mul(16);
                if !is_sound || !has_memory || work > MOST_SCRYPT {
                    return Err(InvalidHash::Cost);
                }
                Ok(HashCost::Scrypt { log_n, r, p })
            }
        }
    }
}

/// The function of the PHC form and the length of its output, if that is said. passlib writes the iterations of PBKDF2 alone.
fn kdf(word: &str, parameters: &str) -> Result<(Kdf, Option<usize>), InvalidHash> {
    let valued = |text: &str, name: &str| number(text.strip_prefix(name).ok_or(InvalidHash::Form)?);
    if word == "scrypt" {
        let [log_n, r, p] = split::<3>(parameters, ',').ok_or(InvalidHash::Form)?;
        let costs = Scrypt {
            log_n: u8::try_from(valued(log_n, "ln=")?).map_err(|_| InvalidHash::Cost)?,
            r: valued(r, "r=")?,
            p: valued(p, "p=")?,
        };
        return Ok((Kdf::Scrypt(costs), None));
    }
    let digest = Pbkdf2Digest::ALL.into_iter().find(|digest| self::word(*digest) == word);
    let digest = digest.ok_or(InvalidHash::Form)?;
    let (iterations, length) = match split::<2>(parameters, ',') {
        Some([iterations, length]) => (valued(iterations, "i=")?, Some(valued(length, "l=")?)),
        None => (number(parameters.strip_prefix("i=").unwrap_or(parameters))?, None),
    };
    let length = length.map(usize::try_from).transpose().map_err(|_| InvalidHash::Form)?;
    Ok((Kdf::Pbkdf2 { digest, iterations }, length))
}

fn number(digits: &str) -> Result<u32, InvalidHash> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidHash::Form);
    }
    // More than fits is too much.
    digits.parse().map_err(|_| InvalidHash::Cost)
}

/// scrypt as Django and Werkzeug have it, with N itself.
fn scrypt(n: &str, r: &str, p: &str) -> Result<Kdf, InvalidHash> {
    let n = number(n)?;
    if !n.is_power_of_two() {
        return Err(InvalidHash::Form);
    }
    Ok(Kdf::Scrypt(Scrypt {
        log_n: u8::try_from(n.ilog2()).map_err(|_| InvalidHash::Cost)?,
        r: number(r)?,
        p: number(p)?,
    }))
}

/// With or without padding; passlib has a full stop in place of the plus sign.
fn base64(text: &str) -> Result<Vec<u8>, InvalidHash> {
    let text = text.trim_end_matches('=').replace('.', "+");
    BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| InvalidHash::Form)
}

fn hex(text: &str) -> Result<Vec<u8>, InvalidHash> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(InvalidHash::Form);
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| InvalidHash::Form))
        .collect()
}

/// `PasswordHasher` of ASP.NET Core Identity: a marker, and in version 3 the function, the iterations and the length of the salt.
fn asp_net(blob: &[u8]) -> Option<(Kdf, Vec<u8>, Vec<u8>)> {
    match blob.split_first()? {
        (0, rest) if rest.len() == 48 => {
            let kdf = Kdf::Pbkdf2 {
                digest: Pbkdf2Digest::Sha1,
                iterations: 1_000,
            };
            let (salt, output) = rest.split_at(16);
            Some((kdf, salt.to_vec(), output.to_vec()))
        }
        (1, rest) => {
            let (numbers, rest) = rest.split_at_checked(12)?;
            let number = |at: usize| Some(u32::from_be_bytes(numbers[at..at + 4].try_into().ok()?));
            let digest = match number(0)? {
                0 => Pbkdf2Digest::Sha1,
                1 => Pbkdf2Digest::Sha256,
                2 => Pbkdf2Digest::Sha512,
                _ => return None,
            };
            let (salt, output) = rest.split_at_checked(usize::try_from(number(8)?).ok()?)?;
            let iterations = number(4)?;
            Some((Kdf::Pbkdf2 { digest, iterations }, salt.to_vec(), output.to_vec()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HashParameters, PasswordHash};
    use super::*;
    use crate::accounts::password::Password;
    use crate::crypto::keyed_hash::HashKey;

    /// Made by Python's hashlib, in the form of each system, all of this password.
    const PASSWORD: &str = "Grüße aus dem 7. Stock";
    const IMPORTED: [(&str, &str); 13] = [
        (
            "pbkdf2_sha256$1500$kJ3nWq7ZtR1xYb5c$RZ0X2+5dSF91WLcD1V7wE5qR2rrb9yULxZEkmVuF6CI=",
            "$pbkdf2-sha256$i=1500,l=32$",
        ),
        (
            "pbkdf2_sha1$1500$kJ3nWq7ZtR1xYb5c$Z6O/NWrNBHLMwQ0OOV/3Xq5LaWg=",
            "$pbkdf2$i=1500,l=20$",
        ),
        (
            "$pbkdf2-sha256$1500$AQIDBAUGBwgJCgsMDQ4PEA$PjHuIm8GELaB9W2ntVBBdcn1r2qiay.ao2LiIi8pIqY",
            "$pbkdf2-sha256$i=1500,l=32$",
        ),
        (
            "$pbkdf2-sha512$1500$AQIDBAUGBwgJCgsMDQ4PEA$EjNVDMHQatzc.2YinlDXCkXyQeS3lG1wu7kArURbKyvybiq02S9hqGdTjJk/pw7nqoePG.WYHgO7uhFePWeuTA",
            "$pbkdf2-sha512$i=1500,l=64$",
        ),
        (
            "$pbkdf2$1500$AQIDBAUGBwgJCgsMDQ4PEA$WbgKJ4JL5QBWVd.qzmEyh/mDClU",
            "$pbkdf2$i=1500,l=20$",
        ),
        (
            "$pbkdf2-sha256$i=1500,l=32$AQIDBAUGBwgJCgsMDQ4PEA$PjHuIm8GELaB9W2ntVBBdcn1r2qiay+ao2LiIi8pIqY",
            "$pbkdf2-sha256$i=1500,l=32$",
        ),
        // Keycloak's value and salt.
        (
            "$pbkdf2-sha256$1500$AQIDBAUGBwgJCgsMDQ4PEA==$PjHuIm8GELaB9W2ntVBBdcn1r2qiay+ao2LiIi8pIqZ/wohBRT3axiFaBzpOW0Vf7Gurh/3SY7v5QzQHQiq4NA==",
            "$pbkdf2-sha256$i=1500,l=64$",
        ),
        (
            "pbkdf2:sha256:1500$kJ3nWq7Z$2707e44817719292aca9c8d222fbf266aec08cdce7ffadbac36bb180394211d8",
            "$pbkdf2-sha256$i=1500,l=32$",
        ),
        (
            "AQAAAAIAAAXcAAAAEAECAwQFBgcICQoLDA0ODxASM1UMwdBq3Nz7ZiKeUNcKRfJB5LeUbXC7uQCtRFsrKw==",
            "$pbkdf2-sha512$i=1500,l=32$",
        ),
        (
            "AAECAwQFBgcICQoLDA0ODxCzwap/TWh+foz8MOoLiq527bO8yzOrtTkQBC1VM1EgZQ==",
            "$pbkdf2$i=1000,l=32$",
        ),
        (
            "$scrypt$ln=4,r=8,p=1$AQIDBAUGBwgJCgsMDQ4PEA$NF7z++FNpLOvV2uLtf/RxRwTx8CEBEFsz0nysP/hBY4",
            "$scrypt$ln=4,r=8,p=1$",
        ),
        (
            "scrypt:16:8:1$kJ3nWq7Z$d4660d32550579f5b5f656ed06892823badfbb2137e203ff2eee3822dc61b3f532ee36344804775061924db12af1a65314f030866254da1ed1d24cfd2687f356",
            "$scrypt$ln=4,r=8,p=1$",
        ),
        (
            "scrypt$16$kJ3nWq7ZtR1xYb5c$8$5$UmKGgN++IleethI8kn7H3eTu6jGBn77+CP+vh7yGPATy938l0Nxf6IKjsP3xPDplBvKvHpTx7uSEbXGepYLpmg==",
            "$scrypt$ln=4,r=8,p=5$",
        ),
    ];

    fn key() -> HashKey {
        HashKey::from_bytes([7; 32])
    }

    fn password(text: &str) -> Password {
        Password::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn the_hashes_of_other_systems_match_their_password_and_are_stored_in_one_form() {
        for (text, beginning) in IMPORTED {
            let hash = PasswordHash::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(hash.as_str().starts_with(beginning), "{text}: {}", hash.as_str());
            let stored = PasswordHash::parse(hash.as_str()).unwrap();
            assert!(stored == hash, "{text}");
            assert_eq!(HashCost::parse(beginning), Some(hash.cost()), "{text}");
            let matches = |text: &str| hash.matches(&password(text), &key()).unwrap();
            assert!(matches(PASSWORD), "{text}");
            for other in [
                "Grüße aus dem 8. Stock",
                "",
                &format!("{PASSWORD}\0"),
                &format!("{PASSWORD}\0a"),
            ] {
                assert!(!matches(other), "{text} {other:?}");
            }
            assert!(
                hash.needs_rehash(HashParameters::ARGON2ID) && hash.needs_rehash(HashParameters::Bcrypt { cost: 4 })
            );
            assert!(hash.cost().spend(&password("a"), &key()).is_ok());
        }
    }

    /// What systems store today, and what a login must not cost.
    #[test]
    fn costs_are_bounded() {
        let pbkdf2 = |digest: &str, i: u64, l: usize| {
            let output = BASE64_STANDARD_NO_PAD.encode(vec![1; l]);
            format!("${digest}$i={i},l={l}$AQIDBAUGBwgJCgsMDQ4PEA${output}")
        };
        let scrypt = |ln: u64, r: u64, p: u64| {
            format!("$scrypt$ln={ln},r={r},p={p}$AQIDBAUGBwgJCgsMDQ4PEA$NF7z++FNpLOvV2uLtf/RxRwTx8CEBEFsz0nysP/hBY4")
        };
        for taken in [
            pbkdf2("pbkdf2-sha256", 1_200_000, 32),
            pbkdf2("pbkdf2-sha256", 2_000_000, 32),
            pbkdf2("pbkdf2-sha256", 1_000_000, 64),
            pbkdf2("pbkdf2-sha512", 1_000_000, 64),
            pbkdf2("pbkdf2", 1_300_000, 20),
            scrypt(14, 8, 5),
            scrypt(15, 8, 3),
            scrypt(16, 8, 2),
            scrypt(17, 4, 1),
            scrypt(1, 209_715, 1),
            scrypt(1, 174_762, 2),
            scrypt(1, 131_072, 4),
        ] {
            let hash = PasswordHash::parse(&taken);
            assert!(hash.is_ok(), "{taken}");
            if taken.contains("ln=1,") {
                // What is taken can be computed: a hash that cannot would refuse everybody.
                assert!(Derived::parse(&taken).unwrap().matches("x").is_ok(), "{taken}");
            }
        }
        for refused in [
            pbkdf2("pbkdf2-sha256", 2_000_001, 32),
            pbkdf2("pbkdf2-sha256", 1_000_001, 64),
            pbkdf2("pbkdf2-sha512", 1_000_001, 64),
            pbkdf2("pbkdf2", 1_000_001, 32),
            pbkdf2("pbkdf2-sha256", 999, 32),
            pbkdf2("pbkdf2-sha256", 0, 32),
            pbkdf2("pbkdf2-sha256", 4_294_967_295, 64),
            pbkdf2("pbkdf2-sha256", u64::MAX, 32),
            scrypt(17, 8, 1),
            // OpenSSL would ask for more memory than it is given.
            scrypt(1, 209_716, 1),
            scrypt(1, 262_144, 1),
            scrypt(1, 200_000, 3),
            scrypt(16, 8, 3),
            scrypt(1, 8, 4_294_967_295),
            scrypt(64, 1, 1),
            scrypt(256, 8, 1),
            scrypt(10, 4_294_967_295, 4_294_967_295),
            scrypt(0, 8, 1),
            scrypt(10, 0, 1),
            scrypt(10, 8, 0),
            scrypt(16, 1, 1),
        ] {
            assert_eq!(PasswordHash::parse(&refused), Err(InvalidHash::Cost), "{refused}");
            let beginning: String = refused.splitn(4, '$').take(3).collect::<Vec<_>>().join("$") + "$";
            assert_eq!(HashCost::parse(&beginning), None, "{beginning}");
        }
    }

    #[test]
    fn what_has_another_form_is_refused() {
        let good = IMPORTED[5].0;
        for bad in [
            format!("hmac-sha256{good}"),
            good.replace("sha256", "sha384"),
            good.replace("sha256", "md5"),
            good.replace("l=32", "l=31"),
            good.replace("i=1500", "i="),
            good.replace("i=1500", "i=+1500"),
            good.replace("i=1500", "i=-1"),
            good.replace("AQIDBAUGBwgJCgsMDQ4PEA", ""),
            good.replace("AQIDBAUGBwgJCgsMDQ4PEA", "AQI!"),
            format!("{good}$"),
            format!("{good}{}", "A".repeat(600)),
            "pbkdf2_md5$1500$kJ3nWq7ZtR1xYb5c$RZ0X2+5dSF91WLcD1V7wE5qR2rrb9yULxZEkmVuF6CI=".to_owned(),
            "scrypt:17:8:1$kJ3nWq7Z$d4660d32550579f5b5f656ed06892823".to_owned(),
            "pbkdf2:sha256:1500$kJ3nWq7Z$2707e44817719292aca9c8d222fbf266a".to_owned(),
            "pbkdf2:sha256:1500$kJ3nWq7Z$é707e44817719292aca9c8d222fbf26".to_owned(),
            // Of ASP.NET: another function, a salt that is longer than all, another version.
            "AQAAAAkAAAXcAAAAEAECAwQFBgcICQoLDA0ODxASM1UMwdBq3Nz7ZiKeUNcKRfJB5LeUbXC7uQCtRFsrKw==".to_owned(),
            "AQAAAAIAAAXc/////wECAwQFBgcICQoLDA0ODxASM1UMwdBq3Nz7ZiKeUNcKRfJB5LeUbXC7uQCtRFsrKw==".to_owned(),
            "AgAAAAIAAAXcAAAAEAECAwQFBgcICQoLDA0ODxASM1UMwdBq3Nz7ZiKeUNcKRfJB5LeUbXC7uQCtRFsrKw==".to_owned(),
            "AQ==".to_owned(),
        ] {
            let refused = PasswordHash::parse(&bad);
            assert!(
                matches!(refused, Err(InvalidHash::Form | InvalidHash::Damaged(_))),
                "{bad}: {refused:?}"
            );
        }
    }
}
