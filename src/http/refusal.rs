//! Refusals at the endpoints for clients: the form of RFC 6749 section 5.2, counted and logged in one place.

use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use tracing::field;

use crate::clock::Seconds;
use crate::oauth::client::ClientId;
use crate::oauth::endpoints::{INTROSPECTION_PATH, TOKEN_PATH};
use crate::oauth::error::{ErrorCode, OauthError};

use super::error;
use super::state::Server;

/// Why a client does not get what it asks for.
#[derive(Debug)]
pub struct Refusal {
    error: OauthError,
    kind: Kind,
    /// The registered client that it claims to be, as far as that is known.
    client: Option<ClientId>,
}

#[derive(Debug)]
enum Kind {
    /// With the status that the code has everywhere.
    Oauth,
    /// With a status that says more.
    WithStatus(StatusCode),
    /// The body is compressed: 415 (RFC 9110 section 15.5.16).
    Compressed,
    /// Too often: to be tried again after this long, with 429.
    TooOften(Seconds),
}

impl From<OauthError> for Refusal {
    fn from(error: OauthError) -> Self {
        Self::new(error, Kind::Oauth)
    }
}

impl Refusal {
    const fn new(error: OauthError, kind: Kind) -> Self {
        Self {
            error,
            kind,
            client: None,
        }
    }

    /// With a status that says more than the code.
    #[must_use]
    pub const fn with_status(error: OauthError, status: StatusCode) -> Self {
        Self::new(error, Kind::WithStatus(status))
    }

    /// The body is compressed (RFC 9110 section 15.5.16).
    #[must_use]
    pub const fn compressed(error: OauthError) -> Self {
        Self::new(error, Kind::Compressed)
    }

    /// Too often: to be tried again after this long.
    #[must_use]
    pub const fn too_often(error: OauthError, retry_after: Seconds) -> Self {
        Self::new(error, Kind::TooOften(retry_after))
    }

    /// Something is wrong here: 503, and neither yes nor no.
    #[must_use]
    pub fn unavailable(description: &str) -> Self {
        OauthError::new(ErrorCode::TemporarilyUnavailable, description).into()
    }

    /// Of this client.
    #[must_use]
    pub fn of(self, client: &ClientId) -> Self {
        Self {
            client: Some(client.clone()),
            ..self
        }
    }

    /// Counts and logs the refusal. Everything that is logged is ours, or has passed the grammar of its type: a request cannot forge a line.
    pub fn log(&self, server: &Server, request: &HttpRequest) {
        let refusal = &self.error;
        let path = request.path().strip_prefix(&server.issuer_path).unwrap_or_default();
        let what = match path {
            TOKEN_PATH => "a token was refused",
            INTROSPECTION_PATH => "an introspection was refused",
            _ => "a revocation was refused",
        };
        server.metrics.refused(refusal.code.name());
        tracing::info!(
            client.id = self.client.as_ref().map(field::display), client.ip = %server.client_addresses.of(request),
            reason = refusal.code.name(), detail = refusal.description, "{what}"
        );
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        match self.kind {
            Kind::Oauth => error::status(self.error.code),
            Kind::WithStatus(status) => status,
            Kind::Compressed => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut answer = error::oauth_with_status(&self.error, self.status_code());
        match self.kind {
            Kind::Oauth | Kind::WithStatus(_) => {}
            Kind::Compressed => {
                let identity = HeaderValue::from_static("identity");
                answer.headers_mut().insert(header::ACCEPT_ENCODING, identity);
            }
            Kind::TooOften(retry_after) => {
                let seconds = HeaderValue::from(retry_after.0);
                answer.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
        }
        answer
    }
}
