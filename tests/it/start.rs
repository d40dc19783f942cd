//! How the real binary starts, and how it refuses to.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::process::{BINARY, PATH, Serving, free_port, run};
use crate::shutdown::{finishes_what_is_under_way, until_in_time};

// For tests alone.
const MASTER_KEY: (&str, &str) = (
    "KEYROUND_KEYS__MASTER_KEY",
    "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
);
const ISSUER: (&str, &str) = ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080");

/// Any free port, which the system finds.
const PORTS: [(&str, &str); 2] = [
    ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
    ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
];

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&PORTS, more].concat()
}

/// A refused start: exit code, one sentence, and nothing left behind.
fn check_refused(folder: &Path, output: &Output, code: i32, sentence: &[&str]) {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(!error.contains("serving"), "{error}");
    for words in sentence {
        assert!(error.contains(words), "'{words}' is not in: {error}");
    }
    assert!(error.lines().last().unwrap().starts_with("keyround: "), "{error}");
    assert!(output.stdout.is_empty());
    assert!(!folder.join("data").exists(), "a refused start must touch nothing");
    assert!(!folder.join("keys").exists(), "a refused start must invent nothing");
}

#[test]
fn a_production_start_invents_nothing() {
    for (variables, arguments, sentence) in [
        (
            with(&[ISSUER]),
            vec!["serve"],
            vec!["master key", "keyround master-key generate"],
        ),
        (with(&[MASTER_KEY]), vec!["serve"], vec!["server.issuer"]),
        (
            with(&[ISSUER, ("KEYROUND_KEYS__MASTER_KEY_FILE", "nowhere.key")]),
            vec!["serve"],
            vec!["nowhere.key"],
        ),
        (
            with(&[ISSUER, ("KEYROUND_KEYS__MASTER_KEY", "")]),
            vec!["serve"],
            vec!["KEYROUND_KEYS__MASTER_KEY"],
        ),
        (
            with(&[MASTER_KEY, ("KEYROUND_SERVER__ISSUER", "http://id.example.com")]),
            vec!["serve"],
            vec!["http://id.example.com", "https", "server.behind_tls_proxy"],
        ),
        (
            vec![
                MASTER_KEY,
                ("KEYROUND_SERVER__ISSUER", "https://id.example.com"),
                ("KEYROUND_SERVER__LISTEN", "0.0.0.0:0"),
            ],
            vec!["serve"],
            vec!["server.listen", "0.0.0.0:0", "loopback"],
        ),
        (
            vec![
                MASTER_KEY,
                ("KEYROUND_SERVER__ISSUER", "https://id.example.com"),
                ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true"),
            ],
            vec!["serve"],
            vec!["server.trusted_proxies", "KEYROUND_SERVER__TRUSTED_PROXIES=127.0.0.1"],
        ),
        (
            vec![MASTER_KEY, ("KEYROUND_SERVER__ISSUER", "https://id.example.com")],
            vec!["config", "check"],
            vec!["server.trusted_proxies", "KEYROUND_SERVER__TRUSTED_PROXIES=127.0.0.1"],
        ),
        (
            with(&[ISSUER, MASTER_KEY, ("KEYROUND_KEYS__ROTATION_PERIODE", "10s")]),
            vec!["serve"],
            vec!["KEYROUND_KEYS__ROTATION_PERIODE", "not a setting"],
        ),
        (
            with(&[ISSUER, MASTER_KEY, ("KEYROUND_KEYS_ROTATION_PERIOD", "10s")]),
            vec!["serve"],
            vec!["KEYROUND_KEYS_ROTATION_PERIOD"],
        ),
        (
            with(&[ISSUER, MASTER_KEY, ("KEYROUND_KEYS__PREPUBLISH", "10m")]),
            vec!["serve"],
            vec!["keys.prepublish", "10m", "31m"],
        ),
        (
            with(&[ISSUER, MASTER_KEY, ("KEYROUND_KEYS__VERIFY_WINDOW", "1s")]),
            vec!["config", "check"],
            vec!["keys.verify_window", "1s"],
        ),
        (
            with(&[ISSUER, MASTER_KEY]),
            vec!["serve", "--config", "nowhere.toml"],
            vec!["nowhere.toml"],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = run(folder.path(), &variables, &arguments);
        check_refused(folder.path(), &output, 2, &sentence);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_a_start_makes_is_named_in_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().canonicalize().unwrap();
    let postgres = crate::helpers::TestDatabase::postgres().await;
    let name = postgres.url.rsplit('/').next().unwrap();
    let other = with(&[ISSUER, MASTER_KEY, ("KEYROUND_DATABASE__URL", "sqlite:other/kr.db")]);
    let mut on_postgres: Vec<(&str, &str)> = with(&[ISSUER, MASTER_KEY]);
    on_postgres.push(("KEYROUND_DATABASE__URL", &postgres.url));
    for (variables, arguments, named) in [
        (
            with(&[ISSUER, MASTER_KEY]),
            &["serve"][..],
            here.join("data/keyround.db").display().to_string(),
        ),
        (other, &["serve"], here.join("other/kr.db").display().to_string()),
        (on_postgres, &["serve"], format!("/{name}")),
        (
            with(&[ISSUER, ("KEYROUND_DATABASE__URL", "sqlite:dev/kr.db")]),
            &["serve", "--dev"],
            String::new(),
        ),
    ] {
        for is_first in [true, false] {
            let (status, log, _) = Serving::start(folder.path(), &variables, arguments).stop();
            assert!(status.success());
            let lines: Vec<&String> = log.iter().filter(|line| line.contains(" is new: ")).collect();
            let expected = usize::from(is_first && !named.is_empty());
            assert_eq!(lines.len(), expected, "{named}: {log:#?}");
            assert!(
                lines
                    .iter()
                    .all(|line| line.contains("WARN") && line.contains(&format!("{named} is new"))),
                "{named}: {lines:?}"
            );
        }
    }
}

#[test]
fn a_master_key_that_is_none_or_another_leaves_the_database_alone() {
    let folder = tempfile::tempdir().unwrap();
    let short = with(&[ISSUER, ("KEYROUND_KEYS__MASTER_KEY", "c2hvcnQ=")]);
    let output = run(folder.path(), &short, &["serve"]);
    check_refused(folder.path(), &output, 2, &["master key"]);
    let output = run(folder.path(), &short, &["config", "check"]);
    check_refused(folder.path(), &output, 2, &["master key"]);

    let (status, _, _) = Serving::start(folder.path(), &with(&[ISSUER, MASTER_KEY]), &["serve"]).stop();
    assert!(status.success());
    let database = folder.path().join("data/keyround.db");
    let rows = || -> String {
        let dump = run_sql(&database);
        assert!(dump.contains("RS256"));
        dump
    };
    let before = rows();
    let other = with(&[
        ISSUER,
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "YNvlop0HZBpr2XG0YIzgNKnjromBcIdTZs3zehfgeMo=",
        ),
    ]);
    let output = run(folder.path(), &other, &["serve"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("another master key") && !error.contains("serving"),
        "{error}"
    );
    assert_eq!(rows(), before);
}

/// The keys as text.
fn run_sql(database: &Path) -> String {
    let url = format!("sqlite:{}", database.display());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
        let rows: Vec<(String, String, String)> =
            sqlx::query_as("SELECT kid, alg, sealed FROM signing_keys ORDER BY kid")
                .fetch_all(&pool)
                .await
                .unwrap();
        pool.close().await;
        format!("{rows:?}")
    })
}

