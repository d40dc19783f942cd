//! The body of a request at the endpoints for clients, which is a form.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, HttpRequest};

use crate::http::codes::Code;
use crate::http::problem::Problem;
use crate::oauth::error::OauthError;
use crate::oauth::token::Parameters;

use super::body::{self, Unreadable};

/// The longest form that is read, in bytes.
pub const LONGEST_FORM: usize = 16 * 1024;

/// The parameters of the body (RFC 6749 section 3.2): a form of at most [`LONGEST_FORM`] bytes, within [`body::DEADLINE`]. A body that is
/// no form, is compressed, is too long or takes too long is refused.
pub struct Form(pub Parameters);

impl FromRequest for Form {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move { read(&request, payload).await.map(Self) })
    }
}

async fn read(request: &HttpRequest, payload: Payload) -> Result<Parameters, Problem> {
    const FORM: &str = "application/x-www-form-urlencoded";
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    if !body::essence(content_type).eq_ignore_ascii_case(FORM.as_bytes()) {
        let fault = body::type_that_came(content_type);
        let detail = format!("{fault}; the body is to be a form, with Content-Type: {FORM}");
        return Err(Problem::new(Code::UnsupportedMediaType, detail).in_oauth());
    }
    if let Some(fault) = body::announced_coding(request) {
        return Err(Problem::compressed(&fault).in_oauth());
    }
    let body = body::read(request, payload, LONGEST_FORM).await.map_err(|unreadable| {
        let (code, detail) = match unreadable {
            Unreadable::Late => (Code::BodyTimeout, "the form took longer than 5 seconds to arrive"),
            Unreadable::TooLong => (Code::BodyTooLarge, "the form is longer than 16 KiB"),
            Unreadable::Cut => (Code::InvalidRequest, "the body ended early"),
        };
        Problem::new(code, detail).in_oauth()
    })?;
    if let Some(fault) = body::looks_compressed(&body) {
        return Err(Problem::compressed(fault).in_oauth());
    }
    let text = std::str::from_utf8(&body).map_err(|_| OauthError::invalid_request("the form is not UTF-8"))?;
    Ok(Parameters::parse(text)?)
}
