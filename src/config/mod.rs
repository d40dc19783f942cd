//! Settings: defaults, then a TOML file, then the environment, then flags; read once, parsed into types that hold.
//!
//! A name that is unknown is refused wherever it stands. In the environment `keys.rotation_period` is written
//! `KEYROUND_KEYS__ROTATION_PERIOD`, and lists are comma separated. [`settings::SETTINGS`] is the one table of them.

mod accounts;
mod error;
mod forward_auth;
mod layers;
mod log_filter;
mod postgres_tls;
mod secret_file;
mod service_links;
pub mod settings;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::clock::Seconds;
use crate::files::reading;
use crate::jose::alg::{Algorithm, UnknownAlgorithm};
use crate::jose::key::RsaBits;
use crate::keys::policy::{Policy, PolicyError, Windows};
use crate::text;
use crate::values::{Database, Issuer, Network, Refusal, SecretText, parse_duration};

pub use accounts::{Accounts, CookieName};
pub use error::ConfigError;
pub use forward_auth::{ForwardAuth, ForwardAuthPolicy};
pub use layers::{Sources, sudo_user};
pub use secret_file::{read as read_secret_file, read_from as read_secret, read_pem, refuse_exposed};

use layers::Layers;

/// Where a development start keeps its master key when nobody says otherwise.
pub const DEVELOPMENT_MASTER_KEY_FILE: &str = "keys/master.key";

/// The name of the ledger of revoked keys where no setting names one.
const LEDGER_FILE: &str = "revoked-kids";

/// What nginx `auth_jwt` reads of a key set: its buffer, in bytes, and the keys that it takes.
const NGINX_SET_BYTES: usize = 4096;
const NGINX_SET_KEYS: usize = 64;

/// An orchestrator would kill a server that takes longer.
const LONGEST_SHUTDOWN_DELAY: Seconds = Seconds(300);

/// The settings, validated. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who the server is, and where it listens.
    pub server: ServerSettings,
    /// What the server fetches.
    pub outbound: OutboundSettings,
    /// Where rows are kept.
    pub database: Database,
    /// The life of keys.
    pub keys: KeySettings,
    /// The life of tokens.
    pub tokens: TokenSettings,
    /// People and their sessions.
    pub accounts: Accounts,
    /// What gateways require of a token.
    pub forward_auth: ForwardAuth,
    /// What is logged.
    pub log: Log,
    /// The effective values as they may be shown.
    shown: BTreeMap<String, toml::Value>,
}

/// Section `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// `iss` of every token.
    pub issuer: Issuer,
    /// Where the public endpoints are served.
    pub listen: SocketAddr,
    /// Where health and metrics are served.
    pub admin_listen: SocketAddr,
    /// Where the pair for TLS on the public listener lies; none for plain http.
    pub tls: Option<TlsFiles>,
    /// Whether a proxy ends TLS in front.
    pub behind_tls_proxy: bool,
    /// The proxies that name the client of a request.
    pub trusted_proxies: Vec<Network>,
    /// The most connections of the public listener.
    pub max_connections: usize,
    /// The most of them from one address.
    pub max_connections_per_address: usize,
    /// The longest header section that is read, in bytes.
    pub max_header_bytes: usize,
    /// How long it still serves after it was told to stop.
    pub shutdown_delay: Seconds,
}

/// Where a certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `server.tls_certificate_file`: the certificate, then its chain.
    pub certificate: PathBuf,
    /// `server.tls_key_file`: the private key.
    pub key: PathBuf,
}

/// What lies there.
pub struct TlsTexts {
    /// Certificates, not parsed.
    pub certificate: Vec<u8>,
    /// The key, not parsed.
    pub key: Zeroizing<String>,
}

impl TlsFiles {
    /// Reads both.
    ///
    /// # Errors
    /// A file that cannot be read, or a key that is empty or open to group or others.
    pub fn read(&self) -> Result<TlsTexts, ConfigError> {
        let unreadable = |source| ConfigError::SecretUnreadable {
            setting: "server.tls_certificate_file",
            path: self.certificate.clone(),
            source,
        };
        let content = reading::read(&self.certificate).map_err(unreadable)?;
        let certificate = text::without_mark(&content)
            .map_err(|error| unreadable(std::io::Error::other(error)))?
            .to_vec();
        let key = secret_file::read_pem("server.tls_key_file", &self.key)?;
        Ok(TlsTexts { certificate, key })
    }
}

