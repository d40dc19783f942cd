//! docs/operate/checks.md: every check has its row, and the tests that it names exist.

use std::collections::BTreeSet;
use std::path::Path;

use keyround::clock::Clock;
use serde_json::Value;

use crate::helpers::{TestApp, TestDatabase};
use crate::owasp::{exists, named};
use crate::process::run;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/checks.md");
    std::fs::read_to_string(path).unwrap()
}

/// The rows below a heading, by their cells.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = page
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn every_check_has_a_test_that_exists() {
    let page = page();
    for heading in ["The server", "`keyround db check`"] {
        for row in rows(&page, heading) {
            assert!(!named(row.last().unwrap()).is_empty(), "{row:?} names no test");
        }
    }
    let missing: Vec<&str> = named(&page)
        .into_iter()
        .filter(|test| *test != "module::name" && !exists(test))
        .collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_lists_the_checks_that_there_are() {
    let database = TestDatabase::sqlite();
    let app = TestApp::start_with_clock(&database, &[], Clock::system()).await;
    let page = page();
    let server = rows(&page, "The server");
    for path in ["/livez", "/readyz", "/readyz/issue"] {
        let url = format!("{}{path}", app.admin_url);
        let answer: Value = app.http.get(url).send().await.unwrap().json().await.unwrap();
        let checks = answer["checks"].as_array().unwrap().iter();
        let actual: BTreeSet<String> = checks
            .map(|check| {
                let advisory = if check["advisory"] == true { " (advisory)" } else { "" };
                format!("`{}`{advisory}", check["name"].as_str().unwrap())
            })
            .collect();
        let is_of_path = |row: &&Vec<&str>| row[1].split(", ").any(|place| place == format!("`{path}`"));
        let listed: BTreeSet<String> = server.iter().filter(is_of_path).map(|row| row[0].to_owned()).collect();
        assert_eq!(listed, actual, "{path}");
    }
    app.running.stop().await;

    let variables = [
        ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
        ("KEYROUND_DATABASE__URL", database.url.as_str()),
    ];
    let output = run(database.folder.path(), &variables, &["db", "check", "--json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mut actual: BTreeSet<String> = findings
        .iter()
        .map(|finding| format!("`{}`", finding["name"].as_str().unwrap()))
        .collect();
    // Shown only while a copy is half done.
    actual.insert("`copy`".to_owned());
    let listed = rows(&page, "`keyround db check`")
        .iter()
        .map(|row| row[0].to_owned())
        .collect();
    assert_eq!(actual, listed);
}
