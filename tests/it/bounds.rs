//! The page of limits, and the limits that other modules do not drive: lists in requests, sessions of an account, denied tokens.

use std::collections::BTreeMap;

use keyround::accounts::node_limits::REVOCATIONS;
use keyround::accounts::password_hash::{MAX_REFUSED_LOGIN, MOST_MEMORY};
use keyround::accounts::session::{Device, LoginMethod};
use keyround::app::ADMIN_CONNECTIONS;
use keyround::clock::{Clock, Seconds};
use keyround::config::settings;
use keyround::events::LONGEST_REASON;
use keyround::http::client_address::MAX_PROXIES;
use keyround::http::extract::body;
use keyround::http::extract::body::LONGEST_BODY;
use keyround::http::extract::body::LONGEST_FORM;
use keyround::http::guard::LONGEST_ADDRESS;
use keyround::http::listener::{BACKLOG, FIRST_HEAD_TIMEOUT, HANDSHAKE_TIMEOUT, KEEP_ALIVE, SOCKET_BUFFER};
use keyround::http::stream::{ANSWER_TICKS, HEAD_TICKS, LIFE_TICKS, MAX_HELD, TICK};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk_set::MAX_KEYS;
use keyround::oauth::client_keys::MOST_KEYS;
use keyround::oauth::scope::MAX_SCOPE_WORDS;
use keyround::oauth::token::{MAX_PARAMETERS, MAX_RESOURCES};
use keyround::outbound;
use keyround::store::sessions::ENDED_AT_ONCE;
use keyround::telemetry::{LONGEST_REQUEST_ID, MAX_QUEUED_BYTES, MAX_QUEUED_LINES};
use serde_json::Value;

use crate::auth::visitor::{Site, refused, told};
use crate::client_assertions::{Pair, keyround};
use crate::helpers::{TestApp, TestDatabase};
use crate::introspection::ask;
use crate::sessions::world::{ES256_ALONE, World};
use crate::token::{client, register};

const SETTINGS: [(&str, &str); 10] = [
    ("request headers, names and values", "server.max_header_bytes"),
    ("connections of the public listener", "server.max_connections"),
    (
        "connections from one address (IPv6: one /64)",
        "server.max_connections_per_address",
    ),
    ("sessions of one account", "accounts.max_sessions"),
    ("logins that wait to be hashed", "accounts.hashing_queue"),
    ("wrong passwords from one address", "accounts.limit_address"),
    ("wrong passwords for one account", "accounts.limit_account"),
    (
        "wrong passwords for one account from one address",
        "accounts.limit_address_and_account",
    ),
    ("refreshes of one session", "accounts.refresh_limit_session"),
    ("refreshes from one address", "accounts.refresh_limit_address"),
];

#[test]
fn the_page_says_what_the_code_does() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/limits.md")).unwrap();
    let rows: BTreeMap<String, (String, String)> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 4, "{line}");
            (cells[0].to_owned(), (cells[1].to_owned(), cells[2].to_owned()))
        })
        .collect();
    let seconds = |time: std::time::Duration| format!("{} s", time.as_secs());
    let rate = format!("{}/{}", REVOCATIONS.burst, REVOCATIONS.period);
    let fixed = [
        ("connections of the admin listener", ADMIN_CONNECTIONS.to_string()),
        ("connections that wait to be accepted", BACKLOG.to_string()),
        ("time of a TLS handshake", seconds(HANDSHAKE_TIMEOUT)),
        ("time of the first request head", seconds(FIRST_HEAD_TIMEOUT)),
        ("time of every later request head", seconds(TICK * HEAD_TICKS)),
        ("time without a request", seconds(KEEP_ALIVE)),
        ("time of a body that comes after its answer", seconds(TICK * HEAD_TICKS)),
        ("time to take an answer", seconds(TICK * ANSWER_TICKS)),
        ("life of a connection", seconds(TICK * LIFE_TICKS)),
        ("answers of one connection that are not written", "1".to_owned()),
        ("bytes of a connection that are read ahead", MAX_HELD.to_string()),
        ("socket buffers of the kernel, each way", SOCKET_BUFFER.to_string()),
        // Of the HTTP library.
        ("number of request headers", "96".to_owned()),
        ("path and query", LONGEST_ADDRESS.to_string()),
        ("form of an OAuth endpoint", LONGEST_FORM.to_string()),
        ("JSON body below `/auth`", LONGEST_BODY.to_string()),
        (
            "`X-Request-Id` that is taken from a request",
            LONGEST_REQUEST_ID.to_string(),
        ),
        ("time of a body", seconds(body::DEADLINE)),
        ("parameters of a form", MAX_PARAMETERS.to_string()),
        ("words of `scope`", MAX_SCOPE_WORDS.to_string()),
        ("`resource` and `audience` together", MAX_RESOURCES.to_string()),
        (
            "proxies that are followed in `X-Forwarded-For`",
            MAX_PROXIES.to_string(),
        ),
        ("bytes of a fetched document", outbound::LONGEST.to_string()),
        ("time of a fetch", seconds(outbound::ANSWER_WITHIN)),
        ("keys of a fetched key set", MAX_KEYS.to_string()),
        ("keys that are registered for a client", MOST_KEYS.to_string()),
        ("fetches at once", outbound::MAX_FETCHES.to_string()),
        (
            "fetches from one host at once",
            outbound::MAX_FETCHES_OF_HOST.to_string(),
        ),
        ("sessions that one transaction ends", ENDED_AT_ONCE.to_string()),
        ("denied tokens of one client, or of one session", rate),
        (
            "memory of one password check",
            format!("{} MiB, for each core at a time", MOST_MEMORY / 1024),
        ),
        ("processor time of a wrong password", seconds(MAX_REFUSED_LOGIN)),
        (
            "characters of `--reason`, and of the name of a tenant",
            LONGEST_REASON.to_string(),
        ),
        ("log lines that wait to be written", MAX_QUEUED_LINES.to_string()),
        ("bytes of those lines", MAX_QUEUED_BYTES.to_string()),
    ];
    let mut expected: BTreeMap<String, (String, String)> = fixed
        .into_iter()
        .map(|(what, bound)| (what.to_owned(), (bound, "fixed".to_owned())))
        .collect();
    for (what, setting) in SETTINGS {
        let default = settings::find(setting).unwrap().default().unwrap();
        expected.insert(
            what.to_owned(),
            (default.trim_matches('"').to_owned(), format!("`{setting}`")),
        );
    }
    assert_eq!(rows, expected);
}

