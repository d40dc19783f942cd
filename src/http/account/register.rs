//! `POST /auth/register`: an account.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use crate::accounts::user::Name;
use crate::http::extract::json::{beginning_cookie_request, json};
use crate::http::extract::members::{Form, Member};
use crate::http::problem::{Code, Problem};
use crate::http::state::Server;
use crate::logins::Registered;
use crate::sessions::CannotBegin;

use super::delivery::{self, Delivery, device};
use super::login::{end_replaced, replaced};
use super::password::{new_email, password, refused};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    email: String,
    password: String,
    name: String,
    #[serde(default)]
    token_delivery: Delivery,
}

const FORM: Form = Form {
    right: r#"{"email": "...", "password": "...", "name": "..."}, perhaps with "token_delivery": "cookie" or "body""#,
    members: &[
        Member::text("email"),
        Member::text("password"),
        Member::text("name"),
        Member::token_delivery(),
    ],
};

/// Where it is not told whether an address is taken, the answer is the same for both and holds no session: the login comes next.
/// Where it is told, who registers is logged in.
pub async fn answer(
    server: web::Data<Server>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body: Body = json(&request, payload, &FORM).await?;
    if body.token_delivery == Delivery::Cookie {
        beginning_cookie_request(&server, &request)?;
    }
    let replaced = replaced(&server, &request, body.token_delivery)?;
    let name: Result<Name, _> = body.name.parse();
    let name = name.map_err(|error| Problem::new(Code::InvalidName, error.to_string()))?;
    let (email, password) = (new_email(&body.email)?, password(body.password)?);
    let address = server.client_addresses.of(&request);
    match server
        .logins
        .register(email, password, name, address)
        .await
        .map_err(refused)?
    {
        Registered::Untold => Ok(HttpResponse::Accepted().json(json!({ "next": "login" }))),
        Registered::Account(user) => {
            let begun = server.sessions.begin(&user, &device(&server, &request)).await;
            let tokens = begun.map_err(|error| match error {
                CannotBegin::AccountChanged => {
                    Problem::new(Code::LoginFailed, "the account has changed in this moment")
                }
                error => Problem::unavailable(&error, "a session could not be begun"),
            })?;
            end_replaced(&server, replaced).await;
            delivery::answer(&server, &tokens, body.token_delivery)
        }
    }
}
