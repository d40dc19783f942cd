//! What a thief, another client or another site tries; each turns red without its guard.

use keyround::oauth::client::{Client, ClientKind};
use reqwest::Method;
use serde_json::{Value, json};

use super::party::{
    CALLBACK, VERIFIER, answer_of, ask, hidden, log_in, log_in_at, own, query, redeem, refresh, register, send, third,
    userinfo, visit,
};
use crate::auth::visitor::{PASSWORD, Site, email};
use crate::helpers::answered;

crate::on_both_databases!(
    a_code_counts_once_and_its_second_use_ends_what_the_first_got,
    |database| {
        let site = Site::start(database, &[]).await;
        register(&site, &own("app")).await;
        site.register("ada").await;
        let mut ada = site.visitor();
        let code = log_in_at(&mut ada, "ada", &query("app", &[("scope", "openid offline_access")])).await;
        let (_, tokens) = redeem(&site, "app", &code, &[]).await;
        let access_token = tokens["access_token"].as_str().unwrap();
        assert_eq!(userinfo(&site, access_token).await.0, 200);
        let (status, refused) = redeem(&site, "app", &code, &[]).await;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
        assert_eq!(
            userinfo(&site, access_token).await.0,
            401,
            "the thief or the client had it"
        );
        let refresh = [
            ("grant_type", "refresh_token"),
            ("client_id", "app"),
            ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
        ];
        assert_eq!(ask(&site, &refresh).await.1["error"], "invalid_grant");
        assert_eq!(
            site.raw
                .number("SELECT count(*) FROM audit WHERE event = 'code.reuse_detected'")
                .await,
            1
        );
        // The login session lives: its other grants are not the thief's.
        assert!(answer_of(&visit(&mut ada, &query("app", &[("prompt", "none")])).await)["code"].is_string());
        site.stop().await;
    }
);

