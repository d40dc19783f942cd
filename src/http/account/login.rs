//! `POST /auth/login`: a session for who knows the password.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::accounts::session::EndedBy;
use crate::http::cookies::refresh_token;
use crate::http::extract::json::{beginning_cookie_request, json};
use crate::http::extract::members::{Form, Member};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::store::allowance::to_the_end;
use crate::store::outage;

use super::delivery::{self, Delivery, device};
use super::password::{email, password, refused};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    email: String,
    password: String,
    #[serde(default)]
    token_delivery: Delivery,
}

const FORM: Form = Form {
    right: r#"{"email": "...", "password": "..."}, perhaps with "token_delivery": "cookie" or "body""#,
    members: &[
        Member::text("email"),
        Member::text("password"),
        Member::token_delivery(),
    ],
};

/// Whether the account is unknown, is suspended or has another password, the answer is the same.
pub async fn answer(
    server: web::Data<Server>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body: Body = json(&request, payload, &FORM).await?;
    if body.token_delivery == Delivery::Cookie {
        beginning_cookie_request(&server, &request)?;
    }
    let replaced = replaced(&server, &request, body.token_delivery)?;
    let (email, password) = (email(&body.email)?, password(body.password)?);
    let (address, device) = (server.client_addresses.of(&request), device(&server, &request));
    let tokens = server.logins.log_in(&email, password, address, &device).await;
    let tokens = tokens.map_err(refused)?;
    end_replaced(&server, replaced).await;
    delivery::answer(&server, &tokens, body.token_delivery)
}

/// The refresh token whose cookie a login overwrites.
///
/// # Errors
/// When the cookie comes twice.
pub fn replaced(server: &Server, request: &HttpRequest, delivery: Delivery) -> Result<Option<String>, Problem> {
    match delivery {
        Delivery::Cookie => Ok(refresh_token(server, request)?.map(str::to_owned)),
        Delivery::Body => Ok(None),
    }
}

/// Ends the session whose cookie is overwritten: nobody holds it any more, and nobody could end it. The login has happened, so that it
/// is not undone when this fails.
pub async fn end_replaced(server: &Server, replaced: Option<String>) {
    let Some(token) = replaced else { return };
    let sessions = Arc::clone(&server.sessions);
    to_the_end(async move {
        let client_id = &sessions.settings.client_id;
        if let Err(error) = sessions.end_by_token(&token, client_id, EndedBy::Logout).await {
            outage::report("a session that a login has replaced could not be ended", &error);
        }
    })
    .await;
}
