//! `POST /oauth2/token`: the token endpoint (RFC 6749 section 3.2).

use std::net::IpAddr;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use tracing::field;

use crate::clock::sleep;
use crate::jose::jwt::random_jti;
use crate::keyring::CannotSign;
use crate::oauth::client::{Client, ClientId};
use crate::oauth::credentials::Credentials;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::token::{Granted, Parameters, TokenRequest, grant};
use crate::store::StoreError;

use super::client_address::client_address;
use super::{Server, client_assertion, error};

/// The purpose that client secrets are digested for.
pub const CLIENT_SECRET_PURPOSE: &str = "client-secret";

/// The longest form that is read, in bytes.
const LONGEST_FORM: usize = 16 * 1024;

/// How long a form may take to arrive; the listener limits only the headers.
const FORM_DEADLINE: Duration = Duration::from_secs(5);

/// The answer of RFC 6749 section 5.1.
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// Why there is no token.
enum Refusal {
    Oauth(OauthError),
    WithStatus(OauthError, StatusCode),
}

impl From<OauthError> for Refusal {
    fn from(error: OauthError) -> Self {
        Self::Oauth(error)
    }
}

/// Who asks, as far as it is known: what the log says of a request.
struct Caller {
    address: IpAddr,
    client: Option<ClientId>,
}

/// A token for a client that proves itself.
pub async fn answer(server: web::Data<Server>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let mut caller = Caller {
        address: client_address(&request, &server.trusted_proxies),
        client: None,
    };
    match issue(&server, &request, payload, &mut caller).await {
        Ok(token) => HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .insert_header((header::PRAGMA, "no-cache"))
            .json(token),
        Err(Refusal::Oauth(refusal)) => {
            refused(&server, &refusal, &caller);
            error::oauth(&refusal)
        }
        Err(Refusal::WithStatus(refusal, status)) => {
            refused(&server, &refusal, &caller);
            error::oauth_with_status(&refusal, status)
        }
    }
}

/// Everything that is logged is ours, or has passed the grammar of its type: a request cannot forge a line.
fn refused(server: &Server, refusal: &OauthError, caller: &Caller) {
    server.metrics.refused(refusal.code.name());
    tracing::info!(
        client.id = caller.client.as_ref().map(field::display), client.ip = %caller.address,
        reason = refusal.code.name(), detail = refusal.description, "a token was refused"
    );
}

/// Any method but POST.
#[must_use]
pub fn method_not_allowed() -> HttpResponse {
    let refusal = OauthError::invalid_request("the token endpoint takes POST only");
    error::oauth_with_status(&refusal, StatusCode::METHOD_NOT_ALLOWED)
}

async fn issue(
    server: &Server,
    request: &HttpRequest,
    payload: web::Payload,
    caller: &mut Caller,
) -> Result<TokenResponse, Refusal> {
    let parameters = form(request, payload).await?;
    let client = authenticate(server, request, &parameters, caller).await?;
    let granted = grant(&client, &TokenRequest::parse(&parameters)?, &server.defaults)?;
    if !server.keyring.policy().algorithms().contains(&granted.alg) {
        let description = "the client is registered for an algorithm that this server does not sign with";
        return Err(OauthError::new(ErrorCode::UnauthorizedClient, description).into());
    }
    let token = sign(server, &granted)?;
    tracing::info!(
        client.id = %client.id, client.ip = %caller.address, key.alg = %granted.alg,
        token.expires_in = token.expires_in, "a token was granted"
    );
    Ok(token)
}

