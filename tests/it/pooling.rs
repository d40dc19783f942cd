//! The real `PgBouncer` in each of its modes, between Keyround and PostgreSQL.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyround::clock::sleep;
use url::Url;

use crate::gateways::Program;
use crate::helpers::TestDatabase;
use crate::process::{Serving, free_port, run};

const PAGE: &str = include_str!("../../docs/operate/postgresql.md");
const MASTER_KEY: &str = "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=";

struct PgBouncer {
    url: String,
    _program: Program,
}

impl PgBouncer {
    /// Before this database, with these settings. `databases` are the lines of that section, for a PostgreSQL on `db1`.
    async fn start(database: &TestDatabase, folder: &Path, databases: &str, settings: &str) -> Self {
        let mut url = Url::parse(&database.url).unwrap();
        let (host, server_port) = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        let port = free_port();
        let databases = databases.replace("host=db1", &format!("host={host} port={server_port} user=postgres"));
        let text = format!(
            "[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             default_pool_size = 50\n{settings}\n"
        );
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        // It does not run as root.
        let as_root = rustix::process::geteuid().is_root();
        let arguments = if as_root {
            vec!["-u", "nobody", file]
        } else {
            vec![file]
        };
        let mut program = Program::start("pgbouncer", &arguments, folder);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            program.require_running(folder);
            sleep(std::time::Duration::from_millis(20)).await;
        }
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(port)).unwrap();
        Self {
            url: url.to_string(),
            _program: program,
        }
    }

    fn variables(&self) -> [(&str, &str); 5] {
        [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("KEYROUND_KEYS__MASTER_KEY", MASTER_KEY),
            ("KEYROUND_DATABASE__URL", &self.url),
        ]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_of_transactions_is_refused_by_name() {
    let database = TestDatabase::postgres().await;
    for (mode, more) in [
        ("transaction", ""),
        ("transaction", "server_round_robin = 1"),
        ("transaction", "default_pool_size = 1"),
        ("transaction", "default_pool_size = 2\nserver_round_robin = 1"),
        ("statement", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let settings = format!("pool_mode = {mode}\n{more}");
        let pooler = PgBouncer::start(&database, folder.path(), "* = host=db1", &settings).await;
        let to = ["db", "copy", "--to", &pooler.url];
        for arguments in [&["serve"][..], &["clients", "list"], &["db", "migrate"], &["serve"]] {
            let output = tokio::task::block_in_place(|| run(folder.path(), &pooler.variables(), arguments));
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{settings}: {said}");
            for part in ["PgBouncer", "pool_mode=session", "name PostgreSQL itself"] {
                assert!(said.contains(part), "{settings}: {said}");
            }
        }
        let sqlite = TestDatabase::sqlite();
        drop(sqlite.open().await);
        let variables: Vec<(&str, &str)> = pooler
            .variables()
            .into_iter()
            .take(4)
            .chain([("KEYROUND_DATABASE__URL", sqlite.url.as_str())])
            .collect();
        let output = tokio::task::block_in_place(|| run(folder.path(), &variables, &to));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("pool_mode=session"), "{said}");
    }
}

/// The lines that the page shows, for a database of this name.
fn lines_of_the_page(name: &str) -> String {
    let (_, section) = PAGE.split_once("```ini\n[databases]\n").unwrap();
    let lines = section.split("```").next().unwrap();
    assert!(lines.starts_with("keyround = "));
    lines.replace("keyround = ", &format!("{name} = "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_of_sessions_works_as_postgresql_itself() {
    let database = TestDatabase::postgres().await;
    let name = database.url.rsplit('/').next().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    // For all others it pools transactions.
    let pooler = PgBouncer::start(&database, folder.path(), &lines_of_the_page(&name), "").await;
    let variables = pooler.variables();
    let server = tokio::task::block_in_place(|| Serving::start(folder.path(), &variables, &["serve"]));
    let keyround = |arguments: &[&str]| {
        let output = tokio::task::block_in_place(|| run(folder.path(), &variables, arguments));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let create = [
        "clients",
        "create",
        "--grant",
        "client_credentials",
        "--audience",
        "api",
        "--json",
    ];
    let client: serde_json::Value = serde_json::from_str(&keyround(&create)).unwrap();
    let (id, secret) = (
        client["client_id"].as_str().unwrap(),
        client["client_secret"].as_str().unwrap(),
    );
    let http = reqwest::Client::new();
    let asked = (0..40).map(|_| async {
        let request = http
            .post(format!("{}/oauth2/token", server.url))
            .basic_auth(id, Some(secret));
        request
            .form(&[("grant_type", "client_credentials")])
            .send()
            .await
            .unwrap()
            .status()
    });
    for status in crate::logins::futures_of(asked).await {
        assert_eq!(status, 200);
    }
    keyround(&["keys", "rotate"]);
    keyround(&["db", "check"]);
    let ready = http
        .get(format!("{}/readyz/issue", server.admin_url))
        .send()
        .await
        .unwrap();
    assert_eq!(ready.status(), 200);
    drop(server);
}
