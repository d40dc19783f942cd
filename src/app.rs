//! The composition root: from the configuration to a database, a keyring, two listeners and a task.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::num::NonZero;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::accounts::node_limits::NodeLimits;
use crate::clock::{Clock, Seconds, UnixTime, sleep};
use crate::config::{Config, ConfigError, settings};
use crate::crypto::keyed_hash::HashKey;
use crate::crypto::sealing::{MasterKeyId, MasterKeys, SealError};
use crate::files;
use crate::hashing::Hashing;
use crate::http;
use crate::http::client_address::ClientAddresses;
use crate::http::connections::{ConnectionLimits, Connections};
use crate::http::cookies::Cookies;
use crate::http::database_probe::DatabaseProbe;
use crate::http::listener::{BoundSocket, Listening};
use crate::http::state::Server;
use crate::jose::jwt::TokenType;
use crate::keyring::{Keyring, Ledger, LedgerError, secret_binding};
use crate::logins::Logins;
use crate::logins::federated::FederatedLogins;
use crate::logins::hash_costs::HashCosts;
use crate::oauth::client::{Client, ClientId, InvalidAccountsClient};
use crate::oauth::token::Defaults;
use crate::outbound::key_sets::RemoteKeySets;
use crate::outbound::providers::Providers;
use crate::outbound::{Outbound, OutboundError};
use crate::registry::Registry;
use crate::rotation::{Rotation, RotationError, Rotator};
use crate::sessions::{Grouped, Replays, Sessions};
use crate::store::compatibility::Compatibility;
use crate::store::nodes::Place;
use crate::store::{Db, StoreError, known_schema};
use crate::supervision::Tasks;
use crate::telemetry::{Metrics, TlsMetrics};
use crate::tls::Tls;
use crate::values::Database;

/// The name of the key that client secrets are digested with.
const HASH_KEY: &str = "client-secret-hash-key";

/// How long requests under way may take once the server is told to stop, in seconds.
pub const DRAIN_SECONDS: u64 = 10;

/// How long the end may take in all after the delay: both listeners drain, and the database closes.
const END_TIMEOUT: Duration = Duration::from_secs(DRAIN_SECONDS * 2);

/// The most connections of the admin listener.
pub const ADMIN_CONNECTIONS: usize = 64;

/// Files that are kept free for the database, for what is fetched, and for connections that just end.
const RESERVED_FILES: usize = 128;

/// With room for fewer connections nothing is served.
const LEAST_CONNECTIONS: usize = 16;

/// Why nothing was started. Nothing was bound, and no key was made in place of another.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings, or a secret that they name.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The master key is no master key.
    #[error("the master key cannot be used: {0}")]
    MasterKey(SealError),
    /// The rows were sealed under another master key.
    #[error(
        "this database was sealed under another master key; start with the master key that it was made with (no key was made \
         or changed)"
    )]
    WrongMasterKey,
    /// Rows lie under master keys that are not listed.
    #[error(
        "this database was sealed under another master key that is not listed: {0}; list it after the one that seals, one a \
         line, until 'keyround master-key rewrap' has moved every row (no key was made or changed)"
    )]
    MasterKeyNotListed(String),
    /// Rows are missing.
    #[error(
        "a copy from {0} into this database did not finish: run 'keyround db copy' there again, or use another database (no key was made \
         or changed)"
    )]
    UnfinishedCopy(String),
    /// The ledger of revoked kids.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The outbound HTTP client.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The first look at the keys.
    #[error("the keys are not in order: {0}")]
    Rotation(#[from] RotationError),
    /// A registered client is called what people log in with.
    #[error(
        "there is a client '{0}', but accounts.client_id is the same, so that its tokens would look like people's; write \
         another name there, or delete that client"
    )]
    FirstPartyClient(ClientId),
    /// The client that people log in with cannot be.
    #[error("accounts.client_id or accounts.audience cannot be used: {0}")]
    AccountsClient(#[from] InvalidAccountsClient),
    /// The audience of people's tokens is a registered client's id.
    #[error(
        "there is a client '{0}', but accounts.audience is the same and accounts.token_type is JWT, so that people's access tokens \
         would look like ID tokens for it; write another audience there, or accounts.token_type = \"at+jwt\""
    )]
    AudienceOfClient(String),
    /// There would be no room for connections.
    #[error(
        "this process may open only {limit} files, but needs at least {least}; raise the limit (LimitNOFILE, ulimit -n)"
    )]
    TooFewFiles {
        /// How many it may open.
        limit: usize,
        /// How many it needs.
        least: usize,
    },
    /// A listener.
    #[error("cannot listen on {address} ({setting}): {}", why_not_bound(setting, *address, *free_port, source))]
    Listener {
        /// The setting of its address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Another port, which nobody used a moment ago.
        free_port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file of the database can be neither made nor found.
    #[error("the database {path} cannot be made: {why}", path = path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said, and what to do.
        why: String,
    },
    /// A folder or a file.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why an address cannot be taken, and the way on.
