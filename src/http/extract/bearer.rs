//! Who asks by an access token, over the verification that introspection uses.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest};

use crate::accounts::user::UserId;
use crate::http::codes::Code;
use crate::http::problem::Problem;
use crate::keyring::Inactive;
use crate::oauth::token::Parameters;
use crate::oauth::verification::{AccessToken, VerificationError};
use crate::values::SessionId;

use super::context::{RequestContext, extracted_from_context};

/// The access token of a request (RFC 6750 section 2.1). It is read by its methods only: a logout with a cookie needs none.
pub struct Bearer(RequestContext);

/// A person who proved a session by an access token that is for this server's accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// The account.
    pub user: UserId,
    /// The session.
    pub sid: SessionId,
}

impl From<RequestContext> for Bearer {
    fn from(context: RequestContext) -> Self {
        Self(context)
    }
}

extracted_from_context!(Bearer);

impl FromRequest for Authenticated {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let bearer = Bearer::from_request(request, payload).into_inner();
        ready(bearer.and_then(|bearer| bearer.person()))
    }
}

impl Bearer {
    /// The person whom the token speaks for.
    ///
    /// # Errors
    /// `invalid_request` for a token in the address; as [`Bearer::verified_for`]; and `insufficient_scope` for a token of no person.
    pub fn person(&self) -> Result<Authenticated, Problem> {
        // Addresses are logged everywhere.
        let query = self.0.request.query_string().as_bytes();
        if url::form_urlencoded::parse(query).any(|(name, _)| name == "access_token") {
            return Err(Problem::new(
                Code::InvalidRequest,
                "a token does not belong in the address; send the header Authorization: Bearer",
            ));
        }
        let accounts = &self.0.server.sessions.client;
        let token = self.verified_for(accounts.default_audience())?;
        // What another client got for a person does not act as that person here.
        if token.session.is_some() && token.client_id != accounts.id.as_str() {
            return Err(Problem::new(
                Code::InsufficientScope,
                "this token was given to a client that the person logged in with; an account is reached by a login at /auth",
            ));
        }
        person(&token)
    }

    /// The token, when it is valid now and for this audience. Nothing is said of the address, which need not be the sender's: a gateway may
    /// append that of its visitor.
    ///
    /// # Errors
    /// `token_missing` without a token, `invalid_request` for several; `token_expired`, `session_ended`, or `token_invalid` for everything
    /// else; `temporarily_unavailable` when nothing can be said.
    pub fn verified_for(&self, audience: &str) -> Result<AccessToken, Problem> {
        let token = self.verified()?;
        if !token.aud.iter().any(|aud| aud == audience) {
            return Err(Problem::new(
                Code::TokenInvalid,
                "the access token is for another audience",
            ));
        }
        self.0
            .server
            .metrics
            .verified(&token.kid, self.0.server.clock.read().wall);
        Ok(token)
    }

    /// The token, when it is valid now, for any audience.
    ///
    /// # Errors
    /// As [`Bearer::verified_for`].
    pub fn verified(&self) -> Result<AccessToken, Problem> {
        self.verify(self.token()?)
    }

    /// The same where the token may also be in a form (RFC 6750 section 2.2).
    ///
    /// # Errors
    /// As [`Bearer::verified`], and `invalid_request` for a token in both places.
    pub fn verified_beside(&self, form: &Parameters) -> Result<AccessToken, Problem> {
        let in_form = form
            .one("access_token")
            .map_err(|_| Problem::new(Code::InvalidRequest, "access_token comes twice"))?;
        match in_form {
            None => self.verified(),
            Some(token) if !self.0.request.headers().contains_key(header::AUTHORIZATION) => self.verify(token),
            Some(_) => Err(Problem::new(
                Code::InvalidRequest,
                "the access token is in the header Authorization and in the form; send it once",
            )),
        }
    }

    fn verify(&self, token: &str) -> Result<AccessToken, Problem> {
        let verdict = self
            .0
            .server
            .verify(token)
            .map_err(|error| Problem::unavailable(&error, "a token could not be verified"))?;
        verdict.map_err(|inactive| refused(&inactive))
    }

    /// The token in the header `Authorization`.
    fn token(&self) -> Result<&str, Problem> {
        let mut headers = self.0.request.headers().get_all(header::AUTHORIZATION);
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

/// The answer says whether to refresh, to log in again or neither. Why a token is invalid is in the log only.
fn refused(inactive: &Inactive) -> Problem {
    tracing::debug!(reason = %inactive, "a token is not active");
    match inactive {
        Inactive::Refused(VerificationError::Expired(_)) => {
            Problem::new(Code::TokenExpired, "the access token has expired; refresh it")
        }
        Inactive::Ended => Problem::new(Code::SessionEnded, "the session has ended; log in again"),
        Inactive::Refused(_) | Inactive::Denied => Problem::new(Code::TokenInvalid, "the access token is not valid"),
    }
}
