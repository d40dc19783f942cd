//! `GET` and `POST /account/consents`: the page on which a person sees what clients were allowed, and takes it back.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::session::LoginSession;
use crate::http::codes::Code;
use crate::http::extract::body::Form;
use crate::http::extract::browser::Browser;
use crate::http::pages::{self, ConsentsPage, ShownConsent};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::endpoints::CONSENTS_PAGE_PATH;
use crate::oauth::token::Parameters;

use super::request::{Visit, with_cookie};

/// What the person of this browser has allowed.
pub async fn show(server: web::Data<Server>, browser: Browser, request: HttpRequest) -> HttpResponse {
    let parameters = Parameters::parse(request.query_string()).ok();
    let visit = Visit::new(server, browser, &request, parameters.as_ref());
    let shown = match visit.login_session().await {
        Ok(Some(login)) => list(&visit, &login).await,
        Ok(None) => Ok(no_login(&visit)),
        Err(problem) => Err(problem),
    };
    shown.unwrap_or_else(|problem| visit.problem(&problem))
}

/// Takes back what the form names, and shows the rest.
pub async fn withdraw(
    server: web::Data<Server>,
    browser: Browser,
    request: HttpRequest,
    Form(form): Form,
) -> HttpResponse {
    let visit = Visit::new(server, browser, &request, None);
    let withdrawn = try_to_withdraw(&visit, &form).await;
    withdrawn.unwrap_or_else(|problem| visit.problem(&problem))
}

async fn try_to_withdraw(visit: &Visit, form: &Parameters) -> Result<HttpResponse, Problem> {
    let field = |name| form.one(name).ok().flatten().unwrap_or_default();
    // The form counts for the person whom it was shown to.
    let of = visit.browser.login_session()?;
    visit.browser.refuse_forged_form(field("form_token"), of)?;
    let Some(login) = visit.login_session().await? else {
        return Ok(no_login(visit));
    };
    // What was taken back already, in another tab, is gone all the same.
    if let Ok(client) = field("client_id").parse() {
        let withdrawn = visit.server.sessions.withdraw_consent(login.user, &client).await;
        withdrawn.map_err(|error| Problem::unavailable(&error, "a consent could not be taken back"))?;
    }
    Ok(HttpResponse::SeeOther()
        .insert_header((header::LOCATION, format!("{}{CONSENTS_PAGE_PATH}", visit.base())))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .finish())
}

fn no_login(visit: &Visit) -> HttpResponse {
    let detail = &visit.texts.consents_login;
    pages::refused(
        visit.texts,
        visit.base(),
        StatusCode::UNAUTHORIZED,
        Code::TokenMissing.name(),
        detail,
    )
}

async fn list(visit: &Visit, login: &LoginSession) -> Result<HttpResponse, Problem> {
    let db = &visit.server.db;
    let unavailable = |error| Problem::unavailable(&error, "consents could not be listed");
    let consents = db.consents_of(login.user).await.map_err(unavailable)?;
    let registered = db.registered_scopes().await.map_err(unavailable)?;
    let user = db.user(login.user).await.map_err(unavailable)?;
    let email = user.map(|user| user.user.email.to_string()).unwrap_or_default();
    let (form_token, cookie) = visit.form_token(Some(login.id))?;
    let shown: Vec<ShownConsent<'_>> = consents
        .iter()
        .map(|consent| ShownConsent {
            client_id: consent.client.as_str(),
            client: consent.client_name.as_deref().unwrap_or(consent.client.as_str()),
            scopes: pages::in_words(visit.texts, &consent.scope, &registered),
        })
        .collect();
    let page = pages::shown(&ConsentsPage {
        texts: visit.texts,
        base: visit.base(),
        email: &email,
        consents: &shown,
        form_token: &form_token,
    });
    Ok(with_cookie(page, cookie))
}
