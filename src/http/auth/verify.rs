//! `/auth/verify`: forward authentication. A gateway asks about each request before it lets it through (nginx `auth_request`,
//! Traefik `ForwardAuth`, Envoy `ext_authz`), and sends the answer's headers on to the service.
//!
//! What a service asks for stands in the address that the gateway is set up with, where no visitor can write: `audience` (that of the
//! accounts when unset), `scope` (all words of it), `role` (one of them, when it comes several times). Everything comes from memory, so
//! a logout is felt at the next request on the node that ended the session, and within `keys.replica_refresh` on the others.

use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::http::Server;
use crate::oauth::verification::AccessToken;

use super::authenticated::{bearer, verified};
use super::problem::{Code, Problem};

/// What a service asks of a token.
struct Asked {
    audience: Option<String>,
    scope: Option<String>,
    roles: Vec<String>,
}

impl Asked {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut asked = Self {
            audience: None,
            scope: None,
            roles: Vec::new(),
        };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let once = match name.as_ref() {
                "audience" => asked.audience.replace(value.into_owned()).is_none(),
                "scope" => asked.scope.replace(value.into_owned()).is_none(),
                "role" => {
                    asked.roles.push(value.into_owned());
                    true
                }
                // A gateway may append the address that was asked for.
                _ => true,
            };
            // Else a visitor's own parameter could take the place of the gateway's.
            if !once {
                return Err(Problem::new(
                    Code::InvalidRequest,
                    "audience and scope may be asked for once",
                ));
            }
        }
        Ok(asked)
    }
}

/// 200 with the identity in headers, 401 or 403.
pub async fn answer(server: web::Data<Server>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let asked = Asked::parse(request.query_string())?;
    let audience = asked.audience.as_deref().unwrap_or(&server.sessions.settings.audience);
    let token = verified(&server, bearer(&request)?, audience)?;
    // People's own client is not registered; that the session lives is known already.
    if token.session.is_none() || token.client_id != server.sessions.settings.client_id {
        refuse_disabled_client(&server, &token).await?;
    }
    refuse_too_little(&token, &asked)?;
    identity(&token)
}

/// The client that a token was given to may have been disabled since.
async fn refuse_disabled_client(server: &Server, token: &AccessToken) -> Result<(), Problem> {
    let known = match token.client_id.parse() {
        Ok(id) => server
            .registry
            .find(&id)
            .await
            .map_err(|error| Problem::unavailable(&error, "the client of a token could not be looked up"))?,
        Err(_) => None,
    };
    match known {
        Some(stored) if stored.client.disabled_at.is_none() => Ok(()),
        _ => Err(Problem::new(Code::TokenInvalid, "the access token is not valid")),
    }
}

fn refuse_too_little(token: &AccessToken, asked: &Asked) -> Result<(), Problem> {
    let granted = token.scope.as_deref().unwrap_or("");
    let has_word = |word: &str| granted.split(' ').any(|held| held == word);
    if !asked
        .scope
        .iter()
        .flat_map(|scope| scope.split_ascii_whitespace())
        .all(has_word)
    {
        return Err(Problem::new(
            Code::InsufficientScope,
            "the access token lacks a scope that this service asks for",
        ));
    }
    let held = token.session.as_ref().map_or(&[][..], |session| &session.roles);
    if !asked.roles.is_empty() && !asked.roles.iter().any(|role| held.contains(role)) {
        return Err(Problem::new(
            Code::InsufficientScope,
            "the access token lacks the role that this service asks for",
        ));
    }
    Ok(())
}

/// Every header is there, also an empty one: what is missing would leave a visitor's own header in its place.
fn identity(token: &AccessToken) -> Result<HttpResponse, Problem> {
    let session = token.session.as_ref();
    let roles = session.map(|session| session.roles.join(" ")).unwrap_or_default();
    let mut answer = HttpResponse::Ok();
    for (name, value) in [
        ("X-Auth-Subject", token.sub.as_str()),
        ("X-Auth-Client", &token.client_id),
        ("X-Auth-Session", session.map_or("", |session| &session.sid)),
        ("X-Auth-Tenant", session.map_or("", |session| &session.tid)),
        ("X-Auth-Roles", &roles),
        ("X-Auth-Scope", token.scope.as_deref().unwrap_or("")),
    ] {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Problem::new(Code::TokenInvalid, "the access token holds what no header can"))?;
        answer.insert_header((name, value));
    }
    Ok(answer.finish())
}
