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
//! Extractors run in the order of the parameters, and the first refusal is the answer. An extractor that must refuse before the body is read
//! comes before the body. What only some requests need, such as the CSRF token of those with a cookie, is a method of an extractor that
//! refuses nothing by itself: the handler shows in which order its refusals come.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};

use crate::http::state::Server;

use super::codes::Code;
use super::problem::Problem;

pub mod bearer;
pub mod body;
pub mod browser;
mod client_assertion;
pub mod client_authentication;
pub mod form;
pub mod json;
pub mod members;
pub mod sender;

/// A request, and the server that it was sent to.
pub struct RequestContext {
    /// The server.
    pub(super) server: web::Data<Server>,
    /// The request.
    pub(super) request: HttpRequest,
}

impl FromRequest for RequestContext {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(server(request).map(|server| Self {
            server: server.clone(),
            request: request.clone(),
        }))
    }
}

/// An extractor that keeps the request for the questions of the handler.
macro_rules! extracted_from_context {
    ($extractor:ty) => {
        impl actix_web::FromRequest for $extractor {
            type Error = crate::http::problem::Problem;
            type Future = std::future::Ready<Result<Self, crate::http::problem::Problem>>;

            fn from_request(request: &actix_web::HttpRequest, payload: &mut actix_web::dev::Payload) -> Self::Future {
                let context =
                    <super::RequestContext as actix_web::FromRequest>::from_request(request, payload).into_inner();
                std::future::ready(context.map(Self::from))
            }
        }
    };
}

use extracted_from_context;

/// The server is absent only in an application that is put together wrongly.
fn server(request: &HttpRequest) -> Result<&web::Data<Server>, Problem> {
    request
        .app_data::<web::Data<Server>>()
        .ok_or_else(|| Problem::new(Code::TemporarilyUnavailable, "the server is not set up"))
}
