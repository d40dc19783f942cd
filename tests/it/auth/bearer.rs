//! Access tokens in the header `Authorization` (RFC 6750), and what gateways are told.

use keyround::oauth::client::Client;
use keyround::store::clients::ClientChange;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::token::{change, client, register};

use super::visitor::{Site, email, refused, told};

/// What the header `WWW-Authenticate` says.
fn challenge(answer: &Response) -> &str {
    answer.headers()["www-authenticate"].to_str().unwrap()
}

// O19.
crate::on_both_databases!(a_token_comes_in_the_header_and_nowhere_else, |database| {
    let site = Site::start(database, &[]).await;
    let ada = site.person("ada").await;
    let token = &ada.access_token;
    for path in ["/auth/me", "/auth/sessions", "/auth/verify"] {
        let bare = || ada.bare(Method::GET, path);
        for request in [
            bare(),
            bare().header("Authorization", ""),
            bare().header("Authorization", "Bearer"),
            bare().header("Authorization", "Bearer "),
            bare().header("Authorization", token.as_str()),
            bare().basic_auth("ada", Some(token)),
        ] {
            let answer = request.send().await.unwrap();
            assert_eq!(challenge(&answer), r#"Bearer realm="keyround""#);
            assert_eq!(told(answer).await, refused(401, "token_missing"), "{path}");
        }
        for request in [
            ada.bare(Method::GET, &format!("{path}?access_token={token}")),
            ada.bare(Method::GET, &format!("{path}?access_token={token}"))
                .bearer_auth(token),
            bare()
                .bearer_auth(token)
                .header("Authorization", format!("Bearer {token}")),
        ] {
            assert_eq!(
                told(request.send().await.unwrap()).await,
                refused(400, "invalid_request"),
                "{path}"
            );
        }
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let request = bare().header("Authorization", format!("{scheme} {token}"));
            assert_eq!(request.send().await.unwrap().status(), 200, "{path} {scheme}");
        }
        let answer = bare().bearer_auth("garbage").send().await.unwrap();
        assert!(challenge(&answer).starts_with(r#"Bearer realm="keyround", error="invalid_token""#));
    }
    site.stop().await;
});

crate::on_both_databases!(the_account_is_shown_as_it_is_now, |database| {
    let site = Site::start(database, &[]).await;
    let ada = site.person("ada").await;
    let claims = crate::token::claims(&ada.access_token);
    for name in ["email", "name", "email_verified"] {
        assert!(claims.get(name).is_none(), "{claims}");
    }
    site.raw
        .execute("UPDATE users SET roles = 'admin reader', email_verified_at = 7")
        .await;
    let answer = ada.bearer(Method::GET, "/auth/me").send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let me: Value = answer.json().await.unwrap();
    let expected = json!({
        "sub": claims["sub"], "email": email("ada"), "email_verified": true, "name": "ada", "tenant": "default",
        "roles": ["admin", "reader"], "created_at": me["created_at"],
    });
    assert_eq!(me, expected);
    assert!(me["created_at"].is_i64());
    site.raw.execute("DELETE FROM users").await;
    assert_eq!(ada.me().await, refused(401, "token_invalid"));
    site.stop().await;
});

crate::on_both_databases!(a_clients_token_is_no_persons, |database| {
    let settings = [("accounts.audience", "https://api.example.com")];
    let site = Site::start(database, &settings).await;
    let secret = register(&site.app, &client("billing")).await;
    let mut billing = site.visitor();
    billing.access_token = site.app.token("billing", &secret).await;
    let answer = billing.bearer(Method::GET, "/auth/me").send().await.unwrap();
    assert!(challenge(&answer).starts_with(r#"Bearer realm="keyround", error="insufficient_scope""#));
    assert_eq!(told(answer).await, refused(403, "insufficient_scope"));
    // Gateways let both through, and tell services who it is.
    assert_eq!(billing.verify().await, 200);
    site.stop().await;
});

async fn verify(site: &Site, token: &str, query: &str) -> Response {
    let mut visitor = site.visitor();
    token.clone_into(&mut visitor.access_token);
    let path = format!("/auth/verify{query}");
    visitor.bearer(Method::GET, &path).send().await.unwrap()
}

crate::on_both_databases!(a_gateway_is_told_who_asks, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    site.raw.execute("UPDATE users SET roles = 'admin reader'").await;
    ada.refresh().await;
    let answer = verify(&site, &ada.access_token, "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let claims = crate::token::claims(&ada.access_token);
    let told_of = |answer: &Response| {
        ["subject", "client", "session", "tenant", "roles", "scope"]
            .map(|name| answer.headers()[&format!("x-auth-{name}")].to_str().unwrap().to_owned())
    };
    let subject = claims["sub"].as_str().unwrap();
    assert_eq!(
        told_of(&answer),
        [subject, "first-party", &ada.sid, "default", "admin reader", ""]
    );
    assert_eq!(answer.text().await.unwrap(), "");

    // A service's own token, for its own audience.
    let secret = register(&site.app, &client("billing")).await;
    let token = site.app.token("billing", &secret).await;
    assert_eq!(
        told(verify(&site, &token, "").await).await,
        refused(401, "token_invalid")
    );
    let audience = "?audience=https%3A%2F%2Fapi.example.com";
    let answer = verify(&site, &token, audience).await;
    assert_eq!(told_of(&answer), ["billing", "billing", "", "", "", "read write"]);
    assert_eq!(
        told(verify(&site, &ada.access_token, audience).await).await,
        refused(401, "token_invalid")
    );
    site.stop().await;
});

crate::on_both_databases!(a_gateway_asks_for_scope_and_role, |database| {
    let site = Site::start(database, &[]).await;
    let mut ada = site.person("ada").await;
    site.raw.execute("UPDATE users SET roles = 'admin reader'").await;
    ada.refresh().await;
    let secret = register(&site.app, &client("billing")).await;
    let service = site.app.token("billing", &secret).await;
    let audience = "audience=https%3A%2F%2Fapi.example.com";
    let enough = [
        (&ada.access_token, "?role=admin".to_owned()),
        (&ada.access_token, "?role=owner&role=reader".to_owned()),
        (&service, format!("?{audience}&scope=read")),
        (&service, format!("?{audience}&scope=write+read")),
    ];
    for (token, query) in &enough {
        assert_eq!(verify(&site, token, query).await.status(), 200, "{query}");
    }
    let too_little = [
        (&ada.access_token, "?role=owner".to_owned()),
        (&ada.access_token, "?role=".to_owned()),
        (&ada.access_token, "?role=admin&scope=read".to_owned()),
        (&service, format!("?{audience}&role=admin")),
        (&service, format!("?{audience}&scope=read+delete")),
        (&service, format!("?{audience}&scope=rea")),
    ];
    for (token, query) in &too_little {
        let answer = verify(&site, token, query).await;
        assert_eq!(told(answer).await, refused(403, "insufficient_scope"), "{query}");
    }
    // What a visitor adds to its own address never takes the gateway's place.
    for query in [
        format!("?{audience}&for=/a&audience=http://127.0.0.1:8080"),
        format!("?{audience}&scope=read&scope="),
    ] {
        assert_eq!(
            told(verify(&site, &service, &query).await).await,
            refused(400, "invalid_request"),
            "{query}"
        );
    }
    let with_address = format!("?{audience}&for=/orders%3Fa=b&c=d");
    assert_eq!(verify(&site, &service, &with_address).await.status(), 200);
    // Only the very path: what a gateway appends to it could be a visitor's.
    assert_eq!(verify(&site, &service, "/orders").await.status(), 404);
    site.stop().await;
});

crate::on_both_databases!(a_disabled_client_passes_no_gateway, |database| {
    let site = Site::start(database, &[("accounts.audience", "https://api.example.com")]).await;
    let billing: Client = client("billing");
    let secret = register(&site.app, &billing).await;
    let token = site.app.token("billing", &secret).await;
    assert_eq!(verify(&site, &token, "").await.status(), 200);
    change(&site.app, "billing", ClientChange::Disable).await;
    site.app.until_clients_are_read_anew().await;
    assert_eq!(
        told(verify(&site, &token, "").await).await,
        refused(401, "token_invalid")
    );
    site.stop().await;
});
