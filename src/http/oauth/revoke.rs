//! `POST /oauth2/revoke`: a client gives a token back (RFC 7009).

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::session::EndedBy;
use crate::events::{Entry, Event};
use crate::http::extract::client_authentication::{Caller, Refusal, authenticate, form};
use crate::http::state::Server;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::token::Parameters;
use crate::oauth::verification::AccessToken;
use crate::store::StoreError;
use crate::store::outage;

use super::introspect::verified;
use super::refresh_grant::public_client;

/// 200 once the token is refused everywhere within the bound, and for everything that is no token of this client.
pub async fn answer(server: web::Data<Server>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let mut caller = Caller::new(&server, &request);
    match revoke(&server, &request, payload, &mut caller).await {
        Ok(()) => HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((header::PRAGMA, "no-cache"))
            .finish(),
        Err(refusal) => refusal.answer(&server, &caller, "a revocation was refused"),
    }
}

async fn revoke(
    server: &Server,
    request: &HttpRequest,
    payload: web::Payload,
    caller: &mut Caller,
) -> Result<(), Refusal> {
    let parameters = form(request, payload).await?;
    let client_id = who(server, request, &parameters, caller).await?;
    // `token_type_hint` is a hint (RFC 7009 section 2.1), and what a token is stands in itself.
    let token = parameters
        .one("token")?
        .ok_or_else(|| OauthError::invalid_request("token is missing in the form"))?;
    let unavailable = |error: StoreError| {
        outage::report("a token could not be denied", &error);
        Refusal::unavailable(
            "whether the token is revoked is not known, because the database did not answer; send the same request again in a few seconds: \
             it may be sent any number of times",
        )
    };
    let ended = server.sessions.end_by_token(token, &client_id, EndedBy::Revocation);
    if let Some(sid) = ended.await.map_err(unavailable)? {
        tracing::info!(client.id = client_id, client.ip = %caller.address, session.sid = %sid, "a session was revoked");
        return Ok(());
    }
    let Some(token) = verified(server, token)?.filter(|token| token.client_id == client_id) else {
        return Ok(());
    };
    let whose = token.session.as_ref().map_or(&client_id, |session| &session.sid);
    server.charge_revocation(whose).map_err(|retry_after| {
        let description = format!("too many revocations; try again in {retry_after}");
        Refusal::TooOften(
            OauthError::new(ErrorCode::TemporarilyUnavailable, &description),
            retry_after,
        )
    })?;
    deny(server, &token).await.map_err(unavailable)?;
    tracing::info!(client.id = client_id, client.ip = %caller.address, token.jti = token.jti, "a token was revoked");
    Ok(())
}

/// The client that proves itself, or people's own, which cannot.
async fn who(
    server: &Server,
    request: &HttpRequest,
    parameters: &Parameters,
    caller: &mut Caller,
) -> Result<String, Refusal> {
    let own = &server.sessions.settings.client_id;
    if server.has_accounts && public_client(request, parameters)? == Some(own) {
        return Ok(own.clone());
    }
    let stored = authenticate(server, request, parameters, caller).await?;
    Ok(stored.client.id.to_string())
}

/// At once on this node, within `replica_refresh` on the others.
async fn deny(server: &Server, token: &AccessToken) -> Result<(), StoreError> {
    let leeway = server.keyring.policy().windows().verifier_leeway;
    let now = server.sessions.now();
    let entry = Entry::new(
        Event::TokenDenied,
        &token.jti,
        now,
        format!("client {}", token.client_id),
        "revoked by its client",
    );
    server.db.deny_token(&token.jti, token.exp + leeway, &entry).await?;
    server.keyring.token_denied(&token.jti);
    Ok(())
}
