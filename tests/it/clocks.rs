//! Clocks that are wrong: the database and the server on one wrong clock, starts on wrong clocks, and how a doubt ends.

use std::process::Command;
use std::time::Duration;

use keyround::clock::{Clock, Seconds, UnixTime, sleep};
use keyround::keyring::node_in_doubt;
use keyround::keys::trusted_time::{Doubt, patience};
use keyround::store::nodes::{Heartbeat, Place};
use serde_json::Value;

use crate::child::{PROGRAM, Process};
use crate::faketime::Wall;
use crate::helpers::{START, TestApp, TestDatabase};
use crate::introspection::ask;
use crate::libfaketime::library;
use crate::rows::Raw;
use crate::sessions::world::{ES256_ALONE, create_user, log_in};
use crate::token::{client, register};

const HOUR: i64 = 3_600;

/// A clock at `START`, wrong by this much.
fn off_by(seconds: i64) -> Clock {
    Clock::manual(START + Seconds(seconds))
}

fn doubt(app: &TestApp) -> Option<Doubt> {
    app.running.server.keyring.snapshot().trusted().doubt()
}

async fn tick(app: &TestApp) {
    app.running.server.rotation.tick().await.unwrap();
}

/// All that must not change because of a clock alone.
async fn keys(app: &TestApp, raw: &Raw) -> (Vec<String>, Value) {
    let rows =
        "SELECT kid || published_at || ' ' || activates_at || COALESCE(sealed, '') FROM signing_keys ORDER BY kid";
    (raw.texts(rows).await, app.key_set().await)
}