crate::on_both_databases!(a_code_is_bound_to_its_request, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    register(&site, &own("thief")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[])).await;
    let other = "another-verifier-of-43-characters-or-more-0";
    for (client, more, error) in [
        ("thief", ("code", code.as_str()), "invalid_grant"),
        (
            "app",
            ("redirect_uri", "https://app.example.com/other"),
            "invalid_grant",
        ),
        ("app", ("redirect_uri", ""), "invalid_request"),
        ("app", ("code_verifier", other), "invalid_grant"),
        ("app", ("code_verifier", ""), "invalid_grant"),
        ("app", ("code_verifier", "short"), "invalid_request"),
        ("app", ("code", "unknown"), "invalid_grant"),
        ("app", ("code", ""), "invalid_request"),
    ] {
        let (status, refused) = redeem(&site, client, &code, &[more]).await;
        assert_eq!((status, &refused["error"]), (400, &json!(error)), "{client} {more:?}");
    }
    let (status, _) = redeem(&site, "nobody", &code, &[]).await;
    assert_eq!(status, 401);
    // None of these tries has used it up.
    assert_eq!(redeem(&site, "app", &code, &[]).await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(pkce_cannot_be_taken_away, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let optional = Client {
        kind: ClientKind::Confidential(None),
        is_pkce_optional: true,
        ..own("service")
    };
    let secret = site.app.create_client("placeholder", None).await;
    register(&site, &optional).await;
    site.raw
        .execute("UPDATE clients SET secret_digest = (SELECT secret_digest FROM clients WHERE client_id = 'placeholder') WHERE client_id = 'service'")
        .await;
    site.app.until_clients_are_read_anew().await;
    let mut ada = site.person("ada").await;
    for more in [
        &[("code_challenge", ""), ("code_challenge_method", "")][..],
        &[("code_challenge_method", "")],
        &[("code_challenge_method", "plain")],
    ] {
        let refused = answer_of(&visit(&mut ada, &query("app", more)).await);
        assert_eq!(refused["error"], "invalid_request", "{more:?}");
    }
    // Without a challenge in its request a verifier is a sign of an injected code (RFC 9700 section 4.8.2).
    let bare = query("service", &[("code_challenge", ""), ("code_challenge_method", "")]);
    let code = answer_of(&visit(&mut ada, &bare).await)["code"]
        .as_str()
        .unwrap()
        .to_owned();
    let with_secret = [("client_secret", secret.as_str())];
    let (_, refused) = redeem(&site, "service", &code, &with_secret).await;
    assert_eq!(refused["error"], "invalid_grant");
    let without = [("client_secret", secret.as_str()), ("code_verifier", "")];
    assert_eq!(redeem(&site, "service", &code, &without).await.0, 200);
    // A confidential client that proves nothing gets nothing.
    let code = answer_of(&visit(&mut ada, &query("service", &[])).await)["code"]
        .as_str()
        .unwrap()
        .to_owned();
    for more in [&[][..], &[("client_secret", "wrong")]] {
        let (status, refused) = redeem(&site, "service", &code, more).await;
        assert_eq!((status, &refused["error"]), (401, &json!("invalid_client")), "{more:?}");
    }
    assert_eq!(redeem(&site, "service", &code, &with_secret).await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(a_refresh_token_of_a_confidential_client_needs_its_proof, |database| {
    let site = Site::start(database, &[]).await;
    let secret = site.app.create_client("placeholder", None).await;
    let service = Client {
        kind: ClientKind::Confidential(None),
        ..own("service")
    };
    register(&site, &service).await;
    register(&site, &own("app")).await;
    site.raw
        .execute("UPDATE clients SET secret_digest = (SELECT secret_digest FROM clients WHERE client_id = 'placeholder') WHERE client_id = 'service'")
        .await;
    site.app.until_clients_are_read_anew().await;
    let mut ada = site.person("ada").await;
    let asked = query("service", &[("scope", "openid offline_access")]);
    let code = answer_of(&visit(&mut ada, &asked).await)["code"]
        .as_str()
        .unwrap()
        .to_owned();
    let (_, tokens) = redeem(&site, "service", &code, &[("client_secret", &secret)]).await;
    let token = tokens["refresh_token"].as_str().unwrap();
    let refresh = |client: &'static str, secret: Option<String>| {
        let site = &site;
        async move {
            let mut form = vec![
                ("grant_type", "refresh_token"),
                ("client_id", client),
                ("refresh_token", token),
            ];
            if let Some(secret) = &secret {
                form.push(("client_secret", secret));
            }
            let (_, answer) = ask(site, &form).await;
            answer["error"].as_str().unwrap_or("granted").to_owned()
        }
    };
    assert_eq!(refresh("service", None).await, "invalid_client");
    assert_eq!(refresh("app", None).await, "invalid_grant");
    assert_eq!(refresh("service", Some(secret.clone())).await, "granted");
    site.stop().await;
});

crate::on_both_databases!(no_answer_goes_to_a_stranger, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let mut ada = site.person("ada").await;
    for more in [
        ("client_id", "nobody"),
        ("client_id", ""),
        ("redirect_uri", "https://evil.example/"),
        ("redirect_uri", "https://app.example.com/callback/.."),
        ("redirect_uri", ""),
    ] {
        // Neither when all else is right, nor with an error.
        for other in [
            ("response_type", "code"),
            ("response_type", "token"),
            ("request", "e30"),
        ] {
            let answer = visit(&mut ada, &query("app", &[more, other])).await;
            assert_eq!(answer.status(), 400, "{more:?}");
            assert_eq!(answer.headers().get("location"), None);
            let page = answer.text().await.unwrap();
            assert!(!page.contains("evil.example"), "{page}");
        }
    }
    // A client that was disabled gets no answer any more.
    site.raw.execute("UPDATE clients SET disabled_at = 1").await;
    site.app.until_clients_are_read_anew().await;
    assert_eq!(visit(&mut ada, &query("app", &[])).await.status(), 400);
    site.stop().await;
});

crate::on_both_databases!(no_other_site_logs_somebody_in_or_consents, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &third("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let page = visit(&mut ada, &query("app", &[])).await.text().await.unwrap();
    let form = [
        ("continue", hidden(&page, "continue")),
        ("form_token", hidden(&page, "form_token")),
        ("email", email("ada")),
        ("password", PASSWORD.to_owned()),
        ("decision", "allow".to_owned()),
    ];
    for path in ["/oauth2/authorize/login", "/oauth2/authorize/consent"] {
        let forged = |headers: &[(&str, &str)], token: &str, cookies: bool| {
            let mut form = form.clone();
            token.clone_into(&mut form[1].1);
            let request = if cookies {
                ada.with_cookies(Method::POST, path)
            } else {
                ada.bare(Method::POST, path)
            };
            headers
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value))
                .form(&form)
        };
        let good = form[1].1.clone();
        for request in [
            forged(&[("Origin", "https://evil.example")], &good, true),
            forged(&[("Origin", "null")], &good, true),
            forged(&[("Sec-Fetch-Site", "cross-site")], &good, true),
            forged(&[], &good, false),
            forged(&[], "", true),
            forged(&[], "of another browser", true),
        ] {
            let refused = answered(request).await;
            assert_eq!(refused.status(), 403, "{path}");
            let cookies = refused.headers().get_all("set-cookie").iter().count();
            assert_eq!(cookies, 0, "{path}");
        }
    }
    assert_eq!(site.raw.number("SELECT count(*) FROM login_sessions").await, 0);
    assert_eq!(site.raw.number("SELECT count(*) FROM consents").await, 0);
    site.stop().await;
});

