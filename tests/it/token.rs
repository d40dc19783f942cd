//! `POST /oauth2/token`: what is granted.

use std::collections::{BTreeSet, HashSet};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use josekit::jwk::Jwk;
use josekit::jws::{ES256, JwsVerifier, RS256};
use keyround::clock::{Clock, Seconds};
use keyround::crypto::purpose::Purpose;
use keyround::crypto::random::random_secret;
use keyround::jose::alg::Algorithm;
use keyround::jose::jwt::random_jti;
use keyround::oauth::claims::ScopeClaims;
use keyround::oauth::client::{Client, Grant};
use keyround::store::clients::{ClientChange, EndedSecret};
use serde_json::{Value, json};

use crate::helpers::{START, TestApp, TestDatabase, entry};

const GRANT: (&str, &str) = ("grant_type", "client_credentials");

fn part(token: &str, index: usize) -> Vec<u8> {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    URL_SAFE_NO_PAD.decode(parts[index]).unwrap()
}

/// The header of a token, unverified.
pub fn header(token: &str) -> Value {
    serde_json::from_slice(&part(token, 0)).unwrap()
}

/// The claims of a token, unverified.
pub fn claims(token: &str) -> Value {
    serde_json::from_slice(&part(token, 1)).unwrap()
}

fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A client like those of [`TestApp::create_client`], to be changed before it is registered.
pub fn client(id: &str) -> Client {
    Client {
        id: id.parse().unwrap(),
        kind: keyround::oauth::client::ClientKind::Confidential(None),
        party: keyround::oauth::client::Party::Third,
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
        name: None,
        id_token_alg: None,
        scope_claims: ScopeClaims::Userinfo,
        roles_claim: None,
        is_pkce_optional: false,
        grants: vec![Grant::ClientCredentials],
        scope: "read write".parse().unwrap(),
        audiences: vec!["https://api.example.com".parse().unwrap()],
        serves: Vec::new(),
        alg: None,
        token_type: keyround::jose::jwt::TokenType::AtJwt,
        token_ttl: None,
        created_at: START,
        disabled_at: None,
    }
}

/// Registers a client; answers with its secret.
pub async fn register(app: &TestApp, client: &Client) -> String {
    let secret = random_secret().unwrap();
    let server = &app.running.server;
    let digest = server.hash_key.digest(Purpose::ClientSecret, &secret);
    let entry = entry("client.created", client.id.as_str());
    assert!(server.db.create_client(client, &digest, &entry).await.unwrap());
    secret.to_string()
}

/// Changes a client that exists.
pub async fn change(app: &TestApp, id: &str, change: ClientChange) {
    let db = &app.running.server.db;
    assert!(
        db.change_client(&id.parse().unwrap(), &change, &entry("client.updated", id))
            .await
            .unwrap()
    );
    app.until_clients_are_read_anew().await;
}

async fn granted(app: &TestApp, id: &str, secret: &str, form: &[(&str, &str)]) -> Value {
    let mut whole = vec![GRANT];
    whole.extend(form);
    let answer = app.ask(id, secret, &whole).await;
    assert_eq!(answer.status(), 200, "{form:?}");
    answer.json().await.unwrap()
}

async fn granted_claims(app: &TestApp, id: &str, secret: &str, form: &[(&str, &str)]) -> Value {
    claims(granted(app, id, secret, form).await["access_token"].as_str().unwrap())
}

