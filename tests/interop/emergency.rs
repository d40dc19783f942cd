//! The emergency, for each verifier: from `keys revoke` to its first refusal of a token of the old key, beside the time that
//! the command printed.
//!
//! That a key left the set makes no verifier fetch it again, and there are two ways in which one lets go. In the quiet set-ups
//! no token of the new key comes. Caches run out there: they are set to ten seconds, Envoy's too, and the windows fit them. What
//! is kept until a kid is missing is kept, as the command says, up to the first token of the new key. In the busy set-ups such
//! tokens come every second, and all libraries that fetch because of an unknown kid keep to their default caching, which holds
//! some of them back for 30 s.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use keyround::clock::{Clock, Seconds, UnixTime, sleep};
use keyround::jose::alg::Algorithm;
use serde_json::Value;

use crate::gateway::{self, Envoy};
use crate::site::{Kind, Site, Token};
use crate::verifier::{Library, Verifier, is_left_out};
use crate::{COMMON, MACHINE};

/// What the caches are set to, where they can be.
const CACHE: u32 = 10;
/// Those that keep a set or a key for some time.
const KEEP_FOR_A_TIME: [&str; 4] = ["jose", "PyJWT", "nimbus-jose-jwt", "jwks-rsa"];
/// Those that keep the set until a kid is missing from it.
const KEEP_UNTIL_A_KID_IS_MISSING: [&str; 2] = ["go-oidc", "jsonwebtoken"];
/// Those that let go of the set because of an unknown kid; jwks-rsa keeps its keys one by one.
const FETCH_FOR_AN_UNKNOWN_KID: [&str; 5] = ["jose", "PyJWT", "nimbus-jose-jwt", "go-oidc", "jsonwebtoken"];

/// A cache of ten seconds, and two for the fetch.
const QUIET: [(&str, &str); 6] = [
    ("keys.replica_refresh", "2s"),
    ("keys.verifier_cache", "12s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "18s"),
    ("tokens.access_token_ttl", "3m"),
    ("tokens.max_token_ttl", "3m"),
];

/// Fetched again 30 s after the last fetch at the earliest.
const BUSY: [(&str, &str); 6] = [
    ("keys.replica_refresh", "2s"),
    ("keys.verifier_cache", "31s"),
    ("keys.jwks_max_age", "5s"),
    ("keys.prepublish", "37s"),
    ("tokens.access_token_ttl", "3m"),
    ("tokens.max_token_ttl", "3m"),
];

/// Between two looks at the verifiers.
const LOOK: Duration = Duration::from_millis(100);
/// Within this time a verifier that has met the new key looks at the old token again, even on a loaded machine.
const A_PASS: Duration = Duration::from_mins(1);

/// A verifier that accepts the key, and when it was first seen to refuse it.
struct Watched {
    verifier: Verifier,
    cache: String,
    let_go: Option<Duration>,
}

/// Servers, and verifiers that accept a token of the key that is about to be revoked.
struct Scene {
    site: Site,
    clock: Clock,
    old: Token,
    watched: Vec<Watched>,
}

/// What the command printed.
struct Revocation {
    began: Duration,
    signs_now: String,
    accepted_until: UnixTime,
    bound: Seconds,
}

impl Scene {
    async fn set(site: Site) -> Self {
        Self {
            old: site.token(0, Algorithm::Rs256).await,
            site,
            clock: Clock::system(),
            watched: Vec::new(),
        }
    }

    /// Lets these libraries verify, each at one of the nodes, and waits until they have done so.
    async fn watch(&mut self, libraries: &[&str], cache: Option<u32>) {
        let unexpected = unexpected(&self.site.token(0, Algorithm::Es256).await.text);
        let from = self.watched.len();
        for library in libraries.iter().map(|name| Library::named(name)) {
            if library.is_left_out() {
                continue;
            }
            let node = self.watched.len() % self.site.nodes();
            let mut verifier = match cache {
                Some(seconds) => Verifier::start_with_cache(library, node, &self.site, seconds),
                None => Verifier::start(library, node, &self.site),
            };
            verifier.hand(&self.old.text);
            verifier.hand(&unexpected);
            self.watched.push(Watched {
                verifier,
                cache: cache.map_or_else(|| library.cache.to_owned(), |seconds| format!("set to {seconds} s")),
                let_go: None,
            });
        }
        // A refusal shows that a verifier has come so far, with the good token behind it.
        for watched in &self.watched[from..] {
            let verifier = &watched.verifier;
            until(
                "each has refused the unexpected token",
                Duration::from_mins(1),
                || async { !verifier.refusals().is_empty() },
            )
            .await;
        }
        let early = self.watched.iter().find(|watched| watched.refuses(&self.old.kid));
        assert!(
            early.is_none(),
            "{} refused a valid token",
            early.unwrap().verifier.library
        );
    }

    /// As the runbook says: the command is repeated until every node has confirmed.
    fn revoke(&self) -> Revocation {
        let began = self.clock.read().monotonic;
        let revoke = ["keys", "revoke", &self.old.kid, "--reason", "test", "--yes", "--json"];
        let ask = || -> Value { serde_json::from_str(&self.site.keyround(&revoke)).unwrap() };
        let told = ask();
        let mut nodes = told["nodes"].clone();
        for _ in 0..5 {
            if nodes["unconfirmed"] == Value::Array(Vec::new()) {
                break;
            }
            nodes = ask()["nodes"].clone();
        }
        assert_eq!(nodes["living"], self.site.nodes(), "{nodes}");
        assert_eq!(nodes["unconfirmed"], Value::Array(Vec::new()), "{nodes}");
        let revocation = &told["revocations"][0];
        let text = |name: &str| revocation[name].as_str().unwrap();
        let time = |name| text(name).parse::<UnixTime>().unwrap();
        let accepted_until = time("accepted_until");
        Revocation {
            began,
            signs_now: text("signs_now").to_owned(),
            accepted_until,
            bound: accepted_until - time("revoked_at"),
        }
    }

    fn since(&self, revocation: &Revocation) -> Duration {
        self.clock.read().monotonic.saturating_sub(revocation.began)
    }

    /// Notes who refuses the old key by now.
    fn look(&mut self, revocation: &Revocation) {
        let since = self.since(revocation);
        for watched in &mut self.watched {
            if watched.let_go.is_none() && watched.refuses(&self.old.kid) {
                watched.let_go = Some(since);
            }
        }
    }

    fn is_within(&self, revocation: &Revocation) -> bool {
        self.clock.read().wall <= revocation.accepted_until
    }

    /// Those of these names.
    fn of(&self, names: &'static [&'static str]) -> impl Iterator<Item = &Watched> {
        self.watched
            .iter()
            .filter(|watched| names.contains(&watched.verifier.library.name))
    }

    fn print(&self, revocation: &Revocation) {
        for watched in &self.watched {
            println!(
                "{:<22} {:<16} {:<46} refuses after {:>5.1?}; printed: {}",
                self.site.name,
                watched.verifier.library,
                watched.cache,
                watched.let_go.unwrap_or_default(),
                revocation.bound
            );
        }
    }
}