crate::on_both_databases!(nobody_is_put_into_a_session_of_somebody_else, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let eve = site.person("eve").await;
    // Eve's session in Ada's browser: a login makes another and ends it.
    let planted = eve.jar["__Host-keyround-login"].clone();
    let mut ada = site.visitor();
    ada.jar.insert("__Host-keyround-login".to_owned(), planted.clone());
    let page = visit(&mut ada, &query("app", &[("prompt", "login")]))
        .await
        .text()
        .await
        .unwrap();
    log_in(&mut ada, &page, "ada").await;
    assert_ne!(ada.jar["__Host-keyround-login"], planted);
    let mut thief = site.visitor();
    thief.jar.insert("__Host-keyround-login".to_owned(), planted.clone());
    let refused = answer_of(&visit(&mut thief, &query("app", &[("prompt", "none")])).await);
    assert_eq!(refused["error"], "login_required");
    // A session is named by a tag that only the server makes.
    let (sid, tag) = ada.jar["__Host-keyround-login"].split_once('.').unwrap();
    let (old, _) = planted.split_once('.').unwrap();
    for value in [
        sid.to_owned(),
        format!("{sid}."),
        format!("{old}.{tag}"),
        format!("{sid}.{sid}"),
    ] {
        let mut visitor = site.visitor();
        visitor.jar.insert("__Host-keyround-login".to_owned(), value.clone());
        let refused = answer_of(&visit(&mut visitor, &query("app", &[("prompt", "none")])).await);
        assert_eq!(refused["error"], "login_required", "{value}");
    }
    site.stop().await;
});

crate::on_both_databases!(no_kind_of_token_passes_for_another, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let mut ada = site.person("ada").await;
    let answer = answer_of(&visit(&mut ada, &query("app", &[])).await);
    let code = answer["code"].as_str().unwrap().to_owned();
    let (_, tokens) = redeem(&site, "app", &code, &[]).await;
    let id_token = tokens["id_token"].as_str().unwrap();
    assert_eq!(userinfo(&site, id_token).await.0, 401);
    for path in ["/auth/me", "/auth/verify/default"] {
        for token in [id_token, tokens["access_token"].as_str().unwrap()] {
            let answer = answered(ada.bare(Method::GET, path).bearer_auth(token)).await;
            assert_eq!(answer.status(), 401, "{path}");
        }
    }
    let refresh = [
        ("grant_type", "refresh_token"),
        ("client_id", "app"),
        ("refresh_token", code.as_str()),
    ];
    assert_eq!(ask(&site, &refresh).await.1["error"], "invalid_grant");
    site.stop().await;
});