fn why_not_bound(setting: &'static str, address: SocketAddr, free_port: u16, error: &std::io::Error) -> String {
    let port = address.port();
    let instead = |port: u16| {
        let other = SocketAddr::new(address.ip(), port);
        let variable = settings::find(setting).map_or(String::new(), settings::Setting::variable);
        format!("{variable}={other} (or --set {setting}={other})")
    };
    match error.kind() {
        ErrorKind::AddrInUse => format!(
            "another program uses port {port}; stop it ('ss -tanp sport = :{port}' names it, be it a listener or a connection), or choose another port by {}",
            instead(free_port)
        ),
        ErrorKind::PermissionDenied => format!(
            "this user may not use port {port}; choose one from 1024 on by {}, or grant the process CAP_NET_BIND_SERVICE",
            instead(port.saturating_add(8000))
        ),
        ErrorKind::AddrNotAvailable => format!(
            "no network interface of this machine has the address {}; 'ip address' lists those that it has, and {setting} ({}) \
             chooses one",
            address.ip(),
            settings::find(setting).map_or(String::new(), settings::Setting::variable)
        ),
        _ => error.to_string(),
    }
}

/// How many ports are tried for one that is free.
const TRIED_PORTS: u16 = 100;

/// The next port that is free on this address, and is none of these.
fn free_port_after(address: SocketAddr, ours: [u16; 2]) -> u16 {
    let next = address.port().checked_add(1).unwrap_or(8080);
    (next..=next.saturating_add(TRIED_PORTS))
        .filter(|port| !ours.contains(port))
        .find(|&port| std::net::TcpListener::bind((address.ip(), port)).is_ok())
        .unwrap_or(next)
}

/// The addresses of both listeners, taken before anything is made: a start that finds one in use leaves no key, file or client.
pub struct Addresses {
    public: BoundSocket,
    admin: BoundSocket,
}

impl Addresses {
    /// Takes both.
    ///
    /// # Errors
    /// The one that cannot be taken.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        let ours = [config.server.listen.port(), config.server.admin_listen.port()];
        let bind = |setting, address| {
            BoundSocket::new(address).map_err(|source| StartError::Listener {
                setting,
                address,
                free_port: free_port_after(address, ours),
                source,
            })
        };
        Ok(Self {
            public: bind(PUBLIC, config.server.listen)?,
            admin: bind(ADMIN, config.server.admin_listen)?,
        })
    }
}

/// The settings of the listeners.
const PUBLIC: &str = "server.listen";
const ADMIN: &str = "server.admin_listen";

/// What the server and the command line both stand on.
pub struct Foundation {
    /// What changes keys, with the database, the policy and the clock.
    pub rotator: Rotator,
    /// What client secrets are digested with.
    pub hash_key: HashKey,
    /// Whether the database had no tables before.
    pub is_new: bool,
}

/// How often a start is tried when other processes that start in the same moment are in its way: a new SQLite file changes its journal
/// without waiting for anybody.
const ATTEMPTS: u32 = 20;
/// How long they are left alone.
const PAUSE: Duration = Duration::from_millis(50);

/// What happens to a schema that is older than this binary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Schema {
    BroughtUpToDate,
    Required,
}

impl Foundation {
    /// Reads the master key, opens the database, brings its schema up to date, and compares the one with the other.
    ///
    /// # Errors
    /// The first thing that is not in order.
    pub async fn open(config: &Config, clock: Clock) -> Result<Self, StartError> {
        Box::pin(Self::open_with(config, clock, Schema::BroughtUpToDate)).await
    }

