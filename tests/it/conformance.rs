//! docs/conformance.md lists the modules of the OpenID Foundation's plans, and names for each the tests that show it.

use std::collections::BTreeSet;

use crate::owasp::{exists, named};

/// The plans with a table, how many modules each has, and where the list begins and ends.
const PLANS: [(&str, usize, &str, &str); 3] = [
    (
        "oidcc-config-certification-test-plan",
        1,
        "oidcc-discovery-endpoint-verification",
        "oidcc-discovery-endpoint-verification",
    ),
    (
        "oidcc-basic-certification-test-plan",
        38,
        "oidcc-server",
        "oidcc-ensure-request-with-valid-pkce-succeeds",
    ),
    (
        "oidcc-rp-initiated-logout-certification-test-plan",
        11,
        "oidcc-rp-initiated-logout-discovery-endpoint-verification",
        "oidcc-rp-initiated-logout-bad-id-token-hint",
    ),
];
/// Its modules are those of the basic plan.
const FORM_POST: (&str, usize) = ("oidcc-formpost-basic-certification-test-plan", 38);

/// What follows the heading of a plan, up to the next one.
fn section<'p>(page: &'p str, plan: &str, modules: usize) -> &'p str {
    let noun = if modules == 1 { "module" } else { "modules" };
    let heading = format!("\n## `{plan}`: {modules} {noun}\n");
    let rest = page.split(&heading).nth(1);
    let rest = rest.unwrap_or_else(|| panic!("no heading{heading}"));
    rest.split("\n## ").next().unwrap()
}

/// The rows of a table: the module, and the rest.
fn rows(section: &str) -> Vec<(&str, Vec<&str>)> {
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `oidcc-").map(|_| line));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let module = cells.next().unwrap().trim_matches('`');
        (module, cells.collect())
    })
    .collect()
}

#[test]
fn every_module_is_there_with_a_test_that_exists() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/conformance.md")).unwrap();
    for (plan, number, first, last) in PLANS {
        let rows = rows(section(&page, plan, number));
        assert_eq!(rows.len(), number, "{plan}");
        let modules: BTreeSet<&str> = rows.iter().map(|(module, _)| *module).collect();
        assert_eq!(modules.len(), number, "{plan} has a module twice");
        assert_eq!((rows[0].0, rows[number - 1].0), (first, last), "{plan}");
        for (module, cells) in rows {
            assert!(
                cells.len() == 2 && cells.iter().all(|cell| !cell.is_empty()),
                "{module}"
            );
            let tests = named(cells[1]);
            assert!(!tests.is_empty(), "{module} names no test");
            let missing: Vec<&str> = tests.iter().copied().filter(|test| !exists(test)).collect();
            assert!(
                missing.is_empty(),
                "{module} names tests that do not exist: {missing:?}"
            );
            // They are what goes through the mode of the form-post plan too.
            if number == FORM_POST.1 {
                let in_both = tests.iter().any(|test| test.starts_with("oidc::conformance::"));
                assert!(in_both, "{module} is not shown in both response modes");
            }
        }
    }
    let (plan, number) = FORM_POST;
    assert!(section(&page, plan, number).contains("38 of the plan before"));
}
