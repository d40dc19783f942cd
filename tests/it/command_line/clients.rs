//! Clients as others have them, and changes of what a client may ask for.

use serde_json::json;

use super::*;

/// A file that only this user may read.
fn secret_file(folder: &Path, content: &str) -> String {
    let path = folder.join("secret");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn status(app: &TestApp, id: &str, secret: &str, more: &[(&str, &str)]) -> u16 {
    let form = [&[("grant_type", "client_credentials")][..], more].concat();
    app.ask(id, secret, &form).await.status().as_u16()
}

async fn claims(app: &TestApp, id: &str, secret: &str) -> (Value, Value) {
    let token = app.token(id, secret).await;
    let part = |at| {
        let part = token.split('.').nth(at).unwrap();
        let octets = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, part).unwrap();
        serde_json::from_slice::<Value>(&octets).unwrap()
    };
    (part(0), part(1))
}

crate::on_both_databases!(a_client_is_updated_while_a_server_runs, |database| {
    let app = app(&database).await;
    let shell = Shell::on(&database, &SETTINGS);
    let created = [&CREATE[..], &["--id", "svc:prod", "--scope", "read"]].concat();
    let secret = text(&shell.json(&created).await["client_secret"]);
    app.token("svc:prod", &secret).await;
    assert_eq!(status(&app, "svc:prod", &secret, &[("scope", "write")]).await, 400);

    let update = async |options: &[&str]| {
        shell
            .json(&[&["clients", "update", "svc:prod"], options].concat())
            .await
    };
    let told = update(&[
        "--scope",
        "read write",
        "--audience",
        "orders",
        "https://api.example.com",
    ])
    .await;
    assert_eq!(told["changed"], true);
    assert_eq!(
        told["changes"],
        json!({
            "scope": { "from": "read", "to": "read write" },
            "audiences": { "from": "https://api.example.com", "to": "orders https://api.example.com" },
        })
    );
    // What a command gives holds at once.
    assert_eq!(status(&app, "svc:prod", &secret, &[("scope", "write")]).await, 200);
    assert_eq!(status(&app, "svc:prod", &secret, &[("audience", "orders")]).await, 200);

    let told = update(&[
        "--token-type",
        "JWT",
        "--token-ttl",
        "5m",
        "--algorithm",
        "ES256",
        "--serves",
        "orders",
    ])
    .await;
    assert_eq!(told["changes"]["token_ttl"], json!({ "from": "default", "to": "5m" }));
    app.until_clients_are_read_anew().await;
    let (header, claims_now) = claims(&app, "svc:prod", &secret).await;
    assert_eq!((&header["typ"], &header["alg"]), (&json!("JWT"), &json!("ES256")));
    assert_eq!(claims_now["aud"], "orders");
    assert_eq!(
        claims_now["exp"].as_i64().unwrap() - claims_now["iat"].as_i64().unwrap(),
        300
    );

    // The same again is no change, and an unknown client none either.
    let again = update(&["--token-type", "JWT", "--scope", "read write"]).await;
    assert_eq!((&again["changed"], &again["changes"]), (&json!(false), &json!({})));
    let same = shell.run(&["clients", "update", "svc:prod", "--token-ttl", "5m"]).await;
    assert_eq!(same.code, 0);
    assert!(same.out.contains("has these settings already"), "{}", same.out);
    let nobody = shell.run(&["clients", "update", "nobody", "--scope", "read"]).await;
    assert!(nobody.refused(1).contains("no client is called 'nobody'"));
    let nothing = shell.run(&["clients", "update", "svc:prod"]).await;
    assert!(
        nothing
            .refused(2)
            .contains("nothing to change was given; give one or more of --audience")
    );

    for (options, sentence) in [
        (&["--token-ttl", "2h"][..], "tokens.max_token_ttl is 1h"),
        (&["--token-ttl", "0s"], "at least 1s"),
        (&["--algorithm", "HS256"], "use RS256 or ES256"),
        (&["--audience", "svc:prod"], "is a client_id"),
        (&["--audience", "first-party"], "is a client_id"),
        (&["--audience", "a b"], "an audience is 1 to 2048"),
        (&["--scope", "a  b"], "single spaces"),
        (&["--serves", "orders", "--no-serves"], "cannot be used with"),
    ] {
        let refused = shell.run(&[&["clients", "update", "svc:prod"], options].concat()).await;
        assert!(refused.refused(2).contains(sentence), "{}", refused.err);
    }
    // Another client's id as the audience of tokens of type JWT, by either way to it.
    let other = shell.run(&[&CREATE[..], &["--id", "reports"]].concat()).await;
    assert_eq!(other.code, 0, "{}", other.err);
    let refused = shell
        .run(&["clients", "update", "svc:prod", "--audience", "reports"])
        .await;
    assert!(
        refused
            .refused(1)
            .contains("'reports' would be both a client_id and an audience")
    );
    assert_eq!(
        update(&["--token-type", "at+jwt", "--audience", "reports"]).await["changed"],
        true
    );
    let refused = shell
        .run(&["clients", "update", "svc:prod", "--token-type", "JWT"])
        .await;
    assert!(refused.refused(1).contains("'reports' would be both"));

    // Back to what the settings say; what is taken is taken on every node within a tenth of a second.
    update(&[
        "--token-ttl",
        "default",
        "--algorithm",
        "default",
        "--scope",
        "",
        "--no-serves",
    ])
    .await;
    app.until_clients_are_read_anew().await;
    assert_eq!(status(&app, "svc:prod", &secret, &[("scope", "read")]).await, 400);
    let shown = shell.json(&["clients", "show", "svc:prod"]).await;
    assert_eq!((&shown["token_ttl"], &shown["algorithm"]), (&Value::Null, &Value::Null));
    assert_eq!((&shown["serves"], &shown["scope"]), (&json!([]), &json!("")));

    // A disabled client stays disabled.
    shell.run(&["clients", "disable", "svc:prod"]).await;
    update(&["--scope", "read"]).await;
    app.until_clients_are_read_anew().await;
    assert_eq!(status(&app, "svc:prod", &secret, &[]).await, 401);
    shell.run(&["clients", "enable", "svc:prod"]).await;

    // Keys in place of the secret.
    let jwks = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys/p256.public.jwk");
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("jwks.json");
    let key = std::fs::read_to_string(jwks).unwrap();
    std::fs::write(&set, format!("{{\"keys\":[{key}]}}")).unwrap();
    let options = ["--jwks-file", set.to_str().unwrap()];
    for command in ["update", "set-keys"] {
        let unasked = [&["clients", command, "svc:prod"][..], &options].concat();
        let refusal = shell.run(&unasked).await;
        let sentence = refusal.refused(2);
        assert!(
            sentence.contains("a client's secret ends") && sentence.contains("--yes"),
            "{sentence}"
        );
    }
    assert_eq!(shell.json(&["clients", "show", "svc:prod"]).await["valid_secrets"], 1);
    let told = update(&[&options[..], &["--yes"]].concat()).await;
    assert_eq!(told["changes"]["keys"]["from"], "a secret");
    assert_eq!(told["ended_secrets"], 1);
    // What has no secret any more is not asked about.
    assert_eq!(update(&options).await["changed"], false);
    app.until_clients_are_read_anew().await;
    assert_eq!(status(&app, "svc:prod", &secret, &[]).await, 401);

    let records = shell.json(&["audit", "list", "--limit", "1000"]).await;
    let reasons: Vec<String> = records
        .as_array()
        .unwrap()
        .iter()
        .filter(|record| record["event"] == "client.updated")
        .map(|record| text(&record["reason"]))
        .collect();
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    assert_eq!(
        reasons[4],
        "changed audiences from 'https://api.example.com' to 'orders https://api.example.com', scope from 'read' to 'read write'"
    );
    shell.has_seen_no_secret(&app, &[&secret]).await;
    app.running.stop().await;
});

