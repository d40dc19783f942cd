//! What an operator finds of one request: its id in the answer, the problem and the log, and its time in the metrics.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase};
use crate::process::Serving;

const VARIABLES: [(&str, &str); 4] = [
    ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
    ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
    ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
    (
        "KEYROUND_KEYS__MASTER_KEY",
        "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_an_id_and_a_problem_repeats_it() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    for (url, path) in [
        (&app.url, "/.well-known/jwks.json"),
        (&app.url, "/oauth2/token"),
        (&app.url, "/auth/me"),
        (&app.url, "/nothing"),
        (&app.url, "/"),
        (&app.admin_url, "/livez"),
    ] {
        for (sent, is_taken) in [
            ("0f8fad5b-d9cb-469f-a165-70867728950e", true),
            ("a b", false),
            ("a\"}", false),
            (&"x".repeat(129), false),
        ] {
            let request = app.http.get(format!("{url}{path}")).header("x-request-id", sent);
            let answer = request.send().await.unwrap();
            let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
            assert_eq!(id == sent, is_taken, "{path} {sent}: {id}");
            let kind = answer
                .headers()
                .get("content-type")
                .map(|kind| kind.to_str().unwrap().to_owned());
            if kind.is_some_and(|kind| kind.starts_with("application/problem+json")) {
                let problem: Value = answer.json().await.unwrap();
                assert_eq!(problem["request_id"], id.as_str(), "{path}");
            }
        }
        let first = app.http.get(format!("{url}{path}")).send().await.unwrap();
        let second = app.http.get(format!("{url}{path}")).send().await.unwrap();
        assert_ne!(first.headers()["x-request-id"], second.headers()["x-request-id"]);
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_lines_of_a_request_name_it() {
    for format in ["text", "json"] {
        let folder = tempfile::tempdir().unwrap();
        let variables = [&VARIABLES[..], &[("KEYROUND_LOG__FORMAT", format)]].concat();
        let mut serving = Serving::start(folder.path(), &variables, &["serve"]);
        let request = reqwest::Client::new()
            .post(format!("{}/auth/login", serving.url))
            .header("x-request-id", "req-42")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .json(
                &serde_json::json!({ "email": "ada@example.com", "password": "a wrong one", "token_delivery": "body" }),
            );
        assert_eq!(request.send().await.unwrap().headers()["x-request-id"], "req-42");
        let line = serving.wait_for("a request was refused");
        if format == "json" {
            let line: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(line["request_id"], "req-42");
            assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        } else {
            assert!(
                line.ends_with(" request_id=req-42 trace_id=4bf92f3577b34da6a3ce929d0e0e4736"),
                "{line}"
            );
            let (_, detail) = line.split_once("detail=").unwrap();
            assert!(detail.starts_with('"') && detail.contains("\" request_id="), "{line}");
        }
        assert!(serving.stop().0.success());
    }
}

async fn metrics(app: &TestApp) -> String {
    let answer = app.http.get(format!("{}/metrics", app.admin_url)).send().await.unwrap();
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_endpoints_that_no_stranger_names() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("server.issuer", "http://127.0.0.1:8080/tenant")]).await;
    let secret = app.create_client("billing", None).await;
    for _ in 0..3 {
        let request = app
            .http
            .post(format!("{}/tenant/oauth2/token", app.url))
            .basic_auth("billing", Some(&secret));
        assert_eq!(
            request
                .form(&[("grant_type", "client_credentials")])
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
    }
    for number in 0..50 {
        for path in [
            format!("/tenant/auth/sessions/{number}"),
            format!("/tenant/{number}"),
            format!("/{number}"),
            format!("/tenant/auth/verify/{number}?x={number}"),
        ] {
            let method = reqwest::Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
            app.http
                .request(method, format!("{}{path}", app.url))
                .send()
                .await
                .unwrap();
            app.http.get(format!("{}{path}", app.url)).send().await.unwrap();
        }
    }
    app.http
        .get(format!("{}/.well-known/jwks.json", app.url))
        .send()
        .await
        .unwrap();
    let text = metrics(&app).await;
    for line in [
        r#"keyround_http_requests_total{endpoint="/oauth2/token",method="POST",status="2xx"} 3"#,
        r#"keyround_http_requests_total{endpoint="/.well-known/jwks.json",method="GET",status="2xx"} 1"#,
        r#"keyround_http_requests_total{endpoint="other",method="other",status="4xx"} 100"#,
        r#"keyround_http_requests_total{endpoint="/auth/verify",method="other",status="4xx"} 50"#,
        r#"keyround_http_requests_total{endpoint="/auth/sessions/{sid}",method="GET",status="4xx"} 50"#,
        r#"keyround_http_request_duration_seconds_count{endpoint="/oauth2/token",method="POST"} 3"#,
        r#"keyround_http_request_duration_seconds_bucket{le="+Inf",endpoint="/oauth2/token",method="POST"} 3"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in: {text}");
    }
    let series = text
        .lines()
        .filter(|line| line.starts_with("keyround_http_requests_total{"))
        .count();
    assert!(series < 20, "{series}: {text}");
    app.running.stop().await;
}

crate::on_both_databases!(the_process_and_the_pool_are_told, |database| {
    let settings = [("keys.replica_refresh", "5s")];
    let app = if database.url.starts_with("sqlite:") {
        TestApp::start(&database, &settings).await
    } else {
        TestApp::start_with_clock(&database, &settings, keyround::clock::Clock::system()).await
    };
    let text = metrics(&app).await;
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
    };
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!((3.0..value("process_max_fds") + 1.0).contains(&value("process_open_fds")));
    assert!(value("process_threads") >= 2.0);
    let now = keyround::clock::Clock::system().read().wall.0;
    let started = value("process_start_time_seconds");
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit into the 52 bits")]
    let age = now as f64 - started;
    assert!((-5.0..86_400.0).contains(&age), "{age}");
    let pools: &[&str] = if database.url.starts_with("sqlite:") {
        &["read", "write"]
    } else {
        &["all"]
    };
    for pool in pools {
        let state = |state: &str| {
            value(&format!(
                "keyround_database_connections{{pool=\"{pool}\",state=\"{state}\"}}"
            ))
        };
        assert!(state("idle") + state("in_use") >= 1.0, "{pool}");
    }
    assert!(value("keyround_database_waits_total") >= 0.0 && value("keyround_database_timeouts_total") >= 0.0);
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    app.running.stop().await;
});

