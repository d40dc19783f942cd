//! `POST /auth/refresh`: the next refresh token of a session, and a fresh access token.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use crate::accounts::refresh::Refused;
use crate::accounts::session::EndedBy;
use crate::http::cookies::refresh_token;
use crate::http::extract::json::{cookie_request, json_or_nothing};
use crate::http::extract::members::{Form, Member};
use crate::http::problem::{Code, Problem};
use crate::http::state::Server;
use crate::sessions::{CannotRefresh, RefreshRequest};

use super::delivery::{self, Delivery, device};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    refresh_token: Option<String>,
    token_delivery: Option<Delivery>,
}

const FORM: Form = Form {
    right: r#"{"refresh_token": "..."}, or none with a cookie"#,
    members: &[Member::optional_text("refresh_token"), Member::token_delivery()],
};

/// What came in the body goes back in the body, and what came in a cookie in a cookie: no script may turn the one into the other.
pub async fn answer(
    server: web::Data<Server>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body: Body = json_or_nothing(&request, payload, &FORM).await?;
    let (token, delivery) = if let Some(token) = &body.refresh_token {
        (token.as_str(), Delivery::Body)
    } else {
        let missing = || Problem::new(Code::RefreshMissing, "there is neither a cookie nor a refresh_token");
        let cookie = refresh_token(&server, &request)?.ok_or_else(missing)?;
        cookie_request(&server, &request)?;
        (cookie, Delivery::Cookie)
    };
    if body.token_delivery.is_some_and(|asked| asked != delivery) {
        return Err(Problem::new(
            Code::InvalidRequest,
            "a refresh token goes back the way it came: leave token_delivery out",
        ));
    }
    let address = server.client_addresses.of(&request);
    server.charge_refresh(address, token).map_err(|retry_after| {
        let detail = format!("too many refreshes; try again in {retry_after}");
        Problem::new(Code::RateLimited, detail).after(retry_after)
    })?;
    let device = device(&server, &request);
    let presented = RefreshRequest {
        token,
        client_id: &server.sessions.settings.client_id,
        audiences: &[],
        device: &device,
    };
    let tokens = server
        .sessions
        .refresh(&presented)
        .await
        .map_err(|error| refused(&error))?;
    tracing::info!(
        session.sid = %tokens.sid, client.ip = %address, token.expires_in = tokens.expires_in.0, "a session was refreshed"
    );
    delivery::answer(&server, &tokens, delivery)
}

fn refused(error: &CannotRefresh) -> Problem {
    let CannotRefresh::Refused(refused) = error else {
        return Problem::unavailable(error, "a session could not be refreshed");
    };
    let code = match refused {
        Refused::NotOurs | Refused::WrongClient | Refused::WrongAudience => Code::RefreshInvalid,
        Refused::Expired | Refused::Idle => Code::RefreshExpired,
        Refused::Reused | Refused::Ended(EndedBy::Reuse) => Code::RefreshReused,
        Refused::Suspended | Refused::TenantDisabled => Code::AccountSuspended,
        Refused::Unknown | Refused::RolledBack | Refused::Ended(_) => Code::SessionEnded,
        Refused::TooEarly | Refused::ClockInDoubt => Code::TemporarilyUnavailable,
    };
    Problem::new(code, format!("the refresh token gets nothing: {refused}"))
}
