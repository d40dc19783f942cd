//! Verifier processes: a library with its default caching behind a pipe.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use serde::Deserialize;
use serde_json::json;

use crate::site::{AUDIENCE, ISSUER};

/// A library that verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// npm `jose`, `createRemoteJWKSet`.
    Jose,
    /// `PyPI` `PyJWT`, `PyJWKClient`.
    PyJwt,
}

impl Library {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Jose, Self::PyJwt];

    fn command(self) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (ready, program, script) = match self {
            Self::Jose => (
                root.join("tests/interop/javascript/node_modules/ready"),
                "node".into(),
                "tests/interop/javascript/verifier.mjs",
            ),
            Self::PyJwt => (
                root.join("target/interop/python/ready"),
                root.join("target/interop/python/bin/python"),
                "tests/interop/python/verifier.py",
            ),
        };
        assert!(ready.exists(), "{self} is not installed: run make test");
        let mut command = Command::new(program);
        command.arg(root.join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Jose => "jose",
            Self::PyJwt => "PyJWT",
        })
    }
}

/// One running verifier.
pub struct Verifier {
    /// The library.
    pub library: Library,
    /// The node whose key set it fetches.
    pub node: usize,
    process: Child,
    input: Option<ChildStdin>,
    reader: Option<JoinHandle<Report>>,
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
    /// Starts one that fetches its keys from this address.
    pub fn start(library: Library, node: usize, key_set_url: &str) -> Self {
        let mut process = library
            .command()
            .args([ISSUER, AUDIENCE, key_set_url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        Self {
            library,
            node,
            input: process.stdin.take(),
            process,
            reader: Some(std::thread::spawn(move || read(output))),
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

    /// Everything it said; waits until it is done.
    pub fn report(&mut self) -> Report {
        self.reader.take().unwrap().join().unwrap()
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(output: ChildStdout) -> Report {
    let mut report = Report::default();
    for line in BufReader::new(output).lines() {
        match serde_json::from_str(&line.unwrap()).unwrap() {
            Line::Refusal(refusal) => report.refusals.push(refusal),
            Line::Summary(summary) => report.summary = Some(summary),
        }
    }
    report
}
