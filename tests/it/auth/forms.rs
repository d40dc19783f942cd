//! The form of requests: media types, sizes, methods, and where the endpoints lie.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::helpers::TestDatabase;
use crate::raw::Connection;

use super::visitor::{PASSWORD, Site, email, refused, told};

/// Every endpoint that changes something, with the methods that it knows.
const POSTS: [&str; 6] = [
    "/auth/register",
    "/auth/login",
    "/auth/refresh",
    "/auth/logout",
    "/auth/logout-all",
    "/auth/password",
];
const GETS: [&str; 3] = ["/auth/me", "/auth/sessions", "/auth/csrf"];

// A page of another site can send a form without asking first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_form_could_send_is_refused_as_no_json() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    let mut ada = site.person("ada").await;
    let csrf = ada.csrf().await;
    let body = json!({ "email": email("ada"), "password": PASSWORD, "name": "Ada" }).to_string();
    for path in POSTS {
        for kind in [
            "text/plain",
            "text/plain;application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=a",
            "application/jsonp",
            "",
        ] {
            let request = ada
                .with_cookies(Method::POST, path)
                .bearer_auth(&ada.access_token)
                .header("X-CSRF-Token", &csrf)
                .header("Content-Type", kind)
                .body(body.clone());
            let answer = told(request.send().await.unwrap()).await;
            assert_eq!(answer, refused(415, "unsupported_media_type"), "{path} as '{kind}'");
        }
        let untyped = ada
            .with_cookies(Method::POST, path)
            .bearer_auth(&ada.access_token)
            .header("X-CSRF-Token", &csrf)
            .body(body.clone());
        let answer = told(untyped.send().await.unwrap()).await;
        assert_eq!(answer, refused(415, "unsupported_media_type"), "{path} without a type");
    }
    assert_eq!(ada.me().await.0, 200);
    // Parameters and letters of any case are no matter.
    let login = json!({ "email": email("ada"), "password": PASSWORD, "token_delivery": "body" }).to_string();
    for kind in [
        "application/json; charset=utf-8",
        "Application/JSON",
        " application/json ;a=b",
    ] {
        let request = ada.bare(Method::POST, "/auth/login").header("Content-Type", kind);
        assert_eq!(
            request.body(login.clone()).send().await.unwrap().status(),
            200,
            "{kind}"
        );
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_has_four_kilobytes() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    let ada = site.person("ada").await;
    let padded = |length: usize| {
        let body = json!({ "email": email("ada"), "password": PASSWORD, "token_delivery": "body" }).to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    for (length, expected) in [(4_096, 200), (4_097, 413), (1_000_000, 413)] {
        let request = ada
            .bare(Method::POST, "/auth/login")
            .header("Content-Type", "application/json")
            .body(padded(length));
        assert_eq!(request.send().await.unwrap().status(), expected, "{length} bytes");
    }
    for path in POSTS {
        let request = ada
            .bearer(Method::POST, path)
            .header("Content-Type", "application/json")
            .body(padded(5_000));
        let answer = told(request.send().await.unwrap()).await;
        assert_eq!(answer, refused(413, "body_too_large"), "{path}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    let url = site.app.url.clone();
    let answer = tokio::task::spawn_blocking(move || {
        let mut connection = Connection::open(&url);
        connection.send(
            "POST /auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
        );
        connection.answer()
    });
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.status(), 408);
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["code"], "body_timeout");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_body_is_refused_and_nothing_of_it_is_repeated() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    let ada = site.person("ada").await;
    let secret = "xyzzy-never-shown-41";
    for path in POSTS {
        for body in [
            String::new(),
            "{".to_owned(),
            "[]".to_owned(),
            format!(r#""{secret}""#),
            format!(r#"{{"password":["{secret}"],"email":["{secret}"],"refresh_token":["{secret}"]}}"#),
            format!(r#"{{"{secret}":1}}"#),
            r#"{"neverrepeated":1,"never_repeated":2}"#.to_owned(),
            format!(r#"{{"email":"a@example.com","password":"{secret}","password":"{secret}"}}"#),
            format!(r#"{{"token_delivery":"{secret}"}}"#),
        ] {
            // Without a body a bearer token alone logs out, which is right.
            if body.is_empty() && path.contains("logout") {
                continue;
            }
            let request = ada
                .bearer(Method::POST, path)
                .header("Content-Type", "application/json")
                .body(body.clone());
            let answer = request.send().await.unwrap();
            let status = answer.status();
            let text = answer.text().await.unwrap();
            let expected = if body.is_empty() && path == "/auth/refresh" {
                401
            } else {
                400
            };
            assert_eq!(status, expected, "{path} {body}: {text}");
            assert!(!text.contains(secret) && !text.contains("repeated"), "{path}: {text}");
            let problem: Value = serde_json::from_str(&text).unwrap();
            assert!(problem["detail"].as_str().unwrap().len() > 10, "{problem}");
        }
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_a_body_is_named_at_every_endpoint() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    let ada = site.person("ada").await;
    let detail = async |path: &str, content_type: Option<&str>, body: &str| {
        let mut request = ada.bearer(Method::POST, path).body(body.to_owned());
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
        let problem: Value = answer.json().await.unwrap();
        format!(
            "{} {}",
            problem["code"].as_str().unwrap(),
            problem["detail"].as_str().unwrap()
        )
    };
    for (path, body, expected) in [
        (
            "login",
            r#"{"email":"a@example.com"}"#,
            "password is missing; the body is to be {",
        ),
        (
            "login",
            r#"{"username":"a","password":"b"}"#,
            "username is unknown (did you mean email?), email is missing",
        ),
        (
            "login",
            r#"{"email":"a","password":"b","token_delivery":"header"}"#,
            "token_delivery is neither cookie nor body",
        ),
        (
            "login",
            r#"{"email":"a","password":"b","token_delivery":{"body":null}}"#,
            "token_delivery is an object and not a string",
        ),
        (
            "register",
            r#"{"email":"a","password":"b","name":"A","token_delivery":{"body":null}}"#,
            "token_delivery is an object and not a string",
        ),
        (
            "refresh",
            r#"{"token_delivery":{"cookie":null}}"#,
            "token_delivery is an object and not a string",
        ),
        (
            "register",
            r#"{"email":"a@example.com","password":"b"}"#,
            "name is missing",
        ),
        (
            "register",
            r#"{"email":7,"password":"b","name":null}"#,
            "email is a number and not a string, name is null and not a string",
        ),
        (
            "register",
            r#"{"email":"a","password":"b","name":"A","role":"admin"}"#,
            "member 4 is unknown",
        ),
        (
            "password",
            r#"{"old_password":"a","new_password":"b"}"#,
            "old_password is unknown (did you mean current_password?)",
        ),
        (
            "password",
            r#"{"current_password":"a","new_password":"b","new_password":"c"}"#,
            "new_password occurs twice",
        ),
        (
            "refresh",
            r#"{"token":"a"}"#,
            "token is unknown (did you mean refresh_token?)",
        ),
        (
            "refresh",
            r#"{"refresh_token":["a"]}"#,
            "refresh_token is a list and not a string",
        ),
        (
            "logout",
            r#"{"refresh_token":1}"#,
            "refresh_token is a number and not a string",
        ),
        (
            "logout-all",
            r#"{"everywhere":true}"#,
            "member 1 is unknown; the body is to be empty, or {}",
        ),
        (
            "login",
            "email=a&password=b",
            "the body is not JSON: a value is expected (column 1); it looks like a form (name=value)",
        ),
        ("login", "[]", "the body is a list and not an object"),
        (
            "login",
            r#"{"email":"a","password":"b",}"#,
            "the body is not JSON: a comma is followed by no member (column 29)",
        ),
    ] {
        let said = detail(&format!("/auth/{path}"), Some("application/json"), body).await;
        assert!(
            said.starts_with(&format!("invalid_request {expected}")),
            "{path} {body}: {said}"
        );
    }
    let cure = "; the body is to be JSON, with Content-Type: application/json";
    for (content_type, fault) in [
        (
            Some("application/x-www-form-urlencoded"),
            "Content-Type is application/x-www-form-urlencoded",
        ),
        (Some("TEXT/plain; charset=utf-8"), "Content-Type is text/plain"),
        (Some("application/xyzzy"), "Content-Type is application/xyzzy"),
        (Some("json"), "Content-Type is no media type"),
        (None, "there is no Content-Type"),
    ] {
        let said = detail("/auth/login", content_type, r#"{"email":"a","password":"b"}"#).await;
        assert_eq!(said, format!("unsupported_media_type {fault}{cure}"));
    }
    let said = detail("/auth/login", Some("application/json"), &" ".repeat(4_097)).await;
    assert!(
        said.starts_with("body_too_large the body is longer than 4 KB (4096 octets)"),
        "{said}"
    );
    site.stop().await;
}

/// A request whose body is compressed, announced or not; gzip of Python's for an empty object.
const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_body_is_refused_by_its_coding() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    for (path, kind) in [
        ("/auth/login", "application/json"),
        ("/oauth2/token", "application/x-www-form-urlencoded"),
    ] {
        for (coding, body, fault) in [
            (Some("gzip"), GZIP, "Content-Encoding is gzip"),
            (Some("identity, GZip"), GZIP, "Content-Encoding is gzip"),
            (Some("swordfish"), b"{}", "Content-Encoding is another one"),
            (None, GZIP, "the body is compressed by gzip"),
            (
                Some("identity"),
                b"\x28\xb5\x2f\xfd\x04",
                "the body is compressed by Zstandard",
            ),
        ] {
            let url = format!("{}{path}", site.app.url);
            let mut request = site.app.http.post(url).header("Content-Type", kind).body(body.to_vec());
            if let Some(coding) = coding {
                request = request.header("Content-Encoding", coding);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 415, "{path} {coding:?}");
            assert_eq!(answer.headers()["accept-encoding"], "identity");
            let answer: Value = answer.json().await.unwrap();
            let said = answer["detail"]
                .as_str()
                .or(answer["error_description"].as_str())
                .unwrap();
            assert!(
                said.starts_with(fault) && said.contains("compressed bodies are not accepted"),
                "{path} {coding:?}: {said}"
            );
        }
    }
    // Only a refusal of the coding has the header: another type is refused because of the type.
    let login = site.visitor().json(Method::POST, "/auth/login", &json!({}));
    for request in [
        login.header("Content-Encoding", "identity"),
        site.app.http.post(format!("{}/oauth2/token", site.app.url)).body("{}"),
    ] {
        let answer = request.send().await.unwrap();
        assert!(answer.status() == 400 || answer.status() == 415);
        assert!(!answer.headers().contains_key("accept-encoding"));
    }
    site.stop().await;
}

// Addresses are written to logs and histories.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_in_the_address_is_no_password() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    site.register("ada").await;
    let path = format!(
        "/auth/login?email={}&password={}&token_delivery=body",
        email("ada"),
        PASSWORD.replace(' ', "+")
    );
    let request = site.visitor().json(Method::POST, &path, &json!({}));
    assert_eq!(
        told(request.send().await.unwrap()).await,
        refused(400, "invalid_request")
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_endpoint_knows_its_methods_and_says_which() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    let visitor = site.visitor();
    let delete = ["/auth/sessions/019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b"];
    let table = POSTS
        .iter()
        .map(|path| (*path, "POST"))
        .chain(GETS.iter().map(|path| (*path, "GET, HEAD")))
        .chain(delete.iter().map(|path| (*path, "DELETE")));
    for (path, allow) in table {
        let known: BTreeSet<&str> = allow.split(", ").collect();
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY"] {
            let answer = visitor.bare(method.parse().unwrap(), path).send().await.unwrap();
            let status = answer.status();
            if known.contains(method) {
                assert_ne!(status, 405, "{method} {path}");
                continue;
            }
            assert_eq!(status, 405, "{method} {path}");
            assert_eq!(
                answer.headers()["allow"],
                format!("{allow}, OPTIONS"),
                "{method} {path}"
            );
            if method != "HEAD" {
                assert_eq!(
                    told(answer).await,
                    refused(405, "method_not_allowed"),
                    "{method} {path}"
                );
            }
        }
    }
    // Gateways ask with the method of the request that they hold back.
    let ada = site.person("ada").await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = ada
            .bearer(method.parse().unwrap(), "/auth/verify/default")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{method}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoints_lie_below_the_issuers_path_and_can_be_switched_off() {
    let settings = [("server.issuer", "http://127.0.0.1:8080/tenants/acme")];
    let site = Site::start(TestDatabase::sqlite(), &settings).await;
    let visitor = site.visitor();
    for path in GETS {
        let at = |path: &str| visitor.bare(Method::GET, path).send();
        assert_eq!(at(path).await.unwrap().status(), 404, "{path}");
        assert_ne!(
            at(&format!("/tenants/acme{path}")).await.unwrap().status(),
            404,
            "{path}"
        );
    }
    site.stop().await;

    let site = Site::start(TestDatabase::sqlite(), &[("accounts.enabled", "false")]).await;
    let visitor = site.visitor();
    for path in POSTS {
        assert_eq!(
            visitor.bare(Method::POST, path).send().await.unwrap().status(),
            404,
            "{path}"
        );
    }
    for path in GETS.iter().chain(&["/auth/verify/default"]) {
        assert_eq!(
            visitor.bare(Method::GET, path).send().await.unwrap().status(),
            404,
            "{path}"
        );
    }
    site.stop().await;
}
