//! `POST /auth/logout` and `POST /auth/logout-all`: sessions end on the server, and the cookies go.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::accounts::session::EndedBy;
use crate::http::cookies::{Cookies, refresh_token};
use crate::http::extract::bearer::{Authenticated, authenticate};
use crate::http::extract::json::{cookie_request, json_or_nothing};
use crate::http::extract::members::{Form, Member};
use crate::http::problem::Problem;
use crate::http::state::Server;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    refresh_token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

const FORM: Form = Form {
    right: r#"{"refresh_token": "..."}, or none with a cookie or an access token"#,
    members: &[Member::optional_text("refresh_token")],
};

const NO_MEMBERS: Form = Form {
    right: "empty, or {}",
    members: &[],
};

/// Ends the session of the refresh token in the body, else of the one in the cookie, else of the access token. A refresh token that
/// is of no use any more has nothing to end, and that is what was asked for.
pub async fn one(
    server: web::Data<Server>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body: Body = json_or_nothing(&request, payload, &FORM).await?;
    if let Some(token) = &body.refresh_token {
        end_by_token(&server, token).await?;
        return Ok(HttpResponse::NoContent().finish());
    }
    if let Some(cookie) = refresh_token(&server, &request)? {
        cookie_request(&server, &request)?;
        end_by_token(&server, cookie).await?;
        return without_cookies(&server);
    }
    let Authenticated { user, sid } = authenticate(&server, &request)?;
    server
        .sessions
        .end_own(sid, user, EndedBy::Logout)
        .await
        .map_err(|error| Problem::unavailable(&error, "a session could not be ended"))?;
    Ok(HttpResponse::NoContent().finish())
}

/// Ends every session of the person whom the access token speaks for. A refresh token would not do: an old one, long used, may lie in
/// anybody's hands.
pub async fn all(
    server: web::Data<Server>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let Nothing {} = json_or_nothing(&request, payload, &NO_MEMBERS).await?;
    let has_cookie = refresh_token(&server, &request)?.is_some();
    if has_cookie {
        cookie_request(&server, &request)?;
    }
    let Authenticated { user, sid } = authenticate(&server, &request)?;
    server
        .sessions
        .end_own(sid, user, EndedBy::Logout)
        .await
        .map_err(|error| Problem::unavailable(&error, "a session could not be ended"))?;
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

/// Ends the session that a refresh token of first-party logins names.
///
/// # Errors
/// When the database does not answer.
pub async fn end_by_token(server: &Server, token: &str) -> Result<(), Problem> {
    let client_id = &server.sessions.settings.client_id;
    let ended = server.sessions.end_by_token(token, client_id, EndedBy::Logout).await;
    ended
        .map(drop)
        .map_err(|error| Problem::unavailable(&error, "a session could not be ended"))
}

fn without_cookies(server: &Server) -> Result<HttpResponse, Problem> {
    let mut answer = HttpResponse::NoContent();
    let Cookies {
        refresh, binding, csrf, ..
    } = &server.cookies;
    for cookie in [refresh, binding, csrf] {
        let cleared = cookie
            .clear()
            .map_err(|error| Problem::unavailable(&error, "a cookie could not be written"))?;
        answer.append_header((header::SET_COOKIE, cleared));
    }
    Ok(answer.finish())
}
