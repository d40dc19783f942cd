//! What peers can make a listener hold: connections, pending answers, heads that never end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use keyround::app::ADMIN_CONNECTIONS;
use keyround::clock::Clock;
use keyround::http::listener::{BACKLOG, HANDSHAKE_TIMEOUT};
use keyround::http::stream::{ANSWER_TICKS, HEAD_TICKS, TICK};
use openssl_client::Client;

use crate::process::{Serving, keyround};
use crate::raw::Connection;

const KEY_SET: &str = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n";

const MIB: u64 = 1024 * 1024;

/// TLS by `openssl s_client`, whose standard input and output are the connection.
mod openssl_client {
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    /// One connection.
    pub struct Client(Child);

    impl Client {
        /// Connects; nothing that comes is read.
        pub fn open(address: &str) -> Self {
            let child = Command::new("openssl")
                .args(["s_client", "-quiet", "-connect", address])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            Self(child.unwrap())
        }

        /// Sends in the background; it may take as long as the server lets it.
        pub fn send(&mut self, bytes: Vec<u8>) {
            let mut stdin = self.0.stdin.take().unwrap();
            std::thread::spawn(move || stdin.write_all(&bytes));
        }
    }

    impl Drop for Client {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn variables() -> Vec<(&'static str, String)> {
    [
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

fn start(folder: &Path, more: &[(&'static str, &str)]) -> Serving {
    let mut variables = variables();
    variables.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Serving::start(folder, &variables, &["serve"])
}

#[expect(clippy::disallowed_methods, reason = "the server's own time-outs must pass")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

fn address(url: &str) -> &str {
    url.trim_start_matches("http://")
}

fn status(url: &str, path: &str) -> u16 {
    let mut connection = Connection::open(url);
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    connection.answer().map_or(0, |answer| answer.status())
}

/// When the kernel's buffers are full the number of answers stands still. One look may meet a machine that is busy with others.
fn until_nothing_moves(serving: &Serving) {
    let (mut answered, mut alike) = (0, 0);
    while alike < 3 {
        wait(Duration::from_secs(1));
        let now = metric(serving, "keyround_key_set_answers_total{status=\"200\"}");
        alike = if now > 0 && now == answered { alike + 1 } else { 0 };
        answered = now;
    }
}

fn metric(serving: &Serving, name: &str) -> u64 {
    // This connection, too, may end for a newer one.
    let answer = loop {
        let mut connection = Connection::open(&serving.admin_url);
        connection.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        if let Some(answer) = connection.answer() {
            break answer;
        }
    };
    let text = String::from_utf8(answer.body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.map_or(0, |value| value.parse().unwrap())
}

/// Waits until so many were displaced. The kernel connects before the server accepts: what a busy machine still has to accept would
/// displace the connections that come after it.
fn until_displaced(serving: &Serving, count: impl Fn() -> u64) {
    let mut displaced = 0;
    for _ in 0..600 {
        displaced = metric(serving, "keyround_displaced_connections_total");
        if displaced >= count() {
            return;
        }
        wait(Duration::from_millis(100));
    }
    panic!("{displaced} of {} were displaced", count());
}

/// Whether the server closes it, within a bound that leaves room for a busy machine.
fn is_closed(mut stream: TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within * 12)).unwrap();
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
            }
        }
    }
}

#[test]
fn requests_that_come_together_are_answered_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[]);
    let form = "Host: a\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    let long = format!("x={}", "y".repeat(12_000));
    let requests = [
        (KEY_SET.to_owned(), 200),
        ("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404),
        (
            format!("POST /oauth2/token HTTP/1.1\r\n{form}Content-Length: 3\r\n\r\nx=1"),
            401,
        ),
        (
            format!(
                "POST /oauth2/token HTTP/1.1\r\n{form}Content-Length: {}\r\n\r\n{long}",
                long.len()
            ),
            401,
        ),
        (
            format!("POST /oauth2/token HTTP/1.1\r\n{form}Transfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n"),
            401,
        ),
        (
            format!(
                "POST /oauth2/token HTTP/1.1\r\n{form}Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nx=1\r\n100\r\n{}\r\n0\r\nX: y\r\n\r\n",
                "\n".repeat(256)
            ),
            401,
        ),
        (
            format!("POST /nothing HTTP/1.1\r\n{form}Transfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n"),
            404,
        ),
        // A blank line within a body ends nothing.
        (
            format!("POST /oauth2/token HTTP/1.1\r\n{form}Content-Length: 10\r\n\r\nx=1\r\n\r\n\r\n\n"),
            401,
        ),
        ("\r\nGET /nothing HTTP/1.1\nHost: a\n\n".to_owned(), 404),
        (format!("HEAD{}", &KEY_SET[3..]), 200),
    ];
    let everything: String = requests.iter().map(|(request, _)| request.as_str()).collect();
    let expected: Vec<u16> = requests.iter().map(|(_, status)| *status).collect();
    let rounds = 5;
    for piece in [usize::MAX, 8 * 1024, 1_000, 7, 1] {
        let mut connection = Connection::open(&serving.url);
        let text = everything.repeat(rounds);
        let bytes = text.as_bytes();
        let mut sender = connection.sender();
        let pieces: Vec<Vec<u8>> = bytes.chunks(piece.min(bytes.len())).map(<[u8]>::to_vec).collect();
        let sent = std::thread::spawn(move || pieces.iter().for_each(|piece| sender.write_all(piece).unwrap()));
        for round in 0..rounds {
            for (at, status) in expected.iter().enumerate() {
                // A HEAD has the length of a body that does not come.
                let answer = if at == expected.len() - 1 {
                    connection.head()
                } else {
                    connection.answer()
                };
                let answer = answer.unwrap_or_else(|| panic!("pieces of {piece}, {round}: nothing for {at}"));
                assert_eq!(answer.status(), *status, "pieces of {piece}, {round}, {at}");
            }
        }
        sent.join().unwrap();
    }
    assert!(serving.stop().0.success());
}

#[test]
fn a_peer_that_does_not_read_holds_little_and_not_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[]);
    for _ in 0..100 {
        assert_eq!(status(&serving.url, "/.well-known/jwks.json"), 200);
        assert_eq!(status(&serving.admin_url, "/metrics"), 200);
    }
    let before = serving.resident_bytes();
    let key_sets = KEY_SET.repeat(8_000);
    assert!(key_sets.len() > 192 * 1024);
    let metrics = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(4_000);
    let post = "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Transfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n";
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(8_000));
    let posts = format!("{post}{}", KEY_SET.repeat(30)).repeat(200);
    let posts_and_long_heads = format!("{post}{}", long.repeat(30)).repeat(20);
    let heads = "GET / HTTP/1.1\nHost: a\n\n".repeat(20_000);
    let mut streams = Vec::new();
    for _ in 0..16 {
        for (url, requests) in [
            (&serving.url, &key_sets),
            (&serving.admin_url, &metrics),
            (&serving.url, &posts),
            (&serving.url, &posts_and_long_heads),
            (&serving.url, &heads),
        ] {
            if url == &serving.admin_url && streams.len() > 40 {
                continue;
            }
            let stream = TcpStream::connect(address(url)).unwrap();
            let mut sender = stream.try_clone().unwrap();
            let requests = requests.clone();
            // The server takes no more at some point, and closes in the end.
            std::thread::spawn(move || sender.write_all(requests.as_bytes()));
            streams.push(stream);
        }
    }
    // The key set stays there for others.
    for _ in 0..200 {
        assert_eq!(status(&serving.url, "/.well-known/jwks.json"), 200);
        assert_eq!(status(&serving.admin_url, "/livez"), 200);
    }
    let meanwhile = serving.resident_bytes();
    let each = meanwhile.saturating_sub(before) / streams.len() as u64;
    println!("{} connections hold {each} bytes each", streams.len());
    assert!(each < 200 * 1024, "{each} bytes each");
    // Nothing is read until the last connection has ended: a busy machine still answers when others wait already. The rest in the buffers
    // still comes.
    wait(TICK * ANSWER_TICKS);
    for _ in 0..3_000 {
        if metric(&serving, "keyround_connections") == 0 && serving.resident_bytes() < before + 10 * MIB {
            break;
        }
        wait(Duration::from_millis(100));
    }
    assert_eq!(metric(&serving, "keyround_connections"), 0);
    assert!(serving.resident_bytes() < before + 10 * MIB);
    assert!(streams.into_iter().all(|stream| is_closed(stream, TICK)));
    assert!(serving.stop().0.success());
}

