//! `GET /auth/sessions` and `DELETE /auth/sessions/{sid}`: what a person is logged in with, and how to end it from afar.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::json;

use crate::accounts::session::{EndedBy, Session};
use crate::clock::UnixTime;
use crate::http::codes::Code;
use crate::http::extract::bearer::Authenticated;
use crate::http::problem::Problem;
use crate::http::state::Server;
use crate::oauth::endpoints::SESSIONS_PATH;
use crate::values::SessionId;

#[derive(Serialize)]
struct Item<'a> {
    sid: SessionId,
    created_at: UnixTime,
    last_used_at: UnixTime,
    expires_at: UnixTime,
    address: &'a str,
    user_agent: &'a str,
    current: bool,
}

/// The sessions of the caller that have not ended, the last used first.
pub async fn list(server: web::Data<Server>, caller: Authenticated) -> Result<HttpResponse, Problem> {
    let sessions = server
        .sessions
        .list(caller.user)
        .await
        .map_err(|error| Problem::unavailable(&error, "sessions could not be listed"))?;
    let items: Vec<Item<'_>> = sessions.iter().map(|session| item(session, caller.sid)).collect();
    Ok(HttpResponse::Ok().json(json!({ "sessions": items })))
}

fn item(session: &Session, current: SessionId) -> Item<'_> {
    Item {
        sid: session.sid,
        created_at: session.created_at,
        last_used_at: session.rotated_at,
        expires_at: session.expires_at,
        address: &session.address,
        user_agent: &session.user_agent,
        current: session.sid == current,
    }
}

/// Ends one session of the caller; somebody else's is as unknown as one that never was.
pub async fn end(
    server: web::Data<Server>,
    caller: Authenticated,
    sid: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let unknown = || {
        let base = &server.issuer_path;
        let detail =
            format!("no session of yours that has not ended has this id; GET {base}{SESSIONS_PATH} lists them");
        Problem::new(Code::NotFound, detail)
    };
    // Any case is the same id (RFC 9562 section 4).
    let sid: SessionId = sid.to_ascii_lowercase().parse().map_err(|_| unknown())?;
    let actor = format!("user {}", caller.user);
    let ended = server
        .sessions
        .end(sid, Some(caller.user), EndedBy::Logout, &actor)
        .await;
    match ended {
        Ok(true) => Ok(HttpResponse::NoContent().finish()),
        Ok(false) => Err(unknown()),
        Err(error) => Err(Problem::unavailable(&error, "a session could not be ended")),
    }
}
