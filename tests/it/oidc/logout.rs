//! The logout that a client begins.

use keyround::clock::Seconds;
use keyround::oauth::client::Client;
use reqwest::{Method, Response};

use super::party::{
    AFTER_LOGOUT, answer_of, leads_to, log_in, log_in_at, own, query, redeem, refresh, register, send, userinfo, visit,
};
use crate::auth::visitor::{Site, Visitor};
use crate::helpers::answered;

/// A browser is led to the end of its login.
pub async fn leave(visitor: &mut Visitor<'_>, members: &[(&str, &str)]) -> Response {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(members)
        .finish();
    let answer = answered(visitor.with_cookies(Method::GET, &format!("/oauth2/logout?{query}"))).await;
    visitor.keep(answer.headers());
    answer
}

/// A person who has logged in at this client, with the tokens of the client.
async fn logged_in<'s>(site: &'s Site, client: &str) -> (Visitor<'s>, serde_json::Value) {
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query(client, &[])).await;
    let (_, tokens) = redeem(site, client, &code, &[]).await;
    (ada, tokens)
}

async fn is_logged_in(visitor: &mut Visitor<'_>, client: &str) -> bool {
    answer_of(&visit(visitor, &query(client, &[("prompt", "none")])).await)["code"].is_string()
}

crate::on_both_databases!(a_client_ends_the_login_for_all_clients, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    register(&site, &own("other")).await;
    let (mut ada, tokens) = logged_in(&site, "app").await;
    let code = answer_of(&visit(&mut ada, &query("other", &[])).await)["code"]
        .as_str()
        .unwrap()
        .to_owned();
    let (_, others) = redeem(&site, "other", &code, &[]).await;
    let members = [
        ("id_token_hint", tokens["id_token"].as_str().unwrap()),
        ("post_logout_redirect_uri", AFTER_LOGOUT),
        ("state", "its state"),
    ];
    let left = leave(&mut ada, &members).await;
    assert_eq!(left.status(), 303);
    assert_eq!(
        left.headers()["location"],
        format!("{AFTER_LOGOUT}&state=its+state").as_str()
    );
    assert!(!ada.jar.contains_key("__Host-keyround-login"), "{:?}", ada.jar);
    for tokens in [&tokens, &others] {
        assert_eq!(userinfo(&site, tokens["access_token"].as_str().unwrap()).await.0, 401);
    }
    assert!(!is_logged_in(&mut ada, "app").await);
    // Nothing is left to end: the browser goes on all the same.
    assert_eq!(leave(&mut ada, &members).await.status(), 303);
    let nowhere = leave(&mut ada, &[]).await;
    assert_eq!(nowhere.status(), 200);
    assert!(nowhere.text().await.unwrap().contains("You are logged out"));
    site.stop().await;
});

/// Idle login sessions are too old for another client, and their grants may live on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_ends_a_login_session_that_was_idle_too() {
    let settings = [("accounts.session_idle", "10m"), ("accounts.session_absolute", "1h")];
    let site = Site::start(crate::helpers::TestDatabase::sqlite(), &settings).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[("scope", "openid offline_access")])).await;
    let (_, mut tokens) = redeem(&site, "app", &code, &[]).await;
    let id_token = tokens["id_token"].as_str().unwrap().to_owned();
    // The client refreshes its grant, and the browser does nothing.
    for _ in 0..2 {
        site.app.pass(Seconds(400), Seconds(5)).await;
        tokens = refresh(&site, "app", &tokens).await.1;
    }
    assert!(!is_logged_in(&mut ada, "app").await, "it was idle for too long");
    // A client that was disabled ends nothing.
    site.raw.execute("UPDATE clients SET disabled_at = 7").await;
    site.app.until_clients_are_read_anew().await;
    let kept = ada.jar.clone();
    leave(&mut ada, &[("id_token_hint", &id_token)]).await;
    ada.jar = kept;
    site.raw.execute("UPDATE clients SET disabled_at = NULL").await;
    site.app.until_clients_are_read_anew().await;
    tokens = refresh(&site, "app", &tokens).await.1;
    assert!(tokens["access_token"].is_string(), "{tokens}");
    leave(&mut ada, &[("id_token_hint", &id_token)]).await;
    assert_eq!(refresh(&site, "app", &tokens).await.1["error"], "invalid_grant");
    site.stop().await;
}

