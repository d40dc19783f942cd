//! The bodies of requests: JSON with listed members, and the forms of RFC 6749.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::time::Duration;

use actix_web::body::{BodyStream, MessageBody};
use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, HttpRequest};
use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;

use crate::clock::sleep;
use crate::http::codes::Code;
use crate::http::framing;
use crate::http::problem::Problem;
use crate::oauth::error::OauthError;
use crate::oauth::token::Parameters;
use crate::text;

use super::members::JsonForm;

/// How long a body may take to arrive; the listener limits only the headers.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreadable {
    /// It did not arrive in time.
    Late,
    /// It is longer than it may be.
    TooLong,
    /// It ended before it was whole.
    Cut,
}

/// Reads at most so many bytes.
///
/// # Errors
/// [`Unreadable`] says why there is nothing to read.
async fn read(request: &HttpRequest, payload: Payload, longest: usize) -> Result<Bytes, Unreadable> {
    // To the library the body of a request with `Upgrade: websocket` has no end.
    let announced = match framing::BodyFraming::of(request.head()) {
        framing::BodyFraming::Sized(length) => length,
        framing::BodyFraming::Chunked(_) => u64::MAX,
    };
    tokio::select! {
        biased;
        body = collect(payload, announced, longest) => body,
        () = sleep(DEADLINE) => Err(Unreadable::Late),
    }
}

/// What came in one piece is not copied.
async fn collect(payload: Payload, announced: u64, longest: usize) -> Result<Bytes, Unreadable> {
    let mut pieces = pin!(BodyStream::new(payload));
    let mut body = Bytes::new();
    while (body.len() as u64) < announced
        && let Some(piece) = poll_fn(|context| pieces.as_mut().poll_next(context)).await
    {
        let piece = piece.map_err(|_| Unreadable::Cut)?;
        if body.len() + piece.len() > longest {
            return Err(Unreadable::TooLong);
        }
        body = if body.is_empty() {
            piece
        } else {
            let mut longer = BytesMut::from(body);
            longer.extend_from_slice(&piece);
            longer.freeze()
        };
    }
    Ok(body)
}

/// The longest body that is read, in bytes.
pub const LONGEST_BODY: usize = 4 * 1024;

/// A body of listed members.
pub trait Body: DeserializeOwned + 'static {
    /// Its members, and how it looks when it is right.
    const FORM: JsonForm;

    /// What no body at all stands for; None when there must be one.
    #[must_use]
    fn of_nothing() -> Option<Self> {
        None
    }
}

/// The body of a request, which is JSON: at most [`LONGEST_BODY`] bytes, within [`DEADLINE`]. It is read when the extractor's turn
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
        Box::pin(async move { read_json(&request, payload).await.map(Self) })
    }
}

async fn read_json<T: Body>(request: &HttpRequest, payload: Payload) -> Result<T, Problem> {
    let body = json_text(request, payload).await?;
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
    let fault = type_that_came(content_type);
    Problem::new(
        Code::UnsupportedMediaType,
        format!("{fault}; the body is to be JSON, with Content-Type: application/json"),
    )
}

async fn json_text(request: &HttpRequest, payload: Payload) -> Result<Bytes, Problem> {
    let is_json = |value: &[u8]| essence(value).eq_ignore_ascii_case(b"application/json");
    if let Some(other) = request
        .headers()
        .get_all(header::CONTENT_TYPE)
        .find(|value| !is_json(value.as_bytes()))
    {
        return Err(not_json(other.as_bytes()));
    }
    if let Some(fault) = announced_coding(request) {
        return Err(Problem::compressed(&fault));
    }
    let body = read(request, payload, LONGEST_BODY).await.map_err(|unreadable| {
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
    match looks_compressed(&body) {
        Some(fault) => Err(Problem::compressed(fault)),
        None => Ok(body),
    }
}

/// The longest form that is read, in bytes.
pub const LONGEST_FORM: usize = 16 * 1024;

/// The parameters of the body (RFC 6749 section 3.2): a form of at most [`LONGEST_FORM`] bytes, within [`DEADLINE`]. A body that is
/// no form, is compressed, is too long or takes too long is refused.
pub struct Form(pub Parameters);

impl FromRequest for Form {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move { read_form(&request, payload).await.map(Self) })
    }
}