/// A development start in this folder, on a port that a person could type.
fn development(folder: &Path) -> Serving {
    let listen = format!("127.0.0.1:{}", free_port());
    let variables = [("KEYROUND_SERVER__LISTEN", listen.as_str()), PORTS[1]];
    Serving::start(folder, &variables, &["serve", "--dev"])
}

#[test]
fn a_first_development_start_prints_three_commands_that_work() {
    let folder = tempfile::tempdir().unwrap();
    let serving = development(folder.path());
    let master_key = folder.path().join("keys/master.key");
    assert_eq!(master_key.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(
        folder.path().join("data").metadata().unwrap().permissions().mode() & 0o077,
        0
    );
    // The commands are printed once the server serves; it must still be there when they run.
    let printed = serving.printed_until("token verify");
    let secret = printed
        .lines()
        .find_map(|line| line.trim().strip_prefix("client secret"))
        .unwrap()
        .trim()
        .to_owned();
    assert!(printed.contains("client id      demo"), "{printed}");
    assert!(secret.len() >= 43, "256 bits in base64url: {secret}");
    let commands: Vec<&str> = printed
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("curl ") || line.starts_with(BINARY))
        .collect();
    assert_eq!(commands.len(), 3, "{printed}");
    let outputs: Vec<String> = commands.iter().map(|command| shell(folder.path(), command)).collect();
    assert!(outputs[0].contains("\"access_token\""), "{outputs:?}");
    assert!(outputs[1].contains("\"keys\""), "{outputs:?}");
    assert!(outputs[2].contains("the token is valid"), "{outputs:?}");
    let (status, log, _) = serving.stop();
    assert_eq!(status.code(), Some(0), "SIGTERM ends it in good order");
    assert!(
        !log.join("\n").contains(&secret),
        "the secret is for the screen, not for the log"
    );

    // What is no longer true is refused: the token was for another signature.
    let token = std::fs::read_to_string(folder.path().join("token.json")).unwrap();
    let tampered = token.replacen("\"access_token\":\"eyJ", "\"access_token\":\"eyK", 1);
    assert_ne!(token, tampered);
    std::fs::write(folder.path().join("token.json"), tampered).unwrap();
    let refused = run(
        folder.path(),
        &[],
        &["token", "verify", "--key-set", "jwks.json", "token.json"],
    );
    assert_eq!(refused.status.code(), Some(1));
}

