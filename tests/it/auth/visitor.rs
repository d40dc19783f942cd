//! What these tests stand on: a server with accounts, and visitors who keep cookies as a browser does.

use std::collections::BTreeMap;

use keyround::clock::{Clock, Seconds};
use keyround::jose::alg::Algorithm;
use keyround::keyring::binding;
use reqwest::header::{HeaderMap, SET_COOKIE};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::helpers::{START, TestApp, TestDatabase, answered, master_key};
use crate::hostile_tokens::sign;
use crate::rows::Raw;

/// What everybody's password is here.
pub const PASSWORD: &str = "a long walk by the sea 7";

/// Keys and hashes that are made in no time.
const QUICK: [(&str, &str); 4] = [
    // What access tokens are worth is known for so long after each look at the database, however busy the machine is.
    ("keys.replica_refresh", "15s"),
    ("keys.algorithms", "ES256"),
    ("tokens.default_algorithm", "ES256"),
    ("accounts.bcrypt_cost", "4"),
];

/// A server and its database.
pub struct Site {
    /// The server.
    pub app: TestApp,
    /// Its database, gone with it.
    pub database: TestDatabase,
    /// A connection beside the server's.
    pub raw: Raw,
}

impl Site {
    /// A server on this database, with these settings besides.
    pub async fn start(database: TestDatabase, settings: &[(&str, &str)]) -> Self {
        // PostgreSQL's clock is real.
        let clock = if database.url.starts_with("sqlite:") {
            Clock::manual(START)
        } else {
            Clock::system()
        };
        Self::start_with_clock(database, settings, clock).await
    }

    /// The same beside commands, which go by the real clock.
    pub async fn start_beside_commands(database: TestDatabase, settings: &[(&str, &str)]) -> Self {
        Self::start_with_clock(database, settings, Clock::system()).await
    }

    async fn start_with_clock(database: TestDatabase, settings: &[(&str, &str)], clock: Clock) -> Self {
        let settings: Vec<(&str, &str)> = QUICK.iter().chain(settings).copied().collect();
        let app = TestApp::start_with_clock(&database, &settings, clock).await;
        Self {
            raw: Raw::open(&database).await,
            database,
            app,
        }
    }

    /// A visitor who holds nothing yet.
    pub fn visitor(&self) -> Visitor<'_> {
        Visitor {
            app: &self.app,
            jar: BTreeMap::new(),
            access_token: String::new(),
            sid: String::new(),
        }
    }

    /// Somebody who has an account and has logged in, with cookies.
    pub async fn person(&self, name: &str) -> Visitor<'_> {
        self.register(name).await;
        let mut visitor = self.visitor();
        visitor.log_in(name).await;
        visitor
    }

    /// Makes an account for this name.
    pub async fn register(&self, name: &str) {
        let body = json!({
            "email": email(name), "password": PASSWORD, "name": name, "token_delivery": "body",
        });
        let answer = self.visitor().json(Method::POST, "/auth/register", &body).send().await;
        let answer = answer.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    /// A token with other claims or another header, rightly signed by the very key that the server signs with.
    pub async fn forge(&self, token: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let sealed = self
            .raw
            .texts("SELECT sealed FROM signing_keys WHERE sealed IS NOT NULL")
            .await;
        let mut header = crate::token::header(token);
        let mut claims = crate::token::claims(token);
        let kid = header["kid"].as_str().unwrap().parse().unwrap();
        let opened = sealed
            .iter()
            .find_map(|sealed| master_key().open(&binding(&kid, Algorithm::Es256), sealed).ok())
            .unwrap();
        let key = keyround::jose::key::PrivateKey::from_pkcs8_der(Algorithm::Es256, &opened).unwrap();
        change(&mut header, &mut claims);
        sign(&key, &header.to_string(), &claims.to_string())
    }

    /// Ends the server.
    pub async fn stop(self) {
        self.app.running.stop().await;
        self.raw.close().await;
    }
}

/// The e-mail address of this name.
pub fn email(name: &str) -> String {
    format!("{name}@example.com")
}

