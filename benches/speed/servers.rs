//! The servers that are measured: Keyround as it is released, with its clients and keys in SQLite, and its rivals.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyround::accounts::password::Password;
use keyround::accounts::password_hash::PasswordHash;
use keyround::accounts::tenant::TenantId;
use keyround::accounts::user::{User, UserId};
use keyround::app::{Foundation, Running};
use keyround::clock::{Clock, Seconds, UnixTime, sleep};
use keyround::config::{Config, Sources};
use keyround::crypto::purpose::Purpose;
use keyround::crypto::random::random_secret;
use keyround::crypto::sealing::MasterKey;
use keyround::events::{Entry, Event};
use keyround::jose::alg::Algorithm;
use keyround::oauth::claims::ScopeClaims;
use keyround::oauth::client::{Client, Grant};
use keyround::store::users::StoredUser;

use crate::machine::{Cores, Process, pinned};
use crate::reference::{Document, Setup};

/// Where the key set is.
pub const KEY_SET: &str = "/.well-known/jwks.json";

/// The password of every person.
pub const PASSWORD: &str = "a lantern under the seventh bridge";

const TOKEN_FORM: &str = "grant_type=client_credentials&scope=read";

/// A folder with all that a server needs.
pub struct Site {
    folder: tempfile::TempDir,
    settings: BTreeMap<String, String>,
    clients: Vec<(String, String)>,
}

