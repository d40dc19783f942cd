//! The gateways of deploy/ with the very files that are shipped (addresses and certificates aside): two nodes that restart one after
//! the other under load, a WSGI service behind, and visitors who forge.

mod caddy;
mod envoy;
mod forging;
mod haproxy;
pub mod load;
mod nginx;
mod nodes;

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyround::clock::sleep;

use crate::deployment::{programs, text};
use nodes::Nodes;

/// `api` is what the shipped files ask for, as docs/operate/deploy.md sets it; `open` is what a visitor would like to be asked instead.
const SETTINGS: [(&str, &str); 2] = [
    ("KEYROUND_ACCOUNTS__AUDIENCE", "https://api.example.com"),
    (
        "KEYROUND_FORWARD_AUTH__POLICIES",
        "api audience=https://api.example.com; open audience=https://open.example.com",
    ),
];

/// A program in the foreground; ended when dropped.
pub struct Program(Child);

/// Panics unless a folder of this PATH has the program.
fn require(program: &str, path: &str) {
    let is_there = |folder: &str| Path::new(folder).join(program).is_file();
    assert!(
        program.contains('/') || path.split(':').any(is_there),
        "{program} is not installed: run the tests by `make test`, which unpacks it, or install the package (Debian: apt-get install {program})"
    );
}

#[test]
#[should_panic(expected = "keyround-no-such-program is not installed: run the tests by `make test`")]
fn a_program_that_is_missing_is_told_at_once() {
    Program::start("keyround-no-such-program", &[], Path::new("/"));
}

/// Where the libraries of unpacked programs are: in a folder named after the machine's kind.
fn libraries() -> String {
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/usr/lib"));
    let folders = folders.into_iter().flatten().map(|folder| folder.unwrap().path());
    let folders: Vec<String> = folders.map(|folder| folder.to_str().unwrap().to_owned()).collect();
    folders.join(":")
}

