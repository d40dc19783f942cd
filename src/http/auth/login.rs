//! `POST /auth/login`: a session for who knows the password.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::http::state::Server;

use super::cookies::refresh_token;
use super::delivery::{self, Delivery, device};
use super::guard::{beginning_cookie_request, json};
use super::logout::end_by_token;
use super::password::{email, password, refused};
use super::problem::Problem;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    email: String,
    password: String,
    #[serde(default)]
    token_delivery: Delivery,
}

const FORM: &str =
    r#"the body is to be {"email": "...", "password": "..."}, perhaps with "token_delivery": "cookie" or "body""#;

/// Whether the account is unknown, is suspended or has another password, the answer is the same.
pub async fn answer(
    server: web::Data<Server>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body: Body = json(&request, payload, FORM).await?;
    if body.token_delivery == Delivery::Cookie {
        beginning_cookie_request(&server, &request)?;
    }
    let (email, password) = (email(&body.email)?, password(body.password)?);
    let (address, device) = (server.client_addresses.of(&request), device(&server, &request));
    let tokens = server.logins.log_in(&email, password, address, &device).await;
    let tokens = tokens.map_err(refused)?;
    end_replaced(&server, &request, body.token_delivery).await?;
    delivery::answer(&server, &tokens, body.token_delivery)
}

/// Ends the session whose cookie is overwritten: nobody holds it any more, and nobody could end it.
///
/// # Errors
/// When the database does not answer.
pub async fn end_replaced(server: &Server, request: &HttpRequest, delivery: Delivery) -> Result<(), Problem> {
    match refresh_token(server, request)? {
        Some(replaced) if delivery == Delivery::Cookie => end_by_token(server, replaced).await,
        _ => Ok(()),
    }
}
