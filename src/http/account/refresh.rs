//! `POST /auth/refresh`: the next refresh token of a session, and a fresh access token.

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use crate::http::codes::Code;
use crate::http::extract::browser::Browser;
use crate::http::extract::json::{Body, JsonBody};
use crate::http::extract::members::{Form, Member};
use crate::http::extract::sender::Sender;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::sessions::RefreshRequest;

use super::delivery::{self, Delivery};

/// The refresh token, if it is in no cookie.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    refresh_token: Option<String>,
    token_delivery: Option<Delivery>,
}

impl Body for Refresh {
    const FORM: Form = Form {
        right: r#"{"refresh_token": "..."}, or none with a cookie"#,
        members: &[Member::optional_text("refresh_token"), Member::token_delivery()],
    };

    fn of_nothing() -> Option<Self> {
        Some(Self::default())
    }
}

/// What came in the body goes back in the body, and what came in a cookie in a cookie: no script may turn the one into the other.
pub async fn answer(
    server: web::Data<Server>,
    browser: Browser,
    sender: Sender,
    JsonBody(asked): JsonBody<Refresh>,
) -> Result<HttpResponse, Problem> {
    let (token, delivery) = if let Some(token) = &asked.refresh_token {
        (token.as_str(), Delivery::Body)
    } else {
        let missing = || Problem::new(Code::RefreshMissing, "there is neither a cookie nor a refresh_token");
        let cookie = browser.refresh_token()?.ok_or_else(missing)?;
        browser.refuse_forged()?;
        (cookie, Delivery::Cookie)
    };
    if asked.token_delivery.is_some_and(|asked| asked != delivery) {
        return Err(Problem::new(
            Code::InvalidRequest,
            "a refresh token goes back the way it came: leave token_delivery out",
        ));
    }
    let address = sender.address;
    server.charge_refresh(address, token).map_err(|retry_after| {
        let detail = format!("too many refreshes; try again in {retry_after}");
        Problem::new(Code::RateLimited, detail).after(retry_after)
    })?;
    let device = sender.device();
    let presented = RefreshRequest {
        token,
        client_id: server.sessions.client.id.as_str(),
        audiences: &[],
        device: &device,
    };
    let tokens = server.sessions.refresh(&presented).await?;
    tracing::info!(
        session.sid = %tokens.sid, client.ip = %address, token.expires_in = tokens.expires_in.0, "a session was refreshed"
    );
    delivery::answer(&server, &tokens, delivery)
}
