//! The endpoints: one file each, the route table on one screen, one table from errors to answers.

pub mod auth;
pub mod body;
pub mod client_address;
mod client_assertion;
pub mod client_authentication;
pub mod connections;
mod endpoints;
pub mod error;
mod framing;
pub mod health;
pub mod introspect;
pub mod key_set;
pub mod listener;
pub mod metadata;
pub mod observation;
mod parser_refusal;
pub mod refresh_grant;
pub mod revoke;
pub mod root;
pub mod stream;
pub mod token;
mod turns;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::ConnectionType;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpResponse, Resource, Route, web};

use crate::accounts::client_address::ClientAddress;
use crate::accounts::node_limits::NodeLimits;
use crate::clock::{Clock, Seconds, UnixTime};
use crate::config::{ForwardAuth, Origin};
use crate::jose::seal::HashKey;
use crate::keyring::{CannotVerify, Inactive, Keyring};
use crate::logins::Logins;
use crate::logins::federated::FederatedLogins;
use crate::oauth::metadata::{
    AUTHORIZATION_SERVER, INTROSPECTION_PATH, KEY_SET_PATH, OPENID_CONFIGURATION, REVOCATION_PATH, TOKEN_PATH,
};
use crate::oauth::token::Defaults;
use crate::oauth::verification::{AccessToken, Refused, is_type_of_accounts};
use crate::outbound::key_sets::RemoteKeySets;
use crate::registry::Registry;
use crate::rotation::Rotation;
use crate::sessions::Sessions;
use crate::store::Db;
use crate::supervision::Tasks;
use crate::telemetry::Metrics;

use auth::cookies::Cookies;
use auth::problem::Code;
use client_address::ClientAddresses;
use connections::Connections;
use stream::Connection;

/// What the handlers work with.
pub struct Server {
    /// The issuer, byte for byte as configured.
    pub issuer: String,
    /// The path of the issuer; empty when it has none.
    pub issuer_path: String,
    /// The longest header section that is read, names and values together, in bytes.
    pub max_header_bytes: usize,
    /// Reads the addresses of clients.
    pub client_addresses: ClientAddresses,
    /// What gateways require of a token.
    pub forward_auth: ForwardAuth,
    /// The origin of the issuer: pages of it are ours.
    pub origin: Origin,
    /// The cookies of people's browsers.
    pub cookies: Cookies,
    /// What a client gets that has no wish of its own.
    pub defaults: Defaults,
    /// The database.
    pub db: Db,
    /// The keys that clients publish themselves.
    pub remote_key_sets: RemoteKeySets,
    /// The clients.
    pub registry: Registry,
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// The schedule.
    pub rotation: Arc<Rotation>,
    /// The logins of people.
    pub sessions: Arc<Sessions>,
    /// How often at this node sessions may be refreshed, and logins with other providers begun.
    pub node_limits: Mutex<NodeLimits>,
    /// What proves people by their passwords.
    pub logins: Logins,
    /// Logins with other providers.
    pub federated_logins: FederatedLogins,
    /// What client secrets are digested with.
    pub hash_key: Arc<HashKey>,
    /// The clock.
    pub clock: Clock,
    /// A session that began before this time may have no binding cookie: the version before set none.
    pub unbound_until: UnixTime,
    /// When the process read its settings.
    pub started_at: UnixTime,
    /// The connections of the public listener.
    pub connections: Arc<Connections>,
    /// Whether it was told to stop: it is not ready any more, and ends kept connections.
    pub is_stopping: AtomicBool,
    /// What runs beside the requests.
    pub tasks: Tasks,
    /// What is counted.
    pub metrics: Metrics,
}

impl Server {
    /// Whether it was told to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Whether people have accounts here.
    #[must_use]
    pub fn has_accounts(&self) -> bool {
        self.sessions.settings.enabled
    }

    /// What is known of a token from the keys, the denials, the sessions and the settings; whether its client may still act, and is
    /// registered for this type, is asked by [`crate::oauth::verification::is_client`].
    ///
    /// # Errors
    /// When nothing can be said of it now.
    pub fn verify(&self, token: &str) -> Result<Result<AccessToken, Inactive>, CannotVerify> {
        let verdict = self.keyring.verify(token, &self.issuer, self.clock.read())?;
        let expected = self.sessions.settings.token_type;
        Ok(verdict.and_then(|token| {
            if token.session.is_some() && !is_type_of_accounts(&token, expected, self.started_at) {
                return Err(Refused::Type.into());
            }
            Ok(token)
        }))
    }

    /// Whether pages of this origin may call with cookies.
    #[must_use]
    pub fn accepts_origin(&self, origin: &str) -> bool {
        let listed = self.sessions.settings.allowed_origins.iter();
        std::iter::once(&self.origin)
            .chain(listed)
            .any(|accepted| accepted.as_str() == origin)
    }

    /// Counts a refresh against its address, and against its session when the token is one of ours. Honest retries, 64 at once, meet
    /// no limit.
    ///
    /// # Errors
    /// How long to wait.
    pub fn charge_refresh(&self, address: ClientAddress, token: &str) -> Result<(), Seconds> {
        let now = self.clock.read().monotonic;
        let session = self.sessions.named_in(token);
        let mut limits = self.node_limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.charge_address(address, now)?;
        session.map_or(Ok(()), |sid| limits.charge_family(&sid.to_string(), now))
    }

