//! Refresh tokens: opaque to clients, and worthless to who reads the database alone.
//!
//! In base64url: a version, the session, the generation, 256 bits of secret, and a tag over all of it. The tag tells a token
//! of ours, however old, from noise: only the former may end a session. The database keeps digests of secrets, and each
//! generation's secret follows from the one before it and a salt, so that whoever presents a token twice finds the same
//! successor, and nobody else does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use zeroize::Zeroizing;

use crate::crypto::keyed_hash::HashKey;
use crate::crypto::purpose::Purpose;
use crate::crypto::random::{NoRandomness, random_key};

use crate::values::SessionId;

const VERSION: u8 = 1;
const SECRET: usize = 32;
/// Version, session, generation, secret.
const UNTAGGED: usize = 1 + 16 + 8 + SECRET;
const TAGGED: usize = UNTAGGED + 32;

/// The text is no refresh token of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no refresh token of this server")]
pub struct NotOurs;

/// A refresh token of ours: its tag was verified, or it was made here.
pub struct RefreshToken {
    /// The session that it refreshes.
    pub sid: SessionId,
    /// Its place in the session: 1 at the login, one more at each refresh.
    pub generation: i64,
    secret: Zeroizing<[u8; SECRET]>,
}

impl std::fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RefreshToken({}, {}, redacted)", self.sid, self.generation)
    }
}

impl RefreshToken {
    /// The first of a session.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn first(sid: SessionId) -> Result<Self, NoRandomness> {
        Ok(Self {
            sid,
            generation: 1,
            secret: random_key()?,
        })
    }

    /// Reads a token in its one spelling.
    ///
    /// # Errors
    /// When it is none of this server's; nothing more is said of it.
    pub fn open(text: &str, key: &HashKey) -> Result<Self, NotOurs> {
        // The engine asks for a little more room than it needs, and refuses padding, other alphabets and bits that are left over.
        let mut octets = Zeroizing::new([0; TAGGED + 3]);
        let length = BASE64URL.decode_slice(text, &mut *octets).map_err(|_| NotOurs)?;
        let (untagged, tag) = octets[..TAGGED].split_at(UNTAGGED);
        if length != TAGGED || untagged[0] != VERSION || !key.verifies(Purpose::RefreshTokenTag, untagged, tag) {
            return Err(NotOurs);
        }
        let generation = u64::from_be_bytes(part(&untagged[17..25])?);
        Ok(Self {
            sid: SessionId::from_bytes(part(&untagged[1..17])?),
            generation: i64::try_from(generation).map_err(|_| NotOurs)?,
            secret: Zeroizing::new(part(&untagged[25..])?),
        })
    }

    /// The token as the client gets it.
    #[must_use]
    pub fn write(&self, key: &HashKey) -> Zeroizing<String> {
        let mut octets = Zeroizing::new(Vec::with_capacity(TAGGED));
        octets.push(VERSION);
        octets.extend(self.sid.to_bytes());
        octets.extend(self.generation.to_be_bytes());
        octets.extend(&*self.secret);
        let tag = key.mac(Purpose::RefreshTokenTag, &octets);
        octets.extend(tag);
        Zeroizing::new(BASE64URL.encode(&*octets))
    }

    /// What the database keeps of its secret.
    #[must_use]
    pub fn digest(&self, key: &HashKey) -> String {
        BASE64URL.encode(key.mac(Purpose::RefreshTokenDigest, &*self.secret))
    }

    /// Whether the database keeps this of its secret.
    #[must_use]
    pub fn matches(&self, key: &HashKey, digest: &str) -> bool {
        BASE64URL
            .decode(digest)
            .is_ok_and(|digest| key.verifies(Purpose::RefreshTokenDigest, &*self.secret, &digest))
    }

    /// The one that takes its place under this salt.
    #[must_use]
    pub fn successor(&self, key: &HashKey, salt: &str) -> Self {
        let mut message = Zeroizing::new(self.secret.to_vec());
        message.extend(salt.as_bytes());
        Self {
            sid: self.sid,
            generation: self.generation.saturating_add(1),
            secret: Zeroizing::new(key.mac(Purpose::RefreshTokenSuccessor, &message)),
        }
    }
}

