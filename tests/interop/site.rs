//! Running servers: the binary itself on a fresh database, one node or several, and what a client asks of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use keyround::app::Foundation;
use keyround::clock::{self, Clock, UnixTime};
use keyround::config::{Config, Sources};
use keyround::crypto::purpose::Purpose;
use keyround::crypto::random::random_secret;
use keyround::events::{Entry, Event};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwt::TokenType;
use keyround::oauth::claims::ScopeClaims;
use keyround::oauth::client::{Client, Grant};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::front::{Address, Front};

/// The `aud` of every token.
pub const AUDIENCE: &str = "https://api.example.com";

/// Where the keys are.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An SQLite file.
    Sqlite,
    /// A database on the throw-away PostgreSQL.
    Postgres,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// Servers on one database, behind one address.
pub struct Site {
    /// What the table calls it.
    pub name: &'static str,
    /// The issuer's address.
    pub front: Front,
    nodes: Vec<Node>,
    secrets: BTreeMap<String, String>,
    http: reqwest::Client,
    environment: BTreeMap<String, String>,
    folder: TempDir,
}

struct Node {
    process: Child,
    log: PathBuf,
    address: String,
}

/// A token as a client sees it.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its text.
    pub text: String,
    /// Which key signed it.
    pub kid: String,
    /// When it expires.
    pub expires_at: UnixTime,
}

impl Site {
    /// Starts `nodes` servers with these settings (`("keys.prepublish", "35s")`), all at once, on a database that holds a
    /// client per algorithm and type of tokens, and no key yet.
    pub async fn start(name: &'static str, kind: Kind, nodes: usize, settings: &[(&str, &str)]) -> Self {
        Self::start_at(name, kind, nodes, settings, Address::Http).await
    }