    /// The same for a command, which makes the schema of a new database, and refuses one that is older than this binary.
    ///
    /// # Errors
    /// The first thing that is not in order.
    pub async fn open_for_command(config: &Config, clock: Clock) -> Result<Self, StartError> {
        Self::open_with(config, clock, Schema::Required).await
    }

    async fn open_with(config: &Config, clock: Clock, schema: Schema) -> Result<Self, StartError> {
        for _ in 1..ATTEMPTS {
            match Self::open_once(config, clock.clone(), schema).await {
                Err(StartError::Store(StoreError::Conflict)) => sleep(PAUSE).await,
                answer => return answer,
            }
        }
        Self::open_once(config, clock, schema).await
    }

    async fn open_once(config: &Config, clock: Clock, schema: Schema) -> Result<Self, StartError> {
        // Before anything else: without a master key nothing is touched.
        let master_key = MasterKeys::parse(&config.master_key_text()?).map_err(StartError::MasterKey)?;
        let ledger = open_ledger(config);
        if schema == Schema::BroughtUpToDate
            && let Some(ledger) = &ledger
        {
            // A command may be the emergency itself.
            ledger.require_readable()?;
        }
        let db = open_database(&config.database).await?;
        refuse_unfinished_copy(&db).await?;
        let is_new = db.schema_version().await? == 0;
        if schema == Schema::Required && !is_new {
            db.require_compatible_schema().await?;
            db.require_utf8().await?;
        } else {
            db.migrate().await?;
        }
        if db.compatibility().await? == Compatibility::Later {
            let found = db.schema_version().await?;
            tracing::warn!(
                schema.found = found,
                schema.known = known_schema(),
                "a later version of Keyround has made this schema, which works with this version: as while an upgrade rolls on, or after a \
                 roll-back"
            );
        }
        if schema == Schema::BroughtUpToDate {
            db.require_rights().await?;
            db.require_whole_schema().await?;
        }
        refuse_unlisted(&db, &master_key).await?;
        let hash_key = hash_key(&db, &master_key, &clock).await?;
        db.ensure_default_tenant(clock.read().wall).await?;
        Ok(Self {
            rotator: Rotator {
                db,
                master_key: Arc::new(master_key),
                policy: Arc::new(config.keys.policy.clone()),
                clock,
                ledger: ledger.map(Arc::new),
            },
            hash_key,
            is_new,
        })
    }
}

/// The ledger of this machine, with the names that an older version wrote beside the master key.
#[must_use]
pub fn open_ledger(config: &Config) -> Option<Ledger> {
    let path = config.keys.ledger_file.as_deref()?;
    Some(Ledger::open(path, config.keys.former_ledger_file.as_deref()))
}

/// Names the servers that use the same SQLite file. It works, since each change is one transaction, but it is rarely meant: their writes
/// wait for each other, and over a network file system SQLite's locks do not hold.
async fn warn_of_other_servers(config: &Config, rotator: &Rotator) -> Result<(), StartError> {
    let Database::Sqlite { path } = &config.database else {
        return Ok(());
    };
    let now = rotator.clock.read().wall;
    let memory = rotator.policy.windows().snapshot_max_age;
    let others = rotator.db.living_nodes(now, memory).await?;
    if !others.is_empty() {
        let names: Vec<String> = others
            .iter()
            .map(|node| format!("{node}, seen {} ago", (now - UnixTime(node.seen_at)).abs()))
            .collect();
        tracing::warn!(
            "another server uses the SQLite file {} too, or was killed a moment ago: {}. Processes of one machine may share the file, \
             but their writes wait for each other; for several machines use PostgreSQL ('keyround db copy'), never a network file system",
            path.display(),
            names.join(", ")
        );
    }
    Ok(())
}

/// The client that people log in with: the row of its id, if there is one, else what the settings describe. This version writes no such row:
/// the version before does not start where it finds one.
///
/// # Errors
/// When a registered service has its id, or the database does not answer.
pub async fn client_of_accounts(config: &Config, db: &Db, now: UnixTime) -> Result<Client, StartError> {
    let described = Client::of_accounts(&config.accounts.client, now)?;
    let row = if config.accounts.enabled {
        db.client(&described.id).await?
    } else {
        None
    };
    match row {
        None => Ok(described),
        Some(stored) if stored.client.may_be_of_accounts() => Ok(stored.client),
        Some(_) => Err(StartError::FirstPartyClient(described.id)),
    }
}

