//! What handlers read of a request: extractors, which stand in the signatures of the handlers, so that no handler passes the request on.
//!
//! | extractor | what it reads | what it refuses |
//! |---|---|---|
//! | [`body::JsonBody`] | the body, as JSON with listed members | `invalid_request`, `unsupported_media_type`, `body_too_large`, `body_timeout` |
//! | [`body::Form`] | the body, as a form (RFC 6749 section 3.2) | `invalid_request`, with 400, 408, 413 or 415 |
//! | [`client_authentication::ClientProof`] | what a client proves itself by (RFC 6749 section 2.3) | nothing by itself; each question has its refusals |
//! | [`context::Sender`] | the address of the client, and its `User-Agent` | nothing |
//! | [`browser::Browser`] | the cookies, the origin of the page, and the CSRF token | nothing by itself; each question has its refusals |
//! | [`bearer::Bearer`] | the access token in `Authorization` (RFC 6750) | nothing by itself; each question has its refusals |
//! | [`bearer::Authenticated`] | the person and the session of that token | `token_missing`, `token_invalid` and the like |
//!
//! Extractors run in the order of the parameters, and the first refusal is the answer. An extractor that must refuse before the body is read
//! comes before the body. What only some requests need, such as the CSRF token of those with a cookie, is a method of an extractor that
//! refuses nothing by itself: the handler shows in which order its refusals come.

pub mod bearer;
pub mod body;
pub mod browser;
mod client_assertion;
pub mod client_authentication;
pub mod context;
pub mod members;
