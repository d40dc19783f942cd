//! The stored form of a password, and what it costs to check one.
//!
//! What bcrypt or Argon2id hashes is not the password but its keyed digest: HMAC-SHA-256 of its NFKC form under the server's
//! hash key, in base64url. bcrypt reads 72 octets at most; the digest has 43, so that no part of a password is ever cut off, and
//! who reads the database alone, without the master key, can try no guess at all. The stored text says so by its first word:
//!
//! | stored | what it is |
//! |---|---|
//! | `hmac-sha256$2b$12$…` | ours, by bcrypt |
//! | `hmac-sha256$argon2id$v=19$m=19456,t=2,p=1$…$…` | ours, by Argon2id (RFC 9106) |
//! | `$2a$…`, `$2b$…`, `$2y$…` | imported bcrypt, of the password as typed |
//! | `bcrypt_sha256$$2b$…` | imported bcrypt, of the SHA-256 of the password as typed (Django) |
//! | `$argon2id$…`, `$argon2i$…` | imported Argon2, of the password as typed |
//! | `$pbkdf2-sha256$i=…,l=…$…$…`, `$pbkdf2-sha512$…`, `$pbkdf2$…` | imported PBKDF2, of the password as typed |
//! | `$scrypt$ln=…,r=…,p=…$…$…` | imported scrypt, of the password as typed |
//!
//! An imported one is replaced by ours at the next login. One that costs more than the bounds below is refused, for each login
//! would pay that price.

mod cost;
mod derived;
mod foreign;

use std::fmt::{self, Write};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_STANDARD_NO_PAD;
use base64::{Engine, alphabet};
use zeroize::Zeroizing;

use super::password::Password;
use crate::crypto::keyed_hash::{HashKey, same_octets};
use crate::crypto::purpose::Purpose;
use crate::crypto::random::random_salt;
use crate::crypto::sha256;

pub use crate::crypto::key_derivation::Pbkdf2Digest;

use derived::Derived;

pub use cost::{HashCost, MAX_REFUSED_LOGIN, StoredCosts};

/// The first word of what we store.
const KEYED: &str = "hmac-sha256";

/// The first word of Django's `BCryptSHA256PasswordHasher`, which hashes the SHA-256 of the password in hexadecimal digits.
const OF_DJANGO_SHA256: &str = "bcrypt_sha256$";

/// The costs of bcrypt that are computed: the highest takes eight times as long as the default, 12.
pub const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=15;

/// The most octets that bcrypt reads.
const BCRYPT_OCTETS: usize = 72;

/// The most memory that Argon2 is given, in KiB.
pub const MOST_MEMORY: u32 = 64 * 1024;
/// The most passes of Argon2 over that memory.
pub const MOST_PASSES: u32 = 10;
/// The most lanes of Argon2. They are computed one after another.
pub const MOST_LANES: u32 = 8;
const ARGON2_OCTETS: std::ops::RangeInclusive<usize> = 16..=64;
const ARGON2_SALT_OCTETS: std::ops::RangeInclusive<usize> = 8..=64;

