//! `POST /auth/password`: another password, for who knows the present one.

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use crate::accounts::password::Password;
use crate::http::codes::Code;
use crate::http::extract::bearer::Authenticated;
use crate::http::extract::body::{Body, JsonBody};
use crate::http::extract::context::Sender;
use crate::http::extract::members::{JsonForm, Member};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::logins::LoginError;

/// The old password and the new one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    current_password: String,
    new_password: String,
}

impl Body for PasswordChange {
    const FORM: JsonForm = JsonForm {
        right: r#"{"current_password": "...", "new_password": "..."}"#,
        members: &[Member::text("current_password"), Member::text("new_password")],
    };
}

/// Every other session of the account ends with the old password.
pub async fn answer(
    server: web::Data<Server>,
    caller: Authenticated,
    sender: Sender,
    JsonBody(change): JsonBody<PasswordChange>,
) -> Result<HttpResponse, Problem> {
    let Authenticated { user, sid } = caller;
    let current = Password::try_from(change.current_password)?;
    let new = Password::try_from(change.new_password)?;
    let changed = server
        .logins
        .change_password(user, current, new, Some(sid), sender.address)
        .await;
    changed.map_err(|error| match error {
        // The access token proved who asks. A 401 would say that it did not (RFC 9110 section 15.5.2).
        LoginError::Wrong => Problem::new(Code::CurrentPasswordWrong, "the current password is wrong"),
        other => other.into(),
    })?;
    Ok(HttpResponse::NoContent().finish())
}
