//! The real binary, with nothing in its environment but what the test puts there.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

pub use crate::ports::free_port;

/// What programs that a test starts find in their environment.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The binary.
pub const BINARY: &str = env!("CARGO_BIN_EXE_keyround");

/// The binary in this folder with these variables.
pub fn keyround(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", PATH)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub fn run(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    keyround(folder, variables, arguments).output().unwrap()
}

/// Most tests do not wait for load balancers.
const SHUTDOWN_DELAY: &str = "KEYROUND_SERVER__SHUTDOWN_DELAY";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server that runs.
pub struct Serving {
    child: Child,
    lines: Receiver<String>,
    log: Vec<String>,
    printed: Receiver<String>,
    /// Where the public endpoints are: `http://127.0.0.1:PORT`.
    pub url: String,
    /// Where health and metrics are.
    pub admin_url: String,
}

impl Serving {
    /// Starts `keyround serve` and waits until it says that it serves.
    pub fn start(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start_by(keyround(folder, variables, arguments), variables)
    }

    /// The same by this command, which becomes the server.
    pub fn start_by(mut command: Command, variables: &[(&str, &str)]) -> Self {
        if variables.iter().all(|(name, _)| *name != SHUTDOWN_DELAY) {
            command.env(SHUTDOWN_DELAY, "0s");
        }
        let mut child = command.spawn().unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        let printed = lines_of(child.stdout.take().unwrap());
        let mut serving = Self {
            child,
            lines,
            log: Vec::new(),
            printed,
            url: String::new(),
            admin_url: String::new(),
        };
        let line = serving.wait_for("serving");
        serving.url = address_after(&line, "public");
        serving.admin_url = address_after(&line, "admin");
        serving
    }

    /// The first line from now on that holds this text.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("the log never said '{text}': {:#?}", self.log));
            self.log.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// How much memory it holds, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Tells it to end, as an operator does.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal: `TERM`, `INT`, `HUP`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(sent.unwrap().success());
    }

    /// A line of its `/proc/PID/status`, behind the name.
    pub fn status_line(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    }

    /// Ends it; answers with its status, all its log lines, and what it printed.
    pub fn stop(self) -> (ExitStatus, Vec<String>, String) {
        self.terminate();
        self.ended()
    }

    /// The same, for one that was told to end.
    pub fn ended(mut self) -> (ExitStatus, Vec<String>, String) {
        // The channel closes when the process has ended.
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.log.push(line);
        }
        let status = self.child.wait().unwrap();
        let printed: Vec<String> = self.printed.iter().collect();
        (status, std::mem::take(&mut self.log), printed.join("\n"))
    }

    /// What it prints, up to the first line that holds this text.
    pub fn printed_until(&self, text: &str) -> String {
        let mut printed = String::new();
        while !printed.contains(text) {
            let line = self.printed.recv_timeout(PATIENCE);
            printed.push_str(&line.unwrap_or_else(|_| panic!("'{text}' was never printed: {printed}")));
            printed.push('\n');
        }
        printed
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream as they come; the channel closes with the stream.
fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
    lines
}

fn address_after(line: &str, name: &str) -> String {
    let (_, rest) = line.split_once(name).unwrap();
    let start = rest.find("127.0.0.1:").unwrap();
    let address = rest[start..]
        .chars()
        .take_while(|character| character.is_ascii_digit() || matches!(character, '.' | ':'));
    format!("http://{}", address.collect::<String>())
}