    /// Counts a denied token against its session, or its client when it belongs to none.
    ///
    /// # Errors
    /// How long to wait.
    pub fn charge_revocation(&self, whose: &str) -> Result<(), Seconds> {
        let now = self.clock.read().monotonic;
        let mut limits = self.node_limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.charge_revocation(whose, now)
    }

    /// Counts a login with another provider against its address.
    ///
    /// # Errors
    /// How long to wait.
    pub fn charge_federated_login(&self, address: ClientAddress) -> Result<(), Seconds> {
        let now = self.clock.read().monotonic;
        let mut limits = self.node_limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.charge_federated_login(address, now)
    }
}

/// The routes of the public listener. Everything lies below the issuer's path; well-known documents also lie where
/// RFC 8414 section 3.1 inserts that path.
pub fn public_routes(server: &Server) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    let path = server.issuer_path.clone();
    let has_accounts = server.has_accounts();
    move |routes| {
        let mut key_sets = vec![KEY_SET_PATH.to_owned()];
        let mut documents = vec![
            format!("{path}{OPENID_CONFIGURATION}"),
            format!("{path}{AUTHORIZATION_SERVER}"),
        ];
        if !path.is_empty() {
            key_sets.push(format!("{path}{KEY_SET_PATH}"));
            documents.push(format!("{OPENID_CONFIGURATION}{path}"));
            documents.push(format!("{AUTHORIZATION_SERVER}{path}"));
        }
        routes.service(for_readers(&format!("{path}/"), root::answer));
        if !path.is_empty() {
            routes.service(for_readers(&path, root::answer));
        }
        for key_set in key_sets {
            routes.service(published(&key_set, key_set::answer));
        }
        for document in documents {
            routes.service(published(&document, metadata::answer));
        }
        routes.service(for_clients(
            &format!("{path}{TOKEN_PATH}"),
            web::post().to(token::answer),
        ));
        let introspection = web::post().to(introspect::answer);
        routes.service(for_clients(&format!("{path}{INTROSPECTION_PATH}"), introspection));
        let revocation = web::post().to(revoke::answer);
        routes.service(for_clients(&format!("{path}{REVOCATION_PATH}"), revocation));
        if has_accounts {
            auth::routes(&path, routes);
        }
        routes.default_service(web::to(|| async { error::not_found() }));
    }
}

/// The routes of the admin listener.
pub fn admin_routes(routes: &mut web::ServiceConfig) {
    let read_only = |path: &str, route: Route| {
        web::resource(path.to_owned())
            .route(route)
            .default_service(web::to(|| async { error::method_not_allowed("GET") }))
    };
    routes
        .service(read_only("/livez", web::get().to(health::live)))
        .service(read_only("/readyz", web::get().to(health::ready_to_publish)))
        .service(read_only("/readyz/issue", web::get().to(health::ready_to_issue)))
        .service(read_only("/metrics", web::get().to(health::metrics)))
        .default_service(web::to(|| async { error::not_found() }));
}

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
        let refusal = error::for_path(request.path(), Code::HeadersTooLarge, detail);
        Ok(request.into_response(refusal))
    } else if request
        .uri()
        .path_and_query()
        .map_or(0, |address| address.as_str().len())
        > LONGEST_ADDRESS
    {
        let detail = "the path and the query are longer than 8 KiB".to_owned();
        let refusal = error::for_path(request.path(), Code::AddressTooLong, detail);
        Ok(request.into_response(refusal))
    } else {
        next.call(request).await.map(ServiceResponse::map_into_boxed_body)
    };
    if let Some(connection) = &connection {
        connection.finish();
    }
    let mut response = answered?;
    if is_stopping || asks_for_upgrade || connection.is_some_and(|connection| connection.is_old()) {
        response
            .response_mut()
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    let headers = response.headers_mut();
    for (name, value) in protective_headers(has_https) {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// The headers of every answer.
fn protective_headers(has_https: bool) -> impl Iterator<Item = (HeaderName, &'static str)> {
    let always = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let with_https = has_https.then_some((header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"));
    always.into_iter().chain(with_https)
}

/// An endpoint that a client proves itself at: a form, and nothing else.
fn for_clients(path: &str, route: Route) -> Resource {
    web::resource(path.to_owned())
        .route(route)
        .default_service(web::to(|| async { client_authentication::method_not_allowed() }))
}

/// A page that anybody may read.
fn for_readers<F, Args>(path: &str, answer: F) -> Resource
where
    F: actix_web::Handler<Args, Output = HttpResponse> + Copy,
    Args: actix_web::FromRequest + 'static,
{
    web::resource(path.to_owned())
        .route(web::get().to(answer))
        .route(web::head().to(answer))
        .default_service(web::to(|| async { error::method_not_allowed("GET, HEAD") }))
}

/// A document that anybody may read, also a page of another origin (CORS).
fn published<F, Args>(path: &str, answer: F) -> Resource
where
    F: actix_web::Handler<Args, Output = HttpResponse> + Copy,
    Args: actix_web::FromRequest + 'static,
{
    web::resource(path.to_owned())
        .route(web::get().to(answer))
        .route(web::head().to(answer))
        .route(web::method(actix_web::http::Method::OPTIONS).to(|| async { preflight() }))
        .default_service(web::to(|| async { error::method_not_allowed("GET, HEAD, OPTIONS") }))
}

/// A page that sends `If-None-Match` is asked for leave first.
fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, "If-None-Match"))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "86400"))
        .finish()
}