/// Refuses to serve people with tokens of type JWT whose audience is a client's id: they would look like ID tokens for it.
async fn refuse_audience_of_client(config: &Config, client: &Client, db: &Db) -> Result<(), StartError> {
    let audience = client.default_audience();
    if config.accounts.enabled && client.token_type == TokenType::Jwt && db.is_client_id(audience).await? {
        return Err(StartError::AudienceOfClient(audience.to_owned()));
    }
    Ok(())
}

/// Opens the database of this configuration and brings its schema up to date.
///
/// # Errors
/// When its folder cannot be made, it does not answer, or a migration fails.
pub async fn connect(database: &Database) -> Result<Db, StartError> {
    let db = open_database(database).await?;
    db.migrate().await?;
    Ok(db)
}

/// Opens the database of this configuration with the schema that it has.
///
/// # Errors
/// When its folder cannot be made, or it does not answer.
pub async fn open_database(database: &Database) -> Result<Db, StartError> {
    if let Database::Sqlite { path } = database {
        make_folder(path)
            .and_then(|()| make_private(path))
            .map_err(|error| StartError::Unwritable {
                path: path.clone(),
                why: files::unwritable(path, &error),
            })?;
        keep_private(path).map_err(|source| StartError::Io {
            what: match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if !path.exists() => {
                    format!(
                        "{} cannot be made, because this user may not write its folder",
                        path.display()
                    )
                }
                _ => format!("{} cannot be kept from other users", path.display()),
            },
            source,
        })?;
    }
    Ok(Db::connect(database).await?)
}

/// Refuses a database that is the target of a copy which did not finish: it looks like a new one.
///
/// # Errors
/// When it is, or it does not answer.
pub async fn refuse_unfinished_copy(db: &Db) -> Result<(), StartError> {
    match db.unfinished_copy().await? {
        None => Ok(()),
        Some(source) => Err(StartError::UnfinishedCopy(source)),
    }
}

/// Refuses to go on without a master key that rows still lie under.
async fn refuse_unlisted(db: &Db, master_key: &MasterKeys) -> Result<(), StartError> {
    let mut needed: BTreeMap<MasterKeyId, usize> = BTreeMap::new();
    for row in db.sealed_rows().await? {
        if let Some(id) = MasterKeyId::named_in(&row.sealed).filter(|id| !master_key.lists(id)) {
            *needed.entry(id).or_default() += 1;
        }
    }
    if needed.is_empty() {
        return Ok(());
    }
    let needed: Vec<String> = needed
        .iter()
        .map(|(id, rows)| {
            format!(
                "{rows} {} the master key {id}",
                if *rows == 1 { "row needs" } else { "rows need" }
            )
        })
        .collect();
    Err(StartError::MasterKeyNotListed(needed.join(", ")))
}

/// Makes the file of a database for its owner alone; SQLite gives the files beside it the same mode.
fn make_private(file: &Path) -> std::io::Result<()> {
    let created = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    match created {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created.map(drop),
    }
}

/// How every SQLite database begins that has a table.
const SQLITE_HEADER: &[u8; 16] = b"SQLite format 3\0";

/// Takes back a file that an earlier version made for everybody; a group that may write it was chosen on purpose, and keeps its rights.
fn keep_private(file: &Path) -> std::io::Result<()> {
    // A file that was named by mistake stays as it is.
    let mut beginning = [0; SQLITE_HEADER.len()];
    let is_database = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut beginning));
    if is_database.is_err() || beginning != *SQLITE_HEADER {
        return Ok(());
    }
    for beside in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(beside);
        let path = Path::new(&name);
        let Ok(metadata) = path.metadata() else { continue };
        let mode = metadata.mode() & 0o777;
        let private = mode & if mode & 0o020 == 0 { 0o700 } else { 0o770 };
        // Another owner decides for itself.
        if metadata.is_file() && private != mode && metadata.uid() == rustix::process::geteuid().as_raw() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(private))?;
        }
    }
    Ok(())
}

