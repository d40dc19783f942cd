//! Logging in by another OpenID provider (OpenID Connect Core section 3.1): who the provider is, what is asked of it, and what
//! its answer must hold. Authorization code alone, with PKCE (RFC 7636), `state`, `nonce` and `iss` (RFC 9207).

pub mod callback;
pub mod claims;
pub mod issuer;
pub mod login;
pub mod metadata;
pub mod return_to;

use std::fmt;
use std::str::FromStr;

use url::Url;

use crate::clock::UnixTime;

pub use issuer::{
    Directories, DirectoryId, InvalidDirectories, InvalidDirectoryId, InvalidProviderIssuer, IssuerMistake,
    ProviderIssuer,
};

/// What is asked for when the operator names nothing else.
pub const DEFAULT_SCOPE: &str = "openid email profile";

/// An operator's name for a provider, as it stands in our addresses: 1 to 32 of `a-z 0-9 -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderName(String);

/// The text cannot name a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a provider's name is 1 to 32 characters of a-z, 0-9 and '-', such as google")]
pub struct InvalidProviderName;

impl ProviderName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name under which its client secret lies sealed in table `secrets`.
    #[must_use]
    pub fn secret_name(&self) -> String {
        format!("identity-provider:{self}")
    }
}

impl FromStr for ProviderName {
    type Err = InvalidProviderName;

    fn from_str(text: &str) -> Result<Self, InvalidProviderName> {
        let fits = (1..=32).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        fits.then(|| Self(text.to_owned())).ok_or(InvalidProviderName)
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An https URL of at most 2,048 visible characters, without a user and a fragment.
fn https_url(text: &str) -> Option<Url> {
    let printable = text.len() <= 2_048 && text.bytes().all(|byte| byte.is_ascii_graphic());
    Url::parse(text)
        .ok()
        .filter(|url| printable && url.scheme() == "https" && url.fragment().is_none())
        .filter(|url| url.username().is_empty() && url.password().is_none())
}

/// What a provider calls us (RFC 6749 section 2.2): 1 to 255 printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderClientId(String);

/// The text cannot be a client id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a provider's client id is 1 to 255 printable ASCII characters")]
pub struct InvalidProviderClientId;

impl ProviderClientId {
    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProviderClientId {
    type Err = InvalidProviderClientId;

    fn from_str(text: &str) -> Result<Self, InvalidProviderClientId> {
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        fits.then(|| Self(text.to_owned())).ok_or(InvalidProviderClientId)
    }
}

impl fmt::Display for ProviderClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A scope for an ID token: words of RFC 6749 section 3.3 with `openid` among them (OpenID Connect Core section 3.1.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIdScope(String);

/// The text is no scope for an ID token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a provider's scope is words separated by single spaces, openid among them, such as '{DEFAULT_SCOPE}'")]
pub struct InvalidOpenIdScope;

impl OpenIdScope {
    /// The scope as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OpenIdScope {
    type Err = InvalidOpenIdScope;

    fn from_str(text: &str) -> Result<Self, InvalidOpenIdScope> {
        let is_word = |word: &str| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'))
        };
        let fits = text.len() <= 1_024 && text.split(' ').all(is_word) && text.split(' ').any(|word| word == "openid");
        fits.then(|| Self(text.to_owned())).ok_or(InvalidOpenIdScope)
    }
}

impl fmt::Display for OpenIdScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A provider that people may log in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Our name for it.
    pub name: ProviderName,
    /// Its own.
    pub issuer: ProviderIssuer,
    /// Whose people may log in where the issuer is a template; none where it is not.
    pub directories: Option<Directories>,
    /// Its name for us.
    pub client_id: ProviderClientId,
    /// What is asked for.
    pub scope: OpenIdScope,
    /// Since when an account is linked by an e-mail that is verified on both sides; none when it never is.
    pub links_verified_emails_since: Option<UnixTime>,
    /// Since when `email_verified` may also be the text `"true"`; none when only the JSON value `true` counts.
    pub reads_email_verified_text_since: Option<UnixTime>,
    /// When it was registered.
    pub created_at: UnixTime,
    /// Since when nobody logs in with it.
    pub disabled_at: Option<UnixTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_in_an_address_as_it_is() {
        assert_eq!("google-2".parse::<ProviderName>().unwrap().as_str(), "google-2");
        for bad in ["", "Google", "a/b", "a b", "..", "ä", &"a".repeat(33)] {
            assert_eq!(bad.parse::<ProviderName>(), Err(InvalidProviderName), "{bad}");
        }
    }

    #[test]
    fn a_scope_asks_for_an_id_token() {
        assert_eq!(DEFAULT_SCOPE.parse::<OpenIdScope>().unwrap().to_string(), DEFAULT_SCOPE);
        for bad in ["", "email", "openid  email", "openid\"", "Openid"] {
            assert_eq!(bad.parse::<OpenIdScope>(), Err(InvalidOpenIdScope), "{bad}");
        }
    }

    #[test]
    fn a_client_id_is_printable() {
        assert!("1234.apps.googleusercontent.com".parse::<ProviderClientId>().is_ok());
        for bad in ["", "a\nb", "ä", &"a".repeat(256)] {
            assert_eq!(bad.parse::<ProviderClientId>(), Err(InvalidProviderClientId), "{bad:?}");
        }
    }
}
