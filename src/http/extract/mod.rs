//! What handlers read of a request: extractors, which stand in the signatures of the handlers, so that no handler passes the request on.
//!
//! | extractor | what it reads | what it refuses |
//! |---|---|---|
//! | [`json::JsonBody`] | the body, as JSON with listed members | `invalid_request`, `unsupported_media_type`, `body_too_large`, `body_timeout` |
//! | [`form::Form`] | the body, as a form (RFC 6749 section 3.2) | `invalid_request`, with 400, 408, 413 or 415 |
//! | [`client_authentication::ClientProof`] | what a client proves itself by (RFC 6749 section 2.3) | nothing by itself; each question has its refusals |
//! | [`sender::Sender`] | the address of the client, and its `User-Agent` | nothing |
//! | [`browser::Browser`] | the cookies, the origin of the page, and the CSRF token | nothing by itself; each question has its refusals |
//! | [`bearer::Bearer`] | the access token in `Authorization` (RFC 6750) | nothing by itself; each question has its refusals |
//! | [`bearer::Authenticated`] | the person and the session of that token | `token_missing`, `token_invalid` and the like |
//!
//! Extractors run in the order of the parameters, and the first refusal is the answer: whoever must be known before a body is read stands
//! before the body. What is asked only of some requests, such as the CSRF token of those with a cookie, is a method of an extractor that
//! refuses nothing by itself, so that a handler sees the order of its refusals.

use actix_web::{HttpRequest, web};

use crate::http::state::Server;

use super::problem::{Code, Problem};

pub mod bearer;
pub mod body;
pub mod browser;
mod client_assertion;
pub mod client_authentication;
pub mod form;
pub mod json;
pub mod members;
pub mod sender;

/// What the handlers work with. It is there in every server; only an application that is put together wrongly has none.
fn server(request: &HttpRequest) -> Result<&web::Data<Server>, Problem> {
    request
        .app_data::<web::Data<Server>>()
        .ok_or_else(|| Problem::new(Code::TemporarilyUnavailable, "the server is not set up"))
}