/// Section `outbound`.
#[derive(Clone, Debug)]
pub struct OutboundSettings {
    /// Private networks that may be fetched from.
    pub allowed_networks: Vec<Network>,
    /// Certificates that are believed beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Section `keys`.
#[derive(Clone, Debug)]
pub struct KeySettings {
    /// The windows, held against each other.
    pub policy: Policy,
    /// Where the master key comes from.
    pub master_key: MasterKeySource,
    /// Where this machine remembers revoked keys; none when no setting names it and neither the database nor the master key
    /// is a file.
    pub ledger_file: Option<PathBuf>,
    /// Where an older version kept it by default; what it names stays revoked.
    pub former_ledger_file: Option<PathBuf>,
}

/// Where the master key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    /// No setting names one.
    Missing,
    /// `keys.master_key`.
    Value(SecretText),
    /// `keys.master_key_file`, relative to the working directory.
    File(PathBuf),
}

/// Section `tokens`; `max_token_ttl` is also a window of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// How long an access token lives when its client says nothing else.
    pub access_token_ttl: Seconds,
    /// The longest lifetime of any token.
    pub max_token_ttl: Seconds,
    /// For clients without an algorithm of their own.
    pub default_algorithm: Algorithm,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormatSetting,
    /// Which lines are written, in the syntax of `tracing_subscriber::EnvFilter`; it parses.
    pub filter: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormatSetting {
    /// For people.
    Text,
    /// For collectors, one object a line.
    Json,
}

/// What the dates of a token are compared with where no server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenDates {
    /// How far ahead another clock may be.
    pub clock_skew: Seconds,
    /// The longest lifetime of a token.
    pub max_token_ttl: Seconds,
}

impl TokenDates {
    /// Reads these two settings alone: whoever verifies a token has none of the others.
    ///
    /// # Errors
    /// When a source cannot be read, or one of the two is no duration.
    pub fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let layers = Layers::read(sources)?;
        Ok(Self {
            clock_skew: layers.required("keys.clock_skew", parse_duration)?,
            max_token_ttl: layers.required("tokens.max_token_ttl", parse_duration)?,
        })
    }
}

