//! `keyround providers show`, `update` and `delete`.

use serde_json::{Value, json};

use super::crooked::Upstream;
use super::real::existing_account;
use super::{CLIENT_SECRET, Site, create, parameter, secret_file};
use crate::client_assertions::keyround;
use crate::helpers::TestDatabase;
use crate::rows::Raw;
use crate::set_back::Earlier;
use crate::terminal::at_terminal;

const ONE: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const TEMPLATE: &str = "https://login.example/{tenantid}/v2.0";

fn run(database: &TestDatabase, arguments: &[&str]) -> Value {
    let (code, out, err) = keyround(database, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?} {err}");
    serde_json::from_str(&out).unwrap()
}

fn refused(database: &TestDatabase, arguments: &[&str], exit: i32, says: &str) {
    let (code, out, err) = keyround(database, arguments);
    assert_eq!(
        (code, out.as_str(), err.lines().count()),
        (exit, "", 1),
        "{arguments:?} {err}"
    );
    assert!(err.contains(says), "{arguments:?} {err}");
}

crate::on_both_databases!(what_is_named_is_changed_and_nothing_else, |database| {
    let database = &database;
    create(database, "acme", "https://id.example", &[]);
    let show = || run(database, &["providers", "show", "acme"]);
    let first = show();
    assert_eq!(
        (&first["issuer"], &first["people"]),
        (&json!("https://id.example"), &json!(0))
    );
    let (_, text, _) = keyround(database, &["providers", "show", "acme"]);
    for line in [
        "issuer          https://id.example",
        "client secret   not shown",
        "links           nothing",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains(CLIENT_SECRET) && !first.to_string().contains(CLIENT_SECRET));

    for (options, member, value) in [
        (&["--scope", "openid email"][..], "scope", json!("openid email")),
        (&["--client-id", "other id"], "client_id", json!("other id")),
        (&["--link-verified-email"], "link_verified_email", json!(true)),
        (&["--no-link-verified-email"], "link_verified_email", json!(false)),
        (&["--email-verified-as-text"], "email_verified_as_text", json!(true)),
        (&["--no-email-verified-as-text"], "email_verified_as_text", json!(false)),
        (
            &["--issuer", "https://id2.example/"],
            "issuer",
            json!("https://id2.example/"),
        ),
    ] {
        let before = show();
        let update = [&["providers", "update", "acme"], options].concat();
        let changed = run(database, &update);
        assert_eq!(
            (&changed["changed"], &changed[member]),
            (&json!(true), &value),
            "{options:?}"
        );
        let mut expected = before;
        expected[member] = value;
        assert_eq!(show(), expected, "{options:?}");
        let again = run(database, &update);
        assert_eq!(
            (&again["changed"], &again["changes"]),
            (&json!(false), &json!({})),
            "{options:?}"
        );
    }
    // From one issuer to many, and back.
    let update = |options: &[&str]| run(database, &[&["providers", "update", "acme"], options].concat());
    update(&["--issuer", TEMPLATE, "--directory", ONE]);
    assert_eq!(show()["directories"], json!([ONE]));
    update(&["--scope", "openid"]);
    assert_eq!(show()["directories"], json!([ONE]));
    update(&["--any-directory"]);
    assert_eq!(show()["directories"], json!("any"));
    refused(
        database,
        &["providers", "update", "acme", "--link-verified-email"],
        2,
        "--no-link-verified-email",
    );
    update(&["--directory", ONE, "two"]);
    update(&["--link-verified-email"]);
    assert_eq!(
        (&show()["directories"], &show()["link_verified_email"]),
        (&json!([ONE, "two"]), &json!(true))
    );
    refused(
        database,
        &["providers", "update", "acme", "--any-directory"],
        2,
        "links no accounts",
    );
    update(&["--any-directory", "--no-link-verified-email"]);
    update(&["--issuer", "https://id.example"]);
    assert_eq!(show()["directories"], Value::Null);

    let sealed = async || {
        let raw = Raw::open(database).await;
        let sealed = raw
            .texts("SELECT sealed FROM secrets WHERE name = 'identity-provider:acme'")
            .await;
        raw.close().await;
        sealed
    };
    let before = sealed().await;
    let file = secret_file(database);
    let changed = update(&["--client-secret-file", file.to_str().unwrap()]);
    assert_eq!(
        (&changed["client_secret_changed"], &changed["changes"]),
        (&json!(true), &json!({}))
    );
    let after = sealed().await;
    assert!(before != after && after.len() == 1 && !after[0].contains(CLIENT_SECRET));

    for (options, says) in [
        (&[][..], "nothing to change was given"),
        (&["--scope", "email"], "openid among them"),
        (&["--scope", "openid,email"], "did you mean 'openid email'?"),
        (
            &["--issuer", "https://a.example/.well-known/openid-configuration"],
            "which is https://a.example",
        ),
        (
            &["--issuer", "https://login.microsoftonline.com/common/v2.0"],
            "{tenantid}",
        ),
        (&["--issuer", TEMPLATE], "--any-directory"),
        (&["--directory", ONE], "need the issuer of a directory service"),
        (
            &["--link-verified-email", "--no-link-verified-email"],
            "cannot be used with",
        ),
        (
            &["--client-secret-file", "/nowhere"],
            "which --client-secret-file names: No such file",
        ),
    ] {
        refused(database, &[&["providers", "update", "acme"], options].concat(), 2, says);
    }
    refused(
        database,
        &["providers", "update", "other", "--scope", "openid"],
        1,
        "no provider is called 'other'",
    );
    let events = run(database, &["audit", "list"]);
    let newest = &events[0];
    assert_eq!(newest["event"], "provider.secret_changed");
    let told = events.as_array().unwrap().iter().any(|event| {
        event["event"] == "provider.updated" && event["reason"] == "changed client_id from 'keyround' to 'other id'"
    });
    assert!(told, "{events}");
    assert!(!events.to_string().contains(CLIENT_SECRET));
});

