//! The body of a request at the endpoints for clients, which is a form.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, HttpRequest};

use crate::http::problem::NOT_COMPRESSED;
use crate::http::refusal::Refusal;
use crate::oauth::error::OauthError;
use crate::oauth::token::Parameters;

use super::body::{self, Unreadable};

/// The longest form that is read, in bytes.
pub const LONGEST_FORM: usize = 16 * 1024;

/// The parameters of the body (RFC 6749 section 3.2): a form of at most [`LONGEST_FORM`] bytes, within [`body::DEADLINE`]. A body that is
/// no form, is compressed, is too long or takes too long is refused.
pub struct Form(pub Parameters);

impl FromRequest for Form {
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Refusal>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move { read(&request, payload).await.map(Self) })
    }
}

async fn read(request: &HttpRequest, payload: Payload) -> Result<Parameters, Refusal> {
    const FORM: &str = "application/x-www-form-urlencoded";
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    if !body::essence(content_type).eq_ignore_ascii_case(FORM.as_bytes()) {
        let fault = body::type_that_came(content_type);
        return Err(Refusal::with_status(
            OauthError::invalid_request(&format!("{fault}; the body is to be a form, with Content-Type: {FORM}")),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ));
    }
    let compressed =
        |fault: &str| Refusal::compressed(OauthError::invalid_request(&format!("{fault}; {NOT_COMPRESSED}")));
    if let Some(fault) = body::announced_coding(request) {
        return Err(compressed(&fault));
    }
    let body = body::read(request, payload, LONGEST_FORM)
        .await
        .map_err(|unreadable| match unreadable {
            Unreadable::Late => Refusal::with_status(
                OauthError::invalid_request("the form took longer than 5 seconds to arrive"),
                StatusCode::REQUEST_TIMEOUT,
            ),
            Unreadable::TooLong => Refusal::with_status(
                OauthError::invalid_request("the form is longer than 16 KiB"),
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            Unreadable::Cut => OauthError::invalid_request("the body ended early").into(),
        })?;
    if let Some(fault) = body::looks_compressed(&body) {
        return Err(compressed(fault));
    }
    let text = std::str::from_utf8(&body).map_err(|_| OauthError::invalid_request("the form is not UTF-8"))?;
    Ok(Parameters::parse(text)?)
}
