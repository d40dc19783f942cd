//! `keyround serve` as a process that a test may kill, and a look at what it leaves behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use keyround::app::Foundation;
use keyround::clock::{Clock, UnixTime, sleep};
use keyround::config::settings;
use keyround::crypto::purpose::Purpose;
use keyround::crypto::random::random_secret;
use keyround::events::Entry;
use keyround::jose::alg::Algorithm;
use keyround::jose::key::PrivateKey;
use keyround::keyring::binding;
use keyround::oauth::claims::ScopeClaims;
use keyround::oauth::client::{Client, Grant};
use keyround::store::Db;

use crate::helpers::{TestDatabase, config, entry, master_key};
use crate::rows::Raw;

/// The server under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_keyround");

/// A `keyround serve` under way; killed when dropped.
pub struct Process {
    /// The process.
    pub child: Child,
    log: PathBuf,
    folder: PathBuf,
    variables: Vec<(String, String)>,
}

impl Process {
    /// Starts the server on free ports; everything it needs is in its environment. Of two settings
    /// the later counts; an empty one is left out.
    pub fn spawn(database: &TestDatabase, name: &str, more: &[(&str, &str)]) -> Self {
        Self::spawn_in(database, name, more, &[])
    }

    /// The same, with these variables in its environment beside its settings.
    pub fn spawn_in(
        database: &TestDatabase,
        name: &str,
        more: &[(&str, &str)],
        more_variables: &[(&str, &str)],
    ) -> Self {
        Self::spawn_by(Command::new(PROGRAM), database, name, more, more_variables)
    }

    /// The same by this command, which becomes the server.
    pub fn spawn_by(
        mut command: Command,
        database: &TestDatabase,
        name: &str,
        more: &[(&str, &str)],
        more_variables: &[(&str, &str)],
    ) -> Self {
        let log = database.folder.path().join(format!("{name}.log"));
        let file = File::create(&log).unwrap();
        let always = [
            ("server.issuer", "http://127.0.0.1:8080"),
            ("server.listen", "127.0.0.1:0"),
            ("server.admin_listen", "127.0.0.1:0"),
            ("server.shutdown_delay", "0s"),
            ("keys.master_key", "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U="),
            ("log.format", "json"),
            ("database.url", &database.url),
        ];
        let settings: BTreeMap<_, _> = always.iter().chain(more).copied().collect();
        let variables: Vec<(String, String)> = settings
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (settings::find(name).unwrap().variable(), value.to_owned()))
            .collect();
        let folder = database.folder.path().to_owned();
        let child = command
            .arg("serve")
            .current_dir(&folder)
            .env_clear()
            .envs(variables.iter().cloned())
            .envs(more_variables.iter().copied())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self {
            child,
            log,
            folder,
            variables,
        }
    }

    /// Runs another command with its settings.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.run_by(Command::new(PROGRAM), arguments)
    }

    /// The same by this command, which becomes it.
    pub fn run_by(&self, mut command: Command, arguments: &[&str]) -> std::process::Output {
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.variables.iter().cloned())
            .output()
            .unwrap()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Where it serves, once it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.named_in_log(r#""public":""#)
    }

    /// Where health and metrics are, once they are.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.named_in_log(r#""admin":""#)
    }

    fn named_in_log(&self, before: &str) -> Option<SocketAddr> {
        let log = self.log();
        let after = log.split(before).nth(1)?;
        after.split('"').next()?.parse().ok()
    }

    /// Ends it as a power cut does. It must not have ended before.
    pub fn kill(&mut self) {
        assert_eq!(
            self.child.try_wait().unwrap(),
            None,
            "it ended by itself: {}",
            self.log()
        );
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it serves; answers where.
    pub async fn until_it_serves(&mut self) -> SocketAddr {
        for _ in 0..12_000 {
            if let Some(address) = self.address() {
                return address;
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended: {}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not serve: {}", self.log());
    }

    /// Tells it to end, as an operator does.
    pub fn tell_to_stop(&self) {
        let kill = Command::new("kill")
            .arg("-TERM")
            .arg(self.child.id().to_string())
            .status();
        assert!(kill.unwrap().success());
    }

    /// Waits until it ends.
    pub async fn until_it_ends(&mut self) -> ExitStatus {
        for _ in 0..12_000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not end: {}", self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Registers a client for each algorithm before anything runs; answers with their common secret.
pub async fn register_clients(database: &TestDatabase, settings: &[(&str, &str)]) -> String {
    let foundation = Foundation::open(&config(database, settings), Clock::system())
        .await
        .unwrap();
    let secret = random_secret().unwrap();
    for alg in Algorithm::ALL {
        let client = Client {
            id: alg.name().parse().unwrap(),
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
            token_ttl: None,
            created_at: UnixTime(0),
            disabled_at: None,
        };
        let digest = foundation.hash_key.digest(Purpose::ClientSecret, &secret);
        // The processes go by the machine's clock, and take a later record for a time that was reached.
        let now = Clock::system().read().wall;
        let entry = Entry {
            happened_at: now,
            noted_at: now,
            ..entry("client.created", alg.name())
        };
        let created = foundation.rotator.db.create_client(&client, &digest, &entry).await;
        assert!(created.unwrap());
    }
    foundation.rotator.db.close().await;
    secret.to_string()
}

/// The newest generation of each algorithm, after a look at everything that a crash could have broken.
pub async fn inspect(database: &TestDatabase) -> Vec<i64> {
    let raw = Raw::open(database).await;
    if matches!(raw, Raw::Sqlite(_)) {
        assert_eq!(raw.texts("PRAGMA integrity_check").await, ["ok"]);
    }
    raw.close().await;
    let db = Db::connect(&database.url.parse().unwrap()).await.unwrap();
    let stored = db.signing_keys().await.unwrap();
    db.close().await;
    let keys = stored.keys();
    if keys.is_empty() {
        return vec![0, 0];
    }
    for row in &stored.rows {
        let (kid, alg) = (&row.key.kid, row.key.alg);
        let Some(sealed) = &row.sealed else { continue };
        let der = master_key().open(&binding(kid, alg), sealed).unwrap();
        let half = PrivateKey::from_pkcs8_der(alg, &der).unwrap();
        assert_eq!(half.public_jwk().unwrap().kid, *kid);
    }
    let now = Clock::system().read().wall;
    Algorithm::ALL
        .into_iter()
        .map(|alg| {
            let line = keys.line(alg);
            assert!(keys.active(alg, now).is_some(), "no {alg} key is active: {line:?}");
            let generations: Vec<i64> = line.iter().map(|key| key.generation).collect();
            assert!(
                generations.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "{generations:?}"
            );
            *generations.last().unwrap()
        })
        .collect()
}

/// The next number of a xorshift generator, below `bound`.
pub fn random(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % bound
}
