//! `grant_type=authorization_code` at the token endpoint (RFC 6749 section 4.1.3): the tokens of a person who logged in at a client.

use std::sync::Arc;

use crate::http::codes::Code;
use crate::http::extract::client_authentication::{ClientProof, unavailable};
use crate::http::extract::context::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::keyring::CannotSign;
use crate::oauth::client::{ClientKind, Grant};
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::pkce::{CodeVerifier, InvalidCodeVerifier};
use crate::oauth::token::Parameters;
use crate::sessions::{CannotRedeem, CodeTokens, PresentedCode};
use crate::store::clients::StoredClient;
use crate::store::outage;

/// The registered client that presents a code or a refresh token: one that proves itself, or a public one that names itself.
///
/// # Errors
/// `invalid_client`: also for a confidential client that proves nothing.
pub async fn presenting_client(
    server: &Server,
    proof: &ClientProof,
    parameters: &Parameters,
) -> Result<Arc<StoredClient>, Problem> {
    let Some(id) = proof.public_client(parameters)? else {
        return proof.authenticate(parameters).await;
    };
    let found = match id.parse() {
        Ok(id) => server.registry.find(&id).await.map_err(|error| unavailable(&error))?,
        Err(_) => None,
    };
    found
        .filter(|stored| stored.client.kind == ClientKind::Public && stored.client.disabled_at.is_none())
        .ok_or_else(|| {
            let description = "the client is unknown or disabled, or must prove itself";
            OauthError::new(ErrorCode::InvalidClient, description).into()
        })
}

/// The tokens that a code gets.
///
/// # Errors
/// When it gets none.
pub async fn redeem(
    server: &Server,
    sender: &Sender,
    proof: &ClientProof,
    parameters: &Parameters,
) -> Result<CodeTokens, Problem> {
    let stored = presenting_client(server, proof, parameters).await?;
    let redeemed = redeem_for(server, sender, parameters, &stored).await;
    redeemed.map_err(|refusal| refusal.of(&stored.client.id))
}

async fn redeem_for(
    server: &Server,
    sender: &Sender,
    parameters: &Parameters,
    stored: &StoredClient,
) -> Result<CodeTokens, Problem> {
    let client = &stored.client;
    if !client.grants.contains(&Grant::AuthorizationCode) {
        let description = "the client is not registered for this grant";
        return Err(OauthError::new(ErrorCode::UnauthorizedClient, description).into());
    }
    let needed = |name: &'static str| -> Result<&str, OauthError> {
        let value = parameters.one(name)?;
        value.ok_or_else(|| OauthError::invalid_request(&format!("{name} is missing in the form")))
    };
    let (code, redirect_uri) = (needed("code")?, needed("redirect_uri")?);
    let verifier = parameters.one("code_verifier")?.map(CodeVerifier::parse).transpose();
    let verifier = verifier.map_err(|error: InvalidCodeVerifier| OauthError::invalid_request(&error.to_string()))?;
    let challenge = verifier.map(|verifier| verifier.challenge());
    server.charge_refresh(sender.address, code).map_err(|retry_after| {
        let description = format!("too many codes; try again in {retry_after}");
        Problem::new(Code::RateLimited, description)
            .after(retry_after)
            .in_oauth()
    })?;
    let presented = PresentedCode {
        code,
        client,
        redirect_uri,
        code_challenge: challenge.as_ref(),
        device: &sender.device(),
    };
    server
        .sessions
        .redeem_code(&presented)
        .await
        .map_err(|error| refusal(&error))
}

fn refusal(error: &CannotRedeem) -> Problem {
    match error {
        CannotRedeem::Refused => {
            let description = format!("{error}; send the person to the authorization endpoint again");
            OauthError::new(ErrorCode::InvalidGrant, &description).into()
        }
        CannotRedeem::CannotSign(_) | CannotRedeem::Store(_) | CannotRedeem::Randomness(_) => {
            match error {
                CannotRedeem::CannotSign(error @ CannotSign::Stale { .. }) => {
                    outage::failed("a code was not redeemed", error);
                }
                error => outage::report("a code was not redeemed", error),
            }
            Problem::new(
                Code::TemporarilyUnavailable,
                "no code can be redeemed at this moment; try again in a few seconds with the same code",
            )
            .in_oauth()
        }
    }
}