fn make_folder(file: &Path) -> std::io::Result<()> {
    match file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

/// The key for digests of client secrets; that it opens shows that the master key is the right one.
async fn hash_key(db: &Db, master_key: &MasterKeys, clock: &Clock) -> Result<HashKey, StartError> {
    let binding = secret_binding(HASH_KEY);
    let sealed = if let Some(sealed) = db.secret(HASH_KEY).await? {
        sealed
    } else {
        if !db.signing_keys().await?.rows.is_empty() {
            return Err(StartError::WrongMasterKey);
        }
        let fresh = HashKey::generate().map_err(|error| StartError::MasterKey(error.into()))?;
        let sealed = master_key
            .seal(&binding, fresh.as_bytes())
            .map_err(StartError::MasterKey)?;
        db.secret_or_insert(HASH_KEY, &sealed, clock.read().wall).await?
    };
    let opened = master_key
        .open(&binding, &sealed)
        .map_err(|_| StartError::WrongMasterKey)?;
    let bytes = <[u8; 32]>::try_from(opened.as_slice()).map_err(|_| StartError::WrongMasterKey)?;
    Ok(HashKey::from_bytes(bytes))
}

/// Refuses a certificate or key that could not be served, before anything is touched; says what deserves a second thought.
///
/// # Errors
/// What is wrong with them.
pub fn check_tls(config: &Config, clock: &Clock) -> Result<Option<String>, StartError> {
    let tls = load_tls(config, clock, TlsMetrics::default())?;
    Ok(tls.and_then(|tls| tls.warning().map(str::to_owned)))
}

fn load_tls(config: &Config, clock: &Clock, metrics: TlsMetrics) -> Result<Option<Tls>, StartError> {
    let now = clock.read().wall;
    let files = config.server.tls.as_ref();
    let issuer = &config.server.issuer;
    Ok(files.map(|files| Tls::load(files, issuer, metrics, now)).transpose()?)
}

/// One thread for each core.
fn hashing(config: &Config, clock: &Clock) -> Result<Hashing, StartError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    Hashing::start(threads, config.accounts.hashing_queue, clock.clone()).map_err(|source| StartError::Io {
        what: "the threads that hash passwords cannot be started".to_owned(),
        source,
    })
}

/// A server that serves.
pub struct Running {
    /// Where the public endpoints are.
    pub public: SocketAddr,
    /// Where health and metrics are.
    pub admin: SocketAddr,
    /// What the handlers work with; a test looks in here.
    pub server: web::Data<Server>,
    shutdown_delay: Seconds,
    stop: watch::Sender<bool>,
    handles: [ServerHandle; 2],
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Takes the addresses and starts everything.
    ///
    /// # Errors
    /// The first thing that is not in order.
    pub async fn start(config: &Config, foundation: Foundation) -> Result<Self, StartError> {
        // On the heap: what waits for a start need not carry it.
        Box::pin(Self::start_on(config, foundation, Addresses::bind(config)?)).await
    }

