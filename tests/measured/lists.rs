//! Whether a long list in a request costs more than its length: twice the list may take twice the time, and not four times.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyround::clock::Clock;

use crate::child::{Process, register_clients};
use crate::helpers::TestDatabase;

/// How often each length is sent in one measurement.
const ROUNDS: usize = 101;
/// How much longer the longest list is than the short one.
const TIMES: u32 = 4;
/// What is not the list's, and what a clock does not tell apart.
const ALLOWED: Duration = Duration::from_micros(200);
/// A machine that does something else beside may spoil a measurement, but not so many.
const MEASUREMENTS: usize = 4;

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// `count` items, each with a number of its own.
fn items(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect()
}

fn requests(kind: &str, count: usize, secret: &str) -> String {
    let client = format!("grant_type=client_credentials&client_id=ES256&client_secret={secret}");
    let with_header = |path: &str, header: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
    match kind {
        "resources" => post(
            "/oauth2/token",
            &(client + &items(count, |at| format!("&resource=u:{at}"))),
        ),
        "audiences" => post(
            "/oauth2/token",
            &(client + &items(count, |at| format!("&audience=u:{at}"))),
        ),
        "scopes" => post(
            "/oauth2/token",
            &(client + "&scope=" + &items(count, |at| format!("s{at}+"))),
        ),
        "parameters" => post("/oauth2/token", &(client + &items(count, |at| format!("&p{at}=x")))),
        "cookies" => {
            let cookies = items(count, |at| format!("c{at}=x; "));
            let mut request =
                format!("POST /auth/refresh HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nCookie: {cookies}");
            write!(request, "d=x\r\n\r\n").unwrap();
            request
        }
        "entity tags" => {
            let tags = items(count, |at| format!("\"t{at}\", "));
            with_header("/.well-known/jwks.json", &format!("If-None-Match: {tags}\"t\""))
        }
        "forwarded addresses" => {
            let addresses = items(count, |at| format!("10.0.{}.{}, ", at / 256 % 256, at % 256));
            with_header(
                "/.well-known/jwks.json",
                &format!("X-Forwarded-For: {addresses}192.0.2.1"),
            )
        }
        "headers" => with_header(
            "/.well-known/jwks.json",
            items(count, |at| format!("X-H{at}: x\r\n")).trim_end(),
        ),
        kind => panic!("{kind} is no kind"),
    }
}

/// Sends a request and waits for its answer.
fn time(stream: &mut TcpStream, request: &str, bytes: &mut [u8]) -> Duration {
    let clock = Clock::system();
    let before = clock.read().monotonic;
    stream.write_all(request.as_bytes()).unwrap();
    assert!(stream.read(bytes).unwrap() > 0);
    clock.read().monotonic.saturating_sub(before)
}

fn medians(address: SocketAddr, requests: &[String; 3]) -> [Duration; 3] {
    let mut bytes = vec![0; 64 * 1024];
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (times, request) in times.iter_mut().zip(requests) {
            // A refusal may close the connection.
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            times.push(time(&mut stream, request, &mut bytes));
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twice_a_list_takes_no_more_than_twice_the_time() {
    let database = TestDatabase::sqlite();
    let settings = [("server.trusted_proxies", "127.0.0.1")];
    let secret = register_clients(&database, &settings).await;
    let mut process = Process::spawn(&database, "lists", &settings);
    let address = process.until_it_serves().await;
    // The longest that a form of 16 KiB, or headers of 32 KiB, hold.
    for (kind, longest) in [
        ("resources", 1_000),
        ("audiences", 1_000),
        ("scopes", 2_000),
        ("parameters", 1_600),
        ("cookies", 3_200),
        ("entity tags", 3_200),
        ("forwarded addresses", 2_000),
        ("headers", 80),
    ] {
        let short = longest / TIMES as usize;
        let of = [0, short, longest].map(|count| requests(kind, count, &secret));
        let mut seen = Vec::new();
        let is_linear = (0..MEASUREMENTS).any(|_| {
            let [none, short, long] = medians(address, &of);
            seen.push([none, short, long]);
            long.saturating_sub(none) <= (short.saturating_sub(none) + ALLOWED) * TIMES
        });
        println!("{kind}: none, {short}, {longest}: {seen:?}");
        assert!(is_linear, "{kind}: none, {short}, {longest}: {seen:?}");
    }
    process.tell_to_stop();
    assert!(process.until_it_ends().await.success());
}