impl Config {
    /// Reads the sources, parses every value and holds them against each other.
    ///
    /// The master key is not read here, so that `config check` and `config show` need none: see [`Config::master_key_text`].
    ///
    /// # Errors
    /// The first thing that is wrong, in one sentence.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = Layers::read(sources)?;
        if sources.development {
            add_development_defaults(&mut layers)?;
        }
        let server = read_server(&layers)?;
        let outbound = OutboundSettings {
            allowed_networks: layers.list("outbound.allowed_networks", str::parse)?,
            ca_file: layers.text("outbound.ca_file", |path| Ok(PathBuf::from(path)))?,
        };
        let database = read_database(&mut layers)?;
        let policy = Policy::new(read_windows(&layers)?)?;
        let tokens = read_tokens(&layers, &policy)?;
        let accounts = Accounts::read(&layers, &server, tokens.max_token_ttl)?;
        let forward_auth = ForwardAuth::read(&layers, &accounts.client.audience)?;
        let master_key = read_master_key_source(&layers)?;
        let ledger_file = read_ledger_file(&layers, &database, &master_key)?;
        refuse_shared_files(&layers, &database, ledger_file.as_deref())?;
        let former_ledger_file = beside_master_key(&master_key).filter(|former| ledger_file.as_ref() != Some(former));
        let log = read_log(&layers)?;
        layers.set("database.url", database.to_string());
        if let MasterKeySource::Value(_) = master_key {
            layers.set("keys.master_key", "hidden");
        }
        Ok(Self {
            server,
            outbound,
            database,
            keys: KeySettings {
                policy,
                master_key,
                ledger_file,
                former_ledger_file,
            },
            tokens,
            accounts,
            forward_auth,
            log,
            shown: layers.into_values(),
        })
    }

    /// The setting that gives the URL of the database.
    #[must_use]
    pub fn database_setting(&self) -> &'static str {
        if self.shown.contains_key("database.url_file") {
            "database.url_file"
        } else {
            "database.url"
        }
    }

    /// The master key as it was written, read from its file if it lies in one.
    ///
    /// # Errors
    /// No setting names one, or its file cannot be read, is empty, or is open to group or others.
    pub fn master_key_text(&self) -> Result<Zeroizing<String>, ConfigError> {
        match &self.keys.master_key {
            MasterKeySource::Missing => Err(ConfigError::NoMasterKey),
            MasterKeySource::Value(secret) => Ok(Zeroizing::new(secret.reveal().to_owned())),
            MasterKeySource::File(path) => {
                // A name that may be a secret itself is not repeated.
                let is_absent = path
                    .symlink_metadata()
                    .is_err_and(|error| error.kind() == ErrorKind::NotFound);
                if is_absent && !text::may_be_secret(&path.to_string_lossy()) {
                    return Err(ConfigError::NoMasterKeyFile { path: path.clone() });
                }
                secret_file::read("keys.master_key_file", path)
            }
        }
    }

    /// What holds but deserves a second thought: verifiers that would refuse tokens after each rotation, and plain http.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let policy = &self.keys.policy;
        let prepublish = policy.windows().prepublish;
        let short = policy.short_for().into_iter().map(|short| {
            format!(
                "keys.prepublish is {prepublish}, too short for {} with default caching: a key must be visible for {} before it \
                 signs, so after each rotation valid tokens may be refused for up to {}; lengthen keys.prepublish to {} if you \
                 have such verifiers",
                short.verifier,
                short.needs,
                short.refuses_for,
                prepublish + short.refuses_for
            )
        });
        let accounts = self.accounts.warnings();
        let key_set = self.key_set_warnings();
        let database = match &self.database {
            Database::Postgres(url) => postgres_tls::warning(url.reveal()),
            Database::Sqlite { .. } | Database::SqliteInMemory => None,
        };
        let inward = Network::hold_every_address(&self.outbound.allowed_networks).then(|| {
            "outbound.allowed_networks holds every address: the URL of a client's keys or of a provider can then reach this machine and every private network; list the networks that are needed"
                .to_owned()
        });
        self.server
            .warnings()
            .into_iter()
            .chain(inward)
            .chain(database)
            .chain(self.ledger_warning())
            .chain(accounts)
            .chain(key_set)
            .chain(short)
            .collect()
    }

    /// A ledger that is set back with its database knows as little as the database does.
    fn ledger_warning(&self) -> Option<String> {
        let Database::Sqlite { path } = &self.database else {
            return None;
        };
        let ledger = self.keys.ledger_file.as_deref()?;
        let folder = path.parent()?;
        // A try on this machine has nothing to lose.
        (ledger.parent() == Some(folder) && !self.server.issuer.is_loopback()).then(|| {
            format!(
                "the ledger of revoked keys, {}, lies in the folder of the database: whoever puts that folder back to an old copy puts back both, \
                 and a revoked key signs again; write keys.ledger_file with a folder that is backed up apart from the database",
                ledger.display()
            )
        })
    }

    /// Verifiers that read less than the policy may publish, or that take its `max-age` for something else.
    fn key_set_warnings(&self) -> Vec<String> {
        let policy = &self.keys.policy;
        let (keys, bytes) = policy.largest_set();
        let mut warnings = Vec::new();
        if bytes > NGINX_SET_BYTES {
            warnings.push(format!(
                "keys.rsa_bits, keys.algorithms and keys.rotation_period lead to a key set of up to {bytes} bytes, but nginx auth_jwt reads \
                 {NGINX_SET_BYTES} by default: lower keys.rsa_bits or lengthen keys.rotation_period if you have such a gateway, or raise its \
                 proxy_buffer_size and subrequest_output_buffer_size"
            ));
        }
        let most = policy.windows().max_published;
        if keys > NGINX_SET_KEYS || most > NGINX_SET_KEYS {
            warnings.push(format!(
                "keys.max_published is {most}, and the policy leads to {keys} keys, but nginx auth_jwt takes at most {NGINX_SET_KEYS}: write \
                 {NGINX_SET_KEYS} or less, and lengthen keys.rotation_period if that is refused, if you have such a gateway"
            ));
        }
        if policy.windows().jwks_max_age == Seconds::ZERO {
            warnings.push(
                "keys.jwks_max_age is 0s: Vert.x then never fetches the key set again, and SmallRye JWT falls back to an hour; write 1m or \
                 more, such as 5m, if you have such verifiers"
                    .to_owned(),
            );
        }
        warnings
    }
}

