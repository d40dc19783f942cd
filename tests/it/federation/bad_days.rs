//! What an upstream must not get away with.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use keyround::clock::sleep;
use keyround::jose::alg::Algorithm;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use serde_json::{Value, json};

use super::crooked::{Reply, Upstream};
use super::{CLIENT_SECRET, Site, parameter};
use crate::client_assertions::Pair;

/// A login whose ID token has this header and these claims.
async fn login(
    upstream: &Upstream,
    site: &Site,
    signer: &Pair,
    change: impl FnOnce(&mut Value, &mut Value),
) -> Result<(), &'static str> {
    let mut browser = upstream.browser();
    let question = site.begin(&mut browser).await?;
    let (mut header, mut claims) = (
        json!({ "alg": "ES256", "kid": "kid" }),
        upstream.claims(site, &question),
    );
    change(&mut header, &mut claims);
    upstream.hand_out(&signer.sign(&header.to_string(), &claims.to_string()));
    site.finish(&browser, &upstream.callback(&question)).await.map(drop)
}

/// A login whose ID token is this text, made from the honest one.
async fn login_with(upstream: &Upstream, site: &Site, make: impl FnOnce(&str) -> String) -> Result<(), &'static str> {
    let mut browser = upstream.browser();
    let question = site.begin(&mut browser).await?;
    let claims = upstream.claims(site, &question);
    upstream.hand_out(&make(&claims.to_string()));
    site.finish(&browser, &upstream.callback(&question)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_token_that_is_no_answer_to_the_question_is_refused() {
    let upstream = Upstream::start();
    let site = upstream.site().await;
    let now = site.now().wall.0;
    let failed = Err("federation_failed");
    for (name, value, expected) in [
        ("nonce", json!("n"), failed),
        ("nonce", json!(null), failed),
        ("iss", json!("https://accounts.google.com"), failed),
        ("iss", json!(format!("{}/", upstream.issuer)), failed),
        ("aud", json!("another-client"), failed),
        ("aud", json!(["keyround", "another-client"]), failed),
        ("azp", json!("another-client"), failed),
        ("exp", json!(now - 3_600), failed),
        ("exp", json!((now + 300).to_string()), failed),
        ("iat", json!(now + 3_600), failed),
        ("iat", json!(1e300), failed),
        ("nbf", json!(now + 3_600), failed),
        ("sub", json!(""), failed),
        ("email_verified", json!(false), Err("email_not_verified")),
        ("email_verified", json!("true"), Err("email_not_verified")),
        ("email", json!("no address"), Err("email_not_verified")),
        ("email", json!(["ada@example.com"]), failed),
    ] {
        let answer = login(&upstream, &site, &upstream.pair, |_, claims| {
            claims[name] = value.clone();
        })
        .await;
        assert_eq!(answer, expected, "{name} {value}");
    }
    for missing in ["nonce", "iss", "aud", "exp", "iat", "sub"] {
        let change = |_: &mut Value, claims: &mut Value| drop(claims.as_object_mut().unwrap().remove(missing));
        assert_eq!(
            login(&upstream, &site, &upstream.pair, change).await,
            failed,
            "{missing}"
        );
    }
    assert_eq!(site.counts().await, (0, 0));
    // The tables above could not fail if nothing ever passed.
    assert_eq!(login(&upstream, &site, &upstream.pair, |_, _| {}).await, Ok(()));
    assert_eq!(site.counts().await, (1, 1));
    upstream.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_token_that_the_provider_did_not_sign_is_refused() {
    let upstream = Upstream::start();
    let site = upstream.site().await;
    let failed = Err("federation_failed");
    for (name, value) in [
        ("alg", json!("none")),
        ("alg", json!("HS256")),
        ("alg", json!("RS256")),
        ("alg", json!("PS256")),
        ("kid", json!("unknown")),
        ("kid", json!("../../etc/passwd")),
        ("typ", json!("at+jwt")),
        ("crit", json!(["exp"])),
    ] {
        let answer = login(&upstream, &site, &upstream.pair, |header, _| {
            header[name] = value.clone();
        })
        .await;
        assert_eq!(answer, failed, "{name} {value}");
    }
    // Signed by another key: also when the header brings it along.
    let other = serde_json::from_str::<Value>(&upstream.other.jwk.to_json()).unwrap();
    for bring in [false, true] {
        let answer = login(&upstream, &site, &upstream.other, |header, _| {
            if bring {
                header["jwk"] = other.clone();
            }
        });
        assert_eq!(answer.await, failed);
    }
    let encoded =
        |header: &Value, claims: &str| format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims));
    let none = login_with(&upstream, &site, |claims| {
        format!("{}.", encoded(&json!({ "alg": "none" }), claims))
    });
    assert_eq!(none.await, failed);
    // An HMAC under what both sides know, or everybody.
    for secret in [CLIENT_SECRET.to_owned(), upstream.pair.jwk.to_json()] {
        let hmac = login_with(&upstream, &site, |claims| {
            let message = encoded(&json!({ "alg": "HS256", "kid": "kid" }), claims);
            let key = PKey::hmac(secret.as_bytes()).unwrap();
            let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
            let signature = signer.sign_oneshot_to_vec(message.as_bytes()).unwrap();
            format!("{message}.{}", BASE64URL.encode(signature))
        });
        assert_eq!(hmac.await, failed);
    }
    let signed = |claims: &str| upstream.pair.sign(r#"{"alg":"ES256","kid":"kid"}"#, claims);
    for (what, make) in [
        (
            "another subject",
            &(|claims: &str| signed(claims).replacen('.', ".e30", 1)) as &dyn Fn(&str) -> String,
        ),
        ("a name twice", &|claims: &str| {
            signed(&claims.replacen('{', r#"{"sub":"eve","#, 1))
        }),
        ("a fourth part", &|claims: &str| format!("{}.e30", signed(claims))),
        ("padding", &|claims: &str| format!("{}=", signed(claims))),
        ("no token", &|_: &str| "garbage".to_owned()),
    ] {
        assert_eq!(login_with(&upstream, &site, make).await, failed, "{what}");
    }
    assert_eq!(site.counts().await, (0, 0));
    assert_eq!(login_with(&upstream, &site, signed).await, Ok(()));
    upstream.stop().await;
}

/// RFC 9207, and what else a browser may bring back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_the_providers_own_is_refused_before_the_code_goes_anywhere() {
    let upstream = Upstream::start();
    let site = upstream.site().await;
    upstream.reply("/token", Reply::Status(500));
    let mut browser = upstream.browser();
    for (iss, expected) in [
        (Some("https://accounts.google.com"), "federation_failed"),
        (None, "federation_failed"),
        // The control: this one reaches the token endpoint.
        (Some(upstream.issuer.as_str()), "provider_unavailable"),
    ] {
        let question = site.begin(&mut browser).await.unwrap();
        let mut callback = upstream.callback(&question);
        callback.query_pairs_mut().clear().extend_pairs(
            [("code", "code"), ("state", &parameter(&question, "state"))]
                .into_iter()
                .chain(iss.map(|iss| ("iss", iss))),
        );
        assert_eq!(site.finish(&browser, &callback).await.unwrap_err(), expected, "{iss:?}");
    }
    for (query, expected) in [
        ("error=access_denied", "federation_denied"),
        ("error=temporarily_unavailable", "provider_unavailable"),
        ("error=unauthorized_client", "federation_failed"),
        ("error=%1b%5b31m", "federation_failed"),
        ("", "invalid_request"),
        ("code=a&code=b", "invalid_request"),
    ] {
        let question = site.begin(&mut browser).await.unwrap();
        let mut callback = upstream.callback(&question);
        let (state, iss) = (parameter(&question, "state"), &upstream.issuer);
        callback.set_query(Some(&format!("{query}&state={state}&iss={iss}")));
        assert_eq!(site.finish(&browser, &callback).await.unwrap_err(), expected, "{query}");
    }
    upstream.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upstream_that_is_slow_broken_or_talks_nonsense_is_unavailable() {
    let upstream = Upstream::start();
    let configuration = "/.well-known/openid-configuration";
    let changed = |name: &str, value: Value| {
        let mut metadata = upstream.metadata();
        metadata[name] = value;
        Reply::from(metadata)
    };
    // A site each: what one has fetched it keeps.
    for reply in [
        Reply::Status(500),
        Reply::Status(404),
        Reply::Redirect,
        Reply::Text("<html>".to_owned()),
        Reply::Text(format!("{}{}", upstream.metadata(), " ".repeat(64 * 1024))),
        changed("issuer", json!("https://accounts.google.com")),
        changed("token_endpoint", json!("http://localhost/token")),
        changed("jwks_uri", json!(null)),
        changed("token_endpoint_auth_methods_supported", json!(["private_key_jwt"])),
    ] {
        upstream.reply(configuration, reply);
        let site = upstream.site().await;
        let refused = site.begin(&mut upstream.browser()).await.unwrap_err();
        assert_eq!(refused, "provider_unavailable");
    }
    upstream.behave();
    let site = upstream.site().await;
    for reply in [
        Reply::Status(500),
        Reply::Status(302),
        Reply::Redirect,
        Reply::Text("<html>".to_owned()),
        Reply::from(json!({ "access_token": "a", "token_type": "Bearer" })),
        Reply::Text("x".repeat(64 * 1024 + 1)),
        // The one that takes its time: five seconds.
        Reply::Never,
    ] {
        upstream.reply("/token", reply);
        let mut browser = upstream.browser();
        let question = site.begin(&mut browser).await.unwrap();
        let refused = site.finish(&browser, &upstream.callback(&question)).await.unwrap_err();
        assert_eq!(refused, "provider_unavailable");
    }
    for reply in [Reply::Status(500), Reply::Text("{}".to_owned())] {
        upstream.reply("/jwks", reply);
        let site = upstream.site().await;
        let refused = login(&upstream, &site, &upstream.pair, |_, _| {}).await;
        assert_eq!(refused, Err("provider_unavailable"));
    }
    assert_eq!(site.counts().await, (0, 0));
    upstream.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn userinfo_tells_of_the_same_person_alone() {
    let upstream = Upstream::start();
    let site = upstream.site().await;
    let bare = |_: &mut Value, claims: &mut Value| {
        for name in ["email", "email_verified"] {
            claims.as_object_mut().unwrap().remove(name);
        }
    };
    let told = json!({ "sub": "ada", "email": "ada@example.com", "email_verified": true, "name": "Ada" });
    for (reply, expected) in [
        (
            Reply::from(json!({ "sub": "eve", "email": "eve@example.com", "email_verified": true })),
            Err("federation_failed"),
        ),
        (
            Reply::from(json!({ "email": "eve@example.com", "email_verified": true })),
            Err("federation_failed"),
        ),
        (
            Reply::from(json!({ "sub": "ada", "email": "ada@example.com" })),
            Err("email_not_verified"),
        ),
        (Reply::Status(401), Err("provider_unavailable")),
        (Reply::Text("eyJ".to_owned()), Err("provider_unavailable")),
        (Reply::from(told), Ok(())),
    ] {
        upstream.reply("/userinfo", reply);
        assert_eq!(login(&upstream, &site, &upstream.pair, bare).await, expected);
    }
    // Who is known needs no more than the subject.
    upstream.reply("/userinfo", Reply::Status(500));
    assert_eq!(login(&upstream, &site, &upstream.pair, bare).await, Ok(()));
    assert_eq!(site.counts().await, (1, 1));
    upstream.stop().await;
}

/// A provider that changes its keys is followed at the first token of the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_of_the_provider_is_known_at_once() {
    let upstream = Upstream::start();
    let site = upstream.site().await;
    assert_eq!(login(&upstream, &site, &upstream.pair, |_, _| {}).await, Ok(()));
    let new = Pair::new(Algorithm::Rs256, "new");
    let header = |header: &mut Value, _: &mut Value| *header = json!({ "alg": "RS256", "kid": "new" });
    sleep(keyround::outbound::key_sets::COOLDOWN).await;
    assert_eq!(login(&upstream, &site, &new, header).await, Err("federation_failed"));
    upstream.reply("/jwks", Reply::Text(format!(r#"{{"keys":[{}]}}"#, new.jwk.to_json())));
    sleep(keyround::outbound::key_sets::COOLDOWN).await;
    assert_eq!(login(&upstream, &site, &new, header).await, Ok(()));
    upstream.stop().await;
}
