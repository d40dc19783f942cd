//! What becomes of logins when the registration of their client changes, by the very commands that an operator runs.

use std::process::Output;
use std::time::Duration;

use keyround::clock::sleep;
use serde_json::Value;

use super::party::{answer_of, own, query, redeem, refresh, register, userinfo, visit};
use crate::auth::visitor::{Site, Visitor};
use crate::process::run;

/// What an operator runs beside a server on this database.
fn output(site: &Site, arguments: &[&str]) -> Output {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", site.database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    run(site.database.folder.path(), &variables, arguments)
}

/// What a command that must succeed prints for programs.
fn command(site: &Site, arguments: &[&str]) -> Value {
    let output = output(site, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a client gets for a login of a person who is logged in.
async fn tokens(site: &Site, visitor: &mut Visitor<'_>, client: &str) -> Value {
    let asked = query(client, &[("scope", "openid email offline_access")]);
    let answer = answer_of(&visit(visitor, &asked).await);
    let code = answer["code"].as_str().unwrap_or_else(|| panic!("{answer}"));
    redeem(site, client, code, &[]).await.1
}

crate::on_both_databases!(what_a_deleted_client_was_granted_ends, |database| {
    let site = Site::start_beside_commands(database, &[("keys.replica_refresh", "2s")]).await;
    for client in ["app", "other"] {
        register(&site, &own(client)).await;
    }
    let mut ada = site.person("ada").await;
    let (of_app, of_other) = (
        tokens(&site, &mut ada, "app").await,
        tokens(&site, &mut ada, "other").await,
    );
    command(&site, &["clients", "delete", "app", "--reason", "closed", "--yes"]);
    // Its id is given to another one at once.
    register(&site, &own("app")).await;
    site.app.until_clients_are_read_anew().await;
    assert_eq!(refresh(&site, "app", &of_app).await.1["error"], "invalid_grant");
    let access_token = of_app["access_token"].as_str().unwrap();
    let mut looks = 0;
    while userinfo(&site, access_token).await.0 != 401 {
        looks += 1;
        assert!(looks < 200, "its access tokens count for the client that came later");
        sleep(Duration::from_millis(50)).await;
    }
    // The login goes on, and so does what others were granted.
    assert_eq!(refresh(&site, "other", &of_other).await.0, 200);
    assert!(tokens(&site, &mut ada, "app").await["access_token"].is_string());
    let ended = "SELECT count(*) FROM audit WHERE event = 'session.ended' AND reason = 'its client was deleted'";
    assert_eq!(site.raw.number(ended).await, 1);
    site.stop().await;
});

crate::on_both_databases!(an_operator_changes_what_a_client_is_registered_for, |database| {
    let site = Site::start_beside_commands(database, &[]).await;
    let arguments = "clients create --id app --grant authorization_code --public --redirect-uri https://app.example.com/first --scope openid";
    command(&site, &arguments.split(' ').collect::<Vec<_>>());
    let changes = [
        &["--redirect-uri", "https://app.example.com/callback"][..],
        &["--post-logout-redirect-uri", "https://app.example.com/bye"],
        &["--scope", "openid email offline_access"],
        &["--name", "Notes of the team"],
        &["--first-party"],
        &["--id-token-algorithm", "ES256"],
        &["--scope-claims", "id_token"],
        &["--roles-claim", "groups"],
    ];
    for change in changes {
        let shown = command(&site, &[&["clients", "update", "app"][..], change].concat());
        assert_eq!(shown["changed"], true, "{change:?}: {shown}");
        let again = command(&site, &[&["clients", "update", "app"][..], change].concat());
        assert_eq!(again["changed"], false, "{change:?}: {again}");
    }
    let shown = command(&site, &["clients", "show", "app"]);
    assert_eq!(
        shown["redirect_uris"],
        serde_json::json!(["https://app.example.com/callback"])
    );
    assert_eq!(
        shown["post_logout_redirect_uris"],
        serde_json::json!(["https://app.example.com/bye"])
    );
    assert_eq!(shown["first_party"], true);
    assert_eq!(shown["name"], "Notes of the team");
    site.app.until_clients_are_read_anew().await;
    let mut ada = site.person("ada").await;
    let tokens = tokens(&site, &mut ada, "app").await;
    let said = crate::token::claims(tokens["id_token"].as_str().unwrap());
    assert_eq!(said["groups"], serde_json::json!([]));
    assert!(said["email"].is_string(), "{said}");
    // Back to what it was, and to what makes no sense.
    for change in [
        &["--name", "default"][..],
        &["--third-party"],
        &["--roles-claim", "default"],
        &["--id-token-algorithm", "default"],
        &["--no-post-logout-redirect-uri"],
    ] {
        let shown = command(&site, &[&["clients", "update", "app"][..], change].concat());
        assert_eq!(shown["changed"], true, "{change:?}: {shown}");
    }
    for change in [
        &["--pkce", "optional"][..],
        &["--redirect-uri", "http://app.example.com/callback"],
        &["--roles-claim", "sub"],
        &["--scope", "offline_access"],
        &["--first-party", "--third-party"],
        &["--id-token-algorithm", "HS256"],
    ] {
        let output = output(&site, &[&["clients", "update", "app"][..], change].concat());
        assert_eq!(output.status.code(), Some(2), "{change:?}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap().lines().count(),
            1,
            "{change:?}"
        );
    }
    site.stop().await;
});
