//! Requests without a pause while nodes restart one after the other: every one must be answered as if nothing happened.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyround::clock::{Clock, sleep};

use super::nodes::{HOSTS, Nodes};
use crate::results;

/// How long the load goes on before the first restart and after the last. From one node that is ready again to the next that is told to
/// stop there is no pause: a gateway that holds a node to be away for longer than it is has none then.
const MARGIN: Duration = Duration::from_secs(2);
/// How many send each kind of request.
const WORKERS: usize = 8;

#[derive(Clone)]
pub struct Request {
    url: String,
    token: Option<String>,
    secret: Option<String>,
}

impl Request {
    /// The service, with this token.
    pub fn service(url: &str, token: &str) -> Self {
        Self {
            url: url.to_owned(),
            token: Some(token.to_owned()),
            secret: None,
        }
    }

    /// The key set and tokens.
    pub fn of_keyround(url: &str, secret: &str) -> [Self; 2] {
        let at = |path: &str, secret: Option<String>| Self {
            url: format!("{url}{path}"),
            token: None,
            secret,
        };
        [
            at("/.well-known/jwks.json", None),
            at("/oauth2/token", Some(secret.to_owned())),
        ]
    }

    async fn failure(&self, client: &reqwest::Client) -> Option<String> {
        let request = match (&self.token, &self.secret) {
            (Some(token), _) => client.get(&self.url).bearer_auth(token),
            (None, Some(secret)) => client
                .post(&self.url)
                .basic_auth("strong", Some(secret))
                .form(&[("grant_type", "client_credentials")]),
            (None, None) => client.get(&self.url),
        };
        match request.send().await {
            Ok(answer) if answer.status() == 200 => match answer.bytes().await {
                Ok(_) => None,
                Err(error) => Some(format!("{}: {error:?}", self.url)),
            },
            Ok(answer) => {
                let status = answer.status();
                let headers = format!("{:?}", answer.headers());
                let body = answer.text().await.unwrap_or_default();
                Some(format!("{}: {status} {headers} {body}", self.url))
            }
            Err(error) => Some(format!("{}: {error:?}", self.url)),
        }
    }
}

/// How often each node is restarted, when `make proof` asks for more than once.
#[expect(
    clippy::disallowed_methods,
    reason = "the person who runs the tests says so by the environment"
)]
fn asked_for() -> Option<usize> {
    std::env::var("TEST_RESTARTS")
        .ok()
        .map(|rounds| rounds.parse().unwrap())
}

/// Puts a row into the page of results. A page holds what one run of the tests saw.
fn write_row(name: &str, rounds: usize, sent: usize) {
    static ROWS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut rows = ROWS.lock().unwrap();
    rows.insert(name.to_owned(), format!("| {name} | {rounds} | {sent} | 0 |\n"));
    let rows: String = rows.values().map(String::as_str).collect();
    let page = format!(
        "# Rolling restarts\n\nWhat `make proof` saw when two nodes restarted one after the other, {}: behind each gateway with the files in \
         `deploy/`, and as the units and the containers in `deploy/` run them. Eight senders of each kind of request (the key set, a new \
         token, a service behind the gateway) went on all the time, without a pause. A request failed unless it was answered 200.\n\n\
         | what | restarts of each node | requests | failed |\n|---|---|---|---|\n{rows}",
        results::of_now(),
    );
    results::write("rolling-restarts.md", &page);
}

/// Restarts each node under load.
pub async fn rolling_restart(name: &str, requests: &[Request], nodes: &mut Nodes) {
    under_load(name, requests, async || {
        for node in 0..HOSTS.len() {
            nodes.stop_node(node).await;
            nodes.start_node(node).await;
        }
    })
    .await;
}

/// How often restarts are tried while the machine is held up.
const ATTEMPTS: usize = 3;
/// A machine that stands still for so long makes a node or a gateway answer too late. What fails meanwhile says nothing of them.
const HELD_UP: Duration = Duration::from_millis(300);

/// Sends these requests while each node is restarted by the caller; none may fail, unless the machine was held up.
pub async fn under_load(name: &str, requests: &[Request], mut restart: impl AsyncFnMut()) {
    for attempt in 1.. {
        let witness = Witness::start();
        let (sent, failures) = failures_under_load(requests, &mut restart).await;
        let stood_still = witness.longest();
        println!(
            "{name}: {} of {sent} requests failed in a rolling restart of two nodes; the machine stood still for {stood_still:?} at most",
            failures.len()
        );
        if failures.is_empty() {
            assert!(sent > 100, "{name}: only {sent} requests");
            if let Some(rounds) = asked_for() {
                write_row(name, rounds, sent);
            }
            return;
        }
        let shown = &failures[..failures.len().min(5)];
        assert!(
            stood_still > HELD_UP && attempt < ATTEMPTS,
            "{name}: {} of {sent} failed, and the machine stood still for {stood_still:?} at most: {shown:#?}",
            failures.len()
        );
    }
}

/// Wakes up again and again, and notes by how much too late: that of the whole machine, as it has a thread that does nothing else.
struct Witness {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Duration>,
}

impl Witness {
    fn start() -> Self {
        const PAUSE: Duration = Duration::from_millis(10);
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let watch = async move {
            let (clock, mut longest) = (Clock::system(), Duration::ZERO);
            while !ends.load(Ordering::Relaxed) {
                let before = clock.read().monotonic;
                sleep(PAUSE).await;
                let took = clock.read().monotonic.saturating_sub(before);
                longest = longest.max(took.saturating_sub(PAUSE));
            }
            longest
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let thread = std::thread::spawn(move || runtime.block_on(watch));
        Self { is_over, thread }
    }

    fn longest(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn failures_under_load(requests: &[Request], restart: &mut impl AsyncFnMut()) -> (usize, Vec<String>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = requests
        .iter()
        .flat_map(|request| std::iter::repeat_n(request.clone(), WORKERS))
        .map(|request| {
            let is_over = Arc::clone(&is_over);
            tokio::spawn(async move {
                let client = super::visitor();
                let (mut sent, mut failures) = (0, Vec::new());
                while !is_over.load(Ordering::Relaxed) {
                    failures.extend(request.failure(&client).await);
                    sent += 1;
                }
                (sent, failures)
            })
        })
        .collect();
    sleep(MARGIN).await;
    for _ in 0..asked_for().unwrap_or(1) {
        restart().await;
    }
    sleep(MARGIN).await;
    is_over.store(true, Ordering::Relaxed);
    let (mut sent, mut failures) = (0, Vec::new());
    for worker in workers {
        let (more, failed) = worker.await.unwrap();
        sent += more;
        failures.extend(failed);
    }
    (sent, failures)
}
