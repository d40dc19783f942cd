//! `POST /oauth2/token`: what is refused, and how (RFC 6749 section 5.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyround::oauth::client::Client;
use keyround::store::clients::ClientChange;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase};
use crate::token::{change, client, register};

const FORM: &str = "application/x-www-form-urlencoded";
const GRANT: &str = "grant_type=client_credentials";

/// What nobody may find in an answer again.
const CANARY: &str = "canary7c1f";

fn post(app: &TestApp, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    let request = app.http.post(format!("{}/oauth2/token", app.url));
    request.header("content-type", content_type).body(body)
}

/// Holds a refusal against RFC 6749 section 5.2; answers with its headers and its body.
async fn check(answer: Response, status: u16, code: &str, what: &str) -> (HeaderMap, String) {
    let headers = answer.headers().clone();
    assert_eq!(answer.status().as_u16(), status, "{what}");
    assert_eq!(headers["content-type"], "application/json", "{what}");
    assert_eq!(headers["cache-control"], "no-store", "{what}");
    assert_eq!(headers["pragma"], "no-cache", "{what}");
    assert!(headers.get("set-cookie").is_none(), "{what}");
    let text = answer.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap();
    let body = body.as_object().unwrap();
    let mut names: Vec<&String> = body.keys().collect();
    names.sort();
    assert_eq!(names, ["error", "error_description"], "{what}");
    assert_eq!(body["error"], code, "{what}: {text}");
    let description = body["error_description"].as_str().unwrap();
    // RFC 6749 section 5.2: %x20-21 / %x23-5B / %x5D-7E.
    let allowed = |octet: u8| matches!(octet, 0x20..=0x21 | 0x23..=0x5B | 0x5D..=0x7E);
    assert!(
        !description.is_empty() && description.bytes().all(allowed),
        "{what}: {description}"
    );
    assert!(!format!("{headers:?}{text}").contains(CANARY), "{what}: {text}");
    (headers, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_have_one_answer_each() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_client("billing", None).await;
    let proved = format!("client_id=billing&client_secret={secret}");
    let c = CANARY;
    let table: Vec<(String, u16, &str)> = vec![
        (String::new(), 401, "invalid_client"),
        (proved.clone(), 400, "invalid_request"),
        (format!("{proved}&grant_type="), 400, "invalid_request"),
        (format!("{proved}&{GRANT}&{GRANT}"), 400, "invalid_request"),
        (format!("{proved}&grant_type={c}"), 400, "unsupported_grant_type"),
        (
            format!("{proved}&grant_type=password&username=a&password={c}"),
            400,
            "unsupported_grant_type",
        ),
        (
            format!("{proved}&grant_type=refresh_token&refresh_token={c}"),
            400,
            "invalid_grant",
        ),
        (
            format!("{proved}&grant_type=Client_Credentials"),
            400,
            "unsupported_grant_type",
        ),
        (format!("{proved}&{GRANT}&client_id=billing"), 400, "invalid_request"),
        (
            format!("{proved}&{GRANT}&client_secret={secret}"),
            400,
            "invalid_request",
        ),
        (
            format!("{proved}&{GRANT}&scope=read&scope=write"),
            400,
            "invalid_request",
        ),
        (format!("{proved}&{GRANT}&scope={c}"), 400, "invalid_scope"),
        (format!("{proved}&{GRANT}&scope=%22{c}"), 400, "invalid_scope"),
        (
            format!("{proved}&{GRANT}&resource=https://{c}.example"),
            400,
            "invalid_target",
        ),
        (format!("{proved}&{GRANT}&audience={c}"), 400, "invalid_target"),
        (format!("{proved}&{GRANT}&x={c}%00"), 400, "invalid_request"),
        (format!("{proved}&{GRANT}&x{c}%FF=1"), 400, "invalid_request"),
        (format!("{proved}&{GRANT}&scope=%C3%28"), 400, "invalid_request"),
        (GRANT.to_owned(), 401, "invalid_client"),
        (format!("{GRANT}&client_id=billing"), 401, "invalid_client"),
        (format!("{GRANT}&client_secret={secret}"), 401, "invalid_client"),
        (
            format!("{GRANT}&client_id=billing&client_secret="),
            401,
            "invalid_client",
        ),
        (
            format!("{GRANT}&client_id=billing&client_secret={c}"),
            401,
            "invalid_client",
        ),
        (
            format!("{GRANT}&client_id={c}&client_secret={secret}"),
            401,
            "invalid_client",
        ),
        (
            format!("{GRANT}&client_id=%0d%0a{c}&client_secret={c}"),
            401,
            "invalid_client",
        ),
        (
            format!("{GRANT}&client_id=billing%20&client_secret={secret}"),
            401,
            "invalid_client",
        ),
        (
            format!("{GRANT}&client_id=BILLING&client_secret={secret}"),
            401,
            "invalid_client",
        ),
        (
            format!("{GRANT}&client_id=' OR 1=1--&client_secret={secret}"),
            401,
            "invalid_client",
        ),
        (
            format!(r#"{{"grant_type":"client_credentials","{c}":1}}"#),
            401,
            "invalid_client",
        ),
    ];
    for (body, status, code) in table {
        let answer = post(&app, FORM, body.clone()).send().await.unwrap();
        check(answer, status, code, &body).await;
    }
    let raw: [&[u8]; 3] = [b"\xff\xfe\x00", b"grant_type=\xff", b"\x00"];
    for body in raw {
        let answer = post(&app, FORM, body).send().await.unwrap();
        check(answer, 400, "invalid_request", &format!("{body:?}")).await;
    }
    // And in between nothing broke.
    assert_eq!(
        post(&app, FORM, format!("{proved}&{GRANT}&unknown={c}"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_form_of_at_most_16_kib_by_post_is_read() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_client("billing", None).await;
    let body = format!("{GRANT}&client_id=billing&client_secret={secret}");
    for content_type in [
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencodedx",
        "application/x-www-form-urlencoded, text/plain",
        ";",
        "",
        "/",
        "\u{fc}",
        "application/x-www-form-urlencoded\u{fc}",
    ] {
        let answer = post(&app, content_type, body.clone()).send().await.unwrap();
        check(answer, 415, "invalid_request", content_type).await;
    }
    let endpoint = format!("{}/oauth2/token", app.url);
    let none = app.http.post(&endpoint).body(body.clone()).send().await.unwrap();
    check(none, 415, "invalid_request", "no content type").await;
    let json = post(&app, "application/json", body.clone()).send().await.unwrap();
    let json: serde_json::Value = json.json().await.unwrap();
    assert_eq!(
        json["error_description"],
        "Content-Type is application/json; the body is to be a form, with Content-Type: application/x-www-form-urlencoded"
    );

    // `curl --data-binary @form` sends the line end of the file too.
    for end in ["\n", "\r\n", "%0A"] {
        let answer = post(&app, FORM, format!("{body}{end}")).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{end:?}");
        let refusal: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(
            refusal["error_description"],
            "the value of client_secret ends with a line break, as one from a file does; send it without"
        );
    }
    let fill = |length: usize| format!("{body}&x={}", "x".repeat(length - body.len() - 3));
    let longest = post(&app, FORM, fill(16 * 1024)).send().await.unwrap();
    assert_eq!(longest.status(), 200);
    for length in [16 * 1024 + 1, 200_000] {
        let answer = post(&app, FORM, fill(length)).send().await.unwrap();
        check(answer, 413, "invalid_request", "too long").await;
    }
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "post"] {
        let request = app
            .http
            .request(Method::from_bytes(method.as_bytes()).unwrap(), &endpoint);
        let answer = request
            .header("content-type", FORM)
            .body(body.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.headers()["allow"], "POST, OPTIONS");
        if method == "HEAD" {
            assert_eq!(answer.status(), 405);
        } else {
            check(answer, 405, "invalid_request", method).await;
        }
    }
    // RFC 9110 section 9.3.7.
    for path in [
        "/oauth2/token",
        "/oauth2/introspect",
        "/oauth2/revoke",
        "/",
        "/.well-known/jwks.json",
        "/livez",
        "/metrics",
    ] {
        let (base, allow) = match path {
            "/livez" | "/metrics" => (&app.admin_url, "GET, OPTIONS"),
            path if path.starts_with("/oauth2") => (&app.url, "POST, OPTIONS"),
            _ => (&app.url, "GET, HEAD, OPTIONS"),
        };
        let request = app.http.request(Method::OPTIONS, format!("{base}{path}"));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 204, "{path}");
        assert_eq!(answer.headers()["allow"], allow, "{path}");
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_once_and_never_in_a_query_or_a_cookie() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_client("billing", None).await;
    let endpoint = format!("{}/oauth2/token", app.url);
    let proved = format!("client_id=billing&client_secret={secret}");

    let both = post(&app, FORM, format!("{GRANT}&{proved}")).basic_auth("billing", Some(&secret));
    check(both.send().await.unwrap(), 400, "invalid_request", "two methods").await;
    let differing = post(&app, FORM, format!("{GRANT}&client_id=other")).basic_auth("billing", Some(&secret));
    check(differing.send().await.unwrap(), 400, "invalid_request", "two names").await;
    let twice = post(&app, FORM, GRANT)
        .basic_auth("billing", Some(&secret))
        .header("authorization", "Basic AAAA");
    check(twice.send().await.unwrap(), 400, "invalid_request", "two headers").await;
    // RFC 6749 section 3.2.1 lets the id stand in the body as well.
    let same = post(&app, FORM, format!("{GRANT}&client_id=billing")).basic_auth("billing", Some(&secret));
    assert_eq!(same.send().await.unwrap().status(), 200);

    for (query, body, code) in [
        (format!("?{GRANT}&{proved}"), "x=1", "invalid_client"),
        (format!("?{proved}"), GRANT, "invalid_client"),
    ] {
        let request = app
            .http
            .post(format!("{endpoint}{query}"))
            .header("content-type", FORM)
            .body(body);
        check(request.send().await.unwrap(), 401, code, &query).await;
    }
    let query = format!("?scope={CANARY}&grant_type=password&resource=x&client_id=other&alg=none");
    let request = app
        .http
        .post(format!("{endpoint}{query}"))
        .basic_auth("billing", Some(&secret));
    assert_eq!(
        request
            .header("content-type", FORM)
            .body(GRANT)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );

    let cookie = format!("client_id=billing; client_secret={secret}; session=1");
    let request = post(&app, FORM, GRANT).header("cookie", cookie);
    check(request.send().await.unwrap(), 401, "invalid_client", "a cookie").await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_authorization_header_is_challenged() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_client("billing", None).await;
    let encode = |text: &[u8]| format!("Basic {}", STANDARD.encode(text));
    for value in [
        "Basic".to_owned(),
        "Basic ".to_owned(),
        format!("Basic {CANARY}!"),
        format!("Bearer {CANARY}"),
        format!("Digest username={CANARY}"),
        String::new(),
        encode(CANARY.as_bytes()),
        encode(b":"),
        encode(b"billing:"),
        encode(format!(":{secret}").as_bytes()),
        encode(b"\xff:\xff"),
        encode(b"billing\x00:x"),
        encode(format!("billing:{secret}x").as_bytes()),
        encode(format!("billing:{secret}:x").as_bytes()),
        encode(format!("billing:{secret}&x").as_bytes()),
        encode(format!("%62illing:%zz{secret}").as_bytes()),
        format!("Basic billing:{secret}"),
        "\u{fc}".to_owned(),
    ] {
        let answer = post(&app, FORM, GRANT)
            .header("authorization", &value)
            .send()
            .await
            .unwrap();
        let (headers, _) = check(answer, 401, "invalid_client", &value).await;
        assert_eq!(
            headers["www-authenticate"],
            r#"Basic realm="keyround", charset="UTF-8""#
        );
    }
    app.running.stop().await;
}

/// Whoever guesses learns nothing, whatever is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_wrong_disabled_and_deleted_look_the_same() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let right = app.create_client("billing", None).await;
    let disabled = app.create_client("disabled", None).await;
    let deleted = app.create_client("deleted", None).await;
    for (id, secret) in [("disabled", &disabled), ("deleted", &deleted)] {
        assert_eq!(
            app.ask(id, secret, &[("grant_type", "client_credentials")])
                .await
                .status(),
            200
        );
    }
    change(&app, "disabled", ClientChange::Disable).await;
    change(&app, "deleted", ClientChange::Delete).await;
    let wrong = format!("{}x", &right[..right.len() - 1]);
    let cases = [
        ("unknown", right.as_str()),
        ("billing", wrong.as_str()),
        ("billing", ""),
        ("billing", disabled.as_str()),
        ("disabled", disabled.as_str()),
        ("deleted", deleted.as_str()),
        ("not a client id", "x"),
    ];
    let mut answers = Vec::new();
    for (id, secret) in cases {
        let by_header = app.ask(id, secret, &[("grant_type", "client_credentials")]).await;
        let (mut headers, body) = check(by_header, 401, "invalid_client", id).await;
        headers.remove("date");
        headers.remove("x-request-id");
        assert!(headers.contains_key("www-authenticate"));
        // The map has no order of its own.
        let mut headers: Vec<String> = headers.iter().map(|header| format!("{header:?}")).collect();
        headers.sort_unstable();
        answers.push((headers, body));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:#?}");
    for (id, secret) in cases.into_iter().filter(|(_, secret)| !secret.is_empty()) {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
        ];
        let by_body = app
            .http
            .post(format!("{}/oauth2/token", app.url))
            .form(&form)
            .send()
            .await
            .unwrap();
        let (headers, body) = check(by_body, 401, "invalid_client", id).await;
        assert!(
            !headers.contains_key("www-authenticate"),
            "a challenge is for those who used Basic"
        );
        assert_eq!(body, answers[0].1);
    }
    change(&app, "disabled", ClientChange::Enable).await;
    assert_eq!(
        app.ask("disabled", &disabled, &[("grant_type", "client_credentials")])
            .await
            .status(),
        200
    );
    app.running.stop().await;
}

/// RFC 6749 section 5.2: `unauthorized_client`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_the_grant_is_told_so() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let without = Client {
        grants: Vec::new(),
        ..client("without")
    };
    let secret = register(&app, &without).await;
    let answer = app
        .ask("without", &secret, &[("grant_type", "client_credentials")])
        .await;
    check(answer, 400, "unauthorized_client", "without").await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_no_fault_of_the_client() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_client("billing", None).await;
    app.running.server.db.close().await;
    let answer = app
        .ask("billing", &secret, &[("grant_type", "client_credentials")])
        .await;
    let (headers, _) = check(answer, 503, "temporarily_unavailable", "database").await;
    assert_eq!(headers["retry-after"], "5");
    app.running.stop().await;
}
