//! `POST /oauth2/revoke`: a client gives a token back (RFC 7009).

use actix_web::http::header;
use actix_web::{HttpResponse, web};

use crate::accounts::session::EndedBy;
use crate::events::{Entry, Event};
use crate::http::codes::Code;
use crate::http::extract::body::Form;
use crate::http::extract::client_authentication::ClientProof;
use crate::http::extract::context::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::token::Parameters;
use crate::oauth::verification::AccessToken;
use crate::store::StoreError;
use crate::store::outage;

use super::code_grant::presenting_client;
use super::presented_token::{presented, verified};

/// 200 once the token is refused everywhere within the bound, and for everything that is no token of this client.
pub async fn answer(
    server: web::Data<Server>,
    sender: Sender,
    proof: ClientProof,
    Form(parameters): Form,
) -> Result<HttpResponse, Problem> {
    // People's own client has no row; another is public, or proves itself.
    let own = server.sessions.client.id.as_str();
    if server.has_accounts && proof.public_client(&parameters)? == Some(own) {
        revoke(&server, &sender, &parameters, own).await?;
    } else {
        let stored = presenting_client(&server, &proof, &parameters).await?;
        let id = &stored.client.id;
        let revoked = revoke(&server, &sender, &parameters, &id.to_string()).await;
        revoked.map_err(|refusal| refusal.of(id))?;
    }
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::PRAGMA, "no-cache"))
        .finish())
}

async fn revoke(server: &Server, sender: &Sender, parameters: &Parameters, client_id: &str) -> Result<(), Problem> {
    let token = presented(parameters)?;
    let unavailable = |error: StoreError| {
        outage::report("a token could not be denied", &error);
        Problem::new(
            Code::TemporarilyUnavailable,
            "whether the token is revoked is not known, because the database did not answer; send the same request again in a few seconds: \
             it may be sent any number of times",
        )
        .in_oauth()
    };
    let ended = server.sessions.end_by_token(token, client_id, EndedBy::Revocation);
    if let Some(sid) = ended.await.map_err(unavailable)? {
        tracing::info!(client.id = client_id, client.ip = %sender.address, session.sid = %sid, "a session was revoked");
        return Ok(());
    }
    let Some(token) = verified(server, token)?.filter(|token| token.client_id == client_id) else {
        return Ok(());
    };
    let whose = token.session.as_ref().map_or(client_id, |session| &session.sid);
    server.charge_revocation(whose).map_err(|retry_after| {
        let description = format!("too many revocations; try again in {retry_after}");
        Problem::new(Code::RateLimited, description)
            .after(retry_after)
            .in_oauth()
    })?;
    deny(server, &token).await.map_err(unavailable)?;
    tracing::info!(client.id = client_id, client.ip = %sender.address, token.jti = token.jti, "a token was revoked");
    Ok(())
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
