//! Who asks: the extractor of the protected routes, over the verification that introspection uses.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};

use crate::accounts::user::UserId;
use crate::http::problem::{Code, Problem};
use crate::http::state::Server;
use crate::keyring::Inactive;
use crate::oauth::verification::{AccessToken, Refused};
use crate::values::SessionId;

/// A person who proved a session by an access token that is for this server's accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// The account.
    pub user: UserId,
    /// The session.
    pub sid: SessionId,
}

impl FromRequest for Authenticated {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let server = request.app_data::<web::Data<Server>>();
        ready(match server {
            Some(server) => authenticate(server, request),
            None => Err(Problem::new(Code::TemporarilyUnavailable, "the server is not set up")),
        })
    }
}

/// The person who asks.
///
/// # Errors
/// As [`bearer`] and [`verified`], and `insufficient_scope` for a token of no person.
pub fn authenticate(server: &Server, request: &HttpRequest) -> Result<Authenticated, Problem> {
    let token = verified(server, bearer(request)?, &server.sessions.settings.audience)?;
    person(&token)
}

/// The person whom a valid token speaks for.
fn person(token: &AccessToken) -> Result<Authenticated, Problem> {
    let no_person = || {
        Problem::new(
            Code::InsufficientScope,
            "this token speaks for a client; only a person who logged in has an account and sessions",
        )
    };
    let session = token.session.as_ref().ok_or_else(no_person)?;
    match (token.sub.parse(), session.sid.parse()) {
        (Ok(user), Ok(sid)) => Ok(Authenticated { user, sid }),
        _ => Err(no_person()),
    }
}

/// The token in the header `Authorization` (RFC 6750 section 2.1), the one place where it may stand.
///
/// # Errors
/// `token_missing` without one, `invalid_request` for one in the address or for several.
pub fn bearer(request: &HttpRequest) -> Result<&str, Problem> {
    // Addresses are logged everywhere.
    let in_address =
        url::form_urlencoded::parse(request.query_string().as_bytes()).any(|(name, _)| name == "access_token");
    if in_address {
        return Err(Problem::new(
            Code::InvalidRequest,
            "a token does not belong in the address; send the header Authorization: Bearer",
        ));
    }
    bearer_in_header(request)
}

/// The same where the address is not the sender's: a gateway may append that of its visitor.
///
/// # Errors
/// `token_missing` without a token, `invalid_request` for several.
pub fn bearer_in_header(request: &HttpRequest) -> Result<&str, Problem> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION);
    let first = headers.next();
    if headers.next().is_some() {
        return Err(Problem::new(
            Code::InvalidRequest,
            "there is more than one Authorization header",
        ));
    }
    first
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
        .map(|(_, token)| token.trim_start_matches(' '))
        .filter(|token| !token.is_empty())
        .ok_or_else(|| {
            Problem::new(
                Code::TokenMissing,
                "send the header Authorization: Bearer with an access token",
            )
        })
}

/// The token, when it is valid now and for this audience.
///
/// # Errors
/// `token_expired`, `session_ended`, or `token_invalid` for everything else; `temporarily_unavailable` when nothing can be said.
pub fn verified(server: &Server, token: &str, audience: &str) -> Result<AccessToken, Problem> {
    let reading = server.clock.read();
    let verdict = server
        .verify(token)
        .map_err(|error| Problem::unavailable(&error, "a token could not be verified"))?;
    let token = verdict.map_err(|inactive| refused(&inactive))?;
    if !token.aud.iter().any(|aud| aud == audience) {
        return Err(Problem::new(
            Code::TokenInvalid,
            "the access token is for another audience",
        ));
    }
    server.metrics.verified(&token.kid, reading.wall);
    Ok(token)
}

/// What a client can do something about is told; why exactly a token is bad is for the log alone.
fn refused(inactive: &Inactive) -> Problem {
    tracing::debug!(reason = %inactive, "a token is not active");
    match inactive {
        Inactive::Refused(Refused::Expired(_)) => {
            Problem::new(Code::TokenExpired, "the access token has expired; refresh it")
        }
        Inactive::Ended => Problem::new(Code::SessionEnded, "the session has ended; log in again"),
        Inactive::Refused(_) | Inactive::Denied => Problem::new(Code::TokenInvalid, "the access token is not valid"),
    }
}
