//! The machine: its two cores, what runs on it, and processes pinned to one core.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The core of the servers and the core of the load.
pub struct Cores {
    pub server: String,
    pub load: String,
}

impl Cores {
    /// The first two cores that this process may use.
    pub fn find() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap()
            .trim();
        let mut cores = list.split(',').flat_map(|range| {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to): (u32, u32) = (from.parse().unwrap(), to.parse().unwrap());
            from..=to
        });
        let (server, load) = (cores.next(), cores.next());
        let load = load.expect("this needs two cores, one for the server and one for the load");
        Self {
            server: server.unwrap().to_string(),
            load: load.to_string(),
        }
    }

    /// Both, for a server that the load is nothing beside.
    pub fn both(&self) -> String {
        format!("{},{}", self.server, self.load)
    }
}

/// A program on one core, or on a list of them.
pub fn pinned(core: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", core]).arg(program).stdin(Stdio::null());
    command
}

/// How long a process has run on its core, all its threads together.
pub fn seconds_on_core(process: u32) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let nanoseconds: u64 = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .map(|times| times.split_whitespace().next().unwrap().parse::<u64>().unwrap())
        .sum();
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// A process that is killed when dropped.
pub struct Process(pub Child);

impl Process {
    /// Starts a server and reads where it serves from the first line of its standard output that is an address.
    pub fn start(mut command: Command) -> (Self, String) {
        let mut process = Self(command.stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find(|line| line.parse::<std::net::SocketAddr>().is_ok());
        (process, address.expect("the server says where it serves"))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The resident memory, in megabytes (2^20).
    pub fn resident_megabytes(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .unwrap();
        kilobytes.trim().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `taskset` becomes the program that it starts, so this is the server itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One line for every thing that a figure depends on.
pub fn description() -> Vec<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "?".to_owned(), |(_, name)| name.trim().to_owned());
    let cores = read("/proc/cpuinfo")
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let system = read("/etc/os-release")
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("?")
        .trim_matches('"')
        .to_owned();
    let says = |program: &str, argument: &str| said(program, argument).unwrap_or_else(|| "?".to_owned());
    vec![
        (
            "processor".to_owned(),
            format!("{processor}, {cores} cores, {}", std::env::consts::ARCH),
        ),
        (
            "system".to_owned(),
            format!("{system}, Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        ),
        ("OpenSSL".to_owned(), openssl::version::version().to_owned()),
        ("Rust".to_owned(), says("rustc", "--version")),
        ("Node".to_owned(), says("node", "--version")),
    ]
}

/// The first line that a program prints, on whichever of its outputs.
pub fn said(program: impl AsRef<Path>, argument: &str) -> Option<String> {
    let output = Command::new(program.as_ref()).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(str::to_owned)
}

/// How many processes want to run, on the average of the last minute: what runs beside the benchmark disturbs it.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(0.0)
}