crate::on_both_databases!(whoever_may_not_act_gets_nothing_at_any_step, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[])).await;
    site.raw.execute("UPDATE users SET suspended_at = 1").await;
    assert_eq!(redeem(&site, "app", &code, &[]).await.1["error"], "invalid_grant");
    let refused = answer_of(&visit(&mut ada, &query("app", &[("prompt", "none")])).await);
    assert_eq!(refused["error"], "login_required");
    site.raw.execute("UPDATE users SET suspended_at = NULL").await;
    site.raw.execute("UPDATE tenants SET disabled_at = 1").await;
    assert_eq!(redeem(&site, "app", &code, &[]).await.1["error"], "invalid_grant");
    site.raw.execute("UPDATE tenants SET disabled_at = NULL").await;
    site.raw
        .execute("UPDATE login_sessions SET revoked_at = 1, revoked_for = 'logout'")
        .await;
    assert_eq!(redeem(&site, "app", &code, &[]).await.1["error"], "invalid_grant");
    assert_eq!(
        redeem(
            &site,
            "app",
            &code,
            &[("redirect_uri", CALLBACK), ("code_verifier", VERIFIER)]
        )
        .await
        .0,
        400
    );
    site.stop().await;
});

crate::on_both_databases!(a_wrong_password_is_told_on_the_page_and_counted, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let mut page = visit(&mut ada, &query("app", &[])).await.text().await.unwrap();
    for name in ["ada", "nobody"] {
        let fields = [("email", email(name)), ("password", "not the password".to_owned())];
        let fields = fields.each_ref().map(|(field, value)| (*field, value.as_str()));
        let answer = send(&mut ada, "/oauth2/authorize/login", &page, &fields).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 0);
        page = answer.text().await.unwrap();
        assert!(page.contains("The e-mail address or the password is wrong."), "{page}");
        assert!(
            page.contains(&email(name)) && !page.contains("not the password"),
            "{page}"
        );
    }
    site.stop().await;
});

crate::on_both_databases!(what_another_client_got_does_not_act_as_the_person, |database| {
    let site = Site::start(database, &[]).await;
    // Even for a client that was registered for the audience of the accounts.
    let client = Client {
        audiences: vec!["http://127.0.0.1:8080".parse().unwrap()],
        ..own("app")
    };
    register(&site, &client).await;
    let mut ada = site.person("ada").await;
    let code = answer_of(&visit(&mut ada, &query("app", &[])).await)["code"]
        .as_str()
        .unwrap()
        .to_owned();
    let (_, tokens) = redeem(&site, "app", &code, &[]).await;
    let token = tokens["access_token"].as_str().unwrap();
    for (method, path) in [
        (Method::GET, "/auth/me"),
        (Method::GET, "/auth/sessions"),
        (Method::POST, "/auth/logout-all"),
    ] {
        let answer = answered(ada.bare(method, path).bearer_auth(token)).await;
        assert_eq!(answer.status(), 403, "{path}");
    }
    assert_eq!(ada.me().await.0, 200, "the own session lives");
    site.stop().await;
});

crate::on_both_databases!(a_grant_follows_the_registration_of_its_client, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let mut ada = site.person("ada").await;
    let asked = query("app", &[("scope", "openid email offline_access")]);
    let code = answer_of(&visit(&mut ada, &asked).await)["code"]
        .as_str()
        .unwrap()
        .to_owned();
    let (_, tokens) = redeem(&site, "app", &code, &[]).await;
    site.raw
        .execute("UPDATE clients SET scope = 'openid offline_access'")
        .await;
    site.app.until_clients_are_read_anew().await;
    let (_, next) = refresh(&site, "app", &tokens).await;
    assert_eq!(next["scope"], "openid offline_access", "{next}");
    // Nothing that is left of a scope is no scope, and no refresh without `offline_access`.
    for scope in ["openid", "profile offline_access", ""] {
        site.raw.execute(&format!("UPDATE clients SET scope = '{scope}'")).await;
        site.app.until_clients_are_read_anew().await;
        let (status, refused) = refresh(&site, "app", &next).await;
        let expected = if scope.contains("offline") {
            (200, Value::Null)
        } else {
            (400, json!("invalid_grant"))
        };
        assert_eq!((status, refused["error"].clone()), expected, "{scope}");
    }
    // Another client of the same id, a day later.
    site.raw
        .execute("UPDATE clients SET scope = 'openid offline_access', created_at = 4000000000")
        .await;
    site.app.until_clients_are_read_anew().await;
    let (status, refused) = refresh(&site, "app", &next).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
    site.stop().await;
});

