//! `grant_type=refresh_token` at the token endpoint (RFC 6749 section 6): the sessions of people, for the public client that they
//! logged in with.

use crate::accounts::refresh::Refused;
use crate::http::codes::Code;
use crate::http::extract::client_authentication::ClientProof;
use crate::http::extract::context::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::keyring::CannotSign;
use crate::oauth::client::{Audience, Client};
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::token::{Parameters, requested_audiences, requested_scope};
use crate::sessions::{CannotRefresh, RefreshRequest, SessionTokens};
use crate::store::outage;

use super::code_grant::presenting_client;

/// The value of `grant_type`.
pub const GRANT: &str = "refresh_token";

/// The tokens that a refresh token gets.
///
/// # Errors
/// When it gets none.
pub async fn refresh(
    server: &Server,
    sender: &Sender,
    proof: &ClientProof,
    parameters: &Parameters,
) -> Result<SessionTokens, Problem> {
    let accounts = &server.sessions.client;
    // The client of the accounts has no row.
    let of_accounts = proof.public_client(parameters)?;
    if let Some(client_id) = of_accounts.filter(|id| *id == accounts.id.as_str()) {
        return refresh_for(server, sender, parameters, client_id, accounts).await;
    }
    let stored = presenting_client(server, proof, parameters).await?;
    let id = &stored.client.id;
    let refreshed = refresh_for(server, sender, parameters, id.as_str(), &stored.client).await;
    refreshed.map_err(|refusal| refusal.of(id))
}

/// For the client that proved itself, or else for the one that names itself and has no secret.
async fn refresh_for(
    server: &Server,
    sender: &Sender,
    parameters: &Parameters,
    client_id: &str,
    client: &Client,
) -> Result<SessionTokens, Problem> {
    let token = parameters
        .one("refresh_token")?
        .ok_or_else(|| OauthError::invalid_request("refresh_token is missing in the form"))?;
    let scope = requested_scope(parameters)?.filter(|scope| !scope.is_empty());
    let audiences: Vec<String> = requested_audiences(parameters)?
        .iter()
        .map(Audience::to_string)
        .collect();
    let request = RefreshRequest {
        token,
        client_id,
        client,
        scope: scope.as_ref(),
        audiences: &audiences,
        device: &sender.device(),
    };
    server.charge_refresh(sender.address, token).map_err(|retry_after| {
        let description = format!("too many refreshes; try again in {retry_after}");
        Problem::new(Code::RateLimited, description)
            .after(retry_after)
            .in_oauth()
    })?;
    let before = server.clock.read().monotonic;
    let tokens = server
        .sessions
        .refresh(&request)
        .await
        .map_err(|error| refusal(&error))?;
    tracing::info!(
        session.sid = %tokens.sid, client.ip = %sender.address, token.expires_in = tokens.expires_in.0,
        duration_ms = (server.clock.read().monotonic.saturating_sub(before)).as_millis(), "a session was refreshed"
    );
    Ok(tokens)
}

fn refusal(error: &CannotRefresh) -> Problem {
    match error {
        CannotRefresh::Refused(Refused::WrongAudience) => {
            OauthError::new(ErrorCode::InvalidTarget, "the session is not for this resource").into()
        }
        CannotRefresh::Refused(refused @ (Refused::TooEarly | Refused::ClockInDoubt)) => {
            Problem::new(Code::TemporarilyUnavailable, refused.to_string()).in_oauth()
        }
        CannotRefresh::WiderScope => {
            let description = "the grant does not have all of this scope; leave scope out to get what it has";
            OauthError::new(ErrorCode::InvalidScope, description).into()
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
            Problem::new(
                Code::TemporarilyUnavailable,
                "nothing can be refreshed at this moment; try again in a few seconds with the same token",
            )
            .in_oauth()
        }
    }
}
