//! Locks on tables of PostgreSQL, which requests wait for while the keys are read as always.

use std::collections::BTreeSet;

use keyround::clock::Clock;
use keyround::store::needed_rights;
use serde_json::{Value, json};

use crate::auth::visitor::{PASSWORD, Site, email};
use crate::helpers::TestDatabase;
use crate::introspection::{ask, ask_until_known};
use crate::token::{client, register};

/// The check, as `/readyz/issue` and the metrics tell it.
async fn told(site: &Site) -> (bool, String) {
    let answer = site.app.http.get(format!("{}/readyz/issue", site.app.admin_url)).send();
    let answer: Value = answer.await.unwrap().json().await.unwrap();
    let check = answer["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "locks")
        .unwrap();
    (check["ok"] == true, check["detail"].as_str().unwrap().to_owned())
}

/// The check once what was found before is no answer any more.
async fn until(site: &Site, is_green: bool) -> String {
    for _ in 0..600 {
        let (ok, detail) = told(site).await;
        if ok == is_green {
            return detail;
        }
        keyround::clock::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the check is never {}", if is_green { "green" } else { "red" });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_locked_is_told() {
    let site = Site::start(TestDatabase::postgres().await, &[]).await;
    site.register("ada").await;
    let log_in = async || {
        let body = json!({ "email": email("ada"), "password": PASSWORD, "token_delivery": "body" });
        let login = site.visitor().json(reqwest::Method::POST, "/auth/login", &body);
        login.send().await.unwrap().status().as_u16()
    };
    until(&site, true).await;
    assert_eq!(log_in().await, 200);
    // The keys are read as always, and a login waits for its session.
    for mode in ["ACCESS EXCLUSIVE", "EXCLUSIVE", "SHARE ROW EXCLUSIVE", "SHARE"] {
        let held = site.raw.hold(&format!("LOCK TABLE sessions IN {mode} MODE")).await;
        let detail = until(&site, false).await;
        assert!(
            detail.contains("sessions (") && detail.contains("pg_terminate_backend("),
            "{detail}"
        );
        assert_eq!(log_in().await, 503, "{mode}");
        held.let_go().await;
        until(&site, true).await;
        assert_eq!(log_in().await, 200, "{mode}");
    }
    // A change of the schema that waits for a long read: every statement after it waits behind it.
    let reader = site.raw.hold("LOCK TABLE sessions IN ACCESS SHARE MODE").await;
    let waiting = site.raw.hold("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE");
    let looking = async {
        let detail = until(&site, false).await;
        assert!(detail.contains("sessions (AccessExclusiveLock)"), "{detail}");
        assert_eq!(log_in().await, 503);
        reader.let_go().await;
    };
    let (held, ()) = tokio::join!(waiting, looking);
    held.let_go().await;
    until(&site, true).await;
    // Every table of ours is looked at.
    let tables: BTreeSet<&str> = needed_rights()
        .map(|(table, _)| table)
        .filter(|table| !table.starts_with('_'))
        .collect();
    let list: Vec<&str> = tables.iter().copied().collect();
    let held = site
        .raw
        .hold(&format!("LOCK TABLE {} IN SHARE MODE", list.join(", ")))
        .await;
    let detail = until(&site, false).await;
    for table in tables {
        assert!(detail.contains(&format!("{table} (ShareLock)")), "{table}: {detail}");
    }
    held.let_go().await;
    // What reads and writes in peace, and a lock on what is not ours, is no fault.
    site.raw.execute("CREATE TABLE foreign_things (id BIGINT)").await;
    let peaceful = "LOCK TABLE sessions IN ROW EXCLUSIVE MODE; LOCK TABLE users IN SHARE UPDATE EXCLUSIVE MODE; LOCK TABLE foreign_things";
    let held = site.raw.hold(peaceful).await;
    until(&site, true).await;
    let clock = Clock::system();
    let since = clock.read().monotonic;
    while clock.read().monotonic < since + std::time::Duration::from_secs(3) {
        assert!(told(&site).await.0);
    }
    held.let_go().await;
    site.stop().await;
}

/// A commit that comes after the server has given up waiting: the answer must not say that nothing happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_whose_commit_was_not_heard_is_said_to_be_unknown() {
    let site = Site::start(TestDatabase::postgres().await, &[]).await;
    let secret = register(&site.app, &client("billing")).await;
    let token = site.app.token("billing", &secret).await;
    site.raw
        .execute(
            "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER stall AFTER INSERT ON denied_tokens DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION stall()",
        )
        .await;
    let answer = ask(&site.app, "revoke", "billing", &secret, &token).await;
    assert_eq!(answer.status(), 503);
    let said: Value = answer.json().await.unwrap();
    let said = said["error_description"].as_str().unwrap();
    assert!(
        said.contains("is not known") && said.contains("send the same request again"),
        "{said}"
    );
    // It waits for the commit, which has happened all the same.
    site.raw.execute("DROP TRIGGER stall ON denied_tokens").await;
    assert_eq!(site.raw.number("SELECT count(*) FROM denied_tokens").await, 1);
    let again = ask_until_known(&site.app, "revoke", "billing", &secret, &token).await;
    assert_eq!(again.status(), 200);
    site.stop().await;
}
