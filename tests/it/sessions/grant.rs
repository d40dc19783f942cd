//! Sessions at the OAuth endpoints: `grant_type=refresh_token`, revocation and introspection.

use keyround::oauth::client::Client;
use reqwest::Response;
use serde_json::{Value, json};

use super::world::{CLIENT, World, claims, is_active, log_in, log_out, refresh};
use crate::helpers::{TestApp, answered};
use crate::token::{client, register};

async fn post(app: &TestApp, path: &str, form: &[(&str, &str)]) -> Response {
    let url = format!("{}/oauth2/{path}", app.url);
    app.http.post(url).form(form).send().await.unwrap()
}

async fn ask(app: &TestApp, token: &str, more: &[(&str, &str)]) -> (u16, Value) {
    let mut form = vec![("grant_type", "refresh_token"), ("refresh_token", token)];
    form.extend(more);
    let answer = post(app, "token", &form).await;
    assert_eq!(answer.headers()["cache-control"], "no-store");
    (answer.status().as_u16(), answer.json().await.unwrap())
}

crate::on_both_databases!(the_first_party_client_refreshes_without_a_secret, |database| {
    let world = World::start(database, &[]).await;
    let app = &world.app;
    let ada = world.user("ada").await;
    let first = log_in(app, &ada).await.unwrap();
    let billing = register(app, &client("billing")).await;

    // Nothing of this changes anything.
    let own = [("client_id", CLIENT)];
    let wrong = [("client_id", "billing")];
    for (more, status, code) in [
        (&wrong[..], 401, "invalid_client"),
        (&[("client_id", "nobody")], 401, "invalid_client"),
        (&[], 401, "invalid_client"),
        (
            &[("client_id", CLIENT), ("client_secret", "guessed")],
            401,
            "invalid_client",
        ),
        (
            &[("client_id", "billing"), ("client_secret", billing.as_str())],
            400,
            "invalid_grant",
        ),
        (&[("client_id", CLIENT), ("scope", "admin")], 400, "invalid_scope"),
        (
            &[("client_id", CLIENT), ("resource", "https://other.example.com")],
            400,
            "invalid_target",
        ),
        (&[("client_id", CLIENT), ("resource", "no URI")], 400, "invalid_target"),
        (&[("client_id", CLIENT), ("client_id", CLIENT)], 400, "invalid_request"),
    ] {
        let (seen, answer) = ask(app, &first.refresh_token, more).await;
        assert_eq!((seen, answer["error"].as_str().unwrap()), (status, code), "{more:?}");
    }
    let (status, answer) = ask(app, "noise", &own).await;
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_grant")));
    let nothing = post(app, "token", &[("grant_type", "refresh_token"), own[0]]).await;
    assert_eq!(nothing.json::<Value>().await.unwrap()["error"], "invalid_request");
    assert_eq!(world.raw.number("SELECT generation FROM sessions").await, 1);

    let more = [own[0], ("resource", "http://127.0.0.1:8080")];
    let (status, answer) = ask(app, &first.refresh_token, &more).await;
    assert_eq!(status, 200, "{answer}");
    let names: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["access_token", "token_type", "expires_in", "refresh_token"]);
    let access_token = answer["access_token"].as_str().unwrap();
    assert_eq!(claims(access_token)["sub"], json!(ada.user.id.to_string()));
    assert!(is_active(app, access_token));
    let (status, again) = ask(app, &first.refresh_token, &own).await;
    assert_eq!((status, &again["refresh_token"]), (200, &answer["refresh_token"]));

    world.pass(31).await;
    let (status, stolen) = ask(app, &first.refresh_token, &own).await;
    assert_eq!((status, &stolen["error"]), (400, &json!("invalid_grant")));
    let (status, _) = ask(app, answer["refresh_token"].as_str().unwrap(), &own).await;
    assert_eq!(status, 400);
    assert!(!is_active(app, access_token));
    world.stop().await;
});

