//! Clients (RFC 6749 section 2): who may ask for tokens, which, and for whom.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use crate::clock::{Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwt::TokenType;
use crate::text;

use super::scope::Scope;

/// A client's name: 1 to 255 visible ASCII characters without `"` and `\`. RFC 6749 appendix A.1 allows a space and these two as well;
/// lists of ids and lines of the log would then need quotes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

/// The text cannot be a client id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a client id is 1 to 255 visible ASCII characters without a space, a quotation mark and a backslash, such as svc:prod"
)]
pub struct InvalidClientId;

impl ClientId {
    /// The id as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = InvalidClientId;

    fn from_str(text: &str) -> Result<Self, InvalidClientId> {
        if text::is_client_id(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidClientId)
        }
    }
}

impl TryFrom<String> for ClientId {
    type Error = InvalidClientId;

    fn try_from(text: String) -> Result<Self, InvalidClientId> {
        text.parse()
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A resource that tokens are for: 1 to 2,048 visible ASCII characters. With a colon in it, it is a URI (RFC 7519 section 2), and a URI has no
/// fragment (RFC 8707 section 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Audience(String);

/// The text cannot name a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an audience is 1 to 2048 visible ASCII characters without a space; one with a colon is a URI without a fragment, such as \
     https://api.example.com"
)]
pub struct InvalidAudience;

impl Audience {
    /// The audience, byte for byte as it was registered.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Audience {
    type Err = InvalidAudience;

    fn from_str(text: &str) -> Result<Self, InvalidAudience> {
        if text::is_audience(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidAudience)
        }
    }
}

impl TryFrom<String> for Audience {
    type Error = InvalidAudience;

    fn try_from(text: String) -> Result<Self, InvalidAudience> {
        text.parse()
    }
}

impl From<Audience> for String {
    fn from(audience: Audience) -> Self {
        audience.0
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a client publishes its keys (RFC 7591 section 2, `jwks_uri`): an https URL of at most 2,048 characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JwksUri(Url);

/// The text cannot be a `jwks_uri`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwksUri {
    /// It is no URL of this kind.
    #[error("a jwks_uri is an https URL without a user and a fragment, such as https://billing.example.com/jwks.json")]
    Form,
    /// It is no URL at all.
    #[error("the jwks_uri {0}; write one such as https://billing.example.com/jwks.json")]
    Url(&'static str),
}

impl JwksUri {
    /// The URL in its normal form.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for JwksUri {
    type Err = InvalidJwksUri;

    fn from_str(text: &str) -> Result<Self, InvalidJwksUri> {
        if let Some(fault) = text::url_fault(text) {
            return Err(InvalidJwksUri::Url(fault));
        }
        let printable = text.len() <= 2_048 && text.bytes().all(|byte| byte.is_ascii_graphic());
        Url::parse(text)
            .ok()
            .filter(|url| printable && url.scheme() == "https" && url.fragment().is_none())
            .filter(|url| url.username().is_empty() && url.password().is_none())
            .map(Self)
            .ok_or(InvalidJwksUri::Form)
    }
}

impl fmt::Display for JwksUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.as_str())
    }
}

/// A way to obtain tokens (RFC 6749 section 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// A service in its own name (RFC 6749 section 4.4).
    ClientCredentials,
}

/// The grant is none of Keyround's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a grant of Keyround; use client_credentials")]
pub struct UnknownGrant(pub String);

impl Grant {
    /// Every grant.
    pub const ALL: [Self; 1] = [Self::ClientCredentials];

    /// The value of `grant_type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
        }
    }
}

impl FromStr for Grant {
    type Err = UnknownGrant;

    fn from_str(name: &str) -> Result<Self, UnknownGrant> {
        Self::ALL
            .into_iter()
            .find(|grant| grant.name() == name)
            .ok_or_else(|| UnknownGrant(name.to_owned()))
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A registered client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub id: ClientId,
    /// The grants it may use (RFC 6749 section 5.2, `unauthorized_client`).
    pub grants: Vec<Grant>,
    /// The widest scope it may have.
    pub scope: Scope,
    /// The resources it may ask for tokens for; the first is the default.
    pub audiences: Vec<Audience>,
    /// The resources it is: it may introspect tokens for them (RFC 7662 section 4).
    pub serves: Vec<Audience>,
    /// The algorithm of its tokens; none follows the server's default.
    pub alg: Option<Algorithm>,
    /// The type of its tokens.
    pub token_type: TokenType,
    /// The lifetime of its tokens; none follows the server's default.
    pub token_ttl: Option<Seconds>,
    /// When it was registered.
    pub created_at: UnixTime,
    /// Since when it may do nothing.
    pub disabled_at: Option<UnixTime>,
}

/// A secret that a client has from elsewhere: 16 to 512 printable ASCII characters (RFC 6749 appendix A.2) that take more than 10^12
/// guesses.
pub struct ClientSecret(Zeroizing<String>);

/// The text is no secret of a client. Says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClientSecret {
    /// Its form.
    #[error("a client's secret is 16 to 512 printable ASCII characters")]
    Form,
    /// Its strength.
    #[error(
        "the secret can be guessed; bring one of at least 16 random characters, or leave the option out to get one"
    )]
    Weak,
}

