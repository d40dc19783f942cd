//! Every login with a provider that is refused leaves one log line: the provider, the reason and the id of the request, and nothing of the person.

use keyround::clock::Clock;
use reqwest::Response;
use serde_json::{Value, json};
use url::Url;

use super::crooked::{Reply, Upstream};
use super::real::existing_account;
use super::{CLIENT_SECRET, create, parameter, serve};
use crate::client_assertions::keyround;
use crate::helpers::TestDatabase;
use crate::process::Serving;
use crate::rows::Raw;

/// What a line must say of a request.
struct Told {
    id: String,
    provider: &'static str,
    outcome: &'static str,
    reason: &'static str,
    level: &'static str,
}

struct Scene<'a> {
    database: &'a TestDatabase,
    serving: Serving,
    upstream: Upstream,
    http: reqwest::Client,
    expected: Vec<Told>,
    /// What no line may hold.
    secrets: Vec<String>,
}

impl<'a> Scene<'a> {
    async fn new(database: &'a TestDatabase) -> Self {
        let upstream = Upstream::start();
        let serving = serve(database, &upstream, ("KEYROUND_LOG__FORMAT", "json")).await;
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            database,
            serving,
            upstream,
            http,
            expected: Vec::new(),
            secrets: vec![CLIENT_SECRET.to_owned()],
        }
    }

    async fn get(&self, path: &str, cookie: &str, id: &str) -> Response {
        let url = format!("{}{path}", self.serving.url);
        let request = self.http.get(url).header("Cookie", cookie).header("X-Request-Id", id);
        request.send().await.unwrap()
    }

    /// One request that is refused.
    async fn refused(&mut self, path: &str, cookie: &str, told: [&'static str; 4]) {
        let [provider, outcome, reason, level] = told;
        let id = format!("request-{}", self.expected.len());
        let answer = self.get(path, cookie, &id).await;
        assert!(answer.status().as_u16() >= 400, "{path}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            (&body["code"], &body["request_id"]),
            (&json!(outcome), &json!(id)),
            "{path}"
        );
        self.expected.push(Told {
            id,
            provider,
            outcome,
            reason,
            level,
        });
    }

    /// Begins a login: the cookie, and what the provider is asked.
    async fn begin(&mut self) -> (String, Url) {
        let answer = self.get("/auth/federated/acme?return_to=/home", "", "begin").await;
        let header = |name: &str| answer.headers().get(name).unwrap().to_str().unwrap().to_owned();
        let cookie = header("set-cookie").split_once(';').unwrap().0.to_owned();
        let question: Url = header("location").parse().unwrap();
        self.secrets.push(cookie.split_once('=').unwrap().1.to_owned());
        self.secrets
            .extend(["state", "nonce"].map(|name| parameter(&question, name)));
        (cookie, question)
    }

    /// A callback with these parameters beside `state`.
    async fn called_back(&mut self, parameters: &str, told: [&'static str; 4]) {
        let (cookie, question) = self.begin().await;
        let mut parameters = parameters.to_owned();
        if !parameters.contains("iss=") {
            let issuer: String = url::form_urlencoded::byte_serialize(self.upstream.issuer.as_bytes()).collect();
            parameters = format!("{parameters}&iss={issuer}");
        }
        let path = format!(
            "/auth/federated/acme/callback?state={}&{parameters}",
            parameter(&question, "state")
        );
        self.refused(&path, &cookie, told).await;
    }

    /// A login whose ID token has these claims.
    async fn logged_in(&mut self, change: impl FnOnce(&mut Value), told: [&'static str; 4]) {
        let (cookie, question) = self.begin().await;
        let path = self.answered(&question, change);
        self.refused(&path, &cookie, told).await;
    }

    fn answered(&mut self, question: &Url, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.upstream.claims_at(Clock::system().read().wall, question);
        change(&mut claims);
        let token = self
            .upstream
            .pair
            .sign(r#"{"alg":"ES256","kid":"kid"}"#, &claims.to_string());
        self.upstream.hand_out(&token);
        self.secrets.push(token.rsplit_once('.').unwrap().1.to_owned());
        let callback = self.upstream.callback(question);
        format!("{}?{}", callback.path(), callback.query().unwrap())
    }

    async fn execute(&self, statement: &str) {
        let raw = Raw::open(self.database).await;
        raw.execute(statement).await;
        raw.close().await;
    }
}

fn without(name: &'static str) -> impl FnOnce(&mut Value) {
    move |claims| drop(claims.as_object_mut().unwrap().remove(name))
}

fn with(name: &'static str, value: Value) -> impl FnOnce(&mut Value) {
    move |claims| claims[name] = value
}

crate::on_both_databases!(each_refusal_leaves_a_line_that_names_its_reason, |database| {
    let database = &database;
    let mut scene = Scene::new(database).await;
    create(database, "away", "https://localhost:1", &[]);
    let begin = "/auth/federated/acme";
    let callback = "/auth/federated/acme/callback";
    let unknown = "no identity provider of this name";
    for (path, told) in [
        ("/auth/federated/other", ["other", "provider_unknown", unknown, "INFO"]),
        (
            "/auth/federated/Mallory%0aforged",
            ["", "provider_unknown", unknown, "INFO"],
        ),
        (
            "/auth/federated/other/callback?state=a&code=b",
            ["other", "provider_unknown", unknown, "INFO"],
        ),
        (
            &format!("{begin}?return_to=https://evil.example/"),
            ["acme", "invalid_request", "return_to", "INFO"],
        ),
        (
            &format!("{begin}?return_to=/a&return_to=/b"),
            ["acme", "invalid_request", "return_to is given more than once", "INFO"],
        ),
        (callback, ["acme", "invalid_request", "state is missing", "INFO"]),
        (
            &format!("{callback}?state=a"),
            ["acme", "invalid_request", "code is missing", "INFO"],
        ),
        (
            &format!("{callback}?state=a&code=b&code=c"),
            ["acme", "invalid_request", "code stands twice", "INFO"],
        ),
        (
            &format!("{callback}?state=a&code=b"),
            ["acme", "state_invalid", "begun in another browser", "INFO"],
        ),
        (
            "/auth/federated/away",
            ["away", "provider_unavailable", "refused the connection", "WARN"],
        ),
    ] {
        scene.refused(path, "", told).await;
    }
    let twice = "__Host-keyround-federated=a; __Host-keyround-federated=b";
    scene
        .refused(callback, twice, ["acme", "invalid_request", "comes twice", "INFO"])
        .await;

    // What the provider says in the browser's address.
    let denied = ["acme", "federation_denied", "access was denied", "INFO"];
    scene
        .called_back("error=access_denied&error_description=ada@example.com", denied)
        .await;
    let unavailable = ["acme", "provider_unavailable", "not available", "WARN"];
    scene.called_back("error=server_error", unavailable).await;
    let iss = "iss=https%3A%2F%2Fevil.example&code=c";
    let refused = ["acme", "federation_failed", "does not name this provider", "WARN"];
    scene.called_back(iss, refused).await;
    let refused = ["acme", "federation_failed", "what was registered there", "WARN"];
    scene.called_back("error=unauthorized_client", refused).await;

    // What is in the ID token.
    let failed = |reason| ["acme", "federation_failed", reason, "WARN"];
    scene.logged_in(with("nonce", json!("x")), failed("nonce")).await;
    scene.logged_in(with("aud", json!("other")), failed("aud")).await;
    scene.logged_in(with("exp", json!(1)), failed("expired")).await;
    scene.logged_in(with("sub", json!("")), failed("sub")).await;
    let email = |reason, level| ["acme", "email_not_verified", reason, level];
    scene
        .logged_in(without("email_verified"), email("does not say whether", "WARN"))
        .await;
    scene
        .logged_in(
            with("email_verified", json!("true")),
            email("--email-verified-as-text", "WARN"),
        )
        .await;
    let owner = |claims: &mut Value| {
        without("email_verified")(claims);
        claims["xms_edov"] = json!(true);
    };
    scene.logged_in(owner, email("xms_edov", "WARN")).await;
    scene
        .logged_in(with("email_verified", json!(false)), email("has not verified", "INFO"))
        .await;
    scene
        .logged_in(
            with("email", json!("ada at home")),
            email("not one that an account", "INFO"),
        )
        .await;
    scene
        .logged_in(
            with("email", json!("\u{ff41}da@example.com")),
            email("in another way", "INFO"),
        )
        .await;
    scene.upstream.reply("/userinfo", json!({ "sub": "ada" }));
    scene
        .logged_in(without("email"), email("names no e-mail address", "WARN"))
        .await;

    // What is here.
    let db = database.open().await;
    existing_account(&db, "ada@example.com", true).await;
    db.close().await;
    scene
        .logged_in(|_| {}, ["acme", "account_exists", "not linked", "INFO"])
        .await;
    scene.execute("UPDATE users SET suspended_at = 1").await;
    scene
        .logged_in(|_| {}, ["acme", "account_suspended", "suspended", "INFO"])
        .await;
    scene.execute("UPDATE tenants SET disabled_at = 1").await;
    let new = |claims: &mut Value| {
        claims["sub"] = "new".into();
        claims["email"] = "new@example.com".into();
    };
    scene
        .logged_in(new, ["acme", "registration_closed", "registration is closed", "INFO"])
        .await;
    scene.execute("UPDATE tenants SET disabled_at = NULL").await;
    // The account is known, and its tenant is disabled when the session would begin.
    let (cookie, question) = scene.begin().await;
    let path = scene.answered(&question, new);
    assert_eq!(scene.get(&path, &cookie, "good").await.status(), 303);
    scene.execute("UPDATE tenants SET disabled_at = 1").await;
    scene
        .logged_in(new, ["acme", "account_suspended", "tenant", "INFO"])
        .await;
    scene.execute("UPDATE tenants SET disabled_at = NULL").await;

    // What is at the provider's other end.
    scene.upstream.reply("/token", Reply::Status(500));
    let (cookie, question) = scene.begin().await;
    let callback = scene.upstream.callback(&question);
    let path = format!("{}?{}", callback.path(), callback.query().unwrap());
    let told = ["acme", "provider_unavailable", "status that is not 200", "WARN"];
    scene.refused(&path, &cookie, told).await;
    scene
        .execute("DELETE FROM secrets WHERE name = 'identity-provider:acme'")
        .await;
    let told = ["acme", "temporarily_unavailable", "has no client secret", "WARN"];
    scene.logged_in(|_| {}, told).await;
    let (code, _, err) = keyround(database, &["providers", "disable", "acme"]);
    assert_eq!(code, 0, "{err}");
    scene
        .refused(begin, "", ["acme", "provider_unknown", unknown, "INFO"])
        .await;

    let (_, log, _) = scene.serving.stop();
    let lines: Vec<Value> = log.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for told in &scene.expected {
        let of_request: Vec<&Value> = lines
            .iter()
            .filter(|line| line["request_id"] == told.id.as_str() && !line["fields"]["outcome"].is_null())
            .collect();
        let [line] = of_request.as_slice() else {
            panic!("{} of {}: {of_request:#?}", told.id, told.outcome);
        };
        let fields = &line["fields"];
        assert_eq!(
            (&fields["provider"], &fields["outcome"]),
            (&json!(told.provider), &json!(told.outcome)),
            "{line}"
        );
        assert!(fields["reason"].as_str().unwrap().contains(told.reason), "{line}");
        assert_eq!(
            (&fields["client.ip"], &line["level"]),
            (&json!("127.0.0.1"), &json!(told.level)),
            "{line}"
        );
        assert!(
            fields["message"]
                .as_str()
                .unwrap()
                .starts_with("a login with a provider"),
            "{line}"
        );
    }
    assert!(
        !lines
            .iter()
            .any(|line| line["request_id"] == "good" && !line["fields"]["outcome"].is_null())
    );
    let secrets = scene.secrets.iter().map(String::as_str);
    for secret in secrets.chain([
        "example.com",
        "evil.example",
        "ada@",
        "ada at home",
        "Mallory",
        "forged",
    ]) {
        let line = log.iter().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
    scene.upstream.stop().await;
});
