//! A server with no more rights than docs/operate/postgresql.md grants it, and commands that look at a schema without changing it.

use std::time::Duration;

use keyround::clock::{Clock, sleep};
use keyround::store::Db;
use sqlx::{AssertSqlSafe, PgPool};
use url::Url;

use crate::helpers::{TestApp, TestDatabase};
use crate::process::run;
use crate::rows::Raw;
use crate::sessions::world::{create_user, log_in, log_out, refresh};

const PAGE: &str = include_str!("../../docs/operate/postgresql.md");

/// The blocks of SQL below '## Roles with the least rights', for roles of this test's own: roles belong to the whole server.
pub fn grants(suffix: &str) -> Vec<String> {
    let (_, section) = PAGE.split_once("\n## Roles with the least rights\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sql\n").skip(1);
    blocks
        .map(|block| {
            let sql = block.split("```").next().unwrap();
            sql.replace("keyround_owner", &format!("owner_{suffix}"))
                .replace("keyround_server", &format!("server_{suffix}"))
        })
        .collect()
}

pub fn as_role(database: &TestDatabase, role: &str) -> TestDatabase {
    let mut url = Url::parse(&database.url).unwrap();
    url.set_username(role).unwrap();
    TestDatabase {
        url: url.to_string(),
        folder: tempfile::tempdir().unwrap(),
    }
}

pub fn output(database: &TestDatabase, arguments: &[&str]) -> (i32, String) {
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let output = run(database.folder.path(), &variables, arguments);
    let both = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(both).unwrap())
}