impl Program {
    /// Panics at once if the program is not installed, or ends: what waits for it would wait without an end.
    pub fn start(program: &str, arguments: &[&str], folder: &Path) -> Self {
        require(program, &programs());
        let log = std::fs::File::create(folder.join("gateway.log")).unwrap();
        let child = Command::new("/usr/bin/env")
            .env_clear()
            .env("PATH", programs())
            .env("LD_LIBRARY_PATH", libraries())
            .env("HOME", folder)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}")))
    }

    /// Panics with what it said if it has ended.
    pub fn require_running(&mut self, folder: &Path) {
        if let Some(status) = self.0.try_wait().unwrap() {
            let said = std::fs::read_to_string(folder.join("gateway.log")).unwrap_or_default();
            panic!("the program has ended ({status}): {said}");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The WSGI service.
struct Service {
    program: Child,
    port: u16,
}

impl Service {
    fn start() -> Self {
        let mut program = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/gateways/service.py"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut printed = BufReader::new(program.stdout.take().unwrap());
        printed.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Self { program, port }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// A gateway that runs, and what is around it.
struct Gateway {
    /// Keyround through it, if it is a proxy for Keyround.
    id: Option<String>,
    /// The service through it.
    api: String,
    /// Ended with it.
    _programs: Vec<Box<dyn Any>>,
}

/// What stands around a gateway that is to be started.
struct Surroundings<'a> {
    folder: &'a Path,
    nodes: &'a Nodes,
    service: u16,
    /// Where the health of nodes is asked for; a test puts a port there at which no node answers.
    admin_port: u16,
    /// The policy that is asked for in place of `api`.
    policy: &'a str,
}

impl Surroundings<'_> {
    /// The question as it is shipped, and the one in its place.
    fn policy(&self) -> (&'static str, String) {
        ("/auth/verify/api", format!("/auth/verify/{}", self.policy))
    }
}

/// A shipped file with addresses and files replaced; each of them must be there.
fn shipped(name: &str, replaced: &[(&str, String)]) -> String {
    let mut file = text(name);
    for (from, to) in replaced {
        assert!(file.contains(from), "deploy/{name} has no '{from}'");
        file = file.replace(from, to);
    }
    file
}

/// A client that takes any certificate.
pub fn visitor() -> reqwest::Client {
    reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .timeout(Duration::from_mins(1))
        .build()
        .unwrap()
}

impl Gateway {
    /// Waits until it answers with this status.
    async fn until(&self, url: &str, token: Option<&str>, status: u16) {
        let visitor = visitor();
        let mut last = String::new();
        for _ in 0..1_200 {
            let request = visitor.get(url);
            let request = match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            match request.send().await {
                Ok(answer) if answer.status() == status => return,
                Ok(answer) => last = answer.status().to_string(),
                Err(error) => last = format!("{error:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("{url} never answers {status}, but {last}");
    }
}

/// What every gateway that asks Keyround about each request must do; `denied_as` is its status where the policy does not exist.
async fn hold_to_forward_auth(
    name: &str,
    drops: forging::Drops,
    denied_as: u16,
    start: impl Fn(&Surroundings<'_>) -> Gateway,
) {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Nodes::start(&SETTINGS).await;
    let service = Service::start();
    let surroundings = Surroundings {
        folder: folder.path(),
        nodes: &nodes,
        service: service.port,
        admin_port: nodes.admin_port,
        policy: "api",
    };
    let gateway = start(&surroundings);
    let (strong, weak) = (nodes.token("strong", "read").await, nodes.token("weak", "write").await);
    gateway.until(&gateway.api, Some(&strong), 200).await;
    let person = format!("Authorization: Bearer {}", nodes.person().await);
    let (status, seen) = forging::send(&gateway.api, "/", &[&person], "");
    assert!(
        status == 200 && seen.is_some_and(|seen| seen["HTTP_X_AUTH_CLIENT"] == "first-party"),
        "{name} refuses a person: {status}"
    );

    // Denied with Keyround's own words, and no spelling of an address changes what is asked.
    let answer = visitor().get(&gateway.api).send().await.unwrap();
    assert_eq!(answer.status(), 401, "{name}");
    assert!(
        answer.headers()["www-authenticate"]
            .to_str()
            .unwrap()
            .starts_with("Bearer realm=\"keyround\""),
        "{name}"
    );
    for address in forging::ADDRESSES {
        let (status, seen) = forging::send(&gateway.api, address, &[&format!("Authorization: Bearer {weak}")], "");
        assert!(
            status >= 400 && seen.is_none(),
            "{name} lets {address} through: {status} {seen:?}"
        );
        let honest = forging::send(&gateway.api, address, &[&format!("Authorization: Bearer {strong}")], "").0;
        assert!(
            honest == 200 || address.contains("..") || address.contains("%2e"),
            "{name} {address}: {honest}"
        );
    }
    for bearer in [
        &[][..],
        &["Authorization: Bearer garbage"],
        &["Authorization: Basic YTpi"],
    ] {
        let (status, seen) = forging::send(&gateway.api, "/", bearer, "");
        assert!(status == 401 && seen.is_none(), "{name}: {status} {bearer:?}");
    }

    let identity: BTreeMap<&str, &str> = [("SUBJECT", "strong"), ("CLIENT", "strong"), ("SCOPE", "read")].into();
    forging::reaches_no_service(name, &gateway.api, &strong, drops, &identity);

    let asked = [load::Request::service(&gateway.api, &strong)];
    let asked_of_id = gateway
        .id
        .as_deref()
        .map(|id| load::Request::of_keyround(id, &nodes.secret("strong")));
    let requests: Vec<load::Request> = asked.into_iter().chain(asked_of_id.into_iter().flatten()).collect();
    load::rolling_restart(name, &requests, &mut nodes).await;

    // An unanswered question lets nothing through.
    nodes.stop_all().await;
    let (status, seen) = forging::send(&gateway.api, "/", &[&format!("Authorization: Bearer {strong}")], "");
    assert!(status >= 500 && seen.is_none(), "{name}: {status} {seen:?}");
    nodes.start_all().await;
    gateway.until(&gateway.api, Some(&strong), 200).await;
    drop(gateway);

    // When no node is ready as far as the gateway can see, requests go to all. A policy that is not set lets nothing through.
    let blind = start(&Surroundings {
        folder: folder.path(),
        nodes: &nodes,
        service: service.port,
        admin_port: crate::process::free_port(),
        policy: "unknown",
    });
    blind.until(&blind.api, Some(&strong), denied_as).await;
    if let Some(id) = &blind.id {
        sleep(Duration::from_secs(2)).await;
        blind.until(&format!("{id}/.well-known/jwks.json"), None, 200).await;
    }
    let bearer = format!("Authorization: Bearer {strong}");
    for lines in [&[][..], &[bearer.as_str()]] {
        let (status, seen) = forging::send(&blind.api, "/", lines, "");
        assert!(status == denied_as && seen.is_none(), "{name}: {status} {seen:?}");
    }
    nodes.stop_all().await;
}
