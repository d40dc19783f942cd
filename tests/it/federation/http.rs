//! The two endpoints, as a browser meets them.

use keyround::clock::Clock;
use keyround::store::Db;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use url::Url;

use super::crooked::{Reply, Upstream};
use super::real::{OidcProvider, existing_account};
use super::{Browser, CLIENT_SECRET, create, parameter, serve};
use crate::client_assertions::keyround;
use crate::helpers::{TestApp, TestDatabase};
use crate::rows::Raw;

const BEGIN: &str = "/auth/federated/acme?return_to=/home";

async fn start(database: &TestDatabase, ca_file: &str) -> TestApp {
    let settings = [
        ("outbound.ca_file", ca_file),
        ("outbound.allowed_networks", "127.0.0.0/8,::1"),
        ("accounts.allowed_origins", "https://app.example.com"),
    ];
    let app = TestApp::start_with_clock(database, &settings, Clock::system()).await;
    let db: &Db = &app.running.server.db;
    db.ensure_default_tenant(app.clock.read().wall).await.unwrap();
    app
}

async fn get(http: &reqwest::Client, url: &str, cookie: &str) -> Response {
    http.get(url).header("Cookie", cookie).send().await.unwrap()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Name and value of the one cookie that is set, and its attributes.
fn cookie(answer: &Response) -> (String, String) {
    let [cookie] = cookies(answer).try_into().unwrap();
    cookie
}

/// The cookies that are set, and their attributes.
fn cookies(answer: &Response) -> Vec<(String, String)> {
    let lines = answer.headers().get_all("set-cookie").iter();
    lines
        .map(|line| {
            let (pair, attributes) = line.to_str().unwrap().split_once("; ").unwrap();
            (pair.to_owned(), attributes.to_owned())
        })
        .collect()
}

/// Where the callback is in this test: the issuer names another port.
fn here(app: &str, callback: &Url) -> String {
    format!("{app}{}?{}", callback.path(), callback.query().unwrap())
}

async fn problem(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    assert_eq!(header(&answer, "content-type"), "application/problem+json");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert!(answer.headers().get("set-cookie").is_none());
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["status"], status);
    (status, body["code"].as_str().unwrap().to_owned())
}

/// What a person is told whose e-mail address is not taken.
async fn detail(answer: Response) -> String {
    let body: Value = answer.json().await.unwrap();
    assert_eq!(
        (&body["status"], &body["code"]),
        (&json!(403), &json!("email_not_verified"))
    );
    body["detail"].as_str().unwrap().to_owned()
}