/// A server that terminates TLS by itself.
fn start_with_tls(folder: &Path) -> Serving {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
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
    let (chain, key) = (path("chain.pem"), path("key.pem"));
    let more = [
        ("KEYROUND_SERVER__ISSUER", "https://localhost:8443"),
        ("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", chain.as_str()),
        ("KEYROUND_SERVER__TLS_KEY_FILE", key.as_str()),
    ];
    start(folder, &more)
}

#[test]
fn a_handshake_that_never_ends_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start_with_tls(folder.path());
    let clock = Clock::system();
    // A record that is announced and does not come.
    for says in [&b""[..], &[22, 3, 1, 2, 0, 1, 0]] {
        let mut silent = TcpStream::connect(address(&serving.url)).unwrap();
        let began = clock.read().monotonic;
        silent.write_all(says).unwrap();
        assert!(is_closed(silent, HANDSHAKE_TIMEOUT));
        let took = clock.read().monotonic.saturating_sub(began);
        assert!(took > HANDSHAKE_TIMEOUT.mul_f64(0.9), "{took:?}");
    }
    assert!(serving.stop().0.success());
}

#[test]
fn a_peer_that_does_not_read_holds_little_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start_with_tls(folder.path());
    let address = address(&serving.url).to_owned();
    let requests = |count: usize| {
        let mut client = Client::open(&address);
        client.send(KEY_SET.repeat(count).into_bytes());
        client
    };
    let warm: Vec<Client> = (0..8).map(|_| requests(200)).collect();
    until_nothing_moves(&serving);
    drop(warm);
    let before = serving.resident_bytes();
    let clients: Vec<Client> = (0..16).map(|_| requests(4_000)).collect();
    until_nothing_moves(&serving);
    let each = serving.resident_bytes().saturating_sub(before) / clients.len() as u64;
    println!("{} connections over TLS hold {each} bytes each", clients.len());
    assert!(each < 400 * 1024, "{each} bytes each");
    drop(clients);
    assert!(serving.stop().0.success());
}

