//! The command line: the real binary, its settings in its environment, on a database where a server runs.

mod arguments;
mod clients;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyround::clock::{Clock, Seconds, sleep};
use keyround::crypto::purpose::Purpose;
use keyround::store::nodes::{Heartbeat, Place};
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase};

/// That of `helpers::config`.
const MASTER_KEY: &str = "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=";
const CREATE: [&str; 6] = [
    "clients",
    "create",
    "--grant",
    "client_credentials",
    "--audience",
    "https://api.example.com",
];
/// Short enough to wait for.
const SETTINGS: [(&str, &str); 1] = [("keys.replica_refresh", "3s")];

/// A person at a shell, and all that the person has seen.
struct Shell {
    environment: Vec<(String, String)>,
    seen: Mutex<String>,
}

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Outcome {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }

    /// Holds that it was refused with this code and one sentence, and answers with the sentence.
    fn refused(&self, code: i32) -> &str {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert_eq!(self.err.trim_end().lines().count(), 1, "{}", self.err);
        self.err.strip_prefix("keyround: ").unwrap().trim_end()
    }
}

impl Shell {
    fn new(settings: &[(&str, &str)]) -> Self {
        let variable = |name: &str| format!("KEYROUND_{}", name.to_uppercase().replace('.', "__"));
        Self {
            environment: settings
                .iter()
                .map(|(name, value)| (variable(name), (*value).to_owned()))
                .collect(),
            seen: Mutex::default(),
        }
    }

    fn on(database: &TestDatabase, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![
            ("server.issuer", "http://127.0.0.1:8080"),
            ("keys.master_key", MASTER_KEY),
            ("database.url", database.url.as_str()),
        ];
        all.extend(settings);
        Self::new(&all)
    }

    fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(variable, _)| variable != name);
        self
    }

    async fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyround"));
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let outcome = Outcome {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        let mut seen = self.seen.lock().unwrap();
        seen.extend([outcome.out.as_str(), "\n", outcome.err.as_str(), "\n"]);
        outcome
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).await.json()
    }

    /// The keys of one state and algorithm.
    async fn kids(&self, alg: &str, state: &str) -> Vec<String> {
        let keys = self.json(&["keys", "list"]).await;
        let of = |key: &&Value| key["alg"] == alg && key["state"] == state;
        keys.as_array()
            .unwrap()
            .iter()
            .filter(of)
            .map(|key| text(&key["kid"]))
            .collect()
    }

    /// Holds that nothing secret was ever printed; secrets of clients are, once each.
    async fn has_seen_no_secret(&self, app: &TestApp, client_secrets: &[&str]) {
        let seen = self.seen.lock().unwrap().clone();
        for secret in [MASTER_KEY, "-----BEGIN", "\"d\":", "\"sealed\"", "digest"] {
            assert!(!seen.contains(secret), "{secret} was printed");
        }
        for row in app.running.server.db.signing_keys().await.unwrap().rows {
            assert!(row.sealed.is_none_or(|sealed| !seen.contains(&sealed)));
        }
        for stored in app.running.server.db.clients(None, 100).await.unwrap() {
            assert!(stored.secrets.iter().all(|digest| !seen.contains(digest)));
        }
        for secret in client_secrets {
            assert_eq!(seen.matches(secret).count(), 1);
        }
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}

async fn app(database: &TestDatabase) -> TestApp {
    TestApp::start_with_clock(database, &SETTINGS, Clock::system()).await
}

