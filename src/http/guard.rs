//! What stands around every handler.

use std::rc::Rc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::http::header::HeaderValue;
use actix_web::middleware::Next;
use actix_web::{HttpRequest, web};
use tracing::field;

use crate::oauth::endpoints::{INTROSPECTION_PATH, TOKEN_PATH};

use super::codes::Code;
use super::headers::protective_headers;
use super::problem::Problem;
use super::state::Server;
use super::stream::Connection;

/// The longest address of a request, its path and query, in bytes.
pub const LONGEST_ADDRESS: usize = 8 * 1024;

/// What stands around every handler, in one piece because each layer costs every request: refuses a request whose headers
/// or address are longer than any honest client's (RFC 6585 section 5), and adds the headers of every answer. An issuer with https
/// promises to have it for a year (RFC 6797). A server that stops asks for a new connection, which leads to another node. The
/// connection learns when a request begins and ends, and hands on one at a time.
///
/// What actix's parser refuses by itself (400, 408, and 431 for a head that it does not even hold) never becomes a request; see
/// `parser_refusal`.
///
/// # Errors
/// Whatever the handler behind it fails with.
pub async fn guarded(
    has_https: bool,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let length: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let server = request.app_data::<web::Data<Server>>();
    let is_stopping = server.is_some_and(|server| server.is_stopping());
    let most = server.map_or(usize::MAX, |server| server.max_header_bytes);
    let connection = request.conn_data::<Rc<Connection>>().cloned();
    // No other protocol is spoken, so that the request is answered as if it asked for none (RFC 9110 section 7.8). But the library
    // closes the connection behind the answer, which must say so (RFC 9112 section 9.6).
    let asks_for_upgrade = request.head().upgrade();
    if let Some(connection) = &connection {
        connection.begin(request.head());
    }
    let answered = if length > most {
        let detail = format!("the headers have {length} bytes; at most {most} are read");
        let refusal = Problem::new(Code::HeadersTooLarge, detail).at(request.path()).answer();
        Ok(request.into_response(refusal))
    } else if request
        .uri()
        .path_and_query()
        .map_or(0, |address| address.as_str().len())
        > LONGEST_ADDRESS
    {
        let detail = "the path and the query are longer than 8 KiB".to_owned();
        let refusal = Problem::new(Code::AddressTooLong, detail).at(request.path()).answer();
        Ok(request.into_response(refusal))
    } else {
        next.call(request).await.map(ServiceResponse::map_into_boxed_body)
    };
    if let Some(connection) = &connection {
        connection.finish();
    }
    let mut response = answered?;
    // A refusal is counted and logged here, whichever extractor or handler it comes from.
    let error = response.response().error();
    if let Some(problem) = error.and_then(actix_web::Error::as_error::<Problem>)
        && let Some(server) = response.request().app_data::<web::Data<Server>>()
    {
        log_refusal(server, response.request(), problem);
    }
    if is_stopping || asks_for_upgrade || connection.is_some_and(|connection| connection.is_old()) {
        response
            .response_mut()
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    let headers = response.headers_mut();
    for (name, value) in protective_headers(has_https) {
        // A page names what it loads.
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    Ok(response)
}

/// Counts and logs a refusal. Everything that is logged is ours, or has passed the grammar of its type: a request cannot forge a line.
fn log_refusal(server: &Server, request: &HttpRequest, problem: &Problem) {
    let (reason, detail) = (problem.name(), &problem.detail);
    server.metrics.refused(reason);
    let address = server.client_addresses.of(request);
    let Some(code) = problem.code() else {
        let path = request.path().strip_prefix(&server.issuer_path).unwrap_or_default();
        let what = match path {
            TOKEN_PATH => "a token was refused",
            INTROSPECTION_PATH => "an introspection was refused",
            _ => "a revocation was refused",
        };
        let client = problem.client().map(field::display);
        tracing::info!(client.id = client, client.ip = %address, reason, %detail, "{what}");
        return;
    };
    let endpoint = request.match_pattern().unwrap_or_default();
    // A missing or old token is no event: a gateway asks about every visitor.
    if code.is_about_a_bearer() {
        tracing::debug!(client.ip = %address, endpoint, reason, %detail, "a request was refused");
    } else {
        tracing::info!(client.ip = %address, endpoint, reason, %detail, "a request was refused");
    }
}