    /// Starts everything on addresses that are taken: keys first, and connections are accepted last.
    ///
    /// # Errors
    /// The first thing that is not in order.
    pub async fn start_on(config: &Config, foundation: Foundation, addresses: Addresses) -> Result<Self, StartError> {
        let Foundation {
            mut rotator, hash_key, ..
        } = foundation;
        rotator.db = rotator.db.with_patience();
        warn_of_other_servers(config, &rotator).await?;
        let client = client_of_accounts(config, &rotator.db, rotator.clock.read().wall).await?;
        refuse_audience_of_client(config, &client, &rotator.db).await?;
        let room = room_for_connections(config.server.max_connections)?;
        let metrics = Metrics::default();
        let tls = load_tls(config, &rotator.clock, metrics.tls.clone())?;
        let clock = rotator.clock.clone();
        let keyring = Keyring::load(
            rotator.db.clone(),
            Arc::clone(&rotator.master_key),
            Arc::clone(&rotator.policy),
            rotator.clock.clone(),
            rotator.ledger.clone(),
        );
        let keyring = Arc::new(keyring.await?.at(Place::here(addresses.public.address)));
        if rotator.ledger.is_none() {
            tracing::warn!(
                "no ledger of revoked keys is kept, because keys.ledger_file is not set: a database that is set back to an old \
                 backup brings revoked keys back"
            );
        }
        let rotation = Arc::new(Rotation::new(rotator.clone(), Arc::clone(&keyring)));
        rotation.tick().await?;
        let hash_key = Arc::new(hash_key);
        let sessions = Arc::new(Sessions {
            db: rotator.db.clone(),
            keyring: Arc::clone(&keyring),
            hash_key: Arc::clone(&hash_key),
            clock: rotator.clock.clone(),
            issuer: config.server.issuer.as_str().to_owned(),
            alg: config.tokens.default_algorithm,
            client,
            access_token_ttl: config.tokens.access_token_ttl,
            settings: config.accounts.sessions.clone(),
            metrics: metrics.sessions.clone(),
            replays: Replays::default(),
            families: Grouped::default(),
            claims: Grouped::default(),
        });
        let logins = Logins {
            db: rotator.db.clone(),
            hash_costs: HashCosts::default(),
            sessions: Arc::clone(&sessions),
            hashing: hashing(config, &rotator.clock)?,
            hash_key: Arc::clone(&hash_key),
            settings: config.accounts.logins.clone(),
            host: config.server.issuer.host().to_owned(),
            metrics: metrics.logins.clone(),
        };
        let outbound = Outbound::new(&config.outbound)?;
        let federated_logins = FederatedLogins {
            db: rotator.db.clone(),
            providers: Providers::new(outbound.clone()),
            hash_key: Arc::clone(&hash_key),
            master_keys: Arc::clone(&rotator.master_key),
            issuer: config.server.issuer.clone(),
            allowed_origins: config.accounts.allowed_origins.clone(),
            registration: config.accounts.logins.registration,
        };
        let unbound_until = rotator.db.unbound_sessions_until().await?;
        let server = web::Data::new(Server {
            issuer: config.server.issuer.as_str().to_owned(),
            issuer_path: config.server.issuer.path().to_owned(),
            max_header_bytes: config.server.max_header_bytes,
            client_addresses: ClientAddresses::new(&config.server),
            forward_auth: config.forward_auth.clone(),
            origin: config.server.issuer.origin(),
            allowed_origins: config.accounts.allowed_origins.clone(),
            has_accounts: config.accounts.enabled,
            cookies: Cookies::new(&config.accounts, config.server.issuer.path()),
            defaults: Defaults {
                alg: config.tokens.default_algorithm,
                access_token_ttl: config.tokens.access_token_ttl,
                max_token_ttl: config.tokens.max_token_ttl,
            },
            remote_key_sets: RemoteKeySets::new(outbound),
            registry: Registry::new(rotator.db.clone(), rotator.clock.clone()),
            database_probe: DatabaseProbe::new(rotator.db.clone(), rotator.clock.clone(), config.database.role()),
            db: rotator.db,
            keyring,
            rotation: Arc::clone(&rotation),
            sessions: Arc::clone(&sessions),
            node_limits: Mutex::new(NodeLimits::new(
                config.accounts.refreshes_of_session,
                config.accounts.refreshes_from_address,
            )),
            logins,
            federated_logins,
            hash_key,
            unbound_until,
            started_at: rotator.clock.read().wall,
            clock: rotator.clock,
            connections: Connections::new(
                ConnectionLimits {
                    total: room,
                    per_address: config.server.connections_per_address(),
                    proxies: config.server.trusted_proxies.clone(),
                },
                metrics.displaced_connections.clone(),
            ),
            is_stopping: AtomicBool::new(false),
            tasks: Tasks::default(),
            metrics,
        });
        let (stop, stopped) = watch::channel(false);
        let public_server = server.clone();
        let acceptor = tls.as_ref().map(Tls::acceptor).transpose();
        let (public, public_handle, public_task) = listen(
            PUBLIC,
            Listening {
                bound: addresses.public,
                tls: acceptor.map_err(|source| StartError::Io {
                    what: "TLS cannot be set up".to_owned(),
                    source: source.into(),
                })?,
                workers: None,
                connections: Arc::clone(&server.connections),
                most: room,
                routes: move |routes: &mut web::ServiceConfig| http::routes::public_routes(&public_server)(routes),
                drain_seconds: DRAIN_SECONDS,
            },
            &server,
        )?;
        let (admin, admin_handle, admin_task) = listen(
            ADMIN,
            Listening {
                bound: addresses.admin,
                tls: None,
                workers: Some(1),
                connections: Connections::new(
                    ConnectionLimits {
                        total: ADMIN_CONNECTIONS,
                        per_address: ADMIN_CONNECTIONS,
                        proxies: Vec::new(),
                    },
                    server.metrics.displaced_connections.clone(),
                ),
                most: ADMIN_CONNECTIONS,
                routes: http::routes::admin_routes,
                drain_seconds: DRAIN_SECONDS,
            },
            &server,
        )?;
        let mut tasks = vec![
            public_task,
            admin_task,
            tokio::spawn(rotation.run(server.tasks.clone(), stopped.clone())),
            tokio::spawn(sessions.housekeeping().run(server.tasks.clone(), stopped.clone())),
        ];
        let follow_tls = |tls: Tls| Arc::new(tls).follow(clock, server.tasks.clone(), stopped);
        tasks.extend(tls.map(|tls| tokio::spawn(follow_tls(tls))));
        tracing::info!(%public, %admin, issuer = %config.server.issuer, "serving");
        Ok(Self {
            public,
            admin,
            server,
            shutdown_delay: config.server.shutdown_delay,
            stop,
            handles: [public_handle, admin_handle],
            tasks,
        })
    }