crate::on_both_databases!(
    consent_is_for_a_person_a_resource_and_a_client_that_is_known,
    |database| {
        let site = Site::start(database, &[]).await;
        let apis = Client {
            audiences: ["https://api.example.com", "https://other.example.com"]
                .map(|audience| audience.parse().unwrap())
                .to_vec(),
            ..third("app")
        };
        register(&site, &apis).await;
        let native = Client {
            redirect_uris: vec!["http://127.0.0.1/cb".parse().unwrap()],
            ..own("native")
        };
        register(&site, &native).await;
        site.register("bob").await;
        let mut ada = site.person("ada").await;
        let page = visit(&mut ada, &query("app", &[])).await.text().await.unwrap();
        assert!(
            page.contains("https://api.example.com") && page.contains(CALLBACK),
            "{page}"
        );
        // Bob logs in in another tab: what Ada was asked is not his to answer.
        let login = visit(&mut ada, &query("app", &[("prompt", "login")]))
            .await
            .text()
            .await
            .unwrap();
        log_in(&mut ada, &login, "bob").await;
        let refused = send(&mut ada, "/oauth2/authorize/consent", &page, &[("decision", "allow")]).await;
        assert_eq!(refused.status(), 403);
        assert_eq!(site.raw.number("SELECT count(*) FROM consents").await, 0);
        let page = visit(&mut ada, &query("app", &[])).await.text().await.unwrap();
        assert!(page.contains(&email("bob")), "{page}");
        send(&mut ada, "/oauth2/authorize/consent", &page, &[("decision", "allow")]).await;
        for (resource, error) in [
            ("https://api.example.com", None),
            ("https://other.example.com", Some("consent_required")),
        ] {
            let asked = query("app", &[("prompt", "none"), ("resource", resource)]);
            let answer = answer_of(&visit(&mut ada, &asked).await);
            assert_eq!(
                answer.get("error").and_then(serde_json::Value::as_str),
                error,
                "{resource}"
            );
        }
        // Any program on the device could be this app: the person is asked each time, also for one of the operator.
        for _ in 0..2 {
            let asked = query("native", &[("redirect_uri", "http://127.0.0.1:6666/cb")]);
            let page = visit(&mut ada, &asked).await.text().await.unwrap();
            assert!(page.contains("Allow access?"), "{page}");
            let allowed = send(&mut ada, "/oauth2/authorize/consent", &page, &[("decision", "allow")]).await;
            assert!(allowed.text().await.unwrap().contains("http://127.0.0.1:6666/cb?code="));
        }
        site.stop().await;
    }
);

crate::on_both_databases!(a_login_allows_nothing_that_has_no_name, |database| {
    let site = Site::start(database, &[]).await;
    let scopeless = Client {
        scope: "offline_access".parse().unwrap(),
        ..third("app")
    };
    register(&site, &scopeless).await;
    let mut ada = site.person("ada").await;
    for scope in ["", "admin"] {
        let refused = answer_of(&visit(&mut ada, &query("app", &[("scope", scope)])).await);
        assert_eq!(refused["error"], "invalid_scope", "{scope}");
    }
    site.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_person_does_not_fill_the_database() {
    let site = Site::start(crate::helpers::TestDatabase::sqlite(), &[]).await;
    register(&site, &own("app")).await;
    let mut ada = site.person("ada").await;
    let mut limited = 0;
    for _ in 0..200 {
        limited += usize::from(visit(&mut ada, &query("app", &[])).await.status() == 429);
    }
    assert!(limited > 50, "{limited}");
    site.stop().await;
}
