//! Secrets at rest, sealed under the master key.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use openssl::error::ErrorStack;
use openssl::rand::rand_bytes;
use openssl::symm::{Cipher, decrypt_aead, encrypt_aead};
use zeroize::Zeroizing;

use super::keyed_hash::{hmac_sha256, same_octets};
use super::random::{NoRandomness, random_key};

/// What a sealed text starts with that names its master key.
const VERSION: &str = "v2.";
/// What an older one starts with, which names none.
const UNNAMED: &str = "v1.";
/// What a master key's public name is made from.
const ID_PURPOSE: &[u8] = b"keyround master key id";
const ID_LENGTH: usize = 8;
/// What the key that authenticates backups is derived with.
const BACKUP_PURPOSE: &[u8] = b"keyround backup authentication";
const NONCE_OCTETS: usize = 12;
const TAG_OCTETS: usize = 16;

const PADDING_OPTIONAL: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const ANY_STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDING_OPTIONAL);
const ANY_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, PADDING_OPTIONAL);

/// Why a secret could not be made, read, sealed or opened. No variant holds a part of it.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// OpenSSL failed.
    #[error("OpenSSL failed: {0}")]
    OpenSsl(#[from] ErrorStack),
    /// There is no randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The master key's text is not base64.
    #[error("the master key is not base64; it must be 32 random bytes in base64")]
    NotBase64,
    /// The master key is too short or too long.
    #[error("the master key is base64 of {0} bytes; it must be of 32, which are 43 characters and a '='")]
    Length(usize),
    /// The master key's text is in hexadecimal, which is base64 of something else.
    #[error(
        "the master key is in hexadecimal; write the same 32 bytes in base64 in the place of this line: 'sed -n LINEp FILE | xxd -r -p | base64' prints them"
    )]
    Hexadecimal,
    /// The text is a private key, or another PEM.
    #[error(
        "the master key is a PEM; it must be 32 random bytes in base64, and nothing that signs or encrypts by itself"
    )]
    Pem,
    /// The master key is a sample, a text or a pattern.
    #[error("the master key is a known sample or a pattern; it must be 32 bytes from a random generator")]
    Sample,
    /// No master key is listed.
    #[error("there is no master key; list at least one, 32 random bytes in base64, one a line")]
    NoneListed,
    /// A master key is listed twice.
    #[error("lines {first} and {second} are one and the same master key, {id}; take one of them out")]
    ListedTwice {
        /// Its name.
        id: MasterKeyId,
        /// Where it is listed first, from 1.
        first: usize,
        /// Where it is listed again.
        second: usize,
    },
    /// One of several lines is no master key.
    #[error("line {line}: {fault}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: Box<Self>,
    },
    /// Sealed under a master key that is not listed.
    #[error("the sealed text lies under the master key {0}, which is not listed")]
    NotListed(MasterKeyId),
    /// Not sealed by this key for this purpose, or damaged.
    #[error("the sealed text does not open under this master key")]
    DoesNotOpen,
}

/// What a sealed text belongs to. It opens only where all three are the same, so no row's text can stand in for
/// another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The key's name.
    pub kid: &'a str,
    /// The key's algorithm.
    pub algorithm: &'a str,
    /// What the secret is for.
    pub purpose: &'a str,
}

impl Binding<'_> {
    /// Each field after its length, so that no two bindings share an encoding.
    fn associated_data(&self, head: &str) -> Vec<u8> {
        let mut data = head.as_bytes().to_vec();
        for field in [self.kid, self.algorithm, self.purpose] {
            data.extend((field.len() as u64).to_be_bytes());
            data.extend(field.as_bytes());
        }
        data
    }
}

/// The public name of a master key: says which one a text lies under, and nothing about the key itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MasterKeyId(String);

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MasterKeyId {
    /// The master key that a sealed text names; none when it is from before they had names, or no sealed text.
    #[must_use]
    pub fn named_in(sealed: &str) -> Option<Self> {
        let (id, _) = sealed.strip_prefix(VERSION)?.split_once('.')?;
        let is_id = id.len() == ID_LENGTH
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        is_id.then(|| Self(id.to_owned()))
    }
}

/// The key that seals every private key (AES-256-GCM, NIST SP 800-38D). It lives outside the database.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(redacted)")
    }
}

