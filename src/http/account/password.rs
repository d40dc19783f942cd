//! `POST /auth/password`: another password, for who knows the present one.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::accounts::email::Email;
use crate::accounts::password::Password;
use crate::http::extract::bearer::Authenticated;
use crate::http::extract::json::json;
use crate::http::extract::members::{Form, Member};
use crate::http::problem::{Code, Problem};
use crate::http::state::Server;
use crate::logins::LoginError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    current_password: String,
    new_password: String,
}

const FORM: Form = Form {
    right: r#"{"current_password": "...", "new_password": "..."}"#,
    members: &[Member::text("current_password"), Member::text("new_password")],
};

/// Every other session of the account ends with the old password.
pub async fn answer(
    server: web::Data<Server>,
    caller: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body: Body = json(&request, payload, &FORM).await?;
    let Authenticated { user, sid } = caller;
    let (current, new) = (password(body.current_password)?, password(body.new_password)?);
    let address = server.client_addresses.of(&request);
    let changed = server
        .logins
        .change_password(user, current, new, Some(sid), address)
        .await;
    changed.map_err(|error| match error {
        // The access token proved who asks. A 401 would say that it did not (RFC 9110 section 15.5.2).
        LoginError::Wrong => Problem::new(Code::CurrentPasswordWrong, "the current password is wrong"),
        other => refused(other),
    })?;
    Ok(HttpResponse::NoContent().finish())
}

/// The address that was typed for an account that there may be.
///
/// # Errors
/// `invalid_email`.
pub fn email(text: &str) -> Result<Email, Problem> {
    Email::presented(text).map_err(|error| Problem::new(Code::InvalidEmail, error.to_string()))
}

/// The address that was typed for an account that is to be made.
///
/// # Errors
/// `invalid_email`.
pub fn new_email(text: &str) -> Result<Email, Problem> {
    let email: Result<Email, _> = text.parse();
    email.map_err(|error| Problem::new(Code::InvalidEmail, error.to_string()))
}

/// The password that was typed.
///
/// # Errors
/// `password_refused` when nobody can have it.
pub fn password(text: String) -> Result<Password, Problem> {
    Password::try_from(text).map_err(|error| Problem::new(Code::PasswordRefused, error.to_string()))
}

/// What is told of why somebody got nothing for a password.
#[must_use]
pub fn refused(error: LoginError) -> Problem {
    let detail = error.to_string();
    match error {
        LoginError::Wrong => Problem::new(Code::LoginFailed, detail),
        LoginError::Limited { retry_after } => Problem::new(Code::RateLimited, detail).after(retry_after),
        LoginError::Busy(overflow) => Problem::new(Code::TemporarilyUnavailable, detail).after(overflow.retry_after),
        LoginError::Password(_) => Problem::new(Code::PasswordRefused, detail),
        LoginError::RegistrationClosed => Problem::new(Code::RegistrationClosed, detail),
        LoginError::EmailTaken => Problem::new(Code::EmailTaken, detail),
        failed @ (LoginError::CannotSign(_)
        | LoginError::Store(_)
        | LoginError::Randomness(_)
        | LoginError::Hashing(_)
        | LoginError::NoAnswer(_)) => Problem::unavailable(&failed, "a password could not be looked at"),
    }
}
