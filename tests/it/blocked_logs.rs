//! Logs that cannot be written: nothing else may depend on them.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use serde_json::Value;

use crate::process::{free_port, keyround};
use crate::raw::{Answer, Connection};

const MASTER_KEY: (&str, &str) = (
    "KEYROUND_KEYS__MASTER_KEY",
    "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
);

struct Server {
    child: Child,
    url: String,
    admin_url: String,
}

impl Server {
    /// Starts a server that writes to this, and waits until it serves.
    async fn start(folder: &Path, filter: &str, stdout: Stdio, stderr: Stdio) -> Self {
        let (public, admin) = (
            format!("127.0.0.1:{}", free_port()),
            format!("127.0.0.1:{}", free_port()),
        );
        let variables = [
            MASTER_KEY,
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_SERVER__LISTEN", public.as_str()),
            ("KEYROUND_SERVER__ADMIN_LISTEN", admin.as_str()),
            ("KEYROUND_SERVER__SHUTDOWN_DELAY", "0s"),
            ("KEYROUND_LOG__FILTER", filter),
        ];
        let mut command = keyround(folder, &variables, &["serve"]);
        let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        let mut server = Self {
            child,
            url: format!("http://{public}"),
            admin_url: format!("http://{admin}"),
        };
        for _ in 0..12_000 {
            if std::net::TcpStream::connect(&admin).is_ok() && std::net::TcpStream::connect(&public).is_ok() {
                return server;
            }
            assert_eq!(server.child.try_wait().unwrap(), None, "it ended");
            sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not serve");
    }

    fn get(url: &str, path: &str) -> Answer {
        let mut connection = Connection::open(url);
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        connection.answer().unwrap_or_else(|| panic!("no answer to {path}"))
    }

    fn dropped(&self) -> u64 {
        let text = String::from_utf8(Self::get(&self.admin_url, "/metrics").body).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("keyround_dropped_log_lines_total "));
        line.unwrap().parse().unwrap()
    }

    /// Requests until lines were dropped.
    fn log_until_lines_are_dropped(&self) {
        for _ in 0..100_000 {
            assert_eq!(Self::get(&self.url, "/.well-known/jwks.json").status(), 200);
            if self.dropped() > 0 {
                return;
            }
        }
        panic!("no line was dropped");
    }

    fn is_well(&self) {
        for path in ["/livez", "/readyz", "/readyz/issue"] {
            let answer = Self::get(&self.admin_url, path);
            let body = String::from_utf8(answer.body.clone()).unwrap();
            assert_eq!(answer.status(), 200, "{path}: {body}");
        }
    }

    async fn stop(mut self) -> ExitStatus {
        let id = self.child.id().to_string();
        let told = std::process::Command::new("kill").args(["-TERM", &id]).status();
        assert!(told.unwrap().success());
        for _ in 0..6_000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn full_disk() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// A pipe without room, and its reader.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&vec![b'x'; 64 * 1024]).unwrap();
    (reader, writer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_and_a_reader_that_is_gone_stop_nothing() {
    for stream in [full_disk, closed_pipe] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), "info", stream(), stream()).await;
        assert!(server.dropped() > 0, "the first lines of the start were dropped");
        server.is_well();
        assert!(server.stop().await.success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_stops_nothing_and_is_told_what_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut reader, writer) = full_pipe();
    let stdout = writer.try_clone().unwrap();
    let server = Server::start(folder.path(), "trace", stdout.into(), writer.into()).await;
    server.log_until_lines_are_dropped();
    server.is_well();

    let text = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        let told = b"log lines were dropped";
        loop {
            let length = reader.read(&mut piece).unwrap();
            text.extend_from_slice(&piece[..length]);
            let recent = &text[text.len().saturating_sub(length + told.len())..];
            if length == 0 || recent.windows(told.len()).any(|window| window == told) {
                // It stops reading again.
                return (text, reader);
            }
        }
    });
    while !text.is_finished() {
        assert_eq!(Server::get(&server.url, "/.well-known/jwks.json").status(), 200);
    }
    let (text, reader) = text.join().unwrap();
    assert!(String::from_utf8_lossy(&text).contains("log lines were dropped"));
    server.is_well();
    assert!(server.stop().await.success(), "its last lines find no reader");
    drop(reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_start_ends_though_its_reason_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let (_reader, writer) = full_pipe();
    for stderr in [full_disk(), closed_pipe(), writer.into()] {
        let mut child = keyround(folder.path(), &[], &["serve"]).stderr(stderr).spawn().unwrap();
        let mut code = None;
        for _ in 0..6_000 {
            if let Some(status) = child.try_wait().unwrap() {
                code = status.code();
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let _ = child.kill();
        assert_eq!(code, Some(2));
    }
}

/// Any caller can send them, so they write no line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_write_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let stderr = std::fs::File::create(&log).unwrap();
    let server = Server::start(folder.path(), "info", Stdio::null(), stderr.into()).await;
    let wide = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    for request in [
        "GET /\r\n\r\n",
        "\u{0}\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        &wide,
    ] {
        for url in [&server.url, &server.admin_url] {
            let mut connection = Connection::open(url);
            connection.send(request);
            assert!((400..500).contains(&connection.answer().unwrap().status()));
        }
    }
    let admin = server.admin_url.clone();
    assert!(server.stop().await.success());
    let text = std::fs::read_to_string(log).unwrap();
    assert!(text.contains(admin.trim_start_matches("http://")), "{text}");
    // The start says that it made the database.
    let lines = text.lines().filter(|line| !line.contains("keyround.db is new: "));
    for line in lines {
        assert!(!line.contains("ERROR") && !line.contains("WARN"), "{text}");
    }
}

/// The file system behind the certificate does not answer: the task that looks at it is stuck, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_stuck_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-days",
            "2",
            "-keyout",
            &path("key.pem"),
            "-out",
            &path("chain.pem"),
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let database = crate::helpers::TestDatabase::sqlite();
    let settings = [
        ("server.issuer", "https://localhost:8443"),
        ("server.tls_certificate_file", &path("chain.pem")),
        ("server.tls_key_file", &path("key.pem")),
    ];
    let app = crate::helpers::TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    assert_eq!(Server::get(&app.admin_url, "/livez").status(), 200);
    let pipe = std::process::Command::new("mkfifo").arg(path("pipe")).status();
    assert!(pipe.unwrap().success());
    // A writer that writes nothing is waited for longer than one look may take.
    let writer = OpenOptions::new().read(true).write(true).open(path("pipe")).unwrap();
    std::fs::rename(path("chain.pem"), path("good.pem")).unwrap();
    std::fs::hard_link(path("pipe"), path("chain.pem")).unwrap();
    let mut answer = Server::get(&app.admin_url, "/livez");
    for _ in 0..6_000 {
        if answer.status() == 503 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
        answer = Server::get(&app.admin_url, "/livez");
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let detail = body["checks"][1]["detail"].as_str().unwrap();
    assert!(detail.contains("made no progress") && detail.contains("tls"), "{body}");
    assert_eq!(Server::get(&app.admin_url, "/readyz/issue").status(), 200);
    std::fs::rename(path("good.pem"), path("chain.pem")).unwrap();
    // A writer that goes away lets the look end, and the task goes on.
    drop(writer);
    for _ in 0..6_000 {
        if Server::get(&app.admin_url, "/livez").status() == 200 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(Server::get(&app.admin_url, "/livez").status(), 200);
    app.running.stop().await;
}
