//! What stands before every request that changes something: its form, and whether a page may have forged it.

use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, web};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use url::Url;

use crate::accounts::csrf::{self, Bound, Forged};
use crate::accounts::refresh_token::RefreshToken;
use crate::http::cookies::refresh_token;
use crate::http::problem::{Code, Problem};
use crate::http::state::Server;
use crate::values::Origin;

use super::body::{self, Unreadable};
use super::members::Form;

/// The longest body that is read, in bytes.
pub const LONGEST_BODY: usize = 4 * 1024;

/// The header with the CSRF token.
const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");
/// Whose page asks, as the browser says (Fetch Metadata); no page can write it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The body of a request, which is JSON.
///
/// # Errors
/// When it is something else, too long, too slow, or not of the form.
pub async fn json<T: DeserializeOwned>(
    request: &HttpRequest,
    payload: web::Payload,
    form: &Form,
) -> Result<T, Problem> {
    let body = body(request, payload).await?;
    if content_type(request).is_none() {
        return Err(not_json(b""));
    }
    parse(&body, form)
}

/// The body of a request that may do without one.
///
/// # Errors
/// As [`json`].
pub async fn json_or_nothing<T: DeserializeOwned + Default>(
    request: &HttpRequest,
    payload: web::Payload,
    form: &Form,
) -> Result<T, Problem> {
    let body = body(request, payload).await?;
    match content_type(request) {
        _ if body.is_empty() => Ok(T::default()),
        None => Err(not_json(b"")),
        Some(_) => parse(&body, form),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8], form: &Form) -> Result<T, Problem> {
    form.read(body)
        .map_err(|fault| Problem::new(Code::InvalidRequest, fault))
}

fn content_type(request: &HttpRequest) -> Option<&[u8]> {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .map(header::HeaderValue::as_bytes)
}

/// A type that a form or a `fetch` without leave could send is refused, whatever the body holds.
fn not_json(content_type: &[u8]) -> Problem {
    let fault = body::type_that_came(content_type);
    Problem::new(
        Code::UnsupportedMediaType,
        format!("{fault}; the body is to be JSON, with Content-Type: application/json"),
    )
}

async fn body(request: &HttpRequest, payload: web::Payload) -> Result<Bytes, Problem> {
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

/// Refuses a request that uses or sets a cookie unless a page of ours, or of a listed origin, sent it on purpose. Whoever is no
/// browser sends neither `Origin` nor `Sec-Fetch-Site`, and then the token alone decides.
///
/// # Errors
/// `cross_site` or `csrf_failed`.
pub fn cookie_request(server: &Server, request: &HttpRequest) -> Result<(), Problem> {
    check_csrf(server, request)?.map_err(|forged| Problem::new(Code::CsrfFailed, forged.to_string()))
}

/// The same of a request that begins a session and could have asked for its tokens in the body.
///
/// # Errors
/// As [`cookie_request`].
pub fn beginning_cookie_request(server: &Server, request: &HttpRequest) -> Result<(), Problem> {
    check_csrf(server, request)?.map_err(|forged| {
        let instead = match forged {
            Forged::NoHeader | Forged::NoCookie => {
                r#"; a program that is no web page sends "token_delivery": "body" in the body instead"#
            }
            Forged::Differ | Forged::NotBound => "",
        };
        Problem::new(Code::CsrfFailed, format!("{forged}{instead}"))
    })
}

fn check_csrf(server: &Server, request: &HttpRequest) -> Result<Result<(), Forged>, Problem> {
    refuse_other_sites(server, request)?;
    let header = only(request, &CSRF_HEADER)?;
    let cookie = server.cookies.csrf.read(request)?;
    Ok(csrf::check(&server.hash_key, bound(server, request)?, header, cookie))
}

/// What the CSRF token of this request must be bound to.
///
/// # Errors
/// When the refresh cookie comes twice.
pub fn bound(server: &Server, request: &HttpRequest) -> Result<Bound, Problem> {
    let cookie = refresh_token(server, request)?;
    let token = cookie.and_then(|text| RefreshToken::open(text, &server.hash_key).ok());
    Ok(token.map_or(Bound::BeforeLogin, |token| Bound::To(token.sid)))
}

fn refuse_other_sites(server: &Server, request: &HttpRequest) -> Result<(), Problem> {
    let refused = || {
        Problem::new(
            Code::CrossSite,
            "pages of this origin may not do this; list it in accounts.allowed_origins, and serve it from the same site",
        )
    };
    // Cookies would not come along from another site anyway, and a login from there is none that the user began.
    if only(request, &SEC_FETCH_SITE)?.is_some_and(|site| site == "cross-site") {
        return Err(refused());
    }
    let origin = match only(request, &header::ORIGIN)? {
        Some(origin) => Some(origin.to_owned()),
        None => only(request, &header::REFERER)?.map(|referer| {
            Url::parse(referer).map_or_else(|_| "null".to_owned(), |url| Origin::of(&url).as_str().to_owned())
        }),
    };
    match origin {
        Some(origin) if !server.accepts_origin(&origin) => Err(refused()),
        _ => Ok(()),
    }
}

/// The value of a header that comes once or not at all.
fn only<'r>(request: &'r HttpRequest, name: &HeaderName) -> Result<Option<&'r str>, Problem> {
    let mut values = request.headers().get_all(name);
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::new(
            Code::InvalidRequest,
            format!("there is more than one header {name}"),
        ));
    }
    Ok(first.map(|value| value.to_str().unwrap_or("null")))
}
