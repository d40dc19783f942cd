//! A database that is copied from SQLite to PostgreSQL and back while people log in, sessions are refreshed and services ask for tokens:
//! no library refuses a token, and every session goes on.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyround::clock::{Clock, Seconds, sleep};
use keyround::jose::alg::Algorithm;
use reqwest::RequestBuilder;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::libraries::LIBRARIES;
use crate::people;
use crate::site::{AUDIENCE, Kind, Site, Token};
use crate::verifier::{Library, Runs, Verifier};

/// Nothing rotates: what signs and what is published must be the same before and after. A stop that is longer than the clocks' difference
/// would leave the clock in doubt for a while.
const SETTINGS: [(&str, &str); 12] = [
    ("server.shutdown_delay", "1s"),
    ("keys.rotation_period", "1h"),
    ("keys.replica_refresh", "1s"),
    ("keys.snapshot_max_age", "5s"),
    ("keys.clock_skew", "30s"),
    ("keys.verifier_cache", "31s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "70s"),
    ("tokens.access_token_ttl", "30s"),
    ("accounts.access_token_ttl", "30s"),
    ("accounts.audience", AUDIENCE),
    ("accounts.bcrypt_cost", "4"),
];
const PEOPLE: usize = 3;
/// How long the load goes on before the first copy and between the two.
const BETWEEN: Duration = Duration::from_secs(8);
/// How long after the second one.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// No copy keeps the servers away for longer, also on a busy machine, or no token would live across it.
const AWAY: Seconds = Seconds(25);

struct Session {
    person: usize,
    refresh_token: String,
}

/// What people and services do at the issuer's address.
struct Load {
    issuer: String,
    secrets: [(Algorithm, String); 2],
    http: reqwest::Client,
    clock: Clock,
    sessions: Mutex<Vec<Session>>,
    tokens: UnboundedSender<String>,
    taken: Mutex<Vec<String>>,
    logins: AtomicUsize,
    refreshes: AtomicUsize,
    service_tokens: AtomicUsize,
    /// Requests that met no server.
    unanswered: AtomicUsize,
    is_over: AtomicBool,
}

impl Load {
    fn new(site: &Site, tokens: UnboundedSender<String>) -> Arc<Self> {
        Arc::new(Self {
            issuer: site.front.issuer(),
            secrets: Algorithm::ALL.map(|alg| (alg, site.secret(alg).to_owned())),
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(10))
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
            clock: Clock::system(),
            sessions: Mutex::default(),
            tokens,
            taken: Mutex::default(),
            logins: AtomicUsize::default(),
            refreshes: AtomicUsize::default(),
            service_tokens: AtomicUsize::default(),
            unanswered: AtomicUsize::default(),
            is_over: AtomicBool::default(),
        })
    }

    /// The answer, and its access token to the verifiers; none while no server is there or the one that is cannot sign yet.
    async fn ask(&self, what: &str, request: RequestBuilder) -> Option<Value> {
        let answer = request.send().await.ok().filter(|answer| answer.status() != 503);
        let Some(answer) = answer else {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let status = answer.status();
        let body = answer.text().await.ok()?;
        assert_eq!(status, 200, "{what}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        let token = body["access_token"].as_str().unwrap();
        self.taken.lock().unwrap().push(token.to_owned());
        let _ = self.tokens.send(token.to_owned());
        Some(body)
    }

    async fn log_in(&self, person: usize) {
        let request = people::login(&self.http, &self.issuer, person);
        if let Some(body) = self.ask("login", request).await {
            self.keep(person, &body);
            self.logins.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn keep(&self, person: usize, body: &Value) {
        let refresh_token = body["refresh_token"].as_str().unwrap().to_owned();
        let session = Session { person, refresh_token };
        self.sessions.lock().unwrap().push(session);
    }

    /// Whether it was answered; without an answer the same refresh token comes again, as from every client.
    async fn refresh(&self, session: Session) -> bool {
        let request = people::refresh(&self.http, &self.issuer, &session.refresh_token);
        let answer = self.ask("refresh", request).await;
        match &answer {
            Some(body) => {
                self.keep(session.person, body);
                self.refreshes.fetch_add(1, Ordering::Relaxed);
            }
            None => self.sessions.lock().unwrap().push(session),
        }
        answer.is_some()
    }

    async fn take_service_token(&self, turn: usize) {
        let (alg, secret) = &self.secrets[turn % 2];
        let request = self
            .http
            .post(format!("{}/oauth2/token", self.issuer))
            .basic_auth(format!("client-{alg}"), Some(secret))
            .form(&[("grant_type", "client_credentials")]);
        if self.ask("token", request).await.is_some() {
            self.service_tokens.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn go_on(self: Arc<Self>) {
        for turn in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let oldest = {
                let mut sessions = self.sessions.lock().unwrap();
                (sessions.len() > 2).then(|| sessions.remove(0))
            };
            let refresh = async {
                if let Some(session) = oldest {
                    self.refresh(session).await;
                }
            };
            let log_in = async {
                if turn % 3 == 0 {
                    self.log_in(turn / 3 % PEOPLE).await;
                }
            };
            tokio::join!(self.take_service_token(turn), refresh, log_in);
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// Every session that there is now refreshes; answers with their number.
    async fn refresh_all(&self) -> usize {
        let sessions = std::mem::take(&mut *self.sessions.lock().unwrap());
        let count = sessions.len();
        for session in sessions {
            assert!(self.refresh(session).await, "nobody answers");
        }
        count
    }
}

/// The programs: each is told the issuer's address, which stays.
fn libraries() -> impl Iterator<Item = &'static Library> {
    LIBRARIES
        .iter()
        .filter(|library| matches!(library.runs, Runs::Program) && !library.is_left_out())
}

/// Hands every token to every verifier until no more come. Answers with them, and when each token came and expires.
async fn hand_all(mut tokens: UnboundedReceiver<String>, mut verifiers: Vec<Verifier>) -> (Vec<Verifier>, Vec<Held>) {
    let clock = Clock::system();
    let mut held = Vec::new();
    while let Some(token) = tokens.recv().await {
        for verifier in &mut verifiers {
            verifier.hand(&token);
        }
        let taken_at = clock.read().wall.0;
        held.push(Held {
            taken_at,
            expires_at: Token::of(&token).expires_at.0,
        });
    }
    verifiers.iter_mut().for_each(Verifier::end_input);
    (verifiers, held)
}

/// When the verifiers hold a token.
struct Held {
    taken_at: i64,
    expires_at: i64,
}

/// A copy while nobody serves.
struct Gap {
    from: i64,
    until: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copied_database_costs_no_token_and_no_session() {
    let _shared = crate::MACHINE.read().await;
    let mut site = Site::start("copied", Kind::Sqlite, 1, &SETTINGS).await;
    people::create(&site, PEOPLE);
    let (sends, tokens) = unbounded_channel();
    let load = Load::new(&site, sends);
    let verifiers: Vec<Verifier> = libraries()
        .map(|library| Verifier::start_at(library, &site, &site.front.key_set_url()))
        .collect();
    let verifying = tokio::spawn(hand_all(tokens, verifiers));
    let loading = tokio::spawn(Arc::clone(&load).go_on());
    let now = || load.clock.read().wall.0;

    let (mut gaps, mut went_on, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, nodes) in [(Kind::Postgres, 2), (Kind::Sqlite, 1)] {
        sleep(BETWEEN).await;
        let before = load.sessions.lock().unwrap().len();
        let held = load.taken.lock().unwrap().clone();
        let (from, kids) = (now(), site.kids(0).await);
        site = tokio::spawn(site.moved_to(kind, nodes)).await.unwrap();
        gaps.push(Gap { from, until: now() });
        for node in 0..site.nodes() {
            assert_eq!(site.kids(node).await, kids);
        }
        // Those above may have every key in their caches.
        for library in libraries() {
            let mut verifier = Verifier::start_at(library, &site, &site.front.key_set_url());
            for token in &held {
                verifier.hand(token);
            }
            verifier.end_input();
            fresh.push(verifier);
        }
        let refreshed = load.refresh_all().await;
        // One may be under way in the load's own hands.
        assert!(refreshed + 1 >= before, "{refreshed} of {before} sessions");
        went_on.push(refreshed);
    }
    sleep(AFTERWARDS).await;
    load.is_over.store(true, Ordering::Relaxed);
    loading.await.unwrap();
    let sessions = load.refresh_all().await;
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (logins, refreshes) = (count(&load.logins), count(&load.refreshes));
    let (service_tokens, unanswered) = (count(&load.service_tokens), count(&load.unanswered));
    assert_eq!(sessions, logins, "every login is a session, and stays one");
    drop(load);

    let (mut verifiers, held) = verifying.await.unwrap();
    while !verifiers.iter().chain(&fresh).all(Verifier::is_done) {
        sleep(Duration::from_millis(100)).await;
    }
    for gap in &gaps {
        let across = held
            .iter()
            .filter(|token| token.taken_at <= gap.from && token.expires_at > gap.until + 2);
        let (across, away) = (across.count(), gap.until - gap.from);
        println!("{across} tokens were held across a copy of {away} s");
        assert!(across > 0 && away <= AWAY.0, "{away} s");
    }
    println!(
        "{logins} logins, {refreshes} refreshes, {service_tokens} service tokens, {unanswered} unanswered; sessions that went on after \
         each copy: {went_on:?}"
    );
    for verifier in &mut verifiers {
        let report = verifier.report();
        let summary = report.summary.clone().unwrap();
        println!("{}: {summary:?}", verifier.library);
        assert_eq!(summary.refusals, 0, "{}: {}", verifier.library, report.first_refusals());
        assert!(
            summary.tokens == held.len() && summary.verifications > 2 * held.len(),
            "{summary:?}"
        );
    }
    for verifier in &mut fresh {
        let report = verifier.report();
        let summary = report.summary.clone().unwrap();
        println!("{}, started after a copy: {summary:?}", verifier.library);
        let first = report.first_refusals();
        assert_eq!(summary.refusals, 0, "{}: {first}", verifier.library);
        assert!(summary.verifications > 0, "{} was started too late", verifier.library);
    }
    assert!(unanswered > 0, "the servers were never away");
}
