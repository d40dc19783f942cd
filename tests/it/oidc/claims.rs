//! What a client is told of the person, and who asks.

use keyround::jose::alg::Algorithm;
use keyround::oauth::claims::ScopeClaims;
use keyround::oauth::client::Client;
use reqwest::Method;
use serde_json::{Value, json};

use super::party::{
    answer_of, hidden, leads_to, log_in, own, query, redeem, refresh, register, third, userinfo, visit,
};
use crate::auth::visitor::{Site, Visitor, email};
use crate::helpers::{TestDatabase, answered};
use crate::token::claims;

/// The tokens for a request of a client of a person who is logged in.
async fn tokens(site: &Site, visitor: &mut Visitor<'_>, client: &str, more: &[(&str, &str)]) -> Value {
    let answer = answer_of(&visit(visitor, &query(client, more)).await);
    let code = answer["code"].as_str().unwrap_or_else(|| panic!("{answer}"));
    redeem(site, client, code, &[]).await.1
}

fn id_token(tokens: &Value) -> Value {
    claims(tokens["id_token"].as_str().unwrap_or_else(|| panic!("{tokens}")))
}

async fn told(site: &Site, tokens: &Value) -> Value {
    userinfo(site, tokens["access_token"].as_str().unwrap()).await.1
}

crate::on_both_databases!(a_client_is_told_what_it_asks_for_and_may_have, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let narrow = Client {
        scope: "openid profile".parse().unwrap(),
        ..own("narrow")
    };
    register(&site, &narrow).await;
    let mut ada = site.person("ada").await;
    let asked = json!({
        "id_token": { "email": { "essential": true }, "given_name": null, "auth_time": { "essential": true } },
        "userinfo": { "name": null, "picture": null },
    })
    .to_string();
    let asked = [("scope", "openid"), ("claims", asked.as_str())];

    let plain = tokens(&site, &mut ada, "app", &[("scope", "openid email")]).await;
    assert_eq!(id_token(&plain).get("email"), None, "it is at the userinfo endpoint");
    assert_eq!(id_token(&plain)["acr"], "1", "a login with a password");

    let all = tokens(&site, &mut ada, "app", &asked).await;
    let told_by_token = id_token(&all);
    assert_eq!(told_by_token["email"], email("ada").as_str());
    for absent in ["name", "email_verified", "given_name"] {
        assert_eq!(told_by_token.get(absent), None, "{absent}");
    }
    // No personal data in the access token.
    assert_eq!(claims(all["access_token"].as_str().unwrap()).get("email"), None);
    let at_userinfo = told(&site, &all).await;
    assert_eq!(at_userinfo["name"], "ada");
    assert_eq!(at_userinfo["email_verified"], false);

    // A claim counts as its scope, and the client has no other than it is registered for.
    let less = tokens(&site, &mut ada, "narrow", &asked).await;
    assert_eq!(id_token(&less).get("email"), None);
    assert_eq!(told(&site, &less).await.get("email"), None);
    for malformed in ["7", "{", "{\"id_token\":7}"] {
        let answer = answer_of(&visit(&mut ada, &query("app", &[("claims", malformed)])).await);
        assert_eq!(answer["error"], "invalid_request", "{malformed}");
    }
    site.stop().await;
});

crate::on_both_databases!(a_claim_that_is_asked_for_is_asked_of_the_person, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &third("app")).await;
    let mut ada = site.person("ada").await;
    let asked = json!({ "id_token": { "email": null } }).to_string();
    let asked = query("app", &[("scope", "openid"), ("claims", &asked)]);
    let page = visit(&mut ada, &asked).await.text().await.unwrap();
    assert!(page.contains("your e-mail address"), "{page}");
    site.stop().await;
});

crate::on_both_databases!(a_client_insists_on_a_person_and_on_a_level, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    site.register("bob").await;
    let mut ada = site.person("ada").await;
    let plain = tokens(&site, &mut ada, "app", &[]).await;
    let sub = id_token(&plain)["sub"].as_str().unwrap().to_owned();
    let of = |claims: Value| json!({ "id_token": claims }).to_string();
    for (claims, error) in [
        (of(json!({ "sub": { "value": sub } })), None),
        (of(json!({ "sub": { "value": "another" } })), Some("login_required")),
        (of(json!({ "acr": { "essential": true, "values": ["2", "1"] } })), None),
        (of(json!({ "acr": { "value": "2" } })), None),
        (
            of(json!({ "acr": { "essential": true, "value": "2" } })),
            Some("unmet_authentication_requirements"),
        ),
    ] {
        let asked = query("app", &[("prompt", "none"), ("claims", &claims), ("acr_values", "2 1")]);
        let answer = answer_of(&visit(&mut ada, &asked).await);
        assert_eq!(answer.get("error").and_then(Value::as_str), error, "{claims}: {answer}");
    }
    // No login with a password is surer than that: the client hears so at once, and no page asks in vain.
    let insisting = of(json!({ "acr": { "essential": true, "value": "2" } }));
    let mut bob = site.visitor();
    let page = visit(&mut bob, &query("app", &[("claims", &insisting)])).await;
    let page = log_in(&mut bob, &page.text().await.unwrap(), "bob")
        .await
        .text()
        .await
        .unwrap();
    let next = leads_to(&page);
    let answer = answer_of(&visit(&mut bob, next.split_once('?').unwrap().1).await);
    assert_eq!(answer["error"], "unmet_authentication_requirements");
    site.stop().await;
});

