//! Refusals as answers: RFC 6749 form at the OAuth endpoints, `problem+json` (RFC 9457) everywhere else; none is cached.

use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
use serde_json::json;

use crate::oauth::error::{ErrorCode, OauthError};

/// The one table from refusals to statuses (RFC 6749 section 5.2).
const fn status(code: ErrorCode) -> StatusCode {
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

/// A refusal in RFC 6749 form.
#[must_use]
pub fn oauth(error: &OauthError) -> HttpResponse {
    oauth_with_status(error, status(error.code))
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
        answer.insert_header((header::ALLOW, "POST"));
    }
    answer.json(json!({ "error": error.code, "error_description": error.description }))
}

/// A refusal as `problem+json`.
#[must_use]
pub fn problem(status: StatusCode, detail: &str) -> HttpResponse {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_TYPE, "application/problem+json"))
        .body(body.to_string())
}

/// Nothing is here.
#[must_use]
pub fn not_found() -> HttpResponse {
    problem(
        StatusCode::NOT_FOUND,
        "nothing is here; /.well-known/oauth-authorization-server names the endpoints",
    )
}

/// Something is here, for other methods.
#[must_use]
pub fn method_not_allowed(allow: &'static str) -> HttpResponse {
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allow}"));
    answer
        .headers_mut()
        .insert(header::ALLOW, header::HeaderValue::from_static(allow));
    answer
}