/// A new salt: 256 random bits.
///
/// # Errors
/// [`NoRandomness`].
pub fn new_salt() -> Result<String, NoRandomness> {
    Ok(BASE64URL.encode(*random_key()?))
}

fn part<const N: usize>(octets: &[u8]) -> Result<[u8; N], NotOurs> {
    octets.try_into().map_err(|_| NotOurs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::clock::UnixTime;

    use super::*;

    fn first() -> (HashKey, RefreshToken) {
        let sid = SessionId::generate(UnixTime(1_800_000_000));
        (HashKey::generate().unwrap(), RefreshToken::first(sid).unwrap())
    }

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let (key, token) = first();
        let text = token.write(&key);
        assert_eq!(text.len(), 119);
        let read = RefreshToken::open(&text, &key).unwrap();
        assert_eq!((read.sid, read.generation), (token.sid, 1));
        assert_eq!(read.secret, token.secret);
        assert_eq!(*read.write(&key), *text);
        assert!(read.matches(&key, &token.digest(&key)));
        assert!(!format!("{token:?}").contains(&BASE64URL.encode(*token.secret)));
    }

    #[test]
    fn every_other_spelling_is_noise() {
        let (key, token) = first();
        let text = token.write(&key);
        let last = text.len() - 1;
        for end in 0..text.len() {
            assert!(RefreshToken::open(&text[..end], &key).is_err(), "{end}");
        }
        for at in 0..text.len() {
            for other in ['A', 'B', '-', '_', '+', '/', '=', ' ', '.', 'é'] {
                let changed: String = text
                    .chars()
                    .enumerate()
                    .map(|(place, character)| if place == at { other } else { character })
                    .collect();
                assert!(
                    changed == *text || RefreshToken::open(&changed, &key).is_err(),
                    "{at}: {other}"
                );
            }
        }
        // The last character holds two bits that are nobody's: of its four spellings one counts.
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let spellings = alphabet
            .chars()
            .filter(|character| RefreshToken::open(&format!("{}{character}", &text[..last]), &key).is_ok());
        assert_eq!(spellings.count(), 1);
        for around in [format!(" {}", *text), format!("{}\n", *text), format!("{}=", *text)] {
            assert!(RefreshToken::open(&around, &key).is_err());
        }
        assert!(RefreshToken::open(&text, &HashKey::generate().unwrap()).is_err());
    }

    #[test]
    fn the_successor_follows_from_secret_and_salt() {
        let (key, token) = first();
        let (salt, other) = (new_salt().unwrap(), new_salt().unwrap());
        let successor = token.successor(&key, &salt);
        assert_eq!((successor.sid, successor.generation), (token.sid, 2));
        assert_eq!(successor.secret, token.successor(&key, &salt).secret);
        let others = [
            token.successor(&key, &other),
            token.successor(&HashKey::generate().unwrap(), &salt),
            RefreshToken::first(token.sid).unwrap().successor(&key, &salt),
            token.successor(&key, &salt).successor(&key, &salt),
        ];
        assert!(others.iter().all(|other| other.secret != successor.secret));
        assert!(successor.matches(&key, &successor.digest(&key)));
        assert!(!successor.matches(&key, &token.digest(&key)));
        assert!(!successor.matches(&key, "") && !successor.matches(&key, "!"));
    }

    proptest! {
        #[test]
        fn noise_is_never_a_token(text in ".{0,200}", octets in prop::collection::vec(any::<u8>(), 0..120)) {
            let key = HashKey::from_bytes([7; 32]);
            prop_assert!(RefreshToken::open(&text, &key).is_err());
            prop_assert!(RefreshToken::open(&BASE64URL.encode(octets), &key).is_err());
        }
    }
}
