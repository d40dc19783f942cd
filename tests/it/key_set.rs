//! `GET /.well-known/jwks.json`.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyround::clock::{Clock, Seconds};
use reqwest::header::{CACHE_CONTROL, ETAG, HeaderMap, IF_NONE_MATCH};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::helpers::{TestApp, TestDatabase};
use crate::raw::Connection;

const PATH: &str = "/.well-known/jwks.json";

async fn get(app: &TestApp) -> Response {
    app.http.get(format!("{}{PATH}", app.url)).send().await.unwrap()
}

async fn get_if_none_match(app: &TestApp, tags: &[&str]) -> Response {
    let mut request = app.http.get(format!("{}{PATH}", app.url));
    for tag in tags {
        request = request.header(IF_NONE_MATCH, *tag);
    }
    request.send().await.unwrap()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn decoded(key: &Value, member: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(key[member].as_str().unwrap()).unwrap()
}

fn members(key: &Value) -> BTreeSet<&str> {
    key.as_object().unwrap().keys().map(String::as_str).collect()
}

/// RFC 7638 section 3, written anew: the required members in the order of their names.
fn thumbprint(key: &Value) -> String {
    let members: &[&str] = match key["kty"].as_str().unwrap() {
        "RSA" => &["e", "kty", "n"],
        _ => &["crv", "kty", "x", "y"],
    };
    let text: Vec<String> = members
        .iter()
        .map(|member| format!("\"{member}\":\"{}\"", key[member].as_str().unwrap()))
        .collect();
    URL_SAFE_NO_PAD.encode(openssl::sha::sha256(format!("{{{}}}", text.join(",")).as_bytes()))
}

fn check_key(key: &Value) {
    match key["alg"].as_str().unwrap() {
        "RS256" => {
            assert_eq!(members(key), ["kty", "use", "alg", "kid", "n", "e"].into());
            assert_eq!(key["kty"], "RSA");
            assert_eq!(key["e"], "AQAB");
            let modulus = decoded(key, "n");
            assert_eq!(modulus.len(), 256);
            assert!(modulus[0] >= 0x80, "no leading zero octet, and all 2048 bits");
        }
        "ES256" => {
            assert_eq!(members(key), ["kty", "use", "alg", "kid", "crv", "x", "y"].into());
            assert_eq!((&key["kty"], &key["crv"]), (&json!("EC"), &json!("P-256")));
            assert_eq!((decoded(key, "x").len(), decoded(key, "y").len()), (32, 32));
        }
        other => panic!("a key with alg {other}"),
    }
    assert_eq!(key["use"], "sig");
    assert_eq!(key["kid"].as_str().unwrap(), thumbprint(key));
}

/// Public members alone, in the form of RFC 7517 section 4 and RFC 7518 section 6; RSA first, then by kid.
fn check_set(set: &Value) {
    assert_eq!(members(set), ["keys"].into());
    let keys = set["keys"].as_array().unwrap();
    keys.iter().for_each(check_key);
    let order: Vec<(bool, &str)> = keys
        .iter()
        .map(|key| (key["kty"] != "RSA", key["kid"].as_str().unwrap()))
        .collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    sorted.dedup_by(|a, b| a.1 == b.1);
    assert_eq!(order, sorted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_holds_public_keys_alone_at_every_moment_of_three_rotations() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("keys.rotation_period", "2d")]).await;
    let secret = app.create_client("billing", None).await;
    let mut kids = BTreeSet::new();
    let mut etags = BTreeSet::new();
    for _ in 0..28 {
        let answer = get(&app).await;
        // Constant, so that a cached copy never outlives what the windows assume; nothing stale is allowed.
        assert_eq!(header(answer.headers(), "cache-control"), "public, max-age=300");
        etags.insert(header(answer.headers(), "etag").to_owned());
        let set: Value = answer.json().await.unwrap();
        check_set(&set);
        let keys = set["keys"].as_array().unwrap();
        assert!((2..=6).contains(&keys.len()), "{} keys", keys.len());
        kids.extend(keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()));
        // A node signs with no key that is absent from its own set.
        let token = app.token("billing", &secret).await;
        let head: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap();
        assert!(keys.iter().any(|key| key["kid"] == head["kid"]));
        app.pass(Seconds(6 * 3_600), Seconds(3_600)).await;
    }
    // Three rotations of two algorithms; each key has a name of its own.
    assert_eq!(kids.len(), 8);
    assert!(etags.len() >= 4);
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_headers_suit_caches_and_pages_of_other_origins() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("keys.jwks_max_age", "2m")]).await;
    let answer = get(&app).await;
    assert_eq!(answer.status(), 200);
    let headers = answer.headers();
    assert_eq!(header(headers, "content-type"), "application/jwk-set+json");
    assert_eq!(header(headers, "cache-control"), "public, max-age=120");
    assert_eq!(header(headers, "access-control-allow-origin"), "*");
    assert!(headers.get("access-control-allow-credentials").is_none());
    assert!(headers.get("set-cookie").is_none());
    let etag = header(headers, "etag");
    assert!(
        etag.starts_with('"') && etag.ends_with('"') && etag.len() > 20,
        "{etag}"
    );
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_has_it_is_told_so() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let full = get(&app).await.headers().clone();
    let etag = header(&full, "etag");
    let weak = format!("W/{etag}");
    let listed = format!("\"other\", {etag} , W/\"third\"");
    for tags in [
        vec![etag],
        vec![weak.as_str()],
        vec![listed.as_str()],
        vec!["*"],
        vec!["\"other\"", etag],
    ] {
        let answer = get_if_none_match(&app, &tags).await;
        assert_eq!(answer.status(), 304, "{tags:?}");
        for name in ["etag", "cache-control", "access-control-allow-origin"] {
            assert_eq!(header(answer.headers(), name), header(&full, name), "{name}");
        }
        assert!(
            answer
                .headers()
                .get("content-length")
                .is_none_or(|length| length != "0")
        );
        assert!(answer.bytes().await.unwrap().is_empty());
    }
    for tags in ["\"other\"", "", "W/\"\"", etag.trim_matches('"'), "\u{fc}"] {
        let answer = get_if_none_match(&app, &[tags]).await;
        assert_eq!(answer.status(), 200, "{tags:?}");
        assert!(!answer.bytes().await.unwrap().is_empty());
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_has_the_headers_of_get_and_no_body() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let mut connection = Connection::open(&app.url);
    connection.send(format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let full = connection.answer().unwrap();
    connection.send(format!("HEAD {PATH} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let head = connection.head().unwrap();
    let without_date = |headers: &[(String, String)]| -> BTreeSet<(String, String)> {
        headers
            .iter()
            .filter(|(name, _)| name != "date" && name != "x-request-id")
            .cloned()
            .collect()
    };
    assert_eq!(without_date(&head.headers), without_date(&full.headers));
    assert_eq!(
        head.header("content-length"),
        Some(full.body.len().to_string().as_str())
    );
    // The next answer begins right behind the head: there was no body.
    let etag = full.header("etag").unwrap();
    connection.send(format!(
        "HEAD {PATH} HTTP/1.1\r\nHost: a\r\nIf-None-Match: {etag}\r\n\r\n"
    ));
    assert_eq!(connection.head().unwrap().status(), 304);
    connection.send(format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(connection.answer().unwrap().body, full.body);
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_and_1_1_get_the_same_document() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let document = get(&app).await.bytes().await.unwrap();
    for request in [
        format!("GET {PATH} HTTP/1.0\r\n\r\n"),
        format!("GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET http://elsewhere.example{PATH} HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let mut connection = Connection::open(&app.url);
        connection.send(&request);
        let answer = connection.answer().unwrap();
        assert_eq!(
            (answer.status(), answer.body.as_slice()),
            (200, &document[..]),
            "{request}"
        );
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_ask_for_leave_first() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let answer = app
        .http
        .request(Method::OPTIONS, format!("{}{PATH}", app.url))
        .header("origin", "https://page.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "if-none-match")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(header(answer.headers(), "access-control-allow-origin"), "*");
    assert_eq!(header(answer.headers(), "access-control-allow-methods"), "GET, HEAD");
    assert_eq!(
        header(answer.headers(), "access-control-allow-headers"),
        "If-None-Match"
    );
    assert!(answer.headers().get("access-control-allow-credentials").is_none());
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_the_request_changes_it_and_nothing_redirects() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let document = get(&app).await.bytes().await.unwrap();
    for query in [
        "?",
        "?kid=x",
        "?private=true&d=1",
        "?%00",
        "?format=pem",
        "?alg=none&use=enc",
    ] {
        let url = format!("{}{PATH}{query}", app.url);
        let answer = app
            .http
            .get(url)
            .header("host", "evil.example")
            .header("x-forwarded-host", "evil.example")
            .header("x-forwarded-proto", "https")
            .header("authorization", "Basic AAAA")
            .header("cookie", "session=1")
            .header("accept", "text/html")
            .header("accept-encoding", "gzip, br")
            .header("range", "bytes=0-9")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{query}");
        assert_eq!(answer.bytes().await.unwrap(), document, "{query}");
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_are_refused_and_refusals_are_not_cached() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECTX", "get"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = app.http.request(method.clone(), format!("{}{PATH}", app.url));
        let answer = request.body("x=1").send().await.unwrap();
        assert_eq!(answer.status(), 405, "{method}");
        assert_eq!(header(answer.headers(), "allow"), "GET, HEAD, OPTIONS");
        check_problem(answer, 405).await;
    }
    for path in [
        "/nothing",
        "/.well-known/jwks.json/",
        "//.well-known/jwks.json",
        "/.well-known/JWKS.json",
        "/jwks.json",
    ] {
        for method in [Method::GET, Method::POST, Method::OPTIONS, Method::TRACE] {
            let request = app.http.request(method, format!("{}{path}", app.url));
            check_problem(request.send().await.unwrap(), 404).await;
        }
    }
    app.running.stop().await;
}

async fn check_problem(answer: Response, status: u16) {
    assert_eq!(answer.status().as_u16(), status);
    assert_eq!(header(answer.headers(), "content-type"), "application/problem+json");
    assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
    assert!(answer.headers().get(ETAG).is_none());
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["status"], status);
    assert_eq!(
        members(&body),
        ["type", "title", "status", "code", "detail", "request_id"].into()
    );
}

crate::on_both_databases!(it_is_the_same_after_a_restart_and_changes_with_its_keys, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let first = (
        get(&app).await.headers()[ETAG].clone(),
        get(&app).await.bytes().await.unwrap(),
    );
    assert_eq!(get(&app).await.bytes().await.unwrap(), first.1);
    app.running.stop().await;
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let again = get(&app).await;
    assert_eq!((again.headers()[ETAG].clone(), again.bytes().await.unwrap()), first);
    crate::key_set::rotate(&app).await;
    app.running.server.rotation.tick().await.unwrap();
    let changed = get_if_none_match(&app, &[first.0.to_str().unwrap()]).await;
    assert_eq!(changed.status(), 200);
    assert_ne!(changed.headers()[ETAG], first.0);
    let set: Value = changed.json().await.unwrap();
    check_set(&set);
    assert_eq!(set["keys"].as_array().unwrap().len(), 3);
    app.running.stop().await;
});

/// Another key, as `keyround keys rotate` makes it in a process of its own.
async fn rotate(app: &TestApp) {
    let foundation = keyround::app::Foundation::open(&app.config, app.clock.clone())
        .await
        .unwrap();
    let alg = keyround::jose::alg::Algorithm::Es256;
    foundation.rotator.rotate(alg, "test", "test").await.unwrap();
    foundation.rotator.db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_serves_the_same_bytes() {
    let database = TestDatabase::postgres().await;
    let one = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let other = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    for round in 0..3 {
        let (a, b) = (get(&one).await, get(&other).await);
        assert_eq!(a.headers()[ETAG], b.headers()[ETAG], "round {round}");
        let bytes = a.bytes().await.unwrap();
        assert_eq!(bytes, b.bytes().await.unwrap());
        assert_eq!(bytes.len(), bytes.trim_ascii().len());
        rotate(&one).await;
        one.running.server.rotation.tick().await.unwrap();
        other.running.server.rotation.tick().await.unwrap();
    }
    one.running.stop().await;
    other.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_served_while_the_database_is_away() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let document = get(&app).await.bytes().await.unwrap();
    app.running.server.db.close().await;
    let answer = get(&app).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.bytes().await.unwrap(), document);
    app.running.stop().await;
}
