//! What the documentation tells application developers is what the server does.

use std::collections::BTreeSet;
use std::path::Path;

use keyround::accounts::session::{Device, LoginMethod};
use keyround::accounts::tenant::TenantId;
use keyround::clock::Clock;
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase, entry};
use crate::people::user;
use crate::process::{Serving, free_port, run};
use crate::runbooks::{Shell, Step, steps};

/// What a page has between two comments.
fn section(page: &str, name: &str) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- {name} -->\n")).unwrap();
    rest.split_once(&format!("<!-- /{name} -->")).unwrap().0.to_owned()
}

/// The names in the first column of a table.
fn first_column(table: &str) -> BTreeSet<String> {
    let cells = table.lines().skip(2).map(|row| row.split('|').nth(1).unwrap());
    cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_claims_of_a_session_are_those_of_its_tokens() {
    let app = TestApp::start_with_clock(&TestDatabase::sqlite(), &[], Clock::system()).await;
    let ada = user("ada", &TenantId::default());
    let made = app
        .running
        .server
        .db
        .create_user(&ada, &entry("user.created", "ada"))
        .await;
    assert!(made.unwrap());
    let device = Device::new([192, 0, 2, 7].into(), "a browser");
    let tokens = app
        .running
        .server
        .sessions
        .begin(&ada, LoginMethod::Password, &device)
        .await
        .unwrap();
    let claims: Value = crate::token::claims(&tokens.access_token);
    let names: BTreeSet<String> = claims.as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        first_column(&section("docs/reference/claims.md", "claims of a session")),
        names
    );
    app.running.stop().await;
}

/// As `make run` starts it, at another port.
#[test]
fn the_commands_for_applications_do_what_they_show() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let variables = [
        ("KEYROUND_SERVER__LISTEN", listen.as_str()),
        ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let serving = Serving::start(folder.path(), &variables, &["serve", "--dev"]);
    let mut shell = Shell::start(folder.path(), &[]);
    let page = "docs/log-in/applications.md";
    let mut count = 0;
    for step in ["app", "page"].iter().flat_map(|name| steps(&section(page, name))) {
        let Step::Run {
            command,
            code,
            expected,
        } = step
        else {
            panic!("the page has only commands");
        };
        let here = if command.starts_with("SITE=") {
            format!("SITE={}", serving.url)
        } else {
            command
        };
        shell.holds(page, &here, code, &expected);
        count += 1;
    }
    assert_eq!(count, 14);
}

#[test]
fn the_page_on_verifying_registers_a_client_as_it_says() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/verify-tokens.md")).unwrap();
    let command = page
        .lines()
        .find_map(|line| line.trim().strip_prefix("keyround "))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", "sqlite:keyround.db"),
        (
            "KEYROUND_KEYS__MASTER_KEY",
            "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
        ),
    ];
    let created = run(folder.path(), &variables, &command.split(' ').collect::<Vec<_>>());
    assert!(created.status.success(), "{created:?}");
    let shown = run(folder.path(), &variables, &["clients", "show", "billing", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["token_type"], "JWT", "{shown}");
}
