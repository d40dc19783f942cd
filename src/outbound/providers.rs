//! OpenID providers that people log in with: their metadata, their keys, and the exchange of a code for an ID token.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;
use url::form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

use crate::accounts::federation::metadata::{ClientAuthentication, MetadataError, ProviderMetadata};
use crate::accounts::federation::{ProviderClientId, ProviderIssuer};
use crate::jose::jwk_set::IssuerKey;
use crate::jose::strict_json;

use super::kept::{CacheWindows, KeptDocuments};
use super::key_sets::{NoKeys, RemoteKeySets};
use super::{FetchError, Outbound};

/// How long metadata is used without asking for newer.
pub const FRESH: Duration = Duration::from_hours(1);
/// How long metadata is used at once, while newer is asked for.
pub const STALE: Duration = Duration::from_hours(6);
/// How long metadata is used when no newer can be had.
pub const LONGEST: Duration = Duration::from_hours(24);
/// From the end of an attempt, whatever came of it, none is made for this long: any caller may begin a login.
pub const COOLDOWN: Duration = Duration::from_secs(1);

/// Why a provider does not do its part. No variant holds anything that came from there, but the issuer that its metadata names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// It cannot be reached, or answers with errors.
    #[error("the provider did not answer: {0}")]
    Fetch(#[from] FetchError),
    /// Its metadata is none.
    #[error("the provider is not as it must be: {0}")]
    Metadata(#[from] MetadataError),
    /// Its keys are none.
    #[error("the provider's keys cannot be used: {0}")]
    Keys(#[from] NoKeys),
    /// The code, our client secret or our registration there is not in order.
    #[error("the provider refused the code: {0}")]
    Refused(&'static str),
    /// Something else than RFC 6749 section 5 says.
    #[error("the provider's token endpoint answered with something else than an ID token")]
    NoIdToken,
    /// Something else than OpenID Connect Core section 5.3.2 says.
    #[error("the provider's userinfo endpoint answered with something else than a JSON object")]
    NoUserinfo,
}

impl ProviderError {
    /// Whether the provider is there and says no, so that to try again would not help.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// What we prove ourselves with at a provider.
pub struct ProviderCredentials<'a> {
    /// Its name for us.
    pub client_id: &'a ProviderClientId,
    /// The secret that only we and it know.
    pub client_secret: &'a str,
}

/// A code, with all that it was asked for with (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
pub struct AuthorizationCode<'a> {
    /// The code.
    pub code: &'a str,
    /// Where it was sent to.
    pub redirect_uri: &'a str,
    /// What the challenge was made from.
    pub code_verifier: &'a str,
}

/// What a code was exchanged for; nothing in it is proved yet.
pub struct TokenAnswer {
    /// The ID token.
    pub id_token: Zeroizing<String>,
    /// What gives access to the userinfo endpoint, when it is a bearer token.
    pub access_token: Option<Zeroizing<String>>,
}

/// All providers.
pub struct Providers {
    outbound: Outbound,
    metadata: KeptDocuments<ProviderIssuer, Arc<ProviderMetadata>, ProviderError>,
    key_sets: RemoteKeySets<IssuerKey>,
}

impl Providers {
    /// Nothing is fetched yet.
    #[must_use]
    pub fn new(outbound: Outbound) -> Self {
        let windows = CacheWindows {
            fresh: FRESH,
            stale: STALE,
            longest: LONGEST,
            cooldown: COOLDOWN,
        };
        Self {
            key_sets: RemoteKeySets::of_issuers(outbound.clone()),
            metadata: KeptDocuments::new(windows),
            outbound,
        }
    }

    /// What a provider says of itself. `now` is monotonic.
    ///
    /// # Errors
    /// When nothing can be had that is younger than [`LONGEST`].
    pub async fn metadata(
        &self,
        issuer: &ProviderIssuer,
        now: Duration,
    ) -> Result<Arc<ProviderMetadata>, ProviderError> {
        let url = issuer.discovery_url().map_err(|_| MetadataError::Endpoint("issuer"))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let fetch = || fetch_metadata(self.outbound.clone(), issuer.clone(), url);
        self.metadata.find(issuer, &host, now, |_| true, fetch).await
    }

    /// A provider's keys; `fits` says whether what is needed is among them. `now` is monotonic.
    ///
    /// # Errors
    /// When none can be had.
    pub async fn keys(
        &self,
        metadata: &ProviderMetadata,
        now: Duration,
        fits: impl Fn(&[IssuerKey]) -> bool,
    ) -> Result<Arc<[IssuerKey]>, ProviderError> {
        let uri = metadata.jwks_uri.as_str().parse();
        let uri = uri.map_err(|_| MetadataError::Endpoint("jwks_uri"))?;
        Ok(self.key_sets.keys(&uri, now, fits).await?)
    }

    /// What a code stands for.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn exchange(
        &self,
        metadata: &ProviderMetadata,
        credentials: &ProviderCredentials<'_>,
        code: &AuthorizationCode<'_>,
    ) -> Result<TokenAnswer, ProviderError> {
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code.code),
            ("redirect_uri", code.redirect_uri),
            ("code_verifier", code.code_verifier),
        ];
        let (id, secret) = (credentials.client_id.as_str(), credentials.client_secret);
        let answer = match metadata.authentication {
            ClientAuthentication::Basic => {
                // Both are form-encoded first (RFC 6749 section 2.3.1).
                let (id, secret) = (form_encoded(id), form_encoded(secret));
                let credentials = Some((id.as_str(), secret.as_str()));
                self.outbound.submit(&metadata.token_endpoint, credentials, &form).await
            }
            ClientAuthentication::Post => {
                form.extend([("client_id", id), ("client_secret", secret)]);
                self.outbound.submit(&metadata.token_endpoint, None, &form).await
            }
        };
        let (status, body) = answer?;
        tokens(status, &Zeroizing::new(body))
    }

    /// What the provider says of whom this access token is for.
    ///
    /// # Errors
    /// Why it says nothing.
    pub async fn userinfo(&self, endpoint: &Url, access_token: &str) -> Result<Map<String, Value>, ProviderError> {
        let document = self.outbound.protected_document(endpoint, access_token).await?;
        strict_json::object(json(&document)).map_err(|_| ProviderError::NoUserinfo)
    }
}

