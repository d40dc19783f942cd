//! Rotation in a whole server whose clock the test walks: what happens when, and what happens when something is wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use keyround::app::{Foundation, StartError};
use keyround::clock::{Clock, Seconds, UnixTime};
use keyround::crypto::purpose::Purpose;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::{Kid, PublicJwk};
use keyround::jose::jwt::verify_access_token_signature;
use keyround::keys::lifecycle::Keys;
use keyround::keys::plan::plan;
use keyround::rotation::{CannotKeep, CannotRemove, MAX_WAITING, RotationError, Rotator};
use keyround::store::Db;
use serde_json::Value;
use tokio::sync::watch;

use crate::helpers::{START, TestApp, TestDatabase, config, master_key};
use crate::network::{Network, network};
use crate::process::run;
use crate::rows::Raw;

const HOUR: Seconds = Seconds(3_600);
const DAY: Seconds = Seconds(86_400);

/// The windows of the default policy: S, J + S and J + T + L + S.
const SKEW: Seconds = Seconds(60);
const TAIL: Seconds = Seconds(90);
const VERIFY_WINDOW: Seconds = Seconds(3_990);
const PERIOD: Seconds = Seconds(30 * 86_400);
const VERIFIER_CACHE: Seconds = Seconds(1_800);
const LEEWAY: Seconds = Seconds(300);

impl TestApp {
    fn now(&self) -> UnixTime {
        self.clock.read().wall
    }

    fn db(&self) -> &Db {
        &self.running.server.db
    }

    async fn keys(&self) -> Keys {
        self.db().signing_keys().await.unwrap().keys()
    }

    async fn tick(&self) {
        self.running.server.rotation.tick().await.unwrap();
    }

    /// The keys that are served.
    async fn served(&self) -> Vec<PublicJwk> {
        let set = self.key_set().await;
        let keys = set["keys"].as_array().unwrap().iter();
        keys.map(|key| PublicJwk::parse(&key.to_string()).unwrap()).collect()
    }

    /// The bytes of the key set, and the status they came with.
    async fn key_set_bytes(&self) -> (u16, Vec<u8>) {
        let answer = self
            .http
            .get(format!("{}/.well-known/jwks.json", self.url))
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    }

