//! How a session's tokens reach the client: the access token in the body, the refresh token in a cookie or beside it.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header::HeaderValue;
use actix_web::http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::accounts::session::Device;
use crate::http::cookies::{self, Cookies};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::sessions::SessionTokens;
use crate::values::SessionId;

/// Where the refresh token goes.
///
/// Read from a string: serde would take a variant also as an object, such as `{"body":null}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Delivery {
    /// Into a cookie that no page can read: browsers.
    #[default]
    Cookie,
    /// Into the body: apps.
    Body,
}

impl TryFrom<String> for Delivery {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "cookie" => Ok(Self::Cookie),
            "body" => Ok(Self::Body),
            _ => Err("neither cookie nor body"),
        }
    }
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
        for cookie in session_cookies(server, tokens)? {
            answer.append_header((header::SET_COOKIE, cookie));
        }
    }
    Ok(answer.json(Answer {
        access_token: &tokens.access_token,
        token_type: "Bearer",
        expires_in: tokens.expires_in.0,
        sid: tokens.sid,
        refresh_token: (delivery == Delivery::Body).then_some(&*tokens.refresh_token),
    }))
}

/// The cookies of a session: its refresh token, and what binds that to the browser.
///
/// # Errors
/// When one cannot be written.
pub fn session_cookies(server: &Server, tokens: &SessionTokens) -> Result<[HeaderValue; 2], Problem> {
    let Cookies { refresh, binding, .. } = &server.cookies;
    let length = Some(tokens.refresh_expires_in);
    let bound = cookies::binding(&server.hash_key, tokens.sid);
    let written = refresh
        .set(&tokens.refresh_token, length)
        .and_then(|refresh| Ok([refresh, binding.set(&bound, length)?]));
    written.map_err(|error| Problem::unavailable(&error, "a cookie could not be written"))
}

/// What a request comes from, as its user will see it in the list of sessions.
#[must_use]
pub fn device(server: &Server, request: &HttpRequest) -> Device {
    let user_agent = request.headers().get(header::USER_AGENT);
    let user_agent = user_agent.and_then(|value| value.to_str().ok()).unwrap_or("");
    Device::new(server.client_addresses.of(request), user_agent)
}