const BASE64_PADDED_OR_NOT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How new passwords are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashParameters {
    /// bcrypt with this cost: 2^cost rounds.
    Bcrypt {
        /// The cost, within [`BCRYPT_COSTS`].
        cost: u32,
    },
    /// Argon2id, version 19.
    Argon2id {
        /// Memory in KiB.
        memory: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
}

impl HashParameters {
    /// Argon2id with 19 MiB, two passes and one lane.
    pub const ARGON2ID: Self = Self::Argon2id {
        memory: 19 * 1024,
        passes: 2,
        lanes: 1,
    };
}

impl HashParameters {
    /// What checking a hash of these parameters costs.
    #[must_use]
    pub const fn cost(self) -> HashCost {
        match self {
            Self::Bcrypt { cost } => HashCost::Bcrypt { cost },
            Self::Argon2id { memory, passes, lanes } => HashCost::Argon2 {
                is_id: true,
                memory,
                passes,
                lanes,
            },
        }
    }
}

/// A text that is no hash of a password that we check. Says nothing of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHash {
    /// It has another form.
    #[error(
        "this is no hash of a password; taken are bcrypt ($2a$, $2b$, $2y$, bcrypt_sha256$ of Django), Argon2 ($argon2id$, $argon2i$, version 19), PBKDF2 with SHA-1, \
         SHA-256 or SHA-512 and scrypt, in the forms of PHC, passlib, Django, Werkzeug and ASP.NET Core Identity"
    )]
    Form,
    /// It is of a kind that is not accepted.
    #[error(
        "this is a hash of {0}, which is not accepted; accepted are bcrypt, Argon2id, Argon2i, PBKDF2 and scrypt. Create the account without \
         a hash and set a password"
    )]
    Kind(&'static str),
    /// It begins as one that is accepted.
    #[error(
        "this begins as a hash of {0}, but is not whole or was changed: a column or a field that is too short cuts it off (bcrypt has 60 \
         characters), and a shell replaces '$' unless it is in single quotation marks; export it again"
    )]
    Damaged(&'static str),
    /// A hash in a notation around it, or a mark for an absent password.
    #[error("this is {0}")]
    Wrapped(&'static str),
    /// It would take too long to check, or too much memory.
    #[error(
        "this hash costs too much to check, or too little: bcrypt has a cost of 4 to 15, Argon2 at most 65536 KiB of memory, 10 \
         passes and 8 lanes (Django's default has 102400 KiB), PBKDF2 1000 to 2000000 iterations (SHA-512: 1000000, both halved for each further block of output), scrypt \
         at most 65536 KiB of memory (N=2^16 with r=8) and N*r*p of 1048576; let the other system hash the password again within these \
         bounds at a login (in Django, by a hasher with memory_cost = 65536 that is first in PASSWORD_HASHERS), or create the account \
         without a hash and set a password"
    )]
    Cost,
}

/// Why a password could not be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashingFailed {
    /// The system gave no randomness.
    #[error("there is no randomness for a salt")]
    Randomness,
    /// The system gave no memory, or the parameters are out of bounds.
    #[error("the hash function failed")]
    Function,
}

/// The hash of a password as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: String,
    function: Function,
}

#[derive(Clone, PartialEq, Eq)]
enum Function {
    Bcrypt { cost: u32 },
    Argon2(Box<Argon2Hash>),
    Derived { hash: Box<Derived>, cost: HashCost },
}

#[derive(Clone, PartialEq, Eq)]
struct Argon2Hash {
    algorithm: Algorithm,
    memory: u32,
    passes: u32,
    lanes: u32,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(redacted)")
    }
}

impl PasswordHash {
    /// Hashes a password. Takes a large part of a second by design: never on a worker.
    ///
    /// # Errors
    /// [`HashingFailed`].
    pub fn new(password: &Password, parameters: HashParameters, key: &HashKey) -> Result<Self, HashingFailed> {
        let salt = random_salt().map_err(|_| HashingFailed::Randomness)?;
        let digest = keyed(password, key);
        let function = match parameters {
            HashParameters::Bcrypt { cost } => {
                let hashed =
                    bcrypt::hash_with_salt(digest.as_bytes(), cost, salt).map_err(|_| HashingFailed::Function)?;
                let text = format!("{KEYED}{}", hashed.format_for_version(bcrypt::Version::TwoB));
                return Ok(Self {
                    text,
                    function: Function::Bcrypt { cost },
                });
            }
            HashParameters::Argon2id { memory, passes, lanes } => {
                let mut hash = Argon2Hash {
                    algorithm: Algorithm::Argon2id,
                    memory,
                    passes,
                    lanes,
                    salt: salt.to_vec(),
                    output: vec![0; 32],
                };
                hash.output = hash.compute(digest.as_bytes())?.to_vec();
                hash
            }
        };
        Ok(Self {
            text: format!("{KEYED}{function}"),
            function: Function::Argon2(Box::new(function)),
        })
    }

    /// Reads what is stored, or what another system stored.
    ///
    /// # Errors
    /// [`InvalidHash`] when it is of another form, or out of bounds.
    pub fn parse(stored: &str) -> Result<Self, InvalidHash> {
        if let Some(kind) = foreign::refused_kind(stored) {
            return Err(InvalidHash::Kind(kind));
        }
        if let Some(what) = foreign::wrapped(stored) {
            return Err(InvalidHash::Wrapped(what));
        }
        Self::read(stored).map_err(|error| match (error, foreign::damaged_kind(stored)) {
            (InvalidHash::Form, Some(kind)) => InvalidHash::Damaged(kind),
            (error, _) => error,
        })
    }

