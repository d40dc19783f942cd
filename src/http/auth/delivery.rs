//! How a session's tokens reach the client: the access token in the body, the refresh token in a cookie or beside it.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::accounts::session::{Device, SessionId};
use crate::http::Server;
use crate::sessions::SessionTokens;

use super::problem::Problem;

/// Where the refresh token goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// Into a cookie that no page can read: browsers.
    #[default]
    Cookie,
    /// Into the body: apps.
    Body,
}

#[derive(Serialize)]
struct Answer<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: i64,
    sid: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// The answer with a session's tokens.
///
/// # Errors
/// When the cookie cannot be written.
pub fn answer(server: &Server, tokens: &SessionTokens, delivery: Delivery) -> Result<HttpResponse, Problem> {
    let mut answer = HttpResponse::build(StatusCode::OK);
    if delivery == Delivery::Cookie {
        let cookie = server
            .cookies
            .refresh
            .set(&tokens.refresh_token, Some(tokens.refresh_expires_in))
            .map_err(|error| Problem::unavailable(&error, "a cookie could not be written"))?;
        answer.insert_header((header::SET_COOKIE, cookie));
    }
    Ok(answer.json(Answer {
        access_token: &tokens.access_token,
        token_type: "Bearer",
        expires_in: tokens.expires_in.0,
        sid: tokens.sid,
        refresh_token: (delivery == Delivery::Body).then_some(&*tokens.refresh_token),
    }))
}

/// What a request comes from, as its user will see it in the list of sessions.
#[must_use]
pub fn device(server: &Server, request: &HttpRequest) -> Device {
    let user_agent = request.headers().get(header::USER_AGENT);
    let user_agent = user_agent.and_then(|value| value.to_str().ok()).unwrap_or("");
    Device::new(server.client_addresses.of(request), user_agent)
}