crate::on_both_databases!(a_browser_is_led_through_and_comes_back_with_a_session, |database| {
    let provider = OidcProvider::start(&json!({}), &json!({}));
    create(&database, "acme", &provider.issuer, &[]);
    let app = start(&database, provider.ca_file.to_str().unwrap()).await;
    let mut browser = Browser::new(&provider.ca_file, "ada");

    let answer = get(&app.http, &format!("{}{BEGIN}", app.url), "").await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "cache-control")),
        (303, "no-store")
    );
    let (binding, attributes) = cookie(&answer);
    assert!(binding.starts_with("__Host-keyround-federated="), "{binding}");
    assert_eq!(attributes, "Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=600");
    let callback = browser.log_in(header(&answer, "location").parse().unwrap()).await;
    let callback = here(&app.url, &callback);

    // Not without the cookie; and that did not use it up.
    assert_eq!(
        problem(get(&app.http, &callback, "").await).await,
        (400, "state_invalid".to_owned())
    );
    // A person reads a page.
    let browsers = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = app.http.get(&callback).header("Accept", browsers).send().await.unwrap();
    assert_eq!(
        (
            page.status().as_u16(),
            header(&page, "content-type"),
            header(&page, "cache-control")
        ),
        (400, "text/html; charset=utf-8", "no-store")
    );
    let page = page.text().await.unwrap();
    assert!(
        page.contains("<h1>The login with another provider was begun in another browser")
            && page.contains("<small>state_invalid, request "),
        "{page}"
    );
    let answer = get(&app.http, &callback, &binding).await;
    assert_eq!(
        (
            answer.status().as_u16(),
            header(&answer, "location"),
            header(&answer, "referrer-policy")
        ),
        (303, "http://127.0.0.1:8080/home", "no-referrer")
    );
    let [(refresh, attributes), (bound, of_bound), (login, of_login)] = cookies(&answer).try_into().unwrap();
    assert!(refresh.starts_with("__Secure-keyround-refresh="), "{refresh}");
    assert!(bound.starts_with("__Host-keyround-refresh-binding="), "{bound}");
    assert!(
        of_bound.starts_with("Path=/; HttpOnly; Secure; SameSite=Strict; Max-Age="),
        "{of_bound}"
    );
    assert!(login.starts_with("__Host-keyround-login="), "{login}");
    assert!(
        of_login.starts_with("Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age="),
        "{of_login}"
    );
    let (path, age) = attributes.split_once("; Max-Age=").unwrap();
    assert_eq!(path, "Path=/auth; HttpOnly; Secure; SameSite=Strict");
    assert!(age.parse::<i64>().unwrap() > 600_000, "{age}");
    assert_eq!(answer.text().await.unwrap(), "");
    assert_eq!(
        problem(get(&app.http, &callback, &binding).await).await,
        (400, "state_invalid".to_owned())
    );

    // What the page does next.
    let refresh = format!("{refresh}; {bound}");
    let answer = get(&app.http, &format!("{}/auth/csrf", app.url), &refresh).await;
    let (csrf, _) = cookie(&answer);
    let token = answer.json::<Value>().await.unwrap()["csrf_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let refreshed = app
        .http
        .post(format!("{}/auth/refresh", app.url))
        .header("Cookie", format!("{refresh}; {csrf}"))
        .header("X-CSRF-Token", token)
        .send()
        .await
        .unwrap();
    assert_eq!(refreshed.status(), 200);
    let held: Vec<String> = cookies(&refreshed).into_iter().map(|(pair, _)| pair).collect();
    let held = held.join("; ");
    let tokens: Value = refreshed.json().await.unwrap();
    let me = app
        .http
        .get(format!("{}/auth/me", app.url))
        .bearer_auth(tokens["access_token"].as_str().unwrap());
    let again = me.try_clone().unwrap();
    let me: Value = me.send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&me["email"], &me["email_verified"], &me["name"]),
        (&json!("ada@example.com"), &json!(true), &json!("Ada Lovelace"))
    );

    // Another login in this browser takes the place of the session, which ends. The strict cookies come along at the beginning, from
    // our page, and not when the provider sends the browser back.
    let answer = get(&app.http, &format!("{}{BEGIN}", app.url), &held).await;
    let (binding, _) = cookie(&answer);
    let callback = browser.log_in(header(&answer, "location").parse().unwrap()).await;
    let answer = get(&app.http, &here(&app.url, &callback), &binding).await;
    assert_eq!(answer.status(), 303);
    assert_eq!(cookies(&answer).len(), 3);
    let (status, code) = problem(again.send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (401, "session_ended"));
    app.running.stop().await;
});

crate::on_both_databases!(an_address_cannot_begin_logins_without_end, |database| {
    let provider = OidcProvider::start(&json!({}), &json!({}));
    create(&database, "acme", &provider.issuer, &[]);
    let app = start(&database, provider.ca_file.to_str().unwrap()).await;
    let url = format!("{}{BEGIN}", app.url);
    let mut begun = 0;
    let limited = loop {
        let answer = get(&app.http, &url, "").await;
        if answer.status() != 303 {
            break answer;
        }
        begun += 1;
        assert!(begun <= 700, "nobody is ever limited");
    };
    // One more each second.
    assert!(begun >= 600, "{begun}");
    let wait: i64 = header(&limited, "retry-after").parse().unwrap();
    assert!((1..=600).contains(&wait), "{wait}");
    assert_eq!(problem(limited).await, (429, "rate_limited".to_owned()));
    let raw = Raw::open(&database).await;
    assert_eq!(raw.number("SELECT count(*) FROM federated_logins").await, begun);
    app.running.stop().await;
});