crate::on_both_databases!(no_link_logs_a_person_out_without_a_question, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let (mut ada, tokens) = logged_in(&site, "app").await;
    let id_token = tokens["id_token"].as_str().unwrap();
    // The ID token of an earlier login session is no proof either, nor is an access token or noise.
    let login = visit(&mut ada, &query("app", &[("prompt", "login")]))
        .await
        .text()
        .await
        .unwrap();
    log_in(&mut ada, &login, "ada").await;
    let mut page = String::new();
    for members in [
        &[][..],
        &[("client_id", "app"), ("post_logout_redirect_uri", AFTER_LOGOUT)],
        &[("id_token_hint", id_token), ("post_logout_redirect_uri", AFTER_LOGOUT)],
        &[("id_token_hint", tokens["access_token"].as_str().unwrap())],
        &[("id_token_hint", "noise")],
    ] {
        let asked = leave(&mut ada, members).await;
        assert_eq!(asked.status(), 200, "{members:?}");
        page = asked.text().await.unwrap();
        assert!(page.contains("Log out?"), "{members:?}: {page}");
        assert!(is_logged_in(&mut ada, "app").await, "{members:?}");
    }
    // No other site answers the question.
    let forged = ada
        .with_cookies(Method::POST, "/oauth2/logout/confirm")
        .form(&[("continue", ""), ("form_token", "guessed")]);
    assert_eq!(answered(forged).await.status(), 403);
    let asked = leave(
        &mut ada,
        &[("client_id", "app"), ("post_logout_redirect_uri", AFTER_LOGOUT)],
    )
    .await;
    let with_place = asked.text().await.unwrap();
    let done = send(&mut ada, "/oauth2/logout/confirm", &with_place, &[]).await;
    assert_eq!(leads_to(&done.text().await.unwrap()), AFTER_LOGOUT);
    assert!(!is_logged_in(&mut ada, "app").await);
    // The page of before is of a session that has ended.
    assert_eq!(send(&mut ada, "/oauth2/logout/confirm", &page, &[]).await.status(), 403);
    site.stop().await;
});

crate::on_both_databases!(a_logout_leads_to_a_registered_address_alone, |database| {
    let site = Site::start(database, &[]).await;
    register(&site, &own("app")).await;
    let bare = Client {
        post_logout_redirect_uris: Vec::new(),
        ..own("bare")
    };
    register(&site, &bare).await;
    let (mut ada, tokens) = logged_in(&site, "app").await;
    let hint = ("id_token_hint", tokens["id_token"].as_str().unwrap());
    for members in [
        &[hint, ("post_logout_redirect_uri", "https://evil.example/")][..],
        &[hint, ("post_logout_redirect_uri", "https://app.example.com/bye")],
        &[
            hint,
            (
                "post_logout_redirect_uri",
                "https://app.example.com/bye?from=keyround&a=b",
            ),
        ],
        &[hint, ("client_id", "bare"), ("post_logout_redirect_uri", AFTER_LOGOUT)],
        &[("client_id", "bare"), ("post_logout_redirect_uri", AFTER_LOGOUT)],
        &[("client_id", "unknown"), ("post_logout_redirect_uri", AFTER_LOGOUT)],
        &[("post_logout_redirect_uri", AFTER_LOGOUT)],
        &[hint, hint],
    ] {
        let refused = leave(&mut ada, members).await;
        assert_eq!(refused.status(), 400, "{members:?}");
        assert_eq!(refused.headers().get("location"), None);
        assert!(is_logged_in(&mut ada, "app").await, "{members:?}");
    }
    site.stop().await;
});
