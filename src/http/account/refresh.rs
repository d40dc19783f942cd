//! `POST /auth/refresh`: the next refresh token of a session, and a fresh access token.

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use crate::accounts::refresh::Refused;
use crate::accounts::session::EndedBy;
use crate::http::codes::Code;
use crate::http::extract::body::{Body, JsonBody};
use crate::http::extract::browser::Browser;
use crate::http::extract::context::Sender;
use crate::http::extract::members::{JsonForm, Member};
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::sessions::{CannotRefresh, RefreshRequest};

use super::delivery::{self, Delivery};

/// The refresh token, if it is in no cookie.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    refresh_token: Option<String>,
    token_delivery: Option<Delivery>,
}

impl Body for Refresh {
    const FORM: JsonForm = JsonForm {
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
        client: &server.sessions.client,
        scope: None,
        audiences: &[],
        device: &device,
    };
    let tokens = server.sessions.refresh(&presented).await?;
    tracing::info!(
        session.sid = %tokens.sid, client.ip = %address, token.expires_in = tokens.expires_in.0, "a session was refreshed"
    );
    delivery::answer(&server, &tokens, delivery)
}

impl From<CannotRefresh> for Problem {
    fn from(error: CannotRefresh) -> Self {
        let CannotRefresh::Refused(refused) = &error else {
            return Self::unavailable(&error, "a session could not be refreshed");
        };
        let code = match refused {
            Refused::NotOurs | Refused::WrongClient | Refused::WrongAudience => Code::RefreshInvalid,
            Refused::Expired | Refused::Idle => Code::RefreshExpired,
            Refused::Reused | Refused::Ended(EndedBy::Reuse) => Code::RefreshReused,
            Refused::Suspended | Refused::TenantDisabled => Code::AccountSuspended,
            Refused::Unknown | Refused::RolledBack | Refused::Ended(_) => Code::SessionEnded,
            Refused::TooEarly | Refused::ClockInDoubt => Code::TemporarilyUnavailable,
        };
        Self::new(code, format!("the refresh token gets nothing: {refused}"))
    }
}
