//! `POST /oauth2/introspect`: whether a token is valid now (RFC 7662).

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::json;

use crate::http::codes::Code;
use crate::http::extract::body::Form;
use crate::http::extract::client_authentication::{ClientProof, authenticate_anew};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::jose::jwt::SessionClaims;
use crate::oauth::client::Client;
use crate::oauth::token::Parameters;
use crate::oauth::verification::{AccessToken, is_client, may_introspect};
use crate::store::StoreError;
use crate::store::clients::StoredClient;
use crate::store::outage;

use super::presented_token::{presented, verified};

/// The answer of RFC 7662 section 2.2 for a valid token.
#[derive(Serialize)]
struct IntrospectionResponse<'a> {
    active: bool,
    iss: &'a str,
    sub: &'a str,
    aud: IntrospectedAudience<'a>,
    client_id: &'a str,
    iat: i64,
    exp: i64,
    jti: &'a str,
    token_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(flatten)]
    session: Option<&'a SessionClaims>,
}

/// One recipient as a text, several as a list, as in the token.
#[derive(Serialize)]
#[serde(untagged)]
enum IntrospectedAudience<'a> {
    One(&'a str),
    Several(&'a [String]),
}

/// What is known of a token, for a client that may know it.
pub async fn answer(
    server: web::Data<Server>,
    proof: ClientProof,
    Form(parameters): Form,
) -> Result<HttpResponse, Problem> {
    let stored = proof.authenticate(&parameters).await?;
    let introspected = introspect(&server, &parameters, &stored).await;
    let token = introspected.map_err(|refusal| refusal.of(&stored.client.id))?;
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::PRAGMA, "no-cache"));
    Ok(match token {
        Some(token) => answer.json(active(&token)),
        // The same for every reason.
        None => answer.json(json!({ "active": false })),
    })
}

async fn introspect(
    server: &Server,
    parameters: &Parameters,
    stored: &Arc<StoredClient>,
) -> Result<Option<AccessToken>, Problem> {
    let Some(token) = verified(server, presented(parameters)?)? else {
        return Ok(None);
    };
    let stored = if may_introspect(&stored.client, &token) {
        Arc::clone(stored)
    } else {
        // It may have been given more a moment ago.
        Box::pin(authenticate_anew(server, stored)).await?
    };
    let client = &stored.client;
    if !may_introspect(client, &token) || !has_client(server, client, &token).await? {
        return Ok(None);
    }
    Ok(Some(token))
}

/// Whether the client that the token was given to may still act.
async fn has_client(server: &Server, caller: &Client, token: &AccessToken) -> Result<bool, Problem> {
    if is_client(caller, token) {
        return Ok(true);
    }
    // That the session lives is known already.
    if token.session.is_some() && server.has_accounts && token.client_id == server.sessions.client.id.as_str() {
        return Ok(true);
    }
    let Ok(id) = token.client_id.parse() else {
        return Ok(false);
    };
    let stored = server.registry.find(&id).await.map_err(|error: StoreError| {
        outage::report("the client of a token could not be looked up", &error);
        Problem::new(
            Code::TemporarilyUnavailable,
            "the database does not answer; try again in a few seconds",
        )
        .in_oauth()
    })?;
    Ok(stored.is_some_and(|stored| stored.client.disabled_at.is_none() && is_client(&stored.client, token)))
}

fn active(token: &AccessToken) -> IntrospectionResponse<'_> {
    IntrospectionResponse {
        active: true,
        iss: &token.iss,
        sub: &token.sub,
        aud: match token.aud.as_slice() {
            [one] => IntrospectedAudience::One(one),
            several => IntrospectedAudience::Several(several),
        },
        client_id: &token.client_id,
        iat: token.iat.0,
        exp: token.exp.0,
        jti: &token.jti,
        token_type: "Bearer",
        scope: token.scope.as_deref(),
        session: token.session.as_ref(),
    }
}