async fn refuses(pool: &PgPool, sql: &str) {
    let answer = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await;
    let error = answer.unwrap_err();
    let code = error.as_database_error().unwrap().code().unwrap().into_owned();
    assert_eq!(code, "42501", "{sql}: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_needs_no_more_than_the_page_grants() {
    let database = TestDatabase::postgres().await;
    let suffix = database.url.rsplit('/').next().unwrap().to_owned();
    let (owner, server) = (
        as_role(&database, &format!("owner_{suffix}")),
        as_role(&database, &format!("server_{suffix}")),
    );
    let [before, after] = grants(&suffix).try_into().unwrap();
    let raw = Raw::open(&database).await;
    // As every database was before PostgreSQL 15, and still is when it comes from such a version.
    raw.execute("GRANT CREATE ON SCHEMA public TO PUBLIC").await;
    raw.execute(&before).await;

    // Without tables, the server says what must be done, and does not serve.
    let (code, said) = output(&server, &["config", "check", "--connect"]);
    assert!(
        code == 2 && said.contains("schema 0") && said.contains("keyround db migrate"),
        "{said}"
    );
    assert_eq!(output(&owner, &["config", "check", "--connect"]).0, 0);
    for role in [&server, &owner] {
        let (code, said) = output(role, &["backup", "backup.jsonl"]);
        assert!(
            code == 1 && said.contains("is empty, so nothing is to be backed up"),
            "{said}"
        );
    }
    let (code, said) = output(&server, &["serve"]);
    assert!(
        code == 1 && said.contains("keyround db migrate") && said.contains("may not change it"),
        "{said}"
    );
    assert_eq!(output(&owner, &["db", "migrate"]).0, 0);
    raw.execute(&after).await;

    let settings = [("accounts.enabled", "true")];
    let app = TestApp::start_with_clock(&server, &settings, Clock::system()).await;
    let secret = app.create_client("service", None).await;
    app.token("service", &secret).await;
    let user = create_user(&app, "ada").await;
    let session = log_in(&app, &user).await.unwrap();
    let session = refresh(&app, &session.refresh_token).await.unwrap();
    assert!(log_out(&app, &session).await);
    app.running.server.rotation.tick().await.unwrap();
    for command in [
        &["keys", "rotate"][..],
        &["keys", "list"],
        &["clients", "disable", "service"],
        &["audit", "list"],
        &["db", "check"],
        &["backup", "backup.jsonl"],
    ] {
        let (code, said) = output(&server, command);
        assert_eq!(code, 0, "{command:?}: {said}");
    }
    let pool = PgPool::connect(&server.url).await.unwrap();
    for sql in [
        "DELETE FROM audit",
        "UPDATE audit SET reason = ''",
        "TRUNCATE audit",
        "DROP TABLE audit",
        "ALTER TABLE users ADD COLUMN x BIGINT",
        "CREATE TABLE x (x BIGINT)",
        "DELETE FROM _sqlx_migrations",
    ] {
        refuses(&pool, sql).await;
    }
    pool.close().await;
    app.running.stop().await;

    // What is missing is named, with the role and what grants it.
    let role = format!("server_{suffix}");
    let (code, said) = output(&server, &["db", "prune", "--audit-older-than", "400d"]);
    for part in [
        "permission denied for table audit (SQLSTATE 42501",
        &role,
        "is run as the role that owns the tables",
    ] {
        assert!(code == 1 && said.contains(part), "{part}: {said}");
    }
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON clients TO {role}");
    raw.execute(&format!("REVOKE SELECT ON clients FROM {role}")).await;
    for command in [&["clients", "list"][..], &["clients", "disable", "service"]] {
        let (code, said) = output(&server, command);
        assert!(code == 1 && said.contains(&grant), "{command:?}: {said}");
        assert!(!said.contains("did not answer"), "{said}");
    }
    let (code, said) = output(&server, &["db", "check"]);
    assert!(code == 1, "{said}");
    let line = said.lines().find(|line| line.starts_with("rights")).unwrap();
    assert!(
        line.contains("FAILED") && line.contains("GRANT SELECT ON clients TO"),
        "{line}"
    );
    raw.execute(&format!("{grant}; REVOKE INSERT ON signing_keys FROM {role}"))
        .await;
    let (code, said) = output(&server, &["keys", "rotate"]);
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON signing_keys TO {role}");
    assert!(code == 1 && said.contains(&grant), "{said}");
    raw.execute(&grant).await;
    assert_eq!(output(&server, &["keys", "rotate"]).0, 0);

    // A schema that is older is not changed by it either.
    raw.execute("DELETE FROM _sqlx_migrations WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)")
        .await;
    let (code, said) = output(&server, &["serve"]);
    assert!(code == 1 && said.contains("keyround db migrate"), "{said}");
    raw.close().await;
}

crate::on_both_databases!(a_command_that_looks_changes_no_schema, |database| {
    database.open().await.close().await;
    let raw = Raw::open(&database).await;
    raw.execute("ALTER TABLE nodes DROP COLUMN master_keys").await;
    raw.execute("DELETE FROM _sqlx_migrations WHERE version = 16").await;
    let version = "SELECT count(*) FROM _sqlx_migrations";
    let before = raw.number(version).await;
    for command in [
        &["keys", "list"][..],
        &["audit", "list"],
        &["clients", "list"],
        &["users", "list"],
        &["keys", "rotate"],
        &["master-key", "status"],
        &["db", "prune"],
        &["token", "deny", "x", "--until", "2100-01-01T00:00:00Z"],
    ] {
        let (code, said) = output(&database, command);
        assert_eq!(code, 1, "{command:?}: {said}");
        assert!(
            said.contains("has schema") && said.contains("keyround db migrate"),
            "{command:?}: {said}"
        );
        assert_eq!(raw.number(version).await, before, "{command:?}");
    }
    // A backup is what is wanted before a migration.
    let (code, said) = output(&database, &["backup", "backup.jsonl"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(raw.number(version).await, before);
    let (code, said) = output(&database, &["db", "migrate"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(output(&database, &["keys", "list"]).0, 0);
});

/// A role that may not look at the tables does not say that there are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_does_not_look_like_a_missing_schema() {
    let database = TestDatabase::postgres().await;
    let suffix = database.url.rsplit('/').next().unwrap().to_owned();
    let role = format!("server_{suffix}");
    let (owner, server) = (
        as_role(&database, &format!("owner_{suffix}")),
        as_role(&database, &role),
    );
    let [before, after] = grants(&suffix).try_into().unwrap();
    let raw = Raw::open(&database).await;
    raw.execute(&before).await;
    assert_eq!(output(&owner, &["db", "migrate"]).0, 0);
    raw.execute(&after).await;
    assert_eq!(output(&server, &["audit", "list"]).0, 0);
    let commands = [
        &["keys", "list"][..],
        &["keys", "rotate"],
        &["serve"],
        &["db", "migrate"],
        &["db", "check"],
        &["backup", "backup.jsonl"],
    ];
    let usage = format!("GRANT USAGE ON SCHEMA public TO {role}");
    let select = format!("GRANT SELECT ON _sqlx_migrations TO {role}");
    let undo = format!("{usage}; GRANT USAGE ON SCHEMA public TO PUBLIC; {select}");
    for (taken, grant) in [
        (format!("REVOKE USAGE ON SCHEMA public FROM {role}, PUBLIC"), &usage),
        (format!("REVOKE ALL ON _sqlx_migrations FROM {role}"), &select),
    ] {
        raw.execute(&taken).await;
        for command in commands {
            let (code, said) = output(&server, command);
            assert_eq!(code, 1, "{taken}: {command:?}: {said}");
            assert!(said.contains(grant.as_str()), "{taken}: {command:?}: {said}");
            assert!(
                !said.contains("schema 0") && !said.contains("run 'keyround db migrate'"),
                "{taken}: {command:?}: {said}"
            );
        }
        raw.execute(&undo).await;
    }
    // The schema of the tables is passed over for another one of the search path, which the role may use.
    raw.execute(&format!(
        "CREATE SCHEMA empty; GRANT USAGE ON SCHEMA empty TO {role}; REVOKE USAGE ON SCHEMA public FROM {role}, PUBLIC; \
         ALTER ROLE {role} SET search_path = public, empty"
    ))
    .await;
    let (code, said) = output(&server, &["keys", "list"]);
    assert!(code == 1 && said.contains(&usage), "{said}");
    raw.execute(&format!("ALTER ROLE {role} RESET search_path; {undo}"))
        .await;
    assert_eq!(output(&server, &["audit", "list"]).0, 0);
    // A database that has no tables yet is still said to have none.
    raw.execute("DROP TABLE _sqlx_migrations").await;
    let (code, said) = output(&server, &["keys", "list"]);
    assert!(code == 1 && said.contains("db migrate"), "{said}");
    raw.close().await;
}

/// A copy names the database whose role lacks a right, that role, and the right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_names_the_role_of_the_database_that_refuses_it() {
    let source = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&source, &[], Clock::system()).await;
    app.running.stop().await;
    let target = TestDatabase::postgres().await;
    let suffix = target.url.rsplit('/').next().unwrap().to_owned();
    let role = format!("server_{suffix}");
    let (owner, server) = (as_role(&target, &format!("owner_{suffix}")), as_role(&target, &role));
    let [before, after] = grants(&suffix).try_into().unwrap();
    let raw = Raw::open(&target).await;
    raw.execute(&before).await;
    // The role of the servers may make no tables.
    let (code, said) = output(&source, &["db", "copy", "--to", &server.url]);
    for part in [
        "cannot copy to postgres",
        &format!("(SQLSTATE 42501, to {role})"),
        &format!("GRANT USAGE, CREATE ON SCHEMA public TO {role}"),
    ] {
        assert!(code == 1 && said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("database.url"), "{said}");
    let (code, said) = output(&source, &["db", "copy", "--to", &owner.url]);
    assert_eq!(code, 0, "{said}");
    raw.execute(&after).await;
    // Back, as the role of the servers, which may not lock the audit log.
    let file = format!("sqlite:{}", source.folder.path().join("back.db").display());
    let (code, said) = output(&server, &["db", "copy", "--to", &file]);
    for part in [
        "cannot copy from postgres",
        &format!("(SQLSTATE 42501, to {role})"),
        "name the role that owns the tables in the URL",
    ] {
        assert!(code == 1 && said.contains(part), "{part}: {said}");
    }
    let (code, said) = output(&owner, &["db", "copy", "--to", &file]);
    assert_eq!(code, 0, "{said}");
    // A target that cannot be reached is named, not the source.
    let (code, said) = output(&source, &["db", "copy", "--to", "postgres://nobody@127.0.0.1:1/x"]);
    assert!(
        code == 1 && said.contains("127.0.0.1:1") && !said.contains("the database sqlite"),
        "{said}"
    );
    raw.close().await;
}

/// A database whose tables belong to another role than the server's, as the page says; answers with both databases and the suffix of the roles.
async fn with_roles() -> (TestDatabase, TestDatabase, String) {
    let database = TestDatabase::postgres().await;
    let suffix = database.url.rsplit('/').next().unwrap().to_owned();
    let owner = as_role(&database, &format!("owner_{suffix}"));
    let server = as_role(&database, &format!("server_{suffix}"));
    let [before, after] = grants(&suffix).try_into().unwrap();
    let raw = Raw::open(&database).await;
    raw.execute(&before).await;
    assert_eq!(output(&owner, &["db", "migrate"]).0, 0);
    raw.execute(&after).await;
    raw.close().await;
    (database, server, suffix)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_are_checked_are_those_that_the_page_grants() {
    let (database, server, _) = with_roles().await;
    let pool = PgPool::connect(&server.url).await.unwrap();
    let granted: Vec<String> = sqlx::query_scalar(
        "SELECT t.relname || ' ' || r.name FROM pg_class t CROSS JOIN \
         (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('REFERENCES'), ('TRIGGER')) r (name) \
         WHERE t.relnamespace = 'public'::regnamespace AND t.relkind = 'r' AND has_table_privilege(t.oid, r.name) ORDER BY 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let mut needed: Vec<String> = keyround::store::needed_rights()
        .flat_map(|(table, rights)| rights.iter().map(move |right| format!("{table} {right}")))
        .collect();
    needed.sort();
    assert_eq!(needed, granted);
    // Each one that is taken away is named alone, and what the message says gives it back.
    let db = Db::connect(&server.url.parse().unwrap()).await.unwrap();
    let raw = Raw::open(&database).await;
    let role = Url::parse(&server.url).unwrap().username().to_owned();
    db.require_rights().await.unwrap();
    for right in needed.iter().map(|needed| needed.split_once(' ').unwrap()) {
        let (table, right) = right;
        raw.execute(&format!("REVOKE {right} ON {table} FROM {role}")).await;
        let error = db.require_rights().await.unwrap_err().to_string();
        let grant = format!("GRANT {right} ON {table} TO {role}");
        assert!(
            error.contains(&format!("the role {role} lacks {right} on table {table}: ")) && error.contains(&grant),
            "{error}"
        );
        raw.execute(&grant).await;
        db.require_rights().await.unwrap();
    }
    pool.close().await;
    raw.close().await;
}

/// A role that may not read the sequence of the audit log learns it by a record that is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_are_taken_are_told_to_a_role_that_sees_none() {
    let (database, server, _) = with_roles().await;
    let owner = database.open().await;
    owner
        .note(&crate::helpers::entry("database.pruned", "a"))
        .await
        .unwrap();
    owner
        .note(&crate::helpers::entry("database.pruned", "b"))
        .await
        .unwrap();
    let raw = Raw::open(&database).await;
    let writes = || {
        let (_, said) = output(&server, &["db", "check"]);
        said.lines()
            .find(|line| line.starts_with("writes"))
            .unwrap_or(&said)
            .to_owned()
    };
    assert!(writes().contains(" ok "), "{}", writes());
    let records = owner.audit(None, 100).await.unwrap();
    raw.execute("SELECT setval('audit_seq_seq', 1)").await;
    let said = writes();
    let (_, cure) = said
        .split_once("run ALTER TABLE audit ")
        .unwrap_or_else(|| panic!("{said}"));
    let cure = cure.split(';').next().unwrap();
    assert_eq!(cure, format!("ALTER COLUMN seq RESTART WITH {}", records[0].seq + 1));
    raw.execute(&format!("ALTER TABLE audit {cure}")).await;
    assert!(writes().contains(" ok "), "{}", writes());
    assert_eq!(owner.audit(None, 100).await.unwrap(), records);
    owner.close().await;
    raw.close().await;
}

/// The answer of `/readyz/issue`: its status, and the details of the checks that are red.
pub async fn red_checks(app: &TestApp) -> (u16, Vec<(String, String)>) {
    let answer = app.http.get(format!("{}/readyz/issue", app.admin_url));
    let answer = answer.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap();
    let checks = body["checks"].as_array().unwrap().iter();
    let text = |check: &serde_json::Value, name: &str| check[name].as_str().unwrap().to_owned();
    let red = checks
        .filter(|check| check["ok"] == false)
        .map(|check| (text(check, "name"), text(check, "detail")));
    (status, red.collect())
}

/// Asks until the check has this colour: an answer of the database holds for a moment.
pub async fn until_red(app: &TestApp, name: &str, says: &str) -> (u16, Vec<(String, String)>) {
    for _ in 0..600 {
        let (status, red) = red_checks(app).await;
        if red.iter().any(|(check, detail)| check == name && detail.contains(says)) {
            return (status, red);
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{name} does not say {says}: {:?}", red_checks(app).await);
}

pub async fn until_green(app: &TestApp) {
    for _ in 0..600 {
        if red_checks(app).await.1.is_empty() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}", red_checks(app).await);
}

/// A schema of the role's own name comes first in the search path. Nothing is made there beside the tables that there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_the_name_of_the_role_replaces_nothing() {
    let (database, server, suffix) = with_roles().await;
    let role = format!("server_{suffix}");
    let raw = Raw::open(&database).await;
    let created = [
        "clients",
        "create",
        "--id",
        "first",
        "--grant",
        "client_credentials",
        "--audience",
        "https://api.example.com",
    ];
    let (code, said) = output(&server, &created);
    assert_eq!(code, 0, "{said}");
    raw.execute(&format!("CREATE SCHEMA {role} AUTHORIZATION {role}")).await;
    let (_, said) = output(&server, &["db", "check"]);
    for check in ["schema", "rights", "writes"] {
        let line = said.lines().find(|line| line.starts_with(check)).unwrap();
        assert!(line.contains(" ok "), "{said}");
    }
    let (code, said) = output(&server, &["db", "migrate"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = output(&server, &["clients", "list"]);
    assert!(code == 0 && said.contains("first"), "{said}");
    // A later version would make its tables in the other schema.
    raw.execute("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)")
        .await;
    let (code, said) = output(&server, &["db", "migrate"]);
    assert!(
        code == 1 && said.contains("lie in the schema public") && said.contains(&format!("schema {role}")),
        "{said}"
    );
    let made = format!("SELECT count(*) FROM pg_tables WHERE schemaname = '{role}'");
    assert_eq!(raw.number(&made).await, 0);
    raw.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_taken_from_a_server_turns_the_checks_red() {
    let (database, server, suffix) = with_roles().await;
    let role = format!("server_{suffix}");
    let settings = [("accounts.enabled", "true")];
    let app = TestApp::start_with_clock(&server, &settings, Clock::system()).await;
    let raw = Raw::open(&database).await;
    until_green(&app).await;
    for (rights, on) in [
        ("INSERT", "audit"),
        ("INSERT", "denied_tokens"),
        ("INSERT", "revocation_changes"),
        ("INSERT, DELETE", "sessions"),
        ("UPDATE", "limits"),
        ("INSERT", "tenants"),
        ("SELECT, UPDATE", "users"),
        ("SELECT", "clients"),
        ("EXECUTE", "FUNCTION new_change_id()"),
    ] {
        let public = if rights == "EXECUTE" { ", PUBLIC" } else { "" };
        raw.execute(&format!("REVOKE {rights} ON {on} FROM {role}{public}"))
            .await;
        let grant = format!("GRANT {rights} ON {on} TO {role}");
        let (status, red) = until_red(&app, "rights", &grant).await;
        // Advisory, as every node has the same role; without its clients a node issues nothing.
        assert_eq!(status, if on == "clients" { 503 } else { 200 }, "{red:?}");
        let (code, said) = output(&server, &["db", "check"]);
        let line = said.lines().find(|line| line.starts_with("rights")).unwrap();
        assert!(code == 1 && line.contains("FAILED") && line.contains(&grant), "{said}");
        for command in [&["config", "check", "--connect"][..], &["serve"]] {
            let (code, said) = output(&server, command);
            assert!(matches!(code, 1 | 2) && said.contains(&grant), "{command:?}: {said}");
        }
        raw.execute(&grant).await;
        until_green(&app).await;
    }
    // What was revoked could be taken for valid where its row is hidden.
    for table in ["denied_tokens", "sessions", "clients", "users"] {
        raw.execute(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
            .await;
        let cure = format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY");
        until_red(&app, "rights", &cure).await;
        for command in [&["db", "check"][..], &["config", "check", "--connect"], &["serve"]] {
            let (code, said) = output(&server, command);
            assert!(matches!(code, 1 | 2) && said.contains(&cure), "{command:?}: {said}");
        }
        raw.execute(&cure).await;
        until_green(&app).await;
    }
    // A schema that the role may not use and does not need.
    raw.execute(&format!(
        "CREATE SCHEMA {role}; CREATE TABLE {role}._sqlx_migrations (x BIGINT)"
    ))
    .await;
    let checked = output(&server, &["db", "check"]);
    assert_eq!(checked.0, 0, "{}", checked.1);
    raw.execute(&format!("DROP SCHEMA {role} CASCADE")).await;
    raw.execute(&format!("REVOKE USAGE ON SCHEMA public FROM {role}, PUBLIC"))
        .await;
    until_red(&app, "rights", &format!("GRANT USAGE ON SCHEMA public TO {role}")).await;
    raw.execute(&format!("GRANT USAGE ON SCHEMA public TO {role}")).await;
    until_green(&app).await;
    assert_eq!(output(&server, &["db", "check"]).0, 0);
    assert_eq!(output(&server, &["config", "check", "--connect"]).0, 0);
    raw.close().await;
    app.running.stop().await;
}

/// What takes a right away that no server needs, as the message has it.
fn cure(error: &str) -> String {
    let (_, cure) = error.split_once(", run ").unwrap();
    cure.split("; see ").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_too_many_on_the_audit_log_turns_the_checks_red() {
    let (database, server, suffix) = with_roles().await;
    let (role, group) = (format!("server_{suffix}"), format!("group_{suffix}"));
    let app = TestApp::start_with_clock(&server, &[("accounts.enabled", "true")], Clock::system()).await;
    let raw = Raw::open(&database).await;
    let db = Db::connect(&server.url.parse().unwrap()).await.unwrap();
    until_green(&app).await;
    raw.execute(&format!("CREATE ROLE {group}; GRANT {group} TO {role}"))
        .await;
    for (granted, says) in [
        (format!("GRANT UPDATE ON audit TO {role}"), "UPDATE on audit"),
        (format!("GRANT DELETE ON audit TO {role}"), "DELETE on audit"),
        (format!("GRANT TRUNCATE ON audit TO {role}"), "TRUNCATE on audit"),
        (format!("GRANT UPDATE (event) ON audit TO {role}"), "UPDATE on audit"),
        (
            format!("GRANT UPDATE, DELETE ON audit TO {group}"),
            "UPDATE, DELETE on audit",
        ),
        ("GRANT DELETE ON audit TO PUBLIC".to_owned(), "DELETE on audit"),
        (
            format!("GRANT INSERT, UPDATE ON _sqlx_migrations TO {role}"),
            "INSERT, UPDATE on _sqlx_migrations",
        ),
        (
            format!("GRANT UPDATE ON audit TO {role}; GRANT UPDATE ON audit TO {group}"),
            "UPDATE on audit",
        ),
    ] {
        raw.execute(&granted).await;
        let error = db.require_no_more_rights().await.unwrap_err().to_string();
        assert!(
            error.contains(&format!(
                "the role {role} has more rights than a server needs: {says}; "
            )),
            "{granted}: {error}"
        );
        let cure = cure(&error);
        let (status, _) = until_red(&app, "rights", &cure).await;
        assert_eq!(status, 200, "{granted}");
        let (code, said) = output(&server, &["db", "check"]);
        let line = said.lines().find(|line| line.starts_with("rights")).unwrap();
        assert!(code == 1 && line.contains("FAILED") && line.contains(&cure), "{said}");
        raw.execute(&cure).await;
        db.require_no_more_rights().await.unwrap();
    }
    let writes_all = "SELECT count(*) FROM pg_roles WHERE rolname = 'pg_write_all_data'";
    if raw.number(writes_all).await == 1 {
        raw.execute(&format!("GRANT pg_write_all_data TO {role}")).await;
        let error = db.require_no_more_rights().await.unwrap_err().to_string();
        raw.execute(&cure(&error)).await;
        db.require_no_more_rights().await.unwrap();
    }
    until_green(&app).await;
    // With one role, the owner's rights are no fault, nor those of a superuser; nor are those of a member of the owner's role.
    let owner = as_role(&database, &format!("owner_{suffix}"));
    for database in [&owner, &database] {
        let db = Db::connect(&database.url.parse().unwrap()).await.unwrap();
        db.require_no_more_rights().await.unwrap();
        let (_, said) = output(database, &["db", "check"]);
        let line = said.lines().find(|line| line.starts_with("rights")).unwrap();
        assert!(line.contains(" ok "), "{said}");
    }
    raw.execute(&format!("GRANT owner_{suffix} TO {role}")).await;
    db.require_no_more_rights().await.unwrap();
    raw.close().await;
    app.running.stop().await;
}

/// Rights on every column do what one on the table does; rights on some do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_on_each_column_count() {
    let (database, server, suffix) = with_roles().await;
    let role = format!("server_{suffix}");
    let raw = Raw::open(&database).await;
    let db = Db::connect(&server.url.parse().unwrap()).await.unwrap();
    let columns = raw
        .texts("SELECT attname::TEXT FROM pg_attribute WHERE attrelid = 'audit'::regclass AND attnum > 0 AND NOT attisdropped")
        .await;
    let (all, some) = (columns.join(", "), columns[1..].join(", "));
    raw.execute(&format!("REVOKE ALL ON audit FROM {role}")).await;
    let lacking = async || db.require_rights().await.unwrap_err().to_string();
    assert!(lacking().await.contains("lacks SELECT, INSERT on table audit"));
    raw.execute(&format!("GRANT SELECT ({some}), INSERT ({all}) ON audit TO {role}"))
        .await;
    assert!(lacking().await.contains("lacks SELECT on table audit"));
    raw.execute(&format!("GRANT SELECT ({}) ON audit TO {role}", columns[0]))
        .await;
    db.require_rights().await.unwrap();
    db.require_no_more_rights().await.unwrap();
    let app = TestApp::start_with_clock(&server, &[], Clock::system()).await;
    app.running.stop().await;
    for command in [
        &[
            "clients",
            "create",
            "--id",
            "first",
            "--grant",
            "client_credentials",
            "--audience",
            "urn:x",
        ][..],
        &["audit", "list"],
        &["db", "check"],
        &["backup", "backup.jsonl"],
    ] {
        let (code, said) = output(&server, command);
        assert_eq!(code, 0, "{command:?}: {said}");
    }
    raw.close().await;
}

/// Rights are no part of a backup: the runbook gives and takes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runbook_of_a_restore_leaves_the_servers_no_right_too_many() {
    let (source, source_server, _) = with_roles().await;
    let file = source.folder.path().join("backup.jsonl");
    let file = file.to_str().unwrap();
    let app = TestApp::start_with_clock(&source_server, &[], Clock::system()).await;
    app.running.stop().await;
    let (code, said) = output(&source_server, &["backup", file]);
    assert_eq!(code, 0, "{said}");

    let page = include_str!("../../docs/operate/runbooks/restore-from-backup.md");
    let order = [
        "the first block of SQL of that page",
        "URL of `keyround_owner`",
        "$ keyround restore backup.jsonl",
        "run the second block of SQL of that page",
        "<!-- then: every node is started -->",
    ];
    let places = order.map(|said| {
        page.find(said)
            .unwrap_or_else(|| panic!("the page does not say: {said}"))
    });
    assert!(places.is_sorted(), "{places:?}");
    let database = TestDatabase::postgres().await;
    let suffix = database.url.rsplit('/').next().unwrap().to_owned();
    let role = format!("server_{suffix}");
    let owner = as_role(&database, &format!("owner_{suffix}"));
    let server = as_role(&database, &role);
    let [before, after] = grants(&suffix).try_into().unwrap();
    let raw = Raw::open(&database).await;
    raw.execute(&before).await;
    let (code, said) = output(&owner, &["restore", file]);
    assert_eq!(code, 0, "{said}");
    let rights = || {
        let (_, said) = output(&server, &["db", "check"]);
        said.lines().find(|line| line.starts_with("rights")).unwrap().to_owned()
    };
    assert!(
        rights().contains(&format!("REVOKE UPDATE, DELETE ON audit FROM {role}")),
        "{}",
        rights()
    );
    raw.execute(&after).await;
    assert!(rights().contains(" ok "), "{}", rights());
    let pool = PgPool::connect(&server.url).await.unwrap();
    refuses(&pool, "DELETE FROM audit").await;
    refuses(&pool, "UPDATE audit SET event = ''").await;
    pool.close().await;
    raw.close().await;
}

/// Whichever right the role that makes the tables lacks, the message has the statement that ends it, and the command then works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_make_tables_is_told_what_grants_it() {
    let source = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&source, &[], Clock::system()).await;
    app.running.stop().await;
    let file = source.folder.path().join("backup.jsonl");
    let file = file.to_str().unwrap();
    let (code, said) = output(&source, &["backup", file]);
    assert_eq!(code, 0, "{said}");
    for command in [&["db", "migrate"][..], &["restore", file]] {
        for taken in [
            "REVOKE CREATE ON SCHEMA public FROM ROLE",
            "REVOKE ALL ON SCHEMA public FROM ROLE, PUBLIC",
        ] {
            let database = TestDatabase::postgres().await;
            let suffix = database.url.rsplit('/').next().unwrap().to_owned();
            let role = format!("owner_{suffix}");
            let owner = as_role(&database, &role);
            let [before, _] = grants(&suffix).try_into().unwrap();
            let raw = Raw::open(&database).await;
            raw.execute(&before).await;
            raw.execute(&taken.replace("ROLE", &role)).await;
            let mut steps = 0;
            loop {
                let (code, said) = output(&owner, command);
                if code == 0 {
                    break;
                }
                steps += 1;
                // The statement is whole, names this role, and brings the command further.
                let (_, statement) = said
                    .split_once(" runs GRANT ")
                    .unwrap_or_else(|| panic!("{command:?}: {said}"));
                let (rights, _) = statement.split_once(&format!(" TO {role}")).unwrap();
                assert!(steps <= 2 && said.contains("an administrator"), "{command:?}: {said}");
                raw.execute(&format!("GRANT {rights} TO {role}")).await;
            }
            assert!(steps > 0, "{command:?}: {taken}");
            raw.close().await;
        }
    }

    // The tables of the version before.
    let (database, server, suffix) = with_roles().await;
    let (role, lesser) = (format!("owner_{suffix}"), format!("server_{suffix}"));
    let owner = as_role(&database, &role);
    let raw = Raw::open(&database).await;
    // The last migrations are undone by hand.
    raw.execute(
        "ALTER TABLE nodes DROP COLUMN host, DROP COLUMN listener, DROP COLUMN process_id; \
         ALTER TABLE clock DROP COLUMN restored; DROP TABLE revocation_changes, revocation_readers; \
         DROP FUNCTION note_denied_token, note_ended_session, note_disabled_tenant CASCADE; \
         DROP INDEX denied_tokens_denied_until, tenants_disabled_at; \
         DROP FUNCTION end_login_session, end_grants, forget_devices CASCADE; DROP TABLE login_sessions; \
         DROP FUNCTION forget_consents_of_user, forget_consents_of_client CASCADE; DROP TABLE authorization_codes, consents, scopes, resource_servers; \
         ALTER TABLE sessions DROP COLUMN login_session_id, DROP COLUMN scope; \
         ALTER TABLE clients DROP COLUMN kind, DROP COLUMN auth_method, DROP COLUMN first_party_since, DROP COLUMN consent, \
         DROP COLUMN redirect_uris, DROP COLUMN pkce, DROP COLUMN post_logout_redirect_uris, DROP COLUMN client_name, \
         DROP COLUMN id_token_alg, DROP COLUMN scope_claims, DROP COLUMN roles_claim; DELETE FROM _sqlx_migrations WHERE version > 26",
    )
    .await;
    raw.execute(&format!("REVOKE CREATE ON SCHEMA public FROM {role}"))
        .await;
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA public TO {role}");
    let (code, said) = output(&server, &["serve"]);
    assert!(
        code == 1
            && said.contains(&format!("the role {lesser} may not"))
            && said.contains(&format!("belong to {role}")),
        "{said}"
    );
    assert!(said.contains(&grant) && said.contains("keyround db migrate"), "{said}");
    raw.execute(&grant).await;
    // It may make tables, and still not change those of another.
    raw.execute(&format!("GRANT CREATE ON SCHEMA public TO {lesser}")).await;
    for command in [&["serve"][..], &["db", "migrate"], &["config", "check", "--connect"]] {
        let (code, said) = output(&server, command);
        assert!(
            code != 0 && said.contains(&format!("belong to {role}: run 'keyround db migrate' with that role")),
            "{command:?}: {said}"
        );
        assert!(!said.contains("GRANT"), "{command:?}: {said}");
    }
    let (code, said) = output(&owner, &["db", "migrate"]);
    assert_eq!(code, 0, "{said}");
    raw.close().await;
}

/// The services of compose.yaml, one after the other: the roles are made, the owner makes the tables, and the servers lose what they do not
/// need, also when it is all run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compose_gives_the_servers_a_role_with_the_least_rights() {
    use crate::deployment::text;
    let (roles, rights, compose) = (
        text("postgres/roles.sh"),
        text("postgres/rights.sql"),
        text("compose.yaml"),
    );
    let database = TestDatabase::postgres().await;
    let suffix = database.url.rsplit('/').next().unwrap().to_owned();
    let named = |text: &str| {
        text.replace("keyround_owner", &format!("owner_{suffix}"))
            .replace("keyround_server", &format!("server_{suffix}"))
    };
    let [before, after] = grants(&suffix).try_into().unwrap();
    assert!(named(&roles).contains(&before) && named(&rights).contains(&after));
    for line in [
        "volumes: [\"database:/var/lib/postgresql/data\", \"./postgres/roles.sh:/docker-entrypoint-initdb.d/roles.sh:ro\"]",
        "volumes: [\"./postgres/rights.sql:/rights.sql:ro\"]",
        "command: [db, migrate]",
        "KEYROUND_DATABASE__URL_FILE: /run/secrets/owner_url",
        "migrate: { condition: service_completed_successfully }",
        "rights: { condition: service_completed_successfully }",
    ] {
        assert!(compose.contains(line), "{line}");
    }
    let folder = database.folder.path();
    for (file, password) in [("owner_password", "it's \\ one"), ("server_password", "an \"other\"")] {
        std::fs::write(folder.join(file), format!("{password}\n")).unwrap();
    }
    let script = named(&roles).replace("/run/secrets", folder.to_str().unwrap());
    let (owner, server) = (
        as_role(&database, &format!("owner_{suffix}")),
        as_role(&database, &format!("server_{suffix}")),
    );
    let url = Url::parse(&database.url).unwrap();
    let shell = |script: &str| {
        let output = std::process::Command::new("sh")
            .args(["-c", script])
            .env("PGHOST", url.host_str().unwrap())
            .env("PGPORT", url.port().unwrap().to_string())
            .env("POSTGRES_USER", url.username())
            .env("POSTGRES_DB", &suffix)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
    };
    shell(&script);
    let raw = Raw::open(&database).await;
    let passwords =
        format!("SELECT count(*) FROM pg_authid WHERE rolname LIKE '%\\_{suffix}' AND rolpassword IS NOT NULL");
    assert_eq!(raw.number(&passwords).await, 2);
    let file = folder.join("rights.sql");
    std::fs::write(&file, named(&rights)).unwrap();
    for _ in 0..2 {
        let (code, said) = output(&owner, &["db", "migrate"]);
        assert_eq!(code, 0, "{said}");
        shell(&format!(
            "exec psql --no-psqlrc --set ON_ERROR_STOP=1 --file {} '{}'",
            file.display(),
            owner.url
        ));
    }
    let app = TestApp::start_with_clock(&server, &[], Clock::system()).await;
    app.running.stop().await;
    let (code, said) = output(&server, &["db", "check"]);
    assert_eq!(code, 0, "{said}");
    let pool = PgPool::connect(&server.url).await.unwrap();
    refuses(&pool, "DELETE FROM audit").await;
    refuses(&pool, "CREATE TABLE mine (x BIGINT)").await;
    pool.close().await;
    raw.close().await;
}
