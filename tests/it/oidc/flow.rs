//! The code flow from its first page to its last token.

use keyround::clock::Seconds;
use keyround::jose::jwk::PublicJwk;
use keyround::jose::jwt::{IdTokenClaims, verify_access_token_signature};
use reqwest::Method;
use serde_json::{Value, json};

use super::party::{
    CALLBACK, VERIFIER, answer_at, answer_of, ask, hidden, leads_to, log_in, log_in_at, own, query, redeem, register,
    send, third, userinfo, visit,
};
use crate::auth::visitor::{Site, email};

/// The claims of a token that the published keys verify.
pub fn verified(site: &Site, token: &str) -> Value {
    let keys: Vec<PublicJwk> = site.app.running.server.keyring.snapshot().key_set.jwks().to_vec();
    verify_access_token_signature(token, &keys).unwrap()
}

crate::on_both_databases!(a_person_logs_in_and_the_client_learns_who_it_is, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(
        &mut ada,
        "ada",
        &query("app", &[("scope", "openid email offline_access")]),
    )
    .await;
    let (status, tokens) = redeem(&site, "app", &code, &[]).await;
    assert_eq!(status, 200, "{tokens}");
    assert_eq!(tokens["token_type"], "Bearer");
    assert_eq!(tokens["scope"], "openid email offline_access");

    let (access_token, id_token) = (
        tokens["access_token"].as_str().unwrap(),
        tokens["id_token"].as_str().unwrap(),
    );
    let (access, id) = (verified(&site, access_token), verified(&site, id_token));
    let sub = site.raw.texts("SELECT user_id FROM users").await.remove(0);
    for (claim, value) in [
        ("iss", json!("http://127.0.0.1:8080")),
        ("sub", json!(sub)),
        ("aud", json!("app")),
        ("azp", json!("app")),
        ("nonce", json!("its nonce")),
        ("amr", json!(["pwd"])),
        ("at_hash", json!(IdTokenClaims::hash_of(access_token))),
        ("sid", access["sid"].clone()),
    ] {
        assert_eq!(id[claim], value, "{claim}");
    }
    assert_eq!(crate::token::header(id_token)["typ"], "JWT");
    assert_eq!(crate::token::header(access_token)["typ"], "at+jwt");
    let (issued, expires, logged_in) = (id["iat"].as_i64(), id["exp"].as_i64(), id["auth_time"].as_i64());
    assert!(logged_in <= issued && issued < expires, "{id}");
    assert_eq!((&access["sub"], &access["client_id"]), (&json!(sub), &json!("app")));
    assert_eq!(access["scope"], "openid email offline_access");
    assert_eq!(access.get("email"), None, "no personal data in an access token");
    assert_ne!(access["grant_id"], access["sid"], "the client has a grant of its own");

    let (status, told) = userinfo(&site, access_token).await;
    assert_eq!(
        (status, told),
        (
            200,
            json!({ "sub": sub, "email": email("ada"), "email_verified": false })
        )
    );

    let refresh = [
        ("grant_type", "refresh_token"),
        ("client_id", "app"),
        ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
    ];
    let (status, next) = ask(&site, &refresh).await;
    assert_eq!((status, &next["scope"]), (200, &tokens["scope"]), "{next}");
    let again = verified(&site, next["id_token"].as_str().unwrap());
    for claim in ["sub", "aud", "auth_time", "sid"] {
        assert_eq!(again[claim], id[claim], "{claim}");
    }
    assert_eq!(again.get("nonce"), None);
    site.stop().await;
});

