//! docs/reference/owasp.md names the tests that hold its lines: each of them exists.

use std::collections::BTreeSet;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The tests that a page names: what stands in backticks and looks like a path in a crate.
pub fn named(page: &str) -> BTreeSet<&str> {
    let is_path = |text: &&str| {
        let parts: Vec<&str> = text.split("::").collect();
        let is_name = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        parts.len() > 1 && parts.iter().all(is_name)
    };
    page.split('`').skip(1).step_by(2).filter(is_path).collect()
}

/// Whether a text declares a test of this name: a function, or the first argument of one of our macros.
fn declares(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text[..at].trim_end(), &text[at + name.len()..]);
        let is_function = before.ends_with("fn") && after.starts_with('(');
        let is_argument = before.ends_with("on_both_databases!(") && after.trim_start().starts_with(',');
        let is_row = before.ends_with([';', '{']) && after.starts_with(": ");
        is_function || is_argument || is_row
    })
}

/// Whether there is a test of this path.
pub fn exists(test: &str) -> bool {
    let (module, name) = test.rsplit_once("::").unwrap();
    let path = module.replace("::", "/");
    ["tests/it", "tests", "src"]
        .iter()
        .flat_map(|top| [format!("{top}/{path}.rs"), format!("{top}/{path}/mod.rs")])
        .filter_map(|file| std::fs::read_to_string(root().join(file)).ok())
        .any(|text| declares(&text, name))
}

#[test]
fn every_test_that_the_page_names_exists() {
    let page = std::fs::read_to_string(root().join("docs/reference/owasp.md")).unwrap();
    let mut tests = named(&page);
    assert!(tests.remove("module::name"), "the page says how tests are named");
    assert!(tests.len() > 50, "{tests:?}");
    let missing: Vec<&str> = tests.into_iter().filter(|test| !exists(test)).collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert!(exists("owasp::a_test_that_is_not_there_is_missed"));
    assert!(exists("skeleton::a_token_verifies_against_the_served_set"));
    assert!(exists("simulation::rules::keys_are_published_before_they_sign"));
    for test in [
        "owasp::a_test_that_is_not",
        "owasp::named_page",
        "nowhere::named",
        "skeleton::body",
    ] {
        assert!(!exists(test), "{test}");
    }
    assert_eq!(named("`a::b` a::c `d` `E::f` `g::h`"), BTreeSet::from(["a::b", "g::h"]));
}

/// A line without a test says why.
#[test]
fn every_line_has_its_answer() {
    let page = std::fs::read_to_string(root().join("docs/reference/owasp.md")).unwrap();
    let rows = page.lines().filter(|line| {
        let first = line.trim_start_matches("| ");
        line.starts_with("| ") && first.starts_with(|c: char| c == 'A' || c.is_ascii_digit())
    });
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
        count += 1;
    }
    assert!(count > 90, "{count} lines");
}