/// A secret is digested fast, for it is checked at every request: it must be out of reach of guesses by itself.
const LEAST_GUESSES_LOG10: f64 = 12.0;

impl ClientSecret {
    /// The secret.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientSecret {
    type Err = InvalidClientSecret;

    fn from_str(text: &str) -> Result<Self, InvalidClientSecret> {
        if !(16..=512).contains(&text.len()) || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(InvalidClientSecret::Form);
        }
        if zxcvbn::zxcvbn(text, &[]).guesses_log10() <= LEAST_GUESSES_LOG10 {
            return Err(InvalidClientSecret::Weak);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

/// The digests of a client's secrets; up to two are valid at once, so that a secret can be changed without a lapse.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretDigests {
    /// The newest secret's.
    pub current: String,
    /// The one before it.
    pub previous: Option<String>,
}

impl SecretDigests {
    /// The digests that a presented secret may match.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        // A client that proves itself by signature has the empty digest, which no secret has.
        std::iter::once(self.current.as_str())
            .chain(self.previous.as_deref())
            .filter(|digest| !digest.is_empty())
    }
}

impl fmt::Debug for SecretDigests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigests(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audience_with_a_colon_is_a_uri_without_a_fragment() {
        for good in [
            "https://api.example.com",
            "https://api.example.com/v1?x=1",
            "urn:example:api",
            "svc:prod",
            "api",
            "my-api.v2",
            "/api",
            "orders#eu",
            &"a".repeat(2_048),
        ] {
            assert_eq!(good.parse::<Audience>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            "https://api.example.com/#a",
            "https://",
            "10.0.0.1:8080",
            ":a",
            "https://a b",
            "my api",
            "\u{e4}pi",
            "https://api\n.example",
            "api\u{0}",
            "api\t",
            &"a".repeat(2_049),
        ] {
            assert_eq!(bad.parse::<Audience>(), Err(InvalidAudience), "{bad:?}");
        }
    }

    #[test]
    fn a_jwks_uri_is_an_https_url_and_nothing_else() {
        assert!(
            "https://billing.example.com:8443/jwks.json?v=1"
                .parse::<JwksUri>()
                .is_ok()
        );
        for bad in [
            "",
            "/jwks.json",
            "http://billing.example.com/jwks.json",
            "https://",
            "https://user@billing.example.com/",
            "https://:password@billing.example.com/",
            "https://billing.example.com/#keys",
            "https://billing.example.com/ ",
            "file:///etc/passwd",
            &format!("https://billing.example.com/{}", "a".repeat(2_048)),
        ] {
            assert!(bad.parse::<JwksUri>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "https://2001:db8::1/jwks.json"
                .parse::<JwksUri>()
                .unwrap_err()
                .to_string(),
            "the jwks_uri has an IPv6 address without brackets, such as [2001:db8::1] has; write one such as \
             https://billing.example.com/jwks.json"
        );
    }

    #[test]
    fn a_client_id_is_visible_ascii() {
        for good in [
            "billing-1.example_~",
            "svc:prod",
            "https://app.example.com/?a=b&c#d",
            "a+b%20@c|d",
            &"a".repeat(255),
        ] {
            assert_eq!(good.parse::<ClientId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            "a b",
            "a\"b",
            "a\\b",
            "ü",
            "a\n",
            "a\u{0}",
            "a\u{7f}",
            &"a".repeat(256),
        ] {
            assert_eq!(bad.parse::<ClientId>(), Err(InvalidClientId), "{bad:?}");
        }
    }

    #[test]
    fn a_secret_from_elsewhere_is_printable_and_out_of_reach_of_guesses() {
        // In the forms in which Keycloak, Auth0, Entra ID, Google, Cognito, `uuidgen` and `openssl rand` make them.
        for good in [
            "8sXkPq2VbW3mNc7RtY1zLd5HfG9jKaQe",
            "hx-GkZ2Qm_4dPWc7YtR0vLbN8sJfE1aUoXiK5pTg3yVCz6MrHwSBqDnI9lAeOjFu",
            "Ab8Q~xT3mP.kL7vR-wY2nZ_cF5hJ0sD1gKq4eUa",
            "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",
            "1h57kf5cpq17m0eml12EXAMPLEsecret7q0v8b3n2k4j6l5m9",
            "3f0c1a52-7b9e-4d1f-8a36-5e2c9b7d0f14",
            "q+3/4vWc9kZ1xT0=",
            "correct horse 7 battery staple 9 wq",
        ] {
            assert!(good.parse::<ClientSecret>().is_ok(), "{good}");
        }
        let refused = |text: &str| text.parse::<ClientSecret>().err();
        for form in [
            "",
            "a8Kd2mQzX7vBn4T",
            &"a8Kd2mQz".repeat(65),
            "a8Kd2mQzX7vBn4Tp\n",
            "a8Kd2mQzX7vBn4T\u{fc}",
        ] {
            assert_eq!(refused(form), Some(InvalidClientSecret::Form), "{form:?}");
        }
        for weak in [
            "aaaaaaaaaaaaaaaaaaaaaaaa",
            "passwordpassword",
            "1234567890123456",
            "qwertyuiopasdfgh",
            "abcdefghijklmnop",
        ] {
            assert_eq!(refused(weak), Some(InvalidClientSecret::Weak), "{weak}");
        }
    }
}
