//! Verifier processes: a library with its default caching behind a pipe.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde::Deserialize;
use serde_json::json;

use crate::gateway;
use crate::site::{AUDIENCE, ISSUER};

/// A library that verifies, one row of [`LIBRARIES`]. Its program takes the issuer, the audience and the key set's URL, and where
/// the library can be told so the seconds for which it keeps the keys; it is handed a line of JSON a token, and answers with
/// [`Line`]s.
#[derive(Debug)]
pub struct Library {
    /// Its name, also in `TEST_WITHOUT_VERIFIERS`.
    pub name: &'static str,
    /// Where it comes from and what of it is used, for readers of the table.
    pub what: &'static str,
    /// What it keeps by default.
    pub cache: &'static str,
    /// When it fetches a set that lacks a kid.
    pub fetches: Fetches,
    /// What it says of a kid that it does not find, any of these.
    pub unknown_key: &'static [&'static str],
    /// The file that `make test` leaves when it is installed.
    installed: &'static str,
    /// The program and its first arguments; those with a slash are files of the repository.
    command: &'static [&'static str],
}

/// What a library does about an unknown kid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetches {
    /// Fetches, unless it did so less than 30 s ago.
    AfterHoldingBack,
    /// Fetches, every time.
    AtOnce,
}

/// Every library that Keyround is held against.
pub static LIBRARIES: [Library; 6] = [
    Library {
        name: "jose",
        what: "npm `jose`, `createRemoteJWKSet`",
        cache: "the set, 10 min; none fetched within 30 s",
        fetches: Fetches::AfterHoldingBack,
        unknown_key: &["ERR_JWKS_NO_MATCHING_KEY"],
        installed: "tests/interop/javascript/node_modules/ready",
        command: &["node", "tests/interop/javascript/verifier.mjs", "jose"],
    },
    Library {
        name: "PyJWT",
        what: "PyPI `PyJWT`, `PyJWKClient`",
        cache: "the set, 5 min; none fetched within 30 s",
        fetches: Fetches::AfterHoldingBack,
        unknown_key: &["Unable to find a signing key"],
        installed: "target/interop/python/ready",
        command: &["target/interop/python/bin/python", "tests/interop/python/verifier.py"],
    },
    Library {
        name: "nimbus-jose-jwt",
        what: "Java `nimbus-jose-jwt`, `JWKSourceBuilder`",
        cache: "the set, 5 min; at most two fetched within 30 s",
        fetches: Fetches::AfterHoldingBack,
        unknown_key: &["no matching key(s) found", "RateLimitReachedException"],
        installed: "target/interop/java/ready",
        command: &[
            "java",
            // Less to start for a process that lives minutes.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/target/interop/java/classes:",
                env!("CARGO_MANIFEST_DIR"),
                "/target/interop/java/lib/*"
            ),
            "Verifier",
        ],
    },
    Library {
        name: "jwks-rsa",
        what: "npm `jwks-rsa` with `jsonwebtoken`",
        cache: "five keys by kid, 10 min",
        fetches: Fetches::AtOnce,
        unknown_key: &["Unable to find a signing key"],
        installed: "tests/interop/javascript/node_modules/ready",
        command: &["node", "tests/interop/javascript/verifier.mjs", "jwks-rsa"],
    },
    Library {
        name: "go-oidc",
        what: "Go `coreos/go-oidc`, `NewRemoteKeySet`",
        cache: "the set, until a kid is missing",
        fetches: Fetches::AtOnce,
        unknown_key: &["failed to verify id token signature"],
        installed: "target/interop/go/verifier",
        command: &["target/interop/go/verifier"],
    },
    Library {
        name: "jsonwebtoken",
        what: "Rust `jsonwebtoken` with a plain fetch",
        cache: "the set, until a kid is missing",
        fetches: Fetches::AtOnce,
        unknown_key: &["in the set"],
        installed: "target/interop/rust/verifier",
        command: &["target/interop/rust/verifier"],
    },
];

