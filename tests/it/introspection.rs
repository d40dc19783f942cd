//! Introspection and revocation (RFC 7662, RFC 7009): who is told what, and how fast a denial travels.

use std::time::Duration;

use keyround::clock::{Clock, Seconds, UnixTime, sleep};
use keyround::jose::alg::Algorithm;
use keyround::jose::key::PrivateKey;
use keyround::keyring::binding;
use keyround::oauth::client::Client;
use keyround::store::clients::ClientChange;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::helpers::{TestApp, TestDatabase, answered, entry, master_key};
use crate::hostile_tokens::sign;
use crate::rows::Raw;
use crate::token::{change, client, register};

/// Asks one of the two endpoints about a token.
pub async fn ask(app: &TestApp, path: &str, id: &str, secret: &str, token: &str) -> Response {
    asking(app, path, id, secret, token).send().await.unwrap()
}

/// Asks one of the two endpoints until it knows. An answer that needs the database of a few seconds ago at most is 503 on a machine that is
/// held up for longer.
pub async fn ask_until_known(app: &TestApp, path: &str, id: &str, secret: &str, token: &str) -> Response {
    answered(asking(app, path, id, secret, token)).await
}

fn asking(app: &TestApp, path: &str, id: &str, secret: &str, token: &str) -> RequestBuilder {
    let request = app.http.post(format!("{}/oauth2/{path}", app.url));
    request.basic_auth(id, Some(secret)).form(&[("token", token)])
}

/// What is known of a token.
async fn introspect(app: &TestApp, id: &str, secret: &str, token: &str) -> Value {
    let answer = ask_until_known(app, "introspect", id, secret, token).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    answer.json().await.unwrap()
}

async fn is_active(app: &TestApp, id: &str, secret: &str, token: &str) -> bool {
    let answer = introspect(app, id, secret, token).await;
    let active = answer["active"].as_bool().unwrap();
    assert!(active || answer == json!({ "active": false }), "{answer}");
    active
}

async fn revoke(app: &TestApp, id: &str, secret: &str, token: &str) {
    let answer = ask_until_known(app, "revoke", id, secret, token).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "");
}

/// A client that is this resource.
async fn serving(app: &TestApp, id: &str, resource: &str) -> String {
    let gateway = Client {
        serves: vec![resource.parse().unwrap()],
        ..client(id)
    };
    register(app, &gateway).await
}

// RFC 7662 section 4: for anyone else an active token and an unknown one look the same.
crate::on_both_databases!(only_the_client_and_the_resource_are_told, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let gateway = serving(&app, "gateway", "https://api.example.com").await;
    let other = serving(&app, "other", "https://other.example.com").await;
    for alg in Algorithm::ALL {
        let billing = Client {
            alg: Some(alg),
            ..client(alg.name())
        };
        let billing = register(&app, &billing).await;
        let token = app.token(alg.name(), &billing).await;
        let claims = crate::token::claims(&token);
        let mut expected = claims.clone();
        expected["active"] = json!(true);
        expected["token_type"] = json!("Bearer");
        assert_eq!(introspect(&app, alg.name(), &billing, &token).await, expected, "{alg}");
        assert_eq!(introspect(&app, "gateway", &gateway, &token).await, expected);
        // To anybody else it looks like garbage, to the last header.
        let strange = ask_until_known(&app, "introspect", "other", &other, &token).await;
        let garbage = ask_until_known(&app, "introspect", "other", &other, "garbage").await;
        let shown = |answer: &Response| {
            let mut headers = answer.headers().clone();
            headers.remove("date");
            headers.remove("x-request-id");
            (answer.status(), headers)
        };
        assert_eq!(shown(&strange), shown(&garbage));
        let body = strange.text().await.unwrap();
        assert_eq!(body, r#"{"active":false}"#);
        assert_eq!(body, garbage.text().await.unwrap());
    }
    app.running.stop().await;
});