// A subject is a person of one issuer: under another issuer the same text may be anybody.
crate::on_both_databases!(a_provider_with_people_keeps_its_issuer, |database| {
    let upstream = Upstream::start();
    let site = Site::new(database, &upstream.ca_file, &upstream.issuer, &[]).await;
    let mut browser = upstream.browser();
    let question = site.begin(&mut browser).await.unwrap();
    let claims = upstream.claims(&site, &question);
    let header = r#"{"alg":"ES256","kid":"kid"}"#;
    upstream.hand_out(&upstream.pair.sign(header, &claims.to_string()));
    // One that has begun before the issuer changes does not end after it.
    let moved = ["providers", "update", "acme", "--issuer", "https://id.example"];
    let back = ["providers", "update", "acme", "--issuer", &upstream.issuer];
    run(&site.database, &moved);
    run(&site.database, &back);
    let callback = upstream.callback(&question);
    assert_eq!(site.finish(&browser, &callback).await.unwrap_err(), "state_invalid");

    let question = site.begin(&mut browser).await.unwrap();
    let claims = upstream.claims(&site, &question);
    upstream.hand_out(&upstream.pair.sign(header, &claims.to_string()));
    site.finish(&browser, &upstream.callback(&question)).await.unwrap();
    refused(&site.database, &moved, 1, "1 person is known by what the issuer");
    assert_eq!(
        run(&site.database, &["providers", "show", "acme"])["issuer"],
        upstream.issuer.as_str()
    );
    // The rest can be changed, and the person is still known.
    run(
        &site.database,
        &["providers", "update", "acme", "--scope", "openid email"],
    );
    let question = site.begin(&mut browser).await.unwrap();
    assert_eq!(parameter(&question, "scope"), "openid email");
    let claims = upstream.claims(&site, &question);
    upstream.hand_out(&upstream.pair.sign(header, &claims.to_string()));
    assert!(site.finish(&browser, &upstream.callback(&question)).await.is_ok());
    assert_eq!(site.counts().await, (1, 1));
});

crate::on_both_databases!(a_deletion_says_whom_it_concerns_and_asks, |database| {
    let database = &database;
    create(database, "acme", "https://id.example", &[]);
    create(database, "plain", "https://id2.example", &[]);
    let db = database.open().await;
    db.ensure_default_tenant(crate::helpers::START).await.unwrap();
    for email in [
        "ada@example.com",
        "bob@example.com",
        "eve@example.com",
        "joe@example.com",
    ] {
        existing_account(&db, email, true).await;
    }
    db.close().await;
    let raw = Raw::open(database).await;
    // Ada has a password, Bob another provider, Eve and Joe neither.
    raw.execute("UPDATE users SET password_hash = NULL WHERE email <> 'ada@example.com'")
        .await;
    raw.execute(
        "INSERT INTO federated_identities (provider, subject, user_id, created_at) SELECT 'acme', email, user_id, 1 FROM users",
    )
    .await;
    raw.execute(
        "INSERT INTO federated_identities (provider, subject, user_id, created_at) \
         SELECT 'plain', email, user_id, 1 FROM users WHERE email = 'bob@example.com'",
    )
    .await;
    let identities = async || raw.number("SELECT count(*) FROM federated_identities").await;
    refused(database, &["providers", "delete", "acme"], 2, "add --yes");
    refused(
        database,
        &["providers", "delete", "other"],
        1,
        "no provider is called 'other'",
    );
    assert_eq!(identities().await, 5);
    let told = "4 people logged in with it, and 2 of them cannot log in in another way";
    for (answer, code) in [("no", 1), ("", 1), ("yes", 0)] {
        let dialogue = [["Type 'yes' to go on: ", answer]];
        let (ended, seen) = at_terminal(database, &dialogue, &["providers", "delete", "acme"]);
        assert!(ended == code && seen.contains(told), "{seen}");
        assert_eq!(identities().await, if code == 0 { 1 } else { 5 });
    }
    let shown = run(database, &["providers", "show", "plain"]);
    assert_eq!(
        (&shown["people"], &shown["people_without_another_login"]),
        (&json!(1), &json!(1))
    );
    let deleted = run(database, &["providers", "delete", "plain", "--yes"]);
    assert_eq!((&deleted["changed"], &deleted["people"]), (&json!(true), &json!(1)));
    assert_eq!(
        (identities().await, raw.number("SELECT count(*) FROM users").await),
        (0, 4)
    );
    create(database, "fresh", "https://id.example", &[]);
    let (code, out, _) = keyround(database, &["providers", "delete", "fresh", "--yes"]);
    assert!(
        code == 0 && out.contains("fresh is deleted: no person has logged in with it"),
        "{out}"
    );
    raw.close().await;
});