    /// The same behind an issuer's address of this sort.
    pub async fn start_at(
        name: &'static str,
        kind: Kind,
        nodes: usize,
        settings: &[(&str, &str)],
        address: Address,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let front = Front::start(folder.path(), address).await;
        let environment = environment(
            &database_url(kind, name, folder.path()).await,
            &front.issuer(),
            settings,
        );
        let secrets = create_clients(&environment).await;
        let mut site = Self {
            name,
            front,
            nodes: Vec::new(),
            secrets,
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(10))
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            environment,
            folder,
        };
        site.start_nodes(nodes).await;
        site.wait_until_every_node_signs().await;
        site
    }

    async fn start_nodes(&mut self, nodes: usize) {
        let log = |node| self.folder.path().join(format!("node{node}.log"));
        self.nodes = (0..nodes)
            .map(|node| Node::spawn(&self.environment, log(node)))
            .collect();
        for node in &mut self.nodes {
            node.wait_until_it_serves().await;
        }
        let addresses = self.nodes.iter().map(|node| node.address.clone()).collect();
        self.front.pass_on_to(addresses);
    }

    /// As the runbook says: the servers are stopped, the database is copied into a new one of this kind, and this many start on it.
    pub async fn moved_to(mut self, kind: Kind, nodes: usize) -> Self {
        for node in &mut self.nodes {
            node.stop().await;
        }
        let next = self.folder_of(&format!("{kind}"));
        let url = database_url(kind, &format!("{}_next", self.name), &next).await;
        self.keyround(&["db", "copy", "--to", &url]);
        self.environment.insert("KEYROUND_DATABASE__URL".to_owned(), url);
        self.start_nodes(nodes).await;
        self.wait_until_every_node_signs().await;
        self
    }

    /// Copies what the servers logged into this file.
    pub fn keep_logs(&self, file: &Path) {
        let logs: String = self.nodes.iter().map(Node::log_text).collect();
        std::fs::write(file, logs).unwrap();
    }

    /// The secret of the client of this algorithm.
    pub fn secret(&self, alg: Algorithm) -> &str {
        &self.secrets[&client_id(alg, TokenType::AtJwt)]
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Where this node's key set is.
    pub fn key_set_url(&self, node: usize) -> String {
        format!("http://{}/.well-known/jwks.json", self.nodes[node].address)
    }

    /// An empty folder for this service.
    pub fn folder_of(&self, service: &str) -> PathBuf {
        let folder = self.folder.path().join(service);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// What the command line prints beside the servers.
    pub fn keyround(&self, arguments: &[&str]) -> String {
        command(&self.environment, arguments)
    }

    /// A token of this algorithm from this node; that it is granted is part of the promise.
    pub async fn token(&self, node: usize, alg: Algorithm) -> Token {
        self.token_of_type(node, alg, TokenType::AtJwt).await
    }

    /// The same of this type.
    pub async fn token_of_type(&self, node: usize, alg: Algorithm, token_type: TokenType) -> Token {
        let answer = self.ask(node, alg, token_type).await;
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert!(status.is_success(), "{} node {node}: {status}: {body}", self.name);
        let body: Value = serde_json::from_str(&body).unwrap();
        Token::read(body["access_token"].as_str().unwrap(), alg)
    }

    async fn ask(&self, node: usize, alg: Algorithm, token_type: TokenType) -> reqwest::Response {
        let client = client_id(alg, token_type);
        self.http
            .post(format!("http://{}/oauth2/token", self.nodes[node].address))
            .basic_auth(&client, Some(&self.secrets[&client]))
            .form(&[("grant_type", "client_credentials")])
            .send()
            .await
            .unwrap()
    }

    /// A node that starts beside another one, on a loaded machine, may find its clock ahead of the other's record and wait a moment.
    pub async fn wait_until_every_node_signs(&self) {
        for node in 0..self.nodes.len() {
            for alg in Algorithm::ALL {
                let mut tries = 0;
                while !self.ask(node, alg, TokenType::AtJwt).await.status().is_success() {
                    tries += 1;
                    assert!(tries < 300, "{} node {node} signs nothing", self.name);
                    clock::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// The set that this node serves now.
    pub async fn key_set(&self, node: usize) -> Value {
        let answer = self.http.get(self.key_set_url(node)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{} node {node}", self.name);
        answer.json().await.unwrap()
    }

    /// The kids in the set that this node serves now.
    pub async fn kids(&self, node: usize) -> BTreeSet<String> {
        let set = self.key_set(node).await;
        let keys = set["keys"].as_array().unwrap();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }
}

impl Token {
    fn read(text: &str, alg: Algorithm) -> Self {
        assert_eq!(part(text, 0)["alg"], alg.name());
        Self::of(text)
    }

    /// What this text says of itself.
    pub fn of(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            kid: part(text, 0)["kid"].as_str().unwrap().to_owned(),
            expires_at: UnixTime(part(text, 1)["exp"].as_i64().unwrap()),
        }
    }
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap()
}

impl Node {
    fn spawn(environment: &BTreeMap<String, String>, log: PathBuf) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_keyround"))
            .arg("serve")
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            process,
            log,
            address: String::new(),
        }
    }

    /// Ends it as an operator does.
    async fn stop(&mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        for _ in 0..600 {
            if let Some(status) = self.process.try_wait().unwrap() {
                assert!(status.success(), "{status}: {}", self.log_text());
                return;
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
        panic!("a server did not end within 30 seconds: {}", self.log_text());
    }

    /// Its port is its own choice; the log says which.
    async fn wait_until_it_serves(&mut self) {
        for _ in 0..600 {
            if let Some(address) = self.serving_at() {
                self.address = address;
                return;
            }
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "a server did not start: {}", self.log_text());
            clock::sleep(Duration::from_millis(50)).await;
        }
        panic!("a server did not start within 30 seconds: {}", self.log_text());
    }

    fn serving_at(&self) -> Option<String> {
        self.log_text().lines().find_map(|line| {
            let entry: Value = serde_json::from_str(line).ok()?;
            (entry["fields"]["message"] == "serving").then(|| entry["fields"]["public"].as_str().map(str::to_owned))?
        })
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log_text();
            // Every start warns of verifiers with longer caches than those that are tested here.
            let expected = |line: &str| line.contains("\"INFO\"") || line.contains("too short for");
            let trouble = log.lines().filter(|line| !expected(line));
            eprintln!("the server at {} logged:", self.address);
            trouble.for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// What the command line prints with this environment.
fn command(environment: &BTreeMap<String, String>, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_keyround"))
        .args(arguments)
        .env_clear()
        .envs(environment)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn client_id(alg: Algorithm, token_type: TokenType) -> String {
    match token_type {
        TokenType::AtJwt => format!("client-{alg}"),
        TokenType::Jwt => format!("client-{alg}-JWT"),
    }
}

async fn database_url(kind: Kind, name: &str, folder: &Path) -> String {
    match kind {
        Kind::Sqlite => format!("sqlite:{}", folder.join("keyround.db").display()),
        Kind::Postgres => {
            let server = postgres_url();
            let database = format!(
                "interop_{}_{}",
                std::process::id(),
                name.to_lowercase().replace(' ', "_")
            );
            let pool = sqlx::PgPool::connect(&server).await.unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}")))
                .execute(&pool)
                .await
                .unwrap();
            pool.close().await;
            let mut url = url::Url::parse(&server).unwrap();
            url.set_path(&database);
            url.to_string()
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the harness names the server by the environment"
)]
fn postgres_url() -> String {
    std::env::var("TEST_POSTGRES_URL").unwrap_or_else(|_| panic!("TEST_POSTGRES_URL is not set: run make test"))
}

/// The whole environment of a server: a port of its own choice, a log that can be read, and what the test adds.
fn environment(database: &str, issuer: &str, settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    let common = [
        ("server.issuer", issuer),
        ("server.listen", "127.0.0.1:0"),
        ("server.admin_listen", "127.0.0.1:0"),
        ("database.url", database),
        // For tests alone.
        ("keys.master_key", "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U="),
        ("log.format", "json"),
    ];
    common
        .iter()
        .chain(settings)
        .map(|(name, value)| {
            let variable = format!("KEYROUND_{}", name.to_uppercase().replace('.', "__"));
            (variable, (*value).to_owned())
        })
        .collect()
}

/// A client for each algorithm and type of tokens, registered before any server runs; answers with their secrets.
async fn create_clients(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let sources = Sources {
        environment: environment.clone(),
        ..Sources::default()
    };
    let foundation = Foundation::open(&Config::load(&sources).unwrap(), Clock::system())
        .await
        .unwrap();
    let db = &foundation.rotator.db;
    let mut secrets = BTreeMap::new();
    for alg in Algorithm::ALL {
        for token_type in TokenType::ALL {
            let secret = random_secret().unwrap();
            let digest = foundation.hash_key.digest(Purpose::ClientSecret, &secret);
            let client = client(alg, token_type);
            assert!(db.create_client(&client, &digest, &created(&client)).await.unwrap());
            secrets.insert(client.id.to_string(), secret.to_string());
        }
    }
    db.close().await;
    secrets
}

fn client(alg: Algorithm, token_type: TokenType) -> Client {
    Client {
        id: client_id(alg, token_type).parse().unwrap(),
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
        audiences: vec![AUDIENCE.parse().unwrap()],
        serves: Vec::new(),
        alg: Some(alg),
        token_type,
        token_ttl: None,
        created_at: Clock::system().read().wall,
        disabled_at: None,
    }
}

fn created(client: &Client) -> Entry {
    Entry::new(Event::ClientCreated, &client.id, client.created_at, "test", "test")
}
