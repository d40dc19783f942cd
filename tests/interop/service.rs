//! Services behind a library or a module, as their users write them, and the client that sends them tokens.
//!
//! A service has ISSUER, AUDIENCE and PORT in its environment, and answers 200 or 401. The client sends one request after another, as
//! one user does: some libraries refuse what comes beside a fetch of the key set, and the table says so.

use std::process::Child;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use keyround::clock::{Clock, Seconds, sleep};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::verifier::{Library, Refusal, Report, Summary};

/// Between two looks at the same token.
const PASS: Duration = Duration::from_secs(2);
/// Before its expiry, from when a token is left alone, so that a slow machine makes no refusal.
const MARGIN: Seconds = Seconds(1);
/// A service starts within this time, even on a loaded machine.
const START: Duration = Duration::from_mins(2);

/// The client of one service.
#[derive(Clone)]
pub struct Client {
    url: String,
    http: reqwest::Client,
}

impl Client {
    /// Of the service at this port.
    pub fn new(port: u16) -> Self {
        Self {
            url: format!("http://127.0.0.1:{port}/"),
            // A connection each: a service may close one that lies idle in the moment in which it is used again.
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
        }
    }

    /// Waits until the service answers, and holds that it refuses what is no token.
    pub async fn wait_until_it_serves(&self, library: &Library, process: &mut Child) {
        let mut waited = Duration::ZERO;
        while self.http.get(&self.url).send().await.is_err() {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "the service of {library} did not start: {ended:?}");
            assert!(waited < START, "the service of {library} does not answer");
            sleep(Duration::from_millis(100)).await;
            waited += Duration::from_millis(100);
        }
        // Otherwise another program answers on its port.
        let ended = process.try_wait().unwrap();
        assert!(ended.is_none(), "the service of {library} ended: {ended:?}");
        let without = self.http.get(&self.url).send().await.unwrap().status();
        assert_eq!(without, 401, "{library} lets a request without a token through");
        assert!(self.send("a.b.c").await.is_err(), "{library} lets anything through");
    }

    /// What the service says of this token.
    ///
    /// # Errors
    /// How it refuses it.
    pub async fn send(&self, token: &str) -> Result<(), String> {
        let answer = self.http.get(&self.url).bearer_auth(token).send().await;
        let answer = answer.map_err(|error| format!("no answer: {error:?}"))?;
        if answer.status() == 200 {
            return Ok(());
        }
        let challenge = answer.headers().get("www-authenticate").cloned();
        let challenge = challenge.map_or_else(String::new, |value| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        });
        let status = answer.status();
        let body: String = answer.text().await.unwrap_or_default().chars().take(300).collect();
        Err(format!("{status}: {challenge}: {body}"))
    }
}

struct Entry {
    token: String,
    kid: String,
    alg: String,
    iat: i64,
    exp: i64,
    refused: bool,
}

impl Entry {
    fn read(token: String) -> Self {
        let part = |index: usize| -> Value {
            let part = token.split('.').nth(index).unwrap();
            serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap()
        };
        let (header, payload) = (part(0), part(1));
        Self {
            kid: header["kid"].as_str().unwrap().to_owned(),
            alg: header["alg"].as_str().unwrap().to_owned(),
            iat: payload["iat"].as_i64().unwrap(),
            exp: payload["exp"].as_i64().unwrap(),
            token,
            refused: false,
        }
    }
}

/// Sends every token at once and again and again until it expires; ends when no more come and the last has expired.
pub struct Sender<'a> {
    client: Client,
    clock: Clock,
    runtime: tokio::runtime::Runtime,
    live: Vec<Entry>,
    lag_ms: u64,
    summary: Summary,
    said: &'a Mutex<Report>,
}

impl<'a> Sender<'a> {
    /// Has sent nothing yet; blocks while it sends.
    pub fn new(client: Client, version: String, said: &'a Mutex<Report>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            client,
            clock: Clock::system(),
            runtime,
            live: Vec::new(),
            lag_ms: 0,
            summary: Summary {
                version,
                ..Summary::default()
            },
            said,
        }
    }

    /// Sends these tokens, and says its last word.
    pub fn send_all(mut self, tokens: &Receiver<String>) {
        let (mut ended, mut planned) = (false, self.now());
        while !(ended && self.live.is_empty()) {
            let wait = planned.saturating_sub(self.now());
            if ended {
                self.runtime.block_on(sleep(wait));
            } else {
                match tokens.recv_timeout(wait) {
                    Ok(token) => self.take(token),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => ended = true,
                }
            }
            // New tokens may keep coming; the old ones have their turn all the same.
            if self.now() >= planned {
                self.look_again(planned);
                planned = self.now().max(planned + PASS);
            }
        }
        self.said.lock().unwrap().summary = Some(self.summary);
    }

    fn now(&self) -> Duration {
        self.clock.read().monotonic
    }

    fn take(&mut self, token: String) {
        let mut entry = Entry::read(token);
        self.summary.tokens += 1;
        self.check(&mut entry);
        self.live.push(entry);
    }

    fn look_again(&mut self, planned: Duration) {
        let lag = self.now().saturating_sub(planned);
        self.lag_ms = u64::try_from(lag.as_millis()).unwrap();
        self.summary.max_lag_ms = self.summary.max_lag_ms.max(self.lag_ms);
        let mut live = std::mem::take(&mut self.live);
        live.retain(|entry| self.is_live(entry));
        for entry in &mut live {
            self.check(entry);
        }
        self.live = live;
    }

    fn is_live(&self, entry: &Entry) -> bool {
        self.clock.read().wall.0 < entry.exp - MARGIN.0
    }

    fn check(&mut self, entry: &mut Entry) {
        if !self.is_live(entry) {
            return;
        }
        let age = Seconds(self.clock.read().wall.0 - entry.iat).duration().as_secs_f64();
        self.summary.verifications += 1;
        let Err(error) = self.runtime.block_on(self.client.send(&entry.token)) else {
            return;
        };
        // The machine stood still for longer than the margin.
        if self.clock.read().wall.0 >= entry.exp {
            self.summary.late += 1;
            return;
        }
        self.summary.refusals += 1;
        self.summary.refused_tokens += usize::from(!entry.refused);
        entry.refused = true;
        self.said.lock().unwrap().refusals.push(Refusal {
            kid: entry.kid.clone(),
            alg: entry.alg.clone(),
            age,
            lag_ms: self.lag_ms,
            error,
        });
    }
}

#[tokio::test]
#[should_panic(expected = "ended")]
async fn a_service_that_ended_is_not_answered_for_by_another() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = connection.read(&mut [0; 1024]).await;
            let _ = connection.write_all(answer).await;
        }
    });
    let mut service = std::process::Command::new("true").spawn().unwrap();
    service.wait().unwrap();
    client
        .wait_until_it_serves(Library::named("express-oauth2-jwt-bearer"), &mut service)
        .await;
}
