//! Clients (RFC 6749 section 2): who may ask for tokens, which, and for whom.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;
use zeroize::Zeroizing;

use crate::accounts::settings::ClientSettings;
use crate::accounts::user::Name;
use crate::clock::{Seconds, UnixTime};
use crate::jose::alg::Algorithm;
use crate::jose::jwt::TokenType;
use crate::text;

use super::claims::{RolesClaim, ScopeClaims};
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
    /// A client that a person logged in with (RFC 6749 section 4.1).
    AuthorizationCode,
}

/// The grant is none of Keyround's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a grant of Keyround; use client_credentials or authorization_code")]
pub struct UnknownGrant(pub String);

impl Grant {
    /// Every grant.
    pub const ALL: [Self; 2] = [Self::ClientCredentials, Self::AuthorizationCode];

    /// The value of `grant_type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::AuthorizationCode => "authorization_code",
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

/// How a client proves itself at the token endpoint (RFC 7591 section 2, `token_endpoint_auth_method`). A public client has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthenticationMethod {
    /// Its secret in the `Authorization` header (RFC 6749 section 2.3.1).
    ClientSecretBasic,
    /// Its secret in the form.
    ClientSecretPost,
    /// A signature by one of its keys (RFC 7523).
    PrivateKeyJwt,
}

impl AuthenticationMethod {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::ClientSecretBasic, Self::ClientSecretPost, Self::PrivateKeyJwt];

    /// Its registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
        }
    }
}

/// Whether a client can keep a secret (RFC 6749 section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// It proves itself by this method; without one, by whichever its secret or its keys allow.
    Confidential(Option<AuthenticationMethod>),
    /// It runs where others can read it, so that it only names itself and acts for persons alone.
    Public,
}

/// The texts name no kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither a confidential client with its method nor a public one with none")]
pub struct UnknownKind;

impl ClientKind {
    /// The method of a public client (RFC 7591 section 2).
    const NO_METHOD: &str = "none";

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Confidential(_) => "confidential",
            Self::Public => "public",
        }
    }

    /// The registered name of its method, if one is registered.
    #[must_use]
    pub const fn method_name(self) -> Option<&'static str> {
        match self {
            Self::Confidential(None) => None,
            Self::Confidential(Some(method)) => Some(method.name()),
            Self::Public => Some(Self::NO_METHOD),
        }
    }

    /// The kind of these two names.
    ///
    /// # Errors
    /// [`UnknownKind`].
    pub fn parse(kind: &str, method: Option<&str>) -> Result<Self, UnknownKind> {
        let named = |name| AuthenticationMethod::ALL.into_iter().find(|known| known.name() == name);
        match (kind, method) {
            ("confidential", None) => Ok(Self::Confidential(None)),
            ("confidential", Some(name)) => named(name)
                .map(|method| Self::Confidential(Some(method)))
                .ok_or(UnknownKind),
            ("public", Some(Self::NO_METHOD)) => Ok(Self::Public),
            _ => Err(UnknownKind),
        }
    }

    /// Whether a client of this kind may prove itself by this method.
    #[must_use]
    pub fn accepts(self, method: AuthenticationMethod) -> bool {
        match self {
            Self::Confidential(registered) => registered.is_none_or(|registered| registered == method),
            Self::Public => false,
        }
    }
}

/// Whether a person is asked before a client gets a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Once for each set of scopes.
    Ask,
    /// Never.
    None,
}

/// Whose a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// It belongs to another party: a person is asked before it gets a grant.
    Third,
    /// The operator's own.
    First {
        /// Since when.
        since: UnixTime,
        /// Whether a person is asked all the same.
        consent: Consent,
    },
}

/// The texts describe no party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("only a client of the operator may do without consent")]
pub struct UnknownParty;

impl Party {
    /// The party of these columns.
    ///
    /// # Errors
    /// [`UnknownParty`].
    pub fn parse(first_party_since: Option<UnixTime>, consent: &str) -> Result<Self, UnknownParty> {
        let consent = match consent {
            "ask" => Consent::Ask,
            "none" => Consent::None,
            _ => return Err(UnknownParty),
        };
        match (first_party_since, consent) {
            (Some(since), consent) => Ok(Self::First { since, consent }),
            (None, Consent::Ask) => Ok(Self::Third),
            (None, Consent::None) => Err(UnknownParty),
        }
    }

    /// Since when it is the operator's own.
    #[must_use]
    pub const fn first_party_since(self) -> Option<UnixTime> {
        match self {
            Self::Third => None,
            Self::First { since, .. } => Some(since),
        }
    }

    /// The name of its consent policy.
    #[must_use]
    pub const fn consent_name(self) -> &'static str {
        match self {
            Self::Third
            | Self::First {
                consent: Consent::Ask, ..
            } => "ask",
            Self::First {
                consent: Consent::None, ..
            } => "none",
        }
    }
}

/// Where a login may lead back to (RFC 6749 section 3.1.2): an absolute URI without a fragment, kept as it was written. `http` leads to this
/// device alone, and the scheme of an app has a dot in it (RFC 8252 section 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectUri(String);

