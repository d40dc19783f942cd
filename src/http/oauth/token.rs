//! `POST /oauth2/token`: the token endpoint (RFC 6749 section 3.2).

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::http::extract::body::Form;
use crate::http::extract::client_authentication::{ClientProof, authenticate_anew};
use crate::http::extract::context::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::keyring::{CannotSign, Issued};
use crate::oauth::client::Grant;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::scope::Scope;
use crate::oauth::token::{Granted, Parameters, TokenRequest, grant};
use crate::sessions::{CodeTokens, SessionTokens};
use crate::store::clients::StoredClient;
use crate::store::outage;

use super::turns::turn;
use super::{code_grant, refresh_grant};

/// The answer of RFC 6749 section 5.1.
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
}

impl From<SessionTokens> for TokenResponse {
    fn from(tokens: SessionTokens) -> Self {
        Self {
            access_token: tokens.access_token,
            token_type: "Bearer",
            expires_in: tokens.expires_in.0,
            scope: written(&tokens.scope),
            refresh_token: Some(tokens.refresh_token.to_string()),
            id_token: tokens.id_token,
        }
    }
}

impl From<CodeTokens> for TokenResponse {
    fn from(tokens: CodeTokens) -> Self {
        Self {
            access_token: tokens.access_token,
            token_type: "Bearer",
            expires_in: tokens.expires_in.0,
            scope: written(&tokens.scope),
            refresh_token: tokens.refresh_token.map(|token| token.to_string()),
            id_token: tokens.id_token,
        }
    }
}

fn written(scope: &Scope) -> Option<String> {
    (!scope.is_empty()).then(|| scope.to_string())
}

/// A token for a client that proves itself, or the next tokens of a session.
pub async fn answer(
    server: web::Data<Server>,
    sender: Sender,
    proof: ClientProof,
    Form(parameters): Form,
) -> Result<HttpResponse, Problem> {
    // The grants of people are on the heap, so that a service's request does not carry room for them.
    let token = match parameters.one("grant_type")? {
        Some(refresh_grant::GRANT) if server.has_accounts => {
            let refreshed = Box::pin(refresh_grant::refresh(&server, &sender, &proof, &parameters));
            refreshed.await?.into()
        }
        Some(name) if server.has_accounts && name == Grant::AuthorizationCode.name() => {
            let redeemed = Box::pin(code_grant::redeem(&server, &sender, &proof, &parameters));
            redeemed.await?.into()
        }
        _ => {
            let stored = proof.authenticate(&parameters).await?;
            let issued = issue(&server, &sender, &parameters, &stored).await;
            issued.map_err(|refusal| refusal.of(&stored.client.id))?
        }
    };
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::PRAGMA, "no-cache"))
        .json(token))
}

async fn issue(
    server: &Server,
    sender: &Sender,
    parameters: &Parameters,
    stored: &StoredClient,
) -> Result<TokenResponse, Problem> {
    let asked = TokenRequest::parse(parameters)?;
    let granted = if let Ok(granted) = grant(&stored.client, &asked, &server.defaults) {
        granted
    } else {
        // It may have been given more a moment ago.
        let stored = Box::pin(authenticate_anew(server, stored)).await?;
        grant(&stored.client, &asked, &server.defaults)?
    };
    let client = &stored.client;
    if !server.keyring.policy().algorithms().contains(&granted.alg) {
        let description = "the client is registered for an algorithm that this server does not sign with";
        return Err(OauthError::new(ErrorCode::UnauthorizedClient, description).into());
    }
    let issued = {
        let _turn = turn(granted.alg).await;
        sign(server, &granted)?
    };
    let expires_in = issued.claims.exp - issued.claims.iat;
    // What a forged token cannot have: with its key and its name the line shows which tokens are ours.
    tracing::info!(
        client.id = %client.id, client.ip = %sender.address, key.alg = %granted.alg, key.kid = %issued.kid,
        token.jti = %issued.claims.jti, token.expires_in = expires_in, "a token was granted"
    );
    Ok(TokenResponse {
        access_token: issued.token,
        token_type: "Bearer",
        expires_in,
        scope: issued.claims.scope,
        refresh_token: None,
        id_token: None,
    })
}

fn sign(server: &Server, granted: &Granted) -> Result<Issued, Problem> {
    let reading = server.clock.read();
    let issued = server
        .keyring
        .issue(granted, &server.issuer, reading)
        .map_err(|error| cannot_sign(&error))?;
    let took = server.clock.read().monotonic.saturating_sub(reading.monotonic);
    server.metrics.signed(granted.alg, took);
    Ok(issued)
}

fn cannot_sign(error: &CannotSign) -> Problem {
    match error {
        CannotSign::Stale { .. } => outage::failed("a token was not signed", error),
        error => tracing::error!(%error, "a token was not signed"),
    }
    OauthError::new(
        ErrorCode::TemporarilyUnavailable,
        "no key can sign at this moment; try again in a few seconds",
    )
    .into()
}