async fn fetch_metadata(
    outbound: Outbound,
    issuer: ProviderIssuer,
    url: Url,
) -> Result<Arc<ProviderMetadata>, ProviderError> {
    let read = async {
        let document = outbound.document(&url).await?;
        Ok::<_, ProviderError>(Arc::new(ProviderMetadata::parse(&document, &issuer)?))
    };
    let read = read.await;
    if let Err(failure) = &read {
        tracing::warn!(provider.issuer = %issuer, %failure, "a provider's metadata was not renewed");
    }
    read
}

/// The JSON without a byte order mark (RFC 8259 section 8.1).
fn json(document: &[u8]) -> &[u8] {
    document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document)
}

fn form_encoded(text: &str) -> Zeroizing<String> {
    Zeroizing::new(byte_serialize(text.as_bytes()).collect())
}

fn tokens(status: u16, body: &[u8]) -> Result<TokenAnswer, ProviderError> {
    let members = strict_json::object(json(body)).map_err(|_| ProviderError::NoIdToken);
    match status {
        200 => {
            let members = members?;
            let text = |name| members.get(name).and_then(Value::as_str);
            let is_bearer = text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer"));
            let secret = |text: &str| Zeroizing::new(text.to_owned());
            Ok(TokenAnswer {
                id_token: text("id_token").map(secret).ok_or(ProviderError::NoIdToken)?,
                access_token: text("access_token").filter(|_| is_bearer).map(secret),
            })
        }
        400 | 401 => {
            let members = members?;
            let error = members.get("error").and_then(Value::as_str);
            Err(error.map_or(ProviderError::NoIdToken, |error| {
                ProviderError::Refused(registered(error))
            }))
        }
        _ => Err(FetchError::Status.into()),
    }
}

/// The registered name of an error (RFC 6749 section 5.2): only such a one is ever logged.
fn registered(error: &str) -> &'static str {
    const NAMES: [&str; 6] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    NAMES
        .into_iter()
        .find(|name| *name == error)
        .unwrap_or("an error of its own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_id_token_or_a_reason() {
        let read = |status, text: &str| {
            let tokens = tokens(status, text.as_bytes())?;
            Ok((
                tokens.id_token.to_string(),
                tokens.access_token.map(|token| token.to_string()),
            ))
        };
        for (text, access_token) in [
            (
                r#"{"access_token":"a","token_type":"bearer","id_token":"x"} "#,
                Some("a"),
            ),
            (
                "\u{feff}{\"access_token\":\"a\",\"token_type\":\"bearer\",\"refresh_token\":null,\"id_token\":\"x\"}",
                Some("a"),
            ),
            (r#"{"access_token":null,"token_type":null,"id_token":"x"}"#, None),
            (r#"{"access_token":"a","token_type":"DPoP","id_token":"x"}"#, None),
            (r#"{"id_token":"x"}"#, None),
        ] {
            let expected = ("x".to_owned(), access_token.map(str::to_owned));
            assert_eq!(read(200, text), Ok(expected), "{text}");
        }
        for (status, text, error) in [
            (200, r#"{"access_token":"a"}"#, ProviderError::NoIdToken),
            (200, r#"{"id_token":7}"#, ProviderError::NoIdToken),
            (200, r#"{"id_token":"a","id_token":"b"}"#, ProviderError::NoIdToken),
            (200, "<html>", ProviderError::NoIdToken),
            (
                400,
                r#"{"error":"invalid_grant"}"#,
                ProviderError::Refused("invalid_grant"),
            ),
            (
                401,
                r#"{"error":"invalid_client"}"#,
                ProviderError::Refused("invalid_client"),
            ),
            (
                400,
                r#"{"error":"\u001b[31m"}"#,
                ProviderError::Refused("an error of its own"),
            ),
            (400, "", ProviderError::NoIdToken),
            (302, "", ProviderError::Fetch(FetchError::Status)),
            (
                429,
                r#"{"error":"slow_down"}"#,
                ProviderError::Fetch(FetchError::Status),
            ),
            (500, r#"{"id_token":"x"}"#, ProviderError::Fetch(FetchError::Status)),
        ] {
            assert_eq!(read(status, text), Err(error), "{status} {text}");
        }
    }

    #[test]
    fn credentials_are_form_encoded() {
        assert_eq!(*form_encoded("a:b c+%ä"), "a%3Ab+c%2B%25%C3%A4");
    }
}