/// The text cannot be a redirect URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a redirect URI is https://HOST/..., http://127.0.0.1/... or http://[::1]/... for an app on the same device, or has an app's own scheme with \
     a dot, such as com.example.app:/callback; it has no fragment, no user and no wildcard"
)]
pub struct InvalidRedirectUri;

impl RedirectUri {
    /// The URI, byte for byte as it was registered.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a request may name this URI: byte for byte, but for the port of a loopback address, which the system gives to an app when it
    /// starts (RFC 8252 section 7.3).
    #[must_use]
    pub fn admits(&self, asked: &str) -> bool {
        let without_port = |uri| loopback_without_port(uri);
        asked == self.0 || without_port(asked).is_some_and(|asked| without_port(&self.0) == Some(asked))
    }
}

/// The host and what follows its port, of an `http` URI of a loopback address.
fn loopback_without_port(uri: &str) -> Option<(&str, &str)> {
    let host = ["http://127.0.0.1", "http://[::1]"]
        .into_iter()
        .find(|host| uri.starts_with(host))?;
    let rest = &uri[host.len()..];
    let rest = match rest.strip_prefix(':') {
        None => rest,
        Some(port) => {
            let end = port.find(['/', '?']).unwrap_or(port.len());
            let (port, rest) = port.split_at(end);
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
            is_port.then_some(rest)?
        }
    };
    (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((host, rest))
}

impl FromStr for RedirectUri {
    type Err = InvalidRedirectUri;

    fn from_str(text: &str) -> Result<Self, InvalidRedirectUri> {
        let printable = (1..=2_048).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let plain = !text.contains(['#', '*', '\\']) && !text::names_user(text);
        let url = Url::parse(text)
            .ok()
            .filter(|_| printable && plain)
            .ok_or(InvalidRedirectUri)?;
        let is_loopback = |url: &Url| match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            _ => false,
        };
        let is_good = match url.scheme() {
            "https" => text.starts_with("https://"),
            "http" => text.starts_with("http://") && is_loopback(&url),
            scheme => scheme.contains('.'),
        };
        if is_good {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidRedirectUri)
        }
    }
}

impl fmt::Display for RedirectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A registered client, or the one of the accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub id: ClientId,
    /// Whether it can keep a secret.
    pub kind: ClientKind,
    /// Whose it is.
    pub party: Party,
    /// Where its logins may lead back to.
    pub redirect_uris: Vec<RedirectUri>,
    /// Where its logouts may lead back to.
    pub post_logout_redirect_uris: Vec<RedirectUri>,
    /// What people see of it (RFC 7591 section 2, `client_name`); without one they see its id.
    pub name: Option<Name>,
    /// The algorithm of its ID tokens (OpenID Connect Registration 1.0, `id_token_signed_response_alg`); none follows `alg`.
    pub id_token_alg: Option<Algorithm>,
    /// Where the claims of its scopes are.
    pub scope_claims: ScopeClaims,
    /// What lists the roles of a person in its ID tokens and at the userinfo endpoint.
    pub roles_claim: Option<RolesClaim>,
    /// Whether it may log people in without a code challenge (RFC 7636); a public client may not.
    pub is_pkce_optional: bool,
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

