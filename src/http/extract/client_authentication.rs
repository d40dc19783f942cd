//! What the endpoints for clients share: the form, the proof of who asks, and how a refusal is logged and answered.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use tracing::field;

use crate::accounts::client_address::ClientAddress;
use crate::clock::Seconds;
use crate::crypto::purpose::Purpose;
use crate::http::error;
use crate::http::problem::NOT_COMPRESSED;
use crate::http::state::Server;
use crate::oauth::assertion::Presented;
use crate::oauth::client::ClientId;
use crate::oauth::credentials::Credentials;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::token::Parameters;
use crate::store::StoreError;
use crate::store::clients::StoredClient;
use crate::store::outage;

use super::body::{self, Unreadable};
use super::client_assertion;

/// The longest form that is read, in bytes.
pub const LONGEST_FORM: usize = 16 * 1024;

/// Why a client does not get what it asks for.
pub enum Refusal {
    /// With the status that the code has everywhere.
    Oauth(OauthError),
    /// With a status that says more.
    WithStatus(OauthError, StatusCode),
    /// The body is compressed: 415 (RFC 9110 section 15.5.16).
    Compressed(OauthError),
    /// Too often: to be tried again after this long, with 429.
    TooOften(OauthError, Seconds),
}

impl From<OauthError> for Refusal {
    fn from(error: OauthError) -> Self {
        Self::Oauth(error)
    }
}

impl Refusal {
    /// Counts and logs the refusal, and answers. Everything that is logged is ours, or has passed the grammar of its type: a
    /// request cannot forge a line.
    #[must_use]
    pub fn answer(self, server: &Server, caller: &Caller, what: &'static str) -> HttpResponse {
        let (Self::Oauth(refusal)
        | Self::WithStatus(refusal, _)
        | Self::Compressed(refusal)
        | Self::TooOften(refusal, _)) = &self;
        server.metrics.refused(refusal.code.name());
        tracing::info!(
            client.id = caller.client.as_ref().map(field::display), client.ip = %caller.address,
            reason = refusal.code.name(), detail = refusal.description, "{what}"
        );
        match &self {
            Self::Oauth(refusal) => error::oauth(refusal),
            Self::WithStatus(refusal, status) => error::oauth_with_status(refusal, *status),
            Self::Compressed(refusal) => {
                let mut answer = error::oauth_with_status(refusal, StatusCode::UNSUPPORTED_MEDIA_TYPE);
                let identity = HeaderValue::from_static("identity");
                answer.headers_mut().insert(header::ACCEPT_ENCODING, identity);
                answer
            }
            Self::TooOften(refusal, retry_after) => {
                let mut answer = error::oauth_with_status(refusal, StatusCode::TOO_MANY_REQUESTS);
                answer
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(retry_after.0));
                answer
            }
        }
    }

    /// Something is wrong here: 503, and neither yes nor no.
    #[must_use]
    pub fn unavailable(description: &str) -> Self {
        OauthError::new(ErrorCode::TemporarilyUnavailable, description).into()
    }
}

/// Who asks, as far as it is known: what the log says of a request.
pub struct Caller {
    /// Where it asks from.
    pub address: ClientAddress,
    /// The registered client that it claims to be.
    pub client: Option<ClientId>,
}

impl Caller {
    /// Whoever sent this request.
    #[must_use]
    pub fn new(server: &Server, request: &HttpRequest) -> Self {
        Self {
            address: server.client_addresses.of(request),
            client: None,
        }
    }
}

/// Any method but POST.
#[must_use]
pub fn method_not_allowed() -> HttpResponse {
    let refusal = OauthError::invalid_request("this endpoint takes POST only");
    error::oauth_with_status(&refusal, StatusCode::METHOD_NOT_ALLOWED)
}