crate::on_both_databases!(a_refresh_token_that_is_given_back_ends_its_session, |database| {
    let world = World::start(database, &[]).await;
    let app = &world.app;
    let ada = world.user("ada").await;
    let billing = register(app, &client("billing")).await;
    let (one, other) = (log_in(app, &ada).await.unwrap(), log_in(app, &ada).await.unwrap());
    let next = refresh(app, &one.refresh_token).await.unwrap();
    let strangers = [
        vec![("client_id", "billing"), ("client_secret", billing.as_str())],
        vec![("client_id", "nobody")],
    ];
    for (stranger, status) in strangers.into_iter().zip([200, 401]) {
        let form: Vec<_> = stranger.into_iter().chain([("token", &**next.refresh_token)]).collect();
        assert_eq!(post(app, "revoke", &form).await.status(), status);
        assert!(is_active(app, &next.access_token));
    }
    // An older one of the family will do.
    for token in ["noise", &one.refresh_token, &one.refresh_token] {
        let form = [
            ("client_id", CLIENT),
            ("token", token),
            ("token_type_hint", "refresh_token"),
        ];
        let answer = post(app, "revoke", &form).await;
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap().as_str()),
            (200, "")
        );
    }
    for dead in [&one.access_token, &next.access_token] {
        assert!(!is_active(app, dead));
    }
    assert_eq!(ask(app, &next.refresh_token, &[("client_id", CLIENT)]).await.0, 400);
    assert!(is_active(app, &other.access_token));
    assert_eq!(
        (
            world.noted("session.ended").await,
            world.noted("session.reuse_detected").await
        ),
        (1, 0)
    );
    // An access token that is given back goes alone.
    let form = [("client_id", CLIENT), ("token", other.access_token.as_str())];
    assert_eq!(post(app, "revoke", &form).await.status(), 200);
    assert!(!is_active(app, &other.access_token));
    assert!(refresh(app, &other.refresh_token).await.is_ok());
    world.stop().await;
});

crate::on_both_databases!(introspection_knows_sessions, |database| {
    let world = World::start(database, &[("accounts.audience", "https://api.example.com")]).await;
    let app = &world.app;
    let ada = world.user("ada").await;
    let gateway = Client {
        serves: vec!["https://api.example.com".parse().unwrap()],
        ..client("gateway")
    };
    let gateway = register(app, &gateway).await;
    let stranger = register(app, &client("stranger")).await;
    let tokens = log_in(app, &ada).await.unwrap();
    let introspect = async |id: &str, secret: &str, token: &str| -> Value {
        let form = [("client_id", id), ("client_secret", secret), ("token", token)];
        let request = app.http.post(format!("{}/oauth2/introspect", app.url)).form(&form);
        answered(request).await.json().await.unwrap()
    };
    let mut expected = claims(&tokens.access_token);
    expected["active"] = json!(true);
    expected["token_type"] = json!("Bearer");
    assert_eq!(introspect("gateway", &gateway, &tokens.access_token).await, expected);
    let inactive = json!({ "active": false });
    assert_eq!(introspect("stranger", &stranger, &tokens.access_token).await, inactive);
    assert_eq!(introspect("gateway", &gateway, &tokens.refresh_token).await, inactive);
    let nobody = post(
        app,
        "introspect",
        &[("client_id", CLIENT), ("token", &tokens.access_token)],
    )
    .await;
    assert_eq!(nobody.status(), 401);
    assert!(log_out(app, &tokens).await);
    assert_eq!(introspect("gateway", &gateway, &tokens.access_token).await, inactive);
    world.stop().await;
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_accounts_there_is_no_such_grant() {
    let world = World::start(crate::helpers::TestDatabase::sqlite(), &[("accounts.enabled", "false")]).await;
    let app = &world.app;
    let tokens = log_in(app, &world.user("ada").await).await.unwrap();
    let (status, answer) = ask(app, &tokens.refresh_token, &[("client_id", CLIENT)]).await;
    assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")));
    let document: Value = app
        .http
        .get(format!("{}/.well-known/openid-configuration", app.url))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(document["grant_types_supported"], json!(["client_credentials"]));
    assert!(
        !document["token_endpoint_auth_methods_supported"]
            .as_array()
            .unwrap()
            .contains(&json!("none"))
    );
    world.stop().await;
}
