//! The rules of the logout that a client begins (OpenID Connect RP-Initiated Logout 1.0).

use url::form_urlencoded;

use super::client::{Client, ClientId};
use super::token::Parameters;
use super::verification::HintedLogin;

/// Why a logout gets a page with an error. Nothing has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogoutError {
    /// A parameter comes twice.
    #[error("a parameter of the link comes twice")]
    Twice,
    /// `client_id` and `id_token_hint` name two clients.
    #[error("the link names another client than its id_token_hint")]
    OtherClient,
    /// `post_logout_redirect_uri` without a client that could have registered it.
    #[error("the link has a post_logout_redirect_uri and names no client; send id_token_hint or client_id with it")]
    NoClient,
    /// The client did not register the URI.
    #[error(
        "the application did not register the address that this link leads back to; its post_logout_redirect_uri must be, byte for byte, a registered one"
    )]
    UnknownRedirectUri,
}

/// What a logout asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    /// The client, if one is named.
    pub client: Option<ClientId>,
    /// The login that the client hints at.
    pub hint: Option<HintedLogin>,
    redirect_uri: Option<String>,
    state: Option<String>,
}

impl LogoutRequest {
    /// Reads a request; `read_hint` verifies the ID token. A hint that cannot be verified is ignored, and the person is asked.
    ///
    /// # Errors
    /// [`LogoutError`].
    pub fn parse(
        parameters: &Parameters,
        read_hint: impl FnOnce(&str) -> Option<HintedLogin>,
    ) -> Result<Self, LogoutError> {
        let one = |name| parameters.one(name).map_err(|_| LogoutError::Twice);
        let hint = one("id_token_hint")?.and_then(read_hint);
        let named = one("client_id")?;
        if let (Some(hint), Some(named)) = (&hint, named)
            && hint.client_id != named
        {
            return Err(LogoutError::OtherClient);
        }
        let client = hint.as_ref().map(|hint| hint.client_id.as_str()).or(named);
        Ok(Self {
            client: client.and_then(|id| id.parse().ok()),
            redirect_uri: one("post_logout_redirect_uri")?.map(str::to_owned),
            state: one("state")?.map(str::to_owned),
            hint,
        })
    }

    /// Where the browser goes afterwards; `None` if the request names no place.
    ///
    /// # Errors
    /// When `client` did not register the place, or is absent or disabled.
    pub fn destination(&self, client: Option<&Client>) -> Result<Option<String>, LogoutError> {
        let Some(uri) = &self.redirect_uri else {
            return Ok(None);
        };
        let client = client.ok_or(LogoutError::NoClient)?;
        let registered = &client.post_logout_redirect_uris;
        if client.disabled_at.is_some() || !registered.iter().any(|registered| registered.admits(uri)) {
            return Err(LogoutError::UnknownRedirectUri);
        }
        let Some(state) = &self.state else {
            return Ok(Some(uri.clone()));
        };
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("state", state)
            .finish();
        let joint = if uri.contains('?') { "&" } else { "?" };
        Ok(Some(format!("{uri}{joint}{query}")))
    }
}
