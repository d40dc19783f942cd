//! `/auth/verify/POLICY`: forward authentication. A gateway asks about each request before it lets it through (nginx `auth_request`,
//! Traefik `ForwardAuth`, Envoy `ext_authz`), and sends the answer's headers on to the service.
//!
//! What the token must have is set in `forward_auth.policies`. Of the address only the policy's name is read: Envoy appends the path and
//! the query of its visitor, so everything behind the name is the visitor's. Everything comes from memory, so a logout is felt at the
//! next request on the node that ended the session, and within `keys.replica_refresh` on the others.

use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::config::ForwardAuthPolicy;
use crate::http::codes::Code;
use crate::http::extract::bearer::Bearer;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::endpoints::VERIFY_PATH;
use crate::oauth::verification::{AccessToken, is_client};

/// The name of the policy in a path as it was sent: up to the next slash, and never decoded, so that no spelling of one name is
/// another.
fn policy_name<'a>(path: &'a str, issuer_path: &str) -> Option<&'a str> {
    let rest = path
        .strip_prefix(issuer_path)?
        .strip_prefix(VERIFY_PATH)?
        .strip_prefix('/')?;
    rest.split('/').next()
}

/// Every gateway takes a 404 as a denial; one that is set up to let requests through on an error of the server (5xx) too.
fn policy<'a>(server: &'a Server, path: &str) -> Result<&'a ForwardAuthPolicy, Problem> {
    let name = policy_name(path, &server.issuer_path).unwrap_or_default();
    if name.is_empty() {
        return Err(Problem::new(
            Code::PolicyUnknown,
            "the address names no policy; set what a token must have in forward_auth.policies and ask /auth/verify/POLICY \
             (audience, scope and role in the query are not read)",
        ));
    }
    server.forward_auth.policy(name).ok_or_else(|| {
        Problem::new(
            Code::PolicyUnknown,
            "the policy that the address names is not in forward_auth.policies",
        )
    })
}

/// 200 with the identity in headers, 401 or 403.
pub async fn answer(server: web::Data<Server>, bearer: Bearer, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let policy = policy(&server, request.uri().path())?;
    let token = bearer.verified_for(&policy.audience)?;
    // That a session of the accounts lives is known already.
    if token.session.is_none() || token.client_id != server.sessions.client.id.as_str() {
        refuse_disabled_client(&server, &token).await?;
    }
    refuse_too_little(&token, policy)?;
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
        Some(stored) if stored.client.disabled_at.is_none() && is_client(&stored.client, token) => Ok(()),
        _ => Err(Problem::new(Code::TokenInvalid, "the access token is not valid")),
    }
}

fn refuse_too_little(token: &AccessToken, policy: &ForwardAuthPolicy) -> Result<(), Problem> {
    let granted = token.scope.as_deref().unwrap_or("");
    let is_granted = |scope: &String| granted.split(' ').any(|word| word == scope);
    if !policy.scopes.iter().all(is_granted) {
        return Err(Problem::new(
            Code::InsufficientScope,
            "the access token lacks a scope that this service asks for",
        ));
    }
    let roles = token.session.as_ref().map_or(&[][..], |session| &session.roles);
    if !policy.roles.is_empty() && !policy.roles.iter().any(|role| roles.contains(role)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_ends_at_the_next_slash_and_is_not_decoded() {
        for (path, name) in [
            ("/auth/verify/api", Some("api")),
            ("/auth/verify/api/", Some("api")),
            ("/auth/verify/api/../open", Some("api")),
            ("/auth/verify/api//open", Some("api")),
            ("/auth/verify/api/%2e%2e/open", Some("api")),
            ("/auth/verify/%61pi", Some("%61pi")),
            ("/auth/verify/api%2f..%2fopen", Some("api%2f..%2fopen")),
            ("/auth/verify/api;role=admin", Some("api;role=admin")),
            ("/auth/verify//api", Some("")),
            ("/auth/verify/", Some("")),
            ("/auth/verify", None),
            ("/auth//verify/api", None),
            ("/auth/%76erify/api", None),
            ("/auth/verifyapi", None),
        ] {
            assert_eq!(policy_name(path, ""), name, "{path}");
            assert_eq!(
                policy_name(&format!("/tenants/acme{path}"), "/tenants/acme"),
                name,
                "{path}"
            );
        }
    }
}
