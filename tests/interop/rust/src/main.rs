//! A service that verifies every token it is handed at once, and again and again until it expires.
//!
//!     verifier ISSUER AUDIENCE KEY_SET_URL
//!
//! Standard input: a line {"token"} each. Standard output: a line {"event":"refusal",...} each, and
//! {"event":"summary",...} when the input has ended and the last token has expired.

mod keys;

use std::io::{BufRead, stdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use keys::Verifier;

/// Between two looks at the same token.
const PASS: Duration = Duration::from_secs(2);
/// Seconds before its expiry from which a token is left alone, so that a slow machine makes no refusal.
const MARGIN: f64 = 1.0;

struct Entry {
    token: String,
    kid: String,
    alg: String,
    iat: f64,
    exp: f64,
    refused: bool,
}

#[derive(Default, Serialize)]
struct Summary {
    event: &'static str,
    version: String,
    tokens: usize,
    refused_tokens: usize,
    verifications: usize,
    refusals: usize,
    late: usize,
    max_lag_ms: u64,
}

struct Service {
    verifier: Verifier,
    live: Vec<Entry>,
    lag_ms: u64,
    summary: Summary,
}

impl Entry {
    fn read(token: String) -> Self {
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(&token).unwrap();
        Self {
            kid: claims.header.kid.unwrap(),
            alg: format!("{:?}", claims.header.alg),
            iat: claims.claims["iat"].as_f64().unwrap(),
            exp: claims.claims["exp"].as_f64().unwrap(),
            token,
            refused: false,
        }
    }

    fn is_live(&self) -> bool {
        seconds() < self.exp - MARGIN
    }
}

impl Service {
    fn take(&mut self, token: String) {
        let mut entry = Entry::read(token);
        self.summary.tokens += 1;
        self.check(&mut entry);
        self.live.push(entry);
    }

    fn check(&mut self, entry: &mut Entry) {
        if !entry.is_live() {
            return;
        }
        let age = seconds() - entry.iat;
        self.summary.verifications += 1;
        let Err(error) = self.verifier.verify(&entry.token) else { return };
        // The machine stood still for longer than the margin.
        if seconds() >= entry.exp {
            self.summary.late += 1;
            return;
        }
        self.summary.refusals += 1;
        self.summary.refused_tokens += usize::from(!entry.refused);
        entry.refused = true;
        let Entry { kid, alg, .. } = entry;
        let lag_ms = self.lag_ms;
        println!("{}", json!({"event": "refusal", "kid": kid, "alg": alg, "age": age, "lag_ms": lag_ms, "error": error}));
    }

    fn look_again(&mut self, planned: Instant) {
        self.lag_ms = u64::try_from(planned.elapsed().as_millis()).unwrap();
        self.summary.max_lag_ms = self.summary.max_lag_ms.max(self.lag_ms);
        let mut live = std::mem::take(&mut self.live);
        live.retain(Entry::is_live);
        for entry in &mut live {
            self.check(entry);
        }
        self.live = live;
    }
}

fn seconds() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// The version in the lock file that this was built with.
fn version() -> String {
    let mut lines = include_str!("../Cargo.lock").lines();
    lines.find(|line| *line == r#"name = "jsonwebtoken""#).unwrap();
    let version = lines.next().unwrap().strip_prefix("version = ").unwrap();
    version.trim_matches('"').to_owned()
}

fn lines() -> Receiver<String> {
    let (lines, taken) = channel();
    std::thread::spawn(move || {
        for line in stdin().lock().lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            lines.send(line["token"].as_str().unwrap().to_owned()).unwrap();
        }
    });
    taken
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [issuer, audience, key_set] = arguments.as_slice() else {
        panic!("usage: verifier ISSUER AUDIENCE KEY_SET_URL");
    };
    let mut service = Service {
        verifier: Verifier::new(issuer, audience, key_set),
        live: Vec::new(),
        lag_ms: 0,
        summary: Summary { event: "summary", version: version(), ..Summary::default() },
    };
    let lines = lines();
    let (mut ended, mut planned) = (false, Instant::now());
    while !(ended && service.live.is_empty()) {
        let wait = planned.saturating_duration_since(Instant::now());
        if ended {
            std::thread::sleep(wait);
        } else {
            match lines.recv_timeout(wait) {
                Ok(token) => service.take(token),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => ended = true,
            }
        }
        // New tokens may keep coming; the old ones have their turn all the same.
        if Instant::now() >= planned {
            service.look_again(planned);
            planned = Instant::now().max(planned + PASS);
        }
    }
    println!("{}", serde_json::to_string(&service.summary).unwrap());
}