/// The parameters of a form body.
///
/// # Errors
/// When it is no form, is too long, or takes too long.
pub async fn form(request: &HttpRequest, payload: web::Payload) -> Result<Parameters, Refusal> {
    const FORM: &str = "application/x-www-form-urlencoded";
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    if !body::essence(content_type).eq_ignore_ascii_case(FORM.as_bytes()) {
        let fault = body::type_that_came(content_type);
        return Err(Refusal::WithStatus(
            OauthError::invalid_request(&format!("{fault}; the body is to be a form, with Content-Type: {FORM}")),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ));
    }
    let compressed =
        |fault: &str| Refusal::Compressed(OauthError::invalid_request(&format!("{fault}; {NOT_COMPRESSED}")));
    if let Some(fault) = body::announced_coding(request) {
        return Err(compressed(&fault));
    }
    let body =
        body::read(request, payload.into_inner(), LONGEST_FORM)
            .await
            .map_err(|unreadable| match unreadable {
                Unreadable::Late => Refusal::WithStatus(
                    OauthError::invalid_request("the form took longer than 5 seconds to arrive"),
                    StatusCode::REQUEST_TIMEOUT,
                ),
                Unreadable::TooLong => Refusal::WithStatus(
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

/// The client that proves itself.
///
/// # Errors
/// When none does, or the database does not answer.
pub async fn authenticate(
    server: &Server,
    request: &HttpRequest,
    parameters: &Parameters,
    caller: &mut Caller,
) -> Result<Arc<StoredClient>, Refusal> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION);
    let authorization = headers.next().map(|value| value.to_str().unwrap_or(""));
    if headers.next().is_some() {
        return Err(OauthError::invalid_request("there is more than one Authorization header").into());
    }
    if let Some(presented) = Presented::find(authorization.is_some(), parameters)? {
        // On the heap, so that the usual request does not carry room for it.
        let client = Box::pin(client_assertion::authenticate(server, presented)).await?;
        caller.client = Some(client.client.id.clone());
        return Ok(client);
    }
    let credentials = Credentials::find(authorization, parameters)?;
    let (mut stored, mut proved) = (None, false);
    for reading in credentials.readings() {
        let found = match reading.client_id.parse() {
            Ok(id) => look_up(server, &id, &reading.secret)
                .await
                .map_err(|error| unavailable(&error))?,
            Err(_) => (None, proves(server, None, &reading.secret)),
        };
        if found.0.is_some() {
            (stored, proved) = found;
        }
        if proved {
            break;
        }
    }
    // Only a name that we gave: people put secrets into the wrong field.
    caller.client = stored.as_ref().map(|stored| stored.client.id.clone());
    stored
        .filter(|stored| proved && stored.client.disabled_at.is_none())
        .ok_or_else(|| {
            Refusal::Oauth(OauthError {
                code: ErrorCode::InvalidClient,
                description: "the client is unknown or disabled, or its secret is wrong".to_owned(),
                challenge: credentials.by_header,
            })
        })
}

/// The client that has proved itself, as it is now.
///
/// # Errors
/// When it is gone or disabled, or the database does not answer.
pub async fn authenticate_anew(server: &Server, proved: &StoredClient) -> Result<Arc<StoredClient>, Refusal> {
    let stored = server.registry.find_anew(&proved.client.id).await;
    stored
        .map_err(|error| unavailable(&error))?
        .filter(|stored| stored.client.disabled_at.is_none())
        .ok_or_else(|| OauthError::new(ErrorCode::InvalidClient, "the client is unknown or disabled").into())
}

/// The client of this id, and whether the secret is one of its own. What is kept in memory refuses nobody: a secret may have
/// been given a moment ago.
async fn look_up(
    server: &Server,
    id: &ClientId,
    secret: &str,
) -> Result<(Option<Arc<StoredClient>>, bool), StoreError> {
    let kept = server.registry.find(id).await?;
    let proved = proves(server, kept.as_deref(), secret);
    if proved || kept.is_none() {
        return Ok((kept, proved));
    }
    let stored = server.registry.find_anew(id).await?;
    let proved = proves(server, stored.as_deref(), secret);
    Ok((stored, proved))
}

/// An unknown client costs the same digest as a known one.
fn proves(server: &Server, stored: Option<&StoredClient>, secret: &str) -> bool {
    let digests: Vec<&str> = stored.map_or_else(|| vec![""], |stored| stored.secrets.iter().collect());
    let matches = |digest: &&&str| server.hash_key.matches(Purpose::ClientSecret, secret, digest);
    digests.iter().filter(matches).count() > 0
}

/// The database failed.
#[must_use]
pub fn unavailable(error: &StoreError) -> Refusal {
    outage::report("a client could not be looked up", error);
    Refusal::unavailable("the database does not answer; try again in a few seconds")
}
