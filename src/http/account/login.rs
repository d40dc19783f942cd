//! `POST /auth/login`: a session for who knows the password.

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use crate::accounts::email::Email;
use crate::accounts::password::Password;
use crate::http::extract::browser::Browser;
use crate::http::extract::json::{Body, JsonBody};
use crate::http::extract::members::{Form, Member};
use crate::http::extract::sender::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;

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
    const FORM: Form = Form {
        right: r#"{"email": "...", "password": "..."}, perhaps with "token_delivery": "cookie" or "body""#,
        members: &[
            Member::text("email"),
            Member::text("password"),
            Member::token_delivery(),
        ],
    };
}

/// Whether the account is unknown, is suspended or has another password, the answer is the same.
pub async fn answer(
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
