//! A schema of the right version of which a part has another form, or that has what is in the way.

use keyround::clock::Clock;
use keyround::store::Db;

use crate::database_roles::{until_green, until_red};
use crate::helpers::{TestApp, TestDatabase};
use crate::rows::Raw;

/// A statement that breaks a schema, and what is said of it.
type Break = (&'static str, &'static str);

const IN_BOTH: &[Break] = &[
    (
        "DELETE FROM client_changes",
        "lacks: the row of table client_changes (run INSERT INTO client_changes ",
    ),
    (
        "DELETE FROM key_version",
        "lacks: the row of table key_version (run INSERT INTO key_version ",
    ),
    (
        "DELETE FROM clock",
        "lacks: the row of table clock (run INSERT INTO clock ",
    ),
    (
        "UPDATE client_changes SET change_id = 'x'",
        "lacks: the change_id of table client_changes (run UPDATE client_changes SET change_id = ",
    ),
    (
        "DROP INDEX users_by_password_cost",
        "lacks: index users_by_password_cost of table users",
    ),
    (
        "DROP INDEX sessions_revoked_at; CREATE INDEX sessions_revoked_at ON sessions (revoked_at)",
        "index sessions_revoked_at of table sessions has another form: ",
    ),
    (
        "DROP INDEX users_tenant_id; CREATE INDEX users_tenant_id ON users (user_id, tenant_id)",
        "index users_tenant_id of table users has another form: ",
    ),
    (
        "ALTER TABLE users ADD COLUMN needed TEXT NOT NULL DEFAULT ''; CREATE UNIQUE INDEX one_name ON users (name)",
        "has additional parts (unique index on (name) of table users: it may refuse rows)",
    ),
    (
        "CREATE UNIQUE INDEX one_short ON users (substr(email, 1, 3)); CREATE UNIQUE INDEX harmless ON users (name, email)",
        "has additional parts (unique index on (substr(email, 1, 3)) of table users: it may refuse rows)",
    ),
];

const IN_SQLITE: &[Break] = &[
    (
        "DROP TRIGGER sessions_updated",
        "lacks: trigger sessions_updated of table sessions",
    ),
    (
        "DROP TRIGGER clients_deleted",
        "lacks: trigger clients_deleted of table clients",
    ),
    (
        "DROP TRIGGER keys_changed",
        "lacks: trigger keys_changed of table key_version",
    ),
    (
        "DROP TRIGGER clients_updated; CREATE TRIGGER clients_updated AFTER UPDATE ON clients BEGIN SELECT 1; END",
        "trigger clients_updated of table clients has another form",
    ),
    (
        "DROP TRIGGER clients_updated; CREATE TRIGGER clients_updated AFTER UPDATE OF scope ON clients BEGIN \
         UPDATE client_changes SET changes = changes + 1, change_id = lower(hex(randomblob(16))); END",
        "trigger clients_updated of table clients has another form",
    ),
    (
        "CREATE TRIGGER added BEFORE INSERT ON sessions BEGIN SELECT RAISE(IGNORE); END",
        "has additional parts (trigger added of table sessions: it may change or refuse rows)",
    ),
    (
        "DROP TABLE client_assertions; CREATE TABLE client_assertions (client_id TEXT NOT NULL, jti TEXT NOT NULL, expires_at TEXT NOT NULL)",
        "lacks: index client_assertions_expires_at of table client_assertions, unique index on (client_id, jti) of table client_assertions; \
         column expires_at of table client_assertions has another form: expires_at text not null instead of expires_at bigint not null",
    ),
    (
        "DROP TABLE limits; CREATE TABLE limits (bucket TEXT NOT NULL PRIMARY KEY ON CONFLICT REPLACE, tat BIGINT NOT NULL); \
         CREATE INDEX limits_tat ON limits (tat)",
        "column bucket of table limits has another form",
    ),
    (
        "DROP TABLE limits; CREATE TABLE limits (bucket TEXT NOT NULL, tat BIGINT NOT NULL); \
         CREATE UNIQUE INDEX buckets ON limits (bucket) WHERE tat > 0; CREATE INDEX limits_tat ON limits (tat)",
        "lacks: unique index on (bucket) of table limits",
    ),
    (
        "DROP TABLE client_changes; CREATE TABLE client_changes (id BIGINT NOT NULL PRIMARY KEY, changes BIGINT NOT NULL, \
         change_id TEXT NOT NULL DEFAULT ''); INSERT INTO client_changes VALUES (1, 0, 'a')",
        "column id of table client_changes has another form: id bigint not null instead of id bigint not null check(id=1)",
    ),
    (
        "DROP TABLE nodes; CREATE TABLE nodes (node_id TEXT NOT NULL PRIMARY KEY, seen_at BIGINT NOT NULL, version BIGINT NOT NULL, \
         policy_fingerprint TEXT NOT NULL, clock_offset BIGINT NOT NULL, change_id TEXT, master_keys TEXT NOT NULL DEFAULT '', \
         host TEXT NOT NULL DEFAULT '', listener TEXT NOT NULL DEFAULT '', process_id INTEGER NOT NULL DEFAULT 0, rack TEXT NOT NULL)",
        "has additional parts (column rack of table nodes: every row must have a value in it)",
    ),
    (
        "INSERT INTO sqlite_sequence (name, seq) VALUES ('audit', 9223372036854775807)",
        "the numbers of table audit are used up",
    ),
];

