//! A client and a verifier that live through everything: no token is given up before it expires.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use keyround::clock::Clock;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwk::PublicJwk;
use keyround::jose::jwt::verify_access_token_signature;
use reqwest::Response;
use serde_json::Value;

/// The key that a token names.
pub fn kid_of(token: &str) -> String {
    member(token, 0, "kid").as_str().unwrap().to_owned()
}

/// A claim of a token that is a time.
pub fn time_of(token: &str, claim: &str) -> i64 {
    member(token, 1, claim).as_i64().unwrap()
}

fn member(token: &str, part: usize, name: &str) -> Value {
    let part = BASE64_URL_SAFE_NO_PAD
        .decode(token.split('.').nth(part).unwrap())
        .unwrap();
    serde_json::from_slice::<Value>(&part).unwrap()[name].clone()
}

/// A token that has not expired.
struct Held {
    token: String,
    exp: i64,
}

/// What lives through all of it. Every token is held against the set that is served at that moment, until it expires.
pub struct Verifier {
    pub http: reqwest::Client,
    pub clock: Clock,
    secret: String,
    held: Vec<Held>,
    /// Tokens of each algorithm.
    pub taken: [usize; 2],
    /// How often a node could not sign.
    pub unavailable: usize,
    pub verified: usize,
    pub refused: Vec<String>,
}

impl Verifier {
    /// One whose clients have this secret.
    pub fn new(secret: String) -> Self {
        Self {
            http: reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap(),
            clock: Clock::system(),
            secret,
            held: Vec::new(),
            taken: [0, 0],
            unavailable: 0,
            verified: 0,
            refused: Vec::new(),
        }
    }

    /// The set that is served; it always is.
    pub async fn key_set(&self, address: SocketAddr) -> Vec<PublicJwk> {
        let url = format!("http://{address}/.well-known/jwks.json");
        let answer = self.http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let set: Value = answer.json().await.unwrap();
        let keys = set["keys"].as_array().unwrap().iter();
        keys.map(|key| PublicJwk::parse(&key.to_string()).unwrap()).collect()
    }

    /// Holds every token that has not expired against the set that is served now.
    pub async fn verify_all(&mut self, address: SocketAddr) {
        let keys = self.key_set(address).await;
        let now = self.clock.read().wall.0;
        self.held.retain(|held| held.exp > now);
        for held in &self.held {
            self.verified += 1;
            if let Err(error) = verify_access_token_signature(&held.token, &keys) {
                self.refused
                    .push(format!("{error} at {now}, exp {}: {}", held.exp, held.token));
            }
        }
    }

    /// Asks for a token of this algorithm.
    pub async fn ask(&self, address: SocketAddr, alg: Algorithm) -> Response {
        self.http
            .post(format!("http://{address}/oauth2/token"))
            .basic_auth(alg.name(), Some(&self.secret))
            .form(&[("grant_type", "client_credentials")])
            .send()
            .await
            .unwrap()
    }

    /// Takes a token of this algorithm and holds it from now on; none when the node cannot sign, which it must say properly.
    pub async fn take_one(&mut self, address: SocketAddr, alg: Algorithm) -> Option<String> {
        let answer = self.ask(address, alg).await;
        if answer.status() == 503 {
            let retry_after = answer.headers()["retry-after"].to_str().unwrap();
            assert!(retry_after.parse::<u32>().is_ok(), "{retry_after}");
            self.unavailable += 1;
            return None;
        }
        assert_eq!(answer.status(), 200);
        let body: Value = answer.json().await.unwrap();
        let exp = self.clock.read().wall.0 + body["expires_in"].as_i64().unwrap();
        let token = body["access_token"].as_str().unwrap().to_owned();
        // `exp` is at most a second off when the second turned in between: take the earlier.
        self.held.push(Held {
            token: token.clone(),
            exp: exp - 1,
        });
        self.taken[usize::from(alg == Algorithm::Es256)] += 1;
        Some(token)
    }

    /// The same, as soon as the node can sign: a busy machine may have held it up for longer than `keys.snapshot_max_age`.
    pub async fn take_one_at_last(&mut self, address: SocketAddr, alg: Algorithm) -> String {
        for _ in 0..1_200 {
            if let Some(token) = self.take_one(address, alg).await {
                return token;
            }
            keyround::clock::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("it does not sign {alg}");
    }

    /// Takes a token of each algorithm.
    pub async fn take(&mut self, address: SocketAddr) {
        for alg in Algorithm::ALL {
            self.take_one(address, alg).await;
        }
    }

    /// What `/readyz/issue` finds wrong.
    pub async fn failing_checks(&self, admin: SocketAddr) -> Vec<String> {
        let answer = self
            .http
            .get(format!("http://{admin}/readyz/issue"))
            .send()
            .await
            .unwrap();
        let body: Value = answer.json().await.unwrap();
        let checks = body["checks"].as_array().unwrap().iter();
        checks
            .filter(|check| check["ok"] == false)
            .map(|check| check["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Lets go of the tokens of a key that was revoked.
    pub fn give_up(&mut self, kid: &str) {
        self.held.retain(|held| kid_of(&held.token) != kid);
    }

    /// What was seen, in one line.
    pub fn figures(&self) -> String {
        format!(
            "tokens {:?}, {} verifications, {} refused, {} times unavailable",
            self.taken,
            self.verified,
            self.refused.len(),
            self.unavailable
        )
    }
}
