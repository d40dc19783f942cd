//! What becomes of logins when the registration of their client changes, by the very commands that an operator runs.

use std::process::Output;
use std::time::Duration;

use keyround::clock::sleep;
use serde_json::Value;

use super::party::{answer_of, leads_to, log_in, own, query, redeem, refresh, register, userinfo, visit};
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
pub fn command(site: &Site, arguments: &[&str]) -> Value {
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

/// The words of a command as a shell reads them.
fn words_of(command: &str) -> Vec<String> {
    let script = format!("printf '%s\\n' {command}");
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

crate::on_both_databases!(the_lines_of_the_page_do_what_it_says, |database| {
    let site = Site::start_beside_commands(database, &[]).await;
    let page = include_str!("../../../docs/log-in/openid-connect.md");
    let page = page.replace("\\\n", " ");
    let commands: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("$ keyround "))
        .collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for line in commands {
        let words = words_of(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        command(&site, &words);
    }
    // A browser is led to the clients that they have registered.
    site.register("ada").await;
    for (client, redirect_uri, scope) in [
        (
            "dashboard",
            "https://dashboard.example.com/callback",
            "openid profile email",
        ),
        (
            "notes",
            "http://127.0.0.1:40123/callback",
            "openid email offline_access",
        ),
        (
            "shipping",
            "https://shipping.example.com/callback",
            "openid orders:read",
        ),
    ] {
        let asked = query(
            client,
            &[("redirect_uri", redirect_uri), ("scope", scope), ("ui_locales", "de")],
        );
        let mut ada = site.visitor();
        let page = visit(&mut ada, &asked).await;
        assert_eq!(page.status(), 200, "{client}");
        let page = log_in(&mut ada, &page.text().await.unwrap(), "ada")
            .await
            .text()
            .await
            .unwrap();
        let next = visit(&mut ada, leads_to(&page).split_once('?').unwrap().1).await;
        if client == "dashboard" {
            let location = next.headers()["location"].to_str().unwrap();
            assert!(location.starts_with(redirect_uri), "{location}");
            continue;
        }
        // Another party's client, and one on the device.
        let page = next.text().await.unwrap();
        assert!(page.contains("form_token"), "{client}: {page}");
        if client == "shipping" {
            for told in [
                "Shipping partner",
                "Ihre Bestellungen sehen",
                "Orders of the shop (https://orders.example.com)",
            ] {
                assert!(page.contains(told), "{told}: {page}");
            }
        }
    }
    site.stop().await;
});

crate::on_both_databases!(resource_servers_and_their_scopes_are_registered, |database| {
    let site = Site::start_beside_commands(database, &[]).await;
    let (orders, bills) = ("https://orders.example.com", "https://bills.example.com");
    command(&site, &["resources", "create", orders, "--name", "Orders"]);
    command(&site, &["resources", "create", bills, "--name", "Bills"]);
    command(
        &site,
        &["resources", "add-scope", orders, "read", "--text", "en=see your orders"],
    );
    let listed = command(&site, &["resources", "list"]);
    assert_eq!(listed[1]["audience"], orders);
    assert_eq!(listed[1]["scopes"][0]["texts"]["en"], "see your orders");
    for (code, arguments) in [
        (1, &["resources", "create", orders, "--name", "Again"][..]),
        (
            1,
            &["resources", "add-scope", bills, "read", "--text", "en=see your bills"],
        ),
        (
            1,
            &[
                "resources",
                "add-scope",
                "https://unknown.example.com",
                "write",
                "--text",
                "en=write",
            ],
        ),
        (1, &["resources", "remove-scope", bills, "read"]),
        (1, &["resources", "delete", "https://unknown.example.com"]),
        (
            2,
            &[
                "resources",
                "add-scope",
                bills,
                "email",
                "--text",
                "en=see your address",
            ],
        ),
        (2, &["resources", "add-scope", bills, "pay", "--text", "de=bezahlen"]),
        (2, &["resources", "add-scope", bills, "pay", "--text", "xx=pay"]),
        (
            2,
            &[
                "resources",
                "add-scope",
                bills,
                "pay",
                "--text",
                "en=a",
                "--text",
                "en=b",
            ],
        ),
        (
            2,
            &[
                "clients",
                "create",
                "--grant",
                "client_credentials",
                "--audience",
                bills,
                "--scope",
                "read",
            ],
        ),
    ] {
        let refused = output(&site, arguments);
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}");
        let sentence = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(sentence.lines().count(), 1, "{arguments:?}: {sentence}");
    }
    command(&site, &["resources", "remove-scope", orders, "read"]);
    command(
        &site,
        &["resources", "add-scope", orders, "read", "--text", "en=see them"],
    );
    command(&site, &["resources", "delete", orders]);
    assert_eq!(site.raw.number("SELECT count(*) FROM scopes").await, 0);
    let noted = "SELECT count(*) FROM audit WHERE event IN ('resource.created', 'resource.deleted', 'scope.created', 'scope.deleted')";
    assert_eq!(site.raw.number(noted).await, 6);
    site.stop().await;
});
