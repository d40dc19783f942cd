//! Relying parties: programs that log people in, as their users write them, with what the issuer's address tells them.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use keyround::clock::sleep;
use keyround::jose::alg::Algorithm;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::ports::free_port;
use crate::site::{AUDIENCE, Site};
use crate::verifier::is_left_out;

/// A program starts within this time, even on a loaded machine.
const START: Duration = Duration::from_mins(3);
/// The secret of their sessions with browsers.
const SESSION_SECRET: &str = "for the tests: 32 bytes at least";

/// A program that logs people in.
#[derive(Debug)]
pub struct RelyingParty {
    /// Its name, also in `TEST_WITHOUT_VERIFIERS`.
    pub name: &'static str,
    /// Where a login leads back to.
    pub callback: &'static str,
    /// The page that calls the API with the access token, and asks for a login.
    pub home: &'static str,
    /// Where a logout begins, from its own address and the issuer's.
    pub logout: fn(&str, &str) -> String,
    /// Where it ends.
    pub goodbye: &'static str,
    /// The file that `make test` leaves when it is installed.
    pub installed: &'static str,
    /// The program and its first arguments, from the root of the repository.
    pub command: &'static [&'static str],
    /// What else is in its environment, by the algorithm of the ID tokens.
    pub environment: fn(Algorithm) -> &'static [(&'static str, &'static str)],
}

/// Every relying party that browsers are led through.
pub static RELYING_PARTIES: [RelyingParty; 6] = [
    RelyingParty {
        name: "openid-client",
        callback: "/callback",
        home: "/",
        logout: |_, _| "/logout".to_owned(),
        goodbye: "/bye",
        installed: "tests/interop/relying-parties/node/node_modules/ready",
        command: &["node", "tests/interop/relying-parties/node/app.mjs"],
        environment: |_| &[],
    },
    RelyingParty {
        name: "openid-client-signatures",
        callback: "/callback",
        home: "/",
        logout: |_, _| "/logout".to_owned(),
        goodbye: "/bye",
        installed: "tests/interop/relying-parties/node/node_modules/ready",
        command: &["node", "tests/interop/relying-parties/node/app.mjs"],
        environment: |_| &[("CHECK_SIGNATURES", "yes")],
    },
    RelyingParty {
        name: "authlib",
        callback: "/callback",
        home: "/",
        logout: |_, _| "/logout".to_owned(),
        goodbye: "/bye",
        installed: "target/interop/relying-parties/python/ready",
        command: &["tests/interop/relying-parties/python/serve.sh"],
        environment: |_| &[("PYTHONDONTWRITEBYTECODE", "1")],
    },
    RelyingParty {
        name: "spring-login",
        callback: "/login/oauth2/code/keyround",
        home: "/",
        logout: |_, _| "/logout".to_owned(),
        goodbye: "/bye",
        installed: "target/interop/relying-parties/spring/ready",
        command: &["tests/interop/relying-parties/spring/serve.sh"],
        environment: |alg| match alg {
            Algorithm::Rs256 => &[],
            Algorithm::Es256 => &[("SPRING_PROFILES_ACTIVE", "es256")],
        },
    },
    RelyingParty {
        name: "mod_auth_openidc",
        callback: "/callback",
        home: "/",
        logout: |site, _| format!("/callback?logout={}", encoded(&format!("{site}/bye"))),
        goodbye: "/bye",
        installed: "target/interop/apache",
        command: &[
            "/usr/sbin/apache2",
            "-D",
            "FOREGROUND",
            "-f",
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/interop/relying-parties/apache/httpd.conf"
            ),
        ],
        environment: |_| &[],
    },
    RelyingParty {
        name: "oauth2-proxy",
        callback: "/oauth2/callback",
        home: "/",
        logout: |site, issuer| {
            let back = encoded(&format!("{site}/bye"));
            let end = format!("{issuer}/oauth2/logout?id_token_hint={{id_token}}&post_logout_redirect_uri={back}");
            format!("/oauth2/sign_out?rd={}", encoded(&end))
        },
        goodbye: "/bye",
        installed: "target/interop/relying-parties/oauth2-proxy",
        command: &["tests/interop/relying-parties/oauth2-proxy/serve.sh"],
        environment: |_| &[],
    },
];

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

