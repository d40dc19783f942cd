//! npm `oidc-provider`, as an operator would run it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use keyround::accounts::email::Email;
use keyround::clock::UnixTime;
use keyround::store::Db;
use serde_json::{Value, json};

use super::{Browser, CLIENT_SECRET, Site, parameter};
use crate::client_assertions::keyround;
use crate::helpers::{TestDatabase, entry};
use crate::tls::Authority;

/// People who come twice at once.
const TWINS: [&str; 8] = ["ann", "ben", "cem", "dan", "eli", "fay", "gus", "hal"];

/// A running provider.
pub struct OidcProvider {
    process: Child,
    /// It says more than its address, and ends when nobody listens.
    _said: BufReader<ChildStdout>,
    pub issuer: String,
    pub ca_file: PathBuf,
    _folder: tempfile::TempDir,
}

impl OidcProvider {
    /// With the people of these tests; what its client and its configuration say beside the usual.
    pub fn start(client: &Value, configuration: &Value) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/provider");
        assert!(
            root.join("node_modules/ready").exists(),
            "npm oidc-provider is not installed: run make test"
        );
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path());
        authority.pair(1, 30);
        let mut registered = json!({
            "client_id": "keyround", "client_secret": CLIENT_SECRET,
            "redirect_uris": ["http://127.0.0.1:8080/auth/federated/acme/callback"],
        });
        for (name, value) in client.as_object().unwrap() {
            registered[name] = value.clone();
        }
        let mut settings = json!({
            "clients": [registered], "configuration": configuration,
            "accounts": {
                "ada": { "email": "Ada@Example.com", "email_verified": true, "name": "Ada Lovelace" },
                "other-ada": { "email": "ada@example.com", "email_verified": true },
                "eve": { "email": "eve@example.com", "email_verified": false },
                "nobody": {},
                // FULLWIDTH LATIN SMALL LETTER A: another mailbox, which folds to the address of ada.
                "lookalike": { "email": "\u{ff41}da@example.com", "email_verified": true },
            },
        });
        for person in TWINS {
            settings["accounts"][person] = json!({ "email": format!("{person}@example.com"), "email_verified": true });
        }
        let mut process = Command::new("node")
            .arg(root.join("provider.mjs"))
            .args([authority.0.join("server.pem"), authority.0.join("server.key")])
            .arg(settings.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut issuer = String::new();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        said.read_line(&mut issuer).unwrap();
        assert!(issuer.starts_with("https://"), "the provider did not start: {issuer}");
        Self {
            process,
            _said: said,
            issuer: issuer.trim().to_owned(),
            ca_file: authority.0.join("ca.pem"),
            _folder: folder,
        }
    }

    fn browser(&self, person: impl Into<Option<&'static str>>) -> Browser {
        Browser::new(&self.ca_file, person)
    }

    async fn site(&self, database: TestDatabase, more: &[&str]) -> Site {
        Site::new(database, &self.ca_file, &self.issuer, more).await
    }
}

impl Drop for OidcProvider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

crate::on_both_databases!(somebody_logs_in_and_is_the_same_the_next_time, |database| {
    let provider = OidcProvider::start(&json!({}), &json!({}));
    let site = provider.site(database, &[]).await;
    let mut browser = provider.browser("ada");
    let url = site.begin(&mut browser).await.unwrap();
    let callback = browser.log_in(url).await;
    let confirmed = site.finish(&browser, &callback).await.unwrap();
    assert_eq!(confirmed.return_to.as_str(), "http://127.0.0.1:8080/home");
    let first = confirmed.user.user;
    assert_eq!(
        (first.email.as_str(), first.name.as_str()),
        ("ada@example.com", "Ada Lovelace")
    );
    assert!(first.email_verified_at.is_some() && first.roles.is_empty());
    let stored = site.db.user(first.id).await.unwrap().unwrap();
    assert_eq!(stored.password_hash, None);
    // The same browser, another one, and one in which a second login began meanwhile.
    assert_eq!(site.login(&mut browser).await.unwrap(), first);
    let mut other = provider.browser("ada");
    let url = site.begin(&mut other).await.unwrap();
    let second_tab = site.begin(&mut other).await.unwrap();
    for url in [url, second_tab] {
        let callback = other.log_in(url).await;
        assert_eq!(site.finish(&other, &callback).await.unwrap().user.user, first);
    }
    assert_eq!(site.counts().await, (1, 1));
    let events: Vec<(String, String)> = site
        .db
        .audit(None, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|record| (record.event, record.subject))
        .collect();
    let subject = first.id.to_string();
    assert_eq!(
        events,
        [
            ("user.identity_linked".to_owned(), subject.clone()),
            ("user.created".to_owned(), subject),
            ("provider.created".to_owned(), "acme".to_owned()),
        ]
    );
});