impl Library {
    /// The one of this name.
    pub fn named(name: &str) -> &'static Self {
        LIBRARIES.iter().find(|library| library.name == name).unwrap()
    }

    /// Whether the run was told to go on without it.
    pub fn is_left_out(&self) -> bool {
        is_left_out(self.name)
    }

    fn command(&self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(
            root.join(self.installed).exists(),
            "the verifier {self} is not installed: run make test, or set TEST_WITHOUT_VERIFIERS={self} to go on without it"
        );
        let mut parts = self.command.iter().map(|part| {
            let file = part.starts_with("target/") || part.starts_with("tests/");
            if file { root.join(part) } else { PathBuf::from(part) }
        });
        let mut command = Command::new(parts.next().unwrap());
        command.args(parts).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// Whether the run was told to go on without the verifier of this name.
pub fn is_left_out(name: &str) -> bool {
    without().iter().any(|left_out| left_out == name)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the person who runs the tests says so by the environment"
)]
fn without() -> Vec<String> {
    let names = std::env::var("TEST_WITHOUT_VERIFIERS").unwrap_or_default();
    let names: Vec<String> = names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    for name in &names {
        let known = name == gateway::NAME || LIBRARIES.iter().any(|library| library.name == name);
        assert!(known, "TEST_WITHOUT_VERIFIERS names no verifier of the tests: {name}");
    }
    names
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// One running verifier.
pub struct Verifier {
    /// The library.
    pub library: &'static Library,
    /// The node whose key set it fetches.
    pub node: usize,
    process: Child,
    input: Option<ChildStdin>,
    said: Arc<Mutex<Report>>,
    reader: Option<JoinHandle<()>>,
}

/// A token that was not accepted.
#[derive(Clone, Debug, Deserialize)]
pub struct Refusal {
    /// Which key signed it.
    pub kid: String,
    /// By which algorithm.
    pub alg: String,
    /// Seconds since it was issued.
    pub age: f64,
    /// How late the verifier's last pass ran, in milliseconds.
    pub lag_ms: u64,
    /// What the library said.
    pub error: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kid,
            alg,
            age,
            lag_ms,
            error,
        } = self;
        write!(f, "{alg} {kid} at the age of {age:.1} s, {lag_ms} ms behind: {error}")
    }
}

/// What a verifier did.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Summary {
    /// The library's version, as it says itself.
    pub version: String,
    /// Tokens it was handed.
    pub tokens: usize,
    /// Tokens it refused at least once.
    pub refused_tokens: usize,
    /// How often it verified one.
    pub verifications: usize,
    /// How often it refused one.
    pub refusals: usize,
    /// Verifications that ended after the token's expiry because the machine stood still; no refusals.
    pub late: usize,
    /// How late its latest pass ran, in milliseconds.
    pub max_lag_ms: u64,
}

/// Everything a verifier said.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its refusals, in their order.
    pub refusals: Vec<Refusal>,
    /// Its last word; none when it ended without one.
    pub summary: Option<Summary>,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    Refusal(Refusal),
    Summary(Summary),
}

impl Report {
    /// The first few refusals.
    pub fn first_refusals(&self) -> String {
        let lines: Vec<String> = self.refusals.iter().take(5).map(Refusal::to_string).collect();
        lines.join("; ")
    }
}

impl Verifier {
    /// Starts one that fetches its keys from this address and keeps them as the library does by default.
    pub fn start(library: &'static Library, node: usize, key_set_url: &str) -> Self {
        Self::spawn(library, node, &[ISSUER, AUDIENCE, key_set_url])
    }

    /// The same with a library whose cache is set to this many seconds.
    pub fn start_with_cache(library: &'static Library, node: usize, key_set_url: &str, seconds: u32) -> Self {
        Self::spawn(library, node, &[ISSUER, AUDIENCE, key_set_url, &seconds.to_string()])
    }

    fn spawn(library: &'static Library, node: usize, arguments: &[&str]) -> Self {
        let mut process = library
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        let said = Arc::new(Mutex::new(Report::default()));
        let report = Arc::clone(&said);
        Self {
            library,
            node,
            input: process.stdin.take(),
            process,
            said,
            reader: Some(std::thread::spawn(move || read(output, &report))),
        }
    }

    /// Hands it a token.
    pub fn hand(&mut self, token: &str) {
        let line = json!({ "token": token });
        let written = self.input.as_mut().map(|input| writeln!(input, "{line}"));
        assert!(matches!(written, Some(Ok(()))), "{} ended early", self.library);
    }

    /// Says that no more tokens come.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Whether it has said its last word; it does so when the last token has expired.
    pub fn is_done(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Its refusals so far, in their order.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.said.lock().unwrap().refusals.clone()
    }

    /// Everything it said; waits until it is done.
    pub fn report(&mut self) -> Report {
        self.reader.take().unwrap().join().unwrap();
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(output: ChildStdout, report: &Mutex<Report>) {
    for line in BufReader::new(output).lines() {
        let line = serde_json::from_str(&line.unwrap()).unwrap();
        let mut report = report.lock().unwrap();
        match line {
            Line::Refusal(refusal) => report.refusals.push(refusal),
            Line::Summary(summary) => report.summary = Some(summary),
        }
    }
}
