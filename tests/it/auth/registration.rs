//! Registration: what it tells of who has an account, and what it takes.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::helpers::TestDatabase;

use super::visitor::{PASSWORD, Site, email, refused, told};

async fn register(site: &Site, body: &Value) -> Response {
    let request = site.visitor().json(Method::POST, "/auth/register", body);
    request.send().await.unwrap()
}

fn person(name: &str) -> Value {
    json!({ "email": email(name), "password": PASSWORD, "name": name, "token_delivery": "body" })
}

crate::on_both_databases!(a_taken_address_looks_like_a_free_one, |database| {
    let site = Site::start(database, &[]).await;
    site.register("ada").await;
    let mut seen = Vec::new();
    let mut other_spelling = person("ada");
    other_spelling["email"] = json!(" ADA@Example.com ");
    other_spelling["password"] = json!("quite another walk by 3 lakes");
    for body in [person("bob"), person("ada"), other_spelling] {
        let answer = register(&site, &body).await;
        assert_eq!(answer.status(), 202);
        let mut headers = answer.headers().clone();
        headers.remove("date");
        headers.remove("x-request-id");
        seen.push((headers, answer.text().await.unwrap()));
    }
    assert!(seen.iter().all(|answer| *answer == seen[0]), "{seen:#?}");
    // The account is as it was.
    assert_eq!(site.raw.number("SELECT count(*) FROM users").await, 2);
    let mut ada = site.visitor();
    ada.log_in("ada").await;
    assert_eq!(ada.me().await.0, 200);
    site.stop().await;
});

crate::on_both_databases!(an_operator_may_tell_or_close, |database| {
    let site = Site::start(database, &[("accounts.reveal_taken_email", "true")]).await;
    let answer = register(&site, &person("ada")).await;
    assert_eq!(answer.status(), 200);
    let tokens: Value = answer.json().await.unwrap();
    let mut ada = site.visitor();
    tokens["access_token"]
        .as_str()
        .unwrap()
        .clone_into(&mut ada.access_token);
    assert_eq!(ada.me().await.0, 200);
    assert!(tokens["refresh_token"].is_string());
    assert_eq!(
        told(register(&site, &person("ada")).await).await,
        refused(409, "email_taken")
    );
    // With cookies it is guarded like a login, and sets one.
    let mut bob = site.visitor();
    let mut body = person("bob");
    body.as_object_mut().unwrap().remove("token_delivery");
    let answer = register(&site, &body).await;
    assert_eq!(answer.status(), 403);
    let problem: Value = answer.json().await.unwrap();
    assert!(problem.to_string().contains("csrf_failed"), "{problem}");
    let cure = r#"sends "token_delivery": "body""#;
    assert!(problem["detail"].as_str().unwrap().contains(cure), "{problem}");
    let login = json!({ "email": email("ada"), "password": PASSWORD });
    let answer = site
        .visitor()
        .json(Method::POST, "/auth/login", &login)
        .send()
        .await
        .unwrap();
    let problem: Value = answer.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains(cure), "{problem}");
    let answer = bob.post("/auth/register", Some(body)).await;
    bob.take(answer).await;
    assert_eq!(bob.jar.len(), 4);
    bob.refresh().await;
    site.stop().await;

    let site = Site::start(TestDatabase::sqlite(), &[("accounts.registration", "false")]).await;
    assert_eq!(
        told(register(&site, &person("ada")).await).await,
        refused(403, "registration_closed")
    );
    site.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_an_account_is_refused_by_name() {
    let site = Site::start(TestDatabase::sqlite(), &[]).await;
    for (member, value, code) in [
        ("email", "ada", "invalid_email"),
        ("email", "", "invalid_email"),
        ("name", "", "invalid_name"),
        ("name", "Ada\nLovelace", "invalid_name"),
        ("password", "short 7", "password_refused"),
        ("password", "ada@example.com", "password_refused"),
        ("password", "password1234", "password_refused"),
    ] {
        let mut body = person("ada");
        body[member] = json!(value);
        assert_eq!(
            told(register(&site, &body).await).await,
            refused(400, code),
            "{member} '{value}'"
        );
    }
    let mut body = person("ada");
    body["password"] = json!("a".repeat(1_025));
    assert_eq!(
        told(register(&site, &body).await).await,
        refused(400, "password_refused")
    );
    assert_eq!(site.raw.number("SELECT count(*) FROM users").await, 0);
    site.stop().await;
}