// At once on the node that was told.
crate::on_both_databases!(
    a_revoked_token_is_inactive_at_once_and_only_its_client_revokes_it,
    |database| {
        let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
        let billing = register(&app, &client("billing")).await;
        let gateway = serving(&app, "gateway", "https://api.example.com").await;
        let (token, kept) = (
            app.token("billing", &billing).await,
            app.token("billing", &billing).await,
        );
        revoke(&app, "gateway", &gateway, &token).await;
        assert!(
            is_active(&app, "billing", &billing, &token).await,
            "a stranger revoked it"
        );
        for garbage in ["garbage", "a.b.c", &token[1..], &"a".repeat(10_000)] {
            revoke(&app, "billing", &billing, garbage).await;
        }
        for _ in 0..2 {
            let request = app.http.post(format!("{}/oauth2/revoke", app.url));
            let form = [("token", token.as_str()), ("token_type_hint", "refresh_token")];
            let answer = answered(request.basic_auth("billing", Some(&billing)).form(&form)).await;
            assert_eq!(answer.status(), 200);
            assert!(!is_active(&app, "billing", &billing, &token).await);
            assert!(!is_active(&app, "gateway", &gateway, &token).await);
        }
        assert!(is_active(&app, "gateway", &gateway, &kept).await);
        let raw = Raw::open(&database).await;
        let noted = "SELECT actor || '|' || reason FROM audit WHERE event = 'token.denied'";
        assert_eq!(raw.texts(noted).await, ["client billing|revoked by its client"]);
        assert_eq!(raw.number("SELECT count(*) FROM denied_tokens").await, 1);
        app.running.stop().await;
    }
);

// A client that may do nothing has no valid tokens.
crate::on_both_databases!(the_tokens_of_a_disabled_or_deleted_client_are_inactive, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let billing = register(&app, &client("billing")).await;
    let gateway = serving(&app, "gateway", "https://api.example.com").await;
    let token = app.token("billing", &billing).await;
    for (step, active) in [
        (None, true),
        (Some(ClientChange::Disable), false),
        (Some(ClientChange::Enable), true),
        (Some(ClientChange::Delete), false),
    ] {
        if let Some(step) = step {
            change(&app, "billing", step).await;
        }
        assert_eq!(is_active(&app, "gateway", &gateway, &token).await, active);
    }
    app.running.stop().await;
});

// RFC 7009 section 2.2.1.
crate::on_both_databases!(without_the_database_there_is_neither_a_yes_nor_a_no, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let billing = register(&app, &client("billing")).await;
    let token = app.token("billing", &billing).await;
    app.running.server.db.close().await;
    app.until_clients_are_read_anew().await;
    for path in ["introspect", "revoke"] {
        for token in [token.as_str(), "garbage"] {
            let answer = ask(&app, path, "billing", &billing, token).await;
            assert_eq!(answer.status(), 503, "{path}");
            assert_eq!(answer.headers()["retry-after"], "5");
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error"], "temporarily_unavailable");
            assert!(body.get("active").is_none());
        }
    }
    app.running.stop().await;
});

// What was read too long ago says nothing about a revocation elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_snapshot_is_503() {
    let database = TestDatabase::sqlite();
    // So long that the task does not read again by itself within the test.
    let settings = [("keys.replica_refresh", "10m"), ("keys.snapshot_max_age", "30m")];
    let app = TestApp::start(&database, &settings).await;
    let billing = register(&app, &client("billing")).await;
    let token = app.token("billing", &billing).await;
    app.clock.advance(Seconds(600 - 1));
    assert!(is_active(&app, "billing", &billing, &token).await);
    app.clock.advance(Seconds(2));
    for path in ["introspect", "revoke"] {
        let answer = ask(&app, path, "billing", &billing, &token).await;
        assert_eq!(answer.status(), 503, "{path}");
        assert_eq!(answer.headers()["retry-after"], "5");
    }
    app.running.stop().await;
}