    /// The status of a probe, and its body as text.
    async fn probe(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(format!("{}{path}", self.admin_url)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn may_issue(&self) -> bool {
        self.probe("/readyz/issue").await.0 == 200
    }

    /// The status of the token endpoint, and the answer.
    async fn asked(&self, id: &str, secret: &str) -> (u16, Value) {
        let answer = self.ask(id, secret, &[("grant_type", "client_credentials")]).await;
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// The server again, at the same moment, with other settings.
    async fn restarted(self, database: &TestDatabase, settings: &[(&str, &str)]) -> Self {
        let clock = self.clock.clone();
        self.running.stop().await;
        Self::start_with_clock(database, settings, clock).await
    }

    fn rotator(&self) -> Rotator {
        Rotator {
            db: self.db().clone(),
            master_key: std::sync::Arc::new(master_key().into()),
            policy: self.config.keys.policy.clone().into(),
            clock: self.clock.clone(),
            ledger: None,
        }
    }
}

fn kid_of(token: &str, keys: &[PublicJwk]) -> Kid {
    let fits = |key: &&PublicJwk| verify_access_token_signature(token, std::slice::from_ref(*key)).is_ok();
    keys.iter()
        .find(fits)
        .expect("no served key verifies the token")
        .kid
        .clone()
}

/// A token, and when verifiers give it up.
struct Held {
    token: String,
    until: UnixTime,
}

/// What a walk over the clock saw.
#[derive(Default)]
struct Seen {
    first_served: BTreeMap<Kid, UnixTime>,
    first_signed: BTreeMap<Kid, UnixTime>,
    sets: VecDeque<(UnixTime, Vec<PublicJwk>)>,
    held: Vec<Held>,
    tokens: usize,
    verifications: usize,
    moments: usize,
}

impl Seen {
    /// One moment of the walk: the rows, the set, new tokens, and all the tokens that live.
    async fn look(&mut self, app: &TestApp, secret: &str) {
        let now = app.now();
        let (keys, served) = (app.keys().await, app.served().await);
        for key in keys.iter() {
            let superseded_at = keys.superseded_at(key);
            let signs_nowhere = superseded_at.is_some_and(|at| at + TAIL <= now);
            assert_eq!(key.has_private_half, !signs_nowhere, "{now}: {key:?}");
            let in_set = served.iter().any(|jwk| jwk.kid == key.kid);
            assert!(in_set, "{now}: a row is neither served nor purged: {key:?}");
            assert!(
                superseded_at.is_none_or(|at| now < at + VERIFY_WINDOW),
                "{now}: it stays too long: {key:?}"
            );
        }
        assert_eq!(
            keys.iter().count(),
            served.len(),
            "{now}: a key is served without a row"
        );
        for jwk in &served {
            self.first_served.entry(jwk.kid.clone()).or_insert(now);
        }
        for client in ["RS256", "ES256"] {
            let token = app.token(client, secret).await;
            self.first_signed.entry(kid_of(&token, &served)).or_insert(now);
            self.tokens += 1;
            self.held.push(Held {
                token,
                until: now + HOUR + LEEWAY,
            });
        }
        self.sets.push_back((now, served));
        // The newest set that a verifier with the oldest cache may hold stays, and every one after it.
        while self
            .sets
            .get(1)
            .is_some_and(|(since, _)| *since <= now - VERIFIER_CACHE)
        {
            self.sets.pop_front();
        }
        self.held.retain(|held| held.until >= now);
        for held in &self.held {
            for (since, set) in &self.sets {
                self.verifications += 1;
                let verified = verify_access_token_signature(&held.token, set);
                assert!(verified.is_ok(), "{now}: {verified:?} against the set of {since}");
            }
        }
        self.moments += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_five_days_of_the_default_policy() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("tokens.access_token_ttl", "1h")]).await;
    let secret = app.create_clients().await;
    let mut seen = Seen::default();
    let end = START + DAY * 95;
    seen.look(&app, &secret).await;
    while app.now() < end {
        let keys = app.keys().await;
        let policy = &app.config.keys.policy;
        // A rotation is walked through slowly, the days between them fast, and no deadline is stepped over.
        let near = keys.iter().any(|key| (key.activates_at - app.now()).abs() <= HOUR * 3);
        let step = if near { Seconds(300) } else { HOUR };
        let wake_at = plan(&keys, policy, app.now()).wake_at;
        app.clock.advance(step.min(wake_at - app.now()).min(end - app.now()));
        app.tick().await;
        seen.look(&app, &secret).await;
    }

    // Four keys signed in each line; the fifth is not published yet.
    assert_eq!(seen.first_served.len(), 8);
    let mut firsts: Vec<UnixTime> = seen.first_signed.values().copied().collect();
    firsts.sort();
    let expected = [
        START,
        START - SKEW + PERIOD,
        START - SKEW + PERIOD * 2,
        START - SKEW + PERIOD * 3,
    ];
    assert_eq!(
        firsts,
        expected.into_iter().flat_map(|time| [time, time]).collect::<Vec<_>>()
    );
    for (kid, signed) in seen.first_signed.iter().filter(|(_, signed)| **signed > START) {
        assert!(
            *signed - seen.first_served[kid] >= DAY,
            "{kid} was published for less than a day"
        );
    }

    let records = app.db().audit(None, 10_000).await.unwrap();
    let mut events: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for record in records.iter().filter(|record| record.event.starts_with("key.")) {
        assert!(
            names.insert((&record.subject, &record.event)),
            "noted twice: {record:?}"
        );
        assert_eq!(
            record.happened_at.max(START.0),
            record.noted_at,
            "noted late: {record:?}"
        );
        events.entry(record.event.clone()).or_default().push(record.happened_at);
    }
    for times in events.values_mut() {
        times.sort_unstable();
    }
    let twice = |times: [UnixTime; 4]| -> Vec<i64> { times.into_iter().flat_map(|time| [time.0, time.0]).collect() };
    let activated = twice([0, 1, 2, 3].map(|period| START - SKEW + PERIOD * period));
    let published = twice([START, expected[1] - DAY, expected[2] - DAY, expected[3] - DAY]);
    let destroyed: Vec<i64> = activated[2..].iter().map(|time| time + TAIL.0).collect();
    assert_eq!(events["key.created"], published);
    assert_eq!(events["key.published"], published);
    assert_eq!(events["key.activated"], activated);
    assert_eq!(events["key.retired"], activated[2..]);
    assert_eq!(events["key.destroyed"], destroyed);
    assert!(events.contains_key("key.purged"));
    assert_eq!(events.len(), 6);
    println!(
        "{} moments, {} tokens, {} verifications",
        seen.moments, seen.tokens, seen.verifications
    );
    app.running.stop().await;
}

impl TestApp {
    /// A client for each algorithm, named after it; answers with the secret of both.
    async fn create_clients(&self) -> String {
        let secret = self.create_client("RS256", Some(Algorithm::Rs256)).await;
        let other = self.create_client("ES256", Some(Algorithm::Es256)).await;
        let digest = self.running.server.hash_key.digest(Purpose::ClientSecret, &secret);
        let ends = keyround::store::clients::EndedSecret::None;
        let change = keyround::store::clients::ClientChange::ChangeSecret { digest, ends };
        let entry = crate::helpers::entry("client.updated", "ES256");
        assert!(
            self.db()
                .change_client(&"ES256".parse().unwrap(), &change, &entry)
                .await
                .unwrap()
        );
        drop(other);
        secret
    }
}

const RS256_ALONE: &[(&str, &str)] = &[("keys.algorithms", "RS256")];

async fn announced(app: &TestApp) -> Value {
    let url = format!("{}/.well-known/openid-configuration", app.url);
    let metadata: Value = app.http.get(url).send().await.unwrap().json().await.unwrap();
    metadata["id_token_signing_alg_values_supported"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_algorithm_that_is_left_out_loses_nothing() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_clients().await;
    let token = app.token("ES256", &secret).await;

    // Left out for three seconds, as by a mistake in a file.
    let app = app.restarted(&database, RS256_ALONE).await;
    assert_eq!(announced(&app).await, serde_json::json!(["RS256", "ES256"]));
    assert_eq!(app.asked("ES256", &secret).await.0, 400);
    app.pass(Seconds(3), Seconds(1)).await;
    let (ready, told) = (app.may_issue().await, app.probe("/readyz/issue").await);
    let detail = "left out of keys.algorithms but not removed: ES256";
    assert!(ready && format!("{told:?}").contains(detail), "{told:?}");
    let app = app.restarted(&database, &[]).await;
    app.token("ES256", &secret).await;
    verify_access_token_signature(&token, &app.served().await).unwrap();

    // And for months: its line is rotated meanwhile, and it signs at once when it is configured again.
    let app = app.restarted(&database, RS256_ALONE).await;
    app.pass(DAY * 65, HOUR * 4).await;
    assert!(app.keys().await.line(Algorithm::Es256).last().unwrap().generation >= 3);
    let app = app.restarted(&database, &[]).await;
    assert!(app.may_issue().await);
    let token = app.token("ES256", &secret).await;
    verify_access_token_signature(&token, &app.served().await).unwrap();
    app.running.stop().await;
}

async fn events(app: &TestApp, event: &str) -> usize {
    let records = app.db().audit(None, 1_000).await.unwrap();
    records.iter().filter(|record| record.event == event).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_algorithm_is_removed_by_an_act_and_kept_by_another() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_clients().await;
    let token = app.token("ES256", &secret).await;
    let remove = async |app: &TestApp| {
        app.rotator()
            .remove_algorithm(Algorithm::Es256, "test", "test", true)
            .await
    };
    let refused = remove(&app).await.unwrap_err().to_string();
    assert!(refused.contains("is among keys.algorithms"), "{refused}");

    let app = app.restarted(&database, RS256_ALONE).await;
    let refused = remove(&app).await.unwrap_err().to_string();
    assert!(
        refused.contains("these clients are registered for ES256: ES256"),
        "{refused}"
    );
    let raw = Raw::open(&database).await;
    raw.execute("DELETE FROM clients WHERE client_id = 'ES256'").await;
    let kept = app.rotator().keep_algorithm(Algorithm::Es256, "test", "test").await;
    assert!(matches!(kept, Err(CannotKeep::NotRemoved(_))), "{kept:?}");

    // Announced as long ahead as a new key; a dry run announces nothing.
    let rows = app.keys().await.line(Algorithm::Es256).len();
    app.rotator()
        .remove_algorithm(Algorithm::Es256, "test", "test", false)
        .await
        .unwrap();
    assert_eq!(app.keys().await.line(Algorithm::Es256).len(), rows);
    let removed = remove(&app).await.unwrap();
    let now = app.clock.read().wall;
    assert_eq!(removed.generation.activates_at - now, DAY);
    assert!(matches!(remove(&app).await, Err(CannotRemove::Already { .. })));
    assert_eq!(events(&app, "algorithm.removed").await, 1);
    app.pass(DAY - Seconds(1), HOUR).await;
    let active = async |app: &TestApp| {
        let keys = app.keys().await;
        keys.active(Algorithm::Es256, app.clock.read().wall)
            .map(|key| key.kid.clone())
    };
    let signs = active(&app).await.unwrap();
    let kept = app
        .rotator()
        .keep_algorithm(Algorithm::Es256, "test", "test")
        .await
        .unwrap();
    assert_eq!(kept.signs, signs);
    app.pass(DAY, HOUR).await;
    assert_eq!(active(&app).await, Some(signs.clone()));
    assert_eq!(events(&app, "algorithm.kept").await, 1);

    // In force: nothing signs, what was signed verifies, and it can still be taken back, even when it is configured again.
    remove(&app).await.unwrap();
    app.pass(DAY, HOUR).await;
    assert_eq!(active(&app).await, None);
    assert!(app.may_issue().await, "no setting asks for it");
    verify_access_token_signature(&token, &app.served().await).unwrap();
    let app = app.restarted(&database, &[]).await;
    app.running.server.rotation.tick().await.unwrap();
    assert!(!app.may_issue().await, "{:?}", app.probe("/readyz/issue").await);
    let rotated = app.rotator().rotate(Algorithm::Es256, "test", "test").await;
    assert!(matches!(rotated, Err(RotationError::Removed { .. })), "{rotated:?}");
    app.pass(HOUR, Seconds(60)).await;
    let kept = app
        .rotator()
        .keep_algorithm(Algorithm::Es256, "test", "test")
        .await
        .unwrap();
    assert_eq!(kept.signs, signs);
    app.running.server.rotation.tick().await.unwrap();
    assert!(app.may_issue().await);
    assert_eq!(active(&app).await, Some(signs.clone()));
    verify_access_token_signature(&token, &app.served().await).unwrap();

    // Removed for good: the half goes when the key leaves, and it is too late.
    let app = app.restarted(&database, RS256_ALONE).await;
    remove(&app).await.unwrap();
    app.pass(DAY * 2 + HOUR * 2, HOUR).await;
    let halves = app.keys().await;
    assert!(halves.line(Algorithm::Es256).iter().all(|key| !key.has_private_half));
    assert!(app.served().await.iter().all(|jwk| jwk.alg == Algorithm::Rs256));
    let kept = app.rotator().keep_algorithm(Algorithm::Es256, "test", "test").await;
    assert!(matches!(kept, Err(CannotKeep::TooLate(_))), "{kept:?}");
    assert!(events(&app, "key.purged").await > 0);

    // Added again, it is published before it signs like any other.
    let app = app.restarted(&database, &[]).await;
    assert!(!app.may_issue().await);
    app.pass(DAY, HOUR).await;
    assert!(app.may_issue().await);
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emergency_calls_an_announced_removal_off() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let app = app.restarted(&database, RS256_ALONE).await;
    let rotator = app.rotator();
    rotator
        .remove_algorithm(Algorithm::Es256, "test", "test", true)
        .await
        .unwrap();
    let keys = app.keys().await;
    let kid = keys
        .active(Algorithm::Es256, app.clock.read().wall)
        .unwrap()
        .kid
        .clone();
    let revoked = rotator.revoke(&kid, "test", "test").await.unwrap();
    assert!(revoked.ends_removal && revoked.signs_now.is_some());
    assert!(app.keys().await.removal(Algorithm::Es256).is_none());
    app.pass(DAY * 2, HOUR).await;
    let keys = app.keys().await;
    assert!(keys.active(Algorithm::Es256, app.clock.read().wall).is_some());
    app.running.stop().await;
}

crate::on_both_databases!(the_commands_that_remove_an_algorithm_say_what_follows, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let with = |algorithms: &str, arguments: &[&str]| {
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_DATABASE__URL", database.url.as_str()),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
            ),
            ("KEYROUND_KEYS__ALGORITHMS", algorithms),
        ];
        let output = run(database.folder.path(), &variables, arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout) + &text(output.stderr),
        )
    };
    let remove = [
        "keys",
        "remove-algorithm",
        "ES256",
        "--reason",
        "no client uses it",
        "--yes",
    ];
    let (code, told) = with("RS256,ES256", &remove);
    assert!(code == 1 && told.contains("is among keys.algorithms"), "{told}");
    // The server that runs has it configured still.
    let (code, told) = with("RS256", &remove);
    assert!(
        code == 1 && told.contains("these nodes run with other settings"),
        "{told}"
    );
    app.running.stop().await;

