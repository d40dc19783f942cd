//! Verifier processes: a library with its default caching behind a pipe.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use keyround::jose::jwt::TokenType;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::json;

use crate::gateway;
use crate::libfaketime;
use crate::libraries::LIBRARIES;
use crate::ports::free_port;
use crate::relying_parties::RELYING_PARTIES;
use crate::service::{Client, Sender};
use crate::site::{AUDIENCE, Site};
use crate::versions::Version;

/// A library that verifies, one row of [`LIBRARIES`].
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
    /// The tokens that it accepts as it is set up here.
    pub accepts: TokenType,
    /// Whether it refuses the other type.
    pub checks_type: bool,
    /// How tokens reach it.
    pub runs: Runs,
    /// The file that `make test` leaves when it is installed.
    pub installed: &'static str,
    /// The program and its first arguments; those of the repository's folders `target` and `tests` are files.
    pub command: &'static [&'static str],
}

/// What a library does about an unknown kid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetches {
    /// Fetches, unless it did so less than 30 s ago.
    AfterHoldingBack,
    /// Fetches, every time.
    AtOnce,
    /// Fetches, unless it did so less than five minutes ago.
    OnceInFiveMinutes,
}

/// How tokens reach it.
#[derive(Debug)]
pub enum Runs {
    /// A program beside each node. It takes the issuer, the audience and the key set's URL, and where the library can be told so the
    /// seconds for which it keeps the keys; it is handed a line of JSON a token, and answers with [`Line`]s.
    Program,
    /// A service that knows the issuer alone, with its version as the lock file says it.
    Service(Version),
}

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

/// What other tests call what they may have to do without.
const PUBLIC_VECTORS: &str = "vectors";

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
        let known = [gateway::NAME, PUBLIC_VECTORS].contains(&name.as_str())
            || LIBRARIES.iter().any(|library| library.name == name)
            || RELYING_PARTIES.iter().any(|party| party.name == name);
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
    /// The node whose key set it fetches; the first for a service, which asks the issuer.
    pub node: usize,
    process: Child,
    input: Input,
    said: Arc<Mutex<Report>>,
    reader: Option<JoinHandle<()>>,
}

/// Where tokens are handed in.
enum Input {
    Pipe(ChildStdin),
    Client(Client, mpsc::Sender<String>),
    Ended,
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
    /// Starts one that keeps the keys of this node, or of the issuer, as the library does by default.
    pub fn start(library: &'static Library, node: usize, site: &Site) -> Self {
        match &library.runs {
            Runs::Program => {
                let key_set_url = if site.front.forgets() {
                    site.front.key_set_url()
                } else {
                    site.key_set_url(node)
                };
                Self::spawn(library, node, &[site.front.issuer(), AUDIENCE.to_owned(), key_set_url])
            }
            Runs::Service(version) => Self::serve(library, site, version),
        }
    }

    /// A program that fetches the key set at this address.
    pub fn start_at(library: &'static Library, site: &Site, key_set_url: &str) -> Self {
        let arguments = [site.front.issuer(), AUDIENCE.to_owned(), key_set_url.to_owned()];
        Self::spawn(library, 0, &arguments)
    }

    /// A program whose wall clock is off by so many seconds; its monotonic clock is true.
    pub fn start_on_clock(library: &'static Library, site: &Site, off_by: &str) -> Self {
        let arguments = [site.front.issuer(), AUDIENCE.to_owned(), site.key_set_url(0)];
        let faketime = libfaketime::library();
        let variables = [
            ("LD_PRELOAD", faketime.to_str().unwrap()),
            ("FAKETIME", off_by),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
        ];
        Self::spawn_by(library.command().envs(variables), library, 0, &arguments)
    }

    /// A program that fetches the node's key set, with a library whose cache is set to this many seconds.
    pub fn start_with_cache(library: &'static Library, node: usize, site: &Site, seconds: u32) -> Self {
        let key_set_url = site.key_set_url(node);
        Self::spawn(
            library,
            node,
            &[
                site.front.issuer(),
                AUDIENCE.to_owned(),
                key_set_url,
                seconds.to_string(),
            ],
        )
    }

    fn serve(library: &'static Library, site: &Site, version: &Version) -> Self {
        let port = free_port();
        let folder = site.folder_of(library.name);
        let log = File::create(folder.join("log")).unwrap();
        let process = library
            .command()
            .env("PORT", port.to_string())
            .env("ISSUER", site.front.issuer())
            .env("AUDIENCE", AUDIENCE)
            .env("KEY_SET", site.front.https_key_set_url())
            .env("CA", site.front.authority())
            .env("FOLDER", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Some tell each refusal there, and the client tells it as well.
            .stderr(log)
            .spawn()
            .unwrap();
        let client = Client::new(port);
        let (tokens, handed) = mpsc::channel();
        let said = Arc::new(Mutex::new(Report::default()));
        let (sends, report, version) = (client.clone(), Arc::clone(&said), version.read());
        Self {
            library,
            node: 0,
            process,
            input: Input::Client(client, tokens),
            said,
            reader: Some(std::thread::spawn(move || {
                Sender::new(sends, version, &report).send_all(&handed);
            })),
        }
    }

    /// Waits until a service serves.
    pub async fn wait_until_it_serves(&mut self) {
        if let Input::Client(client, _) = &self.input {
            client.wait_until_it_serves(self.library, &mut self.process).await;
        }
    }

    /// What a service says of this token beside those that it is handed.
    ///
    /// # Errors
    /// How it refuses it.
    pub async fn send(&self, token: &str) -> Result<(), String> {
        let Input::Client(client, _) = &self.input else {
            panic!("{} is no service", self.library);
        };
        client.send(token).await
    }

    fn spawn(library: &'static Library, node: usize, arguments: &[String]) -> Self {
        Self::spawn_by(&mut library.command(), library, node, arguments)
    }

    fn spawn_by(command: &mut Command, library: &'static Library, node: usize, arguments: &[String]) -> Self {
        let mut process = command
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
            input: Input::Pipe(process.stdin.take().unwrap()),
            process,
            said,
            reader: Some(std::thread::spawn(move || read(output, &report))),
        }
    }

    /// Hands it a token.
    pub fn hand(&mut self, token: &str) {
        let is_taken = match &mut self.input {
            Input::Pipe(input) => writeln!(input, "{}", json!({ "token": token })).is_ok(),
            Input::Client(_, tokens) => tokens.send(token.to_owned()).is_ok(),
            Input::Ended => false,
        };
        assert!(is_taken, "{} ended early", self.library);
    }

    /// Says that no more tokens come.
    pub fn end_input(&mut self) {
        self.input = Input::Ended;
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
        if matches!(self.library.runs, Runs::Service(_)) {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "the service of {} ended: {ended:?}", self.library);
        }
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.input = Input::Ended;
        // A service may have processes of its own, which it ends when it is asked to end.
        if matches!(self.library.runs, Runs::Service(_)) {
            let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
            let _ = self.process.wait();
            return;
        }
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
