//! Access tokens of either type: a client and the accounts have one each, and no kind of token passes for another.

use keyround::jose::alg::Algorithm;
use keyround::jose::jwt::TokenType;
use keyround::oauth::client::Client;
use keyround::store::StoreError;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client_assertions::{Pair, keyround, present};
use crate::helpers::entry;
use crate::introspection::ask_until_known;
use crate::token::{change, claims, client, header, register};

use super::visitor::{Site, refused, told};

const AUDIENCE: &str = "https://api.example.com";
/// What the gateway asks.
const POLICY: (&str, &str) = ("forward_auth.policies", "default;api audience=https://api.example.com");

async fn is_active(site: &Site, gateway: &str, token: &str) -> bool {
    let answer = ask_until_known(&site.app, "introspect", "gateway", gateway, token).await;
    assert_eq!(answer.status(), 200);
    answer.json::<Value>().await.unwrap()["active"].as_bool().unwrap()
}

/// What the gateway's question is answered with.
async fn verify(site: &Site, token: &str) -> u16 {
    let url = format!("{}/auth/verify/api", site.app.url);
    let answer = site.app.http.get(url).bearer_auth(token).send().await.unwrap();
    answer.status().as_u16()
}

/// A client that is the resource.
async fn gateway(site: &Site, resource: &str) -> String {
    let gateway = Client {
        serves: vec![resource.parse().unwrap()],
        ..client("gateway")
    };
    register(&site.app, &gateway).await
}

fn of_type(id: &str, token_type: TokenType) -> Client {
    Client {
        token_type,
        alg: Some(Algorithm::Es256),
        ..client(id)
    }
}

fn another(token_type: TokenType) -> TokenType {
    match token_type {
        TokenType::AtJwt => TokenType::Jwt,
        TokenType::Jwt => TokenType::AtJwt,
    }
}

crate::on_both_databases!(a_client_has_tokens_of_its_type_and_no_other, |database| {
    let site = Site::start(database, &[POLICY]).await;
    let gateway = gateway(&site, AUDIENCE).await;
    for token_type in TokenType::ALL {
        let id = format!("billing-{}", token_type as usize);
        let secret = register(&site.app, &of_type(&id, token_type)).await;
        let token = site.app.token(&id, &secret).await;
        assert_eq!(header(&token)["typ"], token_type.name());
        let (code, issued, complaint) = keyround(&site.database, &["token", "issue", "--client", &id]);
        assert_eq!(code, 0, "{complaint}");
        assert_eq!(header(issued.trim())["typ"], token_type.name());
        let forged = site
            .forge(&token, |header, _| header["typ"] = json!(another(token_type).name()))
            .await;
        for (token, accepted) in [(token.as_str(), true), (&forged, false)] {
            assert_eq!(is_active(&site, &gateway, token).await, accepted, "{token_type}");
            assert_eq!(
                verify(&site, token).await,
                if accepted { 200 } else { 401 },
                "{token_type}"
            );
            let own = ask_until_known(&site.app, "introspect", &id, &secret, token).await;
            assert_eq!(own.json::<Value>().await.unwrap()["active"], accepted);
        }
        // Registered again under the other type, its tokens of before are of a type that it is not registered for.
        change(&site.app, &id, keyround::store::clients::ClientChange::Delete).await;
        register(&site.app, &of_type(&id, another(token_type))).await;
        assert!(!is_active(&site, &gateway, &token).await);
        assert!(is_active(&site, &gateway, &forged).await);
    }
    site.stop().await;
});