impl Site {
    /// A database with a key for each algorithm and these clients.
    pub async fn new(names: &[(String, Algorithm)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = [
            ("server.issuer", "http://127.0.0.1:8080".to_owned()),
            ("server.listen", "127.0.0.1:0".to_owned()),
            ("server.admin_listen", "127.0.0.1:0".to_owned()),
            (
                "keys.master_key",
                MasterKey::generate().unwrap().to_base64().to_string(),
            ),
            (
                "database.url",
                format!("sqlite:{}", folder.path().join("keyround.db").display()),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let mut site = Self {
            folder,
            settings,
            clients: Vec::new(),
        };
        let foundation = site.foundation().await;
        for (name, alg) in names {
            let secret = random_secret().unwrap().to_string();
            register(&foundation, name, *alg, &secret).await;
            site.clients.push((name.clone(), secret));
        }
        let running = Running::start(&site.config(), foundation).await.unwrap();
        running.stop().await;
        site
    }

    /// Registers a public client of the operator's own that people log in with.
    pub async fn register_app(&self, name: &str, alg: Algorithm, redirect_uri: &str) {
        let foundation = self.foundation().await;
        let client = Client {
            kind: keyround::oauth::client::ClientKind::Public,
            party: keyround::oauth::client::Party::First {
                since: UnixTime(0),
                consent: keyround::oauth::client::Consent::None,
            },
            redirect_uris: vec![redirect_uri.parse().unwrap()],
            grants: vec![Grant::AuthorizationCode],
            scope: "openid email".parse().unwrap(),
            audiences: vec!["http://127.0.0.1:8080/oauth2/userinfo".parse().unwrap()],
            ..service(name, alg)
        };
        let entry = entry(Event::ClientCreated, name);
        let db = &foundation.rotator.db;
        assert!(db.create_client(&client, "", &entry).await.unwrap());
        db.close().await;
    }

    /// Changes a setting of the servers that start from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Makes so many accounts, with one password and hash, at the addresses of [`person`].
    pub async fn people(&self, count: usize) {
        let foundation = self.foundation().await;
        let password = Password::try_from(PASSWORD.to_owned()).unwrap();
        let parameters = self.config().accounts.logins.password_hash;
        let hash = PasswordHash::new(&password, parameters, &foundation.hash_key).unwrap();
        let now = Clock::system().read().wall;
        for number in 0..count {
            let user = User {
                id: UserId::generate(now),
                tenant: TenantId::default(),
                email: person(number).parse().unwrap(),
                email_verified_at: None,
                name: "A Person".parse().unwrap(),
                roles: Vec::new(),
                created_at: now,
                suspended_at: None,
            };
            let entry = entry(Event::UserCreated, &user.id.to_string());
            let password_hash = Some(hash.as_str().to_owned());
            let stored = StoredUser { user, password_hash };
            assert!(foundation.rotator.db.create_user(&stored, &entry).await.unwrap());
        }
        foundation.rotator.db.close().await;
    }

    fn config(&self) -> Config {
        let flags = self.settings.clone();
        Config::load(&Sources {
            flags,
            ..Sources::default()
        })
        .unwrap()
    }

    async fn foundation(&self) -> Foundation {
        Foundation::open(&self.config(), Clock::system()).await.unwrap()
    }

    /// Publishes as many keys as are asked for.
    pub async fn publish(&self, keys: usize) {
        let rotator = self.foundation().await.rotator;
        let published = Algorithm::ALL.len();
        for (_, alg) in (published..keys).zip(Algorithm::ALL.into_iter().cycle()) {
            rotator.rotate(alg, "benchmark", "one more key").await.unwrap();
        }
        rotator.db.close().await;
    }

    /// A request with a form by this client.
    pub fn form(&self, path: &str, client: usize, form: &str) -> String {
        let credentials = STANDARD.encode(self.credentials(client));
        let headers =
            format!("Authorization: Basic {credentials}\r\nContent-Type: application/x-www-form-urlencoded\r\n");
        post(path, &headers, form)
    }

    /// Requests for tokens by all of these clients.
    pub fn token_requests(&self, path: &str, clients: impl IntoIterator<Item = usize>) -> Vec<String> {
        clients
            .into_iter()
            .map(|client| self.form(path, client, TOKEN_FORM))
            .collect()
    }

    fn credentials(&self, client: usize) -> String {
        let (id, secret) = &self.clients[client];
        format!("{id}:{secret}")
    }

    /// Starts the released server on the servers' core.
    pub async fn serve(&self, cores: &Cores) -> Server {
        self.serve_on(&cores.server).await
    }

    /// Starts the released server on these cores.
    pub async fn serve_on(&self, cores: &str) -> Server {
        let log = self.folder.path().join("log");
        let process = self.spawn(cores, &log, "127.0.0.1:0");
        for _ in 0..1_000 {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some((_, rest)) = text.split_once("public=") {
                let address = rest.split_whitespace().next().unwrap().to_owned();
                return Server { process, address };
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("the server does not serve: {}", std::fs::read_to_string(&log).unwrap());
    }

    /// The seconds from the start of the process to its first answer.
    pub async fn seconds_to_first_answer(&self, cores: &Cores, clock: &Clock) -> f64 {
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let started = clock.read().monotonic;
        let _process = self.spawn(&cores.server, &self.folder.path().join("log"), &address);
        while get(&address, KEY_SET).is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        clock.read().monotonic.saturating_sub(started).as_secs_f64()
    }

    fn spawn(&self, cores: &str, log: &Path, listen: &str) -> Process {
        let variables = self.settings.iter().map(|(name, value)| {
            let value = if name == "server.listen" { listen } else { value };
            (
                keyround::config::settings::find(name).unwrap().variable(),
                value.to_owned(),
            )
        });
        let child = pinned(cores, env!("CARGO_BIN_EXE_keyround"))
            .arg("serve")
            .current_dir(self.folder.path())
            .envs(variables)
            .stdout(Stdio::null())
            .stderr(File::create(log).unwrap())
            .spawn();
        Process(child.unwrap())
    }

    /// The reference with the same clients, and with the answer that a server of this site gives to who asks for its keys.
    pub fn reference(&self, cores: &Cores, algorithms: &[Algorithm], key_set: &Answer) -> Server {
        let clients = self.clients.iter().zip(algorithms);
        let setup = Setup {
            clients: clients
                .map(|((id, secret), alg)| (id.clone(), secret.clone(), alg.name().to_owned()))
                .collect(),
            document: Document {
                headers: key_set.headers.clone(),
                body: key_set.body.clone(),
            },
        };
        let path = self.folder.path().join("reference.json");
        std::fs::write(&path, serde_json::to_vec(&setup).unwrap()).unwrap();
        let mut command = pinned(&cores.server, std::env::current_exe().unwrap());
        command.arg("reference").arg(path);
        Server::start(command)
    }

    /// nginx, serving the key set from a file.
    pub fn nginx(&self, cores: &Cores, key_set: &Answer) -> Server {
        let folder = self.folder.path().display();
        let well_known = self.folder.path().join(".well-known");
        std::fs::create_dir_all(&well_known).unwrap();
        std::fs::write(well_known.join("jwks.json"), &key_set.body).unwrap();
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
            .concat();
        let configuration = format!(
            "user root; daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr; events {{}} http {{ access_log off; \
             {paths} sendfile on; open_file_cache max=10; keepalive_requests 100000000; default_type application/jwk-set+json; \
             server {{ listen {address}; root {folder}; }} }}"
        );
        let path = self.folder.path().join("nginx.conf");
        std::fs::write(&path, configuration).unwrap();
        let mut command = pinned(&cores.server, nginx());
        command.args(["-e", "stderr", "-c"]).arg(path);
        let process = Process(command.stderr(Stdio::null()).spawn().unwrap());
        while get(&address, KEY_SET).is_none() {
            std::thread::yield_now();
        }
        Server { process, address }
    }

    /// npm `oidc-provider` with the same clients.
    pub fn oidc_provider(&self, cores: &Cores, algorithms: &[Algorithm]) -> Server {
        let clients: Vec<[&str; 3]> = self
            .clients
            .iter()
            .zip(algorithms)
            .map(|((id, secret), alg)| [id.as_str(), secret, alg.name()])
            .collect();
        let mut command = pinned(&cores.server, "node");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/oidc-provider/server.mjs"))
            .arg(serde_json::to_string(&clients).unwrap())
            .env("NODE_ENV", "production")
            .stderr(Stdio::null());
        Server::start(command)
    }
}

/// A server that serves.
pub struct Server {
    /// Its process.
    pub process: Process,
    /// Where it serves.
    pub address: String,
}

impl Server {
    fn start(command: Command) -> Self {
        let (process, address) = Process::start(command);
        Self { process, address }
    }

    /// A token for this client of a site.
    pub fn token(&self, site: &Site, client: usize) -> String {
        self.access_token(&site.form("/oauth2/token", client, TOKEN_FORM))
    }

    /// The access token of a session that the first person begins.
    pub fn session_token(&self) -> String {
        self.access_token(&post("/auth/login", JSON, &login(&person(0), PASSWORD)))
    }

    fn access_token(&self, request: &str) -> String {
        let answer = ask(&self.address, request).expect("a token");
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }
}

const HOST: &str = "Host: localhost\r\n";

/// The header of a body in JSON.
pub const JSON: &str = "Content-Type: application/json\r\n";

/// A request with these headers, each with its end of line.
pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\n{HOST}{headers}{length}\r\n{body}")
}

/// A request with a body.
pub fn post(path: &str, headers: &str, body: &str) -> String {
    request("POST", path, headers, body)
}

/// The address of one of the people.
pub fn person(number: usize) -> String {
    format!("person-{number}@example.com")
}

/// The body of a login by an app.
pub fn login(email: &str, password: &str) -> String {
    format!(r#"{{"email":"{email}","password":"{password}","token_delivery":"body"}}"#)
}

/// An answer with status 200: its headers but those that a framework writes by itself, and its body.
pub struct Answer {
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// Asks once, if somebody is there.
pub fn get(address: &str, path: &str) -> Option<Answer> {
    ask(address, &request("GET", path, "", ""))
}

fn ask(address: &str, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = request.replacen(HOST, &format!("{HOST}Connection: close\r\n"), 1);
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    assert!(lines.next()?.contains(" 200 "), "{text}");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let by_framework = ["content-length", "connection", "date"];
    Some(Answer {
        headers: headers
            .filter(|(name, _)| !by_framework.contains(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    })
}

/// nginx, installed or unpacked.
pub fn nginx() -> PathBuf {
    [
        "/usr/sbin/nginx",
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/usr/sbin/nginx"),
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|path| path.exists())
    .expect("nginx; tests/packages.sh bench unpacks it")
}

/// A client with a secret, which asks in its own name.
fn service(name: &str, alg: Algorithm) -> Client {
    Client {
        id: name.parse().unwrap(),
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
        scope: "read".parse().unwrap(),
        audiences: vec!["https://api.example.com".parse().unwrap()],
        serves: Vec::new(),
        alg: Some(alg),
        token_type: keyround::jose::jwt::TokenType::AtJwt,
        token_ttl: Some(Seconds(600)),
        created_at: UnixTime(0),
        disabled_at: None,
    }
}

async fn register(foundation: &Foundation, name: &str, alg: Algorithm, secret: &str) {
    let client = service(name, alg);
    let entry = entry(Event::ClientCreated, name);
    let digest = foundation.hash_key.digest(Purpose::ClientSecret, secret);
    assert!(
        foundation
            .rotator
            .db
            .create_client(&client, &digest, &entry)
            .await
            .unwrap()
    );
}

fn entry(event: Event, subject: &str) -> Entry {
    Entry::new(event, subject, UnixTime(0), "benchmark", "benchmark")
}