impl Watched {
    fn refuses(&self, kid: &str) -> bool {
        self.verifier.refusals().iter().any(|refusal| refusal.kid == kid)
    }
}

/// The token with an algorithm that nobody expects: refused by each library, and no reason for any to fetch the keys.
fn unexpected(token: &str) -> String {
    let (header, rest) = token.split_once('.').unwrap();
    let header = String::from_utf8(BASE64URL.decode(header).unwrap()).unwrap();
    format!("{}.{rest}", BASE64URL.encode(header.replace("ES256", "PS256")))
}

async fn until<F: Future<Output = bool>>(what: &str, patience: Duration, mut holds: impl FnMut() -> F) {
    let mut waited = Duration::ZERO;
    while !holds().await {
        assert!(waited < patience, "not within {patience:?}: {what}");
        sleep(LOOK).await;
        waited += LOOK;
    }
}

/// An Envoy that accepts the key, and what it did since.
struct Gate {
    envoy: Envoy,
    fetches: &'static str,
    first_refusal: Option<Duration>,
    last_acceptance: Duration,
}

impl Gate {
    async fn open(scene: &Scene, ahead: bool) -> Self {
        let envoy = Envoy::start(&scene.site, ahead).await;
        until("Envoy lets the token through", Duration::from_mins(1), || async {
            envoy.status(&scene.old.text).await == 200
        })
        .await;
        Self {
            envoy,
            fetches: if ahead { "ahead of time" } else { "on a request" },
            first_refusal: None,
            last_acceptance: Duration::ZERO,
        }
    }

    async fn look(&mut self, scene: &Scene, revocation: &Revocation) {
        match self.envoy.status(&scene.old.text).await {
            200 => self.last_acceptance = scene.since(revocation),
            401 => self.first_refusal = self.first_refusal.or(Some(scene.since(revocation))),
            other => panic!("Envoy answered {other}"),
        }
    }
}

