//! What the handlers work with.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::accounts::client_address::ClientAddress;
use crate::accounts::node_limits::NodeLimits;
use crate::clock::{Clock, Seconds, UnixTime};
use crate::config::ForwardAuth;
use crate::crypto::keyed_hash::HashKey;
use crate::keyring::{CannotVerify, Inactive, Keyring};
use crate::logins::Logins;
use crate::logins::federated::FederatedLogins;
use crate::oauth::token::Defaults;
use crate::oauth::verification::{AccessToken, VerificationError, is_type_of_accounts};
use crate::outbound::key_sets::RemoteKeySets;
use crate::registry::Registry;
use crate::rotation::Rotation;
use crate::sessions::Sessions;
use crate::store::Db;
use crate::supervision::Tasks;
use crate::telemetry::Metrics;
use crate::values::{Origin, SessionId};

use super::client_address::ClientAddresses;
use super::connections::Connections;
use super::cookies::Cookies;
use super::database_probe::DatabaseProbe;

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
    /// Pages of other origins that may call with cookies.
    pub allowed_origins: Vec<Origin>,
    /// Whether people have accounts here.
    pub has_accounts: bool,
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
    /// Whether the database is what a server needs.
    pub database_probe: DatabaseProbe,
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

    /// What is known of a token from the keys, the denials, the sessions and the settings; whether its client may still act, and is
    /// registered for this type, is asked by [`crate::oauth::verification::is_client`].
    ///
    /// # Errors
    /// When nothing can be said of it now.
    pub fn verify(&self, token: &str) -> Result<Result<AccessToken, Inactive>, CannotVerify> {
        let verdict = self.keyring.verify(token, &self.issuer, self.clock.read())?;
        let expected = self.sessions.client.token_type;
        Ok(verdict.and_then(|token| {
            let is_of_accounts = token.session.is_some() && token.client_id == self.sessions.client.id.as_str();
            if is_of_accounts && !is_type_of_accounts(&token, expected, self.started_at) {
                return Err(VerificationError::Type.into());
            }
            Ok(token)
        }))
    }

    /// Whether pages of this origin may call with cookies.
    #[must_use]
    pub fn accepts_origin(&self, origin: &str) -> bool {
        std::iter::once(&self.origin)
            .chain(&self.allowed_origins)
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

    /// Counts a code against the login session that it is given for.
    ///
    /// # Errors
    /// How long to wait.
    pub fn charge_code(&self, login: SessionId) -> Result<(), Seconds> {
        let now = self.clock.read().monotonic;
        let mut limits = self.node_limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.charge_family(&format!("code {login}"), now)
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