impl MasterKey {
    /// A new master key from the operating system's randomness.
    ///
    /// # Errors
    /// [`SealError::Randomness`].
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self(random_key()?))
    }

    /// Reads a master key from base64, standard or URL-safe, padded or not. White space around it is ignored, for a file
    /// ends with a newline.
    ///
    /// # Errors
    /// [`SealError`] when it is not 32 bytes, or not random ones: samples, texts and patterns are refused.
    pub fn parse(base64: &str) -> Result<Self, SealError> {
        let text = base64.trim_ascii();
        if text.contains("-----BEGIN ") {
            return Err(SealError::Pem);
        }
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SealError::Hexadecimal);
        }
        let decoded = ANY_STANDARD.decode(text).or_else(|_| ANY_URL_SAFE.decode(text));
        let bytes = Zeroizing::new(decoded.map_err(|_| SealError::NotBase64)?);
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| SealError::Length(bytes.len()))?;
        let key = Zeroizing::new(key);
        if is_sample(&key) {
            return Err(SealError::Sample);
        }
        Ok(Self(key))
    }

    /// The key in standard base64, to be written to its file.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }

    /// Its public name: the beginning of an HMAC under the key, from which the key does not follow.
    #[must_use]
    pub fn id(&self) -> MasterKeyId {
        let mut id = BASE64URL.encode(hmac_sha256(&self.0, [ID_PURPOSE]));
        id.truncate(ID_LENGTH);
        MasterKeyId(id)
    }

    fn backup_mac(&self, message: &[u8]) -> String {
        let derived = Zeroizing::new(hmac_sha256(&self.0, [BACKUP_PURPOSE]));
        BASE64URL.encode(hmac_sha256(&derived, [message]))
    }

    /// Seals `plaintext` for `binding`, as `v2.`, the key's public name, and the base64url of nonce, ciphertext and tag.
    ///
    /// The nonce is 96 random bits. Nonces stay distinct as long as one master key seals fewer than 2^32 texts (NIST SP
    /// 800-38D section 8.3). Keyround seals a few at each rotation of a key: one every second would take 136 years.
    ///
    /// # Errors
    /// [`SealError::OpenSsl`] when OpenSSL fails.
    pub fn seal(&self, binding: &Binding<'_>, plaintext: &[u8]) -> Result<String, SealError> {
        let mut nonce = [0; NONCE_OCTETS];
        rand_bytes(&mut nonce)?;
        let mut tag = [0; TAG_OCTETS];
        let head = format!("{VERSION}{}.", self.id());
        let data = binding.associated_data(&head);
        let ciphertext = encrypt_aead(
            Cipher::aes_256_gcm(),
            &*self.0,
            Some(&nonce),
            &data,
            plaintext,
            &mut tag,
        )?;
        let sealed = [&nonce, ciphertext.as_slice(), &tag].concat();
        Ok(format!("{head}{}", BASE64URL.encode(sealed)))
    }

    /// Opens what [`Self::seal`] sealed for the same binding, or what was sealed before master keys had names.
    ///
    /// # Errors
    /// [`SealError::DoesNotOpen`], whatever the reason.
    pub fn open(&self, binding: &Binding<'_>, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let named = format!("{VERSION}{}.", self.id());
        let head = if sealed.starts_with(&named) { &*named } else { UNNAMED };
        let text = sealed.strip_prefix(head).ok_or(SealError::DoesNotOpen)?;
        let octets = BASE64URL.decode(text).map_err(|_| SealError::DoesNotOpen)?;
        let (nonce, rest) = octets.split_at_checked(NONCE_OCTETS).ok_or(SealError::DoesNotOpen)?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG_OCTETS>().ok_or(SealError::DoesNotOpen)?;
        let data = binding.associated_data(head);
        decrypt_aead(Cipher::aes_256_gcm(), &*self.0, Some(nonce), &data, ciphertext, tag)
            .map(Zeroizing::new)
            .map_err(|_| SealError::DoesNotOpen)
    }
}

/// The master keys that are listed: the first seals, all open.
#[derive(Debug)]
pub struct MasterKeys {
    first: MasterKey,
    others: Vec<MasterKey>,
}

impl From<MasterKey> for MasterKeys {
    fn from(only: MasterKey) -> Self {
        Self {
            first: only,
            others: Vec::new(),
        }
    }
}

