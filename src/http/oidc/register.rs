//! `GET` and `POST /oauth2/authorize/register`: the page where a person makes an account on the way to a client.

use actix_web::{HttpRequest, HttpResponse, web};

use crate::accounts::email::Email;
use crate::accounts::password::Password;
use crate::accounts::session::LoginMethod;
use crate::accounts::user::Name;
use crate::http::codes::Code;
use crate::http::extract::body::Form;
use crate::http::extract::browser::Browser;
use crate::http::extract::context::Sender;
use crate::http::pages::{self, RegisterPage};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::logins::{LoginError, Registered};
use crate::oauth::token::Parameters;
use crate::sessions::CannotBegin;

use super::authorize::log_in;
use super::login::{logged_in, resumed};
use super::request::{PendingAuthorization, Visit, with_cookie};

/// The page, on the way of an authorization request.
pub async fn show(server: web::Data<Server>, browser: Browser, request: HttpRequest) -> HttpResponse {
    let parameters = Parameters::parse(request.query_string());
    let visit = Visit::new(server, browser, &request, parameters.as_ref().ok());
    let parameters = match parameters {
        Ok(parameters) => parameters,
        Err(error) => return visit.problem(&Problem::new(Code::InvalidRequest, error.description)),
    };
    let asked = match visit.asked(parameters).await {
        Ok(asked) => asked,
        Err(page) => return page,
    };
    let shown = page(&visit, &asked, ["", ""], None);
    shown.unwrap_or_else(|problem| visit.problem(&problem))
}

/// Makes the account that the form describes, and goes on with the request.
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
    let answered = register(&visit, &asked, &sender, &form).await;
    answered.unwrap_or_else(|problem| visit.problem(&problem))
}

async fn register(
    visit: &Visit,
    asked: &PendingAuthorization,
    sender: &Sender,
    form: &Parameters,
) -> Result<HttpResponse, Problem> {
    let field = |name| form.one(name).ok().flatten().unwrap_or_default();
    let (email, name, texts) = (field("email"), field("name"), visit.texts);
    let again = |error: &str| page(visit, asked, [email, name], Some(error));
    let Ok(account) = name.parse::<Name>() else {
        return again(&texts.register_name);
    };
    let Ok(address) = email.parse::<Email>() else {
        return again(&texts.register_email);
    };
    let Ok(password) = Password::try_from(field("password").to_owned()) else {
        return again(&texts.register_password);
    };
    let server = &visit.server;
    match server.logins.register(address, password, account, sender.address).await {
        // Whether the address was taken is not told.
        Ok(Registered::Untold) => log_in(visit, asked, email, Some(&texts.register_next)),
        Ok(Registered::Account(user)) => {
            let begun = server
                .sessions
                .begin(&user, LoginMethod::Password, &sender.device())
                .await;
            match begun {
                Ok(tokens) => logged_in(visit, asked, &tokens).await,
                Err(CannotBegin::AccountChanged) => log_in(visit, asked, email, None),
                Err(error) => Err(Problem::unavailable(&error, "a session could not be begun")),
            }
        }
        Err(LoginError::Password(_)) => again(&texts.register_password),
        Err(LoginError::EmailTaken) => again(&texts.register_taken),
        Err(LoginError::Limited { .. }) => again(&texts.login_limited),
        Err(error @ LoginError::RegistrationClosed) => Err(error.into()),
        Err(_) => again(&texts.login_unavailable),
    }
}

/// The form, with the address and the name that were written already.
fn page(
    visit: &Visit,
    asked: &PendingAuthorization,
    [email, name]: [&str; 2],
    error: Option<&str>,
) -> Result<HttpResponse, Problem> {
    if !visit.may_register() {
        return Err(LoginError::RegistrationClosed.into());
    }
    let (form_token, cookie) = visit.form_token(None)?;
    let page = pages::shown(&RegisterPage {
        texts: visit.texts,
        base: visit.base(),
        client: asked.client.client.shown_as(),
        error,
        resume: &asked.parameters.query_without(&[]),
        form_token: &form_token,
        email,
        name,
    });
    Ok(with_cookie(page, cookie))
}
