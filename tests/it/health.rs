//! The admin listener: alive, ready to publish, ready to sign, and the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyround::clock::{Clock, Seconds, sleep};
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase};
use crate::rows::Raw;

/// The refresh of these servers comes in minutes: while a test holds the clock still, nothing is read behind its back.
const SLOW: [(&str, &str); 2] = [("keys.replica_refresh", "10m"), ("keys.snapshot_max_age", "30m")];

const GRANT: [(&str, &str); 1] = [("grant_type", "client_credentials")];

/// The status of a health endpoint, and which of its checks fail.
async fn health(app: &TestApp, path: &str) -> (u16, BTreeSet<String>) {
    let answer = app.http.get(format!("{}{path}", app.admin_url)).send().await.unwrap();
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let body: Value = answer.json().await.unwrap();
    let checks = body["checks"].as_array().unwrap();
    // An advisory check leaves the status at 200.
    let are_ok = |is_advice: bool| {
        let counted = checks.iter().filter(|check| is_advice || check["advisory"] == false);
        counted.into_iter().all(|check| check["ok"] == true)
    };
    assert_eq!(body["status"], if are_ok(true) { "ok" } else { "failing" });
    assert_eq!(status, if are_ok(false) { 200 } else { 503 });
    assert!(checks.iter().all(|check| !check["detail"].as_str().unwrap().is_empty()));
    let failing = checks.iter().filter(|check| check["ok"] == false);
    (
        status,
        failing
            .map(|check| check["name"].as_str().unwrap().to_owned())
            .collect(),
    )
}

async fn names_of_checks(app: &TestApp, path: &str) -> Vec<String> {
    let answer = app.http.get(format!("{}{path}", app.admin_url)).send().await.unwrap();
    let body: Value = answer.json().await.unwrap();
    let checks = body["checks"].as_array().unwrap();
    checks
        .iter()
        .map(|check| check["name"].as_str().unwrap().to_owned())
        .collect()
}

fn green() -> (u16, BTreeSet<String>) {
    (200, BTreeSet::new())
}

fn red(checks: &[&str]) -> (u16, BTreeSet<String>) {
    (503, checks.iter().map(|check| (*check).to_owned()).collect())
}

async fn metrics(app: &TestApp) -> String {
    let answer = app.http.get(format!("{}/metrics", app.admin_url)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.headers()["content-type"], content_type);
    answer.text().await.unwrap()
}