#[test]
fn a_second_request_that_never_ends_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[]);
    let start = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: ";
    let mut kept = TcpStream::connect(address(&serving.url)).unwrap();
    kept.write_all(KEY_SET.as_bytes()).unwrap();
    let mut bytes = vec![0; 64 * 1024];
    assert!(kept.read(&mut bytes).unwrap() > 0);
    kept.write_all(start.as_bytes()).unwrap();
    let mut together = TcpStream::connect(address(&serving.url)).unwrap();
    together.write_all(format!("{KEY_SET}{start}").as_bytes()).unwrap();
    assert!(is_closed(kept, TICK * HEAD_TICKS));
    assert!(is_closed(together, TICK * HEAD_TICKS));
    assert!(serving.stop().0.success());
}

#[test]
fn other_protocols_are_ignored_and_the_close_is_announced() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[]);
    for (name, upgrade) in [
        ("websocket", "Connection: upgrade\r\nUpgrade: websocket\r\n"),
        ("websocket alone", "Upgrade: WebSocket\r\n"),
        (
            "h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        ),
        ("nothing", "Connection: upgrade\r\n"),
    ] {
        let form = "Host: a\r\nContent-Type: application/x-www-form-urlencoded\r\n";
        let sized = format!("POST /oauth2/token HTTP/1.1\r\n{form}{upgrade}Content-Length: 3\r\n\r\nx=1");
        let chunks = "Transfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n";
        let chunked = format!("POST /oauth2/token HTTP/1.1\r\n{form}{upgrade}{chunks}");
        let empty = format!("POST /oauth2/token HTTP/1.1\r\n{form}{upgrade}\r\n");
        let read = format!("GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n");
        for (request, status) in [(sized, 401), (chunked, 401), (empty, 401), (read, 200)] {
            let mut connection = Connection::open(&serving.url);
            connection.send(format!("{request}{KEY_SET}"));
            let answer = connection.answer().unwrap();
            assert_eq!(answer.status(), status, "{name}: {request}");
            assert_eq!(answer.header("upgrade"), None, "{name}");
            match answer.header("connection") {
                Some(option) => {
                    assert_eq!(option, "close", "{name}: {request}");
                    assert!(connection.rest().is_empty(), "{name}: {request}");
                }
                None => assert_eq!(connection.answer().unwrap().status(), 200, "{name}: {request}"),
            }
        }
    }
    assert!(serving.stop().0.success());
}

