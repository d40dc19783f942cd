//! What peers that behave badly cost everyone else: the key set's p99 beside them, and the memory after them.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use keyround::http::stream::{ANSWER_TICKS, TICK};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};

use crate::child::Process;
use crate::helpers::TestDatabase;
use crate::{results, until};

const KEY_SET: &[u8] = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n";

pub const MIB: u64 = 1024 * 1024;

/// How often every kind comes.
const ROUNDS: usize = 2;

/// What p99 stays below, if three times its idle value is less.
const MAX_P99: Duration = Duration::from_millis(5);

/// The memory that may stay, in bytes: the C library keeps what the first peers of each kind made it take, most of it for TLS.
const MAX_LEFT: u64 = 24 * MIB;

/// And what a second round may add to it.
const MAX_GROWTH: u64 = 3 * MIB;

/// How many requests are measured.
const SAMPLES: usize = 5_000;

pub fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http,
    Https,
    Tcp,
}

trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// A connection, and the socket below it.
fn connect(address: SocketAddr, speaks: Speaks) -> (TcpStream, Box<dyn Wire>) {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    let wire = socket.try_clone().unwrap();
    if speaks != Speaks::Https {
        return (socket, Box::new(wire));
    }
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_verify(SslVerifyMode::NONE);
    let wire = connector.build().connect("localhost", wire).unwrap();
    (socket, Box::new(wire))
}

/// The time that 99 of 100 requests for the key set on one connection stay within.
fn p99(address: SocketAddr, speaks: Speaks) -> Duration {
    let clock = Clock::system();
    let (_, mut wire) = connect(address, speaks);
    let mut bytes = vec![0; 64 * 1024];
    let mut times: Vec<Duration> = (0..SAMPLES)
        .map(|_| {
            let before = clock.read().monotonic;
            wire.write_all(KEY_SET).unwrap();
            assert!(wire.read(&mut bytes).unwrap() > 0);
            clock.read().monotonic.saturating_sub(before)
        })
        .collect();
    times.sort_unstable();
    times[SAMPLES * 99 / 100]
}

/// Connections that send these bytes as long as the server takes them, and read nothing.
fn mute(address: SocketAddr, speaks: Speaks, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let (socket, mut wire) = connect(address, speaks);
            let bytes = bytes.to_vec();
            // It stays open when everything is sent.
            std::thread::spawn(move || {
                let _ = wire.write_all(&bytes);
                std::mem::forget(wire);
            });
            socket
        })
        .collect()
}

/// Peers of one kind.
struct Peers {
    what: &'static str,
    of_admin: bool,
    speaks: Speaks,
    count: usize,
    bytes: Vec<u8>,
}

