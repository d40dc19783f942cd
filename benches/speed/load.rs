//! The load, from the core that the servers leave free: it asks over kept connections and never sleeps.
//!
//! A generator that sleeps until an answer comes has to be woken by the server's kernel, and on a virtual machine that costs the
//! server as much as a small handler: 8 of the 43 µs of an introspection went there with `wrk`. Only a handler so fast that it
//! keeps its generator awake is spared, and what is held against it looks slower than it is.
//!
//! A rate is told per second of the processor's time that the server took. Where nothing else runs, a server under load
//! takes all of its core, and the two are the same; where something does, the rate stays what it is.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use keyround::clock::Clock;

use crate::machine::seconds_on_core;
use crate::servers::{Server, request};

/// How many connections ask at once.
const CONNECTIONS: usize = 16;

/// A head that is longer is none of ours.
const LONGEST_HEAD: usize = 4 * 1024;

/// What is asked for, again and again.
#[derive(Clone)]
pub struct Load {
    /// The server's process.
    server: u32,
    address: String,
    /// Asked in turn.
    requests: Vec<String>,
    /// For how long.
    seconds: u64,
}

/// What was seen.
#[derive(Clone, Copy)]
pub struct Seen {
    /// Answers for a second of the server's time on its core.
    pub rate: f64,
    /// The median time until an answer, in microseconds.
    pub p50: f64,
    /// What one answer in a hundred takes longer than, in microseconds.
    pub p99: f64,
}

impl Load {
    /// Asks for these.
    pub fn new(server: &Server, requests: Vec<String>) -> Self {
        Self {
            server: server.process.id(),
            address: server.address.clone(),
            requests,
            seconds: 2,
        }
    }

    /// Asks by GET.
    pub fn get(server: &Server, path: &str) -> Self {
        Self::get_with(server, path, "")
    }

    /// Asks by GET with these headers, each with its end of line.
    pub fn get_with(server: &Server, path: &str, headers: &str) -> Self {
        Self::new(server, vec![request("GET", path, headers, "")])
    }

    pub fn for_seconds(self, seconds: u64) -> Self {
        Self { seconds, ..self }
    }

    /// Asks without a pause. An answer that is no success, or none at all, ends the benchmark.
    pub fn run(&self) -> Seen {
        self.run_among(&mut [])
    }

    /// Asks while the other load is asked as well.
    pub fn run_beside(&self, other: &Self) -> Seen {
        self.run_among(&mut other.connections())
    }

    fn run_among(&self, others: &mut [Connection<'_>]) -> Seen {
        let clock = Clock::system();
        let now = || clock.read().monotonic;
        let mut own = self.connections();
        // What comes in the first tenth finds the server cold and counts for nothing.
        let length = Duration::from_secs(self.seconds);
        let begin = now() + length / 10;
        let end = begin + length;
        let (mut before, mut times) = (None, Vec::new());
        let mut moment = now();
        while moment < end {
            if moment >= begin && before.is_none() {
                before = Some(seconds_on_core(self.server));
            }
            for connection in &mut *others {
                connection.advance(moment);
            }
            for connection in &mut own {
                if let Some(asked_at) = connection.advance(moment)
                    && before.is_some()
                {
                    times.push(moment.saturating_sub(asked_at).as_secs_f64() * 1e6);
                }
                moment = now();
            }
        }
        let taken = seconds_on_core(self.server) - before.expect("it ran longer than a tenth of its time");
        times.sort_by(f64::total_cmp);
        let share = |of: usize| times[times.len() * of / 100];
        Seen {
            rate: f64::from(u32::try_from(times.len()).unwrap()) / taken,
            p50: share(50),
            p99: share(99),
        }
    }

    fn connections(&self) -> Vec<Connection<'_>> {
        let connect = |number: usize| {
            let stream = TcpStream::connect(&self.address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_nonblocking(true).unwrap();
            Connection {
                stream,
                requests: &self.requests,
                next: number % self.requests.len(),
                asked_at: None,
                answer: Vec::new(),
            }
        };
        (0..CONNECTIONS).map(connect).collect()
    }
}

struct Connection<'l> {
    stream: TcpStream,
    requests: &'l [String],
    /// The place of the next request.
    next: usize,
    /// When the one under way was asked.
    asked_at: Option<Duration>,
    /// What came of its answer.
    answer: Vec<u8>,
}

impl Connection<'_> {
    /// Takes what has come, and asks again when that was all; answers with when it was asked for.
    fn advance(&mut self, now: Duration) -> Option<Duration> {
        let asked_at = self.asked_at;
        if asked_at.is_none() || self.has_answer() {
            self.answer.clear();
            // Small enough to fit into the kernel's buffer at once.
            self.stream.write_all(self.requests[self.next].as_bytes()).unwrap();
            self.next = (self.next + 1) % self.requests.len();
            self.asked_at = Some(now);
            return asked_at;
        }
        None
    }

    fn has_answer(&mut self) -> bool {
        let mut octets = [0; 16 * 1024];
        match self.stream.read(&mut octets) {
            Ok(0) => panic!("the server closed the connection"),
            Ok(count) => self.answer.extend_from_slice(&octets[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("the server does not answer: {error}"),
        }
        let head = self.answer.windows(4).position(|end| end == b"\r\n\r\n");
        let Some(head) = head else {
            assert!(self.answer.len() < LONGEST_HEAD, "the head has no end");
            return false;
        };
        let text = std::str::from_utf8(&self.answer[..head]).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap();
        let is_304 = status.starts_with("HTTP/1.1 304");
        assert!(is_304 || status.starts_with("HTTP/1.1 200"), "{text}");
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().unwrap())
        });
        // An answer of 304 has no body, whatever length it tells (RFC 9110 section 8.6).
        let length = if is_304 {
            0
        } else {
            length.expect("the body has a length")
        };
        self.answer.len() >= head + 4 + length
    }
}