#[test]
fn bodies_wait_for_leave_and_old_clients_keep_their_connections() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[]);
    let form = "Host: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n";
    let mut connection = Connection::open(&serving.url);
    for _ in 0..3 {
        connection.send(format!(
            "POST /oauth2/token HTTP/1.1\r\n{form}Expect: 100-continue\r\n\r\n"
        ));
        assert_eq!(connection.head().unwrap().status(), 100);
        connection.send(format!("x=1{KEY_SET}"));
        assert_eq!(connection.answer().unwrap().status(), 401);
        assert_eq!(connection.answer().unwrap().status(), 200);
        let post = format!("POST /oauth2/token HTTP/1.0\r\n{form}Connection: keep-alive\r\n\r\nx=1");
        connection.send(post.repeat(2));
        for _ in 0..2 {
            let answer = connection.answer().unwrap();
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.header("connection"), Some("keep-alive"));
        }
    }
    // The refusal of what follows has a body too.
    let many = "X: a\r\n".repeat(100);
    connection.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"));
    let answer = connection.answer().unwrap();
    assert_eq!(answer.status(), 431);
    assert!(String::from_utf8(answer.body).unwrap().contains("96 headers"));
    assert!(serving.stop().0.success());
}

#[test]
fn one_address_displaces_its_own_connections_and_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[("KEYROUND_SERVER__MAX_CONNECTIONS_PER_ADDRESS", "16")]);
    let mut kept = Connection::open(&serving.url);
    kept.send(KEY_SET);
    assert_eq!(kept.answer().unwrap().status(), 200);
    let idle: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(address(&serving.url)).unwrap())
        .collect();
    // All but the kept one and fifteen more.
    until_displaced(&serving, || 185);
    assert_eq!(metric(&serving, "keyround_connections"), 16);
    for _ in 0..20 {
        assert_eq!(status(&serving.url, "/.well-known/jwks.json"), 200);
    }
    kept.send(KEY_SET);
    assert_eq!(kept.answer().unwrap().status(), 200, "a kept connection ends last");
    assert!(metric(&serving, "keyround_connections") <= 16);
    drop(idle);
    assert!(serving.stop().0.success());
}

#[test]
fn few_open_files_leave_room_for_the_admin_listener() {
    let folder = tempfile::tempdir().unwrap();
    let start = |files: u32| {
        let program = keyround(folder.path(), &[], &[]).get_program().to_owned();
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", &format!("ulimit -n {files}; exec \"$0\" serve")])
            .arg(program)
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", crate::process::PATH)
            .envs(variables())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let refused = start(128).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("may open only 128 files"), "{error}");

    let serving = Serving::start_by(start(300), &[]);
    let idle: Vec<TcpStream> = (0..600)
        .map(|_| TcpStream::connect(address(&serving.url)).unwrap())
        .collect();
    until_displaced(&serving, || 600 - metric(&serving, "keyround_connections"));
    for _ in 0..20 {
        assert_eq!(status(&serving.admin_url, "/readyz/issue"), 200);
        assert_eq!(status(&serving.url, "/.well-known/jwks.json"), 200);
    }
    drop(idle);
    let (_, log, _) = serving.stop();
    assert!(
        log.iter().any(|line| line.contains("may open only 300 files")),
        "{log:?}"
    );
    assert!(log.iter().all(|line| !line.contains("ERROR")), "{log:?}");
}

