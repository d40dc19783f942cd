//! What the tests stand on: a fresh database of either kind, and a whole server on port 0 whose clock the test holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use keyround::app::{Foundation, Running, connect};
use keyround::clock::{Clock, Seconds, UnixTime};
use keyround::config::{Config, Sources};
use keyround::crypto::keyed_hash::HashKey;
use keyround::crypto::purpose::Purpose;
use keyround::crypto::random::random_secret;
use keyround::crypto::sealing::MasterKey;
use keyround::events::{Entry, Event};
use keyround::jose::alg::Algorithm;
use keyround::oauth::claims::ScopeClaims;
use keyround::oauth::client::{Client, Grant};
use keyround::store::Db;
use keyround::values::Database;
use serde_json::Value;
use tempfile::TempDir;

/// Where a manual clock begins.
pub const START: UnixTime = UnixTime(1_800_000_000);

/// A database of one test's own; gone with it.
pub struct TestDatabase {
    /// Its URL.
    pub url: String,
    /// A folder of the test's own; an SQLite file lies in it.
    pub folder: TempDir,
}

impl TestDatabase {
    /// An SQLite file.
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("keyround.db").display());
        Self { url, folder }
    }

    /// A database on the throw-away PostgreSQL.
    pub async fn postgres() -> Self {
        Self::postgres_with("").await
    }

    /// The same, made with these options.
    pub async fn postgres_with(options: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = postgres_url();
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let pool = sqlx::PgPool::connect(&server).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} {options}")))
            .execute(&pool)
            .await
            .unwrap();
        pool.close().await;
        let mut url = url::Url::parse(&server).unwrap();
        url.set_path(&name);
        Self {
            url: url.to_string(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Opened, with the schema up to date.
    pub async fn open(&self) -> Db {
        connect(&self.url.parse::<Database>().unwrap()).await.unwrap()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the harness names the server by the environment"
)]
fn postgres_url() -> String {
    std::env::var("TEST_POSTGRES_URL").expect("TEST_POSTGRES_URL is not set: run the tests by `make test`")
}

/// Runs one test body on an SQLite database and on a PostgreSQL one.
#[macro_export]
macro_rules! on_both_databases {
    ($name:ident, |$database:ident| $body:expr) => {
        mod $name {
            use super::*;

            async fn body($database: $crate::helpers::TestDatabase) {
                $body
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                body($crate::helpers::TestDatabase::sqlite()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                body($crate::helpers::TestDatabase::postgres().await).await;
            }
        }
    };
}

/// A server with a clock of its own.
pub struct TestApp {
    /// The server.
    pub running: Running,
    /// The settings it runs with.
    pub config: Config,
    /// Its clock.
    pub clock: Clock,
    /// Where the public endpoints are: `http://127.0.0.1:PORT`.
    pub url: String,
    /// Where health and metrics are.
    pub admin_url: String,
    /// Follows no redirect.
    pub http: reqwest::Client,
    hash_key: HashKey,
}

/// Settings for a test: port 0, a master key, the issuer `http://127.0.0.1:8080`, and what the test adds
/// (`[("keys.rotation_period", "1h")]`).
pub fn config(database: &TestDatabase, settings: &[(&str, &str)]) -> Config {
    let mut flags: BTreeMap<String, String> = [
        ("server.issuer", "http://127.0.0.1:8080"),
        ("server.listen", "127.0.0.1:0"),
        ("server.admin_listen", "127.0.0.1:0"),
        ("server.shutdown_delay", "0s"),
        // For tests alone.
        ("keys.master_key", "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U="),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    flags.insert("database.url".to_owned(), database.url.clone());
    flags.extend(
        settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    Config::load(&Sources {
        flags,
        ..Sources::default()
    })
    .unwrap()
}

/// A server waits for a statement only so long. On a busy machine what starts servers starts it again.
async fn running(config: &Config, clock: &Clock) -> (Running, HashKey) {
    for _ in 0..20 {
        let foundation = Foundation::open(config, clock.clone()).await.unwrap();
        let hash_key = HashKey::from_bytes(*foundation.hash_key.as_bytes());
        match Running::start(config, foundation).await {
            Ok(running) => return (running, hash_key),
            Err(error) => assert!(error.to_string().contains("timed out"), "{error}"),
        }
    }
    panic!("the database is too slow for a start");
}

impl TestApp {
    /// A server on this database whose clock stands still at [`START`].
    pub async fn start(database: &TestDatabase, settings: &[(&str, &str)]) -> Self {
        Self::start_with_clock(database, settings, Clock::manual(START)).await
    }

    /// A server on this database with this clock. PostgreSQL's clock is real, so a server on it needs a real one too.
    pub async fn start_with_clock(database: &TestDatabase, settings: &[(&str, &str)], clock: Clock) -> Self {
        let config = config(database, settings);
        // On the heap, so that no test carries room for it.
        let (running, hash_key) = Box::pin(running(&config, &clock)).await;
        Self {
            url: format!("http://{}", running.public),
            admin_url: format!("http://{}", running.admin),
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            running,
            config,
            clock,
            hash_key,
        }
    }

    /// Lets time pass in steps of at most `step`, doing at each what the task would do.
    pub async fn pass(&self, length: Seconds, step: Seconds) {
        let end = self.clock.read().wall + length;
        while self.clock.read().wall < end {
            let rest = end - self.clock.read().wall;
            self.clock.advance(rest.min(step));
            self.running.server.rotation.tick().await.unwrap();
        }
    }

    /// Registers a client for `https://api.example.com` and `https://other.example.com` with the scope `read write`;
    /// answers with its secret.
    pub async fn create_client(&self, id: &str, alg: Option<Algorithm>) -> String {
        let client = Client {
            id: id.parse().unwrap(),
            kind: keyround::oauth::client::ClientKind::Confidential(None),
            party: keyround::oauth::client::Party::Third,
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            name: None,
            id_token_alg: None,
            scope_claims: ScopeClaims::Userinfo,
            roles_claim: None,
            is_pkce_optional: false,
            grants: vec![Grant::ClientCredentials],
            scope: "read write".parse().unwrap(),
            audiences: ["https://api.example.com", "https://other.example.com"]
                .map(|audience| audience.parse().unwrap())
                .to_vec(),
            serves: Vec::new(),
            alg,
            token_type: keyround::jose::jwt::TokenType::AtJwt,
            token_ttl: None,
            created_at: self.clock.read().wall,
            disabled_at: None,
        };
        self.register(&client).await
    }

    /// Registers a confidential client; answers with its secret.
    pub async fn register(&self, client: &Client) -> String {
        let secret = random_secret().unwrap();
        let digest = self.hash_key.digest(Purpose::ClientSecret, &secret);
        let created = self
            .running
            .server
            .db
            .create_client(client, &digest, &entry("client.created", client.id.as_str()))
            .await
            .unwrap();
        assert!(created, "the client id {} is taken", client.id);
        secret.to_string()
    }

    /// Asks for a token by `client_secret_basic`.
    pub async fn ask(&self, id: &str, secret: &str, form: &[(&str, &str)]) -> reqwest::Response {
        self.asking(id, secret, form).send().await.unwrap()
    }

    fn asking(&self, id: &str, secret: &str, form: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}/oauth2/token", self.url));
        request.basic_auth(id, Some(secret)).form(form)
    }

    /// Lets so much time pass that a node asks the database for its clients again.
    pub async fn until_clients_are_read_anew(&self) {
        self.clock.advance(Seconds(1));
        keyround::clock::sleep(keyround::registry::BELIEVED).await;
    }

    /// A token that must be granted.
    pub async fn token(&self, id: &str, secret: &str) -> String {
        let answer = answered(self.asking(id, secret, &[("grant_type", "client_credentials")])).await;
        assert_eq!(answer.status(), 200);
        let body: Value = answer.json().await.unwrap();
        body["access_token"].as_str().unwrap().to_owned()
    }

    /// The key set that is served.
    pub async fn key_set(&self) -> Value {
        let url = format!("{}/.well-known/jwks.json", self.url);
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }
}

/// The answer to this request, asked for again while it is 503: a server that a busy machine held up says neither yes nor no, and that
/// the request may be repeated.
pub async fn answered(request: reqwest::RequestBuilder) -> reqwest::Response {
    // On the heap, so that no test carries room for it.
    Box::pin(async move {
        for _ in 0..100 {
            let answer = request.try_clone().unwrap().send().await.unwrap();
            if answer.status() != 503 {
                return answer;
            }
            keyround::clock::sleep(std::time::Duration::from_millis(100)).await;
        }
        request.send().await.unwrap()
    })
    .await
}

/// A file with a secret, which the commands take from nobody else.
pub fn private_file(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

/// A key of `tests/fixtures/keys` as its owner keeps it; a checkout gives every file to the group.
pub fn private_fixture(name: &str) -> String {
    static COPIES: AtomicUsize = AtomicUsize::new(0);
    let copy = COPIES.fetch_add(1, Ordering::Relaxed);
    let content = std::fs::read(format!("{}/tests/fixtures/keys/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("keys-{}-{copy}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    private_file(folder.join(name), content);
    folder.join(name).display().to_string()
}

/// An entry about the event of this name.
pub fn entry(event: &str, subject: &str) -> Entry {
    let named = |known: &Event| known.name() == event;
    let event = Event::ALL.into_iter().find(named);
    Entry::new(event.expect("an event"), subject, START, "test", "test")
}

/// A master key that opens what a server with [`config`] sealed.
pub fn master_key() -> MasterKey {
    MasterKey::parse("sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=").unwrap()
}