/// Reads the OpenMetrics text format strictly enough to notice a broken line; answers with every sample.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples = BTreeMap::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (keyword, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(matches!(keyword, "HELP" | "TYPE" | "UNIT"), "{line}");
            if keyword == "TYPE" {
                assert!(families.insert(name, words.next().unwrap()).is_none(), "{name} twice");
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        assert_eq!(sample.contains('{'), sample.ends_with('}'), "{line}");
        let known = families.iter().any(|(family, kind)| {
            let suffixes: &[&str] = match *kind {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("a family of type {other}"),
            };
            name.strip_prefix(family)
                .is_some_and(|suffix| suffixes.contains(&suffix))
        });
        assert!(known, "{line} belongs to no family");
        let value: f64 = value.parse().unwrap();
        assert!(samples.insert(sample.to_owned(), value).is_none(), "{sample} twice");
    }
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_order_is_green_and_says_what_it_looked_at() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    for path in ["/livez", "/readyz", "/readyz/issue"] {
        assert_eq!(health(&app, path).await, green(), "{path}");
        assert_eq!(
            app.http
                .post(format!("{}{path}", app.admin_url))
                .send()
                .await
                .unwrap()
                .status(),
            405
        );
    }
    assert_eq!(names_of_checks(&app, "/livez").await, ["process", "tasks"]);
    assert_eq!(names_of_checks(&app, "/readyz").await, ["key_set", "serving"]);
    let checks = [
        "snapshot",
        "clock",
        "signer",
        "rotation",
        "private_halves",
        "ledger",
        "rows",
        "clients",
        "rights",
        "schema",
        "room",
        "locks",
        "file",
        "serving",
    ];
    assert_eq!(names_of_checks(&app, "/readyz/issue").await, checks);
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_snapshot_ends_signing_long_before_it_ends_publishing() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &SLOW).await;
    let secret = app.create_client("billing", None).await;
    app.clock.advance(Seconds(30 * 60 - 1));
    assert_eq!(health(&app, "/readyz/issue").await, green());
    assert_eq!(app.ask("billing", &secret, &GRANT).await.status(), 200);
    app.clock.advance(Seconds(1));
    assert_eq!(health(&app, "/readyz/issue").await, red(&["snapshot"]));
    assert_eq!(app.ask("billing", &secret, &GRANT).await.status(), 503);
    assert_eq!(health(&app, "/readyz").await, green());
    // prepublish 24h - a commit's share (one refresh, 10m) - verifier_cache 30m - clock_skew 60s.
    let bound = Seconds(86_400 - 600 - 1_800 - 60);
    app.clock.advance(bound - Seconds(30 * 60));
    assert_eq!(health(&app, "/readyz").await, green());
    app.clock.advance(Seconds(1));
    assert_eq!(health(&app, "/readyz").await, red(&["key_set"]));
    // It still serves, and it is alive.
    assert_eq!(app.key_set().await["keys"].as_array().unwrap().len(), 2);
    assert_eq!(health(&app, "/livez").await, green());
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(health(&app, "/readyz").await, green());
    assert_eq!(health(&app, "/readyz/issue").await, green());
    assert_eq!(app.ask("billing", &secret, &GRANT).await.status(), 200);
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_is_told_and_stops_no_publishing() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &SLOW).await;
    app.clock.jump(Seconds(600));
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(health(&app, "/readyz/issue").await, red(&["clock"]));
    assert_eq!(health(&app, "/readyz").await, green());
    app.clock.jump(Seconds(-600));
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(health(&app, "/readyz/issue").await, green());
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_that_is_late_is_told() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &SLOW).await;
    // The next generation should stand in the set since day 29; it is day 30, and nobody rotated.
    app.clock.advance(Seconds(30 * 86_400));
    app.running.server.keyring.refresh().await.unwrap();
    let (status, checks) = health(&app, "/readyz/issue").await;
    assert_eq!((status, checks.contains("rotation")), (503, true), "{checks:?}");
    assert_eq!(health(&app, "/readyz").await, green());
    app.running.server.rotation.tick().await.unwrap();
    assert_eq!(health(&app, "/readyz/issue").await, green());
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_half_that_does_not_open_is_told() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &SLOW).await;
    app.running.stop().await;
    let pool = sqlx::SqlitePool::connect(&database.url).await.unwrap();
    // The two rows trade their private halves: under the associated data neither opens.
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT kid, sealed FROM signing_keys")
        .fetch_all(&pool)
        .await
        .unwrap();
    for (from, to) in [(0, 1), (1, 0)] {
        sqlx::query("UPDATE signing_keys SET sealed = $1 WHERE kid = $2")
            .bind(&rows[from].1)
            .bind(&rows[to].0)
            .execute(&pool)
            .await
            .unwrap();
    }
    pool.close().await;
    let app = TestApp::start(&database, &SLOW).await;
    let secret = app.create_client("billing", None).await;
    let (status, checks) = health(&app, "/readyz/issue").await;
    assert_eq!(status, 503);
    assert!(
        checks.contains("signer") && checks.contains("private_halves"),
        "{checks:?}"
    );
    assert_eq!(health(&app, "/readyz").await, green());
    assert_eq!(app.ask("billing", &secret, &GRANT).await.status(), 503);
    assert_eq!(samples(&metrics(&app).await)["keyround_unopened_keys"].to_string(), "2");
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_open_metrics_and_move() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &SLOW).await;
    let before = samples(&metrics(&app).await);
    for (sample, value) in [
        (r#"keyround_keys{alg="RS256",state="active"}"#, 1.0),
        (r#"keyround_keys{alg="ES256",state="active"}"#, 1.0),
        (r#"keyround_keys{alg="ES256",state="pending"}"#, 0.0),
        (r#"keyround_keys{alg="RS256",state="retired"}"#, 0.0),
        (r#"keyround_imported_keys{alg="RS256"}"#, 0.0),
        // A first key has carried its time since clock_skew ago.
        (r#"keyround_key_age_seconds{alg="RS256"}"#, 60.0),
        (
            r#"keyround_next_activation_seconds{alg="RS256"}"#,
            30.0 * 86_400.0 - 60.0,
        ),
        (r"keyround_last_successful_rotation_timestamp_seconds", 1_800_000_000.0),
        (r"keyround_rotation_failures", 0.0),
        (r"keyround_unopened_keys", 0.0),
        (r"keyround_snapshot_age_seconds", 0.0),
        (r"keyround_differing_nodes", 0.0),
    ] {
        let found = before.get(sample);
        assert!(
            found.is_some_and(|found| (found - value).abs() < 0.5),
            "{sample}: {found:?}"
        );
    }
    let secret = app.create_client("billing", None).await;
    for _ in 0..3 {
        app.token("billing", &secret).await;
    }
    app.ask("billing", "wrong", &GRANT).await;
    app.ask("billing", &secret, &[]).await;
    app.ask(
        "billing",
        &secret,
        &[("grant_type", "client_credentials"), ("scope", "x")],
    )
    .await;
    app.key_set().await;
    app.key_set().await;
    let url = format!("{}/.well-known/jwks.json", app.url);
    app.http.get(url).header("if-none-match", "*").send().await.unwrap();
    app.clock.advance(Seconds(100));
    let after = samples(&metrics(&app).await);
    for (sample, value) in [
        (r#"keyround_tokens_signed_total{alg="RS256"}"#, 3.0),
        (r#"keyround_signing_duration_seconds_count{alg="RS256"}"#, 3.0),
        (r#"keyround_refusals_total{reason="invalid_client"}"#, 1.0),
        (r#"keyround_refusals_total{reason="invalid_request"}"#, 1.0),
        (r#"keyround_refusals_total{reason="invalid_scope"}"#, 1.0),
        (r#"keyround_key_set_answers_total{status="200"}"#, 2.0),
        (r#"keyround_key_set_answers_total{status="304"}"#, 1.0),
        (r#"keyround_key_age_seconds{alg="RS256"}"#, 160.0),
        ("keyround_snapshot_age_seconds", 100.0),
    ] {
        let found = after.get(sample);
        assert!(
            found.is_some_and(|found| (found - value).abs() < 0.5),
            "{sample}: {found:?}"
        );
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_listener_serves_its_own_and_nothing_else() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    for path in ["/livez", "/readyz", "/readyz/issue", "/metrics"] {
        assert_eq!(
            app.http
                .get(format!("{}{path}", app.url))
                .send()
                .await
                .unwrap()
                .status(),
            404,
            "{path}"
        );
    }
    for path in [
        "/.well-known/jwks.json",
        "/.well-known/openid-configuration",
        "/oauth2/token",
    ] {
        let url = format!("{}{path}", app.admin_url);
        assert_eq!(app.http.get(&url).send().await.unwrap().status(), 404, "{path}");
        assert_eq!(app.http.post(&url).send().await.unwrap().status(), 404, "{path}");
    }
    app.running.stop().await;
}

crate::on_both_databases!(a_table_of_clients_that_cannot_be_read_is_told, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = app.create_client("billing", None).await;
    assert_eq!(app.ask("billing", &secret, &GRANT).await.status(), 200);
    assert_eq!(health(&app, "/readyz/issue").await, green());
    let raw = Raw::open(&database).await;
    for (broken, repaired) in [
        (
            "ALTER TABLE clients RENAME TO clients_away",
            "ALTER TABLE clients_away RENAME TO clients",
        ),
        (
            "ALTER TABLE clients RENAME COLUMN secret_digest TO digest",
            "ALTER TABLE clients RENAME COLUMN digest TO secret_digest",
        ),
    ] {
        raw.execute(broken).await;
        until(&app, &red(&["clients", "schema"])).await;
        assert_eq!(health(&app, "/readyz").await, green());
        assert!(metrics(&app).await.contains("keyround_check{check=\"clients\"} 0\n"));
        assert_eq!(app.ask("other", &secret, &GRANT).await.status(), 503);
        raw.execute(repaired).await;
        until(&app, &green()).await;
    }
    if let Raw::Postgres(pool) = &raw {
        // A migration that went wrong holds the table.
        let mut tx = pool.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE clients IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *tx)
            .await
            .unwrap();
        until(&app, &red(&["clients"])).await;
        tx.rollback().await.unwrap();
        until(&app, &green()).await;
    }
    raw.close().await;
    app.running.stop().await;
});

/// Asks until this is the answer: one answer of the database holds for a moment.
async fn until(app: &TestApp, expected: &(u16, BTreeSet<String>)) {
    for _ in 0..600 {
        if health(app, "/readyz/issue").await == *expected {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(health(app, "/readyz/issue").await, *expected);
}
