//! `keyround users` and `keyround tenants` beside servers on the same database.

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;

use keyround::accounts::password::Password;
use keyround::accounts::password_hash::{HashCost, MAX_REFUSED_LOGIN, PasswordHash};
use keyround::clock::{Clock, sleep};
use keyround::jose::alg::Algorithm;
use keyround::jose::jwt::{AccessTokenClaims, AudienceClaim, SessionClaims, TokenType, random_jti};
use keyround::keyring::Inactive;
use keyround::values::SessionId;
use serde_json::{Value, json};

use crate::helpers::{START, TestApp, TestDatabase, answered, private_file};
use crate::process::{keyround, run};
use crate::rows::Raw;
use crate::terminal::at_terminal;

const REFRESH: (&str, &str) = ("keys.replica_refresh", "2s");
/// That time, and what a busy machine needs besides.
const PATIENCE: Duration = Duration::from_secs(6);
const ISSUER: &str = "http://127.0.0.1:8080";

/// A person at a shell on the machine of this database.
struct Person<'a>(&'a TestDatabase);

impl Person<'_> {
    fn variables(&self) -> [(&str, &str); 5] {
        [
            ("KEYROUND_SERVER__ISSUER", ISSUER),
            ("KEYROUND_DATABASE__URL", self.0.url.as_str()),
            ("KEYROUND_KEYS__REPLICA_REFRESH", REFRESH.1),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
            ),
            ("KEYROUND_ACCOUNTS__BCRYPT_COST", "4"),
        ]
    }

    fn output(&self, arguments: &[&str]) -> Output {
        run(self.0.folder.path(), &self.variables(), arguments)
    }

    /// What a command that must succeed prints for people.
    fn printed(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same for programs.
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.printed(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// The sentence of a command that must be refused.
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        sentence
    }

    /// The sentence of a command that says no after it has told what it found.
    fn refused_loudly(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The same with this on standard input.
    fn output_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = keyround(self.0.folder.path(), &self.variables(), arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Makes an account; answers with its id.
    fn create(&self, email: &str, more: &[&str]) -> String {
        let create = ["users", "create", "--email", email, "--name", "Ada Lovelace"];
        let made = self.json(&[&create, more].concat());
        made["user_id"].as_str().unwrap().to_owned()
    }
}

/// A session in the database, and an access token of it.
async fn log_in(app: &TestApp, raw: &Raw, user: &str, tenant: &str) -> String {
    let sid = SessionId::generate(START);
    raw.execute(&format!(
        "INSERT INTO sessions (sid, user_id, tenant_id, client_id, audience, generation, current_hash, salt, created_at, \
         rotated_at, expires_at, address, user_agent) VALUES ('{sid}', '{user}', '{tenant}', 'first-party', \
         'https://api.example.com', 1, 'hash of {sid}', 'salt', 1, 1, 4000000000, '192.0.2.7', 'a browser')"
    ))
    .await;
    let signing = app
        .running
        .server
        .keyring
        .signing(Algorithm::Es256, app.clock.read())
        .unwrap();
    signing
        .sign(
            TokenType::AtJwt,
            &AccessTokenClaims {
                iss: ISSUER.to_owned(),
                sub: user.to_owned(),
                aud: AudienceClaim::one("https://api.example.com"),
                client_id: "first-party".to_owned(),
                iat: signing.now.0,
                exp: signing.now.0 + 600,
                jti: random_jti(),
                scope: None,
                session: Some(SessionClaims {
                    nbf: Some(signing.now.0 - 60),
                    sid: sid.to_string(),
                    grant_id: None,
                    tid: tenant.to_owned(),
                    roles: Vec::new(),
                }),
            },
        )
        .unwrap()
}

/// Whether a server accepts a token; one that has not read the database in time is waited for, because it says neither.
async fn is_active(app: &TestApp, token: &str) -> bool {
    loop {
        match app.running.server.keyring.verify(token, ISSUER, app.clock.read()) {
            Ok(Ok(_)) => return true,
            Ok(Err(Inactive::Ended)) => return false,
            Ok(Err(other)) => panic!("refused for another reason: {other}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Waits until every server refuses the tokens; it is given a little more than the time that is promised.
async fn until_refused(apps: &[TestApp], tokens: &[&String]) {
    let clock = Clock::system();
    let begun = clock.read().monotonic;
    for app in apps {
        for token in tokens {
            // What counts is when it was asked: a busy machine may answer late.
            let mut waited = clock.read().monotonic.saturating_sub(begun);
            while is_active(app, token).await {
                assert!(waited < PATIENCE, "still accepted after {waited:?}");
                sleep(Duration::from_millis(50)).await;
                waited = clock.read().monotonic.saturating_sub(begun);
            }
        }
    }
}

/// Two nodes on PostgreSQL, one on SQLite.
async fn start(database: &TestDatabase) -> Vec<TestApp> {
    let count = if database.url.starts_with("postgres") { 2 } else { 1 };
    let mut apps = Vec::new();
    for _ in 0..count {
        apps.push(TestApp::start_with_clock(database, &[REFRESH], Clock::system()).await);
    }
    apps
}

async fn stop(apps: Vec<TestApp>) {
    for app in apps {
        app.running.stop().await;
    }
}

crate::on_both_databases!(accounts_are_made_shown_and_listed, |database| {
    let apps = start(&database).await;
    let person = Person(&database);
    let printed = person.printed(&["users", "create", "--email", " Ada@Example.COM ", "--name", "Ada"]);
    assert!(
        printed.contains("ada@example.com") && printed.contains("It has no password"),
        "{printed}"
    );
    person.printed(&["tenants", "create", "acme", "--name", "Acme Ltd"]);
    let create = [
        "users",
        "create",
        "--email",
        "bob@example.com",
        "--name",
        "Bob",
        "--tenant",
        "acme",
    ];
    let bob = person.json(
        &[
            &create[..],
            &["--role", "admin", "admin", "billing:read", "--email-verified"],
        ]
        .concat(),
    );
    let id = bob["user_id"].as_str().unwrap();
    assert_eq!(bob["roles"], json!(["admin", "billing:read"]));
    assert_eq!(
        (&bob["tenant_id"], &bob["has_password"]),
        (&json!("acme"), &json!(false))
    );
    assert!(bob["email_verified_at"].is_string() && bob["suspended_at"].is_null());
    for name in [id, &id.to_uppercase(), "bob@example.com", "BOB@example.com"] {
        assert_eq!(person.json(&["users", "show", name]), bob);
        assert!(person.printed(&["users", "show", name]).contains("billing:read"));
    }
    let listed = |more: &[&str]| -> Vec<Value> {
        let listed = person.json(&[&["users", "list"], more].concat());
        listed
            .as_array()
            .unwrap()
            .iter()
            .map(|user| user["user_id"].clone())
            .collect()
    };
    let all = listed(&[]);
    assert_eq!(all.len(), 2);
    assert_eq!(listed(&["--tenant", "acme"]), [id]);
    assert_eq!(listed(&["--after", all[0].as_str().unwrap()]), all[1..]);
    assert!(listed(&["--after", all[1].as_str().unwrap()]).is_empty());
    let first = person.printed(&["users", "list", "--limit", "1"]);
    assert!(
        first.contains(&format!("--after {}", all[0].as_str().unwrap())),
        "{first}"
    );
    for (arguments, says) in [
        (&["users", "set-roles", id][..], "take every role away by --no-roles"),
        (
            &["users", "set-roles", id, "--role", "reader", "--no-roles"],
            "--no-roles",
        ),
    ] {
        let said = person.refused(2, arguments);
        assert!(said.contains(says), "{said}");
    }
    let before = person.json(&["users", "show", id])["roles"].clone();
    assert_eq!(before, json!(["admin", "billing:read"]), "nothing was changed");
    person.json(&["users", "set-roles", id, "--no-roles"]);
    assert_eq!(person.json(&["users", "show", id])["roles"], json!([]));
    person.json(&["users", "set-roles", id, "--role", "admin", "billing:read"]);
    let roles = person.json(&["users", "set-roles", id, "--role", "reader"]);
    assert_eq!(roles, json!({ "user_id": id, "changed": true, "ended_sessions": 0 }));
    assert_eq!(person.json(&["users", "show", id])["roles"], json!(["reader"]));
    let noted = person.json(&["audit", "list", "--limit", "1"]);
    let reason = noted[0]["reason"].as_str().unwrap();
    assert!(reason.contains("from 'admin billing:read' to 'reader'"), "{reason}");

    assert!(person.refused(1, &create).contains("bob@example.com already"));
    assert!(
        person
            .refused(1, &["tenants", "create", "acme"])
            .contains("'acme' already")
    );
    let elsewhere = [
        "users",
        "create",
        "--email",
        "c@example.com",
        "--name",
        "C",
        "--tenant",
        "nowhere",
    ];
    assert!(person.refused(1, &elsewhere).contains("no tenant 'nowhere'"));
    assert!(
        person
            .refused(1, &["users", "list", "--tenant", "nowhere"])
            .contains("no tenant")
    );
    assert!(
        person
            .refused(1, &["users", "show", "c@example.com"])
            .contains("no account 'c@example.com'")
    );
    assert!(
        person
            .refused(2, &["users", "show", "ada"])
            .contains("named by its e-mail address or its id")
    );
    let many: Vec<String> = (0..17).map(|number| format!("role{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let roles = [&["users", "set-roles", id, "--role"], &many[..]].concat();
    assert!(person.refused(2, &roles).contains("at most 16"));
    stop(apps).await;
});

// Within `keys.replica_refresh` on every node; what ended stays ended.
crate::on_both_databases!(
    what_is_ended_by_command_is_refused_by_every_node_and_never_revived,
    |database| {
        let apps = start(&database).await;
        let person = Person(&database);
        let raw = Raw::open(&database).await;
        let ada = person.create("ada@example.com", &[]);
        let bob = person.create("bob@example.com", &[]);
        let of_bob = log_in(&apps[0], &raw, &bob, "default").await;

        let mut ended = Vec::new();
        for (arguments, told) in [
            (vec!["users", "suspend", &ada, "--yes"], "is suspended"),
            (
                vec!["users", "end-sessions", "ada@example.com", "--yes"],
                "must log in again",
            ),
            (vec!["users", "delete", &ada, "--yes"], "is deleted"),
        ] {
            let tokens = [
                log_in(&apps[0], &raw, &ada, "default").await,
                log_in(&apps[0], &raw, &ada, "default").await,
            ];
            for app in &apps {
                for token in &tokens {
                    assert!(is_active(app, token).await);
                }
            }
            person.printed(&["token", "inspect", &tokens[0]]);
            let printed = person.printed(&arguments);
            assert!(
                printed.contains(told) && printed.contains("ended 2 sessions"),
                "{printed}"
            );
            assert!(printed.contains("within 2s"), "{printed}");
            let inspected = person.refused_loudly(1, &["token", "inspect", &tokens[0]]);
            assert!(
                inspected.contains("refused at the step 'session': its session "),
                "{inspected}"
            );
            until_refused(&apps, &tokens.iter().collect::<Vec<_>>()).await;
            ended.extend(tokens);
            if told == "is suspended" {
                assert_eq!(
                    person.json(&["users", "suspend", &ada, "--yes"]),
                    json!({ "user_id": ada, "changed": false, "ended_sessions": 0 })
                );
                assert!(person.json(&["users", "show", &ada])["suspended_at"].is_string());
                // Without a question, which would have no object.
                assert!(
                    person
                        .printed(&["users", "suspend", &ada])
                        .contains("was suspended already")
                );
                assert!(person.printed(&["users", "resume", &ada]).contains("may log in again"));
                assert!(person.printed(&["users", "resume", &ada]).contains("was not suspended"));
            }
        }
        // Time for a snapshot after the last change.
        for app in &apps {
            app.running.server.keyring.refresh().await.unwrap();
            for token in &ended {
                assert!(!is_active(app, token).await, "it was revived");
            }
            assert!(is_active(app, &of_bob).await, "others are left alone");
        }
        assert!(person.refused(1, &["users", "show", &ada]).contains("no account"));

        // The log is whole, and the person is out of it.
        let log = person.json(&["audit", "list"]);
        let events: Vec<&str> = log
            .as_array()
            .unwrap()
            .iter()
            .filter(|record| record["subject"] == ada.as_str())
            .map(|record| record["event"].as_str().unwrap())
            .collect();
        assert_eq!(
            events,
            [
                "user.deleted",
                "user.sessions_ended",
                "user.resumed",
                "user.suspended",
                "user.created"
            ]
        );
        assert!(!log.to_string().contains("example.com") && !log.to_string().contains("Lovelace"));
        raw.close().await;
        stop(apps).await;
    }
);

crate::on_both_databases!(a_disabled_tenant_is_refused_by_every_node, |database| {
    let apps = start(&database).await;
    let person = Person(&database);
    let raw = Raw::open(&database).await;
    person.printed(&["tenants", "create", "acme"]);
    let ada = person.create("ada@example.com", &["--tenant", "acme"]);
    let bob = person.create("bob@example.com", &[]);
    let token = log_in(&apps[0], &raw, &ada, "acme").await;
    let of_bob = log_in(&apps[0], &raw, &bob, "default").await;
    let printed = person.printed(&["tenants", "disable", "acme", "--reason", "unpaid", "--yes"]);
    assert!(
        printed.contains("is disabled") && printed.contains("ended 1 session;"),
        "{printed}"
    );
    until_refused(&apps, &[&token]).await;
    let tenants = person.json(&["tenants", "list"]);
    assert!(
        tenants[0]["disabled_at"].is_string() && tenants[1]["disabled_at"].is_null(),
        "{tenants}"
    );
    assert!(person.printed(&["tenants", "list"]).contains("disabled"));
    // Without a question, which would have no object.
    assert!(
        person
            .printed(&["tenants", "disable", "acme"])
            .contains("was disabled already")
    );
    assert!(person.printed(&["tenants", "enable", "acme"]).contains("is enabled"));
    for app in &apps {
        app.running.server.keyring.refresh().await.unwrap();
        assert!(!is_active(app, &token).await, "it was revived");
        assert!(is_active(app, &of_bob).await);
    }
    assert!(
        person
            .refused(1, &["tenants", "enable", "nowhere"])
            .contains("no tenant 'nowhere'")
    );
    assert!(
        person
            .refused(2, &["tenants", "create", "Not An Id"])
            .contains("lower-case")
    );
    raw.close().await;
    stop(apps).await;
});

crate::on_both_databases!(what_people_notice_is_asked_first, |database| {
    database.open().await;
    let person = Person(&database);
    let ada = person.create("ada@example.com", &[]);
    for arguments in [
        &["users", "suspend", &ada][..],
        &["users", "end-sessions", &ada],
        &["users", "delete", &ada],
        &["tenants", "disable", "default"],
    ] {
        assert!(person.refused(2, arguments).contains("add --yes"), "{arguments:?}");
    }
    for (answer, code) in [("no", 1), ("yes", 0)] {
        let dialogue = [["Type 'yes' to go on: ", answer]];
        let (ended, seen) = at_terminal(&database, &dialogue, &["users", "delete", &ada]);
        assert_eq!(ended, code, "{seen}");
        assert!(seen.contains("the deletion of ada@example.com"), "{seen}");
    }
    assert!(person.refused(1, &["users", "show", &ada]).contains("no account"));
});

// Neither in `sub` nor in `client_id` may a service look like a person.
crate::on_both_databases!(a_client_cannot_look_like_a_person, |database| {
    let apps = start(&database).await;
    let person = Person(&database);
    let ada = person.create("ada@example.com", &[]);
    let create = |id: &str| {
        let rest = ["--grant", "client_credentials", "--audience", "https://api.example.com"];
        person.output(&[&["clients", "create", "--id", id], &rest[..]].concat())
    };
    let compact = ada.replace('-', "");
    for (id, why) in [
        (ada.as_str(), "id of a user"),
        (&ada.to_uppercase(), "id of a user"),
        (&compact, "UUID of version 7"),
        (&format!("urn:uuid:{ada}"), "a UUID of another version, such as "),
        (&format!("{{{ada}}}"), "id of a user"),
        ("first-party", "accounts.client_id"),
    ] {
        let output = create(id);
        assert_eq!(output.status.code(), Some(2), "{id}: {output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(why), "{id}");
    }
    // A UUID of another version is nobody's id: other systems give such ones to their clients.
    for id in [
        "3f0c1a52-7b9e-4d1f-8a36-5e2c9b7d0f14",
        "3F0C1A52-7B9E-4D1F-8A36-5E2C9B7D0F14",
        "c232ab00-9414-11ec-b3c8-9f6bdeced846",
        "00000000-0000-0000-0000-000000000000",
    ] {
        assert!(create(id).status.success(), "{id}");
    }
    assert!(create("billing").status.success());
    let unnamed = person.json(&[
        "clients",
        "create",
        "--grant",
        "client_credentials",
        "--audience",
        "https://api.example.com",
    ]);
    assert!(uuid::Uuid::parse_str(unnamed["client_id"].as_str().unwrap()).is_err());
    stop(apps).await;

    // Nor does a server start when the setting is changed to a client's name.
    let taken = person.output(&[
        "serve",
        "--set",
        "accounts.client_id=billing",
        "--set",
        "server.listen=127.0.0.1:0",
    ]);
    assert_eq!(taken.status.code(), Some(1));
    let sentence = String::from_utf8(taken.stderr).unwrap();
    assert!(sentence.contains("there is a client 'billing'"), "{sentence}");
});

/// Whether this is the password of the account.
async fn is_password(app: &TestApp, user: &str, password: &str) -> bool {
    let stored = app
        .running
        .server
        .db
        .user(user.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let hash = PasswordHash::parse(&stored.password_hash.unwrap()).unwrap();
    let password = Password::try_from(password.to_owned()).unwrap();
    hash.matches(&password, &app.running.server.hash_key).unwrap()
}

crate::on_both_databases!(an_operator_gives_passwords_that_nobody_sees, |database| {
    let apps = start(&database).await;
    let app = &apps[0];
    let person = Person(&database);
    let raw = Raw::open(&database).await;
    let file = |name: &str, text: &str| {
        let path = database.folder.path().join(name);
        private_file(&path, text);
        path.display().to_string()
    };
    let first = file("first", "seven green umbrellas\nand a second line\n");
    let ada = person.create("ada@example.com", &["--password-file", &first]);
    assert!(is_password(app, &ada, "seven green umbrellas").await);
    assert_eq!(person.json(&["users", "show", &ada])["has_password"], true);
    assert!(person.printed(&["users", "show", &ada]).contains("set"));

    // By standard input; it ends the sessions.
    let token = log_in(app, &raw, &ada, "default").await;
    let set = [
        "users",
        "set-password",
        "ada@example.com",
        "--reason",
        "taken over",
        "--password-file",
        "-",
    ];
    let output = person.output_with_input(&set, "nine yellow umbrellas");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("has another password") && printed.contains("ended 1 session;"),
        "{printed}"
    );
    assert!(is_password(app, &ada, "nine yellow umbrellas").await);
    until_refused(&apps, &[&token]).await;

    // At a terminal, twice, and nothing of it is on the screen.
    let ask = ["users", "set-password", &ada];
    let dialogue = |first, second| [["New password: ", first], ["The same password again: ", second]];
    let typed = dialogue("eleven red umbrellas", "eleven red umbrellas");
    let (code, seen) = at_terminal(&database, &typed, &ask);
    assert_eq!(code, 0, "{seen}");
    assert!(
        !seen.contains("umbrellas") && seen.contains("has another password"),
        "{seen}"
    );
    assert!(is_password(app, &ada, "eleven red umbrellas").await);
    let typed = dialogue("twelve red umbrellas", "twelve blue umbrellas");
    let (code, seen) = at_terminal(&database, &typed, &ask);
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("the two passwords differ"), "{seen}");

    // Without a terminal nobody is asked; the rules hold for operators too.
    assert!(
        person
            .refused(2, &["users", "set-password", &ada])
            .contains("--password-file FILE")
    );
    for (text, why) in [
        ("short", "at least 8 characters"),
        ("ada@example.com", "first that are guessed"),
    ] {
        let path = file("bad", text);
        let sentence = person.refused(1, &["users", "set-password", &ada, "--password-file", &path]);
        assert!(sentence.contains(why) && !sentence.contains(text), "{sentence}");
    }
    let long = file("long", &"long umbrella ".repeat(200));
    assert!(
        person
            .refused(1, &["users", "set-password", &ada, "--password-file", &long])
            .contains("1024")
    );
    for path in [file("empty", "\n"), "nowhere".to_owned()] {
        person.refused(2, &["users", "set-password", &ada, "--password-file", &path]);
    }
    assert!(is_password(app, &ada, "eleven red umbrellas").await);

    // What others may read is refused.
    for flag in ["--password-file", "--password-hash-file"] {
        let path = file("exposed", "eleven red umbrellas");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let create = [
            "users",
            "create",
            "--email",
            "x@example.com",
            "--name",
            "X",
            flag,
            &path,
        ];
        let sentence = person.refused(2, &create);
        assert!(
            sentence.contains("group or others may open it; run: chmod 600"),
            "{sentence}"
        );
    }

    // What another system hashed.
    let hash = bcrypt::hash("a password from elsewhere", 4).unwrap();
    let hash = file("hash", &hash);
    let bob = person.create("bob@example.com", &["--password-hash-file", &hash]);
    assert!(is_password(app, &bob, "a password from elsewhere").await);
    let md5 = file("md5", "$1$abc$def");
    let create = [
        "users",
        "create",
        "--email",
        "c@example.com",
        "--name",
        "C",
        "--password-hash-file",
        &md5,
    ];
    assert!(person.refused(2, &create).contains("bcrypt"));

    // Every wrong password does the work of every kind that is stored.
    let argon2 = |passes: u32| {
        let text = format!(
            "$argon2id$v=19$m=65536,t={passes},p=1$C03veDDZe3tGvqED07Xjdg$+AXkg8u6bHKkOIliWsuCPH86pYqXZICRDt284S0w9C4"
        );
        file(&format!("argon2-{passes}"), &text)
    };
    let mut refused = Vec::new();
    for passes in (1..=10).rev() {
        let (email, path) = (format!("kind-{passes}@example.com"), argon2(passes));
        let create = [
            "users",
            "create",
            "--email",
            &email,
            "--name",
            "K",
            "--password-hash-file",
            &path,
        ];
        let output = person.output(&create);
        if output.status.success() {
            continue;
        }
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains("at most 2000 ms are allowed"), "{told}");
        refused.push(passes);
    }
    assert!((1..9).contains(&refused.len()), "{refused:?}");
    // A kind that is stored costs nothing more.
    person.create("again@example.com", &["--password-hash-file", &argon2(10)]);
    let costs = app.running.server.db.password_hash_costs().await.unwrap();
    assert!(HashCost::of_refused_login(&costs) <= MAX_REFUSED_LOGIN, "{costs:?}");
    raw.close().await;
    stop(apps).await;
});

/// The status and the `code` or `error` of an answer.
async fn told(answer: reqwest::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap_or_default();
    let code = body["code"].as_str().or(body["error"].as_str()).unwrap_or_default();
    (status, code.to_owned())
}

/// What a person does over HTTP, as an app does.
struct Visitor<'a>(&'a TestApp);

impl Visitor<'_> {
    async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        answered(self.0.http.post(format!("{}{path}", self.0.url)).json(body)).await
    }

    async fn log_in(&self) -> reqwest::Response {
        let body = json!({ "email": "ada@example.com", "password": PASSWORD, "token_delivery": "body" });
        self.post("/auth/login", &body).await
    }

    async fn refresh(&self, token: &Value) -> reqwest::Response {
        let body = json!({ "refresh_token": token, "token_delivery": "body" });
        self.post("/auth/refresh", &body).await
    }

    async fn refresh_by_grant(&self, token: &Value) -> reqwest::Response {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", "first-party"),
            ("refresh_token", token.as_str().unwrap()),
        ];
        let url = format!("{}/oauth2/token", self.0.url);
        answered(self.0.http.post(url).form(&form)).await
    }

    async fn bearer(&self, path: &str, token: &Value) -> reqwest::Response {
        let url = format!("{}{path}", self.0.url);
        answered(self.0.http.get(&url).bearer_auth(token.as_str().unwrap())).await
    }
}

const PASSWORD: &str = "seven green umbrellas";

// Black box: every way in is closed on every node, and what was held before is worth nothing afterwards.
crate::on_both_databases!(
    who_is_suspended_gets_nothing_anywhere_and_comes_back_by_a_login_alone,
    |database| {
        let apps = start(&database).await;
        let person = Person(&database);
        let file = database.folder.path().join("password");
        private_file(&file, PASSWORD);
        let ada = person.create("ada@example.com", &["--password-file", "password"]);
        for (disable, enable) in [
            (vec!["users", "suspend", &ada, "--yes"], vec!["users", "resume", &ada]),
            (
                vec!["tenants", "disable", "default", "--yes"],
                vec!["tenants", "enable", "default"],
            ),
        ] {
            let mut sessions: Vec<Value> = Vec::new();
            for app in &apps {
                let answer = Visitor(app).log_in().await;
                assert_eq!(answer.status(), 200);
                sessions.push(answer.json().await.unwrap());
            }
            for app in &apps {
                for session in &sessions {
                    assert_eq!(
                        Visitor(app).bearer("/auth/me", &session["access_token"]).await.status(),
                        200
                    );
                }
            }
            person.printed(&disable);
            let clock = Clock::system();
            let begun = clock.read().monotonic;
            for app in &apps {
                let visitor = Visitor(app);
                // What asks the database is refused at once, on every node.
                assert_eq!(told(visitor.log_in().await).await, (401, "login_failed".to_owned()));
                for session in &sessions {
                    let answer = visitor.refresh(&session["refresh_token"]).await;
                    assert_eq!(told(answer).await, (403, "account_suspended".to_owned()));
                    assert_eq!(
                        told(visitor.refresh_by_grant(&session["refresh_token"]).await).await,
                        (400, "invalid_grant".to_owned())
                    );
                    for path in ["/auth/me", "/auth/verify/default"] {
                        let mut waited = clock.read().monotonic.saturating_sub(begun);
                        while visitor.bearer(path, &session["access_token"]).await.status() != 401 {
                            assert!(waited < PATIENCE, "still accepted after {waited:?}");
                            sleep(Duration::from_millis(50)).await;
                            waited = clock.read().monotonic.saturating_sub(begun);
                        }
                    }
                }
            }
            person.printed(&enable);
            for app in &apps {
                let visitor = Visitor(app);
                app.running.server.keyring.refresh().await.unwrap();
                for session in &sessions {
                    let refused = visitor.refresh(&session["refresh_token"]).await;
                    assert_eq!(told(refused).await, (401, "session_ended".to_owned()));
                    let answer = visitor.bearer("/auth/me", &session["access_token"]).await;
                    assert_eq!(told(answer).await, (401, "session_ended".to_owned()));
                }
                assert_eq!(visitor.log_in().await.status(), 200);
            }
        }
        stop(apps).await;
    }
);

// An earlier version took `bücher.example` and `xn--bcher-kva.example` for two domains.
crate::on_both_databases!(two_accounts_of_one_mailbox_are_found_and_keep_working, |database| {
    let apps = start(&database).await;
    let person = Person(&database);
    let (unicode, ascii) = ("ada@b\u{fc}cher.example", "ada@xn--bcher-kva.example");
    private_file(database.folder.path().join("password"), PASSWORD);
    private_file(database.folder.path().join("other"), "other green umbrellas");
    let log_in = async |email: &str, password: &str| {
        let body = json!({ "email": email, "password": password, "token_delivery": "body" });
        let answer = Visitor(&apps[0]).post("/auth/login", &body).await;
        let status = answer.status();
        let told = answer.text().await.unwrap();
        assert!([200, 401].contains(&status.as_u16()), "{status}: {told}");
        status == 200
    };
    // One mailbox, one account: whichever spelling is used.
    let ada = person.create(ascii, &["--password-file", "password"]);
    for spelling in [unicode, ascii, "ADA@B\u{dc}CHER.example", "ada@XN--BCHER-KVA.example."] {
        assert_eq!(person.json(&["users", "show", spelling])["user_id"], ada, "{spelling}");
        assert!(log_in(spelling, PASSWORD).await, "{spelling}");
        let again = ["users", "create", "--email", spelling, "--name", "Ada"];
        assert!(person.refused(1, &again).contains("already"), "{spelling}");
    }
    assert_eq!(person.json(&["users", "show", ascii])["email"], unicode);

    // An account of an earlier version with the other spelling is the same one.
    let raw = Raw::open(&database).await;
    raw.execute(&format!("UPDATE users SET email = '{ascii}'")).await;
    for spelling in [unicode, ascii] {
        assert!(log_in(spelling, PASSWORD).await, "{spelling}");
        let again = ["users", "create", "--email", spelling, "--name", "Ada"];
        assert!(person.refused(1, &again).contains("already"), "{spelling}");
    }
    person.printed(&["db", "check"]);

    // Two of them stay two, each by its own spelling, until an operator decides.
    let other = person.create("other@example.com", &["--password-file", "other"]);
    raw.execute(&format!(
        "UPDATE users SET email = '{unicode}' WHERE user_id = '{other}'"
    ))
    .await;
    assert!(log_in(ascii, PASSWORD).await && log_in(unicode, "other green umbrellas").await);
    assert!(!log_in(unicode, PASSWORD).await && !log_in(ascii, "other green umbrellas").await);
    let checks = person.output(&["db", "check"]);
    let told = String::from_utf8(checks.stdout).unwrap();
    assert_eq!(checks.status.code(), Some(1));
    assert!(
        told.contains(&format!("{ascii} and {unicode} are one mailbox and two accounts")),
        "{told}"
    );
    person.printed(&["users", "delete", &other, "--yes"]);
    person.printed(&["db", "check"]);
    assert!(log_in(unicode, PASSWORD).await);
    raw.close().await;
    stop(apps).await;
});