impl MasterKeys {
    /// Reads master keys, one a line; empty lines are passed over.
    ///
    /// # Errors
    /// [`SealError`] when there is none, one is listed twice, or one is refused by [`MasterKey::parse`].
    pub fn parse(text: &str) -> Result<Self, SealError> {
        if text.contains("-----BEGIN ") {
            return Err(SealError::Pem);
        }
        let lines: Vec<(usize, &str)> = (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim_ascii().is_empty())
            .collect();
        let mut keys: Vec<(usize, MasterKey)> = Vec::new();
        for &(line, text) in &lines {
            let key = MasterKey::parse(text).map_err(|fault| match lines.len() {
                1 => fault,
                _ => SealError::Line {
                    line,
                    fault: Box::new(fault),
                },
            })?;
            let id = key.id();
            if let Some(&(first, _)) = keys.iter().find(|(_, earlier)| earlier.id() == id) {
                return Err(SealError::ListedTwice {
                    id,
                    first,
                    second: line,
                });
            }
            keys.push((line, key));
        }
        let mut keys = keys.into_iter().map(|(_, key)| key);
        Ok(Self {
            first: keys.next().ok_or(SealError::NoneListed)?,
            others: keys.collect(),
        })
    }

    /// The names of all, the one that seals first.
    pub fn ids(&self) -> impl Iterator<Item = MasterKeyId> {
        self.iter().map(MasterKey::id)
    }

    /// The name of the one that seals.
    #[must_use]
    pub fn sealing_id(&self) -> MasterKeyId {
        self.first.id()
    }

    /// Whether one of this name is listed.
    #[must_use]
    pub fn lists(&self, id: &MasterKeyId) -> bool {
        self.ids().any(|listed| listed == *id)
    }

    fn iter(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Authenticates a backup under the first: HMAC-SHA256 under a key that is derived for this purpose alone.
    #[must_use]
    pub fn backup_mac(&self, message: &[u8]) -> String {
        self.first.backup_mac(message)
    }

    /// Compares the MAC of a backup with that under the master key of this name.
    #[must_use]
    pub fn check_backup_mac(&self, id: &str, message: &[u8], mac: &str) -> BackupMac {
        match self.iter().find(|key| key.id().0 == id) {
            None => BackupMac::KeyNotListed,
            Some(key) if same_octets(key.backup_mac(message).as_bytes(), mac.as_bytes()) => BackupMac::Matches,
            Some(_) => BackupMac::Differs,
        }
    }

    /// Seals under the first; see [`MasterKey::seal`].
    ///
    /// # Errors
    /// [`SealError::OpenSsl`] when OpenSSL fails.
    pub fn seal(&self, binding: &Binding<'_>, plaintext: &[u8]) -> Result<String, SealError> {
        self.first.seal(binding, plaintext)
    }

    /// Seals under the one of this name.
    ///
    /// # Errors
    /// [`SealError::NotListed`] if it is not listed, [`SealError::OpenSsl`] when OpenSSL fails.
    pub fn seal_under(&self, id: &MasterKeyId, binding: &Binding<'_>, plaintext: &[u8]) -> Result<String, SealError> {
        let key = self.iter().find(|key| key.id() == *id);
        key.ok_or_else(|| SealError::NotListed(id.clone()))?
            .seal(binding, plaintext)
    }

    /// Opens what any of them sealed for the same binding.
    ///
    /// # Errors
    /// [`SealError::NotListed`] when it names a master key that is not listed, else [`SealError::DoesNotOpen`].
    pub fn open(&self, binding: &Binding<'_>, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.open_and_name(binding, sealed).map(|(_, plaintext)| plaintext)
    }

    /// Opens, and says which of them did. A text that names none is tried under all.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_and_name(
        &self,
        binding: &Binding<'_>,
        sealed: &str,
    ) -> Result<(MasterKeyId, Zeroizing<Vec<u8>>), SealError> {
        match MasterKeyId::named_in(sealed) {
            Some(id) if !self.lists(&id) => Err(SealError::NotListed(id)),
            _ => self
                .iter()
                .find_map(|key| Some((key.id(), key.open(binding, sealed).ok()?)))
                .ok_or(SealError::DoesNotOpen),
        }
    }
}

/// What the MAC of a backup says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupMac {
    /// The backup is what was written.
    Matches,
    /// It was changed.
    Differs,
    /// The master key that it names is not listed.
    KeyNotListed,
}