/// Caches run out: no token of the new key comes within the time that was printed.
async fn quiet(name: &'static str, kind: Kind, nodes: usize) {
    let mut scene = Scene::set(Site::start(name, kind, nodes, &[&COMMON[..], &QUIET].concat()).await).await;
    let mut gates = Vec::new();
    if !is_left_out(gateway::NAME) {
        gates = vec![Gate::open(&scene, false).await, Gate::open(&scene, true).await];
    }
    scene.watch(&KEEP_UNTIL_A_KID_IS_MISSING, None).await;
    scene.watch(&KEEP_FOR_A_TIME, Some(CACHE)).await;
    let revocation = scene.revoke();
    while scene.is_within(&revocation) {
        for gate in &mut gates {
            gate.look(&scene, &revocation).await;
        }
        scene.look(&revocation);
        sleep(LOOK).await;
    }
    for watched in scene.of(&KEEP_FOR_A_TIME) {
        let library = watched.verifier.library;
        assert!(
            watched.let_go.is_some(),
            "{library} accepts the key for longer than was printed"
        );
    }
    for watched in scene.of(&KEEP_UNTIL_A_KID_IS_MISSING) {
        let library = watched.verifier.library;
        assert!(
            watched.let_go.is_none(),
            "{library} needs no token of the new key: say so"
        );
    }
    for gate in &mut gates {
        let first = gate.first_refusal.unwrap_or(Duration::MAX);
        assert!(
            first < Duration::MAX,
            "Envoy accepts the key for longer than was printed"
        );
        let last = gate.last_acceptance;
        println!(
            "{name:<22} {:<16} {:<46} refuses after {first:>5.1?}, the last acceptance after {last:.1?}; printed: {}",
            "Envoy",
            format!("set to {CACHE} s, fetches {}", gate.fetches),
            revocation.bound
        );
        // Each of its workers may have a copy of its own.
        for _ in 0..20 {
            assert_eq!(gate.envoy.status(&scene.old.text).await, 401);
        }
    }

    // The first token of the new key.
    let fresh = scene.site.token(0, Algorithm::Rs256).await;
    assert_eq!(fresh.kid, revocation.signs_now);
    let handed = scene.since(&revocation);
    for watched in &mut scene.watched {
        watched.verifier.hand(&fresh.text);
    }
    while scene.watched.iter().any(|watched| watched.let_go.is_none()) {
        scene.look(&revocation);
        assert!(
            scene.since(&revocation).saturating_sub(handed) < A_PASS,
            "the new key changed nothing"
        );
        sleep(LOOK).await;
    }
    scene.print(&revocation);
    println!("{name:<22} the first token of the new key came after {handed:.1?}");
    for gate in &gates {
        assert_eq!(gate.envoy.status(&fresh.text).await, 200);
    }
    for watched in &scene.watched {
        assert!(!watched.refuses(&fresh.kid), "{:?}", watched.verifier.refusals());
    }
}

/// Default caches, and a token of the new key every second.
async fn busy(name: &'static str, kind: Kind, nodes: usize) {
    let mut scene = Scene::set(Site::start(name, kind, nodes, &[&COMMON[..], &BUSY].concat()).await).await;
    scene.watch(&FETCH_FOR_AN_UNKNOWN_KID, None).await;
    let revocation = scene.revoke();
    let (mut handed, mut refused, mut last_refusal) = (0, 0, Duration::ZERO);
    while scene.is_within(&revocation) {
        if scene.since(&revocation) >= Duration::from_secs(handed) {
            let node = usize::try_from(handed).unwrap() % nodes;
            let fresh = scene.site.token(node, Algorithm::Rs256).await;
            assert_eq!(fresh.kid, revocation.signs_now);
            for watched in &mut scene.watched {
                watched.verifier.hand(&fresh.text);
            }
            handed += 1;
        }
        scene.look(&revocation);
        let verifiers = scene.watched.iter().map(|watched| watched.verifier.refusals());
        let refusals = verifiers
            .flatten()
            .filter(|refusal| refusal.kid == revocation.signs_now)
            .count();
        if refusals > refused {
            (refused, last_refusal) = (refusals, scene.since(&revocation));
        }
        sleep(LOOK).await;
    }
    scene.print(&revocation);
    println!(
        "{name:<22} {handed} tokens of the new key, refused {refused} times, the last time after {last_refusal:.1?}"
    );
    for watched in &scene.watched {
        let library = watched.verifier.library;
        assert!(
            watched.let_go.is_some(),
            "{library} accepts the old key for longer than was printed"
        );
        let unknown = |error: &str| library.unknown_key.iter().any(|known| error.contains(known));
        let refusals = watched.verifier.refusals();
        let of_new_key = refusals.iter().filter(|refusal| refusal.kid == revocation.signs_now);
        let other = of_new_key.clone().find(|refusal| !unknown(&refusal.error));
        assert!(other.is_none(), "{library} refused the new key: {other:?}");
    }
    // By then everybody knows the new key, too.
    let a_pass_earlier = revocation.bound.duration().saturating_sub(Duration::from_secs(2));
    assert!(
        last_refusal < a_pass_earlier,
        "the new key was refused after {last_refusal:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_verifier_lets_go_of_a_revoked_key_within_the_time_that_was_printed() {
    let _alone = MACHINE.write().await;
    // Each a task of its own: running a command blocks, and a request of another set-up that waits for it is given up.
    tokio::try_join!(
        tokio::spawn(quiet("quiet SQLite", Kind::Sqlite, 1)),
        tokio::spawn(quiet("quiet PostgreSQL", Kind::Postgres, 2)),
        tokio::spawn(busy("busy SQLite", Kind::Sqlite, 1)),
        tokio::spawn(busy("busy PostgreSQL", Kind::Postgres, 2)),
    )
    .unwrap();
}
