//! `GET /auth/csrf`: the token that every request with a cookie sends in `X-CSRF-Token`.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use serde_json::json;

use crate::accounts::csrf::{is_bound, issue};
use crate::http::extract::browser::Browser;
use crate::http::problem::Problem;
use crate::http::state::Server;

/// The token for this browser: the one that it has, so that two tabs do not take it from each other, or a new one.
pub async fn answer(server: web::Data<Server>, browser: Browser) -> Result<HttpResponse, Problem> {
    let bound = browser.bound()?;
    let kept = browser
        .csrf_cookie()?
        .filter(|token| is_bound(&server.hash_key, bound, token));
    let mut answer = HttpResponse::Ok();
    let token = if let Some(token) = kept {
        token.to_owned()
    } else {
        let token = issue(&server.hash_key, bound)
            .map_err(|error| Problem::unavailable(&error, "there is no randomness for a CSRF token"))?;
        let cookie = server
            .cookies
            .csrf
            .set(&token, None)
            .map_err(|error| Problem::unavailable(&error, "a cookie could not be written"))?;
        answer.insert_header((header::SET_COOKIE, cookie));
        token
    };
    Ok(answer.json(json!({ "csrf_token": token })))
}