impl ServerSettings {
    fn check_connections(&self) -> Result<(), ConfigError> {
        for (setting, given, least, most) in [
            ("server.max_connections", self.max_connections, 16, 100_000),
            (
                "server.max_connections_per_address",
                self.max_connections_per_address,
                16,
                100_000,
            ),
            // The HTTP library holds a head of 128 KiB.
            ("server.max_header_bytes", self.max_header_bytes, 8_192, 65_536),
        ] {
            if !(least..=most).contains(&given) {
                return Err(PolicyError::OutOfRange {
                    setting,
                    given: given.to_string(),
                    needed: format!("from {least} to {most}"),
                }
                .into());
            }
        }
        Ok(())
    }

    /// The most connections from one address that is no trusted proxy. Behind a proxy that is not named all come from one.
    #[must_use]
    pub fn connections_per_address(&self) -> usize {
        if self.behind_tls_proxy && self.trusted_proxies.is_empty() {
            self.max_connections
        } else {
            self.max_connections_per_address
        }
    }

    /// Refuses plain http towards others:
    ///
    /// - an issuer that is not https must be on loopback, or behind a proxy that ends TLS;
    /// - a listener beyond loopback needs the same, or a certificate, which only the public one can have. An https issuer
    ///   alone is no excuse, for nobody would end TLS.
    fn check_transport(&self) -> Result<(), ConfigError> {
        if self.tls.is_some() && !self.issuer.is_https() {
            return Err(ConfigError::TlsForPlainIssuer {
                issuer: self.issuer.clone(),
            });
        }
        if self.behind_tls_proxy || self.issuer.is_loopback() {
            return Ok(());
        }
        if !self.issuer.is_https() {
            return Err(ConfigError::IssuerNotHttps {
                issuer: self.issuer.clone(),
            });
        }
        if self.is_listen_open() {
            return Err(ConfigError::PlainListener { address: self.listen });
        }
        if is_open(self.admin_listen) {
            return Err(ConfigError::OpenAdminListener {
                address: self.admin_listen,
            });
        }
        Ok(())
    }

    /// Whether a proxy is in front: it ends TLS, because this process does not.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        self.behind_tls_proxy || self.issuer.is_https() && self.tls.is_none()
    }

    /// Refuses a proxy in front that is not listed: all clients would have its address, so that they would share its limits, and a few
    /// wrong passwords of one would lock out all.
    fn check_proxies(&self) -> Result<(), ConfigError> {
        if self.is_proxied() && self.trusted_proxies.is_empty() {
            return Err(ConfigError::NoTrustedProxies);
        }
        Ok(())
    }

    /// Whether others reach the public listener in plain http.
    fn is_listen_open(&self) -> bool {
        self.tls.is_none() && is_open(self.listen)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.issuer.is_https() && !self.issuer.is_loopback() {
            warnings.push(format!(
                "server.issuer is {}, which is not https: verifiers fetch keys from it, and whoever stands between can give them \
                 others; write the https URL that the proxy serves",
                self.issuer
            ));
        }
        if Network::hold_every_address(&self.trusted_proxies) {
            warnings.push(
                "server.trusted_proxies holds every address: any client can name another address in X-Forwarded-For, so limits by \
                 address protect nothing; list the proxies alone"
                    .to_owned(),
            );
        }
        if self.max_connections_per_address > self.max_connections {
            warnings.push(format!(
                "server.max_connections_per_address is {}, more than server.max_connections ({}): one address can take every connection; \
                 write less",
                self.max_connections_per_address, self.max_connections
            ));
        }
        if !self.behind_tls_proxy && self.is_listen_open() {
            warnings.push(format!(
                "server.listen is {}: secrets and tokens cross the network in plain http; listen on loopback",
                self.listen
            ));
        }
        // Behind a proxy, in a container or a private network, monitoring reaches it from another machine.
        if is_public(self.admin_listen.ip()) || !self.behind_tls_proxy && is_open(self.admin_listen) {
            warnings.push(format!(
                "server.admin_listen is {}, which other machines can reach: it gives health and metrics to any caller in plain http, and \
                 they tell how the server is set up and how busy it is; listen on a loopback address such as 127.0.0.1:9090, or on an \
                 address of a private network that only the monitoring reaches",
                self.admin_listen
            ));
        }
        warnings
    }
}

