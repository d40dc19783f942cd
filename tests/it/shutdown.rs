//! The end of a server: load balancers learn of it first, and requests under way are finished.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::process::{Serving, keyround};
use crate::raw::{Answer, Connection};

const MASTER_KEY: (&str, &str) = (
    "KEYROUND_KEYS__MASTER_KEY",
    "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
);

const KEY_SET: &str = "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n";

fn variables(delay: &str) -> [(&str, &str); 5] {
    [
        MASTER_KEY,
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__SHUTDOWN_DELAY", delay),
    ]
}

fn start(folder: &Path, delay: &str) -> Serving {
    Serving::start(folder, &variables(delay), &["serve"])
}

fn get(url: &str, path: &str) -> Answer {
    let mut connection = Connection::open(url);
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    connection.answer().unwrap()
}

fn closes(answer: &Answer) -> bool {
    answer.header("connection") == Some("close")
}

#[test]
fn a_server_that_stops_is_not_ready_and_still_serves() {
    for signal in ["TERM", "INT", "HUP"] {
        let folder = tempfile::tempdir().unwrap();
        let mut serving = start(folder.path(), "5m");
        let mut kept = Connection::open(&serving.url);
        kept.send(KEY_SET);
        assert!(!closes(&kept.answer().unwrap()));
        assert_eq!(get(&serving.admin_url, "/readyz").status(), 200);
        serving.signal(signal);
        serving.wait_for("stopping");

        for path in ["/readyz", "/readyz/issue"] {
            let answer = get(&serving.admin_url, path);
            assert_eq!(answer.status(), 503, "{signal}");
            let text = String::from_utf8(answer.body).unwrap();
            assert!(text.contains("the server is stopping"), "{text}");
        }
        assert_eq!(get(&serving.admin_url, "/livez").status(), 200);
        // A connection from before ends with its next answer, and a new one with its first.
        kept.send(KEY_SET);
        let answer = kept.answer().unwrap();
        assert!(answer.status() == 200 && closes(&answer), "{answer:?}");
        assert!(kept.rest().is_empty());
        let fresh = get(&serving.url, "/.well-known/jwks.json");
        assert!(fresh.status() == 200 && closes(&fresh), "{fresh:?}");
        let missing = get(&serving.url, "/nothing");
        assert!(missing.status() == 404 && closes(&missing), "{missing:?}");

        serving.signal(signal);
        let (status, log, _) = serving.ended();
        assert_eq!(status.code(), Some(1), "{log:?}");
        assert!(log.last().unwrap().contains("a second signal"), "{log:?}");
    }
}

#[test]
fn requests_under_way_are_finished_after_the_delay() {
    until_in_time(|| {
        let folder = tempfile::tempdir().unwrap();
        let serving = start(folder.path(), "1s");
        finishes_what_is_under_way(serving)
    });
}

/// A body that comes too late is 408, as always. A machine that is held up between its head and its end tries again.
pub fn until_in_time(attempt: impl Fn() -> Answer) {
    for _ in 0..10 {
        let answer = attempt();
        if answer.status() != 408 {
            assert!(answer.status() == 401 && closes(&answer), "{answer:?}");
            return;
        }
    }
    panic!("no body came in time");
}

/// Waits until nobody listens there any more. Seldom: each connection that is not accepted yet could displace an earlier one.
#[expect(clippy::disallowed_methods, reason = "the server's own delay must pass")]
pub fn until_closed(url: &str) {
    while TcpStream::connect(url.trim_start_matches("http://")).is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The answer to a request whose body comes after the listener has closed.
pub fn finishes_what_is_under_way(mut serving: Serving) -> Answer {
    let mut under_way = Connection::open(&serving.url);
    under_way.send(
        "POST /oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Expect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!(under_way.head().unwrap().status(), 100);
    serving.terminate();
    serving.wait_for("stopping");
    // The listener closes after the delay.
    until_closed(&serving.url);
    under_way.send("x=1");
    let answer = under_way.answer().unwrap();
    assert!(
        under_way.rest().is_empty(),
        "the connection is closed behind the answer"
    );
    let (status, log, _) = serving.ended();
    assert!(status.success(), "{log:?}");
    answer
}

#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = keyround(folder.path(), &variables("0s"), &[]);
    let program = command.get_program().to_owned();
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = std::process::Command::new("nohup");
    command
        .arg(program)
        .arg("serve")
        .current_dir(folder.path())
        .env_clear()
        .envs(environment)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let serving = Serving::start_by(command, &variables("0s"));
    let hangup = |name: &str| u64::from_str_radix(&serving.status_line(name), 16).unwrap() & 1;
    assert_eq!((hangup("SigIgn"), hangup("SigCgt")), (1, 0));
    serving.signal("HUP");
    assert_eq!(get(&serving.admin_url, "/readyz").status(), 200);
    let (status, log, _) = serving.stop();
    assert!(status.success(), "{log:?}");
}

#[test]
fn a_delay_that_no_orchestrator_waits_for_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = keyround(folder.path(), &variables("301s"), &["serve"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("the most is 5m"), "{error}");
}
