//! `POST /oauth2/token`: the token endpoint (RFC 6749 section 3.2).

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use crate::keyring::CannotSign;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::token::{Granted, TokenRequest, grant};

use super::Server;
pub use super::client_authentication::CLIENT_SECRET_PURPOSE;
use super::client_authentication::{Caller, Refusal, authenticate, form};
use super::turns::turn;

/// The answer of RFC 6749 section 5.1.
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// A token for a client that proves itself.
pub async fn answer(server: web::Data<Server>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let mut caller = Caller::new(&server, &request);
    match issue(&server, &request, payload, &mut caller).await {
        Ok(token) => HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((header::PRAGMA, "no-cache"))
            .json(token),
        Err(refusal) => refusal.answer(&server, &caller, "a token was refused"),
    }
}

async fn issue(
    server: &Server,
    request: &HttpRequest,
    payload: web::Payload,
    caller: &mut Caller,
) -> Result<TokenResponse, Refusal> {
    let parameters = form(request, payload).await?;
    let stored = authenticate(server, request, &parameters, caller).await?;
    let client = &stored.client;
    let granted = grant(client, &TokenRequest::parse(&parameters)?, &server.defaults)?;
    if !server.keyring.policy().algorithms().contains(&granted.alg) {
        let description = "the client is registered for an algorithm that this server does not sign with";
        return Err(OauthError::new(ErrorCode::UnauthorizedClient, description).into());
    }
    let token = {
        let _turn = turn(granted.alg).await;
        sign(server, &granted)?
    };
    tracing::info!(
        client.id = %client.id, client.ip = %caller.address, key.alg = %granted.alg,
        token.expires_in = token.expires_in, "a token was granted"
    );
    Ok(token)
}

fn sign(server: &Server, granted: &Granted) -> Result<TokenResponse, Refusal> {
    let reading = server.clock.read();
    let issued = server
        .keyring
        .issue(granted, &server.issuer, reading)
        .map_err(|error| cannot_sign(&error))?;
    let took = server.clock.read().monotonic.saturating_sub(reading.monotonic);
    server.metrics.signed(granted.alg, took);
    Ok(TokenResponse {
        access_token: issued.token,
        token_type: "Bearer",
        expires_in: issued.claims.exp - issued.claims.iat,
        scope: issued.claims.scope,
    })
}

fn cannot_sign(error: &CannotSign) -> Refusal {
    tracing::error!(%error, "a token was not signed");
    OauthError::new(
        ErrorCode::TemporarilyUnavailable,
        "no key can sign at this moment; try again in a few seconds",
    )
    .into()
}
