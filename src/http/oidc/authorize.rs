//! `GET` and `POST /oauth2/authorize`: the authorization endpoint (RFC 6749 section 3.1).

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::session::LoginSession;
use crate::http::account::delivery::login_cookie;
use crate::http::codes::Code;
use crate::http::extract::body::Form;
use crate::http::extract::browser::Browser;
use crate::http::pages::{self, ConsentPage, LoginPage};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::keyring::CannotSign;
use crate::oauth::authorization::{AuthorizationRequest, AuthorizationStep, Present, Prompt, next_step};
use crate::oauth::client::{Audience, Client};
use crate::oauth::endpoints::AUTHORIZATION_PATH;
use crate::oauth::error::{ErrorCode, OauthError};
use crate::oauth::resource::RegisteredScope;
use crate::oauth::token::Parameters;
use crate::sessions::CannotRedeem;
use crate::store::{StoreError, outage};

use super::request::{After, PendingAuthorization, Visit, with_cookie};

/// A browser that was led here.
pub async fn by_query(server: web::Data<Server>, browser: Browser, request: HttpRequest) -> HttpResponse {
    let parameters = Parameters::parse(request.query_string());
    let visit = Visit::new(server, browser, &request, parameters.as_ref().ok());
    match parameters {
        Ok(parameters) => authorize(&visit, parameters).await,
        Err(error) => visit.problem(&Problem::new(Code::InvalidRequest, error.description)),
    }
}

/// The same with a form. A form of another site brings no cookie along, so the browser comes back by `GET`, which does.
pub async fn by_form(
    server: web::Data<Server>,
    browser: Browser,
    request: HttpRequest,
    Form(parameters): Form,
) -> HttpResponse {
    let visit = Visit::new(server, browser, &request, Some(&parameters));
    visit.come_back(AUTHORIZATION_PATH, &parameters)
}

async fn authorize(visit: &Visit, parameters: Parameters) -> HttpResponse {
    let asked = match visit.asked(parameters).await {
        Ok(asked) => asked,
        Err(page) => return page,
    };
    let answer = match AuthorizationRequest::parse(&asked.parameters, &asked.client.client) {
        Ok(request) => answer(visit, &asked, &request).await,
        Err(refusal) => Ok(visit.refuse_to(&asked, &refusal)),
    };
    answer.unwrap_or_else(|problem| visit.problem(&problem))
}

async fn answer(
    visit: &Visit,
    asked: &PendingAuthorization,
    request: &AuthorizationRequest,
) -> Result<HttpResponse, Problem> {
    let (server, client) = (&visit.server, &asked.client.client);
    let login = visit.login_session().await?;
    let present = match &login {
        Some(login) => Some(present(visit, asked, request, login).await?),
        None => None,
    };
    let step = next_step(request, client, present, server.sessions.now());
    match step {
        AuthorizationStep::LogIn => {
            let is_other = present.is_some_and(|present| !present.is_expected);
            let error = is_other.then_some(visit.texts.login_other.as_str());
            log_in(visit, asked, request.login_hint.as_deref().unwrap_or_default(), error)
        }
        AuthorizationStep::AskForConsent => match login {
            Some(login) => ask_for_consent(visit, asked, request, &login).await,
            None => log_in(visit, asked, "", None),
        },
        AuthorizationStep::Refuse(code) => Ok(visit.refuse_to(asked, &OauthError::new(code, &step.to_string()))),
        AuthorizationStep::Answer => match login {
            Some(login) => give_code(visit, asked, request, &login, After::Request).await,
            None => log_in(visit, asked, "", None),
        },
    }
}

/// What is known of the person whose login session this is.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn present(
    visit: &Visit,
    asked: &PendingAuthorization,
    request: &AuthorizationRequest,
    login: &LoginSession,
) -> Result<Present, Problem> {
    let server = &visit.server;
    let client = &asked.client.client;
    let consent = server
        .db
        .consent(login.user, &client.id, audience(request, client))
        .await;
    let consent = consent.map_err(|error| Problem::unavailable(&error, "a consent could not be looked up"))?;
    let claims = &request.claims;
    let is_named = claims.sub.as_ref().is_none_or(|sub| *sub == login.user.to_string());
    let is_wanted = |acr: &str| {
        let wanted = claims.essential_acr.as_ref();
        wanted.is_some_and(|wanted| wanted.iter().any(|wanted| wanted == acr))
    };
    Ok(Present {
        auth_time: login.auth_time,
        is_expected: is_named
            && request.id_token_hint.as_deref().is_none_or(|hint| {
                let hinted = server.keyring.read_hint(hint, &server.issuer, server.clock.read());
                // A hint that cannot be verified any more, such as one whose key has left the key set, is ignored where a page is allowed.
                hinted.map_or(!request.asks_for(Prompt::None), |hinted| {
                    hinted.sub == login.user.to_string()
                })
            }),
        has_consented: request.scope.is_within(&consent),
        is_sure_enough: claims.essential_acr.is_none() || login.acr().is_some_and(is_wanted),
    })
}

