//! `GET /auth/me`: the account behind the token.

use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::http::codes::Code;
use crate::http::extract::bearer::Authenticated;
use crate::http::problem::Problem;
use crate::http::state::Server;

/// The account as it is now, not as it was when the token was signed.
pub async fn answer(server: web::Data<Server>, caller: Authenticated) -> Result<HttpResponse, Problem> {
    let stored = server
        .db
        .user(caller.user)
        .await
        .map_err(|error| Problem::unavailable(&error, "an account could not be looked up"))?
        .ok_or_else(|| Problem::new(Code::TokenInvalid, "the account is gone"))?;
    let user = stored.user;
    Ok(HttpResponse::Ok().json(json!({
        "sub": user.id,
        "email": user.email,
        "email_verified": user.email_verified_at.is_some(),
        "name": user.name,
        "tenant": user.tenant,
        "roles": user.roles,
        "created_at": user.created_at,
    })))
}
