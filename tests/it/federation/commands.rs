//! `keyround providers`.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{CLIENT_SECRET, create, secret_file};
use crate::client_assertions::keyround;
use crate::helpers::TestDatabase;

const ISSUER: &str = "https://accounts.google.com";

crate::on_both_databases!(a_provider_is_created_listed_changed_and_deleted, |database| {
    let database = &database;
    let run = |arguments: &[&str]| -> Value {
        let (code, out, err) = keyround(database, &[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    };
    create(database, "google", ISSUER, &["--link-verified-email"]);
    create(database, "plain", "https://id.example/", &["--scope", "openid email"]);
    let list = run(&["providers", "list"]);
    assert_eq!(list[0]["provider"], "google");
    assert_eq!(
        (&list[0]["issuer"], &list[0]["client_id"]),
        (&ISSUER.into(), &"keyround".into())
    );
    assert_eq!(
        list[0]["redirect_uri"],
        "http://127.0.0.1:8080/auth/federated/google/callback"
    );
    assert_eq!(
        (&list[0]["link_verified_email"], &list[1]["link_verified_email"]),
        (&true.into(), &false.into())
    );
    assert_eq!(
        (&list[1]["scope"], &list[1]["issuer"]),
        (&"openid email".into(), &"https://id.example/".into())
    );
    assert!(!list.to_string().contains("secret"));
    for (command, changed) in [
        ("disable", true),
        ("disable", false),
        ("enable", true),
        ("enable", false),
    ] {
        assert_eq!(run(&["providers", command, "google"])["changed"], changed, "{command}");
    }
    let (_, table, _) = keyround(database, &["providers", "list"]);
    assert!(
        table.contains("verified e-mails") && table.contains("enabled"),
        "{table}"
    );

    // The secret lies under the master key, and moves with the rest.
    let raw = crate::rows::Raw::open(database).await;
    let sealed = raw
        .texts("SELECT sealed FROM secrets WHERE name = 'identity-provider:google'")
        .await;
    assert!(
        sealed[0].starts_with("v2.") && !sealed[0].contains(CLIENT_SECRET),
        "{sealed:?}"
    );
    raw.close().await;
    let rows = run(&["master-key", "status"]);
    assert!(rows.to_string().contains('3'), "{rows}");

    assert_eq!(run(&["providers", "delete", "google", "--yes"])["changed"], true);
    assert_eq!(run(&["providers", "list"])[0]["provider"], "plain");
    let events = run(&["audit", "list"]);
    let events: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        [
            "provider.deleted",
            "provider.enabled",
            "provider.disabled",
            "provider.created",
            "provider.created"
        ]
    );
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_provider_is_refused_in_one_sentence() {
    let database = TestDatabase::sqlite();
    create(&database, "google", ISSUER, &[]);
    let secret = secret_file(&database);
    let secret = secret.to_str().unwrap();
    let refused = |arguments: &[&str], exit: i32, says: &str| {
        let (code, _, err) = keyround(&database, arguments);
        assert_eq!((code, err.lines().count()), (exit, 1), "{err}");
        assert!(err.contains(says), "{err}");
    };
    let create = |name, issuer, file| {
        [
            "providers",
            "create",
            name,
            "--issuer",
            issuer,
            "--client-id",
            "a",
            "--client-secret-file",
            file,
        ]
    };
    refused(
        &create("google", ISSUER, secret),
        1,
        "there is a provider 'google' already",
    );
    refused(&create("Google", ISSUER, secret), 2, "1 to 32 characters");
    refused(
        &create("new", "http://accounts.google.com", secret),
        2,
        "an issuer is an https URL",
    );
    refused(
        &create("new", ISSUER, "/nowhere"),
        2,
        "which --client-secret-file names: No such file",
    );
    refused(
        &[&create("new", ISSUER, secret)[..], &["--scope", "email"]].concat(),
        2,
        "openid among them",
    );
    for command in ["disable", "enable", "show"] {
        refused(&["providers", command, "other"], 1, "no provider is called 'other'");
    }
    refused(
        &["providers", "delete", "other", "--yes"],
        1,
        "no provider is called 'other'",
    );
    refused(
        &["providers", "set-secret", "other", "--client-secret-file", secret],
        1,
        "no provider is called 'other'",
    );
    std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&create("new", ISSUER, secret), 2, "chmod 600");
}
