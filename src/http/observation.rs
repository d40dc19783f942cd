//! What is told of every request: its id in the answer and in log lines, and its time in the metrics.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web;

use crate::store::allowance::of_one_request;
use crate::telemetry::Request;

use super::endpoints;
use super::guard::guarded;
use super::state::Server;

/// The id of a request, taken from its sender (a proxy) and given back.
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Stands around [`guarded`].
///
/// # Errors
/// Whatever the handler behind it fails with.
pub async fn observed(
    has_https: bool,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let Some(server) = request.app_data::<web::Data<Server>>().cloned() else {
        return guarded(has_https, request, next).await;
    };
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let names = Request::new(header(&REQUEST_ID), header(&TRACEPARENT));
    let id = HeaderValue::from_str(names.id());
    let endpoint = endpoints::endpoint(request.path(), &server.issuer_path);
    let method = endpoints::method(request.method().as_str());
    let started = server.clock.read().monotonic;
    let answer = of_one_request(guarded(has_https, request, next));
    let mut answered = names.scope(answer).await;
    let took = server.clock.read().monotonic.saturating_sub(started);
    let status = match &mut answered {
        Ok(response) => {
            if let Ok(id) = id {
                response.headers_mut().insert(REQUEST_ID.clone(), id);
            }
            response.status()
        }
        Err(error) => error.as_response_error().status_code(),
    };
    server
        .metrics
        .http
        .answered(endpoint, method, endpoints::class(status.as_u16()), took);
    answered
}