crate::on_both_databases!(a_registration_says_what_else_a_client_is_told, |database| {
    let settings = [("keys.algorithms", "RS256, ES256")];
    let site = Site::start(database, &settings).await;
    let cluster = Client {
        roles_claim: Some("groups".parse().unwrap()),
        scope_claims: ScopeClaims::IdToken,
        id_token_alg: Some(Algorithm::Rs256),
        ..own("cluster")
    };
    register(&site, &cluster).await;
    let text = Client {
        roles_claim: Some("https://example.com/roles:text".parse().unwrap()),
        ..own("text")
    };
    register(&site, &text).await;
    let mut ada = site.person("ada").await;
    site.raw.execute("UPDATE users SET roles = 'admin auditor'").await;
    let first = tokens(&site, &mut ada, "cluster", &[("scope", "openid email offline_access")]).await;
    let next = refresh(&site, "cluster", &first).await.1;
    for tokens in [&first, &next] {
        let said = id_token(tokens);
        assert_eq!(said["groups"], json!(["admin", "auditor"]));
        assert_eq!(said["email"], email("ada").as_str());
        assert_eq!(said.get("name"), None, "the scope profile was not asked for");
        assert_eq!(told(&site, tokens).await["groups"], json!(["admin", "auditor"]));
        let alg = |name: &str| crate::token::header(tokens[name].as_str().unwrap())["alg"].clone();
        assert_eq!((alg("id_token"), alg("access_token")), (json!("RS256"), json!("ES256")));
    }
    let tokens = tokens(&site, &mut ada, "text", &[]).await;
    assert_eq!(id_token(&tokens)["https://example.com/roles"], "admin auditor");
    assert_eq!(id_token(&tokens).get("email"), None);
    site.stop().await;
});

/// A page without a server redeems its code, asks who is there and refreshes, from an origin of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_reads_what_it_is_given() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    register(&site, &own("app")).await;
    let any = |answer: &reqwest::Response, what: &str| {
        assert_eq!(answer.headers()["access-control-allow-origin"], "*", "{what}");
        assert_eq!(answer.headers().get("access-control-allow-credentials"), None, "{what}");
    };
    let visitor = site.visitor();
    for (path, method, refused) in [
        ("/oauth2/token", Method::POST, 415),
        ("/oauth2/revoke", Method::POST, 415),
        ("/oauth2/userinfo", Method::GET, 401),
    ] {
        let asked = visitor
            .bare(Method::OPTIONS, path)
            .header("Origin", "https://app.example.com")
            .header("Access-Control-Request-Method", method.as_str())
            .header("Access-Control-Request-Headers", "authorization,content-type");
        let leave = answered(asked).await;
        assert_eq!(leave.status(), 204, "{path}");
        any(&leave, path);
        let methods = leave.headers()["access-control-allow-methods"].to_str().unwrap();
        assert!(methods.contains(method.as_str()), "{path}: {methods}");
        assert_eq!(
            leave.headers()["access-control-allow-headers"],
            "Authorization, Content-Type"
        );
        let answer = answered(visitor.bare(method, path)).await;
        assert_eq!(answer.status(), refused, "{path}");
        any(&answer, path);
    }
    // What goes by the cookie of the login session is read by no other page.
    for path in ["/oauth2/authorize", "/oauth2/logout", "/oauth2/introspect"] {
        let asked = visitor
            .bare(Method::OPTIONS, path)
            .header("Origin", "https://app.example.com");
        assert_eq!(
            answered(asked).await.headers().get("access-control-allow-origin"),
            None,
            "{path}"
        );
    }
    site.stop().await;
}

crate::on_both_databases!(a_client_shows_its_name, |database| {
    let site = Site::start(database, &[]).await;
    let named = Client {
        name: Some("Notes <b>&amp; more".parse().unwrap()),
        ..third("app")
    };
    register(&site, &named).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let page = visit(&mut ada, &query("app", &[])).await.text().await.unwrap();
    assert!(page.contains("Notes &#60;b&#62;&#38;amp; more"), "{page}");
    let page = log_in(&mut ada, &page, "ada").await.text().await.unwrap();
    let next = leads_to(&page);
    let page = visit(&mut ada, next.split_once('?').unwrap().1)
        .await
        .text()
        .await
        .unwrap();
    assert!(
        page.contains("Notes &#60;b&#62;") && !hidden(&page, "form_token").is_empty(),
        "{page}"
    );
    site.stop().await;
});
