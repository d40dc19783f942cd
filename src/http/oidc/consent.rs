//! `POST /oauth2/authorize/consent`: the form of the consent page.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::events::{Entry, Event};
use crate::http::extract::body::Form;
use crate::http::extract::browser::Browser;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::authorization::{AuthorizationRequest, AuthorizationStep, next_step};
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::token::Parameters;

use super::authorize::{audience, give_code, log_in, present};
use super::login::resumed;
use super::request::{After, PendingAuthorization, Visit};

/// Remembers what the person allows, and goes on with the request; or tells the client that the person does not.
pub async fn answer(
    server: web::Data<Server>,
    browser: Browser,
    request: HttpRequest,
    Form(form): Form,
) -> HttpResponse {
    // The form counts for the person whom it was shown to.
    let of = browser.login_session().ok().flatten();
    let (visit, asked) = match resumed(server, browser, &request, &form, of).await {
        Ok(resumed) => resumed,
        Err(page) => return page,
    };
    let decided = decide(&visit, &asked, &form).await;
    decided.unwrap_or_else(|problem| visit.problem(&problem))
}

async fn decide(visit: &Visit, asked: &PendingAuthorization, form: &Parameters) -> Result<HttpResponse, Problem> {
    if form.one("decision").ok().flatten() != Some("allow") {
        let refusal = OauthError::new(ErrorCode::AccessDenied, "the person did not allow it");
        let members = [
            ("error", refusal.code.name()),
            ("error_description", refusal.description.as_str()),
        ];
        return Ok(visit.answer_after_form(asked, &members));
    }
    let client = &asked.client.client;
    let request = match AuthorizationRequest::parse(&asked.parameters, client) {
        Ok(request) => request,
        Err(refusal) => return Ok(visit.refuse_to(asked, &refusal)),
    };
    let Some(login) = visit.login_session().await? else {
        return log_in(visit, asked, "", None);
    };
    let server = &visit.server;
    // Between the page and the form the login may have become too old, or another person's.
    let present = present(visit, asked, &request, &login).await?;
    let step = next_step(&request, client, Some(present), server.sessions.now());
    match step {
        AuthorizationStep::AskForConsent | AuthorizationStep::Answer => {}
        AuthorizationStep::LogIn => return log_in(visit, asked, "", None),
        AuthorizationStep::Refuse(code) => {
            return Ok(visit.refuse_to(asked, &OauthError::new(code, &step.to_string())));
        }
    }
    let entry = Entry::new(
        Event::ConsentGranted,
        &client.id,
        server.sessions.now(),
        format!("user {}", login.user),
        format!("scope {}", request.scope),
    );
    // A form that comes again writes nothing.
    if present.has_consented {
        return give_code(visit, asked, &request, &login, After::Form).await;
    }
    server
        .db
        .remember_consent(
            login.user,
            &client.id,
            audience(&request, client),
            &request.scope,
            &entry,
        )
        .await
        .map_err(|error| Problem::unavailable(&error, "a consent could not be remembered"))?;
    give_code(visit, asked, &request, &login, After::Form).await
}
