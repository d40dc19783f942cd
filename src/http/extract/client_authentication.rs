//! Which client asks: at the token endpoint, and where tokens are introspected and revoked.

use std::sync::Arc;

use actix_web::http::header;

use crate::crypto::purpose::Purpose;
use crate::http::codes::Code;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::assertion::Presented;
use crate::oauth::client::{AuthenticationMethod, ClientId};
use crate::oauth::credentials::Credentials;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::token::Parameters;
use crate::store::StoreError;
use crate::store::clients::StoredClient;
use crate::store::outage;

use super::client_assertion;
use super::context::{RequestContext, extracted_from_context};

/// What a client proves itself by (RFC 6749 section 2.3): `Authorization`, or parameters of the form. Nothing is looked at before a handler
/// asks: a public client proves nothing.
pub struct ClientProof(RequestContext);

impl From<RequestContext> for ClientProof {
    fn from(context: RequestContext) -> Self {
        Self(context)
    }
}

extracted_from_context!(ClientProof);

impl ClientProof {
    /// The client that names itself and tries to prove nothing.
    ///
    /// # Errors
    /// `invalid_request` for a parameter that comes twice.
    pub fn public_client<'a>(&self, parameters: &'a Parameters) -> Result<Option<&'a str>, OauthError> {
        let proves_itself = self.0.request.headers().contains_key(header::AUTHORIZATION)
            || parameters.one("client_secret")?.is_some()
            || parameters.one("client_assertion")?.is_some();
        Ok(parameters.one("client_id")?.filter(|_| !proves_itself))
    }

    /// The client that proves itself.
    ///
    /// # Errors
    /// When none does, or the database does not answer.
    pub async fn authenticate(&self, parameters: &Parameters) -> Result<Arc<StoredClient>, Problem> {
        let server = &self.0.server;
        let mut headers = self.0.request.headers().get_all(header::AUTHORIZATION);
        let authorization = headers.next().map(|value| value.to_str().unwrap_or(""));
        if headers.next().is_some() {
            return Err(OauthError::invalid_request("there is more than one Authorization header").into());
        }
        if let Some(presented) = Presented::find(authorization.is_some(), parameters)? {
            // On the heap, so that the usual request does not carry room for it.
            return Ok(Box::pin(client_assertion::authenticate(server, presented)).await?);
        }
        let credentials = Credentials::find(authorization, parameters)?;
        let (mut stored, mut proved) = (None, false);
        for reading in credentials.readings() {
            let found = match reading.client_id.parse() {
                Ok(id) => look_up(server, &id, &reading.secret)
                    .await
                    .map_err(|error| unavailable(&error))?,
                Err(_) => (None, proves(server, None, &reading.secret)),
            };
            if found.0.is_some() {
                (stored, proved) = found;
            }
            if proved {
                break;
            }
        }
        let refused = || {
            Problem::from(OauthError {
                code: ErrorCode::InvalidClient,
                description: "the client is unknown or disabled, or its secret is wrong".to_owned(),
                challenge: credentials.by_header,
            })
        };
        let method = if credentials.by_header {
            AuthenticationMethod::ClientSecretBasic
        } else {
            AuthenticationMethod::ClientSecretPost
        };
        match stored {
            Some(stored) if proved && stored.client.disabled_at.is_none() && stored.client.kind.accepts(method) => {
                Ok(stored)
            }
            // Only a name that we gave: people put secrets into the wrong field.
            Some(stored) => Err(refused().of(&stored.client.id)),
            None => Err(refused()),
        }
    }
}

/// The client that has proved itself, as it is now.
///
/// # Errors
/// When it is gone or disabled, or the database does not answer.
pub async fn authenticate_anew(server: &Server, proved: &StoredClient) -> Result<Arc<StoredClient>, Problem> {
    let stored = server.registry.find_anew(&proved.client.id).await;
    stored
        .map_err(|error| unavailable(&error))?
        .filter(|stored| stored.client.disabled_at.is_none())
        .ok_or_else(|| OauthError::new(ErrorCode::InvalidClient, "the client is unknown or disabled").into())
}

/// The client of this id, and whether the secret is one of its own. What is kept in memory refuses nobody: a secret may have
/// been given a moment ago.
async fn look_up(
    server: &Server,
    id: &ClientId,
    secret: &str,
) -> Result<(Option<Arc<StoredClient>>, bool), StoreError> {
    let kept = server.registry.find(id).await?;
    let proved = proves(server, kept.as_deref(), secret);
    if proved || kept.is_none() {
        return Ok((kept, proved));
    }
    let stored = server.registry.find_anew(id).await?;
    let proved = proves(server, stored.as_deref(), secret);
    Ok((stored, proved))
}

/// An unknown client costs the same digest as a known one.
fn proves(server: &Server, stored: Option<&StoredClient>, secret: &str) -> bool {
    let digests: Vec<&str> = stored.map_or_else(|| vec![""], |stored| stored.secrets.iter().collect());
    let matches = |digest: &&&str| server.hash_key.matches(Purpose::ClientSecret, secret, digest);
    digests.iter().filter(matches).count() > 0
}

/// The database failed.
#[must_use]
pub fn unavailable(error: &StoreError) -> Problem {
    outage::report("a client could not be looked up", error);
    Problem::new(
        Code::TemporarilyUnavailable,
        "the database does not answer; try again in a few seconds",
    )
    .in_oauth()
}
