//! Resource servers and the scopes that clients may ask for at them: what the consent page says in the operator's words.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::accounts::user::Name;
use crate::clock::UnixTime;

use super::authorization::{OFFLINE_ACCESS, OPENID};
use super::claims::PersonClaim;
use super::client::Audience;
use super::scope::Scope;

/// The most scopes of all resource servers together: a consent page reads those of one.
pub const MAX_SCOPES: u32 = 1_000;

/// The longest text of a scope, in characters.
const LONGEST_TEXT: usize = 200;

/// A service that access tokens are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceServer {
    /// The `aud` of its tokens.
    pub audience: Audience,
    /// What people see of it.
    pub name: Name,
    /// When it was registered.
    pub created_at: UnixTime,
}

/// One word that a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeWord(String);

/// The text is no word of a resource server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scope of a resource server is one word of printable ASCII without quotes and backslashes, such as orders:read; openid, profile, email and \
     offline_access are this server's own"
)]
pub struct InvalidScopeWord;

impl ScopeWord {
    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScopeWord {
    type Err = InvalidScopeWord;

    fn from_str(text: &str) -> Result<Self, InvalidScopeWord> {
        let scope: Scope = text.parse().map_err(|_| InvalidScopeWord)?;
        let is_own =
            [OPENID, OFFLINE_ACCESS].contains(&text) || PersonClaim::ALL.into_iter().any(|claim| claim.scope() == text);
        if scope.len() == 1 && text.len() <= 128 && !is_own {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidScopeWord)
        }
    }
}

impl fmt::Display for ScopeWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a scope means, in one sentence for each language of the pages (BCP 47).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeTexts(BTreeMap<String, String>);

/// The texts cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a text of a scope has 1 to 200 characters, each of them visible, and there is one in the first language of the pages"
)]
pub struct InvalidScopeTexts;

impl ScopeTexts {
    /// These texts, one of which is in `first`.
    ///
    /// # Errors
    /// [`InvalidScopeTexts`].
    pub fn new(texts: BTreeMap<String, String>, first: &str) -> Result<Self, InvalidScopeTexts> {
        let is_shown = |text: &String| {
            let length = text.chars().count();
            (1..=LONGEST_TEXT).contains(&length) && text.parse::<Name>().is_ok()
        };
        if texts.values().all(is_shown) && texts.contains_key(first) {
            Ok(Self(texts))
        } else {
            Err(InvalidScopeTexts)
        }
    }

    /// The texts of a row, which were looked at when they were written.
    #[must_use]
    pub const fn stored(texts: BTreeMap<String, String>) -> Self {
        Self(texts)
    }

    /// The text in this language, or in the first one that there is.
    #[must_use]
    pub fn best(&self, language: &str, first: &str) -> Option<&str> {
        let text = self.0.get(language).or_else(|| self.0.get(first));
        text.map(String::as_str)
    }

    /// By language.
    #[must_use]
    pub const fn all(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// A scope of a resource server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredScope {
    /// The word.
    pub word: ScopeWord,
    /// The resource server.
    pub audience: Audience,
    /// What the consent page says of it.
    pub texts: ScopeTexts,
    /// When it was registered.
    pub created_at: UnixTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_this_server_is_of_no_other() {
        assert_eq!("orders:read".parse::<ScopeWord>().unwrap().as_str(), "orders:read");
        let long = "a".repeat(129);
        for taken in ["", "openid", "email", "profile", "offline_access", "a b", "a\"", &long] {
            assert_eq!(taken.parse::<ScopeWord>(), Err(InvalidScopeWord), "{taken}");
        }
    }

    #[test]
    fn texts_are_shown_in_a_language_that_there_is() {
        let texts = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(language, text)| ((*language).to_owned(), (*text).to_owned()));
            ScopeTexts::new(pairs.collect(), "en")
        };
        let both = texts(&[("en", "see your orders"), ("de", "Ihre Bestellungen sehen")]).unwrap();
        assert_eq!(both.best("de", "en"), Some("Ihre Bestellungen sehen"));
        assert_eq!(both.best("id", "en"), Some("see your orders"));
        for bad in [
            &[][..],
            &[("de", "nur deutsch")],
            &[("en", "")],
            &[("en", "a\nb")],
            &[("en", "a"), ("de", "\u{202e}b")],
        ] {
            assert_eq!(texts(bad), Err(InvalidScopeTexts), "{bad:?}");
        }
    }
}