// Twice the same person in one moment: one account.
crate::on_both_databases!(two_first_logins_in_one_moment_make_one_account, |database| {
    let provider = OidcProvider::start(&json!({}), &json!({}));
    let site = provider.site(database, &[]).await;
    for (round, person) in TWINS.into_iter().enumerate() {
        let (mut one, mut other) = (provider.browser(person), provider.browser(person));
        let (url, other_url) = (
            site.begin(&mut one).await.unwrap(),
            site.begin(&mut other).await.unwrap(),
        );
        let callbacks = (one.log_in(url).await, other.log_in(other_url).await);
        let (first, second) = tokio::join!(site.finish(&one, &callbacks.0), site.finish(&other, &callbacks.1));
        assert_eq!(first.unwrap().user.user, second.unwrap().user.user);
        let people = i64::try_from(round).unwrap() + 1;
        assert_eq!(site.counts().await, (people, people));
    }
});

/// What providers differ in: how we prove ourselves, the algorithm, and where the e-mail is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_of_every_kind_are_understood() {
    for (client, configuration) in [
        (
            json!({ "id_token_signed_response_alg": "ES256" }),
            json!({ "conformIdTokenClaims": false }),
        ),
        (
            json!({ "token_endpoint_auth_method": "client_secret_post" }),
            json!({ "clientAuthMethods": ["client_secret_post", "none"] }),
        ),
    ] {
        let provider = OidcProvider::start(&client, &configuration);
        let site = provider.site(TestDatabase::sqlite(), &[]).await;
        let confirmed = site.login(&mut provider.browser("ada")).await;
        assert_eq!(confirmed.unwrap().email.as_str(), "ada@example.com", "{client}");
    }
}

/// An account with a password.
pub async fn existing_account(db: &Db, email: &str, verified: bool) {
    let now = UnixTime(1_700_000_000);
    let user = keyround::accounts::user::User {
        id: keyround::accounts::user::UserId::generate(now),
        tenant: keyround::accounts::tenant::TenantId::default(),
        email: email.parse().unwrap(),
        email_verified_at: verified.then_some(now),
        name: "Countess".parse().unwrap(),
        roles: vec!["admin".parse().unwrap()],
        created_at: now,
        suspended_at: None,
    };
    let stored = keyround::store::users::StoredUser {
        user,
        password_hash: Some("$2b$04$hash".to_owned()),
    };
    assert!(db.create_user(&stored, &entry("user.created", "test")).await.unwrap());
}