crate::on_both_databases!(an_update_undoes_no_other_that_was_first, |database| {
    let app = app(&database).await;
    app.create_client("billing", None).await;
    let db = &app.running.server.db;
    let old = db.client(&"billing".parse().unwrap()).await.unwrap().unwrap().client;
    let first = keyround::oauth::client::Client {
        scope: "read".parse().unwrap(),
        ..old.clone()
    };
    let second = keyround::oauth::client::Client {
        token_ttl: Some(Seconds(60)),
        ..old.clone()
    };
    let update = async |old, new| {
        let update = keyround::store::clients::ClientUpdate { old, new, keys: None };
        db.update_client(&update, &[]).await.unwrap()
    };
    assert!(update(&old, &first).await);
    assert!(!update(&old, &second).await, "it is not as it was read");
    let found = db.client(&old.id).await.unwrap().unwrap().client;
    assert_eq!(found, first);
    app.running.stop().await;
});

crate::on_both_databases!(ids_and_secrets_from_elsewhere_are_brought_along, |database| {
    let app = app(&database).await;
    let shell = Shell::on(&database, &SETTINGS);
    let folder = tempfile::tempdir().unwrap();
    let secrets = ["q+3/4vWc9kZ1xT0=:%41&", "8sXkPq2VbW3mNc7RtY1zLd5HfG9jKaQe"];
    for id in ["svc:prod", "https://app.example.com", "a+b%41@c", "svc"] {
        for (round, secret) in secrets.into_iter().enumerate() {
            let path = secret_file(folder.path(), &format!("\u{feff}{secret}\r\n"));
            let done = if round == 0 {
                shell
                    .run(&[&CREATE[..], &["--id", id, "--secret-file", &path]].concat())
                    .await
            } else {
                shell
                    .run(&["clients", "rotate-secret", id, "--secret-file", &path])
                    .await
            };
            assert_eq!(done.code, 0, "{}", done.err);
            assert!(done.out.contains("as in the file"));
        }
        for secret in secrets {
            let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            // RFC 6749 section 2.3.1, and clients that join the two as they are.
            assert_eq!(status(&app, &encoded(id), &encoded(secret), &[]).await, 200, "{id}");
            // Of two colons in both, none tells where the id ends.
            let is_ambiguous = id.contains(':') && secret.contains(':');
            let expected = if is_ambiguous { 401 } else { 200 };
            assert_eq!(status(&app, id, secret, &[]).await, expected, "{id} {secret}");
            let posted = app
                .http
                .post(format!("{}/oauth2/token", app.url))
                .form(&[
                    ("grant_type", "client_credentials"),
                    ("client_id", id),
                    ("client_secret", secret),
                ])
                .send()
                .await
                .unwrap();
            assert_eq!(posted.status(), 200);
            let token: Value = posted.json().await.unwrap();
            let claims = token["access_token"].as_str().unwrap().split('.').nth(1).unwrap();
            let claims = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, claims).unwrap();
            let claims: Value = serde_json::from_slice(&claims).unwrap();
            assert_eq!((&claims["sub"], &claims["client_id"]), (&json!(id), &json!(id)));
        }
        // Neither of the two that are valid can replace one of them.
        for secret in secrets {
            let path = secret_file(folder.path(), secret);
            for ends in [&[][..], &["--end-previous"], &["--replace-newest"]] {
                let rotate = ["clients", "rotate-secret", id, "--secret-file", &path];
                let refused = shell.run(&[&rotate[..], ends].concat()).await;
                assert!(refused.refused(1).contains("already valid"), "{}", refused.err);
            }
        }
        for wrong in ["", "wrong", "prod", "//app.example.com"] {
            assert_eq!(status(&app, id, wrong, &[]).await, 401, "{id} {wrong}");
        }
    }
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--user", &format!("svc:prod:{}", secrets[1])])
        .args(["--data", "grant_type=client_credentials"])
        .arg(format!("{}/oauth2/token", app.url));
    let output = tokio::task::spawn_blocking(move || curl.output())
        .await
        .unwrap()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("access_token"),
        "{output:?}"
    );

    for (content, mode, code, sentence) in [
        ("short", 0o600, 2, "a client's secret is 16 to 512 printable ASCII"),
        ("passwordpassword", 0o600, 2, "can be guessed"),
        ("aaaaaaaaaaaaaaaaaaaaaaaa", 0o600, 2, "can be guessed"),
        ("8sXkPq2VbW3mNc7R\ntY1zLd5HfG9jKaQe", 0o600, 2, "printable ASCII"),
        ("", 0o600, 2, "is empty"),
        (secrets[1], 0o644, 2, "--secret-file"),
    ] {
        let path = secret_file(folder.path(), content);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        for command in [
            [&CREATE[..], &["--id", "refused", "--secret-file", &path]].concat(),
            vec!["clients", "rotate-secret", "svc", "--secret-file", &path],
        ] {
            let refused = shell.run(&command).await;
            assert!(refused.refused(code).contains(sentence), "{}", refused.err);
        }
    }
    let both = shell
        .run(
            &[
                &CREATE[..],
                &["--secret-file", "a", "--jwks-uri", "https://a.example/jwks"],
            ]
            .concat(),
        )
        .await;
    assert!(both.refused(2).contains("cannot be used with"), "{}", both.err);
    for secret in secrets {
        assert!(!shell.seen.lock().unwrap().contains(secret), "a secret was printed");
    }
    app.running.stop().await;
});
