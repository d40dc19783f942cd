//! What a person has allowed is seen and taken back.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::party::{
    answer_at, answer_of, hidden, leads_to, log_in, query, redeem, refresh, register, send, third, userinfo, visit,
};
use crate::auth::visitor::{Site, Visitor, email};
use crate::helpers::answered;

const SCOPE: [(&str, &str); 1] = [("scope", "openid email offline_access")];

/// A person allows this client what it asks for; answers with a code.
async fn allow(visitor: &mut Visitor<'_>, client: &str) -> String {
    let page = visit(visitor, &query(client, &SCOPE)).await.text().await.unwrap();
    let allowed = send(visitor, "/oauth2/authorize/consent", &page, &[("decision", "allow")]).await;
    let answer = answer_at(&leads_to(&allowed.text().await.unwrap()));
    answer["code"].as_str().unwrap().to_owned()
}

async fn consents(visitor: &Visitor<'_>) -> Vec<Value> {
    let answer: Value = answered(visitor.bearer(Method::GET, "/auth/consents"))
        .await
        .json()
        .await
        .unwrap();
    answer["consents"].as_array().unwrap().clone()
}

crate::on_both_databases!(what_is_taken_back_ends_with_its_grants, |database| {
    let site = Site::start(database, &[]).await;
    for client in ["app", "https://other.example.com/client"] {
        register(&site, &third(client)).await;
    }
    let other = "https://other.example.com/client";
    let mut ada = site.person("ada").await;
    let bob = site.person("bob").await;
    let mut granted = Vec::new();
    for client in ["app", other] {
        let code = allow(&mut ada, client).await;
        granted.push(redeem(&site, client, &code, &[]).await.1);
    }
    // A code that is on its way counts no more either.
    let on_its_way = answer_of(&visit(&mut ada, &query("app", &SCOPE)).await)["code"].clone();
    let listed = consents(&ada).await;
    assert_eq!(listed.len(), 2);
    let of_app = listed.iter().find(|consent| consent["client_id"] == "app").unwrap();
    assert_eq!(of_app["scope"], "openid email offline_access");
    assert_eq!(consents(&bob).await, [Value::Null; 0]);

    for (visitor, client, status) in [
        (&bob, "app", 404),
        (&ada, "unknown", 404),
        (&ada, "app", 204),
        (&ada, "app", 404),
    ] {
        let answer = answered(visitor.bearer(Method::DELETE, &format!("/auth/consents/{client}"))).await;
        assert_eq!(answer.status(), status, "{client}");
    }
    assert_eq!(refresh(&site, "app", &granted[0]).await.1["error"], "invalid_grant");
    assert_eq!(
        userinfo(&site, granted[0]["access_token"].as_str().unwrap()).await.0,
        401
    );
    let (status, refused) = redeem(&site, "app", on_its_way.as_str().unwrap(), &[]).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
    let silent = query("app", &[("prompt", "none"), SCOPE[0]]);
    assert_eq!(answer_of(&visit(&mut ada, &silent).await)["error"], "consent_required");
    // The login goes on, and so does what the other client was allowed.
    assert_eq!(ada.me().await.0, 200);
    let (status, next) = refresh(&site, other, &granted[1]).await;
    assert_eq!(status, 200, "{next}");
    let path = "/auth/consents/https%3A%2F%2Fother.example.com%2Fclient";
    assert_eq!(answered(ada.bearer(Method::DELETE, path)).await.status(), 204);
    assert_eq!(refresh(&site, other, &next).await.1["error"], "invalid_grant");
    let noted = "SELECT count(*) FROM audit WHERE event = 'consent.withdrawn'";
    assert_eq!(site.raw.number(noted).await, 2);
    // Without a token there is nothing to see.
    assert_eq!(answered(ada.bare(Method::GET, "/auth/consents")).await.status(), 401);
    site.stop().await;
});

crate::on_both_databases!(a_person_takes_it_back_on_a_page, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &third("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let without = answered(ada.with_cookies(Method::GET, "/account/consents")).await;
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    assert!(without.text().await.unwrap().contains("Log in at an application first"));
    let page = visit(&mut ada, &query("app", &SCOPE)).await.text().await.unwrap();
    log_in(&mut ada, &page, "ada").await;
    let code = allow(&mut ada, "app").await;
    let tokens = redeem(&site, "app", &code, &[]).await.1;

    let page = answered(ada.with_cookies(Method::GET, "/account/consents?ui_locales=de")).await;
    assert!(
        page.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("frame-ancestors 'none'")
    );
    let page = page.text().await.unwrap();
    for told in ["Was Sie erlaubt haben", "<h2>app</h2>", &email("ada")] {
        assert!(page.contains(told), "{told}: {page}");
    }
    let token = hidden(&page, "form_token");
    let post = |visitor: &Visitor<'_>, token: &str, origin: &'static str| {
        let form = [("form_token", token.to_owned()), ("client_id", "app".to_owned())];
        answered(
            visitor
                .with_cookies(Method::POST, "/account/consents")
                .header("Origin", origin)
                .form(&form),
        )
    };
    // Another site, a guess, and the form of another login session.
    assert_eq!(post(&ada, &token, "https://evil.example").await.status(), 403);
    assert_eq!(post(&ada, "guess", "http://127.0.0.1:8080").await.status(), 403);
    let mut again = site.visitor();
    again.jar.clone_from(&ada.jar);
    let login = visit(&mut again, &query("app", &[("prompt", "login")]))
        .await
        .text()
        .await
        .unwrap();
    let kept = ada.jar.clone();
    assert_eq!(refresh(&site, "app", &tokens).await.0, 200);
    let done = post(&ada, &token, "http://127.0.0.1:8080").await;
    assert_eq!(done.status(), 303);
    assert_eq!(done.headers()["location"], "/account/consents");
    let page = answered(ada.with_cookies(Method::GET, "/account/consents"))
        .await
        .text()
        .await
        .unwrap();
    assert!(page.contains("You have allowed no application anything."), "{page}");
    log_in(&mut again, &login, "ada").await;
    let mut later = site.visitor();
    later.jar = kept;
    later.jar.insert(
        "__Host-keyround-login".to_owned(),
        again.jar["__Host-keyround-login"].clone(),
    );
    assert_eq!(post(&later, &token, "http://127.0.0.1:8080").await.status(), 403);
    site.stop().await;
});