// A denial lives until nobody accepts the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_at_its_exp_and_its_denial_a_leeway_later() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let billing = register(&app, &client("billing")).await;
    let (token, revoked) = (
        app.token("billing", &billing).await,
        app.token("billing", &billing).await,
    );
    revoke(&app, "billing", &billing, &revoked).await;
    let raw = Raw::open(&database).await;
    let denied = "SELECT count(*) FROM denied_tokens";
    app.pass(Seconds(599), Seconds(300)).await;
    assert!(is_active(&app, "billing", &billing, &token).await);
    assert!(!is_active(&app, "billing", &billing, &revoked).await);
    app.pass(Seconds(1), Seconds(1)).await;
    assert!(
        !is_active(&app, "billing", &billing, &token).await,
        "exp == now is expired"
    );
    // keys.verifier_leeway is 5 minutes.
    app.pass(Seconds(299), Seconds(299)).await;
    assert_eq!(raw.number(denied).await, 1);
    app.pass(Seconds(1), Seconds(1)).await;
    assert_eq!(raw.number(denied).await, 0);
    app.running.stop().await;
}

/// The other node follows within `replica_refresh`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_denial_reaches_the_other_node_within_the_bound() {
    let database = TestDatabase::postgres().await;
    let settings = [("keys.replica_refresh", "2s")];
    let one = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let two = TestApp::start_with_clock(&database, &settings, Clock::system()).await;
    let billing = register(&one, &client("billing")).await;
    for _ in 0..3 {
        let token = one.token("billing", &billing).await;
        assert!(is_active(&two, "billing", &billing, &token).await);
        revoke(&one, "billing", &billing, &token).await;
        let revoked_at = one.clock.read().monotonic;
        assert!(!is_active(&one, "billing", &billing, &token).await);
        let bound = revoked_at + Duration::from_secs(2);
        // What counts is when it was asked: a busy machine may answer late.
        let mut asked = revoked_at;
        while is_active(&two, "billing", &billing, &token).await {
            assert!(asked < bound, "the other node did not follow within 2s");
            sleep(Duration::from_millis(20)).await;
            asked = one.clock.read().monotonic;
        }
    }
    one.running.stop().await;
    two.running.stop().await;
}

/// Opens the private half of a key of this server.
async fn private_half(raw: &Raw, kid: &str, alg: Algorithm) -> PrivateKey {
    let sealed = raw
        .texts(&format!("SELECT sealed FROM signing_keys WHERE kid = '{kid}'"))
        .await;
    let der = master_key()
        .open(&binding(&kid.parse().unwrap(), alg), &sealed[0])
        .unwrap();
    PrivateKey::from_pkcs8_der(alg, &der).unwrap()
}

/// Published is not enough, and revoked is the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_by_a_pending_or_revoked_key_are_inactive() {
    let database = TestDatabase::sqlite();
    let settings = [("keys.algorithms", "ES256"), ("tokens.default_algorithm", "ES256")];
    let app = TestApp::start(&database, &settings).await;
    let billing = register(&app, &client("billing")).await;
    // Into the lead time of the second generation.
    app.pass(Seconds(29 * 86_400 + 3_600), Seconds(43_200)).await;
    let raw = Raw::open(&database).await;
    let kids = raw.texts("SELECT kid FROM signing_keys ORDER BY generation").await;
    let [active, pending] = kids.as_slice() else {
        panic!("{kids:?}")
    };
    let key = private_half(&raw, pending, Algorithm::Es256).await;
    let by_pending = |token: &str| {
        let claims = crate::token::claims(token).to_string();
        sign(
            &key,
            &format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{pending}"}}"#),
            &claims,
        )
    };
    let token = app.token("billing", &billing).await;
    assert!(is_active(&app, "billing", &billing, &token).await);
    assert!(
        !is_active(&app, "billing", &billing, &by_pending(&token)).await,
        "its key is pending"
    );
    app.pass(Seconds(86_400), Seconds(43_200)).await;
    let token = app.token("billing", &billing).await;
    assert!(
        is_active(&app, "billing", &billing, &by_pending(&token)).await,
        "its key is active now"
    );
    assert_eq!(crate::token::header(&token)["kid"], pending.as_str());
    assert_ne!(active, pending);

    let foundation = keyround::app::Foundation::open(&app.config, app.clock.clone())
        .await
        .unwrap();
    foundation
        .rotator
        .revoke(&pending.parse().unwrap(), "test", "leaked")
        .await
        .unwrap();
    app.running.server.keyring.refresh().await.unwrap();
    assert!(
        !is_active(&app, "billing", &billing, &token).await,
        "its key is revoked"
    );
    app.running.stop().await;
}