/// The client of the accounts cannot be made of what the settings say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccountsClient {
    /// Its id.
    #[error(transparent)]
    Id(#[from] InvalidClientId),
    /// Its audience.
    #[error(transparent)]
    Audience(#[from] InvalidAudience),
}

impl Client {
    /// The client that people log in with at `/auth`, as the settings describe it: public, for it runs in their browsers, and the
    /// operator's own. No grant of the token endpoint is its own: it gets sessions by a login.
    ///
    /// # Errors
    /// When the id or the audience has no valid form.
    pub fn of_accounts(settings: &ClientSettings, now: UnixTime) -> Result<Self, InvalidAccountsClient> {
        Ok(Self {
            id: settings.id.parse()?,
            kind: ClientKind::Public,
            party: Party::First {
                since: now,
                consent: Consent::None,
            },
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            name: None,
            id_token_alg: None,
            scope_claims: ScopeClaims::Userinfo,
            roles_claim: None,
            is_pkce_optional: false,
            grants: Vec::new(),
            scope: Scope::default(),
            audiences: vec![settings.audience.parse()?],
            serves: Vec::new(),
            alg: None,
            token_type: settings.token_type,
            token_ttl: Some(settings.access_token_ttl),
            created_at: now,
            disabled_at: None,
        })
    }

    /// Whether people may log in with it at `/auth`: a registered service must not be taken for it.
    #[must_use]
    pub fn may_be_of_accounts(&self) -> bool {
        self.kind == ClientKind::Public
            && matches!(self.party, Party::First { .. })
            && !self.audiences.is_empty()
            && self.disabled_at.is_none()
    }

    /// Whether a request of it may come without a code challenge.
    #[must_use]
    pub fn may_omit_code_challenge(&self) -> bool {
        self.is_pkce_optional && self.kind != ClientKind::Public
    }

    /// What people see of it.
    #[must_use]
    pub fn shown_as(&self) -> &str {
        self.name.as_ref().map_or(self.id.as_str(), Name::as_str)
    }

    /// The audience of its tokens where a request names none.
    #[must_use]
    pub fn default_audience(&self) -> &str {
        self.audiences.first().map_or("", Audience::as_str)
    }
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
impl Client {
    /// A service with one resource.
    pub(super) fn example(id: &str) -> Self {
        Self {
            id: id.parse().unwrap(),
            kind: ClientKind::Confidential(None),
            party: Party::Third,
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            name: None,
            id_token_alg: None,
            scope_claims: ScopeClaims::Userinfo,
            roles_claim: None,
            is_pkce_optional: false,
            grants: vec![Grant::ClientCredentials],
            scope: Scope::default(),
            audiences: vec!["https://api.example".parse().unwrap()],
            serves: Vec::new(),
            alg: None,
            token_type: TokenType::AtJwt,
            token_ttl: None,
            created_at: UnixTime(0),
            disabled_at: None,
        }
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
    fn a_redirect_uri_leads_to_a_site_or_to_an_app_and_is_kept_as_written() {
        for good in [
            "https://app.example.com/callback",
            "https://app.example.com:8443/cb?tenant=a",
            "https://App.example.com",
            "http://127.0.0.1/cb",
            "http://127.0.0.1:49152/cb",
            "http://[::1]:3000/",
            "com.example.app:/callback",
        ] {
            assert_eq!(good.parse::<RedirectUri>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "/callback",
            "http://app.example.com/cb",
            "http://localhost/cb",
            "http://127.0.0.1.example.com/cb",
            "https:app.example.com",
            "https://app.example.com/#a",
            "https://*.example.com/",
            "https://user@app.example.com/",
            "https://app.example.com\\@evil.example/",
            "https://app.example.com/ https://evil.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "app:/callback",
            &format!("https://app.example.com/{}", "a".repeat(2_048)),
        ] {
            assert_eq!(bad.parse::<RedirectUri>(), Err(InvalidRedirectUri), "{bad}");
        }
    }

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        let methods = AuthenticationMethod::ALL.map(Some).into_iter().chain([None]);
        let kinds = methods.map(ClientKind::Confidential).chain([ClientKind::Public]);
        for kind in kinds {
            assert_eq!(ClientKind::parse(kind.name(), kind.method_name()), Ok(kind));
        }
        for (kind, method) in [
            ("public", None),
            ("public", Some("client_secret_basic")),
            ("confidential", Some("none")),
            ("confidential", Some("tls_client_auth")),
            ("private", None),
        ] {
            assert_eq!(ClientKind::parse(kind, method), Err(UnknownKind), "{kind} {method:?}");
        }
    }

    #[test]
    fn a_client_proves_itself_by_its_method_and_a_public_one_by_none() {
        use AuthenticationMethod::{ClientSecretBasic, ClientSecretPost, PrivateKeyJwt};
        for (kind, accepted) in [
            (ClientKind::Confidential(None), &AuthenticationMethod::ALL[..]),
            (ClientKind::Confidential(Some(ClientSecretBasic)), &[ClientSecretBasic]),
            (ClientKind::Confidential(Some(ClientSecretPost)), &[ClientSecretPost]),
            (ClientKind::Confidential(Some(PrivateKeyJwt)), &[PrivateKeyJwt]),
            (ClientKind::Public, &[]),
        ] {
            let accepts = AuthenticationMethod::ALL
                .into_iter()
                .filter(|method| kind.accepts(*method));
            assert_eq!(accepts.collect::<Vec<_>>(), accepted, "{kind:?}");
        }
    }

    #[test]
    fn only_a_client_of_the_operator_does_without_consent() {
        let since = Some(UnixTime(7));
        for (first_party_since, consent) in [(None, "ask"), (since, "ask"), (since, "none")] {
            let party = Party::parse(first_party_since, consent).unwrap();
            assert_eq!(
                (party.first_party_since(), party.consent_name()),
                (first_party_since, consent)
            );
        }
        for (first_party_since, consent) in [(None, "none"), (since, "later"), (None, "")] {
            assert_eq!(Party::parse(first_party_since, consent), Err(UnknownParty));
        }
    }

    #[test]
    fn only_an_enabled_public_client_of_the_operator_may_be_that_of_the_accounts() {
        let settings = ClientSettings {
            id: "first-party".to_owned(),
            audience: "https://api.example.com".to_owned(),
            token_type: TokenType::AtJwt,
            access_token_ttl: Seconds(600),
        };
        let own = Client::of_accounts(&settings, UnixTime(7)).unwrap();
        assert!(own.may_be_of_accounts());
        for other in [
            Client {
                kind: ClientKind::Confidential(None),
                ..own.clone()
            },
            Client {
                party: Party::Third,
                ..own.clone()
            },
            Client {
                audiences: Vec::new(),
                ..own.clone()
            },
            Client {
                disabled_at: Some(UnixTime(8)),
                ..own
            },
        ] {
            assert!(!other.may_be_of_accounts(), "{other:?}");
        }
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
