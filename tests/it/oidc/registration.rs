//! What becomes of logins when the registration of their client changes, by the very commands that an operator runs.

use std::time::Duration;

use keyround::clock::sleep;
use serde_json::Value;

use super::party::{answer_of, own, query, redeem, refresh, register, userinfo, visit};
use crate::auth::visitor::{Site, Visitor};
use crate::process::run;

/// What an operator runs beside a server on this database; answers with what is printed for programs.
fn command(site: &Site, arguments: &[&str]) -> Value {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", site.database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let output = run(
        site.database.folder.path(),
        &variables,
        &[arguments, &["--json"]].concat(),
    );
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