/// One login with the crooked upstream; `refuse` makes it what it must not be.
async fn log_in(app: &TestApp, upstream: &Upstream, change: impl FnOnce(&mut Value)) -> Response {
    let answer = get(&app.http, &format!("{}{BEGIN}", app.url), "").await;
    let (binding, _) = cookie(&answer);
    let question: Url = header(&answer, "location").parse().unwrap();
    let mut claims = upstream.claims_at(app.clock.read().wall, &question);
    change(&mut claims);
    upstream.hand_out(
        &upstream
            .pair
            .sign(r#"{"alg":"ES256","kid":"kid"}"#, &claims.to_string()),
    );
    get(&app.http, &here(&app.url, &upstream.callback(&question)), &binding).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_its_status_and_its_code() {
    let database = TestDatabase::sqlite();
    let upstream = Upstream::start();
    create(&database, "acme", &upstream.issuer, &[]);
    let app = start(&database, upstream.ca_file.to_str().unwrap()).await;
    let url = |path: &str| format!("{}{path}", app.url);
    for (path, status, code) in [
        ("/auth/federated/other", 404, "provider_unknown"),
        ("/auth/federated/%2e%2e%2f", 404, "provider_unknown"),
        (
            "/auth/federated/acme?return_to=https://evil.example/",
            400,
            "invalid_request",
        ),
        ("/auth/federated/acme?return_to=//evil.example", 400, "invalid_request"),
        ("/auth/federated/acme?return_to=/a&return_to=/b", 400, "invalid_request"),
        ("/auth/federated/acme/callback", 400, "invalid_request"),
        ("/auth/federated/acme/callback?state=a&code=b", 400, "state_invalid"),
        ("/auth/federated/other/callback?state=a&code=b", 404, "provider_unknown"),
    ] {
        assert_eq!(
            problem(get(&app.http, &url(path), "").await).await,
            (status, code.to_owned()),
            "{path}"
        );
    }
    for method in [Method::POST, Method::HEAD, Method::PUT] {
        let answer = app.http.request(method.clone(), url(BEGIN)).send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "allow")),
            (405, "GET, OPTIONS"),
            "{method}"
        );
    }
    let twice = get(
        &app.http,
        &url(BEGIN),
        "__Host-keyround-federated=a; __Host-keyround-federated=b",
    )
    .await;
    assert_eq!(problem(twice).await, (400, "invalid_request".to_owned()));
    let elsewhere = get(
        &app.http,
        &url("/auth/federated/acme?return_to=https://app.example.com/x"),
        "",
    )
    .await;
    assert_eq!(elsewhere.status(), 303);

    let answer = log_in(&app, &upstream, |claims| claims["nonce"] = "x".into()).await;
    assert_eq!(problem(answer).await, (502, "federation_failed".to_owned()));
    let answer = log_in(&app, &upstream, |claims| claims["email_verified"] = false.into()).await;
    let unverified = detail(answer).await;
    assert!(unverified.contains("has verified; verify one there"), "{unverified}");
    for (email, told) in [
        ("a@[1.2.3.4]", "no account can have the e-mail address"),
        ("\"a b\"@example.com", "no account can have the e-mail address"),
        ("\u{ff41}da@example.com", "writes your e-mail address in another way"),
    ] {
        let answer = log_in(&app, &upstream, |claims| claims["email"] = email.into()).await;
        let detail = detail(answer).await;
        assert!(detail.contains(told) && !detail.contains(email), "{email}: {detail}");
        assert!(!detail.contains("verify one there"), "{email}: {detail}");
    }
    existing_account(&app.running.server.db, "bob@example.com", true).await;
    let bob = |claims: &mut Value| {
        claims["sub"] = "bob".into();
        claims["email"] = "bob@example.com".into();
    };
    assert_eq!(
        problem(log_in(&app, &upstream, bob).await).await,
        (409, "account_exists".to_owned())
    );

    let sessions = async || {
        let raw = Raw::open(&database).await;
        let sessions = raw.number("SELECT COUNT(*) FROM sessions").await;
        raw.close().await;
        sessions
    };
    assert_eq!(sessions().await, 0);
    assert_eq!(log_in(&app, &upstream, |_| {}).await.status(), 303);
    assert_eq!(sessions().await, 1);
    for (breaks, mends) in [
        (
            "UPDATE users SET suspended_at = 1",
            "UPDATE users SET suspended_at = NULL",
        ),
        (
            "UPDATE tenants SET disabled_at = 1",
            "UPDATE tenants SET disabled_at = NULL",
        ),
    ] {
        let raw = Raw::open(&database).await;
        raw.execute(breaks).await;
        let answer = log_in(&app, &upstream, |_| {}).await;
        assert_eq!(problem(answer).await, (403, "account_suspended".to_owned()), "{breaks}");
        raw.execute(mends).await;
        raw.close().await;
    }
    assert_eq!(sessions().await, 1);

    upstream.reply("/token", Reply::Status(500));
    let answer = get(&app.http, &url(BEGIN), "").await;
    let (binding, _) = cookie(&answer);
    let question: Url = header(&answer, "location").parse().unwrap();
    let answer = get(&app.http, &here(&app.url, &upstream.callback(&question)), &binding).await;
    assert_eq!(header(&answer, "retry-after"), "5");
    assert_eq!(problem(answer).await, (503, "provider_unavailable".to_owned()));
    let (code, _, err) = keyround(&database, &["providers", "disable", "acme"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        problem(get(&app.http, &url(BEGIN), "").await).await,
        (404, "provider_unknown".to_owned())
    );
    assert_eq!(sessions().await, 1);
    app.running.stop().await;
    upstream.stop().await;
}

