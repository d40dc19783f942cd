//! Tokens against forged requests: a signed double submit (OWASP CSRF Prevention Cheat Sheet).
//!
//! The token lies in a cookie that no page can read, and a page that may read the answer of `GET /auth/csrf` sends it once more in
//! a header. It is signed over what it is bound to, so that a cookie which somebody planted is worth nothing: before a login it
//! is bound to no session, afterwards to the session of the refresh cookie.

use zeroize::Zeroizing;

use crate::crypto::keyed_hash::HashKey;
use crate::crypto::purpose::Purpose;
use crate::crypto::random::{NoRandomness, random_secret};

use crate::values::SessionId;

/// What a token is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Nobody has logged in yet.
    BeforeLogin,
    /// The session whose refresh cookie comes along.
    To(SessionId),
}

impl Bound {
    fn signed(self, random: &str) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::BeforeLogin => format!("before login|{random}"),
            Self::To(sid) => format!("session {sid}|{random}"),
        })
    }
}

/// Why a request may be forged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// The header is missing or empty.
    #[error("the header X-CSRF-Token is missing; send the token of GET /auth/csrf")]
    NoHeader,
    /// The cookie is missing or empty.
    #[error("the cookie with the CSRF token is missing; ask GET /auth/csrf for both")]
    NoCookie,
    /// The two are not the same.
    #[error("the header X-CSRF-Token and the cookie differ; ask GET /auth/csrf again")]
    Differ,
    /// It is not ours, or was given to another session, or before the login.
    #[error("the CSRF token belongs to another session; ask GET /auth/csrf again, as after each login")]
    NotBound,
}

/// A token. That of a session follows from the session, so that two tabs that ask at once get the same and neither takes it from the
/// other; before a login each is new.
///
/// # Errors
/// When there is no randomness.
pub fn issue(key: &HashKey, bound: Bound) -> Result<String, NoRandomness> {
    let random = match bound {
        Bound::BeforeLogin => random_secret()?,
        Bound::To(sid) => Zeroizing::new(key.digest(Purpose::CsrfOfSession, &sid.to_string())),
    };
    let tag = key.digest(Purpose::Csrf, &bound.signed(&random));
    Ok(format!("{}.{tag}", *random))
}

/// Whether a token is ours and bound to this.
#[must_use]
pub fn is_bound(key: &HashKey, bound: Bound, token: &str) -> bool {
    token
        .split_once('.')
        .is_some_and(|(random, tag)| key.matches(Purpose::Csrf, &bound.signed(random), tag))
}

/// Holds the copy in the header against the one in the cookie, and both against what they must be bound to; in a time that does not
/// depend on where they differ.
///
/// # Errors
/// Why the request may be forged.
pub fn check(key: &HashKey, bound: Bound, header: Option<&str>, cookie: Option<&str>) -> Result<(), Forged> {
    let is_there = |text: &&str| !text.is_empty();
    let header = header.filter(is_there).ok_or(Forged::NoHeader)?;
    let cookie = cookie.filter(is_there).ok_or(Forged::NoCookie)?;
    if !key.matches(
        Purpose::CsrfDoubleSubmit,
        header,
        &key.digest(Purpose::CsrfDoubleSubmit, cookie),
    ) {
        return Err(Forged::Differ);
    }
    if !is_bound(key, bound, header) {
        return Err(Forged::NotBound);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::clock::UnixTime;

    use super::*;

    fn key() -> HashKey {
        HashKey::from_bytes([7; 32])
    }

    fn session() -> Bound {
        Bound::To(SessionId::generate(UnixTime(1_800_000_000)))
    }

    #[test]
    fn a_token_serves_what_it_is_bound_to_and_nothing_else() {
        let (a, b) = (session(), session());
        for own in [Bound::BeforeLogin, a, b] {
            let token = issue(&key(), own).unwrap();
            for other in [Bound::BeforeLogin, a, b] {
                let expected = if own == other { Ok(()) } else { Err(Forged::NotBound) };
                assert_eq!(check(&key(), other, Some(&token), Some(&token)), expected);
            }
            let strange = HashKey::from_bytes([8; 32]);
            assert_eq!(check(&strange, own, Some(&token), Some(&token)), Err(Forged::NotBound));
        }
    }

    #[test]
    fn a_session_has_one_token_and_a_stranger_gets_a_new_one() {
        let (a, b) = (session(), session());
        assert_eq!(issue(&key(), a).unwrap(), issue(&key(), a).unwrap());
        assert_ne!(issue(&key(), a).unwrap(), issue(&key(), b).unwrap());
        assert_ne!(
            issue(&key(), Bound::BeforeLogin).unwrap(),
            issue(&key(), Bound::BeforeLogin).unwrap()
        );
    }

    #[test]
    fn both_copies_are_needed_and_the_same() {
        let token = issue(&key(), Bound::BeforeLogin).unwrap();
        let other = issue(&key(), Bound::BeforeLogin).unwrap();
        assert_ne!(token, other);
        let asked = |header, cookie| check(&key(), Bound::BeforeLogin, header, cookie);
        assert_eq!(asked(None, Some(&token)), Err(Forged::NoHeader));
        assert_eq!(asked(Some(""), Some(&token)), Err(Forged::NoHeader));
        assert_eq!(asked(Some(&token), None), Err(Forged::NoCookie));
        assert_eq!(asked(Some(&token), Some("")), Err(Forged::NoCookie));
        assert_eq!(asked(Some(&token), Some(&other)), Err(Forged::Differ));
        assert_eq!(asked(Some(&token), Some(&token)), Ok(()));
    }

    #[test]
    fn what_is_not_ours_is_refused_however_it_looks() {
        let token = issue(&key(), Bound::BeforeLogin).unwrap();
        let (random, tag) = token.split_once('.').unwrap();
        for bad in [
            "a",
            ".",
            random,
            tag,
            &format!("{random}."),
            &format!(".{tag}"),
            &format!("{random}.{random}"),
            &format!("{token}a"),
            &format!("a{token}"),
        ] {
            assert_eq!(
                check(&key(), Bound::BeforeLogin, Some(bad), Some(bad)),
                Err(Forged::NotBound),
                "{bad}"
            );
        }
    }
}