/// A browser, as far as the protocol sees one.
pub struct Visitor<'a> {
    app: &'a TestApp,
    /// The cookies, by name.
    pub jar: BTreeMap<String, String>,
    /// The access token; empty without one.
    pub access_token: String,
    /// The session.
    pub sid: String,
}

impl Visitor<'_> {
    /// The same browser, led to another node.
    pub fn at<'b>(&self, app: &'b TestApp) -> Visitor<'b> {
        Visitor {
            app,
            jar: self.jar.clone(),
            access_token: self.access_token.clone(),
            sid: self.sid.clone(),
        }
    }

    /// A request without cookies or tokens.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.app.http.request(method, format!("{}{path}", self.app.url))
    }

    /// The same with a JSON body.
    pub fn json(&self, method: Method, path: &str, body: &Value) -> RequestBuilder {
        self.bare(method, path).json(body)
    }

    /// A request with every cookie.
    pub fn with_cookies(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.bare(method, path);
        if self.jar.is_empty() {
            return request;
        }
        let pairs: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        request.header("Cookie", pairs.join("; "))
    }

    /// A request with the access token alone.
    pub fn bearer(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(&self.access_token)
    }

    /// Asks for the CSRF token, and keeps its cookie.
    pub async fn csrf(&mut self) -> String {
        let answer = answered(self.with_cookies(Method::GET, "/auth/csrf")).await;
        assert_eq!(answer.status(), 200);
        self.keep(answer.headers());
        let body: Value = answer.json().await.unwrap();
        body["csrf_token"].as_str().unwrap().to_owned()
    }

    /// Keeps the cookies of an answer, and forgets those that it clears.
    pub fn keep(&mut self, headers: &HeaderMap) {
        for cookie in set_cookies(headers) {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// A request with cookies and the CSRF token, as a page of ours sends it.
    pub async fn post(&mut self, path: &str, body: Option<Value>) -> Response {
        let csrf = self.csrf().await;
        let mut request = self.with_cookies(Method::POST, path).header("X-CSRF-Token", csrf);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        self.keep(answer.headers());
        answer
    }

    /// Logs in with cookies.
    pub async fn log_in(&mut self, name: &str) {
        let body = json!({ "email": email(name), "password": PASSWORD });
        let answer = self.post("/auth/login", Some(body)).await;
        self.take(answer).await;
    }

    /// Refreshes with cookies.
    pub async fn refresh(&mut self) {
        let answer = self.post("/auth/refresh", None).await;
        self.take(answer).await;
    }

    /// Takes the tokens of an answer.
    pub async fn take(&mut self, answer: Response) {
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, 200, "{body}");
        body["access_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut self.access_token);
        body["sid"].as_str().unwrap().clone_into(&mut self.sid);
    }

    /// What a protected route says to the access token: 200 and `me`, or the refusal's status and code.
    pub async fn me(&self) -> (u16, String) {
        told(answered(self.bearer(Method::GET, "/auth/me")).await).await
    }

    /// Whether gateways let the access token through.
    pub async fn verify(&self) -> u16 {
        let answer = answered(self.bearer(Method::GET, "/auth/verify/default")).await;
        answer.status().as_u16()
    }
}

/// The lines that set cookies.
pub fn set_cookies(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(SET_COOKIE).iter();
    lines.map(|line| line.to_str().unwrap().to_owned()).collect()
}

/// The status and the code of an answer.
pub async fn told(answer: Response) -> (u16, String) {
    let status = answer.status();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let is_problem = answer
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind == "application/problem+json");
    let text = answer.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    assert_eq!(is_problem, !status.is_success(), "{status}: {text}");
    (status.as_u16(), body["code"].as_str().unwrap_or("").to_owned())
}

/// What [`told`] answers with, for a comparison.
pub fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Lets the access tokens that there are expire, on SQLite.
pub async fn pass(site: &Site, seconds: i64) {
    site.app.pass(Seconds(seconds), Seconds(5)).await;
}
