//! Microsoft Entra ID, which sends no `email_verified`: docs/log-in/entra-id.md, step by step, at an upstream that does as it does.

use serde_json::{Value, json};

use super::crooked::Upstream;
use super::{Browser, Site, secret_file};
use crate::client_assertions::keyround;
use crate::helpers::TestDatabase;

const PAGE: &str = include_str!("../../../docs/log-in/entra-id.md");
const DIRECTORY: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

/// What Entra ID lists: `email` without `email_verified`.
fn serve_as_entra(upstream: &Upstream, issuer: &str, path: &str) {
    let mut metadata = upstream.metadata();
    metadata["issuer"] = issuer.into();
    metadata["claims_supported"] = json!(["sub", "iss", "aud", "exp", "iat", "nonce", "name", "tid", "email"]);
    upstream.reply(path, metadata);
}

/// A first login, or none, of whoever has these claims.
async fn login(upstream: &Upstream, site: &Site, change: impl FnOnce(&mut Value)) -> Result<(), &'static str> {
    let mut browser: Browser = upstream.browser();
    let question = site.begin(&mut browser).await?;
    let mut claims = upstream.claims(site, &question);
    claims["iss"] = format!("{}/{DIRECTORY}/v2.0", upstream.issuer).into();
    claims["tid"] = DIRECTORY.into();
    claims.as_object_mut().unwrap().remove("email_verified");
    change(&mut claims);
    upstream.hand_out(
        &upstream
            .pair
            .sign(r#"{"alg":"ES256","kid":"kid"}"#, &claims.to_string()),
    );
    let mut callback = upstream.callback(&question);
    let others: Vec<(String, String)> = callback
        .query_pairs()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .map(|(name, value)| match name.as_str() {
            "iss" => (name, format!("{}/{DIRECTORY}/v2.0", upstream.issuer)),
            _ => (name, value),
        })
        .collect();
    callback.query_pairs_mut().clear().extend_pairs(others);
    site.finish(&browser, &callback).await.map(drop)
}

crate::on_both_databases!(a_directory_logs_in_after_the_steps_of_the_page, |database| {
    let upstream = Upstream::start();
    let issuer = format!("{}/{DIRECTORY}/v2.0", upstream.issuer);
    let path = format!("/{DIRECTORY}/v2.0/.well-known/openid-configuration");
    serve_as_entra(&upstream, &issuer, &path);
    let site = Site::new(database, &upstream.ca_file, &issuer, &[]).await;
    let ca = format!("outbound.ca_file={}", upstream.ca_file.display());
    let run = |command: &str| {
        let command = command.replace("https://login.microsoftonline.com", &upstream.issuer);
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let outbound = ["--set", &ca, "--set", "outbound.allowed_networks=127.0.0.0/8,::1"];
        tokio::task::block_in_place(|| keyround(&site.database, &[&outbound[..], &words].concat()))
    };

    // Without any step no new person logs in, and the check says so.
    assert_eq!(login(&upstream, &site, |_| {}).await, Err("email_not_verified"));
    let (code, out, err) = run("keyround providers check acme");
    assert!(
        code == 1 && !out.contains("in order") && out.contains("no new person can log in") && out.contains("xms_edov"),
        "{out}{err}"
    );
    assert!(err.contains("no new person can log in with acme"), "{err}");
    // The second step alone is not enough: the claim is no standard one.
    let with_owner = |claims: &mut Value| claims["xms_edov"] = json!(true);
    assert_eq!(login(&upstream, &site, with_owner).await, Err("email_not_verified"));

    // The commands of the page, as they are written there.
    std::fs::copy(
        secret_file(&site.database),
        site.database.folder.path().join("entra.secret"),
    )
    .unwrap();
    let commands: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    let (code, out, err) = run(commands[0]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("only if its ID tokens have it all the same, or xms_edov"),
        "{out}"
    );
    let (code, out, _) = run(commands[1]);
    assert!(
        code == 0 && out.contains("can be reached; its metadata does not list") && !out.contains("in order"),
        "{out}"
    );
    let (code, out, err) = run(commands[2]);
    assert!(code == 0 && out.contains("nothing was changed"), "{out}{err}");

    // Now the provider of before.
    let (code, _, err) = run(&commands[2].replace("entra", "acme"));
    assert_eq!(code, 0, "{err}");
    assert_eq!(login(&upstream, &site, |_| {}).await, Err("email_not_verified"));
    let disowned = |claims: &mut Value| claims["xms_edov"] = json!("0");
    assert_eq!(login(&upstream, &site, disowned).await, Err("email_not_verified"));
    let denied = |claims: &mut Value| {
        claims["email_verified"] = json!(false);
        claims["xms_edov"] = json!(true);
    };
    assert_eq!(login(&upstream, &site, denied).await, Err("email_not_verified"));
    assert_eq!(site.counts().await, (0, 0));
    assert_eq!(login(&upstream, &site, with_owner).await, Ok(()));
    let mapped = |claims: &mut Value| {
        claims["sub"] = "eve".into();
        claims["email"] = "eve@example.com".into();
        claims["email_verified"] = "true".into();
    };
    assert_eq!(login(&upstream, &site, mapped).await, Ok(()));
    // Whoever is known needs no address.
    assert_eq!(login(&upstream, &site, |_| {}).await, Ok(()));
    assert_eq!(site.counts().await, (2, 2));
});

