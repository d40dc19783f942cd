//! A client that proves itself by `private_key_jwt` (RFC 7523): its keys and what it has signed already are in the database.

use std::sync::Arc;

use crate::http::state::Server;
use crate::jose::assertion::Assertion;
use crate::jose::jwk::PublicJwk;
use crate::oauth::assertion::{Presented, accept, refused};
use crate::oauth::client::{AuthenticationMethod, JwksUri};
use crate::oauth::client_keys::ClientKeys;
use crate::oauth::endpoints::TOKEN_PATH;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::store::StoreError;
use crate::store::clients::StoredClient;
use crate::store::outage;

/// The client that an assertion proves.
///
/// # Errors
/// `invalid_client` when it does not prove it, `temporarily_unavailable` when the database does not answer.
pub async fn authenticate(server: &Server, presented: Presented<'_>) -> Result<Arc<StoredClient>, OauthError> {
    let Presented { client_id, assertion } = presented;
    let stored = server.registry.find(&client_id).await;
    let client = stored
        .map_err(|error| unavailable(&error))?
        .filter(|stored| stored.client.disabled_at.is_none())
        .filter(|stored| stored.client.kind.accepts(AuthenticationMethod::PrivateKeyJwt))
        .ok_or_else(|| refused("the client is unknown or disabled, or has no keys"))?;
    let keys = server.db.client_keys(&client_id).await;
    let keys = match keys.map_err(|error| unavailable(&error))? {
        Some(ClientKeys::Registered(keys)) => keys.jwks().into(),
        Some(ClientKeys::Published(uri)) => published(server, &uri, &assertion).await?,
        None => return Err(refused("the client is unknown or disabled, or has no keys")),
    };
    let claims = assertion.verify(&keys)?;
    let now = server
        .keyring
        .snapshot()
        .now(server.clock.read(), server.keyring.policy());
    let token_endpoint = format!("{}{TOKEN_PATH}", server.issuer);
    let accepted = accept(claims, &client_id, &[&server.issuer, &token_endpoint], now)?;
    // Last, so that nothing but a good assertion is written down.
    let is_first = server
        .db
        .use_assertion(&client_id, &accepted.jti, accepted.until)
        .await
        .map_err(|error| unavailable(&error))?;
    if is_first {
        Ok(client)
    } else {
        Err(refused("its jti was used before"))
    }
}

/// The keys that a client publishes itself. If they cannot be fetched, only this client is refused.
async fn published(server: &Server, uri: &JwksUri, assertion: &Assertion<'_>) -> Result<Arc<[PublicJwk]>, OauthError> {
    let fits = |keys: &[PublicJwk]| keys.iter().any(|key| assertion.fits(key));
    let now = server.clock.read().monotonic;
    let keys = server.remote_key_sets.keys(uri, now, fits).await;
    // Why is for the log alone: any caller who knows a client's id could ask, and learn where the client is.
    keys.map_err(|error| {
        tracing::debug!(jwks_uri = %uri, %error, "a client's published keys are not available");
        refused("the client's published keys are not available; the server's log says why")
    })
}

fn unavailable(error: &StoreError) -> OauthError {
    outage::report("a client's keys could not be looked up", error);
    OauthError::new(
        ErrorCode::TemporarilyUnavailable,
        "the database does not answer; try again in a few seconds",
    )
}