crate::on_both_databases!(a_grant_has_what_was_asked_for_and_no_more, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[("scope", "openid")])).await;
    let (_, tokens) = redeem(&site, "app", &code, &[]).await;
    assert_eq!(tokens.get("refresh_token"), None, "{tokens}");
    let (_, told) = userinfo(&site, tokens["access_token"].as_str().unwrap()).await;
    assert_eq!(told.as_object().unwrap().len(), 1, "{told}");

    // Without openid it is plain OAuth.
    let answer = answer_of(
        &visit(
            &mut ada,
            &query("app", &[("scope", "email offline_access"), ("nonce", "")]),
        )
        .await,
    );
    let (_, tokens) = redeem(&site, "app", answer["code"].as_str().unwrap(), &[]).await;
    assert_eq!(tokens.get("id_token"), None, "{tokens}");
    let (status, refused) = userinfo(&site, tokens["access_token"].as_str().unwrap()).await;
    assert_eq!((status, &refused["code"]), (403, &json!("insufficient_scope")));

    // A refresh may ask for less, and not for more.
    let refresh = |scope: &'static str| {
        let token = tokens["refresh_token"].as_str().unwrap().to_owned();
        let site = &site;
        async move {
            let form = [
                ("grant_type", "refresh_token"),
                ("client_id", "app"),
                ("refresh_token", token.as_str()),
                ("scope", scope),
            ];
            ask(site, &form).await
        }
    };
    let (status, wider) = refresh("email openid").await;
    assert_eq!((status, &wider["error"]), (400, &json!("invalid_scope")));
    let (status, narrower) = refresh("email").await;
    assert_eq!((status, &narrower["scope"]), (200, &json!("email")), "{narrower}");
    site.stop().await;
});

crate::on_both_databases!(one_login_serves_every_client, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    register(&site, &own("other")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[])).await;
    let (_, first) = redeem(&site, "app", &code, &[]).await;
    let answer = answer_of(&visit(&mut ada, &query("other", &[("prompt", "none")])).await);
    assert_eq!(
        (&answer["state"], &answer["iss"]),
        (&json!("its state"), &json!("http://127.0.0.1:8080"))
    );
    let (_, second) = redeem(&site, "other", answer["code"].as_str().unwrap(), &[]).await;
    let (first, second) = (
        first["access_token"].as_str().unwrap(),
        second["access_token"].as_str().unwrap(),
    );
    let of = |token| crate::token::claims(token);
    assert_eq!(of(first)["sid"], of(second)["sid"]);
    assert_ne!(of(first)["grant_id"], of(second)["grant_id"]);

    // One logout ends both, and the next request asks for a login.
    ada.refresh().await;
    assert_eq!(ada.post("/auth/logout", None).await.status(), 204);
    for token in [first, second] {
        assert_eq!(userinfo(&site, token).await.0, 401);
    }
    let refused = answer_of(&visit(&mut ada, &query("app", &[("prompt", "none")])).await);
    assert_eq!(refused["error"], "login_required");
    site.stop().await;
});

crate::on_both_databases!(a_login_at_auth_serves_clients_too, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let mut ada = site.person("ada").await;
    let answer = answer_of(&visit(&mut ada, &query("app", &[("prompt", "none")])).await);
    let (status, tokens) = redeem(&site, "app", answer["code"].as_str().unwrap(), &[]).await;
    assert_eq!(status, 200);
    assert_eq!(
        crate::token::claims(tokens["access_token"].as_str().unwrap())["sid"],
        ada.sid
    );
    site.stop().await;
});