const IN_POSTGRES: &[Break] = &[
    (
        "ALTER TABLE denied_tokens DISABLE TRIGGER denied_tokens_inserted",
        "trigger denied_tokens_inserted of table denied_tokens is disabled",
    ),
    (
        "CREATE OR REPLACE FUNCTION note_ended_session() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "function note_ended_session of table sessions has another form",
    ),
    (
        "ALTER FUNCTION count_client_change() SET search_path = ''",
        "function count_client_change of table clients has another form",
    ),
    (
        "ALTER FUNCTION name_key_change() SECURITY DEFINER",
        "function name_key_change of table key_version has another form",
    ),
    (
        "ALTER TABLE client_keys REPLICA IDENTITY NOTHING",
        "table client_keys has another form",
    ),
    (
        "ALTER TABLE clients DISABLE TRIGGER clients_changed",
        "trigger clients_changed of table clients is disabled",
    ),
    (
        "ALTER TABLE clients ENABLE REPLICA TRIGGER clients_changed",
        "trigger clients_changed of table clients is disabled",
    ),
    (
        "DROP TRIGGER keys_changed ON key_version",
        "lacks: trigger keys_changed of table key_version",
    ),
    (
        "DROP TRIGGER clients_changed ON clients; CREATE TRIGGER clients_changed AFTER DELETE ON clients FOR EACH STATEMENT \
         EXECUTE FUNCTION count_client_change()",
        "trigger clients_changed of table clients has another form",
    ),
    (
        "CREATE OR REPLACE FUNCTION count_client_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "function count_client_change of table clients has another form",
    ),
    (
        "CREATE OR REPLACE FUNCTION name_key_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "function name_key_change of table key_version has another form",
    ),
    (
        "CREATE OR REPLACE FUNCTION new_change_id() RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$ \
         SELECT replace(CAST(gen_random_uuid() AS TEXT), '-', '') $$",
        "function new_change_id of table clients has another form",
    ),
    (
        "ALTER FUNCTION new_change_id() RENAME TO away",
        "lacks: function new_change_id of table clients",
    ),
    (
        "CREATE TRIGGER added BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "has additional parts (trigger added of table sessions: it may change or refuse rows)",
    ),
    (
        "CREATE RULE added AS ON INSERT TO audit DO INSTEAD NOTHING",
        "has additional parts (rule added of table audit: it changes statements)",
    ),
    (
        "ALTER TABLE federated_identities DROP CONSTRAINT federated_identities_provider_subject_key",
        "lacks: unique index on (provider, subject) of table federated_identities",
    ),
    (
        "ALTER TABLE limits DROP CONSTRAINT limits_pkey; CREATE UNIQUE INDEX limits_pkey ON limits (bucket) WHERE tat > 0",
        "unique index on (bucket) of table limits has another form",
    ),
    (
        "ALTER TABLE limits DROP CONSTRAINT limits_pkey; CREATE UNIQUE INDEX limits_pkey ON limits (lower(bucket))",
        "unique index on (bucket) of table limits has another form",
    ),
    (
        "ALTER TABLE audit DROP CONSTRAINT audit_subject_once_key; CREATE UNIQUE INDEX audit_subject_once_key ON audit (once, subject)",
        "unique index on (subject, once) of table audit has another form",
    ),
    (
        "ALTER TABLE audit DROP CONSTRAINT audit_subject_once_key, ADD CONSTRAINT audit_subject_once_key UNIQUE (subject, once) DEFERRABLE",
        "unique index on (subject, once) of table audit is deferrable",
    ),
    (
        "ALTER TABLE users DROP CONSTRAINT users_email_key; CREATE INDEX users_email_key ON users (email)",
        "unique index on (email) of table users has another form",
    ),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'users_email_key'::regclass",
        "unique index on (email) of table users is invalid",
    ),
    (
        "ALTER TABLE client_keys DROP CONSTRAINT client_keys_client_id_fkey",
        "lacks: constraint FOREIGN KEY (client_id) REFERENCES clients(client_id) ON DELETE CASCADE of table client_keys",
    ),
    (
        "ALTER TABLE client_keys DISABLE TRIGGER ALL",
        "constraint FOREIGN KEY (client_id) REFERENCES clients(client_id) ON DELETE CASCADE of table client_keys is disabled",
    ),
    (
        "ALTER TABLE clients DROP CONSTRAINT clients_token_type_check",
        "lacks: constraint CHECK (token_type = ANY",
    ),
    (
        "ALTER TABLE users ADD CONSTRAINT added CHECK (name <> 'x') NOT VALID",
        "has additional parts (constraint CHECK (name <> 'x'::text) NOT VALID of table users: it may refuse rows)",
    ),
    (
        "ALTER TABLE users ADD COLUMN rack TEXT NOT NULL",
        "has additional parts (column rack of table users: every row must have a value in it)",
    ),
    (
        "ALTER TABLE users ALTER COLUMN password_hash SET NOT NULL",
        "column password_hash of table users has another form: text NOT NULL instead of text",
    ),
    (
        "ALTER TABLE clients ALTER COLUMN serves DROP DEFAULT",
        "column serves of table clients has another form",
    ),
    (
        "ALTER TABLE limits ALTER COLUMN tat TYPE TEXT",
        "column tat of table limits has another form: text NOT NULL instead of bigint NOT NULL",
    ),
    (
        "ALTER TABLE sessions SET UNLOGGED",
        "table sessions has another form: UNLOGGED TABLE instead of TABLE",
    ),
    (
        "ALTER TABLE audit ALTER COLUMN seq DROP IDENTITY",
        "column seq of table audit has another form",
    ),
    (
        "ALTER TABLE audit ALTER COLUMN seq SET MAXVALUE 5",
        "column seq of table audit has another form",
    ),
    (
        "INSERT INTO audit (seq, event, subject, happened_at, noted_at, actor, reason) OVERRIDING SYSTEM VALUE \
         VALUES (7, 'e', 's', 0, 0, 'a', 'r')",
        "column seq of table audit gets 1 next, but numbers up to 7 are taken: as the role that owns the tables, run ALTER TABLE audit \
         ALTER COLUMN seq RESTART WITH 8",
    ),
    (
        "SELECT setval('audit_seq_seq', 9223372036854775807)",
        "the numbers of table audit are used up",
    ),
];

