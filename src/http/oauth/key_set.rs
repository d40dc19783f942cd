//! `GET /.well-known/jwks.json`: the key set (RFC 7517 section 5), from memory.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::http::state::Server;

use super::turns;

/// The key set, or 304 when the caller has it (RFC 9110 section 13.1.2).
pub async fn answer(server: web::Data<Server>, request: HttpRequest) -> HttpResponse {
    let document = server.keyring.snapshot().document.clone();
    let unchanged = request
        .headers()
        .get_all(header::IF_NONE_MATCH)
        .any(|tags| tags == document.etag.as_str() || tags.to_str().is_ok_and(|tags| names(tags, &document.etag)));
    let mut answer = if unchanged {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    let max_age = server.keyring.policy().windows().jwks_max_age.0;
    answer
        .insert_header((header::CACHE_CONTROL, format!("public, max-age={max_age}")))
        .insert_header((header::ETAG, document.etag))
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"));
    let answer = if unchanged {
        answer.finish()
    } else {
        answer.content_type("application/jwk-set+json").body(document.body)
    };
    server.metrics.key_set_answered(answer.status().as_u16());
    turns::key_set_answered();
    answer
}

/// Whether a list of entity tags names this one; the comparison is weak (RFC 9110 section 8.8.3.2).
fn names(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag == etag
    })
}
