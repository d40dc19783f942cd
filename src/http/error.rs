//! Refusals as answers: RFC 6749 form at the OAuth endpoints, `problem+json` (RFC 9457) everywhere else; none is cached.

use std::borrow::Cow;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};

use crate::oauth::error::{ErrorCode, OauthError};

use super::problem::{Code, Problem, with_options};

/// The one table from refusals to statuses (RFC 6749 section 5.2).
pub(super) const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidClient => StatusCode::UNAUTHORIZED,
        ErrorCode::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidGrant
        | ErrorCode::UnauthorizedClient
        | ErrorCode::UnsupportedGrantType
        | ErrorCode::InvalidScope
        | ErrorCode::InvalidTarget => StatusCode::BAD_REQUEST,
    }
}

/// A refusal in RFC 6749 form whose status says more than its code.
#[must_use]
pub fn oauth_with_status(error: &OauthError, status: StatusCode) -> HttpResponse {
    let mut answer = HttpResponse::build(status);
    answer
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::PRAGMA, "no-cache"));
    if error.challenge {
        answer.insert_header((header::WWW_AUTHENTICATE, r#"Basic realm="keyround", charset="UTF-8""#));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.insert_header((header::RETRY_AFTER, "5"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        answer.insert_header((header::ALLOW, with_options("POST")));
    }
    answer.json(oauth_body(error))
}

/// The members of RFC 6749 section 5.2.
#[must_use]
pub fn oauth_body(error: &OauthError) -> Value {
    json!({ "error": error.code, "error_description": error.description })
}

/// The answer to `OPTIONS` of a program that asks for the methods of an endpoint (RFC 9110 section 9.3.7).
#[must_use]
pub fn options(allow: &str) -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ALLOW, with_options(allow)))
        .finish()
}

/// Any method but POST at the endpoints for clients.
#[must_use]
pub fn oauth_method_not_allowed() -> HttpResponse {
    let refusal = OauthError::invalid_request("this endpoint takes POST only");
    oauth_with_status(&refusal, StatusCode::METHOD_NOT_ALLOWED)
}

/// Whether a path is below those of the OAuth endpoints, whose refusals have their own form.
#[must_use]
pub fn is_oauth(path: &str) -> bool {
    path.contains("/oauth2/")
}

/// A refusal in the form of the endpoint that was asked.
#[must_use]
pub fn for_path(path: &str, code: Code, detail: String) -> HttpResponse {
    if is_oauth(path) {
        oauth_with_status(&OauthError::invalid_request(&detail), code.status())
    } else {
        problem(code, detail)
    }
}

/// A refusal as `problem+json`.
#[must_use]
pub fn problem(code: Code, detail: impl Into<Cow<'static, str>>) -> HttpResponse {
    let mut answer = Problem::new(code, detail).error_response();
    let no_store = header::HeaderValue::from_static("no-store");
    answer.headers_mut().insert(header::CACHE_CONTROL, no_store);
    answer
}

/// Nothing is here; `instead` says where the paths are listed.
#[must_use]
pub fn not_found(instead: &str) -> HttpResponse {
    problem(Code::NotFound, format!("nothing is here; {instead}"))
}

/// Something is here, for other methods.
#[must_use]
pub fn method_not_allowed(allow: &'static str) -> HttpResponse {
    let mut answer = Problem::method_not_allowed(allow).error_response();
    let no_store = header::HeaderValue::from_static("no-store");
    answer.headers_mut().insert(header::CACHE_CONTROL, no_store);
    answer
}