    fn read(stored: &str) -> Result<Self, InvalidHash> {
        // Django's first word, before hashes that are whole without it but for a dollar sign.
        let of_django = stored
            .strip_prefix("argon2$")
            .map(|rest| format!("${rest}"))
            .or_else(|| stored.strip_prefix("bcrypt$").map(str::to_owned));
        let stored = of_django.as_deref().unwrap_or(stored);
        let (word, modular) = [KEYED, OF_DJANGO_SHA256]
            .into_iter()
            .find_map(|word| Some((word, stored.strip_prefix(word)?)))
            .unwrap_or(("", stored));
        let function = if word == OF_DJANGO_SHA256 && !modular.starts_with("$2") {
            return Err(InvalidHash::Form);
        } else if modular.starts_with("$argon2") {
            let hash = Argon2Hash::parse(modular)?;
            return Ok(Self {
                text: format!("{word}{hash}"),
                function: Function::Argon2(Box::new(hash)),
            });
        } else if modular.starts_with("$2") {
            Function::Bcrypt {
                cost: bcrypt_cost(modular)?,
            }
        } else {
            let hash = Derived::parse(stored)?;
            return Ok(Self {
                text: hash.to_string(),
                function: Function::Derived {
                    cost: hash.cost()?,
                    hash: Box::new(hash),
                },
            });
        };
        Ok(Self {
            text: stored.to_owned(),
            function,
        })
    }

    /// The text to be stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is the password. Takes as long as [`Self::new`], whatever the answer.
    ///
    /// # Errors
    /// [`HashingFailed::Function`].
    pub fn matches(&self, password: &Password, key: &HashKey) -> Result<bool, HashingFailed> {
        let digest;
        let (hashed, modular) = if let Some(modular) = self.text.strip_prefix(KEYED) {
            digest = keyed(password, key);
            (digest.as_str(), modular)
        } else if let Some(modular) = self.text.strip_prefix(OF_DJANGO_SHA256) {
            digest = sha256_hex(password);
            (digest.as_str(), modular)
        } else {
            (password.as_typed(), &*self.text)
        };
        match &self.function {
            Function::Bcrypt { .. } => {
                let same = bcrypt::verify(hashed, modular).map_err(|_| HashingFailed::Function)?;
                // Of an imported hash we cannot know what lay beyond: bcrypt reads 72 octets, and its key repeats after a NUL.
                Ok(same && hashed.len() <= BCRYPT_OCTETS && !hashed.contains('\0'))
            }
            Function::Argon2(hash) => {
                let output = hash.compute(hashed.as_bytes())?;
                Ok(same_octets(&output, &hash.output))
            }
            Function::Derived { hash, .. } => hash.matches(password.as_typed()),
        }
    }

    /// What checking it costs.
    #[must_use]
    pub fn cost(&self) -> HashCost {
        match &self.function {
            Function::Bcrypt { cost } => HashCost::Bcrypt { cost: *cost },
            Function::Argon2(hash) => HashCost::Argon2 {
                is_id: hash.algorithm == Algorithm::Argon2id,
                memory: hash.memory,
                passes: hash.passes,
                lanes: hash.lanes,
            },
            Function::Derived { cost, .. } => *cost,
        }
    }

    /// Whether a password that matched should be hashed anew: imported, by the other function, or at another cost.
    #[must_use]
    pub fn needs_rehash(&self, parameters: HashParameters) -> bool {
        let stored = match &self.function {
            Function::Bcrypt { cost } => HashParameters::Bcrypt { cost: *cost },
            Function::Argon2(hash) => HashParameters::Argon2id {
                memory: hash.memory,
                passes: hash.passes,
                lanes: hash.lanes,
            },
            Function::Derived { .. } => return true,
        };
        stored != parameters || !self.text.starts_with(KEYED)
    }
}

fn keyed(password: &Password, key: &HashKey) -> Zeroizing<String> {
    Zeroizing::new(key.digest(Purpose::Password, &password.normalized()))
}

fn sha256_hex(password: &Password) -> Zeroizing<String> {
    let digest = Zeroizing::new(sha256(password.as_typed().as_bytes()));
    let mut hex = Zeroizing::new(String::with_capacity(2 * digest.len()));
    for octet in digest.iter() {
        // A String takes everything.
        let _ = write!(hex, "{octet:02x}");
    }
    hex
}