    /// Says at `/readyz` that it stops, serves on for `server.shutdown_delay`, finishes the requests under way, and ends.
    ///
    /// Load balancers notice within the delay and send nothing more. Kept connections end with their next answer.
    pub async fn stop(mut self) {
        self.server.is_stopping.store(true, Ordering::Relaxed);
        tracing::info!(
            shutdown_delay = %self.shutdown_delay,
            "stopping: /readyz says so, and after the delay requests under way are finished; a second signal ends at once"
        );
        sleep(self.shutdown_delay.duration()).await;
        tokio::select! {
            () = self.end() => {}
            // What does not end by itself, such as a task that is stuck, must not hold the process.
            () = sleep(END_TIMEOUT) => tracing::error!("not everything ended in time; the process ends all the same"),
        }
    }

    async fn end(&mut self) {
        let [public, admin] = &self.handles;
        public.stop(true).await;
        self.stop.send_replace(true);
        admin.stop(true).await;
        for task in &mut self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task ended badly");
            }
        }
        self.server.db.close().await;
    }
}

fn listen(
    setting: &'static str,
    listening: Listening<impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static>,
    server: &web::Data<Server>,
) -> Result<(SocketAddr, ServerHandle, JoinHandle<()>), StartError> {
    let address = listening.bound.address;
    let (bound, running) = http::listener::listen(listening, server).map_err(|source| StartError::Listener {
        setting,
        address,
        free_port: free_port_after(address, [address.port(); 2]),
        source,
    })?;
    let handle = running.handle();
    let task = tokio::spawn(async move {
        if let Err(error) = running.await {
            tracing::error!(%error, "a listener ended badly");
        }
    });
    Ok((bound, handle, task))
}

/// How many connections there can be for this setting: as many as files may be open, without what is open and what else needs one.
fn room_for_connections(wanted: usize) -> Result<usize, StartError> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        // Where this is not allowed, the limit stays as it is.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let limit = limit
        .current
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let open = std::fs::read_dir("/proc/self/fd").map_or(RESERVED_FILES, Iterator::count);
    let room = limit.saturating_sub(open + RESERVED_FILES + ADMIN_CONNECTIONS);
    if room < LEAST_CONNECTIONS {
        return Err(StartError::TooFewFiles {
            limit,
            least: open + RESERVED_FILES + ADMIN_CONNECTIONS + LEAST_CONNECTIONS,
        });
    }
    if room < wanted {
        tracing::warn!(
            "server.max_connections is {wanted}, but this process may open only {limit} files, so that it holds at most {room} \
             connections; raise the limit (LimitNOFILE, ulimit -n)"
        );
    }
    Ok(wanted.min(room))
}