/// Whether other machines reach a listener at this address.
fn is_open(listener: SocketAddr) -> bool {
    !listener.ip().to_canonical().is_loopback()
}

/// Whether an address is one of the internet. One that stands for every address of the machine may be within a container.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            // 100.64.0.0/10 is shared address space (RFC 6598).
            let is_shared = first == 100 && (64..128).contains(&second);
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || is_shared)
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_unique_local()
                || address.is_unicast_link_local())
        }
    }
}

/// In development the issuer follows from the listener, and the master key has a place.
fn add_development_defaults(layers: &mut Layers) -> Result<(), ConfigError> {
    if !layers.is_given("server.issuer") {
        let listen = layers.required("server.listen", address)?;
        let scheme = if layers.is_given("server.tls_certificate_file") {
            "https"
        } else {
            "http"
        };
        layers.set("server.issuer", format!("{scheme}://{}", reachable(listen)));
    }
    if !layers.is_given("keys.master_key") && !layers.is_given("keys.master_key_file") {
        layers.set("keys.master_key_file", DEVELOPMENT_MASTER_KEY_FILE);
    }
    if !layers.is_given("server.shutdown_delay") {
        layers.set("server.shutdown_delay", Seconds::ZERO.to_string());
    }
    if !layers.is_given("accounts.plain_http_cookies") {
        let issuer: Issuer = layers.required("server.issuer", str::parse)?;
        let listen = layers.required("server.listen", address)?;
        let is_possible = accounts::may_use_plain_http_cookies(&issuer, listen);
        layers.set("accounts.plain_http_cookies", is_possible);
    }
    Ok(())
}

/// Where this machine itself reaches a listener.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn address(text: &str) -> Result<SocketAddr, Refusal> {
    text.parse().map_err(|_| {
        let port = text.rsplit_once(':').map_or("", |(_, port)| port);
        let why = if port.parse::<u64>().is_ok_and(|port| port > 65_535) {
            "has a port beyond 65535; write one from 1 to 65535, such as 127.0.0.1:8080"
        } else if port.is_empty() || !text.contains(':') || text.ends_with(']') {
            "has no port; write an IP address with a port, such as 127.0.0.1:8080 or [::1]:8080"
        } else if !text.starts_with('[') && text.matches(':').count() > 1 && !text.contains('/') {
            "has an IPv6 address without brackets, which divide it from the port; write one such as [::1]:8080"
        } else {
            "is not an IP address with a port; write one such as 127.0.0.1:8080 or [::1]:8080"
        };
        Refusal(why.to_owned())
    })
}

fn algorithm(name: &str) -> Result<Algorithm, Refusal> {
    name.parse().map_err(|error: UnknownAlgorithm| {
        Refusal(format!(
            "is not an algorithm of Keyround; write RS256 or ES256{}",
            error.hint()
        ))
    })
}

