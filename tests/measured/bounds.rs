//! What peers that behave badly cost everyone else: the key set's p99 beside them, and the memory after them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyround::clock::{Clock, sleep};
use keyround::http::stream::{ANSWER_TICKS, TICK};

use crate::child::Process;
use crate::helpers::TestDatabase;
use crate::{results, until};

const KEY_SET: &[u8] = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n";

pub const MIB: u64 = 1024 * 1024;

/// How many requests are measured.
const SAMPLES: usize = 5_000;

pub fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The time that 99 of 100 requests for the key set on one connection stay within.
fn p99(address: SocketAddr) -> Duration {
    let clock = Clock::system();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut bytes = vec![0; 64 * 1024];
    let mut times: Vec<Duration> = (0..SAMPLES)
        .map(|_| {
            let before = clock.read().monotonic;
            stream.write_all(KEY_SET).unwrap();
            assert!(stream.read(&mut bytes).unwrap() > 0);
            clock.read().monotonic.saturating_sub(before)
        })
        .collect();
    times.sort_unstable();
    times[SAMPLES * 99 / 100]
}

/// Connections that send these bytes as long as the server takes them, and read nothing.
fn mute(address: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let stream = TcpStream::connect(address).unwrap();
            let mut sender = stream.try_clone().unwrap();
            let bytes = bytes.to_vec();
            std::thread::spawn(move || sender.write_all(&bytes));
            stream
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn peers_that_do_not_read_cost_others_little() {
    let database = TestDatabase::sqlite();
    let mut process = Process::spawn(&database, "bounds", &[]);
    let address = process.until_it_serves().await;
    let admin = process.admin_address().unwrap();
    p99(address);
    let (idle, before) = (p99(address), resident(&process));
    let metrics = b"GET /metrics HTTP/1.1\r\n\r\n".repeat(40_000);
    let scope = format!(
        "grant_type=refresh_token&client_id=first-party&refresh_token=x&scope={}",
        "a+".repeat(7_000)
    );
    let forms = format!(
        "POST /oauth2/token HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{scope}",
        scope.len()
    );
    let post = |path: &str, kind: &str, length: usize, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let unfinished = post(
        "/oauth2/token",
        "application/x-www-form-urlencoded",
        16 * 1024,
        &"a".repeat(8 * 1024),
    );
    let mut table = String::new();
    for (what, target, count, bytes) in [
        ("key sets", address, 128, KEY_SET.repeat(20_000)),
        ("metrics", admin, 32, metrics),
        ("scopes", address, 128, forms.repeat(70).into_bytes()),
        (
            "heads",
            address,
            128,
            [b"GET / HTTP/1.1\r\n".as_slice(), &b"X: y\r\n".repeat(5_000)].concat(),
        ),
        ("bodies that stop", address, 128, unfinished.into_bytes()),
        ("nothing", address, 240, Vec::new()),
    ] {
        let sent = bytes.len() * count;
        let streams = mute(target, count, &bytes);
        // First what they cost while the server takes what it takes, then what they hold.
        let meanwhile = p99(address);
        let held = resident(&process).saturating_sub(before);
        println!(
            "{what}: {count} connections with {sent} bytes: p99 {meanwhile:?} (idle {idle:?}), {} KiB held",
            held / 1024
        );
        let row = format!(
            "| {what} | {count} | {sent} | {meanwhile:.2?} | {idle:.2?} | {} KiB |\n",
            held / 1024
        );
        table.push_str(&row);
        assert!(
            meanwhile < (idle * 3).max(Duration::from_millis(1)),
            "{what}: {meanwhile:?}, idle {idle:?}"
        );
        drop(streams);
    }
    sleep(TICK * (ANSWER_TICKS + 1)).await;
    until("memory is back", async || resident(&process) < before + 10 * MIB).await;
    println!(
        "{} KiB more than before",
        resident(&process).saturating_sub(before) / 1024
    );
    process.tell_to_stop();
    assert!(process.until_it_ends().await.success());
    let page = format!(
        "# Bounds\n\nWhat `make proof-measured` saw {}, in a debug build on two cores that did nothing else. Peers send as much as the server takes and read \
         nothing; meanwhile another connection asks for the key set, {SAMPLES} times.\n\n\
         *p99*: the time that 99 of 100 of its answers stay within, beside those peers and without any; at most three times the latter is \
         asked, or 1 ms. *Held*: the memory of the server beyond what it had before. Afterwards it had less than 10 MiB more than before.\n\n\
         | Peers send | Connections | Bytes offered | p99 | p99 idle | Held |\n|---|---|---|---|---|---|\n{table}",
        results::of_now(),
    );
    results::write("bounds.md", &page);
}