/// RFC 7662 section 2.1: the token stands in the form and nowhere else, and the caller proves itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_not_one_is_refused() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let billing = register(&app, &client("billing")).await;
    let token = app.token("billing", &billing).await;
    for path in ["introspect", "revoke"] {
        let url = format!("{}/oauth2/{path}", app.url);
        let proved = || app.http.post(&url).basic_auth("billing", Some(&billing));
        let form = [("token", token.as_str())];
        let twice = [("token", token.as_str()), ("token", "a")];
        let cases = [
            (
                app.http
                    .get(format!("{url}?token={token}"))
                    .basic_auth("billing", Some(&billing)),
                405,
                "a GET",
            ),
            (app.http.post(&url).form(&form), 401, "nobody"),
            (app.http.post(&url).bearer_auth(&token).form(&form), 401, "a bearer"),
            (
                app.http.post(&url).basic_auth("billing", Some("wrong")).form(&form),
                401,
                "a wrong secret",
            ),
            (proved().json(&json!({ "token": token })), 415, "JSON"),
            (proved().form(&[("a", "b")]), 400, "no token"),
            (proved().form(&[("token", "")]), 400, "an empty token"),
            (proved().form(&twice), 400, "two tokens"),
            (
                proved().form(&[("token", ".".repeat(8 * 1024 * 1024))]),
                413,
                "8 MB of dots",
            ),
        ];
        for (request, status, what) in cases {
            assert_eq!(request.send().await.unwrap().status(), status, "{path}: {what}");
        }
        let in_query = app
            .http
            .post(format!("{url}?token={token}"))
            .basic_auth("billing", Some(&billing))
            .form(&[("a", "b")])
            .send()
            .await
            .unwrap();
        assert_eq!(in_query.status(), 400, "{path}: the address is no place for a token");
    }
    assert!(is_active(&app, "billing", &billing, &token).await);
    let metrics = app.http.get(format!("{}/metrics", app.admin_url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let kid = crate::token::header(&token)["kid"].as_str().unwrap().to_owned();
    assert!(
        metrics.contains(&format!("keyround_verifications_total{{kid=\"{kid}\"}} 1")),
        "{metrics}"
    );
    let last = format!("keyround_last_verification_timestamp_seconds{{kid=\"{kid}\"}} 1800000000");
    assert!(metrics.contains(&last), "{metrics}");
    app.running.stop().await;
}

crate::on_both_databases!(a_denial_is_never_shortened_and_is_pruned_on_time, |database| {
    let db = database.open().await;
    let until = UnixTime;
    let denied = entry("token.denied", "a");
    assert!(db.deny_token("a", until(100), &denied).await.unwrap());
    assert!(!db.deny_token("a", until(100), &denied).await.unwrap());
    assert!(!db.deny_token("a", until(99), &denied).await.unwrap());
    assert!(db.deny_token("a", until(101), &denied).await.unwrap());
    assert!(db.deny_token("b", until(50), &denied).await.unwrap());
    assert_eq!(db.prune_denied_tokens(until(50), 10).await.unwrap(), 1);
    assert_eq!(db.prune_denied_tokens(until(100), 10).await.unwrap(), 0);
    let left = db.denied_tokens().await.unwrap();
    assert_eq!((left.len(), left[0].jti.as_str(), left[0].denied_until), (1, "a", 101));
});
