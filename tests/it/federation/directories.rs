//! Providers as others have them: directory services, several audiences, other algorithms, `email_verified` as a text.

use serde_json::{Value, json};

use super::crooked::Upstream;
use super::{Browser, Site, secret_file};
use crate::client_assertions::keyround;
use crate::helpers::TestDatabase;
use crate::rows::Raw;

const ONE: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
const TWO: &str = "3aa4a235-b6e2-48d5-9195-7fcf05b459b0";

fn template(upstream: &Upstream) -> String {
    format!("{}/{{tenantid}}/v2.0", upstream.issuer)
}

/// What a directory service says of itself at the place for every directory.
fn serve_directories(upstream: &Upstream) {
    let mut metadata = upstream.metadata();
    metadata["issuer"] = template(upstream).into();
    upstream.reply("/common/v2.0/.well-known/openid-configuration", metadata);
}

/// A site where new people may log in with this provider.
async fn open_site(database: TestDatabase, upstream: &Upstream, issuer: &str, options: &[&str]) -> Site {
    let registration = [("accounts.registration", "true")];
    Site::with_settings(database, &upstream.ca_file, issuer, options, &registration).await
}

/// A login of somebody of this directory; answers with the account's id.
async fn login_from(
    upstream: &Upstream,
    site: &Site,
    directory: &str,
    change: impl FnOnce(&mut Value),
) -> Result<String, &'static str> {
    let mut browser: Browser = upstream.browser();
    let question = site.begin(&mut browser).await?;
    let mut claims = upstream.claims(site, &question);
    let issuer = format!("{}/{directory}/v2.0", upstream.issuer);
    claims["iss"] = issuer.clone().into();
    claims["tid"] = directory.into();
    change(&mut claims);
    let header = json!({ "alg": "ES256", "kid": "kid" });
    upstream.hand_out(&upstream.pair.sign(&header.to_string(), &claims.to_string()));
    let mut callback = upstream.callback(&question);
    let others: Vec<(String, String)> = callback
        .query_pairs()
        .filter(|(name, _)| name != "iss")
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    callback
        .query_pairs_mut()
        .clear()
        .extend_pairs(others)
        .append_pair("iss", &issuer);
    let confirmed = site.finish(&browser, &callback).await?;
    Ok(confirmed.user.user.id.to_string())
}

crate::on_both_databases!(people_of_listed_directories_log_in_and_are_told_apart, |database| {
    let upstream = Upstream::start();
    serve_directories(&upstream);
    let options = ["--directory", &ONE.to_uppercase(), "other"];
    let site = open_site(database, &upstream, &template(&upstream), &options).await;
    let ada = login_from(&upstream, &site, ONE, |_| {}).await.unwrap();
    assert_eq!(login_from(&upstream, &site, ONE, |_| {}).await.as_ref(), Ok(&ada));
    // The same subject of another directory is another person.
    let other = login_from(&upstream, &site, "other", |claims| {
        claims["email"] = "eve@example.com".into();
    })
    .await;
    assert!(other.is_ok_and(|other| other != ada));
    assert_eq!(site.counts().await, (2, 2));
    assert_eq!(
        login_from(&upstream, &site, TWO, |_| {}).await,
        Err("federation_failed")
    );
    for tid in [json!(TWO), json!(null), json!("")] {
        let crooked = login_from(&upstream, &site, ONE, |claims| claims["tid"] = tid.clone()).await;
        assert_eq!(crooked, Err("federation_failed"), "{tid}");
    }
    assert_eq!(site.counts().await, (2, 2));
});