crate::on_both_databases!(who_is_asked_again, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    site.register("bob").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[])).await;
    let (_, tokens) = redeem(&site, "app", &code, &[]).await;
    let hint = tokens["id_token"].as_str().unwrap();
    let access = tokens["access_token"].as_str().unwrap();
    let mut bob = site.visitor();
    log_in_at(&mut bob, "bob", &query("app", &[])).await;
    // A hint names the person; an access token is none, and neither is noise.
    for (visitor, hint, error) in [(&mut ada, hint, None), (&mut bob, hint, Some("login_required"))] {
        let asked = query("app", &[("prompt", "none"), ("id_token_hint", hint)]);
        let answer = answer_of(&visit(visitor, &asked).await);
        assert_eq!(answer.get("error").and_then(Value::as_str), error, "{answer}");
    }
    // Another person sees which account is expected; a hint that cannot be verified is ignored on a page.
    let page = visit(&mut bob, &query("app", &[("id_token_hint", hint)])).await;
    assert!(page.text().await.unwrap().contains("another account"));
    let answer = answer_of(&visit(&mut bob, &query("app", &[("id_token_hint", "noise")])).await);
    assert!(answer["code"].is_string(), "{answer}");
    for hint in [access, "noise", "a.b.c"] {
        let asked = query("app", &[("prompt", "none"), ("id_token_hint", hint)]);
        let answer = answer_of(&visit(&mut ada, &asked).await);
        assert_eq!(answer["error"], "login_required", "{hint}");
    }
    for prompt in ["login", "select_account"] {
        let page = visit(&mut ada, &query("app", &[("prompt", prompt)])).await;
        assert_eq!(page.status(), 200);
        let page = page.text().await.unwrap();
        let before = ada.jar.clone();
        let next = leads_to(&log_in(&mut ada, &page, "ada").await.text().await.unwrap());
        assert_ne!(
            before["__Host-keyround-login"], ada.jar["__Host-keyround-login"],
            "a new session"
        );
        let answer = answer_of(&visit(&mut ada, next.split_once('?').unwrap().1).await);
        assert!(answer["code"].is_string(), "{answer}");
    }
    site.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_ends_codes_logins_and_patience() {
    let site = Site::start(crate::helpers::TestDatabase::sqlite(), &[]).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[])).await;
    site.app.pass(Seconds(60), Seconds(5)).await;
    let (status, refused) = redeem(&site, "app", &code, &[]).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
    for (max_age, is_answered) in [("61", true), ("30", false)] {
        let asked = query("app", &[("max_age", max_age), ("prompt", "none")]);
        let answer = answer_of(&visit(&mut ada, &asked).await);
        assert_eq!(answer.get("code").is_some(), is_answered, "{max_age}: {answer}");
    }
    // However short, a login that was just made is enough.
    let page = visit(&mut ada, &query("app", &[("max_age", "0")]))
        .await
        .text()
        .await
        .unwrap();
    site.app.pass(Seconds(2), Seconds(1)).await;
    let next = leads_to(&log_in(&mut ada, &page, "ada").await.text().await.unwrap());
    site.app.pass(Seconds(2), Seconds(1)).await;
    assert!(answer_of(&visit(&mut ada, next.split_once('?').unwrap().1).await)["code"].is_string());
    site.stop().await;
}

crate::on_both_databases!(consent_is_asked_for_once_for_what_is_new, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &third("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let page = visit(&mut ada, &query("app", &[])).await.text().await.unwrap();
    let next = leads_to(&log_in(&mut ada, &page, "ada").await.text().await.unwrap());
    let asked = next.split_once('?').unwrap().1.to_owned();
    let page = visit(&mut ada, &asked).await.text().await.unwrap();
    assert!(
        page.contains("Allow access?") && page.contains("your e-mail address"),
        "{page}"
    );
    let none = answer_of(&visit(&mut ada, &query("app", &[("prompt", "none")])).await);
    assert_eq!(none["error"], "consent_required");

    // After a refusal, which the client hears of, the person is asked again.
    let refused = send(&mut ada, "/oauth2/authorize/consent", &page, &[("decision", "deny")]).await;
    let refused = answer_at(&leads_to(&refused.text().await.unwrap()));
    assert_eq!(
        (&refused["error"], &refused["state"]),
        (&json!("access_denied"), &json!("its state"))
    );
    let page = visit(&mut ada, &asked).await.text().await.unwrap();

    let allowed = send(&mut ada, "/oauth2/authorize/consent", &page, &[("decision", "allow")]).await;
    let answer = answer_at(&leads_to(&allowed.text().await.unwrap()));
    assert_eq!(redeem(&site, "app", answer["code"].as_str().unwrap(), &[]).await.0, 200);
    let again = answer_of(&visit(&mut ada, &query("app", &[("prompt", "none")])).await);
    assert!(again["code"].is_string());
    // More is asked for anew, and so is everything when the client wishes.
    for more in [("scope", "openid email profile"), ("prompt", "consent")] {
        let page = visit(&mut ada, &query("app", &[more])).await.text().await.unwrap();
        assert!(page.contains("Allow access?"), "{more:?}");
    }
    assert_eq!(
        site.raw
            .number("SELECT count(*) FROM audit WHERE event = 'consent.granted'")
            .await,
        1
    );
    // Who comes later under the same id inherits nothing.
    site.raw.execute("DELETE FROM clients WHERE client_id = 'app'").await;
    assert_eq!(site.raw.number("SELECT count(*) FROM consents").await, 0);
    site.stop().await;
});