async fn refused(app: &TestApp, id: &str, secret: &str, form: &[(&str, &str)]) -> String {
    let mut whole = vec![GRANT];
    whole.extend(form);
    let answer = app.ask(id, secret, &whole).await;
    assert_eq!(answer.status(), 400, "{form:?}");
    let body: Value = answer.json().await.unwrap();
    body["error"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_what_rfc_9068_says_and_no_more() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    for alg in [Algorithm::Rs256, Algorithm::Es256] {
        let id = format!("billing-{alg}");
        let secret = app.create_client(&id, Some(alg)).await;
        let answer = app.ask(&id, &secret, &[GRANT]).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers()["pragma"], "no-cache");
        // A page of any origin may redeem its code here, and none with what a browser sends by itself.
        assert_eq!(answer.headers()["access-control-allow-origin"], "*");
        assert!(answer.headers().get("access-control-allow-credentials").is_none());
        let body: Value = answer.json().await.unwrap();
        assert_eq!(
            names(&body),
            ["access_token", "token_type", "expires_in", "scope"].into()
        );
        assert_eq!(
            (&body["token_type"], &body["expires_in"]),
            (&json!("Bearer"), &json!(600))
        );
        let token = body["access_token"].as_str().unwrap();
        assert!(token.len() < 4_096, "{} octets", token.len());

        let header = header(token);
        assert_eq!(names(&header), ["alg", "typ", "kid"].into());
        assert_eq!((&header["alg"], &header["typ"]), (&json!(alg.name()), &json!("at+jwt")));

        let claims = claims(token);
        let jti = &claims["jti"];
        assert_eq!(
            claims,
            json!({
                "iss": "http://127.0.0.1:8080", "sub": id, "client_id": id, "aud": "https://api.example.com",
                "iat": START.0, "exp": START.0 + 600, "jti": jti, "scope": "read write",
            })
        );
        // As they are written, not as a parser reads them.
        let text = String::from_utf8(part(token, 1)).unwrap();
        assert!(
            text.contains(&format!(r#""iat":{},"exp":{}"#, START.0, START.0 + 600)),
            "{text}"
        );
        // No whitespace, no byte order mark, no member twice.
        assert!(!text.replace("read write", "").contains(char::is_whitespace));
        assert!(text.starts_with('{') && text.matches("\":").count() == 8);
        // 128 random bits (RFC 7519 section 4.1.7).
        assert!(URL_SAFE_NO_PAD.decode(jti.as_str().unwrap()).unwrap().len() >= 16);
        // R and S side by side; RS256 has the length of the modulus.
        let length = part(token, 2).len();
        assert_eq!(length, if alg == Algorithm::Es256 { 64 } else { 256 });
    }
    app.running.stop().await;
}

/// josekit did not sign it: an independent reader of the served set.
fn verify(token: &str, set: &Value) {
    let header = header(token);
    let key = set["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["kid"] == header["kid"])
        .unwrap();
    let jwk = Jwk::from_map(key.as_object().unwrap().clone()).unwrap();
    let verifier: Box<dyn JwsVerifier> = match header["alg"].as_str().unwrap() {
        "RS256" => Box::new(RS256.verifier_from_jwk(&jwk).unwrap()),
        _ => Box::new(ES256.verifier_from_jwk(&jwk).unwrap()),
    };
    let (payload, _) = josekit::jwt::decode_with_verifier(token, &*verifier).unwrap();
    assert_eq!(payload.issuer(), Some("http://127.0.0.1:8080"));
    let (message, _) = token.rsplit_once('.').unwrap();
    let tampered = [message.as_bytes(), b"x"].concat();
    assert!(verifier.verify(&tampered, &part(token, 2)).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_independent_library_verifies_it_and_two_thousand_have_names_of_their_own() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let set = app.key_set().await;
    let mut jtis = HashSet::new();
    let mut signatures = HashSet::new();
    for alg in [Algorithm::Rs256, Algorithm::Es256] {
        let id = format!("billing-{alg}");
        let secret = app.create_client(&id, Some(alg)).await;
        verify(&app.token(&id, &secret).await, &set);
        for _ in 0..1_000 {
            let token = app.token(&id, &secret).await;
            assert!(jtis.insert(claims(&token)["jti"].as_str().unwrap().to_owned()));
            // Never the same R for two messages.
            assert!(signatures.insert(part(&token, 2)[..32].to_vec()));
        }
    }
    assert_eq!(jtis.len(), 2_000);
    app.running.stop().await;
}

/// RFC 7519 section 4.1.7: no two tokens have one name.
#[test]
fn a_million_token_names_are_a_million() {
    let names: HashSet<String> = (0..1_000_000).map(|_| random_jti()).collect();
    assert_eq!(names.len(), 1_000_000);
}

/// RFC 6749 section 2.3.1: the id and the secret are form-encoded, then joined, then base64.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_methods_take_any_spelling_of_the_same_credentials() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let id = "billing_1.example~x";
    let secret = "p:%&=+ q\u{fc}\"/";
    let server = &app.running.server;
    let digest = server.hash_key.digest(Purpose::ClientSecret, secret);
    assert!(
        server
            .db
            .create_client(&client(id), &digest, &entry("client.created", id))
            .await
            .unwrap()
    );
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let every_octet = |text: &str| {
        let octets: Vec<String> = text.bytes().map(|octet| format!("%{octet:02x}")).collect();
        octets.concat()
    };
    let endpoint = format!("{}/oauth2/token", app.url);
    for pair in [
        format!("{}:{}", encode(id), encode(secret)),
        format!("{}:{}", every_octet(id), every_octet(secret)),
    ] {
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        for scheme in ["Basic", "basic", "BASIC"] {
            let request = app
                .http
                .post(&endpoint)
                .header("authorization", format!("{scheme} {encoded}"));
            assert_eq!(request.form(&[GRANT]).send().await.unwrap().status(), 200);
        }
    }
    let form = [GRANT, ("client_id", id), ("client_secret", secret)];
    let answer = app.http.post(&endpoint).form(&form).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    for content_type in [
        "application/x-www-form-urlencoded; charset=UTF-8",
        "Application/X-WWW-Form-Urlencoded",
    ] {
        let body = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            encode(id),
            encode(secret)
        );
        let request = app.http.post(&endpoint).header("content-type", content_type).body(body);
        assert_eq!(request.send().await.unwrap().status(), 200, "{content_type}");
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scope_is_all_or_less_and_never_more() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_client("billing", None).await;
    for (asked, given) in [
        ("", "read write"),
        ("read", "read"),
        ("write read", "write read"),
        ("read read", "read"),
    ] {
        let body = granted(&app, "billing", &secret, &[("scope", asked)]).await;
        assert_eq!(body["scope"], given);
        assert_eq!(claims(body["access_token"].as_str().unwrap())["scope"], given);
    }
    for asked in [
        "admin",
        "read admin",
        "READ",
        " read",
        "read  write",
        "re\"ad",
        "read\n",
        "\u{fc}",
    ] {
        assert_eq!(
            refused(&app, "billing", &secret, &[("scope", asked)]).await,
            "invalid_scope",
            "{asked:?}"
        );
    }
    let mut bare = client("bare");
    bare.scope = "".parse().unwrap();
    let secret = register(&app, &bare).await;
    let body = granted(&app, "bare", &secret, &[]).await;
    assert_eq!(names(&body), ["access_token", "token_type", "expires_in"].into());
    let claims = claims(body["access_token"].as_str().unwrap());
    assert_eq!(
        names(&claims),
        ["iss", "sub", "client_id", "aud", "iat", "exp", "jti"].into()
    );
    assert_eq!(
        refused(&app, "bare", &secret, &[("scope", "read")]).await,
        "invalid_scope"
    );
    app.running.stop().await;
}

/// RFC 8707 section 2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audiences_are_those_the_client_is_registered_for() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let secret = app.create_client("billing", None).await;
    let (api, other) = ("https://api.example.com", "https://other.example.com");
    for parameter in ["resource", "audience"] {
        for (asked, given) in [
            (vec![], json!(api)),
            (vec![other], json!(other)),
            (vec![other, api], json!([other, api])),
            (vec![api, api], json!(api)),
            // RFC 6749 section 3.2: an empty parameter is none.
            (vec![""], json!(api)),
        ] {
            let form: Vec<(&str, &str)> = asked.iter().map(|audience| (parameter, *audience)).collect();
            assert_eq!(granted_claims(&app, "billing", &secret, &form).await["aud"], given);
        }
        for asked in [
            "https://unknown.example.com",
            "https://api.example.com/",
            "HTTPS://api.example.com",
            "https://api.example.com#a",
            "api",
            "/api",
            "https://a b",
            "\u{0}",
        ] {
            let error = refused(&app, "billing", &secret, &[(parameter, asked)]).await;
            let wanted = if asked == "\u{0}" {
                "invalid_request"
            } else {
                "invalid_target"
            };
            assert_eq!(error, wanted, "{parameter}={asked:?}");
        }
        let both = [(parameter, api), (parameter, "https://unknown.example.com")];
        assert_eq!(refused(&app, "billing", &secret, &both).await, "invalid_target");
    }
    let mixed = granted_claims(&app, "billing", &secret, &[("resource", api), ("audience", other)]).await;
    assert_eq!(mixed["aud"], json!([api, other]));
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_or_the_server_chooses_the_algorithm_and_a_request_never_does() {
    for default in ["RS256", "ES256"] {
        let database = TestDatabase::sqlite();
        let app = TestApp::start(&database, &[("tokens.default_algorithm", default)]).await;
        for (alg, wanted) in [
            (None, default),
            (Some(Algorithm::Rs256), "RS256"),
            (Some(Algorithm::Es256), "ES256"),
        ] {
            let id = format!("client-{}", alg.map_or("none", Algorithm::name));
            let secret = app.create_client(&id, alg).await;
            for attempt in ["none", "HS256", "RS256", "ES256"] {
                let form = [
                    ("alg", attempt),
                    ("token_endpoint_auth_signing_alg", attempt),
                    ("access_token_signed_response_alg", attempt),
                ];
                let body = granted(&app, &id, &secret, &form).await;
                assert_eq!(header(body["access_token"].as_str().unwrap())["alg"], wanted);
            }
        }
        app.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lifetimes_are_the_clients_within_the_servers_longest() {
    let settings = [("tokens.access_token_ttl", "7m"), ("tokens.max_token_ttl", "30m")];
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &settings).await;
    for (ttl, wanted) in [(None, 420), (Some(60), 60), (Some(1_800), 1_800), (Some(7_200), 1_800)] {
        let mut client = client(&format!("client-{}", ttl.unwrap_or(0)));
        client.token_ttl = ttl.map(Seconds);
        let secret = register(&app, &client).await;
        // A request cannot choose.
        let form = [("expires_in", "86400"), ("lifetime", "86400")];
        let body = granted(&app, client.id.as_str(), &secret, &form).await;
        let claims = claims(body["access_token"].as_str().unwrap());
        assert_eq!(body["expires_in"], wanted);
        assert_eq!(
            claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
            wanted
        );
    }
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_change_both_secrets_hold_and_the_one_before_does_not() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start(&database, &[]).await;
    let mut secrets = vec![app.create_client("billing", None).await];
    for _ in 0..2 {
        let secret = random_secret().unwrap().to_string();
        let digest = app.running.server.hash_key.digest(Purpose::ClientSecret, &secret);
        let ends = EndedSecret::Previous;
        change(&app, "billing", ClientChange::ChangeSecret { digest, ends }).await;
        secrets.push(secret);
    }
    let mut statuses = Vec::new();
    for secret in &secrets {
        statuses.push(app.ask("billing", secret, &[GRANT]).await.status().as_u16());
    }
    assert_eq!(statuses, [401, 200, 200]);
    app.running.stop().await;
}

/// And what one node signs, the other's set verifies at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_made_on_one_node_gets_a_token_from_the_other_at_once() {
    let database = TestDatabase::postgres().await;
    let one = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let other = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let secret = one.create_client("billing", None).await;
    let token = other.token("billing", &secret).await;
    verify(&token, &one.key_set().await);
    change(&one, "billing", ClientChange::Disable).await;
    assert_eq!(other.ask("billing", &secret, &[GRANT]).await.status(), 401);
    change(&other, "billing", ClientChange::Enable).await;
    verify(&one.token("billing", &secret).await, &other.key_set().await);
    one.running.stop().await;
    other.running.stop().await;
}
