//! The policies that the documents and the shipped files show, with the tokens of a person and of a client.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use reqwest::Method;

use crate::helpers::TestDatabase;
use crate::token::{client, register};

use super::visitor::Site;
use crate::documents::files;

/// The audience that the examples of `forward_auth.policies` and of `accounts.audience` have in common.
const AUDIENCE: &str = "https://api.example.com";

/// Whether this is a policy as the settings take it; `NAME audience=AUDIENCE` is the form of one.
fn is_policy(text: &str) -> bool {
    let mut words = text.split(' ');
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_requirement = |word: &str| {
        let required = word.split_once('=');
        required.is_some_and(|(key, value)| ["audience", "scope", "role"].contains(&key) && !value.contains(';'))
    };
    words.next().is_some_and(is_name) && words.clone().count() > 0 && words.all(is_requirement)
}

/// The policies that are shown, each with its file.
fn shown() -> BTreeSet<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.md")];
    for folder in ["docs", "deploy"] {
        files(&root.join(folder), &mut found);
    }
    let mut policies = BTreeSet::new();
    for file in found {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        for quoted in text.split(['"', '`', '\'', '\n']).filter(|quoted| is_policy(quoted)) {
            policies.insert((quoted.to_owned(), file.clone()));
        }
    }
    policies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_policy_that_is_shown_lets_people_through_or_says_that_it_is_for_clients() {
    let shown = shown();
    let files: BTreeSet<&str> = shown
        .iter()
        .map(|(_, file)| file.file_name().unwrap().to_str().unwrap())
        .collect();
    for file in [
        "deploy.md",
        "forward-auth.conf",
        "Caddyfile",
        "haproxy.cfg",
        "ext-authz.yaml",
    ] {
        assert!(files.contains(file), "{file} shows no policy: {files:?}");
    }
    for (policy, file) in shown {
        let page = std::fs::read_to_string(&file).unwrap();
        assert!(
            page.contains(&format!("audience = \"{AUDIENCE}\"")),
            "{}: whose tokens have the audience is not said",
            file.display()
        );
        let settings = [
            ("accounts.audience", AUDIENCE),
            ("forward_auth.policies", policy.as_str()),
        ];
        let site = Site::start(TestDatabase::sqlite(), &settings).await;
        let mut person = site.person("ada").await;
        site.raw.execute("UPDATE users SET roles = 'owner'").await;
        person.refresh().await;
        let secret = register(&site.app, &client("billing")).await;
        let name = policy.split(' ').next().unwrap();
        let asked = async |token: &str| {
            let path = format!("/auth/verify/{name}");
            let request = site.visitor().bare(Method::GET, &path).bearer_auth(token);
            request.send().await.unwrap().status().as_u16()
        };
        let is_for_clients = page.contains(&format!("`{policy}`, clients alone"));
        let expected = if is_for_clients { 403 } else { 200 };
        let status = asked(&person.access_token).await;
        assert_eq!(status, expected, "{}: {policy}, with a person's token", file.display());
        if is_for_clients {
            let service = site.app.token("billing", &secret).await;
            assert_eq!(asked(&service).await, 200, "{}: {policy}", file.display());
        }
        site.stop().await;
    }
}

/// A gateway's page leads to the settings that its gateway needs.
#[test]
fn each_page_of_a_gateway_leads_to_the_settings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gateways");
    let mut pages = Vec::new();
    files(&folder, &mut pages);
    assert!(pages.len() >= 6);
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(
            text.contains("](../operate/deploy.md#gateways-that-ask-about-each-request)")
                && text.contains("policy `api`"),
            "{}",
            page.display()
        );
    }
}