/// A service of many directories is no better for listing no claims at all; a provider that lists the claim is in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_says_in_order_only_of_what_new_people_can_log_in_with() {
    let upstream = Upstream::start();
    let ca = format!("outbound.ca_file={}", upstream.ca_file.display());
    let outbound = ["--set", &ca, "--set", "outbound.allowed_networks=127.0.0.0/8,::1"];
    let template = format!("{}/{{tenantid}}/v2.0", upstream.issuer);
    let plain = upstream.issuer.clone();
    let all = json!(["sub", "email", "email_verified"]);
    let listed = json!(["sub", "email"]);
    for (issuer, claims, more, code, says) in [
        (
            &template,
            json!(null),
            &["--any-directory"][..],
            1,
            "no new person can log in",
        ),
        (
            &template,
            listed.clone(),
            &["--directory", DIRECTORY],
            1,
            "no new person can log in",
        ),
        (
            &template,
            listed.clone(),
            &["--any-directory", "--email-verified-as-text"],
            0,
            "only if its ID tokens",
        ),
        (&template, all.clone(), &["--any-directory"], 0, "in order"),
        (&plain, listed.clone(), &[], 1, "no new person can log in"),
        (
            &plain,
            listed,
            &["--email-verified-as-text"],
            0,
            "only if its ID tokens",
        ),
        (&plain, all, &[], 0, "in order"),
        (&plain, json!(null), &[], 0, "in order"),
    ] {
        let mut metadata = upstream.metadata();
        metadata["issuer"] = issuer.as_str().into();
        metadata["claims_supported"] = claims.clone();
        upstream.reply("/common/v2.0/.well-known/openid-configuration", metadata.clone());
        upstream.reply("/.well-known/openid-configuration", metadata);
        let database = TestDatabase::sqlite();
        let secret = secret_file(&database);
        let run = |arguments: &[&str]| {
            tokio::task::block_in_place(|| keyround(&database, &[&outbound[..], arguments].concat()))
        };
        let create = ["providers", "create", "acme", "--issuer", issuer, "--client-id", "a"];
        let with_secret = ["--client-secret-file", secret.to_str().unwrap()];
        let (created, out, err) = run(&[&create[..], &with_secret, more].concat());
        assert_eq!(created, 0, "{err}");
        assert_eq!(out.contains(says), says != "in order", "{issuer} {claims}: {out}");
        let (checked, out, _) = run(&["providers", "check"]);
        assert!(checked == code && out.contains(says), "{issuer} {claims}: {out}");
        assert_eq!(out.contains("in order"), says == "in order", "{out}");
        let (_, out, _) = run(&["providers", "check", "--json"]);
        let shown: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(shown[0]["in_order"], code == 0, "{shown}");
        assert_eq!(shown[0]["fault"].is_null(), code == 0, "{shown}");
    }
}
