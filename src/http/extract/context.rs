//! The request itself: what other extractors keep of it, and who sent it, as far as the network tells.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};

use crate::accounts::client_address::ClientAddress;
use crate::accounts::session::Device;
use crate::http::codes::Code;
use crate::http::problem::Problem;
use crate::http::state::Server;

/// A request, and the server that it was sent to.
pub struct RequestContext {
    /// The server.
    pub(super) server: web::Data<Server>,
    /// The request.
    pub(super) request: HttpRequest,
}

impl FromRequest for RequestContext {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(server(request).map(|server| Self {
            server: server.clone(),
            request: request.clone(),
        }))
    }
}

/// An extractor that keeps the request for the questions of the handler.
macro_rules! extracted_from_context {
    ($extractor:ty) => {
        impl actix_web::FromRequest for $extractor {
            type Error = crate::http::problem::Problem;
            type Future = std::future::Ready<Result<Self, crate::http::problem::Problem>>;

            fn from_request(request: &actix_web::HttpRequest, payload: &mut actix_web::dev::Payload) -> Self::Future {
                let context = <crate::http::extract::context::RequestContext as actix_web::FromRequest>::from_request(
                    request, payload,
                )
                .into_inner();
                std::future::ready(context.map(Self::from))
            }
        }
    };
}

pub(super) use extracted_from_context;

/// The server is absent only in an application that is put together wrongly.
fn server(request: &HttpRequest) -> Result<&web::Data<Server>, Problem> {
    request
        .app_data::<web::Data<Server>>()
        .ok_or_else(|| Problem::new(Code::TemporarilyUnavailable, "the server is not set up"))
}

/// Who sent a request, as far as the network tells. The address is read once, and behind trusted proxies as
/// [`crate::http::client_address`] says.
pub struct Sender {
    /// Where the request comes from.
    pub address: ClientAddress,
    request: HttpRequest,
}

impl FromRequest for Sender {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(server(request).map(|server| Self {
            address: server.client_addresses.of(request),
            request: request.clone(),
        }))
    }
}

impl Sender {
    /// What the request comes from, as its user will see it in the list of sessions.
    #[must_use]
    pub fn device(&self) -> Device {
        let user_agent = self.request.headers().get(header::USER_AGENT);
        let user_agent = user_agent.and_then(|value| value.to_str().ok()).unwrap_or("");
        Device::new(self.address, user_agent)
    }
}