/// Whether the bytes are what people put where a random key belongs: a text, a repetition, or a count up or down. A
/// random key looks so less than once in 2^43.
fn is_sample(key: &[u8; 32]) -> bool {
    let text = key
        .iter()
        .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    let repetition = (1..=16).any(|period| key.iter().zip(&key[period..]).all(|(earlier, later)| earlier == later));
    let step = key[1].wrapping_sub(key[0]);
    let count = key.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step);
    text || repetition || count
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const BINDING: Binding<'static> = Binding {
        kid: "kid",
        algorithm: "ES256",
        purpose: "signing",
    };

    /// Version, public name, full stop.
    const HEAD_LENGTH: usize = VERSION.len() + ID_LENGTH + 1;

    /// What an older version sealed.
    fn seal_unnamed(key: &MasterKey, binding: &Binding<'_>, plaintext: &[u8]) -> String {
        let (nonce, mut tag) = ([7; NONCE_OCTETS], [0; TAG_OCTETS]);
        let (cipher, data) = (Cipher::aes_256_gcm(), binding.associated_data(UNNAMED));
        let ciphertext = encrypt_aead(cipher, &*key.0, Some(&nonce), &data, plaintext, &mut tag).unwrap();
        format!(
            "v1.{}",
            BASE64URL.encode([&nonce, ciphertext.as_slice(), &tag].concat())
        )
    }

    #[test]
    fn the_first_seals_and_all_open_named_or_not() {
        let texts: Vec<_> = (0..3).map(|_| MasterKey::generate().unwrap().to_base64()).collect();
        let key = |index: usize| MasterKey::parse(&texts[index]).unwrap();
        let both = MasterKeys::parse(&format!("{}\n\n {}\r\n", *texts[0], *texts[1])).unwrap();
        let sealed = both.seal(&BINDING, b"secret").unwrap();
        assert_eq!(MasterKeyId::named_in(&sealed), Some(key(0).id()));
        assert_eq!(&*key(0).open(&BINDING, &sealed).unwrap(), b"secret");
        for index in [0, 1] {
            for sealed in [
                key(index).seal(&BINDING, b"x").unwrap(),
                seal_unnamed(&key(index), &BINDING, b"x"),
            ] {
                let (id, opened) = both.open_and_name(&BINDING, &sealed).unwrap();
                assert_eq!((id, opened.as_slice()), (key(index).id(), &b"x"[..]));
            }
        }
        let foreign = key(2).seal(&BINDING, b"x").unwrap();
        assert!(matches!(both.open(&BINDING, &foreign), Err(SealError::NotListed(id)) if id == key(2).id()));
        assert!(is_closed(&both.open(&BINDING, &seal_unnamed(&key(2), &BINDING, b"x"))));
    }

    #[test]
    fn a_text_under_one_name_does_not_open_under_another() {
        let (one, other) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        let sealed = one.seal(&BINDING, b"x").unwrap();
        let renamed = sealed.replace(&one.id().0, &other.id().0);
        assert!(is_closed(&other.open(&BINDING, &renamed)));
        assert!(is_closed(
            &one.open(&BINDING, &format!("v1.{}", &sealed[HEAD_LENGTH..]))
        ));
    }

    #[test]
    fn no_list_and_a_list_with_one_twice_are_refused() {
        let text = MasterKey::generate().unwrap().to_base64();
        assert!(matches!(MasterKeys::parse(" \n\n"), Err(SealError::NoneListed)));
        let twice = format!("{}\n{}", *text, text.trim_end_matches('='));
        let refused = |text: &str| MasterKeys::parse(text).unwrap_err().to_string();
        let id = MasterKey::parse(&text).unwrap().id();
        assert_eq!(
            refused(&format!("\n{twice}")),
            format!("lines 2 and 3 are one and the same master key, {id}; take one of them out")
        );
        let in_url_form = text.replace('+', "-").replace('/', "_");
        assert!(refused(&format!("{}\n\n{in_url_form}", *text)).starts_with("lines 1 and 3 are one"));
        assert!(refused(&format!("{}\nshort!", *text)).starts_with("line 2: the master key is not base64"));
        assert!(refused(&format!("# ours\n{}", *text)).starts_with("line 1: the master key is not base64"));
    }

    fn is_closed(opened: &Result<Zeroizing<Vec<u8>>, SealError>) -> bool {
        matches!(opened, Err(SealError::DoesNotOpen))
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_only_there(
            plaintext in proptest::collection::vec(any::<u8>(), 0..300),
            kid in "[a-z]{0,4}", algorithm in "[a-z]{0,4}", purpose in "[a-z]{0,4}",
            bit in any::<prop::sample::Index>(),
        ) {
            let key = MasterKey::generate().unwrap();
            let binding = Binding { kid: &kid, algorithm: &algorithm, purpose: &purpose };
            let sealed = key.seal(&binding, &plaintext).unwrap();
            prop_assert_eq!(&*key.open(&binding, &sealed).unwrap(), &plaintext);
            prop_assert!(is_closed(&MasterKey::generate().unwrap().open(&binding, &sealed)));

            let (head, text) = sealed.split_at(HEAD_LENGTH);
            let mut octets = BASE64URL.decode(text).unwrap();
            let bit = bit.index(octets.len() * 8);
            octets[bit / 8] ^= 1 << (bit % 8);
            let flipped = format!("{head}{}", BASE64URL.encode(&octets));
            prop_assert!(is_closed(&key.open(&binding, &flipped)));
        }
    }

    #[test]
    fn a_swapped_or_shifted_binding_does_not_open() {
        let key = MasterKey::generate().unwrap();
        let sealed = key.seal(&BINDING, b"secret").unwrap();
        let others = [
            Binding {
                kid: "other",
                ..BINDING
            },
            Binding {
                algorithm: "RS256",
                ..BINDING
            },
            Binding {
                purpose: "other",
                ..BINDING
            },
            Binding {
                kid: "ES256",
                algorithm: "kid",
                ..BINDING
            },
            Binding {
                kid: "kidE",
                algorithm: "S256",
                ..BINDING
            },
            Binding {
                algorithm: "ES256signing",
                purpose: "",
                ..BINDING
            },
        ];
        for other in others {
            assert!(is_closed(&key.open(&other, &sealed)), "{other:?}");
        }
    }

    #[test]
    fn a_damaged_text_does_not_open_and_the_error_holds_nothing_of_it() {
        let key = MasterKey::generate().unwrap();
        let sealed = key.seal(&BINDING, b"secret").unwrap();
        for length in 0..sealed.len() {
            assert!(is_closed(&key.open(&BINDING, &sealed[..length])), "{length}");
        }
        for damaged in [
            sealed.replace("v2.", "v3."),
            format!("{sealed}="),
            format!("{sealed}\n"),
        ] {
            assert!(is_closed(&key.open(&BINDING, &damaged)));
        }
        let refusal = key.open(&BINDING, "v2.").unwrap_err().to_string();
        assert_eq!(refusal, "the sealed text does not open under this master key");
    }

    #[test]
    fn one_plaintext_seals_differently_each_time() {
        let key = MasterKey::generate().unwrap();
        let nonces: HashSet<String> = (0..500)
            .map(|_| key.seal(&BINDING, b"secret").unwrap()[HEAD_LENGTH..HEAD_LENGTH + 16].to_owned())
            .collect();
        assert_eq!(nonces.len(), 500);
    }

    #[test]
    fn a_master_key_reads_back_from_either_base64() {
        let key = MasterKey::generate().unwrap();
        let standard = key.to_base64();
        let texts = [
            standard.to_string(),
            format!("{}\n", *standard),
            standard.trim_end_matches('=').to_owned(),
            BASE64URL.encode(*key.0),
        ];
        for text in texts {
            assert_eq!(MasterKey::parse(&text).unwrap().0, key.0);
        }
    }

    #[test]
    fn samples_and_wrong_lengths_are_no_master_key() {
        let counting: [u8; 32] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let backwards = counting.map(|byte| 255 - byte);
        let alternating: [u8; 32] = std::array::from_fn(|index| [0xde, 0xad, 0xbe, 0xef][index % 4]);
        let samples = [
            [0; 32],
            [0xff; 32],
            counting,
            backwards,
            alternating,
            *b"changeme-changeme-changeme-12345",
            *b"0123456789abcdef0123456789ABCDEF",
        ];
        for sample in samples {
            assert!(matches!(
                MasterKey::parse(&STANDARD.encode(sample)),
                Err(SealError::Sample)
            ));
        }
        let repeated = format!("{}chY", "changeme".repeat(5));
        assert!(matches!(MasterKey::parse(&repeated), Err(SealError::Sample)));
        for length in [0, 16, 31, 33, 64] {
            let refusal = MasterKey::parse(&STANDARD.encode(vec![7; length]));
            assert!(matches!(refusal, Err(SealError::Length(stated)) if stated == length));
        }
        let hexadecimal = "0f1e".repeat(16);
        assert!(matches!(MasterKey::parse(&hexadecimal), Err(SealError::Hexadecimal)));
        assert!(matches!(
            MasterKeys::parse("-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----\n"),
            Err(SealError::Pem)
        ));
        for text in ["not base64!", "AAAA AAAA", "changeme..."] {
            assert!(matches!(MasterKey::parse(text), Err(SealError::NotBase64)), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", MasterKey::generate().unwrap()), "MasterKey(redacted)");
    }
}