crate::on_both_databases!(people_have_tokens_of_the_type_in_the_settings, |database| {
    for token_type in TokenType::ALL {
        let database = if database.url.starts_with("sqlite:") {
            crate::helpers::TestDatabase::sqlite()
        } else {
            crate::helpers::TestDatabase::postgres().await
        };
        let settings = [
            ("accounts.token_type", token_type.name()),
            ("accounts.audience", AUDIENCE),
            POLICY,
        ];
        let site = Site::start(database, &settings).await;
        let gateway = gateway(&site, AUDIENCE).await;
        let mut ada = site.person("ada").await;
        ada.refresh().await;
        let good = ada.access_token.clone();
        assert_eq!(header(&good)["typ"], token_type.name());
        assert_eq!(ada.me().await.0, 200);
        assert_eq!(verify(&site, &good).await, 200);
        assert!(is_active(&site, &gateway, &good).await);
        let other = another(token_type).name();
        ada.access_token = site.forge(&good, |header, _| header["typ"] = json!(other)).await;
        assert_eq!(ada.me().await, refused(401, "token_invalid"));
        assert_eq!(verify(&site, &ada.access_token).await, 401);
        assert!(!is_active(&site, &gateway, &ada.access_token).await);
        // A token from before the start may have the type of before: the setting changed with it.
        ada.access_token = site
            .forge(&good, |header, claims| {
                header["typ"] = json!(other);
                claims["iat"] = json!(site.app.running.server.started_at.0 - 1);
                claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 600);
            })
            .await;
        assert_eq!(ada.me().await.0, 200);
        assert!(is_active(&site, &gateway, &ada.access_token).await);
        site.stop().await;
    }
});

/// Presents a text wherever a token of another kind is expected.
async fn presented_everywhere(site: &Site, gateway: &str, text: &str) -> Vec<(&'static str, bool)> {
    let http = &site.app.http;
    let url = |path: &str| format!("{}{path}", site.app.url);
    let mut bearer = site.visitor();
    text.clone_into(&mut bearer.access_token);
    let body = json!({ "refresh_token": text });
    let refreshed = bearer.json(Method::POST, "/auth/refresh", &body).send().await.unwrap();
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", "first-party"),
        ("refresh_token", text),
    ];
    let granted = http.post(url("/oauth2/token")).form(&form).send().await.unwrap();
    vec![
        ("/auth/me", bearer.me().await.0 == 200),
        ("/auth/verify", verify(site, text).await == 200),
        ("/oauth2/introspect", is_active(site, gateway, text).await),
        ("/auth/refresh", refreshed.status() == 200),
        ("/oauth2/token as refresh_token", granted.status() == 200),
        (
            "/oauth2/token as client_assertion",
            present(&site.app, text).await.0 == 200,
        ),
    ]
}