/// The error and its description.
async fn refusal(app: &TestApp, secret: &str, form: &[(&str, &str)]) -> (u16, String, String) {
    let answer = app.ask("billing", secret, form).await;
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (status, text("error"), text("error_description"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_in_requests_are_bounded() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_client("billing", None).await;
    let grant = ("grant_type", "client_credentials");
    let words = |count: usize| (0..count).map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ");
    for (grant, scope) in [
        ("client_credentials", words(MAX_SCOPE_WORDS + 1)),
        ("client_credentials", "a ".repeat(5_000)),
        ("refresh_token", "read ".repeat(3_000)),
    ] {
        let request = app.http.post(format!("{}/oauth2/token", app.url));
        let request = if grant == "refresh_token" {
            request.form(&[
                ("grant_type", grant),
                ("refresh_token", "x"),
                ("client_id", "first-party"),
                ("scope", &scope),
            ])
        } else {
            let request = request.basic_auth("billing", Some(&secret));
            request.form(&[("grant_type", grant), ("scope", &scope)])
        };
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            (status.as_u16(), &body["error"]),
            (400, &Value::from("invalid_scope")),
            "{body}"
        );
        assert!(
            body["error_description"]
                .as_str()
                .unwrap()
                .contains("more than 64 words"),
            "{body}"
        );
    }
    // At the bound it is only that the client has no such scope.
    let most = words(MAX_SCOPE_WORDS);
    let (_, error, description) = refusal(&app, &secret, &[grant, ("scope", &most)]).await;
    assert_eq!(error, "invalid_scope");
    assert!(!description.contains("more than"), "{description}");

    for name in ["resource", "audience"] {
        let mut form = vec![grant];
        form.extend(std::iter::repeat_n((name, "https://api.example.com"), MAX_RESOURCES));
        assert_eq!(
            app.ask("billing", &secret, &form).await.status(),
            200,
            "the same one {MAX_RESOURCES} times"
        );
        form.push((name, "https://api.example.com"));
        let (status, error, description) = refusal(&app, &secret, &form).await;
        assert_eq!((status, error.as_str()), (400, "invalid_target"), "{description}");
    }

    let mut form = vec![grant];
    form.extend(std::iter::repeat_n(("unknown", ""), MAX_PARAMETERS - 1));
    assert_eq!(app.ask("billing", &secret, &form).await.status(), 200);
    form.push(("unknown", ""));
    for path in ["token", "introspect", "revoke"] {
        let answer = app.http.post(format!("{}/oauth2/{path}", app.url)).form(&form);
        let answer = answer.basic_auth("billing", Some(&secret)).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{path}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"], "invalid_request", "{path}");
    }

    let long = format!(
        "{}/.well-known/jwks.json?{}",
        app.url,
        "a=b&".repeat(LONGEST_ADDRESS / 4)
    );
    let answer = app.http.get(long).send().await.unwrap();
    assert_eq!(answer.status(), 414);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_so_many_keys() {
    let database = TestDatabase::sqlite();
    let pairs: Vec<Pair> = (0..=MOST_KEYS)
        .map(|at| Pair::new(Algorithm::Es256, &format!("key-{at}")))
        .collect();
    let file = database.folder.path().join("jwks.json");
    for (count, code) in [(MOST_KEYS + 1, 2), (MOST_KEYS, 0)] {
        let keys: Vec<String> = pairs[..count].iter().map(|pair| pair.jwk.to_json()).collect();
        std::fs::write(&file, format!(r#"{{"keys":[{}]}}"#, keys.join(","))).unwrap();
        let create = [
            "clients",
            "create",
            "--id",
            "billing",
            "--grant",
            "client_credentials",
            "--audience",
            "https://api.example.com",
        ];
        let (exit, _, said) = keyround(
            &database,
            &[&create[..], &["--jwks-file", file.to_str().unwrap()]].concat(),
        );
        assert_eq!(exit, code, "{count}: {said}");
        assert!(
            code == 0 || said.contains("it has 11 keys that can be used; a client has at most 10"),
            "{said}"
        );
    }
}

crate::on_both_databases!(refreshes_from_one_address_are_bounded, |database| {
    let site = Site::start(database, &[("accounts.refresh_limit_address", "4/1h")]).await;
    let (mut ada, mut bob) = (site.person("ada").await, site.person("bob").await);
    for visitor in [&mut ada, &mut bob] {
        visitor.refresh().await;
        visitor.refresh().await;
    }
    let limited = bob.post("/auth/refresh", None).await;
    assert!(limited.headers().contains_key("retry-after"));
    assert_eq!(told(limited).await, refused(429, "rate_limited"));
    // The sessions live, and a login is no refresh.
    assert_eq!(ada.me().await.0, 200);
    ada.log_in("ada").await;
    site.stop().await;
});

crate::on_both_databases!(
    an_account_has_so_many_sessions_and_a_login_ends_the_oldest,
    |database| {
        let world = World::start(
            database,
            &[ES256_ALONE[0], ES256_ALONE[1], ("accounts.max_sessions", "3")],
        )
        .await;
        let (ada, bob) = (world.user("ada").await, world.user("bob").await);
        let sessions = &world.app.running.server.sessions;
        let device = Device::new(std::net::Ipv4Addr::new(192, 0, 2, 1).into(), "a browser");
        let other = sessions.begin(&bob, LoginMethod::Password, &device).await.unwrap();
        let mut begun = Vec::new();
        for _ in 0..5 {
            begun.push(sessions.begin(&ada, LoginMethod::Password, &device).await.unwrap());
            world.pass(10).await;
        }
        let live = sessions.list(ada.user.id).await.unwrap();
        let live: Vec<_> = live.iter().map(|session| session.sid).collect();
        assert_eq!(live, [begun[4].sid, begun[3].sid, begun[2].sid]);
        assert_eq!(world.noted("session.ended").await, 2);
        let keyring = &world.app.running.server.keyring;
        let is_active = |token: &str| {
            let issuer = &world.app.running.server.issuer;
            keyring.verify(token, issuer, world.app.clock.read()).unwrap().is_ok()
        };
        assert!(!is_active(&begun[0].access_token), "at once on this node");
        assert!(is_active(&begun[4].access_token) && is_active(&other.access_token));
        world.stop().await;
    }
);

crate::on_both_databases!(everything_of_an_account_ends_in_batches, |database| {
    let world = World::start(
        database,
        &[ES256_ALONE[0], ES256_ALONE[1], ("accounts.max_sessions", "1000")],
    )
    .await;
    let ada = world.user("ada").await;
    let sessions = &world.app.running.server.sessions;
    let device = Device::new(std::net::Ipv4Addr::new(192, 0, 2, 1).into(), "a browser");
    let count = ENDED_AT_ONCE as usize * 2 + 7;
    for _ in 0..count {
        sessions.begin(&ada, LoginMethod::Password, &device).await.unwrap();
    }
    let kept = sessions.begin(&ada, LoginMethod::Password, &device).await.unwrap();
    let ended = sessions
        .end_all(
            ada.user.id,
            Some(kept.sid),
            keyround::accounts::session::EndedBy::Logout,
            "user ada",
        )
        .await
        .unwrap();
    assert_eq!(ended.len(), count);
    assert_eq!(sessions.list(ada.user.id).await.unwrap().len(), 1);
    world.stop().await;
});

crate::on_both_databases!(a_client_denies_so_many_tokens_at_once, |database| {
    // It stands still, or a bucket would fill while a slow machine answers; at the time of PostgreSQL, whose clock is real and may be so far
    // ahead at the end.
    let clock = Clock::manual(Clock::system().read().wall);
    let settings = [&ES256_ALONE[..], &[("keys.clock_skew", "20m")]].concat();
    let app = TestApp::start_with_clock(&database, &settings, clock).await;
    let secret = register(&app, &client("billing")).await;
    let other = register(&app, &client("other")).await;
    let server = &app.running.server;
    for _ in 0..REVOCATIONS.burst - 1 {
        server.charge_revocation("billing").unwrap();
    }
    let (last, refused) = (app.token("billing", &secret).await, app.token("billing", &secret).await);
    assert_eq!(ask(&app, "revoke", "billing", &secret, &last).await.status(), 200);
    assert!(server.charge_revocation("billing").unwrap_err() >= Seconds(1));
    let answer = ask(&app, "revoke", "billing", &secret, &refused).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.headers().contains_key("retry-after"));
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"], "temporarily_unavailable");
    // Others are not held up, and what was denied already costs nothing.
    let token = app.token("other", &other).await;
    assert_eq!(ask(&app, "revoke", "other", &other, &token).await.status(), 200);
    assert_eq!(ask(&app, "revoke", "billing", &secret, &last).await.status(), 200);
    app.running.stop().await;
});
