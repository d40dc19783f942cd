//! `GET` and `POST /oauth2/userinfo`: what is known of the person behind an access token (OpenID Connect Core 1.0 section 5.3).

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde::Serialize;

use crate::http::codes::Code;
use crate::http::extract::bearer::Bearer;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::authorization::OPENID;
use crate::oauth::scope::Scope;
use crate::oauth::verification::{AccessToken, is_client};

/// The claims that the scope of the token allows (section 5.4).
#[derive(Serialize)]
struct UserInfo {
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email_verified: Option<bool>,
}

/// The account as it is now.
///
/// # Errors
/// `token_missing` or `token_invalid`, `insufficient_scope` without `openid`, or `temporarily_unavailable`.
pub async fn answer(server: web::Data<Server>, bearer: Bearer) -> Result<HttpResponse, Problem> {
    let token = bearer.verified()?;
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
    refuse_without_client(&server, &token).await?;
    let stored = server
        .db
        .user(user)
        .await
        .map_err(|error| Problem::unavailable(&error, "an account could not be looked up"))?
        .ok_or_else(|| Problem::new(Code::TokenInvalid, "the account is gone"))?;
    let user = stored.user;
    let (has_profile, has_email) = (scope.contains("profile"), scope.contains("email"));
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .json(UserInfo {
            sub: user.id.to_string(),
            name: has_profile.then(|| user.name.as_str().to_owned()),
            email: has_email.then(|| user.email.to_string()),
            email_verified: has_email.then_some(user.email_verified_at.is_some()),
        }))
}

/// A client that was disabled or deleted learns nothing more.
async fn refuse_without_client(server: &Server, token: &AccessToken) -> Result<(), Problem> {
    let stored = match token.client_id.parse() {
        Ok(id) => server.registry.find(&id).await,
        Err(_) => Ok(None),
    };
    stored
        .map_err(|error| Problem::unavailable(&error, "the client of a token could not be looked up"))?
        .filter(|stored| stored.client.disabled_at.is_none() && is_client(&stored.client, token))
        .map(drop)
        .ok_or_else(|| Problem::new(Code::TokenInvalid, "the client of the access token is gone or disabled"))
}