/// The names that the code registers, with the prefix and the unit.
fn registered() -> BTreeSet<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/telemetry");
    let folder = std::fs::read_dir(root).unwrap();
    let parts = folder.map(|file| file.unwrap().path().display().to_string());
    let files = std::iter::once(format!("{root}.rs")).chain(parts);
    let mut names = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let prefix = if file.ends_with("process.rs") { "" } else { "keyround_" };
        for (at, _) in text.match_indices("registry.register") {
            let call = &text[at..text[at..].find(");").map_or(text.len(), |end| at + end)];
            let name = call.split('"').nth(1).unwrap();
            let unit = call.split_once("Unit::").map_or(String::new(), |(_, unit)| {
                let unit: String = unit.chars().take_while(|character| character.is_alphabetic()).collect();
                format!("_{}", unit.to_lowercase())
            });
            names.insert(format!("{prefix}{name}{unit}"));
        }
    }
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_lists_every_metric_with_its_help() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert_eq!(rows, registered());
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    app.http
        .get(format!("{}/.well-known/jwks.json", app.url))
        .send()
        .await
        .unwrap();
    let text = metrics(&app).await;
    let told = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let mut number = 0;
    for (name, help) in told {
        number += 1;
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let help = help.trim_end_matches('.');
        assert!(row.is_some_and(|row| row.contains(help)), "{name}: {help}");
    }
    assert!(number > 30, "{number}");
    app.running.stop().await;
}