/// Every kind; those of HTTP as the listener speaks it.
fn peers(speaks: Speaks) -> Vec<Peers> {
    let post = |path: &str, kind: &str, length: usize, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let form = |path: &str, body: &str| post(path, "application/x-www-form-urlencoded", body.len(), body);
    let json = |path: &str, body: &str| post(path, "application/json", body.len(), body);
    let scope = format!(
        "grant_type=refresh_token&client_id=first-party&refresh_token=x&scope={}",
        "a+".repeat(7_000)
    );
    let login = r#"{"email":"nobody@example.com","password":"correct horse battery staple","token_delivery":"body"}"#;
    let refresh = r#"{"refresh_token":"not one of ours","token_delivery":"body"}"#;
    let revocation = "client_id=billing&client_secret=not-the-secret-of-it&token=e30.e30.e30";
    let unfinished = post(
        "/oauth2/token",
        "application/x-www-form-urlencoded",
        16 * 1024,
        &"a".repeat(8 * 1024),
    );
    let sessions = "GET /auth/sessions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer e30.e30.e30\r\n\r\n";
    let head = [b"GET / HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(5_000)].concat();
    let forms = form("/oauth2/token", &"resource=https%3A%2F%2Fa.example&".repeat(64));
    let of = |what, count, bytes| Peers {
        what,
        of_admin: false,
        speaks,
        count,
        bytes,
    };
    let mut all = vec![
        of("key sets", 128, KEY_SET.repeat(20_000)),
        of("scopes", 128, form("/oauth2/token", &scope).repeat(70).into_bytes()),
        of("forms of 64 parameters", 128, forms.repeat(1_000).into_bytes()),
        of("logins", 128, json("/auth/login", login).repeat(1_000).into_bytes()),
        of(
            "refreshes",
            128,
            json("/auth/refresh", refresh).repeat(1_000).into_bytes(),
        ),
        of(
            "revocations",
            128,
            form("/oauth2/revoke", revocation).repeat(1_000).into_bytes(),
        ),
        of("lists of sessions", 128, sessions.repeat(1_000).into_bytes()),
        of("heads that do not end", 128, head),
        of("bodies that stop", 128, unfinished.into_bytes()),
        of("nothing", 240, Vec::new()),
    ];
    if speaks == Speaks::Https {
        all.push(Peers {
            speaks: Speaks::Tcp,
            ..of("handshakes that stop", 128, b"\x16\x03\x01\x02\x00\x01".to_vec())
        });
    } else {
        all.push(Peers {
            of_admin: true,
            ..of("metrics", 32, b"GET /metrics HTTP/1.1\r\n\r\n".repeat(40_000))
        });
    }
    all
}

/// The rows of a server that speaks this.
async fn rows(speaks: Speaks) -> String {
    let database = TestDatabase::sqlite();
    let path = |name: &str| database.folder.path().join(name).to_str().unwrap().to_owned();
    let (key, certificate) = (path("privkey.pem"), path("fullchain.pem"));
    let mut settings = Vec::new();
    if speaks == Speaks::Https {
        self_signed(&key, &certificate);
        settings = vec![
            ("server.issuer", "https://localhost"),
            ("server.tls_key_file", &key),
            ("server.tls_certificate_file", &certificate),
        ];
    }
    let mut process = Process::spawn_in(&database, "bounds", &settings, &allocator_of_the_unit());
    until("it listens", async || process.address().is_some()).await;
    let (address, admin) = (process.address().unwrap(), process.admin_address().unwrap());
    // A server that has worked: the first request of each kind makes it take what it keeps.
    for kind in peers(speaks) {
        let target = if kind.of_admin { admin } else { address };
        let length = kind.bytes.len().min(64 * 1024);
        for socket in mute(target, kind.speaks, 8, &kind.bytes[..length]) {
            sleep(TICK / 4).await;
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
    p99(address, speaks);
    let (idle, before) = (p99(address, speaks), resident(&process));
    let mut rows = String::new();
    let mut too_slow = Vec::new();
    let mut left = Vec::new();
    for round in 1..=ROUNDS {
        for kind in peers(speaks) {
            let (what, count) = (kind.what, kind.count);
            let target = if kind.of_admin { admin } else { address };
            let sockets = mute(target, kind.speaks, count, &kind.bytes);
            // First what they cost while the server takes what it takes, then what they hold.
            let meanwhile = p99(address, speaks);
            let held = resident(&process).saturating_sub(before) / 1024;
            let row = format!(
                "| {speaks:?} | {round} | {what} | {count} | {} | {meanwhile:.2?} | {idle:.2?} | {:.1} | {held} KiB |\n",
                kind.bytes.len() * count,
                meanwhile.as_secs_f64() / idle.as_secs_f64(),
            );
            print!("{row}");
            if meanwhile >= (idle * 3).max(MAX_P99) {
                too_slow.push(row.clone());
            }
            rows.push_str(&row);
            // The last ones stay: the server ends them.
            if what != "nothing" {
                for socket in &sockets {
                    let _ = socket.shutdown(Shutdown::Both);
                }
            }
        }
        sleep(TICK * (ANSWER_TICKS + 1)).await;
        let after = resident(&process).saturating_sub(before);
        println!("{speaks:?}, round {round}: {} KiB more than before", after / 1024);
        left.push(after);
    }
    process.tell_to_stop();
    assert!(process.until_it_ends().await.success());
    assert_eq!(too_slow, Vec::<String>::new());
    assert!(left.iter().all(|left| *left < MAX_LEFT), "{left:?}");
    assert!(left[ROUNDS - 1] < left[0] + MAX_GROWTH, "{left:?}");
    let left: Vec<String> = left.iter().map(|left| format!("{} KiB", left / 1024)).collect();
    rows += "| | | what is left after each round | | | | | | ";
    rows += &left.join(", ");
    rows += " |\n";
    rows
}

/// What the shipped unit tells the C library's allocator.
fn allocator_of_the_unit() -> Vec<(&'static str, &'static str)> {
    let unit = include_str!("../../deploy/keyround.service");
    let variables = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    let settings: Vec<_> = variables
        .filter(|variable| variable.starts_with("MALLOC_"))
        .filter_map(|variable| variable.split_once('='))
        .collect();
    assert!(!settings.is_empty(), "the unit says nothing of memory");
    settings
}

fn self_signed(key: &str, certificate: &str) {
    #[rustfmt::skip]
    let made = std::process::Command::new("openssl").args([
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
        "-keyout", key, "-out", certificate,
    ]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn peers_that_do_not_read_cost_others_little() {
    let rows = [rows(Speaks::Http).await, rows(Speaks::Https).await].concat();
    let page = format!(
        "# Bounds\n\nWhat `make proof-measured` saw {}, with the release build on two cores that did nothing else. Peers on the same machine send as \
         much as the server takes and read nothing; meanwhile another connection asks for the key set, {SAMPLES} times. Each kind comes {ROUNDS} times.\n\n\
         *p99*: the time that 99 of 100 of its answers stay within, beside those peers and without any. The test asks for at most three times \
         the latter, or {} ms. *Held*: the memory of the server beyond what it had before. The test asks for less than {} MiB after all kinds, and for \
         less than {} MiB more after the second round.\n\n\
         | Listener | Round | Peers send | Connections | Bytes offered | p99 | p99 idle | Times idle | Held |\n\
         |---|---|---|---|---|---|---|---|---|\n{rows}",
        results::of_now(),
        MAX_P99.as_millis(),
        MAX_LEFT / MIB,
        MAX_GROWTH / MIB,
    );
    results::write("bounds.md", &page);
}