async fn refused(db: &Db) -> String {
    let error = db.require_working_schema().await.err();
    error.map_or(String::new(), |error| error.to_string())
}

/// A start refuses what is missing alone: what has another form may be written so by another version of the database.
async fn assert_named(db: &Db, (breaks, says): &Break) {
    let said = refused(db).await;
    assert!(said.contains(says), "{breaks}: {said}");
    let starts = db.require_whole_schema().await.is_ok();
    assert_eq!(starts, !said.contains("lacks: "), "{breaks}: {said}");
}

#[tokio::test]
async fn each_is_named_on_sqlite() {
    for case in IN_BOTH.iter().chain(IN_SQLITE) {
        let database = TestDatabase::sqlite();
        database.open().await.close().await;
        let raw = Raw::open(&database).await;
        raw.execute(case.0).await;
        raw.close().await;
        assert_named(&database.open().await, case).await;
    }
}

#[tokio::test]
async fn each_is_named_on_postgres() {
    let whole = TestDatabase::postgres().await;
    let db = whole.open().await;
    assert_eq!(refused(&db).await, "");
    db.close().await;
    let (_, name) = whole.url.rsplit_once('/').unwrap();
    for case in IN_BOTH.iter().chain(IN_POSTGRES) {
        let database = TestDatabase::postgres_with(&format!("TEMPLATE {name}")).await;
        let raw = Raw::open(&database).await;
        raw.execute(case.0).await;
        raw.close().await;
        let db = database.open().await;
        assert_named(&db, case).await;
        db.close().await;
    }
}

