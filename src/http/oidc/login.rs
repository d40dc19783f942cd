//! `POST /oauth2/authorize/login`: the form of the login page.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::email::Email;
use crate::accounts::password::Password;
use crate::accounts::session::EndedBy;
use crate::http::account::delivery::{end_replaced, replaced, session_cookies};
use crate::http::codes::Code;
use crate::http::extract::body::Form;
use crate::http::extract::browser::Browser;
use crate::http::extract::context::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::logins::LoginError;
use crate::oauth::token::Parameters;
use crate::sessions::SessionTokens;
use crate::store::outage;
use crate::values::SessionId;

use super::authorize::log_in;
use super::request::{PendingAuthorization, Visit};

/// Logs the person in, and goes on with the request.
pub async fn answer(
    server: web::Data<Server>,
    browser: Browser,
    sender: Sender,
    request: HttpRequest,
    Form(form): Form,
) -> HttpResponse {
    let (visit, asked) = match resumed(server, browser, &request, &form, None).await {
        Ok(resumed) => resumed,
        Err(page) => return page,
    };
    let answered = try_to_log_in(&visit, &asked, &sender, &form).await;
    answered.unwrap_or_else(|problem| visit.problem(&problem))
}

/// A person who asks for the address that a form was sent to.
pub async fn nothing_here(server: web::Data<Server>, browser: Browser, request: HttpRequest) -> HttpResponse {
    let visit = Visit::new(server, browser, &request, None);
    let detail = "this address takes what a page sends, and shows nothing; begin again at the application";
    visit.problem(&Problem::new(Code::MethodNotAllowed, detail))
}

/// The request that a form of ours goes on with.
///
/// # Errors
/// The page for a form that is not ours, or whose request has no destination.
pub(super) async fn resumed(
    server: web::Data<Server>,
    browser: Browser,
    request: &HttpRequest,
    form: &Parameters,
    of: Option<SessionId>,
) -> Result<(Visit, PendingAuthorization), HttpResponse> {
    let field = |name| form.one(name).ok().flatten().unwrap_or_default();
    let parameters = Parameters::parse(field("continue"));
    let visit = Visit::new(server, browser, request, parameters.as_ref().ok());
    visit
        .browser
        .refuse_forged_form(field("form_token"), of)
        .map_err(|problem| visit.problem(&problem))?;
    let parameters =
        parameters.map_err(|error| visit.problem(&Problem::new(Code::InvalidRequest, error.description)))?;
    let asked = visit.asked(parameters).await?;
    Ok((visit, asked))
}

async fn try_to_log_in(
    visit: &Visit,
    asked: &PendingAuthorization,
    sender: &Sender,
    form: &Parameters,
) -> Result<HttpResponse, Problem> {
    let field = |name| form.one(name).ok().flatten().unwrap_or_default();
    let email = field("email");
    let wrong = || log_in(visit, asked, email, Some(&visit.texts.login_wrong));
    let (Ok(address), Ok(password)) = (
        Email::presented(email),
        Password::try_from(field("password").to_owned()),
    ) else {
        return wrong();
    };
    let server = &visit.server;
    match server
        .logins
        .log_in(&address, password, sender.address, &sender.device())
        .await
    {
        Ok(tokens) => logged_in(visit, asked, &tokens).await,
        Err(LoginError::Limited { .. }) => log_in(visit, asked, email, Some(&visit.texts.login_limited)),
        Err(LoginError::Wrong) => wrong(),
        Err(_) => log_in(visit, asked, email, Some(&visit.texts.login_unavailable)),
    }
}

/// The browser has the new login session, and neither the one before it nor its tokens (session fixation; RFC 9700 section 4.11).
///
/// # Errors
/// When a cookie cannot be written.
pub(super) async fn logged_in(
    visit: &Visit,
    asked: &PendingAuthorization,
    tokens: &SessionTokens,
) -> Result<HttpResponse, Problem> {
    let server = &visit.server;
    end_replaced(server, replaced(&visit.browser)?).await;
    if let Some(earlier) = visit.login_session().await?.filter(|earlier| earlier.id != tokens.sid) {
        let ended = server.sessions.end_own(earlier.id, earlier.user, EndedBy::Logout).await;
        if let Err(error) = ended {
            outage::report("a session that a login has replaced could not be ended", &error);
        }
    }
    // The person has just done what these ask for.
    let query = asked.parameters.query_without(&["prompt", "max_age"]);
    let rest: Vec<&str> = asked
        .parameters
        .one("prompt")
        .ok()
        .flatten()
        .unwrap_or_default()
        .split(' ')
        .filter(|word| *word == "consent")
        .collect();
    let query = if rest.is_empty() {
        query
    } else {
        format!("{query}&prompt=consent")
    };
    let mut answer = visit.proceed(&visit.authorization_url(&query));
    for cookie in session_cookies(server, tokens)? {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(answer)
}