async fn form(request: &HttpRequest, payload: web::Payload) -> Result<Parameters, Refusal> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let essence = content_type.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Refusal::WithStatus(
            OauthError::invalid_request("the body is to be application/x-www-form-urlencoded"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ));
    }
    let body = tokio::select! {
        body = payload.to_bytes_limited(LONGEST_FORM) => body,
        () = sleep(FORM_DEADLINE) => return Err(Refusal::WithStatus(
            OauthError::invalid_request("the form took longer than 5 seconds to arrive"),
            StatusCode::REQUEST_TIMEOUT,
        )),
    };
    let body = body.map_err(|_| {
        Refusal::WithStatus(
            OauthError::invalid_request("the form is longer than 16 KiB"),
            StatusCode::PAYLOAD_TOO_LARGE,
        )
    })?;
    let body = body.map_err(|_| OauthError::invalid_request("the body ended early"))?;
    let text = std::str::from_utf8(&body).map_err(|_| OauthError::invalid_request("the form is not UTF-8"))?;
    Ok(Parameters::parse(text)?)
}

async fn authenticate(
    server: &Server,
    request: &HttpRequest,
    parameters: &Parameters,
    caller: &mut Caller,
) -> Result<Client, Refusal> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION);
    let authorization = headers.next().map(|value| value.to_str().unwrap_or(""));
    if headers.next().is_some() {
        return Err(OauthError::invalid_request("there is more than one Authorization header").into());
    }
    if let Some(client) = client_assertion::authenticate(server, authorization.is_some(), parameters).await? {
        caller.client = Some(client.id.clone());
        return Ok(client);
    }
    let credentials = Credentials::find(authorization, parameters)?;
    let stored = match credentials.client_id.parse() {
        Ok(id) => server.db.client(&id).await.map_err(|error| unavailable(&error))?,
        Err(_) => None,
    };
    // Only a name that we gave: people put secrets into the wrong field.
    caller.client = stored.as_ref().map(|stored| stored.client.id.clone());
    // An unknown client costs the same digest as a known one.
    let digests: Vec<&str> = stored
        .as_ref()
        .map_or_else(|| vec![""], |stored| stored.secrets.iter().collect());
    let proved = digests
        .iter()
        .filter(|digest| {
            server
                .hash_key
                .matches(CLIENT_SECRET_PURPOSE, &credentials.secret, digest)
        })
        .count()
        > 0;
    stored
        .map(|stored| stored.client)
        .filter(|client| proved && client.disabled_at.is_none())
        .ok_or_else(|| {
            Refusal::Oauth(OauthError {
                code: ErrorCode::InvalidClient,
                description: "the client is unknown or disabled, or its secret is wrong".to_owned(),
                challenge: credentials.by_header,
            })
        })
}

fn sign(server: &Server, granted: &Granted) -> Result<TokenResponse, Refusal> {
    let reading = server.clock.read();
    let signing = server
        .keyring
        .signing(granted.alg, reading)
        .map_err(|error| cannot_sign(&error))?;
    // A policy that was lengthened a moment ago reaches the key with the next refresh.
    let ttl = granted.ttl.min(signing.max_token_ttl);
    let claims = random_jti()
        .map_err(|_| CannotSign::Signature)
        .and_then(|jti| {
            granted
                .claims(&server.issuer, jti, signing.now, ttl)
                .map_err(|_| CannotSign::Signature)
        })
        .map_err(|error| cannot_sign(&error))?;
    let access_token = signing.sign(&claims).map_err(|error| cannot_sign(&error))?;
    let took = server.clock.read().monotonic.saturating_sub(reading.monotonic);
    server.metrics.signed(granted.alg, took);
    Ok(TokenResponse {
        access_token,
        token_type: "Bearer",
        expires_in: ttl.0,
        scope: claims.scope,
    })
}

fn cannot_sign(error: &CannotSign) -> Refusal {
    tracing::error!(%error, "a token was not signed");
    OauthError::new(
        ErrorCode::TemporarilyUnavailable,
        "no key can sign at this moment; try again in a few seconds",
    )
    .into()
}

fn unavailable(error: &StoreError) -> Refusal {
    tracing::error!(%error, "a client could not be looked up");
    OauthError::new(
        ErrorCode::TemporarilyUnavailable,
        "the database does not answer; try again in a few seconds",
    )
    .into()
}