crate::on_both_databases!(rows_that_the_first_start_makes_must_stay, |database| {
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let raw = Raw::open(&database).await;
    until_green(&app).await;
    raw.execute("DELETE FROM tenants").await;
    until_red(&app, "schema", "row default of table tenants").await;
    raw.execute("DELETE FROM secrets WHERE name = 'client-secret-hash-key'")
        .await;
    until_red(&app, "schema", "the row of table secrets").await;
    raw.close().await;
    app.running.stop().await;
});

crate::on_both_databases!(a_row_that_is_missing_is_put_back_by_what_is_printed, |database| {
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    for table in ["client_changes", "key_version", "clock"] {
        raw.execute(&format!("DELETE FROM {table}")).await;
        let said = refused(&db).await;
        let (_, cure) = said.split_once("(run ").unwrap();
        raw.execute(&cure[..cure.rfind(");").unwrap()]).await;
        assert_eq!(refused(&db).await, "", "{table}");
    }
    raw.close().await;
});

// A later version may have changed a part and added others; this one runs beside it meanwhile.
crate::on_both_databases!(a_later_schema_may_have_other_forms, |database| {
    let db = database.open().await;
    let raw = Raw::open(&database).await;
    raw.execute("DROP INDEX users_tenant_id; CREATE INDEX users_tenant_id ON users (user_id, tenant_id); CREATE UNIQUE INDEX more ON users (name)")
        .await;
    assert_ne!(refused(&db).await, "");
    let version = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', ";
    let value = match &raw {
        Raw::Sqlite(_) => "1, X'00', 0)",
        Raw::Postgres(_) => "true, '\\x00', 0)",
    };
    raw.execute(&format!("{version}{value}")).await;
    assert_eq!(refused(&db).await, "");
    raw.close().await;
});

/// A publication is what logical replication and upgrades with it begin with.
#[tokio::test]
async fn rows_are_deleted_beside_a_publication_of_all_tables() {
    let database = TestDatabase::postgres().await;
    database.open().await.close().await;
    let raw = Raw::open(&database).await;
    raw.execute("CREATE PUBLICATION everything FOR ALL TABLES").await;
    let tables = raw
        .texts("SELECT tablename::TEXT FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE '\\_sqlx%'")
        .await;
    assert!(tables.len() > 15, "{tables:?}");
    for table in tables {
        raw.execute(&format!("DELETE FROM {table} WHERE false")).await;
    }
    raw.close().await;
}

#[tokio::test]
async fn the_parts_that_are_written_down_are_those_of_a_new_database() {
    let database = TestDatabase::postgres().await;
    let found = database.open().await.schema_text().await.unwrap();
    let path = "src/store/shape/postgres.txt";
    let recorded = std::fs::read_to_string(path).unwrap();
    // Where the text of a new migration is taken from.
    let made = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres.txt");
    std::fs::write(&made, &found).unwrap();
    assert_eq!(
        recorded,
        found,
        "after a migration, replace {path} by {}",
        made.display()
    );
}
