//! Pages of other origins (CORS): the ones that the settings list, byte for byte, and no other.

use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::{HttpRequest, web};

use crate::http::codes::Code;
use crate::http::problem::{Problem, options};
use crate::http::state::Server;

/// What a page may read besides the body.
const EXPOSED: &str = "Retry-After, WWW-Authenticate";

/// Whether the settings list this origin.
fn is_listed(server: &Server, origin: &HeaderValue) -> bool {
    server
        .allowed_origins
        .iter()
        .any(|listed| listed.as_str().as_bytes() == origin.as_bytes())
}

/// Lets a page of a listed origin read the answer, cookies and all; a cache must keep the origins apart.
pub fn allow(server: &Server, origin: Option<HeaderValue>, answer: &mut HeaderMap) {
    answer.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin.filter(|origin| is_listed(server, origin)) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

/// The answer to a browser that asks for leave (Fetch Standard, CORS-preflight fetch).
///
/// # Errors
/// `cross_site` when the page's origin is not listed.
pub fn preflight(
    server: &web::Data<Server>,
    request: &HttpRequest,
    methods: &'static str,
) -> Result<HttpResponse, Problem> {
    let origin = request.headers().get(header::ORIGIN);
    if origin.is_none() {
        return Ok(options(methods));
    }
    if !origin.is_some_and(|origin| is_listed(server, origin)) {
        return Err(Problem::new(
            Code::CrossSite,
            "pages of this origin may not ask; list it in accounts.allowed_origins",
        ));
    }
    Ok(HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, methods))
        .insert_header((
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, Content-Type, X-CSRF-Token",
        ))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "600"))
        .finish())
}