fn bcrypt_cost(text: &str) -> Result<u32, InvalidHash> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| InvalidHash::Form)?;
    // `$2x$` marks hashes of a function that mixed passwords up.
    let known = ["$2a$", "$2b$", "$2y$"].iter().any(|prefix| text.starts_with(prefix));
    let cost = parts.get_cost();
    match known {
        false => Err(InvalidHash::Form),
        true if !BCRYPT_COSTS.contains(&cost) => Err(InvalidHash::Cost),
        true => Ok(cost),
    }
}

/// The PHC form, as every implementation writes it.
impl fmt::Display for Argon2Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (memory, passes, lanes) = (self.memory, self.passes, self.lanes);
        let [salt, output] = [&self.salt, &self.output].map(|octets| BASE64_STANDARD_NO_PAD.encode(octets));
        write!(
            f,
            "${}$v=19$m={memory},t={passes},p={lanes}${salt}${output}",
            self.algorithm
        )
    }
}

impl Argon2Hash {
    fn parse(text: &str) -> Result<Self, InvalidHash> {
        let Some(["", algorithm, "v=19", parameters, salt, output]) = split::<6>(text, '$') else {
            return Err(InvalidHash::Form);
        };
        let algorithm = match algorithm {
            "argon2id" => Algorithm::Argon2id,
            "argon2i" => Algorithm::Argon2i,
            _ => return Err(InvalidHash::Form),
        };
        let parameters = split::<3>(parameters, ',').ok_or(InvalidHash::Form)?;
        let mut numbers = [0; 3];
        for ((number, text), name) in numbers.iter_mut().zip(parameters).zip(["m=", "t=", "p="]) {
            let digits = text.strip_prefix(name).ok_or(InvalidHash::Form)?;
            *number = digits.parse().map_err(|_| InvalidHash::Form)?;
        }
        let [memory, passes, lanes] = numbers;
        // PHC has no padding, but some libraries write it.
        let decode = |text| BASE64_PADDED_OR_NOT.decode(text).map_err(|_| InvalidHash::Form);
        let (salt, output) = (decode(salt)?, decode(output)?);
        if salt.len() < *ARGON2_SALT_OCTETS.start() || output.len() < *ARGON2_OCTETS.start() {
            return Err(InvalidHash::Form);
        }
        let bounded = memory <= MOST_MEMORY && passes <= MOST_PASSES && lanes <= MOST_LANES;
        let short = salt.len() <= *ARGON2_SALT_OCTETS.end() && output.len() <= *ARGON2_OCTETS.end();
        // `Params` knows the least of each.
        if !bounded || !short || Params::new(memory, passes, lanes, Some(output.len())).is_err() {
            return Err(InvalidHash::Cost);
        }
        Ok(Self {
            algorithm,
            memory,
            passes,
            lanes,
            salt,
            output,
        })
    }