crate::on_both_databases!(no_kind_of_token_passes_for_another, |database| {
    let settings = [
        ("accounts.audience", AUDIENCE),
        ("accounts.refresh_grace", "0s"),
        POLICY,
    ];
    let site = Site::start(database, &settings).await;
    let gateway = gateway(&site, AUDIENCE).await;
    let ada = site.person("ada").await;
    let refresh_token = ada.jar["__Secure-keyround-refresh"].clone();
    let pair = Pair::new(Algorithm::Es256, "own");
    crate::client_assertions::create(&site.database, &[&pair]);
    let jwt = register(&site.app, &of_type("jwt", TokenType::Jwt)).await;
    let jwt = site.app.token("jwt", &jwt).await;
    let now = site.app.clock.read().wall.0;
    let good = ada.access_token.clone();
    // An ID token as our keys would sign it (OpenID Connect Core 1.0 section 2), and one with the claims of an access token beside.
    let id_token = |more: Value| {
        let mut said = json!({
            "iss": claims(&good)["iss"], "sub": claims(&good)["sub"], "aud": "jwt", "iat": now, "exp": now + 300, "nonce": "n",
        });
        for (name, value) in more.as_object().unwrap() {
            said[name] = value.clone();
        }
        said
    };
    let bare = site
        .forge(&good, |header, claims| {
            header["typ"] = json!("JWT");
            *claims = id_token(json!({}));
        })
        .await;
    let dressed = site
        .forge(&good, |header, claims| {
            header["typ"] = json!("JWT");
            *claims = id_token(json!({ "client_id": "jwt", "jti": "a" }));
        })
        .await;
    let own_assertion = pair.assertion(&site.app, |header, _| header["typ"] = json!("JWT"));
    let as_access_token = pair.assertion(&site.app, |header, claims| {
        header["typ"] = json!("at+jwt");
        claims["client_id"] = json!("billing");
        claims["aud"] = json!(AUDIENCE);
    });
    // Claims of an assertion under our own key.
    let assertion_by_us = site
        .forge(&good, |header, claims| {
            header["typ"] = json!("JWT");
            *claims = json!({ "iss": "billing", "sub": "billing", "aud": claims["iss"], "iat": now, "exp": now + 60, "jti": "b" });
        })
        .await;
    let own = |places: &[&'static str]| places.to_vec();
    for (text, kind, expected) in [
        (
            good.as_str(),
            "a person's access token",
            own(&["/auth/me", "/auth/verify", "/oauth2/introspect"]),
        ),
        (
            &jwt,
            "a client's access token of type JWT",
            own(&["/auth/verify", "/oauth2/introspect"]),
        ),
        (&bare, "an ID token", own(&[])),
        (&dressed, "an ID token with more claims", own(&[])),
        (
            &own_assertion,
            "an assertion",
            own(&["/oauth2/token as client_assertion"]),
        ),
        (&as_access_token, "an assertion that says at+jwt", own(&[])),
        (&assertion_by_us, "an assertion by our key", own(&[])),
        (&refresh_token, "a refresh token", own(&["/auth/refresh"])),
    ] {
        let accepted: Vec<&str> = presented_everywhere(&site, &gateway, text)
            .await
            .into_iter()
            .filter(|(_, accepted)| *accepted)
            .map(|(place, _)| place)
            .collect();
        assert_eq!(accepted, expected, "{kind}");
    }
    site.stop().await;
});

/// A row as a version with wider ids or audiences could write it.
async fn plant(site: &Site, id: &str, audience: &str, token_type: TokenType) {
    site.raw
        .execute(&format!(
            "INSERT INTO clients (client_id, grants, scope, audiences, serves, secret_digest, created_at, token_type) \
             VALUES ('{id}', 'client_credentials', '', '{audience}', '', 'none', 1, '{token_type}')"
        ))
        .await;
}

crate::on_both_databases!(no_audience_of_type_jwt_is_a_client_id, |database| {
    let site = Site::start(database, &[]).await;
    let db = &site.app.running.server.db;
    let create = async |client: Client| {
        let entry = entry("client.created", client.id.as_str());
        db.create_client(&client, "digest", &entry).await
    };
    let ambiguous = |answer: Result<bool, StoreError>| matches!(answer, Err(StoreError::AmbiguousAudience { .. }));
    plant(&site, AUDIENCE, "https://a.example", TokenType::AtJwt).await;
    plant(&site, "first", "https://b.example reports", TokenType::Jwt).await;
    plant(&site, "second", "https://b.example sales", TokenType::AtJwt).await;
    assert!(
        ambiguous(create(of_type("billing", TokenType::Jwt)).await),
        "an audience that is an id"
    );
    assert!(
        ambiguous(create(of_type("reports", TokenType::AtJwt)).await),
        "an id that is an audience"
    );
    assert!(ambiguous(create(of_type("reports", TokenType::Jwt)).await));
    assert_eq!(
        site.raw.number("SELECT count(*) FROM clients").await,
        3,
        "nothing is left behind"
    );
    assert!(create(of_type("billing", TokenType::AtJwt)).await.unwrap());
    assert!(create(of_type("sales", TokenType::AtJwt)).await.unwrap());
    assert_eq!(
        site.raw
            .number("SELECT count(*) FROM audit WHERE event = 'client.created'")
            .await,
        2
    );
    site.stop().await;
});

#[test]
fn the_type_is_chosen_on_the_command_line() {
    let database = crate::helpers::TestDatabase::sqlite();
    let create = |id: &str, more: &[&str]| {
        let whole = [
            "clients",
            "create",
            "--json",
            "--id",
            id,
            "--grant",
            "client_credentials",
            "--audience",
            AUDIENCE,
        ];
        keyround(&database, &[&whole[..], more].concat())
    };
    for (id, more, expected) in [
        ("a", &[][..], "at+jwt"),
        ("b", &["--token-type", "at+jwt"], "at+jwt"),
        ("c", &["--token-type", "JWT"], "JWT"),
    ] {
        let (code, out, err) = create(id, more);
        assert_eq!(code, 0, "{err}");
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["token_type"], expected);
        let (_, shown, _) = keyround(&database, &["clients", "show", id]);
        assert!(shown.contains(&format!("token type     {expected}")), "{shown}");
    }
    for wrong in ["jwt", "AT+JWT", "application/at+jwt", "", "at jwt"] {
        let (code, _, err) = create("d", &["--token-type", wrong]);
        assert_eq!(code, 2, "{wrong}");
        assert!(err.contains("at+jwt") && err.contains("JWT"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_settings_are_compared_with_the_clients_at_the_start() {
    use keyround::app::{Foundation, Running, StartError};

    let database = crate::helpers::TestDatabase::sqlite();
    let site = Site::start(database, &[]).await;
    // Only another version can have written an id like a URI.
    plant(&site, AUDIENCE, "https://a.example", TokenType::AtJwt).await;
    for (token_type, refused) in [("JWT", true), ("at+jwt", false)] {
        let settings = [
            ("keys.algorithms", "ES256"),
            ("tokens.default_algorithm", "ES256"),
            ("accounts.token_type", token_type),
            ("accounts.audience", AUDIENCE),
        ];
        let config = crate::helpers::config(&site.database, &settings);
        let foundation = Foundation::open(&config, site.app.clock.clone()).await.unwrap();
        match Running::start(&config, foundation).await {
            Ok(running) => {
                assert!(!refused);
                running.stop().await;
            }
            Err(error) => {
                assert!(matches!(error, StartError::AudienceOfClient(_)), "{error}");
                assert!(refused && error.to_string().contains("accounts.audience"), "{error}");
            }
        }
    }
    let told = told(site.visitor().bare(Method::GET, "/auth/me").send().await.unwrap()).await;
    assert_eq!(told.0, 401);
    site.stop().await;
}

/// At both registrations: of the client, and of the audience in the settings.
#[test]
fn no_client_is_called_as_the_audience_of_people_with_tokens_of_type_jwt() {
    let database = crate::helpers::TestDatabase::sqlite();
    let folder = database.folder.path();
    let pair = Pair::new(Algorithm::Es256, "own");
    std::fs::write(
        folder.join("jwks.json"),
        format!(r#"{{"keys":[{}]}}"#, pair.jwk.to_json()),
    )
    .unwrap();
    let run = |token_type: &str, arguments: &[&str]| {
        let variables = [
            ("KEYROUND_SERVER__ISSUER", "http://127.0.0.1:8080"),
            ("KEYROUND_SERVER__LISTEN", "127.0.0.1:0"),
            ("KEYROUND_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
            ("KEYROUND_DATABASE__URL", database.url.as_str()),
            (
                "KEYROUND_KEYS__MASTER_KEY",
                "sohMxTzEWaEGlBI/vs3ZwMJGpGtMweOXN0qP7ysiQ9U=",
            ),
            ("KEYROUND_ACCOUNTS__AUDIENCE", "billing"),
            ("KEYROUND_ACCOUNTS__TOKEN_TYPE", token_type),
        ];
        let output = crate::process::run(folder, &variables, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    };
    let create = |id| {
        [
            "clients",
            "create",
            "--id",
            id,
            "--grant",
            "client_credentials",
            "--audience",
            AUDIENCE,
        ]
    };
    let ways: [&[&str]; 3] = [&[], &["--jwks-file", "jwks.json"], &["--token-type", "JWT"]];
    for way in ways {
        let (code, said) = run("JWT", &[&create("billing"), way].concat());
        assert_eq!(code, 2, "{way:?}: {said}");
        assert!(said.contains("'billing' is accounts.audience"), "{said}");
    }
    for (token_type, id) in [("JWT", "invoices"), ("at+jwt", "billing")] {
        assert_eq!(run(token_type, &create(id)), (0, String::new()), "{id}");
    }
    let (code, said) = run("JWT", &["serve"]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("there is a client 'billing', but accounts.audience is the same and accounts.token_type is JWT"),
        "{said}"
    );
}