async fn served(app: &TestApp) -> Vec<String> {
    app.key_set().await["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| text(&key["kid"]))
        .collect()
}

/// Holds that the server serves these kids, or none of them, after its next look at the database. It looks twice within the time that nodes
/// may take to follow, unless the machine is held up.
async fn follows(app: &TestApp, kids: &[String], serves: bool) {
    let looked = || app.running.server.keyring.snapshot();
    let (mut last, mut looks) = (looked(), 0);
    for _ in 0..1_200 {
        let now = looked();
        looks += u32::from(!Arc::ptr_eq(&now, &last));
        last = now;
        let set = served(app).await;
        if kids.iter().all(|kid| set.contains(kid) == serves) {
            return;
        }
        // The first of them may have begun before the change.
        assert!(looks < 2, "the server does not follow: {set:?}, {kids:?}");
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the server looks no more");
}

crate::on_both_databases!(clients_are_registered_and_changed_while_a_server_runs, |database| {
    let app = app(&database).await;
    let shell = Shell::on(&database, &SETTINGS);
    let options = [
        "--id",
        "billing",
        "--scope",
        "read write",
        "--algorithm",
        "ES256",
        "--token-ttl",
        "5m",
    ];
    let created = shell.json(&[&CREATE[..], &options].concat()).await;
    assert_eq!(created["client_id"], "billing");
    let first = text(&created["client_secret"]);
    app.token("billing", &first).await;

    let shown = shell.json(&["clients", "show", "billing"]).await;
    assert_eq!(
        (
            &shown["scope"],
            &shown["algorithm"],
            &shown["token_ttl"],
            &shown["valid_secrets"]
        ),
        (&"read write".into(), &"ES256".into(), &"5m".into(), &1.into())
    );
    assert_eq!(shown["audiences"], serde_json::json!(["https://api.example.com"]));
    assert_eq!(shown["grants"], serde_json::json!(["client_credentials"]));
    assert!(shown.get("client_secret").is_none());

    for (command, status) in [("disable", 401), ("disable", 401), ("enable", 200), ("enable", 200)] {
        assert_eq!(shell.run(&["clients", command, "billing"]).await.code, 0);
        app.until_clients_are_read_anew().await;
        let answer = app
            .ask("billing", &first, &[("grant_type", "client_credentials")])
            .await;
        assert_eq!(answer.status(), status, "{command}");
    }

    let second = text(&shell.json(&["clients", "rotate-secret", "billing"]).await["client_secret"]);
    app.token("billing", &first).await;
    app.token("billing", &second).await;
    // The output of the second may have been lost: another call takes the first away only if it is told to.
    let refused = shell.run(&["clients", "rotate-secret", "billing"]).await;
    let refused = refused.refused(1);
    for part in ["two valid secrets", "--end-previous", "--replace-newest"] {
        assert!(refused.contains(part), "{refused}");
    }
    let newest = shell
        .json(&["clients", "rotate-secret", "billing", "--replace-newest"])
        .await;
    let second_again = text(&newest["client_secret"]);
    app.until_clients_are_read_anew().await;
    app.token("billing", &first).await;
    let lost = app
        .ask("billing", &second, &[("grant_type", "client_credentials")])
        .await;
    assert_eq!(lost.status(), 401);
    let second = second_again;
    let third = text(
        &shell
            .json(&["clients", "rotate-secret", "billing", "--end-previous"])
            .await["client_secret"],
    );
    app.until_clients_are_read_anew().await;
    let answer = app
        .ask("billing", &first, &[("grant_type", "client_credentials")])
        .await;
    assert_eq!(answer.status(), 401);
    app.token("billing", &second).await;
    app.token("billing", &third).await;
    let stored = app
        .running
        .server
        .db
        .client(&"billing".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let matches = |secret: &str| {
        let server = &app.running.server;
        stored
            .secrets
            .iter()
            .any(|digest| server.hash_key.matches(Purpose::ClientSecret, secret, digest))
    };
    assert!(matches(&third) && matches(&second) && !matches(&first));

    // Without an id it gets a random one.
    let random = shell.run(&CREATE).await;
    assert_eq!(random.code, 0);
    let (_, random_secret) = random.out.split_once("client secret  ").unwrap();
    let id = random
        .out
        .lines()
        .next()
        .unwrap()
        .strip_prefix("client id      ")
        .unwrap();
    assert!(id.starts_with("client-") && id.len() == 43, "{id}");
    app.token(id, random_secret.lines().next().unwrap()).await;

    for number in 0..101 {
        app.create_client(&format!("many-{number}"), None).await;
    }
    let listed = shell.json(&["clients", "list"]).await;
    assert_eq!(listed.as_array().unwrap().len(), 103);

    let taken = shell.run(&[&CREATE[..], &["--id", "billing"]].concat()).await;
    assert!(taken.refused(1).contains("there is a client 'billing' already"));
    assert_eq!(shell.run(&["clients", "delete", "billing", "--yes"]).await.code, 0);
    for command in [&["delete", "--yes"][..], &["show"], &["disable"], &["rotate-secret"]] {
        let unknown = shell.run(&[&["clients"], command, &["billing"]].concat()).await;
        assert!(
            unknown.refused(1).contains("no client is called 'billing'"),
            "{command:?}"
        );
    }
    let events = events(&shell, "billing").await;
    assert_eq!(
        events,
        [
            "client.deleted",
            "client.disabled",
            "client.secret_changed",
            "client.secret_changed",
            "client.secret_changed",
            "client.enabled",
            "client.disabled",
            "client.created"
        ]
    );
    shell.has_seen_no_secret(&app, &[&first, &second, &third]).await;
    app.running.stop().await;
});

crate::on_both_databases!(a_client_that_could_never_have_its_token_is_refused, |database| {
    let shell = Shell::on(&database, &[("keys.algorithms", "RS256")]);
    for (options, sentence) in [
        (
            ["--token-ttl", "2h"],
            "--token-ttl is 2h, but tokens.max_token_ttl is 1h",
        ),
        (["--token-ttl", "0s"], "at least 1s"),
        (["--token-ttl", "300"], "has no unit"),
        (["--algorithm", "ES256"], "ES256 is not among keys.algorithms (RS256)"),
        (["--algorithm", "HS256"], "use RS256 or ES256"),
        (["--scope", "a  b"], "separated by single spaces"),
        (["--scope", "a,b"], "did you mean 'a b'?"),
        (["--id", "a b"], "a client id is"),
        (["--grant", "password"], "use client_credentials"),
        (
            ["--audience", "https://"],
            "no URI of a web server, such as https://api.example.com",
        ),
    ] {
        let refusal = shell.run(&[&CREATE[..], &options].concat()).await;
        let refusal = refusal.refused(2);
        assert!(refusal.contains(sentence), "{refusal}");
    }
});

/// The events about one subject, newest first.
async fn events(shell: &Shell, subject: &str) -> Vec<String> {
    let records = shell.json(&["audit", "list", "--limit", "1000"]).await;
    let of = |record: &&Value| record["subject"] == subject;
    records
        .as_array()
        .unwrap()
        .iter()
        .filter(of)
        .map(|record| text(&record["event"]))
        .collect()
}

/// Whether this is a time in RFC 3339, in whole seconds and UTC.
fn is_time(value: &Value) -> bool {
    let shape = text(value).replace(|digit: char| digit.is_ascii_digit(), "0");
    shape == "0000-00-00T00:00:00Z"
}

crate::on_both_databases!(a_rotation_is_foreseen_published_ahead_and_followed, |database| {
    let app = app(&database).await;
    let shell = Shell::on(&database, &SETTINGS);
    let before = shell.json(&["keys", "list"]).await;
    let names = before
        .as_array()
        .unwrap()
        .iter()
        .map(|key| text(&key["alg"]))
        .collect::<Vec<_>>();
    assert_eq!(names, ["RS256", "ES256"]);
    for key in before.as_array().unwrap() {
        let fields: Vec<&String> = key.as_object().unwrap().keys().collect();
        let expected = [
            "kid",
            "alg",
            "generation",
            "state",
            "published_at",
            "activates_at",
            "retires_at",
            "expires_at",
            "revoked_at",
        ];
        assert_eq!(fields, expected);
        assert_eq!((&key["generation"], &key["state"]), (&1.into(), &"active".into()));
        assert!(is_time(&key["published_at"]) && is_time(&key["activates_at"]));
        assert!(key["retires_at"].is_null() && key["expires_at"].is_null() && key["revoked_at"].is_null());
    }

    let plan = shell.json(&["keys", "plan"]).await;
    let whats: Vec<String> = plan["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| text(&event["event"]))
        .collect();
    for what in ["publish", "activate", "retire", "destroy_private_half", "expire"] {
        assert_eq!(whats.iter().filter(|name| *name == what).count(), 2, "{what}: {plan}");
    }
    assert_eq!(plan["earliest"].as_array().unwrap().len(), 2);

    let dry = shell.json(&["keys", "rotate", "--dry-run"]).await;
    assert_eq!(
        (&dry["dry_run"], dry["keys"].as_array().unwrap().len()),
        (&true.into(), 2)
    );
    assert!(dry["keys"][0]["kid"].is_null());
    assert_eq!(shell.json(&["keys", "list"]).await, before);

    let rotated = shell
        .json(&["keys", "rotate", "--algorithm", "ES256", "--reason", "a drill"])
        .await;
    let keys = rotated["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 1);
    let stored = app.running.server.db.signing_keys().await.unwrap();
    let new = stored
        .rows
        .iter()
        .find(|row| row.key.kid.as_str() == text(&keys[0]["kid"]))
        .unwrap();
    assert_eq!(new.key.activates_at, new.key.published_at + Seconds(86_400));
    assert_eq!(text(&keys[0]["activates_at"]), new.key.activates_at.rfc3339());
    assert_eq!(shell.kids("ES256", "pending").await, [text(&keys[0]["kid"])]);
    assert!(shell.kids("RS256", "pending").await.is_empty());
    follows(&app, &[text(&keys[0]["kid"])], true).await;

    let people = shell.run(&["keys", "list"]).await;
    let absolute_and_relative = format!("activates {} (in ", new.key.activates_at);
    assert!(people.out.contains(&absolute_and_relative), "{}", people.out);
    assert!(!people.out.contains('\u{1b}'), "there is no terminal to colour");
    let both = shell.run(&["keys", "rotate"]).await;
    assert_eq!(
        both.out
            .lines()
            .filter(|line| line.contains("is published and activates"))
            .count(),
        2
    );
    let shown = shell.json(&["keys", "show", &text(&keys[0]["kid"])]).await;
    assert_eq!(
        (&shown["prepublish"], &shown["has_private_half"]),
        (&"1d".into(), &true.into())
    );
    for command in [
        &["keys", "plan"][..],
        &["keys", "rotate", "--dry-run"],
        &["keys", "show", new.key.kid.as_str()],
    ] {
        assert_eq!(shell.run(command).await.code, 0);
    }
    let unknown = shell.run(&["keys", "show", "nobody"]).await;
    assert!(unknown.refused(1).contains("no key is called 'nobody'"));
    shell.has_seen_no_secret(&app, &[]).await;
    app.running.stop().await;
});

crate::on_both_databases!(an_emergency_replaces_the_key_and_says_who_has_followed, |database| {
    let app = app(&database).await;
    let shell = Shell::on(&database, &SETTINGS);
    shell.json(&["keys", "rotate"]).await;
    let (active, pending) = (
        shell.kids("RS256", "active").await,
        shell.kids("RS256", "pending").await,
    );
    let revoke = ["keys", "revoke", &active[0], "--reason", "a laptop was stolen"];

    let unconfirmed = shell.run(&revoke).await;
    assert!(unconfirmed.refused(2).contains("--yes"));
    assert_eq!(
        shell.run(&["keys", "revoke", &active[0], "--yes"]).await.code,
        2,
        "a reason is needed"
    );
    assert_eq!(shell.kids("RS256", "active").await, active);

    let answer = shell.json(&[&revoke[..], &["--yes"]].concat()).await;
    let revocation = &answer["revocations"][0];
    let replacement = text(&revocation["signs_now"]);
    assert_eq!(revocation["revoked"], serde_json::json!([active[0], pending[0]]));
    assert_eq!(shell.kids("RS256", "active").await, std::slice::from_ref(&replacement));
    assert_eq!(shell.kids("ES256", "active").await.len(), 1);
    assert_eq!(
        answer["nodes"],
        serde_json::json!({ "living": 1, "unconfirmed": [], "other_policy": [] })
    );
    let server_set = served(&app).await;
    assert!(server_set.contains(&replacement) && !server_set.contains(&active[0]) && !server_set.contains(&pending[0]));
    let stored = app.running.server.db.signing_keys().await.unwrap().keys();
    let at = stored.find(&active[0].parse().unwrap()).unwrap().revoked_at.unwrap();
    // P + C + S, P being two refreshes of 3 s.
    assert_eq!(
        text(&revocation["accepted_until"]),
        (at + Seconds(6 + 1_800 + 60)).rfc3339()
    );

    let again = shell.json(&[&revoke[..], &["--yes"]].concat()).await;
    assert_eq!(again["revocations"][0]["already_revoked"], true);
    assert_eq!(again["revocations"][0]["signs_now"], replacement.as_str());
    assert_eq!(again["revocations"][0]["accepted_until"], revocation["accepted_until"]);

    let all = [&revoke[..], &["--yes", "--all-algorithms"]].concat();
    let ec = shell.kids("ES256", "active").await;
    let everything = shell.json(&all).await;
    assert_eq!(everything["revocations"].as_array().unwrap().len(), 2);
    assert_eq!(everything["revocations"][1]["revoked"][0], ec[0].as_str());
    let signing = [shell.kids("RS256", "active").await, shell.kids("ES256", "active").await];
    assert_eq!(signing[0], [replacement]);
    follows(&app, &ec, false).await;
    let repeated = shell.json(&all).await;
    assert_eq!(repeated["revocations"][1]["already_revoked"], true);
    assert_eq!(
        repeated["revocations"][1]["accepted_until"],
        everything["revocations"][1]["accepted_until"]
    );
    assert_eq!(
        [shell.kids("RS256", "active").await, shell.kids("ES256", "active").await],
        signing
    );
    // Tokens follow: a client of the server's default gets one that the new key signed.
    let secret = app.create_client("billing", None).await;
    let token = app.token("billing", &secret).await;
    assert!(served(&app).await.contains(&kid_of(&token)) && kid_of(&token) == signing[0][0]);

    noted_once(
        &shell,
        &active[0],
        &[
            "key.created",
            "key.published",
            "key.activated",
            "key.revoked",
            "key.destroyed",
        ],
    )
    .await;
    noted_once(
        &shell,
        &signing[0][0],
        &["key.created", "key.published", "key.activated"],
    )
    .await;
    let audit = shell.run(&["audit", "list", "--limit", "1000"]).await.out;
    assert!(audit.contains("command line") && audit.contains("a laptop was stolen"));

    let file = database.folder.path().join("keys.svg");
    let path = file.to_str().unwrap();
    assert_eq!(shell.run(&["keys", "timeline", path]).await.code, 0);
    let svg = std::fs::read_to_string(&file).unwrap();
    is_well_formed(&svg);
    let keys = shell.json(&["keys", "list"]).await;
    assert_eq!(keys.as_array().unwrap().len(), 6);
    for key in keys.as_array().unwrap() {
        assert!(svg.contains(&text(&key["kid"])));
    }
    is_well_formed(&shell.run(&["keys", "timeline"]).await.out);
    shell.has_seen_no_secret(&app, &[]).await;
    app.running.stop().await;
});

fn kid_of(token: &str) -> String {
    use base64::Engine;
    let header = token.split('.').next().unwrap();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
    text(&serde_json::from_slice::<Value>(&header).unwrap()["kid"])
}

/// Holds that exactly these events of a key were noted, each once; the server may note some of them a moment later.
async fn noted_once(shell: &Shell, kid: &str, expected: &[&str]) {
    let mut noted = events(shell, kid).await;
    for _ in 0..600 {
        if noted.len() >= expected.len() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        noted = events(shell, kid).await;
    }
    noted.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(noted, expected);
}

/// Holds that every element is closed in its turn, and that nothing in the text could begin another.
fn is_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut parts = xml.trim_end().split('<');
    assert_eq!(parts.next(), Some(""));
    for part in parts {
        let (tag, text) = part.split_once('>').unwrap();
        assert!(!text.contains('>') && tag.matches('"').count() % 2 == 0, "{part}");
        let name = tag.trim_matches('/').split_ascii_whitespace().next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty() && xml.starts_with("<svg "), "{open:?}");
}

crate::on_both_databases!(a_node_that_does_not_follow_is_named, |database| {
    let app = app(&database).await;
    let db = database.open().await;
    let now = db.now().await.unwrap();
    db.beat(&Heartbeat {
        node_id: "asleep".to_owned(),
        seen_at: now.0,
        version: 0,
        change_id: None,
        policy_fingerprint: "another".to_owned(),
        clock_offset: 0,
        master_keys: String::new(),
        place: Place {
            host: "idp-2".to_owned(),
            listener: "10.0.0.7:8443".to_owned(),
            process_id: 4_711,
        },
    })
    .await
    .unwrap();
    let shell = Shell::on(&database, &SETTINGS);
    let active = shell.kids("ES256", "active").await;
    let revoke = ["keys", "revoke", &active[0], "--reason", "a drill", "--yes"];
    let people = shell.run(&revoke).await;
    let named = "idp-2 (process 4711, listening on 10.0.0.7:8443, node asleep)";
    assert_eq!(people.code, 1);
    assert!(
        people.err.contains(named)
            && people.err.contains(", last seen ")
            && people.err.contains(", counts until ")
            && people.err.contains(&format!(
                "keyround keys revoke {} --reason TEXT --yes --stopped asleep",
                active[0]
            )),
        "{}",
        people.err
    );
    assert!(
        people.out.contains("1 of 2 living nodes have not confirmed"),
        "{}",
        people.out
    );
    assert!(people.out.contains(&format!("  {named}  last seen")), "{}", people.out);
    assert!(
        people.out.contains(&format!("Node {named} runs with another policy")),
        "{}",
        people.out
    );

    // The other way round: it is the command that has another policy.
    let other = Shell::on(
        &database,
        &[("keys.replica_refresh", "3s"), ("keys.verifier_cache", "20m")],
    );
    let answer = other.run(&[&["--json"][..], &revoke].concat()).await;
    assert_eq!(answer.code, 1, "{}", answer.err);
    let answer: Value = serde_json::from_str(&answer.out).unwrap();
    let unconfirmed = &answer["nodes"]["unconfirmed"][0];
    assert_eq!(
        (&unconfirmed["host"], &unconfirmed["process_id"]),
        (&"idp-2".into(), &4_711.into()),
        "{answer}"
    );
    assert_eq!(answer["nodes"]["other_policy"].as_array().unwrap().len(), 2, "{answer}");
    app.running.stop().await;
});

crate::on_both_databases!(who_only_looks_needs_no_master_key, |database| {
    let app = app(&database).await;
    app.create_client("billing", None).await;
    let shell = Shell::on(&database, &SETTINGS).without("KEYROUND_KEYS__MASTER_KEY");
    let kid = shell.kids("RS256", "active").await.remove(0);
    for command in [
        &["keys", "list"][..],
        &["keys", "show", &kid],
        &["keys", "plan"],
        &["keys", "rotate", "--dry-run"],
        &["keys", "timeline"],
        &["audit", "list"],
        &["clients", "list"],
        &["clients", "show", "billing"],
    ] {
        let outcome = shell.run(command).await;
        assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{command:?}");
        assert!(!outcome.out.is_empty());
        shell.json(command).await;
    }
    for command in [
        &["keys", "rotate"][..],
        &["keys", "revoke", &kid, "--reason", "x", "--yes"],
        &["clients", "delete", "billing", "--yes"],
    ] {
        assert!(shell.run(command).await.refused(2).contains("master"), "{command:?}");
    }
    assert_eq!(shell.kids("RS256", "active").await, [kid]);
    app.running.stop().await;
});

crate::on_both_databases!(before_the_first_start_there_are_no_keys, |database| {
    let shell = Shell::on(&database, &SETTINGS);
    if database.url.starts_with("sqlite:") {
        // Looking makes no database: a first start makes it together with its keys.
        assert!(
            shell
                .run(&["keys", "list"])
                .await
                .refused(1)
                .contains("there is no database")
        );
        assert!(!database.folder.path().join("keyround.db").exists());
    }
    database.open().await;
    assert_eq!(shell.json(&["keys", "list"]).await, serde_json::json!([]));
    for command in [
        &["keys", "plan"][..],
        &["keys", "rotate"],
        &["keys", "rotate", "--dry-run"],
    ] {
        assert!(
            shell.run(command).await.refused(1).contains("there are no keys yet"),
            "{command:?}"
        );
    }
});

#[tokio::test]
async fn bad_usage_is_one_sentence_and_code_2() {
    let shell = Shell::new(&[("server.issuer", "http://127.0.0.1:8080")]);
    for arguments in [
        &["--bogus"][..],
        &["bogus"],
        &["keys"],
        &["keys", "list", "--bogus"],
        &["keys", "show", "--bogus"],
        &["keys", "show"],
        &["keys", "rotate", "--algorithm", "HS256"],
        &["keys", "revoke", "kid", "--reason", "", "--yes"],
        &["clients", "create"],
        &["audit", "list", "--limit", "0"],
        &["audit", "list", "--limit", "many"],
        &["--config", "/does/not/exist.toml", "config", "check"],
    ] {
        let outcome = shell.run(arguments).await;
        assert!(!outcome.refused(2).is_empty(), "{arguments:?}");
    }
    let misspelt = Shell::new(&[
        ("server.issuer", "http://127.0.0.1:8080"),
        ("keys.rotation_perod", "1d"),
    ]);
    assert!(
        misspelt
            .run(&["keys", "list"])
            .await
            .refused(2)
            .contains("KEYROUND_KEYS__ROTATION_PEROD")
    );
}

#[tokio::test]
async fn settings_are_checked_and_shown_without_their_secrets() {
    let good = Shell::new(&[
        ("server.issuer", "http://127.0.0.1:8080"),
        ("keys.master_key", MASTER_KEY),
    ]);
    let check = good.run(&["config", "check"]).await;
    assert_eq!(check.code, 0);
    assert!(check.out.ends_with("the settings hold\n"));
    assert_eq!(good.json(&["config", "check"]).await["ok"], true);
    for arguments in [&["config", "show"][..], &["config", "show", "--json"]] {
        let shown = good.run(arguments).await;
        assert!(shown.out.contains("rotation_period") && !shown.out.contains(MASTER_KEY));
    }
    // A flag goes before the environment; it is no place for a secret.
    let set = good
        .json(&["config", "show", "--set", "server.issuer=http://127.0.0.1:7070"])
        .await;
    assert!(set.to_string().contains("http://127.0.0.1:7070"));
    let unknown = good.run(&["config", "check", "--set", "keys.period=1d"]).await;
    assert!(unknown.refused(2).contains("keys.period"));
    let secret = good
        .run(&["config", "check", "--set", &format!("keys.master_key={MASTER_KEY}")])
        .await;
    let refusal = secret.refused(2);
    assert!(refusal.contains("keys.master_key_file") && !refusal.contains(MASTER_KEY));

    let bad = Shell::new(&[("server.issuer", "http://127.0.0.1:8080"), ("keys.prepublish", "1m")]);
    assert!(
        bad.run(&["config", "check"])
            .await
            .refused(2)
            .contains("keys.prepublish is 1m, but at least")
    );
}

#[tokio::test]
async fn a_master_key_is_made_for_its_owner_alone_and_never_overwritten() {
    let shell = Shell::new(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys/master.key");
    let generate = ["master-key", "generate", file.to_str().unwrap()];
    assert_eq!(shell.run(&generate).await.code, 0);
    assert_eq!(mode(&file), 0o600);
    let written = std::fs::read_to_string(&file).unwrap();
    keyround::crypto::sealing::MasterKey::parse(&written).unwrap();
    assert!(shell.run(&generate).await.refused(1).contains("never overwritten"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
    assert!(!shell.seen.lock().unwrap().contains(written.trim()));
    let printed = shell.run(&["master-key", "generate"]).await;
    keyround::crypto::sealing::MasterKey::parse(&printed.out).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}
