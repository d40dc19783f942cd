//! `GET /auth/consents` and `DELETE /auth/consents/{client}`: what a person has allowed clients, and how to take it back.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::json;

use crate::clock::UnixTime;
use crate::http::codes::Code;
use crate::http::extract::bearer::Authenticated;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::endpoints::CONSENTS_PATH;

#[derive(Serialize)]
struct ListedConsent<'a> {
    client_id: &'a str,
    client_name: Option<&'a str>,
    audience: &'a str,
    scope: String,
    granted_at: UnixTime,
}

/// What the caller has allowed, the last first.
pub async fn list(server: web::Data<Server>, caller: Authenticated) -> Result<HttpResponse, Problem> {
    let consents = server.db.consents_of(caller.user).await;
    let consents = consents.map_err(|error| Problem::unavailable(&error, "consents could not be listed"))?;
    let items: Vec<ListedConsent<'_>> = consents
        .iter()
        .map(|consent| ListedConsent {
            client_id: consent.client.as_str(),
            client_name: consent.client_name.as_deref(),
            audience: &consent.audience,
            scope: consent.scope.to_string(),
            granted_at: consent.granted_at,
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({ "consents": items })))
}

/// Takes back everything that the caller has allowed this client.
pub async fn withdraw(
    server: web::Data<Server>,
    caller: Authenticated,
    client: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let unknown = || {
        let base = &server.issuer_path;
        let detail = format!("you have allowed no client of this id anything; GET {base}{CONSENTS_PATH} lists them");
        Problem::new(Code::NotFound, detail)
    };
    let client = client.parse().map_err(|_| unknown())?;
    match server.sessions.withdraw_consent(caller.user, &client).await {
        Ok(true) => Ok(HttpResponse::NoContent().finish()),
        Ok(false) => Err(unknown()),
        Err(error) => Err(Problem::unavailable(&error, "a consent could not be taken back")),
    }
}