impl RelyingParty {
    /// Whether the run was told to go on without it.
    pub fn is_left_out(&self) -> bool {
        is_left_out(self.name)
    }
}

impl fmt::Display for RelyingParty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// A program that runs beside the servers until it is dropped.
pub struct Program {
    name: String,
    /// Where browsers find it.
    pub url: String,
    process: Mutex<Child>,
    log: PathBuf,
}

impl Program {
    /// The API that relying parties call: it verifies access tokens by itself.
    pub async fn api(site: &Site) -> Self {
        let command = &["node", "tests/interop/relying-parties/node/api.mjs"];
        let program = Self::spawn("api", site, free_port(), command, &[("AUDIENCE", AUDIENCE)]);
        program.wait_until_it_serves().await;
        program
    }

    /// A relying party whose client gets ID tokens of this algorithm.
    pub fn start(party: &RelyingParty, alg: Algorithm, site: &Site, api: &Self) -> Self {
        assert!(
            Path::new(env!("CARGO_MANIFEST_DIR")).join(party.installed).exists(),
            "the relying party {party} is not installed: run make test, or set TEST_WITHOUT_VERIFIERS={party} to go on without it"
        );
        let name = format!("{party}-{alg}");
        let port = free_port();
        let secret = register(party, alg, site, &name, port);
        let own = [
            ("CLIENT_ID", name.as_str()),
            ("CLIENT_SECRET", &secret),
            ("SESSION_SECRET", SESSION_SECRET),
            ("API", &api.url),
        ];
        let environment = [&own, (party.environment)(alg)].concat();
        Self::spawn(&name, site, port, party.command, &environment)
    }

    fn spawn(name: &str, site: &Site, port: u16, command: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = site.folder_of(name);
        let log = folder.join("log");
        let url = format!("http://127.0.0.1:{port}");
        let file = File::create(&log).unwrap();
        let authority = site.front.authority();
        let process = Command::new(command[0])
            .args(&command[1..])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("ISSUER", site.front.issuer())
            .env("PORT", port.to_string())
            .env("SITE", &url)
            .env("FOLDER", folder)
            // The certificate authority, as each of them is told.
            .env("CA", authority)
            .env("NODE_EXTRA_CA_CERTS", authority)
            .env("REQUESTS_CA_BUNDLE", authority)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self {
            name: name.to_owned(),
            url,
            process: Mutex::new(process),
            log,
        }
    }

    /// Waits until it serves.
    pub async fn wait_until_it_serves(&self) {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let mut waited = Duration::ZERO;
        while http.get(&self.url).send().await.is_err() {
            let ended = self.process.lock().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{} did not start: {ended:?}: {}",
                self.name,
                self.last_lines()
            );
            assert!(waited < START, "{} does not answer: {}", self.name, self.last_lines());
            sleep(Duration::from_millis(100)).await;
            waited += Duration::from_millis(100);
        }
    }

    /// What it wrote last.
    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Copies what it wrote to a file that outlives the test, and answers with its name.
    pub fn keep_log(&self, setup: &str) -> PathBuf {
        let kept = kept_log(setup, &self.name);
        std::fs::copy(&self.log, &kept).unwrap();
        kept
    }
}

/// Where a log outlives the test.
pub fn kept_log(setup: &str, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop/visits");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{setup} {name}.log"))
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have processes of its own, which it ends when it is asked to end.
        let process = self.process.get_mut().unwrap();
        let _ = kill_process(Pid::from_child(process), Signal::TERM);
        let _ = process.wait();
    }
}

/// Registers the client of a relying party at this port, and answers with its secret.
fn register(party: &RelyingParty, alg: Algorithm, site: &Site, id: &str, port: u16) -> String {
    let at = |path| format!("http://127.0.0.1:{port}{path}");
    let created = site.keyround(&[
        "clients",
        "create",
        "--json",
        "--id",
        id,
        "--grant",
        "authorization_code",
        "--first-party",
        "--redirect-uri",
        &at(party.callback),
        "--post-logout-redirect-uri",
        &at(party.goodbye),
        "--scope",
        "openid profile email offline_access",
        "--audience",
        AUDIENCE,
        "--algorithm",
        alg.name(),
    ]);
    let created: Value = serde_json::from_str(&created).unwrap();
    created["client_secret"].as_str().unwrap().to_owned()
}