fn read_server(layers: &Layers) -> Result<ServerSettings, ConfigError> {
    let max_connections = layers.count("server.max_connections")?;
    let per_address: usize = layers.count("server.max_connections_per_address")?;
    let server = ServerSettings {
        issuer: layers.required("server.issuer", str::parse)?,
        listen: layers.required("server.listen", address)?,
        admin_listen: layers.required("server.admin_listen", address)?,
        tls: read_tls_files(layers)?,
        behind_tls_proxy: layers.flag("server.behind_tls_proxy"),
        trusted_proxies: layers.list("server.trusted_proxies", str::parse)?,
        max_connections,
        // A default gives way to what somebody wrote.
        max_connections_per_address: if layers.is_given("server.max_connections_per_address") {
            per_address
        } else {
            per_address.min(max_connections)
        },
        max_header_bytes: layers.count("server.max_header_bytes")?,
        shutdown_delay: layers.required("server.shutdown_delay", shutdown_delay)?,
    };
    if server.listen == server.admin_listen && server.listen.port() != 0 {
        return Err(ConfigError::SameListener(server.listen));
    }
    if overlap(server.listen, server.admin_listen) {
        return Err(ConfigError::OverlappingListeners(server.listen, server.admin_listen));
    }
    server.check_connections()?;
    server.check_transport()?;
    server.check_proxies()?;
    Ok(server)
}

/// Whether two listeners cannot be there together: `::` takes the addresses of IPv4 too.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (takes(one, other) || takes(other, one))
}

fn shutdown_delay(text: &str) -> Result<Seconds, Refusal> {
    let delay = parse_duration(text)?;
    if delay > LONGEST_SHUTDOWN_DELAY {
        return Err(Refusal(format!("is too long; the most is {LONGEST_SHUTDOWN_DELAY}")));
    }
    Ok(delay)
}

fn read_tls_files(layers: &Layers) -> Result<Option<TlsFiles>, ConfigError> {
    let (certificate, key) = ("server.tls_certificate_file", "server.tls_key_file");
    let file = |name| layers.text(name, |path| Ok(PathBuf::from(path)));
    let half = |given, missing| Err(ConfigError::HalfTls { given, missing });
    match (file(certificate)?, file(key)?) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (Some(_), None) => half(certificate, key),
        (None, Some(_)) => half(key, certificate),
        (None, None) => Ok(None),
    }
}

fn read_database(layers: &mut Layers) -> Result<Database, ConfigError> {
    let Some(path) = layers.text("database.url_file", |path| Ok(PathBuf::from(path)))? else {
        return layers.required("database.url", str::parse);
    };
    if layers.is_given("database.url") {
        return Err(ConfigError::Both {
            setting: "database.url",
        });
    }
    let text = secret_file::read("database.url_file", &path)?;
    layers.unset("database.url");
    text.parse().map_err(|Refusal(why)| ConfigError::BadValue {
        setting: format!("the URL in {}, which database.url_file names,", path.display()),
        quoted: String::new(),
        why,
    })
}

fn read_windows(layers: &Layers) -> Result<Windows, ConfigError> {
    let duration = |name| layers.required(name, parse_duration);
    Ok(Windows {
        algorithms: layers.list("keys.algorithms", |name| {
            algorithm(name).map_err(|Refusal(why)| Refusal(format!("holds '{}', which {why}", name.escape_debug())))
        })?,
        rotation_period: duration("keys.rotation_period")?,
        prepublish: duration("keys.prepublish")?,
        verifier_cache: duration("keys.verifier_cache")?,
        jwks_max_age: duration("keys.jwks_max_age")?,
        replica_refresh: duration("keys.replica_refresh")?,
        snapshot_max_age: duration("keys.snapshot_max_age")?,
        clock_skew: duration("keys.clock_skew")?,
        verifier_leeway: duration("keys.verifier_leeway")?,
        verify_window: layers.text("keys.verify_window", parse_duration)?,
        max_token_ttl: duration("tokens.max_token_ttl")?,
        max_published: layers.count("keys.max_published")?,
        max_set_bytes: layers.count("keys.max_set_bytes")?,
        rsa_bits: read_rsa_bits(layers)?,
    })
}

fn read_rsa_bits(layers: &Layers) -> Result<RsaBits, ConfigError> {
    let bits: u32 = layers.count("keys.rsa_bits")?;
    RsaBits::try_from(bits).map_err(|_| {
        PolicyError::OutOfRange {
            setting: "keys.rsa_bits",
            given: bits.to_string(),
            needed: "2048, 3072 or 4096".to_owned(),
        }
        .into()
    })
}

