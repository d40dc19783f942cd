//! hono's middleware `jwt`, which is given one key, in its documented use: what its user must say, and why the key set is better.

use std::process::Command;

use keyround::jose::alg::Algorithm;
use keyround::jose::jwt::TokenType;
use serde_json::{Value, json};

use crate::MACHINE;
use crate::site::{AUDIENCE, Kind, Site};

/// The status of a request with this token to a service with this key and these options; its clock is ahead by these seconds.
fn status(token: &str, key: &Value, verification: &Value, ahead: i64) -> String {
    let request = json!({ "token": token, "key": key, "verification": verification, "ahead": ahead });
    let answered = Command::new("node")
        .arg("tests/interop/javascript/hono-one-key.mjs")
        .arg(request.to_string())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        answered.status.success(),
        "{}",
        String::from_utf8_lossy(&answered.stderr)
    );
    String::from_utf8(answered.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_middleware_with_one_key_accepts_what_the_page_says() {
    let _shared = MACHINE.read().await;
    let site = Site::start("one key", Kind::Sqlite, 1, &[]).await;
    let set = site.key_set(0).await;
    let key_of = |alg: Algorithm| {
        let keys = set["keys"].as_array().unwrap();
        keys.iter().find(|key| key["alg"] == alg.name()).unwrap().clone()
    };
    let issuer = site.front.issuer();
    let as_it_comes = json!({ "iss": issuer, "aud": AUDIENCE });
    let told_the_type = json!({ "iss": issuer, "aud": AUDIENCE, "typ": "at+jwt" });
    let without_iat = json!({ "iss": issuer, "aud": AUDIENCE, "typ": "at+jwt", "iat": false });
    for alg in Algorithm::ALL {
        let key = key_of(alg);
        let jwt = site.token_of_type(0, alg, TokenType::Jwt).await.text;
        let access = site.token_of_type(0, alg, TokenType::AtJwt).await.text;
        assert_eq!(status(&jwt, &key, &as_it_comes, 0), "200");
        assert_eq!(
            status(&access, &key, &as_it_comes, 0),
            "401",
            "as the page says, it wants the type JWT"
        );
        assert_eq!(status(&access, &key, &told_the_type, 0), "200");
        assert_eq!(status(&jwt, &key, &told_the_type, 0), "401");
        // It allows no difference of clocks.
        assert_eq!(status(&access, &key, &told_the_type, -20), "401");
        assert_eq!(status(&access, &key, &without_iat, -20), "200");
        let other = json!({ "iss": issuer, "aud": "https://other.example", "typ": "at+jwt" });
        assert_eq!(status(&access, &key, &other, 0), "401");
        // The one key is fixed, so the first token of the next key is refused.
        site.keyround(&["keys", "revoke", key["kid"].as_str().unwrap(), "--reason", "x", "--yes"]);
        let next = site.token_of_type(0, alg, TokenType::AtJwt).await.text;
        assert_eq!(status(&next, &key, &told_the_type, 0), "401");
    }
}
