//! Who sent a request, as far as the network tells.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest};

use crate::accounts::client_address::ClientAddress;
use crate::accounts::session::Device;
use crate::http::problem::Problem;

use super::server;

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
