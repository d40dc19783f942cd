//! `POST /auth/register`: an account.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use crate::accounts::email::Email;
use crate::accounts::password::Password;
use crate::accounts::session::LoginMethod;
use crate::accounts::user::Name;
use crate::http::codes::Code;
use crate::http::extract::browser::Browser;
use crate::http::extract::json::{Body, JsonBody};
use crate::http::extract::members::{Form, Member};
use crate::http::extract::sender::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::logins::Registered;
use crate::sessions::CannotBegin;

use super::delivery::{Delivery, LoginAnswer};

/// Who registers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    email: String,
    password: String,
    name: String,
    #[serde(default)]
    token_delivery: Delivery,
}

impl Body for Registration {
    const FORM: Form = Form {
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
pub async fn answer(
    server: web::Data<Server>,
    browser: Browser,
    sender: Sender,
    JsonBody(asked): JsonBody<Registration>,
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