#[test]
fn the_admin_listener_displaces_idle_connections_too() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[]);
    let idle: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(address(&serving.admin_url)).unwrap())
        .collect();
    until_displaced(&serving, || 300 - u64::try_from(ADMIN_CONNECTIONS).unwrap());
    for _ in 0..20 {
        assert_eq!(status(&serving.admin_url, "/livez"), 200);
    }
    drop(idle);
    assert!(serving.stop().0.success());
}

#[test]
fn so_many_connections_wait_to_be_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[]);
    let most: u64 = std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    for url in [&serving.url, &serving.admin_url] {
        let port = url.rsplit(':').next().unwrap();
        let listed = std::process::Command::new("ss")
            .args(["-ltnH", &format!("sport = :{port}")])
            .output()
            .unwrap();
        let line = String::from_utf8(listed.stdout).unwrap();
        // State, waiting now, at most, and where.
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            cells[2].parse::<u64>().unwrap(),
            u64::try_from(BACKLOG).unwrap().min(most),
            "{line}"
        );
    }
    assert!(serving.stop().0.success());
}

/// Of any name and number: what bounds them is the bytes of the headers.
#[test]
fn cookies_count_with_the_headers() {
    const ROOM: usize = 32 * 1024 - 100;
    let folder = tempfile::tempdir().unwrap();
    let serving = start(folder.path(), &[]);
    let clock = Clock::system();
    let ask = |cookies: &str| {
        let mut connection = Connection::open(&serving.url);
        let began = clock.read().monotonic;
        connection.send(format!(
            "POST /auth/refresh HTTP/1.1\r\nHost: a\r\nCookie: {cookies}\r\nContent-Length: 0\r\n\r\n"
        ));
        let status = connection.answer().unwrap().status();
        (status, clock.read().monotonic.saturating_sub(began))
    };
    for pair in ["a=b;", ";", "__Secure-keyround-refresh=x;", "__Host-keyround-csrf=x;"] {
        // The shortest of some: a busy machine may hold up the others.
        let asked = (0..3).map(|_| ask(&pair.repeat(ROOM / pair.len())));
        let took = asked.map(|(status, took)| {
            assert!([400, 401, 403].contains(&status), "{pair}: {status}");
            took
        });
        let took = took.min().unwrap();
        assert!(took < Duration::from_secs(1), "{pair}: {took:?}");
        assert_eq!(ask(&pair.repeat(ROOM / pair.len() + 200)).0, 431, "{pair}");
    }
    assert!(serving.stop().0.success());
}

/// Any address of 127.0.0.0/8 is this machine.
fn connect_from(host: [u8; 4], url: &str) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((host, 0))).unwrap();
    connect(&socket, &address(url).parse::<SocketAddr>().unwrap()).unwrap();
    socket.into()
}

/// Whatever strangers do with their connections: say nothing, keep them, send half a body, take no answer.
#[test]
fn strangers_that_hold_all_connections_keep_no_newcomer_out() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(
        folder.path(),
        &[
            ("KEYROUND_SERVER__MAX_CONNECTIONS", "48"),
            ("KEYROUND_SERVER__MAX_CONNECTIONS_PER_ADDRESS", "16"),
        ],
    );
    let half = "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\nx=";
    let many = KEY_SET.repeat(2_000);
    for says in ["", KEY_SET, half, &many] {
        let mut held: Vec<TcpStream> = Vec::new();
        let mut add = |count: u8| {
            for at in 0..count {
                let mut stranger = connect_from([127, 0, 1, at % 4], &serving.url);
                stranger.set_nonblocking(true).unwrap();
                let _ = stranger.write(says.as_bytes());
                held.push(stranger);
            }
        };
        add(96);
        for at in 0..8 {
            let mut newcomer = connect_from([127, 0, 2, at], &serving.url);
            newcomer.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
            add(32);
            newcomer.write_all(KEY_SET.as_bytes()).unwrap();
            let mut answer = [0; 15];
            newcomer.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 OK", "beside strangers that say {says:.60}");
        }
    }
    assert!(serving.stop().0.success());
}
