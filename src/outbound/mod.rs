//! The one HTTP client: whatever this server fetches, it fetches through here.
//!
//! The addresses come from others, so that none of them may lead into the operator's own network: https alone, no redirect,
//! no proxy from the environment, and only addresses that are everybody's, looked at after the name was resolved; the
//! connection goes to the very addresses that were looked at.

mod addresses;
mod encoding;
mod failure;
mod kept;
pub mod key_sets;
pub mod providers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use url::{Host, Url};

use crate::config::OutboundSettings as Settings;
use crate::files::reading;
use crate::text;
use crate::values::Network;

use addresses::is_allowed;
use encoding::Encoding;
pub use failure::FetchError;
use failure::{NoAddress, reason};
pub use kept::{MAX_FETCHES, MAX_FETCHES_OF_HOST};

/// The longest document that is read, in bytes, as it comes and as it is once inflated.
pub const LONGEST: usize = 64 * 1024;
/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long all of it may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The client.
#[derive(Clone)]
pub struct Outbound {
    client: Client,
    allowed: Arc<[Network]>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// `outbound.ca_file` cannot be read.
    #[error("cannot read {0}, which outbound.ca_file names: {1}")]
    Unreadable(String, std::io::Error),
    /// `outbound.ca_file` holds something else.
    #[error("outbound.ca_file {0} holds no certificate in PEM{1}")]
    Authority(String, String),
    /// The TLS library.
    #[error("the outbound HTTP client cannot be made: {0}")]
    Client(String),
}

impl Outbound {
    /// The client of these settings.
    ///
    /// # Errors
    /// When `outbound.ca_file` holds no certificate.
    pub fn new(settings: &Settings) -> Result<Self, OutboundError> {
        let allowed: Arc<[Network]> = settings.allowed_networks.clone().into();
        let mut client = Client::builder()
            .https_only(true)
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .user_agent("Keyround")
            .default_headers(HeaderMap::from_iter([(
                ACCEPT_ENCODING,
                HeaderValue::from_static(encoding::ACCEPTED),
            )]))
            .dns_resolver(Arc::new(Guard(Arc::clone(&allowed))));
        if let Some(file) = &settings.ca_file {
            let refused = |why: Option<String>| {
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                OutboundError::Authority(file.display().to_string(), why)
            };
            let unreadable = |error| OutboundError::Unreadable(file.display().to_string(), error);
            let content = reading::read(file).map_err(unreadable)?;
            let text = text::without_mark(&content).map_err(|error| refused(Some(error.to_string())))?;
            let authorities = Certificate::from_pem_bundle(text).map_err(|_| refused(None))?;
            if authorities.is_empty() {
                return Err(refused(None));
            }
            client = client.tls_certs_merge(authorities);
        }
        let client = client
            .build()
            .map_err(|error| OutboundError::Client(error.to_string()))?;
        Ok(Self { client, allowed })
    }

    /// The document at this address, as it is: at most 64 KiB, within 5 seconds.
    ///
    /// # Errors
    /// The reason why there is none.
    pub async fn document(&self, url: &Url) -> Result<Vec<u8>, FetchError> {
        self.read(self.client.get(url.clone()), url).await
    }

    /// The document at this address that this token gives access to (RFC 6750 section 2.1), within the same limits.
    ///
    /// # Errors
    /// The reason why there is none.
    pub async fn protected_document(&self, url: &Url, access_token: &str) -> Result<Vec<u8>, FetchError> {
        let request = self.client.get(url.clone()).header(ACCEPT, "application/json");
        self.read(request.bearer_auth(access_token), url).await
    }

    async fn read(&self, request: RequestBuilder, url: &Url) -> Result<Vec<u8>, FetchError> {
        let answer = self.send(request, url).await?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status);
        }
        body(answer).await
    }

    /// What this address answers to a form: its status and at most 64 KiB, within 5 seconds. `credentials` go into the
    /// `Authorization` header (RFC 7617). Never sent twice: what a form asks for may be had once.
    ///
    /// # Errors
    /// The reason why there is no answer.
    pub async fn submit(
        &self,
        url: &Url,
        credentials: Option<(&str, &str)>,
        form: &[(&str, &str)],
    ) -> Result<(u16, Vec<u8>), FetchError> {
        let mut request = self
            .client
            .post(url.clone())
            .header(ACCEPT, "application/json")
            .form(form);
        if let Some((user, password)) = credentials {
            request = request.basic_auth(user, Some(password));
        }
        let answer = self.send(request, url).await?;
        Ok((answer.status().as_u16(), body(answer).await?))
    }

    async fn send(&self, request: RequestBuilder, url: &Url) -> Result<Response, FetchError> {
        // No name is resolved for a literal address, so that the guard never sees it.
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            _ => None,
        };
        if literal.is_some_and(|address| !is_allowed(address, &self.allowed)) {
            return Err(FetchError::AddressNotAllowed);
        }
        request.send().await.map_err(|error| reason(&error))
    }
}

async fn body(mut answer: Response) -> Result<Vec<u8>, FetchError> {
    let encoding = Encoding::of(answer.headers())?;
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| reason(&error))? {
        if body.len() + part.len() > LONGEST {
            return Err(FetchError::TooLong);
        }
        body.extend_from_slice(&part);
    }
    encoding.decode(body, LONGEST)
}

/// Resolves names, and lets none through that leads where it must not.
struct Guard(Arc<[Network]>);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = Arc::clone(&self.0);
        Box::pin(async move {
            // The port is the URL's; the client puts it in.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let found: Vec<SocketAddr> = found.map_err(|_| NoAddress::NotResolved)?.collect();
            if found.is_empty() {
                return Err(NoAddress::NotResolved.into());
            }
            if !found.iter().all(|address| is_allowed(address.ip(), &allowed)) {
                return Err(NoAddress::NotAllowed.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
