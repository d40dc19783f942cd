//! The parameter `token` of introspection and revocation.

use crate::http::codes::Code;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::keyring::CannotVerify;
use crate::oauth::error::OauthError;
use crate::oauth::token::Parameters;
use crate::oauth::verification::AccessToken;
use crate::store::outage;

/// The token of the form. Addresses are logged everywhere, so the query is not read; `token_type_hint` is not needed, because a token shows
/// its type (RFC 7009 section 2.1).
///
/// # Errors
/// `invalid_request` if it is absent or comes twice.
pub(super) fn presented(parameters: &Parameters) -> Result<&str, OauthError> {
    parameters
        .one("token")?
        .ok_or_else(|| OauthError::invalid_request("token is missing in the form"))
}

/// The access token, if it is valid. Whether this client may know of it is the caller's question.
///
/// # Errors
/// If this node can verify nothing at the moment.
pub(super) fn verified(server: &Server, token: &str) -> Result<Option<AccessToken>, Problem> {
    let verdict = server.verify(token).map_err(|error| cannot_verify(&error))?;
    Ok(match verdict {
        Ok(token) => {
            server.metrics.verified(&token.kid, server.clock.read().wall);
            Some(token)
        }
        Err(reason) => {
            // The reason holds nothing of the token but its times.
            tracing::debug!(%reason, "a token is not active");
            None
        }
    })
}

fn cannot_verify(error: &CannotVerify) -> Problem {
    match error {
        CannotVerify::Stale { .. } => outage::failed("a token could not be verified", error),
        CannotVerify::ClockInDoubt => tracing::error!(%error, "a token could not be verified"),
    }
    Problem::new(
        Code::TemporarilyUnavailable,
        "nothing can be said of a token at this moment; try again in a few seconds",
    )
    .in_oauth()
}