/// The page where the person logs in.
///
/// # Errors
/// When it cannot be made.
pub(super) fn log_in(
    visit: &Visit,
    asked: &PendingAuthorization,
    email: &str,
    error: Option<&str>,
) -> Result<HttpResponse, Problem> {
    let (form_token, cookie) = visit.form_token(None)?;
    let page = pages::shown(&LoginPage {
        texts: visit.texts,
        base: visit.base(),
        client: asked.client.client.shown_as(),
        error,
        resume: &asked.parameters.query_without(&[]),
        form_token: &form_token,
        email,
        may_register: visit.may_register(),
    });
    Ok(with_cookie(page, cookie))
}

async fn ask_for_consent(
    visit: &Visit,
    asked: &PendingAuthorization,
    request: &AuthorizationRequest,
    login: &LoginSession,
) -> Result<HttpResponse, Problem> {
    let (form_token, cookie) = visit.form_token(Some(login.id))?;
    let user = visit.server.db.user(login.user).await;
    let user = user.map_err(|error| Problem::unavailable(&error, "an account could not be looked up"))?;
    let email = user.map(|user| user.user.email.to_string()).unwrap_or_default();
    let audience = audience(request, &asked.client.client);
    let (resource, scopes) = resource(visit, audience).await?;
    let page = pages::shown(&ConsentPage {
        texts: visit.texts,
        base: visit.base(),
        client: asked.client.client.shown_as(),
        scopes: pages::in_words(visit.texts, &request.scope, &scopes),
        resource: &resource,
        leads_to: &asked.destination.redirect_uri,
        email: &email,
        resume: &asked.parameters.query_without(&[]),
        form_token: &form_token,
    });
    Ok(with_cookie(page, cookie))
}

/// What people see of the resource server of this audience, and its scopes.
async fn resource(visit: &Visit, audience: &str) -> Result<(String, Vec<RegisteredScope>), Problem> {
    let db = &visit.server.db;
    let found = async {
        let resource = db.resource_server(audience).await?;
        Ok::<_, StoreError>((resource, db.scopes_of(audience).await?))
    };
    let (resource, scopes) = found
        .await
        .map_err(|error| Problem::unavailable(&error, "a resource server could not be looked up"))?;
    let shown = resource.map_or_else(
        || audience.to_owned(),
        |resource| format!("{} ({audience})", resource.name),
    );
    Ok((shown, scopes))
}

/// The resource that the access token is for.
pub(super) fn audience<'a>(request: &'a AuthorizationRequest, client: &'a Client) -> &'a str {
    request
        .audience
        .as_ref()
        .map_or_else(|| client.default_audience(), Audience::as_str)
}

/// Sends the client a code.
///
/// # Errors
/// When too many were given, or a page cannot be made.
pub(super) async fn give_code(
    visit: &Visit,
    asked: &PendingAuthorization,
    request: &AuthorizationRequest,
    login: &LoginSession,
    after: After,
) -> Result<HttpResponse, Problem> {
    let client = &asked.client.client;
    visit.server.charge_code(login.id).map_err(|retry_after| {
        let detail = format!("too many logins in this browser; try again in {retry_after}");
        Problem::new(Code::RateLimited, detail).after(retry_after)
    })?;
    let given = visit
        .server
        .sessions
        .give_code(login, client, &asked.destination.redirect_uri, request)
        .await;
    match given {
        Ok(Some(code)) => {
            tracing::info!(client.id = %client.id, user.id = %login.user, session.sid = %login.id, "a code was given");
            let members = [("code", code.as_str())];
            let mut answer = match after {
                After::Request => visit.answer(asked, &members),
                After::Form => visit.answer_after_form(asked, &members),
            };
            // The login session was used, and so its cookie lives as long as it does.
            answer
                .headers_mut()
                .append(header::SET_COOKIE, login_cookie(&visit.server, login.id)?);
            Ok(answer)
        }
        // It ended in this moment.
        Ok(None) => log_in(visit, asked, "", None),
        Err(error) => {
            match &error {
                CannotRedeem::CannotSign(error @ CannotSign::Stale { .. }) => {
                    outage::failed("a code was not given", error);
                }
                error => outage::report("a code was not given", error),
            }
            let description = "no code can be given at this moment; try again in a few seconds";
            Ok(visit.refuse_to(asked, &OauthError::new(ErrorCode::TemporarilyUnavailable, description)))
        }
    }
}