// Microsoft Entra ID publishes in one set what each key is for: the member `issuer`.
crate::on_both_databases!(a_key_of_one_directory_speaks_for_no_other, |database| {
    let upstream = Upstream::start();
    serve_directories(&upstream);
    let options = ["--directory", ONE, TWO];
    let jwk: Value = serde_json::from_str(&upstream.pair.jwk.to_json()).unwrap();
    let of_one = format!("{}/{ONE}/v2.0", upstream.issuer);
    let mut site = Site::new(database, &upstream.ca_file, &template(&upstream), &options).await;
    for (issuer, directory, expected) in [
        (json!(of_one), TWO, Err("federation_failed")),
        (json!(7), ONE, Err("federation_failed")),
        (
            json!("https://login.example/{tenantid}/v2.0"),
            ONE,
            Err("federation_failed"),
        ),
        (json!(of_one), ONE, Ok(())),
        (json!(template(&upstream)), TWO, Ok(())),
        (json!(null), TWO, Ok(())),
    ] {
        let mut key = jwk.clone();
        key["issuer"] = issuer.clone();
        upstream.reply("/jwks", json!({ "keys": [key] }));
        site.forget_what_was_fetched(&upstream.ca_file);
        let answer = login_from(&upstream, &site, directory, |claims| {
            claims["sub"] = directory.into();
            claims["email"] = format!("{directory}@example.com").into();
        });
        assert_eq!(answer.await.map(drop), expected, "{issuer} {directory}");
    }
    assert_eq!(site.counts().await, (2, 2));
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_directory_is_let_in_where_an_operator_says_so() {
    let upstream = Upstream::start();
    serve_directories(&upstream);
    let database = TestDatabase::sqlite();
    let options = ["--any-directory", "--email-verified-as-text"];
    let site = open_site(database, &upstream, &template(&upstream), &options).await;
    assert!(
        login_from(&upstream, &site, TWO, |claims| claims["email_verified"] = "true".into())
            .await
            .is_ok()
    );
    // Its address is one that the owner of that directory wrote, so no other provider's person is linked to the account by it.
    let raw = Raw::open(&site.database).await;
    let verified = "SELECT count(*) FROM users WHERE email_verified_at IS NOT NULL";
    assert_eq!(raw.number(verified).await, 0);
    raw.close().await;
    let list = keyround(&site.database, &["providers", "list", "--json"]);
    let list: Value = serde_json::from_str(&list.1).unwrap();
    assert_eq!(
        (&list[0]["directories"], &list[0]["email_verified_as_text"]),
        (&json!("any"), &json!(true))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_several_recipients_is_taken_if_it_was_given_to_us() {
    let upstream = Upstream::start();
    let site = open_site(TestDatabase::sqlite(), &upstream, &upstream.issuer, &[]).await;
    for (aud, azp, verified, expected) in [
        (json!(["keyround", "api"]), json!("keyround"), json!(true), Ok(())),
        (
            json!(["keyround", "api"]),
            json!("api"),
            json!(true),
            Err("federation_failed"),
        ),
        (json!(["keyround"]), json!("keyround"), json!(true), Ok(())),
        // Known by now: it is nobody new whose address would have to be verified.
        (json!("keyround"), json!("keyround"), json!("true"), Ok(())),
    ] {
        let mut browser = upstream.browser();
        let question = site.begin(&mut browser).await.unwrap();
        let mut claims = upstream.claims(&site, &question);
        (claims["aud"], claims["azp"], claims["email_verified"]) = (aud.clone(), azp, verified);
        let header = json!({ "alg": "ES256", "kid": "kid" });
        upstream.hand_out(&upstream.pair.sign(&header.to_string(), &claims.to_string()));
        let finished = site.finish(&browser, &upstream.callback(&question)).await.map(drop);
        assert_eq!(finished, expected, "{aud}");
    }
    // Without the setting the text is no proof.
    let mut browser = upstream.browser();
    let question = site.begin(&mut browser).await.unwrap();
    let mut claims = upstream.claims(&site, &question);
    (claims["sub"], claims["email"], claims["email_verified"]) = ("b".into(), "b@example.com".into(), "true".into());
    let header = json!({ "alg": "ES256", "kid": "kid" });
    upstream.hand_out(&upstream.pair.sign(&header.to_string(), &claims.to_string()));
    let finished = site.finish(&browser, &upstream.callback(&question)).await.map(drop);
    assert_eq!(finished, Err("email_not_verified"));
}

crate::on_both_databases!(
    a_provider_that_nobody_could_log_in_with_is_refused_at_once,
    |database| {
        let upstream = Upstream::start();
        serve_directories(&upstream);
        let ca = format!("outbound.ca_file={}", upstream.ca_file.display());
        let outbound = ["--set", &ca, "--set", "outbound.allowed_networks=127.0.0.0/8,::1"];
        let secret = secret_file(&database);
        let run = |arguments: &[&str]| {
            let arguments = [&outbound[..], arguments].concat();
            tokio::task::block_in_place(|| keyround(&database, &arguments))
        };
        let create = |name: &str, issuer: &str, more: &[&str]| {
            let secret = secret.to_str().unwrap();
            let whole = [
                &["providers", "create", name, "--issuer", issuer, "--client-id", "a"][..],
                &["--client-secret-file", secret],
                more,
            ];
            run(&whole.concat())
        };
        let mut metadata = upstream.metadata();
        for algorithms in [json!(["PS256", "EdDSA"]), json!([])] {
            metadata["id_token_signing_alg_values_supported"] = algorithms;
            upstream.reply("/.well-known/openid-configuration", metadata.clone());
            let (code, out, err) = create("acme", &upstream.issuer, &[]);
            assert_eq!((code, out.as_str()), (1, ""), "{err}");
            assert!(
                err.contains("was not registered") && err.contains("neither with RS256 nor with ES256"),
                "{err}"
            );
        }
        metadata["id_token_signing_alg_values_supported"] = json!(["PS256", "ES256"]);
        upstream.reply("/.well-known/openid-configuration", metadata.clone());
        let (code, out, err) = create("acme", &upstream.issuer, &[]);
        assert_eq!(code, 0, "{err}");
        assert!(!out.contains("not checked"), "{out}");
        let (code, out, _) = run(&["providers", "check"]);
        assert!(code == 0 && out.contains("in order"), "{out}");

        // One that changes its mind is found, and one that is away is registered with a word about it.
        metadata["id_token_signing_alg_values_supported"] = json!(["PS256"]);
        upstream.reply("/.well-known/openid-configuration", metadata);
        let (code, out, err) = run(&["providers", "check", "acme"]);
        assert!(
            code == 1 && out.contains("neither with RS256") && err.contains("nobody can log in with acme"),
            "{out}{err}"
        );
        let (code, out, _) = create("away", "https://localhost:1", &[]);
        assert!(
            code == 0 && out.contains("It was not checked") && out.contains("providers check away"),
            "{out}"
        );
        let (code, _, err) = run(&["providers", "check", "other"]);
        assert!(code == 1 && err.contains("no provider is called 'other'"), "{err}");

        let issuer = template(&upstream);
        for (issuer, more, sentence) in [
            (issuer.as_str(), &[][..], "--any-directory"),
            (
                &issuer,
                &["--any-directory", "--link-verified-email"],
                "cannot be used with",
            ),
            (&issuer, &["--any-directory", "--directory", ONE], "cannot be used with"),
            (&issuer, &["--directory", "a/b"], "a directory's id is"),
            (
                &upstream.issuer,
                &["--directory", ONE],
                "need the issuer of a directory service",
            ),
            (
                &upstream.issuer,
                &["--any-directory"],
                "need the issuer of a directory service",
            ),
            (
                "https://{tenantid}.example",
                &["--any-directory"],
                "an issuer is an https URL",
            ),
        ] {
            let (code, _, err) = create("directory", issuer, more);
            assert!(code == 2 && err.contains(sentence), "{err}");
        }
        let (code, _, err) = create("directory", &issuer, &["--directory", ONE, TWO]);
        assert_eq!(code, 0, "{err}");
    }
);
