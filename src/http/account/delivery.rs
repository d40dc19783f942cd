//! How a session's tokens reach the client: the access token in the body, the refresh token in a cookie or beside it.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header::HeaderValue;
use actix_web::http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::accounts::session::EndedBy;
use crate::http::cookies::{self, Cookie, Cookies};
use crate::http::extract::browser::Browser;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::sessions::SessionTokens;
use crate::store::allowance::to_the_end;
use crate::store::outage;
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
struct TokenDelivery<'a> {
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
    Ok(answer.json(TokenDelivery {
        access_token: &tokens.access_token,
        token_type: "Bearer",
        expires_in: tokens.expires_in.0,
        sid: tokens.sid,
        refresh_token: (delivery == Delivery::Body).then_some(&*tokens.refresh_token),
    }))
}

/// The cookies of a session: its refresh token, what binds that to the browser, and the login session that other clients ask for.
///
/// # Errors
/// When one cannot be written.
pub fn session_cookies(server: &Server, tokens: &SessionTokens) -> Result<[HeaderValue; 3], Problem> {
    let Cookies {
        refresh,
        binding,
        login,
        ..
    } = &server.cookies;
    let length = Some(tokens.refresh_expires_in);
    let bound = cookies::binding(&server.hash_key, tokens.sid);
    let named = cookies::of_login(&server.hash_key, tokens.sid);
    let written = refresh
        .set(&tokens.refresh_token, length)
        .and_then(|refresh| Ok([refresh, binding.set(&bound, length)?, login.set(&named, length)?]));
    written.map_err(|error| Problem::unavailable(&error, "a cookie could not be written"))
}

/// The cookie of a login session that was used a moment ago.
///
/// # Errors
/// When it cannot be written.
pub fn login_cookie(server: &Server, login: SessionId) -> Result<HeaderValue, Problem> {
    let named = cookies::of_login(&server.hash_key, login);
    let written = server.cookies.login.set(&named, Some(server.sessions.settings.idle));
    written.map_err(|error| Problem::unavailable(&error, "a cookie could not be written"))
}

/// The headers that take the cookies of a session away.
///
/// # Errors
/// When one cannot be written.
pub fn cleared_cookies(server: &Server) -> Result<Vec<HeaderValue>, Problem> {
    let Cookies {
        refresh,
        binding,
        csrf,
        login,
        ..
    } = &server.cookies;
    let cleared: Result<Vec<HeaderValue>, _> = [refresh, binding, csrf, login].map(Cookie::clear).into_iter().collect();
    cleared.map_err(|error| Problem::unavailable(&error, "a cookie could not be written"))
}

/// The answer to a login, before anything of it is done: what a forged request may not have is refused first.
pub struct LoginAnswer {
    delivery: Delivery,
    replaced: Option<String>,
}

impl LoginAnswer {
    /// The answer with the refresh token in its place.
    ///
    /// # Errors
    /// When a cookie is to be set, and a page may have forged the request, or the cookie comes twice.
    pub fn prepare(browser: &Browser, delivery: Delivery) -> Result<Self, Problem> {
        if delivery == Delivery::Body {
            return Ok(Self {
                delivery,
                replaced: None,
            });
        }
        browser.refuse_forged_login()?;
        Ok(Self {
            delivery,
            replaced: replaced(browser)?,
        })
    }

    /// With these tokens. The session whose cookie they replace ends.
    ///
    /// # Errors
    /// When a cookie cannot be written.
    pub async fn with(self, server: &Server, tokens: &SessionTokens) -> Result<HttpResponse, Problem> {
        end_replaced(server, self.replaced).await;
        answer(server, tokens, self.delivery)
    }
}

/// The refresh token whose cookie a login overwrites.
///
/// # Errors
/// When the cookie comes twice.
pub fn replaced(browser: &Browser) -> Result<Option<String>, Problem> {
    Ok(browser.refresh_token()?.map(str::to_owned))
}

/// Ends the session whose cookie is overwritten: its refresh token is lost to the browser, so that no later logout could end it. If this
/// fails, the new login remains.
pub async fn end_replaced(server: &Server, replaced: Option<String>) {
    let Some(token) = replaced else { return };
    let sessions = Arc::clone(&server.sessions);
    to_the_end(async move {
        let client_id = sessions.client.id.as_str();
        if let Err(error) = sessions.end_by_token(&token, client_id, EndedBy::Logout).await {
            outage::report("a session that a login has replaced could not be ended", &error);
        }
    })
    .await;
}
