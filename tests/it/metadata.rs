//! The metadata documents (RFC 8414; OpenID Connect Discovery 1.0).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helpers::{TestApp, TestDatabase};
use crate::sessions::world::{create_user, log_in};

const NAMES: [&str; 2] = [
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
];

async fn document(app: &TestApp, path: &str) -> Value {
    let answer = app.http.get(format!("{}{path}", app.url)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["cache-control"], "public, max-age=300");
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert!(answer.headers().get("access-control-allow-credentials").is_none());
    answer.json().await.unwrap()
}

/// The path of an advertised URL, where this server really serves it.
fn served(app: &TestApp, url: &Value, issuer_origin: &str) -> String {
    let path = url.as_str().unwrap().strip_prefix(issuer_origin).unwrap();
    format!("{}{path}", app.url)
}

async fn check_that_everything_exists(app: &TestApp, document: &Value, issuer: &str) {
    let origin = "http://127.0.0.1:8080";
    assert_eq!(document["issuer"], issuer);
    let names: BTreeSet<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
    // A member that is not in this list is a promise without a test.
    let promised = [
        "issuer",
        "jwks_uri",
        "token_endpoint",
        "token_endpoint_auth_methods_supported",
        "token_endpoint_auth_signing_alg_values_supported",
        "introspection_endpoint",
        "introspection_endpoint_auth_methods_supported",
        "introspection_endpoint_auth_signing_alg_values_supported",
        "revocation_endpoint",
        "revocation_endpoint_auth_methods_supported",
        "revocation_endpoint_auth_signing_alg_values_supported",
        "grant_types_supported",
        "response_types_supported",
        "subject_types_supported",
        "id_token_signing_alg_values_supported",
        // The tests of `oidc` hold these to what is done.
        "authorization_endpoint",
        "userinfo_endpoint",
        "end_session_endpoint",
        "response_modes_supported",
        "authorization_response_iss_parameter_supported",
        "code_challenge_methods_supported",
        "scopes_supported",
        "claims_supported",
        "claims_parameter_supported",
        "acr_values_supported",
        "request_parameter_supported",
        "request_uri_parameter_supported",
        "prompt_values_supported",
        "ui_locales_supported",
    ];
    assert_eq!(names, promised.into());
    assert_eq!(document["response_types_supported"], json!(["code"]));
    for (name, value) in document.as_object().unwrap() {
        let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value == "";
        assert!(!is_empty, "RFC 8414 section 3.2: {name} is to be left out");
    }
    assert_eq!(document["subject_types_supported"], json!(["public"]));
    assert_eq!(
        document["id_token_signing_alg_values_supported"],
        json!(["RS256", "ES256"])
    );

    let set = app
        .http
        .get(served(app, &document["jwks_uri"], origin))
        .send()
        .await
        .unwrap();
    assert_eq!(set.status(), 200);
    let set: Value = set.json().await.unwrap();
    for alg in document["id_token_signing_alg_values_supported"].as_array().unwrap() {
        assert!(set["keys"].as_array().unwrap().iter().any(|key| key["alg"] == *alg));
    }

    let endpoint = served(app, &document["token_endpoint"], origin);
    let secret = app.create_client("reader-of-metadata", None).await;
    let user = create_user(app, "reader").await;
    let refresh_token = log_in(app, &user).await.unwrap().refresh_token;
    let grants = document["grant_types_supported"].as_array().unwrap();
    assert_eq!(
        *grants,
        json!(["client_credentials", "authorization_code", "refresh_token"])
            .as_array()
            .unwrap()
            .clone()
    );
    // A code needs a person: `oidc::flow` has one.
    for grant in grants.iter().filter(|grant| **grant != "authorization_code") {
        for method in document["token_endpoint_auth_methods_supported"].as_array().unwrap() {
            let mut form = vec![("grant_type", grant.as_str().unwrap())];
            let mut request = app.http.post(&endpoint);
            match method.as_str().unwrap() {
                // A service has a secret, and people's own client has none.
                method if (method == "none") != (grant == "refresh_token") => continue,
                "none" => form.extend([("client_id", "first-party"), ("refresh_token", refresh_token.as_str())]),
                "client_secret_basic" => request = request.basic_auth("reader-of-metadata", Some(&secret)),
                "client_secret_post" => {
                    form.extend([("client_id", "reader-of-metadata"), ("client_secret", secret.as_str())]);
                }
                // Shown by the tests of client assertions, with these algorithms.
                "private_key_jwt" => {
                    let algorithms = &document["token_endpoint_auth_signing_alg_values_supported"];
                    assert_eq!(*algorithms, json!(["RS256", "ES256"]));
                    continue;
                }
                other => panic!("{other} is promised"),
            }
            let answer = request.form(&form).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{grant} {method}");
            let token: Value = answer.json().await.unwrap();
            let claims = crate::token::claims(token["access_token"].as_str().unwrap());
            assert_eq!(claims["iss"], document["issuer"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_documents_say_what_exists_and_nothing_else() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let first = document(&app, NAMES[0]).await;
    assert_eq!(first, document(&app, NAMES[1]).await);
    check_that_everything_exists(&app, &first, "http://127.0.0.1:8080").await;
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_accounts_nobody_is_sent_to_log_in() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("accounts.enabled", "false")]).await;
    let document = document(&app, NAMES[0]).await;
    assert_eq!(document["response_types_supported"], json!(["none"]));
    assert_eq!(document["grant_types_supported"], json!(["client_credentials"]));
    for member in [
        "authorization_endpoint",
        "userinfo_endpoint",
        "end_session_endpoint",
        "scopes_supported",
    ] {
        assert_eq!(document.get(member), None, "{member}");
    }
    for path in ["/oauth2/authorize", "/oauth2/userinfo", "/oauth2/logout"] {
        let answer = app.http.get(format!("{}{path}", app.url)).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_with_a_path_is_found_in_every_form() {
    let issuer = "http://127.0.0.1:8080/tenant";
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("server.issuer", issuer)]).await;
    let first = document(&app, "/tenant/.well-known/openid-configuration").await;
    for path in [
        "/tenant/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/tenant",
        "/.well-known/openid-configuration/tenant",
    ] {
        assert_eq!(document(&app, path).await, first, "{path}");
    }
    check_that_everything_exists(&app, &first, issuer).await;
    // The key set stands at the root too, for gateways that are given the host alone; both are the same bytes.
    let mut sets = Vec::new();
    for path in ["/.well-known/jwks.json", "/tenant/.well-known/jwks.json"] {
        let answer = app.http.get(format!("{}{path}", app.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        sets.push(answer.bytes().await.unwrap());
    }
    assert_eq!(sets[0], sets[1]);
    // Another issuer's names are not ours, and a reader that tries them in turn stops at anything but 404.
    for path in [
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration/other",
        "/.well-known/oauth-authorization-server/other",
        "/.well-known/oauth-authorization-server/tenant/more",
        "/.well-known/oauth-authorization-server/tenant/",
        "/other/.well-known/openid-configuration",
        "/.well-known/jwks.json/tenant",
        "/oauth2/token",
    ] {
        let answer = app.http.get(format!("{}{path}", app.url)).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_without_a_path_has_no_inserted_forms() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    for name in NAMES {
        for inserted in ["/tenant", "/", "/.."] {
            let mut connection = crate::raw::Connection::open(&app.url);
            connection.send(format!("GET {name}{inserted} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(connection.answer().unwrap().status(), 404, "{name}{inserted}");
        }
    }
    app.running.stop().await;
}

/// Issuer and addresses come from the settings alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_request_says_of_hosts_changes_nothing() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[("server.trusted_proxies", "127.0.0.1")]).await;
    let secret = app.create_client("billing", None).await;
    for name in NAMES {
        let plain = app.http.get(format!("{}{name}", app.url)).send().await.unwrap();
        let plain = plain.bytes().await.unwrap();
        let mut connection = crate::raw::Connection::open(&app.url);
        connection.send(format!(
            "GET http://evil.example{name} HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\nForwarded: host=evil.example;proto=https\r\n\
             X-Original-URL: /evil\r\nX-Rewrite-URL: /evil\r\n\r\n"
        ));
        assert_eq!(connection.answer().unwrap().body, plain);
    }
    let answer = app
        .http
        .post(format!("{}/oauth2/token", app.url))
        .header("host", "evil.example")
        .header("x-forwarded-host", "evil.example")
        .header("forwarded", "host=evil.example;proto=https")
        .basic_auth("billing", Some(&secret))
        .form(&[("grant_type", "client_credentials")])
        .send()
        .await
        .unwrap();
    let token: Value = answer.json().await.unwrap();
    let claims = crate::token::claims(token["access_token"].as_str().unwrap());
    assert_eq!(claims["iss"], "http://127.0.0.1:8080");
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_is_all_that_can_be_done() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    for name in NAMES {
        let url = format!("{}{name}", app.url);
        let head = app.http.head(&url).send().await.unwrap();
        assert_eq!(head.status(), 200);
        let length: usize = head.headers()["content-length"].to_str().unwrap().parse().unwrap();
        assert_eq!(
            length,
            app.http.get(&url).send().await.unwrap().bytes().await.unwrap().len()
        );
        let refused = app.http.post(&url).send().await.unwrap();
        assert_eq!(refused.status(), 405);
        assert_eq!(refused.headers()["allow"], "GET, HEAD, OPTIONS");
        assert_eq!(refused.headers()["cache-control"], "no-store");
    }
    app.running.stop().await;
}