crate::on_both_databases!(the_deletion_of_a_client_says_what_goes_with_it_and_asks, |database| {
    let database = &database;
    let create = |id: &str, more: &[&str]| {
        let create = [
            "clients",
            "create",
            "--id",
            id,
            "--grant",
            "client_credentials",
            "--audience",
        ];
        run(database, &[&create[..], &["https://api.example.com"], more].concat());
    };
    create(
        "billing",
        &["--serves", "https://billing.example.com", "--token-ttl", "7m"],
    );
    let jwks = database.folder.path().join("jwks.json");
    let key = crate::client_assertions::Pair::new(keyround::jose::alg::Algorithm::Es256, "my-kid");
    std::fs::write(&jwks, format!(r#"{{"keys":[{}]}}"#, key.jwk.to_json())).unwrap();
    create("signer", &["--jwks-file", jwks.to_str().unwrap()]);
    refused(database, &["clients", "delete", "billing"], 2, "add --yes");
    for (id, told) in [
        (
            "billing",
            &[
                "its secret cannot be had back",
                "for https://billing.example.com, which ends",
                "7m after",
            ][..],
        ),
        ("signer", &["its keys (my-kid)", "is not recorded"]),
    ] {
        for (answer, code) in [("no", 1), ("yes", 0)] {
            let dialogue = [["Type 'yes' to go on: ", answer]];
            let (ended, seen) = at_terminal(database, &dialogue, &["clients", "delete", id]);
            assert_eq!(ended, code, "{seen}");
            let seen = seen.replace("\r\n", " ");
            assert!(told.iter().all(|told| seen.contains(told)), "{seen}");
            let (shown, ..) = keyround(database, &["clients", "show", id]);
            assert_eq!(shown, i32::from(code == 0), "{id}");
        }
    }
});

// What a provider publishes is kept by its address; who the provider is, is read for each login.
crate::on_both_databases!(a_provider_follows_a_database_that_was_set_back, |database| {
    let upstream = Upstream::start();
    let site = Site::new(database, &upstream.ca_file, &upstream.issuer, &[]).await;
    let raw = Raw::open(&site.database).await;
    let asked = async || {
        let url = site.begin(&mut upstream.browser()).await?;
        Ok::<_, &str>(["client_id", "scope"].map(|name| parameter(&url, name)))
    };
    let first = asked().await;
    assert!(first.is_ok());
    let earlier = Earlier::take(&raw).await;
    let update = ["providers", "update", "acme"];
    for (change, expected) in [
        (&["--client-id", "other"][..], Some(["other", "openid email profile"])),
        (&["--scope", "openid"], Some(["keyround", "openid"])),
        (&["--issuer", "https://id.example"], None),
    ] {
        run(&site.database, &[&update, change].concat());
        let changed = asked().await;
        let expected = expected.map(|texts| texts.map(str::to_owned));
        assert_eq!(changed.ok(), expected, "{change:?}");
        earlier.put_back(&raw).await;
        assert_eq!(asked().await, first, "set back after {change:?}");
    }
    for change in [
        &["providers", "disable", "acme"][..],
        &["providers", "delete", "acme", "--yes"],
    ] {
        run(&site.database, change);
        assert_eq!(asked().await, Err("provider_unknown"));
        earlier.put_back(&raw).await;
        assert_eq!(asked().await, first, "set back after {change:?}");
    }
    // A login that was begun in the time that was lost is unknown.
    let mut browser = upstream.browser();
    let question = site.begin(&mut browser).await.unwrap();
    earlier.put_back(&raw).await;
    let finished = site.finish(&browser, &upstream.callback(&question)).await;
    assert_eq!(finished.unwrap_err(), "state_invalid");
    raw.close().await;
});