crate::on_both_databases!(
    an_account_is_linked_when_both_sides_and_the_operator_say_so,
    |database| {
        let provider = OidcProvider::start(&json!({}), &json!({}));
        let site = provider.site(database, &["--link-verified-email"]).await;
        existing_account(&site.db, "ada@example.com", true).await;
        existing_account(&site.db, "eve@example.com", true).await;
        assert_eq!(
            site.login(&mut provider.browser("lookalike")).await.unwrap_err(),
            "account_exists"
        );
        assert_eq!(site.counts().await, (2, 0));
        let linked = site.login(&mut provider.browser("ada")).await.unwrap();
        assert_eq!((linked.name.as_str(), linked.roles.len()), ("Countess", 1));
        assert_eq!(site.counts().await, (2, 1));
        assert_eq!(site.login(&mut provider.browser("ada")).await.unwrap(), linked);
        // The address was given to another person at the provider, and the account is still the first one's.
        assert_eq!(
            site.login(&mut provider.browser("other-ada")).await.unwrap_err(),
            "account_exists"
        );
        // Not verified there.
        assert_eq!(
            site.login(&mut provider.browser("eve")).await.unwrap_err(),
            "email_not_verified"
        );
        assert_eq!(site.counts().await, (2, 1));
        // Suspended here, linked or not.
        site.execute("UPDATE users SET suspended_at = 1").await;
        assert_eq!(
            site.login(&mut provider.browser("ada")).await.unwrap_err(),
            "account_suspended"
        );
        site.execute("DELETE FROM federated_identities").await;
        assert_eq!(
            site.login(&mut provider.browser("ada")).await.unwrap_err(),
            "account_suspended"
        );
        assert_eq!(site.counts().await, (2, 0));
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_an_account_by_an_email_alone() {
    let provider = OidcProvider::start(&json!({}), &json!({}));
    for (verified_here, allowed) in [(true, false), (false, true), (false, false)] {
        let more: &[&str] = if allowed { &["--link-verified-email"] } else { &[] };
        let site = provider.site(TestDatabase::sqlite(), more).await;
        existing_account(&site.db, "ada@example.com", verified_here).await;
        let refused = site.login(&mut provider.browser("ada")).await.unwrap_err();
        assert_eq!(refused, "account_exists", "{verified_here} {allowed}");
        let email: Email = "ada@example.com".parse().unwrap();
        let stored = site.db.user_by_email(&email).await.unwrap().unwrap();
        assert_eq!(stored.user.email_verified_at.is_some(), verified_here);
        assert_eq!(site.counts().await, (1, 0));
    }
    let site = provider.site(TestDatabase::sqlite(), &["--link-verified-email"]).await;
    for person in ["eve", "nobody", "lookalike"] {
        assert_eq!(
            site.login(&mut provider.browser(person)).await.unwrap_err(),
            "email_not_verified"
        );
    }
    assert_eq!(site.counts().await, (0, 0));
    let closed = [("accounts.registration", "false")];
    let site = Site::with_settings(
        TestDatabase::sqlite(),
        &provider.ca_file,
        &provider.issuer,
        &[],
        &closed,
    )
    .await;
    assert_eq!(
        site.login(&mut provider.browser("ada")).await.unwrap_err(),
        "registration_closed"
    );
    assert_eq!(site.counts().await, (0, 0));
}

crate::on_both_databases!(an_answer_counts_once_in_the_browser_that_asked, |database| {
    let provider = OidcProvider::start(&json!({}), &json!({}));
    let site = provider.site(database, &[]).await;
    let mut browser = provider.browser("ada");
    let url = site.begin(&mut browser).await.unwrap();
    let callback = browser.log_in(url).await;
    // Another browser that has a login of its own, one that has none, and one whose person edits cookies.
    let mut thief = provider.browser("eve");
    site.begin(&mut thief).await.unwrap();
    let stranger = provider.browser("eve");
    let mut forger = provider.browser("eve");
    forger.secret = Some(parameter(&callback, "state"));
    for other in [&thief, &stranger, &forger] {
        assert_eq!(site.finish(other, &callback).await.unwrap_err(), "state_invalid");
    }
    // That did not take it from whom it belongs to; used, it is used.
    assert!(site.finish(&browser, &callback).await.is_ok());
    assert_eq!(site.finish(&browser, &callback).await.unwrap_err(), "state_invalid");

    // The code again, as the answer to a login of its own.
    let url = site.begin(&mut browser).await.unwrap();
    let mut replayed = callback.clone();
    let iss = parameter(&callback, "iss");
    replayed.query_pairs_mut().clear().extend_pairs([
        ("state", parameter(&url, "state")),
        ("code", parameter(&callback, "code")),
        ("iss", iss),
    ]);
    assert_eq!(site.finish(&browser, &replayed).await.unwrap_err(), "federation_failed");

    // Somebody else's code in this browser's login: it was asked for with another challenge.
    let url = site.begin(&mut thief).await.unwrap();
    let stolen = thief.log_in(url).await;
    let url = site.begin(&mut browser).await.unwrap();
    let mut injected = stolen.clone();
    injected.query_pairs_mut().clear().extend_pairs([
        ("state", parameter(&url, "state")),
        ("code", parameter(&stolen, "code")),
        ("iss", parameter(&stolen, "iss")),
    ]);
    assert_eq!(site.finish(&browser, &injected).await.unwrap_err(), "federation_failed");
    assert_eq!(site.counts().await, (1, 1));

    // Too late.
    let url = site.begin(&mut browser).await.unwrap();
    let callback = browser.log_in(url).await;
    site.execute("UPDATE federated_logins SET expires_at = 1").await;
    assert_eq!(site.finish(&browser, &callback).await.unwrap_err(), "state_invalid");
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cancels_or_whose_provider_is_away_or_disabled_is_told_so() {
    let mut provider = OidcProvider::start(&json!({}), &json!({}));
    let site = provider.site(TestDatabase::sqlite(), &[]).await;
    assert_eq!(
        site.login(&mut provider.browser(None)).await.unwrap_err(),
        "federation_denied"
    );
    let mut browser = provider.browser("ada");
    let url = site.begin(&mut browser).await.unwrap();
    let callback = browser.log_in(url).await;

    // Disabled between the two halves, then before both.
    let run = |arguments: &[&str]| keyround(&site.database, arguments).0;
    assert_eq!(run(&["providers", "disable", "acme"]), 0);
    assert_eq!(site.finish(&browser, &callback).await.unwrap_err(), "provider_unknown");
    assert_eq!(site.begin(&mut browser).await.unwrap_err(), "provider_unknown");
    assert_eq!(run(&["providers", "enable", "acme"]), 0);

    // A secret that the provider does not know: refused there, and the right one helps.
    let wrong = site.database.folder.path().join("wrong");
    std::fs::copy(site.database.folder.path().join("client-secret"), &wrong).unwrap();
    std::fs::write(&wrong, "another secret").unwrap();
    let set = |file: &Path| {
        run(&[
            "providers",
            "set-secret",
            "acme",
            "--client-secret-file",
            file.to_str().unwrap(),
        ])
    };
    assert_eq!(set(&wrong), 0);
    assert_eq!(site.finish(&browser, &callback).await.unwrap_err(), "federation_failed");
    assert_eq!(set(&site.database.folder.path().join("client-secret")), 0);
    assert!(site.login(&mut browser).await.is_ok());

    // Gone before the code is exchanged: the metadata is still known.
    let url = site.begin(&mut browser).await.unwrap();
    let callback = browser.log_in(url).await;
    provider.process.kill().unwrap();
    provider.process.wait().unwrap();
    assert_eq!(
        site.finish(&browser, &callback).await.unwrap_err(),
        "provider_unavailable"
    );
    // A node that has never met it.
    let other = provider.site(TestDatabase::sqlite(), &[]).await;
    assert_eq!(other.begin(&mut browser).await.unwrap_err(), "provider_unavailable");
    assert_eq!(site.counts().await, (1, 1));
}

/// An HMAC under a secret that we share is no signature that anybody could verify.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_token_with_an_hmac_is_refused() {
    let configuration = json!({ "enabledJWA": { "idTokenSigningAlgValues": ["HS256", "RS256"] } });
    let client = json!({ "id_token_signed_response_alg": "HS256", "client_secret": CLIENT_SECRET });
    let provider = OidcProvider::start(&client, &configuration);
    let site = provider.site(TestDatabase::sqlite(), &[]).await;
    assert_eq!(
        site.login(&mut provider.browser("ada")).await.unwrap_err(),
        "federation_failed"
    );
    assert_eq!(site.counts().await, (0, 0));
}