    let app = TestApp::start_with_clock(&database, RS256_ALONE, Clock::system()).await;
    for look in [&["keys", "list"][..], &["config", "check"], &["db", "check"]] {
        let (code, told) = with("RS256", look);
        assert!(code == 0 && told.contains("not removed"), "{look:?}: {told}");
    }
    let (code, told) = with("RS256", &[&remove[..], &["--dry-run"]].concat());
    assert!(code == 0 && told.starts_with("Nothing was changed."), "{told}");
    let (code, told) = with("RS256", &remove);
    assert!(
        code == 0 && told.contains("the removal of ES256 is announced"),
        "{told}"
    );
    let (_, told) = with("RS256", &["keys", "list"]);
    assert!(told.contains("ES256 is removed with effect from"), "{told}");
    let (code, told) = with("RS256", &["keys", "rotate", "--algorithm", "ES256"]);
    assert!(code == 1 && told.contains("keep-algorithm ES256"), "{told}");
    // In force since an hour, and configured again: no check is green.
    let raw = Raw::open(&database).await;
    let hour_ago = Clock::system().read().wall - HOUR;
    raw.execute(&format!(
        "UPDATE signing_keys SET activates_at = {} WHERE jwk IS NULL",
        hour_ago.0
    ))
    .await;
    let (code, told) = with("RS256,ES256", &["db", "check"]);
    assert!(
        code == 1 && told.contains("no ES256 key is active, because it was removed"),
        "{told}"
    );
    let keep = ["keys", "keep-algorithm", "ES256", "--reason", "a client uses it"];
    let (code, told) = with("RS256,ES256", &keep);
    assert!(
        code == 0 && told.contains("the removal of ES256 is taken back"),
        "{told}"
    );
    assert_eq!(with("RS256,ES256", &["db", "check"]).0, 0);
    let (code, told) = with("RS256,ES256", &keep);
    assert!(code == 1 && told.contains("was not removed"), "{told}");
    let (_, told) = with("RS256", &["audit", "list"]);
    assert!(
        told.contains("algorithm.removed") && told.contains("algorithm.kept"),
        "{told}"
    );
    app.running.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_algorithm_that_is_new_is_published_before_it_signs() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, RS256_ALONE).await;
    let secret = app.create_clients().await;
    app.pass(DAY * 3, HOUR).await;
    let app = app.restarted(&database, &[]).await;
    assert_eq!(announced(&app).await, serde_json::json!(["RS256", "ES256"]));
    assert!(app.may_issue().await, "{:?}", app.probe("/readyz/issue").await);
    let first = app.keys().await.line(Algorithm::Es256)[0].clone();
    assert_eq!(first.activates_at, app.now() + DAY);
    app.pass(DAY - Seconds(1), HOUR).await;
    assert_eq!(app.asked("ES256", &secret).await.0, 503);
    app.pass(Seconds(1), Seconds(1)).await;
    app.token("ES256", &secret).await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_raised_before_it_signs_a_longer_token() {
    let longer = &[("tokens.max_token_ttl", "2h"), ("tokens.access_token_ttl", "2h")];
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("tokens.access_token_ttl", "1h")]).await;
    let secret = app.create_clients().await;
    assert_eq!(app.asked("ES256", &secret).await.1["expires_in"], 3_600);
    let app = app.restarted(&database, longer).await;
    assert_eq!(app.asked("ES256", &secret).await.1["expires_in"], 7_200);
    assert!(app.keys().await.iter().all(|key| key.max_token_ttl == HOUR * 2));

    // Shorter again: the row keeps what it promised, and the key stays as long as the longest token.
    let app = app.restarted(&database, &[]).await;
    assert!(app.keys().await.iter().all(|key| key.max_token_ttl == HOUR * 2));
    let old = app.keys().await.line(Algorithm::Es256)[0].kid.clone();
    app.pass(PERIOD - SKEW - DAY, HOUR * 2).await;
    app.pass(DAY, HOUR * 2).await;
    app.pass(HOUR * 2 + Seconds(389), HOUR).await;
    assert!(app.served().await.iter().any(|jwk| jwk.kid == old));
    app.pass(Seconds(1), Seconds(1)).await;
    assert!(app.served().await.iter().all(|jwk| jwk.kid != old));
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_jump_of_the_clock_nothing_changes_and_signing_goes_on() {
    for jump in [DAY * 40, DAY * -40] {
        let database = TestDatabase::sqlite();
        let app = TestApp::start(&database, &[]).await;
        let secret = app.create_clients().await;
        let raw = Raw::open(&database).await;
        // Ten minutes after a rotation: by the jumped clock the old keys would leave, and the next ones be late.
        app.pass(PERIOD - SKEW - DAY, HOUR * 6).await;
        app.pass(DAY, HOUR * 6).await;
        app.pass(Seconds(600), Seconds(60)).await;
        let good = app.now();
        let (keys, set) = (app.keys().await, app.key_set_bytes().await);
        assert_eq!(app.served().await.len(), 4);
        let audited = raw.number("SELECT count(*) FROM audit").await;

        app.clock.jump(jump);
        for passed in 1..=20 {
            app.clock.advance(Seconds(10));
            app.tick().await;
            let token = app.token("ES256", &secret).await;
            let claims = verify_access_token_signature(&token, &app.served().await).unwrap();
            assert_eq!(claims["iat"], (good + Seconds(10 * passed)).0, "jump of {jump}");
        }
        assert_eq!(app.keys().await, keys, "a row changed after a jump of {jump}");
        assert_eq!(app.key_set_bytes().await, set);
        assert_eq!(raw.number("SELECT count(*) FROM audit").await, audited);
        let (status, body) = app.probe("/readyz/issue").await;
        let doubt = if jump > Seconds::ZERO {
            "the clock jumped ahead by "
        } else {
            " behind the time that was reached"
        };
        assert!(status == 503 && body.contains(doubt), "{body}");
        assert_eq!(app.probe("/readyz").await.0, 200);

        app.clock.jump(jump * -1);
        app.tick().await;
        assert!(app.may_issue().await, "{:?}", app.probe("/readyz/issue").await);
        app.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_set_outlives_the_database() {
    let database = TestDatabase::postgres().await;
    let settings = &[("keys.replica_refresh", "1s"), ("keys.snapshot_max_age", "2s")];
    let app = TestApp::start_with_clock(&database, settings, Clock::system()).await;
    let secret = app.create_clients().await;
    app.token("RS256", &secret).await;
    let (before, set) = app.key_set_bytes().await;
    assert_eq!(before, 200);

    let mut url = url::Url::parse(&database.url).unwrap();
    let name = url.path().trim_start_matches('/').to_owned();
    url.set_path("postgres");
    let beside = Raw::open(&TestDatabase {
        url: url.to_string(),
        folder: tempfile::tempdir().unwrap(),
    })
    .await;
    beside
        .execute(&format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"))
        .await;
    beside
        .execute(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        ))
        .await;

    app.until_clients_are_read_anew().await;
    let answer = app.ask("RS256", &secret, &[("grant_type", "client_credentials")]).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u32>().is_ok());
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let refusal: Value = answer.json().await.unwrap();
    assert_eq!(refusal["error"], "temporarily_unavailable");
    until("it says that its keys are old", || async {
        let (status, body) = app.probe("/readyz/issue").await;
        status == 503 && body.contains(r#""name":"snapshot","ok":false"#)
    })
    .await;
    assert_eq!(app.probe("/readyz").await.0, 200);
    assert_eq!(app.key_set_bytes().await, (200, set.clone()));

    beside
        .execute(&format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true"))
        .await;
    until("it can sign again", || app.may_issue()).await;
    app.token("RS256", &secret).await;
    assert_eq!(app.key_set_bytes().await, (200, set));
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_everything_holds_nothing_up() {
    let database = TestDatabase::postgres().await;
    let (open, is_open) = watch::channel(Network::Open { era: 0 });
    let through = TestDatabase {
        url: network(&database.url, is_open).await,
        folder: tempfile::tempdir().unwrap(),
    };
    let settings = &[("keys.replica_refresh", "1s"), ("keys.snapshot_max_age", "2s")];
    let app = TestApp::start_with_clock(&through, settings, Clock::system()).await;
    let secret = app.create_clients().await;
    app.token("RS256", &secret).await;
    let set = app.key_set_bytes().await;

    open.send_replace(Network::Closed);
    app.until_clients_are_read_anew().await;
    let mut waited = Vec::new();
    for _ in 0..3 {
        let before = app.clock.read().monotonic;
        assert_eq!(app.asked("RS256", &secret).await.0, 503);
        waited.push(app.clock.read().monotonic.saturating_sub(before));
    }
    // The one in the middle: a busy machine may hold up another.
    waited.sort_unstable();
    assert!(
        waited[1] < std::time::Duration::from_secs(8),
        "clients waited {waited:?}"
    );
    until("it says that it cannot sign", || async { !app.may_issue().await }).await;
    assert_eq!(app.probe("/readyz").await.0, 200);
    assert_eq!(app.key_set_bytes().await, set);

    // What was under way on the old connections is not waited for: the next ones work.
    open.send_replace(Network::Open { era: 0 });
    until("it can sign again", || app.may_issue()).await;
    app.token("RS256", &secret).await;
    app.running.stop().await;
}

/// Waits for a condition, for at most two minutes.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..1_200 {
        if holds().await {
            return;
        }
        keyround::clock::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("not within two minutes: {what}");
}

/// Everything that a start could write, as text.
async fn contents(database: &TestDatabase) -> Vec<String> {
    let raw = Raw::open(database).await;
    let mut rows = Vec::new();
    for query in [
        "SELECT kid || generation || COALESCE(sealed, '') || max_token_ttl FROM signing_keys ORDER BY kid",
        "SELECT name || sealed FROM secrets ORDER BY name",
        "SELECT subject || event FROM audit ORDER BY seq",
        "SELECT 'version ' || version FROM key_version",
    ] {
        rows.extend(raw.texts(query).await);
    }
    raw.close().await;
    rows
}

crate::on_both_databases!(another_master_key_is_refused_and_nothing_is_written, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    app.running.stop().await;
    let raw = Raw::open(&database).await;
    for without_check in [false, true] {
        if without_check {
            raw.execute("DELETE FROM secrets").await;
        }
        let before = contents(&database).await;
        for (key, short) in [
            ("9mYv4p0b8i3Jx6s1Qd2LwZc7RkT5uN0eHgAqVnXyBjo=", false),
            ("sohMxTzEWaEGlBI/vs3ZwA==", true),
            ("not base64", true),
        ] {
            let config = config(&database, &[("keys.master_key", key)]);
            match Foundation::open(&config, Clock::system()).await.map(|_| ()) {
                Err(StartError::MasterKeyNotListed(_)) if !short => {}
                Err(StartError::MasterKey(_)) if short => {}
                other => panic!("{key}: {other:?}"),
            }
            assert_eq!(contents(&database).await, before, "{key}");
        }
    }
});

#[tokio::test]
async fn a_short_master_key_makes_no_database() {
    let database = TestDatabase::sqlite();
    let config = config(&database, &[("keys.master_key", "c2hvcnQ=")]);
    let answer = Foundation::open(&config, Clock::system()).await.map(|_| ());
    assert!(matches!(answer, Err(StartError::MasterKey(_))), "{answer:?}");
    assert_eq!(std::fs::read_dir(database.folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_private_halves_do_not_open_and_the_other_line_signs_on() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_clients().await;
    app.rotator().rotate(Algorithm::Es256, "test", "test").await.unwrap();
    app.tick().await;
    let (_, set) = app.key_set_bytes().await;
    let raw = Raw::open(&database).await;
    let halves = raw
        .texts("SELECT sealed FROM signing_keys WHERE alg = 'ES256' ORDER BY generation")
        .await;
    for (half, generation) in halves.iter().zip([2, 1]) {
        let swap =
            format!("UPDATE signing_keys SET sealed = '{half}' WHERE alg = 'ES256' AND generation = {generation}");
        assert_eq!(raw.execute(&swap).await, 1);
    }
    let before = contents(&database).await;
    let app = app.restarted(&database, &[]).await;
    assert_eq!(app.running.server.keyring.snapshot().unopened.len(), 2);
    assert_eq!(app.asked("ES256", &secret).await.0, 503);
    app.token("RS256", &secret).await;
    let (status, body) = app.probe("/readyz/issue").await;
    assert_eq!(status, 503);
    for key in app.keys().await.line(Algorithm::Es256) {
        assert!(body.contains(key.kid.as_str()), "{body}");
    }
    assert_eq!(app.key_set_bytes().await, (200, set), "a key left the set");
    assert_eq!(contents(&database).await, before, "a key was made or changed");
    app.running.stop().await;
}

crate::on_both_databases!(repeated_rotations_do_not_fill_the_set, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let rotate = async || app.rotator().rotate(Algorithm::Es256, "test", "test").await;
    for _ in 0..MAX_WAITING {
        rotate().await.unwrap();
    }
    let before = app.keys().await;
    let next = before.line(Algorithm::Es256)[1].activates_at;
    let refused = rotate().await.unwrap_err();
    assert!(
        matches!(refused, RotationError::Waiting { waiting: MAX_WAITING, next: told, .. } if told == next),
        "{refused:?}"
    );
    let told = refused.to_string();
    assert!(
        told.contains("3 ES256 keys are published and wait to sign") && told.contains("keys list"),
        "{told}"
    );
    assert_eq!(
        app.keys().await.line(Algorithm::Es256).len(),
        before.line(Algorithm::Es256).len()
    );
    // Another algorithm is not concerned.
    app.rotator().rotate(Algorithm::Rs256, "test", "test").await.unwrap();
    app.running.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_set_delays_rotation_serves_on_and_says_so() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("keys.max_published", "4")]).await;
    let secret = app.create_clients().await;
    // RS256's successor is due at 29 days; half a day before, the room is taken.
    app.pass(PERIOD - SKEW - DAY - DAY - HOUR * -12, HOUR).await;
    for _ in 0..2 {
        app.rotator().rotate(Algorithm::Es256, "test", "test").await.unwrap();
    }
    let full = app.rotator().rotate(Algorithm::Es256, "test", "test").await;
    assert!(
        matches!(full, Err(RotationError::SetFull(Algorithm::Es256))),
        "{full:?}"
    );
    app.tick().await;
    let (_, set) = app.key_set_bytes().await;
    app.pass(HOUR * 12 + HOUR * 3, HOUR).await;
    assert!(app.may_issue().await, "{:?}", app.probe("/readyz/issue").await);
    app.pass(HOUR, HOUR).await;
    let (status, body) = app.probe("/readyz/issue").await;
    assert!(status == 503 && body.contains("overdue for RS256"), "{body}");
    assert_eq!(app.key_set_bytes().await, (200, set));
    assert_eq!(app.keys().await.line(Algorithm::Rs256).len(), 1);
    for client in ["RS256", "ES256"] {
        app.token(client, &secret).await;
    }
    // The ES256 keys take over and the old ones expire: now there is room, and all is well again.
    app.pass(HOUR * 10, HOUR).await;
    assert_eq!(app.keys().await.line(Algorithm::Rs256).len(), 2);
    assert!(app.may_issue().await, "{:?}", app.probe("/readyz/issue").await);
    app.running.stop().await;
}