    fn compute(&self, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, HashingFailed> {
        let parameters = Params::new(self.memory, self.passes, self.lanes, Some(self.output.len()))
            .map_err(|_| HashingFailed::Function)?;
        let mut output = Zeroizing::new(vec![0; self.output.len()]);
        Argon2::new(self.algorithm, Version::V0x13, parameters)
            .hash_password_into(secret, &self.salt, &mut output)
            .map_err(|_| HashingFailed::Function)?;
        Ok(output)
    }
}

/// The parts of a text, if there are exactly so many.
fn split<const N: usize>(text: &str, by: char) -> Option<[&str; N]> {
    let parts: Vec<&str> = text.splitn(N + 1, by).collect();
    parts.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHEAP: HashParameters = HashParameters::Bcrypt { cost: 4 };
    const CHEAP_ARGON2ID: HashParameters = HashParameters::Argon2id {
        memory: 64,
        passes: 1,
        lanes: 1,
    };

    /// Made by other implementations, all of this password.
    const IMPORTED_PASSWORD: &str = "Grüße aus dem 7. Stock";
    const IMPORTED: [&str; 7] = [
        "$2a$05$zjQycGSpkkSyNaYgd4GiU.kmrZV.GY5IkLOqG.L4G66W5p3hSoSai",
        "$2b$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
        "$2y$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
        "$argon2id$v=19$m=256,t=2,p=2$C03veDDZe3tGvqED07Xjdg$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4",
        "$argon2i$v=19$m=256,t=2,p=2$vjQrIzTywSTBpdwWD+bcyA$BPT2GmMHPkHmqPlV0HyXN1b+ZXvJ6xYDg8G1z1QxkKw",
        "$argon2id$v=19$m=65536,t=3,p=4$DehtWirJKbMTrzuXAaBh9w$ZUnSQ2glFfZX1WyQUOg9IKKfqBXLxBuxBpVQ0wYTDVA",
        // Django 5.
        "bcrypt_sha256$$2b$05$GgtbH6j30sC0Yw5PceZ3CuWQy1mVAT7OsxIHnnEazVi1Zx73PQo8.",
    ];
    /// bcrypt of 72 times the letter a.
    const OF_72_OCTETS: &str = "$2b$04$yswNyltAszlnRGWCSavQIe.YF2y5u.Y1M2AMqASjK1gnatj1HrfFi";

    fn key() -> HashKey {
        HashKey::from_bytes([7; 32])
    }

    fn password(text: &str) -> Password {
        Password::try_from(text.to_owned()).unwrap()
    }

    fn matches(hash: &PasswordHash, text: &str) -> bool {
        hash.matches(&password(text), &key()).unwrap()
    }

    #[test]
    fn what_we_hash_is_read_again_and_only_its_password_matches() {
        for (parameters, prefix) in [
            (CHEAP, "hmac-sha256$2b$04$"),
            (CHEAP_ARGON2ID, "hmac-sha256$argon2id$v=19$m=64,t=1,p=1$"),
        ] {
            let hash = PasswordHash::new(&password("one \u{e9}"), parameters, &key()).unwrap();
            assert!(
                hash.as_str().starts_with(prefix) && hash.as_str().is_ascii(),
                "{}",
                hash.as_str()
            );
            let read = PasswordHash::parse(hash.as_str()).unwrap();
            assert!(read == hash && matches(&read, "one \u{e9}") && matches(&read, "one e\u{301}"));
            assert!(!matches(&read, "one e") && !matches(&read, ""));
            let elsewhere = HashKey::from_bytes([8; 32]);
            assert!(
                !read.matches(&password("one \u{e9}"), &elsewhere).unwrap(),
                "the database alone is not enough"
            );
            assert!(
                PasswordHash::new(&password("one \u{e9}"), parameters, &key()).unwrap() != hash,
                "a salt of its own"
            );
            assert_eq!(format!("{hash:?}"), "PasswordHash(redacted)");
        }
    }

    /// Nothing is cut off.
    #[test]
    fn passwords_that_differ_after_72_octets_are_different() {
        let common = "x".repeat(72);
        for parameters in [CHEAP, CHEAP_ARGON2ID] {
            let hash = PasswordHash::new(&password(&format!("{common}a")), parameters, &key()).unwrap();
            assert!(matches(&hash, &format!("{common}a")));
            assert!(!matches(&hash, &format!("{common}b")) && !matches(&hash, &common));
            let with_nul = PasswordHash::new(&password("a\0b"), parameters, &key()).unwrap();
            assert!(matches(&with_nul, "a\0b") && !matches(&with_nul, "a") && !matches(&with_nul, "a\0b\0a\0b"));
        }
        let imported = PasswordHash::parse(OF_72_OCTETS).unwrap();
        assert!(matches(&imported, &"a".repeat(72)));
        assert!(!matches(&imported, &"a".repeat(73)) && !matches(&imported, &"a".repeat(71)));
    }

    #[test]
    fn imported_hashes_match_their_password_as_typed() {
        for stored in IMPORTED {
            let hash = PasswordHash::parse(stored).unwrap();
            assert!(matches(&hash, IMPORTED_PASSWORD), "{stored}");
            assert!(!matches(&hash, "Grüße aus dem 8. Stock"), "{stored}");
            let repeated = format!("{IMPORTED_PASSWORD}\0{IMPORTED_PASSWORD}");
            assert!(!matches(&hash, &repeated), "{stored}");
            assert_eq!(hash.as_str(), stored);
        }
    }

    /// Argon2 in the Bouncy Castle of Java and in older PHP ends with the padding that PHC leaves out.
    #[test]
    fn padded_hashes_are_stored_without_padding() {
        let padded =
            "$argon2id$v=19$m=256,t=2,p=2$C03veDDZe3tGvqED07Xjdg==$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4=";
        for text in [padded.to_owned(), format!("argon2{padded}"), IMPORTED[3].to_owned()] {
            let hash = PasswordHash::parse(&text).unwrap();
            assert_eq!(hash.as_str(), IMPORTED[3], "{text}");
            assert!(matches(&hash, IMPORTED_PASSWORD));
        }
    }

    /// Django 5 made it from 100 times the letter a.
    #[test]
    fn what_is_digested_before_bcrypt_is_never_cut_off() {
        let stored = "bcrypt_sha256$$2b$05$obKJJ7Mdf931tey6RM5.nOrYEvPNaIun5ogQg57.Q3fl6ff2PvxHK";
        let hash = PasswordHash::parse(stored).unwrap();
        assert!(matches(&hash, &"a".repeat(100)) && !matches(&hash, &"a".repeat(72)));
        assert!(hash.needs_rehash(HashParameters::Bcrypt { cost: 5 }));
    }

    #[test]
    fn a_hash_is_made_anew_when_it_is_imported_or_costs_something_else() {
        let ours = PasswordHash::new(&password("a"), CHEAP, &key()).unwrap();
        assert!(!ours.needs_rehash(CHEAP));
        assert!(ours.needs_rehash(HashParameters::Bcrypt { cost: 5 }) && ours.needs_rehash(CHEAP_ARGON2ID));
        let argon2 = PasswordHash::new(&password("a"), CHEAP_ARGON2ID, &key()).unwrap();
        assert!(!argon2.needs_rehash(CHEAP_ARGON2ID));
        assert!(argon2.needs_rehash(HashParameters::ARGON2ID) && argon2.needs_rehash(CHEAP));
        let imported = PasswordHash::parse(IMPORTED[1]).unwrap();
        assert!(imported.needs_rehash(HashParameters::Bcrypt { cost: 5 }));
    }

    #[test]
    fn a_cost_is_read_from_what_stands_before_the_salt() {
        let key = key();
        for parameters in [CHEAP, CHEAP_ARGON2ID, HashParameters::Bcrypt { cost: 10 }] {
            let hash = PasswordHash::new(&password("a"), parameters, &key).unwrap();
            assert_eq!(hash.cost(), parameters.cost());
        }
        for stored in IMPORTED {
            let cost = PasswordHash::parse(stored).unwrap().cost();
            let before_salt = if stored.starts_with("$argon2") {
                stored.splitn(5, '$').take(4).collect::<Vec<_>>().join("$") + "$"
            } else {
                let dollar = stored.rfind('$').unwrap();
                stored[..=dollar].to_owned()
            };
            let keyed = format!("{KEYED}{before_salt}");
            let is_of_django = before_salt.starts_with(OF_DJANGO_SHA256);
            for text in std::iter::once(before_salt).chain((!is_of_django).then_some(keyed)) {
                assert_eq!(HashCost::parse(&text), Some(cost), "{text}");
            }
            assert!(cost.spend(&password("a"), &key).is_ok());
        }
        for text in [
            "",
            "$",
            "hunter2",
            "$2b$16$",
            "$argon2d$v=19$m=8,t=1,p=1$",
            "$argon2id$v=19$m=99999999,t=1,p=1$",
        ] {
            assert_eq!(HashCost::parse(text), None, "{text}");
        }
    }

    #[test]
    fn costs_are_bounded() {
        let bcrypt = |cost: &str| format!("$2b${cost}$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy");
        let argon2 = |parameters: &str| {
            format!("$argon2id$v=19${parameters}$C03veDDZe3tGvqED07Xjdg$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4")
        };
        for taken in [
            bcrypt("04"),
            bcrypt("14"),
            argon2("m=65536,t=10,p=8"),
            argon2("m=8,t=1,p=1"),
        ] {
            assert!(PasswordHash::parse(&taken).is_ok(), "{taken}");
        }
        for refused in [
            bcrypt("03"),
            bcrypt("16"),
            bcrypt("31"),
            argon2("m=65537,t=1,p=1"),
            argon2("m=8,t=11,p=1"),
            argon2("m=4294967295,t=4294967295,p=4"),
            argon2("m=256,t=1,p=9"),
            argon2("m=8,t=0,p=1"),
            argon2("m=7,t=1,p=1"),
            argon2("m=8,t=1,p=0"),
        ] {
            assert_eq!(PasswordHash::parse(&refused), Err(InvalidHash::Cost), "{refused}");
            assert_eq!(
                PasswordHash::parse(&format!("{KEYED}{refused}")),
                Err(InvalidHash::Cost),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_holds_a_hash_says_how_to_take_it_out() {
        for (stored, says) in [
            (
                "{bcrypt}$2b$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
                "take the mark off",
            ),
            ("{argon2}$argon2id$v=19$m=256,t=2,p=2$C03v$+AXk", "take the mark off"),
            ("{PBKDF2}abcdef", "take the mark off"),
            ("{noop}swordfish", "give it with --password-file"),
            ("{\"algorithm\":\"bcrypt\"}", "JSON or a hash behind a mark"),
            ("!", "no password, or whose password is locked"),
            ("!!", "no password, or whose password is locked"),
            ("x", "no password, or whose password is locked"),
            (
                "root:$2b$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy:19000:0:99999:7:::",
                "its first and its second colon",
            ),
            ("ada:{SSHA}swordfish", "its first and its second colon"),
            (
                "!swordfishYqTB8sUoCwxZbV2mXkrJ4nLdPgQe1T",
                "an account without a usable password (Django",
            ),
            (
                "!$2b$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy",
                "locked by the mark before it",
            ),
            ("*$6$swordfish", "locked by the mark before it"),
            (
                "\"$2b$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy\"",
                "in quotation marks; leave them out",
            ),
            ("'swordfish'", "in quotation marks; leave them out"),
            ("\\$2b\\$05\\$swordfish", "leave the backslashes out"),
        ] {
            let refused = PasswordHash::parse(stored).unwrap_err().to_string();
            assert!(
                refused.contains(says) && !refused.contains("fish"),
                "{stored}: {refused}"
            );
        }
    }

    #[test]
    fn what_is_no_hash_is_refused_without_being_shown() {
        let (bcrypt, argon2) = (IMPORTED[1], IMPORTED[3]);
        let cases = [
            String::new(),
            KEYED.to_owned(),
            "hunter2".to_owned(),
            bcrypt.replace("$05$", "$é$"),
            format!("{}é", &bcrypt[..58]),
            bcrypt[..59].to_owned(),
            format!("{bcrypt}a"),
            bcrypt.replace("o9P", "!9P"),
            argon2.replace("v=19", "v=18"),
            argon2.replace("m=256,", ""),
            argon2.replace("m=256", "m=99999999999"),
            argon2.replace("C03v", "C0!v"),
            format!("{argon2}$"),
            "$argon2".to_owned(),
            OF_DJANGO_SHA256.to_owned(),
            format!("{OF_DJANGO_SHA256}{argon2}"),
            format!("{OF_DJANGO_SHA256}{KEYED}{bcrypt}"),
            format!("{KEYED}{OF_DJANGO_SHA256}{bcrypt}"),
        ];
        for stored in cases {
            let refused = PasswordHash::parse(&stored).unwrap_err();
            assert!(
                matches!(refused, InvalidHash::Form | InvalidHash::Damaged(_)),
                "{stored:?}: {refused}"
            );
        }
        for (stored, kind) in [
            (bcrypt[..59].to_owned(), "of bcrypt, but is not whole"),
            (bcrypt[..50].to_owned(), "of bcrypt, but is not whole"),
            (format!("{bcrypt}a"), "of bcrypt, but is not whole or was changed"),
            (format!("bcrypt${}", &bcrypt[..40]), "of bcrypt"),
            (argon2[..60].to_owned(), "of Argon2id"),
            ("$pbkdf2-sha256$1500$AQID".to_owned(), "of PBKDF2"),
            ("pbkdf2_sha256$1500$kJ3nWq7Z".to_owned(), "of PBKDF2"),
            ("$scrypt$ln=4,r=8,p=1$AQID".to_owned(), "of scrypt"),
        ] {
            let refused = PasswordHash::parse(&stored).unwrap_err().to_string();
            assert!(
                refused.contains(kind) && refused.ends_with("export it again"),
                "{stored}: {refused}"
            );
        }
        for (stored, name) in [
            ("5f4dcc3b5aa765d61d8327deb882cf99".to_owned(), "MD5 or NTLM"),
            (
                "5f4dcc3b5aa765d61d8327deb882cf99:Yx7TqLwPz".to_owned(),
                "MD5, with its salt behind a colon",
            ),
            (
                format!("{}:salt:1", "a".repeat(64)),
                "SHA-256, with its salt behind a colon",
            ),
            (
                bcrypt.replace("$2b$", "$wp$2y$"),
                "bcrypt over HMAC-SHA-384 (WordPress 6.8",
            ),
            (
                "$bcrypt-sha256$v=2,t=2b,r=12$n79VH.0Q2TMWmt3Oqt9uku$Kq4Noyk3094Y2QlB8NdRT8SvGiI4ft2".to_owned(),
                "bcrypt over HMAC-SHA-256 (passlib)",
            ),
            (argon2.replace("$v=19", ""), "Argon2 without v=, which means version 16"),
            (
                format!("argon2{}", argon2.replace("$v=19", "")),
                "Argon2 without v=, which means version 16",
            ),
            (argon2.replace("argon2id$v=19", "argon2i$v=16"), "Argon2 version 16"),
            (format!("0x0200{}", "A".repeat(64)), "SHA-512 (SQL Server)"),
            ("$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/".to_owned(), "MD5"),
            ("$5$rounds=5000$saltstring$5B8vYYiY".to_owned(), "SHA-256"),
            (argon2.replace("v=19", "v=16"), "Argon2 version 16"),
            ("rl0uE0MNT1xhA".to_owned(), "DES (crypt)"),
            ("./aZ09./aZ09.".to_owned(), "DES (crypt)"),
            ("_J9..rasmBYk8r9AiWNc".to_owned(), "DES (BSDi's crypt)"),
            (
                "$2$05$o9P.Auj5qj0vHIlcq9BcTu8/QXGcLL9nLTHyA2lAVjJnCC.XK16fy".to_owned(),
                "bcrypt $2$",
            ),
            ("{CRYPT}rl0uE0MNT1xhA".to_owned(), "crypt (LDAP)"),
            ("{SSHA}c2FsdGVkc2FsdGVkc2FsdGVk".to_owned(), "SHA-1 (LDAP)"),
            ("{SSHA512}c2FsdA==".to_owned(), "SHA-512 (LDAP)"),
            ("$H$9saltsaltDTVbnoB8kc5sWjE6oGjx0".to_owned(), "MD5 (phpBB)"),
            (
                "$S$DcKmb8rWzyWpTyw8Th0AhzUkU2xLKrMLCVJOsWjw1Nw.IIaGF2Hx".to_owned(),
                "SHA-512 (Drupal)",
            ),
            (
                "$sha1$40000$jtNX3nZ2$hBNaIXkt4wBI2o5rsi8KejSjNqIq".to_owned(),
                "SHA-1 (sha1crypt)",
            ),
            (
                "$7$C6..../....SodiumChloride$kBGj9fHznVYFQMEn/qDCfrDevf9YDtcDdKvEqHJLV8D".to_owned(),
                "scrypt in the form of crypt",
            ),
            (
                "$gy$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o".to_owned(),
                "yescrypt with GOST",
            ),
            ("*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19".to_owned(), "SHA-1 (MySQL)"),
            ("md5d41d8cd98f00b204e9800998ecf8427e".to_owned(), "MD5 (PostgreSQL)"),
            ("SCRAM-SHA-256$4096:c2FsdA==$a:b".to_owned(), "SCRAM-SHA-256"),
            ("a".repeat(40), "SHA-1, without a salt"),
            ("a".repeat(64), "SHA-256, without a salt"),
            ("A".repeat(128), "SHA-512, without a salt"),
            ("$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMH".to_owned(), "SHA-512"),
            ("$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o".to_owned(), "yescrypt"),
            (bcrypt.replace("$2b$", "$2x$"), "bcrypt $2x$"),
            (argon2.replace("argon2id", "argon2d"), "Argon2d"),
        ] {
            let refused = PasswordHash::parse(&stored).unwrap_err().to_string();
            assert!(refused.contains(name) && !refused.contains(&stored), "{refused}");
        }
    }

    proptest! {
        /// RUSTSEC-2026-0199: whatever stands in the row, nothing panics.
        #[test]
        fn a_corrupted_hash_is_refused_or_checked(which in 0..5_usize, at in 0..60_usize, to in any::<char>()) {
            let mut stored: Vec<char> = IMPORTED[which].chars().collect();
            stored[at] = to;
            let stored: String = stored.into_iter().collect();
            let read = PasswordHash::parse(&stored);
            prop_assert_eq!(at < 3 && read.is_ok(), at < 3 && stored == IMPORTED[which] || at == 2 && "aby".contains(to) && which < 3);
            // Before that stand the costs, and some of those that are within the bounds take a second.
            if let (30.., Ok(hash)) = (at, read) {
                prop_assert!(hash.matches(&password("a"), &key()).is_ok());
            }
        }

        #[test]
        fn any_text_is_refused_or_read(stored in "\\PC{0,80}") {
            prop_assert!(PasswordHash::parse(&stored).is_err());
        }
    }
}
