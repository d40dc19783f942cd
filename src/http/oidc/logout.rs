//! `GET` and `POST /oauth2/logout`: the logout that a client begins (OpenID Connect RP-Initiated Logout 1.0).

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::session::{EndedBy, LoginSession};
use crate::accounts::user::UserId;
use crate::http::account::delivery::cleared_cookies;
use crate::http::codes::Code;
use crate::http::extract::body::Form;
use crate::http::extract::browser::Browser;
use crate::http::pages::{self, LoggedOutPage, LogoutPage};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::endpoints::END_SESSION_PATH;
use crate::oauth::logout::{LogoutError, LogoutRequest};
use crate::oauth::token::Parameters;
use crate::values::SessionId;

use super::request::{After, Visit, with_cookie};

/// A browser that a client sends here.
pub async fn by_query(server: web::Data<Server>, browser: Browser, request: HttpRequest) -> HttpResponse {
    let parameters = Parameters::parse(request.query_string());
    let visit = Visit::new(server, browser, &request, parameters.as_ref().ok());
    match parameters {
        Ok(parameters) => log_out(&visit, &parameters).await,
        Err(error) => visit.problem(&Problem::new(Code::InvalidRequest, error.description)),
    }
}

/// The same with a form. As at the authorization endpoint, the browser comes back by `GET` with its cookies.
pub async fn by_form(
    server: web::Data<Server>,
    browser: Browser,
    request: HttpRequest,
    Form(parameters): Form,
) -> HttpResponse {
    let visit = Visit::new(server, browser, &request, Some(&parameters));
    visit.come_back(END_SESSION_PATH, &parameters)
}

/// The form of the page that asks.
pub async fn confirmed(
    server: web::Data<Server>,
    browser: Browser,
    request: HttpRequest,
    Form(form): Form,
) -> HttpResponse {
    let field = |name| form.one(name).ok().flatten().unwrap_or_default();
    let parameters = Parameters::parse(field("continue"));
    let visit = Visit::new(server, browser, &request, parameters.as_ref().ok());
    let of = visit.browser.login_session().ok().flatten();
    if let Err(problem) = visit.browser.refuse_forged_form(field("form_token"), of) {
        return visit.problem(&problem);
    }
    let parameters = match parameters {
        Ok(parameters) => parameters,
        Err(error) => return visit.problem(&Problem::new(Code::InvalidRequest, error.description)),
    };
    let logout = match read(&visit, &parameters).await {
        Ok(logout) => logout,
        Err(page) => return page,
    };
    let answered = match visit.login_session().await {
        Ok(login) => {
            let ended = login.map(|login| (login.id, login.user));
            end(&visit, ended, logout.destination.as_deref(), After::Form).await
        }
        Err(problem) => Err(problem),
    };
    answered.unwrap_or_else(|problem| visit.problem(&problem))
}

async fn log_out(visit: &Visit, parameters: &Parameters) -> HttpResponse {
    let logout = match read(visit, parameters).await {
        Ok(logout) => logout,
        Err(page) => return page,
    };
    let answered = try_to_log_out(visit, parameters, &logout).await;
    answered.unwrap_or_else(|problem| visit.problem(&problem))
}

async fn try_to_log_out(
    visit: &Visit,
    parameters: &Parameters,
    logout: &PendingLogout,
) -> Result<HttpResponse, Problem> {
    let destination = logout.destination.as_deref();
    // Only who has the ID token of this very login may end it without a question: a link on any page leads here. It ends also when it
    // has been idle for too long, because its grants may live.
    let hinted = visit.browser.login_session()?.and_then(|id| logout.hinted(id));
    if hinted.is_some() {
        return end(visit, hinted, destination, After::Request).await;
    }
    match visit.login_session().await? {
        Some(login) => ask(visit, parameters, &login),
        None => end(visit, None, destination, After::Request).await,
    }
}

/// A logout, and where it leads.
struct PendingLogout {
    request: LogoutRequest,
    destination: Option<String>,
    /// A client that may do nothing ends nothing without a question.
    has_client: bool,
}

impl PendingLogout {
    /// The login session of the browser and its user, if the hint names them.
    fn hinted(&self, login: SessionId) -> Option<(SessionId, UserId)> {
        let hint = self.request.hint.as_ref().filter(|_| self.has_client)?;
        let user = hint.sub.parse().ok()?;
        (hint.sid == login.to_string()).then_some((login, user))
    }
}

/// What a request asks for, and where it leads.
async fn read(visit: &Visit, parameters: &Parameters) -> Result<PendingLogout, HttpResponse> {
    let server = &visit.server;
    let reading = server.clock.read();
    let read_hint = |hint: &str| server.keyring.read_hint(hint, &server.issuer, reading);
    let request = LogoutRequest::parse(parameters, read_hint).map_err(|error| refuse(visit, error))?;
    let found = match &request.client {
        Some(id) => server.registry.find(id).await,
        None => Ok(None),
    };
    let client =
        found.map_err(|error| visit.problem(&Problem::unavailable(&error, "a client could not be looked up")))?;
    let destination = request
        .destination(client.as_ref().map(|stored| &stored.client))
        .map_err(|error| refuse(visit, error))?;
    let has_client = client.is_some_and(|stored| stored.client.disabled_at.is_none());
    Ok(PendingLogout {
        request,
        destination,
        has_client,
    })
}

fn refuse(visit: &Visit, error: LogoutError) -> HttpResponse {
    let name = "invalid_request";
    visit.server.metrics.refused(name);
    tracing::info!(reason = %error, "a logout was refused");
    pages::refused(
        visit.texts,
        visit.base(),
        StatusCode::BAD_REQUEST,
        name,
        &error.to_string(),
    )
}

fn ask(visit: &Visit, parameters: &Parameters, login: &LoginSession) -> Result<HttpResponse, Problem> {
    let (form_token, cookie) = visit.form_token(Some(login.id))?;
    let page = pages::shown(&LogoutPage {
        texts: visit.texts,
        base: visit.base(),
        resume: &parameters.query_without(&[]),
        form_token: &form_token,
    });
    Ok(with_cookie(page, cookie))
}

/// Ends the login session with all its grants, and forgets it in the browser.
async fn end(
    visit: &Visit,
    login: Option<(SessionId, UserId)>,
    destination: Option<&str>,
    after: After,
) -> Result<HttpResponse, Problem> {
    let server = &visit.server;
    if let Some((login, user)) = login {
        let ended = server.sessions.end_own(login, user, EndedBy::Logout).await;
        ended.map_err(|error| Problem::unavailable(&error, "a session could not be ended"))?;
        tracing::info!(session.sid = %login, user.id = %user, "a session was ended by its logout");
    }
    let mut answer = match (destination, after) {
        (Some(url), After::Request) => HttpResponse::SeeOther()
            .insert_header((header::LOCATION, url))
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .finish(),
        (Some(url), After::Form) => visit.proceed(url),
        (None, _) => pages::shown(&LoggedOutPage {
            texts: visit.texts,
            base: visit.base(),
        }),
    };
    for cookie in cleared_cookies(server)? {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(answer)
}
