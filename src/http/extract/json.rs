//! The body of a request, which is JSON.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::http::codes::Code;
use crate::http::problem::Problem;

use super::body::{self, Unreadable};
use super::members::Form;

/// The longest body that is read, in bytes.
pub const LONGEST_BODY: usize = 4 * 1024;

/// A body of listed members.
pub trait Body: DeserializeOwned + 'static {
    /// Its members, and how it looks when it is right.
    const FORM: Form;

    /// What no body at all stands for; None when there must be one.
    #[must_use]
    fn of_nothing() -> Option<Self> {
        None
    }
}

/// The body of a request, which is JSON: at most [`LONGEST_BODY`] bytes, within [`body::DEADLINE`]. It is read when the extractor's turn
/// comes: a request that an extractor before it refuses is not read.
///
/// A `Content-Type` that a form or a `fetch` without leave could send is refused, whatever the body holds (Fetch standard, "simple" requests);
/// so are compressed bodies (RFC 9110 section 15.5.16).
pub struct JsonBody<T>(pub T);

impl<T: Body> FromRequest for JsonBody<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move { read(&request, payload).await.map(Self) })
    }
}

async fn read<T: Body>(request: &HttpRequest, payload: Payload) -> Result<T, Problem> {
    let body = body(request, payload).await?;
    if body.is_empty()
        && let Some(nothing) = T::of_nothing()
    {
        return Ok(nothing);
    }
    if !request.headers().contains_key(header::CONTENT_TYPE) {
        return Err(not_json(b""));
    }
    T::FORM
        .read(&body)
        .map_err(|fault| Problem::new(Code::InvalidRequest, fault))
}

fn not_json(content_type: &[u8]) -> Problem {
    let fault = body::type_that_came(content_type);
    Problem::new(
        Code::UnsupportedMediaType,
        format!("{fault}; the body is to be JSON, with Content-Type: application/json"),
    )
}

async fn body(request: &HttpRequest, payload: Payload) -> Result<Bytes, Problem> {
    let is_json = |value: &[u8]| body::essence(value).eq_ignore_ascii_case(b"application/json");
    if let Some(other) = request
        .headers()
        .get_all(header::CONTENT_TYPE)
        .find(|value| !is_json(value.as_bytes()))
    {
        return Err(not_json(other.as_bytes()));
    }
    if let Some(fault) = body::announced_coding(request) {
        return Err(Problem::compressed(&fault));
    }
    let body = body::read(request, payload, LONGEST_BODY).await.map_err(|unreadable| {
        let (code, detail) = match unreadable {
            Unreadable::Late => (Code::BodyTimeout, "the body took longer than 5 seconds to arrive"),
            Unreadable::TooLong => (
                Code::BodyTooLarge,
                "the body is longer than 4 KB (4096 octets), which no member that is right needs",
            ),
            Unreadable::Cut => (Code::InvalidRequest, "the body ended early"),
        };
        Problem::new(code, detail)
    })?;
    match body::looks_compressed(&body) {
        Some(fault) => Err(Problem::compressed(fault)),
        None => Ok(body),
    }
}
