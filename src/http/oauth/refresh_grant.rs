//! `grant_type=refresh_token` at the token endpoint (RFC 6749 section 6): the sessions of people, for the public client that they
//! logged in with.

use actix_web::HttpRequest;
use actix_web::http::header;

use crate::accounts::refresh::Refused;
use crate::accounts::session::Device;
use crate::http::extract::client_authentication::{Caller, Refusal, authenticate};
use crate::http::state::Server;
use crate::keyring::CannotSign;
use crate::oauth::client::Audience;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::token::{Parameters, requested_audiences, requested_scope};
use crate::sessions::{CannotRefresh, RefreshRequest, SessionTokens};
use crate::store::outage;

/// The value of `grant_type`.
pub const GRANT: &str = "refresh_token";

/// The tokens that a refresh token gets.
///
/// # Errors
/// When it gets none.
pub async fn refresh(
    server: &Server,
    request: &HttpRequest,
    parameters: &Parameters,
    caller: &mut Caller,
) -> Result<SessionTokens, Refusal> {
    let client_id = client_id(server, request, parameters, caller).await?;
    let token = parameters
        .one("refresh_token")?
        .ok_or_else(|| OauthError::invalid_request("refresh_token is missing in the form"))?;
    if requested_scope(parameters)?.is_some_and(|scope| !scope.is_empty()) {
        let description = "the session was granted no scope; leave scope out";
        return Err(OauthError::new(ErrorCode::InvalidScope, description).into());
    }
    let audiences: Vec<String> = requested_audiences(parameters)?
        .iter()
        .map(Audience::to_string)
        .collect();
    let user_agent = request.headers().get(header::USER_AGENT);
    let user_agent = user_agent.and_then(|value| value.to_str().ok()).unwrap_or("");
    let request = RefreshRequest {
        token,
        client_id: &client_id,
        audiences: &audiences,
        device: &Device::new(caller.address, user_agent),
    };
    server.charge_refresh(caller.address, token).map_err(|retry_after| {
        let description = format!("too many refreshes; try again in {retry_after}");
        Refusal::TooOften(
            OauthError::new(ErrorCode::TemporarilyUnavailable, &description),
            retry_after,
        )
    })?;
    let before = server.clock.read().monotonic;
    let tokens = server
        .sessions
        .refresh(&request)
        .await
        .map_err(|error| refusal(&error))?;
    tracing::info!(
        session.sid = %tokens.sid, client.ip = %caller.address, token.expires_in = tokens.expires_in.0,
        duration_ms = (server.clock.read().monotonic.saturating_sub(before)).as_millis(), "a session was refreshed"
    );
    Ok(tokens)
}

/// Who asks: the client that proves itself, or else the one that names itself and has no secret.
async fn client_id(
    server: &Server,
    request: &HttpRequest,
    parameters: &Parameters,
    caller: &mut Caller,
) -> Result<String, Refusal> {
    if let Some(client_id) = public_client(request, parameters)? {
        return Ok(client_id.to_owned());
    }
    let stored = authenticate(server, request, parameters, caller).await?;
    Ok(stored.client.id.to_string())
}

/// The client that names itself and tries to prove nothing.
///
/// # Errors
/// `invalid_request` for a parameter that comes twice.
pub fn public_client<'a>(request: &HttpRequest, parameters: &'a Parameters) -> Result<Option<&'a str>, OauthError> {
    let proves_itself = request.headers().contains_key(header::AUTHORIZATION)
        || parameters.one("client_secret")?.is_some()
        || parameters.one("client_assertion")?.is_some();
    Ok(parameters.one("client_id")?.filter(|_| !proves_itself))
}

fn refusal(error: &CannotRefresh) -> Refusal {
    match error {
        CannotRefresh::Refused(Refused::WrongAudience) => {
            OauthError::new(ErrorCode::InvalidTarget, "the session is not for this resource").into()
        }
        CannotRefresh::Refused(refused @ (Refused::TooEarly | Refused::ClockInDoubt)) => {
            Refusal::unavailable(&refused.to_string())
        }
        CannotRefresh::Refused(refused) => {
            let description = format!("the refresh token gets nothing: {refused}; log in again");
            OauthError::new(ErrorCode::InvalidGrant, &description).into()
        }
        CannotRefresh::CannotSign(_) | CannotRefresh::Store(_) | CannotRefresh::Randomness(_) => {
            match error {
                CannotRefresh::CannotSign(error @ CannotSign::Stale { .. }) => {
                    outage::failed("a session was not refreshed", error);
                }
                error => outage::report("a session was not refreshed", error),
            }
            Refusal::unavailable(
                "nothing can be refreshed at this moment; try again in a few seconds with the same token",
            )
        }
    }
}
