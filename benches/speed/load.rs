//! Load by wrk, from the core that the servers leave free.
//!
//! A rate is told per second of the processor's time that the server took. Where nothing else runs, a server under load
//! takes all of its core, and the two are the same; where something does, the rate stays what it is.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::machine::{Cores, pinned, seconds_on_core};
use crate::servers::Server;

/// What is asked for, again and again.
#[derive(Clone)]
pub struct Load {
    /// The server's process.
    server: u32,
    /// `http://ADDRESS/PATH`.
    url: String,
    /// A file of credentials and forms, one request a line; without, the URL is asked for by GET.
    forms: Option<PathBuf>,
    /// One more header.
    header: Option<String>,
    /// How many connections ask at once.
    connections: u32,
    /// For how long.
    seconds: u32,
}

/// What wrk saw.
#[derive(Clone, Copy)]
pub struct Seen {
    /// Answers for a second of the server's time on its core.
    pub rate: f64,
    /// The median time until an answer, in microseconds.
    pub p50: f64,
    /// What one answer in a hundred takes longer than, in microseconds.
    pub p99: f64,
}

/// A load under way.
pub struct Running {
    wrk: Child,
    server: u32,
    before: f64,
}

impl Load {
    /// Asks by GET.
    pub fn get(server: &Server, path: &str) -> Self {
        Self {
            server: server.process.id(),
            url: format!("http://{}{path}", server.address),
            forms: None,
            header: None,
            connections: 16,
            seconds: 2,
        }
    }

    /// Asks with these forms.
    pub fn forms(server: &Server, path: &str, forms: PathBuf) -> Self {
        Self {
            forms: Some(forms),
            ..Self::get(server, path)
        }
    }

    pub fn with_header(self, header: String) -> Self {
        Self {
            header: Some(header),
            ..self
        }
    }

    pub fn for_seconds(self, seconds: u32) -> Self {
        Self { seconds, ..self }
    }

    pub fn start(&self, cores: &Cores) -> Running {
        let mut command = pinned(&cores.load, "wrk");
        command
            .args(["--threads", "1", "--latency", "--timeout", "5s"])
            .args(["--connections", &self.connections.to_string()])
            .args(["--duration", &format!("{}s", self.seconds)]);
        if let Some(header) = &self.header {
            command.args(["--header", header]);
        }
        if self.forms.is_some() {
            command.args([
                "--script",
                concat!(env!("CARGO_MANIFEST_DIR"), "/benches/speed/wrk.lua"),
            ]);
        }
        command.arg(&self.url);
        if let Some(forms) = &self.forms {
            command.arg("--").arg(forms);
        }
        Running {
            server: self.server,
            before: seconds_on_core(self.server),
            wrk: command.stdout(Stdio::piped()).spawn().unwrap(),
        }
    }

    pub fn run(&self, cores: &Cores) -> Seen {
        self.start(cores).finish()
    }
}

impl Running {
    /// Waits for the end. An answer that is no success, or none at all, ends the benchmark.
    pub fn finish(self) -> Seen {
        let output = self.wrk.wait_with_output().unwrap();
        let taken = seconds_on_core(self.server) - self.before;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "wrk failed: {text}");
        for failure in ["Non-2xx", "Socket errors"] {
            assert!(!text.contains(failure), "wrk was refused:\n{text}");
        }
        let after = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("wrk says no {name}:\n{text}")).trim()
        };
        let answers = text.lines().find(|line| line.contains(" requests in ")).unwrap();
        let answers: f64 = answers.split_whitespace().next().unwrap().parse().unwrap();
        Seen {
            rate: answers / taken,
            p50: microseconds(after("50%")),
            p99: microseconds(after("99%")),
        }
    }
}

/// `87.00us`, `1.23ms` or `1.02s`.
fn microseconds(text: &str) -> f64 {
    let (number, factor) = match text {
        text if text.ends_with("us") => (&text[..text.len() - 2], 1.0),
        text if text.ends_with("ms") => (&text[..text.len() - 2], 1e3),
        text => (text.trim_end_matches('s'), 1e6),
    };
    number.parse::<f64>().unwrap() * factor
}

/// The version of wrk.
pub fn version() -> String {
    let output = Command::new("wrk").arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .nth(1)
        .unwrap_or("?")
        .trim_start_matches("debian/")
        .to_owned()
}
