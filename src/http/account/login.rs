//! `POST /auth/login` and `POST /auth/register`: a session for a user who knows the password, and an account.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use crate::accounts::email::{Email, InvalidEmail};
use crate::accounts::password::{Password, PasswordTooLong};
use crate::accounts::session::LoginMethod;
use crate::accounts::user::{InvalidName, Name};
use crate::http::codes::Code;
use crate::http::extract::body::{Body, JsonBody};
use crate::http::extract::browser::Browser;
use crate::http::extract::context::Sender;
use crate::http::extract::members::{JsonForm, Member};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::logins::{LoginError, Registered};
use crate::sessions::CannotBegin;

use super::delivery::{Delivery, LoginAnswer};

/// What a login is begun with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    email: String,
    password: String,
    #[serde(default)]
    token_delivery: Delivery,
}

impl Body for Login {
    const FORM: JsonForm = JsonForm {
        right: r#"{"email": "...", "password": "..."}, perhaps with "token_delivery": "cookie" or "body""#,
        members: &[
            Member::text("email"),
            Member::text("password"),
            Member::token_delivery(),
        ],
    };
}

/// Whether the account is unknown, is suspended or has another password, the answer is the same.
pub async fn log_in(
    server: web::Data<Server>,
    browser: Browser,
    sender: Sender,
    JsonBody(login): JsonBody<Login>,
) -> Result<HttpResponse, Problem> {
    let answer = LoginAnswer::prepare(&browser, login.token_delivery)?;
    let (email, password) = (Email::presented(&login.email)?, Password::try_from(login.password)?);
    let device = sender.device();
    let tokens = server.logins.log_in(&email, password, sender.address, &device).await?;
    answer.with(&server, &tokens).await
}

/// Who registers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrationRequest {
    email: String,
    password: String,
    name: String,
    #[serde(default)]
    token_delivery: Delivery,
}

impl Body for RegistrationRequest {
    const FORM: JsonForm = JsonForm {
        right: r#"{"email": "...", "password": "...", "name": "..."}, perhaps with "token_delivery": "cookie" or "body""#,
        members: &[
            Member::text("email"),
            Member::text("password"),
            Member::text("name"),
            Member::token_delivery(),
        ],
    };
}

/// Without `accounts.reveal_taken_email` the answer is the same for a free and for a taken address, and begins no session: the user logs in
/// next. With it, the registration begins a session.
pub async fn register(
    server: web::Data<Server>,
    browser: Browser,
    sender: Sender,
    JsonBody(asked): JsonBody<RegistrationRequest>,
) -> Result<HttpResponse, Problem> {
    let answer = LoginAnswer::prepare(&browser, asked.token_delivery)?;
    let name: Name = asked.name.parse()?;
    let email: Email = asked.email.parse()?;
    let password = Password::try_from(asked.password)?;
    match server.logins.register(email, password, name, sender.address).await? {
        Registered::Untold => Ok(HttpResponse::Accepted().json(json!({ "next": "login" }))),
        Registered::Account(user) => {
            let begun = server
                .sessions
                .begin(&user, LoginMethod::Password, &sender.device())
                .await;
            let tokens = begun.map_err(|error| match error {
                CannotBegin::AccountChanged => {
                    Problem::new(Code::LoginFailed, "the account has changed in this moment")
                }
                error => Problem::unavailable(&error, "a session could not be begun"),
            })?;
            answer.with(&server, &tokens).await
        }
    }
}

impl From<InvalidEmail> for Problem {
    fn from(error: InvalidEmail) -> Self {
        Self::new(Code::InvalidEmail, error.to_string())
    }
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        Self::new(Code::InvalidName, error.to_string())
    }
}

impl From<PasswordTooLong> for Problem {
    fn from(error: PasswordTooLong) -> Self {
        Self::new(Code::PasswordRefused, error.to_string())
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        let detail = error.to_string();
        match error {
            LoginError::Wrong => Self::new(Code::LoginFailed, detail),
            LoginError::Limited { retry_after } => Self::new(Code::RateLimited, detail).after(retry_after),
            LoginError::Busy(overflow) => Self::new(Code::TemporarilyUnavailable, detail).after(overflow.retry_after),
            LoginError::Password(_) => Self::new(Code::PasswordRefused, detail),
            LoginError::RegistrationClosed => Self::new(Code::RegistrationClosed, detail),
            LoginError::EmailTaken => Self::new(Code::EmailTaken, detail),
            failed @ (LoginError::CannotSign(_)
            | LoginError::Store(_)
            | LoginError::Randomness(_)
            | LoginError::Hashing(_)
            | LoginError::NoAnswer(_)) => Self::unavailable(&failed, "a password could not be looked at"),
        }
    }
}
