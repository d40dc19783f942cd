//! `GET` and `POST /oauth2/userinfo`: what is known of the person behind an access token (OpenID Connect Core 1.0 section 5.3).

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpResponse, web};

use crate::accounts::user::Role;
use crate::http::codes::Code;
use crate::http::extract::bearer::Bearer;
use crate::http::extract::body::Form;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::authorization::OPENID;
use crate::oauth::claims::{claims_of_scope, person_claims};
use crate::oauth::scope::Scope;
use crate::oauth::verification::{AccessToken, is_client};
use crate::store::clients::StoredClient;

/// The access token is in the header.
///
/// # Errors
/// `token_missing` or `token_invalid`, `insufficient_scope` without `openid`, or `temporarily_unavailable`.
pub async fn by_header(server: web::Data<Server>, bearer: Bearer) -> Result<HttpResponse, Problem> {
    answer(&server, &bearer.verified()?).await
}

/// The access token is in the header, or in a form.
///
/// # Errors
/// As [`by_header`], and `invalid_request` for a token in both.
pub async fn by_post(
    server: web::Data<Server>,
    bearer: Bearer,
    form: Result<Form, Problem>,
) -> Result<HttpResponse, Problem> {
    let token = match form {
        Ok(Form(form)) => bearer.verified_beside(&form)?,
        // Any other body says nothing.
        Err(_) => bearer.verified()?,
    };
    answer(&server, &token).await
}

/// The account as it is now: the claims that the scope of the token allows (section 5.4), and those that the client is registered for.
async fn answer(server: &Server, token: &AccessToken) -> Result<HttpResponse, Problem> {
    let scope: Scope = token.scope.as_deref().unwrap_or_default().parse().unwrap_or_default();
    let refused = || {
        Problem::new(
            Code::InsufficientScope,
            "the access token does not have the scope openid, which a login of a person asks for",
        )
    };
    if !scope.contains(OPENID) || token.session.is_none() {
        return Err(refused());
    }
    let user = token.sub.parse().map_err(|_| refused())?;
    let client = client_of(server, token).await?;
    let stored = server
        .db
        .user(user)
        .await
        .map_err(|error| Problem::unavailable(&error, "an account could not be looked up"))?
        .ok_or_else(|| Problem::new(Code::TokenInvalid, "the account is gone"))?;
    let user = stored.user;
    let mut told = person_claims(&user, claims_of_scope(&scope.within(&client.client.scope)));
    if let Some(claim) = &client.client.roles_claim {
        let roles = user.roles.iter().map(Role::as_str);
        told.insert(claim.name().to_owned(), claim.value(roles));
    }
    told.insert("sub".to_owned(), user.id.to_string().into());
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(told))
}

/// A client that was disabled or deleted learns nothing more.
async fn client_of(server: &Server, token: &AccessToken) -> Result<Arc<StoredClient>, Problem> {
    let stored = match token.client_id.parse() {
        Ok(id) => server.registry.find(&id).await,
        Err(_) => Ok(None),
    };
    stored
        .map_err(|error| Problem::unavailable(&error, "the client of a token could not be looked up"))?
        .filter(|stored| stored.client.disabled_at.is_none() && is_client(&stored.client, token))
        .ok_or_else(|| Problem::new(Code::TokenInvalid, "the client of the access token is gone or disabled"))
}
