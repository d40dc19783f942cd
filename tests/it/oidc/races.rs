//! What happens at once, on two nodes.

use serde_json::json;

use super::party::{CALLBACK, VERIFIER, log_in_at, own, query, register, userinfo};
use crate::auth::visitor::Site;
use crate::helpers::{TestApp, answered};

crate::on_both_databases!(one_code_64_times_at_once_gives_one_answer, |database| {
    let site = Site::start(database, &[]).await;
    let settings = [
        ("keys.replica_refresh", "15s"),
        ("keys.algorithms", "ES256"),
        ("tokens.default_algorithm", "ES256"),
    ];
    let other = TestApp::start_with_clock(&site.database, &settings, site.app.clock.clone()).await;
    register(&site, &own("app")).await;
    site.register("ada").await;
    let mut ada = site.visitor();
    let code = log_in_at(&mut ada, "ada", &query("app", &[])).await;
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", "app"),
        ("code", code.as_str()),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    let mut asked = tokio::task::JoinSet::new();
    for turn in 0..64 {
        let app = if turn % 2 == 0 { &site.app } else { &other };
        asked.spawn(answered(app.http.post(format!("{}/oauth2/token", app.url)).form(&form)));
    }
    let mut granted = Vec::new();
    for answer in asked.join_all().await {
        let status = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.unwrap();
        if status == 200 {
            granted.push(body["access_token"].as_str().unwrap().to_owned());
        } else {
            assert_eq!((status, &body["error"]), (400, &json!("invalid_grant")), "{body}");
        }
    }
    assert_eq!(granted.len(), 1);
    assert_eq!(
        site.raw
            .number("SELECT count(*) FROM sessions WHERE client_id = 'app'")
            .await,
        1
    );
    // It came again, so what it got has ended.
    assert_eq!(
        site.raw
            .number("SELECT count(*) FROM sessions WHERE client_id = 'app' AND revoked_at IS NULL")
            .await,
        0
    );
    site.app.running.server.keyring.refresh().await.unwrap();
    assert_eq!(userinfo(&site, &granted[0]).await.0, 401);
    other.running.stop().await;
    site.stop().await;
});