/// The log tells what failed, and holds no secret of a login, of whichever side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_holds_no_secret_of_a_login() {
    let database = TestDatabase::sqlite();
    let upstream = Upstream::start();
    let serving = serve(&database, &upstream, ("KEYROUND_LOG__FILTER", "trace")).await;
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let mut secrets = vec![CLIENT_SECRET.to_owned(), "ada@example.com".to_owned()];
    for (good, status) in [(true, 303), (false, 502)] {
        let answer = get(&http, &format!("{}{BEGIN}", serving.url), "").await;
        let (binding, _) = cookie(&answer);
        let question: Url = header(&answer, "location").parse().unwrap();
        let mut claims = upstream.claims_at(Clock::system().read().wall, &question);
        if !good {
            claims["aud"] = "other".into();
        }
        let id_token = upstream
            .pair
            .sign(r#"{"alg":"ES256","kid":"kid"}"#, &claims.to_string());
        upstream.hand_out(&id_token);
        let answer = get(&http, &here(&serving.url, &upstream.callback(&question)), &binding).await;
        assert_eq!(answer.status(), status);
        if good {
            let pairs = cookies(&answer).into_iter().map(|(pair, _)| pair);
            secrets.extend(pairs.map(|pair| pair.split_once('=').unwrap().1.to_owned()));
        }
        let signature = id_token.rsplit_once('.').unwrap().1.to_owned();
        secrets.extend([binding.split_once('=').unwrap().1.to_owned(), signature]);
        secrets.extend(["state", "nonce", "code_challenge"].map(|name| parameter(&question, name)));
    }
    let (_, log, _) = serving.stop();
    let failed = log
        .iter()
        .find(|line| line.contains("a login with a provider failed"))
        .unwrap();
    assert!(failed.contains("its aud must be our client id"), "{failed}");
    for secret in secrets {
        let line = log
            .iter()
            .find(|line| line.contains(&secret) && !line.contains(" h2::"));
        assert_eq!(line, None, "{secret}");
    }
    upstream.stop().await;
}