async fn read_form(request: &HttpRequest, payload: Payload) -> Result<Parameters, Problem> {
    const FORM: &str = "application/x-www-form-urlencoded";
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    if !essence(content_type).eq_ignore_ascii_case(FORM.as_bytes()) {
        let fault = type_that_came(content_type);
        let detail = format!("{fault}; the body is to be a form, with Content-Type: {FORM}");
        return Err(Problem::new(Code::UnsupportedMediaType, detail).in_oauth());
    }
    if let Some(fault) = announced_coding(request) {
        return Err(Problem::compressed(&fault).in_oauth());
    }
    let body = read(request, payload, LONGEST_FORM).await.map_err(|unreadable| {
        let (code, detail) = match unreadable {
            Unreadable::Late => (Code::BodyTimeout, "the form took longer than 5 seconds to arrive"),
            Unreadable::TooLong => (Code::BodyTooLarge, "the form is longer than 16 KiB"),
            Unreadable::Cut => (Code::InvalidRequest, "the body ended early"),
        };
        Problem::new(code, detail).in_oauth()
    })?;
    if let Some(fault) = looks_compressed(&body) {
        return Err(Problem::compressed(fault).in_oauth());
    }
    let text = std::str::from_utf8(&body).map_err(|_| OauthError::invalid_request("the form is not UTF-8"))?;
    Ok(Parameters::parse(text)?)
}

/// What a `Content-Type` names, without its parameters.
fn essence(content_type: &[u8]) -> &[u8] {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii()
}

/// Which type came, as the beginning of a sentence. It is repeated only if it has the form of a short one (RFC 6838 section 4.2): a header may
/// hold anything.
fn type_that_came(content_type: &[u8]) -> String {
    let is_name = |name: &str| {
        (1..=40).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let essence = std::str::from_utf8(essence(content_type)).unwrap_or("?");
    match essence.split_once('/') {
        _ if essence.is_empty() => "there is no Content-Type".to_owned(),
        Some((kind, inner)) if is_name(kind) && is_name(inner) && !text::holds_secret(essence) => {
            format!("Content-Type is {}", essence.to_ascii_lowercase())
        }
        _ => "Content-Type is no media type".to_owned(),
    }
}

/// How a request says that its body is compressed, as the beginning of a sentence.
fn announced_coding(request: &HttpRequest) -> Option<String> {
    const CODINGS: [&str; 7] = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"];
    let values = request.headers().get_all(header::CONTENT_ENCODING);
    let mut codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let coding = codings.find(|coding| {
        let coding = coding.trim_ascii();
        !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
    })?;
    let known = CODINGS
        .iter()
        .find(|known| coding.trim_ascii().eq_ignore_ascii_case(known.as_bytes()));
    Some(format!("Content-Encoding is {}", known.unwrap_or(&"another one")))
}

/// How a body looks that is compressed although nothing says so.
fn looks_compressed(body: &[u8]) -> Option<&'static str> {
    if body.starts_with(b"\x1f\x8b") {
        Some("the body is compressed by gzip")
    } else if body.starts_with(b"\x28\xb5\x2f\xfd") {
        Some("the body is compressed by Zstandard")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_repeated_only_if_it_has_the_form_of_one() {
        let long = format!("application/{}", "x".repeat(41));
        for (content_type, told) in [
            ("Text/JSON; charset=utf-8", "Content-Type is text/json"),
            ("application/vnd.api+json", "Content-Type is application/vnd.api+json"),
            ("", "there is no Content-Type"),
            (";", "there is no Content-Type"),
            ("json", "Content-Type is no media type"),
            ("/", "Content-Type is no media type"),
            ("text/", "Content-Type is no media type"),
            ("application/json, text/plain", "Content-Type is no media type"),
            ("text/<script>", "Content-Type is no media type"),
            ("text/\u{fc}", "Content-Type is no media type"),
            (
                "a/sohMxTzEWaEGlBI_vs3ZwMJGpGtMweOXN0qP7ysi",
                "Content-Type is no media type",
            ),
            (&long, "Content-Type is no media type"),
        ] {
            assert_eq!(type_that_came(content_type.as_bytes()), told, "{content_type}");
        }
    }
}