fn shell(folder: &Path, command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env_clear()
        .env("PATH", PATH)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A development start registers a client with a printed secret: not in production.
#[test]
fn a_development_start_with_settings_of_production_is_refused() {
    let https = ("KEYROUND_SERVER__ISSUER", "https://id.example.com");
    let proxies = ("KEYROUND_SERVER__TRUSTED_PROXIES", "127.0.0.1");
    let postgres = ("KEYROUND_DATABASE__URL", "postgres://127.0.0.1:1/keyround");
    #[expect(clippy::type_complexity, reason = "a table of settings and what the refusal names")]
    let cases: [(&[(&str, &str)], &[&str]); 9] = [
        (&[https, proxies], &["server.issuer is https://id.example.com"]),
        (
            &[("KEYROUND_SERVER__ISSUER", "https://localhost"), proxies],
            &["server.issuer is https://localhost"],
        ),
        (
            &[
                ("KEYROUND_SERVER__ISSUER", "http://id.example.com"),
                proxies,
                ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true"),
            ],
            &["server.issuer is http://id.example.com"],
        ),
        (
            &[
                ("KEYROUND_SERVER__TLS_CERTIFICATE_FILE", "a.pem"),
                ("KEYROUND_SERVER__TLS_KEY_FILE", "a.key"),
            ],
            &["server.issuer is https://127.0.0.1:8080"],
        ),
        (&[postgres], &["database.url is PostgreSQL"]),
        (
            &[("KEYROUND_SERVER__LISTEN", "0.0.0.0:8080")],
            &["server.listen is 0.0.0.0:8080"],
        ),
        (
            &[("KEYROUND_SERVER__LISTEN", "[::]:8080")],
            &["server.listen is [::]:8080"],
        ),
        (
            &[("KEYROUND_SERVER__ADMIN_LISTEN", "192.0.2.7:0")],
            &["server.admin_listen is 192.0.2.7:0"],
        ),
        (
            &[
                https,
                proxies,
                postgres,
                ("KEYROUND_SERVER__BEHIND_TLS_PROXY", "true"),
                ("KEYROUND_SERVER__LISTEN", "0.0.0.0:0"),
            ],
            &["server.issuer", "database.url", "server.listen"],
        ),
    ];
    for (variables, named) in cases {
        let folder = tempfile::tempdir().unwrap();
        let output = run(folder.path(), variables, &["serve", "--dev"]);
        check_refused(folder.path(), &output, 2, named);
        let output = run(folder.path(), variables, &["--dev", "serve"]);
        check_refused(folder.path(), &output, 2, &["--dev"]);
    }
}

#[test]
fn a_development_start_adds_no_client_to_those_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let database = ("KEYROUND_DATABASE__URL", "sqlite:data/keyround.db");
    let create = "clients create --id billing --grant client_credentials --audience https://api.example.com";
    let generate = run(folder.path(), &[], &["master-key", "generate", "keys/master.key"]);
    assert!(generate.status.success(), "{generate:?}");
    let variables = with(&[ISSUER, database, ("KEYROUND_KEYS__MASTER_KEY_FILE", "keys/master.key")]);
    let created = run(folder.path(), &variables, &create.split(' ').collect::<Vec<_>>());
    assert!(created.status.success(), "{created:?}");
    let serving = development(folder.path());
    let printed = serving.printed_until("token verify");
    assert!(
        !printed.contains("demo") && printed.contains("clients rotate-secret CLIENT"),
        "{printed}"
    );
    assert!(serving.stop().0.success());
    let listed = run(folder.path(), &variables, &["clients", "list"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("billing") && !listed.contains("demo"), "{listed}");
}

#[test]
fn a_database_without_its_master_key_is_refused_in_development_too() {
    let folder = tempfile::tempdir().unwrap();
    let (status, _, _) = development(folder.path()).stop();
    assert!(status.success());
    std::fs::remove_file(folder.path().join("keys/master.key")).unwrap();
    let before = run_sql(&folder.path().join("data/keyround.db"));
    let output = run(folder.path(), &PORTS[1..], &["serve", "--dev"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("master key") && error.contains("keyround.db"), "{error}");
    assert!(!folder.path().join("keys/master.key").exists());
    assert_eq!(run_sql(&folder.path().join("data/keyround.db")), before);
}

#[test]
fn a_master_key_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("master.key");
    std::fs::write(&file, MASTER_KEY.1).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let variables = with(&[ISSUER, ("KEYROUND_KEYS__MASTER_KEY_FILE", "master.key")]);
    let output = run(folder.path(), &variables, &["serve"]);
    check_refused(folder.path(), &output, 2, &["master.key", "0640", "chmod 600"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Serving::start(folder.path(), &variables, &["serve"]).stop().0.success());
}

/// SIGTERM ends what is idle and finishes what has begun.
#[test]
fn a_request_under_way_is_finished_before_the_server_ends() {
    until_in_time(|| {
        let folder = tempfile::tempdir().unwrap();
        let serving = Serving::start(folder.path(), &with(&[ISSUER, MASTER_KEY]), &["serve"]);
        finishes_what_is_under_way(serving)
    });
}

/// What a start says of the way to the database, before it goes there.
#[test]
fn a_start_warns_of_a_connection_that_nothing_protects() {
    let url = "postgres://keyround@db.invalid:5432/keyround";
    for (mode, said) in [
        ("", Some("is encrypted only if the server offers it")),
        ("?sslmode=disable", Some("is in the clear")),
        ("?sslmode=require", Some("nothing shows which server answers")),
        ("?sslmode=verify-full", None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("{url}{mode}");
        let mut variables: Vec<(&str, &str)> = with(&[ISSUER, MASTER_KEY]);
        variables.push(("KEYROUND_DATABASE__URL", &url));
        let output = run(folder.path(), &variables, &["serve"]);
        assert_eq!(output.status.code(), Some(1), "no such host answers");
        let log = String::from_utf8(output.stderr).unwrap();
        let warned: Vec<&str> = log.lines().filter(|line| line.contains("the connection to")).collect();
        assert_eq!(warned.len(), usize::from(said.is_some()), "{mode}: {log}");
        for line in warned {
            let said = said.unwrap();
            assert!(
                line.contains("WARN") && line.contains("db.invalid") && line.contains(said),
                "{mode}: {line}"
            );
            assert!(line.contains("sslmode=verify-full"), "{mode}: {line}");
        }
    }
}

/// Beside PostgreSQL no file is a place for it by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_ledger_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = crate::helpers::TestDatabase::postgres().await;
    let mut variables: Vec<(&str, &str)> = with(&[ISSUER, MASTER_KEY]);
    variables.push(("KEYROUND_DATABASE__URL", &postgres.url));
    for has_ledger in [false, true] {
        if has_ledger {
            variables.push(("KEYROUND_KEYS__LEDGER_FILE", "ledger/revoked"));
        }
        let (status, log, _) = Serving::start(folder.path(), &variables, &["serve"]).stop();
        assert!(status.success());
        let warned: Vec<&String> = log
            .iter()
            .filter(|line| line.contains("no ledger of revoked keys is kept, because keys.ledger_file is not set"))
            .collect();
        assert_eq!(warned.len(), usize::from(!has_ledger), "{log:#?}");
        assert!(
            warned
                .iter()
                .all(|line| line.contains("WARN") && line.contains("brings revoked keys back"))
        );
    }
}

/// The block of `docs/operate/production.md`, but for the database, which is one that exists, and the ports, which are free.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_about_production_work() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/production.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("\n```").unwrap();
    let postgres = crate::helpers::TestDatabase::postgres().await;
    let there = "postgres://keyround@db.example.com/keyround";
    assert_eq!(block.matches(there).count(), 1, "{block}");
    assert!(block.ends_with("keyround serve"), "{block}");
    // The server takes the place of the shell, so that it gets its signals.
    let block = block.replace(there, &postgres.url);
    let (before, serve) = block.rsplit_once("\nKEYROUND_SERVER__ISSUER=").unwrap();
    let block = format!(
        "set -e\n{before}\nexport KEYROUND_SERVER__ISSUER={}\nexec keyround serve",
        serve.strip_suffix(" keyround serve").unwrap()
    );
    let folder = tempfile::tempdir().unwrap();
    let path = format!("{}:{PATH}", Path::new(BINARY).parent().unwrap().display());
    let mut command = Command::new("bash");
    command
        .args(["-c", &block])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", path)
        .envs(PORTS)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let serving = Serving::start_by(command, &PORTS);
    let mode = folder
        .path()
        .join("keys/master.key")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let (status, log, printed) = serving.stop();
    assert!(status.success(), "{log:#?} {printed}");
}