async fn is_active(app: &TestApp, secret: &str, token: &str) -> bool {
    let answer = ask(app, "introspect", "billing", secret, token).await;
    answer.json::<Value>().await.unwrap()["active"].as_bool().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_wrong_clock_changes_no_key_and_forgets_no_denial() {
    for wrong in [-26 * HOUR, -120, 2 * HOUR, 26 * HOUR, 400 * 24 * HOUR] {
        let database = TestDatabase::sqlite();
        let app = TestApp::start_with_clock(&database, &ES256_ALONE, off_by(0)).await;
        let raw = Raw::open(&database).await;
        let billing = register(&app, &client("billing")).await;
        let (token, denied) = (
            app.token("billing", &billing).await,
            app.token("billing", &billing).await,
        );
        assert_eq!(ask(&app, "revoke", "billing", &billing, &denied).await.status(), 200);
        let before = keys(&app, &raw).await;
        app.running.stop().await;

        let app = TestApp::start_with_clock(&database, &ES256_ALONE, off_by(wrong)).await;
        assert!(doubt(&app).is_some(), "{wrong}");
        for _ in 0..5 {
            app.clock.advance(Seconds(9));
            tick(&app).await;
            app.running.server.sessions.housekeeping().prune().await.unwrap();
            assert_eq!(keys(&app, &raw).await, before, "{wrong}");
            assert!(!is_active(&app, &billing, &denied).await, "{wrong}");
        }
        let signed = app.token("billing", &billing).await;
        assert_eq!(is_active(&app, &billing, &token).await, wrong < 0, "{wrong}");

        app.clock.jump(Seconds(-wrong));
        tick(&app).await;
        assert_eq!(doubt(&app), None, "{wrong}");
        assert_eq!(keys(&app, &raw).await, before, "{wrong}");
        assert!(is_active(&app, &billing, &token).await, "{wrong}");
        assert!(!is_active(&app, &billing, &denied).await, "{wrong}: it is valid again");
        assert_eq!(is_active(&app, &billing, &signed).await, wrong < 0, "{wrong}");
        app.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_of_a_week_is_confirmed_by_itself() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &ES256_ALONE, off_by(0)).await;
    let raw = Raw::open(&database).await;
    let billing = register(&app, &client("billing")).await;
    let before = keys(&app, &raw).await;
    app.running.stop().await;

    let week = 7 * 24 * HOUR;
    let app = TestApp::start_with_clock(&database, &ES256_ALONE, off_by(week)).await;
    let token = app.token("billing", &billing).await;
    assert!(is_active(&app, &billing, &token).await, "it signs at once");
    let (status, checks) = probe(&app).await;
    assert!(
        status == 200 && checks.contains("ahead of the newest record by 7d, as after"),
        "{checks}"
    );
    let server = &app.running.server;
    let wait = patience(&server.keyring.snapshot().keys, server.keyring.policy());
    app.pass(wait - Seconds(1), Seconds(60)).await;
    assert!(doubt(&app).is_some());
    assert_eq!(keys(&app, &raw).await, before);
    app.pass(Seconds(61), Seconds(30)).await;
    assert_eq!(doubt(&app), None);
    assert_eq!(keys(&app, &raw).await.1, before.1, "a key left or came");
    assert_eq!(
        raw.number("SELECT count(*) FROM audit WHERE event = 'clock.confirmed'")
            .await,
        1
    );
    app.running.stop().await;
}

async fn probe(app: &TestApp) -> (u16, String) {
    let answer = app
        .http
        .get(format!("{}{}", app.admin_url, "/readyz/issue"))
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_confirms_a_clock_that_is_behind() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &ES256_ALONE, off_by(2 * HOUR)).await;
    let raw = Raw::open(&database).await;
    let (_, set) = keys(&app, &raw).await;
    app.clock.jump(Seconds(-2 * HOUR));
    app.clock.advance(Seconds(10));
    tick(&app).await;
    assert_eq!(doubt(&app), Some(Doubt::Behind(Seconds(-2 * HOUR))));
    let (status, checks) = probe(&app).await;
    assert!(status == 503 && checks.contains("keyround clock confirm"), "{checks}");
    let mut rotator =
        keyround::app::Foundation::open(&crate::helpers::config(&database, &ES256_ALONE), app.clock.clone())
            .await
            .unwrap()
            .rotator;
    rotator.clock = app.clock.clone();
    let look = rotator.look().await.unwrap();
    let ended = rotator.confirm_clock(&look, "ada", "the clock was set").await.unwrap();
    assert_eq!(ended, Some(Doubt::Behind(Seconds(-2 * HOUR))));
    tick(&app).await;
    assert_eq!(doubt(&app), None);
    assert_eq!(keys(&app, &raw).await.1, set);
    let now = app.clock.read().wall;
    assert!(raw.number("SELECT MAX(activates_at) FROM signing_keys").await <= now.0);
    app.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_person_stays_refused_whatever_the_clock_does() {
    for jump in [18 * 60, 26 * HOUR, -18 * 60, -26 * HOUR] {
        let database = TestDatabase::sqlite();
        let app = TestApp::start_with_clock(&database, &ES256_ALONE, off_by(0)).await;
        let raw = Raw::open(&database).await;
        let user = create_user(&app, "ada").await;
        let tokens = log_in(&app, &user).await.unwrap();
        let server = &app.running.server;
        let verdict = || {
            let verified = server
                .keyring
                .verify(&tokens.access_token, &server.issuer, app.clock.read());
            verified.unwrap().is_ok()
        };
        assert!(verdict());
        // By another process: this node reads it from the database.
        raw.execute(&format!(
            "UPDATE sessions SET revoked_at = {}, revoked_for = 'suspension'",
            app.clock.read().wall.0
        ))
        .await;
        tick(&app).await;
        assert!(!verdict(), "{jump}");
        app.clock.jump(Seconds(jump));
        for _ in 0..5 {
            app.clock.advance(Seconds(9));
            tick(&app).await;
            server.sessions.housekeeping().prune().await.unwrap();
            assert!(!verdict(), "{jump}");
        }
        app.clock.jump(Seconds(-jump));
        tick(&app).await;
        assert!(!verdict(), "{jump}");
        app.running.stop().await;
    }
}

/// The clock of PostgreSQL, as this test sets it.
async fn set_database_clock(raw: &Raw, now: UnixTime) {
    raw.execute(&format!("UPDATE public.clock_face SET seconds = {}", now.0))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_its_postgresql_are_on_one_wrong_clock() {
    let database = TestDatabase::postgres().await;
    let raw = Raw::open(&database).await;
    for sql in [
        "CREATE TABLE public.clock_face (seconds BIGINT)",
        "INSERT INTO public.clock_face VALUES (0)",
        "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
         $$ SELECT to_timestamp((SELECT seconds FROM public.clock_face)) $$",
    ] {
        raw.execute(sql).await;
    }
    let name = raw.texts("SELECT CAST(current_database() AS TEXT)").await.remove(0);
    raw.execute(&format!("ALTER DATABASE {name} SET search_path = public, pg_catalog"))
        .await;
    set_database_clock(&raw, START).await;
    let app = TestApp::start_with_clock(&database, &ES256_ALONE, off_by(0)).await;
    let billing = register(&app, &client("billing")).await;
    let before = keys(&app, &raw).await;
    for wrong in [-26 * HOUR, 26 * HOUR, -90, 90] {
        app.clock.jump(Seconds(wrong));
        for _ in 0..9 {
            app.clock.advance(Seconds(1));
            set_database_clock(&raw, app.clock.read().wall).await;
            tick(&app).await;
        }
        assert!(doubt(&app).is_some(), "{wrong}");
        assert_eq!(keys(&app, &raw).await, before, "{wrong}");
        let token = app.token("billing", &billing).await;
        app.clock.jump(Seconds(-wrong));
        set_database_clock(&raw, app.clock.read().wall).await;
        tick(&app).await;
        assert_eq!(doubt(&app), None, "{wrong}");
        assert_eq!(keys(&app, &raw).await, before, "{wrong}");
        assert!(is_active(&app, &billing, &token).await, "{wrong}");
    }
    app.running.stop().await;
}

/// The servers go by the time that was reached, and so does what the commands tell: whoever takes the leaked key from the list takes
/// the one that signs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_stop_the_commands_tell_what_the_server_does() {
    let database = TestDatabase::sqlite();
    let settings = [("keys.algorithms", "ES256"), ("tokens.default_algorithm", "ES256")];
    let mut process = Process::spawn(&database, "before", &settings);
    process.until_it_serves().await;
    let rotated = process.run(&["keys", "rotate"]);
    assert!(rotated.status.success(), "{rotated:?}");
    process.tell_to_stop();
    process.until_it_ends().await;
    // Three days pass, in which the second key would have begun to sign.
    let raw = Raw::open(&database).await;
    raw.execute("UPDATE signing_keys SET published_at = published_at - 259200, activates_at = activates_at - 259200")
        .await;
    raw.execute("UPDATE clock SET reached = reached - 259200, confirmed = confirmed - 259200")
        .await;
    let kids = raw.texts("SELECT kid FROM signing_keys ORDER BY generation").await;
    // Nothing confirms the clock after a stop, and nothing speaks against it.
    let audited = process.run(&["audit", "list"]);
    assert!(
        audited.status.success() && !String::from_utf8_lossy(&audited.stdout).contains("in doubt"),
        "{audited:?}"
    );

    let mut process = Process::spawn(&database, "after", &settings);
    process.until_it_serves().await;
    let said = |arguments: &[&str]| {
        let output = process.run(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        said
    };
    let listed = said(&["keys", "list"]);
    let state = |kid: &str| {
        let line = listed.lines().find(|line| line.starts_with(kid)).unwrap();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!(
        (state(&kids[0]), state(&kids[1])),
        ("active".into(), "pending".into()),
        "{listed}"
    );
    assert!(
        listed.contains("The clock is in doubt: the clock is unconfirmed: at the start"),
        "{listed}"
    );
    assert!(said(&["keys", "plan"]).contains("Keys go by "));

    let revoked = said(&["keys", "revoke", &kids[1], "--yes", "--reason", "it leaked"]);
    assert!(
        revoked.contains(&format!("ES256 key {} signs, as it did before", kids[0])),
        "{revoked}"
    );
    let revoked = said(&["keys", "revoke", &kids[0], "--yes", "--reason", "it leaked too"]);
    assert!(revoked.contains("signs now"), "{revoked}");
    let off = raw
        .number("SELECT MAX(ABS(noted_at - happened_at)) + COUNT(*) - 2 FROM audit WHERE event = 'key.revoked'")
        .await;
    assert_eq!(off, 0);
    let noted = raw
        .number("SELECT MIN(noted_at) FROM audit WHERE event = 'key.revoked'")
        .await;
    let now = Clock::system().read().wall;
    assert!((now - UnixTime(noted)).abs() < Seconds(600), "{noted}, now {now}");
    process.tell_to_stop();
    process.until_it_ends().await;
    raw.close().await;
}

/// A command begins after the step, so it sees what the end of a long stop looks like; the server that runs knows better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_tell_the_doubt_of_a_server_that_runs() {
    let database = TestDatabase::sqlite();
    let (wall, library) = (Wall::new(&database, "server", 0), library());
    let mut process = wall.spawn(
        &database,
        "server",
        &[("keys.replica_refresh", "2s"), ("keys.snapshot_max_age", "20s")],
    );
    process.until_it_serves().await;
    let run = |arguments: &[&str]| {
        let mut command = Command::new("env");
        let variables = wall.variables(&library);
        command
            .args(variables.map(|(name, value)| format!("{name}={value}")))
            .arg(PROGRAM);
        let output = process.run_by(command, arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    assert_eq!(run(&["clock", "check"]).0, Some(0));
    wall.set(HOUR);
    let mut told = run(&["clock", "check"]);
    for _ in 0..600 {
        if told.1.contains("jumped ahead") {
            break;
        }
        sleep(Duration::from_millis(100)).await;
        told = run(&["clock", "check"]);
    }
    assert!(
        told.0 == Some(1) && told.1.contains("the clock jumped ahead by ") && told.1.contains("(process "),
        "{told:?}"
    );
    let (code, said) = run(&["db", "check"]);
    let line = said.lines().find(|line| line.starts_with("clock")).unwrap();
    assert!(
        code == Some(1) && line.contains("FAILED") && line.contains("'keyround clock confirm --reason TEXT --yes'"),
        "{said}"
    );
    let audited = run(&["audit", "list"]).1;
    assert!(
        audited.contains("The clock is in doubt: the server ") && audited.contains("the clock jumped ahead by "),
        "{audited}"
    );
    let (code, said) = run(&["keys", "rotate"]);
    assert!(
        code == Some(1) && said.contains("the clock is in doubt, so no key was changed: the clock jumped ahead by "),
        "{said}"
    );
    // The emergency works all the same.
    let listed = run(&["keys", "list"]).1;
    let kid = listed.lines().find(|line| line.contains(" active ")).unwrap();
    let kid = kid.split_whitespace().next().unwrap();
    let (code, said) = run(&["keys", "revoke", kid, "--reason", "it leaked", "--yes"]);
    assert_eq!(code, Some(0), "{said}");

    wall.set(0);
    for _ in 0..600 {
        if run(&["clock", "check"]).0 == Some(0) {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(run(&["clock", "check"]).0, Some(0));
    assert_eq!(run(&["keys", "rotate"]).0, Some(0));
    process.tell_to_stop();
    process.until_it_ends().await;
}

crate::on_both_databases!(a_server_in_doubt_is_told_by_its_heartbeat, |database| {
    let app = TestApp::start_with_clock(&database, &ES256_ALONE, Clock::system()).await;
    let db = database.open().await;
    let now = app.clock.read().wall;
    let node = |node_id: &str, seen_at: UnixTime, clock_offset: i64| Heartbeat {
        node_id: node_id.to_owned(),
        seen_at: seen_at.0,
        version: 1,
        change_id: None,
        policy_fingerprint: String::new(),
        clock_offset,
        master_keys: String::new(),
        place: Place::default(),
    };
    let rotator = keyround::app::Foundation::open(&crate::helpers::config(&database, &ES256_ALONE), Clock::system())
        .await
        .unwrap()
        .rotator;
    let look = rotator.look().await.unwrap();
    for (seen_at, offset, is_told) in [
        (now, 0, false),
        (now, 30, false),
        (now, 31, true),
        (now, -31, true),
        (now - Seconds(HOUR), 31, false),
    ] {
        db.beat(&node("other", seen_at, offset)).await.unwrap();
        let told = node_in_doubt(&db, &rotator.policy, &look).await.unwrap();
        assert_eq!(told.is_some(), is_told, "{offset}");
    }
    app.running.stop().await;
});

/// Its heartbeats are a year apart from this command's time, and still it lives: they move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_clock_jumped_is_counted_by_a_revocation() {
    let database = TestDatabase::sqlite();
    // To a command with a clock that is ahead, the time is that of its clock; with one that is behind, it would be the server's.
    let a_year_ago = Clock::system().read().wall - Seconds(365 * 86_400);
    let app = TestApp::start_with_clock(&database, &ES256_ALONE, Clock::manual(a_year_ago)).await;
    let kid = app.key_set().await["keys"][0]["kid"].as_str().unwrap().to_owned();
    let arguments = ["keys", "revoke", &kid, "--reason", "a test", "--yes", "--json"];
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        ("KEYROUND_KEYS__ALGORITHMS", "ES256"),
        ("KEYROUND_TOKENS__DEFAULT_ALGORITHM", "ES256"),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let mut revoking = crate::process::keyround(database.folder.path(), &variables, &arguments)
        .spawn()
        .unwrap();
    while revoking.try_wait().unwrap().is_none() {
        app.clock.advance(Seconds(1));
        // The command writes to the same file.
        let _ = app.running.server.rotation.tick().await;
        sleep(Duration::from_millis(100)).await;
    }
    let output = revoking.wait_with_output().unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    let done: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{failed}"));
    assert_eq!(done["nodes"]["living"], 1, "{done} {failed}");
    assert_eq!(done["nodes"]["unconfirmed"], serde_json::json!([]), "{done}");
    let raw = Raw::open(&database).await;
    let seen_at = UnixTime(raw.number("SELECT MAX(seen_at) FROM nodes").await);
    raw.close().await;
    let now = Clock::system().read().wall;
    assert!(now - seen_at > Seconds(300 * 86_400), "the clocks are to differ");
    app.running.stop().await;
}