crate::on_both_databases!(an_answer_can_be_posted, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let mut ada = site.person("ada").await;
    let page = visit(&mut ada, &query("app", &[("response_mode", "form_post")])).await;
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    assert!(page.contains(&format!("action=\"{CALLBACK}\"")), "{page}");
    assert_eq!(hidden(&page, "state"), "its state");
    let code = hidden(&page, "code");
    assert_eq!(redeem(&site, "app", &code, &[("code_verifier", VERIFIER)]).await.0, 200);
    // Another site's form brings no cookie along, so the browser comes back by GET.
    let form: Vec<(String, String)> = url::form_urlencoded::parse(query("app", &[]).as_bytes())
        .into_owned()
        .collect();
    let sent = ada
        .bare(Method::POST, "/oauth2/authorize")
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 303);
    let location = sent.headers()["location"].to_str().unwrap().to_owned();
    let answer = answer_of(&visit(&mut ada, location.split_once('?').unwrap().1).await);
    assert!(answer["code"].is_string());
    site.stop().await;
});

crate::on_both_databases!(metadata_says_what_there_is, |database| {
    let site = Site::start(database, &[]).await;
    let metadata: Value = site
        .app
        .http
        .get(format!("{}/.well-known/openid-configuration", site.app.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(metadata["response_types_supported"], json!(["code"]));
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    assert_eq!(metadata["request_uri_parameter_supported"], false);
    register(&site, &own("app")).await;
    let mut visitor = site.visitor();
    for (endpoint, method, status) in [
        ("authorization_endpoint", Method::GET, 400),
        ("userinfo_endpoint", Method::GET, 401),
        ("end_session_endpoint", Method::GET, 200),
        ("token_endpoint", Method::POST, 415),
    ] {
        let path = metadata[endpoint]
            .as_str()
            .unwrap()
            .strip_prefix("http://127.0.0.1:8080")
            .unwrap();
        let answer = visitor.bare(method, path).send().await.unwrap();
        assert_eq!(answer.status(), status, "{endpoint}");
    }
    // Each mode and each language is there.
    for mode in metadata["response_modes_supported"].as_array().unwrap() {
        let asked = query("app", &[("response_mode", mode.as_str().unwrap()), ("prompt", "none")]);
        let answer = visit(&mut visitor, &asked).await;
        assert!([200, 303].contains(&answer.status().as_u16()), "{mode}");
    }
    for (language, title) in [("en", "Log in"), ("de", "Anmelden"), ("id", "Masuk")] {
        assert!(
            metadata["ui_locales_supported"]
                .as_array()
                .unwrap()
                .contains(&json!(language))
        );
        let page = visit(&mut visitor, &query("app", &[("ui_locales", language)]))
            .await
            .text()
            .await
            .unwrap();
        assert!(page.contains(&format!("<title>{title}</title>")) && page.contains(&format!("lang=\"{language}\"")));
    }
    site.stop().await;
});