fn read_tokens(layers: &Layers, policy: &Policy) -> Result<TokenSettings, ConfigError> {
    let tokens = TokenSettings {
        access_token_ttl: layers.required("tokens.access_token_ttl", parse_duration)?,
        max_token_ttl: policy.windows().max_token_ttl,
        default_algorithm: layers.required("tokens.default_algorithm", algorithm)?,
    };
    if tokens.access_token_ttl > tokens.max_token_ttl {
        return Err(ConfigError::TokenTooLong {
            given: tokens.access_token_ttl,
            longest: tokens.max_token_ttl,
        });
    }
    if tokens.access_token_ttl < Seconds(1) {
        return Err(ConfigError::TokenTooShort);
    }
    if !policy.algorithms().contains(&tokens.default_algorithm) {
        let enabled: Vec<&str> = policy.algorithms().iter().map(|alg| alg.name()).collect();
        return Err(ConfigError::AlgorithmNotEnabled {
            given: tokens.default_algorithm,
            enabled: enabled.join(", "),
        });
    }
    Ok(tokens)
}

fn read_master_key_source(layers: &Layers) -> Result<MasterKeySource, ConfigError> {
    let value = layers.text("keys.master_key", |text| Ok(SecretText::new(text.trim())))?;
    let file = layers.text("keys.master_key_file", |path| Ok(PathBuf::from(path)))?;
    match (value, file) {
        (Some(_), Some(_)) => Err(ConfigError::Both {
            setting: "keys.master_key",
        }),
        (Some(secret), None) => Ok(MasterKeySource::Value(secret)),
        (None, Some(path)) => Ok(MasterKeySource::File(path)),
        (None, None) => Ok(MasterKeySource::Missing),
    }
}

/// Where no setting names it: beside an SQLite file, whose folder can be written, else beside the master key.
fn read_ledger_file(
    layers: &Layers,
    database: &Database,
    master_key: &MasterKeySource,
) -> Result<Option<PathBuf>, ConfigError> {
    let set = layers.text("keys.ledger_file", |path| Ok(PathBuf::from(path)))?;
    Ok(set.or_else(|| match database {
        Database::Sqlite { path } => Some(path.with_file_name(LEDGER_FILE)),
        Database::Postgres(_) | Database::SqliteInMemory => beside_master_key(master_key),
    }))
}

/// Refuses one file for two purposes: what one writes, the other would read.
fn refuse_shared_files(layers: &Layers, database: &Database, ledger: Option<&Path>) -> Result<(), ConfigError> {
    const FILES: [&str; 5] = [
        "server.tls_certificate_file",
        "server.tls_key_file",
        "outbound.ca_file",
        "database.url_file",
        "keys.master_key_file",
    ];
    let mut named: Vec<(&'static str, PathBuf)> = Vec::new();
    for setting in FILES {
        named.extend(layers.text(setting, |path| Ok((setting, PathBuf::from(path))))?);
    }
    let mut written: Vec<(&'static str, PathBuf)> = Vec::new();
    if let Database::Sqlite { path } = database {
        written.push(("database.url", path.clone()));
    }
    written.extend(ledger.map(|path| ("keys.ledger_file", path.to_owned())));
    for (place, (setting, path)) in written.iter().enumerate() {
        let others = named.iter().chain(&written[..place]);
        if let Some((other, _)) = others.clone().find(|(_, other)| other == path) {
            return Err(ConfigError::SameFile {
                one: other,
                other: setting,
                path: path.clone(),
            });
        }
    }
    Ok(())
}

fn beside_master_key(master_key: &MasterKeySource) -> Option<PathBuf> {
    match master_key {
        MasterKeySource::File(path) => Some(path.with_file_name(LEDGER_FILE)),
        MasterKeySource::Missing | MasterKeySource::Value(_) => None,
    }
}

fn read_log(layers: &Layers) -> Result<Log, ConfigError> {
    let format = layers.required("log.format", |text| match text {
        "text" => Ok(LogFormatSetting::Text),
        "json" => Ok(LogFormatSetting::Json),
        _ => Err(Refusal(format!(
            "is not a form of log lines; write text or json{}",
            text::did_you_mean(text, ["text", "json"])
        ))),
    })?;
    let filter = layers.required("log.filter", log_filter::parse)?;
    Ok(Log { format, filter })
}
