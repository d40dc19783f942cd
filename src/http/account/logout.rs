//! `POST /auth/logout` and `POST /auth/logout-all`: sessions end on the server, and the cookies go.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde::Deserialize;

use crate::accounts::session::EndedBy;
use crate::http::extract::bearer::{Authenticated, Bearer};
use crate::http::extract::body::{Body, JsonBody};
use crate::http::extract::browser::Browser;
use crate::http::extract::members::{JsonForm, Member};
use crate::http::problem::Problem;
use crate::http::state::Server;

use super::delivery::cleared_cookies;

/// What names the session, if no cookie and no access token does.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logout {
    refresh_token: Option<String>,
}

impl Body for Logout {
    const FORM: JsonForm = JsonForm {
        right: r#"{"refresh_token": "..."}, or none with a cookie or an access token"#,
        members: &[Member::optional_text("refresh_token")],
    };

    fn of_nothing() -> Option<Self> {
        Some(Self::default())
    }
}

/// A body that says nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl Body for Nothing {
    const FORM: JsonForm = JsonForm {
        right: "empty, or {}",
        members: &[],
    };

    fn of_nothing() -> Option<Self> {
        Some(Self {})
    }
}

/// Ends the session of the refresh token in the body, else of the one in the cookie, else of the access token. A refresh token that
/// is of no use any more has nothing to end, and that is what was asked for.
pub async fn one(
    server: web::Data<Server>,
    browser: Browser,
    bearer: Bearer,
    JsonBody(asked): JsonBody<Logout>,
) -> Result<HttpResponse, Problem> {
    if let Some(token) = &asked.refresh_token {
        end_by_token(&server, token).await?;
        return Ok(HttpResponse::NoContent().finish());
    }
    if let Some(cookie) = browser.refresh_token()? {
        browser.refuse_forged()?;
        end_by_token(&server, cookie).await?;
        return without_cookies(&server);
    }
    end(&server, bearer.person()?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Ends every session of the person whom the access token speaks for. A refresh token would not do: an old one, long used, may lie in
/// anybody's hands.
pub async fn all(
    server: web::Data<Server>,
    browser: Browser,
    bearer: Bearer,
    JsonBody(Nothing {}): JsonBody<Nothing>,
) -> Result<HttpResponse, Problem> {
    let has_cookie = browser.refresh_token()?.is_some();
    if has_cookie {
        browser.refuse_forged()?;
    }
    let caller = bearer.person()?;
    end(&server, caller).await?;
    let user = caller.user;
    server
        .sessions
        .end_all(user, None, EndedBy::Logout, &format!("user {user}"))
        .await
        .map_err(|error| Problem::unavailable(&error, "sessions could not be ended"))?;
    if has_cookie {
        without_cookies(&server)
    } else {
        Ok(HttpResponse::NoContent().finish())
    }
}

/// Ends the session of an access token.
async fn end(server: &Server, caller: Authenticated) -> Result<(), Problem> {
    let Authenticated { user, sid } = caller;
    let ended = server.sessions.end_own(sid, user, EndedBy::Logout).await;
    ended
        .map(drop)
        .map_err(|error| Problem::unavailable(&error, "a session could not be ended"))
}

/// Ends the session that a refresh token of first-party logins names.
///
/// # Errors
/// When the database does not answer.
pub async fn end_by_token(server: &Server, token: &str) -> Result<(), Problem> {
    let client_id = server.sessions.client.id.as_str();
    let ended = server.sessions.end_by_token(token, client_id, EndedBy::Logout).await;
    ended
        .map(drop)
        .map_err(|error| Problem::unavailable(&error, "a session could not be ended"))
}

fn without_cookies(server: &Server) -> Result<HttpResponse, Problem> {
    let mut answer = HttpResponse::NoContent();
    for cookie in cleared_cookies(server)? {
        answer.append_header((header::SET_COOKIE, cookie));
    }
    Ok(answer.finish())
}
